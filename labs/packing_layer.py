"""The packing page's real layer: trained where nobody has trained it before, and told in numbers."""

import streamlit as st

from cllab.isolation import share_out
from labs import packing_traces as traces

KEPT = 16
SHOWN = 8  # tasks in the table of room


def trained(**chosen) -> dict:
    """The trace of the layer: committed, trained for another visitor, or trained now in view of this one."""
    key, kept = traces.settings_key(**chosen), cache()
    known = traces.committed().get(key) or kept.get(key)
    if known is None:
        bar = st.progress(0.0, "Packing one task after the other")
        known = traces.finished(traces.layer(**chosen), on_share=bar.progress)
        bar.empty()
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)), None)
        kept[key] = known
    return known


@st.cache_resource
def cache() -> dict[str, dict]:
    """The latest layers of all visitors, KEPT at most. Not `st.cache_data`, because training writes its progress."""
    return {}


def tell_layer(trace: dict, chosen: dict) -> str:
    """What became of the tasks, of those that found no room, and of the weights that were frozen."""
    last, then = trace["steps"][-1], traces.learned(trace)
    free, *owned = traces.counts(trace)
    parts = [
        f"**Mean accuracy {mean(last['reads']):.3f}; with each task's own weights (mask M_t) alone "
        f"{mean(last['own']):.3f}.** The last task owns {owned[-1]} weights and reads {sum(owned)}; {free} are free."
    ]
    if max(last["moved"], default=0) > 0:
        lost = max(range(len(then)), key=lambda t: then[t] - last["reads"][t])
        parts.append(
            f"Frozen weights have moved, by up to {max(last['moved']):.3g}"
            + (f": task {lost + 1} fell from {then[lost]:.3f} to {last['reads'][lost]:.3f}."
               if then[lost] > last["reads"][lost] else ". No accuracy has noticed yet; the answers have changed.")
        )  # fmt: skip
    else:
        parts.append("No frozen weight has moved, so no answer to an old task has.")
    keep = (chosen["first"], chosen["later"])
    if no_room := traces.refusal(keep, chosen["units"], chosen["stream"]):
        many = len(owned)
        tasks = "the first task" if many == 1 else f"the first {many} tasks"
        parts.append(f"\n\n:material/block: **CapacityError: {no_room}.** Shown: {tasks}.")
    return " ".join(parts)


def room_table(chosen: dict) -> str:
    """How many weights each of SHOWN tasks would own, and what is free after it, in Markdown."""
    n = 64 * chosen["units"]
    owned = share_out(n, (chosen["first"], chosen["later"]), SHOWN)
    free = [n - sum(owned[: t + 1]) for t in range(SHOWN)]
    rows = (("task", range(1, SHOWN + 1)), ("owns", owned), ("free after it", free))
    lines = [f"| {name} | {' | '.join(str(value) for value in values)} |" for name, values in rows]
    lines.insert(1, "| --- |" + " ---: |" * SHOWN)
    return "\n".join(lines)


def layer_question(trace: dict) -> tuple[str, list, list, str]:
    """What the last task's own weights are worth alone: the question, the answers, the right one, and why."""
    _, *owned = traces.counts(trace)
    last, n = trace["steps"][-1], len(owned)
    reads, own = last["reads"][-1], last["own"][-1]
    choices = ["as good as with all it reads", "a little worse (up to 10 points)", "much worse"]
    truth = choices[0] if own >= reads - 0.01 else choices[1] if own >= reads - 0.1 else choices[2]
    text = (
        f"{trace['title']}. Task {n} owns {owned[-1]} weights and may read those of the tasks before it too, "
        f"{sum(owned)} in all. How good is it with its own {owned[-1]} alone?"
    )
    return text, choices, [truth], f"{own:.3f} with its own, {reads:.3f} with all that it reads."


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
