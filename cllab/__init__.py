"""cllab: a course on continual learning that you run.

The library is in the subpackages; each name has one home: `cllab.streams` (tasks and scenarios),
`cllab.models`, `cllab.training` (the loop, `fit` and `run`), `cllab.metrics` (functions of the accuracy
matrix R), and the three families `cllab.replay`, `cllab.regularization` and `cllab.isolation`.
"""

__version__ = "0.1.0"


def setup(lesson: str, written_for: str | None = None) -> None:
    """Get the notebook of `lesson` ("01") ready; see `cllab.exercises.setup`, which does it."""
    from cllab import exercises  # late: a program that only trains never loads the lessons' tools

    exercises.setup(lesson, written_for)
