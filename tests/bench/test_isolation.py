"""The isolation benchmark: what it counts is right, its methods have parts in the timed steps, limits decide."""

import argparse

import pytest
import torch

from cllab.bench import isolated_mnist, isolation, runs
from cllab.bench.isolated_mnist import LINES, trained_elsewhere
from cllab.bench.isolation import ENTRIES, costs_by_task, growth
from cllab.bench.timing import random_task
from cllab.isolation import LoRA, TaskHeads
from cllab.isolation.switch import switches
from cllab.streams import digits, split

CPU = torch.device("cpu")


@pytest.fixture
def few_tasks(monkeypatch):
    monkeypatch.setattr(isolation, "TASKS", 3)
    monkeypatch.setattr(isolation, "ROWS", 32)
    monkeypatch.setattr(isolation, "SHOWN", (1, 3))


def test_columns_grow_by_their_closed_form(few_tasks):
    counts = [cost.parameters for cost in costs_by_task(ENTRIES["PNN"], CPU)]
    assert counts == [89_610, 190_220, 301_830]


def test_heads_and_adapters_grow_by_what_a_task_adds(few_tasks):
    heads = [cost.parameters for cost in costs_by_task(ENTRIES["heads"], CPU)]
    assert heads[1] - heads[0] == heads[2] - heads[1] == 2 * 100 + 2
    lora = list(costs_by_task(ENTRIES["LoRA, r=4"], CPU))
    assert lora[2].parameters - lora[1].parameters == 4 * (784 + 100) + 4 * (100 + 100) + 202
    assert lora[2].kept == 4 * (lora[2].parameters - (784 * 100 + 100 + 100 * 100 + 100) - (100 * 6 + 6))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_measured_and_judged(name, few_tasks, monkeypatch):
    rows = growth(name, CPU)
    assert [row.name.split(": ")[1].split(" ")[0] for row in rows] == ["parameters,", "kept", "step", "answer"]
    assert all(row.value > 0 and row.detail.startswith("1 tasks") for row in rows)
    monkeypatch.setitem(ENTRIES, name, ENTRIES[name]._replace(late_step=0.0, late_answer=0.0, parameters=0.0))
    assert [row.met for row in growth(name, CPU)] == [False, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_the_timed_steps_are_those_of_a_second_task_with_its_part(name):
    entry = ENTRIES[name]
    tasks = [random_task(f"task {k}", 64, range(10), CPU) for k in range(2)]
    model = entry.model([16])
    step = next(isolation.second_task(model, entry.methods(), tasks, 1, CPU))
    assert step.task == 1 and any(1 in switch.tasks for switch in switches(model))


def test_overheads_are_judged_by_their_limits(monkeypatch):
    monkeypatch.setattr(isolation, "ENTRIES", {"heads": ENTRIES["heads"]})
    for between, met in ((1.2, True), (1.4, False)):
        monkeypatch.setattr(runs, "ratio", lambda *arguments, between=between: (between, 0.001))
        (row,) = isolation.loops(1, 1, CPU)
        assert row.met is met and row.name == "heads / fine-tuning"


def test_a_merged_layer_is_one_product(monkeypatch):
    seen = []

    def ratio(base, loop, *arguments):
        seen.append((next(base), next(loop)))
        return 1.2, 1e-5

    monkeypatch.setattr(isolation, "ratio", ratio)
    rows = isolation.lora_forward(1, CPU)
    assert [row.met for row in rows] == [True] * 4 and len(seen) == 4
    assert all(out.shape == (64, width) for (_, out), width in zip(seen, (256, 256, 1024, 1024), strict=True))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(isolated_mnist, "mnist", lambda root: digits().take(100))
    monkeypatch.setattr(isolated_mnist, "trained_elsewhere", lambda seed: isolated_mnist.Transformer(8, 8, 8, 1, 2, 10))
    monkeypatch.setattr(isolated_mnist, "mlp", lambda seed: isolated_mnist.MLP(64, [8], 10, seed=seed))


def options(*words):
    parser = argparse.ArgumentParser()
    isolated_mnist.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", [name for name, line in LINES.items() if line.model is isolated_mnist.transformer])
def test_lines_on_a_trained_base_run(small, name):
    rows = isolated_mnist.measure(options("--seeds", "1", "--only", name), CPU)
    assert [row.name for row in rows] == [f"{name}, average accuracy", f"{name}, forgetting"]
    assert rows[1].value == 0.0 and rows[1].met


def test_bands_and_forgetting_decide(small, monkeypatch):
    stream = split(digits().take(100), 2, scenario="task")
    line = isolated_mnist.Line(lambda seed: isolated_mnist.MLP(64, [32], 10, seed=seed), lambda: [LoRA(2)], low=0.0)
    for changed, met in ((line, [True, True]), (line._replace(low=0.9999), [False, True])):
        monkeypatch.setitem(LINES, "LoRA, r=8", changed)
        assert [row.met for row in isolated_mnist.lines("LoRA, r=8", stream, range(2), CPU)] == met
    monkeypatch.setitem(LINES, "LoRA, r=8", line._replace(methods=lambda: [TaskHeads()], lr=0.05, epochs=10))
    _, forgetting = isolated_mnist.lines("LoRA, r=8", stream, range(1), CPU)
    assert forgetting.value > 0 and not forgetting.met
    with pytest.raises(ValueError, match="only must be one of"):
        isolated_mnist.measure(options("--only", "EWC"), CPU)


@pytest.mark.slow
def test_the_base_that_was_trained_elsewhere_reads_images_of_mnists_size(monkeypatch):
    monkeypatch.setattr(isolated_mnist, "digits", lambda: digits().take(60))
    base = trained_elsewhere.__wrapped__(0)
    assert base(torch.rand(3, 784)).shape == (3, 10) and all(p.requires_grad for p in base.parameters())
