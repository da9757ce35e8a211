"""What one exercise is, and where all of them are found."""

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch


class Case(NamedTuple):
    """One call of the learner's function: a few words that name it, and its positional arguments."""

    name: str
    args: tuple


class KnownWrong(NamedTuple):
    """An answer that learners are known to give, function or value, and the sentence that names the slip."""

    answer: Any
    sentence: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson; `cllab.exercises.check` judges answers by it.

    id: lesson and number, such as "L02.3". title: a few words, shown after the id.
    reference: the right answer: a function where the learner writes one, the value for a blank to fill.
    agrees_with: where the reference lives, such as "cllab.metrics.forgetting".
    hint: one sentence, shown after a failed attempt that matches no `known_wrong`.
    cases: the lesson's own inputs, smallest first (empty for a value).
    random_case: draws the arguments of one more input from a torch.Generator; it is called `n_random` times.
    known_wrong: two or three likely wrong answers.
    tolerance: absolute and relative, on every number; a float32 answer to a float64 question should pass.
    """

    id: str
    title: str
    reference: Any
    agrees_with: str
    hint: str
    cases: tuple[Case, ...] = ()
    random_case: Callable[[torch.Generator], tuple] | None = None
    known_wrong: tuple[KnownWrong, ...] = ()
    tolerance: float = 1e-6
    n_random: int = 5

    @property
    def is_value(self) -> bool:
        """Whether the answer is a value (a blank to fill) rather than a function."""
        return not callable(self.reference)


@cache
def lessons() -> dict[str, tuple[str, tuple[Exercise, ...]]]:
    """{"02": (title, exercises)}: TITLE and EXERCISES of the modules l01, l02, ... in this folder."""
    package = importlib.import_module("cllab.exercises")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if re.fullmatch(r"l\d\d", m.name))
    modules = {name[1:]: importlib.import_module(f"cllab.exercises.{name}") for name in names}
    return {number: (module.TITLE, module.EXERCISES) for number, module in modules.items()}


@cache
def exercises() -> dict[str, Exercise]:
    """Every exercise of every lesson by its id, in the course's order."""
    return {exercise.id: exercise for _, group in lessons().values() for exercise in group}
