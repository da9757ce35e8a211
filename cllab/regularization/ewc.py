"""Elastic weight consolidation: weights that mattered for old tasks are held by springs.

    L(theta) = L_new(theta) + (lam / 2) sum_k sum_i F_{k,i} (theta_i - theta*_{k,i})^2

Symbols: theta*_k, the weights after task k; F_k, the Fisher diagonal there (see fisher.py); lam >= 0.
The factor is 1/2, the sum runs over parameters, the Fisher is a mean over samples, and the gradient goes to theta.

Anchors. "online" (default): one anchor at the latest theta*, with F <- gamma F + F_new (Schwarz et al. 2018; with
gamma = 1 it is the consistent recursion of Huszar 2018). "separate": one per task, as in the paper, which counts
early tasks repeatedly.
Step. "penalty": the term is part of the loss. Under plain SGD with rate lr the term alone multiplies a deviation by
1 - lr lam F_i per step and diverges when lr lam F_i > 2 (with momentum beta > 2 (1 + beta)): the product is reported
after each task, with a warning when SGD is to go on above the limit. "proximal": after
the optimiser's step, theta_i <- (theta_i + lr lam sum_k F_{k,i} theta*_{k,i}) / (1 + lr lam sum_k F_{k,i}), the
exact minimiser of the springs plus (theta - theta_now)^2 / (2 lr), stable for every lam.
Source: Kirkpatrick et al. 2017, PNAS 114(13):3521-3526.
"""

import warnings
from collections.abc import Iterator

import torch

from cllab import checks
from cllab.regularization.fisher import ESTIMATORS, fisher_diagonal
from cllab.regularization.penalty import Springs, pulled
from cllab.training import Batch, Context, Phase


class EWC(Springs):
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

    @property
    def strength(self) -> float:
        """lam: the penalty's own factor 1/2 is the paper's."""
        return self.lam

    def losses(self, ctx: Context, batch: Batch, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {} if self.step == "proximal" else super().losses(ctx, batch, outputs)

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
                old.copy_(pulled(old, held, ctx.lr * self.lam))

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        x, y = ctx.task.x, ctx.task.y
        if self.n_samples is not None:
            rows = torch.randperm(len(x), generator=self.generator)[: self.n_samples].to(x.device)
            x, y = x[rows], y[rows]
        F = fisher_diagonal(
            ctx.model, x, y, self.labels, allowed=ctx.allowed(ctx.task_index), batch_size=self.batch_size,
            generator=self.generator,
        )  # fmt: skip
        self.hold(ctx.model, F, keep=self.gamma if self.anchors == "online" else None)
        largest = max(sum(anchor.F[name] for anchor in self.held).max().item() for name in self.held[-1].F)
        stability = ctx.lr * self.lam * largest
        more_tasks = ctx.task_index + 1 < len(ctx.stream)
        if self.step == "penalty" and more_tasks and type(ctx.optimizer) is torch.optim.SGD:
            momentum = ctx.optimizer.defaults["momentum"]
            limit = 2 * (1 + momentum)  # the heavy ball's; Nesterov's is lower
            if stability > limit:
                warnings.warn(
                    f"EWC: lr * lam * max F = {stability:.3g} exceeds {limit:g}, SGD will diverge on the penalty; "
                    'lower lam or lr, or use step="proximal"',
                    stacklevel=2,
                )
        yield Phase("Fisher", {"labels": self.labels, "max": largest, "lr * lam * max F": stability})
