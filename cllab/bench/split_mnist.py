"""Split-MNIST, class-incremental, on the full data: replay methods beside their published bands.

Protocol of Hsu et al. 2018, "Re-evaluating continual learning scenarios": five tasks of two digits, MLP
784-400-400-10, Adam 1e-3, batch 128, 4 epochs per task. A memory holds 1,000 rows, 100 per class at the end, and a
step brings as many old rows as new ones. Published there (percent, 10 runs): fine-tuning 19.71 +- 0.08, naive
rehearsal with 1,100 rows 90.78 +- 0.85, generative replay 91.24 +- 0.33, offline 97.53. Van de Ven et al. 2022, by a
similar protocol: replay of 100 rows per class 89, iCaRL 92, generative replay 90, joint 98.

Coefficients. DER++: alpha = 0.2, beta = 1, the best on seed 0 (0.926) among alpha 0.5 and 1 with beta = 1 (0.923,
0.914) and alpha = beta = 0.5 (0.913), where ER has 0.898; it draws twice, so that a step holds 256 old rows where the
others have 128. DER: alpha = 0.5, the default. iCaRL: 128 exemplars a step, the default (0.918 on seed 0); the paper's
union of new rows and exemplars holds about 11 of them (0.893), which was published for 70 epochs. MIR: 128 rows of 256
candidates, as the customary 50 would leave nothing to choose. GDumb: trained on its memory alone, after every task.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from cllab import checks
from cllab.bench.report import Row, between
from cllab.bench.runs import over_seeds
from cllab.models import MLP
from cllab.replay import ERACE, MIR, DarkExperienceReplay, ExperienceReplay, GDumb, GenerativeReplay, ICaRL
from cllab.streams import Stream, mnist, split
from cllab.training import Evaluated, Joint, Method, TaskEnded, fit

ROWS = 1000
BATCH = 128


class Line(NamedTuple):
    """One line of the table: how its methods are made, and the band for the mean of its average accuracies."""

    methods: Callable[[], list[Method]]
    low: float
    high: float


LINES = {
    "fine-tuning": Line(list, 0.19, 0.21),
    "joint": Line(lambda: [Joint()], 0.965, 0.99),
    "ER": Line(lambda: [ExperienceReplay(ROWS)], 0.87, 0.93),
    "ER-ACE": Line(lambda: [ERACE(ROWS)], 0.87, 0.97),
    "MIR": Line(lambda: [MIR(ROWS, candidates=2 * BATCH)], 0.87, 0.97),
    "DER": Line(lambda: [DarkExperienceReplay(ROWS, alpha=0.5)], 0.80, 0.97),
    "DER++": Line(lambda: [DarkExperienceReplay(ROWS, alpha=0.2, beta=1.0)], 0.87, 0.97),
    "GDumb": Line(lambda: [GDumb(ROWS)], 0.87, 0.97),
    "iCaRL": Line(lambda: [ICaRL(ROWS)], 0.90, 0.95),
    "GR": Line(lambda: [GenerativeReplay("vae")], 0.85, 0.97),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="folder with MNIST's IDX files (default: OpenML's copy)")
    parser.add_argument("--seeds", type=int, default=5, help="runs per method (default 5)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"one line of the table, may be repeated: {', '.join(LINES)}"
    )


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    seeds = range(checks.integer("seeds", options.seeds, 1))
    names = [checks.choice("only", name, tuple(LINES)) for name in options.only or LINES]
    stream = split(mnist(options.root), 2)
    means, rows = {}, []
    for name in dict.fromkeys(names):
        rows.append(line(name, stream, seeds, device))
        means[name] = rows[-1].value
    if {"ER", "DER++"} <= set(means):
        lead = means["DER++"] - means["ER"]
        rows.append(Row("DER++ minus ER", lead, "", "> 0", lead > 0, "difference of the means"))
    return rows


def line(name: str, stream: Stream, seeds: range, device: torch.device) -> Row:
    """Mean over `seeds` of the average accuracy after the last task, against the band of `name`."""
    methods, low, high = LINES[name]
    kept = []

    def run(seed: int) -> float:
        score, size = one_run(stream, methods(), seed, device)
        kept.append(size)
        return score

    runs = over_seeds(name, seeds, run)
    return between(name, runs.mean, "", low, high, f"{runs.detail}; keeps {kept[-1] / 1e6:.1f} MB")


def one_run(
    stream: Stream, methods: list[Method], seed: int, device: torch.device, reset_optimizer: bool = True
) -> tuple[float, int]:
    """Average accuracy after the last task, and the bytes that the methods keep of earlier tasks then."""
    model = MLP(stream[0].x[0].numel(), [400, 400], stream.n_classes, seed=seed)
    settings = {"epochs": 4, "batch_size": BATCH, "reset_optimizer": reset_optimizer}
    for event in fit(model, stream, methods, seed=seed, device=device, **settings):
        if isinstance(event, Evaluated):
            accuracy = statistics.mean(event.accuracy)
        elif isinstance(event, TaskEnded):
            kept = sum(event.info["memory_bytes"].values())
    return accuracy, kept
