"""Experience replay: what is replayed, when, with which weight."""

import itertools

import pytest
import torch

from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay, replay_weight
from cllab.replay.er import KINDS
from cllab.streams import Stream, Task, digits, split
from cllab.training import Batch, Method, Step, fit, run, task_loss


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(300), 2)


def net():
    return MLP(64, [16], 10)


class Watch(Method):
    """Keeps every step's rows."""

    def start_run(self, ctx):
        self.seen = []

    def losses(self, ctx, batch, outputs):
        self.seen.append((ctx.task_index, batch))
        return {}


def test_no_replay_in_the_first_task_then_old_labels_in_every_batch(stream):
    watch, replay = Watch(), ExperienceReplay(100)
    run(net(), stream, [replay, watch], epochs=2, batch_size=16)
    for task, batch in watch.seen:
        memory = batch.rows("memory")
        if task == 0:
            assert len(batch.parts) == 1
        else:
            assert memory.stop - memory.start == min(len(batch.y[batch.rows("new")]), 100)
            assert batch.task[memory].lt(task).any() and batch.task[memory].le(task).all()
            assert batch.allowed[memory].gather(1, batch.y[memory][:, None]).all()


def test_a_batch_never_replays_itself(stream):
    watch = Watch()
    run(net(), stream, [ExperienceReplay(10_000), watch], epochs=1, batch_size=16)
    for _, batch in watch.seen:
        new, memory = (batch.x[batch.rows(s)] for s in ("new", "memory"))
        if len(memory):
            assert torch.cdist(new, memory).min() > 0


def test_steps_are_not_changed_by_replay(stream):
    def steps(methods):
        return sum(isinstance(e, Step) for e in fit(net(), stream, methods, epochs=2))

    assert steps([]) == steps([ExperienceReplay(50)]) == steps([ExperienceReplay(50, batch_size=200)])


def test_rows_are_offered_once_however_many_epochs(stream):
    replay = ExperienceReplay(50)
    run(net(), stream, [replay], epochs=4)
    assert replay.memory.n_seen == sum(len(task.y) for task in stream)
    assert len(replay.memory) == 50


@pytest.mark.slow
def test_memory_is_a_fair_share_of_all_tasks(stream):
    shares = torch.zeros(5)
    for seed in range(40):
        replay = ExperienceReplay(50)
        run(net(), stream, [replay], batch_size=100, seed=seed)
        shares += (replay.memory.y // 2).bincount(minlength=5)
    expected = torch.tensor([len(task.y) for task in stream]) / sum(len(task.y) for task in stream)
    assert (shares / shares.sum() - expected).abs().max() < 0.05


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.9])
def test_rho_is_the_share_of_the_memory(stream, rho):
    watch = Watch()
    run(net(), stream, [ExperienceReplay(50, batch_size=7, rho=rho), watch])
    batch = watch.seen[-1][1]
    weights = {part.source: part.weight for part in batch.parts}
    assert weights["memory"] / sum(weights.values()) == pytest.approx(rho)
    assert len(batch.y[batch.rows("memory")]) == 7


