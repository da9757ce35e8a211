"""Piggyback: the straight-through gradient, bits and nothing else kept, a backbone that nothing moves."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW

from cllab.isolation import MaskedLayer, Piggyback, pack_bits, straight_through_mask, unpack_bits, using
from cllab.isolation.bits import Bits
from cllab.isolation.piggyback import Mask
from cllab.models import MLP, ConvNet, Transformer
from cllab.regularization import SI
from cllab.streams import digits, split
from cllab.training import Phase, TaskEnded, TaskStarted, fit, run

F64 = torch.float64
STREAM = split(digits().only(range(6)).take(150), 2, scenario="task")
OPTIMIZERS = {
    "momentum": functools.partial(SGD, momentum=0.9, weight_decay=5e-4),
    "adamw": functools.partial(AdamW, weight_decay=0.1),
}
MODELS = {
    "mlp": lambda: MLP(64, [12, 10], 10, seed=0),
    "convolutions": lambda: ConvNet((1, 8, 8), 10, width=3, seed=0),
    "transformer": lambda: Transformer(8, 8, 8, 1, 2, 10, seed=0),
}


def real_layers(model):
    return [module for module in model.modules() if isinstance(module, MaskedLayer)]


def answers(model, method, task):
    with torch.no_grad():
        return method.predict(model, STREAM[task].x_test, STREAM.allowed(task, task), task).clone()


# --- straight through ------------------------------------------------------------------------------------


def worked_example(mask_of) -> tuple[float, list[float] | None]:
    m = torch.tensor([0.01, 0.004, 0.006], requires_grad=True)
    W, x = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 3.0, -2.0])
    y = (W * mask_of(m, 0.005)) @ x
    if y.requires_grad:
        y.backward()
    return y.item(), None if m.grad is None else m.grad.tolist()


def test_the_worked_example():
    assert worked_example(straight_through_mask) == (1.0, [2.0, -3.0, -1.0])


def no_gradient(m, tau):
    return (m > tau).to(m.dtype)


def gradient_of_kept_weights_only(m, tau):
    return (m > tau) * (1 + m - m.detach())


def soft(m, tau):
    return torch.sigmoid(m - tau)


@pytest.mark.parametrize("wrong", [no_gradient, gradient_of_kept_weights_only, soft])
def test_masks_that_look_right_are_not(wrong):
    assert worked_example(wrong) != worked_example(straight_through_mask)


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv2d(5, 4, 3, padding=1, stride=2), nn.Conv1d(5, 4, 2)])
def test_the_gradient_is_that_of_the_masked_weight_times_the_weight(layer):
    source = torch.Generator().manual_seed(0)
    layer = layer.to(F64)
    rows = (7, *[5] * layer.weight.ndim)[: layer.weight.ndim]
    x = torch.randn(rows, generator=source, dtype=F64)
    masked = MaskedLayer(layer)
    masked.add("a", Mask(0.01 * torch.rand(layer.weight.shape, generator=source, dtype=F64), 0.005))
    y = masked(x)
    y.square().sum().backward()
    # the slow way: a layer whose weight is the product, as a leaf
    plain = type(layer)(5, 4, **({} if isinstance(layer, nn.Linear) else
                                 {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}))  # fmt: skip
    plain = plain.to(F64)
    mask = masked.part("a").ones()
    with torch.no_grad():
        plain.weight.copy_(layer.weight * mask)
        plain.bias.copy_(layer.bias)
    expected = plain(x)
    expected.square().sum().backward()
    assert 0 < int(mask.sum()) < mask.numel()
    assert torch.allclose(y, expected, atol=1e-9)
    assert torch.allclose(masked.part("a").real.grad, plain.weight.grad * layer.weight, atol=1e-9)


def test_at_the_threshold_a_weight_is_off():
    assert straight_through_mask(torch.tensor([0.5, 0.5000001]), 0.5).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("m", [torch.tensor([float("nan")]), torch.tensor([1]), [0.1]])
def test_a_mask_of_anything_but_finite_numbers_is_refused(m):
    with pytest.raises((TypeError, ValueError), match="m must"):
        straight_through_mask(m, 0.0)


def masks_after(optimizer, k: float) -> torch.Tensor:
    """A mask trained for 40 steps with learning rate, threshold and start of m all k times as large."""
    source = torch.Generator().manual_seed(1)
    layer = MaskedLayer(nn.Linear(6, 3))
    with torch.no_grad():
        layer.base.weight.copy_(torch.randn(3, 6, generator=source))
        layer.base.bias.zero_()
    x, y = torch.randn(20, 6, generator=source), torch.randn(20, 3, generator=source)
    layer.add(0, Mask(torch.full((3, 6), 0.01 * k), 0.005 * k))
    steps = optimizer([layer.part(0).real], lr=1e-3 * k)
    for _ in range(40):
        steps.zero_grad()
        (layer(x) - y).square().mean().backward()
        steps.step()
    return layer.part(0).ones()


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_only_the_number_of_steps_to_the_threshold_counts(optimizer):
    once, scaled = masks_after(optimizer, 1.0), masks_after(optimizer, 8.0)
    assert torch.equal(once, scaled) and 0 < int(once.sum()) < once.numel()


# --- bits ------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=40))
def test_bits_are_packed_as_numpy_packs_them(values):
    mask = torch.tensor(values, dtype=torch.bool)
    bits = pack_bits(mask)
    assert bits.tolist() == np.packbits(np.array(values, dtype=bool), bitorder="little").tolist()
    assert torch.equal(unpack_bits(bits, mask.shape), mask)


def test_a_mask_of_any_shape_comes_back():
    mask = torch.rand(3, 5, 2, 2, generator=torch.Generator().manual_seed(0)) > 0.3
    assert torch.equal(unpack_bits(pack_bits(mask), mask.shape), mask)
    with pytest.raises(ValueError, match="bits must have 9 bytes"):
        unpack_bits(pack_bits(mask), (65,))
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        pack_bits(mask.float())
    with pytest.raises(TypeError, match="bits must be a uint8 tensor"):
        unpack_bits(mask, (3,))


def test_what_is_kept_is_a_bit_per_weight_and_the_heads():
    model, method = MODELS["mlp"](), Piggyback(base="given")
    layers = [64 * 12, 12 * 10]
    for event in fit(model, STREAM, [method], batch_size=32):
        if isinstance(event, TaskEnded):
            tasks = event.task + 1
            bits = tasks * sum(math.ceil(n / 8) for n in layers)
            assert event.info["memory_bytes"] == {repr(method): bits + tasks * 4 * 2 * (10 + 1)}
            assert all(part.real is None for layer in real_layers(model) for part in layer.parts)


def test_a_phase_tells_how_many_weights_stay_on():
    events = list(fit(MODELS["mlp"](), STREAM, [Piggyback()], epochs=3, batch_size=8, lr=0.002))
    told = [event.info for event in events if isinstance(event, Phase)]
    assert [info["weights"] for info in told] == [64 * 12 + 12 * 10] * 2  # the first task has no mask
    assert all(0 < info["share of weights on"] < 1 for info in told)


# --- the backbone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_task_starts_from_the_whole_backbone(name):
    model = MODELS[name]()
    x = STREAM[0].x_test
    alone, seen = model.features(x).detach(), 0
    for event in fit(model, STREAM, [Piggyback(base="given")], batch_size=32, lr=0.01):
        if isinstance(event, TaskStarted):
            assert torch.equal(model.features(x), alone)
            assert {layer.active for layer in real_layers(model)} == {(event.task,)}
            seen += 1
    assert seen == 3
    assert not torch.equal(model.features(x), alone)  # the last mask has been trained
    with using(model):
        assert torch.equal(model.features(x), alone)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_backbone_does_not_move(optimizer):
    model = MODELS["mlp"]()
    norm = nn.BatchNorm1d(12)
    model.trunk = nn.Sequential(*model.trunk[:1], norm, *model.trunk[1:])
    kept = {name: value.clone() for name, value in model.trunk.state_dict().items()}
    layers = [model.trunk[0], norm, model.trunk[3]]
    run(model, STREAM, [Piggyback(base="given")], epochs=2, batch_size=16, lr=0.01, optimizer=OPTIMIZERS[optimizer])
    now = [value for layer in layers for value in layer.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(kept.values(), now, strict=True))


def test_a_layer_in_two_places_gets_one_mask():
    model = MLP(64, [12, 12], 10)
    model.trunk = nn.Sequential(*model.trunk[:4], model.trunk[2], nn.ReLU())
    run(model, STREAM, [Piggyback()], batch_size=32)
    assert model.trunk[2] is model.trunk[4] and len(real_layers(model)) == 2


# --- old answers -----------------------------------------------------------------------------------------


class Unpacked(Piggyback):
    """Keeps the real masks in the optimiser's hands, with gradients of zero."""

    def end_task(self, ctx):
        for layer in self.layers:
            layer.pack = lambda newest=True: None
        yield from super().end_task(ctx)

    def gradients(self, ctx):
        for layer in self.layers:
            for part in layer.parts[:-1]:
                part.real.requires_grad_(True).grad = torch.zeros_like(part.real)

    def parameters(self, ctx):
        for part in (part for layer in self.layers for part in layer.parts):
            part.real.requires_grad_(True)
        return super().parameters(ctx)


