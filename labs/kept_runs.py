"""Runs that a page trains when somebody asks for them, and keeps for all visitors."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import streamlit as st

KEPT = 24
"""Runs that each page keeps at most; the oldest goes first."""
Run = TypeVar("Run")


def trained(
    page: str, key: str, committed: Mapping[str, Run], train: Callable[..., Run], about: str
) -> tuple[Run, str]:
    """The run with this key and where it comes from; one that is new is trained here, in view of the visitor.

    page: whose runs these are. train: makes the run and tells its on_frame which share is done. about: stands over the
    progress bar meanwhile.
    """
    if (known := committed.get(key)) is not None:
        return known, "trained beforehand"
    kept = _kept(page)
    if key not in kept:
        start = time.perf_counter()
        bar = st.progress(0.0, about)
        run = train(on_frame=lambda share: bar.progress(min(1.0, share), about))
        bar.empty()
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)), None)
        kept[key] = run, f"trained here in {time.perf_counter() - start:.1f} s"
    return kept[key]


@st.cache_resource
def _kept(page: str) -> dict[str, tuple]:
    """The latest runs of all visitors. Not `st.cache_data`, because training writes its progress."""
    return {}
