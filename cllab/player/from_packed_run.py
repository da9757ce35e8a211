"""The trace of a layer that `PackNet` packs with a stream's tasks: who owns each weight, and what that is worth."""

import math
from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation import PackNet, using
from cllab.models import MLP
from cllab.player.schema import VERSION, round_trace
from cllab.streams import Stream
from cllab.training import (
    Context,
    Evaluated,
    Phase,
    Step,
    TaskEnded,
    TaskStarted,
    answer_with,
    evaluating,
    fit,
    masked,
)

LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
MOST_TASKS = 7
MOST_WEIGHTS = 10_000
FRAMES = 3  # of a task's training
LAYER = "trunk.0.weight"


class MaskedOnly(PackNet):
    """PackNet without its last safeguard: the gradient of frozen weights is 0, and nothing puts them back."""

    def after_step(self, ctx: Context, batch) -> None:
        pass


class Frame(NamedTuple):
    """The first layer at one moment. w, owner [H, D]; reads, own: accuracies of the tasks so far, after a task only."""

    phase: str
    task: int
    w: Tensor
    owner: Tensor
    reads: tuple[float, ...]
    own: tuple[float, ...]
    moved: tuple[float, ...]
    text: str


def packed_run_trace(stream: Stream, keep=(0.5, 0.25), hidden: int = 24, **settings) -> dict:
    """Train an MLP with one hidden layer on a task-incremental stream with `PackNet(keep)`: kind "packing".

    Arguments and errors: those of `packing_run`, which is the same with a rest after every frame.
    """
    run = packing_run(stream, keep, hidden, **settings)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def packing_run(
    stream: Stream, keep=(0.5, 0.25), hidden: int = 24, *, restore: bool = True, epochs: int = 4, batch_size: int = 32,
    lr: float = 0.1, optimizer="sgd", seed: int = 0, tile: tuple[int, int] | None = None, title: str = "",
) -> Generator[float, None, dict]:  # fmt: skip
    """Yields the share of the run that is done, in [0, 1], and returns the trace.

    hidden: H units, each with D weights. restore: False leaves out what puts frozen weights back after a step. epochs,
    batch_size, lr, optimizer, seed: of `fit`. tile (rows, columns): how the D weights of a unit are laid out, such as
    (8, 8) for pixels. Raises ValueError or TypeError naming the argument when it is first pulled, and CapacityError
    when a task would find no free weight.
    """
    if not isinstance(stream, Stream) or stream.scenario != "task":
        raise ValueError('stream must be a Stream with scenario="task", where a row tells its task')
    checks.integer("the number of tasks in stream", len(stream), 1, MOST_TASKS)
    D = stream.in_features
    checks.integer("hidden", hidden, 1, MOST_WEIGHTS // D)
    tile = (1, D) if tile is None else tuple(checks.integer("each of tile", side, 1) for side in tile)
    if math.prod(tile) != D:
        raise ValueError(f"tile must have {D} places, one for each feature, got {tile}")
    method = PackNet(keep) if checks.flag("restore", restore) else MaskedOnly(keep)
    model = MLP(D, [hidden], stream.n_classes, seed=seed).double()
    stream = stream.to(dtype=torch.float64)
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "seed": seed}
    frames = []
    for frame in _frames(model, method, stream, settings):
        frames.append(frame)
        yield len(frames) / (1 + (FRAMES + 3) * len(stream))
    largest = max(float(frame.w.abs().max()) for frame in frames)
    return round_trace({
        "v": VERSION, "kind": "packing", "shows": "layer", "title": title, "ms": 700, "tasks": stream.task_names,
        "units": hidden, "tile": tile, "largest": largest, "restore": restore,
        "alt": f"The {hidden * D} weights of a layer as cells, a tile for each of its {hidden} units. Task by task "
        "more of them take a task's colour.",
        "steps": [
            {"phase": f.phase, "task": f.task, "w": _written(f.w, largest), "owner": _owners(f.owner),
             "reads": f.reads, "own": f.own, "moved": f.moved, "text": f.text}
            for f in frames
        ],
    })  # fmt: skip


