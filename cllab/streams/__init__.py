"""Where samples come from: data sets, toys, and the streams of tasks made from them."""

from cllab.streams.dataset import Dataset, digits, fashion_mnist, mnist
from cllab.streams.scenarios import blurry, online, permuted, rotate, rotated, split
from cllab.streams.stream import SCENARIOS, Stream, Task
from cllab.streams.toys import CLUSTER_NAMES, icarl_toy, points

__all__ = [
    "CLUSTER_NAMES", "SCENARIOS", "Dataset", "Stream", "Task", "blurry", "digits", "fashion_mnist", "icarl_toy",
    "mnist", "online", "permuted", "points", "rotate", "rotated", "split",
]  # fmt: skip
