"""Pruning as PackNet does it: which weights of a layer a task keeps, and which weights it reads.

    o_i = t    for the k_t = round(r_t n) largest |theta_i| among the n weights that task t has just trained
    theta_i = 0, o_i = 0    for the others, which are free again
    theta_t = theta * 1{1 <= o <= t}    is what task t reads

Symbols: theta, a layer's weights; o, its owner map, of the same shape: 0 = free, else the number of the task, from 1;
r_t in (0, 1], the share that task t keeps of the weights it found free; * entry by entry. Halves are rounded up.
Source: Mallya & Lazebnik 2018, "PackNet: adding multiple tasks to a single network by iterative pruning". Departures
from their code: exactly k_t weights are kept, at least one (their cutoff prunes ties too, and fails where nothing is to
be pruned); masking is by the owner map alone, so that an owned weight may be 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks


class CapacityError(ValueError):
    """No free weight is left for another task."""


class Pruned(NamedTuple):
    """w, owner: after pruning. ranked: flat indices of the candidates, largest |w| first. kept: how many stay."""

    w: Tensor
    owner: Tensor
    ranked: Tensor
    kept: int


def kept_count(n: int, keep: float) -> int:
    """How many of n > 0 candidates stay: keep * n, halves rounded up, at least one."""
    # k = max(1, floor(r n + 1/2))
    # (rounded to 9 places first: in floating point 0.7 * 45 is 31.499999999999996)
    return max(1, math.floor(round(_share("keep", keep) * checks.integer("n", n, 1), 9) + 0.5))


def prune(w: Tensor, owner: Tensor, task: int, keep: float) -> Pruned:
    """Keep the largest |w| among the free weights of one layer, which `task` has just trained, and give them to it.

    w: the layer's weights, any shape. owner: like w, integers, 0 = free. task: its number, from 1. keep: r in (0, 1].
    Returns new tensors: the weights that are not kept are 0 and stay free. Of equal |w| the first is kept.
    Raises ValueError when `task` or a later one owns weights already (pruned twice), CapacityError when none is free.
    """
    checks.floats("w", w)
    _owner_map(owner, w.shape)
    checks.integer("task", task, 1, torch.iinfo(owner.dtype).max)
    _share("keep", keep)
    if task <= int(owner.max()):
        raise ValueError(
            f"task must be new, got {task}: this layer has been pruned for task {int(owner.max())} already"
        )
    free = (owner == 0).flatten().nonzero()[:, 0]
    if len(free) == 0:
        raise CapacityError(f"w has no free weight left for task {task}: all {w.numel()} are owned")
    # rank |w| among the weights just trained, not among all
    ranked = free[w.flatten()[free].abs().sort(descending=True, stable=True).indices]
    k = kept_count(len(ranked), keep)
    new_w, new_owner = w.detach().clone(), owner.clone()
    # o = t for the k largest; theta = 0 for the others
    new_owner.view(-1)[ranked[:k]] = task
    new_w.view(-1)[ranked[k:]] = 0
    return Pruned(new_w, new_owner, ranked, k)


def packed(w: Tensor, owner: Tensor, task: int) -> Tensor:
    """The weights that `task` (from 1) reads, like w: its own and those of the tasks before it, 0 elsewhere."""
    if not isinstance(w, Tensor):
        raise TypeError(f"w must be a torch.Tensor, got {type(w).__name__}")
    _owner_map(owner, w.shape)
    checks.integer("task", task, 1)
    # theta_t = theta * 1{1 <= o <= t}
    return torch.where((owner >= 1) & (owner <= task), w, 0.0)


def share_out(n: int, keep: float | Sequence[float], n_tasks: int) -> list[int]:
    """How many of a layer's n weights each of `n_tasks` tasks owns; one that finds none free gets 0.

    keep: r_1, r_2, ...; the last one goes for all later tasks.
    """
    keep, free, owned = schedule(keep), checks.integer("n", n, 1), []
    for t in range(checks.integer("n_tasks", n_tasks, 1)):
        owned.append(kept_count(free, share_of(keep, t)) if free else 0)
        free -= owned[-1]
    return owned


def schedule(keep: float | Sequence[float]) -> tuple[float, ...]:
    """r_1, r_2, ... as a tuple of at least one share; a number is the share of every task."""
    given = [keep] if isinstance(keep, int | float) else keep
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"keep must be a list of shares such as (0.5, 0.25), got {keep!r}")
    if not given:
        raise ValueError("keep must hold at least one share, got an empty list")
    return tuple(_share("keep", share) for share in given)


def share_of(keep: tuple[float, ...], task: int) -> float:
    """The share that task number `task`, from 0, keeps; the last one goes for all later tasks."""
    return keep[min(task, len(keep) - 1)]


def _share(name: str, value) -> float:
    if checks.number(name, value, 0.0, 1.0) == 0:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}: a task needs at least one weight")
    return float(value)


def _owner_map(owner, shape) -> None:
    if not isinstance(owner, Tensor) or owner.is_floating_point() or owner.is_complex() or owner.dtype == torch.bool:
        given = owner.dtype if isinstance(owner, Tensor) else type(owner).__name__
        raise TypeError(f"owner must be a tensor of whole numbers, got {given}")
    if owner.shape != shape:
        raise ValueError(f"owner must have the shape {tuple(shape)} of w, got {tuple(owner.shape)}")
    if int(owner.min()) < 0:
        raise ValueError(f"owner must hold 0 (free) and numbers of tasks, got {int(owner.min())}")
