"""The distillation page's other views: students that follow, tokens that are masked, a real network as teacher."""

import streamlit as st
import torch

from cllab.player import following_trace
from labs import distillation_numbers as numbers
from labs import distillation_real as real
from labs.charts import DASHES, FAINT, LEGEND, PADDING, table, task_colours
from labs.controls import Controls, current_job, start_job
from labs.job import Job
from labs.player import player

DEFAULTS = {
    "follow_T": 8, "rate": 1.0, "token_T": 2, "padding": 0, "first": ["word 1", "word 2"], "second": ["word 1"],
    "real_T": 2, **real.DEFAULTS,
}  # fmt: skip
KEPT = 24  # finished trainings that all visitors share
WORDS = [f"word {i + 1}" for i in range(numbers.WORDS)]
MOST_PADDING = 6
STEPS = 60


def round_key(name: str) -> str:
    """Another one after every press of a preset."""
    return f"dist_{name}_{st.session_state.get('dist.round', 0)}"


@st.fragment
def play(trace: dict, key: str) -> None:
    """The player; its steps concern nobody else. It starts anew with every new trace."""
    if (before := st.session_state.get("dist.player")) not in (None, key):
        for old in (before, f"{before}_asked"):
            st.session_state.pop(old, None)
    st.session_state["dist.player"] = key
    player(trace, key=key, autoplay=True)


# --- students that follow ----------------------------------------------------------------------------------------


def follow_settings(page: Controls) -> dict:
    about = "The second temperature, beside T = 1."
    T = page.scale("follow_T", "Temperature T", [2, 4, 8, 16, 50], DEFAULTS["follow_T"], help=about, width=220)
    about = "Step size of gradient descent on the student's logits."
    rate = page.scale("rate", "Learning rate", [0.25, 0.5, 1.0, 2.0], DEFAULTS["rate"], help=about, width=220)
    return {"temperature": float(T), "lr": rate}


def show_follow(teacher: tuple, student: tuple, temperature: float, lr: float) -> None:
    trace = following(teacher, student, temperature, lr)
    play(trace, f"{round_key('follow')}_{teacher}_{student}_{temperature}_{lr}")
    lines = ["| student | steps to a tenth of the distance | KL(q‖p) at T = 1, end |", "| --- | ---: | ---: |"]
    far, kl = (chart["lines"] for chart in trace["charts"])
    for way, loss in zip(far, kl, strict=True):
        lines.append(f"| {way['name']} | {arrival(way['values'])} | {loss['values'][-1]:.6f} |")
    st.markdown("\n".join(lines))
    st.markdown(
        "All bars are read at T = 1, as the student will be used. The softened targets tell the whole order at once, "
        "so a high T moves all logits together; at T = 1 the least likely class hardly pulls. Without T² the gradient "
        f"at T = {temperature:g} is {temperature**2:g} times smaller, and the student crawls."
    )


def arrival(distances: list[float]) -> str:
    """The first step at which the distance is a tenth of what it was."""
    if distances[0] < 1e-9:
        return "there from the start"
    return next((str(t) for t, way in enumerate(distances) if way <= distances[0] / 10), f"not in {STEPS}")


@st.cache_data(max_entries=32, show_spinner=False)
def following(teacher: tuple, student: tuple, temperature: float, lr: float) -> dict:
    rows = (torch.tensor(row, dtype=torch.float64) for row in (teacher, student))
    return following_trace(*rows, temperature, lr, STEPS)


# --- masked tokens -----------------------------------------------------------------------------------------------


def token_settings(page: Controls) -> dict:
    about = "Click a word to mask it or to let it count. Masked words are padding, or not to be learned."
    first = page.several("first", "Sentence 1: words that count", WORDS, DEFAULTS["first"], help=about)
    second = page.several("second", "Sentence 2: words that count", WORDS, DEFAULTS["second"], help=about)
    about = "Masked positions added to the end of both sentences, as a longer batch would."
    padding = page.slider("padding", "Padding added", 0, MOST_PADDING, DEFAULTS["padding"], help=about, width=170)
    about = "Temperature of both softmaxes."
    T = page.scale("token_T", "Temperature T", [1, 2, 4], DEFAULTS["token_T"], help=about, width=150)
    mask = tuple(tuple(word in kept for word in WORDS) for kept in (first, second))
    return {"mask": mask, "T": float(T), "padding": padding}


def show_tokens(mask: tuple, T: float, padding: int) -> None:
    st.markdown(
        "A language model answers once for every word (token): here two sentences of three words, and a vocabulary of "
        "three. Words that only fill up a batch must not count. **KL(q‖p) of every token, in nats.** Struck out: "
        "masked."
    )
    kl = numbers.token_kl(T, padding).tolist()
    lines = ["| | sentence 1 | sentence 2 |", "| --- | ---: | ---: |"]
    for i, pair in enumerate(zip(*kl, strict=True)):
        kept = [i < len(WORDS) and row[i] for row in mask]
        cells = [f"**{value:.6f}**" if m else f"~~{value:.6f}~~" for value, m in zip(pair, kept, strict=True)]
        lines.append(f"| {WORDS[i] if i < len(WORDS) else f'padding {i + 1 - len(WORDS)}'} | {' | '.join(cells)} |")
    st.markdown("\n".join(lines))
    if not any(map(any, mask)):
        st.error("No word counts, and the mean of nothing is not a number: let one word count at least.")
        return
    found = numbers.reductions(torch.tensor(mask), T, padding)
    right = found[0].value
    lines = ["| reduction | KL (nats) | off by |", "| --- | ---: | ---: |", f"| **masked mean** = {found[0].formula} | "
             f"**{right:.6f}** | right |"]  # fmt: skip
    lines += [f"| {name} = {formula} | {value:.6f} | × {value / right:.3f} |" for name, formula, value in found[1:]]
    st.markdown("\n".join(lines))
    st.markdown(f"`distillation_loss` = T² × masked mean = {T:g}² × {right:.6f} = **{T**2 * right:.6f}**")
    padding_chart(mask, T, padding)
    st.markdown(
        "Only the **masked mean** stays where it is while padding grows. `batchmean` of `torch.nn.functional.kl_div` "
        "divides by the number of sentences, so longer sentences weigh more; its `mean` divides by the vocabulary as "
        "well; a masked sum over all positions fades with every padded word."
    )


