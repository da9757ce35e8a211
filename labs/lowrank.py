"""Low rank: a change of weights and its best B A, two adapters merged rightly and wrongly, O-LoRA's subspaces."""

import math

import streamlit as st

from cllab.isolation import LoRALinear, OLoRA, average_factors, merge_lora, overlap
from cllab.isolation.lora_layer import LowRank
from labs import lowrank_traces as traces
from labs.controls import Controls, show_code
from labs.lowrank_guess import question
from labs.player import player

LOOK = (
    "LoRA trains the change ΔW of a layer's weights as a product B A of two thin matrices, its *factors*. Their short "
    "side r is the *rank*; one such pair is an *adapter*. **One change**: how small may r be? **Two adapters**: why "
    "changes can be added, and factors cannot be averaged. **O-LoRA**: a second adapter is kept out of the directions "
    "that the first one reads."
)
VIEWS = {"One change": "change", "Two adapters": "merge", "O-LoRA": "subspaces"}
ABOUT_VIEWS = "One weight change rank by rank; ways to merge two adapters; the overlap of two adapters in training."
DEFAULTS = {
    "view": "One change", "layer": traces.FIRST, "r": 0, "epochs": 20, "pair": traces.UNITS, "angle": 0.7, "w": 0.5,
    "cut": 4, "run": traces.TRAINED, "lam": 0.5, "size": 4, "predict": False,
}  # fmt: skip
MERGE = {"view": "Two adapters", "cut": 2}
PRESETS = {
    "Rank by rank": {},
    "Random numbers": {"layer": traces.RANDOM},
    "Average the factors": MERGE,
    "A turned copy": {**MERGE, "pair": traces.COPY},
    "Real adapters": {**MERGE, "pair": traces.DIGITS, "cut": traces.ADAPTER_RANK},
    "O-LoRA's penalty": {"view": "O-LoRA"},
    "Overlap by hand": {"view": "O-LoRA", "run": traces.BY_HAND},
    "Let me guess": {"predict": True},
}
CLAIMS = {
    "Rank by rank": "The first ranks hold most of the change; from rank 22 on A and B cost more than ΔW itself.",
    "Random numbers": "The same shape without structure: every rank counts about as much as the next.",
    "Average the factors": "The right sum has norm 0.7071; the average of factors 0.5, √w-weighted factors 1.",
    "A turned copy": "The same change in other coordinates: averaging is off by (1 − cos 0.7) / 2, at π by all of it.",
    "Real adapters": "The sum of two trained adapters keeps 0.96 on both tasks; averaging factors leaves 0.75 on one.",
    "O-LoRA's penalty": "Without it the second adapter grows into the first one's directions; with it, it does not.",
    "Overlap by hand": "Two rows against two rows: Σ |O| = 1.4, Σ O² = 1. Descend on each and see the difference.",
    "Let me guess": "You say which rank is enough.",
}
ANGLES = [round(0.1 * k, 1) for k in range(32)] + [math.pi]
LAMBDAS = [0, 0.01, 0.03, 0.1, 0.3, 0.5, 1, 3, 5]
SIZES = [1, 2, 4, 8]
# On a phone the moving picture comes first and the settings follow it.
ON_A_PHONE = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-lora_settings) { order: 1; }
}</style>"""


class Settings(Controls):
    """The page's settings; those of the views that are not shown stay in the address."""

    def finish(self) -> None:
        self._defaults = {**DEFAULTS, "seed": 0, **self._defaults}
        super().finish()


