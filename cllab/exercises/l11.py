"""Exercises of lesson 11, PackNet and Piggyback."""

import math

import torch

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.isolation import share_out as shares_of
from cllab.isolation import straight_through_mask

TITLE = "PackNet and Piggyback"

NEURON = ([0.01, 0.004, 0.006], [2.0, -1.0, 0.5], [1.0, 3.0, -2.0], 0.005)
# two tasks of two weights: rows of x, targets y
PAIR = [
    ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [3.0, 1.0, 4.5]),
    ([[1.0, 1.0], [1.0, -1.0], [2.0, 1.0]], [5.0, 1.0, 7.0]),
]


def drift(w: float, buffer: float, lr: float, momentum: float, decay: float, steps: int) -> float:
    """How far w moves in `steps` steps of SGD in which its gradient is set to zero; `buffer` is its momentum so far."""
    weight = torch.tensor([w], dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=lr, momentum=momentum, weight_decay=decay)
    sgd.state[weight]["momentum_buffer"] = torch.tensor([buffer], dtype=torch.float64)
    for _ in range(steps):
        weight.grad = torch.zeros_like(weight)
        sgd.step()
    return weight.item() - w


def straight_through(m: list[float], W: list[float], x: list[float], threshold: float) -> list[list[float]]:
    """[[y], gradient of y by m] of a neuron y = sum_i W_i [m_i > threshold] x_i, straight through the threshold."""
    real = torch.tensor(m, dtype=torch.float64, requires_grad=True)
    weighted = torch.tensor(W, dtype=torch.float64) * torch.tensor(x, dtype=torch.float64)
    y = (straight_through_mask(real, threshold) * weighted).sum()
    y.backward()
    return [[y.item()], real.grad.tolist()]


def share_out(n: int, keep: list[float]) -> list[int]:
    """How many of n weights each task owns, and last how many are free; a task without a free weight gets none."""
    owned = shares_of(n, keep, len(keep))
    return [*owned, n - sum(owned)]


def pack(tasks: list[tuple[list[list[float]], list[float]]], r: list[int]) -> list[float]:
    """theta after all tasks of a linear neuron, packed one after the other by least squares."""
    return _pack(tasks, r)


def _pruned(w, owner, task, ranked, r) -> list[int]:
    """The owner map when, among the indices `ranked`, the r largest |w| stay and the other weights of `task` go."""
    kept = sorted(ranked, key=lambda i: -abs(w[i]))[:r]
    return [0 if o == task and i not in kept else o for i, o in enumerate(owner)]


def _late(w, buffer, lr, momentum, decay, steps) -> float:
    start = w
    for _ in range(steps):
        w, buffer = w - lr * buffer, momentum * buffer + decay * w
    return w - start


def _through_the_mask(m, W, x, threshold):
    y, gradient = straight_through(m, W, x, threshold)
    return [y, [g if r > threshold else 0.0 for g, r in zip(gradient, m, strict=True)]]


def _without_weights(m, W, x, threshold):
    return [straight_through(m, W, x, threshold)[0], list(x)]


def _real_masks(m, W, x, threshold):
    return [[sum(r * a * b for r, a, b in zip(m, W, x, strict=True))], [a * b for a, b in zip(W, x, strict=True)]]


def _shares(n, keep, rounded) -> list[int]:
    owned, free = [], n
    for share in keep:
        owned.append(min(free, rounded(free, share)))
        free -= owned[-1]
    return [*owned, free]


def _pack(tasks, r, retrain=True, read_others=True, ranked_all=False) -> list[float]:
    d = len(tasks[0][0][0])
    theta, owner = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.int64)
    for t, ((x, y), count) in enumerate(zip(tasks, r, strict=True), start=1):
        x, y = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
        owner[owner == 0] = t
        _fit(theta, owner == t, x, y, read_others)
        ranked = range(d) if ranked_all else (owner == t).nonzero()[:, 0].tolist()
        owner = torch.tensor(_pruned(theta.tolist(), owner.tolist(), t, ranked, count))
        theta[owner == 0] = 0
        if retrain:
            _fit(theta, owner == t, x, y, read_others)
    return theta.tolist()


def _fit(theta, mine, x, y, read_others) -> None:
    """Set the weights `mine` to the least-squares solution beside the others (as if these were 0 if not read)."""
    if mine.any():
        others = x[:, ~mine] @ theta[~mine] if read_others else 0.0
        theta[mine] = torch.linalg.lstsq(x[:, mine], (y - others)[:, None]).solution[:, 0]


def _random(generator: torch.Generator, *shape: int) -> list:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).tolist()


def _random_drift(generator: torch.Generator) -> tuple:
    w, buffer = _random(generator, 2)
    return w, buffer, 0.1, 0.9, 0.05, 4


def _random_neuron(generator: torch.Generator) -> tuple:
    m = torch.rand(5, generator=generator, dtype=torch.float64) / 100
    return m.tolist(), _random(generator, 5), _random(generator, 5), 0.005


def _random_shares(generator: torch.Generator) -> tuple:
    return int(torch.randint(5, 60, (1,), generator=generator)), [0.5, 0.25, 0.25, 0.25]


def _random_tasks(generator: torch.Generator) -> tuple:
    return [(_random(generator, 9, 6), _random(generator, 9)) for _ in range(3)], [3, 1, 1]


