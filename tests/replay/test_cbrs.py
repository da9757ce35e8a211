"""CBRS is what its five steps say: exact distributions on small streams, the worked table, and known mistakes."""

import copy
from fractions import Fraction

import pytest
import torch
from scipy import stats

from cllab.device import generator
from cllab.replay import ClassBalancedReservoir, Reservoir, cbrs_slots

STREAMS = [[0, 0, 0, 0, 1, 0, 1], [0, 0, 1, 1, 2, 0, 1], [0, 1, 2, 3, 0, 3], [0, 0, 0, 1, 1, 1, 1, 2]]
K = 3


def ours(labels):
    """Probability of every final memory, {slots' rows: Fraction}, by following every draw that `cbrs_slots` can get."""
    branches = [((None,) * K, ({}, {}, set()), Fraction(1))]
    for row, c in enumerate(labels):
        found: dict = {}
        for memory, state, p in branches:
            accepts, picks = state[1].get(c, 0) + 1, 6  # 6 is a multiple of every number of candidates
            for accept in range(accepts):
                for which in range(picks):
                    new = copy.deepcopy(state)
                    (slot,) = cbrs_slots([c], [[accept, which]], K, *new)
                    after = list(memory)
                    if slot >= 0:
                        after[slot] = row
                    key = (tuple(after), repr(new))
                    before = found.get(key, (None, None, Fraction(0)))[2]
                    found[key] = (tuple(after), new, before + p / (accepts * picks))
        branches = list(found.values())
    return total((memory, p) for memory, _, p in branches)


def total(branches):
    result: dict = {}
    for memory, p in branches:
        kept = tuple(sorted(row for row in memory if row is not None))
        result[kept] = result.get(kept, 0) + p
    return result


def by_the_book(labels, ever_full=True, counts_rejected=True, whole_stream=False, ties="all"):
    """The five steps on lists of rows, in rationals; the switches turn on the usual mistakes."""
    branches = {((), (), frozenset()): Fraction(1)}
    for row, c in enumerate(labels):
        found: dict = {}

        def to(p, memory, n, full, found=found):
            key = (tuple(sorted(memory)), tuple(sorted(n.items())), frozenset(full))
            found[key] = found.get(key, 0) + p

        for (memory, counts, full), p in branches.items():
            n = dict(counts)
            n[c] = n.get(c, 0) + 1
            if len(memory) < K:
                to(p, [*memory, row], n, full)
                continue
            size = {k: sum(labels[i] == k for i in memory) for k in set(labels)}
            largest = [k for k in sorted(size) if size[k] == max(size.values())]
            largest = largest if ties == "all" else largest[:1]
            full = (full if ever_full else set()) | set(largest)
            if c not in full:
                victims = [i for i in memory if labels[i] in largest]
                for i in victims:
                    to(p / len(victims), [*(set(memory) - {i}), row], n, full)
                continue
            u = min(Fraction(size[c], row + 1 if whole_stream else n[c]), Fraction(1))
            for i in memory:
                if labels[i] == c:
                    to(p * u / size[c], [*(set(memory) - {i}), row], n, full)
            refused = dict(n) if counts_rejected else {**n, c: n[c] - 1}
            if u < 1:
                to(p * (1 - u), memory, refused, full)
        branches = found
    return total((memory, p) for (memory, _, _), p in branches.items())


@pytest.mark.parametrize("labels", STREAMS)
def test_exact_distribution(labels):
    right = by_the_book(labels)
    assert sum(right.values()) == 1 and ours(labels) == right


@pytest.mark.parametrize("labels", STREAMS)
def test_within_a_class_every_row_has_the_same_chance(labels):
    probabilities = ours(labels)
    for c in set(labels):
        rows = [i for i, y in enumerate(labels) if y == c]
        chances = {sum(p for kept, p in probabilities.items() if i in kept) for i in rows}
        assert len(chances) == 1


@pytest.mark.parametrize(
    "mistake", [{"ever_full": False}, {"counts_rejected": False}, {"whole_stream": True}, {"ties": "first"}]
)
def test_mistakes_are_told_apart(mistake):
    assert any(by_the_book(labels, **mistake) != by_the_book(labels) for labels in STREAMS)


def test_by_hand():
    where, seen, full = {}, {}, set()
    assert cbrs_slots([5, 5, 5], [[0, 0]] * 3, 3, where, seen, full) == [0, 1, 2]
    assert full == set()  # nothing is full while there is room
    # n_5 = 4, m_5 = 3: u = 3/4 is stored, over the row in slot 1; u = 5/5 is not
    assert cbrs_slots([5, 5], [[2, 4], [4, 0]], 3, where, seen, full) == [1, -1]
    assert full == {5} and seen == {5: 5}
    # a new class takes a slot from the largest
    assert cbrs_slots([8], [[0, 1]], 3, where, seen, full) == [1]
    assert where == {5: [0, 2], 8: [1]}
    # class 8 is not full, so it takes another; then it is the largest, and full for good
    assert cbrs_slots([8, 8], [[0, 1], [2, 0]], 3, where, seen, full) == [2, -1]
    assert where == {5: [0], 8: [1, 2]} and full == {5, 8}


def test_more_classes_than_slots_is_no_error():
    buffer = ClassBalancedReservoir(2, generator(0))
    buffer.add(torch.arange(40), torch.arange(40) % 8)
    assert len(buffer) == 2 and buffer.y.unique().numel() == 2


TABLE = torch.tensor([0] * 100 + [1] * 10 + [2] * 3)  # A, B, C in blocks


@pytest.fixture(scope="module")
def table():
    """Which rows are kept, [runs, 113] bool, for the table's stream and K = 9."""
    kept = torch.zeros(400, len(TABLE), dtype=torch.bool)
    for seed in range(len(kept)):
        buffer = ClassBalancedReservoir(9, generator(seed))
        buffer.add(torch.arange(len(TABLE)), TABLE)
        kept[seed, buffer.x] = True
        assert buffer.y.bincount().tolist() == [3, 3, 3]
    return kept


def test_table_of_the_rare_class(table):
    inclusion = table.double().mean(dim=0)
    assert inclusion[TABLE == 0].mean() == pytest.approx(0.03) and inclusion[TABLE == 2].eq(1).all()
    assert inclusion[TABLE == 1].mean() == pytest.approx(0.30)


def test_each_class_is_a_fair_sample_of_itself(table):
    for c, n in ((0, 100), (1, 10)):
        observed = table[:, c == TABLE].sum(dim=0)
        expected = len(table) * 3 / n
        statistic = float(((observed - expected) ** 2).sum() / (expected * (1 - 3 / n)) * (n - 1) / n)
        assert 0.001 < stats.chi2.sf(statistic, n - 1) < 0.999


def test_a_plain_reservoir_loses_the_rare_class():
    runs = 400
    held = torch.zeros(3)
    for seed in range(runs):
        buffer = Reservoir(9, generator(seed))
        buffer.add(torch.arange(len(TABLE)), TABLE)
        held += buffer.y.bincount(minlength=3) / runs
    # 9 n_c / 113
    assert held.tolist() == pytest.approx([7.965, 0.796, 0.239], abs=0.15)
