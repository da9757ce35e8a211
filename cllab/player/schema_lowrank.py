"""What a trace of kind "lowrank" must hold besides its keys: it shows a rank, a merge or an overlap."""

KEYS = {
    "rank": ("names", "delta", "A", "B", "sigma", "lines"),
    "merge": ("adapters", "cells"),
    "overlap": ("runs", "charts", "x_label"),
}
STEP_KEYS = {
    "rank": ("rank", "parameters", "error"),
    "merge": ("phase", "name", "weights", "cut", "rank", "error", "norm", "cross", "scores"),
    "overlap": ("x", "runs"),
}


def check_lowrank(trace: dict) -> None:
    """ValueError when something is missing, or when a matrix has not the shape that its neighbours ask for."""
    shows = trace["shows"]
    if shows not in KEYS:
        raise ValueError(f"trace['shows'] must be one of {', '.join(KEYS)}, got {shows!r}")
    _complete("trace", trace, KEYS[shows])
    for i, step in enumerate(trace["steps"]):
        _complete(f"trace['steps'][{i}]", step, STEP_KEYS[shows])
    {"rank": _rank, "merge": _merge, "overlap": _overlap}[shows](trace)


def _rank(trace: dict) -> None:
    rows, columns = len(trace["delta"]), len(trace["delta"][0])
    whole = min(rows, columns)
    _shape("trace['delta']", trace["delta"], rows, columns)
    _shape("trace['A']", trace["A"], whole, columns)
    _shape("trace['B']", trace["B"], rows, whole)
    for line in trace["lines"]:
        _complete("a line of trace['lines']", line, ("name", "values"))
        _length(f"values of line {line['name']!r}", line["values"], len(trace["steps"]))
    if not all(0 <= step["rank"] <= whole for step in trace["steps"]):
        raise ValueError(f"ranks in trace['steps'] must be from 0 to {whole}")


def _merge(trace: dict) -> None:
    n, rows, columns = len(trace["adapters"]), len(trace["cells"][0][0]), len(trace["cells"][0][0][0])
    for adapter in trace["adapters"]:
        _complete("an adapter", adapter, ("name", "A", "B", "s", "weight"))
        _shape("A of an adapter", adapter["A"], len(adapter["A"]), columns)
        _shape("B of an adapter", adapter["B"], rows, len(adapter["A"]))
    _length("trace['cells']", trace["cells"], n)
    for line in trace["cells"]:
        _length("a row of trace['cells']", line, n)
        for cell in line:
            _shape("a cell", cell, rows, columns)
    for step in trace["steps"]:
        _shape("weights of a step", step["weights"], n, n)
        if step["cut"] is not None:
            _shape("the result of a step", step["cut"], rows, columns)


def _overlap(trace: dict) -> None:
    if not trace["runs"]:
        raise ValueError("trace['runs'] must hold at least one run")
    for run in trace["runs"]:
        _complete("a run", run, ("name", "past"))
    for chart in trace["charts"]:
        _complete("a chart", chart, ("y_label", "lines"))
        for line in chart["lines"]:
            _complete("a line of a chart", line, ("name", "values"))
            _length(f"values of line {line['name']!r}", line["values"], len(trace["steps"]))
    for step in trace["steps"]:
        _length("runs of a step", step["runs"], len(trace["runs"]))
        for run, now in zip(trace["runs"], step["runs"], strict=True):
            _complete("a run of a step", now, ("new", "O", "overlap"))
            _shape("A of the new adapter", now["new"], len(now["new"]), len(run["past"][0]))
            _shape("O of a step", now["O"], len(run["past"]), len(now["new"]))


def _complete(what: str, found: dict, keys: tuple[str, ...]) -> None:
    if missing := [key for key in keys if key not in found]:
        raise ValueError(f"{what} lacks {', '.join(map(repr, missing))}")


def _length(what: str, found: list, n: int) -> None:
    if not isinstance(found, list) or len(found) != n:
        raise ValueError(f"{what} must be a list of {n}")


def _shape(what: str, matrix: list, rows: int, columns: int) -> None:
    if not isinstance(matrix, list) or len(matrix) != rows or any(len(row) != columns for row in matrix):
        raise ValueError(f"{what} must have {rows} rows of {columns}")
