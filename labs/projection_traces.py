"""What the projection page shows of the plane, computed from its settings: the trace, a puzzle, the table of answers.

No Streamlit in here, so that tests call these functions directly.
"""

import torch
from torch import Tensor

from cllab.player import projection_trace
from cllab.player.from_projection import answers

LIMIT = 3.0  # of a coordinate
NAMES = {"turn": "in turn", "agem": "A-GEM", "gem": "GEM"}
ROW = ("g₁", "g₂", "g₃")
AT_G, INSIDE, TIP = "at g itself", "inside the cone, not at g", "at the tip: u = 0"
OUTSIDE = "just outside the cone"


def arrows(numbers: list[float]) -> tuple[Tensor, Tensor]:
    """g [2] and G [t, 2] of the flat list that the address and the view use."""
    vectors = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2)
    return vectors[0], vectors[1:]


def trace(numbers: tuple[float, ...], margin: float, ridge: float) -> dict:
    g, G = arrows(list(numbers))
    return projection_trace(g, G, margin=margin, ridge=ridge, title="")


def place(trace: dict) -> str:
    """Where GEM's u ends: at g, at 0, on the edge of a row, inside the cone, or with a ridge outside it."""
    u = torch.tensor(trace["gem"]["u"])
    if trace["gem"]["v"] is None:
        return AT_G
    if float(u.norm()) < 1e-5:
        return TIP
    if min(trace["gem"]["dots"]) < -1e-5:
        return OUTSIDE
    rows = torch.tensor(trace["constraints"]).norm(dim=1).tolist()
    on = [k for k, dot in enumerate(trace["gem"]["dots"]) if rows[k] > 0 and abs(dot) < 1e-5]
    return _edge(on[0]) if on else INSIDE


def puzzle(trace: dict) -> list[str]:
    """The answers to choose from when `place` is asked for."""
    edges = [_edge(k) for k in range(len(trace["constraints"]))]
    inside = [INSIDE] if trace["margin"] > 0 or trace["ridge"] > 0 else []
    outside = [OUTSIDE] if trace["ridge"] > 0 else []
    return [AT_G, *edges, *inside, *outside, TIP]


def rule(margin: float, ridge: float) -> str:
    """What GEM does, in a sentence or three."""
    told = "It is the point of the shaded cone that is nearest to the head of g."
    if margin > 0:
        told = f"If any row objects, GEM adds {margin:g} of every row to g and takes the cone's point nearest to that."
    return told + (" The ridge makes it miss that point a little." if ridge > 0 else "")


def answer_table(trace: dict) -> str:
    """The three answers in Markdown, with five digits."""
    g, G = arrows([*trace["gradient"], *(x for row in trace["constraints"] for x in row)])
    found = answers(g, G, trace["margin"], trace["ridge"])
    lines = ["| | u | G u | ‖u − g‖ | v |", "| --- | --- | --- | ---: | --- |"]
    lines.append(f"| g as it is | {numbers(g)} | {dots(G @ g)} | 0 | – |")
    for key, name in NAMES.items():
        u, v = found[key]["u"], found[key].get("v")
        far = number(float((u - g).norm()))
        lines.append(
            f"| {name} | {numbers(u)} | {dots(found[key]['dots'])} | {far} | {'–' if v is None else numbers(v)} |"
        )
    return "\n".join(lines)


def numbers(values: Tensor) -> str:
    return "(" + ", ".join(number(x) for x in values.tolist()) + ")"


def dots(values: Tensor) -> str:
    """The dots with all rows, violated ones bold and marked."""
    return ", ".join(f"**{number(d)}** ✗" if d < -1e-6 else f"{number(d)} ✓" for d in values.tolist())


def number(value: float) -> str:
    """Up to five digits after the point, with a true minus sign."""
    text = f"{value:.5f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text.replace("-", "−")


def _edge(k: int) -> str:
    return f"on the edge of {ROW[k]}"
