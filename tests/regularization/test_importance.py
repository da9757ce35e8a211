"""SI, MAS and RWalk: the worked numbers, conservation along the path, and springs that hold."""

import numpy as np
import pytest
import torch
from torch import nn

from cllab.models import MLP
from cllab.regularization import EWC, MAS, SI, RWalk, output_sensitivity, path_importance, path_integral, path_score
from cllab.replay import ExperienceReplay
from cllab.streams import Stream, Task, digits, permuted, points, split
from cllab.training import Method, Phase, fit, run

D = torch.float64


def t(*values):
    return torch.tensor(values, dtype=D)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- SI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eta", "xi", "expected"), [(0.1, 1e-12, 1.111111), (0.01, 1e-12, 1.010101), (0.1, 0.1, 1.010101)]
)
def test_path_of_gradient_descent_on_a_parabola(eta, xi, expected):
    """1/2 a theta^2 from 1 to 0 with a = 2: omega = a / (2 - eta a)."""
    a, theta, omega = 2.0, t(1.0), t(0.0)
    for _ in range(5000):
        after = theta - eta * a * theta
        omega = path_integral(omega, a * theta, theta, after)
        theta = after
    assert path_importance(omega, t(1.0), theta, xi).item() == pytest.approx(expected, abs=1e-6)


def test_a_negative_importance_counts_as_zero():
    assert path_importance(t(-1.0, 2.0), t(0, 0), t(1, 1), 1.0).tolist() == [0.0, 1.0]


class Pull(Method):
    """A strong penalty that pulls every weight to 1: nothing that a path integral of the task should notice."""

    def losses(self, ctx, batch, outputs):
        return {"pull": 3.0 * sum((p - 1.0).square().sum() for p in ctx.model.parameters())}


class FullGradient(SI):
    """The common error: the gradient of the whole loss, penalty included."""

    def gradients(self, ctx):
        ctx.task_gradient = {name: p.grad.clone() for name, p in ctx.model.named_parameters()}
        super().gradients(ctx)


@pytest.mark.parametrize(("kind", "conserves"), [(SI, True), (FullGradient, False)])
def test_omega_is_what_the_loss_fell_by(kind, conserves):
    data = points(n=60)
    task = Task(data.x, data.y, data.x_test, data.y_test, (0, 1, 2, 3), "all")
    model = MLP(2, [8], 4).double()

    def loss():
        return nn.functional.cross_entropy(model(data.x.double()), data.y).item()

    before, method = loss(), kind(0.0)
    arguments = {"epochs": 300, "batch_size": 10_000, "lr": 0.002, "optimizer": "sgd"}
    events = list(fit(model, Stream((task,), "class", 4), [Pull(), method], **arguments))
    integral = next(e for e in events if isinstance(e, Phase)).info["sum of omega"]
    fall = before - loss()
    assert (abs(integral - fall) < 0.05 * abs(fall)) == conserves, (integral, fall)


def test_importance_adds_up_over_tasks_and_is_never_negative():
    stream, method = split(points(n=80), 2, scenario="domain"), SI(0.5)
    events = list(fit(MLP(2, [16], 2), stream, [method], epochs=5, lr=0.01))
    largest = [e.info["max Omega"] for e in events if isinstance(e, Phase)]
    assert len(method.held) == 1 and largest[1] >= largest[0] > 0
    assert all(Omega.min() >= 0 for Omega in method.held[0].F.values())


# --- MAS --------------------------------------------------------------------------------------------------------


def linear(*weight):
    model = nn.Linear(len(weight), 1, bias=False, dtype=D)
    with torch.no_grad():
        model.weight.copy_(t(*weight))
    return model


def test_absolute_values_are_taken_for_every_row():
    x = t([1, 0], [1, -2])
    model = linear(1, 1)
    assert output_sensitivity(model, x)["weight"].tolist() == [[2.0, 2.0]]
    of_batch = torch.autograd.grad(model(x).square().sum(dim=1).mean(), model.weight)[0].abs()
    assert of_batch.tolist() == [[0.0, 2.0]]  # the authors' order: signs cancel


