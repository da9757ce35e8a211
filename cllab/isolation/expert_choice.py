"""Expert choice: the experts choose their tokens, and are balanced by construction.

    tokens(e) = the C tokens n with the largest P[n, e]
    y[n] = sum over the experts e that chose n of P[n, e] f_e(h[n])

Symbols: P [N, E] = softmax of the router scores over the experts; C places per expert, all of them taken.
A token may be chosen by no expert or by all. Whether it is depends on the other tokens of the batch, also on later
ones: a decoder, which must not look ahead, cannot route like this.
Source: Zhou et al. 2022, "Mixture-of-experts with expert choice routing"; C = factor N / E there.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation.routing import scores


class ExpertChoice(NamedTuple):
    """The outcome of `expert_choice` for N tokens and E experts with C places each.

    token         [E, C] int64: the tokens of each expert, surest first.
    weight        [E, C] float: P of those tokens, the factor on the expert's output; carries gradient.
    multiplicity  [N] int64: by how many experts each token was chosen; sums to E * C where no score is -inf.
    importance    [E] float: router probability summed over tokens.
    """

    token: Tensor
    weight: Tensor
    multiplicity: Tensor
    importance: Tensor


def expert_choice(logits: Tensor, capacity: int) -> ExpertChoice:
    """Let every expert take its `capacity` (C, 1..N) surest tokens.

    Of equal probabilities the token comes first whose own highest one is lower, as it may have no other expert; then
    the lowest token. logits [N, E] router scores; -inf forbids an expert to a token: a place that such a token fills
    for want of others has weight 0 and does not count in its multiplicity. Every token needs one score above -inf.
    Raises TypeError or ValueError naming the argument.
    """
    logits = scores("logits", logits)
    checks.integer("capacity", capacity, 1, len(logits))
    may = logits > -math.inf
    if not bool(may.any(dim=1).all()):
        raise ValueError("logits must leave every token an expert, one has -inf for all")
    p = logits.softmax(dim=1)
    # tokens(e) = the C largest of column e; sorting is stable, so that the order before it decides between equals
    order = p.amax(dim=1).argsort(stable=True)
    token = order[p[order].T.argsort(dim=1, descending=True, stable=True)[:, :capacity]]
    weight = p.T.gather(1, token)
    served = token[may.T.gather(1, token)]
    multiplicity = torch.bincount(served, minlength=len(logits))
    return ExpertChoice(token, weight, multiplicity, p.sum(dim=0))
