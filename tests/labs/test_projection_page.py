"""The projection page: what it computes, and what it shows, with AppTest."""

import functools

import pytest
from streamlit.testing.v1 import AppTest

from cllab.models import MLP
from cllab.regularization import GEM
from cllab.training import run as run_all
from labs import projection_run as measured
from labs import projection_traces as traces
from labs.projection_charts import WRONG, cosine_rows, count_rows
from tests.tools.pages import given_to_players, open_lab_page, press, shown

# --- what is computed ------------------------------------------------------------------------------------


def test_the_table_of_answers_is_that_of_the_course():
    told = traces.answer_table(traces.trace((2, -1, 1, 1, -1, 1), 0.0, 0.0))
    assert "| A-GEM | (2, 0) | 2 ✓, **−2** ✗ | 1 | – |" in told
    assert "| GEM | (0.5, 0.5) | 1 ✓, 0 ✓ | 2.12132 | (0, 1.5) |" in told
    told = traces.answer_table(traces.trace((2, -1, 1, 1, -1, 1), 0.5, 1e-3))
    assert "| GEM | (1.00075, 0.99925) | 2 ✓, **−0.0015** ✗ | 2.23506 | (0.5, 1.49925) |" in told
    assert "| in turn | (−0.24, −0.48) | **−0.48** ✗, 0 ✓ |" in traces.answer_table(
        traces.trace((0, -1, 1, 0.5, -1, 0.5), 0.0, 0.0)
    )


@pytest.mark.parametrize(
    ("numbers", "margin", "place"),
    [
        ((1, 2, 1, 1), 0.0, "at g itself"), ((2, -1, 1, 1, -1, 1), 0.0, "on the edge of g₂"),
        ((0, -1, 1, 1, -1, 1), 0.0, "at the tip: u = 0"), ((2, -1, 1, 1, -1, 1), 0.5, "on the edge of g₂"),
        ((0, -0.1, 1, 1, -1, 1), 1.0, "inside the cone, not at g"), ((1, 0, 0, 0, -1, 0), 0.0, "at the tip: u = 0"),
    ],
)  # fmt: skip
def test_where_u_ends_is_among_the_answers(numbers, margin, place):
    trace = traces.trace(numbers, margin, 0.0)
    assert traces.place(trace) == place and place in traces.puzzle(trace)


def test_a_ridge_may_leave_the_cone_and_a_margin_changes_the_rule():
    trace = traces.trace((2, -1, 1, 1, -1, 1), 0.5, 1e-3)
    assert traces.place(trace) == traces.OUTSIDE and traces.OUTSIDE in traces.puzzle(trace)
    assert "adds γ of every row" in trace["steps"][-1]["text"]
    # g + 0.5 (g_1 + g_2) = (2, 0), whose nearest point of the cone is (1, 1)
    assert traces.trace((2, -1, 1, 1, -1, 1), 0.5, 0.0)["gem"]["u"] == [1, 1]
    assert traces.trace((2, 0, 1, 1, -1, 1), 0.0, 0.0)["gem"]["u"] == [1, 1]
    assert "adds 0.5 of every row" in traces.rule(0.5, 0.0) and "ridge" not in traces.rule(0.5, 0.0)


@pytest.fixture(scope="module")
def finished() -> measured.Run:
    run = measured.Run("split digits", 0.1, 0.5, 16, 0)
    steps = list(run.events())
    assert steps == list(range(1, run.total + 1)) and run.finished
    return run


def test_gem_leaves_no_task_violated_and_the_others_do(finished):
    later = finished.total - finished.boundaries[0]
    for name, lane in finished.lanes.items():
        assert len(lane.angles) == later and len(lane.history.accuracy) == 5
        assert sum(a.violated > 0 for a in lane.angles) > later / 4
        assert all(a.after >= a.before - 1e-6 for a in lane.angles) or name == "A-GEM"
    assert all(a.still == 0 for a in finished.lanes["GEM"].angles)
    assert all((a.before, a.violated) == (a.after, a.still) for a in finished.lanes["fine-tuning"].angles)
    still = sum(a.still > 0 for a in finished.lanes["A-GEM"].angles)
    assert 0 < still < sum(a.violated > 0 for a in finished.lanes["A-GEM"].angles)


def test_watching_changes_nothing(finished):
    """The run with watches before and behind GEM is the run of GEM alone, bit for bit."""
    stream = measured.build_stream("split digits", 0)
    model = MLP(64, [measured.HIDDEN], 10, seed=0)
    options = {"epochs": 1, "batch_size": measured.BATCH, "lr": 0.1, "optimizer": "sgd", "seed": 0}
    alone = run_all(model, stream, [GEM(16, 0.5)], **options)
    assert (alone.accuracy == finished.lanes["GEM"].history.accuracy).all()
    noted = [step.info["cosine"] for step in alone.losses if step.info]
    assert noted == pytest.approx([a.before for a in finished.lanes["GEM"].angles], abs=1e-6)


