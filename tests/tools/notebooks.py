"""Rebuild the lessons: notebooks/src/NN_name.py -> notebooks/NN_name.ipynb, executed on the CPU.

`python -m tests.tools.notebooks` does all of them; with arguments ("01") only those. Cells keep their ids, so
that a rebuilt lesson differs only where the source or an output did.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from jupytext.cli import jupytext
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
LESSONS = ROOT / "notebooks"
SOURCES = LESSONS / "src"
CELL_SECONDS, LESSON_SECONDS, LESSON_BYTES = 20, 60, 400_000


def main(numbers: list[str]) -> None:
    """Rebuild the lessons called `numbers` (all when empty); leaves with 1 when one breaks a limit."""
    os.environ.update(OMP_NUM_THREADS="1", IPYKERNEL_CELL_NAME="<cell>", CUDA_VISIBLE_DEVICES="")
    sources = [
        source for source in sorted(SOURCES.glob("[0-9][0-9]_*.py")) if not numbers or source.name[:2] in numbers
    ]
    if not sources:
        sys.exit(f"no lesson {' '.join(numbers)} in {SOURCES.relative_to(ROOT)}")
    too_much = [message for source in sources for message in rebuild(source)]
    sys.exit("\n".join(too_much) or None)


def rebuild(source: Path) -> list[str]:
    """Write and execute the notebook of one source file; returns a sentence per limit that it breaks."""
    target = LESSONS / f"{source.stem}.ipynb"
    sync(source, target)
    notebook = nbformat.read(target, as_version=4)
    seconds = execute(notebook)
    nbformat.write(notebook, target)
    total, slowest, size = sum(seconds), max(seconds, default=0.0), target.stat().st_size
    times = f"{total:.1f} s (slowest cell {slowest:.1f} s)"
    print(f"{target.name}: {len(notebook.cells)} cells, {times}, {size / 1000:.0f} kB")
    limits = [
        (slowest, CELL_SECONDS, "s for one cell"),
        (total, LESSON_SECONDS, "s"),
        (size, LESSON_BYTES, "bytes"),
    ]
    return [f"{target.name}: {value:.0f} {unit}, allowed are {most}" for value, most, unit in limits if value > most]


def sync(source: Path, target: Path) -> None:
    """Bring the notebook's cells up to its source; cells that are still there keep their ids and outputs."""
    jupytext(["--quiet", "--update", "--to", "ipynb", "--output", str(target), str(source)])


def execute(notebook: nbformat.NotebookNode) -> list[float]:
    """Run every cell in a fresh kernel, in place; returns the seconds of each. A failing cell raises."""
    started, seconds = [], []
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(LESSONS)}},
        on_cell_execute=lambda cell, cell_index: started.append(time.monotonic()),
        on_cell_executed=lambda cell, cell_index, execute_reply: seconds.append(time.monotonic() - started[-1]),
    )
    client.execute()
    # what differs between machines, and the widgets' state, which is large and which no viewer shows
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    return seconds


if __name__ == "__main__":
    main(sys.argv[1:])
