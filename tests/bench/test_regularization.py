"""The regularisation benchmark times methods that really hold, distil or project, and its judgements can fail."""

import argparse

import pytest
import torch

from cllab.bench import regularization, runs
from cllab.bench.report import Row
from cllab.bench.timing import fit_loop, random_task

CPU = torch.device("cpu")


def options(*words):
    parser = argparse.ArgumentParser()
    regularization.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def short(monkeypatch):
    """As many past tasks as asked for, and a last one of a few steps."""

    def tasks(past, device):
        return [random_task(f"task {k}", 64, range(10), device) for k in range(past + 1)]

    monkeypatch.setattr(regularization, "short_past", tasks)


@pytest.mark.slow
@pytest.mark.parametrize("name", regularization.CONTESTS)
def test_every_contestant_does_its_work_in_the_timed_steps(name, monkeypatch):
    methods, past, limit = regularization.CONTESTS[name]
    tasks = [random_task(f"task {k}", 64, range(10), CPU) for k in range(past)] + [
        random_task("last", 128, range(10), CPU)
    ]
    constraints = []
    for method in (regularization.GEM, regularization.AGEM):

        def projected(self, g, G, project=method.projected):
            constraints.append(len(G))
            return project(self, g, G)

        monkeypatch.setattr(method, "projected", projected)
    _, step = list(fit_loop(methods(), tasks, 1, CPU, regularization.BATCH))
    assert limit > 1
    if "GEM" in name:
        assert "violated" in step.info and constraints[-1] == (1 if name.startswith("A-") else past)
    else:
        term = name.split(",")[0]
        assert step.losses[term] > 0


@pytest.mark.slow
def test_loops_are_judged_by_their_limits(short, monkeypatch):
    contests = {name: regularization.CONTESTS[name] for name in ("SI", "EWC, online anchor")}
    monkeypatch.setattr(regularization, "CONTESTS", contests)
    rows = regularization.loops(rounds=2, steps=2, device=CPU)
    assert [row.name for row in rows] == ["SI / fine-tuning", "EWC, online anchor / fine-tuning"]
    assert all(0.05 < row.value < 50 for row in rows)
    between = (contests["SI"][2] + contests["EWC, online anchor"][2]) / 2
    monkeypatch.setattr(runs, "ratio", lambda *arguments: (between, 0.001))
    assert [row.met for row in regularization.loops(2, 2, CPU)] == [True, False]


def test_past_tasks_are_short_and_as_many_as_asked():
    tasks = regularization.short_past(4, CPU)
    assert [len(task.y) for task in tasks] == [64, 64, 64, 64, 6400]


def test_growth_of_the_fisher_is_judged_axis_by_axis(monkeypatch):
    sizes = {"rows": 8, "classes": 2, "width": 3}
    assert all(row.value == row.value for row in regularization.fisher_time(CPU, sizes, repeats=1))

    def seconds(at, device, repeats):
        return at["rows"] * at["classes"] ** 2 * regularization._n_parameters(at)

    monkeypatch.setattr(regularization, "_fisher_seconds", seconds)
    rows = {row.name.split(" of ")[1].split(" in ")[0]: row for row in regularization.fisher_time(CPU, sizes)}
    assert rows["rows"].value == pytest.approx(1) and rows["parameters"].value == pytest.approx(1)
    assert rows["classes"].value > 1.9  # squared by the fake, and a little of the parameters
    assert [row.met for row in rows.values()] == [True, False, True]


@pytest.mark.parametrize(("many", "wide", "met"), [(1.1, 4, [True, True]), (8, 8, [False, False])])
def test_memory_of_the_fisher_is_judged_by_the_chunk(monkeypatch, many, wide, met):
    gradients = 4 * (784 * 128 + 128 + 128 * 10 + 10)  # bytes for one row
    peaks = iter([1000, 1000 + 4 * gradients, 1000 + many * 4 * gradients, 1000 + wide * 16 * gradients])
    monkeypatch.setattr(regularization, "peak_bytes", lambda device: next(peaks))
    rows = regularization.fisher_memory(CPU, rows=8, chunk=4)
    assert [row.value for row in rows] == pytest.approx([many, wide]) and [row.met for row in rows] == met


def test_without_a_folder_only_speed_is_measured(monkeypatch):
    def fake(name):
        return lambda *arguments: [Row(name, 1.0, "", "", True)]

    for name in ("loops", "fisher_time", "fisher_memory", "projections"):
        monkeypatch.setattr(regularization, name, fake(name))
    monkeypatch.setattr(regularization.three_scenarios, "measure", fake("scenarios"))
    monkeypatch.setattr(regularization.permuted_mnist, "measure", fake("permuted"))
    names = [row.name for row in regularization.measure(options(), CPU)]
    assert names == ["loops", "fisher_time", "fisher_memory", "projections"]
    assert [row.name for row in regularization.measure(options("--root", "x"), CPU)] == [
        *names,
        "scenarios",
        "permuted",
    ]
    assert [row.name for row in regularization.measure(options("--only", "SI"), CPU)] == ["scenarios"]
