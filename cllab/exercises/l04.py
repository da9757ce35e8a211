"""Exercises of lesson 04, iCaRL: herding, distillation and the nearest mean."""

import math

import torch
from torch import Tensor

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.replay import quota
from cllab.replay.herding import unit_rows

TITLE = "iCaRL: herding, distillation and the nearest mean"

# class A of the toy, and the order in which herding takes its rows
A = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]]
ORDER_A = [3, 1, 2, 4, 0]
LISTS = [["a1", "a2", "a3", "a4"], ["b1", "b2", "b3", "b4"]]


def truncated(lists: list[list], capacity: int, n_classes: int) -> list[list]:
    """The first m = floor(K / t) of every list; t counts the class that has just arrived as well."""
    return [kept[: quota(capacity, n_classes)] for kept in lists]


def prefix_errors(rows: list[list[float]], order: list[int]) -> list[float]:
    """Distance of the mean of the first k chosen rows from the mean of all rows, for k = 1 .. len(order)."""
    return [math.dist(_mean([rows[i] for i in order[:k]]), _mean(rows)) for k in range(1, len(order) + 1)]


def nearest(x: list[float], means: list[list[float] | None]) -> int:
    """The class whose mean is nearest to x; classes without a mean never win, ties go to the lowest class."""
    known = [c for c, mean in enumerate(means) if mean is not None]
    return min(known, key=lambda c: math.dist(x, means[c]))


def targets(label: int, q: list[float], n_classes: int) -> list[float]:
    """What the sigmoid outputs should be: q for the old classes 0 .. len(q) - 1, 0 or 1 for the new ones."""
    return [*q, *(float(c == label) for c in range(len(q), n_classes))]


def herding_by_product(rows: Tensor, m: int) -> list[int]:
    """Indices of m unit rows by the authors' rule: the largest w . phi among rows not taken, then w += mu - phi."""
    return _by_product(rows, m, _taken)


def _mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _divided_by_all(rows, order):
    means = [_mean([rows[i] for i in order[:k]]) for k in range(1, len(order) + 1)]
    shrunk = [[k / len(rows) * value for value in mean] for k, mean in enumerate(means, start=1)]
    return [math.dist(mean, _mean(rows)) for mean in shrunk]


def _zero_when_unknown(x, means):
    return nearest(x, [[0.0] * len(x) if mean is None else mean for mean in means])


def _last_of_the_tied(x, means):
    known = [c for c, mean in enumerate(means) if mean is not None]
    return min(known, key=lambda c: (math.dist(x, means[c]), -c))


def _largest_product(x, means):
    known = [c for c, mean in enumerate(means) if mean is not None]
    return max(known, key=lambda c: sum(a * b for a, b in zip(x, means[c], strict=True)))


def _own_label_too(label, q, n_classes):
    return [max(t, float(c == label)) for c, t in enumerate(targets(label, q, n_classes))]


def _by_product(rows, m, hidden) -> list[int]:
    """The authors' rule; `hidden` says which rows may not be taken any more."""
    mu = rows.mean(dim=0)
    w, order = mu.clone(), []
    for _ in range(m):
        order.append(int((rows @ w).masked_fill(hidden(rows, order), -torch.inf).argmax()))
        w = w + mu - rows[order[-1]]
    return order


def _taken(rows, taken):
    return torch.tensor([i in taken for i in range(len(rows))])


def _equal_rows_too(rows, taken):
    return torch.tensor([any(torch.equal(row, rows[i]) for i in taken) for row in rows])


def _angles(*degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def _random(generator: torch.Generator, *shape: int) -> list:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).tolist()


