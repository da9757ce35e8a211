"""Latent replay: exact while the lower part stands still, ageing when it does not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cllab.models import MLP, Classifier
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay, GenerativeReplay, LatentReplay, Reservoir, latent_age, latents
from cllab.streams import digits, split
from cllab.training import Method, Phase, TaskEnded, fit, run

F64 = torch.float64


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(200), 2)


def net(seed=0):
    return MLP(64, [16, 12], 10, seed=seed)


class Normed(Classifier):
    """A model whose lower part has BatchNorm and dropout, the two that behave differently in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 8))
        self.stages = (4, 5)
        self.head = nn.Linear(8, 10)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- by hand ---------------------------------------------------------------------------------------------


def test_age_is_the_mean_absolute_difference():
    assert latent_age(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [5.0, 4.5]])) == 3.5 / 4
    assert latent_age(torch.ones(3, 2), torch.ones(3, 2)) == 0


def test_a_tenth_on_the_first_weights_ages_latents_as_a_slow_loop_says():
    source = torch.Generator().manual_seed(0)
    model = Classifier()
    first, second = nn.Linear(4, 3, dtype=F64), nn.Linear(3, 2, dtype=F64)
    for parameter in (*first.parameters(), *second.parameters()):
        nn.init.normal_(parameter, generator=source)
    model.trunk, model.stages = nn.Sequential(first, nn.Tanh(), second, nn.Tanh()), (2, 4)
    model.head = nn.Linear(2, 2, dtype=F64)
    x = torch.randn(50, 4, generator=source, dtype=F64)
    stored = latents(model, x, 2)
    model.requires_grad_(False)

    def h(row, shift):
        hidden = [sum((float(w) + shift) * float(v) for w, v in zip(weights, row, strict=True)) + float(b)
                  for weights, b in zip(first.weight, first.bias, strict=True)]  # fmt: skip
        hidden = torch.tensor(hidden, dtype=F64).tanh()
        return (second.weight @ hidden + second.bias).tanh()

    expected = sum(float((h(row, 0.1) - h(row, 0.0)).abs().sum()) for row in x) / (50 * 2)
    with torch.no_grad():
        first.weight += 0.1
    assert latent_age(stored, latents(model, x, 2)) == pytest.approx(expected, abs=1e-9)
    assert 0.01 < expected < 0.5


# --- exact while frozen ----------------------------------------------------------------------------------


