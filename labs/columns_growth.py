"""The second half of the page of progressive columns: parameters and work over the number of columns."""

import itertools

import streamlit as st

from cllab.isolation import column_cost, column_growth
from labs.charts import table
from labs.controls import Controls

NETWORKS = {
    "64-12-12-10 (above)": (64, 12, 12, 10),
    "784-100-100-10": (784, 100, 100, 10),
    "784-400-400-10": (784, 400, 400, 10),
}
KINDS = ("linear laterals", "adapters", "no laterals", "a head per task")
COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#CC79A7")


def show_growth(page: Controls) -> None:
    """The parameters of K columns by kind of lateral, what an answer for task K costs, and both as a table."""
    st.subheader("How it grows", anchor=False)
    st.markdown(
        "K columns have K (K − 1) / 2 pairs. With linear laterals each pair has its own matrices, so the parameters "
        "grow with K². Adapters narrow what they read, but still read all of it. And an answer for task K runs K "
        "columns: the price is not only storage. Without laterals, or with a head per task, one network runs."
    )
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        about = "Features, hidden widths, classes."
        name = page.select("sizes", "Network", list(NETWORKS), "784-100-100-10", help=about, width=220)
        about = "How far the charts go."
        most = page.slider("most", "Columns K, up to", 2, 20, 10, help=about, width=220)
        m = page.slider("m", "Adapter width m", 1, 100, 20, help="Units of an adapter.", width=220)
    sizes = NETWORKS[name]
    rows = grown(sizes, most, m)
    left, right = st.columns(2)
    ends = ", ".join(f"{kind} {rows[-1][kind][0]:,}" for kind in KINDS)
    flat = [(K, kind, *row[kind]) for K, row in enumerate(rows, start=1) for kind in KINDS]
    data = table(flat, "columns", "kind", "parameters", "multiplications")
    alt = f"Parameters over the number of columns; at {most}: {ends}"
    left.vega_lite_chart(data, chart("parameters", most), alt=alt, key="col_parameters")
    alt = "Multiplications for one answer over the number of columns"
    right.vega_lite_chart(data, chart("multiplications", most), alt=alt, key="col_multiplications")
    st.markdown(growth_table(sizes, rows, m))
    st.caption(
        "Parameters, and multiplications by weights for one row of task K. Laterals have no bias and none "
        "enters the first layer. Adapters: U and V, without the scalars α (their number in brackets). A head per task "
        "has all outputs, as the columns have."
    )


def grown(sizes: tuple[int, ...], most: int, m: int) -> list[dict[str, tuple[int, int]]]:
    """For K = 1 .. most: {kind: (parameters without scalars, multiplications of an answer for task K)}."""
    trunk = sum((n + 1) * out for n, out in itertools.pairwise(sizes[:-1]))
    head = (sizes[-2] + 1) * sizes[-1]
    found = []
    for K in range(1, most + 1):
        row = {}
        for kind, laterals, width in zip(KINDS, ("linear", "adapter", "none"), (None, m, None), strict=False):
            growth = column_growth(sizes, K, laterals, width)
            row[kind] = growth.columns + growth.laterals, column_cost(sizes, K - 1, laterals, width)
        row[KINDS[3]] = trunk + K * head, column_cost(sizes, 0)
        found.append(row)
    return found


def growth_table(sizes: tuple[int, ...], rows: list[dict], m: int) -> str:
    """Parameters of the first columns and of the last, in Markdown."""
    lines = [
        f"| K | pairs | linear laterals | times one | adapters, m = {m} | no laterals | a head per task |",
        "| ---: |" + " ---: |" * 6,
    ]
    one = rows[0][KINDS[0]][0]
    for K in sorted({*range(1, min(5, len(rows)) + 1), len(rows)}):
        linear, adapter, none, heads = (rows[K - 1][kind][0] for kind in KINDS)
        scalars = column_growth(sizes, K, "adapter", m).scalars
        cells = [K, K * (K - 1) // 2, f"{linear:,}", f"{linear / one:.2f}", f"{adapter:,} ({scalars})"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{none:,}", f"{heads:,}"])) + " |")
    return "\n".join(lines)


def chart(field: str, most: int) -> dict:
    """A line per kind over the number of columns, as a Vega-Lite dict."""
    kind = {"field": "kind", "type": "nominal", "sort": None}
    legend = {"orient": "bottom", "title": None, "columns": 2, "symbolStrokeWidth": 3}
    columns = {"field": "columns", "type": "quantitative", "title": "columns K", "axis": {"tickMinStep": 1}}
    value = {"field": field, "type": "quantitative", "title": field, "axis": {"format": "~s"}}
    about = [{"field": "kind"}, {"field": "columns"}, {"field": field, "format": ","}]
    return {
        "height": 300,
        "mark": {"type": "line"},
        "encoding": {
            "x": {**columns, "scale": {"domain": [1, most], "nice": False}}, "y": value, "tooltip": about,
            "color": {**kind, "scale": {"domain": list(KINDS), "range": list(COLOURS)}, "legend": legend},
            "strokeDash": {**kind, "scale": {"domain": list(KINDS)}, "legend": legend},
        },
    }  # fmt: skip
