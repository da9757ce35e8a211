"""Where tensors live and where randomness comes from."""

import contextlib
import zlib

import torch

from cllab import checks

DEVICES = "'auto', 'cpu', 'cuda' or 'cuda:0' and so on"


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU.

    Raises ValueError for a name torch does not know and for a CUDA device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be {DEVICES}, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be {DEVICES}, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} asked for, but this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def generator(seed: int, purpose: str = "") -> torch.Generator:
    """A CPU generator for one purpose; the same `seed` and `purpose` always give the same numbers.

    Separate purposes ("data order", "Reservoir") give unrelated streams from one seed, so that adding a method to
    a run never changes the order of the data. Drawing on the CPU and moving the result keeps a GPU run on the same
    numbers as a CPU run.
    """
    seed = checks.integer("seed", seed, 0, 2**63 - 1)
    source = torch.Generator(device="cpu")
    source.manual_seed(seed if not purpose else (seed * 1_000_003 + zlib.crc32(purpose.encode())) % 2**63)
    return source


def given_generator(given: torch.Generator | None, purpose: str = "") -> torch.Generator:
    """`given` itself, or one of seed 0 for `purpose` when it is None; TypeError for anything else."""
    return generator(0, purpose) if given is None else checks.generator("generator", given)


@contextlib.contextmanager
def cpu_threads(count: int | None):
    """Run the block with `count` intra-op threads (None leaves torch's setting alone), then restore the old count.

    One thread is fastest and steadiest for the small networks of this course: two threads on two busy cores were
    measured up to 40 times slower.
    """
    before = torch.get_num_threads()
    changes = count is not None and checks.integer("threads", count, 1) != before
    if changes:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if changes:
            torch.set_num_threads(before)
