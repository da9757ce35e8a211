"""Growing experts: stages of tokens arrive, experts are added and frozen, and the routing of old tokens drifts."""

import functools

import streamlit as st

from cllab.isolation import LifelongMoE, grow, kl_to_old, routing_drift
from cllab.isolation.growth import INITS
from cllab.player.growing_run import grown_run
from labs import growing_traces as traces
from labs import kept_runs
from labs.controls import Controls, show_code
from labs.growing_charts import show_curves
from labs.growing_words import table, tell
from labs.player import player

LOOK = (
    "Kinds of token arrive stage by stage. Each stage brings new experts, and the old ones are locked. But locked "
    "experts do not lock the routing: watch where the tokens of earlier stages go (a dashed cell: they were here when "
    "their stage ended), and what a KL term that holds the old answers changes about it."
)
COMPARE = {
    "nothing": {},
    "λ = 0": {"lam": 0.0},
    "no growth, no KL": {"n_new": 0},
    "1 new expert, λ = 3": {"n_new": 1, "lam": 3.0},
    "copies": {"init": "copy"},
    "silent start": {"init": "silent", "quiet": 64},
    "freezing switched": {},
}
PRESETS = {
    "With KL and without": {},
    "Fine-tuning: no growth, no KL": {"n_new": 0, "compare": "1 new expert, λ = 3"},
    "Frozen rows do not freeze routing": {"lam": 0.0, "compare": "nothing"},
    "KL holds the routing": {"lam": 30.0},
    "Silent start: nothing changes": {"init": "silent", "quiet": 64, "compare": "copies"},
    "Copy: mass moves at once": {"k": 2, "compare": "silent start"},
    "No freezing": {"freeze": False, "compare": "freezing switched"},
    "Let me guess": {"lam": 0.0, "compare": "nothing", "predict": True},
}
CLAIMS = {
    "With KL and without": "With KL (A) stage 1 keeps 0.52, without (B) 0.26. The price: A's last stage gets to 0.57, "
    "B's to 1.00.",
    "Fine-tuning: no growth, no KL": "Each new stage is learned to 1.00, and the ones before fall to guessing (A).",
    "Frozen rows do not freeze routing": "No old expert and no old router row moves, and yet all tokens of stage 1 "
    "end up with newer experts.",
    "KL holds the routing": "λ = 30: 55 % of stage 1's routing moves instead of 100 %. But now hardly anything new is "
    "learned.",
    "Silent start: nothing changes": "A silent expert arrives and no token moves, KL is 0 (A). A copy takes 22 % of "
    "the probability at once (B).",
    "Copy: mass moves at once": "k = 2: the copy takes a second place from others. 24 % of the routing moves before "
    "any training (A), none when it starts silent (B).",
    "No freezing": "The old experts change by up to 0.53 (A), and stage 1 keeps no less than with frozen ones (B).",
    "Let me guess": "You say how much of the routing moves when all that is old is frozen.",
}
ABOUT_INIT = (
    "How a new expert starts:\n"
    "- random: fresh, with a fresh router row\n"
    "- copy: of the expert that the new tokens use most, and of its row; rounding decides between equal scores\n"
    "- split: copies share what one had: ln 2 is taken from the scores of both\n"
    "- silent: a copy that gets no token until it is woken"
)
GUESSES = ("less than a quarter", "a quarter to three quarters", "more than three quarters")
# On a phone the moving picture comes first and the settings follow it; wide tables are set smaller and scroll.
ON_A_PHONE = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-grow_settings) { order: 1; }
[data-testid="stMainBlockContainer"] table { display: block; overflow-x: auto; font-size: 0.75rem; }
[data-testid="stMainBlockContainer"] :is(th, td) { padding: 0.2rem 0.3rem; }
}</style>"""


def main() -> None:
    page = Controls("grow")
    page.head("Growing experts", LOOK, lesson="14")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(ON_A_PHONE)
    board = st.container(key="grow_board")
    with board.container(key="grow_settings"):
        settings, predict = choose(page)
    page.finish()
    with board.container(key="grow_picture"):
        show_runs(settings, predict)
    note = (
        "The method, how a layer grows, the KL term, how drift is counted, and the run of this page. A balance loss "
        "acts in the first stage only, so that its tokens spread over the first experts."
    )
    show_code(LifelongMoE, grow, kl_to_old, routing_drift, grown_run, note=note)
    st.caption("Lesson 14 grows a mixture by hand; the page Expert routing shows a router without stages.")


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the guess."""
    st.session_state["grow.round"] = st.session_state.get("grow.round", 0) + 1


