"""The chance of each row to be in memory at the end: measured over seeds, by its law, and exact for short streams.

No Streamlit in here. The exact chances follow every possible draw, in fractions: no formula is trusted.
"""

from fractions import Fraction

import torch

from cllab import checks
from cllab.device import generator
from cllab.replay import reservoir_slots
from cllab.replay.reservoir import draw_below
from labs.memory_traces import make

LONGEST = 8  # rows up to which every draw is followed


def measured(name: str, labels: list[int], capacity: int, n_classes: int, seeds: int) -> list[float]:
    """Share of `seeds` runs of a memory in which each row is in it at the end."""
    checks.integer("seeds", seeds, 1)
    n = len(labels)
    if name in ("reservoir", "off by one"):
        bounds = torch.arange(n).clamp(min=1) if name == "off by one" else torch.arange(1, n + 1)
        draws = draw_below(bounds.repeat(seeds), generator(0, name)).view(seeds, n)
        slots = reservoir_slots(0, draws, capacity)
        memory = torch.full((seeds, min(capacity, n)), -1)
        for row in range(n):  # what is written last stays
            stored = (slots[:, row] >= 0).nonzero().flatten()
            memory[stored, slots[stored, row]] = row
        return (memory.flatten().bincount(minlength=n) / seeds).tolist()
    runs = seeds if name == "CBRS" else 1  # the others draw nothing
    found = torch.zeros(n)
    rows, y = torch.arange(n), torch.tensor(labels)
    for seed in range(runs):
        memory = make(name, capacity, n_classes, seed)
        memory.add(rows, y)
        found[memory.x] += 1
    return (found / runs).tolist()


def law(name: str, labels: list[int], capacity: int, n_classes: int) -> list[float] | None:
    """What the measured chances should come to, row by row; None where no formula is known (CBRS)."""
    n, K = len(labels), capacity
    if name == "CBRS":
        return None
    if name == "reservoir":
        # P(row in memory) = K / n
        return [min(1.0, K / n)] * n
    if name == "off by one":
        if n <= K:
            return [1.0] * n
        # one of the first K rows: (K - 1) / (n - 1), a later one: K / (n - 1)
        return [(K - 1) / (n - 1)] * K + [K / (n - 1)] * (n - K)
    return measured(name, labels, capacity, n_classes, 1)


def exact(name: str, n: int, capacity: int) -> list[Fraction]:
    """Chances of n <= 8 rows in a reservoir, right or off by one, by following every draw."""
    checks.choice("name", name, ("reservoir", "off by one"))
    checks.integer("n", n, 1, LONGEST)
    branches: dict[tuple[int, ...], Fraction] = {(): Fraction(1)}
    for row in range(n):
        bound = max(row, 1) if name == "off by one" else row + 1
        found: dict[tuple[int, ...], Fraction] = {}
        for memory, p in branches.items():
            for j in range(bound):
                (slot,) = reservoir_slots(row, torch.tensor([j]), capacity).tolist()
                after = memory if slot < 0 else (*memory[:slot], row, *memory[slot + 1 :])
                found[after] = found.get(after, Fraction(0)) + p / bound
        branches = found
    return [sum((p for memory, p in branches.items() if row in memory), Fraction(0)) for row in range(n)]
