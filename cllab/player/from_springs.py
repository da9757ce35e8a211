"""The trace of two weights on springs: where training on a new task drags them, and how hard the old task holds on.

    L(theta) = L_new(theta) + (lam / 2) sum_i F_i (theta_i - theta*_i)^2

Symbols: theta, two weights; theta*, where the old task left them; F [2] >= 0, how much each mattered there (one per
estimator that is compared); lam >= 0. Every path starts at theta* and descends with plain gradient steps of rate lr.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import Tensor, nn

from cllab import checks
from cllab.player.schema import VERSION, round_trace
from cllab.regularization import proximal_step, quadratic_penalty

Loss = Callable[[Tensor], Tensor]
STEPS = ("penalty", "proximal")
MOST_STEPS, MOST_FISHERS = 400, 4
FAR = 1e6  # a weight beyond this is given up
GRID, LEVELS = 45, 8
WHOLE = 9_000  # ms that all steps take


def springs_trace(
    old: Loss,
    new: Loss,
    fishers: Mapping[str, Tensor],
    *,
    theta_star: Tensor | None = None,
    lam: float = 1.0,
    lr: float = 0.1,
    n_steps: int = 60,
    steps: Sequence[str] = STEPS,
    n: int = 1,
    names: Sequence[str] = ("A", "B"),
    title: str = "Elastic weights",
    alt: str = "",
) -> dict:
    """A trace of kind "springs": one panel per Fisher, and in each one path per kind of step.

    old, new: losses of the two tasks, from weights [..., 2] in float64 to [...]; both must have a minimum.
    fishers: {name: F [2]}, one to four. theta_star [2]: the anchor and the start, by default the minimum of `old`.
    steps: of "penalty" (the term is part of the loss) and "proximal" (see `proximal_step`). n_steps: up to 400.
    n: rows behind F; the ellipse is drawn with the axes 1 / sqrt(n F_i). names: of the two tasks.
    Raises ValueError or TypeError naming the argument.
    """
    lam, lr = checks.number("lam", lam, 0.0), checks.number("lr", lr, 0.0)
    checks.integer("n_steps", n_steps, 1, MOST_STEPS)
    checks.integer("n", n, 1)
    for step in steps:
        checks.choice("each of steps", step, STEPS)
    if not steps:
        raise ValueError("steps must name at least one kind of step")
    if len(names) != 2:
        raise ValueError(f"names must be two, got {len(names)}")
    if not 1 <= len(fishers) <= MOST_FISHERS:
        raise ValueError(f"fishers must be one to {MOST_FISHERS}, got {len(fishers)}")
    origin = torch.zeros(2, dtype=torch.float64)
    least = minimum("old", old, origin)
    theta_star = least if theta_star is None else _pair("theta_star", theta_star)
    fishers = {name: _pair(f"fishers[{name!r}]", F, low=0.0) for name, F in fishers.items()}
    marks = {
        "old": theta_star, "new": minimum("new", new, theta_star),
        "joint": minimum("new", lambda theta: old(theta) + new(theta), theta_star),
    }  # fmt: skip
    extent = _extent(list(marks.values()))
    free = path(new, theta_star, origin, 0.0, lr, "penalty", n_steps)
    panels = [
        {"name": name, "F": F, "product": lr * lam * F.max(),
         "paths": [_told(step, path(new, theta_star, F, lam, lr, step, n_steps), old, new, lam * F, theta_star, extent)
                   for step in steps]}
        for name, F in fishers.items()
    ]  # fmt: skip
    return round_trace({
        "v": VERSION, "kind": "springs", "title": title, "ms": max(50, WHOLE // n_steps),
        "alt": alt or f"Loss contours of tasks {names[0]} and {names[1]} over two weights, and paths on springs.",
        "names": list(names), "extent": extent, "lam": lam, "lr": lr, "n": n, "marks": marks,
        "contours": _contours([(old, least), (new, marks["new"])], extent),
        "free": _told("free", free, old, new, origin, theta_star, extent), "panels": panels,
        "steps": [{"step": t, "text": _sentence(t, panels, names)} for t in range(n_steps + 1)],
    }, 5)  # fmt: skip


def path(new: Loss, theta_star: Tensor, F: Tensor, lam: float, lr: float, step: str, n_steps: int) -> list[Tensor]:
    """The weights [2] before the first step and after each, all from theta*; it ends early once they are beyond FAR."""
    model = nn.Module()
    model.theta = nn.Parameter(theta_star.clone())
    places = [theta_star]
    while len(places) <= n_steps and max(map(abs, places[-1].tolist())) <= FAR:
        loss = new(model.theta)
        if step == "penalty":
            # L_new(theta) + (lam / 2) sum_i F_i (theta_i - theta*_i)^2
            loss = loss + lam * quadratic_penalty(model, {"theta": theta_star}, {"theta": F})
        (gradient,) = torch.autograd.grad(loss, model.theta)
        # theta <- theta - lr d loss / d theta
        theta = model.theta.detach() - lr * gradient
        if step == "proximal":
            # theta <- (theta + lr lam F theta*) / (1 + lr lam F)
            theta = proximal_step(theta, [(theta_star, F)], lr * lam)
        model.theta.data = theta
        places.append(theta)
    return places


def minimum(name: str, loss: Loss, start: Tensor) -> Tensor:
    """Where `loss` is least [2], found from `start`; ValueError naming the argument when there is no such place."""

    def value_and_gradient(at):
        theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        value = loss(theta)
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient.numpy()

    with np.errstate(all="ignore"):  # a search that runs away is told below
        found = minimize(value_and_gradient, start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-10})
    place = torch.from_numpy(found.x)
    if not (bool((place.abs() <= 1e3).all()) and abs(found.jac).max() <= 1e-6):
        raise ValueError(f"{name} must have a minimum near the origin, the search ended at {_point(place)}")
    return place


def _pair(name: str, value: Tensor, low: float = -math.inf) -> Tensor:
    checks.floats(name, value, ndim=1)
    if value.shape != (2,) or bool((value < low).any()):
        least = " of at least 0" if low == 0 else ""
        raise ValueError(f"{name} must hold two numbers{least}, got {value.tolist()}")
    return value.detach().double()


def _extent(places: list[Tensor]) -> list[float]:
    """A square around the places that matter: [x0, x1, y0, y1]. It does not depend on lam or lr."""
    corners = torch.stack(places)
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    half = 0.9 * max(float((high - low).max()), 0.5)
    x, y = ((low + high) / 2).tolist()
    return [x - half, x + half, y - half, y + half]


def _contours(losses: list[tuple[Loss, Tensor]], extent: list[float]) -> list[list]:
    """Per loss (with its minimum) the lines [[x, y], ...] of equal loss; levels are closer where the loss is low."""
    x, y = (torch.linspace(a, b, GRID, dtype=torch.float64) for a, b in (extent[:2], extent[2:]))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    axes, found = Figure().subplots(), []
    for loss, least in losses:
        with torch.no_grad():
            values, bottom = loss(places), float(loss(least))
        top = float(values.max())
        levels = [bottom + (top - bottom) * (k / LEVELS) ** 2 for k in range(1, LEVELS)]
        drawn = axes.contour(x.numpy(), y.numpy(), values.numpy(), levels=levels)
        found.append([line.tolist() for lines in drawn.allsegs for line in lines if len(line) > 1])
    return found


def _told(name: str, places: list[Tensor], old: Loss, new: Loss, stiffness: Tensor, theta_star: Tensor, extent) -> dict:
    """A path with what it does to both losses, the springs' pull -lam F (theta - theta*), and when it left."""
    theta = torch.stack(places)
    with torch.no_grad():
        losses = [old(theta), new(theta)]
    x0, x1, y0, y1 = extent
    outside = (theta[:, 0] < x0) | (theta[:, 0] > x1) | (theta[:, 1] < y0) | (theta[:, 1] > y1)
    inside = (~outside).nonzero().flatten()
    return {
        "name": name, "theta": theta, "old": losses[0], "new": losses[1], "pull": -stiffness * (theta - theta_star),
        "left": int(inside[-1]) + 1 if bool(outside[-1]) else None,
        "given_up": len(theta) - 1 if bool((theta[-1].abs() > FAR).any()) else None,
    }  # fmt: skip


def _sentence(t: int, panels: list[dict], names: Sequence[str]) -> str:
    parts = []
    for panel in panels:
        for way in panel["paths"]:
            who = panel["name"] if len(panels) > 1 else f"the {way['name']} step"
            parts.append(_place(who, way, t, names))
    start = "At the start" if t == 0 else f"After {t} {'step' if t == 1 else 'steps'}"
    return f"{start}: {'; '.join(parts)}."


def _place(who: str, way: dict, t: int, names: Sequence[str]) -> str:
    if way["left"] is None or t < way["left"]:
        return f"{who} is at loss {names[0]} {way['old'][t]:.3f}, loss {names[1]} {way['new'][t]:.3f}"
    left = f"{who} left the picture at step {way['left']}"
    if way["given_up"] is None or t < way["given_up"]:
        return f"{left} and is at θ = {_point(way['theta'][t])}"
    return f"{left} and was given up after step {way['given_up']} at θ = {_point(way['theta'][-1])}"


def _point(theta: Tensor) -> str:
    return f"({', '.join(f'{x:.3g}' for x in theta.tolist())})".replace("-", "−")
