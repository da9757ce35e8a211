"""Merging low-rank adapters: add up their weight changes, not their factors.

    delta W = sum_i w_i s_i B_i A_i

Symbols: A_i [r_i, in], B_i [out, r_i] and s_i, the factors of adapter i, whose change of the weights is s_i B_i A_i;
w_i, its weight in the sum. Three forms of the result: delta W itself ("delta", exact, any rank); the factors laid side
by side, A = [A_1; A_2; ...] and B = [w_1 s_1 B_1, w_2 s_2 B_2, ...] ("cat", exact, of rank sum_i r_i); the best
factors of a given rank, from the singular values of delta W ("svd", with the error that remains).

Averaging the factors is none of these. It gives

    (sum_i w_i s_i B_i) (sum_j w_j A_j) = sum_i w_i^2 s_i B_i A_i + sum_{i != j} w_i w_j s_i B_i A_j

with w_i^2 where w_i belongs, and with cross terms that no adapter has learned. Nor are factors unique: (B R, R^-1 A) is
the same adapter for every invertible R, so their average depends on coordinates that mean nothing. Two copies of one
adapter hide all of this, because there the average is right.
Source: Hu et al. 2022 (LoRA). "svd" is the best approximation by Eckart & Young 1936. peft's `add_weighted_adapter`
calls the forms "cat" and "svd", and averages factors with sqrt(w) under "linear".
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks

FORMS = ("delta", "cat", "svd")


class Factors(NamedTuple):
    """One adapter of one layer: A [r, in], B [out, r] and the scale s. It changes the weight by s B A."""

    A: Tensor
    B: Tensor
    s: float = 1.0


class MergedLoRA(NamedTuple):
    """delta [out, in], the exact sum. A [r, in] and B [out, r] (None for "delta"): B A is near delta, with s = 1.

    error: ||B A - delta|| / ||delta||, Frobenius norms; 0 for "delta".
    """

    delta: Tensor
    A: Tensor | None
    B: Tensor | None
    error: float


class AveragedFactors(NamedTuple):
    """The wrong way. A [r, in], B [out, r]: averages; delta = B A [out, in], which is diagonal + cross.

    diagonal: sum_i of each adapter with its own factors. cross: those of B_i with A_j, i != j. error: of delta against
    the right sum, as in MergedLoRA.
    """

    A: Tensor
    B: Tensor
    delta: Tensor
    diagonal: Tensor
    cross: Tensor
    error: float


@torch.no_grad()
def merge_lora(
    adapters: Sequence[Factors], weights: Sequence[float] | None = None, how: str = "delta", rank: int | None = None
) -> MergedLoRA:
    """One change of the weights in place of several.

    adapters: of one layer; ranks may differ. weights: w_i, any finite numbers (None: 1/n each). how: see above.
    rank: of "svd" only, 1 to min(in, out) (None: the largest of the adapters' ranks).
    Raises ValueError for no adapters, shapes that differ, numbers that are not finite, and a rank that cannot be.
    """
    adapters, weights = _checked(adapters, weights)
    checks.choice("how", how, FORMS)
    if rank is not None and how != "svd":
        raise ValueError(f'rank must be None unless how is "svd", got {rank!r} with {how!r}')
    # delta W = sum_i w_i s_i B_i A_i
    delta = sum(w * s * (B @ A) for w, (A, B, s) in zip(weights, adapters, strict=True))
    checks.floats("the merged change", delta)
    if how == "delta":
        return MergedLoRA(delta, None, None, 0.0)
    if how == "cat":
        # A = [A_1; A_2; ...],  B = [w_1 s_1 B_1, w_2 s_2 B_2, ...]
        A = torch.cat([adapter.A for adapter in adapters])
        B = torch.cat([w * s * B for w, (_, B, s) in zip(weights, adapters, strict=True)], dim=1)
    else:
        rank = min(*delta.shape, max(len(adapter.A) for adapter in adapters)) if rank is None else rank
        A, B = _truncated(delta, checks.integer("rank", rank, 1, min(delta.shape)))
    return MergedLoRA(delta, A, B, relative_error(B @ A, delta))


@torch.no_grad()
def average_factors(
    adapters: Sequence[Factors], weights: Sequence[float] | None = None, root: bool = False
) -> AveragedFactors:
    """The average of the factors, which is wrong, taken apart; see `merge_lora` for the right way and the arguments.

    All adapters need the same rank. root: weigh both factors with sqrt(|w_i s_i|), as peft's "linear" does. The
    diagonal terms are right then, and the cross terms remain.
    """
    adapters, weights = _checked(adapters, weights)
    checks.flag("root", root)
    if len({len(adapter.A) for adapter in adapters}) > 1:
        raise ValueError(f"adapters must have the same rank here, got {[len(adapter.A) for adapter in adapters]}")
    if root:
        sizes = [abs(w * s) ** 0.5 for w, (_, _, s) in zip(weights, adapters, strict=True)]
        signs = [1 if w * s >= 0 else -1 for w, (_, _, s) in zip(weights, adapters, strict=True)]
        As = [sign * size * A for sign, size, (A, _, _) in zip(signs, sizes, adapters, strict=True)]
        Bs = [size * B for size, (_, B, _) in zip(sizes, adapters, strict=True)]
    else:
        As = [w * A for w, (A, _, _) in zip(weights, adapters, strict=True)]
        Bs = [w * s * B for w, (_, B, s) in zip(weights, adapters, strict=True)]
    A, B = sum(As), sum(Bs)
    # B A = sum_i B_i A_i + sum_{i != j} B_i A_j, each factor with its weight
    delta = checks.floats("the averaged change", B @ A)
    diagonal = sum(B_i @ A_i for A_i, B_i in zip(As, Bs, strict=True))
    right = merge_lora(adapters, weights).delta
    return AveragedFactors(A, B, delta, diagonal, delta - diagonal, relative_error(delta, right))


def relative_error(approximate: Tensor, exact: Tensor) -> float:
    """||approximate - exact|| / ||exact|| in Frobenius norms; 0 when both are zero, infinite when only `exact` is."""
    off, size = (approximate - exact).double().norm().item(), exact.double().norm().item()
    if size == 0:
        return 0.0 if off == 0 else float("inf")
    return off / size


def _truncated(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank], whose product is the nearest of that rank to delta [out, in]."""
    wide = delta.float() if delta.dtype in (torch.float16, torch.bfloat16) else delta
    # delta = U diag(sigma) V^T, cut after the largest `rank` singular values
    U, sigma, Vt = torch.linalg.svd(wide, full_matrices=False)
    root = sigma[:rank].sqrt()
    # B = U diag(sqrt(sigma)),  A = diag(sqrt(sigma)) V^T
    return (root[:, None] * Vt[:rank]).to(delta.dtype), (U[:, :rank] * root).to(delta.dtype)


def _checked(adapters, weights) -> tuple[list[Factors], list[float]]:
    """The adapters as Factors and the weights as floats, all of which fit together."""
    if not isinstance(adapters, Sequence) or isinstance(adapters, Factors | str):
        raise TypeError(f"adapters must be a list of Factors, got {type(adapters).__name__}")
    if not adapters:
        raise ValueError("adapters must hold at least one, got an empty list")
    if not all(isinstance(adapter, Factors) for adapter in adapters):
        raise TypeError(f"adapters must hold Factors, got {[type(adapter).__name__ for adapter in adapters]}")
    adapters = [check_factors(f"adapters[{i}]", adapter) for i, adapter in enumerate(adapters)]
    first = adapters[0]
    for i, (A, B, _) in enumerate(adapters):
        if (len(B), A.shape[1]) != (len(first.B), first.A.shape[1]):
            raise ValueError(
                f"adapters must be of one layer: adapters[{i}] changes a weight {(len(B), A.shape[1])}, adapters[0] "
                f"one of {(len(first.B), first.A.shape[1])}"
            )
        if A.dtype != first.A.dtype or A.device != first.A.device:
            raise ValueError(
                f"adapters must be alike: adapters[{i}] is {A.dtype} on {A.device}, adapters[0] {first.A.dtype} on "
                f"{first.A.device}"
            )
    if weights is None:
        return adapters, [1 / len(adapters)] * len(adapters)
    weights = [checks.number("each of weights", w, -float("inf")) for w in checks.real_numbers("weights", weights)]
    if len(weights) != len(adapters):
        raise ValueError(f"weights must be one per adapter: {len(adapters)} adapters, got {len(weights)}")
    return adapters, weights


def check_factors(name: str, factors: Factors) -> Factors:
    """`factors`, detached, if A [r, in], B [out, r] and s fit together and are finite; r is at least 1."""
    A, B = (checks.floats(f"{name}.{part}", value, ndim=2).detach() for part, value in zip("AB", factors, strict=False))
    s = checks.number(f"{name}.s", factors.s, -float("inf"))
    if B.shape[1] != len(A):
        raise ValueError(f"{name} must have B [out, r] and A [r, in], got {tuple(B.shape)} and {tuple(A.shape)}")
    if B.dtype != A.dtype or B.device != A.device:
        raise ValueError(f"{name} must be alike: A is {A.dtype} on {A.device}, B {B.dtype} on {B.device}")
    return Factors(A, B, s)
