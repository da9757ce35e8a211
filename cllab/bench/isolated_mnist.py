"""Split-MNIST, task-incremental: methods that give each task a part of its own.

Five tasks of two digits, the task's number given at test; Adam 1e-3, batch 128, 4 epochs per task, MLP 784-400-400
(Hsu et al. 2018; fine-tuning has 93.5 +- 2.0 percent there, with standardised images and an Adam that is not reset).
Progressive nets have columns of 100-100. On an MLP the first task trains the base and is answered by it alone.
IA3, prompts and prefixes are attached to a transformer (two blocks, width 32, an image is 28 rows of 28 pixels) that
has been trained elsewhere, as they are meant to: on the 1,797 digits of 8x8 pixels that come with scikit-learn,
enlarged; lr 1e-2, 2 epochs per task (prompts, which learn slowly: 4). "frozen base, heads" is what that base is worth
without any part.
Every method with parts of its own should reach 0.97. Those whose old parts nothing moves must forget exactly nothing. A
trunk or an adapter that all tasks share forgets, and is held by EWC (lam 1e4, the Fisher of 500 rows per task).
"""

import argparse
import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cllab import checks
from cllab.bench.report import Row, between
from cllab.bench.runs import over_seeds
from cllab.isolation import (
    HAT,
    IA3,
    Adapter,
    LoRA,
    OLoRA,
    OnFrozenBase,
    PackNet,
    Piggyback,
    PrefixTuning,
    Progressive,
    ProgressiveNet,
    PromptTuning,
    TaskHeads,
)
from cllab.models import MLP, Transformer
from cllab.regularization import EWC
from cllab.streams import Stream, digits, mnist, split
from cllab.training import Context, Joint, Method, run

BATCH = 128


def mlp(seed: int) -> MLP:
    return MLP(784, [400, 400], 10, seed=seed)


def columns(seed: int) -> ProgressiveNet:
    return ProgressiveNet(784, [100, 100], 10, seed=seed)


@functools.cache
def trained_elsewhere(seed: int) -> Transformer:
    """A transformer that has learned the small digits, all classes at once, enlarged to 28x28."""
    model, small = Transformer(28, 28, 32, 2, 4, 10, seed=seed), digits()

    def enlarged(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x.view(-1, 1, 8, 8), size=(28, 28), mode="bilinear").flatten(1)

    large = dataclasses.replace(small, x=enlarged(small.x), x_test=enlarged(small.x_test), shape=(1, 28, 28))
    run(model, split(large, 10), epochs=20, batch_size=32, lr=3e-3, seed=seed)
    return model


def transformer(seed: int) -> Transformer:
    return copy.deepcopy(trained_elsewhere(seed))


class Heads(OnFrozenBase):
    """Nothing but a head for each task on the frozen base."""

    def add_parts(self, ctx: Context) -> None:
        """There are none besides the heads."""


class Line(NamedTuple):
    """How the model of a seed and the methods are made; whether old answers must stay exactly; epochs per task.

    low, high: the band for the mean accuracy.
    """

    model: Callable[[int], nn.Module]
    methods: Callable[[], list[Method]]
    exact: bool = True
    epochs: int = 4
    lr: float = 1e-3
    low: float = 0.97
    high: float = 1.0


LINES = {
    "fine-tuning": Line(mlp, list, False, low=0.80, high=0.98),
    "joint": Line(mlp, lambda: [Joint()], False, low=0.99),
    "heads": Line(mlp, lambda: [TaskHeads()], False, low=0.80, high=0.98),
    "heads and EWC": Line(mlp, lambda: [TaskHeads(), EWC(1e4, n_samples=500)], False),
    "PNN": Line(columns, lambda: [Progressive()]),
    "PackNet": Line(mlp, lambda: [PackNet(retrain_epochs=2)]),
    "Piggyback": Line(mlp, lambda: [Piggyback()]),
    "HAT": Line(mlp, lambda: [HAT()]),
    "LoRA, r=8": Line(mlp, lambda: [LoRA(8)]),
    "O-LoRA, r=8": Line(mlp, lambda: [OLoRA(8)], False),
    "adapters, width 16": Line(mlp, lambda: [Adapter(16)]),
    "one LoRA for all and EWC": Line(mlp, lambda: [LoRA(8, shared=True), EWC(1e4, n_samples=500)], False),
    "frozen base, heads": Line(transformer, lambda: [Heads(base="given")], low=0.5, epochs=2, lr=1e-2),
    "IA3": Line(transformer, lambda: [IA3(base="given")], epochs=2, lr=1e-2),
    "prompt of 16": Line(transformer, lambda: [PromptTuning(16, base="given")], lr=1e-2),
    "prefix of 8": Line(transformer, lambda: [PrefixTuning(8, 32, base="given")], epochs=2, lr=1e-2),
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
    stream = split(mnist(options.root), 2, scenario="task")
    return [row for name in dict.fromkeys(names) for row in lines(name, stream, seeds, device)]


def lines(name: str, stream: Stream, seeds: range, device: torch.device) -> list[Row]:
    """Mean over `seeds` of the average accuracy after the last task, and the most that any task forgot."""
    line, most = LINES[name], []

    def one(seed: int) -> float:
        history = run(
            line.model(seed), stream, line.methods(), epochs=line.epochs, batch_size=BATCH, lr=line.lr, seed=seed,
            device=device,
        )  # fmt: skip
        R = torch.tensor(history.accuracy)
        # max over tasks j and over what came later: R[j, j] - R[i, j]
        most.append(max((R[j, j] - R[i, j]).abs().item() for j in range(len(R)) for i in range(j, len(R))))
        return R[-1].mean().item()

    runs = over_seeds(name, seeds, one)
    rows = [between(f"{name}, average accuracy", runs.mean, "", line.low, line.high, runs.detail)]
    if line.exact:
        detail = "largest difference between a task's accuracy when learned and later"
        rows.append(between(f"{name}, forgetting", max(most), "", 0.0, 0.0, detail))
    return rows
