"""The bounds that every method is judged between: fine-tuning below (`methods=[]`) and joint training above."""

import torch
from torch import Tensor

from cllab.training.batch import Batch
from cllab.training.context import Context
from cllab.training.method import Method


class Joint(Method):
    """Joint training: nothing is ever thrown away, each step sees the new task and all earlier ones in proportion.

    The reference that continual learning is measured against, not a continual learner. In task t (counted from 0)
    every batch comes with t times as many rows drawn uniformly from all earlier tasks' training rows, at most as many
    as there are; the parts are weighted by their data's sizes, so that the expected gradient is that of the mean loss
    over tasks 0 .. t.
    The diagonal R[k, k] of such a run is the reference a*_k of `cllab.metrics.intransigence`.
    """

    def start_task(self, ctx: Context) -> None:
        """Gather everything that has come before."""
        past = [ctx.stream[i] for i in range(ctx.task_index)]
        self.x: Tensor | None = torch.cat([task.x for task in past]) if past else None
        if past:
            self.y = torch.cat([task.y for task in past])
            self.task = torch.cat([torch.full_like(task.y, i) for i, task in enumerate(past)])
            self.allowed = ctx.allowed(self.task)

    def memory_bytes(self) -> int:
        """Bytes of all earlier tasks' rows and labels."""
        return 0 if self.x is None else self.x.nbytes + self.y.nbytes

    def replay(self, ctx: Context, batch: Batch) -> list[Batch]:
        """Rows of the past, in proportion."""
        if self.x is None:
            return []
        n = min(len(batch.y) * ctx.task_index, len(self.y))
        rows = torch.randint(len(self.y), (n,), generator=self.generator).to(ctx.device)
        weight = len(self.y) / len(ctx.task.y)
        return [Batch.of("past", self.x[rows], self.y[rows], self.task[rows], self.allowed[rows], weight)]
