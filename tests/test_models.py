"""The networks: shapes, seeds, and initial weights that leave the global generator alone."""

import pytest
import torch

from cllab.device import generator
from cllab.models import MLP, ConvNet
from cllab.streams import digits


def test_shapes():
    x = digits().x[:7]
    assert MLP(64, [32, 16], 10)(x).shape == (7, 10)
    assert MLP(64, [32, 16], 10).features(x).shape == (7, 16)
    assert torch.equal(MLP(64, [], 10).features(x), x)
    assert ConvNet((1, 8, 8), 10)(x).shape == (7, 10)
    assert ConvNet((1, 8, 8), 10).features(x.view(7, 1, 8, 8)).shape == (7, 64)
    assert torch.equal(MLP(64, [8], 2)(x), MLP(64, [8], 2)(x.view(7, 1, 8, 8)))


@pytest.mark.parametrize("make", [lambda s: MLP(64, [8], 3, seed=s), lambda s: ConvNet((1, 8, 8), 3, seed=s)])
def test_weights_come_from_the_seed_only(make):
    def bits(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = bits(make(0))
    assert torch.equal(expected, torch.rand(2))
    assert torch.equal(first, bits(make(0))) and not torch.equal(first, bits(make(1)))


def test_initial_spread_is_pytorchs():
    weight = MLP(400, [300], 10).trunk[0].weight
    assert weight.abs().max() <= 1 / 20 and weight.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)


@pytest.mark.parametrize(("model", "stages"), [(MLP(64, [8, 6], 3), 2), (ConvNet((1, 8, 8), 3), 3)])
def test_cut_anywhere_and_nothing_is_lost(model, stages):
    x = digits().x[:7]
    for stage in range(1, stages + 1):
        h = model.lower(stage)(model.inputs(x))
        assert torch.equal(model.upper(stage)(h), model(x))
    low, up = [{id(p) for p in half.parameters()} for half in (model.lower(1), model.upper(1))]
    assert low | up == {id(p) for p in model.parameters()} and not low & up
    for stage in (0, stages + 1):
        with pytest.raises(ValueError, match="stage"):
            model.lower(stage)


def test_a_head_grows_and_keeps_what_it_had():
    model, x = MLP(64, [8], 3).double(), digits().x[:7].double()
    before = model(x)
    model.grow_head(5, generator(1))
    # not to the last bit: a product of another width may add in another order
    assert torch.allclose(model(x)[:, :3], before, atol=1e-12)
    assert model(x).shape == (7, 5) and model(x).dtype == torch.float64
    head = model.head
    model.grow_head(5, generator(1))
    assert model.head is head  # nothing to add
    with pytest.raises(ValueError, match="n_classes"):
        model.grow_head(4, generator(1))


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: MLP(0, [4], 2), ValueError, "in_features"), (lambda: MLP(4, [0], 2), ValueError, "hidden"),
        (lambda: MLP(4, 8, 2), TypeError, "hidden"), (lambda: MLP(4, [8], 0), ValueError, "n_classes"),
        (lambda: MLP(4, [8.0], 2), TypeError, "hidden"), (lambda: MLP(4, [8], 2, seed=-1), ValueError, "seed"),
        (lambda: ConvNet((8, 8), 2), ValueError, "shape"), (lambda: ConvNet((1, 2, 8), 2), ValueError, "shape"),
        (lambda: ConvNet((1, 8, 8), 2, width=0), ValueError, "width"),
        (lambda: ConvNet((0, 8, 8), 2), ValueError, "shape"), (lambda: ConvNet((-1, 8, 8), 2), ValueError, "shape"),
        (lambda: ConvNet(5, 2), TypeError, "shape"), (lambda: ConvNet(None, 2), TypeError, "shape"),
        (lambda: ConvNet((1.0, 8.0, 8.0), 2), TypeError, "shape"),
        (lambda: ConvNet((1, 8, 8), 10**30), ValueError, "n_classes"),
        (lambda: MLP(3, [10**30], 2), ValueError, "hidden"), (lambda: MLP(10**30, [], 2), ValueError, "in_features"),
        (lambda: MLP(3, [], 10**30), ValueError, "n_classes"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, named):
    with pytest.raises(error, match=named):
        make()


@pytest.mark.parametrize("model", [MLP, ConvNet])
def test_forward_gives_its_shapes(model):
    assert "logits [N, C]" in model.forward.__doc__