EXERCISES = (
    Exercise(
        id="L11.1",
        title="who owns what",
        reference=[1, 2, 1, 1, 0, 1, 0, 1, 2, 1],
        agrees_with="the worked example",
        hint="only the four weights that task 2 has trained are ranked, by their size without the sign",
        known_wrong=(
            KnownWrong([1, 2, 1, 1, 3, 1, 2, 1, 2, 1], "that is the table's map, where task 2 keeps three of four"),
            KnownWrong(
                [1, 2, 1, 1, 0, 1, 2, 1, 0, 1], "you ranked by value: -0.6 is the largest of the four, by its size"
            ),
            KnownWrong(
                [1, 0, 1, 1, 0, 1, 0, 1, 0, 1],
                "you ranked all ten weights: the largest two belong to task 1, and task 2 is left with nothing",
            ),
        ),
    ),
    Exercise(
        id="L11.2",
        title="how far a frozen weight moves",
        reference=drift,
        agrees_with="torch.optim.SGD",
        hint="each step: buffer = momentum * buffer + decay * w, then w = w - lr * buffer; return w minus its start",
        cases=(
            Case("weight decay alone", (1.0, 0.0, 0.1, 0.0, 0.1, 3)),
            Case("momentum alone", (0.8, 2.0, 0.1, 0.9, 0.0, 3)),
            Case("both", (0.8, 2.0, 0.1, 0.9, 0.1, 3)),
        ),
        random_case=_random_drift,
        known_wrong=(
            KnownWrong(
                lambda w, buffer, lr, momentum, decay, steps: 0.0,
                "a gradient of zero is not a step of zero: the buffer and the decay still move the weight",
            ),
            KnownWrong(
                _late,
                "you used the buffer before it was updated: in torch it shrinks first, then the weight moves",
            ),
            KnownWrong(
                lambda w, buffer, lr, momentum, decay, steps: w + drift(w, buffer, lr, momentum, decay, steps),
                "you returned where the weight ends: asked is how far it has moved",
            ),
        ),
    ),
    Exercise(
        id="L11.3",
        title="straight through",
        reference=straight_through,
        agrees_with="cllab.isolation.straight_through_mask",
        hint="y sums only where m > threshold; the gradient is W[i] * x[i] for every i, switched on or not",
        cases=(
            Case("the worked example", NEURON),
            Case("all on", ([0.01, 0.01], [2.0, -1.0], [1.0, 3.0], 0.005)),
            Case("on the threshold is off", ([0.005, 0.01], [2.0, -1.0], [1.0, 3.0], 0.005)),
        ),
        random_case=_random_neuron,
        known_wrong=(
            KnownWrong(_through_the_mask, "you masked the gradient: a weight that is off could never come back"),
            KnownWrong(_without_weights, "you left out W: the mask multiplies W, so its gradient carries W"),
            KnownWrong(_real_masks, "you multiplied by m itself: forward, the mask is 0 or 1"),
        ),
    ),
    Exercise(
        id="L11.4",
        title="share out",
        reference=share_out,
        agrees_with="cllab.isolation.share_out",
        hint="for each task: owned = min(free, max(1, floor(share * free + 0.5))); free -= owned",
        cases=(
            Case("ten weights", (10, [0.6, 0.75, 0.75])),
            Case("half of seven", (7, [0.5, 0.5])),
            Case("the defaults", (2048, [0.5, 0.25, 0.25, 0.25])),
            Case("nothing left", (2, [0.5, 0.25, 0.25])),
            Case("a half, rounded up", (5, [0.5, 0.25])),
        ),
        random_case=_random_shares,
        known_wrong=(
            KnownWrong(
                lambda n, keep: _shares(n, keep, lambda free, share: max(1, math.floor(share * n + 0.5))),
                "you took the share of all n weights: it is a share of those still free",
            ),
            KnownWrong(
                lambda n, keep: _shares(n, keep, lambda free, share: max(1, round(share * free))),
                "Python's round sends halves to the even neighbour: round(2.5) is 2, here 3 is wanted",
            ),
            KnownWrong(
                lambda n, keep: _shares(n, keep, lambda free, share: math.floor(share * free + 0.5)),
                "a task keeps at least one weight, as long as one is free",
            ),
        ),
    ),
    Exercise(
        id="L11.5",
        title="pack a neuron",
        reference=pack,
        agrees_with="train, prune, retrain, freeze by least squares",
        hint="fit y minus what the frozen weights already give; prune; set the freed to 0; fit again what is kept",
        cases=(
            Case("two weights, two tasks", (PAIR, [1, 1])),
            Case("one task", (PAIR[:1], [1])),
        ),
        random_case=_random_tasks,
        known_wrong=(
            KnownWrong(
                lambda tasks, r: _pack(tasks, r, retrain=False),
                "you did not retrain: the kept weights must be fitted again once the others are gone",
            ),
            KnownWrong(
                lambda tasks, r: _pack(tasks, r, read_others=False),
                "you fitted y itself: the frozen weights already give a part of it, fit what is missing",
            ),
            KnownWrong(
                lambda tasks, r: _pack(tasks, r, ranked_all=True),
                "you ranked all weights: the frozen ones are not up for pruning, and take no place",
            ),
        ),
    ),
)
