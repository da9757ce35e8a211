"""Three traces of low rank: a change of the weights rank by rank, a merge of adapters, an overlap in training.

    lowrank_trace   delta W ~ B A, from rank 0 to full rank, with what is left over
    merging_trace   several ways to make one change of two or three adapters, each a table of weights for all B_i A_j
    overlap_trace   O = A_1 A_2^T while the second adapter trains, for one or more runs side by side

The numbers come from `cllab.isolation`; the picture only adds up rank-one terms, and paints.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation import Factors, average_factors, merge_lora, overlap
from cllab.player.schema import VERSION, round_trace

LARGEST = 128  # rows and columns that are drawn
MOST_ADAPTERS, MOST_RUNS, MOST_STEPS = 3, 3, 200
DIGITS = 6
WAYS = {
    "adapters": "nothing merged yet",
    "delta": "sum of the changes",
    "average": "average of the factors",
    "root": "factors with √w",
    "cat": "factors side by side",
    "svd": "best of its rank",
}
"""The phases of a merging trace, and what the player calls them."""


def lowrank_trace(
    delta: Tensor,
    scores: Mapping[str, Sequence[float]] | None = None,
    *,
    names: Sequence[str] = ("row", "column"),
    title: str = "",
    alt: str = "",
) -> dict:
    """A trace of kind "lowrank" with one step per rank r = 0, 1, ..., min(out, in): the best B A of that rank.

    delta: a change of weights [out, in], up to 128 a side, not all 0. scores: {name: one number in [0, 1] per rank},
    drawn beside the error, for instance the accuracy of a network with W + B A on each task, the first task first, so
    that each has its colour. names: what a row and a column are.
    Raises ValueError or TypeError naming the argument.
    """
    delta = _matrix("delta", delta)
    if float(delta.norm()) == 0:
        raise ValueError("delta must not be all 0: there is nothing to approximate")
    (d_out, d_in), whole = delta.shape, min(delta.shape)
    exact = Factors(torch.eye(d_in, dtype=delta.dtype), delta)
    best = [merge_lora([exact], [1.0], "svd", rank=r) for r in range(1, whole + 1)]
    errors = [1.0, *(found.error for found in best)]
    sigma = torch.linalg.svdvals(delta)
    lines = [{"name": "relative error", "values": errors, "colour": 6,
              "about": "‖ΔW − B A‖ / ‖ΔW‖ = √(Σ of the σ² left out / Σ of all σ²), Frobenius norms"}]  # fmt: skip
    for i, (name, values) in enumerate((scores or {}).items()):
        if len(values) != whole + 1:
            raise ValueError(f"scores[{name!r}] must hold one number per rank 0 to {whole}, got {len(values)}")
        values = [checks.number(f"each of scores[{name!r}]", value, 0.0, 1.0) for value in values]
        lines.append({"name": name, "values": values, "colour": i % 4})
    steps = []
    for r, error in enumerate(errors):
        told = "".join(f", {line['name']} {line['values'][r]:.3f}" for line in lines[1:])
        # r (d_in + d_out) numbers in place of d_in d_out
        parameters = r * (d_in + d_out)
        text = f"Rank {r}: {parameters:,} numbers in place of {d_in * d_out:,}, relative error {error:.3f}{told}."
        steps.append({"rank": r, "parameters": parameters, "error": error, "text": text})
    return round_trace({
        "v": VERSION, "kind": "lowrank", "shows": "rank", "title": title, "ms": max(120, 6000 // whole),
        "alt": alt or f"A {d_out} x {d_in} change of weights, its best match of rank 0 to {whole}, and the rest.",
        "names": list(names), "delta": delta, "A": best[-1].A, "B": best[-1].B, "sigma": sigma, "lines": lines,
        "steps": steps,
    }, DIGITS)  # fmt: skip


def merging_trace(
    adapters: Mapping[str, Factors],
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    score: Callable[[Tensor], Mapping[str, float]] | None = None,
    *,
    title: str = "",
    alt: str = "",
) -> dict:
    """A trace of kind "lowrank" with one step per way to merge: see `merge_lora` and `average_factors`.

    adapters: {name: factors}, two or three of one layer and one rank, up to 128 a side. weights: w_i (None: 1/n each).
    rank: of the last step, the SVD (None: the adapters'). score: called with each result [out, in], gives numbers to
    show with it, for instance accuracies. Raises ValueError or TypeError naming the argument.
    """
    if not 2 <= len(adapters) <= MOST_ADAPTERS:
        raise ValueError(f"adapters must be 2 to {MOST_ADAPTERS}, got {len(adapters)}")
    parts = list(adapters.values())
    averaged, rooted = average_factors(parts, weights), average_factors(parts, weights, root=True)
    sums = {how: merge_lora(parts, weights, how, rank if how == "svd" else None) for how in ("delta", "cat", "svd")}
    n, right = len(parts), _matrix("the merged change", sums["delta"].delta)
    weights = [1 / n] * n if weights is None else [float(w) for w in weights]
    scaled = [w * part.s for w, part in zip(weights, parts, strict=True)]
    own = torch.diag(torch.tensor(scaled, dtype=torch.float64))
    w = torch.tensor(weights, dtype=torch.float64)
    root, sign = own.diagonal().abs().sqrt(), torch.where(own.diagonal() < 0, -1.0, 1.0)
    r = len(parts[0].A)
    found = {
        "adapters": (torch.eye(n), None, None, None, r),
        "delta": (own, right, 0.0, None, None),
        "average": (own.diagonal()[:, None] * w, averaged.delta, averaged.error, averaged.cross, r),
        "root": (root[:, None] * (sign * root), rooted.delta, rooted.error, rooted.cross, r),
        "cat": (own, sums["cat"].B @ sums["cat"].A, sums["cat"].error, None, n * r),
        "svd": (own, sums["svd"].B @ sums["svd"].A, sums["svd"].error, None, len(sums["svd"].A)),
    }
    steps = []
    for phase, (table, result, error, cross, own_rank) in found.items():
        norm = None if result is None else float(result.double().norm())
        size = 0.0 if cross is None else float(cross.double().norm())
        scores = {} if score is None or result is None else dict(score(result))
        steps.append({
            "phase": phase, "name": WAYS[phase], "weights": table, "cut": result if phase == "svd" else None,
            "rank": own_rank, "error": error, "norm": norm, "cross": size, "scores": scores,
            "text": _merged(phase, error, norm, size, own_rank, r),
        })  # fmt: skip
    cells = [[one.B @ other.A for other in parts] for one in parts]
    told = [{"name": name, "A": p.A, "B": p.B, "s": p.s, "weight": w_i}
            for (name, p), w_i in zip(adapters.items(), weights, strict=True)]  # fmt: skip
    return round_trace({
        "v": VERSION, "kind": "lowrank", "shows": "merge", "title": title, "ms": 2600,
        "alt": alt or f"The products B_i A_j of {n} adapters, and their sum under {len(steps) - 1} ways to merge.",
        "adapters": told, "cells": cells, "steps": steps,
    }, DIGITS)  # fmt: skip


def overlap_trace(
    at: Sequence[int],
    runs: Mapping[str, tuple[Tensor, Sequence[Tensor]]],
    scores: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    *,
    x_label: str = "training step",
    title: str = "",
    alt: str = "",
) -> dict:
    """A trace of kind "lowrank" with one step per moment of training: O = A_1 A_2^T and its absolute sum.

    at: the training steps shown, increasing. runs: {name: (A_1 [r_1, in], [A_2 [r, in] at each of them])}, one to
    three. scores: {what: {run: one number per step}}, a chart for each. Raises ValueError or TypeError naming the
    argument.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise ValueError(f"runs must be 1 to {MOST_RUNS}, got {len(runs)}")
    if not 1 <= len(at) <= MOST_STEPS or list(at) != sorted(set(at)):
        raise ValueError(f"at must be 1 to {MOST_STEPS} increasing steps, got {len(at)}")
    for name, (past, news) in runs.items():
        _matrix(f"A_1 of run {name!r}", past)
        if len(news) != len(at):
            raise ValueError(f"run {name!r} must have an A_2 for each of {len(at)} steps, got {len(news)}")
    sums = {name: [overlap(past, new).item() for new in news] for name, (past, news) in runs.items()}
    charts = [_chart("overlap Σ |O|", sums, at)]
    charts += [_chart(what, values, at) for what, values in (scores or {}).items()]
    steps = []
    for t, x in enumerate(at):
        now = [{"new": round_trace(news[t], 4), "O": round_trace(past @ news[t].T, 4), "overlap": sums[name][t]}
               for name, (past, news) in runs.items()]  # fmt: skip
        told = "; ".join(f"{name}: Σ |O| = {round(sums[name][t], 6):.4g}" for name in runs)
        steps.append({"x": x, "runs": now, "text": f"{x_label.capitalize()} {x}. {told}."})
    return round_trace({
        "v": VERSION, "kind": "lowrank", "shows": "overlap", "title": title, "ms": max(150, 7000 // len(at)),
        "alt": alt or f"The overlap of two adapters' input rows over {len(at)} moments, for {', '.join(runs)}.",
        "runs": [{"name": name, "past": past} for name, (past, _) in runs.items()],
        "charts": charts, "x_label": x_label, "steps": steps,
    }, DIGITS)  # fmt: skip


def _chart(what: str, values: Mapping[str, Sequence[float]], at: Sequence[int]) -> dict:
    lines = []
    for i, (name, line) in enumerate(values.items()):
        if len(line) != len(at):
            raise ValueError(f"scores[{what!r}][{name!r}] must hold {len(at)} numbers, got {len(line)}")
        lines.append({"name": name, "values": list(line), "colour": (4, 0, 2)[i % 3], "dash": i})
    return {"y_label": what, "lines": lines}


def _matrix(name: str, value: Tensor) -> Tensor:
    checks.floats(name, value, ndim=2)
    if max(value.shape) > LARGEST:
        raise ValueError(f"{name} must have up to {LARGEST} rows and columns, got {tuple(value.shape)}")
    return value.detach().double().cpu()


def _merged(phase: str, error: float | None, norm: float | None, cross: float, rank: int | None, r: int) -> str:
    """The sentence of a step."""
    if phase == "adapters":
        return (
            "Rows are B₁, B₂, columns A₁, A₂, and a cell is the product B_i A_j. The framed diagonal is what the "
            "adapters have learned; the cells off it nobody has trained."
        )
    off = f"relative error {error:.6g}" if error > 1e-6 else "relative error 0"
    off = "no relative error, since the right sum is 0" if error == float("inf") else off
    return {
        "delta": f"Right: ΔW = Σ wᵢ sᵢ Bᵢ Aᵢ adds the diagonal with its weights. Its Frobenius norm (√ of the "
        f"sum of squares) is {norm:.5g}.",
        "average": f"Wrong: (Σ wᵢ sᵢ Bᵢ)(Σ wⱼ Aⱼ) takes every cell. The diagonal gets wᵢ² where wᵢ belongs, "
        f"cross terms of norm {cross:.4g} come in; norm {norm:.5g}, {off}.",
        "root": f"Half right: with √w on both factors the diagonal has its weights. Cross terms of norm {cross:.4g} "
        f"remain; norm {norm:.5g}, {off}.",
        "cat": f"Right: factors side by side, [w₁s₁B₁, w₂s₂B₂, …] and [A₁; A₂; …]. Rank {rank} instead of {r}, {off}.",
        "svd": f"The right sum cut to rank {rank}: nothing of that rank comes nearer. {off.capitalize()}.",
    }[phase]
