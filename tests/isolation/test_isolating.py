"""What every method with a part per task promises: old answers stay to the last bit, whatever the optimiser does."""

import functools

import numpy as np
import pytest
import torch
from torch.optim import SGD, AdamW

from cllab.isolation import (
    HAT,
    IA3,
    Adapter,
    LoRA,
    OLoRA,
    PackNet,
    Piggyback,
    PrefixTuning,
    Progressive,
    ProgressiveNet,
    PromptTuning,
    TaskHeads,
    TaskSelector,
)
from cllab.models import MLP, Transformer
from cllab.regularization import EWC, MAS, SI, RWalk
from cllab.replay import ExperienceReplay, GDumb, LatentReplay
from cllab.streams import digits, split
from cllab.training import TaskEnded, fit, run

STREAM = split(digits().only([0, 1, 2, 3, 4, 5]).take(120), 2, scenario="task")


def mlp():
    return MLP(64, [12, 10], 10, seed=0)


def transformer():
    return Transformer(8, 8, 8, 1, 2, 10, seed=0)


EXACT = {
    "progressive": (lambda: ProgressiveNet(64, [8, 8], 10, seed=0), Progressive),
    "progressive, adapters": (lambda: ProgressiveNet(64, [8, 8], 10, laterals="adapter", width=3), Progressive),
    "packnet": (mlp, lambda: PackNet(retrain_epochs=1)),
    "piggyback": (mlp, Piggyback),
    "hat": (mlp, HAT),
    "lora": (mlp, lambda: LoRA(2)),
    "lora, base given": (mlp, lambda: LoRA(2, base="given")),
    "adapter": (mlp, lambda: Adapter(4)),
    "adapter, transformer": (transformer, lambda: Adapter(4)),
    "ia3": (mlp, IA3),
    "ia3, transformer": (transformer, IA3),
    "prompt": (transformer, lambda: PromptTuning(2)),
    "prefix": (transformer, lambda: PrefixTuning(2)),
    "lora, transformer": (transformer, lambda: LoRA(2)),
}
SHARED = {
    "heads": (mlp, TaskHeads),
    "o-lora": (mlp, lambda: OLoRA(2)),
    "lora, shared": (mlp, lambda: LoRA(2, base="given", shared=True)),
}
OPTIMIZERS = {
    "momentum": functools.partial(SGD, momentum=0.9, weight_decay=5e-4),
    "adamw": functools.partial(AdamW, weight_decay=0.1),
}


def answers(model, method, task):
    with torch.no_grad():
        return method.predict(model, STREAM[task].x_test, STREAM.allowed(task, task), task).clone()


def changed(make_model, make_method, optimizer, reset) -> list[bool]:
    """For each earlier task, whether any logit of its test rows has changed since the task ended."""
    model, method, when_learned = make_model(), make_method(), []
    for event in fit(model, STREAM, [method], batch_size=16, lr=0.01, optimizer=optimizer, reset_optimizer=reset):
        if isinstance(event, TaskEnded):
            when_learned.append(answers(model, method, event.task))
    later = [answers(model, method, task) for task in range(len(STREAM))]
    assert all(bool(logits[:, list(STREAM[t].classes)].isfinite().all()) for t, logits in enumerate(later))
    return [not torch.equal(a, b) for a, b in zip(when_learned[:-1], later[:-1], strict=True)]


