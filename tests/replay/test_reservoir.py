"""Reservoir sampling is exact: proved by enumerating every possible draw, not by looking at averages."""

from fractions import Fraction
from itertools import combinations, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cllab.device import generator
from cllab.replay import Reservoir, reservoir_slots
from cllab.replay.reservoir import draw_below


def subsets(K, n, slots_of, values=lambda i: i + 1):
    """Probability of every final memory, over all equally likely sequences of draws.

    values: how many values the draw of row i has, counted from 0.
    """
    found: dict[tuple[int, ...], int] = {}
    for draws in product(*[range(values(i)) for i in range(n)]):
        memory: dict[int, int] = {}
        for row, slot in enumerate(slots_of(draws, K)):
            if slot >= 0:
                memory[slot] = row
        kept = tuple(sorted(memory.values()))
        found[kept] = found.get(kept, 0) + 1
    total = sum(found.values())
    return {kept: Fraction(count, total) for kept, count in found.items()}


def ours(draws, K):
    return reservoir_slots(0, torch.tensor(draws), K).tolist()


@pytest.mark.parametrize(("K", "n"), [(3, 6), (2, 4), (1, 5), (4, 4), (5, 3)])
def test_every_subset_is_equally_likely(K, n):
    kept = min(K, n)
    expected = Fraction(1, len(list(combinations(range(n), kept))))
    probabilities = subsets(K, n, ours)
    assert set(probabilities) == set(combinations(range(n), kept))
    assert set(probabilities.values()) == {expected}


def inclusion(K, n, slots_of, values=lambda i: i + 1):
    probabilities = subsets(K, n, slots_of, values)
    return [sum(p for kept, p in probabilities.items() if i in kept) for i in range(n)]


def as_drawn(draws, K):
    return [i if i < K else (j if j < K else -1) for i, j in enumerate(draws)]


def one_too_few(i):
    """Draws from the count before the row: the error of two well-known repositories."""
    return max(i, 1)


def one_bound_per_batch(i):
    """Draws from the count before a batch of 2 rows, for both of them: three public implementations."""
    return max(i - i % 2, 1)


def one_based(draws, K):
    return [i if i < K else (j + 1 if j + 1 < K else -1) for i, j in enumerate(draws)]


def test_the_enumeration_tells_right_from_wrong():
    half, third = Fraction(1, 2), Fraction(1, 3)
    assert inclusion(3, 6, ours) == [half] * 6
    assert inclusion(3, 6, one_based) == [1, half, half, third, third, third]  # slot 0 is never replaced


@pytest.mark.parametrize(("K", "n"), [(3, 6), (2, 4), (3, 5)])
def test_one_too_few_keeps_newcomers_too_often(K, n):
    """(K - 1) / (n - 1) for the first K rows, K / (n - 1) for the later ones; 2/5 and 3/5 for K = 3, n = 6."""
    first, later = Fraction(K - 1, n - 1), Fraction(K, n - 1)
    assert inclusion(K, n, as_drawn) == inclusion(K, n, ours) == [Fraction(K, n)] * n
    assert inclusion(K, n, as_drawn, one_too_few) == [first] * K + [later] * (n - K)


def counting_acceptances_only(K, n):
    """Inclusion probabilities when the counter does not move for rejected rows: K, K + 1, ... accepted so far."""
    branches = {(tuple(range(K)), K): Fraction(1)}
    for row in range(K, n):
        found: dict = {}
        for (memory, count), p in branches.items():
            for j in range(count + 1):
                kept = j < K
                after = (*memory[:j], row, *memory[j + 1 :]) if kept else memory
                key = (after, count + kept)
                found[key] = found.get(key, 0) + p / (count + 1)
        branches = found
    return [sum(p for (memory, _), p in branches.items() if i in memory) for i in range(n)]


def test_a_counter_that_stands_still_forgets_the_past():
    wrong = counting_acceptances_only(3, 10)
    assert wrong[0] == wrong[1] == wrong[2] and float(wrong[0]) == pytest.approx(0.235, abs=0.005)
    assert float(wrong[-1]) == pytest.approx(0.417, abs=0.005) and sum(wrong) == 3
    assert all(a <= b for a, b in pairwise(wrong))


def test_the_textbook_line_on_a_python_list_crashes():
    """j in {1..t}, `if j <= K: M[j] = x`: slot 0 is never replaced, and j = K is outside the list."""
    K, survives = 3, Fraction(1)
    for t in range(K + 1, 11):
        memory, crashes, replaced = list(range(K)), 0, set()
        for j in range(1, t + 1):
            try:
                if j <= K:
                    memory[j] = t
                    replaced.add(j)
            except IndexError:
                crashes += 1
        assert crashes == 1 and 0 not in replaced
        survives *= 1 - Fraction(crashes, t)
    assert survives == Fraction(3, 10)


