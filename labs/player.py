"""The player in the lab: a Streamlit component around the one script of `cllab.player`."""

from collections.abc import Callable
from typing import NamedTuple

import streamlit as st

from cllab.player import script, style, validate_trace

_component = st.components.v2.component("cllab_player", js=script(), css=style())


class Played(NamedTuple):
    """What the person last settled on: the step (from 0), and the query point of a herding trace or None."""

    step: int
    query: list[float] | None


def player(
    trace: dict,
    *,
    key: str,
    step: int = 0,
    query: list[float] | None = None,
    autoplay: bool = False,
    height: int | None = None,
    on_change: Callable[[], None] | None = None,
) -> Played:
    """Draw the player and return where it stands.

    The page runs again when the person pauses, steps, lets go of the slider or of the query point, and not
    while the trace plays. `step` and `query` set the player when they differ from the call before (or after
    `restart`); otherwise it keeps its own, also when `trace` changes. `height` in pixels scrolls inside;
    None takes what the drawing needs. `on_change` is called before the page runs again. Raises like
    `validate_trace`.
    """
    validate_trace(trace)
    last = len(trace["steps"]) - 1
    state = st.session_state.setdefault(key, {})
    asked = st.session_state.setdefault(f"{key}_asked", {})
    for name, value in (("step", min(max(int(step), 0), last)), ("query", query)):
        if name not in asked or asked[name] != value:
            asked[name] = state[name] = value
    at = state.get("step")  # None while the browser has told only a query point
    shown = {"step": min(int(asked["step"] if at is None else at), last), "query": state.get("query")}
    nothing = on_change or (lambda: None)
    result = _component(
        key=key,
        data={"trace": trace, "autoplay": autoplay, **shown},
        height="content" if height is None else height,
        on_step_change=nothing,
        on_query_change=nothing,
    )
    now = result.step if result.step is not None else shown["step"]
    return Played(min(int(now), last), result.query if result.query is not None else shown["query"])


def restart(key: str) -> None:
    """Make the next call's `step` and `query` an order to the player, also when they are those of before."""
    st.session_state.pop(f"{key}_asked", None)
