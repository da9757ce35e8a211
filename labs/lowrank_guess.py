"""What the page of low rank asks before it shows: a question per view, its answers, and the right one."""

import math

from labs import lowrank_traces as traces


def question(view: str, trace: dict) -> tuple[str, list[str], str, str]:
    """The question, the answers to choose from, the right one, and why."""
    return {"change": _rank, "merge": _error, "subspaces": _price}[view](trace)


def _rank(trace: dict) -> tuple[str, list[str], str, str]:
    enough = traces.enough(trace)
    text = f"The change has {len(trace['sigma'])} ranks. "
    if enough is None:
        enough = next(step["rank"] for step in trace["steps"] if step["error"] <= 0.1)
        text += "From which rank on is less than a tenth of it left (relative error 0.1)?"
        why = f"rank {enough} leaves {trace['steps'][enough]['error']:.3f}."
    else:
        text += "From which rank on is the accuracy on the new task (digits 5 to 9) within 0.01 of that with all of it?"
        line = next(line["values"] for line in trace["lines"] if line["name"] == traces.NEW)
        why = f"rank {enough} reaches {line[enough]:.3f}, the whole change {line[-1]:.3f}."
    bands = ("0 to 2", 2), ("3 to 5", 5), ("6 to 12", 12), ("13 to 24", 24), ("25 to 32", 32)
    return text, [name for name, _ in bands], next(name for name, most in bands if enough <= most), why


def _error(trace: dict) -> tuple[str, list[str], str, str]:
    step = next(step for step in trace["steps"] if step["phase"] == "average")
    choices = {"0 %": 0.0, "12 %": 0.1176, "50 %": 0.5, "71 %": 0.7071, "100 %": 1.0}
    truth = min(choices, key=lambda name: abs(choices[name] - step["error"]))
    text = "The factors A and B are averaged, each with the weights w. How far is their product from the right sum?"
    return text, list(choices), truth, f"the relative error, in Frobenius norms, is {step['error']:.6g}."


def _price(trace: dict) -> tuple[str, list[str], str, str]:
    """With a penalty: beside the run without it; else: beside the same run's start."""
    first, last = ([now["overlap"] for now in trace["steps"][t]["runs"]] for t in (0, -1))
    name = trace["runs"][-1]["name"]
    if len(trace["runs"]) > 1 and len(trace["charts"]) > 1:
        other, beside = f"that of the run with {trace['runs'][0]['name']}", last[0]
    else:
        other, beside = "that at the start", first[-1]
    text = f"How large is the overlap Σ |O| of “{name}” at the end, beside {other}?"
    choices = {"a hundredth": 0.01, "a tenth": 0.1, "half": 0.5, "the same": 1.0, "several times": 4.0}
    share = max(last[-1] / beside, 1e-9)
    truth = min(choices, key=lambda key: abs(math.log(choices[key] / share)))
    return text, list(choices), truth, f"{last[-1]:.3g} beside {beside:.3g}."
