"""Metrics of continual learning: pure functions of the accuracy matrix R.

After training on task i, test on every task j and store the fraction of right answers (0 to 1, not percent):

    R[i, j]   accuracy on task j after training on task i;  [T, T], NaN where it was not evaluated
    b[j]      accuracy on task j of the model before any training;  [T]
    T         number of tasks; the formulas count tasks from 1, indices and messages count from 0

The diagonal is what was learned, below it is what was kept, above it is zero-shot transfer to tasks not yet
seen.

The same word means different formulas in different papers and libraries. For the matrix of lesson 02
"forgetting" is 0.075 here (Chaudhry et al. 2018), 0.10 where the maximum includes the last row, 0.025 where
it is minus the backward transfer, 0.067 where it is averaged over all T tasks: read the formula before
comparing two numbers.

Every function takes nested lists, NumPy arrays or torch tensors and leaves them unchanged. Each asks only
for the cells that its formula needs. ValueError: a needed cell that is NaN (the message names it), a value
outside [0, 1], a matrix that is not square, a wrong length, nothing at all. TypeError: anything but real
numbers (strings, None, booleans).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from cllab import checks


def average_accuracy(R: ArrayLike, *, test_sizes: Sequence[int] | None = None) -> float:
    """ACC, mean accuracy over all tasks at the end: (1/T) sum_j R[T, j], in [0, 1]. Needs the last row.

    `test_sizes` [T] (test samples per task) gives the accuracy over the pooled test sets instead: what
    papers on class-incremental learning call accuracy over all classes. The two are equal when all test
    sets are. Source: Lopez-Paz & Ranzato 2017 (GEM), section 2.
    """
    R = _matrix(R)
    T = len(R)
    _need(R, [(T - 1, j) for j in range(T)])
    if test_sizes is None:
        # ACC = (1/T) sum_j R[T, j]
        return float(R[-1].mean())
    n = checks.real_numbers("test_sizes", test_sizes)
    if n.shape != (T,) or not (np.isfinite(n) & (n > 0)).all():
        raise ValueError(f"test_sizes must hold {T} positive counts, one per task, got {test_sizes!r}")
    # accuracy over the pooled test sets = sum_j n_j R[T, j] / sum_j n_j
    return float(n @ R[-1] / n.sum())


def incremental_accuracies(R: ArrayLike) -> np.ndarray:
    """A_1 .. A_T [T], mean accuracy over the tasks seen so far. Needs the diagonal and all cells below it.

    Source: evaluation of Rebuffi et al. 2017 (iCaRL).
    """
    R = _matrix(R)
    _need(R, [(i, j) for i in range(len(R)) for j in range(i + 1)])
    # A_k = (1/k) sum_{j<=k} R[k, j]
    return np.array([R[k, : k + 1].mean() for k in range(len(R))])


def average_incremental_accuracy(R: ArrayLike) -> float:
    """AIA, mean accuracy on seen tasks over all stages: (1/T) sum_k A_k, A_k = (1/k) sum_{j<=k} R[k, j].

    In [0, 1]. Needs the diagonal and all cells below it. Source: Rebuffi et al. 2017 (iCaRL).
    """
    # AIA = (1/T) sum_k A_k
    return float(incremental_accuracies(R).mean())


def plasticity(R: ArrayLike) -> float:
    """Mean accuracy on each task right after learning it: (1/T) sum_j R[j, j], in [0, 1]. Needs the diagonal.

    It splits ACC into what was learned and what was lost: ACC = plasticity + (T-1)/T BWT.
    """
    R = _matrix(R)
    _need(R, [(j, j) for j in range(len(R))])
    # (1/T) sum_j R[j, j]
    return float(np.diag(R).mean())


def backward_transfer(R: ArrayLike) -> float:
    """BWT, what later tasks did to earlier ones: (1/(T-1)) sum_{j<T} (R[T, j] - R[j, j]), in [-1, 1].

    Negative is forgetting. The divisor is T-1; the paper's own code divides by T, which counts the last task
    as 0. Needs the last row, the diagonal and T > 1. Source: Lopez-Paz & Ranzato 2017 (GEM), section 2.
    """
    R = _matrix(R, least=2, metric="backward transfer")
    T = len(R)
    _need(R, [cell for j in range(T - 1) for cell in ((j, j), (T - 1, j))])
    # BWT = (1/(T-1)) sum_{j<T} (R[T, j] - R[j, j])
    return float((R[-1] - np.diag(R))[:-1].mean())


def forward_transfer(R: ArrayLike, baseline: ArrayLike) -> float:
    """FWT, what earlier tasks gave to the next one: (1/(T-1)) sum_{j>=2} (R[j-1, j] - b[j]), in [-1, 1].

    `baseline` [T] is b; without it, guessing right by chance would count as transfer.
    Needs the cells just above the diagonal, b from the second task on, and T > 1.
    Source: Lopez-Paz & Ranzato 2017 (GEM), section 2.
    """
    R = _matrix(R, least=2, metric="forward transfer")
    b = _vector("baseline", baseline, len(R), first_needed=1)
    _need(R, [(j - 1, j) for j in range(1, len(R))])
    # FWT = (1/(T-1)) sum_{j>=2} (R[j-1, j] - b[j])
    return float((np.diag(R, k=1) - b[1:]).mean())


def forgetting_per_task(R: ArrayLike, after: int | None = None) -> np.ndarray:
    """f_1 .. f_{k-1} [k-1]: the best accuracy that task j had in rows 1 .. k-1, minus what it has in row k.

    `after` is k, 2 to T (None: T). Negative where the task is now better than ever. Cells above the
    diagonal (task j before it was trained) count where they were evaluated, as in the paper, and are
    skipped where they are NaN. Needs rows 1 .. k on and below the diagonal, but for R[k, k]; and T > 1.
    Source: Chaudhry et al. 2018 (RWalk).
    """
    R = _matrix(R, least=2, metric="forgetting")
    k = len(R) if after is None else checks.integer("after", after, 2, len(R))
    _need(R, [(i, j) for j in range(k - 1) for i in range(j, k)])
    # f_j = max_{l<k} R[l, j] - R[k, j]
    return np.nanmax(R[: k - 1, : k - 1], axis=0) - R[k - 1, : k - 1]


def forgetting(R: ArrayLike, after: int | None = None) -> float:
    """F_k, mean forgetting after k tasks: (1/(k-1)) sum_{j<k} (max_{l<k} R[l, j] - R[k, j]), in [-1, 1].

    `after` is k, 2 to T (None: T). The maximum leaves row k out, so F can be negative; F = -BWT when every
    task was at its best right after it was learned. Needs the cells that `forgetting_per_task` needs.
    Source: Chaudhry et al. 2018 (RWalk).
    """
    # F_k = (1/(k-1)) sum_{j<k} f_j
    return float(forgetting_per_task(R, after).mean())


def intransigence_per_task(R: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """I_1 .. I_T [T], what learning in sequence cost each new task: a*_k - R[k, k]. Negative is a gain.

    `reference` [T] is a*, accuracy on task k of a model trained jointly on tasks 1 .. k. Needs the diagonal.
    Source: Chaudhry et al. 2018 (RWalk).
    """
    R = _matrix(R)
    a_star = _vector("reference", reference, len(R))
    _need(R, [(k, k) for k in range(len(R))])
    # I_k = a*_k - R[k, k]
    return a_star - np.diag(R)


def intransigence(R: ArrayLike, reference: ArrayLike) -> float:
    """Mean intransigence, (1/T) sum_k (a*_k - R[k, k]) in [-1, 1]: the mean of `intransigence_per_task`."""
    # (1/T) sum_k I_k
    return float(intransigence_per_task(R, reference).mean())


def relative_forgetting(
    before: ArrayLike | Mapping[str, float], after: ArrayLike | Mapping[str, float], *, zero: str = "raise"
) -> float | np.ndarray | dict[str, float]:
    """Share of an accuracy that was lost, (before - after) / before: 0.9 to 0.6 is a third (30 points).

    Two numbers give a number, two sequences an array [T], two dicts name -> accuracy a dict with the same
    names. Negative where accuracy rose. ValueError where before is 0 and the rate undefined (`zero="nan"`
    gives NaN there), for unequal lengths, and for a name that only one dict has. Common in practice, from
    no standard paper.
    """
    checks.choice("zero", zero, ("raise", "nan"))
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lonely = sorted(repr(name) for name in before.keys() ^ after.keys())
        if lonely:
            raise ValueError(f"before and after must name the same tasks, only one has {', '.join(lonely)}")
        was = [checks.number(f"before[{name!r}]", before[name], 0, 1) for name in before]
        now = [checks.number(f"after[{name!r}]", after[name], 0, 1) for name in before]
        return dict(zip(before, relative_forgetting(was, now, zero=zero).tolist(), strict=True))
    was, now = checks.fractions("before", before), checks.fractions("after", after)
    if was.shape != now.shape or was.ndim > 1 or was.size == 0:
        given = f"shapes {was.shape} and {now.shape}"
        raise ValueError(f"before and after must be two numbers or two vectors of one length, got {given}")
    if np.isnan(was).any() or np.isnan(now).any():
        raise ValueError(f"before and after must not be NaN, got {before!r} and {after!r}")
    if zero == "raise" and (was == 0).any():
        raise ValueError(f"before must not be 0, the rate is undefined there (or zero='nan'), got {was}")
    with np.errstate(invalid="ignore", divide="ignore"):
        # (before - after) / before
        rate = np.where(was == 0, np.nan, (was - now) / was)
    return rate if rate.ndim else float(rate)


def learning_curve_area(curves: ArrayLike) -> float:
    """LCA, how fast tasks are learned: (1/(beta+1)) sum_b Z_b with Z_b = (1/T) sum_k a[k, b], in [0, 1].

    `curves` [T, beta+1] is a: accuracy on task k after b mini-batches of it, from b = 0 (before the first)
    to beta, the number of points minus 1. One point per curve gives LCA_0, zero-shot accuracy. Needs every
    entry. Source: Chaudhry et al. 2019 (A-GEM).
    """
    a = checks.fractions("curves", curves)
    if a.ndim != 2 or a.size == 0:
        raise ValueError(f"curves must have shape [T, beta+1], one curve per task, got shape {a.shape}")
    for k, b in np.argwhere(np.isnan(a)):
        raise ValueError(f"curves[{k}, {b}] is missing (NaN): accuracy on task {k} after {b} mini-batches")
    # Z_b = (1/T) sum_k a[k, b]
    Z = a.mean(axis=0)
    # LCA_beta = (1/(beta+1)) sum_b Z_b
    return float(Z.mean())


def anytime_accuracy(accuracies: ArrayLike) -> float:
    """A_AUC, area under the accuracy curve of an online stream: (1/n) sum_i a_i, in [0, 1].

    `accuracies` [n]: accuracy over the classes seen so far at n evenly spaced moments, all needed.
    Source: Koh et al. 2022 (i-Blurry).
    """
    a = _vector("accuracies", accuracies)
    # A_AUC = (1/n) sum_i a_i
    return float(a.mean())


def across_seeds(values: ArrayLike) -> tuple[float, float, int]:
    """(mean, sample standard deviation, n) of one metric over n > 1 seeds; `values` [n], finite, of any sign.

    ValueError for a single seed: one run has no spread, and a mean without its spread says little.
    """
    v = checks.real_numbers("values", values)
    if v.ndim != 1 or len(v) < 2 or not np.isfinite(v).all():
        raise ValueError(f"values must be a vector of finite numbers from at least two seeds, got {values!r}")
    # s^2 = (1/(n-1)) sum_i (v_i - mean)^2
    return float(v.mean()), float(v.std(ddof=1)), len(v)


def _matrix(value: ArrayLike, least: int = 1, metric: str = "") -> np.ndarray:
    R = checks.fractions("R", value)
    if R.ndim != 2 or R.shape[0] != R.shape[1] or R.size == 0:
        raise ValueError(f"R must be square, one row and one column per task, got shape {R.shape}")
    if len(R) < least:
        raise ValueError(f"R must hold at least {least} tasks, got {len(R)}: {metric} is undefined there")
    return R


def _need(R: np.ndarray, cells: Iterable[tuple[int, int]]) -> None:
    for i, j in cells:
        if np.isnan(R[i, j]):
            raise ValueError(f"R[{i}, {j}] is missing (NaN): accuracy on task {j} after task {i}, from 0")


def _vector(name: str, value: ArrayLike, length: int | None = None, first_needed: int = 0) -> np.ndarray:
    vector = checks.fractions(name, value)
    if vector.ndim != 1 or vector.size == 0 or (length is not None and len(vector) != length):
        raise ValueError(f"{name} must have shape [{length or 'n'}], got shape {vector.shape}")
    for i in np.flatnonzero(np.isnan(vector)):
        if i >= first_needed:
            raise ValueError(f"{name}[{i}] is missing (NaN)")
    return vector