@pytest.mark.parametrize("memory", ["reservoir", "ring", "class_ring", "balanced", "cbrs"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_every_memory_in_every_scenario(memory, scenario):
    stream = split(digits().take(150), 2, scenario)
    replay = ExperienceReplay(30, 8, memory=memory, balanced=True)
    history = run(MLP(64, [8], stream.n_classes), stream, [EWC(1.0), replay], batch_size=16)
    assert type(replay.memory) is KINDS[memory] and 0 < len(replay.memory) <= 30
    assert history.losses[-1].info["replayed"] == 8 and {"task", "EWC"} == set(history.losses[-1].losses)
    assert replay.memory_bytes() == len(replay.memory) * (64 * 4 + 8 + 8)
    assert ExperienceReplay(30).memory_bytes() == 0


def test_a_ring_per_class_shares_the_capacity(stream):
    replay = ExperienceReplay(38, memory="class_ring")
    run(net(), stream, [replay])
    assert replay.memory.y.bincount().tolist() == [3] * 10


@pytest.mark.parametrize("memory", ["class_ring", "balanced"])
def test_a_row_for_each_class_at_least(stream, memory):
    with pytest.raises(ValueError, match="capacity must be at least 10"):
        next(fit(net(), stream, [ExperienceReplay(9, memory=memory)]))


def test_balanced_draws_every_class_equally_often():
    """Forty rows of class 0 in memory and ten of class 1: half of each is drawn."""
    few = split(digits().only([0, 1, 2, 3]), 2)
    rows = torch.cat([(few[0].y == 0).nonzero()[:40], (few[0].y == 1).nonzero()[:10]]).flatten()
    first = Task(few[0].x[rows], few[0].y[rows], few[0].x_test, few[0].y_test, few[0].classes)
    stream = Stream((first, few[1]), "class", 4)
    counts = {}
    for balanced in (True, False):
        watch = Watch()
        run(MLP(64, [4], 4), stream, [ExperienceReplay(1000, 16, balanced=balanced), watch], batch_size=10)
        batch = next(b for task, b in watch.seen if task == 1)
        counts[balanced] = batch.y[batch.rows("memory")].bincount(minlength=2).tolist()
    assert counts[True] == [8, 8] and counts[False][0] > 8


def test_the_memory_belongs_to_the_identity_of_a_run():
    assert repr(ExperienceReplay(5)) == "ExperienceReplay(capacity=5, batch_size=None, rho=0.5, balanced=False)"
    texts = {repr(ExperienceReplay(5, memory=m, balanced=b)) for m in KINDS for b in (True, False)}
    assert len(texts) == 10 and all(eval(text).kind in KINDS for text in texts)


def test_rho_zero_is_fine_tuning_bit_for_bit(stream):
    plain, zero, half = net(), net(), net()
    run(plain, stream)
    run(zero, stream, [ExperienceReplay(50, rho=0.0, memory="cbrs", balanced=True)])
    run(half, stream, [ExperienceReplay(50)])
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (plain, zero, half)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def rows_with(source, losses, weight=1.0):
    """Rows of two classes whose cross-entropies are `losses`: logits [B, 2] and their Batch."""
    margin = -torch.log(torch.tensor(losses, dtype=torch.float64).expm1())
    logits = torch.stack([margin, torch.zeros_like(margin)], dim=1)
    y = torch.zeros(len(losses), dtype=torch.int64)
    return logits, Batch.of(source, logits, y, y, torch.ones(len(losses), 2, dtype=torch.bool), weight)


def test_the_mean_over_the_union_is_another_loss():
    """8 new rows of loss 2 and 4 of memory of loss 0.5: union 1.5, half and half 1.25, sum 2.5."""

    def loss(rho):
        (a, new), (b, memory) = rows_with("new", [2.0] * 8), rows_with("memory", [0.5] * 4, replay_weight(rho))
        return task_loss(torch.cat([a, b]), Batch.cat([new, memory])).item()

    logits, batch = (rows_with("new", [2.0] * 8 + [0.5] * 4)[i] for i in (0, 1))
    assert task_loss(logits, batch).item() == pytest.approx(1.5)
    assert loss(4 / 12) == pytest.approx(1.5)
    assert loss(0.5) == pytest.approx(1.25)
    assert 2 * loss(0.5) == pytest.approx(2.5)  # the sum of the two means: twice the learning rate
    # a ratio of 0.3 old rows per new row is a share of 23 %
    assert pytest.approx(0.2308, abs=1e-4) == 0.3 / 1.3 and replay_weight(0.3 / 1.3) == pytest.approx(0.3)


def test_with_the_whole_past_and_the_share_of_its_size_the_expected_gradient_is_the_joint_one():
    source = torch.Generator().manual_seed(0)
    x, y = torch.rand(7, 3, generator=source, dtype=torch.float64), torch.tensor([0, 1, 0, 2, 3, 2, 3])
    past, new, model = [0, 1, 2], [3, 4, 5, 6], MLP(3, [4], 4).double()

    def gradient(*parts):
        batches = [Batch.of(s, x[r], y[r], y[r], torch.ones(len(r), 4).bool(), w) for s, r, w in parts]
        batch = Batch.cat(batches)
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(task_loss(model(batch.x), batch), model.parameters())]
        )

    def expected(rho):
        """Over every draw of two new and two remembered rows."""
        draws = itertools.product(itertools.combinations(new, 2), itertools.combinations(past, 2))
        steps = [gradient(("new", list(n), 1.0), ("memory", list(m), replay_weight(rho))) for n, m in draws]
        return torch.stack(steps).mean(dim=0)

    joint = gradient(("new", past + new, 1.0))
    assert torch.allclose(expected(3 / 7), joint, atol=1e-12)
    assert not torch.allclose(expected(0.5), joint, atol=1e-4)  # equal shares are another objective


