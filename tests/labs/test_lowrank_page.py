"""The page of low rank: what it computes, and what it shows, with AppTest."""

import functools
import math

import numpy as np
import pytest
import torch

from cllab.player import validate_trace
from labs import lowrank_traces as traces
from labs import lowrank_training as training
from labs.lowrank_guess import question
from tests.tools.pages import given_to_players, open_lab_page, press, shown

# --- what is computed ------------------------------------------------------------------------------------


def last(trace: dict, name: str) -> list[float]:
    """The values of a line of the rank view."""
    return next(line["values"] for line in trace["lines"] if line["name"] == name)


def merged(trace: dict, phase: str) -> dict:
    return next(step for step in trace["steps"] if step["phase"] == phase)


def test_the_committed_change_is_what_training_gives():
    (view, settings), _, _ = traces.PRESETS
    old, new = traces.committed()[traces.settings_key(view, settings)], traces.change(**settings)
    assert validate_trace(old)["title"] == new["title"] and len(old["steps"]) == len(new["steps"])
    np.testing.assert_allclose(new["delta"], old["delta"], atol=1e-3)
    np.testing.assert_allclose(last(new, traces.NEW), last(old, traces.NEW), atol=0.02)


def test_the_committed_merge_is_what_training_gives():
    _, (view, settings), _ = traces.PRESETS
    old, new = traces.committed()[traces.settings_key(view, settings)], traces.merge(**settings)
    assert validate_trace(old)["title"] == new["title"] and len(old["steps"]) == len(new["steps"])
    for then, now in zip(old["steps"][1:], new["steps"][1:], strict=True):
        assert now["error"] == pytest.approx(then["error"], abs=1e-3)
        assert now["scores"] == pytest.approx(then["scores"], abs=0.02)


def test_the_committed_overlap_is_what_training_gives():
    """Only the run with the penalty is trained here."""
    _, _, (view, settings) = traces.PRESETS
    old = validate_trace(traces.committed()[traces.settings_key(view, settings)])
    new = training.watched(settings["lam"], settings["r"], settings["seed"])
    assert [step["x"] for step in old["steps"]] == new.at and old["runs"][1]["name"] == "λ = 0.5"
    np.testing.assert_allclose(new.news[-1], old["steps"][-1]["runs"][1]["new"], atol=1e-3)
    for chart, values in zip(old["charts"][1:], (new.new, new.old), strict=True):
        assert chart["lines"][1]["values"] == pytest.approx(values, abs=0.02)


def test_a_few_ranks_of_a_real_change_do_and_of_random_numbers_do_not():
    trace = traces.story("change", of=traces.FIRST, epochs=20, seed=0)
    b, a = last(trace, traces.NEW), last(trace, traces.OLD)
    assert traces.enough(trace) <= 5 and b[0] < 0.6 < 0.95 < b[5]
    assert a[-1] < a[0] - 0.08  # the change that teaches B costs A, at a small rank already
    assert trace["steps"][5]["error"] < 0.25 and trace["steps"][-1]["error"] < 1e-6
    noise = traces.change(traces.RANDOM, 20, 0)
    assert traces.enough(noise) is None and noise["steps"][5]["error"] > 0.7


def test_the_approximations_of_the_network_are_those_of_the_picture():
    """Accuracy at rank r is that of the network whose layer has W + B A with the r terms that the view adds up."""
    trace = traces.story("change", of=traces.FIRST, epochs=20, seed=0)
    tuned = training.fine_tuned(0)
    name = training.LAYERS[traces.FIRST]
    A, B = (torch.tensor(trace[part], dtype=torch.float64) for part in "AB")
    for r in (0, 3, 32):
        weights = tuned.after[20] | {name: tuned.before[name] + B[:, :r] @ A[:r]}
        expected = [last(trace, traces.OLD)[r], last(trace, traces.NEW)[r]]
        assert training.accuracies(tuned, weights) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0, math.pi])
@pytest.mark.parametrize("w", [0.0, 0.3, 0.5])
def test_the_error_of_a_turned_copy_has_a_closed_form(angle, w):
    trace = traces.merge(traces.COPY, angle, w, 2, 0)
    assert merged(trace, "average")["error"] == pytest.approx(traces.turned_error(angle, w), abs=1e-6)
    assert merged(trace, "cat")["error"] == merged(trace, "svd")["error"] == 0
    if w == 0.5:
        assert traces.turned_error(angle, w) == pytest.approx((1 - math.cos(angle)) / 2)


def test_real_adapters_survive_a_sum_better_than_an_average():
    trace = traces.story("merge", pair=traces.DIGITS, angle=0.7, w=0.5, cut=4, seed=0)
    scores = {step["phase"]: step["scores"] for step in trace["steps"]}
    assert min(scores["delta"].values()) > 0.9 and scores["cat"] == scores["delta"]
    assert min(scores["average"].values()) < min(scores["delta"].values()) - 0.05
    assert trace["alone"]["the first alone"][0] > 0.9 > trace["alone"]["the first alone"][1]


