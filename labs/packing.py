"""Packing: several tasks in one set of weights. Who owns what, who reads what, when it is full, what still moves."""

import streamlit as st

from cllab.isolation import PackNet, packed, prune, share_out
from cllab.player.from_packed_run import own_accuracy
from cllab.player.from_packing import frozen_path
from labs import packing_traces as traces
from labs.controls import Controls, show_code
from labs.packing_layer import layer_question, room_table, tell_layer, trained
from labs.player import player

LOOK = (
    "A task trains the free weights, prunes them (keeps the largest; the others become 0 and free again), retrains "
    "what it kept and freezes it: PackNet. It is then the owner of these weights, in its colour. To answer, it reads "
    "its own weights and those of earlier tasks: a late task reads far more than it owns."
)
VIEWS = {"Ten weights": "ten", "A real layer": "layer", "A frozen weight": "frozen"}
TEN, LAYER, FROZEN = VIEWS
DEFAULTS = {
    "view": TEN, "r1": 0.6, "r2": 0.75, "r3": 1.0, **traces.DEFAULTS,
    "steps": 3, "lr": 0.1, "momentum": 0.9, "wd": 0.1, "predict": False,
}  # fmt: skip
PRESETS = {
    "Ten weights by hand": {},
    "Everything for task 1": {"r1": 1.0},
    "Half, half, half": {"r1": 0.5, "r2": 0.5, "r3": 0.5},
    "Digits in one layer": {"view": LAYER},
    "Frozen by gradient 0": {"view": LAYER, "freeze": traces.FREEZES[1], "decay": 0.02},
    "Running out": {"view": LAYER, "stream": traces.STREAMS[1], "units": 8},
    "Three leaks": {"view": FROZEN},
    "A long freeze": {"view": FROZEN, "steps": 100},
    "Let me guess": {"predict": True},
}
CLAIMS = {
    "Ten weights by hand": "Three tasks own 6, 3 and 1 weights, and read 6, 9 and 10.",
    "Everything for task 1": "Task 2 finds no free weight: CapacityError.",
    "Half, half, half": "Halves are rounded up: 5, then 3 of 5, then 1 of 2.",
    "Digits in one layer": "Five pairs of digits in 1536 weights. The last task owns 81 of them, and reads 1293.",
    "Frozen by gradient 0": "Weight decay still moves the frozen weights: task 2 falls from 0.986 to 0.903.",
    "Running out": "Seven tasks in 512 weights: nothing is forgotten, but the last one finds 61 free, and learns less.",
    "Three leaks": "After three steps with gradient 0: weight decay −0.0297, momentum −0.488, Adam's memory −0.161.",
    "A long freeze": "Momentum and Adam's memory run out. Weight decay never does.",
    "Let me guess": "You say how many weights task 2 reads.",
}
# On a phone the moving picture comes first and the settings follow it.
ON_A_PHONE = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-pack_settings) { order: 1; }
.st-key-pack_picture [data-testid="stMarkdown"] table { display: block; overflow-x: auto; font-size: 0.8rem; }
}</style>"""


ABOUT_VIEWS = (
    "- Ten weights: the example of the course, small enough for paper\n"
    "- A real layer: the weights between 64 pixels and the hidden units, while they learn digits\n"
    "- A frozen weight: what four optimisers do to it although its gradient is 0"
)


class Settings(Controls):
    """The page's settings; those of the views that are not shown stay in the address."""

    def finish(self) -> None:
        self._defaults = {**DEFAULTS, **self._defaults}
        super().finish()


