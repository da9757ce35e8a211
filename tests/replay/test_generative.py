"""Generative replay: who labels what, when the generator learns, and how its drift is told."""

import pytest
import torch
import torch.nn.functional as F

from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay, GenerativeReplay, LatentReplay, gaussian
from cllab.streams import blurry, digits, points, rotated, split
from cllab.training import Method, Phase, Step, TaskEnded, fit, frozen_copy, run

TINY = {"hidden": 16, "latent": 2, "epochs": 1, "batch_size": 64}


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(200), 2)


def net(seed=0, n_classes=10):
    return MLP(64, [16], n_classes, seed=seed)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def both(**changes):
    return [GenerativeReplay("gmm", **changes), GenerativeReplay("vae", **TINY, **changes)]


class Watch(Method):
    """Keeps every step's rows, and the model as it was when each task began."""

    def start_run(self, ctx):
        self.seen, self.began = [], []

    def start_task(self, ctx):
        self.began.append(frozen_copy(ctx.model))

    def losses(self, ctx, batch, outputs):
        self.seen.append((ctx.task_index, batch, outputs.detach()))
        return {}


# --- the old solver labels the old generator's rows ------------------------------------------------------


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("kind", [0, 1], ids=["gmm", "vae"])
def test_labels_are_the_old_solvers_among_the_classes_it_knew(scenario, kind):
    tasks = split(digits().take(200), 2, scenario=scenario)
    watch = Watch()
    run(net(), tasks, [both()[kind], watch], epochs=3, batch_size=16)
    changed = 0
    for task, batch, outputs in watch.seen:
        rows = batch.rows("generated")
        if task == 0:
            assert rows == slice(0, 0)
            continue
        assert rows.stop - rows.start == len(batch.y[batch.rows("new")])
        x, y, owner = batch.x[rows], batch.y[rows], batch.task[rows]
        for row, label, t in zip(x, y.tolist(), owner.tolist(), strict=True):
            known = list(tasks[t].classes) if scenario == "task" else list(range(2 * task))
            scores = watch.began[task](row[None])[0]
            assert label == max(known, key=lambda c: float(scores[c]))
            assert t < task and label in tasks[t].classes
        known = range(task + 1)
        for t, mask in zip(owner.tolist(), batch.allowed[rows], strict=True):
            mine = tasks[t].classes if scenario == "task" else [c for k in known for c in tasks[k].classes]
            assert sorted(mine) == mask.nonzero().flatten().tolist()
        changed += int((outputs[rows].masked_fill(~batch.allowed[rows], -torch.inf).argmax(dim=1) != y).sum())
    assert changed > 0 or scenario == "task"  # labels by the new solver would be other ones


def test_shares_of_the_loss_are_r_and_one_minus_r(stream):
    for r, expected in ((None, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]), (0.7, [1, 0.7, 0.7, 0.7, 0.7])):
        watch = Watch()
        events = [e for e in fit(net(), stream, [GenerativeReplay(r=r), watch]) if isinstance(e, Step)]
        for (task, batch, outputs), event in zip(watch.seen, events, strict=True):
            logits = outputs.masked_fill(~batch.allowed, -torch.inf)
            means = [F.cross_entropy(logits[p.rows], batch.y[p.rows]).item() for p in batch.parts]
            share = expected[task]
            loss = means[0] if task == 0 else share * means[0] + (1 - share) * means[1]
            assert event.losses["task"] == pytest.approx(loss, abs=1e-5)
            assert event.info.get("replayed", 0) == (len(batch.y) - len(batch.y[batch.rows("new")]))


def test_soft_labels_replace_the_hard_ones_in_the_sum(stream):
    watch = Watch()
    replay = GenerativeReplay(r=0.25, labels="soft", temperature=3.0)
    events = [e for e in fit(net(), stream, [replay, watch]) if isinstance(e, Step)]
    task, batch, outputs = watch.seen[-1]
    rows, new = batch.rows("generated"), batch.rows("new")
    old = watch.began[task](batch.x[rows])[:, :8] / 3
    q, p = old.softmax(dim=1), (outputs[rows] / 3).softmax(dim=1)[:, :8]
    soft = 9 * (q * (q / p).log()).sum(dim=1).mean()
    expected = 0.25 * F.cross_entropy(outputs[new], batch.y[new]) + 0.75 * soft
    assert sum(events[-1].losses.values()) == pytest.approx(expected.item(), abs=1e-4)
    assert set(events[0].losses) == {"task"}


