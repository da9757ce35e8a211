"""The distillation page's question: which temperature does 80/18/2 belong to?"""

import streamlit as st
import torch

from labs import distillation_numbers as numbers
from labs.distillation_views import round_key

CAT = "7.377759, 4.394449, 0"
PRINTED = (0.8, 0.18, 0.02)
ANSWERS = ["T = 1", "T = 2", "T = 4", "The numbers do not say"]
READ_AT = (1, 2, 4)


def asked(T: float) -> bool:
    """Ask whether the percentages tell their T, then which T makes them of CAT; True when the logits are on the table.

    T is where the page's slider stands.
    """
    st.markdown("**A teacher answers 80 % cat, 18 % lion, 2 % elephant. At which temperature did it say so?**")
    guess = st.pills("Your guess", ANSWERS, key=round_key("guess"), label_visibility="collapsed")
    if guess is None:
        return False
    why = "Any temperature can give these percentages, each from other logits."
    if guess == ANSWERS[-1]:
        st.success(f"Right. {why}")
    else:
        st.info(f"You said {guess}. It could be: {why[0].lower()}{why[1:]}")
    st.markdown(f"**Now the logits are given: {CAT}. Move T until the teacher's bars meet the dashed marks.**")
    if st.button("This is my T", key="dist_answer", type="primary"):
        st.session_state["dist.answer"] = (round_key("guess"), T)
    question, answer = st.session_state.get("dist.answer", (None, None))
    if question == round_key("guess"):
        judge(answer)
    return True


def judge(T: float) -> None:
    q = (torch.tensor(numbers.logits("teacher", CAT), dtype=torch.float64) / T).softmax(dim=0)
    says = percentages(q.tolist())
    if T == 2:
        st.success(f"Right: at T = 2 these logits say {says}.")
        show_readings()
    else:
        way = "That is too sure: a higher T is needed." if T < 2 else "That is too even: a lower T is needed."
        st.info(f"At T = {T:.4g} they say {says}. {way}")


def show_readings() -> None:
    """80/18/2 as the output at T = 2 and as the output at T = 1: two teachers."""
    found = {printed: numbers.readings(list(PRINTED), printed, READ_AT) for printed in (2, 1)}
    lines = ["| | 80/18/2 said at T = 2 | 80/18/2 said at T = 1 |", "| --- | --- | --- |"]
    logits = (", ".join(f"{value:.6f}" for value in z) for z, _ in found.values())
    lines.append(f"| its logits | {' | '.join(logits)} |")
    for i, T in enumerate(READ_AT):
        cells = [percentages(rows[i]) for _, rows in found.values()]
        shown = [f"**{cell}**" if printed == T else cell for printed, cell in zip(found, cells, strict=True)]
        lines.append(f"| T = {T} | {' | '.join(shown)} |")
    st.markdown("\n".join(lines))
    st.markdown(
        "The same three percentages, two teachers: read at T = 1, one is sure of its cat, the other is not. **Without "
        "its T, 80/18/2 cannot be interpreted.** Say the temperature with every soft target."
    )


def percentages(row: list[float]) -> str:
    return " / ".join(f"{100 * value:.2f}" for value in row)