@pytest.mark.parametrize("reset", [True, False], ids=["new optimiser", "kept optimiser"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", EXACT)
def test_old_logits_stay_to_the_last_bit(name, optimizer, reset):
    assert changed(*EXACT[name], OPTIMIZERS[optimizer], reset) == [False, False]


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_moves(name):
    """The same check sees a trunk or an adapter that tasks share: it can fail."""
    assert all(changed(*SHARED[name], OPTIMIZERS["momentum"], True))


@pytest.mark.parametrize("name", EXACT | SHARED)
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    make_model, make_method = (EXACT | SHARED)[name]
    settings = {"epochs": 1, "batch_size": 16, "lr": 0.01, "optimizer": OPTIMIZERS["momentum"]}
    whole, path = make_model(), tmp_path / "checkpoint"
    run(whole, STREAM, [make_method()], **settings)
    interrupted = fit(make_model(), STREAM, [make_method()], checkpoint=path, checkpoint_every=1, **settings)
    steps = 0
    for event in interrupted:
        steps = getattr(event, "step", steps)
        if steps == 5:  # in the middle of the second task
            break
    resumed = make_model()
    run(resumed, STREAM, [make_method()], resume=path, **settings)
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", EXACT | SHARED)
def test_the_same_method_runs_again_on_the_same_model(name):
    make_model, make_method = (EXACT | SHARED)[name]
    model, method = make_model(), make_method()
    for _ in range(2):
        history = run(model, STREAM, [method], batch_size=32)
        assert history.accuracy.shape == (3, 3)
    assert len(answers(model, method, 2)) == len(STREAM[2].y_test)


@pytest.mark.parametrize("name", [name for name in EXACT if "progressive" not in name])
def test_a_model_with_parts_is_refused_by_another_object(name):
    make_model, make_method = EXACT[name]
    model = make_model()
    run(model, STREAM, [make_method()], batch_size=64)
    with pytest.raises(ValueError, match="parts of an earlier run"):
        run(model, STREAM, [make_method()], batch_size=64)


@pytest.mark.parametrize("name", EXACT)
def test_without_the_tasks_number_a_selector_is_asked_for(name):
    make_model, make_method = EXACT[name]
    stream = split(digits().take(100), 5, scenario="class")
    with pytest.raises(ValueError, match="selector"):
        run(make_model(), stream, [make_method()])


@pytest.mark.parametrize("replay", [ExperienceReplay(10), LatentReplay(10), GDumb(10)])
def test_replay_does_not_go_with_parts(replay):
    with pytest.raises(ValueError, match=f"must not combine PackNet with {type(replay).__name__}"):
        run(mlp(), STREAM, [PackNet(), replay])


@pytest.mark.parametrize("method", [Piggyback, HAT])
@pytest.mark.parametrize("springs", [EWC(1.0), MAS(1.0), SI(1.0)])
def test_springs_cannot_hold_numbers_that_are_dropped(method, springs):
    for methods in ([method(), springs], [springs, method()]):
        with pytest.raises(ValueError, match=f"must not combine {method.__name__} with {type(springs).__name__}"):
            run(mlp(), STREAM, methods)


@pytest.mark.parametrize("name", EXACT)
def test_tasks_outside_the_run_are_named(name):
    make_model, make_method = EXACT[name]
    model, method = make_model(), make_method()
    x, allowed = STREAM[0].x_test, STREAM.allowed(0, 0)
    with pytest.raises(ValueError, match="must have been in a run before"):
        method.predict(model, x, allowed, 0)
    run(model, STREAM, [method], batch_size=64)
    for task in (-1, 3):
        with pytest.raises(ValueError, match="task_id must be between 0 and 2"):
            method.predict(model, x, allowed, task)
    with pytest.raises(ValueError, match="task_id must be given"):
        method.predict(model, x, allowed, None)


@pytest.mark.parametrize("name", EXACT)
def test_too_few_outputs_are_refused_before_anything_changes(name):
    make_model, make_method = EXACT[name]
    stream = split(digits().take(100), 5, scenario="task")
    narrow = {
        mlp: lambda: MLP(64, [12, 10], 7), transformer: lambda: Transformer(8, 8, 8, 1, 2, 7)
    }.get(make_model, lambda: ProgressiveNet(64, [8, 8], 7))()  # fmt: skip
    before = list(narrow.state_dict())
    with pytest.raises(ValueError, match="at least 10 outputs"):
        run(narrow, stream, [make_method()])
    assert list(narrow.state_dict()) == before


def test_a_selector_is_part_of_what_a_method_is_called():
    assert repr(TaskHeads()) == "TaskHeads(selector=None)" and repr(LoRA(2)).startswith("LoRA(r=2, ")
    assert repr(TaskHeads(TaskSelector(keep=3))).startswith("TaskHeads(selector=TaskSelector('centroid'")
    assert "selector=TaskSelector('router'" in repr(LoRA(2, selector=TaskSelector("router")))


@pytest.mark.parametrize(
    "springs", [EWC(30.0), MAS(1.0), SI(1.0), RWalk(0.1)], ids=lambda springs: type(springs).__name__
)
@pytest.mark.parametrize("name", ["heads", "lora, shared"])
def test_springs_hold_what_tasks_share(name, springs):
    """Penalties go with heads and shared adapters, in either order, and change what is learned."""
    make_model, make_method = SHARED[name]
    runs = []
    for methods in ([make_method()], [make_method(), springs], [springs, make_method()]):
        model = make_model()
        history = run(model, STREAM, methods, batch_size=32, lr=0.01)
        assert not np.isnan(history.accuracy).any()
        runs.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(runs[0], runs[1]) and torch.equal(runs[1], runs[2])


def test_a_head_that_is_not_linear_and_a_wrong_selector_are_named():
    model = mlp()
    model.head = torch.nn.Sequential(model.head)
    with pytest.raises(TypeError, match="linear layer `head`"):
        run(model, STREAM, [TaskHeads()])
    with pytest.raises(TypeError, match="selector must be a TaskSelector"):
        TaskHeads("centroid")


def test_running_statistics_of_a_frozen_base_stay():
    model = mlp()
    model.trunk = torch.nn.Sequential(*model.trunk[:2], torch.nn.BatchNorm1d(12), *model.trunk[2:])
    method = LoRA(2)
    means = []
    for event in fit(model, STREAM, [method], batch_size=16):
        if isinstance(event, TaskEnded):
            means.append(model.trunk[2].running_mean.clone())
        model.train()  # as one does after a look at the model in eval mode: what is frozen stays frozen
    assert torch.equal(means[0], means[-1]) and bool(means[0].abs().sum() > 0)
    run(model, STREAM, [method], batch_size=16)  # and a second run lets them move again
    assert not torch.equal(means[-1], model.trunk[2].running_mean)


def test_a_selector_on_the_frozen_base():
    stream = split(digits(), 2, scenario="class")
    history = run(MLP(64, [64], 10), stream, [LoRA(4, selector=TaskSelector(features="base"))], epochs=10)
    assert history.metrics()["average_accuracy"] > 0.6  # fine-tuning: 0.2
