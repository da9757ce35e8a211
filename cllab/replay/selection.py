"""Selection: which m of N samples a memory should keep.

    random         m rows drawn without replacement: hard to beat, and the yardstick for the others
    herding        the mean of what is kept follows the mean of all (`cllab.replay.herding`)
    loss           the rows with the largest loss ("hard first") or the smallest
    gradient_norm  the same by the length of the gradient that a row sends into the last layer
    k_means        the real row nearest to each of m cluster centres
    k_center       no row is far from a chosen one (`cllab.replay.k_center`)
    diversity      every row points away from those before it (`cllab.replay.diversity`)

Gradient norm. With logits z = W x + b, p = softmax(z) and cross-entropy, the gradient of row (x, y) is
dL/dW = (p - onehot(y)) x^T and dL/db = p - onehot(y), so that no backward pass is needed:

    || (dL/dW, dL/db) || = || p - onehot(y) || * sqrt(1 + || x ||^2)

Symbols: x [D] what the last layer reads, z [C], p [C]. Hard-first collects label noise, since a wrong label is
what a good model finds hardest; `per_class` bounds the damage. Sources: Lloyd 1982 and Arthur & Vassilvitskii 2007
(k-means++) as in scikit-learn; Katharopoulos & Fleuret 2018, who bound a network's gradient norm by the last layer's.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab import checks
from cllab.device import given_generator
from cllab.replay.diversity import diversity_steps
from cllab.replay.herding import herding
from cllab.replay.k_center import distances_to, k_center_steps, smallest

STRATEGIES = ("random", "herding", "loss", "gradient_norm", "k_means", "k_center", "diversity")


def select(
    strategy: str,
    features: Tensor,
    m: int,
    *,
    labels: Tensor | None = None,
    losses: Tensor | None = None,
    logits: Tensor | None = None,
    generator: torch.Generator | None = None,
    ties: str = "first",
    hardest: bool = True,
    per_class: int | None = None,
) -> Tensor:
    """Indices of m different rows of `features`, [m] int64 on their device, in the order in which they were chosen.

    strategy   one of STRATEGIES; "loss" needs `losses`, "gradient_norm" needs `logits` and `labels`. Tensors that a
               strategy does not need are ignored
    features   [N, D] floating point, finite: the candidates, usually of one class
    m          how many rows to choose, 1 to N
    labels     [N] int64. losses: [N] floating point, finite. logits: [N, C] of the layer that reads the features
    generator  CPU torch.Generator for "random" and "k_means", default `cllab.device.generator(0)`
    ties       "first" takes the lowest row index among exactly equal rows, "last" the highest
    hardest    "loss" and "gradient_norm": the largest first, or (False) the smallest
    per_class  the same two: at most so many rows of one class; needs `labels`

    Raises ValueError or TypeError naming the argument. All but "random" and "k_means" are lists by priority: the first
    k rows are what choosing k would have given. "k_center" and "diversity" start with row 0.
    """
    checks.choice("strategy", strategy, STRATEGIES)
    checks.floats("features", features, ndim=2)
    checks.integer("m", m, 1, len(features))
    checks.choice("ties", ties, ("first", "last"))
    by_score = strategy in ("loss", "gradient_norm")
    if not checks.flag("hardest", hardest) and not by_score:
        raise ValueError(f"hardest must be left out for strategy {strategy!r}: it is for 'loss' and 'gradient_norm'")
    if per_class is not None and not by_score:
        raise ValueError(f"per_class must be left out for strategy {strategy!r}: it is for 'loss' and 'gradient_norm'")
    if by_score:
        scores = _scores(strategy, features, labels, losses, logits)
        return _extreme(scores, m, ties, hardest, labels, per_class)
    if strategy == "herding":
        return herding(features, m, ties)
    if strategy in ("k_center", "diversity"):
        steps = {"k_center": k_center_steps, "diversity": diversity_steps}[strategy](features, m, ties)
        return torch.tensor([step.chosen for step in steps], device=features.device)
    source = given_generator(generator)
    if strategy == "random":
        return torch.randperm(len(features), generator=source)[:m].to(features.device)
    return _k_means(features.detach(), m, ties, source)


def gradient_norms(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Norm of each row's cross-entropy gradient in the weights and bias of the last layer, [N].

    features: [N, D], what that layer reads. logits: [N, C], what it answers. labels: [N] int64 below C.
    All finite; computed in float64 and returned in the features' dtype, ValueError if the norm overflows that.
    """
    checks.floats("features", features, ndim=2)
    checks.floats("logits", logits, ndim=2)
    checks.labels("labels", labels, n=len(features), n_classes=logits.shape[1])
    if len(logits) != len(features):
        raise ValueError(f"logits must have one row per row of features: {len(features)}, got {len(logits)}")
    x = features.detach().double()
    # p - onehot(y)
    errors = logits.detach().double().softmax(dim=1) - F.one_hot(labels, logits.shape[1])
    # || p - onehot(y) || * sqrt(1 + || x ||^2)
    norms = errors.norm(dim=1) * (1 + x.square().sum(dim=1)).sqrt()
    norms = norms.to(features.dtype)
    if not bool(torch.isfinite(norms).all()):
        raise ValueError(f"features must be smaller: the norm of a gradient overflows {features.dtype}")
    return norms


