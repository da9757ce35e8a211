"""The trace of experts that grow stage by stage: one run, or several side by side."""

from collections.abc import Callable, Mapping, Sequence

from cllab import checks
from cllab.isolation import TokenTask
from cllab.player.growing_run import grown_run
from cllab.player.schema import VERSION, round_trace, validate_trace

MOST_RUNS = 3


def growing_trace(
    runs: Mapping[str, Sequence[Mapping]],
    groups: Sequence[Sequence[str]],
    *,
    k: int = 1,
    about: Mapping[str, str] | None = None,
    title: str = "Growing experts",
    alt: str = "",
) -> dict:
    """A trace of kind "growing" from the frames of 1 to MOST_RUNS runs that took the same steps.

    runs    {name: frames}, such as {"λ = 3": grown_run(...), "λ = 0": grown_run(...)}. What a frame holds is told
            in `growing_run.grown_run`; the frames of all runs are compared one by one.
    groups  the kinds of token of each stage, in the order of the rows of "usage"; k: experts per token
    about   {name: what is special about this run}, shown in its heading

    Raises ValueError or TypeError naming what does not fit.
    """
    if not isinstance(runs, Mapping) or not 1 <= len(runs) <= MOST_RUNS:
        found = len(runs) if isinstance(runs, Mapping) else type(runs).__name__
        raise ValueError(f"runs must be a dict of 1 to {MOST_RUNS} runs, got {found}")
    checks.integer("k", k, 1)
    places = [[(frame["stage"], frame["step"]) for frame in frames] for frames in runs.values()]
    if any(place != places[0] for place in places) or not places[0]:
        raise ValueError("runs must have frames of the same stages and steps, one at least")
    names = [", ".join(group) for group in groups]
    told = runs if len(runs) > 1 else {"": next(iter(runs.values()))}
    steps = [
        {"stage": stage, "step": step, "text": _told(names, i, places[0], told)}
        for i, (stage, step) in enumerate(places[0])
    ]
    trace = {
        "v": VERSION, "kind": "growing", "title": title,
        "alt": alt or f"Tokens of {len(names)} stages ({'; '.join(names)}) and the experts that serve them; experts "
        "are added stage by stage, and older ones are locked.",
        "stages": names, "kinds": [kind for group in groups for kind in group],
        "stage_of": [t for t, group in enumerate(groups) for _ in group], "k": k,
        "runs": [
            {"name": str(name), "about": (about or {}).get(name, ""), "frames": list(frames)}
            for name, frames in runs.items()
        ],
        "steps": steps,
    }  # fmt: skip
    return validate_trace(round_trace(trace))


def grown_run_trace(
    task: TokenTask,
    groups: Sequence[Sequence[str]],
    runs: Mapping[str, Mapping] | None = None,
    *,
    title: str = "Growing experts",
    alt: str = "",
    on_frame: Callable[[float], None] | None = None,
    **settings,
) -> dict:
    """Train one run, or one per entry of `runs`, and return their trace.

    settings: those of `grown_run`, for all runs. runs: {name: settings that differ}, such as {"with KL": {},
    "without": {"lam": 0.0}}. on_frame hears which share of all runs is done.
    """
    runs = {"": {}} if runs is None else runs
    found = {}
    for i, (name, own) in enumerate(runs.items()):

        def heard(share: float, i: int = i) -> None:
            if on_frame is not None:
                on_frame((i + share) / len(runs))

        found[name] = grown_run(task, groups, **{**settings, **own}, on_frame=heard)
    return growing_trace(found, groups, k=settings.get("k", 1), title=title, alt=alt)


def _told(names: Sequence[str], i: int, places: list[tuple[int, int]], runs: Mapping[str, Sequence[Mapping]]) -> str:
    """What is to be seen at frame i, in a sentence or two."""
    stage, step = places[i]
    now = {name: frames[i] for name, frames in runs.items()}
    start = f"Stage {stage + 1}, {names[stage]}, step {step}: "
    arrives = i == 0 or places[i - 1][0] < stage
    accuracy = _each({name: f"{_mean(frame['accuracy'][: stage + 1]):.2f}" for name, frame in now.items()})
    if stage == 0:
        return f"{start}{'nothing is trained yet' if arrives else 'the first experts learn'}. Accuracy: {accuracy}."
    moved = _each({name: f"{_mean(frame['drift']):.0%}" for name, frame in now.items()})
    if arrives:
        n = _each({name: str(frame["born"].count(stage)) for name, frame in now.items()})
        return f"{start}new experts arrive: {n}. Nothing is trained yet; moved of the old tokens' routing: {moved}."
    return f"{start}moved of the old tokens' routing: {moved}. Mean accuracy of the stages so far: {accuracy}."


def _each(values: Mapping[str, str]) -> str:
    """One value per run, with the run's name where there are several; said once where all agree."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
