"""Growing a layer: which starts keep the function, what a frozen stage is, and what a new row takes from old ones."""

import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from cllab.device import generator
from cllab.isolation import MoE, freeze_old, grow, wake, widened
from cllab.isolation.growth import StagedExperts, StagedRouter, stages

X = torch.randn(32, 4, generator=generator(0), dtype=torch.float64)


def layer(k, E=3, renormalise=True, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MoE(4, E, k, hidden=6, renormalise=renormalise, seed=seed).double()


def change(moe, init, n_new=1, k=None, **options):
    """How much growing moves the layer's answers; k: experts per token afterwards, where all are to be used."""
    before = moe(X)
    grow(moe, n_new, init, generator=generator(5), **options)
    moe.k = k or moe.k
    return (moe(X) - before).abs().max().item()


def test_a_naive_copy_in_a_dense_mixture_changes_it_and_a_split_does_not():
    assert change(layer(3), "copy", k=4) > 0.01
    assert change(layer(3), "split", k=4) < 1e-14
    assert change(layer(3), "split", n_new=2, k=5, source=[1, 1]) < 1e-14
    assert change(layer(3, renormalise=False), "split", n_new=2, k=5, source=[0, 2]) < 1e-14


def test_a_naive_copy_keeps_top_1_only_when_renormalised():
    assert change(layer(1), "copy") == 0.0
    assert change(layer(1, renormalise=False), "copy") > 0.01


def test_neither_copy_nor_split_keeps_top_2():
    assert change(layer(2), "copy", source=[1]) > 0.01 and change(layer(2), "split", source=[1]) > 0.01


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("renormalise", [True, False])
def test_a_silent_expert_keeps_everything_until_it_is_woken(k, renormalise):
    moe = layer(k, renormalise=renormalise)
    assert change(moe, "silent", n_new=2, noise=0.5) == 0.0
    assert int(moe.routing.load[3:].sum()) == 0
    wake(moe)
    moe(X)
    bias = moe.router.stages[0].bias.mean()
    moe.router.stages[1].bias.data.fill_(-5000.0)  # a silent row under weight decay
    wake(moe)
    moe(X)
    assert int(moe.routing.load[3:].sum()) > 0 and torch.equal(moe.router.stages[1].bias, bias.expand(2))


@pytest.mark.parametrize("overflow", ["drop", "reroute"])
def test_a_silent_expert_takes_no_places_and_no_bias_wakes_it(overflow):
    moe = MoE(4, 3, 2, hidden=6, capacity_factor=1.0, overflow=overflow).double()
    moe.bias = torch.zeros(3, dtype=torch.float64)
    assert change(moe, "silent") == 0.0
    moe.bias[3] = 2.0
    moe(X)
    assert int(moe.routing.load[3]) == 0 and not bool(((moe.routing.expert == 3) & moe.routing.kept).any())
    half = MoE(4, 3, 2).half()
    grow(half, 1, "silent", generator=generator(0))
    assert bool(half(X.half()).isfinite().all()) and bool(half.router.stages[1].bias.isfinite().all())


def test_a_stage_that_stays_silent_does_not_silence_the_next():
    moe = layer(1, E=2, renormalise=False)
    grow(moe, 1, "silent", generator=generator(0))
    grow(moe, 1, "silent", generator=generator(0))
    wake(moe)
    assert torch.equal(moe.router.stages[2].bias, moe.router.stages[0].bias.mean()[None])
    for call in (freeze_old, wake):
        with pytest.raises(ValueError, match="moe must have grown"):
            call(layer(2))
        with pytest.raises(TypeError, match="moe must be an MoE"):
            call(nn.Linear(2, 2))


def test_noise_breaks_the_symmetry_and_with_it_exactness():
    assert change(layer(3), "split", k=4, noise=0.1) > 1e-4


def test_a_new_row_takes_mass_from_frozen_ones():
    moe = layer(2, E=2)
    moe(X)
    grow(moe, 1, "copy", generator=generator(0))
    freeze_old(moe)
    moe(X)
    assert moe.routing.importance[:2].sum().item() < 0.9 * len(X)


@pytest.mark.parametrize("optimizer", [lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: AdamW(p, 0.1)])
def test_frozen_stages_stay_to_the_last_bit(optimizer):
    moe = layer(2)
    kept_optimizer = optimizer(moe.parameters())
    for grown in (False, True):
        if grown:
            grow(moe, 2, "random", generator=generator(0))
            frozen = freeze_old(moe)
            before = [p.clone() for p in frozen]
            kept_optimizer.add_param_group({"params": [*stages(moe.router)[-1].parameters()]})
            new = stages(moe.router)[-1].weight.clone()
        for _ in range(3):
            kept_optimizer.zero_grad()
            moe(X).square().sum().backward()
            kept_optimizer.step()
    assert len(frozen) == 6 and all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert not torch.equal(new, stages(moe.router)[-1].weight)


def test_a_layer_that_grew_twice_has_all_its_experts_in_order():
    moe = layer(2)
    grow(moe, 1, "copy", source=[2], generator=generator(0))
    grow(moe, 2, "copy", source=[3, 0], generator=generator(1))
    assert moe.n_experts == 6 and isinstance(moe.router, StagedRouter) and isinstance(moe.experts, StagedExperts)
    assert torch.equal(moe.router.weight[[3, 4, 5]], moe.router.weight[[2, 2, 0]])
    assert torch.equal(moe.experts.stages[2].w1[0], moe.experts.stages[0].w1[2])
    assert moe(X).shape == X.shape and moe.logits.shape == (32, 6)
    noisy = MoE(4, 3, 2, noise=True)
    grow(noisy, 1, "random", generator=generator(0))
    assert noisy.train()(X.float()).shape == X.shape


def test_widening_a_unit_keeps_the_function():
    inner, outer = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    for unit in range(5):
        wide_in, wide_out = widened(inner, outer, unit)
        now, before = wide_out(torch.relu(wide_in(X))), outer(torch.relu(inner(X)))
        assert wide_in.out_features == 6 and torch.allclose(now, before, rtol=0, atol=1e-15)
    without_halving = outer(torch.relu(inner(X))) + torch.relu(inner(X))[:, [4]] * outer.weight[:, 4]
    assert not torch.allclose(without_halving, before, atol=1e-3)
    with pytest.raises(ValueError, match="unit must be between 0 and 4"):
        widened(inner, outer, 5)
    with pytest.raises(ValueError, match="outer must read the 5 units"):
        widened(inner, nn.Linear(4, 3), 0)
    bare = nn.Linear(4, 5, bias=False).double(), nn.Linear(5, 3, bias=False).double()
    wide = widened(*bare, 1)
    assert torch.allclose(wide[1](torch.relu(wide[0](X))), bare[1](torch.relu(bare[0](X))), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_new": 0}, "n_new must be between 1"),
        ({"init": "net2wider"}, "init must be one of"),
        ({"source": [0, 1]}, "source must name an expert for each of the 1"),
        ({"source": [0], "init": "random"}, "source must be None"),
        ({"source": [3]}, "each of source must be between 0 and 2"),
        ({"noise": -1.0}, "noise must be finite"),
    ],
)
def test_bad_growth_is_named_and_changes_nothing(arguments, message):
    moe = layer(2)
    with pytest.raises(ValueError, match=message):
        grow(moe, **({"n_new": 1, "generator": generator(0)} | arguments))
    assert moe.n_experts == 3 and isinstance(moe.router, nn.Linear)
    with pytest.raises(TypeError, match="moe must be an MoE"):
        grow(nn.Linear(2, 2), 1, generator=generator(0))