def test_replaying_latents_gives_the_upper_part_the_gradient_of_replaying_rows(stream):
    model = net()
    x, y = stream[0].x[:32], stream[0].y[:32]
    h = latents(model, x, 1)
    found = []
    for logits in (model.upper(1)(h), model(x)):
        model.zero_grad()
        F.cross_entropy(logits, y).backward()
        found.append([p.grad.clone() for p in model.upper(1).parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class RawReplay(LatentReplay):
    """The slow way: keep the rows themselves and send them through the whole model, whose lower part is frozen."""

    def _store(self, ctx, x, y, task):
        self.memory.add(x, y, task=task)

    def task_loss(self, ctx, batch, outputs):
        upper = ctx.model.upper
        ctx.model.upper = lambda stage: ctx.model  # rows enter below
        try:
            return super().task_loss(ctx, batch, outputs)
        finally:
            ctx.model.upper = upper


RawReplay.__name__ = LatentReplay.__name__  # the name decides what a method draws


@pytest.mark.parametrize("stage", [1, 2])
def test_a_whole_run_is_that_of_raw_replay_with_the_same_frozen_trunk(stream, stage):
    models = [net().double(), net().double()]
    for model, method in zip(models, (LatentReplay(40, stage), RawReplay(40, stage)), strict=True):
        run(model, stream, [method], epochs=2, batch_size=16)
    assert torch.allclose(bits(models[0]), bits(models[1]), atol=1e-9)


def test_all_latents_are_what_the_lower_part_makes_of_their_rows(stream):
    """Also those of the first task, while which the lower part learned."""
    model, replay = net(), LatentReplay(10_000, probe=10_000)
    events = list(fit(model, stream, [replay], epochs=2, batch_size=16))
    kept = replay.probes.sample(10_000)
    assert len(kept.y) == len(replay.memory) == replay.memory.n_seen == sum(len(task.y) for task in stream)
    assert torch.allclose(kept.x, latents(model, kept.row, 1), atol=1e-6)
    ages = [e.info["age"] for e in events if isinstance(e, Phase) and e.name == "age of latents"]
    assert len(ages) == len(stream) and max(ages) < 1e-6


def test_the_lower_part_learns_in_the_first_task_only(stream):
    model, replay = net(), LatentReplay(40, 1)
    lower, upper, asked = [], [], []
    for event in fit(model, stream, [replay], batch_size=16):
        if isinstance(event, TaskEnded):
            lower.append(torch.cat([p.detach().flatten() for p in model.lower(1).parameters()]))
            upper.append(torch.cat([p.detach().flatten() for p in model.upper(1).parameters()]))
            asked.append([p.requires_grad for p in model.lower(1).parameters()])
            grads = [p.grad for p in model.lower(1).parameters()]
            assert event.task == 0 or all(g is None for g in grads)
    assert not torch.equal(lower[0], torch.cat([p.detach().flatten() for p in net().lower(1).parameters()]))
    assert all(torch.equal(lower[0], later) for later in lower[1:])
    assert not torch.equal(upper[0], upper[1])
    assert asked[0] == [True, True] and asked[1] == [False, False]


def test_statistics_of_the_lower_part_stand_still_after_the_first_task(stream):
    model, means = Normed(), []
    replay = LatentReplay(10_000, probe=10_000)
    for event in fit(model, stream, [replay], epochs=2, batch_size=16):
        if isinstance(event, TaskEnded):
            means.append(model.trunk[1].running_mean.clone())
            kept = replay.probes.sample(10_000)
            assert latent_age(kept.x, latents(model, kept.row, 1)) < 1e-6
    assert means[0].abs().max() > 0 and all(torch.equal(means[0], later) for later in means[1:])
    assert not model.trunk[1].training and model.training


def test_resumed_within_a_task_the_statistics_still_stand_still(stream, tmp_path):
    path, arguments = tmp_path / "run.pt", {"epochs": 2, "batch_size": 16}
    whole, resumed = Normed(), Normed()
    run(whole, stream, [LatentReplay(40)], **arguments)
    for event in fit(Normed(), stream, [LatentReplay(40)], checkpoint=path, checkpoint_every=1, **arguments):
        if getattr(event, "step", 0) == 8:
            break
    run(resumed, stream, [LatentReplay(40)], resume=path, **arguments)
    assert torch.equal(bits(whole), bits(resumed))
    assert torch.equal(whole.trunk[1].running_mean, resumed.trunk[1].running_mean)


class Dropping(MLP):
    """An MLP with dropout above its first stage."""

    def __init__(self):
        super().__init__(64, [16, 12], 10)
        self.trunk.append(nn.Dropout(0.5))


def test_dropout_above_the_cut_draws_from_the_runs_own_randomness(stream, tmp_path):
    path, found = tmp_path / "run.pt", []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before, model = torch.get_rng_state(), Dropping()
        run(model, stream, [LatentReplay(40)], batch_size=16)
        assert torch.equal(before, torch.get_rng_state())
        found.append(bits(model))
    for event in fit(Dropping(), stream, [LatentReplay(40)], batch_size=16, checkpoint=path, checkpoint_every=1):
        if getattr(event, "step", 0) == 5 and event.task == 1:
            break
    resumed = Dropping()
    run(resumed, stream, [LatentReplay(40)], batch_size=16, resume=path)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], bits(resumed))


