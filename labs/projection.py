"""Gradient projection: arrows to drag, the cone of allowed steps, GEM, A-GEM and what they do in a real run."""

import streamlit as st

from cllab.player.from_projection import in_turn, ridge_multipliers
from cllab.regularization import multipliers, project, project_on_one
from labs import projection_traces as traces
from labs.controls import Controls, current_job, show_code
from labs.player import player
from labs.projection_real import RUN_DEFAULTS, show_run

LOOK = (
    "g is the new task's gradient; every row of G is a past task's. A small step against any u in the shaded cone "
    "raises no old loss. Drag the heads of the arrows: GEM finds the point of the cone nearest to g, two shortcuts may "
    "miss it."
)
PLACES = {"g": (2.0, -1.0), "a": (1.0, 1.0), "b": (-1.0, 1.0), "c": (0.5, -1.0)}
DEFAULTS = {
    "view": "In the plane", "rows": 2, "margin": 0.0, "ridge": False, "predict": False,
    **{f"{name}{axis}": p[i] for name, p in PLACES.items() for i, axis in enumerate("xy")}, **RUN_DEFAULTS,
}  # fmt: skip
RIDGE = 1e-3


def setting(g: tuple, *rows: tuple, **more) -> dict:
    """The settings of a preset: where the arrows stand."""
    found = {"rows": len(rows), **more}
    for name, p in zip("gabc", (g, *rows), strict=False):
        found |= {f"{name}x": float(p[0]), f"{name}y": float(p[1])}
    return found


PRESETS = {
    "The mean hides a row": {},
    "One row": setting((1, 0), (-1, 1)),
    "No step at all": setting((0, -1), (1, 1), (-1, 1)),
    "In turn fails": setting((0, -1), (1, 0.5), (-1, 0.5)),
    "In turn goes too far": setting((-1, -2), (1, 0), (1, 1)),
    "Margin 0.5": {"margin": 0.5},
    "Margin and ridge": {"margin": 0.5, "ridge": True},
    "Let me guess": setting((-1, -2), (1, 0), (1, 1), predict=True),
    "A real run": {"view": "A real run"},
}
CLAIMS = {
    "The mean hides a row": "A-GEM is content with (2, 0), which raises the second task's loss: its dot is −2.",
    "One row": "With one past task all three agree: u = (0.5, 0.5).",
    "No step at all": "g points straight away from the cone: the nearest point of the cone is its tip, u = 0.",
    "In turn fails": "One after another ends at (−0.24, −0.48) and still violates row 1 by 0.48.",
    "In turn goes too far": "One after another ends in the cone, but farther from g than GEM.",
    "Margin 0.5": "Every row gets at least half of itself: u = (1, 1) instead of (0.5, 0.5), inside row 1.",
    "Margin and ridge": "The authors' code adds 0.001 to the diagonal: row 2 is violated by 0.0015.",
    "Let me guess": "You say where GEM's u will end.",
    "A real run": "The cosines of 216 steps: how often a step violates a past task, before and after projection.",
}


class Settings(Controls):
    """The page's settings; those of the view that is not shown stay in the address."""

    def coordinate(self, name: str, label: str) -> float:
        """One coordinate of an arrow's head."""
        default, low, high = DEFAULTS[name], -traces.LIMIT, traces.LIMIT
        self._check(name, default, lambda raw: low <= float(raw) <= high, f"a number from {low:g} to {high:g}")
        given = {"label": label, "min_value": low, "max_value": high, "value": default, "step": 0.1, "format": "%.2f"}
        return self._keep(name, default, st.number_input, {"width": 115, **given})

    def finish(self) -> None:
        self._defaults = {**DEFAULTS, **self._defaults}
        super().finish()