def test_a_step_on_everything_is_a_joint_step():
    """The same through the loop: the past in memory, the whole new task as one batch, plain SGD."""
    stream = split(digits().take(60).only([0, 1, 2, 3]), 2)
    sizes = [len(task.y) for task in stream]
    replayed, by_hand = (MLP(64, [8], 4).double() for _ in range(2))
    methods = [ExperienceReplay(1000, 1000, rho=sizes[0] / sum(sizes))]
    run(replayed, stream, methods, batch_size=1000, optimizer="sgd", lr=0.5)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    first, both = (torch.cat([task.x for task in stream.tasks[:n]]).double() for n in (1, 2))
    for x, n, classes in ((first, 1, 2), (both, 2, 4)):
        y = torch.cat([task.y for task in stream.tasks[:n]])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(by_hand(x)[:, :classes], y).backward()
        optimizer.step()
    assert all(
        torch.allclose(a, b, atol=1e-12) for a, b in zip(replayed.parameters(), by_hand.parameters(), strict=True)
    )


def test_storing_before_the_step_would_be_noticed(stream):
    """The known error: the new rows go to the memory first, and the batch replays itself."""

    class Early(ExperienceReplay):
        def replay(self, ctx, batch):
            self.memory.add(batch.x, batch.y, task=batch.task)
            return super().replay(ctx, batch)

        def after_step(self, ctx, batch):
            pass

    watch = Watch()
    run(net(), stream, [Early(10_000, 10_000), watch], batch_size=16)
    batch = watch.seen[-1][1]
    new, memory = (batch.x[batch.rows(s)] for s in ("new", "memory"))
    assert torch.cdist(new, memory).min() == 0


def test_two_replays_in_one_run(stream):
    history = run(net(), stream, [ExperienceReplay(40, 5), ExperienceReplay(40, 7, memory="ring")], batch_size=16)
    assert history.losses[-1].info["replayed"] == 12


@pytest.mark.slow
def test_it_beats_fine_tuning():
    stream = split(digits().take(400), 2)
    for seed in range(3):
        plain, replay = (
            run(MLP(64, [32], 10, seed), stream, methods, epochs=12, batch_size=16, lr=0.005, seed=seed).metrics()
            for methods in ([], [ExperienceReplay(100)])
        )
        assert replay["average_accuracy"] > plain["average_accuracy"] + 0.3


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"capacity": 0}, ValueError, "capacity"), ({"capacity": 1.5}, TypeError, "capacity"),
        ({"capacity": 5, "batch_size": 0}, ValueError, "batch_size"), ({"capacity": 5, "rho": -0.1}, ValueError, "rho"),
        ({"capacity": 5, "rho": 1.0}, ValueError, "rho"), ({"capacity": 5, "rho": float("nan")}, ValueError, "rho"),
        ({"capacity": 5, "rho": "half"}, TypeError, "rho"), ({"capacity": 5, "memory": "fifo"}, ValueError, "memory"),
        ({"capacity": 5, "balanced": 1}, TypeError, "balanced"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        ExperienceReplay(**arguments)


def test_shares_are_counted_by_the_streams_classes_not_by_its_labels():
    """Two classes called 8 and 9: a ring per class gets half of the memory each, and two rows are enough."""
    stream = split(digits().only([8, 9]).take(60), [[8], [9]])
    ring = ExperienceReplay(20, memory="class_ring")
    run(MLP(64, [8], 10), stream, [ring, balanced := ExperienceReplay(2, memory="balanced")])
    assert len(ring.memory) == 20 and sorted(balanced.memory.y.tolist()) == [8, 9]
    with pytest.raises(ValueError, match="at least 2"):
        run(MLP(64, [8], 10), stream, [ExperienceReplay(1, memory="balanced")])