def _scores(strategy: str, features: Tensor, labels, losses, logits) -> Tensor:
    """What "loss" and "gradient_norm" sort by, [N]."""
    if strategy == "gradient_norm":
        for name, value in (("logits", logits), ("labels", labels)):
            if value is None:
                raise ValueError(f"{name} must be given for strategy 'gradient_norm'")
        return gradient_norms(features, logits, labels)
    if losses is None:
        raise ValueError("losses must be given for strategy 'loss'")
    checks.floats("losses", losses, ndim=1)
    if len(losses) != len(features):
        raise ValueError(f"losses must have one entry per row of features: {len(features)}, got {len(losses)}")
    return losses.detach()


def _extreme(scores: Tensor, m: int, ties: str, hardest: bool, labels: Tensor | None, per_class) -> Tensor:
    """The m rows with the largest (smallest) scores, at most `per_class` of them in one class."""
    rows = torch.arange(len(scores), device=scores.device)
    if ties == "last":
        rows = rows.flip(0)
    # stable: of equal scores the one that stands first in `rows` stays first
    order = rows[torch.sort(scores[rows], descending=hardest, stable=True).indices]
    if per_class is None:
        return order[:m]
    checks.integer("per_class", per_class, 1)
    if labels is None:
        raise ValueError("labels must be given with per_class")
    ordered = checks.labels("labels", labels, n=len(scores))[order]
    keep = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    for y in ordered.unique():
        keep[(ordered == y).nonzero().squeeze(1)[:per_class]] = True
    if int(keep.sum()) < m:
        raise ValueError(f"per_class must leave at least m = {m} rows, {per_class} leaves {int(keep.sum())}")
    return order[keep][:m]


def _k_means(features: Tensor, m: int, ties: str, source: torch.Generator) -> Tensor:
    """The row nearest to each centroid, or the next nearest where that one is taken."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    phi = features.to(torch.promote_types(features.dtype, torch.float32))
    seed = int(torch.randint(2**31, (), generator=source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than m: the rest are duplicates
        found = KMeans(m, n_init=1, random_state=seed).fit(phi.cpu().numpy())
    taken, chosen = torch.zeros(len(phi), dtype=torch.bool, device=phi.device), []
    for centroid in torch.from_numpy(found.cluster_centers_).to(phi):
        chosen.append(smallest(distances_to(phi, centroid), taken, ties))
        taken[chosen[-1]] = True
    return torch.tensor(chosen, device=features.device)
