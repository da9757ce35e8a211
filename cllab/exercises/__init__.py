"""Exercises of the lessons: `check` an answer, `claim` a measured fact, `setup` a notebook, `progress`."""

from cllab.exercises.check import check
from cllab.exercises.exercise import Case, Exercise, KnownWrong, exercises, lessons
from cllab.exercises.lesson import claim, setup
from cllab.exercises.progress import progress

__all__ = ["Case", "Exercise", "KnownWrong", "check", "claim", "exercises", "lessons", "progress", "setup"]
