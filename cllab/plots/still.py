"""Figures without pyplot: nothing global, nothing to close, and a notebook shows them as they are."""

import io
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cllab import checks
from cllab.plots.palette import INK


class Still(Figure):
    """A white figure that a notebook shows when it is the last value of a cell."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", facecolor="white", metadata={"Software": None})
        return picture.getvalue()


def subplots(rows: int = 1, columns: int = 1, width: float = 5.0, height: float = 3.6) -> tuple[Still, np.ndarray]:
    """A figure and its axes [rows, columns], each `width` x `height` inches; the first is axes[0, 0]."""
    checks.integer("rows", rows, 1)
    checks.integer("columns", columns, 1)
    size = (checks.number("width", width, 0.5) * columns, checks.number("height", height, 0.5) * rows)
    figure = Still(figsize=size, layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, columns, squeeze=False)


def caption(ax: Axes, text: str, size: float = 8.5) -> None:
    """Write `text` above `ax`, in lines about as wide as the axes; it replaces an earlier caption."""
    letters = ax.get_window_extent().width / ax.figure.dpi * 72 / (0.52 * size)
    ax.set_title(textwrap.fill(text, max(20, int(letters))), fontsize=size, loc="left", color=INK)


def filmstrip(
    draw: Callable[[Axes, dict, int], object],
    trace: dict,
    steps: Sequence[int] | None = None,
    columns: int = 4,
) -> Still:
    """Stills of a trace side by side, each under its sentence, with one legend for all.

    draw     function of (ax, trace, step), such as `draw_herding`
    steps    which steps to show, indices into trace["steps"]; None shows all
    columns  stills in a row

    ValueError for no steps or an index outside the trace.
    """
    count = len(trace["steps"])
    shown = list(range(count) if steps is None else steps)
    if not shown:
        raise ValueError("steps must name at least one step, got none")
    for step in shown:
        checks.integer("steps", step, 0, count - 1)
    columns = min(checks.integer("columns", columns, 1), len(shown))
    figure, axes = subplots(-(-len(shown) // columns), columns, width=3.4, height=3.7)
    legend = {}
    for ax, step in zip(axes.flat, shown, strict=False):
        draw(ax, trace, step)
        caption(ax, f"{step + 1}. {trace['steps'][step]['text']}")
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
        if ax.get_legend() is not None:
            ax.get_legend().remove()
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    if legend:
        style = {"loc": "outside lower center", "fontsize": 8, "frameon": False, "markerscale": 0.7}
        figure.legend(legend.values(), legend.keys(), ncols=min(len(legend), 2 * columns), **style)
    return figure
