"""Domain experts: old answers stay bit for bit, a text tells its domain, and its change is followed."""

import copy
import functools
import pickle

import pytest
import torch
from torch.optim import SGD

from cllab.isolation import (
    DomainExperts,
    MoEClassifier,
    cached_prior,
    log_likelihood,
    mixed_log_likelihood,
    mixture_weights,
    sent_to,
    token_rows,
    token_task,
)
from cllab.isolation.tokens import KINDS
from cllab.models import MLP
from cllab.training import Step, TaskEnded, fit, run

TASK = token_task(2048, n_test=256)
STREAM = TASK.stages([["word", "language"], ["code", "bracket"], ["digit"]])
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)


def model(seed=0):
    return MoEClassifier(28, 32, 1, 1, 4, seed=seed, hidden=32)


@pytest.fixture(scope="module")
def trained():
    net = model()
    return net, run(net, STREAM, [DomainExperts()], epochs=12, batch_size=32, lr=0.01)


@pytest.mark.parametrize("optimizer", ["adam", MOMENTUM])
@pytest.mark.parametrize("reset", [True, False])
def test_what_an_old_domain_is_answered_never_changes(optimizer, reset):
    net, then = model(), {}
    for event in fit(net, STREAM, [DomainExperts()], lr=0.01, optimizer=optimizer, reset_optimizer=reset):
        if isinstance(event, TaskEnded):
            assert net.moe.n_experts == event.task + 1
            with torch.no_grad(), sent_to(net, event.task):
                then[event.task] = net(TASK.probe_x)
    for task, answers in then.items():
        with torch.no_grad(), sent_to(net, task):
            assert torch.equal(net(TASK.probe_x), answers)
    assert not torch.equal(then[1], then[2])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_new_expert_copies_the_best_one_so_far(seed):
    net, best = model(seed), None
    for event in fit(net, STREAM, [DomainExperts()], epochs=2, lr=0.01):
        if isinstance(event, TaskEnded) and event.task == 1:
            best = int(log_likelihood(net, STREAM[2].x, STREAM[2].y).mean(dim=0).argmax())
        if isinstance(event, Step) and event.task == 2:
            break
    experts = [torch.cat([p.detach().flatten() for p in stage.parameters()]) for stage in net.moe.experts.stages]
    distance = [(experts[2] - other).abs().max().item() for other in experts[:2]]
    assert distance[best] < 0.0101 < distance[1 - best]  # one step of Adam moves a weight by 0.01


def test_each_expert_answers_its_domain_best(trained):
    net, _ = trained
    for d, task in enumerate(STREAM):
        likelihood = log_likelihood(net, task.x_test, task.y_test).mean(dim=0)
        assert int(likelihood.argmax()) == d and likelihood[d] > -1.0


def test_likelihood_against_a_loop(trained):
    net, _ = trained
    x, y = TASK.probe_x[:7], TASK.probe_y[:7]
    found = log_likelihood(net, x, y)
    for d in range(3):
        with torch.no_grad(), sent_to(net, d):
            p = net(x).softmax(dim=1)
        assert torch.allclose(found[:, d].exp(), p[range(7), y])


def test_without_a_domain_the_answers_are_the_mixture(trained):
    net, _ = trained
    x = TASK.probe_x
    each = torch.stack([log_likelihood(net, x, torch.full((len(x),), c)) for c in range(4)], dim=2).exp()  # [N, D, C]
    method = DomainExperts()
    assert torch.allclose(method.predict(net, x, None, None).exp(), each.mean(dim=1), atol=1e-6)
    weighted = DomainExperts([1, 0, 3]).predict(net, x, None, None).exp()
    assert torch.allclose(weighted, 0.25 * each[:, 0] + 0.75 * each[:, 2], atol=1e-6)
    given = method.predict(net, x, None, 1).exp()
    assert torch.allclose(given, each[:, 1], atol=1e-6)


def test_a_text_tells_its_domain_and_its_change_is_followed(trained):
    """20 words, then 20 pieces of code: a posterior from the whole past pays for being sure, the running one less."""
    net, _ = trained
    words, code = "the cat is in the river and the dog was", "( ) [ ] == != -> && { }"
    x, y, kind = token_rows(" ".join([words, words, code, code]), seed=1)
    assert {KINDS[k] for k in kind[:20].tolist()} == {"word", "language"}
    likelihood = log_likelihood(net, x, y)
    whole, running = mixture_weights(likelihood, "uniform"), mixture_weights(likelihood, "updating")
    assert whole[0].tolist() == pytest.approx([1 / 3] * 3)
    assert whole[19].argmax() == 0 and running[19].argmax() == 0
    assert running[39].argmax() == 1
    even = torch.full_like(whole, 1 / 3)
    followed, held, blind = (mixed_log_likelihood(likelihood, w).mean() for w in (running, whole, even))
    assert followed > blind + 0.1 and followed > held + 0.3
    cached = cached_prior(likelihood[20:])
    assert mixture_weights(likelihood, "cached", cached=cached)[0].argmax() == 1


def test_a_model_can_be_copied_and_pickled_while_it_grows():
    net, then = model(), None
    for event in fit(net, STREAM, [DomainExperts()], lr=0.01):
        if isinstance(event, TaskEnded) and event.task == 0:
            then = copy.deepcopy(net), net(TASK.probe_x)
    assert torch.equal(then[0](TASK.probe_x), then[1])
    assert torch.equal(pickle.loads(pickle.dumps(net))(TASK.probe_x), net(TASK.probe_x))


@pytest.mark.parametrize("stop", [10, 40])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, stop):
    whole, cut, resumed = model(), model(), model()
    arguments = {"batch_size": 32, "lr": 0.01}
    run(whole, STREAM, [DomainExperts()], **arguments)
    path = tmp_path / "run.pt"
    events = fit(cut, STREAM, [DomainExperts()], checkpoint=path, checkpoint_every=stop, **arguments)
    next(event for event in events if isinstance(event, Step) and event.step == stop)
    events.close()
    run(resumed, STREAM, [DomainExperts()], resume=path, **arguments)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: run(MLP(28, [4], 4), STREAM, [DomainExperts()]), ValueError, "model must be an MoEClassifier"),
        (lambda: run(MoEClassifier(28, 8, 2, 2, 4), STREAM, [DomainExperts()]), ValueError, "single expert, got 2"),
        (
            lambda: run(MoEClassifier(28, 8, 1, 1, 4, choice="expert"), STREAM, [DomainExperts()]),
            ValueError,
            "tokens choose",
        ),
        (lambda: run(model(), STREAM, [DomainExperts([1, 1])]), ValueError, "each of 3 tasks, got 2"),
        (lambda: DomainExperts([0, 1, 1]), ValueError, "first domain"),
        (lambda: DomainExperts(3), TypeError, "prior must be a list"),
        (lambda: DomainExperts([1, -1]), ValueError, "each of prior"),
        (lambda: log_likelihood(model(), TASK.probe_x, TASK.probe_y[:3]), ValueError, "each of 40 rows, got 3"),
        (lambda: log_likelihood(model(), TASK.probe_x, TASK.probe_y + 4), ValueError, "one of 4 classes"),
        (lambda: sent_to(model(), 1).__enter__(), ValueError, "expert"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
