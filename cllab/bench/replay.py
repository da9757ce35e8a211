"""What the replay methods cost over plain ER, buffers' and selections' speed, and the Split-MNIST table.

Steps are timed in the second task of two, with 1,000 rows in memory, 64 new rows and as many old ones (DER++ draws
twice), network 784-256-256-10, against `fit` with ExperienceReplay in the same process.
Herding and k-center run beside NumPy loops written from their definitions, in float64, which must choose the same rows.
`--root FOLDER` adds the table of `python -m cllab.bench split_mnist`; `--only NAME` prints those lines alone.
"""

import argparse
import math

import torch

from cllab import checks
from cllab.bench import split_mnist
from cllab.bench.report import Row, at_least, at_most
from cllab.bench.runs import contest
from cllab.bench.selections import selections
from cllab.bench.timing import HIDDEN, fit_loop, keep_freed_memory, random_task, timed_call
from cllab.device import cpu_threads, generator
from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import (
    ERACE,
    MIR,
    ClassBalanced,
    ClassBalancedReservoir,
    ClassRing,
    DarkExperienceReplay,
    ExperienceReplay,
    GDumb,
    GenerativeReplay,
    ICaRL,
    LatentReplay,
    Reservoir,
    RingBuffer,
)
from cllab.streams import Stream, Task
from cllab.training import Evaluated, Step, fit

ROWS = 1000
BATCH = 64
CONTESTS = {
    "ER, memory ring": (lambda: [ExperienceReplay(ROWS, memory="ring")], 1.2),
    "ER, memory class_ring": (lambda: [ExperienceReplay(ROWS, memory="class_ring")], 1.2),
    "ER, memory balanced": (lambda: [ExperienceReplay(ROWS, memory="balanced")], 1.2),
    "ER, memory cbrs": (lambda: [ExperienceReplay(ROWS, memory="cbrs")], 1.2),
    "ER, balanced draws": (lambda: [ExperienceReplay(ROWS, balanced=True)], 1.2),
    "MIR, 128 candidates": (lambda: [MIR(ROWS, candidates=2 * BATCH)], 3.0),
    "DER": (lambda: [DarkExperienceReplay(ROWS)], 1.3),
    "DER++": (lambda: [DarkExperienceReplay(ROWS, beta=0.5)], 1.8),
    "ER-ACE": (lambda: [ERACE(ROWS)], 1.3),
    "iCaRL": (lambda: [ICaRL(ROWS)], 1.6),
    "LatentReplay": (lambda: [LatentReplay(ROWS)], 1.3),
    "GenerativeReplay, gmm": (lambda: [GenerativeReplay("gmm")], 3.0),
    "GenerativeReplay, vae": (lambda: [GenerativeReplay("vae")], 3.0),
    "EWC and ER": (lambda: [EWC(100.0), ExperienceReplay(ROWS)], 1.4),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9, help="timed blocks per loop, interleaved (default 9)")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps in a block (default 40)")
    split_mnist.add_arguments(parser)


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    rounds = checks.integer("rounds", options.rounds, 1)
    steps = checks.integer("steps", options.steps, 1)
    if options.only:
        return split_mnist.measure(options, device)
    keep_freed_memory()
    with cpu_threads(1):
        rows = [*loops(rounds, steps, device), *gdumb(device), *buffers(device), *selections(device)]
    return rows if options.root is None else [*rows, *split_mnist.measure(options, device)]


def loops(rounds: int, steps: int, device: torch.device) -> list[Row]:
    """Seconds per step of each method over those of ER with a reservoir, in blocks that take turns."""
    tasks = two_tasks(device)
    epochs = math.ceil((rounds + 1) * steps * BATCH / len(tasks[1].y))
    rows = []
    for name, (methods, limit) in CONTESTS.items():
        plain, ours = (fit_loop(m, tasks, epochs, device, BATCH) for m in ([ExperienceReplay(ROWS)], methods()))
        rows.append(contest(name, ("ER", plain), ours, limit, rounds, steps, device))
    return rows


def gdumb(device: torch.device) -> list[Row]:
    """GDumb learns nothing in its steps; its cost is the training after a task."""
    stream = Stream(two_tasks(device), "class", 10)
    steps = sum(math.ceil(len(task.y) / BATCH) for task in stream)
    events = fit(MLP(784, HIDDEN, 10), stream, [GDumb(ROWS)], batch_size=BATCH, device=device)
    next(event for event in events if isinstance(event, Step) and event.step == steps)
    seconds, _ = timed_call(lambda: next(event for event in events if isinstance(event, Evaluated)), device)
    return [
        at_most("GDumb, one training on its memory", seconds, "s", 30.0, f"{ROWS:,} rows, 30 epochs of batches of 16")
    ]


def buffers(device: torch.device, n: int = 100_000, batch: int = 100) -> list[Row]:
    """Rows per second that each memory is offered, at capacity from the first 1,000 on."""
    source = generator(0, "rows")
    x = torch.rand(batch, 64, generator=source).to(device)
    labels = torch.randint(10, (n // batch, batch), generator=source).to(device)
    made = {
        "Reservoir": (lambda: Reservoir(ROWS, generator(0)), 200_000),
        "RingBuffer": (lambda: RingBuffer(ROWS), 150_000),
        "ClassRing": (lambda: ClassRing(ROWS // 10), 100_000),
        "ClassBalanced": (lambda: ClassBalanced(ROWS), 150_000),
        "ClassBalancedReservoir": (lambda: ClassBalancedReservoir(ROWS, generator(0)), 50_000),
    }
    rows = []
    for name, (make, limit) in made.items():
        memory = make()
        seconds, _ = timed_call(lambda memory=memory: [memory.add(x, y) for y in labels], device)
        detail = f"{n:,} rows of 64 features and 10 classes in batches of {batch}, capacity {ROWS:,}"
        rows.append(at_least(f"{name}, rows offered per second", n / seconds, "/s", limit, detail))
    return rows


def two_tasks(device: torch.device) -> tuple[Task, Task]:
    """A first task that fills the memory, and a second one to time steps in."""
    return random_task("first", 1024, range(5), device), random_task("second", 6400, range(5, 10), device)
