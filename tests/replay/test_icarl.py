"""iCaRL: the loss on paper, what is replayed, kept and answered; the field's known bugs must not pass."""

import itertools
import math

import pytest
import torch
from torch import nn

from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay, ICaRL, first_of_each, herding, icarl_loss, icarl_targets, quota, unit_rows
from cllab.streams import blurry, digits, permuted, split
from cllab.training import Batch, Evaluated, Method, Phase, Step, fit, frozen_copy, predict, run

Q, P = (0.9, 0.1), (0.8, 0.15)  # the old network's answers and the new one's, for two old classes
NEW = 0.05  # the new network's answer for the one new class, which the row does not belong to


def logits(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).logit()


def bce(p, target):
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


@pytest.fixture(scope="module")
def data():
    return digits().take(300)


@pytest.fixture(scope="module")
def stream(data):
    return split(data, 2)


def net(n_classes=2, hidden=(32,), seed=0):
    return MLP(64, hidden, n_classes, seed=seed)


def random_rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Watch(Method):
    """Keeps every step's rows and what iCaRL's old network was then."""

    def __init__(self, icarl=None):
        self.icarl, self.seen, self.teachers = icarl, [], []

    def losses(self, ctx, batch, outputs):
        self.seen.append((ctx.task_index, ctx.step, batch, outputs.shape[1]))
        if self.icarl and self.icarl.old is not None:
            self.teachers.append((ctx.task_index, self.icarl.old.training, bits(self.icarl.old)))
        return {}


# --- the loss --------------------------------------------------------------------------------------------


def test_the_worked_example():
    targets = icarl_targets(torch.tensor([0]), torch.tensor([2]), logits(*Q))
    torch.testing.assert_close(targets, torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64))
    loss = icarl_loss(logits(*P, NEW), targets, n_old=2)
    assert 3 * loss.distillation.item() == pytest.approx(0.697752, abs=5e-7)
    assert 3 * loss.new.item() == pytest.approx(0.051293, abs=5e-7)
    assert 3 * sum(loss).item() == pytest.approx(0.749045, abs=5e-7)
    assert sum(loss).item() == pytest.approx(0.249682, abs=5e-7)
    floor = icarl_loss(logits(*Q), targets[:, :2], n_old=2).distillation.item() * 2
    assert floor == pytest.approx(0.650166, abs=5e-7)
    assert 3 * loss.distillation.item() - floor == pytest.approx(0.047586, abs=5e-7)


def test_the_sum_is_the_mean_over_all_entries_by_a_loop():
    z, old = random_rows(6, 5), random_rows(6, 3, seed=1)
    y = torch.tensor([4, 8, 0, 4, 2, 8])
    targets = icarl_targets(y, torch.tensor([8, 4]), old)
    slow = {"new": 0.0, "distillation": 0.0}
    for i, c in itertools.product(range(6), range(5)):
        target = old[i, c].sigmoid().item() if c < 3 else float(y[i] == (8, 4)[c - 3])
        slow["distillation" if c < 3 else "new"] += bce(z[i, c].sigmoid().item(), target) / 30
    assert icarl_loss(z, targets, 3)._asdict() == pytest.approx(slow, abs=1e-9)


def test_the_gradient_is_answer_minus_target():
    z = random_rows(4, 5).requires_grad_()
    targets = icarl_targets(torch.tensor([3, 0, 4, 1]), torch.tensor([3, 4]), random_rows(4, 3, seed=1))
    sum(icarl_loss(z, targets, 3)).backward()
    torch.testing.assert_close(z.grad, (z.detach().sigmoid() - targets) / 20, rtol=0, atol=1e-12)


