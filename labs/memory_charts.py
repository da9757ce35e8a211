"""The memory page's chart and table of chances."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import streamlit as st

from labs.charts import FAINT, LEGEND, PADDING, SHAPES, table, task_colours


def chance_rows(
    labels: Sequence[int], classes: Sequence[str], measured: Sequence[float], law: Sequence[float] | None
) -> list[tuple]:
    """Rows of the chart: (number of the row from 1, class, measured chance, expected chance).

    Without a law the expected chance is the mean of the row's class.
    """
    if law is None:
        sums = [sum(p for p, c in zip(measured, labels, strict=True) if c == k) for k in range(len(classes))]
        law = [sums[c] / labels.count(c) for c in labels]
    return [
        (i + 1, classes[c], p, expected) for i, (c, p, expected) in enumerate(zip(labels, measured, law, strict=True))
    ]


def chance_chart(
    rows: list[tuple], classes: Sequence[str], n: int, fair: float, top: float, name: str, key: str
) -> None:
    """Dots: measured; short lines: the law; dashed: K / n. `top` is the largest chance in all charts beside it."""
    place = {"field": "row", "type": "quantitative", "title": "row, in order of arrival"}
    place |= {"scale": {"domain": [0.5, n + 0.5], "nice": False}, "axis": {"tickMinStep": 1, "grid": False}}
    chance = {"type": "quantitative", "title": "chance", "scale": {"domain": [0, min(1, 1.15 * top)]}}
    kind = {"field": "class", "type": "nominal", "sort": None}
    style = {
        "color": {**kind, "scale": {"domain": list(classes), "range": task_colours()}, "legend": LEGEND},
        "shape": {**kind, "scale": {"domain": list(classes), "range": list(SHAPES)}, "legend": LEGEND},
    }
    about = [
        {"field": "row"}, {"field": "class"}, {"field": "measured", "format": ".3f"},
        {"field": "expected", "format": ".4f", "title": "law"},
    ]  # fmt: skip
    tick = {"type": "tick", "orient": "horizontal", "thickness": 2, "color": FAINT, "width": max(4, 300 // n)}
    spec = {
        "height": 270, "padding": PADDING,
        "layer": [
            {"mark": {"type": "rule", "color": FAINT, "strokeDash": [6, 4]},
             "data": {"values": [{"fair": fair}]}, "encoding": {"y": {**chance, "field": "fair"}}},
            {"mark": tick, "encoding": {"x": place, "y": {**chance, "field": "expected"}}},
            {"mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.9},
             "encoding": {"x": place, "y": {**chance, "field": "measured"}, **style, "tooltip": about}},
        ],
    }  # fmt: skip
    low, high = min(row[2] for row in rows), max(row[2] for row in rows)
    alt = f"Chance of each of {n} rows to be in the {name} at the end: {low:.2f} to {high:.2f}, fair {fair:.2f}"
    data = table(rows, "row", "class", "measured", "expected")
    st.vega_lite_chart(data, spec, alt=alt, key=key)


def chance_table(exact: Mapping[str, Sequence[Fraction]], K: int) -> str:
    """Exact chances as fractions, a line per row of the stream, with the formulas, in Markdown."""
    n = len(next(iter(exact.values())))
    lines = ["| row |" + "".join(f" {name} |" for name in exact), "| ---: |" + " :---: |" * len(exact)]
    lines += [f"| {i + 1} |" + "".join(f" {exact[name][i]} |" for name in exact) for i in range(n)]
    text = "**Exact chances**, by following every possible sequence of draws in fractions\n\n" + "\n".join(lines)
    if n > K and "reservoir" in exact:
        text += f"\n\nReservoir: K / n = **{Fraction(K, n)}** for every row."
    if n > K and "off by one" in exact:
        text += (
            f"\n\nOff by one: (K − 1) / (n − 1) = **{Fraction(K - 1, n - 1)}** for the first K rows and "
            f"K / (n − 1) = **{Fraction(K, n - 1)}** for the later ones. With n much larger than K nobody notices."
        )
    return text
