"""Exercises of lesson 07, SI, MAS and importance along the path."""

import torch
from torch import Tensor

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.regularization import path_importance, path_integral

TITLE = "SI, MAS and importance along the path"

D = torch.float64
# the worked examples of the lesson: one step on the parabola, two rows for MAS
PARABOLA = (torch.tensor([0.4], dtype=D), torch.tensor([1.6]), torch.tensor([0.8]), torch.tensor([0.64]))
TWO_ROWS = torch.tensor([[1.0, 0.0], [1.0, -2.0]], dtype=D)
ONES = torch.tensor([1.0, 1.0], dtype=D)


def importance(omega: Tensor, start: Tensor, end: Tensor, xi: float) -> Tensor:
    """What a task adds to Omega, >= 0 and like theta."""
    return path_importance(omega, start, end, xi)


def sensitivity(w: Tensor, x: Tensor) -> Tensor:
    """MAS of the model f(x) = w . x: Omega [D] from the rows x [N, D]."""
    return _row_gradients(w, x).abs().mean(dim=0)


def walk(F: list[float], s: list[float]) -> list[float]:
    """RWalk's importance after the first task: Fisher and score, each divided by its largest entry, added."""
    return [Fi / max(F) + si / max(s) for Fi, si in zip(F, s, strict=True)]


def spring_path(theta: float, a: float, m: float, k: float, eta: float, T: int) -> float:
    """omega after T steps on a/2 (theta - m)^2 + k/2 theta^2."""
    return _spring_path(theta, a, m, k, eta, T)


def _spring_path(theta, a, m, k, eta, T, total=False, free=False) -> float:
    omega = 0.0
    for _ in range(T):
        task, spring = a * (theta - m), k * theta
        after = theta - eta * (task if free else task + spring)
        omega -= (task + spring if total else task) * (after - theta)
        theta = after
    return omega


def _row_gradients(w: Tensor, x: Tensor) -> Tensor:
    """d f(x_n)^2 / d w = 2 f(x_n) x_n: [N, D]."""
    return 2 * (x @ w)[:, None] * x


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=D)


def _random_step(generator: torch.Generator) -> tuple:
    return tuple(_normal(generator, 3) for _ in range(4))


def _random_task(generator: torch.Generator) -> tuple:
    return *(_normal(generator, 4) for _ in range(3)), 0.1


def _random_rows(generator: torch.Generator) -> tuple:
    return _normal(generator, 3), _normal(generator, 5, 3)


def _random_scores(generator: torch.Generator) -> tuple:
    return _normal(generator, 4).abs().tolist(), _normal(generator, 4).abs().tolist()


def _random_spring(generator: torch.Generator) -> tuple:
    theta, a, m, k = _normal(generator, 4).tolist()
    return theta, 1 + abs(a), m, 0.5 + abs(k), 0.1, 20


