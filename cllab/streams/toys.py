"""Toy data sets of two features, small enough to see."""

import torch
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.streams.dataset import Dataset

# red and blue below, green and yellow above; across the diagonal the labels repeat, so that one boundary learned
# for the lower pair is exactly wrong for the upper pair when both tasks share two outputs
CLUSTER_CENTRES = torch.tensor([[-1.5, -1.5], [1.5, -1.5], [1.5, 1.5], [-1.5, 1.5]])
MAX_POINTS = 1_000_000  # per class: what still fits in memory with room to spare
CLUSTER_NAMES = ("red", "blue", "green", "yellow")


def points(kind: str = "clusters", n: int = 200, noise: float | None = None, seed: int = 0) -> Dataset:
    """Points in the plane: `n` to train on and `n` to test on per class.

    kind: "clusters", four Gaussian blobs: `split(points(), 2)` makes task A red/blue, then task B green/yellow;
    "moons", two interleaved half circles around the origin; "gaussians", two blobs left and right of the origin.
    The last two are meant for `rotated`. noise: standard deviation (defaults 0.5, 0.12 and 0.5).
    """
    checks.choice("kind", kind, ("clusters", "moons", "gaussians"))
    checks.integer("n", n, 1, MAX_POINTS)
    noise = {"clusters": 0.5, "moons": 0.12, "gaussians": 0.5}[kind] if noise is None else noise
    checks.number("noise", noise, 0.0, 1e6)
    source = generator(seed, f"points {kind}")
    x, y = _draw(kind, n, noise, source)
    x_test, y_test = _draw(kind, n, noise, source)
    return Dataset(x, y, x_test, y_test, kind, (2,))


def icarl_toy() -> Dataset:
    """Classes A, B and C of five points each, float64, for herding by hand; the test rows are the same points.

    B = A + (2, 2) and C = -A, so (2, 2) belongs to A and to B, and (0, 0) to A and to C.
    """
    a = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [2, 2]], dtype=torch.float64)
    b = torch.tensor([[3, 3], [3, 2], [2, 3], [4, 4], [2, 2]], dtype=torch.float64)
    c = torch.tensor([[-1, -1], [-1, 0], [0, -1], [-2, -2], [0, 0]], dtype=torch.float64)
    x, y = torch.cat([a, b, c]), torch.arange(3).repeat_interleave(5)
    return Dataset(x, y, x.clone(), y.clone(), "icarl_toy", (2,))


def _draw(kind: str, n: int, noise: float, source: torch.Generator) -> tuple[Tensor, Tensor]:
    if kind == "clusters":
        centres = CLUSTER_CENTRES.repeat_interleave(n, dim=0)
    elif kind == "gaussians":
        centres = torch.tensor([[-1.5, 0.0], [1.5, 0.0]]).repeat_interleave(n, dim=0)
    else:
        angle = torch.rand(n, generator=source) * torch.pi
        upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
        centres = torch.cat([upper, -upper])
    y = torch.arange(len(centres) // n).repeat_interleave(n)
    return centres + noise * torch.randn(centres.shape, generator=source), y
