"""What the packing page shows, computed from its settings: ten weights, a layer that learns digits, a frozen weight.

No Streamlit in here, so that tests call these functions directly. The layers of the page's presets are committed in
traces/packing.json, so that the page draws at once; `python -m labs.packing_traces` computes them anew, and a test
compares.
"""

import functools
import json
import math
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

from torch.optim import SGD

from cllab import checks
from cllab.isolation import CapacityError, PackNet, share_out
from cllab.models import MLP
from cllab.player import drift_trace, packing_trace
from cllab.player.from_packed_run import packing_run
from cllab.player.from_packing import TEN
from cllab.streams import Stream, digits, permuted, split
from cllab.training import fit

COMMITTED = Path(__file__).parent / "traces" / "packing.json"
STREAMS = ("pairs of digits", "shuffled pixels")
SHUFFLED = 7  # tasks of shuffled pixels
UNITS = (4, 8, 16, 24, 32)
DECAYS = (0.0, 0.0005, 0.005, 0.02, 0.05)
FREEZES = ("put back", "gradient 0")
STEPS = (1, 3, 10, 30, 100, 300)
RATES = (0.001, 0.01, 0.1, 0.5, 1.0)
MOMENTA = (0.0, 0.5, 0.9, 0.99)
LEAK_DECAYS = (0.0, 0.0005, 0.01, 0.1, 1.0)
DEFAULTS = {
    "stream": STREAMS[0], "first": 0.5, "later": 0.25, "units": 24, "freeze": FREEZES[0], "decay": 0.0005, "seed": 0,
}  # fmt: skip
PRESETS = ({}, {"freeze": FREEZES[1], "decay": 0.02}, {"stream": STREAMS[1], "units": 8})
PIXELS = (8, 8)
EPOCHS = {STREAMS[0]: 4, STREAMS[1]: 3}
BATCH, LR, MOMENTUM = 32, 0.1, 0.9


def ten_weights(keep: tuple[float, ...] = (0.6, 0.75, 1.0)) -> dict:
    """The ten weights of the course, with these shares."""
    shares = ", ".join(f"{r:g}" for r in keep)
    return packing_trace(TEN, keep, title=f"Ten weights; tasks 1, 2, 3 keep {shares} of what they find free")


def frozen_weight(steps: int = 3, lr: float = 0.1, momentum: float = 0.9, decay: float = 0.1) -> dict:
    """A frozen weight under four optimisers."""
    title = f"A frozen weight of 1 for {steps_told(steps)} with a gradient of 0, lr = {lr:g}"
    return drift_trace(steps, lr, momentum, decay, title=title)


def farthest(trace: dict) -> tuple[list[str], float]:
    """Of a frozen weight's trace: the optimisers that moved it farthest (more than one when they tie), and how far."""
    ends = {path["name"]: path["masked"][-1] - 1 for path in trace["paths"]}
    change = max(ends.values(), key=abs)
    return [name for name, end in ends.items() if end == change], change


def steps_told(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def layer(stream: str, first: float, later: float, units: int, freeze: str, decay: float, seed: int) -> Generator:
    """The run that settings (see DEFAULTS) describe, of as many tasks as find a free weight; see `packing_run`."""
    checks.choice("freeze", freeze, FREEZES)
    tasks = make_stream(stream, seed)
    n = room((first, later), units, len(tasks))
    how = "put back after every step" if freeze == FREEZES[0] else "with a gradient of 0 only"
    return packing_run(
        replace(tasks, tasks=tasks.tasks[:n]), (first, later), units, restore=freeze == FREEZES[0],
        epochs=EPOCHS[stream], batch_size=BATCH, lr=LR,
        optimizer=functools.partial(SGD, momentum=MOMENTUM, weight_decay=decay), seed=seed, tile=PIXELS,
        title=f"{stream.capitalize()}, {64 * units} weights in {units} units; frozen weights {how}",
    )  # fmt: skip


def make_stream(name: str, seed: int) -> Stream:
    """Five tasks of two digits each, or SHUFFLED tasks of all ten with their pixels shuffled anew."""
    checks.choice("stream", name, STREAMS)
    if name == STREAMS[0]:
        return split(digits(), 2, scenario="task")
    return permuted(digits(), SHUFFLED, "task", seed=seed)


def room(keep: tuple[float, ...], units: int, n_tasks: int) -> int:
    """How many of the tasks find a free weight in a layer of `units` units."""
    return sum(owned > 0 for owned in share_out(math.prod(PIXELS) * units, keep, n_tasks))


def refusal(keep: tuple[float, ...], units: int, stream: str) -> str:
    """What PackNet says of a stream that does not fit; "" when it fits. Nothing is trained."""
    tasks = make_stream(stream, 0)
    try:
        next(fit(MLP(tasks.in_features, [units], tasks.n_classes), tasks, [PackNet(keep)]))
    except CapacityError as error:
        return str(error)
    return ""


def settings_key(**settings) -> str:
    """The name under which a layer is committed: its settings with defaults filled in, as JSON."""
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"settings must be among {sorted(DEFAULTS)}, got {sorted(unknown)}")
    return json.dumps({**DEFAULTS, **settings}, sort_keys=True)


def committed() -> dict[str, dict]:
    """The committed layers, {settings as JSON: trace}."""
    return _read(COMMITTED)


def finished(run: Generator, on_share: Callable[[float], object] = lambda share: None) -> dict:
    """The trace of a run, pulled to its end; on_share hears how much of it is done."""
    while True:
        try:
            on_share(min(1.0, next(run)))
        except StopIteration as end:
            return end.value


def counts(trace: dict) -> list[int]:
    """How many weights are free, and how many each task owns, at the end of a trace of weights or of a layer."""
    owner = [int(o) for o in trace["steps"][-1]["owner"]]
    return [owner.count(t) for t in range(len(trace["tasks"]) + 1)]


def threshold_over_all(keep: tuple[float, ...]) -> int:
    """How many weights task 2 gets of the ten when 1{|w| >= tau} is taken over all of them, task 1's too."""
    trace = ten_weights(keep)
    trained = [step for step in trace["steps"] if step["task"] == 1 and step["phase"] == "rank"]
    if not trained:
        return 0
    (step,) = trained
    ranking = sorted(range(len(step["w"])), key=lambda i: -abs(step["w"][i]))[: step["kept"]]
    return sum(step["owner"][i] == 0 for i in ranking)


def learned(trace: dict) -> list[float]:
    """Each task's accuracy right after it was learned."""
    return [step["reads"][step["task"]] for step in trace["steps"] if step["phase"] == "freeze"]


def signed(x: float) -> str:
    """A change, with its sign and three digits."""
    return f"{x:+.3g}".replace("-", "−")


@functools.cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    COMMITTED.parent.mkdir(exist_ok=True)
    traces = {settings_key(**preset): finished(layer(**DEFAULTS | preset)) for preset in PRESETS}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(t, separators=(',', ':'))}" for key, t in traces.items())
    COMMITTED.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
