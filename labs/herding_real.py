"""The herding page's other two views: the toy's story on real digits, and herding's error beside that of chance."""

import pandas as pd
import streamlit as st

from labs import herding_traces as traces
from labs.controls import Controls
from labs.player import player

TRIOS = {"3, 5 then 8": (3, 5, 8), "4, 7 then 9": (4, 7, 9), "0, 1 then 2": (0, 1, 2)}
SOURCES = ("toy class A", *(f"digit {i}" for i in range(10)))
DEFAULTS = {
    "trio": "3, 5 then 8", "images": 6, "source": "digit 3", "m": 20, "features": "network", "unit": False,
}  # fmt: skip
COLOURS = {"herding": "#0072B2", "random order": "#E69F00"}


def show_digits(page: Controls) -> None:
    picture, side = st.columns([3, 1], gap="medium")
    with side:
        about = "The first two digits arrive together, the third one later."
        trio = TRIOS[page.select("trio", "Digits", list(TRIOS), DEFAULTS["trio"], help=about)]
        about = "Images in memory, for all three digits together."
        capacity = page.slider("images", "Memory budget K (images)", 3, 60, DEFAULTS["images"], step=3, help=about)
        features, unit = feature_settings(page)
    with picture:
        with st.spinner("Training the network that gives the features…", show_time=True):
            trace, accuracy = digits_story(trio, capacity, features, unit)
        play(trace)
        st.caption(
            f"Distances, targets and errors are those of all {'32 features' if features == 'network' else '64 pixels'} "
            "of an image; the picture shows their two principal directions only. "
            f"{traces.PER_DIGIT} training images of each digit."
        )
    m = capacity // 3
    with side:
        st.markdown(f"**Test accuracy** of the nearest mean of {m} image{'s' if m > 1 else ''} per digit")
        about = (
            "Share of the three digits' test images whose nearest mean, in feature space, is that of their own digit."
        )
        st.metric(f"{m} chosen by herding", f"{accuracy['herding']:.1%}", help=about)
        st.metric(f"{m} chosen at random", f"{accuracy['random']:.1%}", help="Mean over 50 random choices.")
        st.metric(f"all {traces.PER_DIGIT} images", f"{accuracy['all']:.1%}", help="The class means themselves.")


@st.fragment
def play(trace: dict) -> None:
    """The player; its steps concern nobody else."""
    player(trace, key="herd_digits", autoplay=True)


def feature_settings(page: Controls) -> tuple[str, bool]:
    about = "network: 32 features of a small network, trained when this is first opened. pixels: the image, 64 numbers."
    features = page.choice("features", "Features", list(traces.FEATURES), DEFAULTS["features"], help=about)
    about = "iCaRL scales every feature vector to length 1 before herding and classifying."
    return features, page.toggle("unit", "Unit length, as in iCaRL", DEFAULTS["unit"], help=about)


def show_random(page: Controls) -> None:
    picture, side = st.columns([3, 1], gap="medium")
    with side:
        about = "The class whose mean the exemplars should meet."
        source = page.select("source", "Class", list(SOURCES), DEFAULTS["source"], help=about)
        about = "How many exemplars at most. The toy's class has five points."
        m = page.slider("m", "Exemplars m", 5, 100, DEFAULTS["m"], help=about)
        features, unit = feature_settings(page)
    with picture:
        with st.spinner("Training the network that gives the features…", show_time=True):
            curves, rises = error_curves(source, m, features, unit)
        last = curves.iloc[-1]
        ends = f"herding ends at {last['herding']:.3f}, random at {last['median']:.3f}"
        what = f"Error of the exemplar mean, {source}: {ends}"
        st.vega_lite_chart(curves, SPEC, alt=what, width="stretch", key="herd_curves")
        middle = curves.iloc[len(curves) // 2]
        st.markdown(
            f"At m = {middle['m']:.0f} the mean of herding's exemplars is **{middle['herding']:.3f}** from the class "
            f"mean, that of a random choice **{middle['median']:.3f}** (median of 200 orders; the band holds 80%). "
            + (f"Herding's error is larger than one step before at m = {', '.join(map(str, rises))}: " if rises else "")
            + "each choice is the best *next* one, and the error need not fall at every step. "
            "With all points chosen it is 0 for both."
        )
        if source == SOURCES[0]:
            st.caption("The toy's two features, five points: the network and the pixels play no part here.")


X = {"field": "m", "type": "quantitative", "title": "exemplars m", "axis": {"tickMinStep": 1}, "scale": {"zero": False}}
Y = {"type": "quantitative", "title": "‖exemplar mean − class mean‖"}
TOOLTIP = [
    {"field": "m", "title": "m"},
    {"field": "herding", "title": "herding", "format": ".4f"},
    {"field": "median", "title": "random, median", "format": ".4f"},
    {"field": "low", "title": "random, 10%", "format": ".4f"},
    {"field": "high", "title": "random, 90%", "format": ".4f"},
]
KEY = {"type": "nominal", "title": None, "legend": {"orient": "top"},
       "scale": {"domain": list(COLOURS), "range": list(COLOURS.values())}}  # fmt: skip
SPEC = {
    "height": 380,
    "encoding": {"x": X, "tooltip": TOOLTIP},
    "layer": [
        {"mark": {"type": "area", "opacity": 0.25, "color": COLOURS["random order"]},
         "encoding": {"y": {**Y, "field": "low"}, "y2": {"field": "high"}}},
        {"mark": {"type": "line", "strokeDash": [6, 3]},
         "encoding": {"y": {**Y, "field": "median"}, "color": {**KEY, "datum": "random order"}}},
        {"mark": {"type": "line", "point": True},
         "encoding": {"y": {**Y, "field": "herding"}, "color": {**KEY, "datum": "herding"}}},
    ],
}  # fmt: skip


# --- computed once, shared by all visitors -----------------------------------------------------------------------


@st.cache_resource(max_entries=4, show_spinner=False)
def digits(features: str, unit: bool) -> traces.Digits:
    return traces.load_digits(features, unit)


@st.cache_data(max_entries=32, show_spinner=False)
def digits_story(trio: tuple[int, int, int], capacity: int, features: str, unit: bool) -> tuple[dict, dict[str, float]]:
    data = digits(features, unit)
    return traces.digits_trace(data, trio, capacity), traces.digits_accuracy(data, trio, capacity)


@st.cache_data(max_entries=64, show_spinner=False)
def error_curves(source: str, m: int, features: str, unit: bool) -> tuple[pd.DataFrame, list[int]]:
    if source == SOURCES[0]:
        rows = traces.TOY.x[traces.TOY.y == 0]
    else:
        data = digits(features, unit)
        rows = data.features[data.y == SOURCES.index(source) - 1]
    found = traces.error_curves(rows, min(m, len(rows)))
    table = pd.DataFrame({"m": range(1, min(m, len(rows)) + 1), **found})
    return table, traces.rises(found["herding"])
