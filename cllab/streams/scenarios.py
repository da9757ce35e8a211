"""From one data set to a stream of tasks: split, permuted, rotated, blurry, online."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.streams.arguments import class_list, instance, row_shape
from cllab.streams.dataset import Dataset
from cllab.streams.stream import SCENARIOS, Stream, Task


def split(
    dataset: Dataset,
    classes_per_task: int | Sequence[int] | Sequence[Sequence[int]],
    scenario: str = "class",
    *,
    class_order: Sequence[int] | None = None,
    labels: dict[int, int] | None = None,
) -> Stream:
    """Each task brings its own classes (Split-MNIST and the like; Zenke, Poole & Ganguli 2017).

    classes_per_task: a number that divides the classes, a list of sizes, or a list of groups of classes.
    class_order: the order in which classes arrive (default ascending); groups have their own and raise with it.
    labels: what the model must answer for each class. Default: the class itself, and in the domain-incremental
    scenario its place within its task (0 or 1 for pairs, so Split-MNIST asks "even or odd?").

    Raises ValueError for an empty group, a class listed twice, a class of the data that is in no group (use
    `dataset.only(...)` first) and labels that make two classes of the same question indistinguishable.
    """
    instance("dataset", dataset, Dataset)
    checks.choice("scenario", scenario, SCENARIOS)
    groups = _groups(dataset.classes, classes_per_task, class_order)
    if labels is None:
        place = {c: i for group in groups for i, c in enumerate(group)}
        labels = place if scenario == "domain" else {c: c for group in groups for c in group}
    _check_labels(labels, groups, scenario)

    def task(group: list[int]) -> Task:
        rows, rows_test = (torch.isin(y, torch.tensor(group)) for y in (dataset.y, dataset.y_test))
        return _task(
            dataset.x[rows], _relabel(dataset.y[rows], labels), dataset.x_test[rows_test],
            _relabel(dataset.y_test[rows_test], labels), [labels[c] for c in group], "/".join(map(str, group)),
        )  # fmt: skip

    tasks = tuple(task(group) for group in groups)
    return Stream(tasks, scenario, max(labels[c] for group in groups for c in group) + 1, f"split {dataset.name}")


def permuted(dataset: Dataset, n_tasks: int, scenario: str = "domain", *, seed: int = 0) -> Stream:
    """Task 0 is the data as it is; each later task shuffles the D input features by one fixed permutation.

    Goodfellow et al. 2013. Train and test rows of a task share the permutation.
    """
    instance("dataset", dataset, Dataset)
    checks.integer("n_tasks", n_tasks, 1)
    source = generator(seed, "permutations")
    orders = [torch.arange(dataset.x.shape[1])]
    orders += [torch.randperm(dataset.x.shape[1], generator=source) for _ in range(n_tasks - 1)]
    views = [(f"permutation {i}", dataset.x[:, p], dataset.x_test[:, p]) for i, p in enumerate(orders)]
    return _same_labels(dataset, views, scenario, "permuted")


def rotated(
    dataset: Dataset,
    n_tasks: int,
    scenario: str = "domain",
    *,
    max_angle: float = 180.0,
    angles: Sequence[float] | None = None,
) -> Stream:
    """Each task turns the inputs by one fixed angle in degrees, counter-clockwise (Lopez-Paz & Ranzato 2017).

    angles: one per task; default: evenly spaced from 0 up to, not including, `max_angle`. Points turn about the
    origin exactly, images about their centre with bilinear interpolation.
    """
    instance("dataset", dataset, Dataset)
    checks.integer("n_tasks", n_tasks, 1)
    checks.number("max_angle", max_angle, -360.0, 360.0)
    angles = [max_angle * i / n_tasks for i in range(n_tasks)] if angles is None else angles
    given = checks.real_numbers("angles", angles)
    if given.shape != (n_tasks,):
        raise ValueError(f"angles must hold one angle per task: {n_tasks} tasks, got {angles!r}")
    angles = [checks.number("angles", angle, -360.0, 360.0) for angle in given.tolist()]
    views = [
        (f"{angle:g} degrees", *(rotate(x, angle, dataset.shape) for x in (dataset.x, dataset.x_test)))
        for angle in angles
    ]
    return _same_labels(dataset, views, scenario, "rotated")


def blurry(dataset: Dataset, n_tasks: int, mix: float, scenario: str = "class", *, seed: int = 0) -> Stream:
    """Blurry-M: every task keeps 1 - mix of its own classes' samples and lends the rest to the other tasks evenly.

    With 5 tasks of 1,000 samples and mix = 0.1, a task trains on 900 samples of its own and 25 from each of the
    others (Aljundi et al. 2019); rows that cannot be shared out evenly stay. Tests stay sharp: a task is tested on
    its own classes.
    """
    instance("dataset", dataset, Dataset)
    checks.integer("n_tasks", n_tasks, 1)
    checks.number("mix", mix, 0.0, 1.0)
    if len(dataset.classes) % n_tasks:
        raise ValueError(f"n_tasks must divide the {len(dataset.classes)} classes, got {n_tasks}")
    if n_tasks == 1 and mix > 0:
        raise ValueError("mix must be 0 when n_tasks is 1: there is no other task to mix with")
    sharp = split(dataset, len(dataset.classes) // n_tasks, scenario)
    source = generator(seed, "blurry")
    received: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sharp]
    for i, task in enumerate(sharp):
        lend = math.floor(mix * len(task.y) / max(n_tasks - 1, 1) + 1e-9)  # 24.999... is 25; never more than it has
        others = [j for j in range(n_tasks) if j != i]
        order = torch.randperm(len(task.y), generator=source)
        keep = len(order) - lend * len(others)
        received[i].append((task.x[order[:keep]], task.y[order[:keep]]))
        for place, j in enumerate(others):
            rows = order[keep + place * lend : keep + (place + 1) * lend]
            received[j].append((task.x[rows], task.y[rows]))
    tasks = []
    for task, parts in zip(sharp, received, strict=True):
        x, y = (torch.cat(column) for column in zip(*parts, strict=True))
        classes = sorted(set(y.tolist()) | set(task.classes))
        tasks.append(_task(x, y, task.x_test, task.y_test, classes, task.name))
    return Stream(tuple(tasks), scenario, sharp.n_classes, f"blurry {dataset.name}")


def online(stream: Stream) -> Stream:
    """The same stream in which every sample passes by once: `fit` then refuses more than one epoch."""
    instance("stream", stream, Stream)
    return replace(stream, online=True, name=f"online {stream.name}")


def rotate(x: Tensor, angle: float, shape: tuple[int, ...]) -> Tensor:
    """Rows x [N, D] turned counter-clockwise by `angle` degrees; `shape` is (2,) for points or (channels, H, W)."""
    checks.floats("x", x, ndim=2)
    checks.number("angle", angle, -360.0, 360.0)
    shape = row_shape("shape", shape)
    if math.prod(shape) != x.shape[1]:
        raise ValueError(f"shape must have {x.shape[1]} features as the rows of x, got {shape}")
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    if shape == (2,):
        return x @ torch.tensor([[cos, sin], [-sin, cos]], dtype=x.dtype)
    if len(shape) != 3:
        raise ValueError(f"shape must be (2,) for points or (channels, height, width) for images, got {shape}")
    # image rows run downwards, so sampling position = the inverse rotation with the vertical axis flipped
    grid_map = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype).expand(len(x), 2, 3)
    grid = F.affine_grid(grid_map, [len(x), *shape], align_corners=False)
    return F.grid_sample(x.view(-1, *shape), grid, align_corners=False).flatten(1)


def _groups(classes: list[int], per_task, class_order) -> list[list[int]]:
    order = classes if class_order is None else class_list("class_order", class_order)
    if sorted(order) != classes:
        raise ValueError(f"class_order must list each class of the data once: {classes}, got {order}")
    if isinstance(per_task, Sequence) and per_task and all(isinstance(g, Sequence) for g in per_task):
        if class_order is not None:
            raise ValueError(f"class_order must be None when classes_per_task lists groups, got {class_order}")
        groups = [class_list("classes_per_task", group) for group in per_task]
    else:
        if isinstance(per_task, Sequence):
            sizes = [checks.integer("classes_per_task", size, 1) for size in per_task]
        else:
            size = checks.integer("classes_per_task", per_task, 1)
            sizes = [size] * (len(order) // size)
        if sum(sizes) != len(order) or not sizes:
            raise ValueError(f"classes_per_task {per_task} must divide up {len(order)} classes, got {sum(sizes)}")
        groups = [order[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]
    listed = [c for group in groups for c in group]
    if any(not group for group in groups):
        raise ValueError(f"classes_per_task must not hold an empty group, got {groups}")
    if len(set(listed)) != len(listed):
        raise ValueError(f"classes_per_task must name a class once, got {groups}")
    if sorted(listed) != classes:
        raise ValueError(
            f"classes_per_task {groups} must cover the classes of the data {classes}; "
            "take the rows you want first: dataset.only([...])"
        )
    return groups


def _check_labels(labels: dict[int, int], groups: list[list[int]], scenario: str) -> None:
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels must be a dict from class to label, got {labels!r}")
    class_list("labels", [*labels, *labels.values()])
    missing = [c for group in groups for c in group if c not in labels]
    if missing:
        raise ValueError(f"labels must give a label for every class, missing {missing}")
    together = groups if scenario == "domain" else [[c for group in groups for c in group]]
    for group in together:
        if len({labels[c] for c in group}) != len(group):
            raise ValueError(f"labels must keep the classes {group} apart, got {[labels[c] for c in group]}")


def _relabel(y: Tensor, labels: dict[int, int]) -> Tensor:
    classes, place = y.unique(return_inverse=True)
    return torch.tensor([labels[c] for c in classes.tolist()])[place]


def _same_labels(dataset: Dataset, views, scenario: str, kind: str) -> Stream:
    """A stream in which every view holds all classes; task- and class-incremental number them on."""
    checks.choice("scenario", scenario, SCENARIOS)
    width = dataset.n_classes
    tasks = []
    for i, (name, x, x_test) in enumerate(views):
        shift = 0 if scenario == "domain" else i * width
        classes = [c + shift for c in dataset.classes]
        tasks.append(_task(x, dataset.y + shift, x_test, dataset.y_test + shift, classes, name))
    n_classes = width if scenario == "domain" else width * len(tasks)
    return Stream(tuple(tasks), scenario, n_classes, f"{kind} {dataset.name}")


def _task(x, y, x_test, y_test, classes, name: str) -> Task:
    return Task(x, y, x_test, y_test, tuple(classes), name)
