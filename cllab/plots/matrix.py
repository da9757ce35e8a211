"""The accuracy matrix as a table of colours, and accuracy on every task while training goes on."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from cllab import checks
from cllab.plots.palette import FAINT, INK, SEQUENTIAL, on_white, task_colour, task_marker

FRAME = "#D55E00"


def draw_accuracy_matrix(ax: Axes, R: ArrayLike, task_names: Sequence[str] | None = None) -> None:
    """Draw R [T, T] on `ax`: row i is after training on task i, column j is accuracy on task j (0 to 1).

    Every cell shows its number; cells that are NaN are hatched (not evaluated); the diagonal, each task right
    after it was learned, is framed. `task_names` [T] labels rows and columns (default: task 1 .. task T).
    ValueError for a matrix that is not square, values outside [0, 1] or a wrong number of names.
    """
    R = checks.fractions("R", R)
    if R.ndim != 2 or R.shape[0] != R.shape[1] or R.size == 0:
        raise ValueError(f"R must be square, one row and one column per task, got shape {R.shape}")
    T = len(R)
    names = _names(task_names, T)
    on_white(ax)
    ax.imshow(np.ma.masked_invalid(R), cmap=SEQUENTIAL, vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(R):
        corner = (j - 0.5, i - 0.5)
        if np.isnan(value):
            ax.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor="#CCCCCC", hatch="///", lw=0))
        else:
            style = {"color": "white" if value < 0.47 else "black", "fontsize": 10 if T <= 5 else 7}
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", **style)
        if i == j:
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=FRAME, lw=2, clip_on=False, zorder=3))
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xticks(range(T), names, rotation=0 if T <= 5 and max(map(len, names)) <= 8 else 90)
    ax.set_yticks(range(T), names)
    ax.set_xlabel("tested on (accuracy, 0 to 1)")
    ax.set_ylabel("after training on")


def draw_curves(ax: Axes, history) -> None:
    """Draw accuracy on every task over optimiser steps; the stretch in which each task was trained is shaded.

    history  a `cllab.training.History`, or anything with `task_names` [T] and `curve`: entries with `.step`,
             `.task` (index of the task in training, -1 before any) and `.accuracy` [T] in [0, 1]

    ValueError when nothing was evaluated yet.
    """
    if not history.curve:
        raise ValueError("history must hold at least one evaluation, got an empty curve")
    names = _names(history.task_names, len(history.curve[0].accuracy))
    steps = [entry.step for entry in history.curve]
    accuracy = checks.fractions("history.curve", [list(entry.accuracy) for entry in history.curve])
    on_white(ax)
    _shade_tasks(ax, history.curve, names)
    for task, name in enumerate(names):
        style = {
            "color": task_colour(task),
            "marker": task_marker(task),
            "ms": 5,
            "lw": 1.8,
            "clip_on": False,
        }
        ax.plot(steps, accuracy[:, task], label=name, markevery=max(1, len(steps) // 12), zorder=3, **style)
    ax.set_xlim(min(steps), max(max(steps), min(steps) + 1))
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("optimiser steps (shaded: the task in training)")
    ax.set_ylabel("accuracy (fraction of the test set)")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False, title="accuracy on")


def _shade_tasks(ax: Axes, curve: Sequence, names: list[str]) -> None:
    """One band per task, from the last evaluation of the task before to its own last one."""
    start, short = 0, sum(map(len, names)) <= 40
    for task in sorted({entry.task for entry in curve} - {-1}):
        end = max(entry.step for entry in curve if entry.task == task)
        ax.axvspan(start, end, color=task_colour(task), alpha=0.10, lw=0)
        ax.axvline(end, color=FAINT, lw=0.8, ls=":")
        word = names[task] if short else f"{task + 1}"
        ax.text((start + end) / 2, 1.07, word, ha="center", va="bottom", fontsize=8, color=INK)
        start = end


def _names(task_names: Sequence[str] | None, T: int) -> list[str]:
    names = [f"task {j + 1}" for j in range(T)] if task_names is None else [str(name) for name in task_names]
    if len(names) != T:
        raise ValueError(f"task_names must hold one name per task: {T} tasks, got {len(names)} names")
    return names
