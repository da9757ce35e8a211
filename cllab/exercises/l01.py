"""Exercises of lesson 01, Catastrophic forgetting."""

from collections.abc import Callable

import torch

from cllab.exercises.exercise import Case, Exercise, KnownWrong

TITLE = "Catastrophic forgetting"


def step(theta: torch.Tensor, g: torch.Tensor, lr: float) -> torch.Tensor:
    """theta after one step of gradient descent with rate `lr` along the gradient g, shaped like theta."""
    return theta - lr * g


def predicted_change(g_a: list[float], g_b: list[float], lr: float) -> float:
    """First-order change of the old task's loss under one step of rate `lr` along the new task's gradient."""
    return -lr * sum(a * b for a, b in zip(g_a, g_b, strict=True))


def fill_matrix(theta: float, learn: Callable, accuracy: Callable, n_tasks: int) -> list[list[float]]:
    """R[i][j]: accuracy on task j of the weights after learning the tasks 0 .. i in turn."""
    R = []
    for i in range(n_tasks):
        theta = learn(theta, i)
        R.append([accuracy(theta, j) for j in range(n_tasks)])
    return R


def sparing_gradient(g_a: list[float], g_b: list[float]) -> list[float]:
    """The new task's gradient without the part that would raise the old task's loss."""
    conflict = _dot(g_a, g_b)
    if conflict >= 0:
        return list(g_b)
    return _minus(g_b, conflict / _dot(g_a, g_a), g_a)


def halfway(theta: float, task: int) -> float:
    """A pretend training run: one weight moves half of the way to the task's goal, 10 times its number."""
    return theta + (10.0 * task - theta) / 2


def nearness(theta: float, task: int) -> float:
    """A pretend accuracy: 1 at the task's goal, falling with the distance."""
    return 1 / (1 + abs(theta - 10.0 * task))


def shrinking(theta: float, task: int) -> float:
    """Another pretend training run."""
    return 0.5 * theta - task


def _minus(g_b: list[float], share: float, g_a: list[float]) -> list[float]:
    return [b - share * a for a, b in zip(g_a, g_b, strict=True)]


def _always_projected(g_a, g_b):
    return _minus(g_b, _dot(g_a, g_b) / _dot(g_a, g_a), g_a) if any(g_a) else list(g_b)


def _divided_by_b(g_a, g_b):
    conflict = _dot(g_a, g_b)
    return _minus(g_b, conflict / _dot(g_b, g_b), g_a) if conflict < 0 else list(g_b)


def _added(g_a, g_b):
    conflict = _dot(g_a, g_b)
    return _minus(g_b, -conflict / _dot(g_a, g_a), g_a) if conflict < 0 else list(g_b)


def _transposed(theta, learn, accuracy, n_tasks):
    R = fill_matrix(theta, learn, accuracy, n_tasks)
    return [list(column) for column in zip(*R, strict=True)]


def _only_at_the_end(theta, learn, accuracy, n_tasks):
    for i in range(n_tasks):
        theta = learn(theta, i)
    return [[accuracy(theta, j) for j in range(n_tasks)] for _ in range(n_tasks)]


def _always_from_the_start(theta, learn, accuracy, n_tasks):
    return [[accuracy(learn(theta, i), j) for j in range(n_tasks)] for i in range(n_tasks)]


def _dot(a, b) -> float:
    return sum(ai * bi for ai, bi in zip(a, b, strict=True))


def _tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _numbers(generator: torch.Generator, n: int) -> list[float]:
    return torch.randn(n, generator=generator, dtype=torch.float64).tolist()


def _random_step(generator: torch.Generator) -> tuple:
    theta, g = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    return theta, g, 0.3


