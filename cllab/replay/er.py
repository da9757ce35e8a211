"""Experience replay: train on each new batch together with a few remembered rows.

    L = (1 - rho) * mean CE(new rows) + rho * mean CE(memory rows)

Symbols: rho in [0, 1), the share of the memory; both means are over that step's rows.
Source: Chaudhry et al. 2019, "On tiny episodic memories in continual learning". Departures: rho is explicit,
where a mean over the union lets the two batch sizes decide; rows are offered to the memory in the first epoch
only, since a row seen twice is still one sample; replay starts with the second task, as before it there is
nothing to forget.
"""

from cllab import checks
from cllab.device import generator
from cllab.replay.reservoir import MOST, Reservoir
from cllab.training import Batch, Context, Method


class ExperienceReplay(Method):
    """Replay from a reservoir.

    capacity: K, rows in memory. batch_size: memory rows per step, default as many as there are new ones.
    rho: share of the memory in the loss; 0 replays nothing and is plain fine-tuning, bit for bit.
    """

    def __init__(self, capacity: int, batch_size: int | None = None, rho: float = 0.5):
        self.capacity = checks.integer("capacity", capacity, 1, MOST)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        self.rho = checks.number("rho", rho, 0.0, 1.0)
        if rho == 1.0:
            raise ValueError("rho must be below 1: nothing would be learned of the new task")
        self.memory = Reservoir(self.capacity, generator(0))

    def start_run(self, ctx: Context) -> None:
        self.memory = Reservoir(self.capacity, self.generator)
        self.device = ctx.device

    def replay(self, ctx: Context, batch: Batch) -> list[Batch]:
        if ctx.task_index == 0 or self.rho == 0:
            return []
        rows = self.memory.sample(self.batch_size or len(batch.y))
        ctx.info["replayed"] = len(rows.y)
        # new rows weigh 1, so this ratio makes the shares 1 - rho and rho
        weight = self.rho / (1 - self.rho)
        return [Batch.of("memory", rows.x, rows.y, rows.task, ctx.allowed(rows.task), weight)]

    def after_step(self, ctx: Context, batch: Batch) -> None:
        if ctx.epoch == 0:
            self.memory.add(batch.x, batch.y, task=batch.task)

    def state_dict(self) -> dict:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.memory.load_state_dict(state["memory"], self.device)
