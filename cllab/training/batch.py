"""Rows to train on, each with its task, the classes it may use, and where it came from."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Part(NamedTuple):
    """Rows `rows` of a batch come from `source` ("new", "memory", ...) and weigh `weight` against other parts."""

    source: str
    rows: slice
    weight: float


class Batch(NamedTuple):
    """x [B, ...]; y int64 [B]; task int64 [B], each row's own task; allowed bool [B, C], each row's own mask."""

    x: Tensor
    y: Tensor
    task: Tensor
    allowed: Tensor
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, source: str, x: Tensor, y: Tensor, task: Tensor, allowed: Tensor, weight: float = 1.0) -> "Batch":
        """A batch whose rows all have one source. New rows weigh 1; rows of weight 0 carry no task loss."""
        return cls(x, y, task, allowed, (Part(source, slice(0, len(y)), weight),))

    @classmethod
    def cat(cls, batches: Sequence["Batch"]) -> "Batch":
        """All rows in one batch; the parts keep who is who."""
        if len(batches) == 1:
            return batches[0]
        parts, start = [], 0
        for batch in batches:
            for part in batch.parts:
                rows = slice(start + part.rows.start, start + part.rows.stop)
                parts.append(Part(part.source, rows, part.weight))
            start += len(batch.y)
        columns = list(zip(*batches, strict=True))[:4]
        return cls(*(torch.cat(column) for column in columns), tuple(parts))

    def rows(self, source: str) -> slice:
        """Where the rows of `source` stand; empty when there are none."""
        return next((part.rows for part in self.parts if part.source == source), slice(0, 0))

    def shares(self, dtype: torch.dtype) -> Tensor:
        """Each row's share of the task loss, [B], summing to 1: equal within a part, parts by their weights."""
        total = sum(part.weight for part in self.parts)
        shares = torch.empty(len(self.y), dtype=dtype, device=self.y.device)
        for part in self.parts:
            shares[part.rows] = part.weight / total / (part.rows.stop - part.rows.start)
        return shares


def shuffled(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The numbers 0 .. n - 1 in a random order, `batch_size` at a time: one epoch, int64 on the CPU."""
    yield from torch.randperm(n, generator=generator).split(batch_size)


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits [B, H] with -inf for every class that a row may not use; allowed is bool [B, C] or [C].

    Multiplying by 0 instead would let a forbidden class win whenever the allowed logits are negative.
    A head with outputs to spare (H > C) never answers with those; one that has still to grow (H < C) has only its own.
    """
    spare = logits.shape[-1] - allowed.shape[-1]
    allowed = F.pad(allowed, (0, spare), value=False) if spare else allowed
    return logits.masked_fill(~allowed, float("-inf"))


def task_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted mean of the parts' cross-entropies: sum_p w_p mean_{i in p} CE_i / sum_p w_p.

    The weights are explicit because a mean over the union of unequal parts would weigh them by their sizes.
    Parts of weight 0 are there for a method's own term and are left out.
    """
    logits = masked(logits, batch.allowed)
    if len(batch.parts) == 1:
        return F.cross_entropy(logits, batch.y)
    parts = [part for part in batch.parts if part.weight > 0]
    means = [F.cross_entropy(logits[part.rows], batch.y[part.rows]) for part in parts]
    weights = [part.weight for part in parts]
    return sum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)
