"""The herding page's view of a real iCaRL run: features that move, means that must be computed anew, two answers."""

import streamlit as st

from labs.controls import Controls
from labs.herding_walk import GROUPS, SEED, Walk, walk
from labs.player import player

DEFAULTS = {"kept": 16, "length": False, "seed": SEED}


def show_trained(page: Controls) -> None:
    picture, side = st.columns([3, 1], gap="medium")
    with side:
        about = "Images in memory, for all four digits together."
        capacity = page.slider("kept", "Memory budget K (images)", 4, 40, DEFAULTS["kept"], step=4, help=about)
        about = "iCaRL scales features to length 1, so that only angles count; two features then leave one."
        unit = page.toggle("length", "Unit length, as in iCaRL", DEFAULTS["length"], help=about)
        seed = page.seed(default=SEED)
    with picture:
        with st.spinner("Training the network, stage by stage…", show_time=True):
            found = trained(capacity, unit, seed)
        play(found.trace, f"herd_walk_{capacity}_{unit}_{seed}")
        st.caption(
            "A network with 64 inputs, 64 hidden units and two features, trained by `ICaRL` for 20 epochs a stage. "
            "Every position is that of the network at this step; test images are never trained on."
        )
    with side:
        table = ["| test accuracy after | nearest mean | head |", "| --- | --- | --- |"]
        for i, (group, means, head) in enumerate(zip(GROUPS, found.means, found.head, strict=True)):
            table.append(f"| stage {i + 1}: {' and '.join(map(str, group))} | {means:.1%} | {head:.1%} |")
        st.markdown("\n".join(table))
        st.markdown(
            f"Before the last choice, the **means of before** would have been right on **{found.stale[-1]:.1%}** of "
            f"the older digits, the same means **computed anew** on **{found.anew[-1]:.1%}**."
        )


@st.fragment
def play(trace: dict, key: str) -> None:
    """The player; its steps concern nobody else."""
    player(trace, key=key, autoplay=True)


@st.cache_data(max_entries=16, show_spinner=False)
def trained(capacity: int, unit: bool, seed: int) -> Walk:
    return walk(capacity, unit, seed)
