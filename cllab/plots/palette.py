"""One colour and one marker per task, class or expert, the same in every figure, lesson and page.

The colours are those of Okabe & Ito (2008, "Color Universal Design"), told apart with every common kind of
colour blindness; a marker always goes with them, so that colour is never the only cue. The player uses the
same order.
"""

from matplotlib.axes import Axes

from cllab import checks

TASK_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000"]
"""For white backgrounds: blue, orange, green, pink, vermilion, sky blue, black."""

TASK_COLOURS_DARK = [*TASK_COLOURS[:-1], "#F0E442"]
"""For dark backgrounds: the last is yellow, where black would vanish."""

TASK_MARKERS = ["o", "s", "^", "D", "v", "*", "X"]
"""Circle, square, triangle, diamond, triangle down, star, cross."""

SEQUENTIAL = "cividis"
"""Matplotlib's name of the colour map for values from low to high, as readable in grey as in colour."""

INK = "#222222"
FAINT = "#8A8A8A"


def task_colour(index: int) -> str:
    """Colour of task, class or expert `index` (counted from 0); after seven the colours begin again."""
    return TASK_COLOURS[checks.integer("index", index, 0) % len(TASK_COLOURS)]


def task_marker(index: int) -> str:
    """Marker of task, class or expert `index`; where colours begin again, each goes with another marker."""
    turn = checks.integer("index", index, 0) + index // len(TASK_COLOURS)
    return TASK_MARKERS[turn % len(TASK_MARKERS)]


def on_white(ax: Axes) -> None:
    """Give `ax` and its figure a white background and dark writing, whatever the style in force."""
    ax.figure.set_facecolor("white")
    ax.set_facecolor("white")
    ax.tick_params(colors=INK)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_color(INK)
