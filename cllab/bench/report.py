"""A benchmark's figures: what was measured, against which target, on which machine."""

import os
import platform
from collections.abc import Sequence
from typing import NamedTuple

import torch

import cllab


class Row(NamedTuple):
    """One figure. target: what it should be, in words; met: whether it is; detail: how it came about."""

    name: str
    value: float
    unit: str
    target: str
    met: bool
    detail: str = ""


def at_most(name: str, value: float, unit: str, limit: float, detail: str = "") -> Row:
    """A figure that should not exceed `limit`."""
    return Row(name, value, unit, f"<= {limit:g}", value <= limit, detail)


def at_least(name: str, value: float, unit: str, limit: float, detail: str = "") -> Row:
    """A figure that should reach `limit`."""
    return Row(name, value, unit, f">= {limit:g}", value >= limit, detail)


def between(name: str, value: float, unit: str, low: float, high: float, detail: str = "") -> Row:
    """A figure that should lie in [low, high]."""
    return Row(name, value, unit, f"{low:g} to {high:g}", low <= value <= high, detail)


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    cells = [("what", "measured", "target", "", "how")]
    for row in rows:
        measured = f"{row.value:.3g} {row.unit}".strip()
        cells.append((row.name, measured, row.target, "ok" if row.met else "MISSED", row.detail))
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[4]]).rstrip()
        for line in cells
    )


def machine(device: torch.device) -> dict[str, str]:
    """What a reader needs to judge the figures."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})", "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads()),
        "torch": torch.__version__, "python": platform.python_version(), "system": platform.system(),
        "cllab": cllab.__version__,
    }  # fmt: skip
