"""What the memory page shows, computed from its settings: streams, memories, and the trace of both.

No Streamlit in here, so that tests call these functions directly. `OffByOne` is wrong on purpose: the page shows it
beside the right reservoir.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.player import memory_trace
from cllab.replay import (
    ClassBalanced,
    ClassBalancedReservoir,
    ClassRing,
    Memory,
    Reservoir,
    RingBuffer,
    balanced_slots,
    cbrs_slots,
    class_ring_slots,
    reservoir_slots,
    ring_slots,
)
from cllab.replay.reservoir import draw_below

MOST_ROWS, MOST_SLOTS = 150, 30
SHARES = {
    "three tasks in turn": [("A", 1), ("B", 1), ("C", 1)],
    "five tasks in turn": [("A", 1), ("B", 1), ("C", 1), ("D", 1), ("E", 1)],
    "a rare class": [("A", 100), ("B", 10), ("C", 3)],
    "task A comes back": [("A", 1), ("B", 1), ("A", 1), ("C", 1)],
    "all mixed": [("A", 1), ("B", 1), ("C", 1)],
    "one class": [("A", 1)],
}


class OffByOne(Reservoir):
    """The reservoir with its most common mistake: j is drawn below the number of rows before this one."""

    def _slots(self, y: Tensor) -> Tensor:
        # wrong: row n, counted from 0, draws j from {0, ..., n - 1} instead of {0, ..., n}
        bounds = torch.arange(self.n_seen, self.n_seen + len(y)).clamp(min=1)
        return reservoir_slots(self.n_seen, draw_below(bounds, self.generator), self.capacity)


def class_ring(capacity: int, n_classes: int, seed: int) -> ClassRing:
    return ClassRing(capacity // n_classes, generator(seed))


# name -> how to make one with K slots for so many classes, and what decides its slots
MEMORIES: dict[str, tuple[Callable[[int, int, int], Memory], object]] = {
    "reservoir": (lambda K, t, seed: Reservoir(K, generator(seed)), reservoir_slots),
    "ring": (lambda K, t, seed: RingBuffer(K, generator(seed)), ring_slots),
    "class ring": (class_ring, class_ring_slots),
    "balanced": (lambda K, t, seed: ClassBalanced(K, generator(seed)), balanced_slots),
    "CBRS": (lambda K, t, seed: ClassBalancedReservoir(K, generator(seed)), cbrs_slots),
    "off by one": (lambda K, t, seed: OffByOne(K, generator(seed)), OffByOne),
}
PER_CLASS = ("class ring", "balanced")  # need a slot for every class


def stream(kind: str, n: int, seed: int) -> tuple[list[int], list[str]]:
    """Labels of the n rows in order of arrival, and the names of the classes. `seed` mixes "all mixed"."""
    checks.choice("kind", kind, tuple(SHARES))
    shares = SHARES[kind]
    checks.integer("n", n, len(shares), MOST_ROWS)
    names = sorted({name for name, _ in shares})
    labels = []
    total, taken, so_far = sum(share for _, share in shares), 0, 0
    for i, (name, share) in enumerate(shares):
        so_far += share
        # every block has a row at least, and leaves one for each block after it
        end = min(max(round(n * so_far / total), taken + 1), n - (len(shares) - 1 - i))
        labels += [names.index(name)] * (end - taken)
        taken = end
    if kind == "all mixed":
        order = torch.randperm(n, generator=generator(seed, "stream")).tolist()
        labels = [labels[i] for i in order]
    return labels, names


def make(name: str, capacity: int, n_classes: int, seed: int) -> Memory:
    """An empty memory by its name on the page; a class ring gets floor(K / t) slots for each of t classes."""
    checks.choice("name", name, tuple(MEMORIES))
    return MEMORIES[name][0](capacity, n_classes, seed)


def trace(kind: str, n: int, capacity: int, names: tuple[str, ...], seed: int) -> dict:
    """A "memory" trace of one or two different memories of K = `capacity` slots beside the same stream."""
    labels, classes = stream(kind, n, seed)
    memories = {name: make(name, capacity, len(classes), seed) for name in names}
    return memory_trace(
        labels, memories, classes, title=f"{n} rows, {kind}, K = {capacity}, seed {seed}",
        alt=f"{n} rows ({kind}) pass {' and '.join(names)} with {capacity} slots.",
    )  # fmt: skip


def counts(trace: dict, m: int) -> list[int]:
    """Rows of every class that memory number m holds at the end."""
    held = [trace["labels"][row] for row in trace["steps"][-1]["slots"][m] if row is not None]
    return [held.count(c) for c in range(len(trace["classes"]))]


def in_proportion(trace: dict, slots: int) -> list[float]:
    """K * n_c / n for every class: its part of K = `slots` rows if all rows are treated alike."""
    labels = trace["labels"]
    return [slots * labels.count(c) / len(labels) for c in range(len(trace["classes"]))]


def puzzle(trace: dict) -> tuple[int, list[int]]:
    """What to guess about the first memory: a class (the rarest, the earliest of equal ones) and answers to choose
    from, rising: none, its share of the stream, an equal share, all slots, and what is true."""
    labels, slots = trace["labels"], trace["memories"][0]["slots"]
    sizes = [labels.count(c) for c in range(len(trace["classes"]))]
    c = sizes.index(min(sizes))
    share = round(min(slots, len(labels)) * sizes[c] / len(labels))
    answers = {0, share, slots // len(sizes), min(slots, sizes[c]), counts(trace, 0)[c]}
    return c, sorted(answers)