def test_rows_of_the_charts(finished):
    lane = finished.lanes["A-GEM"]
    rows = cosine_rows(lane.angles)
    assert len(rows) == 2 * len(lane.angles)
    assert sum(kind == WRONG for _, kind, *_ in rows) == sum(a.still > 0 for a in lane.angles)
    binned = {(start, kind): tasks for start, kind, tasks in count_rows(lane.angles, finished.total)}
    by_step = {a.step: a.still for a in lane.angles}
    assert binned[40, WRONG] == (by_step[41] + by_step[42]) / 2  # 75 steps in bins of two
    assert binned[74, WRONG] == by_step[75] and (0, WRONG) not in binned


def test_bad_settings():
    with pytest.raises(ValueError, match="stream"):
        measured.Run("a river", 0.1, 0.5, 16, 0)
    with pytest.raises(ValueError, match="lr"):
        measured.Run("split digits", -0.1, 0.5, 16, 0)


# --- what is shown ---------------------------------------------------------------------------------------


projection_page = functools.partial(open_lab_page, "projection")


def players(app: AppTest) -> list[dict]:
    """The traces that the players on the page were given."""
    return [data["trace"] for data in given_to_players(app)]


def test_presets_are_the_worked_examples():
    app = projection_page()
    assert "| A-GEM | (2, 0) | 2 ✓, **−2** ✗ |" in shown(app)
    expected = {
        "One row": "| GEM | (0.5, 0.5) | 0 ✓ | 0.70711 | (0.5) |",
        "No step at all": "| GEM | (0, 0) | 0 ✓, 0 ✓ | 1 | (0.5, 0.5) |",
        "In turn fails": "| in turn | (−0.24, −0.48) | **−0.48** ✗, 0 ✓ |",
        "In turn goes too far": "| in turn | (1, −1) | 1 ✓, 0 ✓ | 2.23607 |",
        "Margin 0.5": "| GEM | (1, 1) | 2 ✓, 0 ✓ | 2.23607 | (0.5, 1.5) |",
        "Margin and ridge": "| GEM | (1.00075, 0.99925) | 2 ✓, **−0.0015** ✗ |",
        "The mean hides a row": "| GEM | (0.5, 0.5) | 1 ✓, 0 ✓ | 2.12132 | (0, 1.5) |",
    }
    for label, text in expected.items():
        press(app, label)
        assert text in shown(app), label
        assert len(players(app)[0]["steps"]) == 4


def test_the_guess_comes_before_the_answers():
    app = projection_page()
    press(app, "Let me guess")
    assert "| GEM |" not in shown(app) and len(players(app)[0]["steps"]) == 1
    guess = next(group for group in app.button_group if group.key.startswith("proj_guess"))
    guess.set_value("on the edge of g₁").run()
    assert "You said on the edge of g₁: it ends on the edge of g₂." in shown(app)
    assert "| GEM | (0.5, −0.5) |" in shown(app) and len(players(app)[0]["steps"]) == 4


@pytest.mark.parametrize(
    "address",
    [
        {"proj_rows": "3", "proj_margin": "1.0", "proj_ridge": "true", "proj_cx": "3", "proj_cy": "-3"},
        {"proj_rows": "1", "proj_ax": "0", "proj_ay": "0", "proj_margin": "1.0"},
        {"proj_gx": "0", "proj_gy": "0", "proj_rows": "2", "proj_bx": "1", "proj_by": "1"},
    ],
)
def test_sliders_at_their_ends(address):
    app = projection_page(**address)
    assert len(players(app)) == 1 and not app.warning and "nan" not in shown(app)
    assert len(players(app)[0]["constraints"]) == int(address["proj_rows"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("proj_gx", "3.5"), ("proj_gy", "nan"), ("proj_rows", "4"), ("proj_seed", "-3"), ("proj_colour", "red")],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence_and_defaults(key, value):
    address = {"proj_view": "A real run", "proj_guess": "true"} if key == "proj_seed" else {}
    app = projection_page(**address, **{key: value})
    assert any(key in warning.value for warning in app.warning)
    if not address:
        assert players(app)[0]["gradient"] == [2, -1]


def test_the_real_run_asks_before_it_shows():
    app = projection_page(proj_view="A real run", proj_guess="true", proj_stream="split digits")
    assert "In which share of its steps" in shown(app) and not app.get("vega_lite_chart")
    job = app.session_state["proj.job"]
    while job.poll() == "running" or job.state == "queued":  # as a browser would; the thread ends by itself
        job.thread.join(0.2)
    assert job.state == "finished"
    next(group for group in app.button_group if group.key.startswith("proj_share")).set_value(0.1).run()
    assert not app.exception
    assert len(app.get("vega_lite_chart")) == 9 and "of A-GEM's steps violate at least one past task." in shown(app)
    assert "| GEM |" in shown(app)
