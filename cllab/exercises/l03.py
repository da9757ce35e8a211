"""Exercises of lesson 03, Experience replay."""

import math

import torch

from cllab.exercises.enumeration import (
    coin_slots,
    entered,
    inclusion,
    right_slots,
    ring_slots,
    short_slots,
    slot,
    unweighted,
)
from cllab.exercises.exercise import Case, Exercise, KnownWrong

TITLE = "Experience replay"

# the worked examples of the lesson
NEW_ROW = ([1.0, 1.0], 1)
THREE_ROWS = [([1.0, 0.0], 1), ([0.0, 1.0], 0), ([-1.0, 0.0], 0)]
LOGITS = [2.0, 1.0, 0.0, 3.0]


def replay_loss(new: list[float], memory: list[float], rho: float) -> float:
    """Loss of a step from the losses of its new and its replayed rows; rho is the share of the memory."""
    if not memory:
        return _mean(new)
    return (1 - rho) * _mean(new) + rho * _mean(memory)


def mir_scores(w: list[float], new: tuple, memory: list[tuple], eta: float) -> list[float]:
    """By how much a step of rate eta on the row `new` would raise the logistic loss of each row in memory."""
    return _scores(w, _stepped(w, new, -eta), memory)


def asymmetric_ce(logits: list[float], y: int, present: list[int]) -> float:
    """Cross-entropy of class y among the classes `present` in the incoming batch."""
    return math.log(sum(math.exp(logits[c]) for c in present)) - logits[y]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(ai * bi for ai, bi in zip(a, b, strict=True))


def _loss(w, x, y) -> float:
    p = 1 / (1 + math.exp(-_dot(w, x)))
    return -math.log(p if y == 1 else 1 - p)


def _stepped(w, row, rate) -> list[float]:
    x, y = row
    p = 1 / (1 + math.exp(-_dot(w, x)))
    return [wi + rate * (p - y) * xi for wi, xi in zip(w, x, strict=True)]


def _scores(w, w_virtual, memory) -> list[float]:
    return [_loss(w_virtual, x, y) - _loss(w, x, y) for x, y in memory]


def _zeroed(logits, y, present) -> float:
    return asymmetric_ce([z if c in present else 0.0 for c, z in enumerate(logits)], y, range(len(logits)))


def _normal(generator: torch.Generator, n: int) -> list[float]:
    return torch.randn(n, generator=generator, dtype=torch.float64).tolist()


def _below(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (1,), generator=generator))


def _random_slot(generator: torch.Generator) -> tuple:
    n = _below(generator, 4, 9)
    return n, _below(generator, 0, n), 4


def _random_losses(generator: torch.Generator) -> tuple:
    sizes = _below(generator, 1, 6), _below(generator, 1, 6)
    losses = [torch.rand(size, generator=generator, dtype=torch.float64).tolist() for size in sizes]
    return (*losses, 0.1 * _below(generator, 0, 10))


def _random_rows(generator: torch.Generator) -> tuple:
    rows = [(_normal(generator, 2), _below(generator, 0, 2)) for _ in range(4)]
    return _normal(generator, 2), rows[0], rows[1:], 0.3


def _random_logits(generator: torch.Generator) -> tuple:
    present = sorted(torch.randperm(5, generator=generator)[:3].tolist())
    return _normal(generator, 5), present[_below(generator, 0, 3)], present


def _random_rule(generator: torch.Generator) -> tuple:
    rule = (right_slots, short_slots, ring_slots, coin_slots)[_below(generator, 0, 4)]
    return rule, _below(generator, 2, 4), _below(generator, 4, 6)


