"""What the routing page shows, computed from its settings: a small mixture of experts trained for real, as a trace.

No Streamlit in here, so that tests call these functions directly. `train` pulls `cllab.training.fit` and looks at where
32 probe tokens go every few steps. The traces of the page's presets are committed in traces/routing.json, so that the
page draws at once; `python -m labs.routing_traces` computes them anew, and a test compares.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from cllab import checks
from cllab.isolation import LoadBalance, MoEClassifier, expert_capacity, token_task
from cllab.isolation.tokens import KINDS
from cllab.player import routing_trace
from cllab.training import Evaluated, Step, fit

COMMITTED = Path(__file__).parent / "traces" / "routing.json"
DEFAULTS = {
    "experts": 4, "k": 1, "capacity_factor": None, "overflow": "drop", "alpha": 0.0, "seed": 0, "steps": 512,
}  # fmt: skip
PRESETS = (
    {}, {"alpha": 0.1}, {"capacity_factor": 1.0}, {"capacity_factor": 1.0, "alpha": 0.1},
    {"capacity_factor": 1.0, "overflow": "reroute"}, {"k": 2},
)  # fmt: skip
FRAMES = 32
BATCH = 64
WIDTH, HIDDEN, LR = 16, 16, 5e-3


def train(
    experts: int = 4,
    k: int = 1,
    capacity_factor: float | None = None,
    overflow: str = "drop",
    alpha: float = 0.0,
    seed: int = 0,
    steps: int = 512,
    on_frame: Callable[[float], None] | None = None,
) -> dict:
    """Train a mixture of experts on the token task and return where the 32 probe tokens went, as a "routing" trace.

    experts: E; k: experts per token, 1..E; capacity_factor: places per expert relative to an even load, None for no
    limit; overflow: "drop" or "reroute"; alpha: coefficient of the Switch balance loss; seed: of data, weights and
    order; steps: optimiser steps of 64 rows. With k = 1 a token's weight is its probability (Switch), else the k
    weights sum to 1. Trained in float64, so that two machines agree. Accuracy is that of 512 test rows, which go
    through the layer together and share its capacity; losses are means over the steps since the frame before.
    on_frame hears which share of the steps is done.
    """
    checks.integer("steps", steps, 1)
    task = token_task(64 * BATCH, seed=seed, n_test=512)
    model = MoEClassifier(
        task.data.x.shape[1], WIDTH, experts, k, task.data.n_classes, seed=seed, hidden=HIDDEN,
        capacity_factor=capacity_factor, overflow=overflow, renormalise=k > 1,
    ).double()  # fmt: skip
    every = max(1, steps // FRAMES)
    events = fit(
        model, task.stream, [LoadBalance(alpha)], epochs=-(-steps // 64), batch_size=BATCH, lr=LR, seed=seed,
        eval_every=every,
    )  # fmt: skip
    frames: list[dict] = []
    losses: list[dict[str, float]] = []
    for event in events:
        if isinstance(event, Step):
            losses.append(event.losses)
            if len(losses) == 1 and len(frames) == 1:
                frames[0]["losses"] = _means(losses)  # the loss of step 1 is that of the untrained model
        elif isinstance(event, Evaluated):
            frames.append(_frame(model, task.probe_x.double(), event, losses))
            losses = []
            if on_frame is not None:
                on_frame(min(1.0, event.step / steps))
            if event.step >= steps:
                break
    n, when = len(task.probe_label), "mean over the steps since the frame before"
    return routing_trace(
        frames,
        list(zip(task.probe_label, task.probe_kind.tolist(), strict=True)),
        KINDS,
        capacity=None if capacity_factor is None else expert_capacity(n, experts, k, capacity_factor),
        overflow=overflow,
        formulas={
            "task": f"cross-entropy of the training rows, {when}",
            "balance": f"α · E · Σ f·P with α = {alpha:g}, on the training rows, {when}",
        },
        title=describe(experts, k, capacity_factor, overflow, alpha),
        alt=f"{n} tokens of four kinds, {experts} experts: lines show where the router sends each token in training.",
    )


def committed() -> dict[str, dict]:
    """The committed traces of the presets, {settings as JSON: trace}."""
    return _read(COMMITTED)


def settings_key(**settings) -> str:
    """The name under which a trace is committed: its settings with defaults filled in, as JSON."""
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"settings must be among {sorted(DEFAULTS)}, got {sorted(unknown)}")
    return json.dumps({**DEFAULTS, **settings}, sort_keys=True)


def describe(experts: int, k: int, capacity_factor: float | None, overflow: str, alpha: float) -> str:
    """The settings in words, e.g. "4 experts, k = 1, no balance loss"."""
    parts = [f"{experts} experts, k = {k}", f"balance loss α = {alpha:g}" if alpha else "no balance loss"]
    if capacity_factor is not None:
        parts.append(f"capacity × {capacity_factor:g}, {overflow}")
    return ", ".join(parts)


def switch_terms(step: dict, experts: int) -> dict:
    """The Switch loss of the probe tokens in one frame, taken apart: {"f" [E], "P" [E], "value", "formula"}.

    f[e] = load[e] / N (assignments asked for), P[e] = importance[e] / N, value = E * sum_e f[e] P[e].
    """
    n = len(step["expert"])
    f = [load / n for load in step["load"]]
    p = [importance / n for importance in step["importance"]]
    value = experts * sum(a * b for a, b in zip(f, p, strict=True))
    products = " + ".join(f"{a:.3f}·{b:.3f}" for a, b in zip(f, p, strict=True))
    return {"f": f, "P": p, "value": value, "formula": f"{experts} · ({products}) = {value:.3f}"}


def curves(traces: dict[str, dict]) -> list[dict]:
    """Rows for the charts, one per run, frame and quantity: {"run", "step", "what", "value"}."""
    return [
        {"run": run, "step": step["step"], "what": what, "value": value}
        for run, trace in traces.items()
        for step in trace["steps"]
        for what, value in {"accuracy": step["accuracy"], **step["losses"]}.items()
    ]


def _frame(model: MoEClassifier, probes: torch.Tensor, event: Evaluated, losses: list[dict[str, float]]) -> dict:
    with torch.no_grad():
        model(probes)
    layer = model.moe
    return {
        "step": event.step, "routing": layer.routing, "losses": _means(losses), "accuracy": event.accuracy[0],
        "logits": layer.logits if layer.overflow == "reroute" else None,
    }  # fmt: skip


def _means(losses: list[dict[str, float]]) -> dict[str, float]:
    names = losses[0] if losses else ()
    return {name: sum(row[name] for row in losses) / len(losses) for name in names}


@cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    COMMITTED.parent.mkdir(exist_ok=True)
    traces = {settings_key(**preset): train(**DEFAULTS | preset) for preset in PRESETS}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(t, separators=(',', ':'))}" for key, t in traces.items())
    COMMITTED.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