def test_a_second_run_unfreezes_what_the_first_froze_and_nothing_else(stream):
    model, replay = net(), LatentReplay(40)
    model.trunk[0].bias.requires_grad_(False)
    run(model, stream, [replay], batch_size=16)
    weight, bias = (p.detach().clone() for p in model.trunk[0].parameters())
    assert not model.trunk[0].weight.requires_grad
    run(model, stream, [replay], batch_size=16)
    assert not torch.equal(weight, model.trunk[0].weight) and torch.equal(bias, model.trunk[0].bias)


def test_a_second_replay_adds_to_what_is_told(stream):
    for event in fit(net(), stream, [ExperienceReplay(30, batch_size=5), LatentReplay(40, batch_size=6)]):
        if getattr(event, "losses", None) and event.task == 1:
            break
    assert event.info["replayed"] == 5 + 6


class TooEarly(LatentReplay):
    """The wrong variant: latents of the first task are stored while the lower part still learns."""

    def after_step(self, ctx, batch):
        if ctx.epoch == 0:
            self._store(ctx, batch.x, batch.y, batch.task)

    def end_task(self, ctx):
        yield from ()


class StatisticsMove(LatentReplay):
    """The wrong variant: weights are frozen, but the lower part stays in training mode."""

    def start_task(self, ctx):
        if ctx.task_index > 0:
            ctx.model.lower(self.stage).requires_grad_(False)


@pytest.mark.parametrize(("wrong", "model"), [(TooEarly, net), (StatisticsMove, Normed)])
def test_the_wrong_variants_age(stream, wrong, model):
    ages = {}
    for kind in (LatentReplay, wrong):
        trained, replay = model(), kind(10_000, probe=10_000)
        run(trained, stream, [replay], batch_size=18)
        kept = replay.probes.sample(10_000)
        ages[kind] = latent_age(kept.x, latents(trained, kept.row, 1))
    assert ages[LatentReplay] < 1e-6 and ages[wrong] > 1e-3


# --- ageing ----------------------------------------------------------------------------------------------


def test_latents_age_while_the_lower_part_learns_on(stream):
    model, replay = net(), LatentReplay(60, frozen=False, probe=20)
    events = list(fit(model, stream, [replay], epochs=2, batch_size=16))
    ages = [e.info for e in events if isinstance(e, Phase)]
    assert [info["rows"] for info in ages] == [20] * len(stream)
    assert all(info["age"] > 0.01 for info in ages)
    assert all(p.requires_grad for p in model.parameters())


def test_the_probe_changes_nothing(stream):
    models = [net(), net()]
    for model, probe in zip(models, (0, 15), strict=True):
        run(model, stream, [LatentReplay(40, frozen=False, probe=probe)])
    assert torch.equal(bits(models[0]), bits(models[1]))


# --- what every replay promises --------------------------------------------------------------------------


def test_without_share_it_is_fine_tuning(stream):
    plain, replayed = net(), net()
    run(plain, stream, epochs=2)
    run(replayed, stream, [LatentReplay(40, rho=0.0, frozen=False)], epochs=2)
    assert torch.equal(bits(plain), bits(replayed))


def test_the_loss_is_the_weighted_sum_with_each_latent_under_its_own_mask(stream):
    class Watch(Method):
        def losses(self, ctx, batch, outputs):
            self.seen = ctx, batch, outputs.detach()
            return {}

    for scenario in ("task", "class"):
        tasks = split(digits().take(200), 2, scenario=scenario)
        model, replay, watch = net(), LatentReplay(30, batch_size=5, rho=0.3), Watch()
        for event in fit(model, tasks, [replay, watch], batch_size=16):
            if getattr(event, "losses", None) and event.task == 2:
                break
            state = {k: v.clone() for k, v in model.state_dict().items()}
            before = replay.memory.state_dict() if replay.memory is not None and len(replay.memory) else None
        assert event.info["replayed"] == 5
        memory = Reservoir(30, torch.Generator())
        memory.load_state_dict(before)
        kept = memory.sample(5)
        model.load_state_dict(state)
        slow = 0.0
        for h, y, task in zip(*kept, strict=True):
            known = tasks[int(task)].classes if scenario == "task" else range(6)
            logits = model.upper(1)(h[None])[0].tolist()
            slow -= logits[int(y)] - torch.tensor([logits[c] for c in known]).logsumexp(0).item()
        _, batch, outputs = watch.seen
        known = list(tasks[2].classes) if scenario == "task" else list(range(6))
        new = sum(float(row[known].logsumexp(0) - row[int(y)]) for row, y in zip(outputs, batch.y, strict=True))
        assert event.losses["task"] == pytest.approx(0.7 * new / len(batch.y) + 0.3 * slow / 5, abs=1e-5)


