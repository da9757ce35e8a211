"""Exercises of lesson 02, Scenarios and metrics."""

import torch

from cllab import metrics
from cllab.exercises.exercise import Case, Exercise, KnownWrong

TITLE = "Scenarios and metrics"

# the worked matrix of the lesson: every convention of one metric gives a different number on it
R3 = [[0.80, 0.30, 0.40], [0.90, 0.70, 0.35], [0.70, 0.75, 0.92]]
TWO_TASKS = [[0.95, 0.40], [0.32, 0.94]]
FOUR_TASKS = [[0.9, 0.1, 0.2, 0.3], [0.6, 0.8, 0.2, 0.1], [0.7, 0.5, 0.9, 0.4], [0.4, 0.6, 0.3, 1.0]]
MATRICES = (
    Case("two tasks", (TWO_TASKS,)),
    Case("the lesson's matrix", (R3,)),
    Case("four tasks", (FOUR_TASKS,)),
)


def plasticity(R: list[list[float]]) -> float:
    """Mean accuracy on each task right after learning it."""
    return metrics.plasticity(R)


def allowed_classes(scenario: str, groups: list[list[int]], task: int, seen: int) -> list[int]:
    """Classes that may be answered for a test row of `task` when the tasks 0 .. `seen` have been learned."""
    known = [groups[task]] if scenario == "task" else groups[: seen + 1]
    return sorted(c for group in known for c in group)


def points_and_percent(before: float, after: float) -> list[float]:
    """What changed between two accuracies (0 to 1): [percentage points, percent of `before`]."""
    return [100 * (after - before), 100 * (after - before) / before]


def pooled_accuracy(R: list[list[float]], sizes: list[int]) -> float:
    """Accuracy after the last task over all test samples together; task j has `sizes[j]` of them."""
    return metrics.average_accuracy(R, test_sizes=sizes)


def forgetting_curve(R: list[list[float]]) -> list[float]:
    """Forgetting after 2, 3, .. T tasks: [F_2, .. F_T]."""
    return [metrics.forgetting(R, after=k) for k in range(2, len(R) + 1)]


def _one_task_short(scenario, groups, task, seen):
    known = [groups[task]] if scenario == "task" else groups[:seen]
    return sorted(c for group in known for c in group)


def _curve(R, rows_more: int = 0, divisor_more: int = 0) -> list[float]:
    """The forgetting curve in loops, with its two off-by-one places open."""
    curve = []
    for k in range(2, len(R) + 1):
        lost = [max(R[i][j] for i in range(k - 1 + rows_more)) - R[k - 1][j] for j in range(k - 1)]
        curve.append(sum(lost) / (k - 1 + divisor_more))
    return curve


def _minus_transfer(R) -> list[float]:
    return [-metrics.backward_transfer([row[:k] for row in R[:k]]) for k in range(2, len(R) + 1)]


def _random_matrix(generator: torch.Generator) -> list[list[float]]:
    T = int(torch.randint(2, 6, (1,), generator=generator))
    return torch.rand(T, T, generator=generator, dtype=torch.float64).tolist()


def _random_mask(generator: torch.Generator) -> tuple:
    order = torch.randperm(8, generator=generator).tolist()
    groups = [order[:2], order[2:5], order[5:6], order[6:]]
    seen = int(torch.randint(0, 4, (1,), generator=generator))
    task = int(torch.randint(0, seen + 1, (1,), generator=generator))
    scenario = ("task", "class")[int(torch.randint(0, 2, (1,), generator=generator))]
    return scenario, groups, task, seen


def _random_pair(generator: torch.Generator) -> tuple[float, float]:
    before, after = (0.05 + 0.9 * torch.rand(2, generator=generator, dtype=torch.float64)).tolist()
    return before, after


def _random_sizes(generator: torch.Generator) -> tuple:
    R = _random_matrix(generator)
    return R, torch.randint(1, 500, (len(R),), generator=generator).tolist()


