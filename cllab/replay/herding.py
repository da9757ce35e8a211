"""Herding: an ordered list of exemplars whose mean follows the mean of their class.

Idea. A class with N samples may keep only m of them. Take them one by one, each time the sample that brings
the mean of what is kept closest to the mean of the whole class. The order is a priority: its first k rows
are what herding k rows would have chosen, so a memory that must shrink when a new class arrives drops the
tail of each list.

    mu   = (1/N) sum_i phi(x_i)                                      class mean, [D]
    p_k  = argmin_x || mu - (1/k) (phi(x) + sum_{j<k} phi(p_j)) ||   k-th exemplar, of rows not yet chosen
         = argmin_x || t_k - phi(x) ||                               the same, times k, with the target
    t_k  = k mu - sum_{j<k} phi(p_j)                                 what the k-th exemplar should be, [D]

    phi(x) features of a sample, [D]; N samples, m of them kept

Classification is by the nearest mean of exemplars: y(x) = argmin_y || phi(x) - mu_y ||.

The error || (1/k) sum_{j<=k} phi(p_j) - mu || is 0 at k = N, but it does not fall at every step.

Source: Rebuffi et al. 2017 (iCaRL), algorithms 1, 2, 4 and 5; Welling 2009 (herding). Departures: features
are used as given (iCaRL scales each to unit length first: `unit_rows` does); ties are broken by an explicit
rule; a row is chosen at most once, by its index, so two equal rows are two items. The authors' code
maximises <w, phi(x)> instead, which is the same rule for features of unit length only, and it may choose a
row twice.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks

ROUNDINGS = ("floor", "ceil")


class HerdingStep(NamedTuple):
    """One choice of herding: everything needed to draw it or to check it by hand.

    k          how many rows are chosen after this step, counted from 1
    target     [D] t_k, what the chosen row should be
    distances  [N] squared distance of every row to the target; inf for rows already chosen
    chosen     index of the row chosen now
    mean       [D] mean of the k rows chosen so far
    error      norm of that mean minus the class mean, in units of the features
    """

    k: int
    target: Tensor
    distances: Tensor
    chosen: int
    mean: Tensor
    error: float


def herding_steps(features: Tensor, m: int, ties: str = "first") -> Iterator[HerdingStep]:
    """The m choices of herding one by one; this iterator is the algorithm, `herding` only collects it.

    features  [N, D] floating point, finite: the samples of one class
    m         how many rows to choose, 1 to N; more than N raises (ask for min(m, N) if needed)
    ties      "first" takes the lowest row index among exactly equal squared distances, "last" the highest

    Arguments are checked at the call, with ValueError or TypeError naming the argument; a step raises
    ValueError if squared distances overflow, the call if they would all vanish. Each step takes O(N D) time
    and O(N) memory beside the features. The features are read at every step and not copied: do not change
    them before the last one.
    """
    squarable("features", features)
    checks.integer("m", m, 1, len(features))
    checks.choice("ties", ties, ("first", "last"))
    return _greedy(features.detach(), m, ties)


def herding(features: Tensor, m: int, ties: str = "first") -> Tensor:
    """Row indices of the m exemplars in herding order, [m] int64 on the features' device.

    Arguments and errors as `herding_steps`. Prefix property: herding(features, m)[:k] is herding(features,
    k), so truncation is slicing. With m = N it is a permutation of all rows.
    """
    chosen = [step.chosen for step in herding_steps(features, m, ties)]
    return torch.tensor(chosen, dtype=torch.int64, device=features.device)


def nearest_class_mean(features: Tensor, means: Tensor | Mapping[int, Tensor], normalise: bool = False) -> Tensor:
    """The class whose mean is nearest to each row: [N] int64; exactly equal distances go to the lowest class.

    features   [N, D] floating point, finite
    means      [C, D], row c is the mean of class c; or a dict class -> [D], for classes other than 0..C-1
    normalise  scale features and means to unit length first, as iCaRL does; ValueError for a row of norm 0

    ValueError too when all squared distances of a row overflow: nothing would be nearest.
    Source: Rebuffi et al. 2017 (iCaRL), algorithm 1, where the means are those of the exemplars.
    """
    distances = mean_distances(features, means, normalise)
    # y(x) = argmin_y || phi(x) - mu_y ||
    return _class_rows(means)[0].to(features.device)[distances.argmin(dim=1)]


def mean_distances(features: Tensor, means: Tensor | Mapping[int, Tensor], normalise: bool = False) -> Tensor:
    """|| phi(x) - mu_y || of every row to every mean, classes in rising order: [N, C].

    Arguments and errors as `nearest_class_mean`, which takes the smallest of each row.
    """
    checks.floats("features", features, ndim=2)
    checks.flag("normalise", normalise)
    mu = _class_rows(means)[1]
    if mu.shape[1] != features.shape[1]:
        raise ValueError(f"means must have {features.shape[1]} columns as features, got {tuple(mu.shape)}")
    dtype = torch.promote_types(_working(features.dtype), mu.dtype)
    phi, mu = features.detach().to(dtype), mu.detach().to(dtype)
    if normalise:
        phi, mu = unit_rows(phi, "features"), unit_rows(mu, "means")
    # || phi(x) - mu_y ||
    distances = _distances(phi, mu)
    if bool(torch.isinf(distances.amin(dim=1)).any()):
        raise ValueError(f"features and means must be smaller: their squared distances overflow {dtype}")
    return distances


def class_means(features: Tensor, labels: Tensor, normalise: bool = False) -> dict[int, Tensor]:
    """Mean feature vector of every class found in `labels`: {class: [D]}, classes in rising order.

    features [N, D] floating point, finite; labels [N] int64. Pass exemplars for the means that iCaRL
    classifies with. `normalise` scales every feature vector to unit length before averaging (ValueError for
    norm 0); the means are then shorter than 1, and `nearest_class_mean(..., normalise=True)` scales them
    again. Sums are taken in float64; ValueError if even those overflow.
    """
    checks.floats("features", features, ndim=2)
    checks.labels("labels", labels, n=len(features))
    phi = unit_rows(features) if checks.flag("normalise", normalise) else features
    # mu_y = (1/N_y) sum_{i: y_i = y} phi(x_i)
    means = {int(y): phi[labels == y].double().mean(dim=0) for y in labels.unique(sorted=True)}
    if not all(bool(torch.isfinite(mean).all()) for mean in means.values()):
        raise ValueError(f"features must be smaller: their sum overflows {torch.float64}")
    return {y: mean.to(phi.dtype) for y, mean in means.items()}


def quota(capacity: int, n_classes: int, rounding: str = "floor") -> int:
    """Exemplars per class, m = K / t rounded: K = `capacity` rows of memory, t = `n_classes` classes seen.

    rounding: "floor" never exceeds K and leaves up to t - 1 slots empty; "ceil" is what the authors' code does,
    and may exceed K by up to t - 1 rows (8 / 3 gives 3, so 9 rows). The paper says "up to rounding".
    ValueError when K < t, where a class could keep nothing. Source: Rebuffi et al. 2017 (iCaRL), algorithm 2.
    """
    checks.integer("n_classes", n_classes, 1)
    checks.integer("capacity", capacity, n_classes)
    checks.choice("rounding", rounding, ROUNDINGS)
    # m = K / t, down or up
    return capacity // n_classes if rounding == "floor" else -(-capacity // n_classes)


def unit_rows(features: Tensor, name: str = "features") -> Tensor:
    """`features` [N, D] with every row scaled to length 1; ValueError for a row of norm 0."""
    checks.floats(name, features, ndim=2)
    largest = features.detach().abs().amax(dim=1, keepdim=True)
    if bool((largest == 0).any()):
        raise ValueError(f"{name} must have no row of norm 0 to be normalised, got row {int(largest.argmin())}")
    rows = features / largest  # first, so that the squares in the norm neither overflow nor vanish
    return rows / rows.norm(dim=1, keepdim=True)


def squarable(name: str, features: Tensor) -> Tensor:
    """`features` [N, D] if finite and not so small that every squared distance would be rounded to 0."""
    checks.floats(name, features, ndim=2)
    dtype = _working(features.dtype)
    largest = max(abs(float(extreme)) for extreme in features.detach().aminmax())
    if 0 < largest < torch.finfo(dtype).tiny ** 0.5:
        raise ValueError(
            f"{name} must be larger: their squared distances vanish in {dtype}, the largest is {largest:g}"
        )
    return features


def _greedy(features: Tensor, m: int, ties: str) -> Iterator[HerdingStep]:
    phi = features.to(_working(features.dtype)).contiguous()
    # mu = (1/N) sum_i phi(x_i), in float64 block by block: exact sums without a copy of all features
    mu = sum(block.double().sum(dim=0) for block in phi.split(1024)) / len(phi)
    total = torch.zeros_like(mu)
    taken = torch.zeros(len(phi), dtype=torch.bool, device=phi.device)
    for k in range(1, m + 1):
        # t_k = k mu - sum_{j<k} phi(p_j)
        target = (k * mu - total).to(phi.dtype)
        # p_k = argmin_x || t_k - phi(x) ||^2 among rows not yet chosen
        distances = _distances(phi, target[None]).squeeze(1).square().masked_fill(taken, torch.inf)
        chosen = _smallest(distances, ties)
        taken[chosen] = True
        # sum_{j<=k} phi(p_j)
        total = total + phi[chosen].double()
        # error = || (1/k) sum_{j<=k} phi(p_j) - mu ||
        error = float((total / k - mu).norm())
        yield HerdingStep(k, target, distances, chosen, (total / k).to(phi.dtype), error)


def _smallest(distances: Tensor, ties: str) -> int:
    smallest = distances.min()
    if not bool(torch.isfinite(smallest)):
        raise ValueError(f"features must be smaller: their squared distances overflow {distances.dtype}")
    tied = (distances == smallest).nonzero().squeeze(1)
    return int(tied[0] if ties == "first" else tied[-1])


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    # By differences, without an [N, C, D] array of them: |a|^2 - 2ab + |b|^2 loses digits and exact ties.
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def _working(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _class_rows(means: Tensor | Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Class ids [C] in rising order and their means [C, D]."""
    if not isinstance(means, Mapping):
        checks.floats("means", means, ndim=2)
        return torch.arange(len(means)), means
    if not means:
        raise ValueError("means must hold at least one class, got an empty dict")
    classes = sorted(checks.integer("a class in means", y, 0) for y in means)
    rows = [checks.floats(f"means[{y}]", means[y], ndim=1) for y in classes]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"means must all have the same length, got {[len(row) for row in rows]}")
    return torch.tensor(classes), torch.stack(rows)
