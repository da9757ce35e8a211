"""What the page of low rank shows, computed from its settings: a change rank by rank, a merge, an overlap in training.

No Streamlit in here, so that tests call these functions directly. The traces of the presets that need training are
committed in traces/lowrank.json, so that the page draws at once; `python -m labs.lowrank_traces` computes them anew,
and a test compares.
"""

import json
import math
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.isolation import Factors, merge_lora, overlap
from cllab.player import lowrank_trace, merging_trace, overlap_trace, round_trace
from labs import lowrank_training as training

COMMITTED = Path(__file__).parent / "traces" / "lowrank.json"
RANKS, PIXELS = training.HIDDEN, 64
EPOCHS = training.EPOCHS
RANDOM, FIRST = "random numbers", "first layer"
CHANGES = (*training.LAYERS, RANDOM)
UNITS, COPY, DIGITS = "e₁e₁ᵀ and e₂e₂ᵀ", "an adapter and its turned copy", "trained on digits"
PAIRS = (UNITS, COPY, DIGITS)
ADAPTER_RANK = 4
TRAINED, BY_HAND = "trained on digits", "by hand"
RUNS = (TRAINED, BY_HAND)
OLD, NEW = "accuracy on the old task", "accuracy on the new task"
NEARLY = 0.01  # of accuracy
HAND_STEP, HAND_STEPS = 0.1, 16
PRESETS = (
    ("change", {"of": FIRST, "epochs": 20, "seed": 0}),
    ("merge", {"pair": DIGITS, "angle": 0.7, "w": 0.5, "cut": ADAPTER_RANK, "seed": 0}),
    ("subspaces", {"run": TRAINED, "lam": 0.5, "r": 4, "seed": 0}),
)


def change(of: str, epochs: int, seed: int) -> dict:
    """What fine-tuning on the new task did to one layer, or random numbers of the first layer's shape, rank by rank."""
    if checks.choice("of", of, CHANGES) == RANDOM:
        noise = torch.randn(RANKS, PIXELS, generator=generator(seed, "a random change"), dtype=torch.float64)
        return lowrank_trace(0.1 * noise, title=f"Random numbers, {RANKS} × {PIXELS}")
    tuned, name = training.fine_tuned(seed), training.LAYERS[of]
    after = tuned.after[epochs]
    delta = after[name] - tuned.before[name]
    whole = Factors(torch.eye(delta.shape[1], dtype=delta.dtype), delta)
    best = [merge_lora([whole], [1.0], "svd", rank=r) for r in range(1, RANKS + 1)]
    parts = [torch.zeros_like(delta), *(found.B @ found.A for found in best)]
    scores = [training.accuracies(tuned, after | {name: tuned.before[name] + part}) for part in parts]
    a, b = zip(*scores, strict=True)
    names = ("hidden unit", "pixel") if of == FIRST else ("hidden unit", "hidden unit below")
    return lowrank_trace(
        delta, {OLD: a, NEW: b}, names=names,
        title=f"The {of} after {epochs} {'epoch' if epochs == 1 else 'epochs'} on digits 5 to 9",
        alt=f"The change of the {of}'s weights from digits 0 to 4 to digits 5 to 9, and its best match of every rank.",
    )  # fmt: skip


def enough(trace: dict) -> int | None:
    """The smallest rank from which accuracy on the new task stays within NEARLY of the whole change's.

    None for a change that no network was trained for.
    """
    line = next((line["values"] for line in trace["lines"] if line["name"] == NEW), None)
    if line is None:
        return None
    far = [r for r, value in enumerate(line) if abs(value - line[-1]) > NEARLY + 1e-9]
    return far[-1] + 1 if far else 0


def two_adapters(pair: str, angle: float, seed: int) -> dict[str, Factors]:
    """Two adapters by name. A turned copy is (B R, R^T A) with R the rotation by `angle`: the same change."""
    checks.choice("pair", pair, PAIRS)
    if pair == UNITS:
        e = torch.eye(2, dtype=torch.float64)
        return {"B₁A₁ = e₁e₁ᵀ": Factors(e[:1], e[:, :1]), "B₂A₂ = e₂e₂ᵀ": Factors(e[1:], e[:, 1:])}
    if pair == COPY:
        A = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, -1]], dtype=torch.float64)
        B = torch.tensor([[1.0, 0], [0, 1], [1, -1]], dtype=torch.float64)
        R = rotation(angle)
        return {"the adapter": Factors(A, B), "its copy": Factors(R.T @ A, B @ R)}
    first, second = training.adapters(ADAPTER_RANK, seed).factors
    return {"4 to 6": first, "7 to 9": second}


