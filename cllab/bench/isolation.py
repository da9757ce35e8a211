"""What a part per task costs: parameters, bytes, steps and answers from 1 to 20 tasks, and LoRA merged or beside.

Growth: 20 tasks of random rows with two classes each (columns: ten), network 784-100-100, so that a progressive net can
be held against its closed form: K 89,610 + 11,000 K (K - 1) / 2 parameters. Steps (batch 64) and answers (256 rows of
the newest task, its number given) are medians. Overhead: a step in the second task over one of fine-tuning, network
784-256-256 (for prompts: over fine-tuning of the same transformer), in blocks that take turns.
`--root FOLDER` adds the table of `python -m cllab.bench isolated_mnist`.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from cllab import checks
from cllab.bench import isolated_mnist
from cllab.bench.report import Row, at_most
from cllab.bench.runs import contest
from cllab.bench.timing import HIDDEN, keep_freed_memory, random_task, ratio, timed_call
from cllab.device import cpu_threads, generator
from cllab.isolation import (
    HAT,
    IA3,
    Adapter,
    LoRA,
    LoRALinear,
    LowRank,
    OLoRA,
    PackNet,
    Piggyback,
    PrefixTuning,
    Progressive,
    ProgressiveNet,
    PromptTuning,
    TaskHeads,
)
from cllab.models import MLP, Transformer, linear
from cllab.streams import Stream, Task
from cllab.training import Method, Step, TaskEnded, fit

BATCH = 64
TASKS = 20
SHOWN = (1, 5, 10, 20)
ROWS = 5 * BATCH


def mlp(hidden: list[int]) -> MLP:
    return MLP(784, hidden, 2 * TASKS)


def columns(hidden: list[int]) -> ProgressiveNet:
    return ProgressiveNet(784, hidden, 10)


def transformer(hidden: list[int]) -> Transformer:
    return Transformer(28, 28, 64, 2, 4, 2 * TASKS)


class Entry(NamedTuple):
    """How the model and the methods are made, and the limits that we set ourselves.

    step: of a step in the second task over one of fine-tuning. parameters, late_step, late_answer: of what is there in
    task 20 over task 1, and of a step and an answer in task 20 over task 2.
    """

    model: Callable[[list[int]], nn.Module]
    methods: Callable[[], list[Method]]
    step: float
    parameters: float
    late_step: float = 1.5
    late_answer: float = 1.5


ENTRIES = {
    "heads": Entry(mlp, lambda: [TaskHeads()], 1.3, 1.1),
    "PackNet": Entry(mlp, lambda: [PackNet((0.5, 0.25), retrain_epochs=1)], 2.0, 1.1),
    "Piggyback": Entry(mlp, lambda: [Piggyback()], 2.0, 2.5),
    "HAT": Entry(mlp, lambda: [HAT()], 3.0, 1.2),
    "PNN": Entry(columns, lambda: [Progressive()], 2.0, 43.4, 25.0, 25.0),
    "LoRA, r=4": Entry(mlp, lambda: [LoRA(4)], 1.5, 2.5),
    "O-LoRA, r=4": Entry(mlp, lambda: [OLoRA(4)], 2.0, 2.5, 8.0, 8.0),
    "adapters, width 8": Entry(mlp, lambda: [Adapter(8)], 1.5, 2.0),
    "IA3": Entry(mlp, lambda: [IA3()], 1.5, 1.2),
    "prompt of 8": Entry(transformer, lambda: [PromptTuning(8)], 1.5, 1.5),
    "prefix of 8": Entry(transformer, lambda: [PrefixTuning(8)], 1.5, 2.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9, help="timed blocks per loop, interleaved (default 9)")
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps in a block (default 30)")
    isolated_mnist.add_arguments(parser)


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    rounds = checks.integer("rounds", options.rounds, 1)
    steps = checks.integer("steps", options.steps, 1)
    if options.only:
        return isolated_mnist.measure(options, device)
    keep_freed_memory()
    with cpu_threads(1):
        growing = [row for name in ENTRIES for row in growth(name, device)]
        rows = [*growing, *loops(rounds, steps, device), *lora_forward(rounds, device)]
    return rows if options.root is None else [*rows, *isolated_mnist.measure(options, device)]


class Cost(NamedTuple):
    """After a task: the model's parameters, bytes the method keeps, seconds of a step and of an answer."""

    parameters: int
    kept: int
    step: float
    answer: float


