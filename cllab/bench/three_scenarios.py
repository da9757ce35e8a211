"""Split-MNIST in three scenarios: penalties on the weights and old answers, beside their published bands.

Protocol and coefficients of Hsu et al. 2018, "Re-evaluating continual learning scenarios", and of its code: five tasks
of two digits, images padded to 32x32 and standardised (mean 0.1000, sd 0.2752), MLP 1024-400-400, Adam 1e-3 that is
not reset between tasks, batch 128, 4 epochs per task. Published there: mean and sd of 10 runs, in percent; for online
EWC without sd, so that EWC's is used.

Coefficients. There all penalties lack the factor 1/2, so EWC's lam is twice the number in the table. EWC has an anchor
per task. Its Fisher there uses the model's likeliest label of each row; here it is the exact one.
LwF's published row comes from van de Ven's code. It weighs the old answers k - 1 to 1 in task k, without T^2, and lets
the student's softmax run over all classes seen, with 0 as the teacher's answer for the new ones: a softmax over the old
columns alone, the paper's, does not notice when all of them sink together. `PaddedLwF` is that variant; measured, it
lies above the published figures in domain- and class-IL (0.739, 0.278), the paper's form below in class-IL (0.198).
The standardised inputs matter: with pixels in [0, 1] the first layer's gradients, whose squares are the Fisher, are
smaller, and the same coefficients hold the weights less (task-incremental EWC 0.955 instead of 0.980, seed 0).
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from cllab import checks
from cllab.bench.report import Row, between
from cllab.bench.runs import over_seeds
from cllab.bench.split_mnist import one_run
from cllab.regularization import EWC, MAS, SI, LwF
from cllab.streams import Dataset, Stream, mnist, split
from cllab.training import Batch, Context, Joint, Method
from cllab.training.batch import masked

SCENARIOS = ("task", "domain", "class")


class Line(NamedTuple):
    """A method as a function of its coefficient; per scenario its coefficient, published mean and sd in percent."""

    methods: Callable[[float], list[Method]]
    coefficient: tuple[float, float, float]
    mean: tuple[float, float, float]
    sd: tuple[float, float, float]


class PaddedLwF(LwF):
    """LwF as in the code behind the published figures, see above."""

    def losses(self, ctx: Context, batch: Batch, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.teacher is None:
            return {}
        T, terms = self.temperature, []
        for head in self.heads:
            columns = ctx.allowed(ctx.task_index) if ctx.stream.scenario == "class" else _mask(head, outputs)
            q = (self.teacher(batch.x)[:, head] / T).softmax(dim=1)
            ln_p = masked(outputs / T, columns).log_softmax(dim=1)[:, head]
            terms.append(-(q * ln_p).sum(dim=1).mean())
        return {"LwF": self.lam * ctx.task_index * sum(terms) / len(terms)}


LINES = {
    "fine-tuning": Line(lambda c: [], (0, 0, 0), (93.46, 55.16, 19.71), (2.01, 1.38, 0.08)),
    "EWC": Line(lambda c: [EWC(2 * c, anchors="separate")], (100, 100, 600), (97.70, 58.85, 19.80), (0.81, 2.59, 0.05)),
    "online EWC": Line(lambda c: [EWC(2 * c)], (400, 700, 100), (98.04, 57.33, 19.77), (0.81, 2.59, 0.05)),
    "SI": Line(lambda c: [SI(c)], (300, 3000, 600), (98.56, 64.76, 19.67), (0.49, 3.09, 0.09)),
    "MAS": Line(lambda c: [MAS(c)], (1, 10_000, 1), (99.22, 68.57, 19.52), (0.21, 6.85, 0.29)),
    "LwF": Line(lambda c: [LwF(c)], (1, 1, 1), (99.60, 71.02, 24.17), (0.03, 1.26, 0.33)),
    "LwF, padded": Line(lambda c: [PaddedLwF(c)], (1, 1, 1), (99.60, 71.02, 24.17), (0.03, 1.26, 0.33)),
    "joint": Line(lambda c: [Joint()], (0, 0, 0), (99.52, 98.59, 97.53), (0, 0, 0)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="folder with MNIST's IDX files (default: OpenML's copy)")
    parser.add_argument("--seeds", type=int, default=5, help="runs per method and scenario (default 5)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"one line of the table, may be repeated: {', '.join(LINES)}"
    )


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    seeds = range(checks.integer("seeds", options.seeds, 1))
    names = [checks.choice("only", name, tuple(LINES)) for name in options.only or LINES]
    data = standardised(mnist(options.root))
    rows = []
    for scenario in SCENARIOS:
        stream = split(data, 2, scenario)
        rows += [entry(name, scenario, stream, seeds, device) for name in dict.fromkeys(names)]
    return rows


def band(name: str, scenario: str) -> tuple[float, float]:
    """The published mean +- two of its standard deviations, at least 1.5 points, as fractions."""
    place = SCENARIOS.index(scenario)
    mean, width = LINES[name].mean[place], max(2 * LINES[name].sd[place], 1.5)
    return (mean - width) / 100, min((mean + width) / 100, 1.0)


def entry(name: str, scenario: str, stream: Stream, seeds: range, device: torch.device) -> Row:
    """Mean over `seeds` of the average accuracy after the last task, against the band of `name` in `scenario`."""
    line = LINES[name]
    coefficient = line.coefficient[SCENARIOS.index(scenario)]

    def run(seed: int) -> float:
        return one_run(stream, line.methods(coefficient), seed, device, reset_optimizer=False)[0]

    runs = over_seeds(f"{scenario}, {name}", seeds, run)
    detail = f"{runs.detail}; coefficient {coefficient:g}"
    return between(f"{scenario}, {name}", runs.mean, "", *band(name, scenario), detail)


def standardised(data: Dataset) -> Dataset:
    """Images of 28x28 padded to 32x32, then (x - 0.1000) / 0.2752: about mean 0 and variance 1 over all pixels."""

    def prepared(x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x.view(-1, 28, 28), (2, 2, 2, 2)).flatten(1)
        return (padded - 0.1000) / 0.2752

    return dataclasses.replace(data, x=prepared(data.x), x_test=prepared(data.x_test), shape=(1, 32, 32))


def _mask(head: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """The columns of one old head as a mask bool [C]."""
    mask = torch.zeros(outputs.shape[1], dtype=torch.bool, device=outputs.device)
    mask[head] = True
    return mask
