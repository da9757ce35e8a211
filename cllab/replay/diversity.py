"""Diversity: rows that point in directions as different as possible.

Idea. Two samples that pull the weights the same way tell a memory the same thing twice. Take row by row, each time
the one that is least like anything already taken.

    s_i     = max_{j<=k} cos(phi(x_i), phi(c_j))         similarity of row i to the most similar of k chosen rows
    c_{k+1} = argmin_i s_i, of rows not yet chosen       the row least like any of them; c_1 = row 0
    cos(a, b) = <a, b> / (||a|| ||b||), in [-1, 1]

    phi(x) features of a sample, [D]; N samples, m of them chosen

The order is a priority: its first k rows are what choosing k rows would have given.

Source: the sample-level score of gradient-based sample selection, GSS-Greedy (Aljundi et al. 2019). Departures:
the paper compares the samples' loss gradients, here whatever rows are given (pass gradients to compare those); it
keeps a memory of a stream, draws the victim at random by its score and compares with a few stored samples only,
here all rows are at hand, nothing is random, and a row is compared with all that are chosen.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks
from cllab.replay.k_center import smallest


class DiversityStep(NamedTuple):
    """One choice by diversity: everything needed to draw it or to check it by hand.

    k           how many rows are chosen after this step, counted from 1
    chosen      index of the row chosen now
    similarity  [N] largest cosine of every row with a chosen row, this one included
    """

    k: int
    chosen: int
    similarity: Tensor


def diversity_steps(features: Tensor, m: int, ties: str = "first") -> Iterator[DiversityStep]:
    """The m choices by diversity one by one; this iterator is the algorithm, `select` only collects it.

    features  [N, D] floating point, finite; ValueError for a row of norm 0, which has no direction
    m         how many rows to choose, 1 to N
    ties      "first" takes the lowest row index among exactly equal similarities, "last" the highest

    Arguments are checked at the call, with ValueError or TypeError naming the argument. Each step takes O(N D) time
    and O(N) memory beside the features, which are read at every step and not copied: do not change them before the
    last one.
    """
    checks.floats("features", features, ndim=2)
    checks.integer("m", m, 1, len(features))
    checks.choice("ties", ties, ("first", "last"))
    phi = features.detach().to(torch.promote_types(features.dtype, torch.float32))
    # in float64 block by block: squares neither overflow nor vanish, and there is no copy of all features
    norms = torch.cat([block.double().norm(dim=1) for block in phi.split(1024)]).to(phi.dtype)
    if bool((norms == 0).any()):
        raise ValueError(f"features must have no row of norm 0 to have a direction, got row {int(norms.argmin())}")
    if not bool(torch.isfinite(norms).all()):
        raise ValueError(f"features must be smaller: their norms overflow {phi.dtype}")
    return _least_similar(phi, norms, m, ties)


def _least_similar(phi: Tensor, norms: Tensor, m: int, ties: str) -> Iterator[DiversityStep]:
    similarity = phi.new_full((len(phi),), -torch.inf)
    taken = torch.zeros(len(phi), dtype=torch.bool, device=phi.device)
    chosen = 0  # c_1
    for k in range(1, m + 1):
        taken[chosen] = True
        # cos(phi(x_i), phi(c_k)) = <phi(x_i), phi(c_k) / ||phi(c_k)||> / ||phi(x_i)||
        cosine = _products(phi, phi[chosen] / norms[chosen]) / norms
        # s_i = max_{j<=k} cos(phi(x_i), phi(c_j))
        similarity = torch.maximum(similarity, cosine)
        yield DiversityStep(k, chosen, similarity)
        if k < m:
            # c_{k+1} = argmin_i s_i among rows not yet chosen
            chosen = smallest(similarity, taken, ties)


def _products(rows: Tensor, point: Tensor) -> Tensor:
    # Not rows @ point: there the last digit depends on where a row stands, and equal rows would not tie exactly.
    return torch.cat([(block * point).sum(dim=1) for block in rows.split(1024)])
