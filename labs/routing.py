"""Expert routing: tokens flow to experts while a small mixture of experts trains; collapse and its cure."""

import time

import streamlit as st

from cllab.isolation import balance_loss, route
from cllab.isolation.moe import MoE
from labs import routing_traces as traces
from labs.controls import Controls, show_code
from labs.player import player
from labs.routing_charts import show_curves

LOOK = (
    "Without a balance loss the experts that start ahead win ever more tokens and others get none; with it the "
    "load spreads, and each expert comes to serve mostly one kind of token (one colour). A capacity limit turns a "
    "crowded expert into dropped tokens (×), which the layer leaves as they were."
)
COMPARE = {
    "nothing": {},
    "balance loss α = 0.1": {"alpha": 0.1},
    "no balance loss": {"alpha": 0.0},
    "rerouting": {"overflow": "reroute"},
    "k = 2": {"k": 2},
}
PRESETS = {
    "Collapse and its cure": {},
    "Balanced: α = 0.1": {"alpha": 0.1, "compare": "nothing"},
    "Capacity 1.0 drops tokens": {"capacity": "1.0", "compare": "balance loss α = 0.1"},
    "Reroute": {"capacity": "1.0", "compare": "rerouting"},
    "k = 2": {"k": 2, "compare": "nothing"},
    "Let me guess": {"predict": True},
}
CLAIMS = {
    "Collapse and its cure": "The same seed twice: without balance loss (A) and with it (B).",
    "Balanced: α = 0.1": "The balance loss alone keeps every expert in work.",
    "Capacity 1.0 drops tokens": "Room for an even load and no more: who comes late to a full expert is dropped.",
    "Reroute": "The same limit, but a token that finds its expert full goes to its next choice.",
    "k = 2": "Two experts per token: twice the work, and a second chance for each expert.",
    "Let me guess": "You say how many experts will still have work at the end.",
}
CAPACITIES = {"0.5": 0.5, "0.75": 0.75, "1.0": 1.0, "1.25": 1.25, "1.5": 1.5, "2.0": 2.0, "no limit": None}
ALPHAS = [0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
KEPT = 24
# On a phone the moving picture comes first and the settings follow it.
PICTURE_FIRST = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-moe_settings) { order: 1; }
}</style>"""


def main() -> None:
    page = Controls("moe")
    page.head("Expert routing", LOOK, lesson="01")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(PICTURE_FIRST)
    board = st.container(key="moe_board")
    with board.container(key="moe_settings"):
        ours, theirs, predict = settings(page)
    page.finish()
    with board.container(key="moe_runs"):
        show_runs(ours, theirs, predict)
    show_code(route, MoE, balance_loss, note="What sends a token to its experts, the layer, and the balance loss.")
    st.caption("Lesson 01 shows the forgetting that separate experts are to prevent; lesson 13, experts, is planned.")


def picked(label: str) -> None:
    """A preset was chosen: its players start anew, and so does the guess."""
    st.session_state["moe.round"] = st.session_state.get("moe.round", 0) + 1


def show_runs(ours: dict, theirs: dict | None, predict: bool) -> None:
    """Train what is not trained yet, then the players, the curves and the numbers."""
    if theirs == ours:
        st.info("B has the same settings as A, so only A is shown.", icon=":material/info:")
    runs = {"A": ours} if theirs in (None, ours) else {"A": ours, "B": theirs}
    found = {name: trained(name, chosen) for name, chosen in runs.items()}
    shown = {name: trace for name, (trace, _) in found.items()}
    if predict and not guessed(shown["A"]):
        return
    for column, (name, trace) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with column:
            watch(name, trace)
    notes = [f"{name}: {note}" for name, (_, note) in found.items()]
    st.caption(
        "The numbers are those of the step at which a player was paused: f = load / N and P = importance / N, the mean "
        "router probability. f has no gradient, the loss trains the router through P. "
        f"{'. '.join(notes)}. CPU, seed {ours['seed']} for data, weights and order; other seeds differ."
    )
    show_curves(shown)


def settings(page: Controls) -> tuple[dict, dict | None, bool]:
    """The settings of run A, those of run B (None when there is none), and whether to ask before showing."""
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        narrow = {"width": 150}
        experts = page.slider("experts", "Experts E", 2, 8, 4, help="Feed-forward networks in the layer.", **narrow)
        k = page.slider(
            "k", "Experts per token k", 1, 4, 1, help="Each token visits its k best-scored experts.", **narrow
        )
        about = "Places per expert as a multiple of an even load, k·N/E, rounded up. Full experts turn tokens away."
        limit = page.scale("capacity", "Capacity factor", list(CAPACITIES), "no limit", help=about, **narrow)
        about = "What happens at a full expert. drop: the token gets nothing. reroute: it goes to its next choice."
        overflow = page.choice("overflow", "When full", ["drop", "reroute"], "drop", help=about)
        about = "Coefficient of the Switch balance loss α·E·Σ f·P, which is added to the task loss."
        alpha = page.scale("alpha", "Balance coefficient α", ALPHAS, 0.0, help=about, **narrow)
        about = "A second run with the same seed and this one difference."
        compare = page.select(
            "compare", "Compare with (B)", list(COMPARE), "balance loss α = 0.1", help=about, width=190
        )
    with (
        st.expander("Seed, steps and guessing", icon=":material/tune:"),
        st.container(horizontal=True, gap="medium"),
    ):
        seed = page.seed(default=traces.DEFAULTS["seed"])
        about = "Optimiser steps, each on 64 rows."
        steps = page.slider(
            "steps", "Training steps", 128, 1024, traces.DEFAULTS["steps"], step=128, help=about, width=200
        )
        about = "The page asks how many experts will have work at the end before it shows the run."
        predict = page.toggle("predict", "Let me guess first", False, help=about)
    if k > experts:
        st.info(
            f"A token cannot visit {k} different experts out of {experts}: k = {experts} is used.",
            icon=":material/info:",
        )
    ours = {
        "experts": experts, "k": min(k, experts), "capacity_factor": CAPACITIES[limit], "overflow": overflow,
        "alpha": alpha, "seed": seed, "steps": steps,
    }  # fmt: skip
    if CAPACITIES[limit] is None and "reroute" in (overflow, COMPARE[compare].get("overflow")):
        st.info(
            "Without a capacity limit no expert is ever full, so drop and reroute are the same.",
            icon=":material/info:",
        )
        ours["overflow"] = "drop"
    if compare == "nothing":
        return ours, None, predict
    theirs = {**ours, **COMPARE[compare]}
    if theirs["capacity_factor"] is None:
        theirs["overflow"] = "drop"
    return ours, {**theirs, "k": min(theirs["k"], experts)}, predict


def guessed(trace: dict) -> bool:
    """Ask how many experts will be asked for tokens at the end; True once there is an answer, which is then judged."""
    experts, last = trace["experts"], trace["steps"][-1]
    busy = sum(load > 0 for load in last["load"])
    question = f"After {last['step']} steps of run A ({trace['title']}), how many experts will still get tokens?"
    st.markdown(f"**{question}**")
    key = f"moe_guess_{st.session_state.get('moe.round', 0)}"
    guess = st.pills("Your guess", list(range(1, experts + 1)), key=key, label_visibility="collapsed")
    if guess is None:
        return False
    verdict = "Right" if guess == busy else f"You said {guess}"
    loads = ", ".join(map(str, last["load"]))
    text = f"{verdict}: {busy} of {experts} experts still get tokens (their loads: {loads})."
    (st.success if guess == busy else st.info)(text)
    return True


@st.fragment
def watch(name: str, trace: dict) -> None:
    """A player and the numbers of the step at which it stands: only these run again when somebody moves it."""
    key = f"moe_player_{name}_{st.session_state.get('moe.round', 0)}"
    played = player({**trace, "title": f"{name}: {trace['title']}"}, key=key, autoplay=True)
    show_numbers(name, trace, trace["steps"][played.step or -1])


def show_numbers(name: str, trace: dict, step: dict) -> None:
    """The Switch loss of the 32 tokens at one step, term by term."""
    terms = traces.switch_terms(step, trace["experts"])
    rows = [
        f"| {e} | {load} | {importance:.2f} | {f:.3f} | {p:.3f} | {f * p:.3f} |"
        for e, (load, f, importance, p) in enumerate(
            zip(step["load"], terms["f"], step["importance"], terms["P"], strict=True)
        )
    ]
    head = ["| expert | load | imp. | f | P | f·P |", "| --- |" + " ---: |" * 5]
    even = f"An even load gives k = {trace['k']}, one expert for all tokens up to E = {trace['experts']}."
    st.markdown(f"**Balance of {name}** at training step {step['step']}, N = {len(step['expert'])} tokens")
    st.markdown("\n".join([*head, *rows]))
    st.markdown(f"E · Σ f·P = {terms['formula'].replace('= ', '= **')}**. {even}")


def trained(name: str, chosen: dict) -> tuple[dict, str]:
    """The trace of a run and where it comes from; a run that is new is trained here, in view of the visitor."""
    key, kept = traces.settings_key(**chosen), cache()
    if (known := traces.committed().get(key)) is not None:
        return known, "trained beforehand"
    if key not in kept:
        start = time.perf_counter()
        bar = st.progress(0.0, f"Training run {name}: {chosen['steps']} steps")
        trace = traces.train(**chosen, on_frame=lambda share: bar.progress(share))
        bar.empty()
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)), None)
        kept[key] = trace, f"trained here in {time.perf_counter() - start:.1f} s"
    return kept[key]


@st.cache_resource
def cache() -> dict[str, tuple[dict, str]]:
    """The latest runs of all visitors, KEPT at most. Not `st.cache_data`, because training writes its progress."""
    return {}


main()
