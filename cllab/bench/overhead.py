"""What the readable loop, replay, EWC, Fisher, reservoir and herding cost, as ratios measured in one process."""

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from cllab import checks
from cllab.bench.report import Row, at_least, at_most
from cllab.bench.timing import HIDDEN, fit_loop, keep_freed_memory, peak_bytes, random_task, ratio, timed_call
from cllab.device import cpu_threads, generator
from cllab.models import MLP
from cllab.regularization import EWC, fisher_diagonal
from cllab.replay import ExperienceReplay, Reservoir, herding
from cllab.streams import Task

EPOCHS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=15, help="timed blocks per loop, interleaved (default 15)")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps in a block (default 60)")


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    rounds = checks.integer("rounds", options.rounds, 1)
    steps = checks.integer("steps", options.steps, 1)
    keep_freed_memory()
    with cpu_threads(1):
        memory = herding_memory(device)  # first: the process's peak only ever rises
        return [
            *loops(rounds, steps, device), *fisher(device), *reservoir(device), *herding_time(device), *memory,
        ]  # fmt: skip


def loops(rounds: int, steps: int, device: torch.device) -> list[Row]:
    """Seconds per step of `fit` over those of a bare PyTorch loop: same network, Adam, data and batch."""
    contests = [
        ("fine-tuning / bare loop", 64, [], 1.15, "batch 64"),
        ("replay / bare loop", 128, [ExperienceReplay(1000)], 1.20, "64 new + 64 old rows / 128"),
        ("EWC / bare loop", 64, [EWC(100.0)], 1.40, "batch 64, one anchor"),
    ]
    rows = []
    for name, batch_size, methods, limit, detail in contests:
        bare, ours = bare_loop(batch_size, device), fit_loop(methods, two_tasks(device), EPOCHS, device)
        value, seconds = ratio(bare, ours, rounds, steps, device)
        detail += f"; median of {rounds} interleaved blocks; bare {1e3 * seconds:.2f} ms/step"
        rows.append(at_most(name, value, "x", limit, detail))
    return rows


def fisher(device: torch.device, n: int = 1000) -> list[Row]:
    """The exact Fisher against one backward pass per row and class."""
    model = MLP(784, HIDDEN, 10).to(device)
    x = torch.rand(n, 784, generator=generator(0, "fisher")).to(device)
    fisher_diagonal(model, x[:10])
    fast = timed_call(lambda: fisher_diagonal(model, x), device)
    slow = timed_call(lambda: fisher_loop(model, x), device)
    difference = max(float((fast[1][name] - slow[1][name]).abs().max()) for name in slow[1])
    detail = f"{n} samples x 10 classes: {fast[0]:.2f} s against {slow[0]:.2f} s"
    return [
        at_least("per-sample loop / exact Fisher", slow[0] / fast[0], "x", 15, detail),
        at_most("largest difference of their values", difference, "", 1e-6, "float32"),
    ]


def reservoir(device: torch.device) -> list[Row]:
    """A million offers in batches of 100, memory of 1,000 rows of 64 features."""
    x = torch.rand(100, 64, generator=generator(0, "rows")).to(device)
    y = torch.zeros(100, dtype=torch.int64, device=device)
    memory = Reservoir(1000, generator(0))

    def offer():
        for _ in range(10_000):
            memory.add(x, y)

    seconds, _ = timed_call(offer, device)
    return [at_most("reservoir, 1,000,000 offers", seconds, "s", 3.0, "batches of 100, capacity 1,000")]


def herding_time(device: torch.device, n: int = 20_000, counts: tuple[int, ...] = (250, 500, 1000)) -> list[Row]:
    """Herding m of n x 512, for each m in `counts`: the time per chosen row should not depend on m."""
    features = _features(n, device)
    seconds = {m: timed_call(lambda m=m: herding(features, m), device)[0] for m in counts}
    per_row = [seconds[m] / m for m in counts]
    detail = "; ".join(f"m={m}: {s:.1f} s" for m, s in seconds.items())
    return [at_most("herding, time per row, slowest / fastest", max(per_row) / min(per_row), "x", 1.5, detail)]


def herding_memory(device: torch.device, n: int = 20_000) -> list[Row]:
    """How much the peak of memory grows while herding, over the size of the features."""
    features = _features(n, device)
    before = peak_bytes(device)
    if before is None:
        return []
    herding(features, 20)
    grown = (peak_bytes(device) - before) / (features.numel() * features.element_size())
    return [at_most("herding, memory beyond the features", grown, "x", 1.0, f"{n:,} x 512 float32")]


def bare_loop(batch_size: int, device: torch.device) -> Iterator[None]:
    """What one writes by hand: no masks, no events, no methods. Steps on the second task."""
    model, source = MLP(784, HIDDEN, 10).to(device), generator(0)
    for task in two_tasks(device):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(EPOCHS):
            order = torch.randperm(len(task.y), generator=source).to(device)
            for rows in order.split(batch_size):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(task.x[rows]), task.y[rows])
                loss.backward()
                optimizer.step()
                if task.name == "second":
                    yield


def fisher_loop(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The definition, literally: sum_c p_c (d ln p_c / d theta)^2, one row and one class at a time."""
    theta = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    for row in x:
        log_p = model(row[None]).log_softmax(dim=1)[0]
        for c in range(len(log_p)):
            gradients = torch.autograd.grad(log_p[c], list(theta.values()), retain_graph=True)
            for name, g in zip(theta, gradients, strict=True):
                total[name] += log_p[c].exp().detach() * g.square()
    return {name: value / len(x) for name, value in total.items()}


def two_tasks(device: torch.device) -> tuple[Task, Task]:
    """A short first task, which gives a memory and an anchor something to hold, and a long second one."""
    return random_task("first", 64, range(5), device), random_task("second", 6400, range(5, 10), device)


def _features(n: int, device: torch.device) -> torch.Tensor:
    return torch.randn(n, 512, generator=generator(0, "features")).to(device)
