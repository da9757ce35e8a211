"""HAT: the gates' arithmetic, what they protect, and old answers that stay to the last bit."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from cllab.isolation import (
    HAT,
    gate_compensation,
    gate_gradient_factor,
    gate_slope,
    gate_sparsity,
    using,
)
from cllab.models import MLP, ConvNet, Transformer
from cllab.regularization import SI
from cllab.streams import digits, split
from cllab.training import Phase, Step, TaskEnded, TaskStarted, evaluating, fit, run

F64 = torch.float64
STREAM = split(digits().only(range(6)).take(150), 2, scenario="task")
OPTIMIZERS = {
    "momentum": functools.partial(SGD, momentum=0.9, weight_decay=5e-4),
    "adamw": functools.partial(AdamW, weight_decay=0.1),
}


def normed():
    torch.manual_seed(0)
    model = MLP(64, [12, 10], 10, seed=0)
    model.trunk = nn.Sequential(*model.trunk[:1], nn.BatchNorm1d(12), *model.trunk[1:])
    model.stages = (3, 5)
    return model


MODELS = {
    "mlp": lambda: MLP(64, [12, 10], 10, seed=0),
    "convolutions": lambda: ConvNet((1, 8, 8), 10, width=8, seed=0),
    "batch norm": normed,
}


def answers(model, method, task):
    with torch.no_grad(), evaluating(model):
        return method.predict(model, STREAM[task].x_test, STREAM.allowed(task, task), task).clone()


def phases(events) -> list[dict]:
    return [event.info for event in events if isinstance(event, Phase)]


# --- the arithmetic --------------------------------------------------------------------------------------


def test_the_slope_grows_from_its_inverse_to_its_largest_within_an_epoch():
    slopes = [gate_slope(b, 5, 400) for b in range(1, 6)]
    assert slopes == pytest.approx([1 / 400, 100.001875, 200.00125, 300.000625, 400], abs=1e-9)
    assert gate_slope(1, 1, 400) == 400
    assert gate_slope(2, 3, 1) == 1


@pytest.mark.parametrize("arguments", [(0, 5, 400), (6, 5, 400), (1, 0, 400), (1, 5, 0.5), (1, 5, 1e9)])
def test_a_slope_outside_the_epoch_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        gate_slope(*arguments)


def test_each_step_of_a_run_has_its_slope():
    events = list(fit(MODELS["mlp"](), STREAM, [HAT(s_max=100)], epochs=2, batch_size=16))
    told = [event.info["s"] for event in events if isinstance(event, Step) and event.task == 1]
    B = math.ceil(len(STREAM[1].y) / 16)
    assert told == [gate_slope(b, B, 100) for b in range(1, B + 1)] * 2


def test_the_gradient_factor_by_a_slow_loop():
    a_out, a_in = torch.tensor([1.0, 0.5]), torch.tensor([0.25, 1.0, 0.0])
    expected = [[1 - min(i, j) for j in a_in.tolist()] for i in a_out.tolist()]
    assert gate_gradient_factor(a_out, a_in).tolist() == expected == [[0.75, 0, 1], [0.75, 0.5, 1]]
    # the wrong ways
    assert (1 - a_out[:, None] * a_in).tolist() != expected
    assert (1 - torch.maximum(a_out[:, None], a_in[None])).tolist() != expected
    with pytest.raises(ValueError, match=r"a_in must lie in \[0, 1\]"):
        gate_gradient_factor(a_out, a_in - 1)


def test_sparsity_charges_what_is_not_used_yet():
    a = [torch.tensor([0.9, 0.2]), torch.tensor([0.5, 0.5, 1.0])]
    used = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])]
    assert gate_sparsity(a, used).item() == pytest.approx((0.2 + 0.5 + 0.5) / 3)
    assert gate_sparsity(a, [u * 0 for u in used]).item() == pytest.approx(3.1 / 5)  # the first task: a mean
    per_layer = sum((x * (1 - u)).sum() / (1 - u).sum() for x, u in zip(a, used, strict=True)) / 2
    assert per_layer.item() != pytest.approx(0.4)


def test_sparsity_is_zero_and_not_nan_when_every_unit_is_used():
    a = torch.tensor([0.3, 0.7], requires_grad=True)
    value = gate_sparsity([a], [torch.ones(2)])
    value.backward()
    assert value.item() == 0 and a.grad.tolist() == [0, 0]
    with pytest.raises(ValueError, match="used must have the shapes of gates"):
        gate_sparsity([a], [torch.ones(3)])


def test_compensation_leaves_the_gradient_of_a_gate_of_slope_one_times_the_largest_slope():
    s_max = 400.0
    for s in (1 / s_max, 0.3, 7.0):
        e = torch.linspace(-2, 2, 11, dtype=F64, requires_grad=True)
        torch.sigmoid(s * e).sum().backward()
        sigmoid = torch.sigmoid(e.detach())
        expected = s_max * sigmoid * (1 - sigmoid)
        compensated = e.grad * gate_compensation(e.detach(), s, s_max)
        assert torch.allclose(compensated, expected, atol=1e-9)
        upside_down = e.grad * s / s_max * (e.detach().cosh() + 1) / ((s * e.detach()).cosh() + 1)
        assert not torch.allclose(upside_down, expected, atol=1e-2)


def test_compensation_stays_finite_at_the_ends():
    e = torch.tensor([-6.0, 0.0, 6.0])
    assert bool(gate_compensation(e, 10_000.0, 10_000.0).isfinite().all())


# --- what is protected -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_old_answers_hang_on_exactly_the_weights_that_are_kept(name):
    """All others may become anything; any kept one between units of the last task changes its answers."""
    model, method = MODELS[name](), HAT(c=0.1)
    run(model, STREAM, [method], epochs=2, batch_size=16, lr=0.01)
    assert all(int(gates.part(task).ones().sum()) > 0 for gates in method.gates for task in range(3))
    before = [answers(model, method, task) for task in range(3)]
    source, kept = torch.Generator().manual_seed(0), 0
    factors = {id(parameter): factor for parameter, factor in method.factors()}
    trunk = [p for p in model.trunk.parameters() if p.ndim > 1 or id(p) in factors]
    with torch.no_grad():
        for parameter in trunk:
            free = factors.get(id(parameter), torch.ones(1)).expand_as(parameter) == 1
            parameter[free] = torch.randn(int(free.sum()), generator=source)
            kept += int((~free).sum())
    assert 0 < kept < sum(parameter.numel() for parameter in trunk)
    assert all(torch.equal(answers(model, method, task), logits) for task, logits in enumerate(before))
    for parameter, factor in method.factors():
        saved = parameter.detach().clone()
        with torch.no_grad():
            parameter[factor.expand_as(parameter) == 0] += 1.0
            assert not all(torch.equal(answers(model, method, task), logits) for task, logits in enumerate(before))
            parameter.copy_(saved)


def test_flattened_maps_belong_to_their_unit():
    """The slow way: a channel of the map is one unit, and feeds the four inputs of its flattened 2 x 2 map."""
    model, method = MODELS["convolutions"](), HAT(c=0.1)
    run(model, STREAM, [method], batch_size=16)
    maps, hidden = method.gates[1].used, method.gates[2].used
    weight = method.layers[2].layer.weight
    factor = next(factor for parameter, factor in method.factors() if parameter is weight)
    assert weight.shape == (32, 64)
    for i in range(32):
        for j in range(64):
            assert factor[i, j] == 1 - min(float(hidden[i]), float(maps[j // 4]))


def test_capacity_is_told_and_only_grows():
    model, method = MODELS["mlp"](), HAT()
    told = phases(fit(model, STREAM, [method], epochs=2, batch_size=16))
    assert [info["units"] for info in told] == [[12, 10]] * 3
    for earlier, later in itertools.pairwise(told):
        assert all(a <= b for a, b in zip(earlier["units used"], later["units used"], strict=True))
        assert earlier["share of weights used"] <= later["share of weights used"]
    first, second = (float(gates.used.sum()) for gates in method.gates)
    assert told[-1]["units used"] == [first, second]
    assert told[-1]["share of weights used"] == pytest.approx((64 * first + first * second) / (64 * 12 + 12 * 10))


def test_what_is_kept_is_bits_and_heads():
    method = HAT()
    run(MODELS["mlp"](), STREAM, [method], batch_size=32)
    assert method.memory_bytes() == 3 * (2 + 2) + (12 + 10) + 3 * 4 * 2 * (10 + 1)


# --- old answers -----------------------------------------------------------------------------------------


class OnlyTheGradient(HAT):
    """As in the paper: gradients are multiplied, and nothing is put back."""

    def after_step(self, ctx, batch):
        self._before = [parameter.detach().clone() for parameter, _ in self.factors()]
        super().after_step(ctx, batch)


class SoftAtTheEnd(HAT):
    """As in the paper: the gates stay sigmoids at s_max, so used is never quite 1."""

    def factors(self):
        return [(parameter, factor.clamp(min=1e-3)) for parameter, factor in super().factors()]


class ForgetsTheBiases(HAT):
    def factors(self):
        return [(parameter, factor) for parameter, factor in super().factors() if parameter.ndim > 1]


class ForgetsEarlierTasks(HAT):
    """Guards what the task before used, not the maximum over all."""

    def start_task(self, ctx):
        super().start_task(ctx)
        if ctx.task_index > 1:
            for gates in self.gates:
                gates.used = gates.parts[-2].ones()


def changed(make_model, method, optimizer, reset) -> list[bool]:
    """For each earlier task, whether any of its logits has changed since it ended."""
    model, when_learned = make_model(), []
    for event in fit(
        model, STREAM, [method], epochs=2, batch_size=8, lr=0.01, optimizer=optimizer, reset_optimizer=reset
    ):
        if isinstance(event, TaskEnded):
            assert all(
                int(gates.part(event.task).ones().sum()) > 0 for gates in method.gates
            )  # there is something to move
            when_learned.append(answers(model, method, event.task))
            assert bool(when_learned[-1][:, list(STREAM[event.task].classes)].isfinite().all())
    later = [answers(model, method, task) for task in range(2)]
    return [not torch.equal(a, b) for a, b in zip(when_learned[:2], later, strict=True)]


@pytest.mark.parametrize("reset", [True, False], ids=["new optimiser", "kept optimiser"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_old_logits_stay_to_the_last_bit(name, optimizer, reset):
    assert changed(MODELS[name], HAT(c=0.1), OPTIMIZERS[optimizer], reset) == [False, False]


@pytest.mark.parametrize("wrong", [OnlyTheGradient, SoftAtTheEnd, ForgetsTheBiases, ForgetsEarlierTasks])
def test_wrong_variants_move(wrong):
    assert any(changed(MODELS["mlp"], wrong(), OPTIMIZERS["momentum"], True))


def test_without_decay_and_momentum_a_gradient_of_zero_is_enough():
    plain = SGD
    assert changed(MODELS["mlp"], OnlyTheGradient(), plain, True) == [False, False]


# --- gates -----------------------------------------------------------------------------------------------


def test_gates_are_soft_in_training_and_hard_at_test():
    model, method = MODELS["mlp"](), HAT()
    for event in fit(model, STREAM, [method], batch_size=16):
        gates = method.gates[0]
        if isinstance(event, TaskStarted):
            e = gates.chosen()[0].real.detach()
            assert torch.equal(gates.a(), torch.sigmoid(gate_slope(1, math.ceil(event.info["samples"] / 16), 400) * e))
            model.eval()
            assert torch.equal(gates.a(), e > 0)
            model.train()
        if isinstance(event, TaskEnded):
            assert gates.part(event.task).real is None
    closed = ~method.gates[1].part(2).ones()
    with using(model, 2):
        features = model.features(STREAM[2].x_test)
        assert int(closed.sum()) > 0 and bool((features[:, closed] == 0).all())
    with using(model):
        assert not bool((model.features(STREAM[2].x_test)[:, closed] == 0).all())  # no task, no gates


def test_a_task_whose_gates_all_closed_answers_with_numbers():
    model, method = MODELS["mlp"](), HAT(c=1e4)
    events = list(fit(model, STREAM, [method], epochs=2, batch_size=8, lr=0.01))
    assert phases(events)[0]["units open"] == [0, 0]
    logits = answers(model, method, 0)
    head = model.head.part(0)
    assert torch.equal(logits[:, list(STREAM[0].classes)], head.bias.expand(len(logits), -1))


def test_when_no_unit_is_free_later_tasks_still_learn_their_heads():
    method = HAT(c=0, gate_lr=0)
    model = MLP(64, [2], 10, seed=0)
    stream = split(digits().take(200), 1, scenario="task")
    told = phases(fit(model, stream, [method], batch_size=16))
    assert told[-1]["units used"] == [2] and told[-1]["share of weights used"] == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gates_take_the_papers_step_whatever_the_optimiser(optimizer):
    """e <- e - gate_lr s_max sigmoid'(e) dL/da, here with the sparsity term as all of dL/da."""
    model, method = MODELS["mlp"]().double(), HAT(c=2.0, gate_lr=0.1, s_max=100)
    with torch.no_grad():
        model.head.weight.zero_()  # so that the task loss does not depend on the gates
    events = fit(model, STREAM, [method], batch_size=16, optimizer=OPTIMIZERS[optimizer])
    while not isinstance(next(events), TaskStarted):
        pass
    e = [e.detach().clone() for e in method.embeddings()]
    next(events)
    for before, after in zip(e, method.embeddings(), strict=True):
        sigmoid = torch.sigmoid(before)
        step = 0.1 * 100 * sigmoid * (1 - sigmoid) * 2.0 / 22
        assert torch.allclose(after, before - step, atol=1e-9)
        assert after.grad is None


