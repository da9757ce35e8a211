"""The routing page's presets and controls, and the settings of its two runs."""

import streamlit as st

from labs.controls import Controls
from labs.routing_rules import BALANCES, CHOICES, DEFAULTS, FREE, GUIDES, HASH, PRIOR, TAUGHT, sensible

SWITCH = "Switch loss α = 0.1"
OTHER_SEED = "the next seed"
COMPARE = {
    "nothing": {},
    SWITCH: {"balance": "Switch loss", "strength": 0.1, "choice": "tokens", "guide": "none"},
    "no balancing": {"balance": "none"},
    OTHER_SEED: {},
    "no guide": {"guide": "none"},
    "tokens choose": {"choice": "tokens"},
    "rerouting": {"overflow": "reroute"},
    "k = 2": {"k": 2},
}
PRESETS = {
    "Collapse and its cure": {},
    "Another seed": {"balance": "Switch loss", "steps": 768, "compare": OTHER_SEED},
    "Noise and Shazeer loss": {"balance": "Shazeer loss", "noise": True, "steps": 1024, "compare": "no balancing"},
    "Loss-free bias": {"balance": FREE, "strength": 0.03},
    "Experts choose": {"choice": "experts", "compare": "tokens choose"},
    "Hash": {"guide": HASH},
    "Prior": {"guide": PRIOR, "compare": OTHER_SEED},
    "Train, then freeze": {"guide": TAUGHT},
    "Capacity 1.0 drops tokens": {"capacity": "1.0"},
    "Reroute": {"capacity": "1.0", "compare": "rerouting"},
    "Let me guess": {"predict": True},
}
CLAIMS = {
    "Collapse and its cure": "The same seed twice: without balance loss (A) and with it (B).",
    "Another seed": "Both runs specialise, but the kinds of token find other experts: the numbers mean nothing.",
    "Noise and Shazeer loss": "Noise alone collapses just the same (B). With Shazeer's loss on top all experts work.",
    "Loss-free bias": "A bias per expert, moved after every step, balances without a term in the loss.",
    "Experts choose": "Every expert takes its 8 surest tokens: always even, but some tokens get none at first.",
    "Hash": "A random table is even from step 0, and its experts know a bit of everything.",
    "Prior": "Told which kind belongs to which expert, both seeds put it there from the first step.",
    "Train, then freeze": "For a quarter of the steps each expert is taught one kind; then the router must find them.",
    "Capacity 1.0 drops tokens": "Room for an even load and no more: who comes late to a full expert is dropped.",
    "Reroute": "The same limit, but a token that finds its expert full goes to its next choice.",
    "Let me guess": "You say how many experts will still have work at the end.",
}
CAPACITIES = {"0.5": 0.5, "0.75": 0.75, "1.0": 1.0, "1.25": 1.25, "1.5": 1.5, "2.0": 2.0, "no limit": None}
STRENGTHS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
Z_LOSSES = [0.0, 0.0001, 0.001, 0.01, 0.1]
TAUS = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0]
ABOUT_BALANCE = (
    "What keeps all experts in work.\n"
    "- Switch loss: α·E·Σ f·P\n"
    "- CV2 loss: α times the squared variation of importance\n"
    "- Shazeer loss: the same of gate values and of the smooth load (needs noise)\n"
    "- loss-free bias: added to the probabilities for the choice alone, and moved after each step"
)
ABOUT_GUIDE = (
    "What the router is told beforehand.\n"
    "- prior: which kind of token belongs to which expert, weighed with τ\n"
    "- hash: a random table from token to expert; the router is not asked\n"
    "- train, then freeze: each expert is taught one kind for the first quarter of the steps, then stays as it is"
)


def settings(page: Controls) -> tuple[dict, dict | None, list[str], bool]:
    """Run A's settings, run B's (None without one), sentences about what had to give way, and whether to ask first."""
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        ways = ["none", *BALANCES, FREE]
        balance = page.select("balance", "Balancing", ways, DEFAULTS["balance"], help=ABOUT_BALANCE, width=160)
        about = "α, the coefficient of the balance loss; for the loss-free bias γ, how far it moves in a step."
        given = {"disabled": balance == "none", "width": 170}
        strength = page.scale("strength", "Strength α or γ", STRENGTHS, DEFAULTS["strength"], help=about, **given)
        about = "tokens: each token goes to its k best experts. experts: each expert takes its surest tokens."
        choice = page.choice("choice", "Who chooses", list(CHOICES), DEFAULTS["choice"], help=about)
        guide = page.select("guide", "Guide", list(GUIDES), DEFAULTS["guide"], help=ABOUT_GUIDE, width=170)
        about = "A second run with the same seed and this one difference (or the same settings and the next seed)."
        compare = page.select("compare", "Compare with (B)", list(COMPARE), SWITCH, help=about, width=190)
    with st.expander("Experts, capacity, noise, seed, guessing", icon=":material/tune:"):
        more, predict = _more(page, guide)
    ours = {"balance": balance, "strength": strength, "choice": choice, "guide": guide, **more}
    run, told = sensible(**ours)
    if compare == "nothing":
        return run, None, told, predict
    change = {"seed": (run["seed"] + 1) % 1000} if compare == OTHER_SEED else COMPARE[compare]
    other, also = sensible(**{**run, **change})
    return run, other, told + [f"B: {why}" for why in also], predict


def _more(page: Controls, guide: str) -> tuple[dict, bool]:
    found = {}
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        narrow = {"width": 150}
        about = "Feed-forward networks in the layer. There are five kinds of token."
        found["experts"] = page.slider("experts", "Experts E", 2, 7, DEFAULTS["experts"], help=about, **narrow)
        about = "Each token visits its k best-scored experts; where experts choose, k experts on average."
        found["k"] = page.slider("k", "Experts per token k", 1, 4, DEFAULTS["k"], help=about, **narrow)
        about = "Places per expert as a multiple of an even load, k·N/E, rounded up. Full experts turn tokens away."
        limit = page.scale("capacity", "Capacity factor", list(CAPACITIES), "no limit", help=about, **narrow)
        found["capacity_factor"] = CAPACITIES[limit]
        about = "What happens at a full expert. drop: the token gets nothing. reroute: it goes to its next choice."
        found["overflow"] = page.choice("overflow", "When full", ["drop", "reroute"], "drop", help=about)
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        about = "Noisy top-k: while it trains, the scores are shaken, by how much is learned. Not in the pictures here."
        found["noise"] = page.toggle("noise", "Noise", DEFAULTS["noise"], help=about)
        about = "Coefficient of mean (ln Σ exp S)², which keeps the router's scores S small."
        found["z"] = page.scale("z", "z-loss", Z_LOSSES, DEFAULTS["z"], help=about, width=150)
        about = "Weight of the prior: τ ln π is added to the scores, π = 0.8 for the expert of the token's kind."
        given = {"disabled": guide != PRIOR, "width": 150}
        found["tau"] = page.scale("tau", "Prior τ", TAUS, DEFAULTS["tau"], help=about, **given)
        about = "Optimiser steps, each on 64 rows."
        found["steps"] = page.slider(
            "steps", "Training steps", 128, 1024, DEFAULTS["steps"], step=128, help=about, width=180
        )
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        found["seed"] = page.seed(default=DEFAULTS["seed"])
        about = "The page asks how many experts will have work at the end before it shows the run."
        predict = page.toggle("predict", "Let me guess first", False, help=about)
    return found, predict
