"""Guided routing: experts that are told, in part or in full, which tokens are theirs.

    prior      S'[n, e] = S[n, e] + tau ln pi(e | meta of n)      pi = 0 forbids an expert, uniform pi changes nothing
    hash       expert(n) = table[id of n]                          a fixed random table, as even as can be

Symbols: S [N, E] router scores; pi [N, E] >= 0, a prior over experts given what is known about a token (its language,
its domain, the tool that wrote it), rows need not sum to 1; tau >= 0, its weight; id, a token's number.
Specialisation that grows by itself moves with the seed: two runs find the same kinds of token under other experts'
numbers. A guide fixes who gets what. The other two ways of doing so change what is trained, and when: experts added for
a stage of the data (lifelong.py), and experts trained on their own data first and then frozen (train_then_freeze.py).
Sources: Roller et al. 2021, "Hash layers" (balanced assignment); the prior in log space is Bayes' rule.
"""

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation.routing import scores

MOST_IDS = 10_000_000


def guided_scores(logits: Tensor, prior: Tensor, tau: float = 1.0) -> Tensor:
    """S + tau ln pi: scores [N, E] for `route`, -inf where the prior is 0.

    prior [N, E] or [E], finite, >= 0, no row all zero; tau >= 0 (0 leaves the scores as they are).
    """
    logits = scores("logits", logits)
    checks.floats("prior", prior)
    checks.number("tau", tau, 0.0)
    if prior.shape not in (logits.shape, logits.shape[1:]):
        raise ValueError(f"prior must have shape {tuple(logits.shape)} or {tuple(logits.shape[1:])}, got {prior.shape}")
    if bool((prior < 0).any()) or bool((prior.sum(dim=-1) == 0).any()):
        raise ValueError("prior must be at least 0 and leave every token an expert; a row is negative or all zero")
    if tau == 0:
        return logits
    # S' = S + tau ln pi
    return logits + tau * prior.to(logits.dtype).log()


def hash_table(n_ids: int, n_experts: int, generator: torch.Generator) -> Tensor:
    """table int64 [n_ids]: a random expert for each token id; the experts' shares differ by at most one id.

    It is drawn from the generator once and kept with the model: Python's own hash of a text changes from run to run.
    """
    checks.integer("n_ids", n_ids, 1, MOST_IDS)
    checks.integer("n_experts", n_experts, 1, MOST_IDS)
    checks.generator("generator", generator)
    return torch.randperm(n_ids, generator=generator) % n_experts


def hashed(ids: Tensor, table: Tensor) -> Tensor:
    """expert int64 [N, 1] for token ids int64 [N], to hand to a layer as `expert`."""
    for name, value in (("ids", ids), ("table", table)):
        checks.labels(name, value)
    if int(ids.max()) >= len(table):
        raise ValueError(f"ids must be below the {len(table)} ids of the table, got {int(ids.max())}")
    return table.to(ids.device)[ids][:, None]
