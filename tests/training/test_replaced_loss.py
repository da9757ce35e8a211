"""What a method may change about the task loss, and what is told of memories and of the newest classes."""

import pytest
import torch
from torch import nn

from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay
from cllab.streams import digits, split
from cllab.training import Batch, History, Joint, Method, TaskEnded, fit, frozen_copy, predict, run


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(300), 2)


def net():
    return MLP(64, [32], 10)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Doubled(Method):
    def task_loss(self, ctx, batch, outputs):
        return 2 * nn.functional.cross_entropy(outputs, batch.y)


def test_a_method_may_replace_the_task_loss_but_not_two(stream):
    plain, doubled = (run(net(), stream, methods, optimizer="sgd", lr=0.0) for methods in ([], [Doubled(), EWC(0.0)]))
    # in the last task of a class-incremental stream every class is allowed, so the masks change nothing
    expected = [2 * step.losses["task"] for step in plain.losses if step.task == 4]
    assert [s.losses["task"] for s in doubled.losses if s.task == 4] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="Doubled and Doubled"):
        fit(net(), stream, [Doubled(), EWC(1.0), Doubled()])


def test_rows_of_weight_zero_carry_no_task_loss(stream):
    class Extra(Method):
        weight = 0.0

        def replay(self, ctx, batch):
            return [Batch.of("extra", batch.x * 3, batch.y, batch.task, batch.allowed, self.weight)]

        def losses(self, ctx, batch, outputs):
            assert len(outputs[batch.rows("extra")]) == len(outputs[batch.rows("new")]) > 0
            return {}

    class Counted(Extra):
        weight = 1.0

    models = [net(), net(), net()]
    for model, methods in zip(models, ([], [Extra()], [Counted()]), strict=True):
        run(model, stream, methods)
    # not to the last bit: a matrix product over more rows adds in another order
    assert torch.allclose(bits(models[0]), bits(models[1]), atol=1e-5)
    assert not torch.allclose(bits(models[0]), bits(models[2]), atol=1e-4)


def test_answers_in_the_newest_classes_are_counted(stream):
    model = net()
    history = run(model, stream, [ExperienceReplay(20)], epochs=10, lr=0.01)
    ends = [point for point in history.curve if point.task >= 0]
    assert [point.newest is None for point in ends] == [True, False, False, False, False]
    old = torch.cat([predict(model, task.x_test, stream, seen=4) for task in stream.tasks[:4]])
    by_hand = sum(answer in (8, 9) for answer in old.tolist()) / len(old)
    assert ends[-1].newest == by_hand > 0
    assert History.from_json(history.to_json()).curve == history.curve
    domain = split(digits().take(300), 2, scenario="domain")
    assert all(point.newest is None for point in run(MLP(64, [8], 2), domain).curve)


def test_memory_is_told_after_each_task(stream):
    class Hoard(Method):
        def memory_bytes(self):
            return 100

    ended = [e.info["memory_bytes"] for e in fit(net(), stream, [Hoard(), Method()]) if isinstance(e, TaskEnded)]
    assert ended == [{"Hoard()": 100}] * 5
    twice = [e.info["memory_bytes"] for e in fit(net(), stream, [Hoard(), Hoard()]) if isinstance(e, TaskEnded)]
    assert twice == [{"Hoard()": 100, "Hoard() 2": 100}] * 5
    sizes = [e.info["memory_bytes"] for e in fit(net(), stream, [Joint()]) if isinstance(e, TaskEnded)]
    rows = [len(task.y) for task in stream]
    assert sizes == [{}, *({"Joint()": sum(rows[:t]) * (64 * 4 + 8)} for t in range(1, 5))]


def test_a_frozen_copy_stays():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    kept, x = frozen_copy(model), torch.rand(5, 3)
    before = kept(x)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert torch.equal(kept(x), before) and not kept.training and model.training
    assert not any(p.requires_grad for p in kept.parameters()) and all(p.requires_grad for p in model.parameters())
