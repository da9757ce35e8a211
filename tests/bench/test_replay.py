"""The replay benchmark times methods that really replay, and its judgements can fail."""

import argparse

import pytest
import torch

from cllab.bench import replay, runs, split_mnist
from cllab.bench.report import Row
from cllab.bench.timing import fit_loop, random_task

CPU = torch.device("cpu")


def options(*words):
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def small(monkeypatch):
    """Two short tasks; the memory is then as large as they are."""
    tasks = random_task("first", 100, range(5), CPU), random_task("second", 200, range(5, 10), CPU)
    monkeypatch.setattr(replay, "two_tasks", lambda device: tasks)
    return tasks


@pytest.mark.slow
@pytest.mark.parametrize("name", replay.CONTESTS)
def test_every_contestant_replays_in_the_timed_steps(small, name):
    methods, limit = replay.CONTESTS[name]
    step = next(fit_loop(methods(), small, 1, CPU, replay.BATCH))
    replayed = step.info.get("replayed", step.info.get("exemplars"))
    assert replayed == (128 if name == "DER++" else 64) and limit > 1  # DER++ draws twice


@pytest.mark.slow
def test_loops_are_judged_by_their_limits(small, monkeypatch):
    contests = {name: replay.CONTESTS[name] for name in ("DER", "ER, memory ring")}
    monkeypatch.setattr(replay, "CONTESTS", contests)
    rows = replay.loops(rounds=2, steps=2, device=CPU)
    assert [row.name for row in rows] == ["DER / ER", "ER, memory ring / ER"]
    assert all(0.05 < row.value < 50 for row in rows)
    monkeypatch.setattr(runs, "ratio", lambda *arguments: (1.25, 0.001))
    assert [row.met for row in replay.loops(2, 2, CPU)] == [True, False]


def test_gdumb_is_timed_while_it_trains(monkeypatch):
    tasks = random_task("first", 20, range(5), CPU), random_task("second", 20, range(5, 10), CPU)
    monkeypatch.setattr(replay, "two_tasks", lambda device: tasks)
    phases = []
    train = replay.GDumb.end_task

    def end_task(self, ctx):
        for phase in train(self, ctx):
            phases.append(ctx.task_index)
            yield phase

    def timed_call(call, device):
        before = len(phases)
        call()
        return float(len(phases) - before), None

    monkeypatch.setattr(replay.GDumb, "end_task", end_task)
    monkeypatch.setattr(replay, "timed_call", timed_call)
    row = replay.gdumb(CPU)[0]
    assert row.value == 30 and phases == [0] * 30 + [1] * 30 and row.unit == "s"


def test_buffers_are_judged_by_rows_per_second(monkeypatch):
    rows = replay.buffers(CPU, n=400, batch=100)
    assert [row.name.split(",")[0] for row in rows] == [
        "Reservoir", "RingBuffer", "ClassRing", "ClassBalanced", "ClassBalancedReservoir",
    ]  # fmt: skip
    assert all(row.value > 0 for row in rows)
    offers = []
    monkeypatch.setattr(replay, "timed_call", lambda call, device: (offers.append(len(call())) or 0.001, None))
    assert all(row.value == 400_000 and row.met for row in replay.buffers(CPU, n=400))
    assert offers == [4] * 5
    monkeypatch.setattr(replay, "timed_call", lambda call, device: (1.0, None))
    assert not any(row.met for row in replay.buffers(CPU, n=400))


def test_the_table_comes_when_its_data_is_named(monkeypatch):
    for name in ("loops", "gdumb", "buffers", "selections"):
        monkeypatch.setattr(replay, name, lambda *arguments, name=name: [Row(name, 0.0, "", "", True)])
    monkeypatch.setattr(split_mnist, "measure", lambda options, device: [Row("table", 0.0, "", "", True)])
    speeds = ["loops", "gdumb", "buffers", "selections"]
    assert [row.name for row in replay.measure(options(), CPU)] == speeds
    assert [row.name for row in replay.measure(options("--root", "somewhere"), CPU)] == [*speeds, "table"]
    assert [row.name for row in replay.measure(options("--only", "DER++"), CPU)] == ["table"]