# --- order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 1], ids=["gmm", "vae"])
def test_generator_and_solver_copy_stand_still_while_a_task_is_trained(stream, kind):
    replay, before = both()[kind], None

    def state():
        held = replay.state_dict()
        tensors = [*_tensors(held["sampler"]), *_tensors(held["solver"] or {})]
        return [t.clone() for t in tensors]

    for event in fit(net(), stream, [replay], epochs=2, batch_size=32):
        if type(event).__name__ == "TaskStarted":
            before = state()
        if isinstance(event, Step):
            assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
        if isinstance(event, TaskEnded):
            assert replay.solver is None  # the copy is dropped
            assert not all(torch.equal(a, b) for a, b in zip(before, state(), strict=False)) or event.task == 0


def _tensors(state):
    for value in state.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


def test_the_generator_learns_new_and_made_up_rows_in_shares_r(stream, monkeypatch):
    """Every loss of the VAE's training, taken apart: new rows with r, those of its old copy with 1 - r."""
    from cllab.replay import VAE

    calls, drawn, kept = [], [], {"losses": VAE.losses, "draw": VAE.draw}

    def losses(self, x, y, source):
        calls.append((x, y, [p.detach().clone() for p in self.parameters()]))
        return kept["losses"](self, x, y, source)

    def draw(self, y, source):
        rows = kept["draw"](self, y, source)
        drawn.append((rows, [p.detach().clone() for p in self.parameters()]))
        return rows

    monkeypatch.setattr(VAE, "losses", losses)
    monkeypatch.setattr(VAE, "draw", draw)
    replay = GenerativeReplay("vae", hidden=8, latent=2, epochs=2, batch_size=16)
    for event in fit(net(), stream, [replay], batch_size=16):
        if isinstance(event, Step) or (isinstance(event, TaskEnded) and event.task == 0):
            calls, drawn = calls[:0], drawn[:0]
        if isinstance(event, TaskEnded) and event.task == 1:
            break
    n = [len(x) for x, _, _ in calls]
    assert n and all(size % 2 == 0 for size in n)
    start = calls[0][2]
    for (x, y, _), (rows, of) in zip(calls, drawn, strict=False):
        half = len(x) // 2
        assert torch.equal(x[half:], rows) and bool((y[half:] < 2).all()) and bool((y[:half] >= 2).all())
        assert all(torch.equal(a, b) for a, b in zip(of, start, strict=True))  # always the old copy
    assert not torch.equal(calls[-1][2][0], start[0])  # while the VAE itself moves


class TrainedTooEarly(GenerativeReplay):
    """The wrong variant: the generator learns the new task before its old self is used."""

    def start_task(self, ctx):
        super().start_task(ctx)
        if ctx.task_index > 0:
            for _ in self.end_task(ctx):
                pass
            super().start_task(ctx)


class LabelledByTheNew(GenerativeReplay):
    """The wrong variant: the solver that is being trained labels what it trains on."""

    def replay(self, ctx, batch):
        self.solver = ctx.model if ctx.task_index else None
        return super().replay(ctx, batch)


@pytest.mark.parametrize(
    ("wrong", "test"),
    [(TrainedTooEarly, "order"), (LabelledByTheNew, "labels")],
)
def test_the_wrong_variants_are_caught(stream, monkeypatch, wrong, test):
    monkeypatch.setitem(globals(), "GenerativeReplay", wrong)
    with pytest.raises(AssertionError):
        if test == "labels":
            test_labels_are_the_old_solvers_among_the_classes_it_knew("class", 0)
        else:
            watch = Watch()
            replay = wrong()
            run(net(), stream, [replay, watch], epochs=2, batch_size=16)
            for task, batch, _ in watch.seen:
                assert bool((batch.y[batch.rows("generated")] < max(2 * task, 1)).all())
                assert replay.count.sum() == sum(len(t.y) for t in stream)


# --- generators ------------------------------------------------------------------------------------------


