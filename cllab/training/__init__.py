"""One training loop as a generator of events, the hooks of a method, and the history of a run."""

from cllab.training.baselines import Joint
from cllab.training.batch import Batch, Part, masked, shuffled, task_loss
from cllab.training.context import Context, predict
from cllab.training.evaluating import answer_with, evaluating, frozen_copy
from cllab.training.events import Evaluated, Event, Phase, Step, TaskEnded, TaskStarted
from cllab.training.history import History
from cllab.training.loop import fit, run
from cllab.training.method import Method

__all__ = [
    "Batch", "Context", "Evaluated", "Event", "History", "Joint", "Method", "Part", "Phase", "Step", "TaskEnded",
    "TaskStarted", "answer_with", "evaluating", "fit", "frozen_copy", "masked", "predict", "run", "shuffled",
    "task_loss",
]  # fmt: skip
