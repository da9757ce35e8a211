"""The loop: what it yields, in which order, and that nothing but the methods' own terms changes the weights."""

import functools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay
from cllab.streams import Stream, Task, digits, online, points, split
from cllab.training import (
    Batch,
    Evaluated,
    Joint,
    Method,
    Phase,
    Step,
    TaskEnded,
    TaskStarted,
    fit,
    masked,
    predict,
    run,
    task_loss,
)

FAST = {"epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(300), 2)


def net(seed=0, n_classes=10):
    return MLP(64, [32], n_classes, seed=seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(stream, methods=(), **arguments):
    model = net(n_classes=stream.n_classes)
    run(model, stream, methods, **{**FAST, **arguments})
    return weights(model)


def test_events_come_in_the_documented_order(stream):
    events = list(fit(net(), stream, [EWC(1.0)], eval_every=3, **FAST))
    assert events[0].task == -1 and len(events[0].accuracy) == 5
    for i in range(5):
        mine = [e for e in events if not isinstance(e, Phase) and e.task == i]
        assert isinstance(mine[0], TaskStarted) and isinstance(mine[-1], TaskEnded)
        assert isinstance(mine[-2], Evaluated)
        steps = [e for e in mine if isinstance(e, Step)]
        assert len(steps) == 2 * -(-len(stream[i].y) // 32)
    steps = [e.step for e in events if isinstance(e, Step)]
    assert steps == list(range(1, len(steps) + 1))
    inside = [e for e in events if isinstance(e, Evaluated) and e.step and e.step % 3 == 0]
    assert len(inside) >= len(steps) // 3
    assert sum(isinstance(e, Phase) for e in events) == 5


def test_nothing_happens_before_it_is_pulled(stream):
    model = net()
    before = weights(model)
    events = fit(model, stream, **FAST)
    assert torch.equal(before, weights(model))
    next(events), next(events), next(events)
    assert not torch.equal(before, weights(model))


def test_the_loop_is_the_bare_loop(stream):
    """Oracle: ten lines of plain PyTorch on the same data order."""
    from cllab.device import generator

    model, bare = net(), net()
    run(model, stream, **FAST)
    order = generator(0, "data order")
    for t, task in enumerate(stream):
        optimizer = torch.optim.Adam(bare.parameters(), lr=1e-3)
        for _ in range(2):
            permutation = torch.randperm(len(task.y), generator=order)
            for rows in permutation.split(32):
                optimizer.zero_grad()
                logits = bare(task.x[rows])[:, : 2 * (t + 1)]  # classes seen so far
                nn.functional.cross_entropy(logits, task.y[rows]).backward()
                optimizer.step()
    assert torch.allclose(weights(model), weights(bare), atol=1e-6)


@pytest.mark.parametrize(
    "methods",
    [
        [EWC(0.0)], [EWC(0.0, anchors="separate")], [EWC(0.0, step="proximal")], [EWC(0.0, labels="sampled")],
        [EWC(0.0, labels="true")], [EWC(0.0, n_samples=20)], [ExperienceReplay(50, rho=0.0)],
        [EWC(0.0), ExperienceReplay(10, rho=0.0)], [Method()],
    ],
    ids=lambda m: "+".join(type(x).__name__ for x in m),
)  # fmt: skip
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_zero_coefficients_are_fine_tuning_bit_for_bit(stream, methods, optimizer):
    assert torch.equal(trained(stream, optimizer=optimizer), trained(stream, methods, optimizer=optimizer))


def test_the_bit_test_can_fail(stream):
    plain = trained(stream)
    assert not torch.equal(plain, trained(stream, [EWC(1.0)]))
    assert not torch.equal(plain, trained(stream, [ExperienceReplay(50)]))
    assert not torch.equal(plain, trained(stream, seed=1))


def test_a_second_method_does_not_change_what_the_first_draws(stream):
    """Methods draw from generators of their own: adding EWC(0) leaves replay's choices alone."""
    assert torch.equal(
        trained(stream, [ExperienceReplay(50)]),
        trained(stream, [EWC(0.0, labels="sampled"), ExperienceReplay(50)]),
    )


def test_the_same_call_twice_and_a_reused_method(stream):
    replay = ExperienceReplay(50)
    assert torch.equal(trained(stream, [replay]), trained(stream, [replay]))


def test_the_global_generator_is_not_touched(stream):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trained(stream, [ExperienceReplay(50), EWC(1.0, labels="sampled"), Joint()])
    assert torch.equal(expected, torch.rand(3))


@pytest.mark.slow
def test_ranking_on_digits():
    """Class-incremental, three seeds: joint above replay above fine-tuning, with room."""
    stream = split(digits(), 2)
    scores = {"fine-tuning": [], "replay": [], "joint": []}
    for seed in range(3):
        for name, methods in (("fine-tuning", []), ("replay", [ExperienceReplay(300)]), ("joint", [Joint()])):
            history = run(MLP(64, [100], 10, seed=seed), stream, methods, epochs=5, batch_size=32, seed=seed)
            scores[name].append(history.metrics()["average_accuracy"])
    fine_tuning, replay, joint = (np.mean(scores[name]) for name in scores)
    assert fine_tuning < 0.25 and replay > fine_tuning + 0.2 and joint > replay


class Recorder(Method):
    """Writes down the order of the hooks."""

    needs_task_gradient = True

    def __init__(self, name, log):
        self.name, self.log = name, log

    def note(self, what):
        self.log.append((self.name, what))

    def start_run(self, ctx):
        self.note("start_run")

    def start_task(self, ctx):
        self.note("start_task")

    def replay(self, ctx, batch):
        self.note("replay")
        return []

    def losses(self, ctx, batch, outputs):
        self.note("losses")
        weight = ctx.model.head.weight
        return {f"{self.name} term": 3.0 * weight.sum()}

    def gradients(self, ctx):
        self.note("gradients")
        # the task gradient excludes every method's term, the full gradient includes both (3 each)
        difference = ctx.model.head.weight.grad - ctx.task_gradient["head.weight"]
        assert torch.allclose(difference, torch.full_like(difference, 6.0), atol=1e-5)

    def after_step(self, ctx, batch):
        self.note("after_step")

    def end_task(self, ctx):
        self.note("end_task")
        yield Phase(self.name)

    def predict(self, model, x, allowed, task_id):
        return None


def test_hooks_run_in_order_and_the_task_gradient_is_alone():
    task = split(points(n=10), 2, "domain")[0]
    log = []
    methods = [Recorder("a", log), Recorder("b", log)]
    run(MLP(2, [4], 2), Stream((task,), "domain", 2), methods, batch_size=20)
    once = ["start_run", "start_task", "replay", "losses", "gradients", "after_step", "end_task"]
    assert log == [(name, hook) for hook in once for name in "ab"]


def test_two_methods_of_one_kind_keep_their_own_terms(stream):
    events = fit(net(), stream, [EWC(1.0), EWC(2.0), EWC(3.0)], epochs=1)
    last = [event for event in events if isinstance(event, Step)][-1].losses
    assert list(last) == ["task", "EWC", "EWC 2", "EWC 3"]
    assert last["EWC 3"] == pytest.approx(3 * last["EWC"]) and last["EWC"] > 0


def test_the_first_method_that_answers_predicts(stream):
    class Always(Method):
        def __init__(self, label):
            self.label = label

        def predict(self, model, x, allowed, task_id):
            return nn.functional.one_hot(torch.full((len(x),), self.label), 10).float()

    history = run(net(), stream, [Method(), Always(3), Always(1)], epochs=1)
    assert history.accuracy[1, 1] == pytest.approx((stream[1].y_test == 3).double().mean().item())
    assert history.accuracy[4, 0] == 0


def test_masked_classes_never_win_and_get_no_gradient():
    logits = torch.full((1, 4), -5.0, requires_grad=True)
    allowed = torch.tensor([[True, False, True, False]])
    assert masked(logits, allowed).argmax().item() == 0
    assert (logits * allowed).argmax().item() == 1  # the product rule of some libraries lets a forbidden class win
    nn.functional.cross_entropy(masked(logits, allowed), torch.tensor([2])).backward()
    assert logits.grad[0, [1, 3]].eq(0).all() and logits.grad[0, [0, 2]].ne(0).all()


def test_the_weights_of_parts_are_explicit():
    """|new| = 8, |memory| = 4, losses 2 and 0.5: union mean 1.5, half and half 1.25."""

    def rows(loss, n, source, weight):
        # two logits (0, z): CE of class 0 is ln(1 + e^z)
        z = torch.tensor(np.log(np.expm1(loss)))
        x = torch.stack([torch.zeros(n), z.float().expand(n)], dim=1)
        zeros = torch.zeros(n, dtype=torch.int64)
        return Batch.of(source, x, zeros, zeros, torch.ones(n, 2, dtype=torch.bool), weight)

    def loss(memory_weight):
        batch = Batch.cat([rows(2.0, 8, "new", 1.0), rows(0.5, 4, "memory", memory_weight)])
        assert batch.rows("memory") == slice(8, 12) and batch.rows("nobody") == slice(0, 0)
        return task_loss(batch.x, batch).item()

    assert loss(1.0) == pytest.approx(1.25, abs=1e-6)
    assert loss(4 / 8) == pytest.approx(1.5, abs=1e-6)


def test_predict_asks_for_the_task_number_exactly_where_it_is_given():
    model, data = net(), digits()
    x = data.x_test[:5]
    task, domain, klass = (split(data, 2, s) for s in ("task", "domain", "class"))
    with pytest.raises(ValueError, match="task_id must be given"):
        predict(model, x, task, seen=4)
    for other in (domain, klass):
        with pytest.raises(ValueError, match="leak"):
            predict(model, x, other, seen=4, task_id=1)
    assert set(predict(model, x, task, seen=4, task_id=1).tolist()) <= {2, 3}
    assert set(predict(model, data.x_test, klass, seen=1).tolist()) <= {0, 1, 2, 3}
    with pytest.raises(ValueError, match="seen"):
        predict(model, x, klass, seen=5)


def test_a_masked_head_is_a_multi_head(stream):
    """Copy the head's rows into one small head per task: the answers agree."""
    stream = split(digits().take(300), 2, "task")
    model = net()
    run(model, stream, **FAST)
    for i, task in enumerate(stream):
        rows = list(task.classes)
        own = model.features(task.x_test) @ model.head.weight[rows].T + model.head.bias[rows]
        expected = torch.tensor(rows)[own.argmax(dim=1)]
        assert torch.equal(predict(model, task.x_test, stream, seen=4, task_id=i), expected)


def test_a_wider_head_never_answers_outside_the_stream():
    stream = split(points(n=20), 2, "domain")
    model = MLP(2, [8], 7)
    with torch.no_grad():
        model.head.bias[5] = 100.0
    history = run(model, stream, epochs=1)
    assert history.accuracy[1].sum() > 0
    assert set(predict(model, stream[0].x_test, stream, seen=1).tolist()) <= {0, 1}


def test_the_optimiser_is_rebuilt_or_kept_and_the_event_says_so(stream):
    def kinds(**arguments):
        events = fit(net(), stream, **FAST, **arguments)
        return [e.info["optimizer"] for e in events if isinstance(e, TaskStarted)]

    assert kinds() == ["new Adam"] * 5
    assert kinds(reset_optimizer=False, optimizer="sgd") == ["new SGD"] + ["kept SGD"] * 4
    assert not torch.equal(trained(stream), trained(stream, reset_optimizer=False))


def test_replayed_rows_use_their_own_tasks_mask():
    stream = split(digits().take(200), 2, "task")

    class Look(Method):
        def losses(self, ctx, batch, outputs):
            rows = batch.rows("memory")
            for y, task, allowed in zip(batch.y[rows], batch.task[rows], batch.allowed[rows], strict=True):
                assert allowed.nonzero().flatten().tolist() == list(ctx.stream[int(task)].classes)
                assert allowed[y]
                seen.add(int(task))
            return {}

    seen = set()
    run(net(), stream, [ExperienceReplay(100), Look()], epochs=1)
    assert {0, 1, 2, 3} <= seen


def test_joint_sees_every_task_in_proportion():
    stream = split(digits(), 2)

    class Count(Method):
        def losses(self, ctx, batch, outputs):
            if ctx.task_index == 4:
                counts.append(batch.task.bincount(minlength=5))
                weights.append([part.weight for part in batch.parts])
            return {}

    counts, weights = [], []
    run(net(), stream, [Joint(), Count()], epochs=2, batch_size=32)
    share = torch.stack(counts).sum(dim=0).double()
    assert (share[:4] / share[4] - 1).abs().max() < 0.15
    assert weights[0][1] == pytest.approx(sum(len(t.y) for t in list(stream)[:4]) / len(stream[4].y))


def test_online_streams_refuse_a_second_epoch_and_show_each_row_once():
    stream = online(split(digits().take(200), 2))
    with pytest.raises(ValueError, match="epochs"):
        fit(net(), stream, epochs=2)
    rows = []

    class Collect(Method):
        def after_step(self, ctx, batch):
            rows.append(batch.x)

    run(net(), stream, [Collect()], batch_size=10)
    assert torch.equal(torch.cat(rows).sort(dim=0).values, torch.cat([t.x for t in stream]).sort(dim=0).values)


def test_a_diverging_loss_stops_with_a_sentence(stream):
    with pytest.raises(FloatingPointError, match="no longer finite at step"):
        run(net(), stream, optimizer="sgd", lr=1e30, epochs=2)


def test_float64_models_are_trained_in_float64(stream):
    model = net().double()
    run(model, stream, epochs=1)
    assert weights(model).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"epochs": 0}, ValueError, "epochs"), ({"epochs": 1.5}, TypeError, "epochs"),
        ({"epochs": True}, TypeError, "epochs"), ({"batch_size": 0}, ValueError, "batch_size"),
        ({"lr": -1.0}, ValueError, "lr"), ({"lr": float("nan")}, ValueError, "lr"), ({"lr": "fast"}, TypeError, "lr"),
        ({"optimizer": "lion"}, ValueError, "optimizer"), ({"seed": -1}, ValueError, "seed"),
        ({"seed": None}, TypeError, "seed"), ({"device": "tpu9"}, ValueError, "device"),
        ({"device": "cuda:99"}, ValueError, "device"), ({"eval_every": 0}, ValueError, "eval_every"),
        ({"threads": 0}, ValueError, "threads"), ({"checkpoint_every": 5}, ValueError, "checkpoint"),
        ({"methods": EWC(1.0)}, TypeError, "methods"), ({"methods": ["EWC"]}, TypeError, "methods"),
        ({"model": "MLP"}, TypeError, "model"), ({"stream": digits()}, TypeError, "stream"),
        ({"model": MLP(64, [4], 9)}, ValueError, "outputs"), ({"model": MLP(63, [4], 10)}, ValueError, "model"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_happens(stream, arguments, error, named):
    call = {"model": net(), "stream": stream, "methods": [], **arguments}
    model, data, methods = call.pop("model"), call.pop("stream"), call.pop("methods")
    with pytest.raises(error, match=named):
        fit(model, data, methods, **call)


def test_the_same_method_object_twice_is_refused(stream):
    replay = ExperienceReplay(5)
    with pytest.raises(ValueError, match="twice"):
        fit(net(), stream, [replay, replay])


def test_a_frozen_model_is_refused(stream):
    model = net().requires_grad_(False)
    with pytest.raises(ValueError, match="trainable"):
        fit(model, stream)


def test_progress_shows_a_bar(stream, capsys):
    run(net(), stream, epochs=1, progress=True)
    assert "step" in capsys.readouterr().err


def test_one_task_is_enough():
    task = split(points(n=30), 4)[0]
    history = run(MLP(2, [8], 4), Stream((task,), "class", 4), epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(history.metrics()) == {"average_accuracy", "average_incremental_accuracy"}


def test_threads_are_the_callers_again_between_events(stream):
    """Also when two runs are pulled in turn."""
    inside = []

    class Look(Method):
        def after_step(self, ctx, batch):
            inside.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in zip(fit(net(), stream, [Look()], **FAST), fit(net(), stream, [Look()], **FAST), strict=True):
            assert torch.get_num_threads() == 3
        assert set(inside) == {1}
    finally:
        torch.set_num_threads(before)


def test_a_stream_of_images_in_any_shape():
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 2
    history = run(MLP(16, [4], 2), Stream((Task(x, y, x, y, (0, 1)),), "class", 2), [ExperienceReplay(4)])
    assert np.isfinite(history.accuracy).all()


def test_a_partial_optimiser_is_welcome_and_named(stream):
    sgd = functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01)
    history = run(net(), stream, optimizer=sgd, epochs=1)
    assert history.settings["optimizer"] == "SGD(momentum=0.9, weight_decay=0.01)"


def test_settings_name_the_methods_as_they_were_called(stream):
    history = run(net(), stream, [ExperienceReplay(7, rho=0.25), Method()], epochs=1)
    called = "ExperienceReplay(capacity=7, batch_size=None, rho=0.25, balanced=False)"
    assert history.settings["methods"] == [called, "Method()"]


def test_a_refused_call_leaves_a_running_run_alone(stream, tmp_path):
    """Also the method objects that both were given."""

    def end(disturb):
        joint = Joint()
        model = net()
        events = fit(model, stream, [joint], **FAST)
        for _ in range(40):
            next(events)
        if disturb:
            with pytest.raises(ValueError, match="resume"):
                (tmp_path / "no.pt").write_bytes(b"no")
                fit(net(), stream, [joint], resume=tmp_path / "no.pt", seed=9)
        list(events)
        return weights(model)

    assert torch.equal(end(False), end(True))


def test_the_modes_of_the_model_survive_being_looked_at(stream):
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    model[1].eval()
    fit(model, stream)
    predict(model, stream[0].x_test, stream, seen=0)
    assert model.training and not model[1].training


def test_dropout_draws_from_the_run_not_from_the_world(stream):
    def end(disturb):
        model = net()
        model.trunk.append(nn.Dropout(0.5))
        for event in fit(model, stream, epochs=1):
            if disturb and isinstance(event, Step):
                torch.rand(5)
        return weights(model)

    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = end(False)
    assert torch.equal(expected, torch.rand(2)) and torch.equal(first, end(True))


def test_weights_that_are_no_longer_finite_are_noticed(stream):
    model = net()
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        predict(model, stream[0].x_test, stream, seen=0)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"methods": None}, TypeError, "methods"), ({"methods": 5}, TypeError, "methods"), ({"methods": ""}, TypeError, "methods"),
        ({"reset_optimizer": "no"}, TypeError, "reset_optimizer"), ({"device": "mps"}, ValueError, "device"),
        ({"device": "meta"}, ValueError, "device"), ({"lr": 10**400}, ValueError, "lr"),
        ({"optimizer": np.array([1, 2])}, ValueError, "optimizer"), ({"checkpoint": 5}, TypeError, "checkpoint"),
        ({"checkpoint": ""}, ValueError, "checkpoint"), ({"checkpoint": "."}, ValueError, "checkpoint"),
        ({"checkpoint": "no/such/folder/x.pt"}, ValueError, "checkpoint"), ({"resume": 5}, TypeError, "resume"),
        ({"resume": "."}, FileNotFoundError, "resume"),
    ],
)  # fmt: skip
def test_more_bad_arguments_are_refused_at_once(stream, arguments, error, named):
    with pytest.raises(error, match=named):
        fit(net(), stream, **{"methods": [], **arguments})


def test_numpy_numbers_are_numbers(stream):
    a = run(net(), stream, seed=np.int64(3), epochs=np.int64(1), lr=np.float64(0.01))
    assert a.curve == run(net(), stream, seed=3, epochs=1, lr=0.01).curve
