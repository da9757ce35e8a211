"""The page of progressive columns: its claims and counts, and what it shows, with AppTest."""

import functools
import json
import re

import pytest
import torch
from streamlit.testing.v1 import AppTest

from cllab.player import validate_trace
from labs import columns_traces as traces
from labs.columns_growth import KINDS, grown
from tests.tools.pages import given_to_players, open_lab_page, press, shown

NAMES, TURNED, SHUFFLED, PAIRS = traces.TASKS


def preset(**settings) -> dict:
    return traces.committed()[traces.settings_key(**settings)]


def mean(trace: dict, name: str) -> float:
    _, *later = traces.ends(trace)
    return sum(end[name] for end in later) / len(later)


# --- what is computed ------------------------------------------------------------------------------------


def test_every_preset_has_a_committed_trace():
    assert set(traces.committed()) == {traces.settings_key(**settings) for settings in traces.PRESETS}
    for key, trace in traces.committed().items():
        settings = json.loads(key)
        validate_trace(trace)
        assert len(trace["tasks"]) == settings["columns"] and trace["laterals"] == settings["laterals"]
        assert all(step["moved"] == 0 for step in trace["steps"])
    assert traces.settings_key(width=5) == traces.settings_key()  # linear laterals have no width


def test_a_committed_trace_is_what_training_gives():
    settings = {"tasks": PAIRS, "rows": 10}
    old, new = preset(**settings), traces.train(**traces.DEFAULTS | settings)
    assert {k: v for k, v in new.items() if k != "steps"} == {
        **{k: v for k, v in old.items() if k != "steps"}, "brightest": pytest.approx(old["brightest"], rel=0.01)
    }  # fmt: skip
    for then, now in zip(old["steps"], new["steps"], strict=True):
        assert (now["task"], now["step"]) == (then["task"], then["step"])
        assert now["accuracy"] == pytest.approx(then["accuracy"], abs=0.05)
        assert now["own"] == pytest.approx(then["own"], rel=0.02)


def test_reading_helps_where_only_the_names_changed():
    for settings in ({}, {"rows": 300}, {"columns": 5}):
        trace = preset(**settings)
        assert mean(trace, "with") > mean(trace, "alone") + 0.05
        assert mean(trace, "cut") < mean(trace, "with") - 0.2
    few, many = preset(), preset(rows=300)
    assert mean(many, "alone") > mean(few, "alone") + 0.1
    assert mean(few, "with") > mean(preset(laterals="adapter"), "with") > mean(few, "alone") + 0.02


def test_strong_laterals_that_bring_hardly_anything():
    trace = preset(tasks=SHUFFLED, rows=100)
    assert mean(trace, "share") > 0.25 and abs(mean(trace, "with") - mean(trace, "alone")) < 0.06


def test_the_first_column_is_a_plain_network():
    for trace in traces.committed().values():
        first = traces.ends(trace)[0]
        assert first["with"] == first["alone"] == first["cut"] and first["share"] == 0


@pytest.mark.parametrize("tasks", traces.TASKS)
def test_streams(tasks):
    stream = traces.make_stream(tasks, 10, 3, 1)
    assert len(stream) == 3 and stream.scenario == "task"
    assert [len(task.y) for task in stream] == [300, 300, 300]
    assert [len(task.x.unique(dim=0)) <= 10 for task in stream] == [False, True, True]
    longer = traces.make_stream(tasks, 10, 5, 1)
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(stream, longer, strict=False))
    assert not torch.equal(stream[1].x, traces.make_stream(tasks, 10, 3, 2)[1].x)


def test_only_the_names_change():
    first, second, _ = traces.make_stream(NAMES, 50, 3, 0)
    assert torch.equal(first.x_test, second.x_test) and not torch.equal(first.y_test, second.y_test)
    exchanged = {(int(a), int(b)) for a, b in zip(first.y_test, second.y_test, strict=True)}
    assert len(exchanged) == 10


def test_growth_is_the_course_s_table():
    rows = grown((784, 100, 100, 10), 5, 20)
    assert [row[KINDS[0]][0] for row in rows] == [89_610, 190_220, 301_830, 424_440, 558_050]
    assert [row[KINDS[1]][0] for row in rows] == [89_610, 185_420, 285_230, 389_040, 496_850]
    assert [row[KINDS[2]][0] for row in rows] == [89_610 * K for K in range(1, 6)]
    assert [row[KINDS[3]][0] for row in rows] == [88_600 + 1_010 * K for K in range(1, 6)]
    costs = [row[KINDS[0]][1] for row in rows]
    assert costs[0] == 89_400 and all(late > 2 * costs[0] for late in costs[2:])


@pytest.mark.parametrize("arguments", [("rivers", 20, 3, 0), (NAMES, 9, 3, 0), (NAMES, 20, 6, 0), (NAMES, 20, 1, 0)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"(tasks|rows|columns) must be"):
        traces.make_stream(*arguments)
    with pytest.raises(ValueError, match="settings must be among"):
        traces.settings_key(depth=3)


# --- what is shown ---------------------------------------------------------------------------------------


columns_page = functools.partial(open_lab_page, "columns")


def player(app: AppTest) -> dict | None:
    """The trace that the player on the page was given."""
    found = given_to_players(app)
    return validate_trace(found[0]["trace"]) if found else None


def test_presets_show_what_they_say():
    app = columns_page()
    assert player(app)["title"] == "3 columns, other names, 20 rows for each new task, linear laterals"
    assert re.search(
        r"Columns 2 and 3, mean: 0\.\d\d with laterals, 0\.\d\d trained without them: \+\d+ points", shown(app)
    )
    assert "| 5 | 10 | 558,050 | 6.23 | 496,850 (20) | 448,050 | 93,650 |" in shown(app)
    for label, tasks in (("Nothing worth reading", SHUFFLED), ("Narrow adapters", "adapters of width 3"),
                         ("Five columns", "5 columns"), ("Pairs of digits", PAIRS)):  # fmt: skip
        press(app, label)
        assert tasks in player(app)["title"], label
        assert "Trained beforehand" in shown(app)


def test_the_guess_comes_before_the_player():
    app = columns_page()
    press(app, "Let me guess")
    assert player(app) is None and "How does a new column that reads the old ones do" in shown(app)
    guess = next(group for group in app.button_group if group.key.startswith("col_guess"))
    guess.set_value("within 5 points").run()
    assert not app.exception
    assert "You said within 5 points: more than 5 points better, +" in shown(app) and player(app) is not None


def test_sliders_at_their_ends_train_what_is_new():
    app = columns_page(col_columns="2", col_rows="10", col_laterals="adapter", col_width="1", col_seed="999",
                       col_most="20", col_m="100", col_sizes="784-400-400-10")  # fmt: skip
    assert not app.warning and len(player(app)["tasks"]) == 2
    assert "Trained here in" in shown(app) and "**Column 2: 0." in shown(app)
    assert "| 20 | 190 |" in shown(app) and not {"nan", "inf"} & set(re.findall(r"\w+", shown(app).lower()))


def test_a_wrong_address_is_a_sentence():
    app = columns_page(col_rows="many", col_tasks="three")
    assert "`col_rows=many`" in app.warning[0].value and "`col_tasks=three`" in app.warning[0].value
    assert player(app) is not None
