"""The routing page: what it computes, and what it shows, with AppTest."""

import functools
import json

import pytest
import torch
from streamlit.testing.v1 import AppTest

from cllab.isolation import balance_loss, route
from cllab.player import validate_trace
from labs import routing_traces as traces
from tests.tools.pages import open_lab_page, shown

# --- what is computed ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed() -> dict[str, dict]:
    return traces.committed()


def preset(committed: dict[str, dict], **settings) -> dict:
    return committed[traces.settings_key(**settings)]


def test_every_preset_has_a_committed_trace(committed):
    assert set(committed) == {traces.settings_key(**settings) for settings in traces.PRESETS}
    for key, trace in committed.items():
        validate_trace(trace)
        settings = json.loads(key)
        assert (trace["experts"], trace["k"]) == (settings["experts"], settings["k"])
        assert trace["steps"][0]["step"] == 0 and trace["steps"][-1]["step"] == settings["steps"]


@pytest.mark.parametrize("settings", [{}, {"capacity_factor": 1.0, "overflow": "reroute"}])
def test_committed_traces_are_what_training_gives(committed, settings):
    old, new = preset(committed, **settings), traces.train(**traces.DEFAULTS | settings)
    assert {k: v for k, v in new.items() if k != "steps"} == {k: v for k, v in old.items() if k != "steps"}
    for then, now in zip(old["steps"], new["steps"], strict=True):
        assert now["step"] == then["step"]
        assert now["accuracy"] == pytest.approx(then["accuracy"], abs=0.02)
        assert now["losses"] == pytest.approx(then["losses"], abs=0.02)
        assert sum(abs(a - b) for a, b in zip(now["load"], then["load"], strict=True)) <= 4


def test_without_balance_loss_experts_idle_and_with_it_none_does(committed):
    collapse, cure = preset(committed)["steps"][-1], preset(committed, alpha=0.1)["steps"][-1]
    assert collapse["load"].count(0) >= 2
    assert cure["load"].count(0) == 0 and max(cure["load"]) <= 16
    assert cure["accuracy"] > collapse["accuracy"] + 0.05


def test_with_the_balance_loss_each_kind_of_token_finds_an_expert_of_its_own(committed):
    trace = preset(committed, alpha=0.1)
    homes = set()
    for kind in range(4):
        experts = [row[0] for row, token in zip(trace["steps"][-1]["expert"], trace["tokens"], strict=True)
                   if token["kind"] == kind]  # fmt: skip
        home = max(range(4), key=experts.count)
        assert experts.count(home) >= 6
        homes.add(home)
    assert len(homes) == 4


def test_both_runs_of_a_comparison_start_alike(committed):
    first, second = preset(committed)["steps"][0], preset(committed, alpha=0.1)["steps"][0]
    assert first["expert"] == second["expert"] and first["accuracy"] == second["accuracy"]
    assert first["losses"]["task"] == second["losses"]["task"]
    assert first["losses"]["balance"] == 0.0 < second["losses"]["balance"]


def test_a_capacity_limit_drops_tokens_and_costs_accuracy(committed):
    free, tight = preset(committed), preset(committed, capacity_factor=1.0)
    assert tight["capacity"] == 8
    assert all(step["dropped"] == 0 for step in free["steps"])
    assert tight["steps"][-1]["dropped"] > 0
    assert tight["steps"][-1]["accuracy"] < free["steps"][-1]["accuracy"] - 0.05
    for step in tight["steps"]:
        kept = sum(sum(row) for row in step["kept"])
        assert kept + step["dropped"] == 32
        assert max(sum(row[0] == e and ok[0] for row, ok in zip(step["expert"], step["kept"], strict=True))
                   for e in range(4)) <= 8  # fmt: skip


def test_rerouting_places_every_token(committed):
    trace = preset(committed, capacity_factor=1.0, overflow="reroute")
    assert all(step["dropped"] == 0 for step in trace["steps"])
    assert any(step["wanted"] != step["expert"] for step in trace["steps"])
    drop = preset(committed, capacity_factor=1.0)
    assert trace["steps"][-1]["accuracy"] > drop["steps"][-1]["accuracy"] + 0.05


