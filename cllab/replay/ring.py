"""Rings: keep the last rows, of the whole stream or of every class.

Idea: a ring overwrites its oldest row. Over the whole stream it is a memory of yesterday: after three tasks of 200
rows a ring of 100 holds rows of the third task only, so it is no defence against forgetting. One ring per class is.

    RingBuffer   slot of the n-th row                = n mod K, n counted from 0
    ClassRing    slot of the i-th row of its class c = the class's own slot number i mod m, i counted from 0

Symbols: K = capacity; m = per_class, slots of each class; the first m rows of a class take the next m free slots.
Source: Chaudhry et al. 2019, "On tiny episodic memories in continual learning" (ring buffer, m small, K = m times
the number of classes). Departure: the classes need not be known beforehand; the memory grows with them.
"""

import torch
from torch import Tensor

from cllab import checks
from cllab.replay.memory import MOST, Memory


def ring_slots(n_seen: int, n: int, capacity: int) -> Tensor:
    """Slots of the `n` rows offered after `n_seen` others: int64 [n]."""
    checks.integer("n_seen", n_seen, 0)
    checks.integer("capacity", capacity, 1)
    # slot = n mod K
    return (n_seen + torch.arange(n)) % capacity


def class_ring_slots(labels: list[int], per_class: int, where: dict[int, list[int]], seen: dict[int, int]) -> list[int]:
    """Slot of each offered row, by its label.

    where: {class: its slots in the order they were taken}; seen: {class: its rows so far}. Both are brought up to
    date. Start with two empty dicts.
    """
    checks.integer("per_class", per_class, 1)
    slots = []
    used = sum(len(own) for own in where.values())
    for c in labels:
        own, i = where.setdefault(c, []), seen.get(c, 0)
        if i < per_class:
            own.append(used)
            used += 1
        # slot = own[i mod m]
        slots.append(own[i % per_class])
        seen[c] = i + 1
    return slots


class RingBuffer(Memory):
    """The last `capacity` rows of the stream (first in, first out).

    capacity: K >= 1. generator: CPU torch.Generator for `sample`; generator(0) when left out. Where rows go is not
    random. `x` and `y` are in the order of slots: once the ring is full, the oldest row is in slot n_seen mod K.
    """

    def _slots(self, y: Tensor) -> Tensor:
        return ring_slots(self.n_seen, len(y), self.capacity)


class ClassRing(Memory):
    """The last `per_class` rows of every class.

    per_class: m >= 1. generator: as RingBuffer. `capacity` is m times the number of classes met so far, 0 at first.
    """

    def __init__(self, per_class: int, generator: torch.Generator | None = None):
        self.per_class = checks.integer("per_class", per_class, 1, MOST)
        super().__init__(per_class, generator)
        self._where: dict[int, list[int]] = {}
        self._seen: dict[int, int] = {}
        self.capacity = 0

    def _most_rows(self, y: Tensor) -> int:
        return self.per_class * len(set(self._where) | set(y.tolist()))

    def _slots(self, y: Tensor) -> Tensor:
        slots = class_ring_slots(y.tolist(), self.per_class, self._where, self._seen)
        self.capacity = self.per_class * len(self._where)
        return torch.tensor(slots)

    def _held(self) -> Tensor:
        return torch.arange(sum(len(own) for own in self._where.values()))

    def _settings(self) -> dict:
        return {"kind": "ClassRing", "per_class": self.per_class}

    def state_dict(self) -> dict:
        """As every memory, and each class's slots and its number of rows so far."""
        where = {c: list(own) for c, own in self._where.items()}
        return super().state_dict() | {"where": where, "seen": dict(self._seen)}

    def _take(self, state: dict, device: torch.device | str | None) -> None:
        super()._take(state, device)
        self._where, self._seen = self._slots_by_class(state), dict(state["seen"])
        full = {c: min(n, self.per_class) for c, n in self._seen.items()}
        if full != {c: len(own) for c, own in self._where.items()} or sum(self._seen.values()) != self.n_seen:
            raise ValueError(f"state must count {self.n_seen} rows by class, {self.per_class} stored of each at most")
        self.capacity = self.per_class * len(self._where)
