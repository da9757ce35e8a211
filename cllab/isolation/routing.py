"""Top-k routing: which experts each token visits, with what weight, and what happens when an expert is full.

Idea. A router gives every token one score per expert; the token visits only its k best-scored experts. An
expert that may take at most `capacity` assignments drops the rest or sends them on to the token's next
choice.

    P[n, e]     = softmax_e(S[n, :])                        router probabilities
    weight[n]   = softmax over the k chosen scores          renormalise=True: P of the chosen, scaled to sum 1
                = P[n, chosen]                              renormalise=False
    capacity    = ceil(factor * k * N / E)                  places per expert

Symbols: `S` = `logits` [N, E], `N` tokens, `E` experts, `k` slots (choices per token).

Places are given out slot by slot: every token's first choice before any token's second choice. Within a slot,
tokens come in their order in the batch (`priority="order"`) or the surest first (`priority="probability"`).

Sources: Shazeer et al. 2017 (top-k gating); Lepikhin et al. 2021, GShard (capacity, slot-major places); Fedus
et al. 2022, Switch Transformers (capacity factor; rerouting stage by stage is their "no token left behind");
Riquelme et al. 2021, V-MoE ("batch prioritised routing": tokens sorted by their highest probability). Papers
count k into the capacity or not and round up, down or to the nearest; here k is inside and the result is
rounded up.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks

SILENT = -3e4
"""A router bias that keeps an expert out of every choice; small enough for half precision, and exp(SILENT) is 0."""
MAX_FACTOR = 1e6
MAX_COUNT = 10**9
"""Highest capacity factor, and most tokens or experts: beyond these a number is a mistake."""


class Routing(NamedTuple):
    """The outcome of `route` for N tokens, E experts and k slots.

    expert      [N, k] int64: the expert of each assignment, first choice first. A rerouted assignment shows
                where it went, a dropped one the expert that had no room.
    weight      [N, k] float: factor on the output of the expert in `expert`. A dropped assignment keeps its
                number here, so that the other weights of its token are not renormalised (as in GShard);
                combine with `weight * kept`.
    kept        [N, k] bool: False where the assignment was dropped.
    load        [E] int64: the assignments that each expert was asked for, before capacity; sums to N*k. No
                gradient.
    importance  [E] float: router probability summed over tokens; sums to N.
    dropped     how many assignments were dropped: N*k - kept.sum().
    """

    expert: Tensor
    weight: Tensor
    kept: Tensor
    load: Tensor
    importance: Tensor
    dropped: int


def route(
    logits: Tensor,
    k: int,
    capacity: int | None = None,
    overflow: str = "drop",
    renormalise: bool = True,
    priority: str = "order",
    bias: Tensor | None = None,
) -> Routing:
    """Send each token to its k best-scored experts, at most `capacity` assignments per expert.

    logits       [N, E] router scores. float16 and bfloat16 are computed in float32; float64 stays float64.
                 Equal scores go to the lowest expert index. -inf forbids an expert to a token, which must have
                 k experts left. Padding takes no part: pass the rows of real tokens only.
    k            experts per token, 1..E.
    capacity     places per expert, >= 1 (see `expert_capacity`); None means no limit.
    overflow     "drop": an assignment that finds its expert full is dropped. "reroute": it goes to the
                 token's best-ranked expert that it does not use yet and that has room. This starts only when all
                 own choices are placed, so a rerouted assignment never takes a place that another token
                 chose; then the first choices without a place try their next experts, stage by stage and all
                 tokens together, then the second choices. Dropped only if none has room.
    renormalise  True: a token's k weights sum to 1, dropped ones included. False: weights are the
                 probabilities themselves. With k=1 the renormalised weight is the constant 1 and gives the
                 router no gradient.
    priority     "order": lowest token index first. "probability": highest top probability first, ties by
                 index.
    bias         [E], added to the probabilities for the choice alone (loss_free.py); no weight contains it.

    Returns a `Routing`; its `weight` and `importance` carry gradient to `logits`. Raises TypeError or
    ValueError naming the argument for anything outside these ranges, for `logits` that are empty, NaN or +inf
    and for a wrong dtype.
    """
    logits = scores("logits", logits)
    n, n_experts = logits.shape
    checks.integer("k", k, 1, n_experts)
    if capacity is not None:
        capacity = min(checks.integer("capacity", capacity, 1), n)  # no token visits an expert twice
    checks.choice("overflow", overflow, ("drop", "reroute"))
    checks.choice("priority", priority, ("order", "probability"))
    checks.flag("renormalise", renormalise)

    may = logits > -math.inf  # [N, E]
    if int(may.sum(dim=1).min()) < k:
        raise ValueError(f"logits must leave every token k = {k} experts, one has {int(may.sum(dim=1).min())}")

    p = logits.softmax(dim=1)  # [N, E]
    preference = logits if bias is None else _biased(p, bias, may)
    ranking = preference.argsort(dim=1, descending=True, stable=True)  # [N, E], stable: ties to the lowest index
    expert = ranking[:, :k]
    load = torch.bincount(expert.flatten(), minlength=n_experts)
    kept = torch.ones_like(expert, dtype=torch.bool)
    if capacity is not None:
        turn = torch.arange(n, device=logits.device)
        if priority == "probability":
            turn = p.amax(dim=1).argsort(descending=True, stable=True)
        expert, kept = _assign(ranking[turn], may.gather(1, ranking)[turn], k, capacity, overflow)
        back = turn.argsort()
        expert, kept = expert[back], kept[back]

    if renormalise:
        weight = logits.gather(1, expert).softmax(dim=1)
    else:
        weight = p.gather(1, expert)
    return Routing(expert, weight, kept, load, p.sum(dim=0), int((~kept).sum()))


def expert_capacity(n_tokens: int, n_experts: int, k: int, factor: float) -> int:
    """Places per expert, ceil(factor * k * n_tokens / n_experts), at least 1.

    factor=1 is just enough when the load is perfectly even; 1.25 leaves a quarter spare. Counts must be
    integers from 1 to MAX_COUNT (k at most n_experts) and the factor above 0 and at most MAX_FACTOR, else
    ValueError or TypeError.
    """
    checks.integer("n_tokens", n_tokens, 1, MAX_COUNT)
    checks.integer("n_experts", n_experts, 1, MAX_COUNT)
    checks.integer("k", k, 1, n_experts)
    check_factor("factor", factor)
    # Rounding first keeps 0.07 * 100 = 7.000000000000001 from becoming 8.
    return max(1, math.ceil(round(factor * k * n_tokens / n_experts, 9)))


def check_factor(name: str, factor: float) -> float:
    """`factor` if it can be a capacity factor: above 0, at most MAX_FACTOR."""
    if checks.number(name, factor, 0, MAX_FACTOR) == 0:
        raise ValueError(f"{name} must be above 0, got 0")
    return factor


def scores(name: str, logits: Tensor) -> Tensor:
    """`logits` checked as router scores [N, E] (floats or -inf, not empty), in float32 at least."""
    checks.floats(name, logits.masked_fill(logits == -math.inf, 0) if isinstance(logits, Tensor) else logits, ndim=2)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def position_in_expert(expert: Tensor, n_experts: int) -> Tensor:
    """For a list of expert indices [M]: how many earlier entries name the same expert, [M].

    Example: [0, 2, 0, 0] -> [0, 0, 1, 2].
    """
    # sorted by expert, an entry's position is its distance from where its expert begins
    order = expert.argsort(stable=True)
    size = torch.bincount(expert, minlength=n_experts)
    begin = size.cumsum(dim=0) - size
    position = torch.empty_like(expert)
    position[order] = torch.arange(len(expert), device=expert.device) - begin[expert[order]]
    return position


def _biased(p: Tensor, bias: Tensor, may: Tensor) -> Tensor:
    """p + bias [N, E], -inf where a token may not go."""
    checks.floats("bias", bias, ndim=1)
    if len(bias) != p.shape[1]:
        raise ValueError(f"bias must have one number for each of the {p.shape[1]} experts, got {len(bias)}")
    return (p.detach() + bias).masked_fill(~may, -math.inf)


def _assign(ranking: Tensor, may: Tensor, k: int, capacity: int, overflow: str) -> tuple[Tensor, Tensor]:
    """(expert [N, k], kept [N, k]) for tokens whose rows stand in the order in which they are served.

    may [N, E]: whether a token may go to the expert at that place of its ranking.
    """
    n, n_experts = ranking.shape
    expert = ranking[:, :k].clone()
    slot_major = expert.T.flatten()  # all first choices, then all second choices
    kept = (position_in_expert(slot_major, n_experts) < capacity).view(k, n).T.clone()
    if overflow == "drop":
        return expert, kept

    room = capacity - torch.bincount(expert[kept], minlength=n_experts)
    for slot in range(k):
        for stage in range(k, n_experts):  # a token's own k choices are in use or full
            candidate = ranking[:, stage]
            used = (expert == candidate[:, None]).any(dim=1)  # by an earlier slot that was rerouted
            asking = (~kept[:, slot] & ~used & may[:, stage]).nonzero()[:, 0]
            wanted = candidate[asking]
            fits = position_in_expert(wanted, n_experts) < room[wanted]
            expert[asking[fits], slot] = wanted[fits]
            kept[asking[fits], slot] = True
            room -= torch.bincount(wanted[fits], minlength=n_experts)
    return expert, kept
