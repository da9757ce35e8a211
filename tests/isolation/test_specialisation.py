"""Who serves what: counts by hand and against a loop, and the measure at its ends and in between."""

import math

import pytest
import torch

from cllab.device import generator
from cllab.isolation import (
    LoadBalance,
    MoEClassifier,
    expert_choice,
    expert_usage,
    route,
    specialisation,
    token_task,
)
from cllab.training import run


def test_usage_counts_what_each_expert_served():
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    kind = torch.tensor([0, 0, 1])
    assert expert_usage(kind, route(logits, 1), 2).tolist() == [[2, 0, 0], [0, 0, 1]]
    assert expert_usage(kind, route(logits, 2), 3).tolist() == [[2, 2, 0], [0, 1, 1], [0, 0, 0]]
    # one place each: the second token of kind 0 is dropped
    assert expert_usage(kind, route(logits, 1, capacity=1), 2).tolist() == [[1, 0, 0], [0, 0, 1]]
    # each expert takes its two surest: 0 <- tokens 0, 1; 1 <- tokens 0, 1 (ties by index); 2 <- token 2 and token 0
    assert expert_usage(kind, expert_choice(logits, 2), 2).tolist() == [[2, 2, 1], [0, 0, 1]]


def test_usage_against_a_loop():
    source = generator(0, "usage")
    logits, kind = torch.randn(50, 4, generator=source), torch.randint(3, (50,), generator=source)
    for routing in (route(logits, 2), route(logits, 2, capacity=10), route(logits, 1, capacity=8, overflow="reroute")):
        slow = [[0] * 4 for _ in range(3)]
        for n in range(50):
            for slot in range(routing.expert.shape[1]):
                if routing.kept[n, slot]:
                    slow[kind[n]][routing.expert[n, slot]] += 1
        assert expert_usage(kind, routing, 3).tolist() == slow


def test_the_measure_at_its_ends_and_by_hand():
    assert specialisation(torch.tensor([[0, 5], [5, 0]])) == pytest.approx(1)
    assert specialisation(torch.tensor([[5, 3, 0], [0, 0, 8]])) == pytest.approx(1)  # one kind on two experts
    assert specialisation(torch.tensor([[5, 0], [5, 0]])) == 0  # one expert serves all
    assert specialisation(torch.tensor([[4, 6], [4, 6]])) == pytest.approx(0, abs=1e-12)
    assert specialisation(torch.tensor([[4, 6]])) == 0  # one kind of token
    # joint (3/8, 1/8; 1/8, 3/8): I = ln 2 - H(1/4), H(1/4) = 1/4 ln 4 + 3/4 ln 4/3
    conditional = math.log(4) / 4 + 3 / 4 * math.log(4 / 3)
    by_hand = (math.log(2) - conditional) / math.log(2)
    assert specialisation(torch.tensor([[3, 1], [1, 3]])) == pytest.approx(by_hand)
    # three kinds, two of them on one expert: I = H(1/3), of H = ln 3
    lumped = (math.log(3) - 2 / 3 * math.log(2)) / math.log(3)
    assert specialisation(torch.tensor([[2, 0], [2, 0], [0, 2]])) == pytest.approx(lumped)


def test_names_of_experts_and_kinds_do_not_matter():
    usage = torch.randint(9, (4, 6), generator=generator(1, "usage"))
    value = specialisation(usage)
    assert 0 < value < 1
    assert specialisation(usage[[2, 0, 3, 1]][:, [5, 1, 0, 4, 2, 3]]) == pytest.approx(value)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: expert_usage(torch.tensor([0, 2]), r, 2), ValueError, "kind must be below n_kinds = 2, got 2"),
        (lambda r: expert_usage(torch.tensor([0]), r, 2), ValueError, "each of the 2 tokens"),
        (lambda r: expert_usage(torch.tensor([0.0, 1.0]), r, 2), TypeError, "kind"),
        (lambda r: expert_usage(torch.tensor([0, 1]), None, 2), TypeError, "routing must be"),
        (lambda r: specialisation([[1, 2]]), TypeError, "usage"),
        (lambda r: specialisation(torch.zeros(2, 2)), ValueError, "not all 0"),
        (lambda r: specialisation(torch.tensor([[1.0, -1.0]])), ValueError, "at least 0"),
        (lambda r: specialisation(torch.tensor([[math.nan, 1.0]])), ValueError, "counts"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(route(torch.eye(2), 1))


def test_it_emerges_with_balance_and_moves_with_the_seed():
    """Balanced experts find the kinds of token, under other numbers with another seed."""
    values, homes = {}, {}
    for seed, alpha in ((0, 0.0), (0, 0.1), (1, 0.1)):
        task = token_task(4096, seed=seed, n_test=512)
        model = MoEClassifier(28, 16, 5, 1, 4, seed=seed, hidden=8, renormalise=False)
        run(model, task.stream, [LoadBalance(alpha)], epochs=6, batch_size=64, lr=1e-2, seed=seed)
        with torch.no_grad():
            model(task.data.x_test)
        usage = expert_usage(task.kind_test, model.moe.routing, 5)
        values[seed, alpha], homes[seed, alpha] = specialisation(usage), usage.argmax(dim=1).tolist()
    assert min(values[0, 0.1], values[1, 0.1]) > 0.65 > 0.6 > values[0, 0.0]
    assert sorted(homes[0, 0.1]) == sorted(homes[1, 0.1]) == [0, 1, 2, 3, 4]
    assert homes[0, 0.1] != homes[1, 0.1]
