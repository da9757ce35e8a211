"""The routing page's curves: accuracy and the named terms of the loss, as Vega-Lite dicts."""

import pandas as pd
import streamlit as st

from labs import routing_traces as traces

COLOURS = {"A": "#0072B2", "B": "#E69F00"}
STEP = {"field": "step", "type": "quantitative", "title": "training step"}
RUN = {"field": "run", "type": "nominal", "title": "run", "legend": {"orient": "top"}}
ACCURACY = {
    "height": 280,
    "mark": {"type": "line"},
    "encoding": {
        "x": STEP,
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": "accuracy (test rows)",
            "scale": {"domain": [0, 1]},
        },
        "color": {**RUN, "scale": {"domain": list(COLOURS), "range": list(COLOURS.values())}},
        "strokeDash": RUN,
        "tooltip": [
            {"field": "run"},
            {"field": "step"},
            {"field": "value", "title": "accuracy", "format": ".3f"},
        ],
    },
}
TERMS = {"task": "#009E73", "balance": "#CC79A7", "z-loss": "#56B4E9"}
LOSSES = {
    "height": 280,
    "mark": {"type": "line"},
    "encoding": {
        "x": STEP,
        "y": {"field": "value", "type": "quantitative", "title": "loss term (training rows)"},
        "strokeDash": RUN,
        "tooltip": [{"field": "run"}, {"field": "what"}, {"field": "step"}, {"field": "value", "format": ".4f"}],
    },
}  # fmt: skip


def show_curves(shown: dict[str, dict]) -> None:
    """Accuracy and the named terms of the loss over the training steps."""
    rows = pd.DataFrame(traces.curves(shown))
    left, right = st.columns(2)
    accuracy = rows[rows["what"] == "accuracy"]
    ends = ", ".join(f"{name} {trace['steps'][-1]['accuracy']:.2f}" for name, trace in shown.items())
    left.vega_lite_chart(
        accuracy, ACCURACY, alt=f"Test accuracy over training steps, at the end {ends}", key="moe_accuracy"
    )
    losses = rows[rows["what"] != "accuracy"]
    terms = [name for name in TERMS if (losses["what"] == name).any()]
    scale = {"domain": terms, "range": [TERMS[name] for name in terms]}
    colour = {"field": "what", "type": "nominal", "title": "term", "legend": {"orient": "top"}, "scale": scale}
    spec = LOSSES | {"encoding": LOSSES["encoding"] | {"color": colour}}
    right.vega_lite_chart(
        losses, spec, alt=f"The loss's terms over training steps: {', '.join(terms)}", key="moe_losses"
    )
