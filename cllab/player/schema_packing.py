"""What a trace of kind "packing" must hold besides its keys: a few weights, a layer, or a frozen weight that drifts."""

KEYS = {
    "weights": ("tasks",),
    "layer": ("tasks", "units", "tile", "largest", "restore"),
    "drift": ("lr", "paths"),
}
STEP_KEYS = {
    "weights": ("phase", "task", "w", "owner", "ranked", "kept"),
    "layer": ("phase", "task", "w", "owner", "reads", "own", "moved"),
    "drift": ("step",),
}
PHASES = ("start", "train", "rank", "prune", "retrain", "freeze", "full", "read")


def check_packing(trace: dict) -> None:
    """ValueError when something is missing, a weight has no owner, or an owner is no task of the trace."""
    shows = trace["shows"]
    if shows not in KEYS:
        raise ValueError(f"trace['shows'] must be one of {', '.join(KEYS)}, got {shows!r}")
    _complete("trace", trace, KEYS[shows])
    for i, step in enumerate(trace["steps"]):
        _complete(f"trace['steps'][{i}]", step, STEP_KEYS[shows])
    if shows == "drift":
        _drift(trace)
    else:
        _owned(trace)


def _owned(trace: dict) -> None:
    T = len(trace["tasks"])
    n = trace["units"] * trace["tile"][0] * trace["tile"][1] if "units" in trace else len(trace["steps"][0]["w"])
    for i, step in enumerate(trace["steps"]):
        name = f"trace['steps'][{i}]"
        if step["phase"] not in PHASES or not 0 <= step["task"] < T:
            raise ValueError(f"{name} must have a phase of {', '.join(PHASES)} and a task below {T}")
        if len(step["w"]) != n or len(step["owner"]) != n:
            raise ValueError(f"{name} must have {n} entries of w and owner")
        if not all(0 <= int(owner) <= T for owner in step["owner"]):
            raise ValueError(f"{name}['owner'] must hold 0 and numbers of tasks up to {T}")


def _drift(trace: dict) -> None:
    if not trace["paths"]:
        raise ValueError("trace['paths'] must hold at least one path")
    for path in trace["paths"]:
        _complete("a path", path, ("name", "about", "before", "masked", "restored"))
        for part in ("masked", "restored"):
            if len(path[part]) != len(trace["steps"]):
                raise ValueError(f"{part} of path {path['name']!r} must have {len(trace['steps'])} entries")


def _complete(what: str, found: dict, keys: tuple[str, ...]) -> None:
    if missing := [key for key in keys if key not in found]:
        raise ValueError(f"{what} lacks {', '.join(map(repr, missing))}")
