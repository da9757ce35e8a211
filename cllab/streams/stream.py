"""A stream: tasks that arrive one after another, in one of three scenarios."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cllab import checks
from cllab.streams.arguments import MAX_LABEL, class_list, instance

SCENARIOS = ("task", "domain", "class")


@dataclass(frozen=True, eq=False)
class Task:
    """What arrives at one time: x [N, D] with labels y [N] to learn from, x_test and y_test to be tested on.

    classes: the labels that this task may contain.
    """

    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    x_test: Tensor = field(repr=False)
    y_test: Tensor = field(repr=False)
    classes: tuple[int, ...]
    name: str = "task"

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(class_list("classes", self.classes)))
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"classes must name each class of {self.name} once, got {self.classes}")
        for x, y, what in ((self.x, self.y, ""), (self.x_test, self.y_test, "_test")):
            if checks.floats(f"x{what}", x).ndim < 2:
                raise ValueError(f"x{what} must have one row per sample, [N, D], got shape {tuple(x.shape)}")
            checks.labels(f"y{what}", y, n=len(x))
            strangers = sorted(set(y.tolist()) - set(self.classes))
            if strangers:
                raise ValueError(f"y{what} of {self.name} holds labels {strangers} outside its classes {self.classes}")


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks in the order in which they arrive.

    scenario (van de Ven, Tuytelaars & Tolias 2022): "task", the task's number is given at test and only its own
    classes may be answered; "domain", the same labels in every task, no number; "class", the classes add up and
    the model must tell all those seen so far apart, no number.
    n_classes: outputs that the model needs. online: every sample may be used in one epoch only.
    """

    tasks: tuple[Task, ...]
    scenario: str
    n_classes: int
    name: str = "stream"
    online: bool = False

    def __post_init__(self):
        if not isinstance(self.tasks, (tuple, list)):
            raise TypeError(f"tasks must be a tuple of Task, got {type(self.tasks).__name__}")
        object.__setattr__(self, "tasks", tuple(instance("each of tasks", task, Task) for task in self.tasks))
        checks.choice("scenario", self.scenario, SCENARIOS)
        if not self.tasks:
            raise ValueError("tasks must not be empty")
        shapes = {tuple(task.x.shape[1:]) for task in self.tasks} | {tuple(t.x_test.shape[1:]) for t in self.tasks}
        if len(shapes) > 1:
            raise ValueError(f"tasks must all have rows of one shape, got {sorted(shapes)}")
        highest = max(c for task in self.tasks for c in task.classes)
        checks.integer("n_classes", self.n_classes, highest + 1, MAX_LABEL + 1)

    def allowed(self, task: int, seen: int) -> Tensor:
        """Which classes a row of task number `task` may use while the tasks 0 .. `seen` are known: bool [C].

        The only place where the scenario enters, for training, replayed and test rows alike; everything else fills
        the logits of the other classes with -inf. In the class-incremental scenario a task not yet seen counts
        with its classes, so that zero-shot accuracy is defined.
        """
        for name, value in (("task", task), ("seen", seen)):
            checks.integer(name, value, 0, len(self) - 1)
        if self.scenario == "domain":
            return torch.ones(self.n_classes, dtype=torch.bool)
        known = [self.tasks[task]] if self.scenario == "task" else self.tasks[: max(task, seen) + 1]
        mask = torch.zeros(self.n_classes, dtype=torch.bool)
        mask[[c for t in known for c in t.classes]] = True
        return mask

    @property
    def in_features(self) -> int:
        """Features of one row: D."""
        return self.tasks[0].x[0].numel()

    @property
    def task_names(self) -> list[str]:
        """The name of every task, in order."""
        return [task.name for task in self.tasks]

    def to(self, device=None, dtype: torch.dtype | None = None) -> "Stream":
        """The same stream with its tensors on `device` and its features in `dtype`."""

        def moved(task: Task) -> Task:
            return replace(
                task, x=task.x.to(device=device, dtype=dtype), x_test=task.x_test.to(device=device, dtype=dtype),
                y=task.y.to(device), y_test=task.y_test.to(device),
            )  # fmt: skip

        return replace(self, tasks=tuple(moved(task) for task in self.tasks))

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]