def _random_lists(generator: torch.Generator) -> tuple:
    old, m = (int(torch.randint(2, 6, (1,), generator=generator)) for _ in range(2))
    new = int(torch.randint(1, 3, (1,), generator=generator))
    capacity = m * (old + new) + int(torch.randint(1, old + new, (1,), generator=generator))
    return [[10 * c + i for i in range(capacity // old)] for c in range(old)], capacity, old + new


def _random_order(generator: torch.Generator) -> tuple:
    return _random(generator, 6, 3), torch.randperm(6, generator=generator)[:4].tolist()


def _random_query(generator: torch.Generator) -> tuple:
    return _random(generator, 2), [*_random(generator, 3, 2), None]


def _random_row(generator: torch.Generator) -> tuple:
    q = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    return int(torch.randint(0, 5, (1,), generator=generator)), q, 5


def _random_units(generator: torch.Generator) -> tuple:
    return unit_rows(torch.rand(8, 3, generator=generator, dtype=torch.float64)), 5


EXERCISES = (
    Exercise(
        id="L04.1",
        title="the fourth exemplar",
        reference=(2, 2),
        agrees_with="the right point",
        hint="the target is 4 times the class mean minus the sum of the three chosen points",
        known_wrong=(
            KnownWrong(
                (0, 0), "that is the point nearest to the class mean; herding asks which is nearest to the target"
            ),
            KnownWrong((1, 1), "that point is chosen already: each row is taken at most once"),
            KnownWrong((1.2, 1.2), "that is the target itself: now take the free point nearest to it"),
        ),
    ),
    Exercise(
        id="L04.2",
        title="cut the lists",
        reference=truncated,
        agrees_with="cllab.replay.quota and a slice",
        hint="m is capacity // n_classes, and herding put the most important row first",
        cases=(
            Case("class C arrives", (LISTS, 8, 3)),
            Case("two classes arrive", (LISTS, 8, 4)),
            Case("a list is short already", ([["a1"], ["b1", "b2", "b3", "b4"]], 8, 3)),
        ),
        random_case=_random_lists,
        known_wrong=(
            KnownWrong(
                lambda lists, capacity, n_classes: [kept[-(capacity // n_classes) :] for kept in lists],
                "you kept the end of each list: the first rows are the ones whose mean is good on its own",
            ),
            KnownWrong(
                lambda lists, capacity, n_classes: [kept[: -(-capacity // n_classes)] for kept in lists],
                "you rounded up: 3 rows for each of 3 classes are 9, and the memory holds 8",
            ),
            KnownWrong(
                lambda lists, capacity, n_classes: [kept[: capacity // len(lists)] for kept in lists],
                "you divided by the number of old classes: the new ones need their share too",
            ),
        ),
    ),
    Exercise(
        id="L04.3",
        title="the error after every choice",
        reference=prefix_errors,
        agrees_with="the errors of cllab.replay.herding_steps",
        hint="for each k: mean of the first k chosen rows, mean of all rows, math.dist of the two",
        cases=(
            Case("class A in herding order", (A, ORDER_A)),
            Case("class A as it stands", (A, [0, 1, 2])),
        ),
        random_case=_random_order,
        known_wrong=(
            KnownWrong(_divided_by_all, "you divided the sum of the chosen by N: it is a mean of k rows, divide by k"),
            KnownWrong(
                lambda rows, order: [math.dist(rows[i], _mean(rows)) for i in order],
                "you measured each chosen row by itself: it is the mean of the first k rows that must be near",
            ),
        ),
    ),
    Exercise(
        id="L04.4",
        title="the nearest mean",
        reference=nearest,
        agrees_with="cllab.replay.nearest_class_mean",
        hint="compare math.dist(x, mean) over the classes that have a mean",
        cases=(
            Case("test point 1", ([0.9, 0.7], [[1.0, 0.5], [3.0, 2.5], [-1.0, -0.5]])),
            Case("an exact tie", ([2.0, 2.0], [[1.0, 1.0], [3.0, 3.0], None])),
            Case("class C is still unknown", ([0.4, 0.3], [[1.0, 1.0], [3.0, 3.0], None])),
        ),
        random_case=_random_query,
        known_wrong=(
            KnownWrong(
                _zero_when_unknown,
                "you gave a class without exemplars the mean 0: near the origin it wins, though nobody has seen it",
            ),
            KnownWrong(_last_of_the_tied, "equal distances go to the lowest class: use < and not <="),
            KnownWrong(_largest_product, "you took the largest inner product: long means win it, near ones should"),
        ),
    ),
    Exercise(
        id="L04.5",
        title="iCaRL's targets",
        reference=targets,
        agrees_with="cllab.replay.icarl_targets",
        hint="old columns: q as it is, whatever the label says; new columns: 1 for the label's own, else 0",
        cases=(
            Case("an exemplar of class A", (0, [0.9, 0.1], 3)),
            Case("a new row of class C", (2, [0.6, 0.3], 3)),
            Case("the first task", (1, [], 2)),
        ),
        random_case=_random_row,
        known_wrong=(
            KnownWrong(
                lambda label, q, n_classes: [float(c == label) for c in range(n_classes)],
                "those are the labels alone: the old columns should follow the old network, that is the distillation",
            ),
            KnownWrong(_own_label_too, "an exemplar's own old label is not used: its old columns follow q as they are"),
        ),
    ),
    Exercise(
        id="L04.6",
        title="the authors' rule",
        reference=herding_by_product,
        agrees_with="cllab.replay.herding on rows of length 1",
        hint="start with w = mu; take the free row with the largest rows @ w; then w = w + mu - that row",
        cases=(
            Case("six directions", (_angles(10, 20, 30, 60, 80, 100), 6)),
            Case("two equal rows", (_angles(20, 45, 45, 90, 110), 4)),
        ),
        random_case=_random_units,
        known_wrong=(
            KnownWrong(
                lambda rows, m: _by_product(rows, m, lambda rows, taken: torch.zeros(len(rows), dtype=torch.bool)),
                "you took a row twice: hide what is taken before the maximum",
            ),
            KnownWrong(
                lambda rows, m: _by_product(rows, m, _equal_rows_too),
                "you hid rows by value: two equal rows are two images, hide by index",
            ),
        ),
    ),
)
