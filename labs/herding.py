"""Herding: iCaRL by hand, from the loss of a stage to its exemplars, their means and what these answer."""

import streamlit as st

from cllab.replay import ICaRL, icarl_loss, icarl_targets
from cllab.replay.herding import _greedy, herding_steps, nearest_class_mean, quota
from labs import herding_real, herding_trained
from labs import herding_traces as traces
from labs.controls import Controls, show_code
from labs.player import player

LOOK = (
    "Herding takes the point nearest to the target (crosshair), so that the mean of the chosen points (◇) follows "
    "the mean of their class (✚). When class C arrives, the other lists are only cut at their end, and the means that "
    "classify a new point move."
)
PRESETS = {
    "By hand, K = 8": {},
    "The tie, broken last": {"ties": "last"},
    "The loss of stage 2": {"enter": "Stage 2"},
    "Point (2, 2)": {"x": 2.0, "y": 2.0, "enter": "Tie (2, 2)"},
    "Point (0, 0)": {"x": 0.0, "y": 0.0, "enter": "Tie (0, 0)"},
    "K = 3: one row each": {"capacity": 3},
    "Let me guess": {"predict": True},
    "Features that move": {"view": "A real run"},
}
CLAIMS = {
    "By hand, K = 8": "A and B keep four points each, then C arrives and everybody keeps two.",
    "The tie, broken last": "At the second choice two points are equally near; taking the other moves the final means.",
    "The loss of stage 2": "Two outputs aim at what the old network says, the new one at the label.",
    "Point (2, 2)": "It belongs to A and to B, and after stage 1 it is exactly as far from both means.",
    "Point (0, 0)": "It belongs to A and to C, and after stage 2 it is exactly as far from both means.",
    "K = 3: one row each": "The smallest budget: each class is represented by the one point nearest to its mean.",
    "Let me guess": "You name the next point before herding does.",
    "Features that move": "In a real run each stage moves the features, and means of before answer worse.",
}
DEFAULTS = {
    "capacity": 8, "ties": "first", "x": 0.9, "y": 0.7, "predict": False, "enter": "Stage 1", **herding_real.DEFAULTS,
    **herding_trained.DEFAULTS,
}  # fmt: skip


class Settings(Controls):
    """The page's settings; those of the views that are not shown stay in the address."""

    def number(self, name: str, label: str, help: str) -> float:
        """A coordinate of the query point, from -10 to 10."""
        default = DEFAULTS[name]
        self._check(name, default, lambda raw: -10 <= float(raw) <= 10, "a number from -10 to 10")
        given = {
            "label": label,
            "min_value": -10.0,
            "max_value": 10.0,
            "value": default,
            "step": 0.1,
            "format": "%.2f",
        }
        return self._keep(name, default, st.number_input, {"help": help, **given})

    def finish(self) -> None:
        self._defaults = {**DEFAULTS, **self._defaults}
        super().finish()


def main() -> None:
    page = Settings("herd")
    page.head("Herding steps", LOOK, lesson="04")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    about = "Fifteen points by hand, a real iCaRL run, real images, or herding's error beside that of random choices."
    view = page.choice("view", "View", list(VIEWS), "By hand", help=about, label_visibility="collapsed")
    VIEWS[view](page)
    page.finish()
    note = "`herding_steps` checks its arguments and runs `_greedy`; the player shows what each step yields."
    method = (ICaRL,) if view == "A real run" else ()
    show_code(*method, icarl_targets, icarl_loss, herding_steps, _greedy, quota, nearest_class_mean, note=note)
    st.caption("Lesson 04 goes through this story by hand; lesson 01 shows the forgetting that exemplars repair.")


def picked(label: str) -> None:
    """A preset was chosen: start the story anew, at the place that it is about."""
    for name in ("herd.guesses", "herd.placed"):
        st.session_state.pop(name, None)
    st.session_state["herd.round"] = st.session_state.get("herd.round", 0) + 1


# --- by hand -----------------------------------------------------------------------------------------------------


def show_toy(page: Settings) -> None:
    above = st.container()
    picture, side = st.columns([3, 1], gap="medium")
    with side:
        about = "Rows of memory for all classes together. With t classes each may keep m = ⌊K / t⌋."
        capacity = page.slider("capacity", "Memory budget K (rows)", 3, 15, DEFAULTS["capacity"], help=about)
        about = "Which row is taken when several are exactly equally near to the target."
        ties = page.choice("ties", "Of equally near points take the", ["first", "last"], DEFAULTS["ties"], help=about)
        about = "The story stops before every choice and asks you for the next point."
        predict = page.toggle("predict", "Let me guess first", DEFAULTS["predict"], help=about)
        query = (DEFAULTS["x"], DEFAULTS["y"]) if predict else query_point(page)
    whole = toy_trace(capacity, ties)
    if predict:
        with picture:
            play(*guess(whole, f"{capacity} {ties}"), None)
        return
    with above:
        about = "Where in the story the player begins; from there it plays on."
        enter = page.choice("enter", "Enter the story at", list(traces.ENTRIES), DEFAULTS["enter"], help=about)
    with picture:
        play({**whole, "query": list(query)}, traces.entry(whole, enter), query, not enter.startswith("Tie"))
        for column, number, end in zip(st.columns(2), (1, 2), traces.last_steps(whole), strict=True):
            with column:
                show_verdict(number, whole["steps"][end]["quota"], traces.exemplar_means(whole, end), query)


