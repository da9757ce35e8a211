"""What the page of growing experts says about its runs: a verdict in a few sentences, and a table."""

from labs import growing_traces as traces


def tell(runs: dict[str, list[dict]], settings: dict[str, dict]) -> str:
    """What became of the first stage and of the last, what happened on arrival, and whether freezing helped."""
    ends = {name: traces.ends(run) for name, run in runs.items()}
    first = each({name: f"{end[0]['kept']:.2f}" for name, end in ends.items()})
    learned = each({name: f"{end[0]['learned']:.2f}" for name, end in ends.items()})
    last = each({name: f"{end[-1]['kept']:.2f}" for name, end in ends.items()})
    moved = each({name: f"{end[0]['drift']:.0%}" for name, end in ends.items()})
    parts = [
        f"**Stage 1 keeps {first} of the accuracy {learned} that it had; the last stage gets to {last}. Of stage 1's "
        f"routing {moved} has moved.**"
    ]
    if any(chosen["n_new"] for chosen in settings.values()):
        arrived = {name: traces.arrivals(run)[0] for name, run in runs.items() if settings[name]["n_new"]}
        mass = each({name: f"{frame['mass'][0]:.0%}" for name, frame in arrived.items()})
        gone = each({name: f"{frame['drift'][0]:.0%}" for name, frame in arrived.items()})
        parts.append(
            f"Before the first step of stage 2, the new experts have {mass} of the router's probability for stage 1's "
            f"tokens, and {gone} of the routing has moved."
        )
    told = {name: tell_freezing(run, settings[name]) for name, run in runs.items()}
    if len(set(told.values())) == 1:
        where = "In both runs" if len(runs) > 1 else "Here"
        parts.append(f"{where} {told['A']}.")
    else:
        parts += [f"In {name} {text}." for name, text in told.items()]
    return " ".join(parts)


def tell_freezing(run: list[dict], chosen: dict) -> str:
    """Whether old experts moved."""
    old = max(frame["moved"]["old"] for frame in run if frame["stage"])
    if chosen["n_new"] == 0:
        return f"the same experts serve all stages, and change by up to {old:.2f} in one of them"
    if chosen["freeze"]:
        return "no weight of an old expert or of its router row has moved, only new ones and the shared layers have"
    return f"old experts and rows moved too, by up to {old:.2f} in one stage"


def each(values: dict[str, str]) -> str:
    """One value per run with the run's name, or the value alone where there is one or all agree."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{value} ({name})" for name, value in values.items())


def table(runs: dict[str, list[dict]], stages: list[str]) -> str:
    """A line per stage, in Markdown: accuracy when learned and at the end, routing moved and with newer experts."""
    heads = [f"{name}: {what}" for name in runs for what in ("learned", "at the end", "moved", "newer")]
    lines = [f"| stage | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    ends = [traces.ends(run) for run in runs.values()]
    for t, name in enumerate(stages):
        cells = []
        for end in (of_run[t] for of_run in ends):
            gone = ["–", "–"] if t == len(stages) - 1 else [f"{end['drift']:.0%}", f"{end['newer']:.0%}"]
            cells += [f"{end['learned']:.2f}", f"{end['kept']:.2f}", *gone]
        lines.append(f"| {t + 1}: {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
