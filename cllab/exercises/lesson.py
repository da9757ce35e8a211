"""What a lesson's cells use besides check(): one line of set-up, and claims about measured numbers."""

import random
import re
from typing import Any

import numpy as np
import torch

import cllab
from cllab.exercises.exercise import lessons


def setup(lesson: str, written_for: str | None = None) -> None:
    """Get the notebook ready: seeds, one CPU thread, figure style; and say in one line which lesson this is.

    lesson: two digits, such as "02". written_for: the version of cllab that the lesson's text was checked
    with; when the installed one differs in its first two numbers, a second line says so (nothing stops).
    Seeds random, numpy and torch for the learner's own cells; cllab itself uses explicit generators only.
    Raises ValueError for a lesson that does not exist.
    """
    if lesson not in lessons():
        raise ValueError(f"lesson must be one of {', '.join(map(repr, lessons()))}, got {lesson!r}")
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # with networks this small a second thread only costs time
    _figure_style()
    print(f"Lesson {lesson}, {lessons()[lesson][0]}. It runs on the CPU; no network is needed.")
    difference = version_difference(written_for, cllab.__version__)
    if difference:
        print(difference)


def claim(sentence: str, condition: Any) -> None:
    """Print `[v] sentence` if `condition` holds; raise AssertionError with `[x] sentence` if it does not.

    condition: one bool, as Python, numpy or torch make it by comparing two numbers.
    """
    if not isinstance(sentence, str) or not sentence:
        raise TypeError(f"sentence must be a non-empty str, got {sentence!r}")
    if isinstance(condition, torch.Tensor) and condition.numel() == 1:
        condition = condition.item()
    if not isinstance(condition, bool | np.bool_):
        raise TypeError(f"condition must be one bool, got {condition!r} ({type(condition).__name__})")
    if not bool(condition):
        raise AssertionError(f"[x] {sentence}")
    print(f"[v] {sentence}")


def version_difference(written_for: str | None, installed: str) -> str:
    """A friendly sentence when the first two numbers of both versions differ, else ''.

    >>> version_difference("0.1", "0.1.4")
    ''
    """
    if written_for is None or _numbers(written_for) == _numbers(installed):
        return ""
    return (
        f"This lesson was checked with cllab {written_for} and {installed} is installed: if a number below "
        "differs from the text, fetch the lesson that came with your version."
    )


def _numbers(version: str) -> list[str]:
    return re.findall(r"\d+", version)[:2]


def _figure_style() -> None:
    """White figures of one size, readable on light and dark pages, and the same bytes in every run."""
    import matplotlib as mpl

    from cllab.plots.palette import TASK_COLOURS

    mpl.rcParams.update(
        {
            "axes.prop_cycle": mpl.cycler(color=TASK_COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.dpi": 80,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
        }
    )
