"""The trace of progressive columns: a column per task, what it reads of the older ones, and what that is worth.

Two networks are trained side by side on the same rows in the same order, from the same first weights: one with laterals
and one without. All numbers come from `cllab.isolation.ProgressiveNet` and `cllab.training.fit`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation import Progressive, ProgressiveNet, column_cost, column_growth, column_strengths, lateral_weights
from cllab.player.schema import VERSION, round_trace
from cllab.streams import Stream, Task
from cllab.training import Step, TaskEnded, TaskStarted, fit, masked

MOST_TASKS = 6
GROWN = 8  # columns up to which the parameters are counted
PROBES = 64  # test rows on which the strengths are measured
LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"


def columns_trace(
    stream: Stream,
    hidden: Sequence[int] = (12, 12),
    laterals: str = "linear",
    width: int | None = None,
    *,
    epochs: int = 8,
    batch_size: int = 20,
    lr: float = 0.01,
    optimizer="adam",
    every: int = 6,
    seed: int = 0,
    title: str = "",
    on_frame: Callable[[float], None] | None = None,
) -> dict:
    """Train a `ProgressiveNet` on a task-incremental stream of up to MOST_TASKS tasks: kind "columns".

    hidden, laterals ("linear" or "adapter"), width: of the network. epochs, batch_size, lr, optimizer, seed: of `fit`.
    every: a frame every so many steps, and before the first and after the last step of each task. on_frame hears
    which share of the run is done. Raises ValueError or TypeError naming the argument.
    """
    hidden = [checks.integer("each of hidden", n, 1) for n in hidden]
    if not isinstance(stream, Stream) or stream.scenario != "task":
        raise ValueError('stream must be a Stream with scenario="task", where a row tells its task')
    if len(stream) > MOST_TASKS:
        raise ValueError(f"stream must have at most {MOST_TASKS} tasks, got {len(stream)}")
    if not hidden:
        raise ValueError("hidden must have a width: columns without hidden layers have nothing to read")
    checks.choice("laterals", laterals, ("linear", "adapter"))
    checks.integer("every", every, 1)
    sizes = [stream.in_features, *hidden, stream.n_classes]
    kinds = ((laterals, width), ("none", None))
    nets = [ProgressiveNet(sizes[0], hidden, sizes[-1], *kind, seed=seed).double() for kind in kinds]
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "seed": seed}
    runs = zip(*(fit(net, stream, [Progressive()], **settings) for net in nets), strict=True)
    frames = []
    for frame in _frames(stream.to(dtype=torch.float64), *nets, runs, every):
        frames.append(frame)
        if on_frame is not None:
            steps = epochs * math.ceil(len(stream[frame["task"]].y) / batch_size)
            on_frame((frame["task"] + frame["step"] / steps) / len(stream))
    brightest = max(float(cells.max()) for frame in frames for cells in _all_cells(frame["maps"]))
    names = stream.task_names
    steps = [
        {**frame, "maps": [_written(layer, brightest) for layer in frame["maps"]], "text": _told(frame, names)}
        for frame in frames
    ]
    return round_trace({
        "v": VERSION, "kind": "columns", "title": title, "tasks": names, "sizes": sizes, "laterals": laterals,
        "width": width, "brightest": brightest, "growth": growth_lines(sizes, laterals, width),
        "cost": [column_cost(sizes, k, laterals, width) for k in range(len(stream))],
        "alt": f"A graph that gets one more column for each of the tasks {', '.join(names)}; lines from older columns "
        "into the newest thicken while it learns to read them.",
        "steps": steps,
    })  # fmt: skip


def growth_lines(sizes: Sequence[int], laterals: str, width: int | None, most: int = GROWN) -> list[dict]:
    """Parameters of 1 to `most` columns, {name, about, values [most]}: by kind of lateral, and with a head per task.

    Adapters are counted with `width`; with linear laterals, with a quarter of the narrowest hidden layer.
    """
    m = width if laterals == "adapter" else max(1, min(sizes[1:-1]) // 4)
    adapter = "adapters" if m is None else f"adapters, m = {m}"
    columns = range(1, most + 1)
    trunk = sum((n + 1) * out for n, out in itertools.pairwise(sizes[:-1]))
    head = (sizes[-2] + 1) * sizes[-1]
    lines = (
        ("linear laterals", "columns, and a matrix U for each pair of them and each layer above the first",
         [column_growth(sizes, K).total for K in columns]),
        (adapter, "columns, and for each a narrow adapter per layer that reads all older ones",
         [column_growth(sizes, K, "adapter", m).total for K in columns]),
        ("no laterals", "a network of its own for each task",
         [column_growth(sizes, K, "none").total for K in columns]),
        ("a head per task", "one trunk for all, and a last layer for each task: the trunk forgets",
         [trunk + K * head for K in columns]),
    )  # fmt: skip
    return [{"name": name, "about": about, "values": values} for name, about, values in lines]


def _frames(stream: Stream, net: ProgressiveNet, alone: ProgressiveNet, runs: Iterator, every: int) -> Iterator[dict]:
    """Pull both runs event by event and look at the newest columns."""
    kept: list[Tensor] = []  # answers to finished tasks' test rows when they were finished
    finished: list[float] = []
    begun = step = told = 0
    for event, _ in runs:
        if isinstance(event, TaskStarted):
            begun = step
        elif isinstance(event, Step):
            step = event.step
        due = isinstance(event, TaskStarted) or (isinstance(event, Step) and (step - begun) % every == 0)
        if due or (isinstance(event, TaskEnded) and told != step):
            told = step
            yield {"task": event.task, "step": step - begun, **_look(stream, net, alone, event.task, kept, finished)}
        if isinstance(event, TaskEnded):
            task = stream[event.task]
            kept.append(net(task.x_test, event.task).detach())
            finished.append(_accuracy(kept[-1], task))


@torch.no_grad()
def _look(stream: Stream, net: ProgressiveNet, alone: ProgressiveNet, k: int, kept, finished) -> dict:
    task = stream[k]
    x, classes = task.x_test, list(task.classes)
    reads = lateral_weights(net, k) or [[]] * (len(net.sizes) - 2)
    weights = [layer.weight for layer in net.columns.part(k).layers[1:]]
    answers = {"with": net(x, k), "cut": net.plain_column(k)(x), "alone": alone(x, k)}
    return {
        **column_strengths(net, x[:PROBES], k, classes),
        "accuracy": {name: _accuracy(logits, task) for name, logits in answers.items()},
        "finished": list(finished),
        "moved": max((float((net(stream[j].x_test, j) - old).abs().max()) for j, old in enumerate(kept)), default=0.0),
        "maps": [
            {"own": _cells(W, i, classes, len(weights)), "read": [_cells(U, i, classes, len(weights)) for U in read]}
            for i, (W, read) in enumerate(zip(weights, reads, strict=True))
        ],
    }


def _cells(weight: Tensor, i: int, classes: list[int], n_layers: int) -> Tensor:
    """|weight|, of the last layer the rows of the task's classes."""
    return weight.abs()[classes if i == n_layers - 1 else slice(None)].clone()


