"""One step of a herding trace: target, candidates, chosen point, and how far the exemplars' mean is off."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.transforms import ScaledTranslation, Transform

from cllab import checks
from cllab.plots.palette import FAINT, INK, on_white, task_colour, task_marker
from cllab.plots.still import caption

SMALL = 30
"""Up to so many points each exemplar carries its place in the herding order as a number."""
ROW = 7
"""How many pictures of exemplars fit along the upper edge."""


def draw_herding(ax: Axes, trace: dict, step: int) -> None:
    """Draw step `step` (index into trace["steps"]) of a trace of kind "herding" on `ax`.

    Hollow points are data at hand, filled ones are in memory and carry their place in the herding order. The
    cross is the target, the ring marks the point chosen now (dashed rings: an exact tie), the diamond is
    the mean of the exemplars, the plus the mean of the class, and the line between these two is the error.
    Points of different classes at one place stand side by side. A step of phase "ncm" shows every class's
    mean of exemplars, one of phase "test" also the test point as a question mark. ValueError for a trace of
    another kind or an index outside it.
    """
    if trace.get("kind") != "herding":
        raise ValueError(f"trace must be of kind 'herding', got {trace.get('kind')!r}")
    now = trace["steps"][checks.integer("step", step, 0, len(trace["steps"]) - 1)]
    on_white(ax)
    _frame(ax, trace)
    _draw_points(ax, trace, now)
    if now.get("class") is not None and now.get("target") is not None:
        _draw_aim(ax, trace, now)
    if now.get("class") is not None and now.get("mean") is not None and now.get("class_mean") is not None:
        _draw_error(ax, now)
    if now["phase"] in ("ncm", "test"):
        for key, mean in now.get("means", {}).items():
            _mark(ax, mean, int(key), "D", 90, f"mean of exemplars, class {trace['classes'][int(key)]}")
    if now["phase"] == "test":
        ax.scatter(*now["query"], s=110, marker="$?$", color=INK, label="test point", zorder=8)
    ax.set_xlabel(trace.get("x_label", "feature 1"))
    ax.set_ylabel(trace.get("y_label", "feature 2"))
    caption(ax, now["text"])
    if ax.get_legend_handles_labels()[0]:
        style = {"fontsize": 8, "frameon": False, "markerscale": 0.7}
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), **style)


def _frame(ax: Axes, trace: dict) -> None:
    """The same limits at every step, so that a row of stills can be compared."""
    shown = set().union(*(_arrived(step) for step in trace["steps"]))
    places = [point for point, c in zip(trace["points"], trace["owner"], strict=True) if c in shown]
    places += [step["target"] for step in trace["steps"] if step.get("target") is not None]
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    margin = 0.12 * max(*(high - low), 1e-9)
    ax.set_xlim(low[0] - margin, high[0] + margin)
    room = 2.5 if trace.get("images") else 1
    ax.set_ylim(low[1] - margin, high[1] + room * margin)
    ax.set_aspect("equal")
    ax.grid(color="#EEEEEE", lw=0.6)
    ax.set_axisbelow(True)


def _arrived(step: dict) -> set[int]:
    """Classes that have exemplars, whose data are at hand, or that the step is about."""
    kept = {int(c) for c, exemplars in step.get("memory", {}).items() if exemplars}
    return kept | set(step.get("available", [])) | ({step.get("class")} - {None})


def _draw_points(ax: Axes, trace: dict, now: dict) -> None:
    order = {i: place for kept in now.get("memory", {}).values() for place, i in enumerate(kept, start=1)}
    alike = {}  # points drawn in one go: (class, in memory, side) -> indices
    gone = _arrived(now) - set(now.get("available", _arrived(now)))  # classes of which only the memory is left
    for i, c in enumerate(trace["owner"]):
        if i in order or c in _arrived(now) - gone:
            alike.setdefault((c, i in order, _side(trace, i)), []).append(i)
    labelled = set()
    for (c, held, _), rows in sorted(alike.items()):
        kind = f"class {trace['classes'][c]}" + (", in memory" if held else "")
        style = {
            "s": 64,
            "marker": task_marker(c),
            "linewidths": 1.4,
            "edgecolors": task_colour(c),
            "zorder": 3,
        }
        x, y = zip(*(trace["points"][i] for i in rows), strict=True)
        style["facecolors"] = task_colour(c) if held else "white"
        label = None if kind in labelled else kind
        ax.scatter(x, y, label=label, transform=_dodge(ax, trace, rows[0]), **style)
        labelled.add(kind)
    if len(trace["points"]) <= SMALL:
        for i, place in order.items():
            shift = (-16 if _side(trace, i) < 0 else 8, 7)
            words = {"textcoords": "offset points", "fontsize": 8, "color": INK, "zorder": 7}
            ax.annotate(str(place), trace["points"][i], shift, **words)
    if trace.get("images") and now.get("class") is not None:
        _draw_images(ax, trace, now.get("memory", {}).get(str(now["class"]), [])[:ROW])


def _dodge(ax: Axes, trace: dict, i: int) -> Transform:
    """Where point i is drawn: 5 pt aside if a point of another class lies at its place."""
    side = _side(trace, i)
    return ax.transData + ScaledTranslation(side * 5 / 72, 0, ax.figure.dpi_scale_trans) if side else ax.transData


def _side(trace: dict, i: int) -> int:
    """-1 and 1 (left and right) for points of different classes at one place, 0 for all others."""
    points, owner = trace["points"], trace["owner"]
    others = [owner[j] for j in range(len(points)) if points[j] == points[i] and owner[j] != owner[i]]
    return 0 if not others else -1 if owner[i] < min(others) else 1


def _draw_images(ax: Axes, trace: dict, exemplars: list[int]) -> None:
    """The exemplars' pictures in herding order along the upper edge, each joined with its point."""
    for place, i in enumerate(exemplars):
        colour = task_colour(trace["owner"][i])
        image = OffsetImage(np.reshape(trace["images"][i], (8, 8)), zoom=2.2, cmap="gray_r", clim=(0, 16))
        frame = {"edgecolor": colour, "linewidth": 1.2, "boxstyle": "square,pad=0.1"}
        line = {"arrowstyle": "-", "color": colour, "lw": 0.6}
        spot = {"xybox": ((place + 0.5) / ROW, 0.93), "boxcoords": "axes fraction"}
        picture = AnnotationBbox(image, trace["points"][i], bboxprops=frame, arrowprops=line, pad=0, **spot)
        ax.add_artist(picture)


