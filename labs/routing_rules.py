"""The settings of a run on the routing page: their defaults, what goes together, and what they are called."""

import json

DEFAULTS = {
    "experts": 5, "k": 1, "capacity_factor": None, "overflow": "drop", "balance": "none", "strength": 0.1,
    "noise": False, "z": 0.0, "choice": "tokens", "guide": "none", "tau": 1.0, "seed": 0, "steps": 512,
}  # fmt: skip
BALANCES = {"Switch loss": "switch", "CV2 loss": "cv2", "Shazeer loss": "shazeer"}
"""Names of the losses here and in the library. "loss-free bias" and "none" are the other two ways."""
FREE = "loss-free bias"
CHOICES = ("tokens", "experts")
PRIOR, HASH, TAUGHT = "prior", "hash", "train, then freeze"
GUIDES = ("none", PRIOR, HASH, TAUGHT)


def sensible(**settings) -> tuple[dict, list[str]]:
    """The settings that a run has in the end, and a sentence for each one that had to give way.

    Settings that make no difference get their defaults without a word, so that equal runs have equal settings.
    ValueError names a setting that there is not.
    """
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"settings must be among {sorted(DEFAULTS)}, got {sorted(unknown)}")
    run, told = DEFAULTS | settings, []

    def give_way(name: str, value, why: str) -> None:
        if run[name] != value:
            run[name] = value
            told.append(why)

    if run["k"] > run["experts"]:
        why = (
            f"A token cannot visit {run['k']} different experts out of {run['experts']}: k = {run['experts']} is used."
        )
        give_way("k", run["experts"], why)
    if run["guide"] == HASH:
        _by_hash(give_way)
    if run["guide"] == TAUGHT:
        give_way("k", 1, "Experts that are taught first have one owner per token: k = 1 is used.")
        give_way("choice", "tokens", "The experts are taught first, and then the tokens choose: experts do not.")
    if run["choice"] == "experts":
        _by_experts(give_way)
    if run["balance"] == "Shazeer loss":
        give_way("noise", True, "The Shazeer loss trains the smooth load, which only noise has: noise is switched on.")
    if run["capacity_factor"] is None and run["choice"] == "tokens" and run["guide"] != HASH:
        why = "Without a capacity limit no expert is ever full, so drop and reroute are the same."
        give_way("overflow", "drop", why)
    for name, matters in (("strength", run["balance"] != "none"), ("tau", run["guide"] == PRIOR)):
        run[name] = run[name] if matters else DEFAULTS[name]
    return run, told


def _by_hash(give_way) -> None:
    """A table decides: there is nothing to balance, to shake or to limit."""
    give_way("choice", "tokens", "A hash decides alone: experts do not choose.")
    give_way("k", 1, "The hash table names one expert per token: k = 1 is used.")
    give_way("balance", "none", "A hash table is even from the start and does not learn: balancing is left out.")
    give_way("noise", False, "A hash table has no scores that noise could shake: noise is left out.")
    give_way("z", 0.0, "With a hash table the router's scores decide nothing: the z-loss is left out.")
    give_way("capacity_factor", None, "Tokens that are sent by a table are never turned away: there is no capacity.")
    give_way("overflow", "drop", "Tokens that are sent by a table never find an expert full: nothing is rerouted.")


def _by_experts(give_way) -> None:
    """Experts that choose always take as many tokens as they have places."""
    give_way("balance", "none", "Experts that choose are balanced by construction: balancing is left out.")
    give_way("noise", False, "Noise is there for tokens that choose; where experts choose it is left out.")
    give_way("z", 0.0, "The z-loss is measured where tokens choose; where experts choose it is left out.")
    give_way("overflow", "drop", "Experts that choose are never asked in vain: nothing is rerouted.")


def describe(run: dict) -> str:
    """The settings of `sensible` in words, e.g. "5 experts, k = 1, no balancing"."""
    parts = [f"{run['experts']} experts, k = {run['k']}"]
    if run["choice"] == "experts":
        parts.append("experts choose")
    if run["guide"] == PRIOR:
        parts.append(f"prior τ = {run['tau']:g}")
    elif run["guide"] != "none":
        parts.append(run["guide"])
    if run["balance"] == FREE:
        parts.append(f"{FREE} γ = {run['strength']:g}")
    elif run["balance"] != "none":
        parts.append(f"{run['balance']} α = {run['strength']:g}")
    elif run["choice"] == "tokens" and run["guide"] != HASH:
        parts.append("no balancing")
    parts += ["noise"] if run["noise"] else []
    parts += [f"z-loss {run['z']:g}"] if run["z"] else []
    if run["capacity_factor"] is not None:
        limit = f"capacity × {run['capacity_factor']:g}"
        parts.append(limit if run["choice"] == "experts" else f"{limit}, {run['overflow']}")
    return ", ".join(parts)


def settings_key(**settings) -> str:
    """The name under which a trace is kept: the settings that the run has in the end, as JSON."""
    return json.dumps(sensible(**settings)[0], sort_keys=True)
