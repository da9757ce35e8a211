"""The numbers under a finished run: each metric with its formula filled in, the table, what changed between runs."""

import csv
import io
from typing import NamedTuple

import numpy as np

from cllab import metrics
from cllab.training import History
from labs.forgetting_race import Race


class Metric(NamedTuple):
    """One number and how it came about: `formula` is LaTeX with the run's own values in it."""

    symbol: str
    name: str
    value: float
    formula: str
    meaning: str
    more_is_better: bool = True


def metrics_of(history: History) -> list[Metric]:
    """ACC, AIA, BWT, F and FWT of a finished run of at least two tasks, each with its formula filled in."""
    R, b = history.accuracy, history.baseline
    T = len(R)
    last = range(T - 1)
    acc, aia = metrics.average_accuracy(R), metrics.average_incremental_accuracy(R)
    bwt, forgot = metrics.backward_transfer(R), metrics.forgetting(R)
    fwt = metrics.forward_transfer(R, b)
    stages = [_number(a) for a in metrics.incremental_accuracies(R)]
    kept = [f"({_number(R[-1, j])} - {_number(R[j, j])})" for j in last]
    best = [np.nanmax(R[: T - 1, j]) for j in last]
    lost = [f"({_number(best[j])} - {_number(R[-1, j])})" for j in last]
    ahead = [f"({_number(R[j - 1, j])} - {_number(b[j])})" for j in range(1, T)]
    return [
        Metric("ACC", "at the end", acc,
               _mean(r"\mathrm{ACC} = \frac{1}{T}\sum_j R_{T,j}", [_number(v) for v in R[-1]], acc),
               "Average accuracy: the mean over all tasks at the end."),
        Metric("AIA", "over the stages", aia,
               _mean(r"\mathrm{AIA} = \frac{1}{T}\sum_k A_k", stages, aia),
               "Average incremental accuracy: the mean over the stages of the accuracy on the tasks seen so far."),
        Metric("BWT", "backward", bwt,
               _mean(r"\mathrm{BWT} = \frac{1}{T-1}\sum_{j<T} (R_{T,j} - R_{j,j})", kept, bwt),
               "Backward transfer: what later tasks did to earlier ones; below 0 is forgetting."),
        Metric("F", "forgetting", forgot,
               _mean(r"F = \frac{1}{T-1}\sum_{j<T} (\max_{l<T} R_{l,j} - R_{T,j})", lost, forgot),
               "Forgetting: how far each task is below its best earlier accuracy, on average.", more_is_better=False),
        Metric("FWT", "forward", fwt,
               _mean(r"\mathrm{FWT} = \frac{1}{T-1}\sum_{j \geq 2} (R_{j-1,j} - b_j)", ahead, fwt),
               "Forward transfer: what earlier tasks gave to the next one, before it was trained; b is the untrained "
               "network's accuracy."),
    ]  # fmt: skip


def changes(now: dict, before: dict) -> str:
    """Which settings differ between two runs, in words; "" when none does."""
    different = [name for name in now if now[name] != before.get(name) and name != "ask"]
    return ", ".join(f"{name} {_shown(before.get(name))} → {_shown(now[name])}" for name in different)


def as_csv(race: Race) -> str:
    """All evaluations of a race, one row per method, step and task."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "step", "learning", "task", "accuracy"])
    for lane in race.lanes.values():
        names = lane.history.task_names
        for point in list(lane.history.curve):
            learning = names[point.task] if point.task >= 0 else ""
            writer.writerows(
                [lane.name, point.step, learning, t, a] for t, a in zip(names, point.accuracy, strict=True)
            )
    return text.getvalue()


def verdict(guess: tuple[str, float], race: Race) -> str:
    """The guess beside what came out."""
    method, guessed = guess
    history = race.lanes[method].history
    kept = history.accuracy[-1, 0]
    letter = history.task_names[0].split(":")[0]
    points = round(100 * abs(kept - guessed))
    if points == 0:
        how = "exactly right"
    else:
        how = f"{points} point{'s' * (points > 1)} {'less' if kept < guessed else 'more'} than you thought"
    return f"You guessed **{guessed:.2f}**; {method} kept **{kept:.2f}** on task {letter}: {how}."


def _mean(formula: str, terms: list[str], value: float) -> str:
    """Formula = (1/n)(term + term + ...) = value."""
    inside = " + ".join(terms)
    factor = "" if len(terms) == 1 else rf"\tfrac{{1}}{{{len(terms)}}}"
    return rf"{formula} = {factor}\left[{inside}\right] = {_number(value)}"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _shown(value) -> str:
    return " + ".join(value) if isinstance(value, list) else str(value)
