"""EWC: the penalty's exact value and gradient, its minimisers on quadratics, and its two kinds of step."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from cllab.models import MLP
from cllab.regularization import EWC, fisher_diagonal, proximal_step, quadratic_penalty
from cllab.streams import Stream, digits, permuted, points, split
from cllab.training import Method, Phase, Step, fit, run


def one(value):
    return torch.tensor([float(value)], dtype=torch.float64)


class Point(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.theta = nn.Parameter(one(value))


def test_value_and_gradient():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    star, F = {"weight": torch.tensor([[0.0, 4.0]]).double()}, {"weight": torch.tensor([[3.0, 0.5]]).double()}
    penalty = quadratic_penalty(model, star, F)
    assert penalty.item() == pytest.approx(0.5 * (3 * 1 + 0.5 * 4))
    penalty.backward()
    assert torch.equal(model.weight.grad, torch.tensor([[3.0, -1.0]]).double())  # F (theta - theta*)


def test_the_gradient_that_is_written_down_is_autograds():
    source = torch.Generator().manual_seed(0)
    model = MLP(3, [4], 2).double()
    star, F = (
        {n: torch.rand(p.shape, generator=source, dtype=p.dtype) for n, p in model.named_parameters()} for _ in "ab"
    )
    traced = 0.5 * sum((F[n] * (p - star[n]) ** 2).sum() for n, p in model.named_parameters())
    expected = torch.autograd.grad(3 * traced, list(model.parameters()))
    penalty = quadratic_penalty(model, star, F)
    gradients = torch.autograd.grad(3 * penalty, list(model.parameters()))
    assert penalty.item() == pytest.approx(traced.item(), abs=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(gradients, expected, strict=True))


def test_zero_with_zero_gradient_at_the_anchor():
    model = MLP(3, [4], 2)
    star = {n: p.detach().clone() for n, p in model.named_parameters()}
    penalty = quadratic_penalty(model, star, {n: torch.rand_like(p) for n, p in star.items()})
    penalty.backward()
    assert penalty.item() == 0 and all(p.grad.eq(0).all() for p in model.parameters())


def test_an_anchor_that_is_not_detached_would_do_nothing():
    """The error of seed 002: (p - p.clone()) has the right value and no gradient."""
    model = Point(2.0)
    attached = model.theta.clone() - 1.0
    (0.5 * 4 * (model.theta - attached) ** 2).sum().backward()
    assert model.theta.grad.item() == 0
    model = Point(2.0)
    quadratic_penalty(model, {"theta": one(1)}, {"theta": one(4)}).backward()
    assert model.theta.grad.item() == 4


def minimise(terms, start=0.0, steps=300, lr=0.05):
    model = Point(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        terms(model).backward()
        optimizer.step()
    return model.theta.item()


def test_the_half_matters():
    """1/2 4 theta^2, then 1/2 (theta - 1)^2: with the half the minimiser is the joint optimum 0.2."""
    star, F = {"theta": one(0)}, {"theta": one(4)}

    def task_b(m):
        return 0.5 * (m.theta - 1).square().sum()

    assert minimise(lambda m: task_b(m) + quadratic_penalty(m, star, F)) == pytest.approx(0.2, abs=1e-9)
    without = minimise(lambda m: task_b(m) + 2 * quadratic_penalty(m, star, F))
    assert without == pytest.approx(1 / 9, abs=1e-9)


def test_separate_anchors_count_early_tasks_twice():
    """Unit-curvature quadratics at 0, 3 and 6: one summed anchor ends at the joint optimum 3, separate ones at 2.5."""

    def c(m):
        return 0.5 * (m.theta - 6).square().sum()

    anchors = [({"theta": one(0)}, {"theta": one(1)}), ({"theta": one(1.5)}, {"theta": one(1)})]
    separate = minimise(lambda m: c(m) + sum(quadratic_penalty(m, *a) for a in anchors))
    online = minimise(lambda m: c(m) + quadratic_penalty(m, {"theta": one(1.5)}, {"theta": one(2)}))
    assert separate == pytest.approx(2.5, abs=1e-9) and online == pytest.approx(3.0, abs=1e-9)


def test_proximal_step_is_the_minimiser():
    theta, anchors, step = one(2.0), [(one(0.0), one(3.0)), (one(1.0), one(0.5))], 0.7
    t = proximal_step(theta, anchors, step)
    gradient = (t - theta) + step * sum(F * (t - star) for star, F in anchors)
    assert gradient.abs().item() < 1e-12
    assert torch.equal(proximal_step(theta, anchors, 0.0), theta)


def test_explicit_steps_explode_where_proximal_ones_hold():
    """lr lam F = 2.5 > 2: the deviation grows by |1 - 2.5| per step; the proximal step shrinks it by 1 / 3.5."""
    explicit, implicit = 1.0, one(1.0)
    for _ in range(20):
        explicit -= 2.5 * explicit
        implicit = proximal_step(implicit, [(one(0.0), one(1.0))], 2.5)
    assert abs(explicit) > 1000 and implicit.abs().item() < 1e-9


@pytest.fixture(scope="module")
def stream():
    return split(points(n=60), 2, "domain")


def net(stream):
    return MLP(stream.in_features, [16], stream.n_classes)


def test_springs_start_slack_and_tighten(stream):
    """The penalty is exactly 0 when a task begins and rises (seed 001 has it falling)."""
    events = list(fit(net(stream), stream, [EWC(100.0)], epochs=3, lr=1e-2))
    penalties = [e.losses["EWC"] for e in events if isinstance(e, Step) and e.task == 1]
    assert penalties[0] == 0 and penalties[1] > 0 and penalties[-1] > 2 * penalties[1]
    assert all("EWC" not in e.losses for e in events if isinstance(e, Step) and e.task == 0)


@pytest.mark.slow
def test_ewc_remembers_what_fine_tuning_forgets():
    """Permuted digits, domain-incremental, three seeds."""
    stream = permuted(digits().take(400), 3)
    scores = {"fine-tuning": [], "EWC": []}
    for seed in range(3):
        for name, methods in (("fine-tuning", []), ("EWC", [EWC(100.0)])):
            history = run(MLP(64, [64], 10, seed=seed), stream, methods, epochs=8, batch_size=32, seed=seed)
            scores[name].append(history.metrics()["backward_transfer"])
    assert np.mean(scores["EWC"]) > np.mean(scores["fine-tuning"]) + 0.05


def anchors_of(stream, **arguments):
    method = EWC(1.0, **arguments)
    run(net(stream), stream, [method], epochs=1)
    return method.held


def test_anchors_are_kept_as_asked(stream):
    three = permuted(digits().take(100), 3)
    model, method = net(three), EWC(1.0, anchors="separate")
    run(model, three, [method])
    assert len(method.held) == 3 and len(anchors_of(three)) == 1
    last = method.held[-1]
    assert all(torch.equal(last.theta_star[n], p) for n, p in model.named_parameters())
    assert all(not t.requires_grad and t.grad_fn is None for a in method.held for t in a.theta_star.values())
    fresh = fisher_diagonal(model, three[2].x)
    assert all(torch.allclose(last.F[n], fresh[n]) for n in fresh)


def test_gamma_forgets_old_importance():
    three = permuted(digits().take(100), 3)
    none, half = EWC(0.0, gamma=0.0), EWC(0.0, gamma=0.5)
    separate = EWC(0.0, anchors="separate")
    for method in (none, half, separate):
        run(net(three), three, [method])
    F = [a.F["head.weight"] for a in separate.held]  # lam = 0: the weights are the same in all three runs
    assert torch.allclose(none.held[0].F["head.weight"], F[2])
    assert torch.allclose(half.held[0].F["head.weight"], F[2] + 0.5 * (F[1] + 0.5 * F[0]))


def test_the_fisher_uses_the_mask_of_training():
    stream = split(digits().take(100), 2, "task")
    method = EWC(1.0)
    run(net(stream), stream, [method], epochs=1)
    F = method.held[0].F["head.bias"]
    assert F.gt(0).all()  # each class was allowed in its own task
    method = EWC(1.0, anchors="separate")
    run(net(stream), stream, [method], epochs=1)
    for i, anchor in enumerate(method.held):
        own = torch.zeros(10, dtype=torch.bool)
        own[list(stream[i].classes)] = True
        assert anchor.F["head.bias"][own].gt(0).all() and anchor.F["head.bias"][~own].eq(0).all()


def test_stability_is_reported_and_warned_about(stream):
    with pytest.warns(UserWarning, match="exceeds 2"):
        events = list(fit(net(stream), stream, [EWC(50.0)], optimizer="sgd", lr=1.0, epochs=1, batch_size=8))[:-1]
    phases = [e for e in events if isinstance(e, Phase)]
    assert phases[0].info["lr * lam * max F"] == pytest.approx(50.0 * phases[0].info["max"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(net(stream), stream, [EWC(50.0, step="proximal")], optimizer="sgd", lr=1.0, epochs=1)
        run(net(stream), stream, [EWC(1e6)], epochs=1)  # Adam bounds its step


def test_proximal_training_holds_where_the_penalty_explodes(stream):
    arguments = {"optimizer": "sgd", "lr": 0.1, "epochs": 5, "batch_size": 16}
    history = run(net(stream), stream, [EWC(1e5, step="proximal")], **arguments)
    assert history.metrics()["backward_transfer"] > -0.05
    with pytest.warns(UserWarning), pytest.raises(FloatingPointError):
        run(net(stream), stream, [EWC(1e5)], **arguments)


def test_rows_grown_later_carry_no_penalty():
    model = MLP(3, [], 4)
    star = {"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}
    penalty = quadratic_penalty(model, star, {n: torch.ones_like(t) for n, t in star.items()})
    penalty.backward()
    assert model.head.weight.grad[2:].eq(0).all() and model.head.weight.grad[:2].ne(0).any()


def test_a_growing_head_is_not_held():
    class Grow(Method):
        def start_task(self, ctx):
            if ctx.task_index == 1:
                old = ctx.model.head
                ctx.model.head = nn.Linear(16, 6)
                with torch.no_grad():
                    ctx.model.head.weight[:2], ctx.model.head.bias[:2] = old.weight, old.bias

    for step in ("penalty", "proximal"):
        history = run(MLP(2, [16], 2), split(points(n=40), 2, "domain"), [Grow(), EWC(10.0, step=step)], epochs=2)
        assert np.isfinite(history.accuracy).all()


@pytest.mark.parametrize(
    ("star", "F", "named"),
    [
        ({}, {}, "theta_star"), ({"a": one(0)}, {"b": one(0)}, "F must name"),
        ({"other": one(0)}, {"other": one(1)}, "missing"),
        ({"theta": torch.zeros(2)}, {"theta": torch.zeros(2)}, "shapes"),
        ({"theta": one(0)}, {"theta": torch.zeros(3)}, "shapes"),
        ({"theta": one(0)}, {"theta": one(-1)}, "F must be finite"),
        ({"theta": one(0)}, {"theta": one("nan")}, "F must be finite"),
    ],
)  # fmt: skip
def test_penalties_that_do_not_fit(star, F, named):
    with pytest.raises(ValueError, match=named):
        quadratic_penalty(Point(1.0), star, F)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"lam": -1}, ValueError, "lam"),
        ({"lam": float("inf")}, ValueError, "lam"), ({"lam": "big"}, TypeError, "lam"),
        ({"lam": 1, "anchors": "all"}, ValueError, "anchors"), ({"lam": 1, "step": "huge"}, ValueError, "step"),
        ({"lam": 1, "gamma": 1.5}, ValueError, "gamma"), ({"lam": 1, "labels": "data"}, ValueError, "labels"),
        ({"lam": 1, "n_samples": 0}, ValueError, "n_samples"), ({"lam": 1, "batch_size": 0}, ValueError, "batch_size"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        EWC(**arguments)


def test_a_layer_frozen_for_one_task_keeps_its_springs():
    class Freeze(Method):
        def start_task(self, ctx):
            ctx.model.trunk.requires_grad_(ctx.task_index != 1)

    three = permuted(digits().take(100), 3)
    for anchors in ("online", "separate"):
        method = EWC(1.0, anchors=anchors)
        run(net(three), three, [Freeze(), method])
        held = sum(anchor.F["trunk.0.weight"].sum() for anchor in method.held)
        first = EWC(1.0)
        run(net(three), Stream((three[0],), "domain", 10), [first])
        assert held > first.held[0].F["trunk.0.weight"].sum()  # task 0's importance is still there


def test_a_head_that_starts_narrow():
    class Widen(Method):
        def start_task(self, ctx):
            if ctx.task_index == 1:
                old = ctx.model.head
                ctx.model.head = nn.Linear(16, 4)
                with torch.no_grad():
                    ctx.model.head.weight[:2], ctx.model.head.bias[:2] = old.weight, old.bias

    history = run(MLP(2, [16], 2), split(points(n=40), 2), [Widen(), EWC(10.0)], epochs=2)
    assert np.isfinite(history.accuracy).all()


@pytest.mark.parametrize(
    ("model", "star", "F", "error", "named"),
    [
        (None, {"theta": one(0)}, {"theta": one(1)}, TypeError, "model"),
        (Point(1.0), None, {"theta": one(1)}, TypeError, "theta_star"), (Point(1.0), {"theta": one(1)}, None, TypeError, "F must"),
        (Point(1.0), {"theta": [1.0]}, {"theta": one(1)}, TypeError, "theta_star"),
        (Point(1.0), {"theta": one("nan")}, {"theta": one(1)}, ValueError, "theta_star must be finite"),
    ],
)  # fmt: skip
def test_more_penalties_that_do_not_fit(model, star, F, error, named):
    with pytest.raises(error, match=named):
        quadratic_penalty(model, star, F)


@pytest.mark.parametrize("step", [-1.0, float("nan")])
def test_proximal_step_refuses(step):
    with pytest.raises(ValueError, match="step"):
        proximal_step(one(1), [(one(0), one(1))], step)


@pytest.mark.parametrize(
    ("anchors", "error", "named"),
    [
        ([(one(0), one(-1))], ValueError, "F must not"), ([(one(float("nan")), one(1))], ValueError, "theta_star"),
        ([(one(0), torch.ones(2, dtype=torch.float64))], ValueError, "F must have the shape"),
        ((one(0), one(1)), TypeError, "pairs"),
    ],
)  # fmt: skip
def test_proximal_step_refuses_anchors(anchors, error, named):
    with pytest.raises(error, match=named):
        proximal_step(one(1), anchors, 1.0)


def test_anchors_of_another_precision_are_refused():
    model = torch.nn.Linear(2, 1, bias=False)
    double = {"weight": torch.ones(1, 2, dtype=torch.float64)}
    with pytest.raises(TypeError, match="float32 like the model"):
        quadratic_penalty(model, double, double)


@pytest.mark.parametrize(("momentum", "warned"), [(0.0, True), (0.9, False)])
def test_momentum_moves_the_limit_of_the_warning(stream, momentum, warned):
    """At lr lam max F = 3 plain SGD diverges, the heavy ball with 0.9 up to 3.8 does not."""
    lam = 3.0 / _largest(stream, momentum)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _first_task(stream, EWC(lam), momentum)
    assert bool([w for w in caught if "exceeds" in str(w.message)]) == warned


def test_no_warning_after_the_last_task(stream):
    alone = Stream(stream.tasks[:1], stream.scenario, stream.n_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(net(stream), alone, [EWC(1e4)], optimizer="sgd", lr=1.0, epochs=1)


def test_anchors_count_as_memory(stream):
    """Separate anchors keep 2 P numbers per task, an online one 2 P in all."""
    kept = {}
    for anchors in ("online", "separate"):
        method, model = EWC(1.0, anchors=anchors), net(stream)
        run(model, stream, [method])
        kept[anchors] = method.memory_bytes() / (4 * sum(p.numel() for p in model.parameters()))
    assert kept == {"online": 2, "separate": 2 * len(stream)}


def _first_task(stream, method, momentum):
    """The Phase after the first task of a run."""
    arguments = {"optimizer": lambda p, lr: torch.optim.SGD(p, lr, momentum=momentum), "lr": 0.1, "epochs": 1}
    return next(e for e in fit(net(stream), stream, [method], **arguments) if isinstance(e, Phase))


def _largest(stream, momentum):
    """lr max F after the first task, where lam does not act yet."""
    return _first_task(stream, EWC(1.0), momentum).info["lr * lam * max F"]
