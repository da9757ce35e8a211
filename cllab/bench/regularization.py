"""What penalties, distillation and projections cost over fine-tuning; the Fisher's and the projection's growth.

Steps are timed in the last task of a stream whose earlier tasks are short, batch 64, network 784-256-256-10, against
`fit` without a method in the same process. GEM recomputes one gradient per past task at every step, so its cost grows
with their number: it is timed with 4 and with 19 past tasks of 64 rows each, A-GEM with the same memories.
`--root FOLDER` adds the tables of `python -m cllab.bench three_scenarios` and `python -m cllab.bench permuted_mnist`.
"""

import argparse
import math

import torch
from torch import nn

from cllab import checks
from cllab.bench import permuted_mnist, three_scenarios
from cllab.bench.projections import projections
from cllab.bench.report import Row, at_most
from cllab.bench.runs import contest
from cllab.bench.timing import (
    fit_loop,
    growth,
    keep_freed_memory,
    peak_bytes,
    random_task,
    timed_call,
)
from cllab.device import cpu_threads, generator
from cllab.models import MLP
from cllab.regularization import AGEM, EWC, GEM, MAS, SI, LwF, RWalk, fisher_diagonal
from cllab.streams import Task

BATCH = 64
CONTESTS = {  # methods, past tasks, limit
    "EWC, online anchor": (lambda: [EWC(100.0)], 1, 1.6),
    "EWC, 4 separate anchors": (lambda: [EWC(100.0, anchors="separate")], 4, 2.6),
    "SI": (lambda: [SI(1.0)], 1, 2.2),
    "MAS": (lambda: [MAS(1.0)], 1, 1.6),
    "RWalk": (lambda: [RWalk(0.1)], 1, 2.6),
    "LwF": (lambda: [LwF()], 1, 1.8),
    "A-GEM, 4 past tasks": (lambda: [AGEM(BATCH)], 4, 3.0),
    "A-GEM, 19 past tasks": (lambda: [AGEM(BATCH)], 19, 3.0),
    "GEM, 4 past tasks": (lambda: [GEM(BATCH)], 4, 6.0),
    "GEM, 19 past tasks": (lambda: [GEM(BATCH)], 19, 25.0),
}
FISHER = {"rows": 500, "classes": 5, "width": 128}
FACTOR = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9, help="timed blocks per loop, interleaved (default 9)")
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps in a block (default 30)")
    three_scenarios.add_arguments(parser)


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    rounds = checks.integer("rounds", options.rounds, 1)
    steps = checks.integer("steps", options.steps, 1)
    if options.only:
        return three_scenarios.measure(options, device)
    keep_freed_memory()
    with cpu_threads(1):
        memory = fisher_memory(device)  # first: the process's peak only ever rises
        rows = [*loops(rounds, steps, device), *fisher_time(device), *memory, *projections(device)]
    if options.root is None:
        return rows
    return [*rows, *three_scenarios.measure(options, device), *permuted_mnist.measure(options, device)]


def loops(rounds: int, steps: int, device: torch.device) -> list[Row]:
    """Seconds per step of each method over those of fine-tuning, in blocks that take turns."""
    rows = []
    for name, (methods, past, limit) in CONTESTS.items():
        tasks = short_past(past, device)
        epochs = math.ceil((rounds + 1) * steps * BATCH / len(tasks[-1].y))
        plain, ours = (fit_loop(m, tasks, epochs, device, BATCH) for m in ([], methods()))
        rows.append(contest(name, ("fine-tuning", plain), ours, limit, rounds, steps, device))
    return rows


def short_past(past: int, device: torch.device) -> list[Task]:
    """`past` tasks of 64 rows, and a long last one to time steps in; all have the same ten classes."""
    earlier = [random_task(f"task {k}", BATCH, range(10), device) for k in range(past)]
    return [*earlier, random_task("last", 6400, range(10), device)]


def fisher_time(device: torch.device, sizes: dict[str, int] | None = None, repeats: int = 3) -> list[Row]:
    """The power by which the exact Fisher's time grows with rows, classes and parameters: 1 is in proportion."""
    sizes = sizes or FISHER
    base = _fisher_seconds(sizes, device, repeats)
    rows = []
    for axis in sizes:
        larger = sizes | {axis: FACTOR * sizes[axis]}
        seconds = _fisher_seconds(larger, device, repeats)
        factor = _n_parameters(larger) / _n_parameters(sizes) if axis == "width" else FACTOR
        what = "parameters" if axis == "width" else axis
        detail = f"{what} times {factor:.2g}: {base:.2g} s to {seconds:.2g} s"
        rows.append(
            at_most(f"exact Fisher, power of {what} in its time", growth(base, seconds, factor), "", 1.2, detail)
        )
    return rows


def fisher_memory(device: torch.device, rows: int = 256, chunk: int = 64) -> list[Row]:
    """How much the peak of memory grows during the Fisher: with 8 times the rows, and with 4 times the chunk.

    On a network of which one gradient per row of a chunk is kept; an MLP of this package needs less.
    """
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    x = torch.rand(8 * rows, 784, generator=generator(0, "fisher")).to(device)
    fisher_diagonal(model, x[:8], chunk=8)
    start = peak_bytes(device)
    if start is None:
        return []
    peaks = []
    for n, size in ((rows, chunk), (8 * rows, chunk), (8 * rows, 4 * chunk)):
        fisher_diagonal(model, x[:n], chunk=size)
        peaks.append(peak_bytes(device) - start)
    small, many, wide = peaks
    row_gradients = 4 * chunk * 4 * sum(p.numel() for p in model.parameters())  # float32
    detail = f"{small / 1e6:.0f} MB for {rows} rows, {many / 1e6:.0f} MB for {8 * rows}, chunks of {chunk}"
    of_chunk = f"{wide / 1e6:.0f} MB, chunks of {4 * chunk}"
    return [
        at_most("exact Fisher, memory with 8 times the rows", many / small, "x", 1.25, detail),
        at_most("exact Fisher, memory over a gradient per row of the chunk", wide / row_gradients, "x", 5.0, of_chunk),
    ]


def _fisher_seconds(sizes: dict[str, int], device: torch.device, repeats: int) -> float:
    model = MLP(784, [sizes["width"]], sizes["classes"]).to(device)
    x = torch.rand(sizes["rows"], 784, generator=generator(0, "fisher")).to(device)
    fisher_diagonal(model, x[:10])
    return min(timed_call(lambda: fisher_diagonal(model, x), device)[0] for _ in range(repeats))


def _n_parameters(sizes: dict[str, int]) -> int:
    return sum(p.numel() for p in MLP(784, [sizes["width"]], sizes["classes"]).parameters())
