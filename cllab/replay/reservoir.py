"""Reservoir sampling: a fair sample of a stream whose length nobody knows.

Idea: keep K rows so that after n offers each of them is in memory with probability K / n.

    n <- n + 1;  if n <= K: slot n - 1;  else draw j uniform on {0, ..., n - 1}, slot j if j < K, else reject

Symbols: K = capacity, n = n_seen, offers so far, rejected ones included; j [B] one draw per offered row.
Source: Vitter 1985, Algorithm R. No departures. Drawing j from the count *before* the offer, as several public
implementations do, keeps newcomers too often: P = K / (n - 1) instead of K / n.
Slots are not random (the first row can only ever sit in slot 0): `sample` shuffles.
"""

import torch
from torch import Tensor

from cllab import checks
from cllab.replay.memory import MOST, Memory


def reservoir_slots(n_seen: int, draws: Tensor, capacity: int) -> Tensor:
    """Slot of each offered row, -1 for rejected ones: int64 [B].

    n_seen: offers before these. draws: int64 [B], draws[i] uniform on {0, ..., n_seen + i}, the 0-based number of
    the row itself included; it decides only once the memory is full. Leading dimensions are separate streams.
    """
    checks.integer("n_seen", n_seen, 0)
    checks.integer("capacity", capacity, 1)
    n = n_seen + torch.arange(1, draws.shape[-1] + 1)
    # fill the slots in order, then the drawn slot if there is one
    slot = torch.where(n <= capacity, n - 1, draws)
    return torch.where(slot < capacity, slot, -1)


def draw_below(high: Tensor, generator: torch.Generator) -> Tensor:
    """One integer per entry, uniform on {0, ..., high - 1}; one by one or in one go, the numbers are the same.

    62 random bits modulo `high`: the bias is below high / 2^62.
    """
    return torch.randint(MOST, high.shape, generator=generator) % high


class Reservoir(Memory):
    """A memory of at most `capacity` rows, each row ever offered being in it with the same probability.

    capacity: K >= 1. generator: CPU torch.Generator for the draws and for `sample`; generator(0) when left out.
    Slots fill in order; afterwards a slot's row is replaced by the row that drew its number.
    """

    def _slots(self, y: Tensor) -> Tensor:
        draws = draw_below(torch.arange(self.n_seen + 1, self.n_seen + len(y) + 1), self.generator)
        return reservoir_slots(self.n_seen, draws, self.capacity)