def _all_cells(maps: list[dict]) -> Iterator[Tensor]:
    for layer in maps:
        yield from (layer["own"], *layer["read"])


def _written(layer: dict, brightest: float) -> dict:
    """Cells as digits 0 to z of base 36, row by row."""

    def digits(cells: Tensor) -> str:
        return "".join(LEVELS[level] for level in (35 * cells / brightest).round().long().flatten().tolist())

    return {"rows": len(layer["own"]), "own": digits(layer["own"]), "read": [digits(cells) for cells in layer["read"]]}


def _accuracy(logits: Tensor, task: Task) -> float:
    allowed = torch.zeros(logits.shape[1], dtype=torch.bool)
    allowed[list(task.classes)] = True
    return (masked(logits, allowed).argmax(dim=1) == task.y_test).double().mean().item()


def _told(frame: dict, names: Sequence[str]) -> str:
    k, accuracy = frame["task"], frame["accuracy"]
    start = f"Column {k + 1}, {names[k]}, step {frame['step']}: "
    if k == 0:
        return f"{start}the first column has nobody to read. Accuracy {accuracy['with']:.2f}."
    whole = frame["own"][-1] + frame["lateral"][-1]
    share = frame["lateral"][-1] / whole if whole > 0 else 0.0
    moved = "not at all" if frame["moved"] == 0 else f"by up to {frame['moved']:.2g}"
    return (
        f"{start}accuracy {accuracy['with']:.2f} with laterals, {accuracy['cut']:.2f} if they are cut now, "
        f"{accuracy['alone']:.2f} for a column trained without. Laterals bring {share:.0%} of what enters the last "
        f"layer. Old answers moved {moved}."
    )