def test_one_bound_for_a_whole_batch_is_not_fair():
    assert inclusion(2, 6, as_drawn) == [Fraction(1, 3)] * 6
    # a row of the first batch outlives (1 - 1/2)^2 and (1 - 1/4)^2
    assert inclusion(2, 6, as_drawn, one_bound_per_batch)[:2] == [Fraction(9, 64)] * 2


def test_batches_and_single_rows_are_the_same():
    x, y = torch.arange(200.0)[:, None], torch.arange(200) % 7
    whole, single, mixed = (Reservoir(13, generator(3)) for _ in range(3))
    whole.add(x, y)
    for i in range(200):
        single.add(x[i : i + 1], y[i : i + 1])
    for a, b in ((0, 1), (1, 50), (50, 51), (51, 200)):
        mixed.add(x[a:b], y[a:b])
    assert torch.equal(whole.x, single.x) and torch.equal(whole.x, mixed.x)
    assert torch.equal(whole.y, single.y) and whole.n_seen == mixed.n_seen == 200


def test_of_two_rows_for_one_slot_the_later_stays():
    """Against a plain loop, on many seeds, in one big batch that overwrites slots again and again."""
    for seed in range(30):
        buffer = Reservoir(4, generator(seed))
        draws = draw_below(torch.arange(1, 101), generator(seed)).tolist()
        memory = [None] * 4
        for i, j in enumerate(draws):
            if i < 4:
                memory[i] = i
            elif j < 4:
                memory[j] = i
        buffer.add(torch.arange(100.0), torch.zeros(100, dtype=torch.int64))
        assert buffer.x.tolist() == memory


def test_chi_square_over_many_streams():
    K, n, runs = 5, 50, 20_000
    draws = draw_below(torch.arange(1, n + 1).repeat(runs), generator(11)).view(runs, n)
    slots = reservoir_slots(0, draws, K)
    memory = torch.full((runs, K), -1)
    for row in range(n):  # what is written last stays
        stored = (slots[:, row] >= 0).nonzero().flatten()
        memory[stored, slots[stored, row]] = row
    counts = memory.flatten().bincount(minlength=n)
    expected = runs * K / n
    statistic = float(((counts - expected) ** 2).sum() / (expected * (1 - K / n)) * (n - 1) / n)
    assert 0.001 < stats.chi2.sf(statistic, n - 1) < 0.999


def test_draws_cover_their_range_evenly():
    draws = draw_below(torch.full((60_000,), 6), generator(0))
    assert stats.chisquare(draws.bincount(minlength=6)).pvalue > 0.001
    assert draws.max() == 5 and draws.min() == 0


def test_short_streams_keep_everything_in_order():
    buffer = Reservoir(10, generator(0))
    buffer.add(torch.arange(4.0)[:, None], torch.tensor([3, 2, 1, 0]))
    assert len(buffer) == 4 and buffer.x.flatten().tolist() == [0, 1, 2, 3] and buffer.y.tolist() == [3, 2, 1, 0]


def test_rows_are_copies():
    x, y = torch.ones(3, 2, requires_grad=True), torch.zeros(3, dtype=torch.int64)
    buffer = Reservoir(3, generator(0))
    buffer.add(x, y)
    with torch.no_grad():
        x.fill_(7.0)
    buffer.x.fill_(9.0)
    buffer.sample(3).x.fill_(9.0)
    assert buffer.x.eq(1).all() and not buffer.x.requires_grad


def test_samples_are_different_rows_in_random_order():
    buffer = Reservoir(20, generator(0))
    buffer.add(torch.arange(20.0), torch.arange(20), logits=torch.arange(20.0)[:, None] * 2)
    x, y, logits = buffer.sample(8)
    assert len(set(x.tolist())) == 8 and torch.equal(x.long(), y) and torch.equal(logits[:, 0], 2 * x)
    assert len(buffer.sample(100).x) == 20 and len(buffer.sample(0).x) == 0
    first = {buffer.sample(1).y.item() for _ in range(200)}
    assert len(first) > 15  # slots are not random, so sampling must shuffle


@given(K=st.integers(1, 9), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_never_over_capacity_and_resumable(K, sizes, seed):
    one, two = Reservoir(K, generator(seed)), Reservoir(K, generator(seed + 1))
    start = 0
    for size in sizes:
        rows = torch.arange(start, start + size)
        one.add(rows.double(), rows)
        start += size
        assert len(one) == min(K, start) and one.n_seen == start
    two.load_state_dict(one.state_dict())
    more = torch.arange(start, start + 20)
    one.add(more.double(), more)
    two.add(more.double(), more)
    assert torch.equal(one.x, two.x) and torch.equal(one.sample(3).y, two.sample(3).y)


@pytest.mark.parametrize(("capacity", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), ("3", TypeError)])
def test_capacity_must_be_a_positive_integer(capacity, error):
    with pytest.raises(error, match="capacity"):
        Reservoir(capacity, generator(0))


