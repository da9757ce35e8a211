"""Routing: the worked tables, a slow oracle, properties, and the wrong variants that they catch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.isolation import Routing, expert_capacity, route
from cllab.isolation.routing import position_in_expert

P = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]], dtype=torch.float64)
LOGITS = P.log() + torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)[:, None]


def close(tensor, expected, tolerance=1e-9):
    assert torch.allclose(tensor, torch.tensor(expected, dtype=tensor.dtype), rtol=0, atol=tolerance), tensor


# The worked example: four tokens, three experts.


def test_first_choice_of_the_worked_example():
    r = route(LOGITS, k=1)
    assert r.expert.tolist() == [[0], [0], [0], [1]]
    assert r.weight.tolist() == [[1.0]] * 4
    assert r.load.tolist() == [3, 1, 0] and r.load.dtype == torch.int64
    close(r.importance, [2.0, 1.4, 0.6])
    assert r.kept.all() and r.dropped == 0 and isinstance(r.dropped, int)


def test_two_choices_of_the_worked_example():
    r = route(LOGITS, k=2)
    assert r.expert.tolist() == [[0, 1], [0, 1], [0, 2], [1, 0]]
    close(r.weight, [[2 / 3, 1 / 3], [0.625, 0.375], [7 / 9, 2 / 9], [7 / 9, 2 / 9]])
    assert r.load.tolist() == [4, 3, 1]
    close(r.importance, [2.0, 1.4, 0.6])
    gates = torch.zeros(4, 3, dtype=torch.float64).scatter(1, r.expert, r.weight).sum(dim=0)
    close(gates, [2.291667, 1.486111, 0.222222], 1e-6)
    raw = route(LOGITS, k=2, renormalise=False)
    close(raw.weight, [[0.6, 0.3], [0.5, 0.3], [0.7, 0.2], [0.7, 0.2]])
    assert torch.equal(raw.expert, r.expert)


@pytest.mark.parametrize(("factor", "k", "places"), [(1, 1, 2), (1, 2, 3), (1.25, 1, 2), (1.25, 2, 4)])
def test_capacity_of_the_worked_example(factor, k, places):
    assert expert_capacity(4, 3, k, factor) == places


def test_capacity_does_not_round_up_a_rounding_error():
    assert 0.07 * 100 > 7
    assert expert_capacity(100, 1, 1, 0.07) == 7
    assert expert_capacity(1, 8, 1, 0.001) == 1


def test_first_come_and_surest_first_drop_different_tokens():
    order = route(LOGITS, k=1, capacity=2)
    assert order.kept.flatten().tolist() == [True, True, False, True]
    assert order.expert.flatten().tolist() == [0, 0, 0, 1] and order.dropped == 1
    assert order.load.tolist() == [3, 1, 0], "load counts what was asked for, before capacity"
    sure = route(LOGITS, k=1, capacity=2, priority="probability")
    assert sure.kept.flatten().tolist() == [True, False, True, True]


def test_rerouting_finds_the_next_expert_with_room():
    r = route(LOGITS, k=1, capacity=2, overflow="reroute")
    assert r.expert.flatten().tolist() == [0, 0, 2, 1]
    assert r.kept.all() and r.dropped == 0
    assert r.load.tolist() == [3, 1, 0]
    raw = route(LOGITS, k=1, capacity=2, overflow="reroute", renormalise=False)
    close(raw.weight.flatten(), [0.6, 0.5, 0.2, 0.7])


def test_first_choices_are_placed_before_second_choices():
    r = route(LOGITS, k=2, capacity=3)
    assert r.kept.tolist() == [[True, True], [True, True], [True, True], [True, False]]
    assert r.dropped == 1
    close(r.weight[3], [7 / 9, 2 / 9])  # what is left of a partly dropped token is not renormalised
    moved = route(LOGITS, k=2, capacity=3, overflow="reroute")
    assert moved.expert.tolist() == [[0, 1], [0, 1], [0, 2], [1, 2]] and moved.dropped == 0
    close(moved.weight[3], [7 / 8, 1 / 8])


def test_token_major_order_would_be_caught():
    """Placing each token's choices together looks right, and drops a first choice in favour of a second."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    r = route(logits, k=2, capacity=1)
    token_major = position_in_expert(r.expert.flatten(), 3).view(2, 2) < 1
    assert r.kept.tolist() == [[True, False], [True, True]]
    assert token_major.tolist() == [[True, True], [False, True]]


def test_a_rerouted_token_never_gets_one_expert_twice():
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 3)
    r = route(logits, k=2, capacity=2, overflow="reroute")
    assert r.expert.tolist() == [[0, 1], [0, 1], [2, 3]] and r.dropped == 0


@pytest.mark.parametrize("overflow", ["drop", "reroute"])
def test_more_places_than_tokens_are_no_limit(overflow):
    free, huge = route(LOGITS, k=2), route(LOGITS, k=2, capacity=10**30, overflow=overflow)
    assert huge.dropped == 0 and torch.equal(free.expert, huge.expert)


