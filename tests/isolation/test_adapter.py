"""Bottleneck adapters: counts, the start at the frozen network, where they stand, and what they leave alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cllab.device import generator
from cllab.isolation import Adapter, Bottleneck, using
from cllab.isolation.adapter import Adapted
from cllab.models import MLP, ConvNet, Transformer
from cllab.streams import digits, split
from cllab.training import evaluating, run

STREAM = split(digits().only(range(4)).take(120), 2, scenario="task")
X = STREAM[1].x_test


def size(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("d", "m", "parameters"), [(768, 64, 99_136), (4, 1, 13), (1, 1, 4), (3, 8, 59)])
def test_parameters(d, m, parameters):
    assert size(Bottleneck(d, m)) == 2 * m * d + d + m == parameters


def test_the_equation_by_hand():
    f, h = Bottleneck(2, 1).double(), torch.tensor([[1.0, -2.0]]).double()
    with torch.no_grad():
        f.down.weight.copy_(torch.tensor([[2.0, 0.5]])), f.down.bias.fill_(0.5)
        f.up.weight.copy_(torch.tensor([[3.0], [-1.0]])), f.up.bias.copy_(torch.tensor([0.1, 0.2]))
    z = 2.0 - 1.0 + 0.5
    a = z * 0.5 * (1 + torch.erf(torch.tensor(z / 2**0.5).double()))  # gelu
    assert torch.allclose(f(h), torch.stack([1 + 3 * a + 0.1, -2 - a + 0.2]), atol=1e-12)
    without = f.up(F.gelu(f.down(h)))  # an adapter that forgot what came in
    assert not torch.allclose(f(h), without, atol=0.1)


def test_near_identity_at_the_start_and_the_identity_when_W_up_is_zero():
    f, h = Bottleneck(768, 64, generator(0)), torch.randn(50, 768, generator=generator(1))
    weights = torch.cat([f.down.weight.flatten(), f.up.weight.flatten()])
    assert weights.abs().max() <= 2e-3 and weights.std().item() == pytest.approx(0.88e-3, rel=0.01)
    assert not f.down.bias.any() and not f.up.bias.any()
    assert 0 < (f(h) - h).abs().max() < 1e-3
    usual = nn.Sequential(nn.Linear(768, 64), nn.GELU(), nn.Linear(64, 768))
    assert usual(h).abs().max() > 0.1  # with PyTorch's initialisation the start is far from the frozen network
    nn.init.zeros_(f.up.weight)
    assert torch.equal(f(h), h)


def test_a_start_at_zero_in_both_matrices_would_never_learn():
    f, h = Bottleneck(6, 3), torch.randn(5, 6, generator=generator(0))
    nn.init.zeros_(f.up.weight)
    f(h).square().sum().backward()
    assert bool(f.up.weight.grad.any()) and not f.down.weight.grad.any()  # the identity, and it learns
    nn.init.zeros_(f.down.weight)
    f.zero_grad()
    f(h).square().sum().backward()
    assert not f.up.weight.grad.any() and not f.down.weight.grad.any()


def test_weights_come_from_the_generator_only():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, again, other = (Bottleneck(8, 3, generator(s)).down.weight for s in (0, 0, 1))
    assert torch.equal(expected, torch.rand(2)) and torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: Bottleneck(4, 0), ValueError, "width"), (lambda: Bottleneck(0, 4), ValueError, "dim"),
        (lambda: Bottleneck(4, 2.5), TypeError, "width"), (lambda: Bottleneck(4, 2, 0), TypeError, "generator"),
        (lambda: Adapter(0), ValueError, "width"), (lambda: Adapter(4, base="last"), ValueError, "base"),
        (lambda: Adapter(4, selector="oracle"), TypeError, "selector"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, named):
    with pytest.raises(error, match=named):
        make()


def adapted(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Adapted)]


def trained(model, **settings):
    method = Adapter(4, **settings)
    run(model, STREAM, [method], batch_size=32, lr=0.01)
    return method


def test_two_in_every_block_each_before_its_result_is_added():
    model = Transformer(8, 8, 8, 2, 2, 10)
    trained(model)
    assert adapted(model) == [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attention.o", "down")]
    block, h = model.blocks[0], torch.randn(3, 8, 8, generator=generator(0))
    attention = block.attention
    f, g = attention.o.part(1), block.down.part(1)
    attention.o.use(), block.down.use()
    normed = block.norm1(h)
    middle = h + f(attention(normed))
    expected = middle + g(block.down(F.gelu(block.up(block.norm2(middle)))))
    attention.o.use(1), block.down.use(1)
    assert torch.allclose(block(h), expected, atol=1e-6)
    assert size(f) == size(g) == 2 * 4 * 8 + 8 + 4


@pytest.mark.parametrize(
    ("model", "places"),
    [(MLP(64, [12, 9], 10), ["trunk.0", "trunk.2"]), (ConvNet((1, 8, 8), 10, 2), ["trunk.7"])],
)
def test_in_other_networks_behind_every_hidden_linear_layer(model, places):
    trained(model)
    assert adapted(model) == places
    widths = [module.base.out_features for module in model.modules() if isinstance(module, Adapted)]
    assert [size(part) for m in model.modules() if isinstance(m, Adapted) for part in m.parts] == [
        2 * 4 * d + d + 4 for d in widths
    ]
    assert trained(MLP(64, [12, 9], 10), targets=["2"]).adapted[0].base.in_features == 12


def test_the_first_task_trains_the_network_and_later_ones_their_adapter():
    model = MLP(64, [12], 10)
    start = model.trunk[0].weight.clone()
    trained(model)
    layer = model.trunk[0]
    assert layer.tasks == [1] and not torch.equal(layer.base.weight, start)
    given = MLP(64, [12], 10)
    trained(given, base="given")
    assert given.trunk[0].tasks == [0, 1] and torch.equal(given.trunk[0].base.weight, start)


def test_a_new_task_starts_near_the_frozen_network():
    model = MLP(64, [12], 10)
    method = Adapter(4)
    run(model, STREAM, [method], batch_size=64, lr=0.0)
    with torch.no_grad(), evaluating(model):
        with using(model):
            base = model.features(X)
        with using(model, 1):
            assert 0 < (model.features(X) - base).abs().max() < 1e-4


def test_targets_that_do_not_exist_leave_the_model_as_it_was():
    model = MLP(64, [12], 10)
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=r"there is none for \['o'\]"):
        run(model, STREAM, [Adapter(4, targets=["o"])])
    with pytest.raises(TypeError, match="targets"):
        run(model, STREAM, [Adapter(4, targets="trunk.0")])
    assert list(model.state_dict()) == names and all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="besides its head"):
        run(MLP(64, [], 10), STREAM, [Adapter(4)])
