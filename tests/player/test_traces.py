"""Traces: the worked toy, what every trace promises, and every way in which one is refused."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.isolation.routing import route
from cllab.player import distillation_trace, page, script, springs_trace, style
from cllab.player.traces import (
    cell_string,
    grid_points,
    herding_trace,
    round_trace,
    routing_trace,
    run_trace,
    validate_trace,
)
from cllab.training import Evaluated, History

A = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)]
B = [(3, 3), (3, 2), (2, 3), (4, 4), (2, 2)]
C = [(-1, -1), (-1, 0), (0, -1), (-2, -2), (0, 0)]
TOY = torch.tensor(A + B + C, dtype=torch.float64)
OWNER = torch.arange(3).repeat_interleave(5)


def toy(**changes) -> dict:
    return herding_trace(TOY, OWNER, **{"capacity": 8, "stages": [[0, 1], [2]], **changes})


def routing(overflow: str = "drop", frames: int = 3) -> dict:
    """Three tokens that all prefer expert 0, which has room for two of them."""
    logits = torch.tensor([[3.0, 1, 0], [2, 0, 1], [1, 0.5, 0]])
    outcome = route(logits, 1, capacity=2, overflow=overflow)
    frame = {"routing": outcome, "logits": logits, "losses": {"task": 0.5, "balance": 1.2}, "accuracy": 0.25}
    return routing_trace(
        [{"step": 10 * i, **frame} for i in range(frames)],
        tokens=[("7", 0), ("x", 1), ("y", 1)], kinds=["digit", "letter"], capacity=2, overflow=overflow,
    )  # fmt: skip


def history(accuracies: list[tuple[int, int, tuple[float, ...]]], names=("first", "second")) -> History:
    made = History(list(names))
    for task, step, accuracy in accuracies:
        made.record(Evaluated(task, accuracy, step))
    return made


def runs(**changes) -> dict:
    one = history([(-1, 0, (0.5, 0.5)), (0, 10, (0.9, 0.4)), (1, 20, (0.6, 0.8))])
    two = history([(-1, 0, (0.5, 0.5)), (0, 5, (0.7, 0.5)), (1, 20, (0.8, 0.7))])
    return run_trace({"one": one, "two": two}, **changes)


def springs() -> dict:
    """Parabolas of curvature 4 and 1 at the origin, then one of curvature 1 at (1, 1)."""
    old, new = (lambda theta: (2 * theta[..., 0] ** 2 + theta[..., 1] ** 2 / 2),
                lambda theta: (theta - 1).square().sum(dim=-1) / 2)  # fmt: skip
    return springs_trace(old, new, {"curvature": torch.tensor([4.0, 1.0])}, n_steps=8)


def distillation() -> dict:
    teacher, student = torch.tensor([5.0, 3, 1]), torch.tensor([2.0, 2, 1])
    return distillation_trace(teacher, student, (1, 2, 4), ("cat", "lion", "dog"), title="Three temperatures")


TRACES = {
    "herding": toy, "routing": routing, "run": runs,
    "springs": springs, "distillation": distillation,
}  # fmt: skip


# --- herding ---------------------------------------------------------------------------------------------


def test_the_toy_step_by_step():
    steps = toy()["steps"]
    story = [(s["phase"], s["class"], s["k"]) for s in steps]
    herd = [("herd", 1), ("tie", 2), ("herd", 2)]
    first = [(p, c, k) for c in (0, 1) for p, k in [*herd, ("herd", 3), ("herd", 4)]]
    second = [(p, 2, k) for p, k in herd]
    assert story == [
        ("arrive", None, 0), *first, ("ncm", None, 0),
        ("arrive", None, 0), ("truncate", None, 0), *second, ("ncm", None, 0),
    ]  # fmt: skip
    # class A by hand: target, 25 d², chosen, mean, error
    table = [
        ([0.8, 0.8], [32, 17, 17, 2, 72], 3, [1, 1], 0.2828),
        ([0.6, 0.6], [18, 13, 13, None, 98], 1, [1, 0.5], 0.3606),
        ([0.4, 1.4], [53, None, 8, None, 73], 2, [0.6667, 0.6667], 0.1886),
        ([1.2, 1.2], [72, None, None, None, 32], 4, [1, 1], 0.2828),
    ]
    herd = [s for s in steps if s["phase"] == "herd" and s["class"] == 0]
    for step, (target, distances, chosen, mean, error) in zip(herd, table, strict=True):
        assert step["target"] == target and step["chosen"] == chosen
        assert step["distances"] == [None if d is None else round(d / 25, 4) for d in distances]
        assert step["candidates"] == [i for i, d in enumerate(distances) if d is not None]
        assert step["mean"] == mean and step["error"] == error and step["class_mean"] == [0.8, 0.8]
    tie = next(s for s in steps if s["phase"] == "tie")
    assert tie["tied"] == [1, 2] and tie["chosen"] is None and tie["mean"] == [1, 1]
    assert "A2 and A3 tie at d² = 0.52" in tie["text"]


def test_memory_shrinks_from_four_to_two_per_class_and_keeps_the_head_of_every_list():
    steps = toy()["steps"]
    ends = [s for s in steps if s["phase"] == "ncm"]
    assert ends[0]["memory"] == {"0": [3, 1, 2, 4], "1": [5, 6, 7, 8]} and ends[0]["quota"] == 4
    assert ends[1]["memory"] == {"0": [3, 1], "1": [5, 6], "2": [10, 11]} and ends[1]["quota"] == 2
    assert ends[1]["means"] == {"0": [1, 0.5], "1": [3, 2.5], "2": [-1, -0.5]}
    cut = next(s for s in steps if s["phase"] == "truncate")
    assert cut["memory"] == {"0": [3, 1], "1": [5, 6]} and cut["available"] == [2]


def test_ties_last_takes_the_other_point():
    ends = [s for s in toy(ties="last")["steps"] if s["phase"] == "ncm"]
    assert ends[0]["memory"]["0"] == [3, 2, 1, 4]
    assert ends[1]["means"] == {"0": [0.5, 1], "1": [2.5, 3], "2": [-0.5, -1]}


@given(st.integers(2, 5), st.integers(1, 4), st.integers(2, 20), st.sampled_from([2, 3, 6]), st.integers(0, 999))
@settings(max_examples=30)
def test_every_step_agrees_with_the_points_it_draws(n_classes, per_class, capacity, dims, seed):
    capacity = max(capacity, n_classes)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n_classes * per_class, dims, generator=generator, dtype=torch.float64)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    trace = validate_trace(herding_trace(features, labels, capacity=capacity, stages=[[c] for c in range(n_classes)]))
    points = np.array(trace["points"])
    for step in trace["steps"]:
        stored = sum(len(rows) for rows in step["memory"].values())
        assert stored <= capacity
        if step["phase"] != "arrive":  # a class has come, the old lists are not cut yet
            assert all(len(rows) <= step["quota"] for rows in step["memory"].values())
        for c, rows in step["memory"].items():
            assert all(trace["owner"][i] == int(c) for i in rows) and len(set(rows)) == len(rows)
            if rows:
                np.testing.assert_allclose(step["means"][c], points[rows].mean(axis=0), atol=2e-4)
        if step["phase"] == "herd":
            chosen = step["memory"][str(step["class"])]
            assert chosen[-1] == step["chosen"] and len(chosen) == step["k"]
            np.testing.assert_allclose(step["mean"], points[chosen].mean(axis=0), atol=2e-4)
            members = [i for i, c in enumerate(trace["owner"]) if c == step["class"]]
            left = {i: d for i, d in zip(members, step["distances"], strict=True) if d is not None}
            assert sorted(left) == step["candidates"] and left[step["chosen"]] == min(left.values())
            # the target is where the next exemplar would make the mean of the k chosen the class mean
            goal = step["k"] * np.array(step["class_mean"]) - points[chosen[:-1]].sum(axis=0)
            np.testing.assert_allclose(step["target"], goal, atol=2e-3)


def test_more_than_two_features_are_herded_whole_and_drawn_in_a_plane():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    trace = herding_trace(features, torch.zeros(12, dtype=torch.int64), capacity=3)
    assert trace["plane"] is False and np.array(trace["points"]).shape == (12, 2)
    step = next(s for s in trace["steps"] if s["phase"] == "herd")
    whole = (features - features.mean(dim=0)).square().sum(dim=1)
    np.testing.assert_allclose(step["distances"], whole, atol=1e-4)
    assert step["chosen"] == int(whole.argmin())


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"capacity": 2}, "capacity"),
        ({"capacity": 2.5}, "capacity"),
        ({"stages": [[0, 1], [1, 2]]}, "stages"),
        ({"stages": [[0], []]}, "stages"),
        ({"stages": [[0, 3]]}, "stages"),
        ({"ties": "random"}, "ties"),
        ({"classes": ["A", "B"]}, "classes"),
        ({"names": ["a"]}, "names"),
    ],
)
def test_bad_herding_arguments_are_named(changes, word):
    with pytest.raises((ValueError, TypeError), match=word):
        toy(**changes)


def test_features_with_nan_are_refused():
    with pytest.raises(ValueError, match="features"):
        herding_trace(torch.full((3, 2), math.nan), torch.zeros(3, dtype=torch.int64), capacity=2)


# --- routing ---------------------------------------------------------------------------------------------


def test_a_full_expert_drops_the_third_token():
    trace = validate_trace(routing())
    step = trace["steps"][1]
    assert (trace["experts"], trace["k"], step["step"]) == (3, 1, 10)
    assert step["load"] == [3, 0, 0] and step["dropped"] == 1
    assert step["kept"] == [[True], [True], [False]] and step["wanted"] == [[0], [0], [0]]
    assert math.isclose(sum(step["importance"]), 3, abs_tol=1e-3)
    assert "expert 0 is asked for 3 of 3" in step["text"] and "1 dropped" in step["text"]


def test_a_rerouted_token_shows_where_it_wanted_to_go():
    step = routing("reroute")["steps"][0]
    assert step["expert"] == [[0], [0], [1]] and step["wanted"][2] == [0] and step["dropped"] == 0


@pytest.mark.parametrize(
    "change, word",
    [
        ({"frames": []}, "frames"),
        ({"tokens": []}, "tokens"),
        ({"tokens": [("7", 0)]}, "1 tokens"),
        ({"tokens": [("7", 0), ("x", 2), ("y", 0)]}, "kind in tokens"),
        ({"frames": [{"step": 1}]}, "routing"),
        ({"overflow": "lose"}, "overflow"),
    ],
)
def test_bad_routing_arguments_are_named(change, word):
    outcome = route(torch.zeros(3, 2), 1)
    frame = {"step": 0, "routing": outcome, "losses": {}, "accuracy": None}
    arguments = {"frames": [frame], "tokens": [("7", 0)] * 3, "kinds": ["digit", "letter"], **change}
    with pytest.raises(ValueError, match=word):
        routing_trace(**arguments)


# --- runs ------------------------------------------------------------------------------------------------


def test_frames_of_runs_evaluated_at_different_steps_stand_side_by_side():
    trace = validate_trace(runs())
    assert [s["step"] for s in trace["steps"]] == [0, 5, 10, 20]
    one, two = (run["frames"] for run in trace["runs"])
    assert [f["accuracy"] for f in one] == [[0.5, 0.5], [0.5, 0.5], [0.9, 0.4], [0.6, 0.8]]
    assert [f["accuracy"] for f in two] == [[0.5, 0.5], [0.7, 0.5], [0.7, 0.5], [0.8, 0.7]]
    assert one[1]["R"] == [[None, None], [None, None]]
    assert one[2]["R"] == [[0.9, 0.4], [None, None]]
    assert one[3]["R"] == [[0.9, 0.4], [0.6, 0.8]]
    assert "one 0.70, two 0.75" in trace["steps"][3]["text"]


def test_thinning_keeps_both_ends():
    long = history([(-1, 0, (0.5, 0.5)), *[(0, s, (0.5, 0.5)) for s in range(1, 100)]])
    steps = [s["step"] for s in run_trace({"long": long}, max_frames=10)["steps"]]
    assert len(steps) == 10 and steps[0] == 0 and steps[-1] == 99


def test_cells_are_rows_from_below():
    plane = grid_points((0, 4, 0, 2), 2)
    assert plane.tolist() == [[1, 0.5], [3, 0.5], [1, 1.5], [3, 1.5]]
    assert cell_string((plane[:, 1] > 1).long() * 10 + (plane[:, 0] > 2).long()) == "01ab"
    same = ["0000", "0101", "0011"]
    trace = runs(cells={"one": same, "two": same}, extent=(0, 4, 0, 2), grid=2)
    assert [f["cells"] for f in trace["runs"][0]["frames"]] == ["0000", "0000", "0101", "0011"]
    validate_trace(trace)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"cells": {"one": ["0"]}, "extent": (0, 1, 0, 1), "grid": 1}, "cells"),
        ({"cells": {"one": ["0"] * 3, "two": ["0"] * 3}}, "extent"),
        ({"max_frames": 1}, "max_frames"),
        ({"samples": (torch.zeros(3, 3), torch.zeros(3))}, "samples"),
    ],
)
def test_bad_run_arguments_are_named(changes, word):
    with pytest.raises(ValueError, match=word):
        runs(**changes)


def test_runs_must_share_their_tasks_and_be_evaluated():
    with pytest.raises(ValueError, match="histories"):
        run_trace({})
    with pytest.raises(ValueError, match="no evaluation"):
        run_trace({"empty": History(["a"])})
    with pytest.raises(ValueError, match="tasks"):
        run_trace({"a": history([(0, 1, (1.0, 0.0))]), "b": history([(0, 1, (1.0, 0.0))], names=("x", "y"))})


# --- the common schema -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRACES)
def test_every_trace_is_plain_json_with_alt_text_and_sentences(kind):
    trace = TRACES[kind]()
    assert validate_trace(trace) is trace
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    assert (trace["v"], trace["kind"]) == (1, kind) and trace["alt"] and trace["title"]
    assert all(step["text"].endswith(".") for step in trace["steps"])


def test_rounding():
    given = {
        1: torch.tensor([0.12345, math.nan]),
        "a": (np.float32(1 / 3), -0.0, True, 7, None, "x", math.inf),
    }
    assert round_trace(given) == {"1": [0.1235, None], "a": [0.3333, 0.0, True, 7, None, "x", None]}
    assert math.copysign(1, round_trace(-0.00001)) == 1
    with pytest.raises(TypeError, match="object"):
        round_trace([object()])


def spoil(kind: str, *path, value=None, remove=False) -> dict:
    trace = copy.deepcopy(TRACES[kind]())
    *inner, last = path
    place = trace
    for key in inner:
        place = place[key]
    if remove:
        del place[last]
    else:
        place[last] = value
    return trace


@pytest.mark.parametrize(
    "trace, word",
    [
        (None, "trace must be a dict"),
        ([], "trace must be a dict"),
        ({}, "'v'"),
        (spoil("herding", "v", value=2), "'v'"),
        (spoil("herding", "kind", value="film"), "'kind'"),
        (spoil("herding", "points", remove=True), "points"),
        (spoil("run", "alt", remove=True), "alt"),
        (spoil("herding", "steps", value=[]), "at least one"),
        (spoil("herding", "steps", 0, value="arrive"), r"steps'\]\[0\] must be a dict"),
        (spoil("herding", "steps", 2, "text", remove=True), r"steps'\]\[2\] lacks 'text'"),
        (spoil("herding", "points", 0, value=[math.nan, 0.0]), "finite"),
        (spoil("herding", "points", 0, value=(0.0, 0.0)), "plain JSON"),
        (spoil("herding", "steps", 1, "memory", value={0: [1]}), "string keys"),
        (spoil("herding", "steps", 1, "chosen", value=99), "0 to 14"),
        (spoil("herding", "steps", 1, "distances", value=[1.0]), "distances"),
        (spoil("herding", "owner", value=[0]), "owner"),
        (spoil("routing", "steps", 0, "load", value=[1]), "load"),
        (spoil("routing", "steps", 0, "expert", value=[[0]]), "expert"),
        (spoil("routing", "steps", 0, "expert", value=[[0], [1], [3]]), "0 to 2"),
        (spoil("run", "runs", value=[]), "at least one run"),
        (spoil("run", "runs", 0, "frames", value=[]), "frames"),
        (spoil("run", "runs", 1, "frames", 0, "R", value=[]), "'R'"),
        (spoil("run", "runs", 1, "frames", 0, "cells", value="00"), "cells"),
    ],
)
def test_a_trace_that_cannot_be_played_is_refused_by_name(trace, word):
    with pytest.raises((ValueError, TypeError), match=word):
        validate_trace(trace)


# --- the strings that the hosts get ------------------------------------------------------------------------


def test_the_script_is_one_offline_module_that_writes_text_as_text():
    code = script()
    assert len(re.findall(r"^export default ", code, flags=re.M)) == 1
    assert not re.findall(r"^\s*import ", code, flags=re.M)
    assert set(re.findall(r"https?://[^\s\"')]+", code + style())) == {"http://www.w3.org/2000/svg"}
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in code
    assert "@import" not in style() and "url(" not in style()


def test_the_style_touches_nothing_else_on_a_page():
    rules = re.sub(r"/\*.*?\*/", "", style(), flags=re.S)
    for selectors in re.findall(r"([^{}]+)\{", rules):
        if not selectors.strip().startswith("@"):
            assert all(part.strip().startswith(".cllab-player") for part in selectors.split(",")), selectors


def test_a_page_cannot_be_left_by_what_a_trace_says():
    trace = toy()
    trace["title"] = "</script><script>alert(1)</script>"
    assert page(trace).count("</script>") == 1


def test_the_widget_has_a_stable_repr_and_refuses_bad_traces():
    from cllab.player.widget import Player

    widget = Player(toy(), step=3)
    assert repr(widget) == "Player(kind='herding', steps=18)"
    assert (widget.step, widget.query) == (3, [])
    with pytest.raises(ValueError, match="steps"):
        widget.trace = toy() | {"steps": []}
    with pytest.raises(TypeError, match="trace"):
        Player(None)
    assert len(widget.trace["steps"]) == 18
