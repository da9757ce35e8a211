"""Distillation: what temperature does to answers and gradients, and a student that follows its teacher."""

import streamlit as st
import torch

from cllab.player import distillation_trace
from cllab.player.from_distillation import NAMES, TEMPERATURES, follow, gradient, measure
from cllab.regularization import LwF, distillation_loss
from labs import distillation_numbers as numbers
from labs import distillation_question as question
from labs import distillation_views as views
from labs.controls import Controls, show_code
from labs.player import player

LOOK = (
    "Rising temperature flattens a teacher's answers and never changes their order. Which gradient still reaches the "
    "student then, and what does a student learn that the label alone would not tell?"
)
DEFAULTS = {
    "view": "Temperature",
    "teacher": question.CAT,
    "student": "1, 1, 0",
    "T": 0.25,
    "predict": False,
    **views.DEFAULTS,
}
PRESETS = {
    "Cat, lion, elephant": {},
    "Which T is 80/18/2?": {"predict": True},
    "A worked example": {"teacher": "4, 2, 0", "T": 2.0},
    "Too sure": {"teacher": "20, 4, 0", "T": 1.0},
    "Follow, with T² and without": {"view": "Follow the teacher"},
    "Masked tokens": {"view": "Masked tokens"},
    "Longer batch": {"view": "Masked tokens", "padding": 6},
    "A real teacher": {"view": "A real teacher"},
}
CLAIMS = {
    "Cat, lion, elephant": "From certainty to indifference; the cat stays first all the way.",
    "Which T is 80/18/2?": "You find the temperature at which these logits give the printed percentages.",
    "A worked example": "Teacher (4, 2, 0), student (1, 1, 0): at T = 2 the loss T²·KL is 0.682559.",
    "Too sure": "At T = 1 nothing is left to learn but the label; raise T and the lion appears.",
    "Follow, with T² and without": "Three students, one teacher: only the factor T² makes a high temperature learn.",
    "Masked tokens": "Four ways to average the same six tokens wrongly.",
    "Longer batch": "Six padded words change every reduction but the right one.",
    "A real teacher": "What a network that knows 0 to 4 says about 5 to 8, and who remembers it.",
}
# On a phone the moving picture comes first and the settings follow it.
PICTURE_FIRST = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-dist_settings) { order: 1; }
}</style>"""


class Settings(Controls):
    """The page's settings; those of the views that are not shown stay in the address."""

    def __init__(self, prefix: str):
        super().__init__(prefix)
        self.wrong: list[str] = []

    def logits(self, name: str, label: str, disabled: bool) -> tuple[float, ...] | None:
        """The logits as typed, None after a sentence about what is wrong with them."""
        default = DEFAULTS[name]
        self._check(name, default, lambda raw: bool(numbers.logits(name, raw)), "2 to 6 numbers from −50 to 50")
        about = f"The {name}'s outputs before the softmax, one per class: numbers separated by commas."
        text = self._keep(name, default, st.text_input, {"label": label, "value": default, "help": about,
                                                         "width": 230, "disabled": disabled})  # fmt: skip
        try:
            return tuple(numbers.logits(name, text))
        except ValueError as error:
            self.wrong.append(str(error))
            return None

    def finish(self) -> None:
        self._defaults = {**DEFAULTS, **self._defaults}
        super().finish()


