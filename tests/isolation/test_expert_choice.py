"""Experts that choose their tokens, biases that balance, and guides: numbers by hand and what may not leak."""

import math
import subprocess
import sys

import pytest
import torch

from cllab.device import generator
from cllab.isolation import (
    LoadBalance,
    LossFreeBalance,
    MoE,
    MoEClassifier,
    biased_choice,
    expert_choice,
    expert_usage,
    grow,
    guided_scores,
    hash_table,
    hashed,
    route,
    token_ids,
    token_task,
    updated_bias,
)
from cllab.training import Step, fit, run

P = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]], dtype=torch.float64)
SCORES = P.log()


def test_experts_choose_by_hand():
    chosen = expert_choice(SCORES, 2)
    # expert 1 has 0.3 for the tokens 0 and 1: token 1 goes first, whose best is 0.5 and not 0.6
    assert chosen.token.tolist() == [[2, 0], [3, 1], [1, 2]]
    assert chosen.multiplicity.tolist() == [1, 2, 2, 1]
    turned = expert_choice(SCORES[[3, 1, 0, 2]], 2)
    assert turned.token.tolist() == [[3, 2], [0, 1], [1, 3]]
    tied = expert_choice(torch.zeros(4, 2), 3)
    assert tied.token.tolist() == [[0, 1, 2], [0, 1, 2]] and tied.multiplicity.tolist() == [2, 2, 2, 0]
    assert torch.allclose(chosen.weight[0], torch.tensor([0.7, 0.6], dtype=torch.float64))
    assert torch.allclose(chosen.importance, P.sum(dim=0))


def test_forbidden_tokens_are_served_by_nobody():
    scores = torch.tensor([[0.0, 1.0], [-math.inf, 1.0], [-math.inf, 2.0]])
    chosen = expert_choice(scores, 2)
    assert chosen.token[0, 0] == 0 and chosen.weight[0, 1] == 0
    assert chosen.multiplicity.tolist() == [1, 1, 1]
    assert expert_usage(torch.tensor([0, 1, 1]), chosen, 2).tolist() == [[1, 0], [0, 2]]
    with pytest.raises(ValueError, match="leave every token an expert"):
        expert_choice(torch.tensor([[-math.inf, -math.inf], [0.0, 1.0]]), 1)


def test_silent_experts_leave_a_layer_whose_experts_choose_as_it_was():
    layer, x = MoE(4, 3, 1, hidden=3, choice="expert"), torch.randn(12, 4, generator=generator(0))
    before = layer(x)
    grow(layer, 3, "silent", generator=generator(1))
    assert torch.allclose(layer(x), before, rtol=0, atol=1e-6)


def test_every_expert_is_full_and_the_layer_is_a_loop_over_its_choices():
    layer = MoE(4, 3, 1, choice="expert").double()
    x = torch.randn(12, 4, generator=generator(0), dtype=torch.float64)
    y, slow = layer(x), torch.zeros_like(x)
    assert layer.routing.token.shape == (3, 4)
    experts = layer.experts
    for e in range(3):
        for place in range(4):
            n = int(layer.routing.token[e, place])
            inner = torch.relu(x[n] @ experts.w1[e] + experts.b1[e, 0])
            slow[n] += layer.routing.weight[e, place] * (inner @ experts.w2[e] + experts.b2[e, 0])
    assert torch.allclose(y, slow, rtol=0, atol=1e-12)
    y.sum().backward()
    assert float(layer.router.weight.grad.norm()) > 0


def test_a_choice_looks_at_later_tokens():
    layer, x = MoE(4, 3, 1, choice="expert"), torch.randn(6, 4, generator=generator(1))
    changed = torch.cat([x[:3], 5 * torch.randn(3, 4, generator=generator(2))])
    assert not torch.equal(layer(x)[:3], layer(changed)[:3])


def test_a_bias_moves_the_choice_and_never_the_weight():
    s, b = torch.tensor([[0.9, 0.8, 0.3]]), torch.tensor([-0.2, 0.0, 0.1])
    expert, weight = biased_choice(s, b, 1)
    assert expert.item() == 1 and weight.item() == pytest.approx(0.8)
    assert biased_choice(s, torch.zeros(3), 1)[0].item() == 0
    moved = updated_bias(b, torch.tensor([6, 2, 1]), gamma=1e-3)
    assert moved.tolist() == pytest.approx([-0.201, 0.001, 0.101])
    assert torch.equal(updated_bias(b, torch.tensor([3, 3, 3])), b)


def test_route_with_a_bias_is_the_same_choice():
    b = torch.tensor([-0.3, 0.0, 0.25], dtype=torch.float64)
    routing = route(SCORES, 2, renormalise=False, bias=b)
    expert, weight = biased_choice(P, b, 2)
    assert torch.equal(routing.expert, expert) and torch.allclose(routing.weight, weight)
    same = route(SCORES, 2, renormalise=False, bias=torch.zeros(3, dtype=torch.float64))
    assert torch.equal(same.expert, route(SCORES, 2).expert)


