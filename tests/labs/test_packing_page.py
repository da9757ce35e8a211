"""The packing page: its claims, what it computes and what it shows, with AppTest."""

import functools
import re

import pytest
from streamlit.testing.v1 import AppTest

from cllab.isolation import CapacityError, PackNet
from cllab.models import MLP
from cllab.player import validate_trace
from cllab.training import run
from labs import packing_traces as traces
from labs.packing_layer import room_table
from tests.tools.pages import given_to_players, open_lab_page, press, shown

DEFAULT, MASKED, FULL = (traces.settings_key(**preset) for preset in traces.PRESETS)

# --- what is computed ------------------------------------------------------------------------------------


def test_committed_layers_are_what_training_gives():
    """The smallest of them anew: the same owners but for a few ties in rounding, the same accuracies."""
    assert set(traces.committed()) == {DEFAULT, MASKED, FULL}
    old, new = traces.committed()[FULL], traces.finished(traces.layer(**traces.DEFAULTS | traces.PRESETS[2]))
    validate_trace(old)
    assert [step["phase"] for step in old["steps"]] == [step["phase"] for step in new["steps"]]
    assert traces.counts(old) == traces.counts(new)
    for was, now in zip(old["steps"], new["steps"], strict=True):
        same = sum(a == b for a, b in zip(was["owner"], now["owner"], strict=True)) / len(was["owner"])
        assert same > 0.98
        assert now["reads"] == pytest.approx(was["reads"], abs=0.03)


def test_claims_about_the_layers():
    default, masked, full = (validate_trace(traces.committed()[key]) for key in (DEFAULT, MASKED, FULL))
    assert traces.counts(default) == [243, 768, 192, 144, 108, 81] and sum(traces.counts(default)[1:]) == 1293
    last = default["steps"][-1]
    assert last["moved"] == [0] * 5 and last["own"][-1] < 0.6 < 0.85 < last["reads"][-1]
    assert traces.learned(default) == last["reads"]  # nothing is forgotten
    then, now = traces.learned(masked)[1], masked["steps"][-1]["reads"][1]
    assert (round(then, 3), round(now, 3)) == (0.986, 0.903) and masked["steps"][-1]["moved"][1] > 0.5
    learned = traces.learned(full)
    assert learned == full["steps"][-1]["reads"] and learned[-1] < learned[0] - 0.2
    trains = [step for step in full["steps"] if step["phase"] == "train"]
    assert len(full["steps"][0]["owner"]) == 512 and trains[-1]["owner"].count("0") == 61


def test_the_cut_over_all_weights_starves_the_second_task():
    assert traces.threshold_over_all((0.6, 0.75, 1.0)) == 0  # the three largest of ten are task 1's
    assert traces.threshold_over_all((0.1, 1.0, 1.0)) == 8  # nine are kept, and task 1's 0.9 is among them
    assert traces.threshold_over_all((1.0, 1.0, 1.0)) == 0


def test_room_and_refusal_are_those_of_a_run():
    for keep, units, stream in (((1.0, 0.5), 4, 0), ((0.5, 0.25), 4, 0), ((0.9, 1.0), 8, 1)):
        tasks = traces.make_stream(traces.STREAMS[stream], 0)
        n, text = traces.room(keep, units, len(tasks)), traces.refusal(keep, units, traces.STREAMS[stream])
        if n == len(tasks):
            assert text == ""
            continue
        with pytest.raises(CapacityError, match=re.escape(text)):
            run(MLP(64, [units], tasks.n_classes), tasks, [PackNet(keep)])
        assert f"no free weight for task {n + 1} of {len(tasks)}" in text


def test_who_moves_a_frozen_weight_farthest():
    assert traces.farthest(traces.frozen_weight()) == (["SGD, momentum 0.9 kept"], pytest.approx(-0.4878))
    # without momentum the two with weight decay win, and move it alike
    names, change = traces.farthest(traces.frozen_weight(momentum=0.0, decay=1.0))
    assert names == ["SGD, weight decay 1", "AdamW, weight decay 1"] and change == pytest.approx(0.9**3 - 1)
    assert "for 1 step with" in traces.frozen_weight(1)["title"]


def test_with_gradient_0_alone_weight_decay_is_what_moves_frozen_weights():
    """The claim of the page's help: every task begins with a new optimiser, and so without momentum."""
    settings = traces.DEFAULTS | {"freeze": traces.FREEZES[1], "units": 4, "first": 0.9, "later": 0.5}
    moved = [max(traces.finished(traces.layer(**settings | {"decay": d}))["steps"][-1]["moved"]) for d in (0.0, 0.005)]
    assert moved[0] == 0 < moved[1]


def test_the_table_of_room():
    table = room_table({"first": 0.5, "later": 0.25, "units": 24})
    assert "| owns | 768 | 192 | 144 | 108 | 81 | 61 | 46 | 34 |" in table
    assert "| free after it | 768 | 576 | 432 | 324 | 243 | 182 | 136 | 102 |" in table