def main() -> None:
    page = Settings("lora")
    page.head("Low rank", LOOK, lesson="12")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(ON_A_PHONE)
    board = st.container(key="lora_board")
    with board.container(key="lora_settings"):
        label = page.choice(
            "view", "View", list(VIEWS), DEFAULTS["view"], help=ABOUT_VIEWS, label_visibility="collapsed"
        )
        view = VIEWS[label]
        with st.container(horizontal=True, gap="small", vertical_alignment="top"):
            chosen = {"change": change_settings, "merge": merge_settings, "subspaces": run_settings}[view](page)
        with st.expander("Seed and guessing", icon=":material/tune:"), st.container(horizontal=True, gap="medium"):
            chosen["seed"] = page.seed()
            about = "The page asks a question about the picture before it shows it."
            predict = page.toggle("predict", "Let me guess first", DEFAULTS["predict"], help=about)
    page.finish()
    rank = chosen.pop("r", 0) if view == "change" else 0
    with board.container(key="lora_picture"):
        with st.spinner("Training on the digits…"):
            trace = story(view, **chosen)
        if not predict or guessed(view, trace, chosen):
            st.markdown({"change": tell_change, "merge": tell_merge, "subspaces": tell_run}[view](trace, chosen))
            watch(view, trace, rank)
    show_functions(view)
    st.caption("Lesson 12 builds LoRA by hand, merges two adapters and counts what each way costs.")


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the guess."""
    st.session_state["lora.round"] = st.session_state.get("lora.round", 0) + 1


def change_settings(page: Settings) -> dict:
    about = "A layer's ΔW after fine-tuning on a new task, or random numbers of the first layer's shape."
    of = page.select("layer", "Change ΔW of", traces.CHANGES, DEFAULTS["layer"], help=about, width=190)
    about = "Rank of B A. The player below moves it too. At 0 nothing is changed, at 32 nothing is left over."
    r = page.slider("r", "Rank r", 0, traces.RANKS, DEFAULTS["r"], help=about, width=300)
    about = "Epochs of fine-tuning on the new task (digits 5 to 9) after the old one (digits 0 to 4)."
    given = {"disabled": of == traces.RANDOM, "width": 170}
    epochs = page.scale("epochs", "Epochs, new task", list(traces.EPOCHS), DEFAULTS["epochs"], help=about, **given)
    return {"of": of, "r": r, "epochs": epochs}


def merge_settings(page: Settings) -> dict:
    about = (
        "- e₁e₁ᵀ and e₂e₂ᵀ: two changes of rank 1 that share nothing\n"
        "- an adapter and its turned copy: B R and RᵀA, the same change in other coordinates\n"
        "- trained on digits: one layer of a small network, adapters of rank 4"
    )
    pair = page.select("pair", "Adapters", traces.PAIRS, DEFAULTS["pair"], help=about, width=250)
    about = "The angle in radians by which the copy's factors are turned. At π both change their sign."
    given = {"format_func": angle_name, "disabled": pair != traces.COPY, "width": 220}
    angle = page.scale("angle", "Angle of the copy", ANGLES, DEFAULTS["angle"], help=about, **given)
    about = "w₁; the second adapter gets w₂ = 1 − w₁."
    w = page.slider("w", "Weight w₁", 0.0, 1.0, DEFAULTS["w"], step=0.05, help=about, width=180)
    about = "The rank that the last way keeps: that of the nearest product, from the singular values of the sum."
    cut = page.slider("cut", "Rank after the SVD", 1, 8, DEFAULTS["cut"], help=about, width=180)
    most = traces.most_rank(pair)
    if cut > max(most, DEFAULTS["cut"]):
        st.caption(f"This change has no more than {most} ranks: the SVD keeps {most}.")
    return {"pair": pair, "angle": angle, "w": w, "cut": min(cut, most)}


def run_settings(page: Settings) -> dict:
    about = "A real second adapter in training, or the worked example: descending on the overlap alone."
    run = page.choice("run", "Adapters", traces.RUNS, DEFAULTS["run"], help=about)
    given = {"disabled": run == traces.BY_HAND, "width": 220}
    about = "Weight of the overlap Σ |O| in the loss, O = A₁A₂ᵀ. The run beside it has λ = 0."
    lam = page.scale("lam", "Penalty λ", LAMBDAS, DEFAULTS["lam"], help=about, **given)
    about = "Rows of A₁ and of A₂: the rank of both adapters."
    size = page.scale("size", "Rank r", SIZES, DEFAULTS["size"], help=about, **given)
    return {"run": run, "lam": lam, "r": size}


def tell_change(trace: dict, chosen: dict) -> str:
    rows, columns = len(trace["delta"]), len(trace["delta"][0])
    whole = f"{rows} · {columns} = {rows * columns:,}"
    cheap = (rows * columns - 1) // (rows + columns)
    told = f"A and B hold r · ({columns} + {rows}) numbers in place of {whole}: a saving up to r = {cheap}."
    if (enough := traces.enough(trace)) is None:
        half = next(step["rank"] for step in trace["steps"] if step["error"] <= 0.5)
        return f"Nothing here is low: rank {half} of {len(trace['sigma'])} still leaves half of it. {told}"
    line = {line["name"]: line["values"] for line in trace["lines"]}
    new, old = ([line[name][r] for r in (0, enough, -1)] for name in (traces.NEW, traces.OLD))
    lost = ": a small rank alone does not prevent forgetting" if old[0] - old[1] > 0.03 else ""
    return (
        f"**Rank {enough} of {len(trace['sigma'])} is enough** for the new task (digits 5 to 9): accuracy {new[0]:.2f} "
        f"without this layer's change, {new[1]:.2f} with rank {enough} of it, {new[2]:.2f} with all. On the old task "
        f"(0 to 4) it is {old[0]:.2f}, {old[1]:.2f} and {old[2]:.2f}{lost}. {told} (ΔW is from full fine-tuning of all "
        "layers, and B A its nearest product of each rank, not a trained adapter.)"
    )


def tell_merge(trace: dict, chosen: dict) -> str:
    average = next(step for step in trace["steps"] if step["phase"] == "average")
    told = f"**Averaging the factors is off by {average['error']:.6g}** (relative error)"
    if chosen["w"] in (0, 1):
        return f"{told}: one weight is 0, so there is nothing to average. Move w₁ between 0 and 1."
    if chosen["pair"] == traces.COPY:
        expected = traces.turned_error(chosen["angle"], chosen["w"])
        ends = {
            0.0: " Here the copy is not turned: identical factors hide the mistake, so never test a merge with them.",
            math.pi: " At π both factors change their sign and their product does not: at w₁ = ½ the average is 0.",
        }
        return (
            f"{told}; for a copy turned by θ that is 2 w₁ w₂ (1 − cos θ) = {expected:.6g}. Adding changes is exact."
            + ends.get(chosen["angle"], "")
        )
    if chosen["pair"] == traces.UNITS:
        return f"{told}: it weighs e₁e₁ᵀ and e₂e₂ᵀ with w² in place of w, and invents e₁e₂ᵀ and e₂e₁ᵀ."
    alone = "; ".join(f"{name}: {a:.2f} and {b:.2f}" for name, (a, b) in trace["alone"].items())
    return f"{told}. Accuracy on digits 4 to 6 and on 7 to 9 before merging: {alone}. Below, with each merge."


def tell_run(trace: dict, chosen: dict) -> str:
    told = "O = A₁A₂ᵀ holds the dot product of each row of A₁ with each of A₂, and the overlap is Σ |O|."
    if chosen["run"] == traces.BY_HAND:
        return (
            f"**Σ |O| = 1.4, Σ O² = 1.0 at the start.** {told} Descending on absolute values goes at the same pace to "
            "the end and then swings by a step; descending on squares slows down and never quite arrives."
        )
    ends = {run["name"]: now["overlap"] for run, now in zip(trace["runs"], trace["steps"][-1]["runs"], strict=True)}
    sums = f"**Σ |O| ends at {', '.join(f'{value:.3g} with {name}' for name, value in ends.items())}.** {told}"
    if len(ends) == 1:
        return f"{sums} Without the penalty nothing keeps the second adapter out of the first's rows."
    new, old = ([line["values"][-1] for line in chart["lines"]] for chart in trace["charts"][1:])
    return (
        f"{sums} Accuracy on the new task {new[0]:.2f} and {new[1]:.2f}, on the earlier ones "
        f"{old[0]:.2f} and {old[1]:.2f} (one seed). All adapters stay active, so earlier answers still move."
    )


def guessed(view: str, trace: dict, chosen: dict) -> bool:
    """Ask; True once there is an answer, which is judged."""
    text, choices, truth, why = question(view, trace)
    st.markdown(f"**{text}**")
    key = f"lora_guess_{st.session_state.get('lora.round', 0)}_{view}_{'_'.join(map(str, chosen.values()))}"
    guess = st.pills("Your guess", choices, key=key, label_visibility="collapsed")
    if guess is None:
        return False
    verdict = "Right" if guess == truth else f"You said {guess}"
    (st.success if guess == truth else st.info)(f"{verdict}: {truth}; {why}")
    return True


def watch(view: str, trace: dict, rank: int) -> None:
    """The player. In the first view its step is the rank, and comes back to the slider when it is moved."""
    key = f"lora_player_{view}_{st.session_state.get('lora.round', 0)}"
    if (before := st.session_state.get("lora.player")) not in (None, key):
        for old in (before, f"{before}_asked"):
            st.session_state.pop(old, None)
    st.session_state["lora.player"] = key

    def moved() -> None:
        step = st.session_state[key].get("step")
        if step is not None:
            st.session_state["lora_r"] = int(step)

    player(trace, key=key, step=rank, autoplay=rank == 0, on_change=moved if view == "change" else None)


def show_functions(view: str) -> None:
    shown = {
        "change": ([merge_lora, LowRank, LoRALinear], "`merge_lora(..., how='svd')` gives the best B A of a rank."),
        "merge": ([merge_lora, average_factors], "The right ways, and the wrong ones taken apart."),
        "subspaces": ([overlap, OLoRA], "The penalty and the method that trains with it."),
    }
    functions, note = shown[view]
    show_code(*functions, note=note)


def angle_name(angle: float) -> str:
    return "π" if angle == math.pi else f"{angle:g}"


@st.cache_data(max_entries=64, show_spinner=False)
def story(view: str, **settings) -> dict:
    return traces.story(view, **settings)


main()
