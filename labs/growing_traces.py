"""What the page of growing experts shows, computed from its settings: runs of a growing mixture, as one trace.

No Streamlit in here, so that tests call these functions directly. The runs of the page's presets are committed in
traces/growing.json, so that the page draws at once; `python -m labs.growing_traces` computes them anew, and a test
compares.
"""

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from cllab import checks
from cllab.isolation import token_task
from cllab.player import growing_trace
from cllab.player.growing_run import grown_run

COMMITTED = Path(__file__).parent / "traces" / "growing.json"
ORDERS = {
    "digits and brackets first": [["digit", "bracket"], ["word"], ["code"], ["language"]],
    "language first": [["language"], ["code"], ["word"], ["digit", "bracket"]],
    "words with language": [["digit", "bracket"], ["word", "language"], ["code"]],
    "one kind at a time": [["digit"], ["bracket"], ["word"], ["code"], ["language"]],
}
LAMS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
NOISES = (0.0, 0.03, 0.1, 0.3, 1.0)
QUIETS = (0, 16, 32, 64)
STEPS = (32, 64, 128)
DEFAULTS = {
    "n_new": 1, "lam": 3.0, "init": "copy", "freeze": True, "experts": 4, "k": 1, "order": next(iter(ORDERS)),
    "steps": 128, "noise": 0.0, "quiet": 0, "seed": 0,
}  # fmt: skip
PRESETS = (
    {}, {"lam": 0.0}, {"n_new": 0}, {"lam": 30.0}, {"init": "silent", "quiet": 64}, {"init": "copy", "k": 2},
    {"init": "silent", "quiet": 64, "k": 2}, {"freeze": False},
)  # fmt: skip
"""The runs that the page's buttons show, as run A or as run B."""
FRAMES = 8  # of each stage, besides that before its first step


def train(on_frame: Callable[[float], None] | None = None, **settings) -> list[dict]:
    """The frames of the run that settings (see DEFAULTS) describe; on_frame hears which share of it is done."""
    chosen = filled(**settings)
    checks.choice("order", chosen["order"], tuple(ORDERS))
    checks.integer("steps", chosen["steps"], FRAMES)
    names = ("n_new", "lam", "init", "freeze", "experts", "k", "steps", "noise", "quiet", "seed")
    given = {name: chosen[name] for name in names}
    task = token_task(seed=checks.integer("seed", chosen["seed"], 0))
    return grown_run(task, ORDERS[chosen["order"]], **given, every=chosen["steps"] // FRAMES, on_frame=on_frame)


def trace(runs: dict[str, list[dict]], settings: dict[str, dict]) -> dict:
    """The trace of one run or of two with the same order and steps; settings: those of each run."""
    first = next(iter(settings.values()))
    about = {name: describe(**chosen) for name, chosen in settings.items()}
    title = f"{first['order'].capitalize()}: {len(ORDERS[first['order']])} stages of {first['steps']} steps"
    return growing_trace(runs, ORDERS[first["order"]], k=first["k"], about=about, title=title)


def filled(**settings) -> dict:
    """The settings with defaults, and with those that play no part set to their defaults."""
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"settings must be among {sorted(DEFAULTS)}, got {sorted(unknown)}")
    chosen = {**DEFAULTS, **settings}
    if chosen["n_new"] == 0:
        unused = ("lam", "init", "freeze", "noise", "quiet")
    else:
        unused = () if chosen["init"] == "silent" else ("quiet",)
    return {**chosen, **{name: DEFAULTS[name] for name in unused}}


def settings_key(**settings) -> str:
    """The name under which a run is committed: its settings with defaults filled in, as JSON."""
    return json.dumps(filled(**settings), sort_keys=True)


def describe(**settings) -> str:
    """What a run does at a new stage, in words, e.g. "1 new expert per stage (copy), λ = 3"."""
    chosen = filled(**settings)
    if chosen["n_new"] == 0:
        return "no growth, no KL, nothing frozen"
    many = "expert" if chosen["n_new"] == 1 else "experts"
    parts = [f"{chosen['n_new']} new {many} per stage ({chosen['init']})", f"λ = {chosen['lam']:g}"]
    if chosen["quiet"]:
        parts[0] = parts[0].replace(")", f" for {chosen['quiet']} steps)")
    return ", ".join(parts + ([] if chosen["freeze"] else ["nothing frozen"]))


def ends(run: list[dict]) -> list[dict]:
    """For every stage: {"learned": accuracy when it ended, "kept": at the end of the run, "drift", "newer"}."""
    last, found = run[-1], []
    for t in range(last["stage"] + 1):
        learned = [frame for frame in run if frame["stage"] == t][-1]["accuracy"][t]
        moved = {key: last[key][t] if t < last["stage"] else 0.0 for key in ("drift", "newer")}
        found.append({"learned": learned, "kept": last["accuracy"][t], **moved})
    return found


def arrivals(run: list[dict]) -> list[dict]:
    """The frames of later stages before their first step: what growing alone has done."""
    return [now for before, now in itertools.pairwise(run) if now["stage"] > before["stage"]]


def curves(runs: dict[str, list[dict]]) -> list[tuple]:
    """Rows (run, step, what, value) for the charts: means over the stages so far, and over earlier ones."""
    rows = []
    for name, run in runs.items():
        for frame in run:
            seen = frame["accuracy"][: frame["stage"] + 1]
            rows.append((name, frame["step"], "accuracy", sum(seen) / len(seen)))
            if frame["drift"]:
                rows.append((name, frame["step"], "moved", sum(frame["drift"]) / len(frame["drift"])))
    return rows


def committed() -> dict[str, list[dict]]:
    """The committed runs of the presets, {settings as JSON: frames}."""
    return _read(COMMITTED)


@cache
def _read(path: Path) -> dict[str, list[dict]]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    COMMITTED.parent.mkdir(exist_ok=True)
    runs = {settings_key(**preset): train(**preset) for preset in PRESETS}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(run, separators=(',', ':'))}" for key, run in runs.items())
    COMMITTED.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
