"""What the tables share: a run per seed with its mean and spread, and a method's steps beside those of another."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from cllab.bench.report import Row, at_most
from cllab.bench.timing import ratio


class Runs(NamedTuple):
    """One score per seed, with their mean, their standard deviation (0 for one) and the mean seconds of a run."""

    scores: list[float]
    mean: float
    sd: float
    seconds: float

    @property
    def detail(self) -> str:
        """The spread, the number of seeds and the time of a run, in words."""
        return f"sd {self.sd:.4f}, {len(self.scores)} seeds; {self.seconds:.0f} s a run"


def over_seeds(name: str, seeds: Sequence[int], run: Callable[[int], float]) -> Runs:
    """run(seed) for every seed; each score is printed when it is there."""
    scores, seconds = [], []
    for seed in seeds:
        start = time.perf_counter()
        scores.append(run(seed))
        seconds.append(time.perf_counter() - start)
        print(f"{name}, seed {seed}: average accuracy {scores[-1]:.4f}, {seconds[-1]:.0f} s", flush=True)
    sd = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return Runs(scores, statistics.mean(scores), sd, statistics.mean(seconds))


def contest(
    name: str, base: tuple[str, Iterator], ours: Iterator, limit: float, rounds: int, steps: int, device: torch.device
) -> Row:
    """Seconds per step of `ours` over those of `base` (its name and its loop), in blocks that take turns."""
    beside, plain = base
    value, seconds = ratio(plain, ours, rounds, steps, device)
    detail = f"per step; median of {rounds} interleaved blocks; {beside} {1e3 * seconds:.2f} ms/step"
    return at_most(f"{name} / {beside}", value, "x", limit, detail)