def padding_chart(mask: tuple, T: float, padding: int) -> None:
    """All reductions against the length of the padding, which changes nothing that is to be learned."""
    rows = [(pads, one.name, one.value) for pads in range(MOST_PADDING + 1)
            for one in numbers.reductions(torch.tensor(mask), T, pads)]  # fmt: skip
    names = [one.name for one in numbers.reductions(torch.tensor(mask), T)]
    kind = {"field": "reduction", "type": "nominal", "sort": None}
    x = {"field": "padding", "type": "quantitative", "title": "padding added to each sentence (words)",
         "axis": {"tickMinStep": 1, "grid": False}}  # fmt: skip
    y = {"field": "KL", "type": "quantitative", "title": "KL (nats)", "axis": {"format": ".2f"}}
    legend = {**LEGEND, "columns": 2}
    style = {
        "color": {**kind, "scale": {"domain": names, "range": task_colours()[: len(names)]}, "legend": legend},
        "strokeDash": {**kind, "scale": {"domain": names, "range": list(DASHES)}, "legend": legend},
    }
    about = [{"field": "reduction"}, {"field": "padding"}, {"field": "KL", "format": ".6f"}]
    here = {"data": {"values": [{"padding": padding}]}, "mark": {"type": "rule", "color": FAINT, "strokeWidth": 2}}
    spec = {"height": 290, "padding": PADDING, "layer": [
        {**here, "encoding": {"x": {"field": "padding", "type": "quantitative"}}},
        {"mark": {"type": "line", "strokeWidth": 2.5}, "encoding": {"x": x, "y": y, **style}},
        {"mark": {"type": "point", "opacity": 0, "size": 80}, "encoding": {"x": x, "y": y, "tooltip": about}},
    ]}  # fmt: skip
    st.vega_lite_chart(table(rows, "padding", "reduction", "KL"), spec, key="dist_padding", width="stretch")


# --- a real teacher ----------------------------------------------------------------------------------------------


def real_settings(page: Controls) -> dict:
    about = "Temperature of teacher and student in the distillation term."
    T = page.choice("real_T", "Temperature T", list(real.TEMPERATURES), DEFAULTS["real_T"], help=about)
    about = "Weight of the old answers in the loss. At 0, LwF is fine-tuning."
    lam = page.scale("lam", "Weight λ", [0.0, 0.1, 1.0, 10.0], DEFAULTS["lam"], help=about, width=170)
    return {"temperature": T, "lam": lam, "seed": page.seed()}


def show_real(temperature: int, lam: float, seed: int) -> None:
    st.markdown(
        "A network has learned the digits 0 to 4. Now it learns 5 to 9, with another head. What does its **old head** "
        "say about these new images, before and while it learns?"
    )
    key = real.settings_key(temperature, lam, seed)
    trace = real.committed().get(key) or finished_trainings().get(key)
    if trace is None:
        job = begin(key, temperature, lam, seed)
        if job.state != "finished":
            st.fragment(wait, run_every=None if job.ended else 0.3)(job, job.ended)
            return
        trace = keep(key, job.result)
    play(trace, f"{round_key('real')}_{key}")
    st.markdown("**The teacher's soft targets**: its three likeliest answers for each image")
    lines = ["| image | T = 1 | T = 2 | T = 4 |", "| --- | --- | --- | --- |"]
    for digit, row in zip(real.SHOWN, real.soft_targets(trace), strict=True):
        lines.append(f"| a {digit} | {' | '.join(row)} |")
    st.markdown("\n".join(lines))
    st.caption(
        f"64 inputs, hidden layers of 64 and 32, one head per task; Adam, learning rate {real.LR:g}, {real.EPOCHS} "
        "epochs a task. Accuracies on all test rows of the digits; fine-tuning is the same run without the LwF term."
    )


def begin(key: str, temperature: int, lam: float, seed: int) -> Job:
    """The training of these settings in the background: the one under way, or a new one."""
    job = current_job("dist")
    if job is None or job.state == "stopped" or st.session_state.get("dist.training") != key:
        st.session_state["dist.training"] = key
        job = start_job("dist", lambda: real.training(temperature, lam, seed))
    return job


def wait(job: Job, was_over: bool) -> None:
    """How far the training is; when it has ended the page runs once more."""
    state = job.poll()
    if job.ended and not was_over:
        st.rerun()
    if state == "failed":
        st.error(job.error, icon=":material/error:")
        return
    waiting = " Waiting: another visitor's run is computing." if state == "queued" else ""
    done = job.items[-1] if job.items else 0.0
    st.progress(done, text=f"Training the network twice, with LwF and without: {done:.0%}.{waiting}")


@st.cache_resource
def finished_trainings() -> dict[str, dict]:
    """The latest traces that visitors had trained, by their settings."""
    return {}


def keep(key: str, trace: dict) -> dict:
    known = finished_trainings()
    known[key] = trace
    while len(known) > KEPT:
        known.pop(next(iter(known)), None)
    return trace