def _draw_aim(ax: Axes, trace: dict, now: dict) -> None:
    points, tied, chosen = trace["points"], now.get("tied") or [], now.get("chosen")
    for i in now.get("candidates", []):
        near = i == chosen or i in tied
        style = {"color": INK if near else FAINT, "lw": 1.4 if near else 0.5, "zorder": 1}
        ax.plot(*zip(now["target"], points[i], strict=True), **style)
    ring = {"s": 230, "facecolors": "none", "edgecolors": INK, "zorder": 4}
    for i in tied:
        if i != chosen:
            ax.scatter(*points[i], ls="--", lw=1.2, label="tie", transform=_dodge(ax, trace, i), **ring)
    if chosen is not None:
        ax.scatter(*points[chosen], lw=1.8, label="chosen now", transform=_dodge(ax, trace, chosen), **ring)
    cross = {"s": 110, "marker": "x", "color": task_colour(now["class"]), "linewidths": 2.2, "zorder": 5}
    ax.scatter(*now["target"], label="target", **cross)


def _draw_error(ax: Axes, now: dict) -> None:
    c, mean, goal = now["class"], now["mean"], now["class_mean"]
    ax.plot(*zip(mean, goal, strict=True), color=task_colour(c), lw=2.5, alpha=0.7, zorder=2)
    _mark(ax, goal, c, "P", 100, "class mean")
    _mark(ax, mean, c, "D", 60, "mean of exemplars")
    if now.get("error") is not None:
        place = {"xycoords": "axes fraction", "ha": "right", "va": "bottom", "fontsize": 8, "color": INK}
        place["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        ax.annotate(f"error {now['error']:.4f}", (0.98, 0.02), **place)


def _mark(ax: Axes, place: list[float], c: int, marker: str, size: float, label: str) -> None:
    style = {"color": task_colour(c), "edgecolor": INK, "linewidth": 1.2, "zorder": 6}
    ax.scatter(*place, s=size, marker=marker, label=label, **style)