class Thawed(Piggyback):
    """Freezes nothing."""

    def freeze(self, parameters, modules=()):
        pass


def changed(make_model, method, optimizer, reset) -> list[bool]:
    """For each earlier task, whether any of its logits has changed since it ended."""
    model, when_learned = make_model(), []
    for event in fit(
        model, STREAM, [method], epochs=3, batch_size=8, lr=0.01, optimizer=optimizer, reset_optimizer=reset
    ):
        if isinstance(event, TaskEnded):
            when_learned.append(answers(model, method, event.task))
    later = [answers(model, method, task) for task in range(2)]
    return [not torch.equal(a, b) for a, b in zip(when_learned[:2], later, strict=True)]


@pytest.mark.parametrize("reset", [True, False], ids=["new optimiser", "kept optimiser"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("base", ["first", "given"])
def test_old_logits_stay_to_the_last_bit(base, optimizer, reset):
    assert changed(MODELS["mlp"], Piggyback(base=base), OPTIMIZERS[optimizer], reset) == [False, False]


@pytest.mark.parametrize("wrong", [Unpacked, Thawed])
def test_wrong_variants_move(wrong):
    decaying = functools.partial(AdamW, weight_decay=1.0)
    assert any(changed(MODELS["mlp"], wrong(base="given"), decaying, False))


@pytest.mark.parametrize("stop", ["in a task", "between tasks"])
def test_a_resumed_run_is_the_uninterrupted_one(stop, tmp_path):
    settings = {"epochs": 2, "batch_size": 16, "lr": 0.005, "optimizer": OPTIMIZERS["momentum"]}
    settings["reset_optimizer"] = False
    whole, path = MODELS["mlp"](), tmp_path / "checkpoint"
    run(whole, STREAM, [Piggyback()], **settings)
    every = {"checkpoint_every": 3} if stop == "in a task" else {}
    tasks = 0
    for event in fit(MODELS["mlp"](), STREAM, [Piggyback()], checkpoint=path, **every, **settings):
        tasks += isinstance(event, TaskEnded)
        if tasks == 2 and (stop == "between tasks" or getattr(event, "step", 0) % 3 == 1):
            break
    resumed, method = MODELS["mlp"](), Piggyback()
    run(resumed, STREAM, [method], resume=path, **settings)
    assert {part.real for layer in real_layers(resumed) for part in layer.parts} == {None}
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_the_same_object_runs_again_and_masks_do_not_pile_up():
    model, method = MODELS["mlp"](), Piggyback()
    for _ in range(2):
        run(model, STREAM, [method], batch_size=32)
        assert [layer.tasks for layer in real_layers(model)] == [[1, 2]] * 2
        assert sum(isinstance(module, Bits) for module in model.modules()) == 4
    other = MODELS["mlp"]()
    run(other, STREAM, [method], batch_size=32)
    assert len(real_layers(other)) == 2


def test_tasks_of_two_digits_are_learned_and_kept():
    history = run(MLP(64, [100], 10), split(digits(), 2, scenario="task"), [Piggyback()], epochs=5, batch_size=32)
    assert history.metrics()["average_accuracy"] >= 0.95
    assert history.metrics()["forgetting"] == 0


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": 0.005}, "init must be above threshold"),
        ({"threshold": float("nan")}, "threshold must be finite"),
        ({"threshold": "a"}, "threshold must be a number"),
        ({"base": "none"}, "base must be one of"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Piggyback(**arguments)


def test_a_model_without_layers_to_mask_stays_as_it_is():
    model = MLP(64, [], 10)
    head = model.head
    with pytest.raises(ValueError, match="besides its head"):
        run(model, STREAM, [Piggyback()])
    assert model.head is head and head.weight.requires_grad


def test_a_masked_layer_refuses_what_does_not_fit():
    layer = MaskedLayer(nn.Linear(3, 2))
    with pytest.raises(TypeError, match="base must be a linear or convolution layer"):
        MaskedLayer(nn.ReLU())
    with pytest.raises(TypeError, match="part must be a Mask"):
        layer.add(0, nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        layer.add(0, Mask(torch.ones(3, 2), 0.0))
    layer.add(0, Mask(torch.ones(2, 3), 0.0))
    with pytest.raises(ValueError, match="one task or none"):
        layer.use(0, 0)
    with pytest.raises(ValueError, match="task must be one of"):
        layer.use(3)


def test_path_integrals_are_refused():
    model = MODELS["mlp"]()
    head = model.head
    with pytest.raises(ValueError, match="must not combine Piggyback with SI"):
        run(model, STREAM, [Piggyback(), SI()])
    assert model.head is head
