"""Lifelong-MoE: each stage of the data brings new experts; old experts and old router rows stay as they are.

    L(theta_new, theta_shared) = L_task + lam KL( M_old(x) || M_new(x) )

Symbols: M_old, the model before the stage, and M_new, the model being trained, as distributions [N, C] over the classes
of earlier stages; theta_new, the stage's experts and router rows; theta_shared, everything else that is not frozen.
Frozen rows do not freeze routing. The new rows compete with the old ones, and the shared layers below move what both
of them see: tokens of earlier stages drift to other experts. That is what the KL term is for. The Phase "routing" tells
for each earlier stage which share of its assignments has moved, and which share is now with experts that came later.
Source: Chen et al. 2023, "Lifelong language pretraining with distribution-specialized experts". k stays as it was, so
the experts' work per token does too; the router's work and the memory grow with E.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.balance import moe_layers
from cllab.isolation.growth import INITS, freeze_old, grow, wake
from cllab.training import Batch, Context, Method, Phase, evaluating, frozen_copy


def kl_to_old(old: Tensor, new: Tensor) -> Tensor:
    """Mean over rows of KL(p_old || p_new) for logits [N, C]; a scalar in nats, 0 where both answer alike."""
    checks.floats("old", old, 2)
    checks.alike(old=old, new=new)
    old, new = (logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in (old, new))
    # KL = sum_c p_old (ln p_old - ln p_new)
    return F.kl_div(new.log_softmax(1), old.log_softmax(1), reduction="batchmean", log_target=True)


def routing_drift(before: Tensor, after: Tensor) -> float:
    """Share of the assignments in `before` that `after` lacks: int64 [N, k] each, a token's k in any order."""
    for name, value in (("before", before), ("after", after)):
        if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.ndim != 2 or value.numel() == 0:
            raise TypeError(f"{name} must be an int64 tensor [N, k] of experts")
    if before.shape != after.shape:
        raise ValueError(f"after must have the shape {tuple(before.shape)} of before, got {tuple(after.shape)}")
    stayed = (before[:, :, None] == after[:, None, :]).any(dim=2)
    return 1 - stayed.double().mean().item()


class LifelongMoE(Method):
    """Grow, freeze, distil: for a model with `MoE` layers whose tokens choose their experts.

    n_new: experts that each later task adds to every layer. lam: weight of the KL term, >= 0. init, noise: how they
    start (growth.py); copies are made of the experts that the new task's rows use most. quiet: with "silent", for how
    many steps the new experts stay without tokens before they compete; 0: they are woken after the first step.
    freeze: False leaves the old experts and rows to move, to see what freezing does. ("split" takes ln 2 from the bias
    of the old row that it copies, frozen or not.) Drift is counted over the assignments of all layers together.

    The model is changed in place and keeps its experts. The next run of the same object on it lets all of them learn.
    """

    def __init__(
        self, n_new: int = 1, lam: float = 1.0, init: str = "copy", *, noise: float = 0.0, quiet: int = 0,
        freeze: bool = True,
    ):  # fmt: skip
        self.n_new = checks.integer("n_new", n_new, 1)
        self.lam = checks.number("lam", lam, 0.0)
        self.init = checks.choice("init", init, INITS)
        self.noise = checks.number("noise", noise, 0.0)
        self.quiet = checks.integer("quiet", quiet, 0)
        if quiet and init != "silent":
            raise ValueError(f'quiet must be 0 unless init is "silent", got {quiet} with {init!r}')
        self.freeze = checks.flag("freeze", freeze)
        self._froze: list[nn.Parameter] = []

    def start_run(self, ctx: Context) -> None:
        layers = moe_layers(ctx.model)
        if not layers or any(layer.choice == "expert" for layer in layers):
            raise ValueError("model must contain MoE layers whose tokens choose their experts")
        own = {id(p) for p in ctx.model.parameters()}
        for parameter in self._froze:
            if id(parameter) in own:
                parameter.requires_grad_(True)
        self._froze = []
        self.teacher: nn.Module | None = None
        self.steps = 0
        self.routes: list[list[Tensor]] = []  # of each task's test rows when it was learned: per layer [N, k]
        self.sizes: list[list[int]] = []  # experts of each layer then

    def start_task(self, ctx: Context) -> None:
        if ctx.task_index == 0:
            return
        self.teacher = frozen_copy(ctx.model)
        self.steps = 0
        self._routes(ctx.model, ctx.task.x)
        for layer in moe_layers(ctx.model):
            busiest = layer.routing.load.argsort(descending=True, stable=True).tolist()
            source = None if self.init == "random" else [busiest[i % len(busiest)] for i in range(self.n_new)]
            grow(layer, self.n_new, self.init, source=source, noise=self.noise, generator=self.generator)
            if self.freeze:
                self._froze += freeze_old(layer)
        known = sorted({c for task in ctx.stream.tasks[: ctx.task_index] for c in task.classes})
        self.known = torch.tensor(known, device=ctx.device)

    def parameters(self, ctx: Context) -> list[nn.Parameter]:
        return [parameter for parameter in ctx.model.parameters() if parameter.requires_grad]

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        if self.teacher is None or self.lam == 0:
            return {}
        with torch.no_grad():
            old = self.teacher(batch.x)
        return {"KL to old": self.lam * kl_to_old(old[:, self.known], outputs[:, self.known])}

    def after_step(self, ctx: Context, batch: Batch) -> None:
        self.steps += 1
        if self.steps == max(self.quiet, 1):
            self._wake(ctx)

    def _wake(self, ctx: Context) -> None:
        if self.init == "silent" and self.teacher is not None:
            for layer in moe_layers(ctx.model):
                wake(layer)

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        if self.steps < self.quiet:  # a task with fewer steps than that
            self._wake(ctx)
        drift, gone = [], []
        for before, sizes, task in zip(self.routes, self.sizes, ctx.stream.tasks, strict=False):
            after = self._routes(ctx.model, task.x_test)
            total = sum(layer.numel() for layer in after)
            moved = sum(routing_drift(b, a) * a.numel() for b, a in zip(before, after, strict=True))
            newer = sum(int((a >= size).sum()) for a, size in zip(after, sizes, strict=True))
            drift.append(moved / total)
            gone.append(newer / total)
        self.routes.append(self._routes(ctx.model, ctx.task.x_test))
        self.sizes.append([layer.n_experts for layer in moe_layers(ctx.model)])
        yield Phase("routing", {"experts": self.sizes[-1][0], "drift": drift, "to newer experts": gone})

    def state_dict(self) -> dict:
        return {
            "teacher": None if self.teacher is None else self.teacher.state_dict(), "steps": self.steps,
            "routes": self.routes, "sizes": self.sizes,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        if state["teacher"] is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.steps, self.sizes = state["steps"], list(state["sizes"])
        self.routes = list(state["routes"])

    @torch.no_grad()
    def _routes(self, model: nn.Module, x: Tensor) -> list[Tensor]:
        """The experts of the rows x in every layer, int64 [N, k] each, on the CPU."""
        with evaluating(model):
            model(x)
        return [layer.routing.expert.cpu() for layer in moe_layers(model)]