def rotation(angle: float) -> Tensor:
    """R [2, 2], which turns by `angle` in radians; exactly -I at pi."""
    if angle == math.pi:
        return -torch.eye(2, dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def merge(pair: str, angle: float, w: float, cut: int, seed: int) -> dict:
    """All ways to merge the two adapters with weights w and 1 - w; cut: the rank after the SVD, if it goes so far."""
    adapters = two_adapters(pair, angle, seed)
    score = None
    if pair == DIGITS:
        adapted = training.adapters(ADAPTER_RANK, seed)

        def score(delta: Tensor) -> dict[str, float]:
            return dict(
                zip(("digits 4 to 6", "digits 7 to 9"), training.merged_accuracies(adapted, delta), strict=True)
            )

    titles = {UNITS: "Two adapters of rank 1", COPY: f"An adapter and its copy, turned by {angle:.4g} rad",
              DIGITS: f"Two adapters of rank {ADAPTER_RANK}, one for digits 4 to 6 and one for 7 to 9"}  # fmt: skip
    title = f"{titles[pair]}, w₁ = {w:g}"
    trace = merging_trace(adapters, [w, 1 - w], min(cut, most_rank(pair)), score, title=title)
    return trace | ({"alone": alone(seed)} if pair == DIGITS else {})


def alone(seed: int) -> dict[str, list[float]]:
    """Accuracy on digits 4 to 6 and on 7 to 9 with the base alone and with one adapter alone."""
    adapted = training.adapters(ADAPTER_RANK, seed)
    first, second = (s * B @ A for A, B, s in adapted.factors)
    changes = {"no adapter": torch.zeros_like(first), "the first alone": first, "the second alone": second}
    return round_trace({name: training.merged_accuracies(adapted, delta) for name, delta in changes.items()})


def most_rank(pair: str) -> int:
    """The full rank of the merged change."""
    return {UNITS: 2, COPY: 3, DIGITS: RANKS}[pair]


def turned_error(angle: float, w: float) -> float:
    """The relative error of averaging an adapter with its copy turned by `angle`: 2 w (1 - w) (1 - cos angle).

    (w I + (1 - w) R)(w I + (1 - w) R^T) = (w^2 + (1 - w)^2) I + w (1 - w) (R + R^T), and R + R^T = 2 cos(angle) I.
    """
    return 2 * w * (1 - w) * (1 - math.cos(angle))


def subspaces(run: str, lam: float, r: int, seed: int) -> dict:
    """The overlap of two adapters while the second trains, without the penalty and with it; or the example by hand."""
    if checks.choice("run", run, RUNS) == BY_HAND:
        return by_hand()
    runs = {f"λ = {x:g}": training.watched(float(x), r, seed) for x in dict.fromkeys((0, lam))}
    at = next(iter(runs.values())).at
    return overlap_trace(
        at, {name: (found.past, found.news) for name, found in runs.items()},
        {"accuracy on the new task, digits 7 to 9": {name: found.new for name, found in runs.items()},
         "mean accuracy on the two earlier tasks": {name: found.old for name, found in runs.items()}},
        title=f"The second adapter in training, rank {r}, {' and '.join(runs)}",
    )  # fmt: skip


@lru_cache(maxsize=1)
def by_hand() -> dict:
    """A_1 has rows e_1, e_2; A_2 = (.6, .8, 0, 0), e_3 descends along the gradient of the overlap alone."""
    past = torch.eye(4, dtype=torch.float64)[:2]
    start = torch.tensor([[0.6, 0.8, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)
    ways = {"Σ |O|, as in O-LoRA's code": overlap, "Σ O², as often quoted": overlap_squared}
    runs = {name: (past, descend(way, past, start)) for name, way in ways.items()}
    return overlap_trace(
        list(range(HAND_STEPS + 1)), runs, x_label="gradient step", title="The overlap alone, step size 0.1"
    )


def overlap_squared(A_past: Tensor, A_new: Tensor) -> Tensor:
    """sum_jk O_jk^2 of O = A_past A_new^T, the form that third parties quote for O-LoRA."""
    return (A_past @ A_new.T).square().sum()


def descend(way, past: Tensor, start: Tensor) -> list[Tensor]:
    """A_2 before and after each of HAND_STEPS steps A_2 <- A_2 - 0.1 d way / d A_2."""
    places = [start]
    for _ in range(HAND_STEPS):
        A = places[-1].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(way(past, A), A)
        places.append(places[-1] - HAND_STEP * gradient)
    return places


VIEWS = {"change": change, "merge": merge, "subspaces": subspaces}


def story(view: str, **settings) -> dict:
    """The trace of a view: the committed one where there is one, else computed."""
    known = committed().get(settings_key(view, settings))
    return VIEWS[view](**settings) if known is None else known


def settings_key(view: str, settings: dict) -> str:
    """The name under which a trace is committed; an angle that nothing turns by does not count."""
    if view == "merge" and settings["pair"] != COPY:
        settings = settings | {"angle": 0.7}
    return f"{view} {json.dumps(settings, sort_keys=True)}"


def committed() -> dict[str, dict]:
    """The committed traces, {view and settings as JSON: trace}."""
    return _read(COMMITTED)


@cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    made = {settings_key(view, settings): VIEWS[view](**settings) for view, settings in PRESETS}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(t, separators=(',', ':'))}" for key, t in made.items())
    COMMITTED.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
