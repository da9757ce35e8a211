"""What has been solved so far: one small JSON file on this machine, no account, no network."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

from cllab.exercises.exercise import lessons


def progress() -> None:
    """Print every exercise of the course, lesson by lesson: [v] solved, [x] tried, [ ] not tried yet."""
    states = _read()
    for number, (title, group) in lessons().items():
        solved = sum(states.get(exercise.id) == "v" for exercise in group)
        print(f"Lesson {number} {title}: {solved} of {len(group)} solved")
        for exercise in group:
            print(f"    [{states.get(exercise.id, ' ')}] {exercise.id} {exercise.title}")


def remember(exercise_id: str, state: str) -> None:
    """Keep the outcome of one attempt. Solved stays solved, an untouched stub is no attempt; never raises."""
    states = _read()
    if state == " " or states.get(exercise_id) == "v":
        return
    states[exercise_id] = "v" if state == "v" else "x"
    with contextlib.suppress(OSError, RuntimeError):  # a read-only disk costs the list, not the lesson
        _write(states)


def _path() -> Path:
    home = os.environ.get("CLLAB_HOME")
    return (Path(home) if home else Path.home() / ".cllab") / "progress.json"


def _read() -> dict[str, str]:
    try:
        stored = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {name: state for name, state in stored.items() if state in ("v", "x")}


def _write(states: dict[str, str]) -> None:
    """Replace the file in one step, so that a reader never sees half of it."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(states, file, indent=1, sort_keys=True)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
