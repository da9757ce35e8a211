"""The layer against a slow loop over tokens, its exact special cases, and what its options promise."""

import copy
import io
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.isolation import MoE, MoEClassifier, route


def layer(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MoE(*args, **options).double()


def tokens(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one_expert(moe, e, h):
    """f_e(h) for one token h [D], from the weights alone."""
    experts = moe.experts
    inner = torch.clamp(h @ experts.w1[e] + experts.b1[e, 0], min=0)
    return inner @ experts.w2[e] + experts.b2[e, 0]


def slow_moe(moe, x):
    """One token and one slot after the other."""
    routing, rows = moe.routing, []
    for n, h in enumerate(x):
        y = torch.zeros_like(h)
        for slot in range(moe.k):
            if routing.kept[n, slot]:
                y = y + routing.weight[n, slot] * one_expert(moe, int(routing.expert[n, slot]), h)
        rows.append(y)
    return torch.stack(rows)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 5), st.data(), st.sampled_from([None, 0.5, 1.0, 2.0]),
    st.sampled_from(["drop", "reroute"]), st.sampled_from(["order", "probability"]), st.booleans(),
)  # fmt: skip
def test_equal_to_a_loop_over_tokens(n, n_experts, data, factor, overflow, priority, renormalise):
    k = data.draw(st.integers(1, n_experts))
    moe = layer(3, n_experts, k, 4, factor, overflow, renormalise, priority, seed=n)
    x = tokens(n, 3, seed=n_experts)
    y = moe(x)
    expected = slow_moe(moe, x)
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)
    parameters = [*moe.parameters()]
    fast = torch.autograd.grad(y.square().sum(), parameters, retain_graph=True, allow_unused=True)
    slow = torch.autograd.grad(expected.square().sum(), parameters, allow_unused=True)
    for a, b in zip(fast, slow, strict=True):
        zero = torch.zeros(())
        assert torch.allclose(zero if a is None else a, zero.double() if b is None else b, rtol=0, atol=1e-12)


def test_wrong_dispatches_would_be_caught():
    moe, x = layer(3, 4, 2, capacity_factor=0.5), tokens(16, 3)
    y = moe(x)
    kept = moe.routing.kept
    moe.routing = moe.routing._replace(kept=torch.ones_like(kept))  # capacity forgotten in the sum
    assert not torch.allclose(slow_moe(moe, x), y, atol=1e-3)
    shifted = (moe.routing.expert + 1) % 4  # rows returned to the wrong expert's tokens
    moe.routing = moe.routing._replace(kept=kept, expert=shifted)
    assert not torch.allclose(slow_moe(moe, x), y, atol=1e-3)


def test_one_expert_is_its_feed_forward_network():
    moe, x = layer(3, 1, 1), tokens(5, 3)
    assert torch.allclose(moe(x), torch.stack([one_expert(moe, 0, h) for h in x]), rtol=0, atol=1e-12)


def test_all_experts_are_the_dense_mixture():
    for renormalise in (True, False):
        moe, x = layer(3, 4, 4, renormalise=renormalise, capacity_factor=4.0), tokens(6, 3)
        p = moe.router(x).softmax(dim=1)
        outputs = torch.stack([torch.stack([one_expert(moe, e, h) for e in range(4)]) for h in x])
        assert torch.allclose(moe(x), (p[:, :, None] * outputs).sum(dim=1), rtol=0, atol=1e-12)


def test_token_order_does_not_matter_without_capacity():
    moe, x, order = layer(3, 4, 2), tokens(8, 3), torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    assert torch.allclose(moe(x[order]), moe(x)[order], rtol=0, atol=1e-12)


def test_capacity_limits_experts_and_a_dropped_token_gets_zero():
    moe = layer(3, 4, 1, capacity_factor=1.0, renormalise=False)
    x = tokens(1, 3).expand(8, 3)  # equal tokens: all want the same expert, which has 2 places
    y = moe(x)
    assert moe.routing.dropped == 6 and moe.routing.kept[:2].all()
    assert (y[2:] == 0).all() and (y[:2] != 0).any()
    rerouted = layer(3, 4, 1, capacity_factor=1.0, renormalise=False, overflow="reroute")
    rerouted(x)
    assert rerouted.routing.dropped == 0
    assert rerouted.routing.expert.flatten().bincount().tolist() == [2, 2, 2, 2]


def test_the_residual_carries_a_dropped_token():
    model = MoEClassifier(3, 6, 4, 1, 2, capacity_factor=1.0, renormalise=False)
    x = tokens(1, 3).float().expand(8, 3)
    features = model.features(x)
    assert torch.equal(features[2:], model.embed(x)[2:]) and not torch.equal(features[:2], model.embed(x)[:2])
    assert torch.equal(model(x), model.head(features)) and model(x).shape == (8, 2)


def test_leading_dimensions_are_tokens():
    moe, x = layer(3, 4, 2), tokens(2, 5, 3)
    assert torch.allclose(moe(x).view(10, 3), moe(x.view(10, 3)), rtol=0, atol=1e-12)
    assert moe(x).shape == x.shape and moe.logits.shape == (10, 4) and moe.routing.expert.shape == (10, 2)
    assert moe(x[0, 0]).shape == (3,)


