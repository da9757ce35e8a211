"""GDumb: keep a balanced memory, and when asked train a new network on nothing but the memory.

Idea. While a task runs nothing is learned, rows are only collected. At its end the network starts again from its
initial weights and is trained on the memory as if that were an ordinary data set. It cannot forget, as nothing is
carried over but rows, and a continual learner that does worse with the same memory has gained nothing from the rest
of the stream. That is what it is for: a baseline.

    memory not full: store the row (x, c)
    memory full:     if c is not a largest class, a random row of the largest classes makes room; else reject

Symbols: K = capacity, rows at most; a largest class is one of those with most rows in memory.
Source: Prabhu, Torr & Dokania 2020, "GDumb: a simple approach that questions our progress in continual learning".
Departures: the network is trained after every task, and with the run's optimiser at a constant rate (the paper anneals
it with restarts and mixes images); a class may have more than K / t rows while slots are free.
The loop's own steps are still counted and their losses told, but their gradients are dropped: the weights stay.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab import checks
from cllab.replay.cbrs import freed_slot, largest_classes
from cllab.replay.memory import MOST, Memory
from cllab.training import Batch, Context, Method, Phase, masked, shuffled


def greedy_slots(labels: list[int], draws: list[int], capacity: int, where: dict[int, list[int]]) -> list[int]:
    """Slot of each offered row, -1 for rejected ones.

    draws: a non-negative integer per row; modulo the number of rows in question it decides which makes room.
    where: {class: its slots}, brought up to date; start with an empty dict.
    """
    slots = []
    stored = sum(len(own) for own in where.values())
    for c, draw in zip(labels, draws, strict=True):
        own = where.setdefault(c, [])
        if stored < capacity:
            own.append(stored)
            stored += 1
            slots.append(own[-1])
            continue
        if c in largest_classes(where):
            slots.append(-1)
            continue
        # a random row of the largest classes makes room
        own.append(freed_slot(where, draw))
        slots.append(own[-1])
    return slots


class GreedyBalanced(Memory):
    """Classes as evenly in `capacity` slots as the stream allows, room being made in the largest ones only.

    capacity: K >= 1. generator: CPU torch.Generator for the draws and for `sample`; generator(0) when left out.
    """

    def __init__(self, capacity: int, generator: torch.Generator | None = None):
        super().__init__(capacity, generator)
        self._where: dict[int, list[int]] = {}

    def _slots(self, y: Tensor) -> Tensor:
        draws = torch.randint(MOST, (len(y),), generator=self.generator).tolist()
        return torch.tensor(greedy_slots(y.tolist(), draws, self.capacity, self._where))

    def state_dict(self) -> dict:
        """As every memory, and each class's slots."""
        return super().state_dict() | {"where": {c: list(own) for c, own in self._where.items()}}

    def _take(self, state: dict, device: torch.device | str | None) -> None:
        super()._take(state, device)
        self._where = self._slots_by_class(state)


class GDumb(Method):
    """Train from scratch on the memory after each task; it must be the only method of a run.

    capacity: K, rows in a greedy class-balanced memory. epochs: passes over the memory. batch_size: rows per step of
    that training. lr: its learning rate, default the run's. The optimiser is the run's, new for each training.
    """

    def __init__(self, capacity: int, epochs: int = 30, batch_size: int = 16, lr: float | None = None):
        self.capacity = checks.integer("capacity", capacity, 1, MOST)
        self.epochs = checks.integer("epochs", epochs, 1)
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        self.lr = None if lr is None else checks.number("lr", lr, 0.0)
        self.memory = GreedyBalanced(self.capacity)  # empty until a run makes its own

    def start_run(self, ctx: Context) -> None:
        others = [type(method).__name__ for method in ctx.methods if method is not self]
        if others:
            raise ValueError(
                "GDumb must be the only method of a run: it trains a new network on its memory after each task, so "
                f"nothing that {' and '.join(others)} would do to the loop's own steps could have an effect"
            )
        self.memory = GreedyBalanced(self.capacity, self.generator)
        self.initial = {name: value.clone() for name, value in ctx.model.state_dict().items()}
        self.device = ctx.device

    def replay(self, ctx: Context, batch: Batch) -> list[Batch]:
        ctx.model.eval()  # a forward pass that teaches nothing must not move batch-norm statistics either
        return []

    def gradients(self, ctx: Context) -> None:
        for p in ctx.model.parameters():
            p.grad = None  # an optimiser passes over parameters without one

    def after_step(self, ctx: Context, batch: Batch) -> None:
        if ctx.epoch == 0:
            self.memory.add(batch.x, batch.y, task=batch.task)

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        ctx.model.load_state_dict(self.initial)
        ctx.model.train()
        trained = [p for p in ctx.model.parameters() if p.requires_grad]
        optimizer = ctx.make_optimizer(trained, lr=ctx.lr if self.lr is None else self.lr)
        rows = self.memory.sample(len(self.memory))
        allowed = ctx.allowed(rows.task)
        for epoch in range(1, self.epochs + 1):
            total = 0.0
            for chosen in shuffled(len(rows.y), self.batch_size, self.generator):
                i = chosen.to(rows.y.device)
                with ctx.randomness():
                    logits = ctx.model(rows.x[i])
                loss = F.cross_entropy(masked(logits, allowed[i]), rows.y[i])
                if not bool(torch.isfinite(loss)):
                    raise FloatingPointError(f"GDumb: the loss is no longer finite in epoch {epoch}: lower its lr")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(i)
            mean = total / len(rows.y)
            yield Phase("GDumb", {"epoch": epoch, "epochs": self.epochs, "rows": len(rows.y), "loss": mean})

    def memory_bytes(self) -> int:
        """Bytes of the stored rows, labels and task numbers."""
        return self.memory.nbytes

    def state_dict(self) -> dict:
        return {"memory": self.memory.state_dict(), "initial": self.initial}

    def load_state_dict(self, state: dict) -> None:
        self.memory.load_state_dict(state["memory"], self.device)
        self.initial = {name: value.to(self.device) for name, value in state["initial"].items()}