@pytest.mark.parametrize(
    ("call", "named"),
    [(lambda: traces.make_stream("rivers", 0), "stream"), (lambda: traces.settings_key(colour=1), "colour"),
     (lambda: traces.layer(**traces.DEFAULTS | {"freeze": "ice"}), "freeze")],
)  # fmt: skip
def test_bad_settings_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


# --- what is shown ---------------------------------------------------------------------------------------


packing_page = functools.partial(open_lab_page, "packing")


def trace_of(app: AppTest) -> dict | None:
    """The trace that the player on the page was given."""
    found = given_to_players(app)
    return validate_trace(found[0]["trace"]) if found else None


def test_every_preset_shows_what_it_says():
    app = packing_page()
    assert trace_of(app)["shows"] == "weights"
    assert "Owner map [1, 2, 1, 1, 3, 1, 2, 1, 2, 1].** Owned: 6 + 3 + 1, free: 0. Read: 6, 9, 10." in shown(app)
    assert "M₂ alone task 2 would use 3 of its 9 weights" in shown(app)
    assert "it would be left with 0 instead of 3" in shown(app)
    expected = {
        "Everything for task 1": ("weights", "CapacityError: w has no free weight left for task 2: all 10 are owned."),
        "Half, half, half": ("weights", "Owned: 5 + 3 + 1, free: 1."),
        "Digits in one layer": ("layer", "The last task owns 81 weights and reads 1293"),
        "Frozen by gradient 0": ("layer", "task 2 fell from 0.986 to 0.903"),
        "Running out": ("layer", "No frozen weight has moved"),
        "Three leaks": ("drift", "Farthest: SGD, momentum 0.9 kept, by −0.488."),
        "A long freeze": ("drift", "Farthest: SGD, momentum 0.9 kept, by −1.8."),
        "Ten weights by hand": ("weights", "Read: 6, 9, 10."),
    }
    for label, (shows, text) in expected.items():
        press(app, label)
        assert trace_of(app)["shows"] == shows and text in shown(app), label


def test_a_layer_nobody_has_trained_yet_without_room_for_all():
    app = packing_page(pack_view="A real layer", pack_units="4", pack_first="1.0", pack_seed="3")
    assert "CapacityError: keep=(1.0, 0.25) leaves no free weight for task 2 of 5: all 256 are owned" in shown(app)
    assert "Shown: the first task." in shown(app)
    assert trace_of(app)["tasks"] == ["0/1"] and traces.counts(trace_of(app)) == [0, 256]


@pytest.mark.parametrize(
    "address",
    [
        {"pack_r1": "0.05", "pack_r2": "0.05", "pack_r3": "0.05"},
        {"pack_r1": "0.95", "pack_r2": "1.0"},
        {"pack_view": "A frozen weight", "pack_steps": "300", "pack_lr": "1.0", "pack_momentum": "0.99",
         "pack_wd": "1.0"},
        {"pack_view": "A frozen weight", "pack_steps": "1", "pack_lr": "0.001", "pack_momentum": "0.0",
         "pack_wd": "0.0"},
        {"pack_view": "A real layer", "pack_units": "4", "pack_first": "0.05", "pack_later": "0.05",
         "pack_freeze": "gradient 0", "pack_decay": "0.05"},
    ],
)  # fmt: skip
def test_every_slider_at_its_end(address):
    app = packing_page(**address)
    assert not app.warning and trace_of(app)
    assert not {"nan", "inf"} & set(re.findall(r"\w+", shown(app).split("What to look for")[1].lower()))


@pytest.mark.parametrize(
    ("view", "answer", "verdict"),
    [("Ten weights", 3, "You said 3: 9. Its own and those of task 1"), ("A real layer", "much worse", "Right"),
     ("A frozen weight", "none", "You said none: SGD, momentum 0.9 kept. Moved by −0.488.")],
)  # fmt: skip
def test_the_guess_comes_before_the_player(view, answer, verdict):
    app = packing_page(pack_view=view, pack_predict="true")
    assert trace_of(app) is None
    next(group for group in app.button_group if group.key.startswith("pack_guess")).set_value(answer).run()
    assert not app.exception and verdict in shown(app) and trace_of(app) is not None


def test_of_two_that_tie_each_is_right():
    app = packing_page(pack_view="A frozen weight", pack_predict="true", pack_momentum="0.0", pack_wd="1.0")
    group = next(group for group in app.button_group if group.key.startswith("pack_guess"))
    group.set_value("AdamW, weight decay 1").run()
    assert "Right: SGD, weight decay 1 and AdamW, weight decay 1. Moved by −0.271." in shown(app)


def test_a_wrong_address_is_a_sentence():
    app = packing_page(pack_r1="half", pack_view="Sky", pack_colour="red")
    for wrong in ("`pack_r1=half`", "`pack_view=Sky`", "`pack_colour`"):
        assert wrong in app.warning[0].value
    assert trace_of(app)["shows"] == "weights"
