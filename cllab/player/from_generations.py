"""The trace of something that drifts: clouds with their ellipses, images or latents, generation after generation."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from cllab import checks
from cllab.player.schema import VERSION, round_trace

PARTS = ("points", "ellipses", "arrows", "images")


def generations_trace(
    panels: Sequence[Mapping],
    steps: Sequence[Mapping],
    classes: Sequence[str],
    lines: Sequence[Mapping],
    *,
    x_label: str = "generation",
    y_label: str = "",
    title: str = "Generations",
    alt: str = "",
) -> dict:
    """A trace of kind "generations".

    panels   one or two {"name": ..., "extent": [x0, x1, y0, y1]}; without an extent the panel shows images
    steps    {"x": place on the chart's axis, "text": one sentence, "panels": one mapping per panel} with any of
             points [[x, y, class]], ellipses [[mx, my, xx, xy, yy, class]] (mean and covariance, drawn at two
             standard deviations), arrows [[x0, y0, x1, y1, class]], images [[digits, asked, answered]]
    classes  names of the classes
    lines    the chart below: {"name", "values" (one number or None per step)}, optional "about" (a sentence),
             "colour" and "dash" (numbers: lines that belong together have one of them in common)

    `image_digits` makes the digits of an image. Raises ValueError or TypeError naming the argument.
    """
    if not 1 <= len(panels) <= 2:
        raise ValueError(f"panels must be one or two, got {len(panels)}")
    if not steps:
        raise ValueError("steps must hold at least one step, got none")
    drawn = []
    for i, step in enumerate(steps):
        if len(step["panels"]) != len(panels):
            raise ValueError(f"steps[{i}]['panels'] must be {len(panels)}, got {len(step['panels'])}")
        if unknown := {key for panel in step["panels"] for key in panel} - set(PARTS):
            raise ValueError(f"steps[{i}]['panels'] must hold {', '.join(PARTS)} only, got {sorted(unknown)}")
        parts = [{key: panel.get(key, []) for key in PARTS} for panel in step["panels"]]
        drawn.append({"text": step["text"], "x": step["x"], "panels": parts})
    for i, line in enumerate(lines):
        if len(line["values"]) != len(steps):
            raise ValueError(f"lines[{i}]['values'] must be one per step, {len(steps)}, got {len(line['values'])}")
    return round_trace({
        "v": VERSION, "kind": "generations", "title": title, "x_label": x_label, "y_label": y_label,
        "alt": alt or f"{' and '.join(panel['name'] for panel in panels)}: {len(steps)} steps of drift.",
        "panels": [{"extent": None, **panel} for panel in panels], "classes": list(classes),
        "lines": [{"about": "", "colour": i, "dash": i, **line} for i, line in enumerate(lines)], "steps": drawn,
    })  # fmt: skip


def image_digits(image: Tensor) -> str:
    """Pixels [64] in [0, 1] as 64 hexadecimal digits, row by row; values outside are cut off."""
    checks.floats("image", image, ndim=1)
    if len(image) != 64:
        raise ValueError(f"image must have 64 pixels, got {len(image)}")
    return "".join(f"{level:x}" for level in (image.clamp(0, 1) * 15).round().long().tolist())
