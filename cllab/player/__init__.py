"""The player: one JavaScript module that plays every trace, in the lab and in a lesson.

`script()` and `style()` are the module and its style sheet as strings: Streamlit takes them in
`labs/player.py`, JupyterLab in `cllab.player.widget.Player`, and `page(trace)` is a web page that needs no
server. The traces themselves are described and made in `cllab.player.traces`.
"""

import functools
import json
from pathlib import Path

from cllab.player.traces import (
    answers_trace,
    cell_string,
    columns_trace,
    distillation_trace,
    drift_trace,
    features_trace,
    following_trace,
    generations_trace,
    grid_points,
    growing_trace,
    grown_run_trace,
    herding_trace,
    image_digits,
    lowrank_trace,
    memory_trace,
    merging_trace,
    overlap_trace,
    packed_run_trace,
    packing_trace,
    projection_trace,
    round_trace,
    routing_trace,
    run_trace,
    springs_trace,
    validate_trace,
)

__all__ = [
    "answers_trace",
    "cell_string",
    "columns_trace",
    "distillation_trace",
    "drift_trace",
    "features_trace",
    "following_trace",
    "generations_trace",
    "grid_points",
    "growing_trace",
    "grown_run_trace",
    "herding_trace",
    "image_digits",
    "lowrank_trace",
    "memory_trace",
    "merging_trace",
    "overlap_trace",
    "packed_run_trace",
    "packing_trace",
    "page",
    "projection_trace",
    "round_trace",
    "routing_trace",
    "run_trace",
    "script",
    "springs_trace",
    "style",
    "validate_trace",
]

FOLDER = Path(__file__).parent
PARTS = (
    "player.js",
    "tools.js",
    "views_columns.js",
    "views_columns_charts.js",
    "views_distillation.js",
    "views_herding.js",
    "views_herding_panels.js",
    "views_herding_loss.js",
    "views_features.js",
    "views_generations.js",
    "views_growing.js",
    "views_growing_charts.js",
    "views_growing_flow.js",
    "views_lowrank.js",
    "views_lowrank_merge.js",
    "views_lowrank_overlap.js",
    "views_memory.js",
    "views_packing.js",
    "views_packing_layer.js",
    "views_packing_drift.js",
    "views_projection.js",
    "views_projection_plane.js",
    "views_projection_solve.js",
    "views_routing.js",
    "views_routing_flow.js",
    "views_routing_heat.js",
    "views_routing_shares.js",
    "views_routing_text.js",
    "views_run.js",
    "views_springs.js",
    "views_springs_plane.js",
)


@functools.cache
def script() -> str:
    """The player as one module: its default export serves Streamlit and anywidget, `mount` any page."""
    return "\n".join((FOLDER / part).read_text(encoding="utf-8") for part in PARTS)


@functools.cache
def style() -> str:
    """The player's style sheet; every rule begins with `.cllab-player`, so it touches nothing else."""
    return (FOLDER / "player.css").read_text(encoding="utf-8")


def page(trace: dict, step: int = 0, autoplay: bool = False) -> str:
    """A complete web page that plays `trace` without a server; raises like `validate_trace`."""
    options = {"trace": validate_trace(trace), "step": step, "autoplay": autoplay}
    options = json.dumps(options, allow_nan=False).replace("<", "\\u003c")  # no tag ends the script early
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>cllab player</title><style>{style()}</style></head>
<body><main></main><script type="module">
{script()}
window.player = mount(document.querySelector("main"), {options});
</script></body></html>"""
