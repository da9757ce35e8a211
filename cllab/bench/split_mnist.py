"""Split-MNIST, class-incremental, on the full data: fine-tuning and replay against their published bands.

Protocol of Hsu et al. 2018, "Re-evaluating continual learning scenarios": five tasks of two digits, MLP
784-400-400-10, Adam 1e-3, batch 128, 4 epochs per task. Replay keeps 1,000 rows, 100 per class at the end, and
trains on as many old rows as new ones. Published there: fine-tuning 19.71 +- 0.08, naive rehearsal with 1,100
rows 90.78 +- 0.85 (percent, 10 runs).
"""

import argparse
import statistics
from pathlib import Path

import torch

from cllab import checks
from cllab.bench.report import Row, between
from cllab.models import MLP
from cllab.replay import ExperienceReplay
from cllab.streams import mnist, split
from cllab.training import run

PIXELS = 784
BANDS = {
    "fine-tuning": (list, 0.19, 0.21),
    "replay, 100 per class": (lambda: [ExperienceReplay(1000)], 0.87, 0.93),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="folder with MNIST's IDX files (default: OpenML's copy)")
    parser.add_argument("--seeds", type=int, default=5, help="runs per method (default 5)")


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    stream = split(mnist(options.root), 2)
    seeds = range(checks.integer("seeds", options.seeds, 1))
    rows = []
    for name, (methods, low, high) in BANDS.items():
        scores = []
        for seed in seeds:
            model = MLP(PIXELS, [400, 400], 10, seed=seed)
            history = run(model, stream, methods(), epochs=4, batch_size=128, seed=seed, device=device)
            scores.append(history.metrics()["average_accuracy"])
            print(f"{name}, seed {seed}: average accuracy {scores[-1]:.4f}", flush=True)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        rows.append(between(name, statistics.mean(scores), "", low, high, f"sd {spread:.4f} over {len(scores)} seeds"))
    return rows