def test_the_penalty_keeps_the_overlap_small_and_costs_the_new_task():
    trace = traces.story("subspaces", run=traces.TRAINED, lam=0.5, r=4, seed=0)
    overlap, new, old = ([line["values"] for line in chart["lines"]] for chart in trace["charts"])
    assert overlap[1][-1] < 0.05 * overlap[0][-1] and overlap[0][-1] > overlap[0][0]
    assert new[1][-1] < new[0][-1] and min(*old[0], *old[1]) > 0.85


def test_descending_by_hand():
    runs = [[step["runs"][i] for step in traces.by_hand()["steps"]] for i in range(2)]
    absolute, squared = ([now["overlap"] for now in run] for run in runs)
    assert absolute[0] == squared[0] == 1.4
    # each of .6 and .8 comes down by 0.1 a step, and swings by 0.1 once it is there
    assert absolute[:7] == pytest.approx([1.4 - 0.2 * t for t in range(7)], abs=1e-6)
    assert max(absolute[8:]) < 0.21
    # the squares shrink by 1 - 2 * 0.1
    assert squared == pytest.approx([1.4 * 0.8**t for t in range(17)], abs=1e-5)


def test_questions_have_their_answer_among_the_choices():
    for view, trace in (
        ("change", traces.story("change", of=traces.FIRST, epochs=20, seed=0)),
        ("change", traces.change(traces.RANDOM, 20, 0)), ("merge", traces.merge(traces.UNITS, 0.7, 0.5, 1, 0)),
        ("merge", traces.merge(traces.COPY, math.pi, 0.5, 1, 0)), ("subspaces", traces.by_hand()),
        ("subspaces", traces.story("subspaces", run=traces.TRAINED, lam=0.5, r=4, seed=0)),
    ):  # fmt: skip
        text, choices, truth, why = question(view, trace)
        assert text and why and truth in choices


@pytest.mark.parametrize(
    ("call", "name"),
    [(lambda: traces.change("third layer", 20, 0), "of"), (lambda: traces.two_adapters("three", 0, 0), "pair"),
     (lambda: traces.subspaces("a dream", 0.5, 4, 0), "run")],
)  # fmt: skip
def test_bad_settings(call, name):
    with pytest.raises(ValueError, match=name):
        call()


# --- what is shown ---------------------------------------------------------------------------------------


lowrank_page = functools.partial(open_lab_page, "lowrank")


def test_presets_show_what_they_say():
    app = lowrank_page()
    (data,) = given_to_players(app)
    assert data["trace"]["shows"] == "rank" and data["step"] == 0 and data["autoplay"]
    expected = {
        "Random numbers": ("rank", "rank 15 of 32 still leaves half of it"),
        "Average the factors": ("merge", "off by 0.707107"),
        "A turned copy": ("merge", "off by 0.117579"),
        "Real adapters": ("merge", "the first alone: 0.98 and 0."),
        "O-LoRA's penalty": ("overlap", "Σ |O| ends at 6.93 with λ = 0"),
        "Overlap by hand": ("overlap", "Σ |O| = 1.4, Σ O² = 1.0"),
        "Rank by rank": ("rank", "**Rank 3 of 32 is enough**"),
    }
    for label, (kind, text) in expected.items():
        press(app, label)
        (data,) = given_to_players(app)
        assert data["trace"]["shows"] == kind and data["step"] == 0 and text in shown(app), label
    assert "a saving up to r = 21" in shown(app) and "does not prevent forgetting" in shown(app)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        # at rank 16 the factors of a 32 x 32 change hold as many numbers as the change
        ({"lora_r": "32", "lora_layer": "second layer", "lora_epochs": "1"}, "a saving up to r = 15"),
        ({"lora_view": "Two adapters", "lora_w": "0.0", "lora_cut": "8"}, "nothing to average"),
        ({"lora_view": "Two adapters", "lora_pair": traces.COPY, "lora_angle": "π", "lora_cut": "1"}, "off by 1**"),
        ({"lora_view": "Two adapters", "lora_pair": traces.COPY, "lora_angle": "0"}, "identical factors hide"),
    ],
)
def test_sliders_at_their_ends(address, told):
    app = lowrank_page(**address)
    (data,) = given_to_players(app)
    assert told in shown(app) and not app.warning and "nan" not in shown(app) and "None" not in shown(app)
    assert data["step"] == int(address.get("lora_r", 0))
    # after one epoch the old task has lost nothing
    assert "does not prevent forgetting" not in shown(app)


@pytest.mark.parametrize(
    "address",
    [
        {"lora_r": "33", "lora_seed": "-3", "lora_colour": "red"},
        {"lora_lam": "-1", "lora_view": "O-LoRA"},
        {"lora_w": "nan", "lora_view": "Two adapters"},
    ],
)
def test_a_wrong_address_gets_a_sentence_and_defaults(address):
    app = lowrank_page(**address)
    (warning,) = app.warning
    assert all(key in warning.value for key in address if key != "lora_view") and len(given_to_players(app)) == 1


def test_the_guess_comes_before_the_players():
    app = lowrank_page()
    press(app, "Let me guess")
    assert not given_to_players(app) and "is enough" not in shown(app)
    next(group for group in app.button_group if group.key.startswith("lora_guess")).set_value("13 to 24").run()
    assert "You said 13 to 24: 3 to 5; rank 3 reaches" in shown(app) and len(given_to_players(app)) == 1
