"""The traces of an iCaRL walk: the loss of a training row, test points, and features that move."""

import copy
import math

import pytest
import torch
from matplotlib.figure import Figure

from cllab.player import features_trace, herding_trace, validate_trace
from cllab.player.from_features import Moment
from cllab.player.from_icarl import TrainingRow, loss_of_row
from cllab.plots import draw_herding

POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [6.0, 0.0]], dtype=torch.float64)
OWNER = torch.tensor([0, 0, 1, 1])
ROWS = (TrainingRow(0, (0.25,)), TrainingRow(2, (0.5, 0.8), (0.9,)))


def walk(**changes) -> dict:
    given = {"capacity": 4, "stages": [[0], [1]], "training": ROWS, "tests": [[(1, 0)], [(3, 0), (9, 1)]]}
    return herding_trace(POINTS, OWNER, **{**given, **changes})


def bce(g: float, target: float) -> float:
    return -(target * math.log(g) + (1 - target) * math.log(1 - g))


def test_the_loss_of_a_row_column_by_column():
    loss = loss_of_row(TrainingRow(0, (0.8, 0.15, 0.05), (0.9, 0.1)), label=2, old=[0, 1], new=[2])
    by_hand = [bce(0.8, 0.9), bce(0.15, 0.1), bce(0.05, 1.0)]
    assert [float(c["loss"]) for c in loss["columns"]] == pytest.approx(by_hand, abs=1e-9)
    assert [float(c["gradient"]) for c in loss["columns"]] == pytest.approx([-0.1 / 3, 0.05 / 3, -0.95 / 3], abs=1e-9)
    assert [c["old"] for c in loss["columns"]] == [True, True, False]
    assert float(loss["distillation"]) == pytest.approx(0.697752, abs=5e-7)
    assert float(loss["floor"]) == pytest.approx(0.650166, abs=5e-7)
    assert float(loss["mean"]) == pytest.approx(sum(by_hand) / 3, abs=1e-9)


def test_a_walk_trains_before_it_chooses_and_tests_after():
    trace = validate_trace(walk())
    phases = [step["phase"] for step in trace["steps"]]
    assert phases == [
        "arrive", "train", "train", "tie", "herd", "herd", "ncm", "test",
        "arrive", "train", "train", "tie", "herd", "herd", "ncm", "test", "test",
    ]  # fmt: skip
    hidden, told = trace["steps"][9]["loss"], trace["steps"][10]["loss"]
    assert hidden["mean"] is None and all(column["loss"] is None for column in hidden["columns"])
    assert [column["target"] for column in hidden["columns"]] == [0.9, 1.0]
    assert told["mean"] == pytest.approx((bce(0.5, 0.9) + bce(0.8, 1.0)) / 2, abs=1e-4)
    assert "An exact tie" in trace["steps"][15]["text"] and "The answer is B." in trace["steps"][16]["text"]
    assert trace["steps"][7]["query"] == [1, 0] and "an exact tie" not in trace["steps"][7]["text"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": ROWS[:1]}, "training must have one entry for each of the 2 stages"),
        ({"training": (ROWS[0], TrainingRow(2, (0.5,), (0.9,)))}, "training must have 2 outputs"),
        ({"training": (ROWS[0], TrainingRow(2, (0.5, 1.0), (0.9,)))}, "outputs must lie strictly between"),
        ({"training": (ROWS[0], TrainingRow(4, (0.5, 0.5), (0.9,)))}, "point in training"),
        ({"tests": [[]]}, "tests must have one entry"),
        ({"tests": [[(math.nan, 0)], []]}, "tests must be finite"),
    ],
)
def test_bad_walks_are_named(changes, named):
    with pytest.raises(ValueError, match=named):
        walk(**changes)


def test_test_points_need_two_features():
    with pytest.raises(ValueError, match="tests"):
        herding_trace(torch.eye(4).double(), OWNER, capacity=4, tests=[[(1, 0)]])


def moment(**changes) -> Moment:
    given = {
        "phase": "herd", "text": "One.", "points": POINTS, "arrived": [0, 1], "memory": {0: [1], 1: [3]}, "quota": 1,
        "means": {0: POINTS[1], 1: POINTS[3]},
    }  # fmt: skip
    return Moment(**{**given, **changes})


def features(*moments: Moment, **changes) -> dict:
    roles, names = ["test", "train"] * 2, ["a", "b", "c", "d"]
    given = {"capacity": 2, "classes": ["0", "1"], "names": names}
    return features_trace(moments or [moment()], [0, 0, 1, 1], roles, **{**given, **changes})


def test_moments_become_plain_steps():
    trace = validate_trace(features(moment(answers={0: 0, 2: 0}, facts=[("right", "50%")], before={0: POINTS[0]})))
    step = trace["steps"][0]
    assert step["points"] == POINTS.tolist() and step["memory"] == {"0": [1], "1": [3]}
    assert step["answers"] == {"0": 0, "2": 0} and step["facts"] == [["right", "50%"]]
    assert (step["means"]["1"], step["before"]) == ([6.0, 0.0], {"0": [0.0, 0.0]})


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: features(names=["a"]), "names"),
        (lambda: features(moment(phase="dance")), "phase of moment 0"),
        (lambda: features(moment(points=POINTS[:2])), "points of moment 0"),
        (lambda: features(moment(points=POINTS * math.nan)), "finite"),
        (lambda: features_trace([], [], [], capacity=1, classes=[], names=[]), "moments"),
        (lambda: features_trace([moment()], [0] * 4, ["x"] * 4, capacity=1, classes=["0"], names=["a"] * 4), "role"),
    ],
)
def test_bad_moments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("steps", 0, "points"), [[0, 0]], "points"), (("steps", 0, "memory"), {"0": [9]}, "0 to 3"),
        (("role",), ["test"], "role"),
    ],
)  # fmt: skip
def test_a_features_trace_that_cannot_be_played_is_refused(path, value, named):
    trace = copy.deepcopy(features())
    place = trace
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=named):
        validate_trace(trace)


def test_a_still_of_a_test_step_shows_the_means_and_the_test_point():
    axes = Figure().subplots()
    draw_herding(axes, walk(), 15)
    _, names = axes.get_legend_handles_labels()
    assert {"mean of exemplars, class A", "mean of exemplars, class B", "test point"} <= set(names)


def test_a_training_step_without_its_loss_is_refused():
    trace = walk()
    del trace["steps"][1]["loss"]
    with pytest.raises(ValueError, match="lacks 'loss'"):
        validate_trace(trace)
