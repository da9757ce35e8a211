"""The lab's charts as Vega-Lite specifications: plain dicts for `st.vega_lite_chart(rows, spec)`.

One colour and one dash pattern per task, the same in every chart; axes are fixed, so that a growing curve never makes
them jump. Dicts because Altair's checking would cost 20 times the rest of the redraw.
"""

from collections.abc import Sequence

import pyarrow as pa
import streamlit as st

from cllab.plots.palette import TASK_COLOURS, TASK_COLOURS_DARK

DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [12, 4], [4, 4], [1, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
FAINT = "#8A8A8A"  # readable on white and on black
PADDING = {"left": 2, "top": 4, "right": 14, "bottom": 2}
LEGEND = {"orient": "bottom", "title": None, "columns": 3, "symbolStrokeWidth": 3, "labelLimit": 140}


def table(rows: Sequence[tuple], *columns: str) -> pa.Table:
    """Rows of a chart; an Arrow table is what is sent anyway, and making it is cheaper than a data frame."""
    values = zip(*rows, strict=True) if rows else ([] for _ in columns)
    return pa.table({name: list(column) for name, column in zip(columns, values, strict=True)})


def task_colours() -> list[str]:
    """The palette for the visitor's theme."""
    return TASK_COLOURS_DARK if st.context.theme.type == "dark" else TASK_COLOURS


def accuracy_curves(tasks: Sequence[str], boundaries: Sequence[int], height: int = 270) -> dict:
    """Accuracy over steps, one line per task, for rows with step, task, accuracy.

    boundaries: the last step of each task; the last of them is the end of the axis.
    """
    marks = _task_marks(tasks, boundaries)
    task = {"field": "task", "type": "nominal", "sort": None}
    style = {
        "color": {**task, "scale": {"domain": list(tasks), "range": task_colours()}, "legend": LEGEND},
        "strokeDash": {**task, "scale": {"domain": list(tasks), "range": list(DASHES)}, "legend": LEGEND},
    }
    about = [{"field": "task"}, {"field": "step"}, {"field": "accuracy", "format": ".3f"}]
    line = {"type": "line", "strokeWidth": 2.5, "clip": True}
    place = {"x": _steps(boundaries[-1], None), "y": _fraction("test accuracy")}
    return {
        "height": height,
        "padding": PADDING,
        "layer": [
            *marks,
            {"mark": line, "encoding": {**place, **style}},
            {"mark": {"type": "point", "opacity": 0, "size": 60}, "encoding": {**place, "tooltip": about}},
        ],
    }


def loss_curves(terms: Sequence[str], boundaries: Sequence[int], height: int = 180) -> dict:
    """The named terms of the loss over steps, on a log scale, for rows with step, term, loss."""
    scale = {"type": "log", "domain": [1e-4, 10], "clamp": True}
    loss = {"field": "loss", "type": "quantitative", "title": "loss", "scale": scale}
    height += 35 * (len(terms) > 1)  # room for the legend
    legend = LEGEND | {"symbolStrokeColor": FAINT} if len(terms) > 1 else None
    dash = {"field": "term", "type": "nominal", "sort": None, "legend": legend}
    dash["scale"] = {"domain": list(terms), "range": [[1, 0], [3, 2], [1, 2]][: len(terms)]}
    axis = {"values": [1e-4, 1e-2, 1], "format": ".0e"}
    return {
        "height": height,
        "padding": PADDING,
        "layer": [
            *_rules(boundaries),
            {
                "mark": {"type": "line", "strokeWidth": 1.5, "color": FAINT, "clip": True},
                "encoding": {
                    "x": _steps(boundaries[-1], "optimiser step"), "y": {**loss, "axis": axis}, "strokeDash": dash,
                },
            },
        ],
    }  # fmt: skip


def final_accuracies(tasks: Sequence[str], rows: Sequence[str]) -> dict:
    """One row per run, one mark per task at its accuracy, for rows with run, task, accuracy."""
    task = {"field": "task", "type": "nominal", "sort": None}
    axis = {"labelLimit": 160, "grid": True, "domain": False, "ticks": False}
    place = {"y": {"field": "run", "type": "nominal", "sort": list(rows), "title": None, "axis": axis}}
    style = {
        "color": {**task, "scale": {"domain": list(tasks), "range": task_colours()}, "legend": LEGEND},
        "shape": {**task, "scale": {"domain": list(tasks), "range": list(SHAPES)}, "legend": LEGEND},
    }
    accuracy = {**_fraction("accuracy at the end"), "field": "accuracy"}
    about = [{"field": "run"}, {"field": "task"}, {"field": "accuracy", "format": ".3f"}]
    return {
        "height": {"step": 30},
        "padding": PADDING,
        "layer": [
            {
                "mark": {"type": "rule", "color": FAINT, "strokeWidth": 2},
                "encoding": {
                    **place, "x": {**accuracy, "aggregate": "min"}, "x2": {"field": "accuracy", "aggregate": "max"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 130, "opacity": 1},
                "encoding": {**place, "x": accuracy, **style, "tooltip": about},
            },
        ],
    }  # fmt: skip


def _steps(total: int, title: str | None) -> dict:
    axis = {"tickMinStep": 1, "grid": False, "tickCount": 5}
    scale = {"domain": [0, total], "nice": False}
    return {"field": "step", "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _fraction(title: str) -> dict:
    axis = {"values": [0, 0.25, 0.5, 0.75, 1], "format": ".2~f"}
    scale = {"domain": [0, 1]}
    return {"field": "accuracy", "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _rules(boundaries: Sequence[int]) -> list[dict]:
    """A line where one task ends and the next begins."""
    ends = [{"step": step} for step in boundaries[:-1]]
    mark = {"type": "rule", "color": FAINT, "strokeDash": [2, 3]}
    return [{"data": {"values": ends}, "mark": mark, "encoding": {"x": {"field": "step", "type": "quantitative"}}}]


def _task_marks(tasks: Sequence[str], boundaries: Sequence[int]) -> list[dict]:
    """The rules, and over each stretch the letter of the task that is learned there."""
    starts = [0, *boundaries[:-1]]
    labels = [
        {"step": (a + b) / 2, "label": f"learning {task.split(':')[0]}" if len(tasks) < 4 else task.split(":")[0]}
        for task, a, b in zip(tasks, starts, boundaries, strict=True)
    ]
    text = {"type": "text", "color": FAINT, "baseline": "bottom", "y": -3, "fontSize": 11}
    where = {"x": {"field": "step", "type": "quantitative"}, "text": {"field": "label"}}
    return [*_rules(boundaries), {"data": {"values": labels}, "mark": text, "encoding": where}]
