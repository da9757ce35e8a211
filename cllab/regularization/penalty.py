"""Springs: weights held near where they were, each as hard as it mattered. EWC, SI, MAS and RWalk share this.

    penalty = (1/2) sum_k sum_i F_{k,i} (theta_i - theta*_{k,i})^2

Symbols: theta*_k, the weights that anchor k holds on to; F_k >= 0, how much each of them mattered, both like theta.
The factor is 1/2, the sum runs over parameters, and the gradient goes to theta. A method differs from the others in
where F comes from and in how the anchors of several tasks become one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.training import Batch, Context, Method


class Anchor(NamedTuple):
    """theta_star and F, each {parameter name: tensor}: where a task's weights were and how much each mattered."""

    theta_star: dict[str, Tensor]
    F: dict[str, Tensor]


def quadratic_penalty(model: nn.Module, theta_star: dict[str, Tensor], F: dict[str, Tensor]) -> Tensor:
    """(1/2) sum_i F_i (theta_i - theta*_i)^2 over the parameters named in `theta_star`: a scalar.

    Rows that a tensor has grown since (its first dimension only) carry no penalty. Raises ValueError listing the
    names that the model lacks or whose shapes do not fit, and for negative or non-finite F.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    theta = dict(model.named_parameters())
    _check_fits(theta, theta_star, F)
    for name, value in F.items():
        if not bool(torch.isfinite(theta_star[name]).all()):
            raise ValueError(f"theta_star must be finite, {name} is not")
        if not bool(torch.isfinite(value).all()) or bool((value < 0).any()):
            raise ValueError(f"F must be finite and not negative, {name} is not")
        if {value.dtype, theta_star[name].dtype} != {theta[name].dtype}:
            raise TypeError(
                f"theta_star and F must be {theta[name].dtype} like the model, {name} has {theta_star[name].dtype} "
                f"and {value.dtype}"
            )
    return _penalty(theta, Anchor(theta_star, F))


def proximal_step(theta: Tensor, anchors: Sequence[tuple[Tensor, Tensor]], step: float) -> Tensor:
    """argmin_t (t - theta)^2 / 2 + step sum_k F_k (t - theta*_k)^2 / 2: tensors like theta.

    anchors: pairs (theta*_k, F_k), all of theta's shape and finite, F_k >= 0. step: lr lam >= 0.
    """
    checks.number("step", step, 0.0)
    if not all(isinstance(anchor, Sequence) and len(anchor) == 2 for anchor in anchors):
        raise TypeError("anchors must be a list of pairs (theta_star, F)")
    for theta_star, F in anchors:
        checks.alike(theta=theta, theta_star=theta_star, F=F)
        if bool((F < 0).any()):
            raise ValueError(f"F must not be negative, got {F.min().item():g}")
    return pulled(theta, anchors, step)


def pulled(theta: Tensor, anchors: Sequence[tuple[Tensor, Tensor]], step: float) -> Tensor:
    """`proximal_step` without its checks."""
    # theta <- (theta + step sum_k F_k theta*_k) / (1 + step sum_k F_k)
    towards = theta + step * sum(F * theta_star for theta_star, F in anchors)
    return towards / (1 + step * sum(F for _, F in anchors))


class Springs(Method):
    """A method whose losses hold the weights at anchors; subclasses say when and with which F.

    strength: what multiplies the penalty above; 0 is plain fine-tuning, bit for bit.
    """

    holds_parameters = True
    strength: float

    def start_run(self, ctx: Context) -> None:
        self.held: list[Anchor] = []  # one anchor, or one per task
        self.device = ctx.device

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        if not self.held or self.strength == 0:
            return {}
        theta = dict(ctx.model.named_parameters())
        return {type(self).__name__: self.strength * sum(_penalty(theta, anchor) for anchor in self.held)}

    def hold(self, model: nn.Module, F: dict[str, Tensor], keep: float | None) -> None:
        """Put an anchor where the weights are now. keep: one anchor in all, with F <- keep F_old + F; None: one more.

        Parameters that F does not name did not matter now (F = 0): they were frozen, and may have mattered before.
        """
        named = dict(model.named_parameters())
        names = [n for n, p in named.items() if p.requires_grad or any(n in anchor.F for anchor in self.held)]
        theta_star = {name: named[name].detach().clone() for name in names}
        F = {name: F.get(name, torch.zeros_like(theta_star[name])) for name in names}
        self.held = [_grown(anchor, theta_star) for anchor in self.held]
        if keep is not None and self.held:
            # F <- keep F_old + F
            F = {name: keep * old + F[name] for name, old in self.held.pop().F.items()}
        self.held.append(Anchor(theta_star, F))

    def memory_bytes(self) -> int:
        """Bytes of all anchors: twice the parameters, per task or once."""
        return sum(value.nbytes for anchor in self.held for part in anchor for value in part.values())

    def state_dict(self) -> dict:
        return {"anchors": [anchor._asdict() for anchor in self.held]}

    def load_state_dict(self, state: dict) -> None:
        self.held = [Anchor(self.moved(a["theta_star"]), self.moved(a["F"])) for a in state["anchors"]]

    def moved(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors on the run's device."""
        return {name: value.to(self.device) for name, value in tensors.items()}


