"""k-center: rows chosen so that none of the others is far from a chosen one.

Idea. Cover the data: of m centres ask that the farthest row is as near to its centre as possible. The best m
centres are hard to find, but taking the farthest row each time is never worse than twice as far.

    c_1     = row 0
    r_i     = min_{j<=k} || phi(x_i) - phi(c_j) ||       distance of row i to the nearest of k centres
    c_{k+1} = argmax_i r_i, of rows not yet chosen       the row that is covered worst
    radius  = max_i r_i                                  it never grows with k

    phi(x) features of a sample, [D]; N samples, m of them chosen

The order is a priority as in herding: its first k rows are what choosing k rows would have given.

Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance" (radius at most twice the
smallest possible); Sener & Savarese 2018 for choosing training samples by it. Departures: the first centre is row
0 where the papers leave it open; equal distances are broken by an explicit rule; a row is chosen at most once, by
its index, so two equal rows are two items. Being drawn to the edge of the data, it likes outliers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks
from cllab.replay.herding import squarable


class KCenterStep(NamedTuple):
    """One choice of farthest-first: everything needed to draw it or to check it by hand.

    k          how many rows are chosen after this step, counted from 1
    chosen     index of the row chosen now
    distances  [N] distance of every row to the nearest chosen row, this one included
    radius     the largest of them, in units of the features
    """

    k: int
    chosen: int
    distances: Tensor
    radius: float


def k_center_steps(features: Tensor, m: int, ties: str = "first") -> Iterator[KCenterStep]:
    """The m choices of farthest-first one by one; this iterator is the algorithm, `select` only collects it.

    features  [N, D] floating point, finite
    m         how many rows to choose, 1 to N
    ties      "first" takes the lowest row index among exactly equal distances, "last" the highest

    Arguments are checked at the call, with ValueError or TypeError naming the argument; a step raises ValueError if
    distances overflow, the call if they would all vanish. Each step takes O(N D) time and O(N) memory beside the
    features, which are read at every step and not copied: do not change them before the last one.
    """
    squarable("features", features)
    checks.integer("m", m, 1, len(features))
    checks.choice("ties", ties, ("first", "last"))
    return _farthest_first(features.detach(), m, ties)


def _farthest_first(features: Tensor, m: int, ties: str) -> Iterator[KCenterStep]:
    phi = features.to(torch.promote_types(features.dtype, torch.float32))
    nearest = phi.new_full((len(phi),), torch.inf)
    taken = torch.zeros(len(phi), dtype=torch.bool, device=phi.device)
    chosen = 0  # c_1
    for k in range(1, m + 1):
        taken[chosen] = True
        # r_i = min_{j<=k} || phi(x_i) - phi(c_j) ||
        nearest = torch.minimum(nearest, distances_to(phi, phi[chosen]))
        # radius = max_i r_i
        yield KCenterStep(k, chosen, nearest, float(nearest.max()))
        if k < m:
            # c_{k+1} = argmax_i r_i among rows not yet chosen
            chosen = smallest(-nearest, taken, ties)


def distances_to(rows: Tensor, point: Tensor) -> Tensor:
    """Distance of every row [N, D] to one point [D]: [N]. ValueError if one overflows.

    By differences and without an [N, D] array of them: |a|^2 - 2ab + |b|^2 loses digits and exact ties.
    """
    distances = torch.cdist(rows, point[None], compute_mode="donot_use_mm_for_euclid_dist").squeeze(1)
    if not bool(torch.isfinite(distances.max())):
        raise ValueError(f"features must be smaller: their squared distances overflow {rows.dtype}")
    return distances


def smallest(values: Tensor, taken: Tensor, ties: str) -> int:
    """Index of the smallest of `values` [N] where `taken` [N] is False: the "first" or "last" of equal ones."""
    free = values.masked_fill(taken, torch.inf)
    tied = (free == free.min()).nonzero().squeeze(1)
    return int(tied[0] if ties == "first" else tied[-1])
