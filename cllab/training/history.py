"""What a run leaves: accuracies, losses and settings, saved as plain JSON."""

import json
import math
import os
from pathlib import Path

import numpy as np

from cllab import checks, metrics
from cllab.training.events import Evaluated, Event, Step, TaskEnded

FORMAT = 2


class History:
    """Filled event by event while a run goes on.

    task_names: T names. settings: what the run was called with. curve: every Evaluated event in order, the first
    one of the untrained model (task -1). losses: every Step event in order. ended: how many tasks are over.
    """

    def __init__(self, task_names: list[str], settings: dict | None = None):
        self.task_names = list(task_names)
        self.settings = dict(settings or {})
        self.curve: list[Evaluated] = []
        self.losses: list[Step] = []
        self.ended = 0

    def record(self, event: Event) -> None:
        """Take note of one event of `fit`."""
        if isinstance(event, Evaluated):
            self.curve.append(event)
        elif isinstance(event, Step):
            self.losses.append(event)
        elif isinstance(event, TaskEnded):
            self.ended = event.task + 1

    @property
    def accuracy(self) -> np.ndarray:
        """R [T, T]: R[i, j] is the accuracy on task j after task i, in [0, 1]; NaN where not evaluated yet."""
        R = np.full((len(self.task_names), len(self.task_names)), np.nan)
        for point in self.curve:
            if 0 <= point.task < self.ended:
                R[point.task] = point.accuracy
        return R

    @property
    def baseline(self) -> np.ndarray:
        """b [T]: accuracy of the untrained model on each task; NaN where not evaluated."""
        untrained = next((point.accuracy for point in self.curve if point.task == -1), None)
        return np.full(len(self.task_names), np.nan) if untrained is None else np.array(untrained)

    def metrics(self) -> dict[str, float]:
        """The summary numbers of R that are defined: a finished run of at least two tasks has them all."""
        R = self.accuracy
        if not np.isfinite(R).all():
            raise ValueError("metrics need a finished run: some rows of the accuracy matrix are not evaluated yet")
        summary = {
            "average_accuracy": metrics.average_accuracy(R),
            "average_incremental_accuracy": metrics.average_incremental_accuracy(R),
        }
        if len(R) > 1:
            summary["backward_transfer"] = metrics.backward_transfer(R)
            summary["forgetting"] = metrics.forgetting(R)
            if np.isfinite(self.baseline).all():
                summary["forward_transfer"] = metrics.forward_transfer(R, self.baseline)
        return summary

    def to_json(self) -> str:
        """The whole history as a JSON text; numbers keep every bit."""
        return json.dumps({
            "format": FORMAT, "task_names": self.task_names, "settings": self.settings, "ended": self.ended,
            "curve": [[p.task, p.step, list(p.accuracy), p.newest] for p in self.curve],
            "losses": [[s.task, s.step, s.losses, s.info] for s in self.losses],
        })  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> "History":
        """The history that `to_json` wrote; ValueError for any other text."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']} instead of {FORMAT}")
            names = [str(name) for name in data["task_names"]]
            history, last = cls(names, data["settings"]), len(names) - 1
            history.ended = checks.integer("ended", data["ended"], 0, len(names))
            for task, step, accuracy, newest in data["curve"]:
                checks.integer("task", task, -1, last)
                checks.integer("step", step, 0)
                values = tuple(checks.number("accuracy", a, 0.0, 1.0) for a in accuracy)
                if len(values) != len(names):
                    raise ValueError("accuracies and tasks differ in number")
                share = None if newest is None else checks.number("newest", newest, 0.0, 1.0)
                history.curve.append(Evaluated(task, values, step, share))
            for task, step, losses, info in data["losses"]:
                checks.integer("task", task, 0, last)
                terms = {str(name): checks.number(name, value, -math.inf) for name, value in losses.items()}
                history.losses.append(Step(task, checks.integer("step", step, 1), terms, dict(info)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not a History written by cllab: {error}") from error
        return history

    def save(self, path: str | os.PathLike) -> None:
        """Write JSON to `path`; a file already there is replaced in one go."""
        write_whole(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "History":
        """Read what `save` wrote."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"this is not a History written by cllab: {error}") from error
        return cls.from_json(text)


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, never half of it."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