def test_switch_terms_are_the_balance_loss_taken_apart():
    logits = torch.randn(32, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in (1, 2):
        routing = route(logits, k)
        step = {
            "expert": routing.expert.tolist(), "load": routing.load.tolist(), "importance": routing.importance.tolist(),
        }  # fmt: skip
        terms = traces.switch_terms(step, 4)
        assert terms["value"] == pytest.approx(float(balance_loss("switch", logits, routing)), abs=1e-9)
        assert sum(terms["f"]) == pytest.approx(k) and sum(terms["P"]) == pytest.approx(1.0)
        assert terms["formula"].endswith(f"= {terms['value']:.3f}")


def test_losses_of_the_first_frame_are_those_of_the_untrained_model():
    heard = []
    trace = traces.train(steps=32, alpha=0.1, on_frame=heard.append)
    first = trace["steps"][0]
    assert first["losses"]["task"] == pytest.approx(1.5, abs=0.3)  # ln 4 = 1.386 for four classes
    assert first["accuracy"] == pytest.approx(0.25, abs=0.1)
    assert [step["step"] for step in trace["steps"]] == list(range(33))
    assert heard == pytest.approx([i / 32 for i in range(33)])


def test_curves_have_a_row_per_run_frame_and_quantity(committed):
    rows = traces.curves({"A": preset(committed), "B": preset(committed, k=2)})
    assert {row["what"] for row in rows} == {"accuracy", "task", "balance"}
    assert len(rows) == 2 * 33 * 3


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"k": 5}, "k"), ({"experts": 0}, "n_experts"), ({"capacity_factor": -1.0}, "capacity_factor"),
     ({"overflow": "queue"}, "overflow"), ({"alpha": -0.1}, "alpha"), ({"steps": 0}, "steps")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(settings, name):
    with pytest.raises(ValueError, match=name):
        traces.train(**settings)


def test_unknown_settings_have_no_key():
    with pytest.raises(ValueError, match="colour"):
        traces.settings_key(colour="red")


# --- what is shown ---------------------------------------------------------------------------------------


routing_page = functools.partial(open_lab_page, "routing")


def players(app: AppTest) -> list[dict]:
    """The traces that the players on the page were given."""
    found = [json.loads(part.proto.mixed.json if part.proto.HasField("mixed") else part.proto.json)
             for part in app.get("bidi_component") if part.proto.component_name.endswith("cllab_player")]  # fmt: skip
    return [data["trace"] for data in found]


def test_it_opens_with_collapse_beside_its_cure():
    app = routing_page()
    titles = [trace["title"] for trace in players(app)]
    assert titles == ["A: 4 experts, k = 1, no balance loss", "B: 4 experts, k = 1, balance loss α = 0.1"]
    assert "trained beforehand" in shown(app) and "trained here" not in shown(app)
    assert len(app.get("vega_lite_chart")) == 2


def test_presets_need_no_training_and_show_what_they_say():
    app = routing_page()
    expected = {
        "Balanced: α = 0.1": ["balance loss α = 0.1"],
        "Capacity 1.0 drops tokens": ["no balance loss, capacity × 1, drop", "α = 0.1, capacity × 1, drop"],
        "Reroute": ["capacity × 1, drop", "capacity × 1, reroute"],
        "k = 2": ["k = 2, no balance loss"],
        "Collapse and its cure": ["no balance loss", "balance loss α = 0.1"],
    }
    for label, ends in expected.items():
        next(button for button in app.button if button.label == label).click().run()
        assert not app.exception
        titles = [trace["title"] for trace in players(app)]
        assert len(titles) == len(ends) and all(t.endswith(e) for t, e in zip(titles, ends, strict=True)), titles
        assert "trained here" not in shown(app)


def test_other_settings_train_once_and_are_then_kept():
    app = routing_page(moe_experts="2", moe_steps="128", moe_compare="nothing")
    assert "A: trained here in" in shown(app)
    assert players(app)[0]["experts"] == 2
    before = shown(app)
    app.run()
    assert shown(app) == before  # the same seconds: it was not trained again


def test_more_choices_than_experts_is_explained():
    app = routing_page(moe_experts="2", moe_k="4", moe_steps="128", moe_compare="nothing")
    assert "cannot visit 4 different experts out of 2: k = 2 is used" in shown(app)
    assert players(app)[0]["k"] == 2


def test_rerouting_without_a_limit_is_explained():
    app = routing_page(moe_compare="rerouting")
    assert "drop and reroute are the same" in shown(app)
    assert "B has the same settings as A" in shown(app)
    assert len(players(app)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("moe_experts", "99"), ("moe_k", "one"), ("moe_alpha", "nan"), ("moe_capacity", "-1"), ("moe_overflow", "queue"),
     ("moe_seed", "-3"), ("moe_steps", "0"), ("moe_colour", "red")],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence_and_defaults(key, value):
    app = routing_page(**{key: value})
    assert any(key in warning.value for warning in app.warning)
    assert players(app)[0]["title"] == "A: 4 experts, k = 1, no balance loss"


def test_the_guess_comes_before_the_players():
    app = routing_page(moe_predict="true")
    assert not players(app) and not app.get("vega_lite_chart")
    app.get_by_key("moe_guess_0").set_value(4).run()
    assert "You said 4: 1 of 4 experts still get tokens" in shown(app)
    assert len(players(app)) == 2
