"""Traces of progressive columns: the same run as `fit` alone, strengths by hand, and every way to be refused."""

import copy
import functools

import pytest
import torch

from cllab.isolation import Progressive, ProgressiveNet, column_cost, column_growth, column_strengths, lateral_weights
from cllab.player import columns_trace, validate_trace
from cllab.player.from_columns import growth_lines
from cllab.streams import points, split
from cllab.training import run

STREAM = split(points("clusters", n=40), 2, scenario="task")
SETTINGS = {"hidden": (5, 4), "epochs": 2, "batch_size": 20, "lr": 0.05, "seed": 3}


@functools.cache
def trace(laterals: str = "linear", width: int | None = None) -> dict:
    return columns_trace(STREAM, laterals=laterals, width=width, every=3, **SETTINGS)


def net(laterals: str = "linear", width: int | None = None) -> ProgressiveNet:
    built = ProgressiveNet(2, [5, 4], 4, laterals, width, seed=3).double()
    arguments = {name: value for name, value in SETTINGS.items() if name != "hidden"}
    run(built, STREAM, [Progressive()], **arguments)
    return built


def test_frames_and_their_places():
    steps = validate_trace(trace())["steps"]
    assert [(step["task"], step["step"]) for step in steps] == [(k, s) for k in (0, 1) for s in (0, 3, 6, 8)]
    assert [len(step["read"][0]) for step in steps] == [0] * 4 + [1] * 4
    assert steps[0]["text"].startswith("Column 1, 0/1, step 0: the first column has nobody to read")


@pytest.mark.parametrize(("laterals", "width"), [("linear", None), ("adapter", 2)])
def test_the_run_is_that_of_fit(laterals, width):
    """The last frame's numbers, from a run of its own."""
    last, built = trace(laterals, width)["steps"][-1], net(laterals, width)
    x, y = STREAM[1].x_test.double(), STREAM[1].y_test
    right = {
        "with": built(x, 1)[:, 2:].argmax(1) + 2 == y,
        "cut": built.plain_column(1)(x)[:, 2:].argmax(1) + 2 == y,
        "alone": net("none")(x, 1)[:, 2:].argmax(1) + 2 == y,
    }
    assert last["accuracy"] == {
        name: pytest.approx(hits.double().mean().item(), abs=1e-4) for name, hits in right.items()
    }
    found = column_strengths(built, x[:64], 1, (2, 3))
    assert last["own"] == pytest.approx(found["own"], abs=1e-4) and last["moved"] == 0
    assert last["lateral"] == pytest.approx(found["lateral"], abs=1e-4) and min(last["lateral"]) > 0


def test_all_begins_dark_and_lights_up():
    first, *_, last = [step for step in trace()["steps"] if step["task"] == 1]
    assert first["lateral"] == [0, 0] and set(first["maps"][0]["read"][0]) == {"0"}
    assert first["accuracy"]["with"] == first["accuracy"]["cut"] == first["accuracy"]["alone"]
    assert min(last["lateral"]) > 0 and set(last["maps"][0]["read"][0]) != {"0"}
    for step in trace()["steps"][:4]:  # the first column is the same with and without
        assert len(set(step["accuracy"].values())) == 1


def test_strengths_by_hand():
    built = ProgressiveNet(1, [1], 1).double()
    built.add_column(1)
    with torch.no_grad():
        for column, (w, v) in zip(built.columns.parts, ((2.0, 1.0), (3.0, 5.0)), strict=True):
            for layer, weight in zip(column.layers, (w, v), strict=True):
                layer.weight.fill_(weight)
                layer.bias.fill_(-1.0 if weight == 2 else 0.0)
        built.columns.part(1).laterals[0].U[0].fill_(-4.0)
    # x = 1, 2: the old column answers relu(2x - 1) = 1, 3, the new one 3x = 3, 6
    found = column_strengths(built, torch.tensor([[1.0], [2.0]], dtype=torch.float64), 1)
    assert found == {"own": [4.5, 22.5], "lateral": [8.0], "read": [[8.0]]}
    assert column_strengths(built, torch.ones(2, 1, dtype=torch.float64), 0)["lateral"] == [0.0]
    assert lateral_weights(built, 0) == [] and lateral_weights(built, 1)[0][0].tolist() == [[-4.0]]


def test_an_adapter_without_its_relu_is_its_product():
    built = net("adapter", 2)
    lateral = built.columns.part(1).laterals[0]
    h = torch.rand(3, 5, dtype=torch.float64)
    with torch.no_grad():
        lateral.V.abs_(), lateral.alpha.fill_(0.5)  # h, V, alpha >= 0: the relu does nothing
    (product,) = lateral_weights(built, 1)[0]
    assert torch.allclose(h @ product.T, lateral([h]), atol=1e-12)


def test_growth_and_cost_are_those_of_the_library():
    sizes = (2, 5, 4, 4)
    lines = {line["name"]: line["values"] for line in trace()["growth"]}
    assert list(lines) == ["linear laterals", "adapters, m = 1", "no laterals", "a head per task"]
    assert lines["linear laterals"][1] == net().growth().total == column_growth(sizes, 2).total
    assert lines["a head per task"][:2] == [2 * 5 + 5 + 5 * 4 + 4 + K * (4 * 4 + 4) for K in (1, 2)]
    assert trace()["cost"] == [column_cost(sizes, 0), column_cost(sizes, 1)]
    assert growth_lines(sizes, "adapter", 2)[1]["values"][1] == net("adapter", 2).growth().total


def test_progress_is_told_and_ends_at_one():
    heard = []
    columns_trace(STREAM, every=3, on_frame=heard.append, **SETTINGS)
    assert heard == sorted(heard) and heard[0] == 0 and heard[-1] == 1


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"hidden": ()}, ValueError, "hidden must have a width"), ({"hidden": (0,)}, ValueError, "each of hidden"),
        ({"laterals": "none"}, ValueError, "laterals"), ({"width": 3}, ValueError, "width"),
        ({"every": 0}, ValueError, "every"), ({"epochs": 0}, ValueError, "epochs"),
        ({"stream": split(points("clusters", n=5), 2, scenario="class")}, ValueError, 'scenario="task"'),
        ({"stream": split(points("clusters", n=5), 1, scenario="task")}, None, ""),
        ({"stream": 3}, ValueError, "stream must be a Stream"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, named):
    arguments = {"stream": STREAM, **SETTINGS, "epochs": 1, **change}
    if error is None:
        assert len(columns_trace(**arguments)["tasks"]) == 4
        return
    with pytest.raises(error, match=named):
        columns_trace(**arguments)


def test_traces_that_lack_something_are_refused():
    for spoil, named in (
        (lambda t: t["steps"][4]["read"][0].pop(), "a layer of"), (lambda t: t["steps"][4]["own"].pop(), "'own'"),
        (lambda t: t["steps"][4]["finished"].pop(), "finished"), (lambda t: t["cost"].pop(), "cost"),
        (lambda t: t["steps"][4]["accuracy"].pop("cut"), "cut"), (lambda t: t["steps"][4].update(task=2), "'task'"),
        (lambda t: t["steps"][4]["maps"][0].update(own="0"), "a map of"), (lambda t: t["growth"][0].pop("name"), "growth"),
        (lambda t: t.pop("sizes"), "sizes"), (lambda t: t.update(sizes=[2, 4]), "a hidden layer"),
    ):  # fmt: skip
        spoiled = copy.deepcopy(trace())
        spoil(spoiled)
        with pytest.raises(ValueError, match=named):
            validate_trace(spoiled)