def main() -> None:
    page = Settings("proj")
    page.head("Gradient projection", LOOK, lesson="09")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    about = "Two-dimensional gradients to drag, or the gradients of a network that learns digits."
    views = ["In the plane", "A real run"]
    view = page.choice("view", "View", views, DEFAULTS["view"], help=about, label_visibility="collapsed")
    if view == "A real run":
        show_run(page)
    else:
        if (job := current_job("proj")) is not None:
            job.stop()
        show_plane(page)
    st.caption("Lesson 09 solves these problems by hand and trains with GEM and A-GEM.")


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the guess."""
    st.session_state["proj.round"] = st.session_state.get("proj.round", 0) + 1


def show_plane(page: Settings) -> None:
    picture, side = st.columns([3, 1], gap="medium")
    with side:
        about = "Past tasks: each has one row, the gradient of its loss at the present weights."
        t = page.choice("rows", "Rows of G", [1, 2, 3], DEFAULTS["rows"], help=about)
        names = ["g", *"abc"[:t]]
        numbers = arrow_heads(page, names)
        about = "γ: every row gets at least γ of itself added, when any is violated. GEM's scripts use 0.5."
        margin = page.slider("margin", "Margin γ", 0.0, 1.0, DEFAULTS["margin"], step=0.05, help=about)
        about = "The authors' code adds 0.001 to the diagonal of G Gᵀ, so that their solver never meets a singular one."
        ridge = page.toggle("ridge", "Ridge of 0.001", DEFAULTS["ridge"], help=about)
        about = "The page asks where GEM's u ends before it shows the answers."
        predict = page.toggle("predict", "Let me guess first", DEFAULTS["predict"], help=about)
    page.finish()
    trace = plane(tuple(numbers), margin, RIDGE if ridge else 0.0)
    with picture:
        if predict and not guessed(trace):
            watch({**trace, "steps": trace["steps"][:1]}, names, predict)
            return
        watch(trace, names, predict)
        st.markdown(traces.answer_table(trace))
        st.caption("✗ marks a dot below 0: to first order, a small step −u would raise that task's loss.")
    note = "`project` gives GEM's u, `project_on_one` A-GEM's. "
    note += "`in_turn` is the shortcut that looks right; the ridge is the authors' code's."
    show_code(project, multipliers, project_on_one, in_turn, *([ridge_multipliers] if ridge else []), note=note)


def arrow_heads(page: Settings, names: list[str]) -> list[float]:
    """The coordinates of all heads as one flat list, g first."""
    found = []
    st.markdown("**Heads of the arrows**: type them, or drag them in the picture.")
    for i, name in enumerate(names):
        label = traces.ROW[i - 1] if i else "g"
        with st.container(horizontal=True, gap="small"):
            found += [page.coordinate(f"{name}{axis}", f"{label}, {axis}") for axis in "xy"]
    return found


def guessed(trace: dict) -> bool:
    """Ask where GEM's u ends; True once there is an answer, which is judged."""
    st.markdown(f"**Where will GEM's u end?** {traces.rule(trace['margin'], trace['ridge'])}")
    key = f"proj_guess_{st.session_state.get('proj.round', 0)}_{trace['alt']}_{trace['margin']}_{trace['ridge']}"
    guess = st.pills("Your guess", traces.puzzle(trace), key=key, label_visibility="collapsed")
    if guess is None:
        return False
    truth = traces.place(trace)
    verdict = "Right" if guess == truth else f"You said {guess}"
    (st.success if guess == truth else st.info)(f"{verdict}: it ends {truth}.")
    return True


def watch(trace: dict, names: list[str], predict: bool) -> None:
    """The player. Arrows that were dragged in it come back as numbers in the fields and in the address."""
    key = f"proj_plane_{st.session_state.get('proj.round', 0)}_{predict}_{len(trace['steps'])}"

    def moved() -> None:
        heads = st.session_state[key].get("query")
        if heads is None or heads == st.session_state.get("proj.heads") or len(heads) != 2 * len(names) + 1:
            return
        st.session_state["proj.heads"] = heads
        for i, value in enumerate(heads[:-1]):
            held = min(traces.LIMIT, max(-traces.LIMIT, float(value)))
            st.session_state[f"proj_{names[i // 2]}{'xy'[i % 2]}"] = held

    if st.session_state.get("proj.player") != key:
        st.session_state.pop("proj.heads", None)
    st.session_state["proj.player"] = key
    player(trace, key=key, autoplay=True, on_change=moved)


@st.cache_data(max_entries=64, show_spinner=False)
def plane(numbers: tuple[float, ...], margin: float, ridge: float) -> dict:
    return traces.trace(numbers, margin, ridge)


main()
