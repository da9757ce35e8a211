"""What the speed benchmarks share: clocks, loops timed in turn, and tasks of random rows."""

import contextlib
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from cllab.device import generator
from cllab.models import MLP
from cllab.streams import Stream, Task
from cllab.training import Method, Step, fit

try:
    import resource
except ImportError:  # Windows has no such counter
    resource = None

HIDDEN = [256, 256]


def ratio(base: Iterator, loop: Iterator, rounds: int, steps: int, device: torch.device) -> tuple[float, float]:
    """Seconds per turn of `loop` over those of `base`, and those of `base`: medians of `rounds` blocks in turn."""
    ratios, seconds = [], []
    for block in range(rounds + 1):
        a, b = timed(base, steps, device), timed(loop, steps, device)
        if block:  # the first block warms up
            ratios.append(b / a)
            seconds.append(a / steps)
    return statistics.median(ratios), statistics.median(seconds)


def timed(loop: Iterator, steps: int, device: torch.device) -> float:
    """Seconds that `steps` turns of `loop` take."""
    return timed_call(lambda: [next(loop) for _ in range(steps)], device)[0]


def timed_call(call: Callable, device: torch.device) -> tuple[float, object]:
    """Seconds and result of `call`.

    On the CPU these are the process's CPU seconds: with one thread they equal elapsed time on an idle machine, and
    other programs disturb them less. On a GPU, elapsed seconds until it has finished.
    """
    clock = time.process_time
    if device.type == "cuda":
        clock = time.perf_counter
        torch.cuda.synchronize(device)
    start = clock()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start, result


def fit_loop(
    methods: Sequence[Method], tasks: Sequence[Task], epochs: int, device: torch.device, batch_size: int = 64
) -> Iterator[Step]:
    """The steps that `fit` takes in the last of the tasks."""
    model, stream = MLP(784, HIDDEN, 10), Stream(tuple(tasks), "class", 10)
    for event in fit(model, stream, methods, epochs=epochs, batch_size=batch_size, device=device):
        if isinstance(event, Step) and event.task == len(tasks) - 1:
            yield event


def random_task(name: str, n: int, classes: range, device: torch.device) -> Task:
    """`n` rows of 784 random numbers in [0, 1] with random labels from `classes`."""
    source = generator(0, name)
    x = torch.rand(n, 784, generator=source).to(device)
    y = torch.randint(classes.start, classes.stop, (n,), generator=source).to(device)
    return Task(x, y, x[:16], y[:16], tuple(classes), name)


def growth(small: float, large: float, factor: float) -> float:
    """The exponent p with large = small * factor^p: 1 where time grows in proportion, 2 where it grows squared."""
    return math.log(large / small) / math.log(factor)


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that the process (on a GPU, torch) has held so far; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system between steps.

    Whether it does is chance (the layout of the heap), costs a loop up to half its time in page faults, and differs
    from one loop of this process to the next: ratios between 0.8 and 1.8 were seen for the same two loops.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            libc, threshold_of_mmap, threshold_of_trim = ctypes.CDLL(None), -3, -1
            libc.mallopt(threshold_of_mmap, 1 << 30)
            libc.mallopt(threshold_of_trim, 1 << 30)
