"""Exact inclusion probabilities: every memory that n rows can leave, with its probability."""

from collections.abc import Callable

import torch

from cllab.replay import reservoir_slots


def slot(n: int, j: int, capacity: int) -> int:
    """Slot of the n-th row (counted from 1) when j in 0 .. n-1 was drawn; -1 for a rejected row."""
    return int(reservoir_slots(n - 1, torch.tensor([j]), capacity))


def inclusion(outcomes: Callable, capacity: int, n: int) -> list[float]:
    """Probability that each of n rows is in memory after all n; outcomes(t, capacity): equally likely slots."""
    states = _memories(outcomes, capacity, n)
    return [sum(p for memory, p in states.items() if i in memory) for i in range(n)]


def right_slots(t: int, capacity: int) -> list[int]:
    """Algorithm R: the slots that the t values of the draw give the t-th row."""
    return [slot(t, j, capacity) for j in range(t)]


def short_slots(t: int, capacity: int) -> list[int]:
    """The common slip: the draw of a full memory stops one value early, at the count before the row."""
    return right_slots(t, capacity) if t <= capacity else [slot(t, j, capacity) for j in range(t - 1)]


def ring_slots(t: int, capacity: int) -> list[int]:
    """A ring buffer: one certain slot."""
    return [(t - 1) % capacity]


def coin_slots(t: int, capacity: int) -> list[int]:
    """A full memory takes every second row, whatever came before."""
    return [t - 1] if t <= capacity else [*range(capacity), *[-1] * capacity]


def _memories(outcomes, capacity, n) -> dict[tuple, float]:
    """Every memory that n rows can leave, and its probability."""
    states = {(): 1.0}
    for t in range(1, n + 1):
        slots, after = outcomes(t, capacity), {}
        for memory, p in states.items():
            for s in slots:
                kept = memory if s < 0 else (*memory[:s], t - 1, *memory[s + 1 :])
                after[kept] = after.get(kept, 0.0) + p / len(slots)
        states = after
    return states


def entered(outcomes: Callable, capacity: int, n: int) -> list[float]:
    """A known slip: the chance to enter, without the chance to stay."""
    return [_mean([float(s >= 0) for s in outcomes(t, capacity)]) for t in range(1, n + 1)]


def unweighted(outcomes: Callable, capacity: int, n: int) -> list[float]:
    """A known slip: every memory counts alike, however likely it is."""
    states = _memories(outcomes, capacity, n)
    return [_mean([float(i in memory) for memory in states]) for i in range(n)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
