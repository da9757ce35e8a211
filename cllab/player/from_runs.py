"""The trace of one to four training runs side by side, from their Histories."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cllab import checks
from cllab.player.schema import VERSION, round_trace
from cllab.training import History

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def run_trace(
    histories: Mapping[str, History],
    *,
    cells: Mapping[str, Sequence[str]] | None = None,
    extent: Sequence[float] | None = None,
    grid: int = 0,
    samples: tuple[Tensor, Tensor] | None = None,
    classes: Sequence[str] | None = None,
    max_frames: int = 120,
    title: str = "Training runs",
    alt: str = "",
) -> dict:
    """A trace of kind "run".

    histories   run name -> History, one to four runs of the same tasks. There is a frame at every step at
                which any of them was evaluated (thinned evenly to `max_frames`); between its own
                evaluations a run keeps its last values
    cells       run name -> one `cell_string` per entry of its `History.curve` (2-D streams)
    extent      (x0, x1, y0, y1) of the drawn plane and grid n, its cells per side, as for `grid_points`
    samples     (x [S, 2], y [S]) points drawn over the regions
    classes     names of the classes

    Raises ValueError or TypeError naming the argument.
    """
    if not 1 <= len(histories) <= 4:
        raise ValueError(f"histories must hold one to four runs, got {len(histories)}")
    checks.integer("max_frames", max_frames, 2)
    tasks = next(iter(histories.values())).task_names
    for name, history in histories.items():
        if not history.curve:
            raise ValueError(f"histories[{name!r}] has no evaluation yet")
        if history.task_names != tasks:
            raise ValueError(f"histories[{name!r}] must have the tasks {tasks}, got {history.task_names}")
        if cells is not None and len(cells.get(name, ())) != len(history.curve):
            raise ValueError(f"cells[{name!r}] must have one entry per evaluation, {len(history.curve)}")
    if cells is not None and (extent is None or len(extent) != 4 or grid < 1):
        raise ValueError(f"extent and grid must be given with cells, got {extent!r} and {grid!r}")

    moments = _thin(sorted({p.step for h in histories.values() for p in h.curve}), max_frames)
    runs = [
        {"name": name, "frames": _frames(history, moments, None if cells is None else cells[name])}
        for name, history in histories.items()
    ]
    steps = []
    for f, moment in enumerate(moments):
        task = max(run["frames"][f]["task"] for run in runs)
        steps.append({"text": _sentence(moment, task, tasks, runs, f), "step": moment, "task": task})
    trace = {
        "v": VERSION, "kind": "run", "title": title,
        "alt": alt or f"Accuracy over training on {len(tasks)} tasks: {', '.join(histories)}.",
        "tasks": list(tasks), "extent": None if extent is None else list(extent), "grid": grid,
        "samples": [] if samples is None else _samples(*samples), "runs": runs, "steps": steps,
    }  # fmt: skip
    return round_trace(trace | ({} if classes is None else {"classes": list(classes)}))


def grid_points(extent: Sequence[float], grid: int) -> Tensor:
    """Centres of `grid` x `grid` cells over (x0, x1, y0, y1): [grid * grid, 2] float32, by rows from y0."""
    checks.integer("grid", grid, 1)
    x0, x1, y0, y1 = (checks.number("extent", float(v), -math.inf) for v in extent)
    middle = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(y0 + middle * (y1 - y0), x0 + middle * (x1 - x0), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def cell_string(labels: Tensor) -> str:
    """Predicted classes [n*n] int64 in 0..35 as one base-36 digit each, the form that a trace holds."""
    checks.labels("labels", labels, n_classes=len(DIGITS))
    return "".join(DIGITS[c] for c in labels.tolist())


def _frames(history: History, moments: list[int], cells: Sequence[str] | None) -> list[dict]:
    at = [point.step for point in history.curve]
    frames = []
    for moment in moments:
        now = max(0, bisect_right(at, moment) - 1)
        point = history.curve[now]
        # R[i, j]: the last accuracy on task j measured while task i was learned
        R: list[list[float | None]] = [[None] * len(history.task_names) for _ in history.task_names]
        for earlier in history.curve[: now + 1]:
            if earlier.task >= 0:
                R[earlier.task] = list(earlier.accuracy)
        frame = {"step": moment, "task": point.task, "accuracy": list(point.accuracy), "R": R}
        frames.append(frame if cells is None else frame | {"cells": cells[now]})
    return frames


def _samples(x: Tensor, y: Tensor) -> list[list[float]]:
    if x.ndim != 2 or x.shape[1] != 2 or len(x) != len(y):
        raise ValueError(f"samples must be x [S, 2] and y [S], got {tuple(x.shape)} and {tuple(y.shape)}")
    return [[*xy, c] for xy, c in zip(x.tolist(), y.tolist())]


def _thin(moments: list[int], most: int) -> list[int]:
    if len(moments) <= most:
        return moments
    return [moments[round(i * (len(moments) - 1) / (most - 1))] for i in range(most)]


def _sentence(moment: int, task: int, tasks: Sequence[str], runs: list[dict], f: int) -> str:
    where = "before training" if task < 0 else f"learning task {task + 1} ({tasks[task]})"
    seen = max(1, task + 1)
    means = [f"{run['name']} {sum(run['frames'][f]['accuracy'][:seen]) / seen:.2f}" for run in runs]
    what = f"mean accuracy on the {seen} tasks so far" if seen > 1 else "accuracy on the first task"
    return f"Step {moment}, {where}: {what} is {', '.join(means)}."
