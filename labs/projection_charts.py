"""The projection page's charts of a real run: the smallest cosine of every step, and how many tasks it violates."""

from collections.abc import Sequence

import streamlit as st

from labs.charts import FAINT, LEGEND, PADDING, table
from labs.projection_run import Angle

WANTED, FINE, WRONG = "g, wanted", "u, taken", "u, violates"
KINDS = (WANTED, FINE, WRONG)
COLOURS = [FAINT, "#0072B2", "#D55E00"]
COLOURS_DARK = [FAINT, "#56B4E9", "#D55E00"]
BINS = 36


def colours() -> list[str]:
    return COLOURS_DARK if st.context.theme.type == "dark" else COLOURS


def cosine_rows(angles: Sequence[Angle]) -> list[tuple]:
    """(step, kind, cosine, tasks violated), two rows a step: g and u."""
    rows = [(a.step, WANTED, a.before, a.violated) for a in angles]
    return rows + [(a.step, WRONG if a.still else FINE, a.after, a.still) for a in angles]


def cosine_chart(angles: Sequence[Angle], boundaries: Sequence[int], alt: str) -> None:
    """The smallest cosine with a past task's gradient: small dots g, large marks u, crosses where u violates one."""
    kind = {"field": "kind", "type": "nominal", "sort": None}
    style = {
        "color": {**kind, "scale": {"domain": list(KINDS), "range": colours()}, "legend": LEGEND},
        "shape": {**kind, "scale": {"domain": list(KINDS), "range": ["circle", "circle", "cross"]}, "legend": LEGEND},
        "size": {**kind, "scale": {"domain": list(KINDS), "range": [10, 22, 40]}, "legend": None},
    }
    cosine = {"field": "cosine", "type": "quantitative", "title": "smallest cosine"}
    cosine |= {"scale": {"domain": [-0.8, 0.8], "clamp": True}, "axis": {"tickCount": 5}}
    about = [{"field": "step"}, {"field": "kind"}, {"field": "cosine", "format": ".3f"}, {"field": "violated"}]
    marks = {"type": "point", "filled": True, "opacity": 0.85}
    spec = {
        "height": 220, "padding": PADDING,
        "layer": [
            {"mark": {"type": "rule", "color": FAINT}, "data": {"values": [{"zero": 0}]},
             "encoding": {"y": {"field": "zero", "type": "quantitative"}}},
            *_ends(boundaries),
            {"mark": marks, "encoding": {"x": _steps(boundaries), "y": cosine, **style, "tooltip": about}},
        ],
    }  # fmt: skip
    st.vega_lite_chart(table(cosine_rows(angles), "step", "kind", "cosine", "violated"), spec, alt=alt)


def count_rows(angles: Sequence[Angle], total: int) -> list[tuple]:
    """(first step of a bin, kind, mean number of past tasks violated), for g and for u."""
    width = max(1, total // BINS)
    rows = []
    for start in range(0, total, width):
        inside = [a for a in angles if start < a.step <= start + width]
        if inside:
            rows.append((start, WANTED, sum(a.violated for a in inside) / len(inside)))
            rows.append((start, WRONG, sum(a.still for a in inside) / len(inside)))
    return rows


def count_chart(angles: Sequence[Angle], boundaries: Sequence[int], alt: str) -> None:
    """How many past tasks g (grey, dashed) and u (solid) violate, averaged over a few steps."""
    kinds, drawn = [WANTED, WRONG], [colours()[0], colours()[2]]
    kind = {"field": "kind", "type": "nominal", "sort": None, "legend": None}
    style = {
        "color": {**kind, "scale": {"domain": kinds, "range": drawn}},
        "strokeDash": {**kind, "scale": {"domain": kinds, "range": [[4, 3], [1, 0]]}},
    }
    most = len(boundaries) - 1
    number = {"field": "tasks", "type": "quantitative", "title": "violated", "scale": {"domain": [0, most]}}
    number["axis"] = {"tickMinStep": 1}
    line = {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "clip": True}
    spec = {
        "height": 130, "padding": PADDING,
        "layer": [*_ends(boundaries),
                  {"mark": line, "encoding": {"x": _steps(boundaries, "optimiser step"), "y": number, **style}}],
    }  # fmt: skip
    st.vega_lite_chart(table(count_rows(angles, boundaries[-1]), "step", "kind", "tasks"), spec, alt=alt)


def _steps(boundaries: Sequence[int], title: str | None = None) -> dict:
    axis = {"tickMinStep": 1, "grid": False, "tickCount": 5}
    scale = {"domain": [0, boundaries[-1]], "nice": False}
    return {"field": "step", "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _ends(boundaries: Sequence[int]) -> list[dict]:
    """A dotted line where one task ends and the next begins."""
    values = [{"step": step} for step in boundaries[:-1]]
    mark = {"type": "rule", "color": FAINT, "strokeDash": [2, 3]}
    return [{"data": {"values": values}, "mark": mark, "encoding": {"x": {"field": "step", "type": "quantitative"}}}]