EXERCISES = (
    Exercise(
        id="L07.1",
        title="two steps of credit",
        reference=0.656,
        agrees_with="the right value",
        hint="0.4 from the first step; in the second g = 1.6 and theta goes from 0.8 to 0.64",
        known_wrong=(
            KnownWrong(0.5904, "that is what the loss fell by; omega adds -g times the step, with g where it began"),
            KnownWrong(-0.656, "the sign: omega is minus gradient times step, a fall of the loss counts as positive"),
            KnownWrong(0.256, "that is the second step alone; omega adds up"),
        ),
    ),
    Exercise(
        id="L07.2",
        title="one step of the path",
        reference=path_integral,
        agrees_with="cllab.regularization.path_integral",
        hint="omega - g * (after - before), weight by weight",
        cases=(
            Case("the second step on the parabola", PARABOLA),
            Case(
                "three weights",
                (torch.zeros(3, dtype=D), *(torch.tensor(v, dtype=D) for v in ([1, -1, 2], [0, 0, 0], [-1, 2, 0]))),
            ),
        ),
        random_case=_random_step,
        known_wrong=(
            KnownWrong(
                lambda omega, g, before, after: omega + g * (after - before),
                "the sign: a step against the gradient lowers the loss, and must earn",
            ),
            KnownWrong(
                lambda omega, g, before, after: omega + (g * (after - before)).abs(),
                "no absolute value: a step that raises the loss must cost, or omega is no fall of the loss",
            ),
            KnownWrong(
                lambda omega, g, before, after: -g * (after - before),
                "that is this step alone; add it to what the weight has earned so far",
            ),
        ),
    ),
    Exercise(
        id="L07.3",
        title="from path to importance",
        reference=importance,
        agrees_with="cllab.regularization.path_importance",
        hint="divide by (end - start)^2 + xi, then clamp at 0",
        cases=(
            Case("the parabola", tuple(torch.tensor([v], dtype=D) for v in (10 / 9, 1.0, 0.0)) + (0.1,)),
            Case("a weight that came back", tuple(torch.tensor([v], dtype=D) for v in (1 / 6, 0.0, 0.0)) + (0.001,)),
            Case("a weight that made it worse", tuple(torch.tensor([v], dtype=D) for v in (-0.125, 1.0, 0.5)) + (0.1,)),
        ),
        random_case=_random_task,
        known_wrong=(
            KnownWrong(
                lambda omega, start, end, xi: omega / ((end - start) ** 2 + xi),
                "a negative importance must count as 0: a negative spring pushes",
            ),
            KnownWrong(
                lambda omega, start, end, xi: (omega / ((end - start) ** 2 + xi)).abs(),
                "a negative importance counts as 0; its absolute value would reward a weight for raising the loss",
            ),
            KnownWrong(
                lambda omega, start, end, xi: (omega / ((end - start).abs() + xi)).clamp(min=0),
                "the way must be squared: c Omega (way)^2 has to be a loss again",
            ),
        ),
    ),
    Exercise(
        id="L07.4",
        title="how the answer reacts",
        reference=sensitivity,
        agrees_with="cllab.regularization.output_sensitivity",
        hint="row n has the gradient 2 f(x_n) x_n; absolute values, then the mean over rows",
        cases=(
            Case("the lesson's two rows", (ONES, TWO_ROWS)),
            Case("a single row", (ONES, TWO_ROWS[1:])),
            Case("another w", (torch.tensor([2.0, -1.0], dtype=D), TWO_ROWS)),
        ),
        random_case=_random_rows,
        known_wrong=(
            KnownWrong(
                lambda w, x: _row_gradients(w, x).mean(dim=0).abs(),
                "the absolute value comes before the mean: rows of opposite sign must not cancel",
            ),
            KnownWrong(lambda w, x: x.abs().mean(dim=0), "that is the gradient of f; MAS takes f squared"),
            KnownWrong(lambda w, x: _row_gradients(w, x).abs().sum(dim=0), "the mean over rows, not the sum"),
        ),
    ),
    Exercise(
        id="L07.5",
        title="two scales, one sum",
        reference=walk,
        agrees_with="what cllab.regularization.RWalk holds after the first task",
        hint="divide F by its own largest entry and s by its own, then add",
        cases=(
            Case("one weight leads each list", ([0.02, 0.01], [3.0, 12.0])),
            Case("three weights", ([1.0, 2.0, 4.0], [0.5, 0.0, 0.25])),
        ),
        random_case=_random_scores,
        known_wrong=(
            KnownWrong(lambda F, s: [Fi + si for Fi, si in zip(F, s)], "not scaled: the larger list drowns the other"),
            KnownWrong(
                lambda F, s: [(Fi + si) / max(f + v for f, v in zip(F, s)) for Fi, si in zip(F, s)],
                "scaled after adding: the larger list has drowned the other by then",
            ),
            KnownWrong(
                lambda F, s: [Fi / sum(F) + si / sum(s) for Fi, si in zip(F, s)],
                "divide by the largest entry, not by the sum: each list then ends at 1",
            ),
        ),
    ),
    Exercise(
        id="L07.6",
        title="credit under a spring",
        reference=spring_path,
        agrees_with="the path integral of the task's gradient along the path of both",
        hint="the step uses a (theta - m) + k theta, the credit only a (theta - m)",
        cases=(
            Case("towards the task, held back", (0.0, 2.0, 1.0, 2.0, 0.1, 50)),
            Case("pulled off the task's optimum", (1.0, 1.0, 1.0, 1.0, 0.01, 1000)),
            Case("no spring", (1.0, 2.0, 0.0, 0.0, 0.1, 100)),
        ),
        random_case=_random_spring,
        known_wrong=(
            KnownWrong(
                lambda *args: _spring_path(*args, total=True),
                "you credit the gradient of the sum: the spring's pull is no merit of the task",
            ),
            KnownWrong(
                lambda *args: _spring_path(*args, free=True),
                "the step is taken on the sum of both: the spring pulls too, only the credit leaves it out",
            ),
        ),
    ),
)