def own_accuracy(method: PackNet, model: nn.Module, stream: Stream, task: int) -> float:
    """Accuracy on a task with the weights of its own mask M_t alone, as 0 elsewhere: the reading that is wrong."""
    theta = {name: torch.where(method.owner[name] == task + 1, w, 0.0) for name, w in method.weights.items()}
    x, y = stream[task].x_test, stream[task].y_test
    with torch.no_grad(), evaluating(model), using(model, task):
        logits = masked(answer_with(model, theta, x), stream.allowed(task, task))
    return (logits.argmax(dim=1) == y).double().mean().item()


def _frames(model: MLP, method: PackNet, stream: Stream, settings: dict) -> Iterator[Frame]:
    names = [f"Task {t} ({name})" for t, name in enumerate(stream.task_names, start=1)]
    n = model.trunk[0].weight.numel()
    frozen: list[Tensor] = []
    accuracy: tuple[float, ...] = ()
    reads: tuple[float, ...] = ()
    own: tuple[float, ...] = ()

    def frame(phase: str, task: int, text: str) -> Frame:
        w, owner = model.trunk[0].weight.detach().clone(), method.owner[LAYER].clone()
        moved = tuple(float((w - then)[owner == t].abs().max()) for t, then in enumerate(frozen, start=1))
        return Frame(phase, task, w, owner, reads, own, moved, text)

    for event in fit(model, stream, [method], **settings):
        if isinstance(event, TaskStarted):
            free = int((method.owner[LAYER] == 0).sum())
            total = settings["epochs"] * math.ceil(len(stream[event.task].y) / settings["batch_size"])
            wanted = {math.ceil(total * k / FRAMES) for k in range(1, FRAMES + 1)}
            first = 0
            if event.task == 0:
                yield frame("start", 0, f"{n} weights of a layer, random and free. The first task may train all.")
        elif isinstance(event, Step):
            first = first or event.step
            if (k := event.step - first + 1) in wanted:
                text = f"{names[event.task]} trains the {free} free weights of {n}: step {k} of {total}."
                yield frame("train", event.task, text)
        elif isinstance(event, Phase) and event.name == "prune":
            task = len(frozen)
            kept = int((method.owner[LAYER] == task + 1).sum())
            text = f"{names[task]} keeps the {kept} largest of the {free} weights that it has trained. "
            text += f"The other {free - kept} are 0 and free again." if free > kept else "No weight becomes free."
            yield frame("prune", task, text)
        elif isinstance(event, Phase) and event.name == "retrain" and event.info["epoch"] == event.info["epochs"]:
            text = f"The {kept} kept weights of {names[task]} are retrained alone. Loss: {event.info['loss']:.3f}."
            yield frame("retrain", task, text)
        elif isinstance(event, Evaluated):
            accuracy = event.accuracy
        elif isinstance(event, TaskEnded):
            frozen.append(model.trunk[0].weight.detach().clone())
            reads = accuracy[: task + 1]
            own = tuple(own_accuracy(method, model, stream, t) for t in range(task + 1))
            yield frame("freeze", task, _summary(names, task, method.owner[LAYER], reads))


def _summary(names: list[str], task: int, owner: Tensor, reads: tuple[float, ...]) -> str:
    own, read = int((owner == task + 1).sum()), int((owner > 0).sum())
    return (
        f"{names[task]} is frozen. It owns {own} weights and reads {read}; {int((owner == 0).sum())} are free. "
        f"Mean accuracy on the tasks so far: {sum(reads) / len(reads):.3f}."
    )


def _written(w: Tensor, largest: float) -> str:
    """|w| as base-36 digits, unit by unit; z is the largest of the whole trace."""
    return "".join(LEVELS[level] for level in (w.abs() / largest * 35).round().long().flatten().tolist())


def _owners(owner: Tensor) -> str:
    return "".join(map(str, owner.flatten().tolist()))
