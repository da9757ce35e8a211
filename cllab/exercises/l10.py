"""Exercises of lesson 10, heads and columns."""

import itertools
import math

import torch

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.isolation.column_growth import column_growth
from cllab.isolation.progressive import lateral_sum

TITLE = "Heads and columns"

W, B, H = [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [1.0, 2.0]
U, OLD = [[[1.0, -1.0], [1.0, 1.0]], [[1.0, 0.0], [-1.0, 5.0]]], [[1.0, 1.0], [2.0, 0.0]]


def layer(
    W: list[list[float]], b: list[float], h: list[float], U: list[list[list[float]]], old: list[list[float]]
) -> list[float]:
    """W h + b + sum_j U[j] old[j]: a layer of a column before its relu."""
    own = _vector(W) @ _vector(h) + _vector(b)
    if not old:
        return own.tolist()
    return (own + lateral_sum([_vector(h_j)[None] for h_j in old], [_vector(U_j) for U_j in U])[0]).tolist()


def parameters(sizes: list[int], K: int) -> int:
    """Parameters of K columns with linear laterals from every older column into every layer but the first."""
    growth = column_growth(sizes, K)
    return growth.columns + growth.laterals


def columns_to_run(tasks: list, task) -> list:
    """The keys of the columns that an answer for `task` needs, in order of arrival."""
    return tasks[: tasks.index(task) + 1]


def coast(m: float, v: float, t: int, lr: float, steps: int) -> float:
    """By how much Adam moves a weight in `steps` more steps with a gradient of zero, from its state m, v after t."""
    moved = 0.0
    for later in range(t + 1, t + steps + 1):
        m, v = 0.9 * m, 0.999 * v
        m_hat, v_hat = m / (1 - 0.9**later), v / (1 - 0.999**later)
        moved -= lr * m_hat / (math.sqrt(v_hat) + 1e-8)
    return moved


def _answers_bent_first(W, b, h, U, old):
    own = [max(z, 0.0) for z in layer(W, b, h, [], [])]
    for U_j, h_j in zip(U, old, strict=True):
        own = [a + max(z, 0.0) for a, z in zip(own, layer(U_j, [0.0] * len(b), h_j, [], []), strict=True)]
    return own


def _newest_neighbour(W, b, h, U, old):
    return layer(W, b, h, U[-1:], old[-1:])


def _without_bias(W, b, h, U, old):
    return layer(W, [0.0] * len(b), h, U, old)


def _own(sizes) -> int:
    return column_growth(sizes, 1).columns


def _laterals(sizes) -> int:
    return sum(n * out for n, out in itertools.pairwise(sizes[1:]))


def _from_the_neighbour(sizes, K):
    return K * _own(sizes) + (K - 1) * _laterals(sizes)


def _into_the_first(sizes, K):
    return K * _own(sizes) + K * (K - 1) // 2 * (_laterals(sizes) + sizes[0] * sizes[1])


def _both_ways(sizes, K):
    return K * _own(sizes) + K * (K - 1) * _laterals(sizes)


def _as_a_place(tasks, task):
    return tasks[: task + 1] if isinstance(task, int) else columns_to_run(tasks, task)


def _by_size(tasks, task):
    return [key for key in sorted(tasks, key=str) if str(key) <= str(task)]


def _uncorrected(m, v, t, lr, steps):
    moved = 0.0
    for _ in range(steps):
        m, v = 0.9 * m, 0.999 * v
        moved -= lr * m / (math.sqrt(v) + 1e-8)
    return moved


def _only_the_first_moment(m, v, t, lr, steps):
    moved = 0.0
    for later in range(t + 1, t + steps + 1):
        m = 0.9 * m
        moved -= lr * m / (1 - 0.9**later) / (math.sqrt(v / (1 - 0.999**later)) + 1e-8)
    return moved


def _vector(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _random(generator: torch.Generator, *shape: int) -> list:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).tolist()


def _random_layer(generator: torch.Generator) -> tuple:
    draw = [_random(generator, *shape) for shape in ((3, 2), (3,), (2,), (2, 3, 4), (2, 4))]
    return tuple(draw)


def _random_sizes(generator: torch.Generator) -> tuple:
    *sizes, K = torch.randint(2, 9, (5,), generator=generator).tolist()
    return sizes, K


def _random_tasks(generator: torch.Generator) -> tuple:
    tasks = torch.randperm(9, generator=generator)[:5].tolist()
    return tasks, tasks[int(torch.randint(5, (1,), generator=generator))]


def _random_state(generator: torch.Generator) -> tuple:
    m, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return m - 0.5, v, int(torch.randint(1, 60, (1,), generator=generator)), 0.01, 20


EXERCISES = (
    Exercise(
        id="L10.1",
        title="two steps without a gradient",
        reference=0.829,
        agrees_with="torch.optim.SGD",
        hint="the buffer becomes 0.9 and then 0.81; each time lr times the buffer is taken away",
        known_wrong=(
            KnownWrong(1.0, "that is the weight before: the gradient is 0, and the buffer is not"),
            KnownWrong(0.81, "the buffer shrinks first: it is 0.9 in the first of the two steps, not 1"),
            KnownWrong(0.8, "the buffer shrinks to nine tenths in every step"),
        ),
    ),
    Exercise(
        id="L10.2",
        title="the third column",
        reference=(3.0, 2.0),
        agrees_with="the worked example",
        hint="W h = (1, 2); U1 (1, 1) = (0, 2); the third term takes column 2's hidden (2, 0); then add",
        known_wrong=(
            KnownWrong((3.0, -3.0), "laterals read what came out of the relu: (2, 0), not (2, -1)"),
            KnownWrong((3.0, 0.0), "you read the column before only: the first one counts, too"),
            KnownWrong((5.0, 7.0), "you read the answers of the older columns: laterals read their hidden values"),
        ),
    ),
    Exercise(
        id="L10.3",
        title="a layer with laterals",
        reference=layer,
        agrees_with="cllab.isolation.progressive",
        hint="start with W h + b, then add U[j] old[j] for every j; no relu in here",
        cases=(
            Case("the third column", (W, B, H, U, OLD)),
            Case("the first column", (W, [1.0, -3.0], H, [], [])),
            Case("a lateral that says no", (W, [0.0, 1.0], [1.0, 0.0], [[[-2.0, 0.0], [0.0, -3.0]]], [[1.0, 1.0]])),
        ),
        random_case=_random_layer,
        known_wrong=(
            KnownWrong(_answers_bent_first, "relu comes after the sum, so that a lateral can also say no"),
            KnownWrong(_newest_neighbour, "you used the last older column only: add what all of them say"),
            KnownWrong(_without_bias, "the column's own bias b is missing: only laterals have none"),
        ),
    ),
    Exercise(
        id="L10.4",
        title="count the parameters",
        reference=parameters,
        agrees_with="cllab.isolation.column_growth",
        hint="K columns of sum (n + 1) n', and for each of the K (K - 1) / 2 pairs sum n n' from the second layer on",
        cases=(
            Case("one column", ([784, 100, 100, 10], 1)),
            Case("two columns", ([784, 100, 100, 10], 2)),
            Case("five columns", ([784, 100, 100, 10], 5)),
            Case("no hidden layer", ([4, 3], 2)),
        ),
        random_case=_random_sizes,
        known_wrong=(
            KnownWrong(_from_the_neighbour, "every column reads all older ones: that makes K (K - 1) / 2 pairs"),
            KnownWrong(_into_the_first, "no lateral enters the first layer: all columns see the same input anyway"),
            KnownWrong(_both_ways, "laterals run from old to new only: count each pair once"),
        ),
    ),
    Exercise(
        id="L10.5",
        title="which columns run",
        reference=columns_to_run,
        agrees_with="cllab.isolation.ProgressiveNet",
        hint="everything that had arrived when the task's own column arrived: tasks[: place + 1]",
        cases=(
            Case("in order", ([0, 1, 2], 1)),
            Case("out of order", ([2, 0, 1], 0)),
            Case("numbers are skipped", ([3, 7, 5], 7)),
            Case("a name", (["zh", "en", "de"], "en")),
        ),
        random_case=_random_tasks,
        known_wrong=(
            KnownWrong(_as_a_place, "a key is a name, not a place: look up where it stands in the list"),
            KnownWrong(_by_size, "order of arrival counts, not the order of the keys"),
            KnownWrong(lambda tasks, task: list(tasks), "columns that came later are not read: stop at the task's own"),
        ),
    ),
    Exercise(
        id="L10.6",
        title="Adam coasts",
        reference=coast,
        agrees_with="torch.optim.Adam",
        hint="per step: m and v shrink, t grows, then moved -= lr * m_hat / (sqrt(v_hat) + 1e-8)",
        cases=(
            Case("after one step with gradient 1", (0.1, 0.001, 1, 0.1, 1)),
            Case("the same, two steps", (0.1, 0.001, 1, 0.1, 2)),
            Case("after sixty steps", (1.0, 1.0, 60, 0.01, 60)),
            Case("no step", (1.0, 1.0, 60, 0.01, 0)),
        ),
        random_case=_random_state,
        known_wrong=(
            KnownWrong(_uncorrected, "divide m by 1 - 0.9^t and v by 1 - 0.999^t first"),
            KnownWrong(
                lambda m, v, t, lr, steps: coast(m, v, 0, lr, steps),
                "t goes on counting from where the task ended: the correction has long faded",
            ),
            KnownWrong(_only_the_first_moment, "v shrinks, too: to 0.999 of itself in every step"),
        ),
    ),
)
