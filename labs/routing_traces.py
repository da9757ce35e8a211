"""What the routing page shows, computed from its settings: a small mixture of experts trained for real, as a trace.

No Streamlit in here, so that tests call these functions directly. `train` pulls `cllab.training.fit` and looks at where
40 probe tokens and the tokens of a text go every few steps. The traces of the page's presets are committed in
traces/routing.json, so that the page draws at once; `python -m labs.routing_traces` computes them anew, and a test
compares.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from cllab import checks
from cllab.isolation import LoadBalance, LossFreeBalance, MoEClassifier, TrainThenFreeze, expert_capacity, token_task
from cllab.isolation.tokens import KINDS, TokenTask, token_rows
from cllab.player import routing_trace
from cllab.training import Evaluated, Method, Step, fit
from labs.routing_guides import guide_of, owner_of
from labs.routing_rules import BALANCES, DEFAULTS, FREE, HASH, PRIOR, TAUGHT, describe, sensible, settings_key

COMMITTED = Path(__file__).parent / "traces" / "routing.json"
CURE = {"balance": "Switch loss"}
SHAKEN = {"noise": True, "steps": 1024}
PRESETS = (
    {}, CURE, CURE | {"steps": 768}, CURE | {"steps": 768, "seed": 1}, SHAKEN, SHAKEN | {"balance": "Shazeer loss"},
    {"balance": FREE, "strength": 0.03}, {"choice": "experts"}, {"guide": HASH}, {"guide": PRIOR},
    {"guide": PRIOR, "seed": 1}, {"guide": TAUGHT}, {"capacity_factor": 1.0}, CURE | {"capacity_factor": 1.0},
    {"capacity_factor": 1.0, "overflow": "reroute"},
)  # fmt: skip
TEXT = "the cat is in ( 3 += 4 ) and the dog was in the rain { 7 == 2 } to that river -> [ song of bread ]"
FRAMES = 32
BATCH, EPOCH = 64, 64
"""Rows per step, and steps per epoch."""
WIDTH, HIDDEN, LR = 16, 16, 5e-3


def train(on_frame: Callable[[float], None] | None = None, **settings) -> dict:
    """Train a mixture of experts on the token task and return where the probe tokens went, as a "routing" trace.

    settings: as `sensible` leaves them (labs/routing_rules.py); experts E; k experts per token; capacity_factor, places
    per expert relative to an even load, None for no limit; overflow "drop" or "reroute"; balance, the name of a loss
    with the coefficient `strength`, or loss-free with that step; z, coefficient of the z-loss; choice, who chooses;
    guide with tau; seed of data, weights, order and hash table; steps of 64 rows. With k = 1 a token's weight is its
    probability (Switch), else the k weights sum to 1. Trained in float64, so that two machines agree. Accuracy is that
    of 512 test rows, which go through the layer together and share its capacity; losses are means over the steps
    since the frame before. on_frame hears which share of the steps is done.
    """
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"settings must be among {sorted(DEFAULTS)}, got {sorted(unknown)}")
    run = DEFAULTS | settings
    steps = checks.integer("steps", run["steps"], 1)
    task = token_task(EPOCH * BATCH, seed=run["seed"], n_test=512)
    model = MoEClassifier(
        task.data.x.shape[1], WIDTH, run["experts"], run["k"], task.data.n_classes, seed=run["seed"], hidden=HIDDEN,
        capacity_factor=run["capacity_factor"], overflow=run["overflow"], renormalise=run["k"] > 1,
        noise=run["noise"], choice=run["choice"].removesuffix("s"), guide=guide_of(run),
    ).double()  # fmt: skip
    events = fit(
        model, task.stream, _methods(run), epochs=-(-steps // EPOCH), batch_size=BATCH, lr=LR, seed=run["seed"],
        eval_every=max(1, steps // FRAMES),
    )  # fmt: skip
    text_x, _, text_kind = token_rows(TEXT)
    frames: list[dict] = []
    losses: list[dict[str, float]] = []
    for event in events:
        if isinstance(event, Step):
            losses.append(event.losses)
            if len(losses) == 1 and len(frames) == 1:
                frames[0]["losses"] = _means(losses)  # the loss of step 1 is that of the untrained model
        elif isinstance(event, Evaluated):
            frames.append(_frame(model, task.probe_x.double(), text_x.double(), event, losses))
            losses = []
            if on_frame is not None:
                on_frame(min(1.0, event.step / steps))
            if event.step >= steps:
                break
    return routing_trace(
        frames,
        list(zip(task.probe_label, task.probe_kind.tolist(), strict=True)),
        KINDS,
        line=list(zip(TEXT.split(), text_kind.tolist(), strict=True)),
        capacity=_places(run, task),
        overflow=run["overflow"],
        formulas=_formulas(run),
        title=describe(run),
        alt=f"{len(task.probe_label)} tokens of {len(KINDS)} kinds, {run['experts']} experts: lines show who serves "
        "each token in training.",
    )


def committed() -> dict[str, dict]:
    """The committed traces of the presets, {settings as JSON: trace}."""
    return _read(COMMITTED)


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


def _methods(run: dict) -> list[Method]:
    methods: list[Method] = []
    if run["balance"] == FREE:
        methods.append(LossFreeBalance(run["strength"]))
    elif run["balance"] != "none":
        checks.choice("balance", run["balance"], tuple(BALANCES))
        methods.append(LoadBalance(run["strength"], BALANCES[run["balance"]]))
    if run["z"]:
        methods.append(LoadBalance(run["z"], "z"))
    if run["guide"] == TAUGHT:
        methods.append(TrainThenFreeze(lambda x: owner_of(x, run["experts"]), max(1, run["steps"] // 4)))
    return methods


def _places(run: dict, task: TokenTask) -> int | None:
    """The probes' places per expert."""
    n, factor = len(task.probe_label), run["capacity_factor"]
    if run["choice"] == "experts":
        return min(n, expert_capacity(n, run["experts"], run["k"], factor or 1.0))
    return None if factor is None else expert_capacity(n, run["experts"], run["k"], factor)


