"""The closest step that raises no old loss: projection of a gradient on the cone of allowed directions.

    u = argmin_u 1/2 ||u - g||^2   subject to   G u >= 0
    v = argmin_{v >= gamma} 1/2 ||G^T v + g||^2,   u = g + G^T v        (the dual, t numbers instead of p)

Symbols: g [p], the gradient that is wanted; G [t, p], one row per past task, the gradient of its loss at the present
weights; u [p], the projected gradient; v [t], one multiplier per row, above gamma only where its row binds; gamma >= 0,
the margin.
At gamma = 0 the conditions of Karush, Kuhn and Tucker hold: v >= 0, G u >= 0, v * (G u) = 0, u - g = G^T v. gamma > 0
asks for a little descent on every past loss. To first order a step along -u does not raise any past loss.
Source: Lopez-Paz & Ranzato 2017, "Gradient episodic memory". The dual is a non-negative least squares problem and is
solved as one (Lawson & Hanson; scipy): duplicate and zero rows, for which the matrix G G^T is singular, do no harm.
Departure: the authors' code adds 1e-3 to that matrix's diagonal, which is large next to small gradients and leaves
their constraints violated. As there, the projection happens only when some G u would be negative.
"""

import torch
from scipy.optimize import nnls
from torch import Tensor

from cllab import checks

ROUNDING = 1e-12  # what a row that binds may be off by, relative to the lengths


def project(gradient: Tensor, constraints: Tensor, margin: float = 0.0) -> Tensor:
    """u [p], like `gradient`; the same object when no row of `constraints` objects.

    gradient: g, finite floats [p]. constraints: G [t, p], t may be 0. margin: gamma >= 0, in units of v.
    Solved in float64; u has the gradient's dtype and device.
    """
    g, G, margin = _checked(gradient, constraints, margin)
    if not bool((G @ g < 0).any()):
        return gradient
    v = _multipliers(g, G, margin)
    # u = g + G^T v
    u = g + G.T @ v
    binding = G[v > margin]
    if bool(((binding @ u).abs() > ROUNDING * binding.norm(dim=1) * g.norm()).any()):
        # rows that are nearly opposite have huge v that cancel: remove what the target has in their span instead
        target = g + margin * G.sum(dim=0)
        Q = torch.linalg.qr(binding.T).Q
        for _ in range(2):
            target = target - Q @ (Q.T @ target)
        u = target
    return u.to(gradient.dtype)


def multipliers(gradient: Tensor, constraints: Tensor, margin: float = 0.0) -> Tensor:
    """v [t] in float64, argmin_{v >= margin} ||G^T v + g||; arguments as in `project`."""
    return _multipliers(*_checked(gradient, constraints, margin))


def _checked(gradient: Tensor, constraints: Tensor, margin: float) -> tuple[Tensor, Tensor, float]:
    """g [p] and G [t, p] in float64, gamma."""
    checks.floats("gradient", gradient, ndim=1)
    checks.floats("constraints", constraints, ndim=2, allow_empty=True)
    if constraints.shape[1] != len(gradient):
        raise ValueError(
            f"constraints must have {len(gradient)} columns like gradient, got shape {tuple(constraints.shape)}"
        )
    return gradient.detach().double(), constraints.detach().double(), checks.number("margin", margin, 0.0)


def _multipliers(g: Tensor, G: Tensor, margin: float) -> Tensor:
    # v = margin + w with w >= 0 moves the target to g + margin * sum of rows
    target = g + margin * G.sum(dim=0)
    # rows of length 1 make gradients of every scale alike; a row of zeros asks for nothing
    length = G.norm(dim=1)
    rows = length > 0
    if not bool(rows.any()):
        return torch.full_like(length, margin)
    # [G^T, target] = Q [R, r]: ||G^T w + target|| = ||R w + r||, with at most t + 1 equations instead of p
    columns = torch.cat([G[rows] / length[rows, None], target[None]]).T
    triangle = torch.linalg.qr(columns, mode="r").R.cpu().numpy()
    R, r = triangle[:, :-1], triangle[:, -1]
    w, _ = nnls(R, -r, maxiter=100 * len(R[0]))
    v = torch.full_like(length, margin)
    v[rows] += torch.from_numpy(w).to(v) / length[rows]
    return v


def project_on_one(gradient: Tensor, reference: Tensor) -> Tensor:
    """The projection for a single constraint, A-GEM's: g - (g . r / r . r) r if g . r < 0, else g itself.

    gradient: g, finite floats [p]; reference: r, like it. r = 0 leaves g alone.
    Source: Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM".
    """
    checks.floats("gradient", gradient, ndim=1)
    checks.floats("reference", reference, ndim=1)
    if reference.shape != gradient.shape:
        raise ValueError(f"reference must have shape {tuple(gradient.shape)}, got {tuple(reference.shape)}")
    g, r = gradient.detach().double(), reference.detach().double()
    if not bool(g @ r < 0):
        return gradient
    # g - (g . r / r . r) r, by r of length 1: squares of tiny gradients would vanish
    r = r / r.norm()
    return (g - (g @ r) * r).to(gradient.dtype)
