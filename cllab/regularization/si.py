"""Synaptic intelligence: a weight matters as much as it lowered the loss on the way.

    omega_i <- omega_i - g_i (theta_i' - theta_i)               at every step theta -> theta'
    Omega_i <- Omega_i + max(0, omega_i / ((theta_i^end - theta_i^start)^2 + xi))      at a task's end
    L(theta) = L_new(theta) + c sum_i Omega_i (theta_i - theta*_i)^2

Symbols, all like theta: g, the gradient of the task loss alone; omega, the path integral of one task; Omega >= 0, the
importance; theta*, the weights at the last task's end; xi > 0 keeps weights that hardly moved from dividing by 0.
The factor is 1 (not 1/2), and the sum runs over parameters.
In the limit of small steps sum_i omega_i is what the loss fell by, because -g . dtheta is the fall of one step. With
the penalty's gradient in g it is not: the penalty pushes back and forth without any fall in the task loss.
Source: Zenke, Poole & Ganguli 2017, "Continual learning through synaptic intelligence". As in the authors' code a
negative importance counts as 0; a negative spring would push weights away without bound.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from cllab import checks
from cllab.regularization.penalty import Springs
from cllab.training import Batch, Context, Phase


def path_integral(omega: Tensor, g: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """omega after one more step from `before` to `after` with task gradient g at `before`; all of one shape."""
    if not omega.shape == g.shape == before.shape == after.shape:
        shapes = [tuple(t.shape) for t in (omega, g, before, after)]
        raise ValueError(f"omega, g, before and after must have one shape, got {shapes}")
    # omega_i <- omega_i - g_i (theta_i' - theta_i)
    return omega - g * (after - before)


def path_importance(omega: Tensor, start: Tensor, end: Tensor, xi: float) -> Tensor:
    """What one task adds to Omega, >= 0 and like theta; start and end: the weights around the task; xi > 0."""
    checks.alike(omega=omega, start=start, end=end)
    checks.positive("xi", xi)
    # max(0, omega_i / ((theta_i^end - theta_i^start)^2 + xi))
    return (omega / ((end - start).square() + xi)).clamp(min=0)


class SI(Springs):
    """Fine-tuning with springs as stiff as the path says; c = 0 is plain fine-tuning, bit for bit.

    c: strength, >= 0; in the flow limit c = 1 with xi -> 0 gives a quadratic task its own loss back as the penalty.
    xi: > 0, in units of squared weights (0.1 in the paper's MNIST runs).
    """

    needs_task_gradient = True

    def __init__(self, c: float = 1.0, xi: float = 0.1):
        self.c = checks.number("c", c, 0.0)
        self.xi = checks.positive("xi", xi)  # a weight that did not move would be divided by 0

    @property
    def strength(self) -> float:
        """2 c: the springs have a factor 1/2 that SI has not."""
        return 2 * self.c

    def start_task(self, ctx: Context) -> None:
        self.omega: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}

    @torch.no_grad()
    def gradients(self, ctx: Context) -> None:
        theta = {name: p for name, p in ctx.model.named_parameters() if name in ctx.task_gradient}
        if not self.start:  # the first step of a task: by now every method has grown and frozen what it wants
            self.start = {name: p.clone() for name, p in theta.items()}
            self.omega = {name: torch.zeros_like(p) for name, p in theta.items()}
        self.before = {name: p.clone() for name, p in theta.items()}

    @torch.no_grad()
    def after_step(self, ctx: Context, batch: Batch) -> None:
        theta = dict(ctx.model.named_parameters())
        for name, before in self.before.items():
            g = ctx.task_gradient[name]
            self.omega[name] = path_integral(self.omega[name], g, before, theta[name])

    @torch.no_grad()
    def end_task(self, ctx: Context) -> Iterator[Phase]:
        theta = dict(ctx.model.named_parameters())
        new = {
            name: path_importance(omega, self.start[name], theta[name], self.xi) for name, omega in self.omega.items()
        }
        self.hold(ctx.model, new, keep=1.0)
        integral = sum(omega.sum() for omega in self.omega.values()).item()
        largest = max(Omega.max().item() for Omega in self.held[0].F.values())
        yield Phase("path integral", {"sum of omega": integral, "max Omega": largest})

    def state_dict(self) -> dict:
        return {**super().state_dict(), "omega": self.omega, "start": self.start}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.omega, self.start = self.moved(state["omega"]), self.moved(state["start"])