def _formulas(run: dict) -> dict[str, str]:
    when = "on the training rows, mean over the steps since the frame before"
    loss = {
        "Switch loss": "α · E · Σ f·P",
        "CV2 loss": "α · Var(importance) / mean(importance)²",
        "Shazeer loss": "α · (CV²(gates) + CV²(smooth load))",
    }.get(run["balance"])
    found = {"task": f"cross-entropy, {when}"}
    found |= {"balance": f"{loss} with α = {run['strength']:g}, {when}"} if loss else {}
    return found | ({"z-loss": f"z · mean (ln Σ exp S)² with z = {run['z']:g}, {when}"} if run["z"] else {})


def _frame(
    model: MoEClassifier, probes: torch.Tensor, text: torch.Tensor, event: Evaluated, losses: list[dict[str, float]]
) -> dict:
    layer, was_training = model.moe, model.training
    model.eval()
    with torch.no_grad():
        model(text)
        line = {"routing": layer.routing, "logits": layer.logits}
        model(probes)
    model.train(was_training)
    return {
        "step": event.step, "routing": layer.routing, "losses": _means(losses), "accuracy": event.accuracy[0],
        "logits": layer.logits if layer.overflow == "reroute" else None, "line": line, "bias": layer.bias,
    }  # fmt: skip


def _means(losses: list[dict[str, float]]) -> dict[str, float]:
    names = losses[0] if losses else ()
    return {name: sum(row[name] for row in losses) / len(losses) for name in names}


@cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    COMMITTED.parent.mkdir(exist_ok=True)
    traces = {settings_key(**preset): train(**sensible(**preset)[0]) for preset in PRESETS}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(t, separators=(',', ':'))}" for key, t in traces.items())
    COMMITTED.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
