"""The streams of the page "Forgetting curves": from the values of its controls to a `Stream`. No Streamlit here."""

import functools
from collections.abc import Callable
from dataclasses import replace

from cllab.streams import (
    Dataset,
    Stream,
    blurry,
    digits,
    fashion_mnist,
    mnist,
    permuted,
    points,
    rotated,
    split,
)

LETTERS = "ABCDE"
STREAMS = (
    "clusters", "moons, rotated", "gaussians, rotated", "digits, split", "digits, permuted", "digits, rotated",
    "digits, blurry", "Fashion-MNIST, split", "Fashion-MNIST, permuted", "MNIST, split", "MNIST, permuted",
    "MNIST, rotated",
)  # fmt: skip


def build_stream(settings: dict) -> Stream:
    """The stream called settings["stream"], with the tasks named "A: ...", "B: ...".

    settings also needs: scenario, tasks (2 to 5), seed, rows (most training rows per data set), angle, mix.
    FileNotFoundError says what to do when MNIST is neither on disk nor reachable.
    """
    source, _, kind = settings["stream"].partition(", ")
    scenario, n_tasks, seed = settings["scenario"], settings["tasks"], settings["seed"]
    if source == "clusters":
        stream = split(points("clusters", seed=seed), 2, scenario)
    else:
        dataset = points(source, seed=seed) if source in ("moons", "gaussians") else _real(source)
        dataset = dataset.take(settings["rows"], seed) if len(dataset.y) > settings["rows"] else dataset
        stream = _KINDS[kind](dataset, n_tasks, scenario, settings)
    tasks = (replace(t, name=f"{letter}: {t.name}") for letter, t in zip(LETTERS, stream, strict=False))
    return replace(stream, tasks=tuple(tasks))


def _real(name: str) -> Dataset:
    """A data set of images, read once per server."""
    return _load(name)


@functools.lru_cache(maxsize=3)
def _load(name: str) -> Dataset:
    return {"digits": digits, "MNIST": mnist, "Fashion-MNIST": fashion_mnist}[name]()


def _split(dataset: Dataset, n_tasks: int, scenario: str, settings: dict) -> Stream:
    return split(*_even(dataset, n_tasks), scenario)


def _blurry(dataset: Dataset, n_tasks: int, scenario: str, settings: dict) -> Stream:
    return blurry(_even(dataset, n_tasks)[0], n_tasks, settings["mix"], scenario, seed=settings["seed"])


def _permuted(dataset: Dataset, n_tasks: int, scenario: str, settings: dict) -> Stream:
    return permuted(dataset, n_tasks, scenario, seed=settings["seed"])


def _rotated(dataset: Dataset, n_tasks: int, scenario: str, settings: dict) -> Stream:
    return rotated(dataset, n_tasks, scenario, max_angle=float(settings["angle"]))


def _even(dataset: Dataset, n_tasks: int) -> tuple[Dataset, int]:
    """As many of the ten classes as `n_tasks` can share evenly, and how many each gets."""
    each = dataset.n_classes // n_tasks
    return dataset.only(range(each * n_tasks)), each


_KINDS: dict[str, Callable[[Dataset, int, str, dict], Stream]] = {
    "split": _split, "permuted": _permuted, "rotated": _rotated, "blurry": _blurry,
}  # fmt: skip
