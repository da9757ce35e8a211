"""What a trace of kind "columns" must hold besides its keys."""


def check_columns(trace: dict) -> None:
    """ValueError when a step has not one entry per layer and per older column, or a map not one digit per cell."""
    sizes, n_tasks = trace["sizes"], len(trace["tasks"])
    above = len(sizes) - 2
    if above < 1:
        raise ValueError(f"trace['sizes'] must have a hidden layer, got {sizes}")
    _length("trace['cost']", trace["cost"], n_tasks)
    for line in trace["growth"]:
        if not {"name", "about", "values"} <= set(line):
            raise ValueError("a line of trace['growth'] must have name, about and values")
    for i, step in enumerate(trace["steps"]):
        name, k = f"trace['steps'][{i}]", step["task"]
        if not 0 <= k < n_tasks:
            raise ValueError(f"{name}['task'] must be from 0 to {n_tasks - 1}, got {k}")
        if set(step["accuracy"]) != {"with", "cut", "alone"}:
            raise ValueError(f"{name}['accuracy'] must have with, cut and alone, got {list(step['accuracy'])}")
        _length(f"{name}['own']", step["own"], above + 1)
        _length(f"{name}['finished']", step["finished"], k)
        for part in ("lateral", "read", "maps"):
            _length(f"{name}[{part!r}]", step[part], above)
        for layer, (strengths, drawn) in enumerate(zip(step["read"], step["maps"], strict=True)):
            _length(f"a layer of {name}['read']", strengths, k)
            _length(f"read of a layer of {name}['maps']", drawn["read"], k)
            for cells in (drawn["own"], *drawn["read"]):
                _length(f"a map of {name}", cells, drawn["rows"] * sizes[layer + 1])


def _length(name: str, value, n: int) -> None:
    if len(value) != n:
        raise ValueError(f"{name} must have {n} entries, got {len(value)}")
