"""The trace of memories beside a stream: which row sits in which slot after every few offers."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from cllab import checks
from cllab.player.schema import VERSION, round_trace
from cllab.replay import Memory

MOST_SLOTS = 400
WHOLE = 15_000  # ms that the whole stream takes


def memory_trace(
    labels: Sequence[int],
    memories: Mapping[str, Memory],
    classes: Sequence[str],
    *,
    every: int = 1,
    title: str = "Memory",
    alt: str = "",
) -> dict:
    """A trace of kind "memory".

    labels    class index of every row of the stream, in order of arrival
    memories  {name: an empty `Memory`}, one or two; they are offered the rows here, and are full afterwards
    classes   names of the classes
    every     rows offered per step

    Rows are numbered from 0 in the trace and from 1 in its sentences. Raises ValueError or TypeError naming the
    argument.
    """
    if not len(labels):
        raise ValueError("labels must hold at least one row, got none")
    labels = [checks.integer("a label", label, 0, len(classes) - 1) for label in labels]
    checks.integer("every", every, 1)
    if not 1 <= len(memories) <= 2:
        raise ValueError(f"memories must be one or two, got {len(memories)}")
    for name, memory in memories.items():
        if not isinstance(memory, Memory):
            raise TypeError(f"memories[{name!r}] must be a Memory, got {type(memory).__name__}")
        if memory.n_seen:
            raise ValueError(f"memories[{name!r}] must be empty, but {memory.n_seen} rows were offered to it before")
    n = len(labels)
    held = {name: [] for name in memories}
    steps = [{"n": 0, "went": [[] for _ in memories], "text": f"{n} rows will pass, one after the other."}]
    for start in range(0, n, every):
        rows = torch.arange(start, min(start + every, n))
        before = {name: held[name][-1] if held[name] else {} for name in memories}
        went = {name: memory.add(rows, torch.tensor(labels)[rows]).tolist() for name, memory in memories.items()}
        for name, memory in memories.items():
            held[name].append(_content(memory))
        after = {name: held[name][-1] for name in memories}
        text = _sentence(rows.tolist(), labels, classes, went, before, after)
        steps.append({"n": start + len(rows), "went": list(went.values()), "text": text})
    sizes = {name: _drawn(name, memory, n) for name, memory in memories.items()}
    for i, step in enumerate(steps):
        step["slots"] = [
            [None] * size if i == 0 else [held[name][i - 1].get(slot) for slot in range(size)]
            for name, size in sizes.items()
        ]
    ends = [f"{name} holds {_by_class(held[name][-1].values(), labels, classes)}" for name in memories]
    steps[-1]["text"] += f" In the end {'; '.join(ends)}."
    return round_trace({
        "v": VERSION, "kind": "memory", "title": title, "ms": min(1200, max(60, WHOLE // (len(steps) - 1))),
        "alt": alt or f"{n} rows of {len(classes)} classes pass {' and '.join(memories)}; slots are overwritten.",
        "labels": labels, "classes": list(classes), "memories": [{"name": k, "slots": s} for k, s in sizes.items()],
        "steps": steps,
    })  # fmt: skip


def _content(memory: Memory) -> dict[int, int]:
    """{slot: row in it}; the rows' numbers are what the memory stores as x."""
    state = memory.state_dict()
    return dict(zip(state["slots"].tolist(), state["columns"]["x"].tolist(), strict=True))


def _drawn(name: str, memory: Memory, n: int) -> int:
    """How many slots are drawn: no more than there are rows to fill them."""
    size = min(memory.capacity, n)
    if size > MOST_SLOTS:
        raise ValueError(f"memories[{name!r}] must have at most {MOST_SLOTS} slots to be drawn, got {size}")
    return size


def _sentence(rows: list[int], labels: list[int], classes: Sequence[str], went: dict, before: dict, after: dict) -> str:
    if len(rows) > 1:
        stored = ", ".join(f"{name} stores {sum(slot >= 0 for slot in slots)}" for name, slots in went.items())
        return f"Rows {rows[0] + 1} to {rows[-1] + 1}: {stored} of {len(rows)}."
    (row,) = rows
    parts = [f"Row {row + 1} ({classes[labels[row]]})"]
    for name, (slot,) in went.items():
        over = before[name].get(slot)
        given_up = len(set(before[name]) - set(after[name])) + (over is not None)
        if slot < 0:
            parts.append(f"{name}: not stored")
        elif given_up > 1:
            parts.append(f"{name}: slot {slot + 1}, and {given_up} rows of other classes are given up")
        elif over is None:
            parts.append(f"{name}: slot {slot + 1}")
        else:
            parts.append(f"{name}: slot {slot + 1}, over row {over + 1} ({classes[labels[over]]})")
    return ". ".join(parts) + "."


def _by_class(rows, labels: list[int], classes: Sequence[str]) -> str:
    counts = Counter(labels[row] for row in rows)
    return ", ".join(f"{counts[c]} {name}" for c, name in enumerate(classes))
