"""What the routing page tells a router beforehand: which kind of token belongs to which expert, or a hash table.

A guide sees the rows alone. A row begins with its token's vector, so the token can be looked up.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cllab.device import generator
from cllab.isolation import hash_table, hashed, token_ids
from cllab.isolation.tokens import PER_KIND, TOKENS
from labs.routing_rules import HASH, PRIOR

SURE = 0.8
"""What a prior gives to the expert of a token's kind; the others share the rest."""


def guide_of(run: dict) -> Callable[[Tensor], dict[str, Tensor]] | None:
    """The `guide` of an `MoEClassifier` for the settings of a run; None where the router decides alone."""
    n_experts = run["experts"]
    if run["guide"] == PRIOR:
        # tau ln pi = ln pi^tau
        return lambda x: {"prior": kind_prior(x, n_experts) ** run["tau"]}
    if run["guide"] == HASH:
        table = hash_table(len(TOKENS), n_experts, generator(run["seed"], "hash table"))
        return lambda x: {"expert": hashed(token_ids(x), table)}
    return None


def kind_prior(x: Tensor, n_experts: int) -> Tensor:
    """pi [N, E]: SURE for the expert of the row's kind, equal shares of the rest for the others."""
    pi = torch.full((len(x), n_experts), (1 - SURE) / (n_experts - 1), dtype=x.dtype)
    return pi.scatter(1, owner_of(x, n_experts)[:, None], SURE)


def owner_of(x: Tensor, n_experts: int) -> Tensor:
    """The expert of each row's kind, int64 [N]: kind c belongs to expert c, and to c - E where there are fewer."""
    return (token_ids(x) // PER_KIND) % n_experts
