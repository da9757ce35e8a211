"""Forgetting curves: what a race computes, the numbers below it, and the page's logic in AppTest."""

import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cllab.models import MLP
from cllab.player import validate_trace
from cllab.training import History, run
from labs import forgetting_streams
from labs.forgetting_metrics import as_csv, changes, metrics_of, verdict
from labs.forgetting_race import MOST_STEPS, Race, build_methods
from labs.forgetting_settings import CLAIMS, PRESETS
from labs.forgetting_streams import STREAMS, build_stream
from labs.job import Hold

APP = str(Path(__file__).resolve().parents[2] / "app.py")
SETTINGS = {
    "stream": "clusters", "scenario": "domain", "methods": ["fine-tuning", "experience replay", "EWC", "joint"],
    "capacity": 20, "rho": 0.5, "lam": 100, "anchors": "online", "ewc_step": "penalty", "fisher": "model",
    "fisher_rows": 400, "epochs": 2, "lr": 0.01, "batch": 20, "hidden": 8, "seed": 0, "device": "cpu", "tasks": 2,
    "angle": 180, "mix": 0.2, "rows": 500,
}  # fmt: skip
OFFLINE = [name for name in STREAMS if "MNIST" not in name]


def raced(ask_for: float = 0.0, **settings) -> Race:
    """A race run to its end, without a job."""
    race = Race(SETTINGS | settings, ask_for)
    for _ in race.events():
        pass
    return race


@pytest.fixture(scope="module")
def default_race() -> Race:
    """All four methods at the settings of the first visit."""
    return raced(epochs=10, hidden=32)


# --- what is computed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_a_race_gives_each_method_the_numbers_it_has_alone(scenario):
    race = raced(scenario=scenario, batch=40)
    stream = build_stream(SETTINGS | {"scenario": scenario})
    for name, lane in race.lanes.items():
        alone = run(
            MLP(2, [8], stream.n_classes, seed=0), stream, build_methods(name, SETTINGS),
            epochs=2, batch_size=40, lr=0.01, seed=0,
        )  # fmt: skip
        assert np.array_equal(lane.history.accuracy, alone.accuracy)
        assert [s.losses for s in lane.history.losses] == [s.losses for s in alone.losses]


def test_the_default_preset_shows_what_it_claims(default_race):
    first = {name: lane.history.accuracy[-1, 0] for name, lane in default_race.lanes.items()}
    assert first["fine-tuning"] < 0.6
    assert min(first["experience replay"], first["EWC"], first["joint"]) > 0.9


