"""What `fit` tells whoever pulls it: small frozen records of plain numbers, ready for JSON."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TaskStarted:
    """Task number `task` begins; info says how many samples it has and whether the optimiser is new."""

    task: int
    name: str
    info: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One optimiser step was taken.

    step: steps since the start of the run, the first is 1. losses: the named terms whose sum was differentiated,
    "task" first. info: what methods noted (rows replayed, gradients projected, ...).
    """

    task: int
    step: int
    losses: dict[str, float]
    info: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """A method did something between tasks: estimated a Fisher, chose exemplars, pruned."""

    name: str
    info: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """accuracy[j] in [0, 1] on the test set of task j, while learning task `task`, after `step` steps.

    task is -1 for the untrained model. newest: which share of the earlier tasks' test rows is answered with a class
    that came with this task, the recency bias of a class-incremental run; None elsewhere and before the second task.
    """

    task: int
    accuracy: tuple[float, ...]
    step: int = 0
    newest: float | None = None


@dataclass(frozen=True)
class TaskEnded:
    """Task number `task` is over, its Evaluated event was the last.

    info: the `seconds` it took, and `memory_bytes` of each method that keeps something of earlier tasks.
    """

    task: int
    info: dict = field(default_factory=dict)


Event = TaskStarted | Step | Phase | Evaluated | TaskEnded