@pytest.mark.parametrize(
    "model", [MLP(3, [5], 4), nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 4))]
)
def test_equals_one_backward_pass_per_row(model):
    model, x = model.double(), torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    allowed = torch.tensor([True, False, True, True])
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for row in x:
        squared = model(row[None])[0, allowed].square().sum()
        for total, g in zip(expected, torch.autograd.grad(squared, list(model.parameters())), strict=True):
            total += g.abs() / len(x)
    for chunk in (1, 3, 256):
        found = output_sensitivity(model, x, allowed=allowed, chunk=chunk).values()
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = output_sensitivity(model, x)
    assert model.training and all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, output_sensitivity(model, x)[n]) for n, v in first.items())


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((None, t([1, 0])), TypeError, "model"), ((linear(1, 1), [1.0]), TypeError, "x"),
        ((linear(1, 1), t([1, 0, 0])), ValueError, "x must"), ((linear(1, 1), torch.empty(0, 2, dtype=D)), ValueError, "x"),
        ((linear(float("nan"), 1), t([1, 0])), ValueError, "finite logits"), ((linear(1e200, 1), t([1e200, 0])), ValueError, "logits|overflow"),
        ((linear(1, 1).requires_grad_(False), t([1, 0])), ValueError, "trainable"),
    ],
)  # fmt: skip
def test_bad_input_to_sensitivity(arguments, error, named):
    with pytest.raises(error, match=named):
        output_sensitivity(*arguments)


# --- RWalk ------------------------------------------------------------------------------------------------------


def test_path_score_by_hand():
    assert path_score(t(0.5, -0.5), t(2, 2), t(0.5, 0.5), 0.25).tolist() == [1.0, 0.0]  # 0.5 / (0.25 + 0.25)


def test_walk_on_one_weight_by_hand():
    """Two full-batch SGD steps of a one-weight logistic model, all quantities recomputed by hand."""
    x, y = t([1.0], [2.0]), torch.tensor([1, 1])
    task = Task(x, y, x, y, (0, 1), "one")
    model = nn.Sequential(nn.Linear(1, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(t([0.3], [-0.2]))
    theta, F, fall, start = model[0].weight.detach().clone(), 0.0, 0.0, model[0].weight.detach().clone()
    for _ in range(2):
        weight = theta.clone().requires_grad_()
        g = torch.autograd.grad(nn.functional.cross_entropy(x @ weight.T, y), weight)[0]
        after = theta - 0.1 * g
        F, fall, theta = 0.9 * g**2 + 0.1 * F, fall - g * (after - theta), after
    s = (fall / (0.5 * F * (theta - start) ** 2 + 1e-3)).clamp(min=0)
    method = RWalk(interval=2)
    arguments = {"epochs": 2, "batch_size": 2, "lr": 0.1, "optimizer": "sgd"}
    run(model, Stream((task,), "class", 2), [method], **arguments)
    assert torch.allclose(model[0].weight, theta, atol=1e-12)
    assert torch.allclose(method.held[0].F["0.weight"], F / F.max() + s / s.max(), atol=1e-12)


def test_the_end_of_a_task_and_frozen_weights_lose_no_walk():
    """Three steps with an interval of ten still score; what is frozen in a later task keeps its importance."""
    stream, scores = split(digits().take(60), 5), []

    class Freeze(Method):
        def start_task(self, ctx):
            ctx.model.trunk[0].requires_grad_(ctx.task_index == 0)

    method = RWalk(interval=10)
    model = MLP(64, [8], 10)
    events = fit(model, stream, [method, Freeze()], batch_size=10, optimizer="sgd", lr=0.1)
    for event in events:
        if isinstance(event, Phase):
            scores.append({name: value.clone() for name, value in method.held[0].F.items()})
    first, second = scores
    assert method.score["trunk.0.weight"].max() > 0
    assert torch.equal(first["trunk.0.weight"], second["trunk.0.weight"])
    assert not torch.equal(first["head.weight"], second["head.weight"])


# --- in the loop ------------------------------------------------------------------------------------------------

ZERO = {"SI": lambda: SI(0.0), "MAS": lambda: MAS(0.0), "RWalk": lambda: RWalk(0.0)}


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(200), 2)


@pytest.mark.parametrize("name", ZERO)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_zero_is_fine_tuning_bit_for_bit(stream, name, optimizer):
    plain, zero = MLP(64, [16], 10), MLP(64, [16], 10)
    run(plain, stream, optimizer=optimizer)
    run(zero, stream, [ZERO[name]()], optimizer=optimizer)
    assert torch.equal(bits(plain), bits(zero))


@pytest.mark.parametrize("make", [lambda: SI(30.0), lambda: MAS(1.0), lambda: RWalk(30.0), lambda: EWC(100.0)])
def test_springs_hold_the_first_task(make):
    """Domain-incremental permuted features: each keeps the first task better than fine-tuning, over three seeds."""
    gains = []
    for seed in range(3):
        stream = permuted(digits().take(600, seed=seed), 2)
        first = [
            run(MLP(64, [32], 10, seed=seed), stream, methods, epochs=10, lr=5e-3, seed=seed).accuracy[1, 0]
            for methods in ([], [make()])
        ]
        gains.append(first[1] - first[0])
    assert np.mean(gains) > 0.1, gains


class Undo(Method):
    """Moves weights after the step, as a warm-up or a proximal step does."""

    def gradients(self, ctx):
        self.before = ctx.model.head.weight.detach().clone()

    @torch.no_grad()
    def after_step(self, ctx, batch):
        ctx.model.head.weight.copy_(self.before)


@pytest.mark.parametrize("make", [SI, RWalk])
def test_the_path_is_that_of_the_step_as_it_ended(stream, make):
    found = []
    for order in (1, -1):
        method = make(0.1)
        run(MLP(64, [16], 10), stream, [method, Undo()][::order])
        found.append(method.held[0].F)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    if make is SI:
        assert float(found[0]["head.weight"].max()) == 0 < float(found[0]["trunk.0.weight"].max())


class Spare(MLP):
    """Has a parameter that no answer uses: it gets no gradient, so no optimiser may move it."""

    def __init__(self):
        super().__init__(64, [8], 10)
        self.spare = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("make", [SI, MAS, RWalk, EWC])
def test_zero_leaves_a_parameter_without_gradient_alone(stream, make):
    model = Spare()
    run(model, stream, [make(0.0)], optimizer=lambda p, lr: torch.optim.SGD(p, lr, weight_decay=0.1), lr=0.1)
    assert torch.equal(model.spare, torch.ones(3))


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: path_importance(t([1.0]), t([1.0]), t([1.0]), 0.0), ValueError, "xi"),
        (lambda: path_importance(t([float("nan")]), t([1.0]), t([1.0]), 0.1), ValueError, "omega"),
        (lambda: path_importance(t([1.0]), t([1.0, 2.0]), t([1.0]), 0.1), ValueError, "start"),
        (lambda: path_score(t([1.0]), t([-1.0]), t([1.0]), 0.1), ValueError, "F must not"),
        (lambda: path_score(t([1.0]), t([1.0]), t([1.0]), -1.0), ValueError, "epsilon"),
        (lambda: path_integral(t([1.0]), t([1.0]), t([1.0]), t([1.0, 2.0])), ValueError, "one shape"),
    ],
)
def test_bad_paths(call, error, named):
    with pytest.raises(error, match=named):
        call()


