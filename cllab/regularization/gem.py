"""Gradient episodic memory: keep a few rows of every task, and never step where one of their losses would rise.

    GEM:    u = argmin_u 1/2 ||u - g||^2   subject to   g_k . u >= 0 for every past task k
    A-GEM:  u = g - (g . r / r . r) r  if  g . r < 0

Symbols, all [p]: g, the gradient of this step's whole loss; g_k, that of the loss on task k's memory, at the present
weights (rows are kept, never gradients); r, that of one random batch from the memories of all past tasks.
The promise is first-order and holds for the step -lr u, so plain SGD keeps it and momentum or Adam bend it.
Memory gradients are taken in eval mode: they move no running statistics and draw no dropout. They are those of the
cross-entropy, also beside a method that replaces the task loss (iCaRL).
Source: Lopez-Paz & Ranzato 2017 (GEM; memory of 256 rows per task, margin 0.5, batch 10 and lr 0.1 there) and Chaudhry
et al. 2019 (A-GEM). A task's memory is its last rows to arrive in the first epoch.
"""

import torch
from torch import Tensor

from cllab import checks
from cllab.regularization.projection import project, project_on_one
from cllab.training import Batch, Context, Method, evaluating, task_loss


class GEM(Method):
    """per_task: rows kept of each task. margin: gamma >= 0, see projection.py.

    `info` of each later step holds the number of past tasks whose loss would have risen ("violated") and the cosine of
    the angle between g and the gradient that is worst off ("cosine").
    """

    def __init__(self, per_task: int = 256, margin: float = 0.5):
        self.per_task = checks.integer("per_task", per_task, 1)
        self.margin = checks.number("margin", margin, 0.0)

    def start_run(self, ctx: Context) -> None:
        self.memory: list[tuple[Tensor, Tensor]] = []  # (x, y) per task
        self.device = ctx.device

    def gradients(self, ctx: Context) -> None:
        if ctx.task_index == 0:
            return
        g, G = flat_gradient(ctx), self.constraints(ctx)
        dots = G @ g
        lengths = (G.norm(dim=1) * g.norm()).clamp(min=torch.finfo(g.dtype).tiny)
        ctx.info.update(violated=int((dots < 0).sum()), cosine=(dots / lengths).min().item())
        u = self.projected(g, G)
        if u is not g:
            write_gradient(ctx, u)

    def constraints(self, ctx: Context) -> Tensor:
        """G [t, p]: the gradient of each past task's memory."""
        rows = [memory_gradient(ctx, x, y, torch.full_like(y, task)) for task, (x, y) in enumerate(self.past(ctx))]
        return torch.stack(rows)

    def projected(self, g: Tensor, G: Tensor) -> Tensor:
        """u [p]."""
        return project(g, G, self.margin)

    def past(self, ctx: Context) -> list[tuple[Tensor, Tensor]]:
        """The memories of earlier tasks."""
        return self.memory[: ctx.task_index]

    def after_step(self, ctx: Context, batch: Batch) -> None:
        if ctx.epoch > 0:
            return
        if len(self.memory) == ctx.task_index:
            self.memory.append((batch.x[:0], batch.y[:0]))
        x, y = self.memory[ctx.task_index]
        kept = slice(-self.per_task, None)
        self.memory[ctx.task_index] = (torch.cat([x, batch.x])[kept].clone(), torch.cat([y, batch.y])[kept].clone())

    def memory_bytes(self) -> int:
        """Bytes of all tasks' rows and labels."""
        return sum(x.nbytes + y.nbytes for x, y in self.memory)

    def state_dict(self) -> dict:
        return {"memory": [list(rows) for rows in self.memory]}

    def load_state_dict(self, state: dict) -> None:
        self.memory = [(x.to(self.device), y.to(self.device)) for x, y in state["memory"]]


class AGEM(GEM):
    """One constraint instead of one per task: the gradient of `batch_size` random rows of all past tasks' memories.

    per_task: rows kept of each task. batch_size: rows drawn per step, default as many as of the new task.
    """

    def __init__(self, per_task: int = 256, batch_size: int | None = None):
        super().__init__(per_task, margin=0.0)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)

    def constraints(self, ctx: Context) -> Tensor:
        """r as a matrix [1, p]."""
        past = self.past(ctx)
        x, y = (torch.cat(column) for column in zip(*past, strict=True))
        task = torch.cat([torch.full_like(y_k, k) for k, (_, y_k) in enumerate(past)])
        rows = torch.randperm(len(y), generator=self.generator)[: self.batch_size or ctx.batch_size].to(y.device)
        return memory_gradient(ctx, x[rows], y[rows], task[rows])[None]

    def projected(self, g: Tensor, G: Tensor) -> Tensor:
        return project_on_one(g, G[0])


def memory_gradient(ctx: Context, x: Tensor, y: Tensor, task: Tensor) -> Tensor:
    """Gradient [p] of the mean loss on memory rows, each under its own task's mask; `.grad` is not touched."""
    parameters = _trained(ctx)
    with evaluating(ctx.model):
        loss = task_loss(ctx.model(x), Batch.of("memory", x, y, task, ctx.allowed(task)))
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([_or_zeros(g, p) for g, p in zip(gradients, parameters, strict=True)])


def flat_gradient(ctx: Context) -> Tensor:
    """g [p]: the gradients of all trained parameters as one vector, zeros where there is none."""
    return torch.cat([_or_zeros(p.grad, p) for p in _trained(ctx)])


def write_gradient(ctx: Context, u: Tensor) -> None:
    """Put u [p] in the place of the gradients; a parameter without one stays without."""
    parameters = _trained(ctx)
    for p, part in zip(parameters, u.split([p.numel() for p in parameters]), strict=True):
        if p.grad is not None:
            p.grad.copy_(part.view_as(p))


def _trained(ctx: Context) -> list[torch.nn.Parameter]:
    return [p for p in ctx.model.parameters() if p.requires_grad]


def _or_zeros(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