def query_point(page: Settings) -> tuple[float, float]:
    st.markdown("**Query point**: type it, or drag it in the picture.")
    about = "The point to classify. In the picture: click, drag, or the arrow keys (Shift: larger steps)."
    left, right = st.columns(2)
    with left:
        x = page.number("x", "x", about)
    with right:
        return x, page.number("y", "y", about)


@st.fragment
def play(trace: dict, step: int, query: tuple[float, float] | None, autoplay: bool = False) -> None:
    """The player. Its steps concern nobody else; a point placed in it changes the whole page."""
    if st.session_state.pop("herd.moved", False):
        st.rerun()
    key = f"herd_toy_{st.session_state.get('herd.round', 0)}"  # a preset gets a player of its own, which starts to play
    placed = st.session_state.get(key, {}).get("query")
    # Until somebody places it, the query point appears only where the story comes to it.
    shown = None if query is None or (query == (DEFAULTS["x"], DEFAULTS["y"]) and not placed) else list(query)
    if placed != shown:  # the browser still reports the point that was placed before the fields were changed
        st.session_state.get(f"{key}_asked", {}).pop("query", None)
    player(trace, key=key, step=step, query=shown, autoplay=autoplay, on_change=lambda: moved(key))


def moved(key: str) -> None:
    """Somebody stepped, or placed the query point, whose coordinates go to the fields and to the address."""
    placed = st.session_state[key].get("query")
    if placed is None or placed == st.session_state.get("herd.placed") or "herd_x" not in st.session_state:
        return
    st.session_state["herd.placed"], st.session_state["herd.moved"] = placed, True
    st.session_state["herd_x"], st.session_state["herd_y"] = (min(10.0, max(-10.0, float(v))) for v in placed)


def guess(whole: dict, story: str) -> tuple[dict, int]:
    """Ask for the next choice above the player; returns the trace up to the question, and the step to show."""
    kept = st.session_state.setdefault("herd.guesses", {"story": story, "said": []})
    if kept["story"] != story:
        kept = st.session_state["herd.guesses"] = {"story": story, "said": []}
    said, total = kept["said"], len(traces.choices(whole))
    question = len(said)
    results = [traces.judge(whole, i, name) for i, name in enumerate(said)]
    if results:
        right, text = results[-1]
        score = f"{sum(ok for ok, _ in results)} of {question} right."
        (st.success if right else st.info)(f"{'Right' if right else 'Not this one'}. {text} {score}")
    if question == total:
        st.markdown("That was the last choice; the whole story is in the player now.")
        return whole, traces.choices(whole)[-1]
    trace = traces.asked(whole, question)
    step = trace["steps"][-1]
    st.markdown(f"**{question + 1} of {total}.** {step['text']}")
    key = f"herd_guess_{question}"

    def note() -> None:
        if (name := st.session_state[key]) is not None:
            said.append(name)

    names = [trace["names"][i] for i in step["candidates"]]
    st.pills("Your guess", names, key=key, on_change=note, label_visibility="collapsed")
    return trace, traces.choices(whole)[question - 1] if question else len(trace["steps"]) - 1


def show_verdict(stage: int, m: int, means: dict[int, list[float]], query: tuple[float, float]) -> None:
    """What the memory at the end of a stage says about the query point, with the arithmetic."""
    where, found = traces.point(query), traces.verdict(means, query)
    names = [traces.CLASSES[c] for c in found.tied]
    st.markdown(f"**After stage {stage}**, up to {m} row{'s' if m > 1 else ''} per class")
    if len(found.tied) > 1:
        answer = f"`nearest_class_mean` answers the lowest class, {traces.CLASSES[found.answer]}."
        text = f"{where} is exactly as far from {' and '.join(names)}: a tie. {answer}{both(query)}"
        st.warning(text, icon=":material/balance:")
    else:
        st.markdown(f"{where} is classified as **{names[0]}**, whose exemplar mean is nearest.{both(query)}")
    rows = [
        f"| {traces.CLASSES[c]} | {traces.point(mean)} | {found.formulas[c]} = **{found.distances[c]:.4f}** |"
        for c, mean in means.items()
    ]
    st.markdown("\n".join(["| class | mean | distance |", "| --- | --- | --- |", *rows]))


def both(query: tuple[float, float]) -> str:
    """A sentence if the query point is a training point of two classes."""
    same = (traces.TOY.x == traces.TOY.x.new_tensor(query)).all(dim=1)
    owners = [traces.CLASSES[c] for c in traces.TOY.y[same].tolist()]
    return f" This point stands in the data of {' and of '.join(owners)}." if len(owners) > 1 else ""


# --- computed once, shared by all visitors -------------------------------------------------------------------------


@st.cache_data(max_entries=32, show_spinner=False)
def toy_trace(capacity: int, ties: str) -> dict:
    return traces.toy_trace(capacity, ties)


VIEWS = {
    "By hand": show_toy, "A real run": herding_trained.show_trained, "Real digits": herding_real.show_digits,
    "Against random": herding_real.show_random,
}  # fmt: skip


main()