def test_generator_must_be_one():
    with pytest.raises(TypeError, match="generator"):
        Reservoir(3, 0)


@pytest.mark.parametrize(
    ("rows", "error", "named"),
    [
        ({"x": torch.ones(2, 3), "y": torch.zeros(3, dtype=torch.int64)}, ValueError, "x must have 3 rows"),
        ({"x": torch.ones(2, 4), "y": torch.zeros(2, dtype=torch.int64)}, ValueError, "x must have rows of shape"),
        ({"x": torch.ones(2, 3).double(), "y": torch.zeros(2, dtype=torch.int64)}, ValueError, "x must have"),
        ({"x": torch.full((2, 3), float("nan")), "y": torch.zeros(2, dtype=torch.int64)},
         ValueError, "x must be finite"),
        ({"x": torch.ones(0, 3), "y": torch.zeros(0, dtype=torch.int64)}, ValueError, "y must not be empty"),
        ({"x": torch.ones(2, 0), "y": torch.zeros(2, dtype=torch.int64)}, ValueError, "x must hold"),
        ({"x": torch.ones(2, 3), "y": None}, TypeError, "y must be"), ({"x": torch.ones(2, 3), "y": 3}, TypeError, "y must be"),
        ({"x": torch.ones(2, 3), "y": torch.zeros(2, dtype=torch.int64), "class": torch.ones(2)}, ValueError, "'class'"),
        ({"x": torch.ones(2, 3), "y": torch.zeros(2, dtype=torch.int64), "_t": torch.ones(2)}, ValueError, "'_t'"),
        ({"x": torch.ones(2, 3), "y": torch.zeros(2)}, TypeError, "y must be int64"),
        ({"x": torch.ones(2, 3), "y": torch.tensor([-1, 0])}, ValueError, "y must not be negative"),
        ({"x": [[1.0]], "y": torch.zeros(1, dtype=torch.int64)}, TypeError, "x must be a torch.Tensor"),
        ({"x": torch.ones(2, 3), "y": torch.zeros(2, dtype=torch.int64), "z": torch.ones(2)}, ValueError, "columns"),
    ],
)  # fmt: skip
def test_bad_rows_change_nothing(rows, error, named):
    buffer = Reservoir(5, generator(0))
    buffer.add(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    before = buffer.generator.get_state()
    with pytest.raises(error, match=named):
        buffer.add(**rows)
    assert buffer.n_seen == 2 and len(buffer) == 2 and torch.equal(before, buffer.generator.get_state())


def test_bad_requests():
    buffer = Reservoir(5, generator(0))
    for ask in (lambda: buffer.sample(1), lambda: buffer.x, lambda: buffer.y):
        with pytest.raises(ValueError, match="row"):
            ask()
    buffer.add(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="n must"):
        buffer.sample(-1)
    with pytest.raises(TypeError, match="n must"):
        buffer.sample(1.5)
    with pytest.raises(ValueError, match="capacity"):
        Reservoir(1, generator(0)).load_state_dict(buffer.state_dict())


def test_a_memory_larger_than_its_stream_costs_what_it_holds():
    buffer = Reservoir(10**15, generator(0))
    for start in range(0, 300, 100):
        rows = torch.arange(start, start + 100)
        buffer.add(rows.double(), rows)
    assert buffer.x.tolist() == list(range(300)) and len(buffer._columns["x"]) < 1000
    with pytest.raises(ValueError, match="capacity"):
        Reservoir(10**30, generator(0))


@pytest.mark.parametrize(
    "damage",
    [lambda s: {**s, "generator": s["generator"][:10]}, lambda s: {k: v for k, v in s.items() if k != "generator"},
     lambda s: {**s, "columns": {}}, lambda s: {**s, "n_seen": -1}, lambda s: {**s, "columns": {"x": s["columns"]["x"]}}],
)  # fmt: skip
def test_a_damaged_state_changes_nothing(damage):
    buffer = Reservoir(5, generator(0))
    buffer.add(torch.arange(3.0), torch.arange(3))
    before, state = buffer.state_dict(), buffer.state_dict()
    with pytest.raises(ValueError, match=r"state|n_seen"):
        buffer.load_state_dict(damage(state))
    after = buffer.state_dict()
    assert after["n_seen"] == before["n_seen"] and torch.equal(after["generator"], before["generator"])
    assert all(torch.equal(after["columns"][k], v) for k, v in before["columns"].items())