def test_rerouted_assignments_use_up_room():
    """Two tokens lose expert 0; one takes expert 2 first, the other finds 1 and then 2 full."""
    ranking = torch.tensor([[0, 1, 2, 3], [0, 2, 3, 1], [0, 1, 2, 3], [1, 0, 2, 3]])
    logits = -ranking.argsort(dim=1).double()
    r = route(logits, k=1, capacity=1, overflow="reroute")
    assert r.expert.flatten().tolist() == [0, 2, 3, 1] and r.dropped == 0


def test_ties_go_to_the_lowest_expert():
    assert route(torch.zeros(3, 5), k=2).expert.tolist() == [[0, 1]] * 3
    r = route(torch.zeros(4, 3), k=1, capacity=2, overflow="reroute")
    assert r.expert.flatten().tolist() == [0, 0, 1, 1]
    sure = route(torch.zeros(3, 2), k=1, capacity=2, priority="probability")
    assert sure.kept.flatten().tolist() == [True, True, False]


def test_position_in_expert():
    assert position_in_expert(torch.tensor([0, 2, 0, 0, 2]), 3).tolist() == [0, 0, 1, 2, 1]


# Gradient and precision.


def test_weight_and_importance_carry_gradient():
    for name, k, renormalise in (("weight", 2, True), ("weight", 1, False), ("importance", 1, True)):
        logits = LOGITS.clone().requires_grad_()
        (getattr(route(logits, k, renormalise=renormalise), name) ** 2).sum().backward()
        assert logits.grad.norm() > 0.1, (name, k, renormalise)


def test_renormalised_single_weight_has_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    route(logits, k=1).weight.sum().backward()
    assert logits.grad.norm() < 1e-12


