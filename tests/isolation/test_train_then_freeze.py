"""Train, then freeze: taught by the owner, frozen for good, kept by a router that can tell, resumable."""

import copy
import functools

import pytest
import torch
from torch.optim import SGD

from cllab.isolation import MoEClassifier, TrainThenFreeze, expert_usage, specialisation, token_ids, token_task
from cllab.isolation.tokens import PER_KIND
from cllab.models import MLP
from cllab.training import Phase, Step, TaskStarted, fit, run

TASK = token_task(2048, n_test=256)
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)


def kinds(x):
    return token_ids(x) // PER_KIND


def model(seed=0):
    return MoEClassifier(28, 16, 5, 1, 4, seed=seed, hidden=8, renormalise=False)


def test_first_the_owner_decides_then_the_router():
    net, taught = model(), {}
    router = net.moe.router.weight.clone()
    for event in fit(net, TASK.stream, [TrainThenFreeze(kinds, steps=20)], epochs=2, lr=0.01):
        if isinstance(event, Step):
            if event.step == 20:
                assert torch.equal(net.moe.router.weight, router)  # had no say so far
                taught = copy.deepcopy(net.moe.experts.state_dict())
            net(TASK.probe_x)
            if event.step < 20:
                assert torch.equal(net.moe.routing.expert[:, 0], TASK.probe_kind)
            if event.step == 21:
                assert not torch.equal(net.moe.router.weight, router)
        if isinstance(event, Phase):
            assert event.info == {"taught": 20, "frozen": True}
    for name, value in net.moe.experts.state_dict().items():
        assert torch.equal(value, taught[name])


@pytest.mark.parametrize("optimizer", ["adam", MOMENTUM])
def test_frozen_experts_stay_under_decay_and_momentum(optimizer):
    net, taught = model(), None
    for event in fit(net, TASK.stream, [TrainThenFreeze(kinds, 5)], lr=0.01, optimizer=optimizer):
        if isinstance(event, Step) and event.step == 5:
            taught, embed = copy.deepcopy(net.moe.experts.state_dict()), net.embed.weight.clone()
    assert all(torch.equal(value, taught[name]) for name, value in net.moe.experts.state_dict().items())
    assert not torch.equal(net.embed.weight, embed)


def test_the_router_keeps_what_the_owner_gave():
    net = model().double()
    run(net, TASK.stream, [TrainThenFreeze(kinds, 160)], epochs=20, batch_size=64, lr=1e-2)
    with torch.no_grad():
        right = net(TASK.data.x_test.double()).argmax(dim=1) == TASK.data.y_test
    usage = expert_usage(TASK.kind_test, net.moe.routing, 5)
    assert usage.argmax(dim=1).tolist() == [0, 1, 2, 3, 4]  # the owner's numbers, whatever the seed
    assert specialisation(usage) > 0.6 and right.double().mean() > 0.9


def test_a_short_run_freezes_at_its_end_and_the_next_one_learns_again():
    net, method = model(), TrainThenFreeze(kinds, 1000)
    run(net, TASK.stream, [method])
    assert net.guide is None and not any(p.requires_grad for p in net.moe.experts.parameters())
    run(net, TASK.stream, [TrainThenFreeze(kinds, 1000)])  # another object leaves what it did not freeze
    assert not any(p.requires_grad for p in net.moe.experts.parameters())
    next(fit(net, TASK.stream, [method]))
    assert all(p.requires_grad for p in net.moe.experts.parameters())


def test_an_abandoned_run_leaves_no_guide_to_the_next():
    net, method = model(), TrainThenFreeze(kinds, 100)
    events = fit(net, TASK.stream, [method])
    for _ in range(5):
        next(events)
    events.close()
    run(net, TASK.stream, [method])
    assert net.guide is None


@pytest.mark.parametrize("stop", [6, 14])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, stop):
    whole, cut, resumed = model(), model(), model()
    arguments = {"epochs": 1, "batch_size": 128, "lr": 0.01}
    run(whole, TASK.stream, [TrainThenFreeze(kinds, 10)], **arguments)
    path = tmp_path / "run.pt"
    events = fit(cut, TASK.stream, [TrainThenFreeze(kinds, 10)], checkpoint=path, checkpoint_every=stop, **arguments)
    next(event for event in events if isinstance(event, Step) and event.step == stop)
    events.close()
    run(resumed, TASK.stream, [TrainThenFreeze(kinds, 10)], resume=path, **arguments)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("steps", [1, 4, 8, 11])
def test_a_run_of_several_tasks_resumes_wherever_it_was_frozen(tmp_path, steps):
    stream = TASK.stages([["digit", "word"], ["code"], ["bracket", "language"]])
    arguments = {"batch_size": 128, "lr": 0.01}
    whole = model()
    run(whole, stream, [TrainThenFreeze(kinds, steps)], **arguments)
    for stop in (1, 2):
        cut, resumed, path = model(), model(), tmp_path / "run.pt"
        events = fit(cut, stream, [TrainThenFreeze(kinds, steps)], checkpoint=path, checkpoint_every=3, **arguments)
        seen = False
        for event in events:
            seen = seen or (isinstance(event, TaskStarted) and event.task == stop)
            if seen and isinstance(event, Step) and event.step % 3 == 0:
                break
        events.close()
        run(resumed, stream, [TrainThenFreeze(kinds, steps)], resume=path, **arguments)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_another_object_does_not_take_an_abandoned_owner_for_a_guide():
    net = model()
    events = fit(net, TASK.stream, [TrainThenFreeze(kinds, 100)])
    for _ in range(3):
        next(events)
    events.close()
    run(net, TASK.stream, [TrainThenFreeze(kinds, 2)])
    assert net.guide is None
    net(TASK.probe_x)
    assert not torch.equal(net.moe.routing.expert[:, 0], TASK.probe_kind)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TrainThenFreeze(3, 5), TypeError, "owner"),
        (lambda: TrainThenFreeze(kinds, 0), ValueError, "steps"),
        (lambda: run(MLP(28, [4], 4), TASK.stream, [TrainThenFreeze(kinds, 5)]), ValueError, "model must be an MoE"),
        (lambda: run(model(), TASK.stream, [TrainThenFreeze(lambda x: kinds(x) + 1, 5)]), ValueError, "expert must"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
