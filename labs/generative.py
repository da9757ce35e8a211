"""Generative replay: what is lost when a generator learns from its own samples, and latents that age."""

import streamlit as st

from cllab.replay import ClassGaussians, LatentReplay, latent_age, refit_variances
from cllab.replay.vae import VAE
from labs import generative_traces as traces
from labs import latents_traces
from labs.controls import Controls, show_code
from labs.player import player

LOOK = (
    "A generator that replaces stored rows learns from its own samples, task after task. Watch the spread: it goes "
    "first, and it does not come back. Latents are the other way to keep less than a row, and they age."
)
VIEWS = ("Gaussians", "Digits", "Latents")
PRESETS = {
    "Ten samples": {},
    "A thousand samples": {"n": 1000},
    "Thirty generations": {"n": 25, "generations": 30},
    "Digits all alike": {"view": "Digits", "digits_n": 20},
    "More digits": {"view": "Digits", "digits_n": 140},
    "Latents age": {"view": "Latents"},
    "Let me guess": {"predict": True, "n": 25},
}
CLAIMS = {
    "Ten samples": "An eighth of the variance is expected to be left after 20 generations; the typical run has less.",
    "A thousand samples": "The same chain with a hundred times the samples loses two percent.",
    "Thirty generations": "The mean follows the closed form, the median falls below it: shrinking multiplies.",
    "Digits all alike": "Every image is still recognised, but hardly two differ: a student learns less from them.",
    "More digits": "140 samples per class instead of 20: the Gaussians keep more variety, the VAE does not.",
    "Latents age": "The trunk moves, stored latents do not: the first task is lost though it is replayed all the time.",
    "Let me guess": "You say how much variance a typical run keeps.",
}
KEPT = 24
# On a phone the moving picture comes first and the settings follow it.
PICTURE_FIRST = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-gen_settings) { order: 1; }
}</style>"""


def main() -> None:
    page = Controls("gen")
    page.head("Generative replay", LOOK, lesson="05")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(PICTURE_FIRST)
    board = st.container(key="gen_board")
    with board.container(key="gen_settings"):
        view, chosen, predict = settings(page)
    page.finish()
    with board.container(key="gen_picture"):
        trace = {"Gaussians": gaussians, "Digits": images, "Latents": aged}[view](**chosen)
        if not predict or guessed(view, trace):
            watch(view, chosen, trace)
            explained(view, chosen, trace)
    show_code(*CODE[view], note="What the picture shows is computed by these.")
    st.caption("Lesson 05 refits by hand, trains a VAE, and measures what generative replay keeps of Split-digits.")


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the guess."""
    st.session_state["gen.round"] = st.session_state.get("gen.round", 0) + 1


def settings(page: Controls) -> tuple[str, dict, bool]:
    """Which view, its settings, and whether to ask before showing. Settings of the other views rest, and keep."""
    about = (
        "Gaussians: four clouds in the plane. Digits: images of two generators. Latents: stored ones beside new ones."
    )
    view = page.choice("view", "View", VIEWS, "Gaussians", help=about)

    def off(name: str) -> dict:
        return {"disabled": view != name}

    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        about = "Rows that each generation draws from the one before, per class, and learns from."
        n = page.scale(
            "n", "Gaussians: samples n", [5, 10, 25, 50, 100, 250, 1000], 10, help=about, width=240, **off("Gaussians")
        )
        about = "How often a generator learns from its own samples: once per task in generative replay."
        T = page.slider(
            "generations",
            "Gaussians: generations T",
            5,
            traces.MOST_GENERATIONS,
            20,
            help=about,
            width=190,
            **off("Gaussians"),
        )
        about = "Samples per class that each generation of images learns from. Trained beforehand."
        digits_n = page.choice("digits_n", "Digits: samples", traces.DIGITS_N, 20, help=about, **off("Digits"))
        about = "Learning rate of Adam."
        lr = page.scale(
            "lr", "Latents: learning rate", [0.001, 0.003, 0.01], 0.003, help=about, width=190, **off("Latents")
        )
    with (
        st.expander("Seed, epochs and guessing", icon=":material/tune:"),
        st.container(horizontal=True, gap="medium"),
    ):
        seed = page.seed()
        about = "Passes over each of the three tasks."
        epochs = page.slider(
            "epochs",
            "Latents: epochs",
            1,
            12,
            latents_traces.DEFAULTS["epochs"],
            help=about,
            width=190,
            **off("Latents"),
        )
        about = "The page asks what will be left before it shows the run."
        predict = page.toggle("predict", "Let me guess first", False, help=about)
    chosen = {
        "Gaussians": {"n": n, "generations": T, "seed": seed},
        "Digits": {"n": digits_n},
        "Latents": {"lr": lr, "epochs": epochs, "seed": seed},
    }
    return view, chosen[view], predict


@st.cache_data(max_entries=KEPT, show_spinner=False)
def gaussians(n: int, generations: int, seed: int) -> dict:
    return traces.gaussians(n, generations, seed)


