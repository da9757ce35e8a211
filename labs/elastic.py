"""Elastic weights: two weights on springs, the step that bursts beside the one that cannot, four Fishers."""

import streamlit as st

from cllab.player.from_springs import path
from cllab.regularization import fisher_diagonal, proximal_step, quadratic_penalty
from labs import elastic_traces as traces
from labs.controls import Controls, show_code
from labs.elastic_tables import by_hand, fisher_table, short
from labs.player import player

LOOK = (
    "Task A left the two weights of a small model at θ*. Training on task B drags them away, and springs hold them "
    "(this is EWC): the Fisher F says how much each weight mattered to A, and where the blue ellipse is short the "
    "spring is stiff. Raise λ and watch lr · λ · max F beside the two ways to take a step, penalty and proximal."
)
DEFAULTS = traces.DEFAULTS
PARABOLAS = traces.TASKS[3]
PRESETS = {
    "Hold what mattered": {},
    "No springs": {"lam": 0},
    "The penalty step bursts": {"lam": 20},
    "Exactly 2": {"tasks": PARABOLAS, "lam": 5, "lr": 0.1},
    "By hand: 0.2": {"tasks": PARABOLAS, "lam": 1, "lr": 0.1},
    "Full batch: no spring": {"fisher": "batched", "batch": 64},
    "Wrong labels": {"tasks": "wrong labels", "fisher": "true"},
    "A leaning valley": {"tasks": "a leaning valley"},
    "Let me guess": {"lam": 20, "predict": True},
}
CLAIMS = {
    "Hold what mattered": "θ₁ mattered to A and goes less than a third of its way; the idle θ₂ three quarters.",
    "No springs": "λ = 0 is fine-tuning: loss A triples.",
    "The penalty step bursts": "lr · λ · max F is above 2: each penalty step overshoots further. The proximal settles.",
    "Exactly 2": "The springs alone would just swing for ever. B's own curvature adds to theirs and tips it over.",
    "By hand: 0.2": "Parabolas of curvature 4 and 1: θ₁ ends at 0.2, which is also best for both tasks together.",
    "Full batch: no spring": "At A's minimum the mean gradient is 0, and so is its square: nothing holds A.",
    "Wrong labels": "From the observed labels, four of them wrong, F is half as large again as the model's: it bursts.",
    "A leaning valley": "A would allow both weights to move together; a diagonal Fisher cannot lean and holds both.",
    "Let me guess": "You say which of the two steps settles.",
}
LAMBDAS = [0, 0.1, 0.3, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 30, 50, 100, 300, 1000, 10_000]
RATES = [0.05, 0.1, 0.2, 0.5, 1]
ABOUT_TASKS = (
    "- an idle feature: A's second feature is small, its weight hardly matters\n"
    "- a leaning valley: A's two features say nearly the same\n"
    "- wrong labels: four labels of A are turned round\n"
    "- two parabolas: ½ (4 θ₁² + θ₂²), then ½ ((θ₁ − 1)² + (θ₂ − 1)²)"
)
ABOUT_FISHERS = (
    "- model: every label, weighted by the model's own probability\n"
    "- sampled: one label per row, drawn from the model\n"
    "- true: the observed label\n"
    "- batched: the square of a batch's mean gradient"
)
ANSWERS = ("both", "only the penalty step", "only the proximal step", "neither")
# On a phone the moving picture comes first and the settings follow it; wide tables are set smaller and scroll.
ON_A_PHONE = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-el_settings) { order: 1; }
.st-key-el_tables table { display: block; overflow-x: auto; font-size: 0.75rem; }
.st-key-el_tables :is(th, td) { padding: 0.2rem 0.3rem; }
}</style>"""


def main() -> None:
    page = Controls("el")
    page.head("Elastic weights", LOOK, lesson="06")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(ON_A_PHONE)
    board = st.container(key="el_board")
    with board.container(key="el_settings"):
        chosen, predict = settings(page)
    page.finish()
    trace = story(**chosen)
    with board.container(key="el_picture"):
        if predict and not guessed(trace, chosen):
            return
        st.markdown(verdict(trace))
        watch("both", trace, autoplay=True)
    with st.container(key="el_tables"):
        if chosen["tasks"] != PARABOLAS:
            show_fishers(chosen)
        with st.expander("The same by hand: numbers small enough for paper", icon=":material/calculate:"):
            by_hand()
    note = (
        "`path` is what runs above. `EWC(lam, step=...)` does the same in training: with the penalty in the loss, or "
        "with a proximal step after each of the optimiser's."
    )
    show_code(path, quadratic_penalty, proximal_step, fisher_diagonal, note=note)
    st.caption(
        "Lesson 06 builds the Fisher and the springs by hand, and trains a network on permuted digits with them."
    )


def picked(label: str) -> None:
    """A preset was chosen: its players start anew, and so does the guess."""
    st.session_state["el.round"] = st.session_state.get("el.round", 0) + 1


def settings(page: Controls) -> tuple[dict, bool]:
    """What decides the traces, and whether to ask before showing."""
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        tasks = page.select("tasks", "Tasks", list(traces.TASKS), DEFAULTS["tasks"], help=ABOUT_TASKS, width=180)
        about = "How stiff all springs are: the penalty is λ / 2 · Σ F (θ − θ*)². 0 is plain fine-tuning."
        lam = page.scale("lam", "Stiffness λ", LAMBDAS, DEFAULTS["lam"], help=about, width=240)
        about = "Learning rate of the plain gradient steps on task B."
        lr = page.scale("lr", "Learning rate lr", RATES, DEFAULTS["lr"], help=about, width=150)
        kinds, given = list(traces.ESTIMATORS), {"width": 140, "disabled": tasks == PARABOLAS}
        fisher = page.select("fisher", "Fisher F", kinds, DEFAULTS["fisher"], help=ABOUT_FISHERS, **given)
        about = "Rows whose gradients are averaged before squaring, for the batched Fisher. Task A has 64 rows."
        batch = page.scale("batch", "Batch B", list(traces.BATCHES), DEFAULTS["batch"], help=about, **given)
    with st.expander("Seed and guessing", icon=":material/tune:"), st.container(horizontal=True, gap="medium"):
        seed = page.seed()
        about = "The page asks which step settles before it shows the paths."
        predict = page.toggle("predict", "Let me guess first", False, help=about)
    if tasks == PARABOLAS:
        st.info("Parabolas have no rows: F is their curvature (4, 1), whatever the estimator.", icon=":material/info:")
    return {"tasks": tasks, "lam": lam, "lr": lr, "fisher_of": fisher, "batch": batch, "seed": seed}, predict


def verdict(trace: dict) -> str:
    """What lr lam max F says about the penalty step, and what became of it."""
    (panel,) = trace["panels"]
    product, most = panel["product"], max(panel["F"])
    penalty = traces.ends(trace)["penalty"]
    told = f"**lr · λ · max F = {trace['lr']:g} · {trace['lam']:g} · {short(most)} = {short(product)}.**"
    if trace["lam"] == 0 or most == 0:
        return f"{told} No spring pulls, and both steps are plain fine-tuning."
    told += (
        " At each penalty step the stiffest spring alone multiplies its weight's distance from θ* by "
        f"1 − {short(product)} = {short(1 - product)}"
    )
    if penalty["left"] is not None:
        x, y = map(short, penalty["theta"])
        why = "." if product > 2 else ", and the curvature of loss B takes that below −1."
        return (
            f"{told}{why} The path left the picture at step {penalty['left']}; its last value is θ = ({x}, {y}). "
            f"The proximal step divides the distance by 1 + {short(product)}, which cannot overshoot."
        )
    return f"{told}: the path {'swings, but stays in the picture' if product > 1 else 'glides'}."


def guessed(trace: dict, chosen: dict) -> bool:
    """Ask which step settles; True once there is an answer, which is judged."""
    (panel,) = trace["panels"]
    most = max(panel["F"])
    st.markdown(
        f"**The stiffest spring has F = {most:.3g}. With λ = {trace['lam']:g} and lr = {trace['lr']:g}, which comes "
        f"to rest within {traces.STEPS} steps?** (penalty step: the springs are part of the loss; proximal step: after "
        "each step on loss B the weights move to where the springs balance it)"
    )
    key = f"el_guess_{st.session_state.get('el.round', 0)}_{trace['title']}_{chosen['seed']}"
    guess = st.pills("Your guess", ANSWERS, key=key, label_visibility="collapsed")
    if guess is None:
        return False
    truth = traces.settled(trace)
    judged = "Right" if guess == truth else f"You said {guess}"
    text = f"{judged}: {truth}. lr · λ · F = {panel['product']:.3g}; the border is 2."
    (st.success if guess == truth else st.info)(text)
    return True


@st.fragment
def watch(name: str, trace: dict, autoplay: bool = False) -> None:
    """A player. It keeps its step while settings change, and starts anew with a preset; without autoplay at the end."""
    key = f"el_player_{name}_{st.session_state.get('el.round', 0)}"
    if (before := st.session_state.get(f"el.player.{name}")) not in (None, key):
        for old in (before, f"{before}_asked"):
            st.session_state.pop(old, None)
    st.session_state[f"el.player.{name}"] = key
    player(trace, key=key, step=len(trace["steps"]) - 1, autoplay=autoplay)


def show_fishers(chosen: dict) -> None:
    """The four estimators: the ellipse, the path and the numbers of each."""
    st.subheader("Four Fishers, four sets of springs", anchor=False)
    st.markdown(
        "From the same 64 rows: *model* weighs every label by the model's own probability, *sampled* draws one label "
        "per row from the model, *true* takes the observed label, *batched* squares the mean gradient of B rows."
    )
    trace = four_fishers(**{name: value for name, value in chosen.items() if name != "fisher_of"})
    watch("four", trace)
    st.markdown(fisher_table(trace))
    soft, *_, stiff = sorted(trace["panels"], key=lambda panel: max(panel["F"]))
    if max(soft["F"]) > 0:
        times = f"{max(stiff['F']) / max(soft['F']):.2g} times as stiff as"
    else:
        times = "stiff beside no springs at all:"
    st.caption(
        f"At the same λ the stiffest spring of *{stiff['name']}* is {times} that of *{soft['name']}*. A λ belongs to "
        "the estimator that it was tuned with."
    )


# --- computed once, shared by all visitors -----------------------------------------------------------------


@st.cache_data(max_entries=64, show_spinner=False)
def story(tasks: str, lam: float, lr: float, fisher_of: str, batch: int, seed: int) -> dict:
    return traces.story(tasks, lam, lr, fisher_of, batch, seed)


@st.cache_data(max_entries=64, show_spinner=False)
def four_fishers(tasks: str, lam: float, lr: float, batch: int, seed: int) -> dict:
    return traces.four_fishers(tasks, lam, lr, batch, seed)


main()
