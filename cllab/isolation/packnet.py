"""PackNet: several tasks in one network, each in weights that the tasks before it did not need.

    train     the free weights on task t; those of tasks 1 .. t - 1 stay, and are read
    prune     in each layer, keep the r_t largest |w| among the weights just trained; the others become 0 and free
    retrain   the kept ones alone, for they have lost their company
    freeze    them: o = t, for good
    test      task t reads theta_t = theta * 1{1 <= o <= t}

Symbols, and the arithmetic of pruning and reading: see pruning.py.
Freezing means to put the values back after every step: with its gradient set to zero a weight still moves by weight
decay, by momentum, and by what Adam remembers. Biases, norm layers (affine and statistics) and whatever else has no
owner map are trained by the first task alone and read by all.
Source: Mallya & Lazebnik 2018, "PackNet: adding multiple tasks to a single network by iterative pruning"; their code
for biases and norm layers, for the shares (50 % pruned of the first task, 75 % of each later one), for freed weights
that start again from 0, and for retraining at a tenth of the learning rate.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.isolating import Isolating
from cllab.isolation.pruning import CapacityError, packed, prune, schedule, share_of, share_out
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import switches, using
from cllab.training import Batch, Context, Phase, answer_with, shuffled, task_loss

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose weights are packed."""
MOST_TASKS = 255
"""An owner map has one byte per weight."""