def growth(name: str, device: torch.device) -> list[Row]:
    """What the tasks cost as they become more."""
    entry = ENTRIES[name]
    costs = list(itertools.islice(costs_by_task(entry, device), TASKS))
    first, second, last = costs[0], costs[1], costs[-1]

    def at(show: Callable[[Cost], str]) -> str:
        return "; ".join(f"{k} tasks {show(costs[k - 1])}" for k in SHOWN if k <= len(costs))

    parameters = last.parameters / first.parameters
    listed = at(lambda cost: f"{cost.parameters:,}")
    kept = at(lambda cost: f"{cost.kept / 1e6:.3g} MB")
    return [
        at_most(f"{name}: parameters, task {TASKS} / task 1", parameters, "x", entry.parameters, listed),
        at_most(f"{name}: kept after {TASKS} tasks", last.kept / 1e6, "MB", 16.0, kept),
        at_most(
            f"{name}: step in task {TASKS} / task 2", last.step / second.step, "x", entry.late_step,
            at(lambda cost: f"{1e3 * cost.step:.2f} ms"),
        ),
        at_most(
            f"{name}: answer for task {TASKS} / task 2", last.answer / second.answer, "x", entry.late_answer,
            at(lambda cost: f"{1e3 * cost.answer:.2f} ms"),
        ),
    ]  # fmt: skip


def costs_by_task(entry: Entry, device: torch.device) -> Iterator[Cost]:
    """One Cost per task of a run over TASKS tasks."""
    # every column has outputs for all classes, a head only for those of its task
    classes = [range(10) if entry.model is columns else range(2 * k, 2 * k + 2) for k in range(TASKS)]
    tasks = tuple(random_task(f"task {k}", ROWS, classes[k], device) for k in range(TASKS))
    stream = Stream(tasks, "task", classes[-1].stop)
    model, methods, seconds = entry.model([100, 100]), entry.methods(), []
    events = fit(model, stream, methods, batch_size=BATCH, device=device)
    while True:
        took, event = timed_call(lambda: next(events, None), device)
        if event is None:
            return
        if isinstance(event, Step):
            seconds.append(took)
        elif isinstance(event, TaskEnded):
            kept = sum(event.info["memory_bytes"].values())
            parameters = sum(p.numel() for p in model.parameters())
            yield Cost(
                parameters, kept, statistics.median(seconds), answer(model, methods[0], stream, event.task, device)
            )
            seconds = []


@torch.no_grad()
def answer(model: nn.Module, method: Method, stream: Stream, task: int, device: torch.device) -> float:
    """Seconds that 256 rows of `task` need, its number given."""
    x, allowed = stream[task].x[:256], stream.allowed(task, task)
    return statistics.median(timed_call(lambda: method.predict(model, x, allowed, task), device)[0] for _ in range(7))


def loops(rounds: int, steps: int, device: torch.device) -> list[Row]:
    """Seconds per step of each method over those of fine-tuning, in blocks that take turns."""
    tasks = [random_task("first", BATCH, range(10), device), random_task("second", 6400, range(10), device)]
    epochs = math.ceil((rounds + 1) * steps * BATCH / len(tasks[1].y))
    rows = []
    for name, entry in ENTRIES.items():
        plain_model = mlp if entry.model is columns else entry.model
        plain = second_task(plain_model(HIDDEN), [], tasks, epochs, device)
        ours = second_task(entry.model(HIDDEN), entry.methods(), tasks, epochs, device)
        rows.append(contest(name, ("fine-tuning", plain), ours, entry.step, rounds, steps, device))
    return rows


def second_task(
    model: nn.Module, methods: list[Method], tasks: list[Task], epochs: int, device: torch.device
) -> Iterator[Step]:
    """The steps that `fit` takes in the second of the tasks."""
    stream = Stream(tuple(tasks), "task", 10)
    for event in fit(model, stream, methods, epochs=epochs, batch_size=BATCH, device=device):
        if isinstance(event, Step) and event.task == 1:
            yield event


def lora_forward(rounds: int, device: torch.device) -> list[Row]:
    """A forward pass through LoRA beside its layer and merged into it, each over the layer alone; r = 8."""
    rows = []
    for width in (256, 1024):
        source = generator(0, "LoRA")
        x = torch.rand(BATCH, width, generator=source).to(device)
        base, beside, merged = (linear(width, width, source).to(device) for _ in range(3))
        beside, merged = (with_lora(layer, source) for layer in (beside, merged))
        merged.merge()
        for name, layer, limit in (("beside", beside, 2.5), ("merged", merged, 1.3)):
            turns = (forwards(module, x) for module in (base, layer))
            value, seconds = ratio(*turns, rounds, 200, device)
            detail = f"{BATCH} rows, r = 8; the layer alone {1e6 * seconds:.0f} us"
            rows.append(at_most(f"LoRA {name}, {width} x {width} / the layer alone", value, "x", limit, detail))
    return rows


def with_lora(layer: nn.Linear, source: torch.Generator) -> LoRALinear:
    """The layer with one adapter of rank 8, in eval mode."""
    wrapped = LoRALinear(layer)
    wrapped.add("task", LowRank.fresh(layer, 8, 8.0, source))
    return wrapped.eval()


@torch.no_grad()
def forwards(module: nn.Module, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Forward passes without end."""
    while True:
        yield module(x)