def test_biases_lower_the_largest_load_without_a_loss():
    task = token_task(1024, seed=0, n_test=64)
    most, terms = {}, {}
    for gamma in (0.0, 0.05):
        model = MoEClassifier(28, 16, 8, 1, 4, hidden=8, renormalise=False)
        events = fit(model, task.stream, [LossFreeBalance(gamma)], epochs=4, lr=5e-3)
        terms[gamma] = {name for event in events if isinstance(event, Step) for name in event.losses}
        model.eval()(task.data.x)
        load = model.moe.routing.load
        most[gamma] = (load.max() / load.sum()).item()
    assert most[0.05] < most[0.0] - 0.1 and terms[0.05] == {"task"}
    assert "moe.bias" in model.state_dict() and not model.moe.bias.requires_grad
    fresh = MoEClassifier(28, 16, 8, 1, 4, hidden=8, renormalise=False, seed=1)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(task.data.x_test), model(task.data.x_test))


def test_a_state_that_does_not_fit_leaves_the_layer_alone():
    layer, other = MoE(4, 3, 2), MoE(4, 5, 2)
    other.bias = torch.zeros(5)
    with pytest.raises(RuntimeError):
        layer.load_state_dict(other.state_dict())
    assert layer.bias is None and layer(torch.ones(2, 4)).shape == (2, 4)


def test_a_prior_shifts_forbids_and_leaves_alone():
    assert torch.allclose(guided_scores(SCORES, torch.full((3,), 1 / 3)).softmax(1), P)
    assert torch.equal(guided_scores(SCORES, torch.tensor([0.0, 1.0, 1.0]), tau=0.0), SCORES)
    by_hand = P * torch.tensor([1.0, 2.0, 1.0])
    shifted = guided_scores(SCORES, torch.tensor([1.0, 2.0, 1.0])).softmax(1)
    assert torch.allclose(shifted, by_hand / by_hand.sum(1, keepdim=True))
    routing = route(guided_scores(SCORES, torch.tensor([0.0, 1.0, 1.0])), 2)
    assert not bool((routing.expert == 0).any())
    with pytest.raises(ValueError, match="leave every token k = 3"):
        route(guided_scores(SCORES, torch.tensor([0.0, 1.0, 1.0])), 3)
    rerouted = route(guided_scores(SCORES, torch.tensor([0.0, 1.0, 1.0])), 1, capacity=1, overflow="reroute")
    assert not bool((rerouted.expert == 0).any()) and rerouted.dropped == 2


@pytest.mark.parametrize("prior", [torch.zeros(3), torch.tensor([-1.0, 1.0, 1.0]), torch.ones(2), torch.ones(4, 2)])
def test_a_bad_prior_is_named(prior):
    with pytest.raises(ValueError, match="prior"):
        guided_scores(SCORES, prior)


def test_a_hash_is_balanced_and_the_same_in_another_process():
    table = hash_table(10, 4, generator(7))
    sizes = table.bincount(minlength=4)
    assert int(sizes.max() - sizes.min()) <= 1
    program = (
        "from cllab.device import generator; from cllab.isolation import hash_table; "
        "print(hash_table(10, 4, generator(7)).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert other.strip() == str(table.tolist())
    with pytest.raises(ValueError, match="ids must be below the 10"):
        hashed(torch.tensor([10]), table)


def test_hashed_tokens_go_where_the_table_says_and_a_guide_is_asked():
    table = hash_table(40, 4, generator(0))
    task = token_task(128, n_test=64)
    model = MoEClassifier(28, 8, 4, 1, 4, renormalise=False, guide=lambda x: {"expert": hashed(token_ids(x), table)})
    model(task.probe_x)
    assert torch.equal(model.moe.routing.expert[:, 0], table) and bool((model.moe.routing.weight == 1).all())


def test_bad_guides_are_named():
    layer, x = MoE(4, 3, 2), torch.ones(5, 4)
    with pytest.raises(TypeError, match="expert must be an int64 tensor"):
        layer(x, expert=torch.ones(5, 1))
    for bad in (torch.full((5, 1), 3), torch.zeros(4, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="expert must name one of 3 experts for each of 5 tokens"):
            layer(x, expert=bad)
    with pytest.raises(ValueError, match="twice for one token"):
        layer(x, expert=torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="together with a prior"):
        layer(x, expert=torch.zeros(5, 1, dtype=torch.int64), prior=torch.ones(3))
    for option in ({"overflow": "reroute"}, {"priority": "probability"}):
        with pytest.raises(ValueError, match="overflow and priority must keep their defaults"):
            MoE(4, 3, 1, choice="expert", **option)
    for told in (3, {"experts": 1}):
        with pytest.raises(TypeError, match="guide must return a dict"):
            MoEClassifier(4, 4, 2, 2, 2, guide=lambda x, told=told: told)(x)
    with pytest.raises(TypeError, match="guide must be"):
        MoEClassifier(4, 4, 2, 2, 2, guide=3)
    with pytest.raises(ValueError, match="tokens choose"):
        run(MoEClassifier(28, 8, 4, 1, 4, choice="expert"), token_task(64, n_test=64).stream, [LossFreeBalance()])
    with pytest.raises(ValueError, match="balanced already"):
        run(MoEClassifier(28, 8, 4, 1, 4, choice="expert"), token_task(64, n_test=64).stream, [LoadBalance()])