def test_padding_takes_no_place_and_counts_in_no_statistic():
    moe, x = layer(3, 4, 2, capacity_factor=1.0), tokens(2, 4, 3)
    mask = torch.tensor([[True, False, True, True], [False, True, False, True]])
    y = moe(x, mask)
    assert (y[~mask] == 0).all()
    assert moe.routing.load.sum() == 10 and len(moe.logits) == 5
    padded = moe.routing
    assert torch.equal(y[mask], moe(x[mask])) and torch.equal(padded.kept, moe.routing.kept)
    other = torch.where(mask[..., None], x, 100 * torch.ones_like(x))
    assert torch.equal(moe(other, mask), y)
    nothing = torch.where(mask[..., None], x, torch.nan)
    assert torch.equal(moe(nothing, mask), y)


def test_logits_and_routing_are_those_of_the_last_forward():
    moe, x = layer(3, 4, 2), tokens(6, 3)
    assert moe.logits is None and moe.routing is None
    moe(x)
    assert torch.equal(moe.logits, moe.router(x)) and moe.logits.requires_grad
    assert torch.equal(moe.routing.expert, route(moe.logits, 2).expert)


def test_the_router_learns_from_the_task_unless_its_one_weight_is_renormalised():
    norms = {}
    for renormalise in (True, False):
        moe = layer(4, 3, 1, renormalise=renormalise)
        moe(tokens(32, 4)).square().sum().backward()
        norms[renormalise] = float(moe.router.weight.grad.norm())
    assert norms[True] < 1e-12 and norms[False] > 0.1


def test_only_that_case_warns():
    with pytest.warns(UserWarning, match="no gradient"):
        MoE(4, 3, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MoE(4, 3, 1, renormalise=False)
        MoE(4, 3, 2)
        MoE(4, 1, 1)


def test_weights_come_from_the_seed_alone():
    state = torch.random.get_rng_state()
    a, same, b = MoE(4, 3, 2, seed=5), MoE(4, 3, 2, seed=5), MoE(4, 3, 2, seed=6)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in a.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]) and not torch.equal(value, b.state_dict()[name])
    assert not torch.equal(a.experts.w1[0], a.experts.w1[1]), "experts start different"


def test_copies_and_checkpoints_after_a_forward():
    moe, x = layer(3, 4, 2), tokens(6, 3)
    y = moe(x)
    copied = copy.deepcopy(moe)
    assert copied.routing is None and moe.routing is not None
    assert torch.equal(copied(x), y)
    file = io.BytesIO()
    torch.save(moe.state_dict(), file)
    file.seek(0)
    other = layer(3, 4, 2, seed=9)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), y)


def test_dtype_of_the_output_is_that_of_the_input():
    for dtype in (torch.float32, torch.bfloat16):
        assert MoE(4, 3, 2).to(dtype)(torch.ones(5, 4, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"dim": 0}, ValueError),
        ({"n_experts": 0}, ValueError),
        ({"n_experts": 2.0}, TypeError),
        ({"k": 0}, ValueError),
        ({"k": 4}, ValueError),
        ({"hidden": 0}, ValueError),
        ({"capacity_factor": 0.0}, ValueError),
        ({"capacity_factor": -1.0}, ValueError),
        ({"capacity_factor": "1"}, TypeError),
        ({"overflow": "spill"}, ValueError),
        ({"priority": "none"}, ValueError),
        ({"renormalise": "yes"}, TypeError),
        ({"seed": -1}, ValueError),
        ({"dim": 10**30}, ValueError),
        ({"hidden": 10**30}, ValueError),
        ({"capacity_factor": 1e308}, ValueError),
    ],
)
def test_bad_arguments_are_named(arguments, error):
    with pytest.raises(error, match=f"^{next(iter(arguments))} "):
        MoE(**{"dim": 4, "n_experts": 3, "k": 2, **arguments})


@pytest.mark.parametrize(
    ("x", "mask", "error", "names"),
    [
        (torch.ones(5, 3), None, ValueError, "x"),
        (torch.ones(0, 4), None, ValueError, "x"),
        (torch.ones(5, 4) * float("nan"), None, ValueError, "x"),
        (torch.ones(5, 4, dtype=torch.int64), None, TypeError, "x"),
        ([[1.0] * 4], None, TypeError, "x"),
        (torch.tensor(1.0), None, ValueError, "x"),
        (torch.ones(5, 4, dtype=torch.float64), None, TypeError, "x"),
        (torch.ones(5, 4), torch.ones(4, dtype=torch.bool), ValueError, "mask"),
        (torch.ones(5, 4), torch.zeros(5, dtype=torch.bool), ValueError, "mask"),
        (torch.ones(5, 4), torch.ones(5), TypeError, "mask"),
        (torch.ones(5, 4), [True] * 5, TypeError, "mask"),
    ],
)
def test_bad_input_leaves_the_last_routing_alone(x, mask, error, names):
    moe = MoE(4, 3, 2)
    moe(torch.ones(2, 4))
    routing = moe.routing
    with pytest.raises(error, match=f"^{names} "):
        moe(x, mask)
    assert moe.routing is routing


def test_forward_gives_its_shapes():
    assert "logits [N, n_classes]" in MoEClassifier.forward.__doc__