@pytest.mark.parametrize("make", [SI, MAS, RWalk])
def test_in_company(stream, make):
    history = run(MLP(64, [16], 10), stream, [make(0.1), ExperienceReplay(50), EWC(1.0)])
    assert np.isfinite(history.accuracy).all()
    assert set(history.losses[-1].losses) == {"task", make.__name__, "EWC"}


class Grow(Method):
    def start_task(self, ctx):
        ctx.model.grow_head(2 * ctx.task_index + 2, torch.Generator().manual_seed(ctx.task_index))


@pytest.mark.parametrize("make", [SI, MAS, RWalk])
@pytest.mark.parametrize("order", [1, -1])
def test_a_head_that_grows_is_held_where_it_was(stream, make, order):
    method = make(0.1)
    history = run(MLP(64, [16], 2), stream, [method, Grow()][::order])
    assert np.isfinite(history.accuracy).all() and method.held[0].F["head.weight"].shape == (10, 16)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: SI(-1.0), ValueError, "c must"), (lambda: SI(1.0, 0.0), ValueError, "xi"), (lambda: SI("1"), TypeError, "c must"),
        (lambda: MAS(float("nan")), ValueError, "lam"), (lambda: MAS(1.0, n_samples=0), ValueError, "n_samples"),
        (lambda: RWalk(-1.0), ValueError, "lam"), (lambda: RWalk(alpha=1.5), ValueError, "alpha"),
        (lambda: RWalk(interval=0), ValueError, "interval"), (lambda: RWalk(epsilon=0.0), ValueError, "epsilon"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, named):
    with pytest.raises(error, match=named):
        make()