def main() -> None:
    page = Settings("dist")
    page.head("Distillation", LOOK, lesson="08")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(PICTURE_FIRST)
    about = "One pair of logits, students in motion, tokens of two sentences, or a network on digits."
    view = page.choice("view", "View", list(VIEWS), DEFAULTS["view"], help=about, label_visibility="collapsed")
    settings, show, code, note = VIEWS[view]
    board = st.container(key="dist_board")
    first = "dist_settings" if view != "Masked tokens" else "dist_words"  # words are clicked above their numbers
    with board.container(key=first), st.container(horizontal=True, gap="medium", vertical_alignment="top"):
        chosen = settings(page)
    page.finish()
    with board.container(key="dist_picture"):
        for sentence in page.wrong:
            st.error(sentence)
        show(**chosen)
    show_code(*code, note=note)
    st.caption("Lesson 08 does this by hand, and trains with LwF beside fine-tuning and joint training.")


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the question."""
    st.session_state["dist.round"] = st.session_state.get("dist.round", 0) + 1


def typed(page: Settings, disabled: bool = False) -> dict:
    """Logits of teacher and student; where something is wrong with them, the last good ones."""
    pair = {name: page.logits(name, f"{name.capitalize()} logits z", disabled) for name in ("teacher", "student")}
    first = {name: tuple(numbers.logits(name, DEFAULTS[name])) for name in pair}
    good = st.session_state.setdefault("dist.good", first)
    if None not in pair.values():
        if len(pair["teacher"]) == len(pair["student"]):
            st.session_state["dist.good"] = good = pair
        else:
            page.wrong.append(
                f"The teacher has {len(pair['teacher'])} logits and the student {len(pair['student'])}: "
                "both need one for each class."
            )
    if page.wrong:
        page.wrong[-1] += f" The picture still shows {' and '.join(str(list(row)) for row in good.values())}."
    return dict(good)


# --- temperature -------------------------------------------------------------------------------------------------


def temperature_settings(page: Settings) -> dict:
    about = "Both softmaxes divide the logits by T. The player below moves the same T."
    T = page.scale("T", "Temperature T", TEMPERATURES, DEFAULTS["T"], help=about, width=280, format_func=short)
    asked = bool(st.session_state.get(page.key("predict"), False))
    pair = typed(page, disabled=asked)
    about = "The page asks you for a temperature before it explains one."
    predict = page.toggle("predict", "Let me guess first", DEFAULTS["predict"], help=about)
    return {**pair, "T": T, "predict": predict}


def short(T: float) -> str:
    return f"{T:.4g}"


def show_temperature(teacher: tuple, student: tuple, T: float, predict: bool) -> None:
    if predict:
        if question.asked(T):
            teacher = tuple(numbers.logits("teacher", question.CAT))
            trace, _ = sweep(teacher, student if len(student) == len(teacher) else (1.0, 1.0, 0.0), question.PRINTED)
            watch(trace, T)
        return
    trace, error = sweep(teacher, student, None)
    watch(trace, T)
    show_forms(teacher, student, T)
    st.caption(
        "The gradient is torch's own, of `distillation_loss`. Over all temperatures it differs from T (p − q) by at "
        f"most {error:.1e}."
    )
    with st.expander("What does 80/18/2 say?", icon=":material/help:"):
        question.show_readings()


def watch(trace: dict, T: float) -> None:
    """The player, which moves the slider above it when it comes to rest, and is moved by it."""
    key = views.round_key("player")

    def moved() -> None:
        step = st.session_state[key].get("step")
        if step is not None:
            st.session_state["dist_T"] = TEMPERATURES[int(step)]

    fresh = DEFAULTS["T"] == T and trace["panels"][0]["target"] is None
    player(trace, key=key, step=TEMPERATURES.index(T), autoplay=fresh, on_change=moved)


def show_forms(teacher: tuple, student: tuple, T: float) -> None:
    """KL beside CE: values that differ by H(q), the same gradient."""
    q, p = (torch.tensor(row, dtype=torch.float64) for row in (teacher, student))
    m = measure(q, p, T)
    lines = [f"| at T = {short(T)} | nats | times T² | gradient of the latter |", "| --- | ---: | ---: | --- |"]
    for name, form in (("KL(q‖p)", "kl"), ("CE(q, p)", "ce")):
        slope = ", ".join(f"{value:.6f}".replace("-", "−") for value in gradient(q, p, T, form).tolist())
        lines.append(f"| {name} | {m[form]:.6f} | {T**2 * m[form]:.6f} | ({slope}) |")
    lines.append(f"| CE − KL = H(q) | {m['ce'] - m['kl']:.6f} | | none: H(q) does not depend on the student |")
    st.markdown("\n".join(lines).replace("−0.000000", "0.000000"))


@st.cache_data(max_entries=64, show_spinner=False)
def sweep(teacher: tuple, student: tuple, target: tuple | None) -> tuple[dict, float]:
    """The trace, and how far torch's gradient is from T (p - q) at most."""
    rows = [torch.tensor(row, dtype=torch.float64) for row in (teacher, student)]
    found = ((T, measure(*rows, T)) for T in TEMPERATURES)
    error = max(float((m["gradient"] - T * (m["p"] - m["q"])).abs().max()) for T, m in found)
    return distillation_trace(*rows, TEMPERATURES, NAMES, target=target), error


def follow_settings(page: Settings) -> dict:
    return {**typed(page), **views.follow_settings(page)}


VIEWS = {
    "Temperature": (temperature_settings, show_temperature, (distillation_loss, measure, gradient),
                    "`distillation_loss` is the loss, `gradient` asks torch for its slope."),
    "Follow the teacher": (follow_settings, views.show_follow, (distillation_loss, gradient, follow),
                           "`follow` is gradient descent on the student's logits."),
    "Masked tokens": (views.token_settings, views.show_tokens, (distillation_loss, numbers.reductions),
                      "The right mean is that of `distillation_loss`; the wrong ones are written out beside it."),
    "A real teacher": (views.real_settings, views.show_real, (LwF, distillation_loss),
                       "`LwF` is the method that trains here."),
}  # fmt: skip


main()