def choose(page: Controls) -> tuple[dict[str, dict], bool]:
    """The settings of run A and, if it is compared with something, of run B; and whether to ask before showing."""
    default = traces.DEFAULTS
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        about = "Experts that each later stage adds. 0: plain fine-tuning, without growth and without KL."
        n_new = page.slider("n_new", "New experts per stage", 0, 4, default["n_new"], help=about, width=170)
        about = "Weight of KL(M_old ‖ M_new) on the new tokens: how hard the answers of before are held."
        lam = page.scale("lam", "KL weight λ", list(traces.LAMS), default["lam"], help=about, width=170)
        init = page.choice("init", "New experts start", INITS, default["init"], help=ABOUT_INIT)
        about = "Old experts and old router rows take no more steps. The layers below and above always learn on."
        freeze = page.toggle("freeze", "Freeze what is old", default["freeze"], help=about, width=190)
        about = "A second run with the same seed and this one difference."
        compare = page.select("compare", "Compare with (B)", list(COMPARE), "λ = 0", help=about, width=190)
    with st.expander("First experts, order, seed and guessing", icon=":material/tune:"):
        with st.container(horizontal=True, gap="small", vertical_alignment="top"):
            experts = page.slider("experts", "First experts", 2, 6, default["experts"], help="E in stage 1.", width=150)
            k = page.slider("k", "Experts per token k", 1, 2, default["k"], help="It never grows.", width=150)
            about = "Which kinds of token come in which stage."
            order = page.select("order", "Stages", list(traces.ORDERS), default["order"], help=about, width=230)
            about = "Optimiser steps of each stage, on 64 rows each."
            steps = page.scale("steps", "Steps per stage", list(traces.STEPS), default["steps"], help=about, width=150)
            about = "Added to new experts and rows, relative to the spread of the copied weights. It parts the copies."
            noise = page.scale("noise", "Noise σ", list(traces.NOISES), default["noise"], help=about, width=150)
            about = "For how many steps a silent expert stays without tokens. 0: it is woken after the first step."
            given = {"width": 150, "disabled": init != "silent"}
            quiet = page.scale("quiet", "Silent for steps", list(traces.QUIETS), default["quiet"], help=about, **given)
        with st.container(horizontal=True, gap="medium"):
            seed = page.seed(default=default["seed"])
            about = "The page asks how much of stage 1's routing moves before it shows the runs."
            predict = page.toggle("predict", "Let me guess first", False, help=about)
    ours = traces.filled(
        n_new=n_new, lam=lam, init=init, freeze=freeze, experts=experts, k=k, order=order, steps=steps, noise=noise,
        quiet=quiet, seed=seed,
    )  # fmt: skip
    if compare == "nothing":
        return {"A": ours}, predict
    change = {"freeze": not freeze} if compare == "freezing switched" else COMPARE[compare]
    theirs = traces.filled(**{**ours, **change})
    if theirs == ours:
        st.info("B has the same settings as A, so only A is shown.", icon=":material/info:")
        return {"A": ours}, predict
    return {"A": ours, "B": theirs}, predict


def show_runs(settings: dict[str, dict], predict: bool) -> None:
    """Train what is not trained yet, then what came of it, the player, the curves and the table."""
    found = {name: trained(name, chosen) for name, chosen in settings.items()}
    runs = {name: run for name, (run, _) in found.items()}
    trace = traces.trace(runs, settings)
    if predict and not guessed(runs["A"], settings["A"], trace["stages"]):
        return
    st.markdown(tell(runs, settings))
    watch(trace)
    show_curves(runs)
    st.markdown(table(runs, trace["stages"]))
    notes = ". ".join(f"{name}: {note}" for name, (_, note) in found.items())
    st.caption(
        "Accuracies and routes are those of test rows. Learned: when its stage ended. Moved: the share of assignments "
        "that are no longer where they were then; newer: those that are now with experts that came later. "
        f"Guessing gives 0.25. {notes}. CPU, seed {settings['A']['seed']}; other seeds differ."
    )


def guessed(run: list[dict], chosen: dict, stages: list[str]) -> bool:
    """Ask how much of stage 1's routing has moved in run A; True once there is an answer, which is then judged."""
    drift = traces.ends(run)[0]["drift"]
    truth = GUESSES[0] if drift < 0.25 else GUESSES[1] if drift <= 0.75 else GUESSES[2]
    frozen = chosen["freeze"] and chosen["n_new"] > 0
    what = "All that is old is frozen, experts and router rows. " if frozen else ""
    st.markdown(
        f"**{traces.describe(**chosen)}. {what}After all {len(stages)} stages, how much of the routing of stage 1 "
        f"({stages[0]}) has moved to another expert?**"
    )
    key = f"grow_guess_{st.session_state.get('grow.round', 0)}_{traces.settings_key(**chosen)}"
    guess = st.pills("Your guess", GUESSES, key=key, label_visibility="collapsed")
    if guess is None:
        return False
    verdict = "Right" if guess == truth else f"You said {guess}"
    (st.success if guess == truth else st.info)(f"{verdict}: {truth}, {drift:.0%}.")
    return True


@st.fragment
def watch(trace: dict) -> None:
    """The player; it starts anew with a preset and keeps its step while settings change."""
    player(trace, key=f"grow_player_{st.session_state.get('grow.round', 0)}", autoplay=True)


def trained(name: str, chosen: dict) -> tuple[list[dict], str]:
    """The frames of a run and where they come from."""
    train = functools.partial(traces.train, **chosen)
    about = f"Training run {name}: {traces.describe(**chosen)}"
    return kept_runs.trained("growing", traces.settings_key(**chosen), traces.committed(), train, about)


main()
