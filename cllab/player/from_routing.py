"""The trace of a router while it trains: the same tokens routed again at several training steps."""

from collections.abc import Mapping, Sequence

from cllab import checks
from cllab.isolation.routing import Routing
from cllab.player.schema import VERSION, round_trace


def routing_trace(
    frames: Sequence[Mapping],
    tokens: Sequence[tuple[str, int]],
    kinds: Sequence[str],
    *,
    capacity: int | None = None,
    overflow: str = "drop",
    formulas: Mapping[str, str] | None = None,
    title: str = "Expert routing",
    alt: str = "",
) -> dict:
    """A trace of kind "routing".

    frames    one mapping per training step shown, all for the same N tokens: "step" (int), "routing" (a
              `Routing`), "losses" {name: number}, "accuracy" in [0, 1] or None, and optionally "logits"
              [N, E], which give the choice before capacity: it tells a token that was sent on from one that
              went where it wanted
    tokens    N pairs (label, kind index); kinds: the names of the kinds
    capacity, overflow  as given to `route`
    formulas  loss name -> sentence shown when its number is pointed at

    Raises ValueError or TypeError naming the argument.
    """
    checks.choice("overflow", overflow, ("drop", "reroute"))
    if not frames:
        raise ValueError("frames must hold at least one frame, got none")
    if not tokens:
        raise ValueError("tokens must hold at least one token, got none")
    for _, kind in tokens:
        checks.integer("the kind in tokens", kind, 0, len(kinds) - 1)
    steps = [_step(i, frame, len(tokens)) for i, frame in enumerate(frames)]
    first = frames[0]["routing"]
    for i, frame in enumerate(frames):
        shape, load = frame["routing"].expert.shape, frame["routing"].load.shape
        if (shape, load) != (first.expert.shape, first.load.shape):
            raise ValueError(f"frames[{i}]['routing'] must have the shape of the first, got {tuple(shape)}")
    n_experts, k = len(first.load), first.expert.shape[1]
    trace = {
        "v": VERSION, "kind": "routing", "title": title,
        "alt": alt or f"{len(tokens)} tokens go to {k} of {n_experts} experts each, over training.",
        "experts": n_experts, "k": k, "capacity": capacity, "overflow": overflow, "kinds": list(kinds),
        "tokens": [{"label": str(label), "kind": kind} for label, kind in tokens], "steps": steps,
    }  # fmt: skip
    return round_trace(trace | ({"formulas": formulas} if formulas else {}))


def _step(i: int, frame: Mapping, n_tokens: int) -> dict:
    missing = [key for key in ("step", "routing", "losses", "accuracy") if key not in frame]
    if missing:
        raise ValueError(f"frames[{i}] lacks {', '.join(map(repr, missing))}")
    routing: Routing = frame["routing"]
    if len(routing.expert) != n_tokens:
        raise ValueError(f"frames[{i}]['routing'] must route {n_tokens} tokens, got {len(routing.expert)}")
    step = {
        "text": _sentence(frame, routing), "step": checks.integer(f"frames[{i}]['step']", frame["step"], 0),
        "expert": routing.expert, "weight": routing.weight.detach(), "kept": routing.kept,
        "load": routing.load, "importance": routing.importance.detach(), "dropped": int(routing.dropped),
        "losses": {name: float(value) for name, value in frame["losses"].items()},
        "accuracy": frame["accuracy"],
    }  # fmt: skip
    if frame.get("logits") is not None:
        ranking = frame["logits"].detach().argsort(dim=1, descending=True, stable=True)
        step["wanted"] = ranking[:, : routing.expert.shape[1]]
    return step


def _sentence(frame: Mapping, routing: Routing) -> str:
    slots = routing.expert.numel()
    busiest, idle = int(routing.load.argmax()), int((routing.load == 0).sum())
    text = f"Step {frame['step']}: expert {busiest} is asked for {int(routing.load[busiest])} of {slots} places"
    text += f", {idle} of {len(routing.load)} experts get nothing" if idle else ", every expert is asked"
    text += f", {routing.dropped} dropped" if routing.dropped else ""
    return text + (f". Accuracy {frame['accuracy']:.2f}." if frame["accuracy"] is not None else ".")