def test_gaussians_of_old_classes_stay_unless_they_are_refitted(stream):
    means = {}
    for refit in (False, True):
        replay = GenerativeReplay(refit=refit)
        first = None
        for event in fit(net(), stream, [replay]):
            if isinstance(event, TaskEnded) and event.task == 0:
                first = replay.sampler.mixtures[0]
                mean, covariance = gaussian(stream[0].x[stream[0].y == 0].double())
                assert torch.allclose(first.mean[0].double(), mean, atol=1e-5)
                assert torch.allclose(first.covariance[0].double(), covariance, atol=1e-5)
        means[refit] = (first.mean, replay.sampler.mixtures[0].mean)
        assert replay.sampler.mixtures[0].count == first.count
    assert torch.equal(*means[False]) and not torch.equal(*means[True])


def test_refitting_shrinks_the_variance_as_the_closed_form_says():
    """Ten rows of two features per class, five tasks: what the first class keeps is near (9/10)^4."""
    tasks = rotated(points("gaussians", n=10), 5)
    ratios = {False: [], True: []}
    for refit, found in ratios.items():
        for seed in range(15):
            events = fit(MLP(2, [4], 2), tasks, [GenerativeReplay(refit=refit, eps=0.0)], seed=seed, batch_size=20)
            last = [e for e in events if isinstance(e, Phase) and e.name == "generator drift"][-1]
            found += last.info["variance_ratio"][:2]
    spread = torch.tensor(ratios[True]).std().item() / 30**0.5
    assert sum(ratios[True]) / 30 == pytest.approx(0.9**4, abs=3 * spread)
    assert sum(ratios[False]) / 30 == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("kind", [0, 1], ids=["gmm", "vae"])
