"""What the page of progressive columns shows, computed from its settings: tasks on digits, and the trace of a run.

No Streamlit in here, so that tests call these functions directly. The traces of the page's presets are committed in
traces/columns.json, so that the page draws at once; `python -m labs.columns_traces` computes them anew, and a test
compares.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from cllab import checks
from cllab.device import generator
from cllab.player import columns_trace
from cllab.streams import Stream, Task, digits, permuted, rotated, split

COMMITTED = Path(__file__).parent / "traces" / "columns.json"
TASKS = ("other names", "turned", "shuffled pixels", "pairs of digits")
ROWS = (10, 20, 50, 100, 300)
WIDTHS = (1, 2, 3, 4, 6, 8, 12)
DEFAULTS = {"tasks": TASKS[0], "rows": 20, "laterals": "linear", "width": 3, "columns": 3, "seed": 0}
PRESETS = (
    {}, {"rows": 300}, {"tasks": "shuffled pixels", "rows": 100}, {"tasks": "pairs of digits", "rows": 10},
    {"laterals": "adapter"}, {"columns": 5},
)  # fmt: skip
HIDDEN = (12, 12)
FIRST = 300  # rows of the first task; every task takes as many steps
EPOCHS, BATCH, EVERY = 8, 20, 10


def train(
    tasks: str = TASKS[0], rows: int = 20, laterals: str = "linear", width: int = 3, columns: int = 3, seed: int = 0,
    on_frame: Callable[[float], None] | None = None,
) -> dict:  # fmt: skip
    """The trace of `columns` tasks, the first with FIRST rows and each later one with `rows`: kind "columns"."""
    stream = make_stream(tasks, rows, columns, seed)
    m = width if laterals == "adapter" else None
    return columns_trace(
        stream, HIDDEN, laterals, m, epochs=EPOCHS, batch_size=BATCH, every=EVERY, seed=seed, on_frame=on_frame,
        title=describe(tasks, rows, laterals, width, columns),
    )  # fmt: skip


def make_stream(tasks: str, rows: int, columns: int, seed: int) -> Stream:
    """A task-incremental stream of 2 to 5 tasks on the digits.

    "other names": the ten classes exchange their labels, by a new permutation for each later task. "turned": by 30
    degrees more each. "shuffled pixels": a new permutation of the 64 pixels each. "pairs of digits": 0 and 1, 2 and 3,
    and so on. Fewer rows than FIRST are repeated, so that every task takes the same number of steps.
    """
    checks.choice("tasks", tasks, TASKS)
    checks.integer("rows", rows, 10, FIRST)
    checks.integer("columns", columns, 2, 5)
    data = digits()
    sources = [generator(seed, f"columns, task {k}") for k in range(columns)]  # task 2 is the same with 3 tasks and 5
    if tasks == "pairs of digits":
        found = split(data, 2, "task").tasks
    elif tasks == "turned":
        turned = rotated(data, columns, angles=[30.0 * k for k in range(columns)]).tasks
        found = [_named(task, f"{30 * k}°") for k, task in enumerate(turned)]
    elif tasks == "shuffled pixels":
        found = [_named(task, f"shuffle {k}" if k else "as they are") for k, task in
                 enumerate(permuted(data, columns, seed=seed).tasks)]  # fmt: skip
    else:
        orders = [torch.arange(10), *(torch.randperm(10, generator=source) for source in sources[1:])]
        found = [
            Task(data.x, q[data.y], data.x_test, q[data.y_test], tuple(range(10)), f"names {k + 1}")
            for k, q in enumerate(orders)
        ]
    few = [_few(task, rows if k else FIRST, sources[k]) for k, task in enumerate(found[:columns])]
    return Stream(tuple(few), "task", data.n_classes, tasks)


def describe(tasks: str, rows: int, laterals: str, width: int, columns: int) -> str:
    """The settings in words."""
    how = "linear laterals" if laterals == "linear" else f"adapters of width {width}"
    return f"{columns} columns, {tasks}, {rows} rows for each new task, {how}"


def settings_key(**settings) -> str:
    """The name under which a trace is committed: its settings with defaults filled in, as JSON."""
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"settings must be among {sorted(DEFAULTS)}, got {sorted(unknown)}")
    chosen = {**DEFAULTS, **settings}
    if chosen["laterals"] == "linear":
        chosen["width"] = None
    return json.dumps(chosen, sort_keys=True)


def committed() -> dict[str, dict]:
    """The committed traces of the presets, {settings as JSON: trace}."""
    return _read(COMMITTED)


def ends(trace: dict) -> list[dict]:
    """Of every column, at its last step: {"task", "with", "alone", "cut", "share" (of its last layer)}."""
    found = []
    for k, name in enumerate(trace["tasks"]):
        step = [step for step in trace["steps"] if step["task"] == k][-1]
        whole = step["own"][-1] + step["lateral"][-1]
        share = step["lateral"][-1] / whole if whole > 0 else 0.0
        found.append({"task": name, **step["accuracy"], "share": share})
    return found


def _few(task: Task, n: int, source: torch.Generator) -> Task:
    """n of the task's rows, drawn from `source` and repeated to FIRST."""
    order = torch.randperm(len(task.y), generator=source)[:n]
    rows = order.repeat(-(-FIRST // len(order)))[:FIRST]
    return Task(task.x[rows], task.y[rows], task.x_test, task.y_test, task.classes, task.name)


def _named(task: Task, name: str) -> Task:
    return Task(task.x, task.y, task.x_test, task.y_test, task.classes, name)


@cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    COMMITTED.parent.mkdir(exist_ok=True)
    traces = {settings_key(**preset): train(**DEFAULTS | preset) for preset in PRESETS}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(t, separators=(',', ':'))}" for key, t in traces.items())
    COMMITTED.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
