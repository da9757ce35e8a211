"""The trace of a router while it trains: the same tokens routed again at several training steps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation.expert_choice import ExpertChoice
from cllab.isolation.routing import Routing
from cllab.isolation.specialisation import expert_usage, specialisation
from cllab.player.schema import VERSION, round_trace


class _Rows(NamedTuple):
    """Who serves whom, token by token: the rows of `expert`, `weight` and `kept` have one entry per assignment."""

    expert: list[list[int]]
    weight: list[list[float]]
    kept: list[list[bool]]
    load: list[int]


def routing_trace(
    frames: Sequence[Mapping],
    tokens: Sequence[tuple[str, int]],
    kinds: Sequence[str],
    *,
    capacity: int | None = None,
    overflow: str = "drop",
    formulas: Mapping[str, str] | None = None,
    line: Sequence[tuple[str, int]] | None = None,
    title: str = "Expert routing",
    alt: str = "",
) -> dict:
    """A trace of kind "routing".

    frames    one mapping per training step shown, all for the same N tokens: "step" (int), "routing" (a `Routing`,
              or an `ExpertChoice` in every frame), "losses" {name: number}, "accuracy" in [0, 1] or None, and
              optionally "logits" [N, E], which give the choice before capacity: it tells a token that was sent on
              from one that went where it wanted; "bias" [E], of loss-free balance
    tokens    N pairs (label, kind index); kinds: the names of the kinds
    capacity, overflow  as given to `route`; for an `ExpertChoice` the places per expert
    formulas  loss name -> sentence shown when its number is pointed at
    line      M pairs like `tokens`: a text to colour. Every frame then needs "line", a mapping of the text's own
              "routing" and "logits" [M, E]

    Every step tells the `specialisation` of the experts in the N tokens. Raises ValueError or TypeError naming the
    argument.
    """
    checks.choice("overflow", overflow, ("drop", "reroute"))
    if not frames:
        raise ValueError("frames must hold at least one frame, got none")
    for name, given in (("tokens", tokens), ("line", [("", 0)] if line is None else line)):
        if not given:
            raise ValueError(f"{name} must hold at least one token, got none")
        for _, kind in given:
            checks.integer(f"the kind in {name}", kind, 0, len(kinds) - 1)
    kind_of = torch.tensor([kind for _, kind in tokens])
    steps = [_step(i, frame, kind_of, len(kinds), line) for i, frame in enumerate(frames)]
    shape = _shape(frames[0]["routing"])
    for i, frame in enumerate(frames):
        if _shape(frame["routing"]) != shape:
            raise ValueError(f"frames[{i}]['routing'] must have the shape of the first, {shape}, "
                             f"got {_shape(frame['routing'])}")  # fmt: skip
    choice, n_experts, slots = shape
    k = max(1, round(slots * n_experts / len(tokens))) if choice == "expert" else slots
    alt = alt or f"{len(tokens)} tokens go to {k} of {n_experts} experts each, over training."
    trace = {
        "v": VERSION, "kind": "routing", "title": title, "alt": alt, "choice": choice,
        "experts": n_experts, "k": k, "capacity": capacity, "overflow": overflow, "kinds": list(kinds),
        "tokens": _named(tokens), "steps": steps,
    }  # fmt: skip
    trace |= {"line": _named(line)} if line is not None else {}
    return round_trace(trace | ({"formulas": formulas} if formulas else {}))


def _named(tokens: Sequence[tuple[str, int]]) -> list[dict]:
    return [{"label": str(label), "kind": kind} for label, kind in tokens]


def _shape(routing: Routing | ExpertChoice) -> tuple[str, int, int]:
    """Who chooses, E, and the assignments per token or, where experts choose, per expert."""
    if isinstance(routing, ExpertChoice):
        return "expert", *routing.token.shape
    return "token", len(routing.load), routing.expert.shape[1]


def _step(i: int, frame: Mapping, kind: Tensor, n_kinds: int, line: Sequence[tuple[str, int]] | None) -> dict:
    missing = [key for key in ("step", "routing", "losses", "accuracy") if key not in frame]
    if missing:
        raise ValueError(f"frames[{i}] lacks {', '.join(map(repr, missing))}")
    routing: Routing | ExpertChoice = frame["routing"]
    rows = _rows(f"frames[{i}]['routing']", routing, len(kind))
    usage = expert_usage(kind, routing, n_kinds)
    step = {
        "text": _sentence(frame, routing), "step": checks.integer(f"frames[{i}]['step']", frame["step"], 0),
        **rows._asdict(), "importance": routing.importance.detach(),
        "dropped": 0 if isinstance(routing, ExpertChoice) else int(routing.dropped),
        "losses": {name: float(value) for name, value in frame["losses"].items()},
        "accuracy": frame["accuracy"], "specialisation": specialisation(usage),
    }  # fmt: skip
    if frame.get("bias") is not None:
        step["bias"] = frame["bias"]
    if frame.get("logits") is not None and isinstance(routing, Routing):
        ranking = frame["logits"].detach().argsort(dim=1, descending=True, stable=True)
        step["wanted"] = ranking[:, : routing.expert.shape[1]]
    if line is not None:
        step["line"] = _line(f"frames[{i}]['line']", frame.get("line"), len(line), len(routing.importance))
    return step


def _line(name: str, found: Mapping | None, n: int, n_experts: int) -> dict:
    """The text's tokens: their experts, and the router's probabilities in percent."""
    if found is None or not {"routing", "logits"} <= set(found):
        raise ValueError(f"{name} must be a mapping of 'routing' and 'logits', got {found!r}")
    if tuple(found["logits"].shape) != (n, n_experts):
        raise ValueError(f"{name}['logits'] must have shape {(n, n_experts)}, got {tuple(found['logits'].shape)}")
    rows = _rows(f"{name}['routing']", found["routing"], n)
    percent = (100 * found["logits"].detach().softmax(dim=1)).round().long()
    return {"expert": rows.expert, "kept": rows.kept, "percent": percent}


def _rows(name: str, routing: Routing | ExpertChoice, n: int) -> _Rows:
    if not isinstance(routing, (Routing, ExpertChoice)):
        raise TypeError(f"{name} must be a Routing or an ExpertChoice, got {type(routing).__name__}")
    found = len(routing.multiplicity if isinstance(routing, ExpertChoice) else routing.expert)
    if found != n:
        raise ValueError(f"{name} must route {n} tokens, got {found}")
    if isinstance(routing, Routing):
        parts = (routing.expert, routing.weight.detach(), routing.kept, routing.load)
        return _Rows(*(part.tolist() for part in parts))
    n_experts, places = routing.token.shape
    rows: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    for e in range(n_experts):
        for token, weight in zip(routing.token[e].tolist(), routing.weight[e].tolist(), strict=True):
            rows[token].append((weight, e))
    rows = [sorted(row, key=lambda pair: (-pair[0], pair[1])) for row in rows]  # the surest expert first
    experts, weights = [[e for _, e in row] for row in rows], [[weight for weight, _ in row] for row in rows]
    return _Rows(experts, weights, [[True] * len(row) for row in rows], [places] * n_experts)


def _sentence(frame: Mapping, routing: Routing | ExpertChoice) -> str:
    end = f". Accuracy {frame['accuracy']:.2f}." if frame["accuracy"] is not None else "."
    if isinstance(routing, ExpertChoice):
        times = routing.multiplicity
        return (
            f"Step {frame['step']}: every expert takes its {routing.token.shape[1]} surest of {len(times)} tokens; "
            f"taken by none: {int((times == 0).sum())}, by several: {int((times > 1).sum())}{end}"
        )
    slots = routing.expert.numel()
    busiest, idle = int(routing.load.argmax()), int((routing.load == 0).sum())
    text = f"Step {frame['step']}: expert {busiest} is asked for {int(routing.load[busiest])} of {slots} places"
    text += f", {idle} of {len(routing.load)} experts get nothing" if idle else ", every expert is asked"
    text += f", {routing.dropped} dropped" if routing.dropped else ""
    return text + end
