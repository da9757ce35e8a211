"""Experience replay: what is replayed, when, with which weight."""

import pytest
import torch

from cllab.models import MLP
from cllab.replay import ExperienceReplay
from cllab.streams import digits, split
from cllab.training import Method, Step, fit, run


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


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"capacity": 0}, ValueError, "capacity"), ({"capacity": 1.5}, TypeError, "capacity"),
        ({"capacity": 5, "batch_size": 0}, ValueError, "batch_size"), ({"capacity": 5, "rho": -0.1}, ValueError, "rho"),
        ({"capacity": 5, "rho": 1.0}, ValueError, "rho"), ({"capacity": 5, "rho": float("nan")}, ValueError, "rho"),
        ({"capacity": 5, "rho": "half"}, TypeError, "rho"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        ExperienceReplay(**arguments)
