"""One step of a routing trace: tokens on the left, experts on the right, and how full the experts are."""

from matplotlib.axes import Axes

from cllab import checks
from cllab.plots.palette import FAINT, INK, on_white, task_colour, task_marker
from cllab.plots.still import caption

EXPERT, BAR, LONGEST = 1.0, 1.32, 1.0  # places along x: the experts, where their bars begin, the longest bar


def draw_routing(ax: Axes, trace: dict, step: int) -> None:
    """Draw step `step` (index into trace["steps"]) of a trace of kind "routing" on `ax`.

    A line joins a token with every expert it visits, in the expert's colour and as wide as its weight; a
    dropped assignment is a dashed grey line with a cross. The full bar of an expert is its load
    (assignments), the hollow one its importance (router probability summed over tokens), the vertical line
    its capacity, all on one scale. ValueError for a trace of another kind or an index outside it.
    """
    if trace.get("kind") != "routing":
        raise ValueError(f"trace must be of kind 'routing', got {trace.get('kind')!r}")
    now = trace["steps"][checks.integer("step", step, 0, len(trace["steps"]) - 1)]
    on_white(ax)
    heights = [1 - (e + 0.5) / trace["experts"] for e in range(trace["experts"])]
    _draw_tokens(ax, trace, now, heights)
    _draw_experts(ax, trace, now, heights)
    ax.set_xlim(-0.12, BAR + LONGEST + 0.12)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xticks(
        [0, EXPERT, BAR + LONGEST / 2], ["tokens", "experts", "load, importance\n(assignments)"], fontsize=8.5
    )
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)
    caption(ax, now["text"])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, fontsize=8, frameon=False)


def _draw_tokens(ax: Axes, trace: dict, now: dict, heights: list[float]) -> None:
    tokens = trace["tokens"]
    labelled = set()
    for n, token in enumerate(tokens):
        y = 1 - (n + 0.5) / len(tokens)
        for e, weight, kept in zip(now["expert"][n], now["weight"][n], now["kept"][n], strict=True):
            style = {"color": task_colour(e), "lw": 0.4 + 2.6 * weight, "alpha": 0.75} if kept else {
                "color": FAINT, "lw": 1.2, "ls": "--", "marker": "x", "markevery": [0], "ms": 6,
                "label": None if "dropped" in labelled else "dropped",
            }  # fmt: skip
            ax.plot([0.04, EXPERT - 0.05], [y, heights[e]], zorder=1 if kept else 2, **style)
            labelled |= set() if kept else {"dropped"}
        kind = trace["kinds"][token["kind"]]
        label = None if kind in labelled else kind
        ax.plot(
            0,
            y,
            marker=task_marker(token["kind"]),
            color=INK,
            mfc="white",
            ms=5,
            ls="",
            label=label,
            zorder=3,
        )
        ax.text(
            -0.05,
            y,
            token["label"],
            ha="right",
            va="center",
            fontsize=7 if len(tokens) > 20 else 9,
            color=INK,
        )
        labelled.add(kind)


def _draw_experts(ax: Axes, trace: dict, now: dict, heights: list[float]) -> None:
    capacity = trace.get("capacity")
    scale = LONGEST / max([*now["load"], *now["importance"], capacity or 0, 1e-9])
    thick = 0.28 / trace["experts"]
    for e, y in enumerate(heights):
        colour, load, importance = task_colour(e), now["load"][e], now["importance"][e]
        ax.plot(EXPERT, y, marker=task_marker(e), color=colour, ms=12, mec=INK, ls="", zorder=4)
        ax.annotate(str(e), (EXPERT, y), (9, 0), textcoords="offset points", va="center", color=INK)
        first = e == 0
        ax.barh(y + thick * 0.6, load * scale, thick, left=BAR, color=colour, label="load" if first else None)
        outline = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.2}
        ax.barh(
            y - thick * 0.6,
            importance * scale,
            thick,
            left=BAR,
            label="importance" if first else None,
            **outline,
        )
        ax.text(BAR + load * scale + 0.02, y + thick * 0.6, f"{load:g}", va="center", fontsize=8, color=INK)
        ax.text(
            BAR + importance * scale + 0.02,
            y - thick * 0.6,
            f"{importance:.1f}",
            va="center",
            fontsize=8,
            color=INK,
        )
    if capacity:
        ax.axvline(BAR + capacity * scale, color=INK, lw=1, ls=":", label=f"capacity {capacity}")
