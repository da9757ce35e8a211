"""Class-balancing reservoir sampling: a rare class keeps what it has, a common one is a fair sample of itself.

Idea: classes fight for slots only while they are small. A class that is, or ever was, the largest in memory is
"full": it gets no more slots and its newcomers replace rows of the same class, as in a reservoir of its own.

For each row (x, c), in this order:

    1. n_c <- n_c + 1
    2. memory not full: store the row in the next slot
    3. otherwise the classes with most rows in memory become full, for good
    4. c not full: overwrite a random row of a largest class
    5. c full: draw u uniform on (0, 1]; if u <= m_c / n_c overwrite a random row of class c, else reject

Symbols: n_c = rows of class c so far, rejected ones included; m_c = rows of class c in memory now; K = capacity.
Source: Chrysakis and Moens 2020, "Online continual learning from imbalanced data", algorithm 1. Departure: u takes
the values 1/n_c, 2/n_c, ..., 1, so that u <= m_c / n_c has exactly the probability m_c / n_c.
"""

import torch
from torch import Tensor

from cllab.replay.memory import MOST, Memory


def cbrs_slots(
    labels: list[int], draws: list[list[int]], capacity: int,
    where: dict[int, list[int]], seen: dict[int, int], full: set[int],
) -> list[int]:  # fmt: skip
    """Slot of each offered row, -1 for rejected ones.

    draws: one pair of non-negative integers per row; the first decides step 5, modulo n_c, the second which row is
    overwritten, modulo the number of rows in question. Uniform on {0, ..., 2^62 - 1} they are as good as unbiased.
    where: {class: its slots}; seen: {class: n_c}; full: the full classes. All three are brought up to date. Start
    with two empty dicts and an empty set.
    """
    slots = []
    stored = sum(len(own) for own in where.values())
    for c, (accept, which) in zip(labels, draws, strict=True):
        # 1. n_c <- n_c + 1
        seen[c] = seen.get(c, 0) + 1
        own = where.setdefault(c, [])
        # 2. memory not full: the next slot
        if stored < capacity:
            own.append(stored)
            stored += 1
            slots.append(own[-1])
            continue
        # 3. the largest classes become full
        full.update(largest_classes(where))
        if c not in full:
            # 4. a random row of a largest class makes room
            own.append(freed_slot(where, which))
            slots.append(own[-1])
        else:
            # 5. u = (accept mod n_c + 1) / n_c;  u <= m_c / n_c
            m_c = len(own)
            slots.append(own[which % m_c] if accept % seen[c] + 1 <= m_c else -1)
    return slots


def largest_classes(where: dict[int, list[int]]) -> list[int]:
    """The classes with most rows, of where = {class: its slots}."""
    most = max(len(own) for own in where.values())
    return [c for c, own in where.items() if len(own) == most]


def freed_slot(where: dict[int, list[int]], draw: int) -> int:
    """The slot of one row of the largest classes, number `draw` modulo their rows; it is taken out of `where`."""
    largest = largest_classes(where)
    most = len(where[largest[0]])
    k, i = divmod(draw % (most * len(largest)), most)
    return where[largest[k]].pop(i)


class ClassBalancedReservoir(Memory):
    """CBRS: classes share `capacity` slots as evenly as the stream allows, each class being a fair sample of itself.

    capacity: K >= 1. generator: CPU torch.Generator for the draws and for `sample`; generator(0) when left out.
    """

    def __init__(self, capacity: int, generator: torch.Generator | None = None):
        super().__init__(capacity, generator)
        self._where: dict[int, list[int]] = {}
        self._seen: dict[int, int] = {}
        self._full: set[int] = set()

    def _slots(self, y: Tensor) -> Tensor:
        draws = torch.randint(MOST, (len(y), 2), generator=self.generator).tolist()
        return torch.tensor(cbrs_slots(y.tolist(), draws, self.capacity, self._where, self._seen, self._full))

    def state_dict(self) -> dict:
        """As every memory, and each class's slots, its number of rows so far, and the full classes."""
        where = {c: list(own) for c, own in self._where.items()}
        return super().state_dict() | {"where": where, "seen": dict(self._seen), "full": sorted(self._full)}

    def _take(self, state: dict, device: torch.device | str | None) -> None:
        super()._take(state, device)
        self._where, self._seen = self._slots_by_class(state), dict(state["seen"])
        self._full = set(state["full"])
        if set(self._where) != set(self._seen) or sum(self._seen.values()) != self.n_seen:
            raise ValueError(f"state must count its {self.n_seen} rows by class")
        if not self._full <= set(self._seen):
            raise ValueError(f"state must name full classes that it has seen, got {sorted(self._full)}")
