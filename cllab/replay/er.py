"""Experience replay: train on each new batch together with a few remembered rows.

    L = (1 - rho) * mean CE(new rows) + rho * mean CE(memory rows)

Symbols: rho in [0, 1), the share of the memory; both means are over that step's rows.
With the whole past in memory and rho = |past| / (|past| + |new|) the expected gradient is the joint one.
Source: Chaudhry et al. 2019, "On tiny episodic memories in continual learning". Departures: rho is explicit,
where a mean over the union lets the two batch sizes decide; rows are offered to the memory in the first epoch
only, since a row seen twice is still one sample (so a batch never meets its own rows in memory while they are new;
in later epochs it may); replay starts with the second task, as before it there is nothing to forget.
"""

from cllab import checks
from cllab.replay.balanced import ClassBalanced
from cllab.replay.cbrs import ClassBalancedReservoir
from cllab.replay.memory import MOST, Memory
from cllab.replay.reservoir import Reservoir
from cllab.replay.ring import ClassRing, RingBuffer
from cllab.training import Batch, Context, Method

KINDS = {
    "reservoir": Reservoir, "ring": RingBuffer, "class_ring": ClassRing, "balanced": ClassBalanced,
    "cbrs": ClassBalancedReservoir,
}  # fmt: skip


def replay_weight(rho: float) -> float:
    """What memory rows weigh against new rows of weight 1, so that their share of the loss is rho in [0, 1)."""
    if checks.number("rho", rho, 0.0, 1.0) == 1.0:
        raise ValueError("rho must be below 1: nothing would be learned of the new task")
    # w / (1 + w) = rho
    return rho / (1 - rho)


class ExperienceReplay(Method):
    """Replay from a memory.

    capacity: K, rows in memory. batch_size: memory rows per step, default as many as there are new ones.
    rho: share of the memory in the loss; 0 replays nothing and is plain fine-tuning, bit for bit.
    memory: which rows are kept: "reservoir", "ring" (the last K), "class_ring" (the last K // C of each of the
    stream's C classes), "balanced" (equal shares, the first rows of each; both need K >= C) or "cbrs" (a fair sample
    of each class). balanced: draw every class equally often, not every row.
    The attribute `memory` is the memory itself, `kind` says which kind it is.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int | None = None,
        rho: float = 0.5,
        *,
        memory: str = "reservoir",
        balanced: bool = False,
    ):
        self.capacity = checks.integer("capacity", capacity, 1, MOST)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        self.rho = checks.number("rho", rho, 0.0, 1.0)
        self.weight = replay_weight(self.rho)
        self.kind = checks.choice("memory", memory, tuple(KINDS))
        self.balanced = checks.flag("balanced", balanced)
        self.memory: Memory = KINDS[self.kind](self.capacity)  # empty until a run makes its own

    def __repr__(self) -> str:
        """As every method's, and the kind of memory where it is not the default."""
        text = super().__repr__()
        return text if self.kind == "reservoir" else f"{text[:-1]}, memory={self.kind!r})"

    def start_run(self, ctx: Context) -> None:
        n_classes = len({c for task in ctx.stream for c in task.classes})
        if self.kind in ("class_ring", "balanced") and self.capacity < n_classes:
            raise ValueError(
                f"capacity must be at least {n_classes} with memory={self.kind!r}, a row for each class of the stream, "
                f"got {self.capacity}"
            )
        rows = self.capacity // n_classes if self.kind == "class_ring" else self.capacity
        self.memory = KINDS[self.kind](rows, self.generator)
        self.device = ctx.device

    def replay(self, ctx: Context, batch: Batch) -> list[Batch]:
        if ctx.task_index == 0 or self.rho == 0:
            return []
        rows = self.choose(ctx, batch, self.batch_size or len(batch.y))
        ctx.info["replayed"] = ctx.info.get("replayed", 0) + len(rows.y)
        return [Batch.of("memory", rows.x, rows.y, rows.task, ctx.allowed(rows.task), self.weight)]

    def choose(self, ctx: Context, batch: Batch, n: int) -> tuple:
        """The n rows to replay with the new `batch`: named columns x, y, task."""
        return self.memory.sample(n, balanced=self.balanced)

    def after_step(self, ctx: Context, batch: Batch) -> None:
        if ctx.epoch == 0:
            self.memory.add(batch.x, batch.y, task=batch.task)

    def memory_bytes(self) -> int:
        """Bytes of the stored rows, labels and task numbers."""
        return self.memory.nbytes

    def state_dict(self) -> dict:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.memory.load_state_dict(state["memory"], self.device)