def test_drift_is_told_for_every_class_so_far(stream, kind):
    told = [e.info for e in fit(net(), stream, [both()[kind]]) if isinstance(e, Phase) and e.name == "generator drift"]
    for t, info in enumerate(told):
        assert info["class"] == list(range(2 * t + 2)) and info["task"] == [c // 2 for c in info["class"]]
        for values in (info["mean_shift"], info["variance_ratio"], info["agreement"]):
            assert len(values) == 2 * t + 2 and min(values) >= 0
        assert max(info["agreement"]) <= 1


def test_measuring_drift_leaves_the_draws_alone(stream, monkeypatch):
    models = [net(), net()]
    run(models[0], stream, [GenerativeReplay()])
    monkeypatch.setattr(GenerativeReplay, "_drift", lambda self, ctx: Phase("generator drift", {}))
    run(models[1], stream, [GenerativeReplay()])
    assert torch.equal(bits(models[0]), bits(models[1]))


def test_the_vae_reports_while_it_learns(stream):
    phases = [e for e in fit(net(), stream, [both()[1]]) if isinstance(e, Phase) and e.name.startswith("training")]
    assert len(phases) >= len(stream)
    assert phases[-1].info["step"] == phases[-1].info["steps"] and phases[-1].info["reconstruction"] > 0


# --- what every replay promises --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 1], ids=["gmm", "vae"])
def test_importance_one_is_fine_tuning(stream, kind):
    plain, replayed = net(), net()
    run(plain, stream, epochs=2)
    run(replayed, stream, [both(r=1.0)[kind]], epochs=2)
    assert torch.equal(bits(plain), bits(replayed))


def test_two_replays_tell_the_sum_of_what_they_replayed(stream):
    methods = [ExperienceReplay(30, batch_size=5), GenerativeReplay()]
    for event in fit(net(), stream, methods, batch_size=16):
        if isinstance(event, Step) and event.task == 1:
            break
    assert event.info["replayed"] == 5 + 16


def test_steps_and_parameters_are_the_solvers_own(stream):
    def steps(methods, model):
        return sum(isinstance(e, Step) for e in fit(model, stream, methods, epochs=2))

    model = net()
    names = list(model.state_dict())
    assert steps([], net()) == steps([both()[1]], model)
    assert list(model.state_dict()) == names


def test_bytes_are_those_of_generator_and_solver_copy(stream):
    told = [e.info["memory_bytes"] for e in fit(net(), stream, [GenerativeReplay()]) if isinstance(e, TaskEnded)]
    sizes = [next(iter(t.values())) for t in told]
    solver = sum(p.nbytes for p in net().parameters())
    per_class, measured = (1 + 64) * 4 + 64 * 64 * 8, 10 * (64 + 1) * 4
    assert sizes == [2 * (t + 1) * per_class + measured + (solver if t else 0) for t in range(5)]
    vae = both()[1]
    run(net(), stream, [vae])
    weights = sum(p.nbytes for p in vae.sampler.parameters())
    assert vae.memory_bytes() == weights + 10 + (10 * 2 + 10 * 4) * 4 + measured + solver
    assert GenerativeReplay().memory_bytes() == 0


@pytest.mark.parametrize("other", [EWC(10.0), ExperienceReplay(30)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_it_composes(stream, other, labels):
    history = run(net(), stream, [GenerativeReplay(labels=labels), other])
    assert torch.tensor(history.accuracy[-1]).isfinite().all()


def test_domains_and_classes_that_come_back():
    turned = rotated(points("gaussians", n=30), 3)
    watch = Watch()
    run(MLP(2, [8], 2), turned, [GenerativeReplay(), watch], batch_size=10)
    owners = [int(t) for task, batch, _ in watch.seen if task == 2 for t in batch.task[batch.rows("generated")]]
    assert set(owners) == {0, 1}
    mixed = blurry(digits().take(200), 5, 0.2)
    history = run(net(), mixed, [GenerativeReplay()])
    assert torch.tensor(history.accuracy[-1]).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_it_keeps_old_classes(labels):
    tasks = split(digits(), 2)
    finals = {}
    for name, methods in {"nothing": [], "replay": [GenerativeReplay(labels=labels)]}.items():
        history = run(MLP(64, [64], 10), tasks, methods, epochs=4, batch_size=32, lr=5e-3)
        finals[name] = sum(history.accuracy[-1]) / len(tasks)
    assert finals["replay"] > finals["nothing"] + 0.4


# --- refusals --------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused_by_name(stream):
    for wrong, named in (
        ({"generator": "gan"}, "generator"), ({"r": 0.0}, "r must be"), ({"r": 1.5}, "r must be"),
        ({"labels": "asked"}, "labels"), ({"temperature": 0.0}, "temperature"), ({"eps": -1.0}, "eps"),
        ({"components": 0}, "components"), ({"hidden": 0}, "hidden"), ({"latent": 0}, "latent"),
        ({"epochs": 0}, "epochs"), ({"batch_size": 0}, "batch_size"), ({"beta": -0.1}, "beta"),
        ({"generator": "vae", "refit": True}, "refit"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            GenerativeReplay(**wrong)
    with pytest.raises(TypeError, match="refit"):
        GenerativeReplay(refit=1)
    with pytest.raises(ValueError, match="one GenerativeReplay"):
        run(net(), stream, [GenerativeReplay(), GenerativeReplay(r=0.5)])
    with pytest.raises(ValueError, match="labels must be 'hard' beside LatentReplay"):
        run(net(), stream, [GenerativeReplay(labels="soft"), LatentReplay(10)])
    with pytest.raises(ValueError, match=r"'vae' needs rows in \[0, 1\]"):
        run(MLP(2, [4], 4), split(points(n=10), 2), [GenerativeReplay("vae", **TINY)])


def test_a_vae_that_diverges_stops_the_run_and_names_its_own_lr(stream):
    told = []
    with pytest.raises(FloatingPointError, match=r"GenerativeReplay's lr, now 1e\+20"):
        for event in fit(net(), stream, [GenerativeReplay("vae", **{**TINY, "batch_size": 8}, lr=1e20)]):
            told += [event.info] if isinstance(event, Phase) else []
    assert all(torch.tensor([info["reconstruction"], info["kl"]]).isfinite().all() for info in told)


def test_it_reads_as_the_call_that_made_it_before_and_after_a_run(stream):
    replay = GenerativeReplay(r=0.5)
    before = repr(replay)
    run(net(), stream, [replay])
    assert repr(replay) == before
    assert before.startswith("GenerativeReplay(generator='gmm', r=0.5, labels='hard', refit=False")
