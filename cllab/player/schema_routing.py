"""What a trace of kind "routing" must hold besides its keys."""


def check_routing(trace: dict) -> None:
    """ValueError when a step has not one row per token and one number per expert, or names an expert there is not.

    A row has k assignments; where experts choose ("choice": "expert") it has any number of them, each to another one.
    """
    n, n_experts = len(trace["tokens"]), trace["experts"]
    slots = None if trace.get("choice") == "expert" else trace["k"]
    for i, step in enumerate(trace["steps"]):
        name = f"trace['steps'][{i}]"
        for key in ("load", "importance"):
            _length(f"{name}[{key!r}]", step[key], n_experts)
        _assignments(name, step, ("expert", "weight", "kept"), n, slots, n_experts)
        if "line" in trace:
            if missing := [key for key in ("expert", "kept", "percent") if key not in step.get("line", ())]:
                raise ValueError(f"{name}['line'] lacks {', '.join(map(repr, missing))}")
            _assignments(f"{name}['line']", step["line"], ("expert", "kept"), len(trace["line"]), slots, n_experts)
            for row in step["line"]["percent"]:
                _length(f"a row of {name}['line']['percent']", row, n_experts)


def _assignments(name: str, found: dict, keys: tuple[str, ...], n: int, slots: int | None, n_experts: int) -> None:
    for key in keys:
        _length(f"{name}[{key!r}]", found[key], n)
        for row, experts in zip(found[key], found["expert"], strict=True):
            _length(f"a row of {name}[{key!r}]", row, len(experts) if slots is None else slots)
    if any(not 0 <= e < n_experts for row in found["expert"] for e in row):
        raise ValueError(f"{name}['expert'] must name experts from 0 to {n_experts - 1}")
    if any(len(set(row)) < len(row) for row in found["expert"]):
        raise ValueError(f"{name}['expert'] must not name an expert twice for one token")


def _length(name: str, value, n: int) -> None:
    if not isinstance(value, list) or len(value) != n:
        found = len(value) if isinstance(value, list) else type(value).__name__
        raise ValueError(f"{name} must be a list of {n}, got {found}")