def test_without_old_classes_it_is_plain_multi_label_training():
    z, y = random_rows(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    loss = icarl_loss(z, icarl_targets(y, torch.arange(3)))
    expected = nn.functional.binary_cross_entropy(z.sigmoid(), nn.functional.one_hot(y).double())
    assert loss.distillation == 0
    assert loss.new.item() == pytest.approx(expected.item(), abs=1e-9)


def test_shares_weigh_rows():
    z, targets = random_rows(3, 2), torch.rand(3, 2, dtype=torch.float64)
    shares = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert sum(icarl_loss(z, targets, 1, shares)).item() == pytest.approx(sum(icarl_loss(z[:2], targets[:2], 1)).item())


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: icarl_targets(torch.tensor([0.0]), torch.tensor([1])), TypeError, "labels"),
        (lambda: icarl_targets(torch.tensor([0]), [1]), TypeError, "new_classes"),
        (lambda: icarl_targets(torch.tensor([0]), torch.tensor([1]), torch.zeros(2, 1)), ValueError, "labels"),
        (lambda: icarl_targets(torch.tensor([0]), torch.tensor([1]), torch.zeros(1)), ValueError, "old_logits"),
        (lambda: icarl_loss(torch.zeros(1, 2), torch.zeros(1, 3)), ValueError, "targets"),
        (lambda: icarl_loss(torch.zeros(1, 2), torch.full((1, 2), 1.5)), ValueError, r"targets must lie in \[0, 1\]"),
        (lambda: icarl_loss(torch.full((1, 2), math.nan), torch.zeros(1, 2)), ValueError, "logits"),
        (lambda: icarl_loss(torch.zeros(1, 2), torch.zeros(1, 2), 3), ValueError, "n_old"),
        (lambda: icarl_loss(torch.zeros(1, 2), torch.zeros(1, 2), 1, torch.ones(2)), ValueError, "weights"),
        (lambda: first_of_each(torch.tensor([0, 1]), 0), ValueError, "m must"),
        (lambda: ICaRL(0), ValueError, "capacity"), (lambda: ICaRL(2.5), TypeError, "capacity"),
        (lambda: ICaRL(5, rounding="up"), ValueError, "rounding"),
        (lambda: ICaRL(5, normalise=1), TypeError, "normalise"), (lambda: ICaRL(5, batch_size=0), ValueError, "batch_size"),
        (lambda: ICaRL(5, union=1), TypeError, "union"), (lambda: ICaRL(5, batch_size=4, union=True), ValueError, "batch_size"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, named):
    with pytest.raises(error, match=named):
        call()


# --- what a run trains on ----------------------------------------------------------------------------------


def test_the_head_grows_and_unseen_columns_are_never_trained(data):
    # columns that do not follow one another
    stream = split(data.only([0, 1, 2, 3, 7, 9]), [[7, 3], [0, 9], [1, 2]])
    watch = Watch()
    run(net(), stream, [ICaRL(20), watch])
    assert {task: width for task, _, _, width in watch.seen} == {0: 8, 1: 10, 2: 10}
    whole = net(10)
    before = whole.head.weight.detach().clone()
    run(whole, stream, [ICaRL(20)], epochs=3)
    for c in range(10):
        assert torch.equal(whole.head.weight[c], before[c]) == (c in (4, 5, 6, 8))


def test_the_terms_of_a_step_are_those_of_the_formula(data):
    """Recomputed by hand from the two networks, in a task whose columns do not follow one another."""
    stream, checked = split(data, [[7, 3], [0, 9], [1, 2, 4, 5, 6, 8]]), []
    icarl = ICaRL(20)

    class Check(Method):
        def losses(self, ctx, batch, outputs):
            if ctx.task_index != 1:
                return {}
            targets = torch.zeros(len(batch.y), 4)
            targets[:, :2] = icarl.old(batch.x)[:, [7, 3]].sigmoid()
            targets[:, 2] = (batch.y == 0).float()
            targets[:, 3] = (batch.y == 9).float()
            p = outputs[:, [7, 3, 0, 9]].sigmoid()
            checked.append(nn.functional.binary_cross_entropy(p, targets).item())
            return {}

    events = list(fit(net(), stream, [icarl, Check()], epochs=2, lr=0.01))
    steps = [event for event in events if isinstance(event, Step) and event.task == 1]
    assert [sum(step.losses.values()) for step in steps] == pytest.approx(checked, rel=1e-5)
    assert all(set(step.losses) == {"task", "distillation"} for step in steps)
    assert all(set(event.losses) == {"task"} for event in events if isinstance(event, Step) and event.task == 0)