EXERCISES = (
    Exercise(
        id="L03.1",
        title="row e's chance",
        reference=0.5,
        agrees_with="the right value",
        hint="e must get in (3 of 5 draws) and then survive f, who overwrites one given slot with 1 of 6 draws",
        known_wrong=(
            KnownWrong(0.6, "that is e's chance to get in; f arrives afterwards and may land on e's slot"),
            KnownWrong(0.3, "f gets in with 3 of 6 draws, but only 1 of the 6 hits e's slot"),
            KnownWrong(0.1, "that is the chance to get in and then to be overwritten by f"),
        ),
    ),
    Exercise(
        id="L03.2",
        title="the slot",
        reference=slot,
        agrees_with="cllab.replay.reservoir_slots",
        hint="while n <= capacity the slot is n - 1, the next free one; afterwards it is j if there is such a slot",
        cases=(
            Case("row 2 of 3 slots, still filling", (2, 0, 3)),
            Case("row 5, a slot was drawn", (5, 1, 3)),
            Case("row 5, no such slot", (5, 3, 3)),
            Case("row 6, no such slot", (6, 5, 3)),
        ),
        random_case=_random_slot,
        known_wrong=(
            KnownWrong(
                lambda n, j, capacity: n - 1 if n <= capacity else j if j <= capacity else -1,
                "slots run from 0 to capacity - 1: j == capacity must be rejected",
            ),
            KnownWrong(
                lambda n, j, capacity: j if j < capacity else -1,
                "while the memory fills, nothing may be overwritten: the n-th row goes to slot n - 1",
            ),
            KnownWrong(
                lambda n, j, capacity: n - 1 if n <= capacity else j % capacity,
                "you keep every row: a draw beyond the last slot means that the row is rejected",
            ),
        ),
    ),
    Exercise(
        id="L03.3",
        title="the loss with a share",
        reference=replay_loss,
        agrees_with="the loss of cllab.replay.ExperienceReplay",
        hint="two means, one over each list; rho weighs the memory's; without memory only the new rows are left",
        cases=(
            Case("the lesson's 8 and 4 rows", ([2.0] * 8, [0.5] * 4, 0.5)),
            Case("a small share", ([1.0, 3.0], [4.0], 0.25)),
            Case("nothing stored yet", ([1.0, 3.0], [], 0.5)),
        ),
        random_case=_random_losses,
        known_wrong=(
            KnownWrong(
                lambda new, memory, rho: _mean(new + memory),
                "one mean over the union: now the batch sizes decide how much the past counts",
            ),
            KnownWrong(
                lambda new, memory, rho: _mean(new) + (_mean(memory) if memory else 0.0),
                "the sum of both means: that doubles the step instead of sharing it",
            ),
            KnownWrong(
                lambda new, memory, rho: replay_loss(memory, new, rho) if memory else _mean(new),
                "the shares are swapped: rho belongs to the memory",
            ),
        ),
    ),
    Exercise(
        id="L03.4",
        title="who suffers most",
        reference=mir_scores,
        agrees_with="cllab.replay.virtual_step and interference",
        hint="p = sigmoid(w.x), gradient (p - y) x; step against it; then loss after minus loss before, row by row",
        cases=(
            Case("the lesson's three rows", ([1.0, 0.0], NEW_ROW, THREE_ROWS, 0.5)),
            Case("a new row of class 0", ([0.5, -1.0], ([2.0, 1.0], 0), THREE_ROWS[:2], 0.1)),
        ),
        random_case=_random_rows,
        known_wrong=(
            KnownWrong(
                lambda w, new, memory, eta: _scores(_stepped(w, new, -eta), w, memory),
                "the sign: a row that gets worse has a positive score, loss after minus loss before",
            ),
            KnownWrong(
                lambda w, new, memory, eta: _scores(w, _stepped(w, new, eta), memory),
                "your virtual step goes up the new row's loss: subtract the gradient",
            ),
            KnownWrong(
                lambda w, new, memory, eta: [_loss(_stepped(w, new, -eta), x, y) for x, y in memory],
                "that is the loss after the step: it finds rows that are hard anyway, not those the step hurts",
            ),
        ),
    ),
    Exercise(
        id="L03.5",
        title="asymmetric cross-entropy",
        reference=asymmetric_ce,
        agrees_with="cllab.replay.asymmetric_cross_entropy",
        hint="log of the sum of exp(z_c) over the present classes only, minus z_y",
        cases=(
            Case("the lesson's logits", (LOGITS, 1, [1, 2])),
            Case("all classes present", (LOGITS, 0, [0, 1, 2, 3])),
            Case("negative logits", ([-3.0, -1.0, -2.0], 2, [1, 2])),
        ),
        random_case=_random_logits,
        known_wrong=(
            KnownWrong(
                lambda logits, y, present: asymmetric_ce(logits, y, range(len(logits))),
                "the sum runs over all classes: absent old classes are still pushed down",
            ),
            KnownWrong(
                _zeroed,
                "you set absent logits to 0, and exp(0) = 1 stays in the sum: leave them out",
            ),
            KnownWrong(
                lambda logits, y, present: asymmetric_ce(logits, y, present) / math.log(2),
                "the unit: use the natural logarithm, so that the loss is in nats",
            ),
        ),
    ),
    Exercise(
        id="L03.6",
        title="exact inclusion",
        reference=inclusion,
        agrees_with="K / n for the reservoir, and exact enumeration for other rules",
        hint="keep a dict {memory as a tuple: probability}; each arrival splits every entry over outcomes(t, capacity)",
        cases=(
            Case("the lesson's reservoir", (right_slots, 3, 6)),
            Case("a ring buffer", (ring_slots, 3, 6)),
            Case("every second row", (coin_slots, 2, 4)),
        ),
        random_case=_random_rule,
        known_wrong=(
            KnownWrong(entered, "that is the chance to get in: later rows may still overwrite it"),
            KnownWrong(unweighted, "you counted every possible memory once: they are not equally likely"),
        ),
    ),
)