def images(n: int) -> dict:
    return traces.committed()[str(n)]


def aged(**chosen) -> dict:
    """The committed trace, or one trained here in view of the visitor."""
    if (known := latents_traces.committed().get(latents_traces.settings_key(**chosen))) is not None:
        return known
    return train_latents(**chosen)


@st.cache_data(max_entries=KEPT, show_spinner="Training two small networks")
def train_latents(lr: float, epochs: int, seed: int) -> dict:
    return latents_traces.train(lr, epochs, seed)


def question(view: str, trace: dict) -> tuple[str, list[float], float, str]:
    """What is asked, the answers, the true number, and a sentence that explains it."""
    values = {line["name"]: line["values"] for line in trace["lines"]}
    T = len(trace["steps"]) - 1
    if view == "Gaussians":
        truth, law = values["median run"][-1], values["closed form"][-1]
        text = f"Which share of the variance does the median run keep after {T} generations?"
        return text, [0.0, 0.25, 0.5, 0.75, 1.0], truth, f"Expected on average: {law:.3f}. The typical run has less."
    if view == "Digits":
        truth, spread = values["VAE: recognised"][-1], values["VAE: variance left"][-1]
        text = f"After {T} generations, which share of the VAE's images does a fixed classifier recognise?"
        return text, [0.1, 0.25, 0.5, 0.75, 1.0], truth, f"But only {spread:.3f} of the variance is left."
    truth, other = values["moving: accuracy"][-1], values["frozen: accuracy"][-1]
    text = "Latents of the first task are replayed in every step while the trunk goes on learning. Which share of the "
    text += "first task's test rows is still answered right at the end?"
    return text, [0.0, 0.25, 0.5, 0.75, 1.0], truth, f"With the trunk frozen after the first task: {other:.2f}."


def guessed(view: str, trace: dict) -> bool:
    """Ask for a number; True once there is an answer, which is then judged."""
    text, answers, truth, why = question(view, trace)
    st.markdown(f"**{text}**")
    key = f"gen_guess_{view}_{st.session_state.get('gen.round', 0)}"
    guess = st.pills(
        "Your guess", answers, key=key, format_func=lambda share: f"{share:g}", label_visibility="collapsed"
    )
    if guess is None:
        return False
    right = min(answers, key=lambda answer: abs(answer - truth)) == guess
    verdict = "Right" if right else f"You said {guess:g}"
    (st.success if right else st.info)(f"{verdict}: it is {truth:.3f}. {why}")
    return True


@st.fragment
def watch(view: str, chosen: dict, trace: dict) -> None:
    """The player: it starts anew with every new trace."""
    settled = "_".join(f"{value:g}" for value in chosen.values())
    key = f"gen_player_{view}_{settled}_{st.session_state.get('gen.round', 0)}"
    if (before := st.session_state.get("gen.player")) not in (None, key):
        for old in (before, f"{before}_asked"):
            st.session_state.pop(old, None)
    st.session_state["gen.player"] = key
    player(trace, key=key, autoplay=True)


def explained(view: str, chosen: dict, trace: dict) -> None:
    """What to make of the picture, with the numbers of its last step."""
    end = {line["name"]: line["values"][-1] for line in trace["lines"]}
    if view == "Gaussians":
        n, T = chosen["n"], chosen["generations"]
        text = f"""
**Expected after T generations: ((n − 1)/n)^T** = ({n - 1}/{n})^{T} = **{end["closed form"]:.3f}** of σ²; mean of the
runs {end["mean of runs"]:.3f}, median run {end["median run"]:.3f}. Each refit measures the spread around the mean of
its own sample and so misses one part in n. Dashed ellipses are where it began, at two standard deviations."""
    elif view == "Digits":
        text = f"""
At the end a fixed classifier recognises **{end["Gaussians: recognised"]:.0%}** of the Gaussians' images and
**{end["VAE: recognised"]:.0%}** of the VAE's, yet only **{end["Gaussians: variance left"]:.2f}** and
**{end["VAE: variance left"]:.3f}** of the real digits' variance are left. A student that sees only these images answers
**{end["Gaussians: student"]:.0%}** and **{end["VAE: student"]:.0%}** of real test digits right. A frame with × marks an
image that is taken for another digit."""
    else:
        text = f"""
Outlined marks: latents as stored. Filled: the same rows now, in the plane of the two largest principal components. Mean
age at the end: moving **{end["moving: age"]:.2f}**, frozen **{end["frozen: age"]:.2f}**. Accuracy on the first task:
moving **{end["moving: accuracy"]:.2f}**, frozen **{end["frozen: accuracy"]:.2f}**. The moving trunk sends new rows away
from the stored latents, and old rows go with them: the upper part still knows places where nothing arrives any more.
Latents stored in the first epoch are old before the second task begins."""
    st.markdown(text)


CODE = {"Gaussians": (refit_variances, ClassGaussians), "Digits": (VAE,), "Latents": (latent_age, LatentReplay)}
main()
