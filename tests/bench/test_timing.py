"""What the speed benchmarks share: who is timed, in which order, and what the numbers mean."""

import pytest
import torch

from cllab.bench import timing
from cllab.training import Method, Step

CPU = torch.device("cpu")


def test_ratio_is_the_median_of_blocks_in_turn_without_the_first(monkeypatch):
    seconds = iter([9.0, 1.0, *(2.0, 4.0), *(2.0, 20.0), *(4.0, 12.0)])
    asked = []

    def timed(loop, steps, device):
        asked.append((loop, steps))
        return next(seconds)

    monkeypatch.setattr(timing, "timed", timed)
    assert timing.ratio("base", "ours", 3, 10, CPU) == (3.0, 0.2)
    assert asked == [("base", 10), ("ours", 10)] * 4


def test_timed_takes_so_many_turns():
    turns = iter(range(10))
    assert timing.timed(turns, 4, CPU) >= 0 and next(turns) == 4
    seconds, result = timing.timed_call(lambda: sum(range(200_000)), CPU)
    assert seconds > 0 and result == 19_999_900_000


def test_only_steps_of_the_second_task_are_given():
    tasks = [timing.random_task("first", 20, range(5), CPU), timing.random_task("second", 30, range(5, 10), CPU)]
    seen = []

    class Watcher(Method):
        def after_step(self, ctx, batch):
            seen.append((ctx.task_index, len(batch.y)))

    steps = list(timing.fit_loop([Watcher()], tasks, epochs=2, device=CPU, batch_size=10))
    assert all(isinstance(step, Step) and step.task == 1 for step in steps)
    assert [step.step for step in steps] == [5, 6, 7, 8, 9, 10]
    assert seen == [(0, 10)] * 4 + [(1, 10)] * 6


def test_random_tasks_are_the_same_each_time_and_stay_in_their_classes():
    a, b = (timing.random_task("first", 50, range(5, 10), CPU) for _ in range(2))
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
    assert a.x.shape == (50, 784) and 0 <= float(a.x.min()) <= float(a.x.max()) <= 1
    assert set(a.y.tolist()) <= set(range(5, 10)) == set(a.classes)
    assert not torch.equal(a.x, timing.random_task("second", 50, range(5, 10), CPU).x)


@pytest.mark.parametrize(("large", "power"), [(3.0, 0), (12.0, 1), (48.0, 2)])
def test_growth_is_a_power(large, power):
    assert timing.growth(3.0, large, 4) == pytest.approx(power)
