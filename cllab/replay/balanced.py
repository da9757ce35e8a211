"""Class-balanced memory: the same number of slots for every class, the earliest rows of each.

Idea: t classes share K slots equally. When a new class arrives every other class gives up the tail of its list, so
what is kept is always the first rows of a class in order of arrival (iCaRL keeps the first in herding order).

    m = floor(K / t);  a row of class c is stored if fewer than m_c rows of c are

Symbols: K = capacity; t = classes met so far; m_c = quota of class c. K - m t slots are left over. With leftover
"empty" nobody uses them: m_c = m. With "lowest" the K - m t lowest class labels get one each: m_c = m + 1 for them.
Source: Rebuffi et al. 2017 (iCaRL), K / t exemplars; the "lowest" rule is like Avalanche's, which gives leftover
slots to its first groups. No randomness except in `sample`.
"""

import heapq
from collections.abc import Iterable

import torch
from torch import Tensor

from cllab import checks
from cllab.replay.herding import quota
from cllab.replay.memory import Memory


def class_quotas(capacity: int, classes: Iterable[int], leftover: str = "empty") -> dict[int, int]:
    """Slots of every class, {class: m_c} in rising order; ValueError if there are more classes than slots."""
    checks.choice("leftover", leftover, ("empty", "lowest"))
    classes = sorted(classes)
    # m = floor(K / t)
    m = quota(capacity, len(classes))
    # the K - m t slots left over: one each for the lowest classes, or nobody's
    extra = capacity - m * len(classes) if leftover == "lowest" else 0
    return {c: m + 1 if i < extra else m for i, c in enumerate(classes)}


def balanced_slots(
    labels: list[int], capacity: int, where: dict[int, list[int]], free: list[int], leftover: str = "empty"
) -> list[int]:
    """Slot of each offered row, -1 for rejected ones: the lowest free slot while the class is below its quota.

    where: {class: its slots in order of arrival}; free: the slots below the highest one used that hold no row.
    Both are brought up to date. Start with an empty dict and an empty list.
    """
    slots = []
    used = sum(len(own) for own in where.values()) + len(free)
    quotas = class_quotas(capacity, where, leftover) if where else {}
    heapq.heapify(free)
    for c in labels:
        if c not in where:
            where[c] = []
            quotas = class_quotas(capacity, where, leftover)
            for k, own in where.items():  # every list keeps its first m_k rows
                for slot in own[quotas[k] :]:
                    heapq.heappush(free, slot)
                del own[quotas[k] :]
        if len(where[c]) == quotas[c]:
            slots.append(-1)
            continue
        if not free:
            free.append(used)
            used += 1
        where[c].append(heapq.heappop(free))
        slots.append(where[c][-1])
    return slots


class ClassBalanced(Memory):
    """The first m_c rows of every class, where the quotas m_c share `capacity` slots among the classes met so far.

    capacity: K >= number of classes; a batch that brings more classes raises ValueError and changes nothing.
    generator: CPU torch.Generator for `sample`; generator(0) when left out.
    leftover: "empty" or "lowest", what becomes of the K - m t slots that equal shares leave.
    A class with fewer rows than its quota leaves slots empty too: they are kept for it.
    """

    def __init__(self, capacity: int, generator: torch.Generator | None = None, *, leftover: str = "empty"):
        super().__init__(capacity, generator)
        self.leftover = checks.choice("leftover", leftover, ("empty", "lowest"))
        self._where: dict[int, list[int]] = {}
        self._free: list[int] = []

    def _most_rows(self, y: Tensor) -> int:
        classes = set(self._where) | set(y.tolist())
        if len(classes) > self.capacity:
            raise ValueError(f"capacity must be at least the number of classes, {len(classes)}, got {self.capacity}")
        return self.capacity

    def _slots(self, y: Tensor) -> Tensor:
        return torch.tensor(balanced_slots(y.tolist(), self.capacity, self._where, self._free, self.leftover))

    def _held(self) -> Tensor:
        return torch.tensor(sorted(slot for own in self._where.values() for slot in own), dtype=torch.int64)

    def _settings(self) -> dict:
        return super()._settings() | {"leftover": self.leftover}

    def state_dict(self) -> dict:
        """As every memory, and each class's slots in order of arrival."""
        return super().state_dict() | {"where": {c: list(own) for c, own in self._where.items()}}

    def _take(self, state: dict, device: torch.device | str | None) -> None:
        super()._take(state, device)
        self._where = self._slots_by_class(state)
        quotas = class_quotas(self.capacity, self._where, self.leftover) if self._where else {}
        if any(len(own) > quotas[c] for c, own in self._where.items()):
            raise ValueError(f"state must keep to the quotas {quotas}")
        self._free = sorted(set(range(self._used)) - set(self._held().tolist()))
