"""GEM and A-GEM in the loop: gradients at the present weights, no past loss that rises, nothing else touched."""

import numpy as np
import pytest
import torch
from torch import nn

from cllab.models import MLP
from cllab.regularization import AGEM, EWC, GEM
from cllab.regularization.gem import flat_gradient, memory_gradient
from cllab.replay import ExperienceReplay
from cllab.streams import digits, permuted, split
from cllab.training import Method, Step, fit, run


@pytest.fixture(scope="module")
def stream():
    return permuted(digits().take(200), 3)


def net(n=10, dtype=torch.float64):
    return MLP(64, [16], n).to(dtype)


def past_losses(ctx, memory):
    ctx.model.eval()
    losses = [nn.functional.cross_entropy(ctx.model(x), y).item() for x, y in memory[: ctx.task_index]]
    ctx.model.train()
    return np.array(losses)


class Watch(Method):
    """The memories' losses before and after every step, and the final gradient's dot products."""

    def __init__(self, gem):
        self.gem, self.rises, self.dots = gem, [], []

    def gradients(self, ctx):
        if ctx.task_index:
            self.before = past_losses(ctx, self.gem.memory)
            G = GEM.constraints(self.gem, ctx)
            u = flat_gradient(ctx)
            self.dots.append((G @ u / (G.norm(dim=1) * u.norm() + 1e-300)).min().item())

    def after_step(self, ctx, batch):
        if ctx.task_index:
            self.rises.append((past_losses(ctx, self.gem.memory) - self.before).max())


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_no_past_loss_rises_to_first_order(stream, margin):
    gem = GEM(20, margin)
    watch = Watch(gem)
    run(net(), stream, [gem, watch], epochs=2, batch_size=20, lr=1e-3, optimizer="sgd")
    assert min(watch.dots) > -1e-9 and max(watch.rises) < 1e-6
    free = GEM(20, margin)
    watch_free = Watch(free)
    free.gradients = lambda ctx: None  # what happens without the projection
    run(net(), stream, [free, watch_free], epochs=2, batch_size=20, lr=1e-3, optimizer="sgd")
    assert min(watch_free.dots) < -0.01 and max(watch_free.rises) > 1e-5


def test_a_gem_promises_the_mean_only(stream):
    agem = AGEM(20, batch_size=1000)
    watch = Watch(agem)
    run(net(), stream, [agem, watch], epochs=3, batch_size=20, lr=0.05, optimizer="sgd")
    assert min(watch.dots) < -1e-4  # some single task is violated now and then


def test_with_one_past_task_both_are_the_same():
    stream, models = permuted(digits().take(200), 2), [net(), net()]
    for model, method in zip(models, (GEM(20, 0.0), AGEM(20, batch_size=20)), strict=True):
        run(model, stream, [method], epochs=2, lr=0.05, optimizer="sgd")
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.allclose(weights[0], weights[1], atol=1e-9)


def test_memory_holds_each_tasks_last_rows(stream):
    gem = GEM(15)
    seen = {}

    class Note(Method):
        def after_step(self, ctx, batch):
            if ctx.epoch == 0:
                seen.setdefault(ctx.task_index, []).append(batch.x)

    run(net(), stream, [gem, Note()], epochs=2, batch_size=20)
    for task, (x, _) in enumerate(gem.memory):
        assert torch.equal(x, torch.cat(seen[task])[-15:])
    assert gem.memory_bytes() == 3 * 15 * (64 * 8 + 8)


def test_memory_gradients_leave_everything_alone(stream):
    """Batch-norm statistics, dropout's randomness, mode and .grad are those of a run that never asked."""
    states = []

    class Ask(Method):
        def gradients(self, ctx):
            if self.asks:
                before = flat_gradient(ctx)
                memory_gradient(ctx, ctx.task.x[:5], ctx.task.y[:5], torch.full((5,), ctx.task_index))
                assert torch.equal(before, flat_gradient(ctx)) and ctx.model.training

    for Ask.asks in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 10))
        run(model, stream, [Ask()])
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("make", [lambda: GEM(40), lambda: AGEM(40)])
def test_rows_use_their_own_tasks_classes(make):
    """Task-incremental: a memory row's gradient never reaches another task's outputs."""
    stream = split(digits().take(200), 2, scenario="task")
    found = []

    class Look(Method):
        def gradients(self, ctx):
            if ctx.task_index == 2:
                x, y = method.memory[0]
                g = memory_gradient(ctx, x, y, torch.zeros_like(y))
                found.append(g[-10 * 17 :])  # the head: 160 weights, 10 biases

    method = make()
    run(net(), stream, [method, Look()])
    bias = found[0][-10:]
    assert bias[:2].abs().min() > 0 and bias[2:].eq(0).all()


def test_no_gradient_is_edited_in_the_first_task_and_info_counts(stream):
    plain, gem = net(), net()
    first = permuted(digits().take(200), 1)
    run(plain, first, optimizer="sgd")
    run(gem, first, [GEM()], optimizer="sgd")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), gem.parameters(), strict=True))
    steps = [
        e
        for e in fit(net(), stream, [GEM(20)], epochs=8, batch_size=20, lr=0.1, optimizer="sgd")
        if isinstance(e, Step)
    ]
    assert all(not s.info for s in steps if s.task == 0)
    later = [s.info for s in steps if s.task == 2]
    assert {info["violated"] for info in later} <= {0, 1, 2} and any(info["violated"] for info in later)
    assert all((info["cosine"] < 0) == (info["violated"] > 0) for info in later)


def test_frozen_parameters_and_missing_gradients(stream):
    class Part(Method):
        def start_task(self, ctx):
            ctx.model.trunk.requires_grad_(ctx.task_index == 0)

    model = net()
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    assert np.isfinite(run(model, stream, [Part(), GEM(20)], lr=0.1, optimizer="sgd").accuracy).all()
    assert model.unused.grad is None and model.unused.tolist() == [1, 1, 1]


@pytest.mark.parametrize("make", [lambda: GEM(50), lambda: AGEM(50)])
def test_they_remember_where_fine_tuning_forgets(make):
    gains = []
    for seed in range(3):
        stream = permuted(digits().take(600, seed=seed), 2)
        free, held = (
            run(
                MLP(64, [32], 10, seed=seed),
                stream,
                methods,
                epochs=10,
                batch_size=10,
                lr=0.1,
                optimizer="sgd",
                seed=seed,
            )
            for methods in ([], [make()])
        )
        gains.append(held.accuracy[1, 0] - free.accuracy[1, 0])
    assert np.mean(gains) > 0.05, gains


def test_in_company(stream):
    history = run(net(), stream, [ExperienceReplay(30), EWC(1.0), GEM(20)], optimizer="sgd", lr=0.05)
    assert np.isfinite(history.accuracy).all()
    assert {"replayed", "violated", "cosine"} <= set(history.losses[-1].info)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: GEM(0), ValueError, "per_task"), (lambda: GEM(2.5), TypeError, "per_task"),
        (lambda: GEM(10, -0.5), ValueError, "margin"), (lambda: AGEM(10, 0), ValueError, "batch_size"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, named):
    with pytest.raises(error, match=named):
        make()