def test_no_replay_in_the_first_task_and_a_batch_never_replays_itself(stream):
    class Watch(LatentReplay):
        def task_loss(self, ctx, batch, outputs):
            loss = super().task_loss(ctx, batch, outputs)
            if ctx.task_index == 0:
                assert loss is None and "replayed" not in ctx.info
            else:
                h = latents(ctx.model, batch.x, self.stage)
                assert torch.cdist(h, self.memory.x).min() > 0
            return loss

    run(net(), stream, [Watch(10_000)], batch_size=16)


def test_memory_is_told_in_bytes(stream):
    *_, ended = fit(net(), stream, [LatentReplay(30)])
    (size,) = ended.info["memory_bytes"].values()
    assert size == 30 * (16 * 4 + 8 + 8)
    replay = LatentReplay(30, probe=4)
    run(net(), stream, [replay])
    assert replay.memory_bytes() == size + 4 * (16 * 4 + 8 + 64 * 4)


@pytest.mark.slow
def test_it_keeps_old_tasks_only_while_the_lower_part_stands_still():
    tasks = split(digits(), 2)
    finals = {}
    kinds = {"nothing": [], "frozen": [LatentReplay(400)], "moving": [LatentReplay(400, frozen=False)]}
    for name, methods in kinds.items():
        history = run(MLP(64, [64, 32], 10), tasks, methods, epochs=4, batch_size=10, lr=3e-3)
        finals[name] = sum(history.accuracy[-1]) / len(tasks)
    assert finals["frozen"] > finals["nothing"] + 0.12
    assert finals["frozen"] > finals["moving"] + 0.12


@pytest.mark.parametrize("other", [EWC(10.0), ExperienceReplay(30), GenerativeReplay()], ids=lambda m: type(m).__name__)
def test_it_composes(stream, other):
    history = run(net(), stream, [LatentReplay(30), other])
    assert torch.tensor(history.accuracy[-1]).isfinite().all()


# --- refusals --------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_by_name(stream):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(x)

    with pytest.raises(TypeError, match=r"lower.*upper.*Bare has not"):
        run(Bare(), stream, [LatentReplay(10)])
    with pytest.raises(ValueError, match="stage must be between 1 and 2, got 3"):
        run(net(), stream, [LatentReplay(10, stage=3)])
    with pytest.raises(ValueError, match="hidden stage to cut after, this MLP has none"):
        run(MLP(64, [], 10), stream, [LatentReplay(10)])
    with pytest.raises(ValueError, match="x must be finite"):
        latents(net(), torch.full((2, 64), float("nan")), 1)
    for wrong, named in (({"stage": 0}, "stage"), ({"rho": 1.0}, "rho"), ({"capacity": 0}, "capacity"),
                         ({"batch_size": 0}, "batch_size"), ({"probe": -1}, "probe")):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            LatentReplay(**{"capacity": 5, **wrong})
    with pytest.raises(TypeError, match="frozen"):
        LatentReplay(5, frozen=1)
    with pytest.raises(ValueError, match="now must have the shape"):
        latent_age(torch.ones(2, 3), torch.ones(2, 4))


def test_latents_of_another_width_are_refused(stream):
    wide, narrow = LatentReplay(10, stage=1), LatentReplay(10, stage=2)
    run(net(), stream, [wide])
    run(net(), stream, [narrow])
    with pytest.raises(ValueError, match=r"latents of shape \(12,\).*got \(16,\)"):
        narrow.load_state_dict(wide.state_dict())
