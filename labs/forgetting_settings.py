"""The settings of the page "Forgetting curves": its presets, and the controls from which a run is made."""

import streamlit as st

from cllab.regularization.fisher import ESTIMATORS
from labs.controls import Controls
from labs.forgetting_race import METHODS
from labs.forgetting_streams import STREAMS

SCENARIOS = ("task", "domain", "class")
POINTS = {"stream": "clusters", "scenario": "domain"}
DIGITS = {"stream": "digits, split", "scenario": "class", "tasks": 5, "batch": 32, "hidden": 100, "lr": 0.001}

PRESETS: dict[str, dict] = {
    "Fine-tuning forgets": {**POINTS, "methods": ["fine-tuning", "experience replay", "EWC"]},
    "A handful of memories": {**POINTS, "methods": ["fine-tuning", "experience replay"], "capacity": 4},
    "EWC too strong": {"stream": "moons, rotated", "tasks": 3, "methods": ["fine-tuning", "EWC"], "lam": 1000},
    "Class-incremental defeats EWC": {**POINTS, "scenario": "class", "methods": list(METHODS)},
    "Told the task, nobody forgets": {**POINTS, "scenario": "task", "methods": ["fine-tuning", "EWC"]},
    "Turning moons": {"stream": "moons, rotated", "tasks": 4, "methods": ["fine-tuning", "experience replay", "joint"]},
    "Real digits": {**DIGITS, "methods": ["fine-tuning", "experience replay", "joint"], "capacity": 200},
}
CLAIMS = {
    "Fine-tuning forgets": "Trained on B, the plain network loses A; replay and EWC keep it.",
    "A handful of memories": "Four remembered points are enough to hold on to task A.",
    "EWC too strong": "With springs this stiff the first task is kept, and the last is not learned.",
    "Class-incremental defeats EWC": "Where the answers of A and B compete, springs don't help and replay does.",
    "Told the task, nobody forgets": "With the task's number at test, only its own answers compete.",
    "Turning moons": "Each task turns the picture: watch the boundary follow it round.",
    "Real digits": "Ten real digits, two at a time: fine-tuning knows only the last pair.",
}


def ask(page: Controls) -> dict:
    """Draw the page's controls; returns their values, {name: value}, which is what a `Race` needs."""
    about = "What the tasks are made of. The first three are points in the plane, so their boundary can be drawn."
    stream = page.select("stream", "Stream", STREAMS, "clusters", help=about)
    about = (
        "task: the task's number is given at test. domain: it is not, and all tasks share their answers. "
        "class: it is not, and every task brings answers of its own."
    )
    page.choice("scenario", "Scenario (incremental)", SCENARIOS, "domain", help=about)
    about = "Fine-tuning does nothing against forgetting; joint training keeps all data and is the upper bound."
    page.several("methods", "Methods", METHODS, list(METHODS[:3]), help=about)
    folds = {"Replay": _replay, "EWC": _ewc, "Training": _training, "Tasks": lambda page: _tasks(page, stream)}
    for name, draw in folds.items():
        with st.expander(name, icon=":material/tune:"):
            draw(page)
    return page.values


def _replay(page: Controls) -> None:
    about = "K, how many samples the memory holds in all, whatever the number of tasks."
    page.slider("capacity", "Capacity K (samples)", 1, 500, 20, help=about)
    about = "The memory's share of the loss: L = (1 - rho) new + rho memory. At 0 nothing is replayed."
    page.slider("rho", "Share of the memory ρ", 0.0, 0.95, 0.5, step=0.05, help=about)


def _ewc(page: Controls) -> None:
    strengths = [0, 0.1, 1, 10, 30, 100, 300, 1000, 10_000, 100_000, 1_000_000]
    about = "λ, how stiff the springs are. 0 is fine-tuning. The right size depends on the Fisher's estimator."
    page.scale("lam", "Strength λ", strengths, 100, help=about)
    about = "online: one set of springs that is carried along. separate: one per task."
    page.choice("anchors", "Anchors", ("online", "separate"), "online", help=about)
    about = "penalty: a term of the loss. proximal: after each step an exact pull that is stable for every λ."
    page.choice("ewc_step", "Step", ("penalty", "proximal"), "penalty", help=about)
    about = (
        "Whose labels the Fisher squares: all of the model's, weighted (the definition); one sampled; the true one; "
        "or the mean gradient of a batch of 64, a common mistake that is far too small."
    )
    page.select("fisher", "Fisher estimator", ESTIMATORS, "model", help=about)
    about = "How many samples of a finished task the Fisher is estimated from."
    page.slider("fisher_rows", "Fisher samples", 10, 1000, 400, step=10, help=about)


def _training(page: Controls) -> None:
    page.slider("epochs", "Epochs per task", 1, 30, 10, help="Passes over the data of each task.")
    rates = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]
    page.scale(
        "lr", "Learning rate (Adam)", rates, 0.01, help="Adam's step size; the optimiser starts afresh per task."
    )
    page.scale("batch", "Batch size", [10, 20, 32, 64, 128], 20, help="New samples per step.")
    page.slider("hidden", "Hidden width", 4, 256, 32, help="Units of the network's one hidden layer.")
    page.seed()
    page.device()


def _tasks(page: Controls, stream: str) -> None:
    fixed = stream == "clusters"
    about = "How many tasks the stream has. The clusters always come as two."
    page.slider("tasks", "Tasks", 2, 5, 2, help=about, disabled=fixed)
    about = "Rotated streams turn from 0 up to, not including, this angle."
    page.slider("angle", "Turn in all (degrees)", 10, 360, 180, step=10, help=about)
    about = "Blurry streams: the share of each task's samples that is lent to the other tasks."
    page.slider("mix", "Blur", 0.0, 0.5, 0.2, step=0.05, help=about)
    about = "Most training rows taken from a data set. 60000 is all of MNIST."
    page.scale("rows", "Training rows", [500, 1000, 2000, 5000, 10_000, 60_000], 5000, help=about)
