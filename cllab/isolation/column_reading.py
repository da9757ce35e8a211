"""What a progressive column takes from the older ones: how strongly it reads them, and with which weights.

    strength of column j at layer i of column k = mean_n | a_i(h) - a_i(h without h^(j)) |

Symbols: a_i [N, n_i], what the laterals add to layer i; "without" means with h^(j) = 0. For linear laterals that is
mean_n |U^(k:j) h^(j)|, to be held against the column's own mean_n |W h^(k)|. It tells what flows, not what it is worth:
for that, cut the laterals and look at the accuracy. Rusu et al. 2016 perturb the features instead (by noise, and by
their Fisher information); departure: here they are taken away.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation.progressive import ProgressiveNet
from cllab.isolation.switch import Key


@torch.no_grad()
def column_strengths(net: ProgressiveNet, x: Tensor, task: Key, outputs: Sequence[int] | None = None) -> dict:
    """How much enters each of the L layers of a column on the rows x [N, ...].

    {"own": [L], mean |W h|; "lateral": [L - 1], mean |what the laterals add| from the second layer on; "read":
    [L - 1][k], the strength of each older column}. outputs: which of the last layer count, default all.
    """
    h = net.activations(checks.floats("x", x), task)
    column = net.columns.part(task)
    last = len(column.layers) - 1
    found = {"own": [], "lateral": [], "read": []}
    for i, layer in enumerate(column.layers):
        units = slice(None) if i < last or outputs is None else list(outputs)
        *older, own = h[i]
        found["own"].append(_mean_norm((own @ layer.weight.T)[:, units]))
        if i == 0:
            continue
        added = column.laterals[i - 1](older) if column.laterals else torch.zeros(1, layer.out_features)
        found["lateral"].append(_mean_norm(added[:, units]))
        strengths = []
        for left in range(len(older) if column.laterals else 0):
            without = [torch.zeros_like(h_j) if j == left else h_j for j, h_j in enumerate(older)]
            strengths.append(_mean_norm((added - column.laterals[i - 1](without))[:, units]))
        found["read"].append(strengths)
    return found


@torch.no_grad()
def lateral_weights(net: ProgressiveNet, task: Key) -> list[list[Tensor]]:
    """For each layer of a column from the second on, a matrix [n_i, n_{i-1}] per older column; [] without laterals.

    Linear laterals: U_j. Adapters: alpha_j U V_j, what the adapter would be without its relu.
    """
    found = []
    for lateral in net.columns.part(task).laterals:
        if lateral.kind == "linear":
            found.append([U.detach().clone() for U in lateral.U])
        else:
            blocks = lateral.V.chunk(len(lateral.alpha), dim=1)
            # alpha_j U V_j
            found.append([a * lateral.U @ V for a, V in zip(lateral.alpha, blocks, strict=True)])
    return found


def _mean_norm(rows: Tensor) -> float:
    return rows.norm(dim=1).mean().item()