EXERCISES = (
    Exercise(
        id="L01.1",
        title="the old loss after two steps",
        reference=4.5,
        agrees_with="the right value",
        hint="first find w after the second step, then put it into task A's loss, not task B's",
        known_wrong=(
            KnownWrong(0.5, "that is task B's loss at w = -1; the question is what happened to task A"),
            KnownWrong(9.0, "you forgot the factor 1/2 in front of the square"),
            KnownWrong(2.0, "that is task A's loss after the first step; take one more"),
        ),
    ),
    Exercise(
        id="L01.2",
        title="one step",
        reference=step,
        agrees_with="cllab.exercises.l01.step",
        hint="the new value is the old one minus the learning rate times the gradient",
        cases=(
            Case("the second step by hand", (_tensor(0.0), _tensor(2.0), 0.5)),
            Case("two weights", (_tensor(1.0, -1.0), _tensor(0.5, 4.0), 0.1)),
        ),
        random_case=_random_step,
        known_wrong=(
            KnownWrong(lambda theta, g, lr: theta + lr * g, "your step climbs: subtract the gradient, do not add it"),
            KnownWrong(lambda theta, g, lr: theta - g, "you left out the learning rate"),
            KnownWrong(lambda theta, g, lr: -lr * g, "that is the change: add it to the old value"),
        ),
    ),
    Exercise(
        id="L01.3",
        title="predicted change",
        reference=predicted_change,
        agrees_with="cllab.exercises.l01.predicted_change",
        hint="the step is -lr * g_b; the loss of A changes by the inner product of g_a with the step",
        cases=(
            Case("aligned", ([1.0, 2.0], [2.0, 1.0], 0.5)),
            Case("opposed", ([1.0, 0.0], [-2.0, 3.0], 0.1)),
            Case("at right angles", ([1.0, 0.0], [0.0, 5.0], 0.1)),
        ),
        random_case=lambda source: (_numbers(source, 3), _numbers(source, 3), 0.1),
        known_wrong=(
            KnownWrong(
                lambda g_a, g_b, lr: lr * _dot(g_a, g_b),
                "the sign is off: gradient descent goes against g_b, so aligned gradients help task A",
            ),
            KnownWrong(lambda g_a, g_b, lr: -_dot(g_a, g_b), "you left out the learning rate"),
            KnownWrong(
                lambda g_a, g_b, lr: -lr * _dot(g_b, g_b),
                "that is the change of the new task's own loss: one of the two gradients must be task A's",
            ),
        ),
    ),
    Exercise(
        id="L01.4",
        title="fill the matrix",
        reference=fill_matrix,
        agrees_with="cllab.exercises.l01.fill_matrix",
        hint="one row per learned task: learn task i, test on every task, and keep theta for the next row",
        cases=(
            Case("two tasks", (0.0, halfway, nearness, 2)),
            Case("four tasks", (3.0, halfway, nearness, 4)),
            Case("another learner", (1.0, shrinking, nearness, 3)),
        ),
        random_case=lambda source: (_numbers(source, 1)[0], halfway, nearness, 5),
        known_wrong=(
            KnownWrong(_transposed, "rows and columns are swapped: row i is what is known after task i"),
            KnownWrong(
                _only_at_the_end,
                "you tested after all tasks only: every row must be measured before the next task is learned",
            ),
            KnownWrong(
                _always_from_the_start,
                "every task started from the first weights: a stream goes on from where the last task ended",
            ),
        ),
    ),
    Exercise(
        id="L01.5",
        title="a gradient that spares task A",
        reference=sparing_gradient,
        agrees_with="cllab.exercises.l01.sparing_gradient",
        hint="only where g_a . g_b < 0: subtract (g_a . g_b) / (g_a . g_a) times g_a",
        cases=(
            Case("conflict", ([1.0, 0.0], [-2.0, 3.0])),
            Case("no conflict", ([1.0, 2.0], [2.0, 1.0])),
            Case("task A at its optimum", ([0.0, 0.0], [2.0, 1.0])),
        ),
        random_case=lambda source: (_numbers(source, 4), _numbers(source, 4)),
        known_wrong=(
            KnownWrong(
                _always_projected,
                "you also removed help: when g_a . g_b >= 0 the step lowers both losses, leave it alone",
            ),
            KnownWrong(
                _divided_by_b,
                "divide by g_a . g_a: the part along g_a is measured in units of g_a",
            ),
            KnownWrong(
                _added,
                "you added the part along g_a: that doubles the conflict, subtract it",
            ),
        ),
    ),
)