def main() -> None:
    page = Settings("pack")
    page.head("Packing", LOOK, lesson="11")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(ON_A_PHONE)
    board = st.container(key="pack_board")
    with board.container(key="pack_settings"):
        view = VIEWS[page.choice("view", "View", list(VIEWS), DEFAULTS["view"], help=ABOUT_VIEWS)]
        with st.container(horizontal=True, gap="small", vertical_alignment="top"):
            chosen = {"ten": ten_settings, "layer": layer_settings, "frozen": frozen_settings}[view](page)
        with st.expander("Seed and guessing", icon=":material/tune:"), st.container(horizontal=True, gap="medium"):
            if view == "layer":
                chosen["seed"] = page.seed()
            about = "The page asks a question about the picture before it shows it."
            predict = page.toggle("predict", "Let me guess first", DEFAULTS["predict"], help=about)
    page.finish()
    with board.container(key="pack_picture"):
        trace = {"ten": ten_weights, "layer": trained, "frozen": frozen_weight}[view](**chosen)
        if not predict or guessed(view, trace, chosen):
            st.markdown({"ten": tell_ten, "layer": tell_layer, "frozen": tell_frozen}[view](trace, chosen))
            watch(view, trace)
            if view == "layer":
                st.markdown(f"How long the room would last, for up to eight tasks:\n\n{room_table(chosen)}")
    show_functions(view)
    st.caption("Lesson 11 packs the ten weights by hand, and five tasks into one layer.")


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the guess."""
    st.session_state["pack.round"] = st.session_state.get("pack.round", 0) + 1


# --- settings --------------------------------------------------------------------------------------------


def ten_settings(page: Settings) -> dict:
    shares = []
    for t in (1, 2, 3):
        about = f"r: the share that task {t} keeps of the weights that it found free, halves rounded up, one at least."
        label = f"Task {t} keeps r{'₁₂₃'[t - 1]}"
        shares.append(page.slider(f"r{t}", label, 0.05, 1.0, DEFAULTS[f"r{t}"], step=0.05, help=about, width=220))
    return {"keep": tuple(shares)}


def layer_settings(page: Settings) -> dict:
    about = "Pairs of digits: five tasks of two classes. Shuffled pixels: seven tasks of all ten, each shuffled anew."
    stream = page.select("stream", "Tasks", traces.STREAMS, DEFAULTS["stream"], help=about, width=160)
    about = "The share of the layer's weights that task 1 keeps. The authors keep 0.5."
    first = page.slider("first", "Task 1 keeps r₁", 0.05, 1.0, DEFAULTS["first"], step=0.05, help=about, width=160)
    about = "The share that every later task keeps of the weights it finds free. The authors keep 0.25."
    later = page.slider("later", "Later ones keep r", 0.05, 1.0, DEFAULTS["later"], step=0.05, help=about, width=160)
    about = "Hidden units, each with 64 weights, one per pixel."
    units = page.scale("units", "Units", list(traces.UNITS), DEFAULTS["units"], help=about, width=130)
    about = "put back: they get their values back after every step. gradient 0: only their gradient is set to 0."
    freeze = page.choice("freeze", "Frozen weights", traces.FREEZES, DEFAULTS["freeze"], help=about)
    about = "Of SGD with momentum 0.9. Each task begins with a new optimiser: decay alone moves frozen weights."
    decay = page.scale("decay", "Weight decay", list(traces.DECAYS), DEFAULTS["decay"], help=about, width=150)
    return {"stream": stream, "first": first, "later": later, "units": units, "freeze": freeze, "decay": decay}


def frozen_settings(page: Settings) -> dict:
    about = "Steps after the freeze, all with a gradient of 0."
    steps = page.scale("steps", "Steps", list(traces.STEPS), DEFAULTS["steps"], help=about, width=200)
    about = "Learning rate of all four."
    lr = page.scale("lr", "Learning rate lr", list(traces.RATES), DEFAULTS["lr"], help=about, width=180)
    about = "Of SGD in the third picture: how much of its buffer is left after a step."
    momentum = page.scale("momentum", "Momentum", list(traces.MOMENTA), DEFAULTS["momentum"], help=about, width=180)
    about = "Of SGD and AdamW in the first two pictures."
    decay = page.scale("wd", "Weight decay", list(traces.LEAK_DECAYS), DEFAULTS["wd"], help=about, width=180)
    return {"steps": steps, "lr": lr, "momentum": momentum, "decay": decay}


# --- what is told ----------------------------------------------------------------------------------------


def tell_ten(trace: dict, chosen: dict) -> str:
    free, *owned = traces.counts(trace)
    done = [n for n in owned if n]
    reads = [sum(done[: t + 1]) for t in range(len(done))]
    owner = trace["steps"][-1]["owner"]
    told = (
        f"**Owner map {owner}.** Owned: {' + '.join(map(str, done))}, free: {free}. Read: {', '.join(map(str, reads))}."
    )
    if len(done) < len(owned):
        stop = next(step for step in trace["steps"] if step["phase"] == "full")
        return f"{told}\n\n:material/block: **{stop['text']}** Let the tasks before it keep less."
    wrong = traces.threshold_over_all(chosen["keep"])
    return (
        f"{told} Two readings look right and are wrong. With its own mask M₂ alone task 2 would use {done[1]} of its "
        f"{reads[1]} weights. And if it ranked all weights, task 1's large ones included, it would be left with "
        f"{wrong} instead of {done[1]}."
    )


def tell_frozen(trace: dict, chosen: dict) -> str:
    names, change = traces.farthest(trace)
    before = max(path["before"] for path in trace["paths"])
    return (
        f"**Farthest: {' and '.join(names)}, by {traces.signed(change)}.** A gradient of 0 is not none: momentum "
        f"and Adam go on with what they remember, here one step with the gradient {before:g} before the freeze; weight "
        "decay needs no gradient at all. Put back after every step, the weight stays, whatever the optimiser is. "
        "With a gradient of None it would be passed over; but a tensor has a gradient or none, and here frozen and "
        "free weights share one."
    )


def guessed(view: str, trace: dict, chosen: dict) -> bool:
    """Ask; True once there is an answer, which is judged. Of answers that tie, each is right."""
    text, answers, right, why = {"ten": ten_question, "layer": layer_question, "frozen": frozen_question}[view](trace)
    st.markdown(f"**{text}**")
    key = f"pack_guess_{st.session_state.get('pack.round', 0)}_{view}_{'_'.join(map(str, chosen.values()))}"
    guess = st.pills("Your guess", answers, key=key, label_visibility="collapsed")
    if guess is None:
        return False
    verdict = "Right" if guess in right else f"You said {guess}"
    (st.success if guess in right else st.info)(f"{verdict}: {' and '.join(map(str, right))}. {why}")
    return True


def ten_question(trace: dict) -> tuple[str, list, list, str]:
    _, *owned = traces.counts(trace)
    text = f"Ten weights. Task 1 keeps {owned[0]} of them, task 2 keeps {owned[1]} of those that are left. "
    reads = sum(owned[:2])
    answers = sorted({owned[0], owned[1], 10 - owned[0], reads, 10})
    why = "Its own and those of task 1, which it reads and does not move."
    if owned[1] == 0:
        why = "None is left for it: CapacityError."
        answers, reads = ["none", 10], "none"
    return f"{text}How many weights does task 2 answer with?", answers, [reads], why


def frozen_question(trace: dict) -> tuple[str, list, list, str]:
    names, change = traces.farthest(trace)
    when = traces.steps_told(len(trace["steps"]) - 1)
    text = f"A weight is frozen at 1; then come {when} with a gradient of 0. Which optimiser moves it farthest?"
    return text, ["none", *(path["name"] for path in trace["paths"])], names, f"Moved by {traces.signed(change)}."


# --- what is shown ---------------------------------------------------------------------------------------


@st.fragment
def watch(view: str, trace: dict) -> None:
    """The player; it starts anew with a preset and with another view, and keeps its step while settings change."""
    key = f"pack_player_{view}_{st.session_state.get('pack.round', 0)}"
    if (before := st.session_state.get("pack.player")) not in (None, key):
        for old in (before, f"{before}_asked"):
            st.session_state.pop(old, None)
    st.session_state["pack.player"] = key
    player(trace, key=key, autoplay=True)


def show_functions(view: str) -> None:
    functions, note = {
        "ten": ((prune, packed, share_out), "What prunes, what a task reads, and how long there is room."),
        "layer": ((PackNet, own_accuracy), "The method, and the wrong reading in the table's column M_t alone."),
        "frozen": ((frozen_path, PackNet.after_step), "The frozen weight above, and how PackNet puts back a layer's."),
    }[view]
    show_code(*functions, note=note)


@st.cache_data(max_entries=64, show_spinner=False)
def ten_weights(keep: tuple[float, ...]) -> dict:
    return traces.ten_weights(keep)


@st.cache_data(max_entries=64, show_spinner=False)
def frozen_weight(steps: int, lr: float, momentum: float, decay: float) -> dict:
    return traces.frozen_weight(steps, lr, momentum, decay)


main()
