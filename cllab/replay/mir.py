"""Maximally interfered retrieval: replay the remembered rows that the coming step would hurt most.

Idea. Take the step that the new rows alone would take, only to look: whose loss does it raise?

    theta_v = theta - lr grad L_new(theta)                 the virtual step
    s(x, y) = l(x, y; theta_v) - l(x, y; theta)            how much it would hurt a remembered row

Of some candidates drawn from memory the k with the largest s are replayed, in the real step from theta.

Symbols: theta, the parameters; L_new, mean cross-entropy of the new rows; l, cross-entropy of one row; lr, the
run's learning rate; k, memory rows per step.
Source: Aljundi et al. 2019, "Online continual learning with maximally interfered retrieval". The virtual step is
plain lr * gradient whatever the optimiser is, as in the authors' code. Departures: the model is in eval mode while
it is asked (no dropout, batch-norm statistics stay); memory and loss are those of er.py, with its explicit rho.
"""

import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.replay.er import ExperienceReplay
from cllab.training import Batch, Context, answer_with, evaluating, masked


def virtual_step(model: nn.Module, x: Tensor, y: Tensor, lr: float, allowed: Tensor | None = None) -> dict[str, Tensor]:
    """theta_v, the trainable parameters by name after one plain gradient step on the rows x [B, ...], y int64 [B].

    lr >= 0. allowed: bool [B, C] or [C], the classes a row may use (default all). The model is left as it is:
    parameters, buffers, `.grad` and modes. ValueError for rows and labels that do not fit.
    """
    _check_rows(x, y)
    checks.number("lr", lr, 0.0)
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    if not theta:
        raise ValueError("model must have at least one trainable parameter")
    with torch.enable_grad():
        loss = _losses(model, theta, x, y, allowed).mean()
        gradients = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
    # theta_v = theta - lr grad L_new(theta)
    steps = zip(theta.items(), gradients, strict=True)
    return {name: p.detach() if gradient is None else p.detach() - lr * gradient for (name, p), gradient in steps}


@torch.no_grad()
def interference(
    model: nn.Module, theta_v: Mapping[str, Tensor], x: Tensor, y: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """s [n], the rise of each candidate's loss in nats if the parameters became theta_v; negative where it falls.

    x [n, ...], y int64 [n], the candidates; allowed: bool [n, C] or [C], as each one's own task allows (default
    all). FloatingPointError when a loss is not finite. The model is left as it is.
    """
    _check_rows(x, y)
    unknown = sorted(set(theta_v) - {name for name, _ in model.named_parameters()})
    if unknown:
        raise ValueError(f"theta_v must name parameters of the model, {unknown} are not")
    # s(x, y) = l(x, y; theta_v) - l(x, y; theta)
    scores = _losses(model, theta_v, x, y, allowed) - _losses(model, {}, x, y, allowed)
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError("the loss of a candidate is not finite: lower the learning rate")
    return scores


class MIR(ExperienceReplay):
    """Experience replay that chooses its rows; rho = 0 is plain fine-tuning, bit for bit.

    capacity, batch_size, rho: as in ExperienceReplay, with a reservoir. candidates: rows drawn from it to choose from.
    Where there cannot be more candidates than rows to replay all of them are replayed, as in plain experience replay,
    and a warning says so. Equal scores go to the candidate drawn first.
    """

    def __init__(self, capacity: int, batch_size: int | None = None, rho: float = 0.5, *, candidates: int = 50):
        super().__init__(capacity, batch_size, rho)
        self.candidates = checks.integer("candidates", candidates, 1)

    def start_run(self, ctx: Context) -> None:
        super().start_run(ctx)
        n = self.batch_size or ctx.batch_size
        most = min(self.candidates, self.capacity)
        if self.rho > 0 and most <= n:
            warnings.warn(
                f"MIR: {most} candidates for {n} rows to replay leave no choice, which is plain experience replay; "
                "raise candidates and capacity or lower batch_size",
                stacklevel=2,
            )

    def choose(self, ctx: Context, batch: Batch, n: int) -> tuple:
        """Of the candidates the n that the step on the new rows would hurt most."""
        drawn = self.memory.sample(self.candidates)
        theta_v = virtual_step(ctx.model, batch.x, batch.y, ctx.lr, batch.allowed)
        scores = interference(ctx.model, theta_v, drawn.x, drawn.y, ctx.allowed(drawn.task))
        # the n largest, of equal ones the lowest candidate
        worst = scores.argsort(descending=True, stable=True)[:n]
        ctx.info["interference"] = scores[worst].mean().item()
        return drawn._make(column[worst] for column in drawn)


def _losses(model: nn.Module, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, allowed: Tensor | None) -> Tensor:
    """Each row's cross-entropy with `theta` in the place of the parameters it names: [B]."""
    with evaluating(model):
        try:
            logits = answer_with(model, theta, x)
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"x must be rows that model accepts, {tuple(x.shape)} of {x.dtype} are not") from error
    checks.labels("y", y, n_classes=logits.shape[1])
    if allowed is not None:
        logits = masked(logits, allowed)
        if bool(logits.gather(1, y[:, None]).isneginf().any()):
            raise ValueError("allowed must hold the class of every row in y")
    return F.cross_entropy(logits, y, reduction="none")


def _check_rows(x: Tensor, y: Tensor) -> None:
    checks.floats("x", x)
    checks.labels("y", y, n=len(x))