def test_no_replay_in_the_first_task_then_exemplars_in_proportion(stream):
    icarl, watch = ICaRL(60, union=True), Watch()
    steps = [event for event in fit(net(), stream, [icarl, watch], epochs=3) if isinstance(event, Step)]
    assert len(steps) == sum(3 * math.ceil(len(task.y) / 64) for task in stream)
    kept = [0, *(min(60 // t * t, 60) for t in (2, 4, 6, 8))]
    for task, _, batch, _ in watch.seen:
        rows, n_new = batch.rows("exemplars"), len(batch.y[batch.rows("new")])
        n = rows.stop - rows.start
        if task == 0:
            assert n == 0
            continue
        assert n == max(1, round(n_new * kept[task] / len(stream[task].y)))
        assert bool((batch.task[rows] < task).all())
        assert batch.allowed[rows].gather(1, batch.y[rows][:, None]).all()
        assert len(batch.x[rows].unique(dim=0)) == n
        assert {part.source: part.weight for part in batch.parts}["exemplars"] == n / n_new
    seen = sum(len(b.y[b.rows("exemplars")]) for task, _, b, _ in watch.seen if task == 4)
    assert seen / 3 == pytest.approx(kept[4], rel=0.15), "an epoch sees every exemplar once on average"


@pytest.mark.parametrize("asked", [None, 40])
def test_as_many_exemplars_as_new_rows_or_as_asked_for(stream, asked):
    watch = Watch()
    run(net(), stream, [ICaRL(60, batch_size=asked), watch], batch_size=16)
    for task, _, batch, _ in watch.seen:
        rows, new = batch.rows("exemplars"), batch.rows("new")
        assert rows.stop - rows.start == ((asked or new.stop - new.start) if task else 0)
        if task:
            weights = {part.source: part.weight for part in batch.parts}
            assert weights["exemplars"] / (rows.stop - rows.start) == pytest.approx(
                weights["new"] / (new.stop - new.start)
            )


def test_the_teacher_is_the_network_before_the_task_and_stays(data):
    class Droppy(MLP):
        def __init__(self):
            super().__init__(64, [32], 2)
            self.trunk.append(nn.Dropout(0.5))

    stream, ends, icarl = split(data, 2), [], ICaRL(30)

    class End(Method):
        def end_task(self, ctx):
            ends.append(bits(ctx.model))
            assert ctx.model.training
            yield from ()

    watch = Watch(icarl)
    run(Droppy(), stream, [icarl, watch, End()], epochs=2)
    assert {task for task, _, _ in watch.teachers} == {1, 2, 3, 4}
    for task, training, weights in watch.teachers:
        assert not training
        assert torch.equal(weights, ends[task - 1])
    assert icarl.old is None


def test_other_methods_rows_count_with_their_weight(stream):
    """ER's rho stays the share of its memory; rows of weight 0 carry no loss."""

    class Silent(Method):
        def replay(self, ctx, batch):
            return [Batch.of("silent", batch.x * 9, batch.y, batch.task, batch.allowed, 0.0)]

    models = [net(10), net(10)]
    for model, methods in zip(models, ([ICaRL(30)], [ICaRL(30), Silent()]), strict=True):
        run(model, stream, methods)
    assert torch.allclose(bits(models[0]), bits(models[1]), atol=1e-5)
    seen = []

    class Gradients(Method):
        def losses(self, ctx, batch, outputs):
            if ctx.task_index:
                outputs.retain_grad()
                seen.append((ctx.task_index, batch, outputs))
            return {}

    icarl = ICaRL(30)
    next(event for event in fit(net(10), stream, [icarl, ExperienceReplay(30, rho=0.25), Gradients()]) if seen)
    task, batch, outputs = seen[0]
    weights = {part.source: part.weight for part in batch.parts}
    share = weights["memory"] / sum(weights.values())
    memory = batch.rows("memory")
    targets = icarl_targets(batch.y[memory], torch.tensor(stream[task].classes), icarl.old(batch.x[memory])[:, :2])
    expected = share * (outputs[memory, :4].detach().sigmoid() - targets) / targets.numel()
    torch.testing.assert_close(outputs.grad[memory, :4], expected, rtol=1e-4, atol=1e-7)


# --- what is kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("capacity", "rounding"), [(31, "floor"), (31, "ceil"), (2000, "floor"), (10, "floor")])
def test_every_class_keeps_its_quota_or_all_it_has(stream, capacity, rounding):
    icarl, task = ICaRL(capacity, rounding=rounding), 0
    for event in fit(net(), stream, [icarl], lr=0.01):
        if not isinstance(event, Evaluated) or event.task != task or icarl.old is not None:
            continue
        t = 2 * (task + 1)
        m = capacity // t if rounding == "floor" else math.ceil(capacity / t)
        sizes = {c: int((stream[c // 2].y == c).sum()) for c in range(t)}
        assert {c: len(rows) for c, rows in icarl.exemplars.items()} == {c: min(m, n) for c, n in sizes.items()}
        if rounding == "floor":
            assert len(icarl.y) <= capacity
        assert icarl.memory_bytes() == len(icarl.y) * (64 * 4 + 8)
        task += 1
    assert task == 5


def test_ceil_may_exceed_the_budget_as_the_authors_do():
    assert (quota(8, 3), quota(8, 3, "ceil")) == (2, 3)
    assert (quota(2000, 30), quota(2000, 30, "ceil")) == (66, 67)
    assert quota(2000, 20, "ceil") == quota(2000, 20) == 100
    with pytest.raises(ValueError, match="capacity"):
        quota(3, 4, "ceil")
    with pytest.raises(ValueError, match="rounding"):
        quota(8, 3, "round")


def snapshots(stream, icarl, model, **arguments):
    """After every task: the exemplars and a copy of the network that chose them."""
    found, kept = [], None
    for event in fit(model, stream, [icarl], **arguments):
        if isinstance(event, Phase):
            kept = event
        elif isinstance(event, Evaluated) and kept is not None:
            found.append(({c: rows.clone() for c, rows in icarl.exemplars.items()}, frozen_copy(model)))
            kept = None
    return found


def herded(model, task, c, m, unit=True):
    x = task.x[task.y == c]
    with torch.no_grad():
        phi = model.features(x)
    return x[herding(unit_rows(phi) if unit else phi, m)]


@pytest.mark.parametrize("unit", [True, False])
def test_new_classes_are_herded_and_old_lists_only_cut(stream, unit):
    found = snapshots(stream, ICaRL(40, normalise=unit), net(), epochs=2, lr=0.01)
    for t, (exemplars, model) in enumerate(found):
        m = 40 // (2 * (t + 1))
        for c in stream[t].classes:
            assert torch.equal(exemplars[c], herded(model, stream[t], c, m, unit))
        for earlier, _ in found[:t]:
            for c, rows in earlier.items():
                assert torch.equal(exemplars[c], rows[:m]), "a list in herding order is cut at its end"


def test_the_known_bugs_of_choosing_are_told_apart(stream):
    """What the test above would see if old classes were herded again, cut at the front, or chosen without unit length."""
    found = snapshots(stream, ICaRL(40), net(), epochs=4, lr=0.01)
    (before, first), (after, second) = found[0], found[1]
    m = 10
    differences = {"herded again": 0, "cut at the front": 0, "raw features": 0, "old features": 0}
    for c in (0, 1):
        differences["herded again"] += not torch.equal(after[c], herded(second, stream[0], c, m))
        differences["cut at the front"] += not torch.equal(after[c], before[c][-m:])
    for c in (2, 3):
        differences["raw features"] += not torch.equal(after[c], herded(second, stream[1], c, m, unit=False))
        differences["old features"] += not torch.equal(after[c], herded(first, stream[1], c, m))
    assert all(differences.values()), differences


def test_first_of_each_keeps_the_order():
    y = torch.tensor([5, 5, 5, 2, 2, 7])
    assert first_of_each(y, 2).tolist() == [0, 1, 3, 4, 5]
    assert first_of_each(y, 9).tolist() == list(range(6))
    assert first_of_each(torch.tensor([1, 0, 1, 0, 1]), 1).tolist() == [0, 1]


def test_phases_tell_what_was_kept(stream):
    phases = [event for event in fit(net(), stream, [ICaRL(40)]) if isinstance(event, Phase)]
    assert [phase.name for phase in phases[:5]] == ["herding", "herding", "truncation", "herding", "herding"]
    assert phases[0].info["kept"] == 20 and phases[0].info["of"] == int((stream[0].y == 0).sum())
    assert phases[2].info == {"quota": 10, "dropped": 20}
    assert all(phase.info["error"] >= 0 for phase in phases if phase.name == "herding")


# --- what is answered --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(stream):
    icarl, model = ICaRL(40), net()
    for event in fit(model, stream, [icarl], epochs=5, lr=0.01):
        if isinstance(event, Evaluated) and event.task == 2 and icarl.old is None:
            return icarl, model


def slow_answers(model, exemplars, x, unit=True):
    """Algorithm 1 row by row."""
    model = frozen_copy(model)

    def phi(rows):
        features = model.features(rows).double()
        return features / features.norm(dim=1, keepdim=True) if unit else features

    means = {}
    for c, rows in exemplars.items():
        mean = phi(rows).mean(dim=0)
        means[c] = mean / mean.norm() if unit else mean
    return torch.tensor([min(means, key=lambda c: float((row - means[c]).norm())) for row in phi(x)])


def test_answers_are_those_of_the_nearest_mean_with_the_features_of_now(stream, trained):
    icarl, model = trained
    x = torch.cat([task.x_test for task in stream])
    answers = predict(model, x, stream, seen=4, methods=[icarl])
    assert torch.equal(answers, slow_answers(model, icarl.exemplars, x))
    moved = frozen_copy(model)
    with torch.no_grad():
        moved.trunk[0].weight += 0.3 * torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    later = predict(moved, x, stream, seen=4, methods=[icarl])
    assert torch.equal(later, slow_answers(moved, icarl.exemplars, x))
    assert not torch.equal(answers, later), "means must not be kept from an earlier network"


def test_un_normalised_answers_differ(stream, trained):
    icarl, model = trained
    x = torch.cat([task.x_test for task in stream])
    raw = ICaRL(40, normalise=False)
    raw.x, raw.y = icarl.x, icarl.y
    answers = predict(model, x, stream, seen=4, methods=[raw])
    assert torch.equal(answers, slow_answers(model, icarl.exemplars, x, unit=False))
    assert not torch.equal(answers, predict(model, x, stream, seen=4, methods=[icarl]))


class Plain(nn.Module):
    """Its features are the inputs."""

    def features(self, x):
        return x


def test_a_class_without_exemplars_is_never_answered():
    """A zero mean is at distance 1 of every unit feature and wins wherever the largest cosine is below 1/2."""
    icarl, everything = ICaRL(4), torch.ones(3, dtype=torch.bool)
    icarl.x, icarl.y = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]]), torch.tensor([0, 0, 2, 2])
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    scores = icarl.predict(Plain(), x, everything, None)
    assert set(scores.argmax(dim=1).tolist()) == {0, 2}
    assert bool((scores[:, 1] == -torch.inf).all())
    wrong = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # what several public implementations compare with
    assert 1 in torch.cdist(unit_rows(x), wrong).argmin(dim=1).tolist()


def test_means_are_those_of_unit_features_and_have_unit_length_themselves():
    """Class 0 has a long exemplar that would pull a raw mean, and a spread that shortens its mean."""
    icarl = ICaRL(4)
    icarl.x, icarl.y = torch.tensor([[9.0, 0.0], [0.0, 1.0], [1.0, -1.0], [1.0, -1.0]]), torch.tensor([0, 0, 1, 1])
    x = torch.tensor([[1.0, -0.2]])
    scores = icarl.predict(Plain(), x, torch.ones(2, dtype=torch.bool), None)[0]
    means = unit_rows(torch.tensor([[0.5, 0.5], [1.0, -1.0]]))
    torch.testing.assert_close(scores, -(unit_rows(x) - means).norm(dim=1))
    assert scores.argmax() == 1
    raw = torch.tensor([[4.5, 0.5], [1.0, -1.0]])
    assert (unit_rows(x) - unit_rows(raw)).norm(dim=1).argmin() == 0, "un-normalised exemplars"


def test_before_there_are_exemplars_the_head_answers(stream, trained):
    model, allowed = net(10), torch.ones(10, dtype=torch.bool)
    assert ICaRL(40).predict(model, stream[0].x_test, allowed, None) is None
    icarl, trained_model = trained
    allowed[:6] = False
    assert icarl.predict(trained_model, stream[0].x_test, allowed, None) is None


def test_a_task_that_is_known_at_test_narrows_the_answers(data):
    stream = split(data, 2, scenario="task")
    history = run(net(), stream, [ICaRL(40)], epochs=10, lr=0.01)
    assert history.metrics()["average_accuracy"] > 0.85


def test_features_of_norm_zero_are_refused_with_a_sentence(stream):
    model = net(10)
    with torch.no_grad():
        model.trunk[0].bias -= 1e3
    with pytest.raises(ValueError, match=r"ICaRL cannot scale features to unit length.*normalise=False"):
        run(model, stream, [ICaRL(40)])
    assert run(model, stream, [ICaRL(40, normalise=False)]).accuracy.shape == (5, 5)


def test_features_that_are_not_finite_are_refused(trained, stream):
    icarl, model = trained
    broken = frozen_copy(model)
    broken.trunk[0].bias.data[0] = math.nan
    with pytest.raises(ValueError, match="features of the model must be finite"):
        icarl.predict(broken, stream[0].x_test, torch.ones(10, dtype=torch.bool), None)


# --- where it fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_stream", "model", "capacity", "message"),
    [
        (lambda d: split(d, 2), net(10), 9, "capacity must be at least 10"),
        (lambda d: split(d, 2, scenario="domain"), net(2), 40, "herded once"),
        (lambda d: permuted(d, 2), net(10), 40, "domain-incremental"),
        (lambda d: blurry(d, 5, 0.2), net(10), 40, "classes of their own"),
        (lambda d: split(d, 2), nn.Linear(64, 10), 40, "features, head, grow_head"),
    ],
)
def test_what_it_cannot_do_is_said_before_training(data, make_stream, model, capacity, message):
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        run(model, make_stream(data), [ICaRL(capacity)])
    assert torch.equal(before, bits(model))


def test_two_of_them_conflict(stream):
    with pytest.raises(ValueError, match="ICaRL and ICaRL"):
        fit(net(), stream, [ICaRL(20), ICaRL(20)])


def test_it_composes_with_springs_and_with_another_memory(stream):
    history = run(net(), stream, [EWC(1.0), ICaRL(40), ExperienceReplay(40)], epochs=2)
    last = history.losses[-1]
    assert set(last.losses) == {"task", "EWC", "distillation"}
    assert {"exemplars", "replayed"} <= set(last.info)


@pytest.mark.parametrize("step", [3, 9, 14])
@pytest.mark.parametrize("keep", [True, False])
def test_resumed_is_uninterrupted_with_a_head_that_grows(data, tmp_path, step, keep):
    stream = split(data.take(160), [[7, 3], [0, 1, 2], [9, 8], [4, 5, 6]])
    arguments = {"epochs": 2, "batch_size": 16, "eval_every": 4, "reset_optimizer": keep}
    whole, resumed, path = net(), net(seed=5), tmp_path / "run.pt"
    expected = run(whole, stream, [ICaRL(30)], **arguments)
    events = fit(net(), stream, [ICaRL(30)], checkpoint=path, checkpoint_every=1, **arguments)
    next(event for event in events if isinstance(event, Step) and event.step == step)
    events.close()
    icarl = ICaRL(30)
    history = run(resumed, stream, [icarl], resume=path, **arguments)
    assert torch.equal(bits(whole), bits(resumed))
    assert history.curve == expected.curve and history.losses == expected.losses


def test_a_second_run_starts_from_nothing(stream):
    icarl = ICaRL(40)
    first, second = net(), net()
    run(first, stream, [icarl])
    run(second, stream, [icarl])
    assert torch.equal(bits(first), bits(second))


def test_it_stands_far_above_fine_tuning(stream):
    for seed in range(3):
        arguments = {"epochs": 10, "lr": 0.005, "batch_size": 32, "seed": seed}
        icarl = run(net(seed=seed), stream, [ICaRL(50)], **arguments).metrics()["average_accuracy"]
        plain = run(net(10, seed=seed), stream, **arguments).metrics()["average_accuracy"]
        assert icarl - plain > 0.3
