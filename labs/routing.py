"""Expert routing: tokens flow to experts while a small mixture of experts trains; collapse, its cures, and guides."""

import functools

import streamlit as st

from cllab.isolation import (
    LossFreeBalance,
    TrainThenFreeze,
    balance_loss,
    expert_choice,
    expert_usage,
    guided_scores,
    hash_table,
    noisy_scores,
    route,
    smooth_load,
    specialisation,
)
from cllab.isolation.moe import MoE
from labs import kept_runs
from labs import routing_traces as traces
from labs.controls import Controls, show_code
from labs.player import player
from labs.routing_charts import show_curves
from labs.routing_rules import FREE, HASH, PRIOR, TAUGHT
from labs.routing_settings import CLAIMS, PRESETS, settings

LOOK = (
    "Without a balance loss the expert that starts ahead wins ever more tokens and the others get none: the text takes "
    "one colour. With it the load spreads, and each expert comes to serve mostly one kind of token; *specialisation* "
    "says how nearly an expert's number tells the kind."
)
# On a phone the moving picture comes first and the settings follow it.
PICTURE_FIRST = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-moe_settings) { order: 1; }
}</style>"""


def main() -> None:
    page = Controls("moe")
    page.head("Expert routing", LOOK, lesson="13")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(PICTURE_FIRST)
    board = st.container(key="moe_board")
    with board.container(key="moe_settings"):
        ours, theirs, told, predict = settings(page)
        if told:
            st.info("\n\n".join(told), icon=":material/info:")
    page.finish()
    with board.container(key="moe_runs"):
        show_runs(ours, theirs, predict)
    show_functions(ours)
    st.caption("Lesson 13 builds the router, the capacity and the balance losses by hand.")


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
            watch(name, trace, runs[name])
    notes = [f"{name}: {note}" for name, (_, note) in found.items()]
    seeds = " and ".join(dict.fromkeys(str(run["seed"]) for run in runs.values()))
    st.caption(
        "The numbers are those of the step at which a player was paused: f = load / N and P = importance / N, the mean "
        "router probability. f has no gradient, the Switch loss trains the router through P. "
        f"{'. '.join(notes)}. CPU, seed {seeds} for data, weights and order; other seeds differ."
    )
    show_curves(shown)


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
def watch(name: str, trace: dict, run: dict) -> None:
    """A player and the numbers of the step at which it stands: only these run again when somebody moves it."""
    key = f"moe_player_{name}_{st.session_state.get('moe.round', 0)}"
    played = player({**trace, "title": f"{name}: {trace['title']}"}, key=key, autoplay=True)
    show_numbers(name, trace, trace["steps"][played.step or -1], run)


def show_numbers(name: str, trace: dict, step: dict, run: dict) -> None:
    """The Switch loss of the probe tokens at one step, term by term; the bias where there is one."""
    terms = traces.switch_terms(step, trace["experts"])
    bias = step.get("bias")
    rows = [
        f"| {e} | {load} | {importance:.2f} | {f:.3f} | {p:.3f} | {f * p:.3f} |"
        + (f" {bias[e]:+.2f} |" if bias else "")
        for e, (load, f, importance, p) in enumerate(
            zip(step["load"], terms["f"], step["importance"], terms["P"], strict=True)
        )
    ]
    columns = ["load", "imp.", "f", "P", "f·P", *(["bias b"] if bias else [])]
    head = [f"| expert | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    even = f"An even load gives k = {trace['k']}, one expert for all tokens up to E = {trace['experts']}."
    if run["guide"] == HASH:
        even += " The table decides here; P is what a router that nobody asks would say."
    st.markdown(f"**Balance of {name}** at training step {step['step']}, N = {len(step['expert'])} tokens")
    st.markdown("\n".join([*head, *rows]))
    st.markdown(f"E · Σ f·P = {terms['formula'].replace('= ', '= **')}**. {even}")


def show_functions(run: dict) -> None:
    """The functions that decide in this run."""
    shown = [expert_choice] if run["choice"] == "experts" else [route]
    shown += {PRIOR: [guided_scores], HASH: [hash_table], TAUGHT: [TrainThenFreeze]}.get(run["guide"], [])
    shown += [noisy_scores, smooth_load] if run["noise"] else []
    shown += [LossFreeBalance] if run["balance"] == FREE else [balance_loss]
    note = "What brings tokens and experts together in run A, the layer, and what specialisation counts."
    show_code(*shown, MoE, expert_usage, specialisation, note=note)


def trained(name: str, chosen: dict) -> tuple[dict, str]:
    """The trace of a run and where it comes from."""
    train = functools.partial(traces.train, **chosen)
    about = f"Training run {name}: {chosen['steps']} steps"
    return kept_runs.trained("routing", traces.settings_key(**chosen), traces.committed(), train, about)


main()
