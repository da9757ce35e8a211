"""Herding and k-center beside NumPy loops written from their definitions, on a small grid of n, m and d.

Both sides work in float64 on the same random rows and must choose the same ones, or the row of the table fails.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from cllab.bench.report import Row, at_most
from cllab.bench.timing import growth, timed_call
from cllab.device import generator
from cllab.replay import herding, select

GRID = {"n": 10_000, "m": 50, "d": 128}
FACTOR = 4


class Timing(NamedTuple):
    """One point of the grid: fastest seconds of ours, median ratio to the loop's, whether the rows are the same."""

    seconds: float
    ratio: float
    same: bool


def selections(device: torch.device, grid: dict[str, int] | None = None, repeats: int = 3) -> list[Row]:
    """Ours over the loop's seconds at n rows, m chosen and d features, with each of them four times as large, and
    the power by which our time grows with each: 1 is in proportion."""
    contests = {"herding": (herding, herding_loop), "k-center": (k_center, k_center_loop)}
    grid = grid or GRID
    rows = []
    for name, (ours, plain) in contests.items():
        points = {"": grid} | {axis: grid | {axis: FACTOR * grid[axis]} for axis in grid}
        found = {axis: contest(ours, plain, **point, device=device, repeats=repeats) for axis, point in points.items()}
        for axis, point in points.items():
            seconds, ratio, same = found[axis]
            what = f"{name} / NumPy loop, {point['n']:,} x {point['d']}, m = {point['m']}"
            detail = f"{'the same' if same else 'OTHER'} rows chosen; {seconds:.2g} s"
            rows.append(at_most(what, ratio, "x", 1.5, detail)._replace(met=same and ratio <= 1.5))
        for axis in grid:
            power = growth(found[""].seconds, found[axis].seconds, FACTOR)
            rows.append(at_most(f"{name}, power of {axis} in its time", power, "", 1.25, f"{axis} times {FACTOR}"))
    return rows


def contest(ours: Callable, plain: Callable, n: int, m: int, d: int, device: torch.device, repeats: int = 3) -> Timing:
    """Both on the same n x d normal numbers, taking turns."""
    features = torch.randn(n, d, generator=generator(0, "features"), dtype=torch.float64)
    array, features = features.numpy(), features.to(device)
    seconds, ratios = [], []
    for _ in range(repeats):
        mine, order = timed_call(lambda: ours(features, m), device)
        theirs, expected = timed_call(lambda: plain(array, m), device)
        seconds.append(mine)
        ratios.append(mine / theirs)
    return Timing(min(seconds), float(np.median(ratios)), order.tolist() == expected)


def k_center(features: torch.Tensor, m: int) -> torch.Tensor:
    """The strategy of that name."""
    return select("k_center", features, m)


def herding_loop(phi: np.ndarray, m: int) -> list[int]:
    """p_k = argmin_x || mu - (1/k) (phi(x) + sum_{j<k} phi(p_j)) ||, as the paper has it; phi [n, d]."""
    mu, chosen = phi.mean(axis=0), []
    for k in range(1, m + 1):
        errors = np.linalg.norm(mu - (phi + phi[chosen].sum(axis=0)) / k, axis=1)
        errors[chosen] = np.inf
        chosen.append(int(errors.argmin()))
    return chosen


def k_center_loop(phi: np.ndarray, m: int) -> list[int]:
    """c_{k+1} = argmax_i min_{j<=k} || phi(x_i) - phi(c_j) || from row 0 on; the rows phi [n, d] all differ."""
    chosen, nearest = [0], np.full(len(phi), np.inf)
    while len(chosen) < m:
        nearest = np.minimum(nearest, np.linalg.norm(phi - phi[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    return chosen