# --- runs ------------------------------------------------------------------------------------------------


class LosesItsSlope(HAT):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "s": 1.0})


LosesItsSlope.__name__ = HAT.__name__  # the name decides what a method draws, and what a checkpoint asks for


@pytest.mark.parametrize(("resumed_with", "same"), [(HAT, True), (LosesItsSlope, False)])
@pytest.mark.parametrize("reset", [True, False])
def test_a_resumed_run_is_the_uninterrupted_one(resumed_with, same, reset, tmp_path):
    settings = {"epochs": 2, "batch_size": 8, "lr": 0.01, "optimizer": OPTIMIZERS["momentum"], "reset_optimizer": reset}
    whole, path = normed(), tmp_path / "checkpoint"
    run(whole, STREAM, [HAT()], **settings)
    steps_of_second = 0
    for event in fit(normed(), STREAM, [HAT()], checkpoint=path, checkpoint_every=1, **settings):
        steps_of_second += isinstance(event, Step) and event.task == 1
        if steps_of_second == 4:
            break
    resumed = normed()
    run(resumed, STREAM, [resumed_with()], resume=path, **settings)
    equal = [torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)]
    assert all(equal) == same


def test_a_run_resumed_between_tasks_is_the_uninterrupted_one(tmp_path):
    whole, path = normed(), tmp_path / "checkpoint"
    run(whole, STREAM, [HAT()], batch_size=8)
    for event in fit(normed(), STREAM, [HAT()], batch_size=8, checkpoint=path):
        if isinstance(event, TaskEnded) and event.task == 1:
            break
    resumed = normed()
    run(resumed, STREAM, [HAT()], batch_size=8, resume=path)
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_the_same_object_runs_again_on_the_same_model():
    model, method = normed(), HAT()
    for _ in range(2):
        run(model, STREAM, [method], batch_size=16)
        assert [gates.tasks for gates in method.gates] == [[0, 1, 2]] * 2
        assert isinstance(method.gates[0].base, nn.ReLU)
    with pytest.raises(ValueError, match="parts of an earlier run"):
        run(model, STREAM, [HAT()])


