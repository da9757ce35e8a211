"""What all memories have in common: rows by slot, samples, states, sizes, and what they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cllab.device import generator
from cllab.replay import (
    ClassBalanced,
    ClassBalancedReservoir,
    ClassRing,
    Memory,
    Reservoir,
    RingBuffer,
    balanced_rows,
)

BUFFERS = {
    "reservoir": lambda seed=0: Reservoir(7, generator(seed)),
    "ring": lambda seed=0: RingBuffer(7, generator(seed)),
    "class_ring": lambda seed=0: ClassRing(2, generator(seed)),
    "balanced": lambda seed=0: ClassBalanced(7, generator(seed)),
    "balanced_lowest": lambda seed=0: ClassBalanced(7, generator(seed), leftover="lowest"),
    "cbrs": lambda seed=0: ClassBalancedReservoir(7, generator(seed)),
}
every = pytest.mark.parametrize("make", BUFFERS.values(), ids=list(BUFFERS))
Y = torch.tensor([0, 0, 0, 1, 0, 1, 0, 0, 3, 3, 1, 3, 3, 0, 2, 2, 2, 0, 1, 2] * 3)
N = len(Y)


def offer(buffer, start=0, stop=N):
    rows = torch.arange(start, stop)
    return buffer.add(rows.double()[:, None], Y[start:stop], n=rows)


def same(one: dict, two: dict) -> bool:
    """Whether two states hold the same, tensors compared by value."""
    if one.keys() != two.keys():
        return False
    for key, value in one.items():
        if isinstance(value, dict) and not same(value, two[key]):
            return False
        if isinstance(value, torch.Tensor) and not torch.equal(value, two[key]):
            return False
        if not isinstance(value, (dict, torch.Tensor)) and value != two[key]:
            return False
    return True


@every
def test_the_slots_returned_explain_the_content(make):
    buffer, by_slot = make(), {}
    for start in range(0, N, 6):
        for i, slot in enumerate(offer(buffer, start, start + 6).tolist()):
            if slot >= 0:
                by_slot[slot] = start + i
        held = buffer.state_dict()["slots"].tolist()
        assert [by_slot[slot] for slot in held] == buffer.x.flatten().tolist()
        assert torch.equal(buffer.y, Y[buffer.x.flatten().long()])
    assert buffer.n_seen == N and len(buffer) == len(buffer.x) <= buffer.capacity


@every
def test_one_by_one_equals_in_batches(make):
    whole, single, mixed = make(3), make(3), make(3)
    slots = offer(whole)
    assert torch.equal(slots, torch.cat([offer(single, i, i + 1) for i in range(N)]))
    for start, stop in ((0, 1), (1, 19), (19, 20), (20, N)):
        offer(mixed, start, stop)
    assert same(whole.state_dict(), single.state_dict()) and same(whole.state_dict(), mixed.state_dict())


@every
def test_same_seed_same_memory_and_only_draws_depend_on_it(make):
    one, two, other = make(1), make(1), make(2)
    for buffer in (one, two, other):
        offer(buffer)
    assert torch.equal(one.x, two.x) and torch.equal(one.sample(5).n, two.sample(5).n)
    drawn = isinstance(one, (Reservoir, ClassBalancedReservoir))
    assert torch.equal(one.x, other.x) != drawn


@every
def test_rows_are_copies(make):
    buffer, x = make(), torch.arange(4.0, requires_grad=True)
    y = torch.tensor([0, 1, 0, 1])
    buffer.add(x, y)
    with torch.no_grad():
        x.fill_(7.0)
    y.fill_(9)
    buffer.x.fill_(9.0)
    buffer.sample(3).x.fill_(9.0)
    buffer.state_dict()["columns"]["x"].fill_(9.0)
    assert sorted(buffer.x.tolist()) == [0, 1, 2, 3] and buffer.y.max() == 1 and not buffer.x.requires_grad


@every
@settings(max_examples=15)
@given(cut=st.integers(0, N), seed=st.integers(0, 99))
def test_a_loaded_memory_continues_the_sequence(make, cut, seed):
    one, two = make(seed), make(seed + 1)
    if cut:
        offer(one, 0, cut)
    two.load_state_dict(one.state_dict())
    assert same(one.state_dict(), two.state_dict())
    if cut < N:
        assert torch.equal(offer(one, cut), offer(two, cut))
    assert same(one.state_dict(), two.state_dict())
    assert torch.equal(one.sample(3).n, two.sample(3).n) and len(one) == len(two)
    assert torch.equal(one.sample(4, balanced=True).n, two.sample(4, balanced=True).n)


@every
def test_a_state_is_no_window_into_the_memory(make):
    buffer = make()
    offer(buffer, 0, 30)
    state, twin = buffer.state_dict(), make()
    twin.load_state_dict(state)
    offer(buffer, 30), offer(twin, 30)
    again = make()
    again.load_state_dict(state)
    assert again.n_seen == 30
    offer(again, 30)
    assert same(again.state_dict(), buffer.state_dict()) and same(twin.state_dict(), buffer.state_dict())


DAMAGES = {
    "no generator": lambda s: {k: v for k, v in s.items() if k != "generator"},
    "short generator": lambda s: {**s, "generator": s["generator"][:10]},
    "no columns": lambda s: {**s, "columns": {}},
    "one column": lambda s: {**s, "columns": {"x": s["columns"]["x"]}},
    "a row short": lambda s: {**s, "columns": {**s["columns"], "x": s["columns"]["x"][1:]}},
    "negative count": lambda s: {**s, "n_seen": -1},
    "a count too few": lambda s: {**s, "n_seen": 1, "seen": {0: 1}},
    "another kind": lambda s: {**s, "kind": "deque"},
    "other slots": lambda s: {**s, "slots": s["slots"] + 1},
    "rows twice": lambda s: {**s, "slots": torch.zeros_like(s["slots"])},
}


@every
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_state_changes_nothing(make, damage):
    buffer = make()
    offer(buffer, 0, 20)
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=r"state|n_seen"):
        buffer.load_state_dict(damage(buffer.state_dict()))
    assert same(buffer.state_dict(), before)


@pytest.mark.parametrize("make", [BUFFERS["class_ring"], BUFFERS["balanced"], BUFFERS["cbrs"]])
def test_slots_under_the_wrong_class_are_refused(make):
    buffer = make()
    offer(buffer, 0, 20)
    state = buffer.state_dict()
    swapped = {0: state["where"][1], 1: state["where"][0], **{c: state["where"][c] for c in (2, 3)}}
    for where in (swapped, {**state["where"], 0: []}, {**state["where"], 0: state["where"][1]}, None):
        with pytest.raises(ValueError, match="state"):
            buffer.load_state_dict({**state, "where": where})


def test_a_state_fits_its_own_settings_only():
    states = {name: make().state_dict() for name, make in BUFFERS.items()}
    for name, make in BUFFERS.items():
        for other, state in states.items():
            if other != name:
                with pytest.raises(ValueError, match="state must"):
                    make().load_state_dict(state)
    for other in (Reservoir(8), RingBuffer(6), ClassRing(3), ClassBalanced(70), ClassBalancedReservoir(1)):
        name = {type(make()): name for name, make in reversed(BUFFERS.items())}[type(other)]
        with pytest.raises(ValueError, match="state must"):
            other.load_state_dict(states[name])


@every
def test_bytes_are_exact_and_bounded(make):
    buffer = make()
    assert buffer.nbytes == 0 and len(buffer) == 0
    row = 8 + 8 + 8  # x float64, y and n int64
    for start in range(0, N, 5):
        offer(buffer, start, start + 5)
        assert buffer.nbytes == len(buffer) * row <= buffer.capacity * row
        taken = sum(column.untyped_storage().nbytes() for column in buffer._columns.values())
        assert taken <= buffer.capacity * row  # room for rows to come is counted here


@every
def test_bad_rows_change_nothing(make):
    y = torch.tensor([0, 1])
    bad = [
        ({"x": torch.full((2, 1), float("nan")).double(), "y": y, "n": y}, ValueError, "x must be finite"),
        ({"x": torch.ones(2, 3).double(), "y": y, "n": y}, ValueError, "x must have rows of shape"),
        ({"x": torch.ones(3, 1).double(), "y": y, "n": y}, ValueError, "x must have 2 rows"),
        ({"x": torch.ones(2, 1), "y": y, "n": y}, ValueError, "x must have rows of shape"),
        ({"x": torch.ones(2, 1).double(), "y": y}, ValueError, "columns"),
        ({"x": torch.ones(2, 1).double(), "y": y.double(), "n": y}, TypeError, "y must be int64"),
        ({"x": torch.ones(2, 1).double(), "y": -y, "n": y}, ValueError, "y must not be negative"),
        ({"x": torch.ones(2, 1).double(), "y": torch.stack([y, y]), "n": y}, ValueError, "y must have 1 dim"),
        ({"x": [[1.0]], "y": y, "n": y}, TypeError, "x must be a torch.Tensor"),
    ]
    buffer = make()
    offer(buffer, 0, 9)
    before = buffer.state_dict()
    for rows, error, named in bad:
        with pytest.raises(error, match=named):
            buffer.add(**rows)
        assert same(buffer.state_dict(), before)
    new = make()
    with pytest.raises(ValueError, match="x must be finite"):
        new.add(**bad[0][0])
    new.add(torch.ones(2), y)  # the refused rows have not fixed the shape
    assert len(new) == 2


@every
def test_bad_requests(make):
    buffer = make()
    for ask in (lambda: buffer.sample(1), lambda: buffer.x, lambda: buffer.y):
        with pytest.raises(ValueError, match="row"):
            ask()
    offer(buffer, 0, 9)
    with pytest.raises(ValueError, match="n must"):
        buffer.sample(-1)
    with pytest.raises(TypeError, match="n must"):
        buffer.sample(1.5)
    with pytest.raises(TypeError, match="balanced must"):
        buffer.sample(1, balanced=1)


@pytest.mark.parametrize("kind", [Reservoir, RingBuffer, ClassRing, ClassBalanced, ClassBalancedReservoir])
def test_bad_settings(kind):
    name = "per_class" if kind is ClassRing else "capacity"
    for value, error in ((0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError), (10**30, ValueError)):
        with pytest.raises(error, match=name):
            kind(value, generator(0))
    with pytest.raises(TypeError, match="generator"):
        kind(3, 0)
    assert kind(3).generator.initial_seed() == generator(0).initial_seed() and isinstance(kind(3), Memory)


@every
def test_samples_are_different_rows_in_random_order(make):
    buffer = make()
    offer(buffer)
    for balanced in (False, True):
        x, y, n = buffer.sample(4, balanced=balanced)
        assert len(set(n.tolist())) == 4 and torch.equal(x.flatten().long(), n) and torch.equal(y, Y[n])
        assert set(n.tolist()) <= set(buffer.x.flatten().long().tolist())
        everything = buffer.sample(1000, balanced=balanced).n
        assert sorted(everything.tolist()) == sorted(buffer.x.flatten().long().tolist())
        assert len(buffer.sample(0, balanced=balanced).n) == 0
        assert len({int(buffer.sample(len(buffer), balanced=balanced).n[0]) for _ in range(200)}) == len(buffer)


LABELS = torch.tensor([4] * 10 + [1] * 2 + [7] * 5)


def shares(n, rows_of=balanced_rows, seed=0):
    rows = rows_of(LABELS, n, generator(seed))
    assert len(set(rows.tolist())) == min(n, len(LABELS))
    return tuple(LABELS[rows].bincount(minlength=8)[[4, 1, 7]].tolist())


@pytest.mark.parametrize(
    ("n", "allowed"),
    [
        (0, {(0, 0, 0)}), (1, {(1, 0, 0), (0, 1, 0), (0, 0, 1)}), (3, {(1, 1, 1)}),
        (5, {(2, 2, 1), (2, 1, 2), (1, 2, 2)}), (6, {(2, 2, 2)}), (9, {(4, 2, 3), (3, 2, 4)}),
        (12, {(5, 2, 5)}), (14, {(7, 2, 5)}), (17, {(10, 2, 5)}), (50, {(10, 2, 5)}),
    ],
)  # fmt: skip
def test_balanced_samples_take_rounds(n, allowed):
    assert {shares(n, seed=seed) for seed in range(40)} == allowed


def spread(rows_of):
    """p-value of the hypothesis that the odd row of a sample of 4 is of any class with the same chance."""
    found = [shares(4, rows_of, seed) for seed in range(600)]
    return stats.chisquare([sum(share[i] == 2 for share in found) for i in range(3)]).pvalue


def without_lots(labels, n, generator):
    """The remainder by the order of shuffled rows: a class with many rows has its second row earlier."""
    shuffled, seen, rounds = torch.randperm(len(labels), generator=generator), {}, []
    for row in shuffled.tolist():
        seen[int(labels[row])] = seen.get(int(labels[row]), -1) + 1
        rounds.append(seen[int(labels[row])])
    return shuffled[torch.tensor(rounds).argsort(stable=True)[:n]]


def test_the_remainder_is_spread_at_random():
    assert spread(balanced_rows) > 0.001
    assert spread(without_lots) < 1e-6


def test_rows_of_a_class_are_drawn_evenly_and_in_any_place():
    rows = torch.stack([balanced_rows(LABELS, 6, generator(seed)) for seed in range(1000)])
    counts = rows.flatten().bincount(minlength=len(LABELS))
    assert stats.chisquare(counts[:10]).pvalue > 0.001 and stats.chisquare(counts[12:]).pvalue > 0.001
    assert counts[10] == counts[11] == 1000
    assert stats.chisquare(LABELS[rows[:, 0]].bincount(minlength=8)[[4, 1, 7]]).pvalue > 0.001


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every
def test_on_cuda_the_same_rows(make):
    on_cpu, on_gpu = make(), make()
    for start in (0, 30):
        rows = torch.arange(start, start + 30)
        on_cpu.add(rows.double(), Y[start : start + 30])
        on_gpu.add(rows.double().cuda(), Y[start : start + 30].cuda())
    assert on_gpu.x.is_cuda and torch.equal(on_cpu.x, on_gpu.x.cpu())
    assert torch.equal(on_cpu.sample(4, balanced=True).x, on_gpu.sample(4, balanced=True).x.cpu())
    back = make()
    back.load_state_dict(on_gpu.state_dict(), "cpu")
    assert torch.equal(back.x, on_cpu.x)
