"""Learning without forgetting: on the new rows, keep giving the old answers.

    L(theta) = L_new(theta) + lam sum_h T^2 KL(q_h || p_h)

Symbols: q_h, p_h, the old network's and the present one's softmax at temperature T over the classes of old head h, both
on the same rows, [B, C_h]; KL is a mean over rows, see distillation.py. No old data is kept, only the old network.
Heads: task-incremental, one per earlier task; class-incremental, one with the classes of all earlier tasks (the new
columns learn from the labels alone); domain-incremental, the one head that all tasks share.
Warm-up (optional, as in the paper): for the first epochs of a task only the new classes' outputs are trained.
Source: Li & Hoiem 2016, "Learning without forgetting". Departures: the old answers are computed batch by batch instead
of once before training, with the same result; T^2 is there, which the authors' code leaves out.
"""

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.regularization.distillation import distillation_loss, temperature_of
from cllab.training import Batch, Context, Method, frozen_copy


def old_heads(ctx: Context) -> list[Tensor]:
    """Which output columns form a softmax of their own in the old network: int64 [C_h] each."""
    earlier = [sorted(task.classes) for task in ctx.stream.tasks[: ctx.task_index]]
    if ctx.stream.scenario != "task":
        earlier = [sorted({c for columns in earlier for c in columns})] if earlier else []
    return [torch.tensor(columns, device=ctx.device) for columns in earlier]


class LwF(Method):
    """Fine-tuning that also imitates the network it was before the task; lam = 0 without warm-up is plain fine-tuning.

    lam: weight of the old answers, >= 0 (1 in the paper). temperature: T > 0. warmup: epochs at the start of each later
    task in which only the outputs of its new classes move (none where a task brings no new class); needs a model with a
    linear `head`.
    With a replay method in the list the replayed rows are distilled as well.
    """

    def __init__(self, lam: float = 1.0, temperature: float = 2.0, *, warmup: int = 0):
        self.lam = checks.number("lam", lam, 0.0)
        self.temperature = temperature_of(temperature)
        self.warmup = checks.integer("warmup", warmup, 0)

    def start_run(self, ctx: Context) -> None:
        self.teacher: nn.Module | None = None
        if self.warmup and ctx.stream.scenario == "domain":
            raise ValueError("warmup must be 0 in the domain-incremental scenario: no task brings outputs of its own")
        if self.warmup and not isinstance(getattr(ctx.model, "head", None), nn.Linear):
            raise ValueError("warmup needs a model whose `head` is a linear layer with one output per class")

    def start_task(self, ctx: Context) -> None:
        self.heads = old_heads(ctx)
        if self.heads and self.lam > 0:
            self.teacher = frozen_copy(ctx.model)

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        if self.teacher is None:
            return {}
        z_old = self.teacher(batch.x)
        # sum_h T^2 KL(q_h || p_h)
        terms = [distillation_loss(outputs[:, h], z_old[:, h], self.temperature) for h in self.heads]
        return {"LwF": self.lam * sum(terms)}

    def gradients(self, ctx: Context) -> None:
        if not self._warming(ctx):
            return
        head = ctx.model.head
        self.before = [p.detach().clone() for p in head.parameters()]
        for parameter in set(ctx.model.parameters()) - set(head.parameters()):
            parameter.grad = None  # the optimiser passes over it, weight decay and momentum included

    @torch.no_grad()
    def after_step(self, ctx: Context, batch: Batch) -> None:
        if not self._warming(ctx):
            return
        known = torch.cat(self.heads)
        for parameter, before in zip(ctx.model.head.parameters(), self.before, strict=True):
            parameter[known] = before[known]  # restored: a masked gradient would still move by momentum

    def state_dict(self) -> dict:
        return {"teacher": None if self.teacher is None else self.teacher.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        if state["teacher"] is not None:
            self.teacher.load_state_dict(state["teacher"])

    def _warming(self, ctx: Context) -> bool:
        known = {c for head in self.heads for c in head.tolist()}
        return bool(known) and not set(ctx.task.classes) <= known and ctx.epoch < self.warmup
