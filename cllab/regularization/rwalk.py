"""Riemannian walk: EWC's Fisher plus SI's path, each scaled to [0, 1].

    F_i <- alpha g_i^2 + (1 - alpha) F_i                                            at every step
    s_i <- s_i + max(0, -g_i dtheta_i / (1/2 F_i dtheta_i^2 + epsilon))   every `interval` steps, and at a task's end
    s^k = (s^{k-1} + s / max s) / 2  (the first task: s / max s)                    at a task's end
    L(theta) = L_new(theta) + lam sum_i (F_i / max F + s^k_i) (theta_i - theta*_i)^2

Symbols, all like theta: g, the gradient of the task loss alone; dtheta, how far theta went over the interval, along
which -g dtheta is summed; F, a moving average of squared gradients, from 0 in every task; s, the score of the path,
likewise; theta*, the weights at the last task's end. The score compares the fall of the loss with the distance that
the answers moved, measured by F.
Source: Chaudhry et al. 2018, "Riemannian walk for incremental learning". As in the authors' code g is a batch's mean
gradient, so that F is the "batched" estimate that fisher.py warns about; dividing by max F takes its scale out again.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from cllab import checks
from cllab.regularization.penalty import Springs
from cllab.training import Batch, Context, Phase


def path_score(fall: Tensor, F: Tensor, moved: Tensor, epsilon: float) -> Tensor:
    """max(0, fall / (1/2 F moved^2 + epsilon)), like theta: fall of the loss per distance that the answers moved.

    fall, F >= 0, moved: of one shape. epsilon: > 0.
    """
    checks.alike(fall=fall, F=F, moved=moved)
    checks.positive("epsilon", epsilon)
    if bool((F < 0).any()):
        raise ValueError(f"F must not be negative, got {F.min().item():g}")
    return (fall / (0.5 * F * moved.square() + epsilon)).clamp(min=0)


class RWalk(Springs):
    """lam: strength, >= 0; 0 is plain fine-tuning, bit for bit. alpha in [0, 1]: weight of the newest squared gradient.

    interval: steps between two additions to the score. epsilon: > 0, keeps weights at rest from dividing by 0.
    """

    needs_task_gradient = True

    def __init__(self, lam: float = 0.1, alpha: float = 0.9, interval: int = 10, epsilon: float = 1e-3):
        self.lam = checks.number("lam", lam, 0.0)
        self.alpha = checks.number("alpha", alpha, 0.0, 1.0)
        self.interval = checks.integer("interval", interval, 1)
        self.epsilon = checks.positive("epsilon", epsilon)  # a weight that did not move would be divided by 0

    @property
    def strength(self) -> float:
        """2 lam: the springs have a factor 1/2 that RWalk has not."""
        return 2 * self.lam

    def start_run(self, ctx: Context) -> None:
        super().start_run(ctx)
        self.score: dict[str, Tensor] = {}  # s^k

    def start_task(self, ctx: Context) -> None:
        self.F: dict[str, Tensor] = {}
        self.s: dict[str, Tensor] = {}
        self.fall: dict[str, Tensor] = {}
        self.since: dict[str, Tensor] = {}
        self.steps = 0

    @torch.no_grad()
    def gradients(self, ctx: Context) -> None:
        theta = {name: p for name, p in ctx.model.named_parameters() if name in ctx.task_gradient}
        if not self.F:
            self.F = {name: torch.zeros_like(p) for name, p in theta.items()}
            self.s = {name: torch.zeros_like(p) for name, p in theta.items()}
            self.fall = {name: torch.zeros_like(p) for name, p in theta.items()}
            self.since = {name: p.clone() for name, p in theta.items()}
        self.before = {name: p.clone() for name, p in theta.items()}

    @torch.no_grad()
    def after_step(self, ctx: Context, batch: Batch) -> None:
        theta = dict(ctx.model.named_parameters())
        self.steps += 1
        for name, before in self.before.items():
            g = ctx.task_gradient[name]
            # F_i <- alpha g_i^2 + (1 - alpha) F_i
            self.F[name] = self.alpha * g.square() + (1 - self.alpha) * self.F[name]
            self.fall[name] -= g * (theta[name] - before)
        if self.steps % self.interval == 0:
            self.add_score(theta)

    def add_score(self, theta: dict[str, Tensor]) -> None:
        """s of the way since the last call, for weights that are now at theta."""
        for name, since in self.since.items():
            self.s[name] += path_score(self.fall[name], self.F[name], theta[name] - since, self.epsilon)
            self.fall[name], self.since[name] = torch.zeros_like(since), theta[name].clone()

    @torch.no_grad()
    def end_task(self, ctx: Context) -> Iterator[Phase]:
        if self.steps % self.interval:
            self.add_score(dict(ctx.model.named_parameters()))
        F, s = _scaled(self.F), _scaled(self.s)
        if self.score:
            # s^k = (s^{k-1} + s) / 2; rows that have grown since have no earlier score
            s = {name: (_like(self.score.get(name), new) + new) / 2 for name, new in s.items()}
        self.score = {**self.score, **s}
        # what was frozen in this task keeps its importance
        before = self.held[-1].F if self.held else {}
        self.hold(ctx.model, {**before, **{name: F[name] + s[name] for name in F}}, keep=0.0)
        yield Phase("walk", {"max": max(value.max().item() for value in self.held[0].F.values())})

    def state_dict(self) -> dict:
        running = {name: getattr(self, name) for name in ("score", "F", "s", "fall", "since")}
        return {**super().state_dict(), **running, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for name in ("score", "F", "s", "fall", "since"):
            setattr(self, name, self.moved(state[name]))
        self.steps = state["steps"]


def _scaled(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divided by the largest entry of all, so that it becomes 1."""
    largest = max(value.max().item() for value in values.values())
    return {name: value / largest if largest > 0 else value for name, value in values.items()}


def _like(old: Tensor | None, new: Tensor) -> Tensor:
    grown = torch.zeros_like(new)
    if old is not None:
        grown[: len(old)] = old
    return grown
