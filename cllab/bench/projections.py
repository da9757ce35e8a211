"""GEM's projection over the number of past tasks t and of parameters p, beside quadprog where it is installed.

quadprog solves the same dual from the matrix G G^T, as the authors' code does, without the 1e-3 that they add to its
diagonal. Both must give the same u, or the row of the table fails.
"""

import importlib
import importlib.util
import statistics

import torch

from cllab.bench.report import Row, at_most
from cllab.bench.timing import growth, timed_call
from cllab.device import generator
from cllab.regularization import project

GRID = {"t": 5, "p": 100_000}
FACTOR = 4


def projections(device: torch.device, grid: dict[str, int] | None = None, repeats: int = 7) -> list[Row]:
    """Seconds of a projection, the powers by which they grow with t and p, and ours over quadprog's."""
    grid = grid or GRID
    points = {"": grid} | {axis: grid | {axis: FACTOR * grid[axis]} for axis in grid}
    seconds = {axis: _seconds(*problem(**point, device=device), repeats, device) for axis, point in points.items()}
    rows = [
        at_most(
            f"projection, power of {axis} in its time", growth(seconds[""], seconds[axis], FACTOR), "", limit,
            f"{axis} times {FACTOR}: {1e3 * seconds['']:.1f} ms to {1e3 * seconds[axis]:.1f} ms; "
            f"t = {grid['t']}, p = {grid['p']:,}",
        )
        for axis, limit in (("t", 2.0), ("p", 1.2))
    ]  # fmt: skip
    if importlib.util.find_spec("quadprog") is None:
        return rows
    return rows + [row for point in points.values() for row in beside_quadprog(**point, device=device, repeats=repeats)]


def beside_quadprog(t: int, p: int, device: torch.device, repeats: int = 7) -> list[Row]:
    """Ours over quadprog's seconds on one problem, taking turns, and how far the two answers are apart."""
    g, G = problem(t, p, device)
    ratios = []
    for _ in range(repeats):
        ours, u = timed_call(lambda: project(g, G), device)
        theirs, expected = timed_call(lambda: quadprog_projection(g, G), device)
        ratios.append(ours / theirs)
    apart = float((u - expected).norm() / g.norm())
    size = f"t = {t}, p = {p:,}"
    return [
        at_most(f"projection / quadprog, {size}", statistics.median(ratios), "x", 5.0, f"median of {repeats}"),
        at_most(f"projection and quadprog apart, {size}", apart, "", 1e-8, "||u - u'|| / ||g||, float64"),
    ]


def quadprog_projection(g: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    """u = g + G^T v with v = argmin_{v >= 0} 1/2 v^T G G^T v + (G g)^T v."""
    quadprog = importlib.import_module("quadprog")  # nothing else here needs it, so it is not a dependency
    P, q = (G @ G.T).cpu().numpy(), (G @ g).cpu().numpy()
    identity = torch.eye(len(G), dtype=torch.float64).numpy()
    v = quadprog.solve_qp(P, -q, identity, 0 * q)[0]
    return g + G.T @ torch.from_numpy(v).to(g)


def problem(t: int, p: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """g [p] and G [t, p] in float64: rows that share a direction, which g opposes, so that several of them bind."""
    source = generator(0, "projection")
    shared, g = torch.randn(2, p, generator=source, dtype=torch.float64)
    G = torch.randn(t, p, generator=source, dtype=torch.float64) + 0.5 * shared
    return (g - 0.3 * shared).to(device), G.to(device)


def _seconds(g: torch.Tensor, G: torch.Tensor, repeats: int, device: torch.device) -> float:
    project(g, G)
    return min(timed_call(lambda: project(g, G), device)[0] for _ in range(repeats))
