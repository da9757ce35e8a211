"""Elastic weight consolidation: weights that mattered for old tasks are held by springs.

    L(theta) = L_new(theta) + (lam / 2) sum_k sum_i F_{k,i} (theta_i - theta*_{k,i})^2

Symbols: theta*_k, the weights after task k; F_k, the Fisher diagonal there (see fisher.py); lam >= 0.
The factor is 1/2, the sum runs over parameters, the Fisher is a mean over samples, and the gradient goes to theta.

Anchors. "online" (default): one anchor at the latest theta*, with F <- gamma F + F_new (Schwarz et al. 2018; with
gamma = 1 it is the consistent recursion of Huszar 2018). "separate": one per task, as in the paper, which counts
early tasks repeatedly.
Step. "penalty": the term is part of the loss. Under plain SGD with rate lr the term alone multiplies a deviation by
1 - lr lam F_i per step and diverges when lr lam F_i > 2: the product is reported after each task. "proximal": after
the optimiser's step, theta_i <- (theta_i + lr lam sum_k F_{k,i} theta*_{k,i}) / (1 + lr lam sum_k F_{k,i}), the
exact minimiser of the springs plus (theta - theta_now)^2 / (2 lr), stable for every lam.
Source: Kirkpatrick et al. 2017, PNAS 114(13):3521-3526.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.regularization.fisher import ESTIMATORS, fisher_diagonal
from cllab.training import Batch, Context, Method, Phase


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
    return _penalty(theta, Anchor(theta_star, F))


def proximal_step(theta: Tensor, anchors: Sequence[tuple[Tensor, Tensor]], step: float) -> Tensor:
    """argmin_t (t - theta)^2 / 2 + step sum_k F_k (t - theta*_k)^2 / 2: tensors like theta.

    anchors: pairs (theta*_k, F_k). step: lr lam.
    """
    checks.number("step", step, 0.0)
    # theta <- (theta + step sum_k F_k theta*_k) / (1 + step sum_k F_k)
    pulled = theta + step * sum(F * theta_star for theta_star, F in anchors)
    return pulled / (1 + step * sum(F for _, F in anchors))


class EWC(Method):
    """Fine-tuning with springs; lam = 0 is plain fine-tuning, bit for bit.

    lam: strength, >= 0; it multiplies a Fisher, so its scale belongs to the estimator.
    anchors, step: see above. gamma in [0, 1]: how much of the old Fisher an online anchor keeps.
    labels: the Fisher's estimator, see `fisher_diagonal`; batch_size: that of "batched".
    n_samples: how many rows of the finished task the Fisher uses, drawn at random (None: all).
    """

    def __init__(
        self,
        lam: float,
        anchors: str = "online",
        step: str = "penalty",
        *,
        gamma: float = 1.0,
        labels: str = "model",
        n_samples: int | None = None,
        batch_size: int | None = None,
    ):
        self.lam = checks.number("lam", lam, 0.0)
        self.anchors = checks.choice("anchors", anchors, ("online", "separate"))
        self.step = checks.choice("step", step, ("penalty", "proximal"))
        self.gamma = checks.number("gamma", gamma, 0.0, 1.0)
        self.labels = checks.choice("labels", labels, ESTIMATORS)
        self.n_samples = None if n_samples is None else checks.integer("n_samples", n_samples, 1)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        self.held: list[Anchor] = []  # one anchor, or one per task

    def start_run(self, ctx: Context) -> None:
        self.held = []
        self.device = ctx.device

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        if self.step == "proximal" or not self.held:
            return {}
        theta = dict(ctx.model.named_parameters())
        return {"EWC": self.lam * sum(_penalty(theta, anchor) for anchor in self.held)}

    @torch.no_grad()
    def after_step(self, ctx: Context, batch: Batch) -> None:
        if self.step == "penalty" or not self.held:
            return
        for name, theta in ctx.model.named_parameters():
            if not theta.requires_grad:
                continue
            held = [(a.theta_star[name], a.F[name]) for a in self.held if name in a.F]
            if held:
                old = theta[: len(held[0][0])] if theta.ndim else theta
                old.copy_(proximal_step(old, held, ctx.lr * self.lam))

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        x, y = ctx.task.x, ctx.task.y
        if self.n_samples is not None:
            rows = torch.randperm(len(x), generator=self.generator)[: self.n_samples].to(x.device)
            x, y = x[rows], y[rows]
        F = fisher_diagonal(
            ctx.model, x, y, self.labels, allowed=ctx.allowed(ctx.task_index), batch_size=self.batch_size,
            generator=self.generator,
        )  # fmt: skip
        named = dict(ctx.model.named_parameters())
        names = [n for n, p in named.items() if p.requires_grad or any(n in anchor.F for anchor in self.held)]
        theta_star = {name: named[name].detach().clone() for name in names}
        F = {name: F.get(name, torch.zeros_like(theta_star[name])) for name in names}  # 0 where frozen in this task
        self.held = [_grown(anchor, theta_star) for anchor in self.held]
        if self.anchors == "online" and self.held:
            # F <- gamma F + F_new
            F = {name: self.gamma * old + F[name] for name, old in self.held.pop().F.items()}
        self.held.append(Anchor(theta_star, F))
        largest = max(sum(anchor.F[name] for anchor in self.held).max().item() for name in F)
        stability = ctx.lr * self.lam * largest
        plain_sgd = type(ctx.optimizer) is torch.optim.SGD
        if self.step == "penalty" and plain_sgd and stability > 2:
            warnings.warn(
                f"EWC: lr * lam * max F = {stability:.3g} exceeds 2, plain SGD will diverge on the penalty; "
                'lower lam or lr, or use step="proximal"',
                stacklevel=2,
            )
        yield Phase("Fisher", {"labels": self.labels, "max": largest, "lr * lam * max F": stability})

    def state_dict(self) -> dict:
        return {"anchors": [anchor._asdict() for anchor in self.held]}

    def load_state_dict(self, state: dict) -> None:
        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(self.device) for name, value in tensors.items()}

        self.held = [Anchor(moved(a["theta_star"]), moved(a["F"])) for a in state["anchors"]]


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