class PackNet(Isolating):
    """Owner maps on the weights of every linear and convolution layer besides the head, and a head for each task.

    keep: r_1, r_2, ... in (0, 1], the last one for all later tasks; a number goes for all. retrain_epochs: passes over
    the task after pruning, by default half as many as before it, as in the paper (on an online stream none).
    retrain_lr: their learning rate, as a multiple of that of `fit`. Retraining sees the task loss alone, with an
    optimiser of its own.

    Layers fill up one by one; in a full layer a task reads what is there. A stream that leaves a task no free weight
    at all raises CapacityError before anything is trained. owner: {parameter name: owner map, uint8}.
    """

    def __init__(
        self,
        keep: float | Sequence[float] = (0.5, 0.25),
        retrain_epochs: int | None = None,
        retrain_lr: float = 0.1,
        selector: TaskSelector | None = None,
    ):
        super().__init__(selector)
        self.keep = schedule(keep)
        self.retrain_epochs = None if retrain_epochs is None else checks.integer("retrain_epochs", retrain_epochs, 0)
        self.retrain_lr = checks.number("retrain_lr", retrain_lr, 0.0)
        self.owner: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"(keep={self.keep}, ", 1)

    def start_run(self, ctx: Context) -> None:
        if ctx.stream.online and self.retrain_epochs:
            raise ValueError(f"retrain_epochs must be 0 for an online stream, got {self.retrain_epochs}")
        super().start_run(ctx)

    def attach(self, ctx: Context) -> None:
        self.weights = _packable(ctx.model)
        self._check_capacity(len(ctx.stream))
        self.owner = {name: torch.zeros_like(w, dtype=torch.uint8) for name, w in self.weights.items()}

    def start_task(self, ctx: Context) -> None:
        super().start_task(ctx)
        if ctx.task_index > 0:
            self._freeze_the_rest(ctx.model)
        self._let_move(0)

    def gradients(self, ctx: Context) -> None:
        for name, w in self.weights.items():
            if w.grad is not None:
                w.grad.masked_fill_(self.owner[name] != self.moving, 0.0)

    @torch.no_grad()
    def after_step(self, ctx: Context, batch: Batch) -> None:
        """Put back what momentum, weight decay or Adam's memory has moved of weights that are not this task's."""
        for name, w in self.weights.items():
            w.copy_(torch.where(self.owner[name] == self.moving, w, self.held[name]))

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        pruned = self._prune(ctx.task_index)
        self._let_move(ctx.task_index + 1)
        yield pruned
        yield from self._retrain(ctx)
        self._freeze_the_rest(ctx.model)
        yield from super().end_task(ctx)

    def answer(self, model: nn.Module, x: Tensor, task: int) -> Tensor:
        """Logits [N, C] with the weights of tasks 0 .. `task`. The newest task and those to come read all there are."""
        if task >= self.newest:
            return super().answer(model, x, task)
        theta = {name: packed(w, self.owner[name], task + 1) for name, w in self.weights.items()}
        with using(model, task):
            return answer_with(model, theta, x)

    def memory_bytes(self) -> int:
        """All heads and the owner maps, a byte per weight (ceil(log2(T + 1)) bits would do for T tasks)."""
        return super().memory_bytes() + sum(owner.nbytes for owner in self.owner.values())

    def state_dict(self) -> dict:
        return super().state_dict() | {"owner": self.owner}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.owner = {name: state["owner"][name].to(w.device) for name, w in self.weights.items()}
        self._let_move(0)

    def _let_move(self, owner: int) -> None:
        """From now on the weights of this owner may move (0: the free ones); all others keep their values."""
        self.moving = owner
        self.held = {name: w.detach().clone() for name, w in self.weights.items()}

    @torch.no_grad()
    def _prune(self, task: int) -> Phase:
        kept = freed = 0
        for name, w in self.weights.items():
            if bool((self.owner[name] == 0).any()):
                pruned = prune(w, self.owner[name], task + 1, share_of(self.keep, task))
                w.copy_(pruned.w)
                self.owner[name] = pruned.owner
                kept, freed = kept + pruned.kept, freed + len(pruned.ranked) - pruned.kept
        full = sum(not bool((owner == 0).any()) for owner in self.owner.values())
        return Phase("prune", {"kept": kept, "free": freed, "weights": self._n_weights(), "full layers": full})

    def _retrain(self, ctx: Context) -> Iterator[Phase]:
        epochs = self.retrain_epochs
        if epochs is None:
            epochs = 0 if ctx.stream.online else math.ceil(ctx.epochs / 2)
        if epochs == 0:
            return
        optimizer = ctx.make_optimizer(self.parameters(ctx), lr=self.retrain_lr * ctx.lr)
        allowed, n = ctx.allowed(ctx.task_index), len(ctx.task.y)
        for epoch in range(1, epochs + 1):
            total = 0.0
            for rows in shuffled(n, ctx.batch_size, self.generator):
                rows = rows.to(ctx.device)
                task = torch.full_like(rows, ctx.task_index)
                batch = Batch.of("new", ctx.task.x[rows], ctx.task.y[rows], task, allowed.expand(len(rows), -1))
                optimizer.zero_grad()
                with ctx.randomness():
                    loss = task_loss(ctx.model(batch.x), batch)
                loss.backward()
                self.gradients(ctx)
                optimizer.step()
                self.after_step(ctx, batch)
                total += loss.item() * len(rows)
            if not math.isfinite(total):
                raise FloatingPointError("the loss of PackNet's retraining is no longer finite: lower retrain_lr")
            yield Phase("retrain", {"epoch": epoch, "epochs": epochs, "loss": total / n})

    def _freeze_the_rest(self, model: nn.Module) -> None:
        """What has no owner map, besides the heads, stays from the second task on."""
        own = {id(w) for w in self.weights.values()} | {id(p) for p in model.head.parameters()}
        self.freeze([p for p in model.parameters() if id(p) not in own], list(model.modules()))

    def _check_capacity(self, n_tasks: int) -> None:
        if not self.weights:
            raise ValueError("model must have a linear or convolution layer besides its head, to be packed")
        checks.integer("the number of tasks", n_tasks, 1, MOST_TASKS)
        shares = [share_out(w.numel(), self.keep, n_tasks) for w in self.weights.values()]
        for t, owned in enumerate(zip(*shares, strict=True)):
            if sum(owned) == 0:
                raise CapacityError(
                    f"keep={self.keep} leaves no free weight for task {t + 1} of {n_tasks}: all {self._n_weights()} "
                    "are owned by then; keep less of each task, or take a wider model"
                )

    def _n_weights(self) -> int:
        return sum(w.numel() for w in self.weights.values())


def _packable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weights of linear and convolution layers outside the heads, each once, by name."""
    inside = {id(inner) for switch in switches(model) for inner in switch.modules()}
    layers = [module for module in model.modules() if isinstance(module, LAYERS) and id(module) not in inside]
    weights = {id(layer._parameters.get("weight")) for layer in layers}
    return {name: p for name, p in model.named_parameters() if id(p) in weights and p.requires_grad}