@pytest.mark.parametrize(
    ("given_dtype", "computed"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_probabilities_are_computed_in_float32_at_least(given_dtype, computed):
    r = route(LOGITS.to(given_dtype), k=2)
    assert r.weight.dtype == r.importance.dtype == computed


def test_huge_scores_stay_finite():
    logits = torch.tensor([[3e38, -3e38, 0.0], [0.0, 1e4, -1e4]])
    for overflow in ("drop", "reroute"):
        r = route(logits, k=2, capacity=1, overflow=overflow)
        assert torch.isfinite(r.weight).all() and torch.isfinite(r.importance).all()
    assert route(logits, k=1, capacity=1, overflow="reroute").weight.tolist() == [[1.0], [1.0]]


def test_the_input_is_left_alone():
    logits = LOGITS.clone()
    route(logits, k=2, capacity=1, overflow="reroute", priority="probability")
    assert torch.equal(logits, LOGITS)


# The slow, obvious form: one assignment at a time.


def slow_route(logits, k, capacity, overflow, priority):
    n, n_experts = logits.shape
    p = [[math.exp(s) / sum(math.exp(t) for t in row) for s in row] for row in logits.tolist()]
    ranking = [sorted(range(n_experts), key=lambda e: (-row[e], e)) for row in logits.tolist()]
    turn = sorted(range(n), key=lambda i: (-max(p[i]), i)) if priority == "probability" else range(n)
    expert = [ranking[i][:k] for i in range(n)]
    kept = [[False] * k for _ in range(n)]
    room = [n * k if capacity is None else capacity] * n_experts

    def place(i, slot, e):
        if room[e] > 0:
            room[e] -= 1
            expert[i][slot], kept[i][slot] = e, True

    for slot in range(k):
        for i in turn:
            place(i, slot, expert[i][slot])
    if overflow == "reroute":
        for slot in range(k):
            for stage in range(k, n_experts):
                for i in turn:
                    if not kept[i][slot] and ranking[i][stage] not in expert[i]:
                        place(i, slot, ranking[i][stage])
    return expert, kept


@st.composite
def problems(draw):
    n, n_experts = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    # Few different values, so that ties are common; multiples of 1/4 are exact.
    values = st.integers(-6, 6).map(lambda i: i / 4)
    rows = st.lists(values, min_size=n_experts, max_size=n_experts)
    logits = torch.tensor(draw(st.lists(rows, min_size=n, max_size=n)), dtype=torch.float64)
    return logits, draw(st.integers(1, n_experts)), draw(st.integers(1, 4))


modes = st.sampled_from([(o, p) for o in ("drop", "reroute") for p in ("order", "probability")])


@settings(max_examples=40, deadline=None)
@given(problems(), modes)
def test_equal_to_placing_one_assignment_at_a_time(problem, mode):
    logits, k, capacity = problem
    overflow, priority = mode
    if priority == "probability":  # no equal tops: two ways of summing give them different last bits
        logits[:, 0] += torch.arange(len(logits)) / 64
    r = route(logits, k, capacity, overflow, priority=priority)
    expert, kept = slow_route(logits, k, capacity, overflow, priority)
    assert r.expert.tolist() == expert
    assert r.kept.tolist() == kept


@settings(max_examples=50, deadline=None)
@given(problems(), modes, st.booleans())
def test_invariants(problem, mode, renormalise):
    logits, k, capacity = problem
    overflow, priority = mode
    n, n_experts = logits.shape
    r = route(logits, k, capacity, overflow, renormalise, priority)
    taken = torch.bincount(r.expert[r.kept], minlength=n_experts)
    assert int(taken.max()) <= capacity
    assert int(taken.sum()) + r.dropped == n * k == int(r.load.sum())
    assert math.isclose(float(r.importance.sum()), n, abs_tol=1e-9)
    for i in range(n):
        used = r.expert[i][r.kept[i]].tolist()
        assert len(set(used)) == len(used), "a token uses an expert once"
        if overflow == "reroute" and len(used) < k:
            assert all(taken[e] == capacity for e in range(n_experts) if e not in used)
    if renormalise:
        assert torch.allclose(r.weight.sum(dim=1), torch.ones(n, dtype=torch.float64))
    else:
        assert torch.allclose(r.weight, logits.softmax(1).gather(1, r.expert))


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from(["order", "probability"]))
def test_rerouting_takes_no_place_that_was_chosen(problem, priority):
    logits, k, capacity = problem
    drop = route(logits, k, capacity, "drop", priority=priority)
    moved = route(logits, k, capacity, "reroute", priority=priority)
    assert torch.equal(moved.expert[drop.kept], drop.expert[drop.kept]) and moved.kept[drop.kept].all()
    assert moved.dropped <= drop.dropped


@settings(max_examples=40, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_without_capacity_tokens_do_not_depend_on_each_other(problem, random):
    logits, k, _ = problem
    order = list(range(len(logits)))
    random.shuffle(order)
    straight, shuffled = route(logits, k), route(logits[order], k)
    assert torch.equal(shuffled.expert, straight.expert[order])
    assert torch.allclose(shuffled.weight, straight.weight[order], rtol=0, atol=1e-12)
    assert torch.equal(shuffled.load, straight.load)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"k": 0}, ValueError, "k "),
        ({"k": 4}, ValueError, "k "),
        ({"k": -1}, ValueError, "k "),
        ({"k": 1.0}, TypeError, "k "),
        ({"k": True}, TypeError, "k "),
        ({"capacity": 0}, ValueError, "capacity"),
        ({"capacity": 1.5}, TypeError, "capacity"),
        ({"overflow": "spill"}, ValueError, "overflow"),
        ({"priority": "random"}, ValueError, "priority"),
        ({"renormalise": 1}, TypeError, "renormalise"),
        ({"logits": [[1.0]]}, TypeError, "logits"),
        ({"logits": torch.zeros(4, 3, dtype=torch.int64)}, TypeError, "logits"),
        ({"logits": torch.zeros(3)}, ValueError, "logits"),
        ({"logits": torch.zeros(2, 4, 3)}, ValueError, "logits"),
        ({"logits": torch.zeros(0, 3)}, ValueError, "logits"),
        ({"logits": torch.zeros(4, 0)}, ValueError, "logits"),
        ({"logits": torch.tensor([[0.0, math.nan]])}, ValueError, "logits"),
        ({"logits": torch.tensor([[0.0, math.inf]])}, ValueError, "logits"),
        ({"logits": torch.tensor([[0.0, -math.inf]]), "k": 2}, ValueError, "logits must leave every token"),
        ({"bias": torch.zeros(2)}, ValueError, "bias"),
        ({"bias": torch.tensor([0.0, math.nan, 0.0])}, ValueError, "bias"),
        ({"bias": [0.0, 0.0, 0.0]}, TypeError, "bias"),
    ],
)
def test_bad_input_of_route_is_named(arguments, error, names):
    with pytest.raises(error, match=f"^{names}"):
        route(**{"logits": LOGITS, "k": 1, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ((0, 3, 1, 1.0), ValueError, "n_tokens"),
        ((4, 0, 1, 1.0), ValueError, "n_experts"),
        ((4, 3, 4, 1.0), ValueError, "k"),
        ((4, 3, 1, 0), ValueError, "factor"),
        ((4, 3, 1, -1.0), ValueError, "factor"),
        ((4, 3, 1, math.nan), ValueError, "factor"),
        ((4, 3, 1, "1"), TypeError, "factor"),
        ((4, 3, 1, 1e308), ValueError, "factor"),
        ((10**400, 3, 1, 1.0), ValueError, "n_tokens"),
        ((4, 10**400, 1, 1.0), ValueError, "n_experts"),
    ],
)
def test_bad_input_of_expert_capacity_is_named(arguments, error, names):
    with pytest.raises(error, match=f"^{names}"):
        expert_capacity(*arguments)


def test_routing_unpacks_in_the_documented_order():
    assert Routing._fields == ("expert", "weight", "kept", "load", "importance", "dropped")