@pytest.mark.parametrize("stream", OFFLINE)
def test_every_stream_trains_and_plays(stream):
    race = raced(stream=stream, tasks=3, epochs=1, batch=64, methods=["fine-tuning", "experience replay"])
    trace = validate_trace(race.trace)
    assert race.finished and trace["kind"] == "run" and 2 <= len(trace["steps"]) <= 60
    plane = race.stream.in_features == 2
    assert (trace["extent"] is not None) == plane
    assert len(trace["runs"][0]["frames"][0].get("cells", "")) == (36 * 36 if plane else 0)
    assert len(json.dumps(trace)) < 1_000_000


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
@pytest.mark.parametrize("stream", ["digits, split", "digits, blurry"])
def test_digits_are_shared_evenly(stream, tasks):
    made = build_stream(SETTINGS | {"stream": stream, "tasks": tasks, "scenario": "class"})
    assert [task.name[:2] for task in made] == ["A:", "B:", "C:", "D:", "E:"][:tasks]
    assert made.n_classes == tasks * (10 // tasks)


def test_one_step_of_a_race_is_one_step_of_every_lane():
    race = Race(SETTINGS)
    events = race.events()
    for step in (1, 2, 3):
        assert next(events) == step == race.step
        assert {len(lane.history.losses) for lane in race.lanes.values()} == {step}
    events.close()
    assert not race.finished
    race.make_trace()
    assert validate_trace(race.trace)["steps"][-1]["step"] == 3


def test_a_race_waits_for_the_guess_once_after_the_first_task():
    race = Race(SETTINGS, ask_for=7)
    held = []
    for event in race.events():
        if isinstance(event, Hold):
            held.append((race.step, race.asking, event.seconds))
    assert held == [(race.boundaries[0], True, 7)]
    assert not race.asking


def test_the_loss_curve_is_the_mean_of_the_steps():
    lane = raced(methods=["EWC"]).lanes["EWC"]
    steps = [s.losses["task"] for s in lane.history.losses]
    assert lane.width == 1
    assert [v for _, term, v in lane.loss_curve() if term == "task"] == pytest.approx(steps)
    assert min(x for x, term, _ in lane.loss_curve() if term == "EWC") > len(steps) / 2
    lane.width, lane.losses = 4, []
    for step in lane.history.losses[:8]:
        lane.note(step)
    assert [v for _, _, v in lane.loss_curve()] == pytest.approx([np.mean(steps[:4]), np.mean(steps[4:8])])


def test_a_run_that_would_take_too_long_is_refused():
    with pytest.raises(ValueError, match=rf"the lab stops at {MOST_STEPS:,}"):
        raced(stream="digits, permuted", tasks=5, rows=60_000, epochs=30, batch=10)


# --- the numbers below -----------------------------------------------------------------------------------


def test_metrics_with_their_formulas_against_numbers_worked_by_hand():
    history = raced(methods=["fine-tuning"], tasks=3, stream="moons, rotated").lanes["fine-tuning"].history
    R, b = [[0.9, 0.3, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 1.0]], [0.1, 0.2, 0.3]
    rows = iter([b, *R])
    finals = {-1: next(rows), **{i: next(rows) for i in range(3)}}
    history.curve = [type(p)(p.task, tuple(finals[p.task]), p.step) for p in history.curve]
    found = {m.symbol: m for m in metrics_of(history)}
    assert {symbol: m.value for symbol, m in found.items()} == pytest.approx({
        "ACC": 2.2 / 3,  # (.5 + .7 + 1) / 3
        "AIA": (0.9 + 0.7 + 2.2 / 3) / 3,
        "BWT": -0.25,  # ((.5 - .9) + (.7 - .8)) / 2
        "F": 0.25,
        "FWT": 0.1,  # ((.3 - .2) + (.4 - .3)) / 2
    })  # fmt: skip
    assert found["BWT"].formula.endswith(r"\tfrac{1}{2}\left[(0.50 - 0.90) + (0.70 - 0.80)\right] = -0.25")
    assert found["ACC"].formula.endswith(r"\tfrac{1}{3}\left[0.50 + 0.70 + 1.00\right] = 0.73")
    assert found["FWT"].formula.endswith(r"\tfrac{1}{2}\left[(0.30 - 0.20) + (0.40 - 0.30)\right] = 0.10")
    assert not found["F"].more_is_better


def test_changes_between_two_runs():
    assert changes(SETTINGS, dict(SETTINGS)) == ""
    assert changes(SETTINGS | {"seed": 1, "methods": ["EWC"]}, SETTINGS | {"methods": ["joint", "EWC"]}) == (
        "methods joint + EWC → EWC, seed 0 → 1"
    )


def test_the_verdict_on_a_guess(default_race):
    kept = default_race.lanes["fine-tuning"].history.accuracy[-1, 0]
    assert "exactly right" in verdict(("fine-tuning", kept), default_race)
    assert "20 points less than you thought" in verdict(("fine-tuning", kept + 0.2), default_race)
    assert "1 point more than" in verdict(("fine-tuning", kept - 0.01), default_race)


def test_what_can_be_downloaded():
    race = raced(methods=["fine-tuning", "joint"])
    rows = list(csv.DictReader(io.StringIO(as_csv(race))))
    assert list(rows[0]) == ["method", "step", "learning", "task", "accuracy"]
    assert len(rows) == sum(2 * len(lane.history.curve) for lane in race.lanes.values())
    last = [float(r["accuracy"]) for r in rows if r["method"] == "joint"][-2:]
    history = History.from_json(race.lanes["joint"].history.to_json())
    assert last == history.accuracy[-1].tolist()
    assert history.settings["lab"] == race.settings and history.settings["method"] == "joint"


# --- the page --------------------------------------------------------------------------------------------


@pytest.fixture
def visit():
    """Function that opens the page with an address, at full speed, and stops its job after the test."""
    opened = []

    def open_(ask: bool = False, **query: str) -> AppTest:
        at = AppTest.from_file(APP, default_timeout=60)
        at.session_state["fc.speed"] = "full speed"
        for name, value in ({} if ask else {"fc_ask": "false"} | query).items():
            at.query_params[name] = value
        opened.append(at)
        return at.run()

    yield open_
    for at in opened:
        if "fc.job" in at.session_state:
            at.session_state["fc.job"].stop(wait=10)


def finish(at: AppTest, seconds: float = 60) -> Race:
    """Look at the page twice a second until its run has ended; there must be no exception on the way."""
    job, end = at.session_state["fc.job"], time.monotonic() + seconds
    over = False
    while not over and time.monotonic() < end:
        job.thread.join(0.5)
        over = job.ended
        at.run()
        assert not at.exception
    return at.session_state["fc.race"]


def preset(at: AppTest, label: str):
    return next(button for button in at.button if button.label == label)


def test_the_page_runs_by_itself_and_asks_for_a_guess(visit):
    at = visit(ask=True)
    assert at.title[0].value == "Forgetting curves" and not at.exception
    job, race = at.session_state["fc.job"], at.session_state["fc.race"]
    end = time.monotonic() + 60
    while job.poll() != "paused" and time.monotonic() < end:
        time.sleep(0.05)
    at.run()
    assert race.step == race.boundaries[0] and not at.metric
    at.slider(key="fc.guess").set_value(0.9).run()
    assert job.hold_seconds is None  # whoever thinks is not hurried
    at.button(key="fc_do_lock").click().run()
    assert finish(at) is race
    assert race.guess == ("fine-tuning", 0.9)
    assert any("You guessed **0.90**; fine-tuning kept **0.44**" in text.value for text in at.success)
    assert race.finished and list(race.lanes) == ["fine-tuning", "experience replay", "EWC"]
    assert len(at.get("vega_lite_chart")) == 7  # accuracy and loss per method, and the comparison
    assert len(at.metric) == 15
    assert "0.44 + 1.00" in at.metric[0].help
    assert len(at.get("download_button")) == 4
    assert not at.warning and not at.error


@pytest.mark.parametrize("label", PRESETS)
def test_a_preset_sets_everything_and_runs(visit, label):
    at = visit()
    at.slider(key="fc_hidden").set_value(5)
    preset(at, label).click().run()
    race = at.session_state["fc.race"]
    assert PRESETS[label].items() <= race.settings.items()
    assert race.settings["hidden"] == PRESETS[label].get("hidden", 32)
    assert race.settings["ask"] is False  # the visitor's choice, not the preset's
    assert any(CLAIMS[label] in text.value for text in at.markdown)
    assert not at.exception


def test_a_link_reproduces_the_run(visit):
    address = {"fc_scenario": "class", "fc_methods": ["EWC", "joint"], "fc_seed": "7", "fc_epochs": "2", "fc_lam": "10"}
    address["fc_batch"] = "64"
    one, two = finish(visit(**address)), finish(visit(**address))
    assert one.settings["seed"] == 7 and list(one.lanes) == ["EWC", "joint"] and one.settings["lam"] == 10
    for name in one.lanes:
        assert np.array_equal(one.lanes[name].history.accuracy, two.lanes[name].history.accuracy)


WRONG = {
    "fc_epochs": "abc", "fc_lr": "-3", "fc_stream": "zzz", "fc_methods": "SI", "fc_seed": "1e99999", "fc_rho": "nan",
    "fc_device": "tpu", "fc_scenario": "", "fc_hidden": "99999", "fc_ask": "perhaps", "fc_lam": "inf",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_address_gives_a_message_and_the_default(visit, name):
    at = visit(**{name: WRONG[name]})
    assert not at.exception
    assert len(at.warning) == 1 and f"`{name}={WRONG[name]}`" in at.warning[0].value
    assert name not in at.query_params
    defaults = {**SETTINGS, "epochs": 10, "hidden": 32, "methods": list(SETTINGS["methods"][:3]), "ask": True}
    assert at.session_state["fc.race"].settings[name[3:]] == defaults[name[3:]]


def test_all_wrong_at_once_and_unknown_names(visit):
    at = visit(**WRONG, fc_speed="9", epochs="3", herd_n="4", utm="x")
    assert not at.exception
    text = at.warning[0].value
    assert all(f"`{name}" in text for name in WRONG)
    assert "`fc_speed` is not a setting" in text and "`epochs` is called `fc_epochs`" in text
    assert "herd_n" not in text and "utm" not in text


def test_the_message_goes_when_a_preset_is_picked(visit):
    at = visit(fc_epochs="abc")
    preset(at, "Fine-tuning forgets").click().run()
    assert not at.warning


def test_changed_settings_wait_for_run(visit):
    at = visit(fc_epochs="1", fc_hidden="4")
    before = finish(at)
    at.slider(key="fc_hidden").set_value(6).run()
    assert at.session_state["fc.race"] is before
    assert any("Settings changed" in text.value for text in at.caption)
    at.button(key="fc_do_run").click().run()
    assert at.session_state["fc.race"].settings["hidden"] == 6
    after = finish(at)
    assert at.session_state["fc.previous"] is before and after is not before
    assert any("hidden 4 → 6" in text.value for text in at.caption)
    assert any(metric.delta for metric in at.metric)


def test_without_a_method_there_is_nothing_to_run(visit):
    at = visit(fc_epochs="1")
    finish(at)
    at.pills(key="fc_methods").set_value([]).run()
    assert at.button(key="fc_do_run").disabled
    assert any("Choose at least one method" in text.value for text in at.caption)
    assert not at.exception


def test_stop_leaves_what_there_is(visit):
    at = visit(fc_epochs="30", fc_batch="10")
    end = time.monotonic() + 60
    while at.session_state["fc.race"].step < 3 and time.monotonic() < end:
        time.sleep(0.05)
        at.run()
    at.button(key="fc_do_stop").click().run()
    race = finish(at)
    assert at.session_state["fc.job"].state == "stopped" and 0 < race.step < race.total
    assert any("stopped" in text.value for text in at.info)
    assert len(at.get("vega_lite_chart")) == 6 and not at.metric


def test_leaving_the_page_ends_its_job(visit):
    at = visit(fc_epochs="30", fc_batch="10")
    job = at.session_state["fc.job"]
    assert not job.ended
    at.switch_page("labs/herding.py").run()
    job.thread.join(10)
    assert not job.thread.is_alive() and job.state == "stopped"
    at.switch_page("labs/forgetting.py").run()
    assert not at.exception


def test_a_missing_data_set_is_a_sentence(visit, monkeypatch):
    def missing(name):
        raise FileNotFoundError(f"{name} is not on this machine: connect once, or download the four IDX files")

    monkeypatch.setattr(forgetting_streams, "_load", missing)
    at = visit(fc_stream="MNIST, split")
    finish(at)
    assert [error.value for error in at.error] == [
        "MNIST is not on this machine: connect once, or download the four IDX files."
    ]


def test_two_visitors_do_not_see_each_other(visit):
    one, two = visit(fc_seed="1", fc_epochs="2"), visit(fc_seed="2", fc_epochs="3")
    assert one.session_state["fc.job"] is not two.session_state["fc.job"]
    first, second = finish(one), finish(two)
    assert (first.settings["seed"], second.settings["seed"]) == (1, 2)
    assert (first.total, second.total) == (80, 120)


SLIDERS = ["capacity", "rho", "fisher_rows", "epochs", "hidden", "tasks", "angle", "mix", "lam", "lr", "batch", "rows"]


@pytest.mark.parametrize("name", SLIDERS)
def test_both_ends_of_every_slider_train(visit, name):
    query = {"fc_stream": "gaussians, rotated", "fc_methods": ["experience replay", "EWC"], "fc_epochs": "1"}
    if name == "epochs":
        query["fc_batch"] = "128"  # thirty of them are enough steps
    at = visit(**query)
    for end in (0, -1):
        if name in ("lam", "lr", "batch", "rows"):
            widget = at.select_slider(key=f"fc_{name}")
            widget.set_value(widget.options[end])
        else:
            widget = at.slider(key=f"fc_{name}")
            widget.set_value((widget.min, widget.max)[end])
        at.button(key="fc_do_run").click().run()
        race = finish(at)
        assert race.finished and race.settings[name] == float(widget.value) and not at.error


def test_every_slider_is_tried(visit):
    at = visit()
    found = {widget.key for widget in [*at.slider, *at.select_slider]}
    assert found == {f"fc_{name}" for name in SLIDERS}
