"""Lifelong-MoE: what is frozen stays, KL starts at zero where growth is exact, drift is told, runs resume."""

import copy
import functools

import pytest
import torch
from torch.optim import SGD

from cllab.isolation import LifelongMoE, MoE, MoEClassifier, kl_to_old, routing_drift, token_task
from cllab.isolation.growth import stages
from cllab.models import MLP
from cllab.training import Phase, Step, TaskEnded, TaskStarted, fit, run

TOKENS = token_task(512, n_test=128)
STREAM = TOKENS.stages([["digit", "bracket"], ["word"], ["code"]])
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)


def model(k=2, seed=0):
    return MoEClassifier(28, 8, 3, k, 4, seed=seed, hidden=8, renormalise=k > 1)


def test_stages_of_the_token_task_hold_their_kinds():
    assert [len(task.y) for task in STREAM] == [int((TOKENS.kind < 2).sum()), *TOKENS.kind.bincount()[2:4].tolist()]
    assert STREAM.scenario == "domain" and STREAM.task_names == ["digit, bracket", "word", "code"]
    for groups, message in (([["digit", "digit"]], "once"), ([["letter"]], "one of"), ([], "kinds")):
        with pytest.raises(ValueError, match=message):
            TOKENS.stages(groups)


def test_kl_by_hand():
    old, new = torch.tensor([[0.0, 0.0]]), torch.tensor([[torch.tensor(3.0).log(), 0.0]])
    # KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 ln(2/3) + 1/2 ln 2
    assert float(kl_to_old(old, new)) == pytest.approx(0.143841, abs=1e-6)
    assert float(kl_to_old(new, new)) == 0.0


def test_drift_counts_assignments_whatever_their_order():
    before = torch.tensor([[0, 1], [1, 2]])
    assert routing_drift(before, before.flip(1)) == 0.0
    assert routing_drift(before, torch.tensor([[1, 3], [3, 4]])) == 0.75
    with pytest.raises(ValueError, match="after must have the shape"):
        routing_drift(before, before[:1])
    with pytest.raises(TypeError, match="before must be an int64"):
        routing_drift(before.float(), before)


@pytest.mark.parametrize("optimizer", ["adam", MOMENTUM])
@pytest.mark.parametrize("reset", [True, False])
def test_old_experts_and_rows_stay_and_shared_layers_learn(optimizer, reset):
    net, when_frozen = model(), {}
    for event in fit(net, STREAM, [LifelongMoE()], epochs=2, lr=0.01, optimizer=optimizer, reset_optimizer=reset):
        if isinstance(event, TaskEnded):
            when_frozen[event.task] = [copy.deepcopy(stages(part)[-1]) for part in (net.moe.router, net.moe.experts)]
            embed = net.embed.weight.clone()
        if isinstance(event, Step) and event.task > 0:
            assert not torch.equal(net.embed.weight, embed)
    assert net.moe.n_experts == 5
    for task in (0, 1):
        for part, kept in zip((net.moe.router, net.moe.experts), when_frozen[task], strict=True):
            for now, then in zip(stages(part)[task].parameters(), kept.parameters(), strict=True):
                assert torch.equal(now, then)


def test_without_freezing_they_move():
    net = model()
    for event in fit(net, STREAM, [LifelongMoE(freeze=False)], lr=0.01):
        if isinstance(event, TaskStarted) and event.task == 1:
            before = stages(net.moe.router)[0].weight.clone()
    assert not torch.equal(stages(net.moe.router)[0].weight, before)


@pytest.mark.parametrize(("init", "zero"), [("silent", True), ("copy", False), ("random", False)])
def test_kl_is_zero_where_growth_is_exact(init, zero):
    first = [
        event.losses["KL to old"]
        for event in fit(model(), STREAM, [LifelongMoE(init=init, noise=0.1)], lr=0.01)
        if isinstance(event, Step) and event.task > 0
    ]
    starts = [first[0], first[-(-len(STREAM[1].y) // 64)]]
    assert (max(starts) < 1e-7) is zero and all(value >= -1e-7 for value in first)


def test_kl_holds_old_answers_and_routing():
    for seed in range(2):
        accuracy, drift = {}, {}
        for lam in (0.0, 10.0):
            net = model(seed=seed)
            events = list(fit(net, STREAM, [LifelongMoE(lam=lam)], epochs=8, lr=0.01, seed=seed))
            drift[lam] = [e.info["drift"] for e in events if isinstance(e, Phase)][-1][0]
            x, y = STREAM[0].x_test, STREAM[0].y_test
            accuracy[lam] = (net.eval()(x).argmax(1) == y).double().mean().item()
        assert accuracy[10.0] > accuracy[0.0] + 0.05
        assert 0 <= drift[10.0] <= 1 and drift[0.0] > 0


def test_quiet_experts_are_woken():
    net, silent = model(), []
    for event in fit(net, STREAM, [LifelongMoE(init="silent", quiet=2)], batch_size=32, lr=0.01):
        if isinstance(event, Step) and event.task == 1:
            silent.append(bool((stages(net.moe.router)[-1].bias < -1e4).all()))
    assert silent[:2] == [True, False] and not any(silent[1:])


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, path = model(), tmp_path / "checkpoint"
    settings = {"lr": 0.01, "optimizer": MOMENTUM}
    run(whole, STREAM, [LifelongMoE(noise=0.1)], **settings)
    for event in fit(model(), STREAM, [LifelongMoE(noise=0.1)], checkpoint=path, checkpoint_every=1, **settings):
        if isinstance(event, Step) and event.task == 2:
            break
    resumed = model()
    run(resumed, STREAM, [LifelongMoE(noise=0.1)], resume=path, **settings)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_same_object_runs_again_and_lets_all_learn():
    net, method = model(), LifelongMoE()
    for _ in range(2):
        run(net, STREAM, [method], batch_size=64)
    assert net.moe.n_experts == 7
    with pytest.raises(ValueError, match="MoE layers"):
        run(MLP(28, [4], 4), STREAM, [LifelongMoE()])
    for bad in ({"n_new": 0}, {"lam": -1}, {"init": "twice"}, {"noise": -1}, {"quiet": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            LifelongMoE(**bad)


class TwoLayers(torch.nn.Module):
    """Layers that differ in E and in k."""

    def __init__(self, k=3):
        super().__init__()
        self.embed, self.head = torch.nn.Linear(28, 8), torch.nn.Linear(8, 4)
        self.first, self.second = MoE(8, 4, 2, seed=0), MoE(8, 8, k, seed=1)

    def forward(self, x):
        h = self.embed(x)
        h = h + self.first(h)
        return self.head(h + self.second(h))


def test_layers_of_other_sizes_are_counted_by_their_own():
    still = LifelongMoE(init="silent", lam=0.0, quiet=10**6)
    still._wake = lambda ctx: None  # else they are woken when a stage has ended
    phases = [event.info for event in fit(TwoLayers(), STREAM, [still], lr=1e-12) if isinstance(event, Phase)]
    assert [p["drift"] for p in phases] == [[], [0.0], [0.0, 0.0]]
    assert [p["to newer experts"] for p in phases] == [[], [0.0], [0.0, 0.0]]
