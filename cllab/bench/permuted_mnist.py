"""Permuted MNIST by GEM's small protocol: 20 tasks that are seen once, GEM and A-GEM beside penalties and replay.

Protocol of Lopez-Paz & Ranzato 2017 and of its code: every task shuffles the pixels by one permutation of its own and
has 1,000 rows, seen once in batches of 10; MLP 784-100-100-10 (Xavier), plain SGD with lr 0.1; GEM keeps 256 rows per
task, margin 0.5. Published for GEM there: about 0.83 average accuracy (0.80 and 0.93 in two reproductions). A-GEM keeps
the same memory and takes 256 of its rows a step; replay keeps as many rows in one reservoir and brings 10 a step.

EWC there has strength 3 without the factor 1/2 and squares the mean gradient of 10 rows per task: labels="batched".
With the exact Fisher of those 10 rows the same strength means more, so that lam is lower.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import torch
from torch import nn

from cllab import checks
from cllab.bench.report import Row, between
from cllab.bench.runs import over_seeds
from cllab.bench.split_mnist import Line
from cllab.device import generator
from cllab.models import MLP
from cllab.regularization import AGEM, EWC, GEM
from cllab.replay import ExperienceReplay
from cllab.streams import Dataset, Stream, mnist, permuted
from cllab.training import Evaluated, Method, fit

TASKS = 20
ROWS = 1000
KEPT = 256


LINES = {
    "fine-tuning": Line(list, 0.40, 0.60),
    "EWC, exact Fisher": Line(lambda: [EWC(3.0, anchors="separate", n_samples=10)], 0.50, 0.70),
    "EWC, batched Fisher": Line(lambda: [EWC(6.0, anchors="separate", n_samples=10, labels="batched")], 0.50, 0.70),
    "A-GEM": Line(lambda: [AGEM(KEPT, KEPT)], 0.55, 0.75),
    "GEM": Line(lambda: [GEM(KEPT, margin=0.5)], 0.78, 0.88),
    "replay": Line(lambda: [ExperienceReplay(TASKS * KEPT)], 0.65, 0.85),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="folder with MNIST's IDX files (default: OpenML's copy)")
    parser.add_argument("--seeds", type=int, default=5, help="runs per method (default 5)")


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    seeds = range(checks.integer("seeds", options.seeds, 1))
    data = mnist(options.root)
    rows = [line(name, data, seeds, device) for name in LINES]
    means = {row.name: row.value for row in rows}
    lead = means["GEM"] - means["A-GEM"]
    return [*rows, Row("GEM minus A-GEM", lead, "", "> 0", lead > 0, "difference of the means")]


def line(name: str, data: Dataset, seeds: range, device: torch.device) -> Row:
    """Mean over `seeds` of the average accuracy after the last task, against the band of `name`."""
    methods, low, high = LINES[name]
    runs = over_seeds(name, seeds, lambda seed: one_run(permutations(data, seed), methods(), seed, device))
    return between(name, runs.mean, "", low, high, runs.detail)


def one_run(stream: Stream, methods: list[Method], seed: int, device: torch.device) -> float:
    """Average accuracy after the last task."""
    model = MLP(stream.in_features, [100, 100], stream.n_classes, seed=seed)
    source = generator(seed, "Xavier")
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=source)
            nn.init.zeros_(layer.bias)
    for event in fit(model, stream, methods, batch_size=10, optimizer="sgd", lr=0.1, seed=seed, device=device):
        if isinstance(event, Evaluated):
            accuracy = statistics.mean(event.accuracy)
    return accuracy


def permutations(data: Dataset, seed: int) -> Stream:
    """Every task has an order of the pixels and ROWS training rows of its own; all have the same test rows."""
    source = generator(seed, "permutations")
    plain = permuted(data, 1)
    tasks = []
    for k in range(TASKS):
        order = torch.randperm(data.x.shape[1], generator=source)
        rows = torch.randperm(len(data.y), generator=source)[:ROWS]
        x, y, x_test = data.x[rows][:, order], data.y[rows], data.x_test[:, order]
        tasks.append(dataclasses.replace(plain[0], x=x, y=y, x_test=x_test, name=f"permutation {k}"))
    return dataclasses.replace(plain, tasks=tuple(tasks))
