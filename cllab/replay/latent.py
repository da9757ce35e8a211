"""Latent replay: remember what the lower layers made of a row, and train only the layers above on it.

Idea: cut the model in two. Old rows are kept as latents, which are smaller than rows and cost no pass through the
lower part when they are replayed.

    h = f_low(x),    L = (1 - rho) * task loss of the batch + rho * mean CE(f_up(h'), y')

Symbols: f_low, f_up the model below and above the cut; h [N, ...] latents; h' the replayed ones, each with its own
task's mask; rho in [0, 1) their share, as in experience replay.
Source: Pellegrini et al. 2020, "Latent replay for real-time continual learning". Departures: f_low learns in the first
task and stands still afterwards (frozen=True), where the paper slows it down; the reservoir in place of random
replacement. Replay is then exact: f_up gets the very gradient that replaying the rows themselves would give.

Ageing: with frozen=False f_low goes on learning, and a stored latent is no longer what f_low would make of its row.
`latent_age` says by how much. Then replay may keep nothing at all: f_low is free to send every new row to a place of
its own, away from the old latents, and old rows go there too. BatchNorm belongs to f_low: it stands still only in eval
mode, or its running statistics move and latents age although no weight does.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator
from cllab.replay.er import replay_weight
from cllab.replay.memory import MOST
from cllab.replay.reservoir import Reservoir
from cllab.training import Batch, Context, Method, Phase, evaluating, masked, shuffled, task_loss


@torch.no_grad()
def latents(model: nn.Module, x: Tensor, stage: int) -> Tensor:
    """h = f_low(x), [N, ...], in eval mode: the same rows always give the same latents, and no statistics move.

    Raises ValueError for rows that are not finite, and for a model without hidden stages.
    """
    checks.floats("x", x, allow_empty=True)
    if not getattr(model, "stages", True):
        raise ValueError(f"model must have a hidden stage to cut after, this {type(model).__name__} has none")
    with evaluating(model):
        return model.lower(stage)(model.inputs(x))


def latent_age(stored: Tensor, now: Tensor) -> float:
    """Mean absolute difference between latents as stored and as they would be now, both [N, ...]."""
    for name, value in (("stored", stored), ("now", now)):
        checks.floats(name, value)
    if stored.shape != now.shape:
        raise ValueError(f"now must have the shape of stored {tuple(stored.shape)}, got {tuple(now.shape)}")
    # (1/ND) sum_nd |h_nd - f_low(x)_nd|
    return float((stored - now).abs().mean())


class LatentReplay(Method):
    """Replay latents from a reservoir through the upper part of the model.

    capacity: K, latents in memory. stage: the cut, after how many of the model's stages (a layer with its activation).
    batch_size: latents per step, default as many as there are new rows. rho: their share of the loss; 0 replays none.
    frozen: the lower part learns in the first task only, and the model keeps it frozen after the run. False: it goes
    on learning, and latents age. probe: how many rows are kept beside their latents, to tell the age after each task.

    With frozen=True the first task's latents are made after its last step, by the lower part as it will stay: one
    more look at that task's rows. All other latents are made in the first epoch, after the step on their batch.
    The next run of the same object on that model unfreezes what it froze, and nothing else. Another LatentReplay object
    cannot know who froze a parameter: give it a fresh model, or call model.requires_grad_(True) first.
    """

    def __init__(
        self, capacity: int, stage: int = 1, batch_size: int | None = None, rho: float = 0.5, *,
        frozen: bool = True, probe: int = 0,
    ):  # fmt: skip
        self.capacity = checks.integer("capacity", capacity, 1, MOST)
        self.stage = checks.integer("stage", stage, 1)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        self.rho = checks.number("rho", rho, 0.0, 1.0)
        replay_weight(self.rho)  # refuses rho = 1
        self.frozen = checks.flag("frozen", frozen)
        self.probe = checks.integer("probe", probe, 0)
        self.memory: Reservoir | None = None
        self.probes: Reservoir | None = None
        self._froze: set[nn.Parameter] = set()

    def start_run(self, ctx: Context) -> None:
        if not (hasattr(ctx.model, "lower") and hasattr(ctx.model, "upper")):
            raise TypeError(
                f"model must have lower(stage) and upper(stage) for latent replay, as a cllab.models.Classifier does; "
                f"{type(ctx.model).__name__} has not"
            )
        self.latent_shape = latents(ctx.model, ctx.stream[0].x[:1], self.stage).shape[1:]
        self.memory = Reservoir(self.capacity, self.generator)
        # with draws of its own, so that measuring does not change the run
        self.probes = Reservoir(self.probe, generator(ctx.seed, "LatentReplay probe")) if self.probe else None
        self.device = ctx.device
        own = set(ctx.model.parameters())
        for parameter in own & self._froze:
            parameter.requires_grad_(True)
        self._froze -= own

    def start_task(self, ctx: Context) -> None:
        if self.frozen and ctx.task_index > 0:
            lower = ctx.model.lower(self.stage)
            self._froze |= {parameter for parameter in lower.parameters() if parameter.requires_grad}
            lower.requires_grad_(False).eval()
            lower.zero_grad()  # a kept optimiser would go on with the first task's last gradient

    def parameters(self, ctx: Context) -> list[nn.Parameter] | None:
        if self.frozen and ctx.task_index > 0:
            return list(ctx.model.upper(self.stage).parameters())
        return None

    def task_loss(self, ctx: Context, batch: Batch, outputs: Tensor) -> Tensor | None:
        if ctx.task_index == 0 or self.rho == 0:
            return None
        new = batch.rows("new")
        kept = self.memory.sample(self.batch_size or new.stop - new.start)
        ctx.info["replayed"] = ctx.info.get("replayed", 0) + len(kept.y)
        with ctx.randomness():
            logits = ctx.model.upper(self.stage)(kept.x)
        replayed = F.cross_entropy(masked(logits, ctx.allowed(kept.task)), kept.y)
        # L = (1 - rho) * task loss + rho * CE(f_up(h'), y')
        return (1 - self.rho) * task_loss(outputs, batch) + self.rho * replayed

    def after_step(self, ctx: Context, batch: Batch) -> None:
        still_moving = self.frozen and ctx.task_index == 0
        if ctx.epoch == 0 and not still_moving:
            self._store(ctx, batch.x, batch.y, batch.task)

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        if self.frozen and ctx.task_index == 0:
            for rows in shuffled(len(ctx.task.y), ctx.batch_size, self.generator):
                rows = rows.to(self.device)
                self._store(ctx, ctx.task.x[rows], ctx.task.y[rows], torch.zeros_like(rows))
            yield Phase("latents of the first task", {"rows": len(ctx.task.y)})
        if self.probe:
            kept = self.probes.sample(self.probe)
            age = latent_age(kept.x, latents(ctx.model, kept.row, self.stage))
            yield Phase("age of latents", {"age": age, "rows": len(kept.y)})

    def memory_bytes(self) -> int:
        """The stored latents with their labels and tasks, and the probe rows."""
        return sum(memory.nbytes for memory in (self.memory, self.probes) if memory is not None)

    def state_dict(self) -> dict:
        return {name: memory.state_dict() for name, memory in self._memories().items()}

    def load_state_dict(self, state: dict) -> None:
        for name, memory in self._memories().items():
            stored = state[name]["columns"].get("x")
            if stored is not None and stored.shape[1:] != self.latent_shape:
                raise ValueError(
                    f"state must hold latents of shape {tuple(self.latent_shape)}, which the model has after stage "
                    f"{self.stage}, got {tuple(stored.shape[1:])}"
                )
            memory.load_state_dict(state[name], self.device)

    def _memories(self) -> dict[str, Reservoir]:
        return {"memory": self.memory} | ({"probes": self.probes} if self.probe else {})

    def _store(self, ctx: Context, x: Tensor, y: Tensor, task: Tensor) -> None:
        h = latents(ctx.model, x, self.stage)
        self.memory.add(h, y, task=task)
        if self.probe:
            self.probes.add(h, y, row=x)