def test_two_runs_from_one_seed_are_one():
    a, b = MODELS["mlp"](), MODELS["mlp"]()
    method = HAT()
    for model in (a, b):
        run(model, STREAM, [method], batch_size=16)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_tasks_of_two_digits_are_learned_and_kept():
    stream = split(digits(), 2, scenario="task")
    history = run(MLP(64, [100], 10), stream, [HAT()], epochs=5, batch_size=32, lr=0.01)
    assert history.metrics()["average_accuracy"] >= 0.95
    assert history.metrics()["forgetting"] == 0


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"s_max": 0.5}, "s_max must be finite and between 1"),
        ({"s_max": 1e6}, "s_max must be finite and between 1"),
        ({"c": -1}, "c must be finite and at least 0"),
        ({"gate_lr": -1}, "gate_lr must be finite and at least 0"),
        ({"selector": "centroid"}, "selector must be a TaskSelector"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        HAT(**arguments)


def with_trunk(*modules, stages):
    model = MLP(64, [12], 10)
    model.trunk, model.stages = nn.Sequential(*modules), stages
    model.head = nn.Linear(12, 10)
    return model


shared = nn.Linear(64, 64)
REFUSED = {
    "no Classifier": (lambda: Transformer(8, 8, 8, 1, 2, 10), "must be a cllab.models.Classifier"),
    "no units": (lambda: MLP(64, [], 10), "must have a hidden stage"),
    "layer norm": (lambda: with_trunk(nn.Linear(64, 12), nn.LayerNorm(12), nn.ReLU(), stages=(3,)), "LayerNorm"),
    "two layers": (lambda: with_trunk(nn.Linear(64, 9), nn.Linear(9, 12), stages=(2,)), r"\['Linear', 'Linear'\]"),
    "no layer": (lambda: with_trunk(nn.Linear(64, 12), nn.ReLU(), nn.ReLU(), stages=(2, 3)), "stage 2 must have one"),
    "unguarded": (
        lambda: with_trunk(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 12), stages=(2,)),
        "no parameters between its last stage and the head",
    ),
    "shared": (lambda: with_trunk(shared, shared, nn.Linear(64, 12), stages=(1, 2, 3)), "a layer of its own"),
    "units elsewhere": (lambda: with_trunk(nn.Unflatten(1, (8, 8)), nn.Linear(8, 4), nn.Flatten(0, 1), nn.Linear(4, 12),
                        stages=(2, 4)), r"rows of shape \(8, 4\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_whose_units_cannot_be_gated_stays_as_it_is(name):
    make_model, message = REFUSED[name]
    model = make_model()
    head = model.head
    with pytest.raises((TypeError, ValueError), match=message):
        run(model, STREAM, [HAT()])
    assert model.head is head and all(parameter.requires_grad for parameter in model.parameters())


def test_path_integrals_are_refused():
    model = MODELS["mlp"]()
    head = model.head
    with pytest.raises(ValueError, match="must not combine HAT with SI"):
        run(model, STREAM, [HAT(), SI()])
    assert model.head is head