EXERCISES = (
    Exercise(
        id="L02.1",
        title="a term of BWT",
        reference=0.05,
        agrees_with="the right value",
        hint="accuracy on task 2 at the very end, minus accuracy on task 2 right after it was learned",
        known_wrong=(
            KnownWrong(-0.05, "you subtracted in the other direction: transfer is later minus earlier"),
            KnownWrong(0.40, "you took what training on task 2 itself gained: BWT starts at the diagonal"),
        ),
    ),
    Exercise(
        id="L02.2",
        title="plasticity",
        reference=plasticity,
        agrees_with="cllab.metrics.plasticity",
        hint="accuracy on each task right after it was learned: the diagonal",
        cases=MATRICES,
        random_case=lambda source: (_random_matrix(source),),
        known_wrong=(
            KnownWrong(lambda R: sum(R[-1]) / len(R), "that is the last row, so ACC: what is left at the end"),
            KnownWrong(
                lambda R: sum(map(sum, R)) / len(R) ** 2,
                "you averaged every cell, also those of tasks that were not trained yet",
            ),
        ),
    ),
    Exercise(
        id="L02.3",
        title="allowed classes",
        reference=allowed_classes,
        agrees_with="cllab.streams.Stream.allowed",
        hint="'task': the classes of that task; 'class': the classes of all tasks seen so far",
        cases=(
            Case("told the task", ("task", [[0, 1], [2, 3], [4, 5]], 0, 2)),
            Case("not told", ("class", [[0, 1], [2, 3], [4, 5]], 0, 1)),
            Case("everything seen", ("class", [[3, 1], [0, 2]], 1, 1)),
        ),
        random_case=_random_mask,
        known_wrong=(
            KnownWrong(
                lambda scenario, groups, task, seen: sorted(groups[task]),
                "in the class-incremental scenario nobody tells you the task: you leaked half the answer",
            ),
            KnownWrong(
                lambda scenario, groups, task, seen: sorted(c for group in groups for c in group),
                "you allowed every class of the stream, also those that no task has shown yet",
            ),
            KnownWrong(_one_task_short, "`seen` counts from 0 and includes the newest task: groups[: seen + 1]"),
        ),
    ),
    Exercise(
        id="L02.4",
        title="points and percent",
        reference=points_and_percent,
        agrees_with="the two formulas of section 11",
        hint="points are a difference of two percentages; percent is that difference as a share of `before`",
        cases=(
            Case("averages of a table", (0.51667, 0.87667)),
            Case("a loss", (0.95, 0.32)),
            Case("no change", (0.5, 0.5)),
        ),
        random_case=_random_pair,
        known_wrong=(
            KnownWrong(
                lambda before, after: [100 * (after - before), 100 * (after - before) / after],
                "you divided by the value after: a share is taken of what was there before",
            ),
            KnownWrong(
                lambda before, after: [100 * (after - before) / before, 100 * (after - before)],
                "the two are swapped: points first, then percent",
            ),
            KnownWrong(
                lambda before, after: [after - before, (after - before) / before],
                "accuracies run from 0 to 1 here: multiply by 100",
            ),
        ),
    ),
    Exercise(
        id="L02.5",
        title="pooled accuracy",
        reference=pooled_accuracy,
        agrees_with="cllab.metrics.average_accuracy(R, test_sizes=sizes)",
        hint="right answers over samples, summed over tasks; task j has R[-1][j] * sizes[j] right answers",
        cases=(
            Case("100 and 300 samples", (TWO_TASKS, [100, 300])),
            Case("equal sizes", (R3, [50, 50, 50])),
            Case("one big task", (R3, [10, 10, 980])),
        ),
        random_case=_random_sizes,
        known_wrong=(
            KnownWrong(lambda R, sizes: sum(R[-1]) / len(R), "you gave every task the same weight: that is ACC"),
            KnownWrong(
                lambda R, sizes: sum(row[-1] * n for row, n in zip(R, sizes)) / sum(sizes),
                "you read the last column; what is left after the last task is the last row",
            ),
        ),
    ),
    Exercise(
        id="L02.6",
        title="forgetting after every task",
        reference=forgetting_curve,
        agrees_with="cllab.metrics.forgetting(R, after=k)",
        hint="for k = 2 .. T: best of rows 1 .. k-1 minus row k, averaged over the tasks 1 .. k-1",
        cases=MATRICES,
        random_case=lambda source: (_random_matrix(source),),
        known_wrong=(
            KnownWrong(
                lambda R: _curve(R, rows_more=1),
                "your maximum includes row k itself: a task that improved counts as 0 instead of negative",
            ),
            KnownWrong(
                lambda R: _curve(R, divisor_more=1),
                "you divided by k: the newest task cannot be forgotten yet, so only k-1 tasks count",
            ),
            KnownWrong(
                _minus_transfer,
                "you started from the diagonal, which gives minus BWT: take the best earlier row",
            ),
        ),
    ),
)
