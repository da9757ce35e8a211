"""The curves of the page of growing experts: run A and run B over each other, as Vega-Lite dicts."""

import streamlit as st

from labs import growing_traces as traces
from labs.charts import FAINT, PADDING, table

COLOURS = {"A": "#0072B2", "B": "#E69F00"}
TITLES = {
    "accuracy": "accuracy, mean of the stages so far",
    "moved": "routing moved, mean of earlier stages",
}


def show_curves(runs: dict[str, list[dict]]) -> None:
    """Mean accuracy of the stages so far, and the mean share of older stages' routing that has moved."""
    rows = traces.curves(runs)
    first = next(iter(runs.values()))
    begins = [frame["step"] for frame in traces.arrivals(first)]
    for column, (what, title) in zip(st.columns(2), TITLES.items(), strict=True):
        own = [row for row in rows if row[2] == what]
        ends = ", ".join(f"{name} {[row[3] for row in own if row[0] == name][-1]:.2f}" for name in runs)
        data = table([(name, step, value) for name, step, _, value in own], "run", "step", "value")
        spec = chart(title, list(runs), first[-1]["step"], begins)
        column.vega_lite_chart(data, spec, alt=f"{title.capitalize()}, at the end {ends}", key=f"grow_{what}")


def chart(title: str, runs: list[str], last: int, begins: list[int]) -> dict:
    """A line per run; a rule where a new stage begins."""
    run = {"field": "run", "type": "nominal", "sort": None, "scale": {"domain": runs}}
    legend = {"orient": "bottom", "title": None, "symbolStrokeWidth": 3} if len(runs) > 1 else None
    step = {"field": "step", "type": "quantitative", "title": "optimiser step"}
    value = {"field": "value", "type": "quantitative", "title": None, "scale": {"domain": [0, 1]}}
    about = [{"field": "run"}, {"field": "step"}, {"field": "value", "format": ".3f"}]
    colour = {**run, "scale": {"domain": runs, "range": [COLOURS[name] for name in runs]}, "legend": legend}
    rule = {"type": "rule", "color": FAINT, "strokeDash": [2, 3]}
    return {
        "height": 300,
        "padding": PADDING,
        "title": {"text": title, "anchor": "start", "fontSize": 13},
        "layer": [
            {
                "data": {"values": [{"step": step} for step in begins]}, "mark": rule,
                "encoding": {"x": {"field": "step", "type": "quantitative"}},
            },
            {
                "mark": {"type": "line", "strokeWidth": 2.5},
                "encoding": {
                    "x": {**step, "scale": {"domain": [0, last], "nice": False}}, "y": value, "tooltip": about,
                    "color": colour, "strokeDash": {**run, "legend": legend},
                },
            },
        ],
    }  # fmt: skip
