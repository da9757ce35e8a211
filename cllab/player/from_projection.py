"""The trace of one projection in the plane: the cone of allowed directions, and three answers to where to step.

    in turn   project g on the rows one after the other: not the solution, each step may undo the one before
    A-GEM     project g on one row, the mean r of all
    GEM       u = argmin ||u - g||  subject to  G u >= 0

All vectors are gradients: the step that is taken is -lr u.
"""

import math

import torch
from torch import Tensor

from cllab import checks
from cllab.player.schema import VERSION, round_trace
from cllab.regularization import multipliers, project, project_on_one

MOST_ROWS = 3
LARGEST = 100.0  # of a coordinate
DIGITS = 6
TEXTS = {
    "cone": "Arrows are gradients, and the step goes along −u. No old loss rises, to first order, as long as u makes "
    "no obtuse angle with any row of G: that is the shaded cone. Drag the heads of the arrows.",
    "turn": "One row after the other: each projection puts one row right and may undo what the one before did.",
    "agem": "A-GEM sees one row only, the mean r of all. Rows that disagree with the mean may still be violated.",
    "gem": "GEM takes the point of the cone that is nearest to g. It adds v times the rows to g, and only rows that "
    "bind get more than 0.",
}
WITH_MARGIN = (
    "With a margin γ, and where any row objects, GEM adds γ of every row to g and takes the point of the cone nearest "
    "to that. v says how much of each row is added in all; only rows that bind get more than γ."
)


def projection_trace(
    gradient: Tensor,
    constraints: Tensor,
    *,
    margin: float = 0.0,
    ridge: float = 0.0,
    title: str = "Gradient projection",
    alt: str = "",
) -> dict:
    """A trace of kind "projection" with four steps: the cone, in turn, A-GEM, GEM.

    gradient: g, finite floats [2]. constraints: G [t, 2], one to three rows. margin: gamma >= 0, for GEM.
    ridge: what the authors' code adds to the diagonal of G G^T (1e-3 there), for GEM.
    Coordinates up to 100. Raises ValueError or TypeError naming the argument.
    """
    g, G = vectors(gradient, constraints)
    margin = checks.number("margin", margin, 0.0, LARGEST)
    ridge = checks.number("ridge", ridge, 0.0, LARGEST)
    found = answers(g, G, margin, ridge)
    texts = {**TEXTS, "gem": WITH_MARGIN} if margin else TEXTS
    told = "; ".join(f"{name} {_point(found[key]['u'])}" for key, name in NAMES.items())
    return round_trace({
        "v": VERSION, "kind": "projection", "title": title, "ms": 3000,
        "alt": alt or f"g = {_point(g)} and {len(G)} rows {', '.join(map(_point, G))} in the plane. {told}.",
        "gradient": g, "constraints": G, "margin": margin, "ridge": ridge, **found,
        "steps": [{"phase": phase, "text": text} for phase, text in texts.items()],
    }, DIGITS)  # fmt: skip


NAMES = {"turn": "In turn", "agem": "A-GEM", "gem": "GEM"}


def answers(g: Tensor, G: Tensor, margin: float = 0.0, ridge: float = 0.0) -> dict[str, dict]:
    """The three answers, each with its u [2] and its dots G u [t]; g [2] and G [t, 2] in float64.

    turn has also path [t + 1, 2], the places on the way; agem has reference [2]; gem has v [t] (None when no row
    objects, and nothing is solved) and residuals, by how much each of the four conditions of optimality is missed.
    """
    path = in_turn(g, G)
    r = G.mean(dim=0)
    solved = bool((G @ g < 0).any())
    v = ridge_multipliers(g, G, margin, ridge) if solved else None
    if ridge and solved:
        # u = g + G^T v
        u = g + G.T @ v
    else:
        u = project(g, G, margin)
    by_mean = project_on_one(g, r)
    return {
        "turn": {"u": path[-1], "dots": G @ path[-1], "path": path},
        "agem": {"u": by_mean, "dots": G @ by_mean, "reference": r},
        "gem": {"u": u, "dots": G @ u, "v": v, "residuals": residuals(g, G, u, v, margin)},
    }


def in_turn(g: Tensor, G: Tensor) -> list[Tensor]:
    """The places [2] that g comes to when it is projected on one row of G [t, 2] after the other, g first."""
    path = [g]
    for row in G:
        path.append(project_on_one(path[-1], row))
    return path


def ridge_multipliers(g: Tensor, G: Tensor, margin: float, ridge: float) -> Tensor:
    """v [t] = argmin_{v >= margin} 1/2 v^T (G G^T + ridge I) v + (G g)^T v."""
    # sqrt(ridge) I as further columns of G, with zeros in g, makes the Gram matrix G G^T + ridge I
    wide = torch.cat([G, math.sqrt(ridge) * torch.eye(len(G), dtype=G.dtype)], dim=1)
    return multipliers(torch.cat([g, g.new_zeros(len(G))]), wide, margin)


def residuals(g: Tensor, G: Tensor, u: Tensor, v: Tensor | None, margin: float) -> list[float]:
    """By how much v >= margin, G u >= 0, (v - margin) * (G u) = 0 and u - g = G^T v are missed; [] without v."""
    if v is None:
        return []
    dots = G @ u
    return [
        max(0.0, float((margin - v).max())),
        max(0.0, float(-dots.min())),
        float(((v - margin) * dots).abs().max()),
        float((u - g - G.T @ v).abs().max()),
    ]


def vectors(gradient: Tensor, constraints: Tensor) -> tuple[Tensor, Tensor]:
    """g [2] and G [t, 2] in float64; ValueError or TypeError when they cannot be drawn."""
    checks.floats("gradient", gradient, ndim=1)
    checks.floats("constraints", constraints, ndim=2)
    if gradient.shape != (2,) or constraints.shape[1] != 2:
        raise ValueError(
            f"gradient must have shape (2,) and constraints (t, 2), got {tuple(gradient.shape)} and "
            f"{tuple(constraints.shape)}"
        )
    if len(constraints) > MOST_ROWS:
        raise ValueError(f"constraints must have at most {MOST_ROWS} rows, got {len(constraints)}")
    for name, value in (("gradient", gradient), ("constraints", constraints)):
        if float(value.abs().max()) > LARGEST:
            raise ValueError(f"{name} must have coordinates up to {LARGEST:g}, got {float(value.abs().max()):g}")
    return gradient.detach().double().cpu(), constraints.detach().double().cpu()


def _point(p: Tensor) -> str:
    return "(" + ", ".join(f"{x + 0.0:.4g}" for x in p.tolist()) + ")"
