"""The tables of elastic weights: what each Fisher protects, and the course's worked numbers."""

import math

import streamlit as st

from labs import elastic_numbers as numbers
from labs import elastic_traces as traces


def fisher_table(trace: dict) -> str:
    """A line per Fisher, in Markdown: F, the ellipse's axes, and where training ended."""
    lines = [
        "| Fisher | F₁, F₂ | axes | lr·λ·max F | θ₁, θ₂ held | loss A | loss B |",
        "| --- |" + " ---: |" * 6,
    ]
    for i, panel in enumerate(trace["panels"]):
        found = traces.ends(trace, i)
        end = found["proximal"]
        axes = [short(1 / math.sqrt(trace["n"] * F)) if F > 0 else "∞" for F in panel["F"]]
        cells = [
            panel["name"], ", ".join(map(short, panel["F"])), ", ".join(axes), short(panel["product"]),
            ", ".join(held(trace, end)), f"{end['old']:.3f}", f"{end['new']:.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    free = traces.ends(trace)["free"]
    lines.append(f"| *no springs* | | | | 0 %, 0 % | {free['old']:.3f} | {free['new']:.3f} |")
    about = (
        "Held: 100 % where a weight stayed at θ*, 0 % where it went as far as without springs. "
        "Axes of the ellipse: 1/√(nF), n = 64 rows."
    )
    return "\n".join(lines) + f"\n\n{about}"


def held(trace: dict, end: dict) -> list[str]:
    """For each weight, the part of fine-tuning's way that it did not go, in per cent."""
    start, free = trace["marks"]["old"], trace["free"]["theta"][-1]
    parts = []
    for i in range(2):
        way = free[i] - start[i]
        kept = round(100 * (1 - (end["theta"][i] - start[i]) / way)) if abs(way) > 1e-3 else None
        parts.append("–" if kept is None else f"{kept} %".replace("-", "−"))
    return parts


def by_hand() -> None:
    """Numbers small enough for paper, computed by the same functions."""
    st.markdown(
        "**Four Fishers on one weight**: p(1 | x) = σ(θx) at θ = ln 3, so p = 3/4 at x = 1 and 9/10 at x = 2. "
        "The gradient of a row is (y − p) x.\n\n" + _fishers()
    )
    st.caption(
        "In the last three lines θ is at its optimum: model and true agree, and the batched Fisher falls to 0 as its "
        "batches grow. *sampled* is random; its mean is *model*."
    )
    half, anchor = numbers.half_numbers(), numbers.anchor_numbers()
    left, right = st.columns(2)
    left.markdown(
        "**The half matters**: ½ · 4 θ², then ½ (θ − 1)², λ = 1\n\n| penalty | θ ends at |\n| --- | ---: |\n"
        + "".join(f"| {name} | {value:.4f} |\n" for name, value in half.items())
        + "\nWithout the ½ the springs pull twice as hard: λ = 2 after the preset *By hand: 0.2* shows it."
    )
    right.markdown(
        "**Three tasks**: ½ (θ − m)² with m = 0, 3, 6, λ = 1\n\n| anchors | θ ends at |\n| --- | ---: |\n"
        + "".join(f"| {name} | {value:.4f} |\n" for name, value in anchor.items())
        + "\nTwo anchors count the first task twice; one anchor at the latest θ* with summed F does not."
    )


@st.cache_data(show_spinner=False)
def _fishers() -> str:
    lines = ["| x | y | B | model | true | batched |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for x, y, batch, F in numbers.fisher_numbers():
        cells = [f"{abs(F[kind]):.7g}" for kind in ("model", "true", "batched")]
        lines.append(f"| {','.join(map(str, x))} | {','.join(map(str, y))} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def short(value: float) -> str:
    """Three digits, whole from a thousand on, with a real minus sign."""
    size = abs(value)
    digits = ".0f" if 1e3 <= size < 1e5 else ".0e" if 0 < size < 1e-4 else ".3g"
    return f"{value:{digits}}".replace("-", "−")