class _Springs(torch.autograd.Function):
    """The penalty with its gradient written down: tracing it would cost twice the time."""

    @staticmethod
    def forward(ctx, anchors: list[tuple[Tensor, Tensor]], *theta: Tensor) -> Tensor:
        pulls, energy = [], 0.0
        for now, (theta_star, F) in zip(theta, anchors, strict=True):
            moved = now - theta_star
            # F_i (theta_i - theta*_i), which is the gradient
            pull = F * moved
            # sum_i F_i (theta_i - theta*_i)^2
            energy = energy + torch.dot(pull.flatten(), moved.flatten())
            pulls.append(pull)
        ctx.save_for_backward(*pulls)
        return 0.5 * energy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(outer * pull for pull in ctx.saved_tensors)


def _penalty(theta: dict[str, Tensor], anchor: Anchor) -> Tensor:
    names = list(anchor.theta_star)
    # rows that were added since are free; a slice of all rows would cost a copy
    held = [theta[n] if theta[n].shape == anchor.F[n].shape else theta[n][: len(anchor.F[n])] for n in names]
    return _Springs.apply([(anchor.theta_star[n], anchor.F[n]) for n in names], *held)


def _grown(anchor: Anchor, theta: dict[str, Tensor]) -> Anchor:
    """The anchor with the shapes of `theta`: what was added since its task did not matter to it (F = 0)."""
    theta_star, F = {}, {}
    for name, now in theta.items():
        theta_star[name], F[name] = now.clone(), torch.zeros_like(now)
        if name in anchor.F:
            old = slice(len(anchor.F[name])) if now.ndim else ...
            theta_star[name][old], F[name][old] = anchor.theta_star[name], anchor.F[name]
    return Anchor(theta_star, F)


def _check_fits(theta: dict[str, Tensor], theta_star: dict[str, Tensor], F: dict[str, Tensor]) -> None:
    for name, tensors in (("theta_star", theta_star), ("F", F)):
        if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
            raise TypeError(f"{name} must be a dict of tensors by parameter name")
    if not theta_star:
        raise ValueError("theta_star must hold at least one parameter")
    if set(theta_star) != set(F):
        raise ValueError(f"F must name the parameters of theta_star, differing in {sorted(set(theta_star) ^ set(F))}")
    missing = [name for name in theta_star if name not in theta]
    misfits = [
        f"{name} {tuple(theta_star[name].shape)} against {tuple(theta[name].shape)}"
        for name in theta_star
        if name in theta
        and (
            theta_star[name].shape != F[name].shape
            or theta_star[name].shape[1:] != theta[name].shape[1:]
            or theta_star[name].shape[:1] > theta[name].shape[:1]
        )
    ]
    if missing or misfits:
        raise ValueError(f"theta_star must fit the model: missing {missing}, other shapes {misfits}")
