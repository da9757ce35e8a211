"""LwF: which columns are distilled in which scenario, the warm-up, and a teacher that stays as it was."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from cllab.models import MLP
from cllab.regularization import EWC, LwF, distillation_loss
from cllab.replay import ExperienceReplay
from cllab.streams import Stream, digits, permuted, split
from cllab.training import Method, Step, fit, frozen_copy, run


@pytest.fixture(scope="module")
def streams():
    return {scenario: split(digits().take(200), 2, scenario=scenario) for scenario in ("task", "domain", "class")}


def net(stream):
    return MLP(64, [16], stream.n_classes)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


COLUMNS = {"task": [[0, 1], [2, 3]], "class": [[0, 1, 2, 3]], "domain": [[0, 1]]}


@pytest.mark.parametrize("scenario", COLUMNS)
def test_the_term_is_the_distillation_of_the_old_heads(streams, scenario):
    """In the third task: every old head's columns against a copy made at the task's start."""
    stream, seen = streams[scenario], []

    class Watch(Method):
        def start_task(self, ctx):
            self.copy = frozen_copy(ctx.model)

        def losses(self, ctx, batch, outputs):
            if ctx.task_index == 2:
                z = self.copy(batch.x)
                terms = [distillation_loss(outputs[:, c], z[:, c], 3.0) for c in COLUMNS[scenario]]
                seen.append(0.5 * sum(terms).item())
            return {}

    history = run(net(stream), stream, [LwF(0.5, 3.0), Watch()], batch_size=16)
    terms = [step.losses["LwF"] for step in history.losses if step.task == 2]
    assert terms == pytest.approx(seen, abs=1e-7) and terms[0] < 1e-6 < terms[-1]
    assert all("LwF" not in step.losses for step in history.losses if step.task == 0)


def test_new_columns_learn_from_the_labels_alone(streams):
    """In the class-incremental scenario the old columns' distillation gives new columns no gradient."""
    gradients = []

    class Look(Method):
        def gradients(self, ctx):
            if ctx.task_index == 1:
                gradients.append(ctx.model.head.weight.grad[2:4].clone())

    for methods in ([Look()], [LwF(), Look()]):
        run(net(streams["class"]), streams["class"], methods, batch_size=200, optimizer="sgd", lr=0.0)
    assert torch.equal(gradients[0], gradients[1]) and gradients[0].abs().max() > 0


def test_zero_is_fine_tuning_bit_for_bit(streams):
    for stream in streams.values():
        plain, zero = net(stream), net(stream)
        run(plain, stream)
        run(zero, stream, [LwF(0.0)])
        assert torch.equal(bits(plain), bits(zero))


def test_the_teacher_stays_what_it_was(streams):
    """Dropout off, no gradient, and the same weights at the end of the task as at its start."""
    model = net(streams["class"])
    model.trunk.append(nn.Dropout(0.5))
    method = LwF()
    events = fit(model, streams["class"], [method], epochs=3)
    first = None
    for event in events:
        if isinstance(event, Step) and event.task == 4:
            first = bits(method.teacher) if first is None else first
    assert torch.equal(first, bits(method.teacher)) and not method.teacher.training
    assert not any(p.requires_grad for p in method.teacher.parameters())
    x = streams["class"][0].x_test
    assert torch.equal(method.teacher(x), method.teacher(x)) and not torch.equal(bits(model), first)


@pytest.mark.parametrize("optimizer", ["adam", lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=5e-4)])
def test_warm_up_moves_only_the_new_outputs(streams, optimizer):
    snapshots = {}

    class Watch(Method):
        def start_task(self, ctx):
            snapshots[ctx.task_index, "start"] = {n: v.clone() for n, v in ctx.model.state_dict().items()}

        def after_step(self, ctx, batch):
            snapshots[ctx.task_index, ctx.epoch] = {n: v.clone() for n, v in ctx.model.state_dict().items()}

    stream = streams["task"]
    arguments = {"epochs": 3, "optimizer": optimizer, "lr": 0.05, "reset_optimizer": False}
    run(net(stream), stream, [LwF(warmup=2), Watch()], **arguments)
    for task in (1, 3):
        start, warm, end = (snapshots[task, when] for when in ("start", 1, 2))
        old, new = slice(0, 2 * task), slice(2 * task, 2 * task + 2)
        assert torch.equal(start["trunk.0.weight"], warm["trunk.0.weight"])
        assert torch.equal(start["head.weight"][old], warm["head.weight"][old])
        assert not torch.equal(start["head.weight"][new], warm["head.weight"][new])
        assert not torch.equal(start["trunk.0.weight"], end["trunk.0.weight"])


def test_warm_up_waits_for_new_classes(streams):
    """A task that repeats known classes has no outputs to warm up: it learns from its first epoch on."""
    first = streams["class"][0]
    again = Stream((first, dataclasses.replace(first, name="again")), "class", streams["class"].n_classes)
    plain, warm = net(again), net(again)
    run(plain, again, [LwF()], epochs=2)
    run(warm, again, [LwF(warmup=2)], epochs=2)
    assert torch.equal(bits(plain), bits(warm))


def test_it_remembers_where_fine_tuning_forgets():
    """Domain-incremental, three seeds: the first of two permuted tasks, after the second."""
    gains = []
    for seed in range(3):
        stream = permuted(digits().take(600, seed=seed), 2)
        free, held = (
            run(MLP(64, [32], 10, seed=seed), stream, methods, epochs=10, lr=5e-3, seed=seed).accuracy[1, 0]
            for methods in ([], [LwF(5.0)])
        )
        gains.append(held - free)
    assert np.mean(gains) > 0.05, gains


def test_in_company(streams):
    history = run(net(streams["class"]), streams["class"], [LwF(), ExperienceReplay(50), EWC(1.0)], epochs=3)
    assert set(history.losses[-1].losses) == {"task", "LwF", "EWC"} and history.losses[-1].info["replayed"] > 0


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: LwF(-1.0), ValueError, "lam"), (lambda: LwF(temperature=0.0), ValueError, "temperature"),
        (lambda: LwF(warmup=-1), ValueError, "warmup"), (lambda: LwF(warmup=1.0), TypeError, "warmup"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, named):
    with pytest.raises(error, match=named):
        make()


def test_warm_up_needs_outputs_of_its_own(streams):
    with pytest.raises(ValueError, match="warmup"):
        next(fit(net(streams["domain"]), streams["domain"], [LwF(warmup=1)]))
    headless = nn.Sequential(nn.Linear(64, 10))
    with pytest.raises(ValueError, match="head"):
        next(fit(headless, streams["class"], [LwF(warmup=1)]))
