"""The routing page: what it computes, and what it shows, with AppTest."""

import functools
import json

import pytest
import torch
from streamlit.testing.v1 import AppTest

from cllab.isolation import balance_loss, route, specialisation, token_task
from cllab.isolation.tokens import TOKENS
from cllab.player import validate_trace
from labs import routing_guides as guides
from labs import routing_traces as traces
from labs.routing_rules import DEFAULTS, FREE, describe, sensible, settings_key
from labs.routing_settings import PRESETS as BUTTONS
from tests.tools.pages import given_to_players, open_lab_page, shown

CURE = traces.CURE

# --- what is computed ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed() -> dict[str, dict]:
    return traces.committed()


def preset(committed: dict[str, dict], **settings) -> dict:
    return committed[settings_key(**settings)]


def usage(trace: dict, step: int = -1) -> list[list[int]]:
    """Kept assignments of each kind to each expert, counted one by one."""
    counts = [[0] * trace["experts"] for _ in trace["kinds"]]
    at = trace["steps"][step]
    for token, experts, kept in zip(trace["tokens"], at["expert"], at["kept"], strict=True):
        for e, ok in zip(experts, kept, strict=True):
            counts[token["kind"]][e] += ok
    return counts


def test_every_preset_has_a_committed_trace(committed):
    assert set(committed) == {settings_key(**settings) for settings in traces.PRESETS}
    for key, trace in committed.items():
        validate_trace(trace)
        settings = json.loads(key)
        assert (trace["experts"], trace["k"]) == (settings["experts"], settings["k"])
        assert trace["steps"][0]["step"] == 0 and trace["steps"][-1]["step"] == settings["steps"]
        assert [word["label"] for word in trace["line"]] == traces.TEXT.split()
        assert {word["kind"] for word in trace["line"]} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("settings", [{}, {"choice": "experts"}])
def test_committed_traces_are_what_training_gives(committed, settings):
    old, new = preset(committed, **settings), traces.train(**settings)
    assert {k: v for k, v in new.items() if k != "steps"} == {k: v for k, v in old.items() if k != "steps"}
    for then, now in zip(old["steps"], new["steps"], strict=True):
        assert now["step"] == then["step"]
        assert now["accuracy"] == pytest.approx(then["accuracy"], abs=0.02)
        assert now["losses"] == pytest.approx(then["losses"], abs=0.02)
        assert sum(abs(a - b) for a, b in zip(now["load"], then["load"], strict=True)) <= 4


def test_without_balance_loss_one_expert_gets_everything_and_with_it_each_gets_its_share(committed):
    collapse, cure = preset(committed)["steps"][-1], preset(committed, **CURE)["steps"][-1]
    assert sorted(collapse["load"]) == [0, 0, 0, 0, 40] and collapse["specialisation"] == 0
    assert min(cure["load"]) >= 6 and max(cure["load"]) <= 10
    assert cure["accuracy"] > collapse["accuracy"] + 0.05


def test_the_text_takes_one_colour_in_the_collapse_and_five_with_the_cure(committed):
    for settings, n_colours in ((({}), 1), (CURE, 5)):
        line = preset(committed, **settings)["steps"][-1]["line"]
        assert len({row[0] for row in line["expert"]}) == n_colours
        assert all(row.index(max(row)) == experts[0] for row, experts in zip(line["percent"], line["expert"], strict=True)
                   if sorted(row)[-1] > sorted(row)[-2])  # fmt: skip
        assert all(98 <= sum(row) <= 102 for row in line["percent"])


def test_with_the_balance_loss_each_kind_of_token_finds_an_expert_of_its_own(committed):
    trace = preset(committed, **CURE)
    counts = usage(trace)
    homes = [max(range(5), key=row.__getitem__) for row in counts]
    assert len(set(homes)) == 5 and all(row[home] >= 7 for row, home in zip(counts, homes, strict=True))
    assert trace["steps"][-1]["specialisation"] > 0.9


def test_specialisation_is_that_of_the_counts_in_the_picture(committed):
    for trace in (
        preset(committed, **CURE),
        preset(committed, choice="experts"),
        preset(committed, capacity_factor=1.0),
    ):
        for step in (0, 12, -1):
            expected = specialisation(torch.tensor(usage(trace, step)))
            assert trace["steps"][step]["specialisation"] == pytest.approx(expected, abs=1e-4)


def test_another_seed_specialises_with_other_experts(committed):
    first, second = (preset(committed, **CURE, steps=768, seed=seed) for seed in (0, 1))
    homes = [[max(range(5), key=row.__getitem__) for row in usage(trace)] for trace in (first, second)]
    assert homes[0] != homes[1]
    assert all(trace["steps"][-1]["specialisation"] > 0.7 for trace in (first, second))


def test_a_prior_gives_both_seeds_the_same_experts(committed):
    for seed in (0, 1):
        trace = preset(committed, guide="prior", seed=seed)
        assert usage(trace) == [[8 if e == kind else 0 for e in range(5)] for kind in range(5)]
        assert trace["steps"][-1]["accuracy"] > 0.95


def test_noise_alone_collapses_and_shazeers_loss_keeps_all_at_work(committed):
    alone, cure = (preset(committed, **traces.SHAKEN, balance=kind)["steps"][-1] for kind in ("none", "Shazeer loss"))
    assert max(alone["load"]) >= 36
    assert min(cure["load"]) >= 2 and max(cure["load"]) <= 16


def test_the_loss_free_bias_balances_without_a_term_in_the_loss(committed):
    trace = preset(committed, balance=FREE, strength=0.03)
    last = trace["steps"][-1]
    assert min(last["load"]) >= 5 and set(last["losses"]) == {"task"}
    assert trace["steps"][0]["bias"] == [0.0] * 5 and len(set(last["bias"])) > 1


def test_experts_that_choose_are_full_and_leave_tokens_out(committed):
    trace = preset(committed, choice="experts")
    assert trace["choice"] == "expert" and trace["capacity"] == 8
    for step in trace["steps"]:
        assert [sum(row.count(e) for row in step["expert"]) for e in range(5)] == [8] * 5 == step["load"]
    middle, last = trace["steps"][8], trace["steps"][-1]
    assert sum(not row for row in middle["expert"]) > 4 > sum(not row for row in last["expert"])


def test_a_hash_is_even_from_the_first_step_and_never_moves(committed):
    steps = preset(committed, guide="hash")["steps"]
    assert all(step["expert"] == steps[0]["expert"] and step["load"] == [8] * 5 for step in steps)
    assert steps[-1]["specialisation"] < 0.3
    assert steps[-1]["accuracy"] < preset(committed, **CURE)["steps"][-1]["accuracy"] - 0.05


def test_experts_that_were_taught_first_are_found_again_by_the_router(committed):
    steps = preset(committed, guide=traces.TAUGHT)["steps"]
    taught, left = steps[7], steps[9]  # a quarter of 33 frames
    assert taught["specialisation"] == 1 and taught["accuracy"] > 0.95
    assert left["accuracy"] < 0.7 and left["specialisation"] < 0.5
    assert steps[-1]["accuracy"] > 0.9 and steps[-1]["specialisation"] > 0.7


def test_both_runs_of_a_comparison_start_alike(committed):
    first, second = preset(committed)["steps"][0], preset(committed, **CURE)["steps"][0]
    assert first["expert"] == second["expert"] and first["accuracy"] == second["accuracy"]
    assert first["losses"]["task"] == second["losses"]["task"]
    assert "balance" not in first["losses"] and second["losses"]["balance"] > 0


def test_a_capacity_limit_drops_tokens_and_costs_accuracy(committed):
    free, tight = preset(committed), preset(committed, capacity_factor=1.0)
    assert tight["capacity"] == 8
    assert all(step["dropped"] == 0 for step in free["steps"])
    assert tight["steps"][-1]["dropped"] > 0
    assert tight["steps"][-1]["accuracy"] < free["steps"][-1]["accuracy"] - 0.05
    for step in tight["steps"]:
        kept = sum(sum(row) for row in step["kept"])
        assert kept + step["dropped"] == 40
        assert max(sum(row[0] == e and ok[0] for row, ok in zip(step["expert"], step["kept"], strict=True))
                   for e in range(5)) <= 8  # fmt: skip


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
    trace = traces.train(steps=32, **CURE, z=0.001, on_frame=heard.append)
    first = trace["steps"][0]
    assert first["losses"]["task"] == pytest.approx(1.5, abs=0.3)  # ln 4 = 1.386 for four classes
    assert first["accuracy"] == pytest.approx(0.25, abs=0.1)
    assert set(first["losses"]) == {"task", "balance", "z-loss"} == set(trace["formulas"])
    assert [step["step"] for step in trace["steps"]] == list(range(33))
    assert heard == pytest.approx([i / 32 for i in range(33)])


def test_guides_know_the_tokens():
    task = token_task(64, n_test=64)
    assert guides.owner_of(task.probe_x.double(), 3).tolist() == [kind % 3 for kind in task.probe_kind.tolist()]
    pi = guides.kind_prior(task.probe_x.double(), 5)
    assert pi.sum(dim=1).tolist() == pytest.approx([1.0] * len(TOKENS)) and pi[8].tolist().count(0.8) == 1
    weighed = guides.guide_of(DEFAULTS | {"guide": "prior", "tau": 2.0})(task.probe_x.double())["prior"]
    assert torch.allclose(weighed, pi**2)
    assert torch.equal(
        guides.guide_of(DEFAULTS | {"guide": "prior", "tau": 0.0})(task.probe_x)["prior"], torch.ones(40, 5)
    )
    hashes = [guides.guide_of(DEFAULTS | {"guide": "hash", "seed": seed})(task.probe_x)["expert"] for seed in (0, 1)]
    assert [torch.bincount(h[:, 0]).tolist() for h in hashes] == [[8] * 5] * 2 and not torch.equal(*hashes)


@pytest.mark.parametrize(
    ("settings", "changed", "word"),
    [
        ({"choice": "experts", **CURE}, {"balance": "none"}, "balanced by construction"),
        ({"choice": "experts", "balance": FREE}, {"balance": "none"}, "balanced by construction"),
        ({"choice": "experts", "z": 0.01}, {"z": 0.0}, "z-loss"),
        ({"choice": "experts", "noise": True}, {"noise": False}, "Noise"),
        ({"choice": "experts", "overflow": "reroute"}, {"overflow": "drop"}, "never asked in vain"),
        ({"choice": "experts", "guide": "hash"}, {"choice": "tokens"}, "hash decides alone"),
        ({"choice": "experts", "guide": traces.TAUGHT}, {"choice": "tokens"}, "taught first"),
        ({"guide": "hash", "noise": True}, {"noise": False}, "noise"),
        ({"guide": "hash", **CURE}, {"balance": "none"}, "does not learn"),
        ({"guide": "hash", "k": 2}, {"k": 1}, "one expert per token"),
        ({"guide": "hash", "capacity_factor": 1.0}, {"capacity_factor": None}, "no capacity"),
        ({"guide": traces.TAUGHT, "k": 2}, {"k": 1}, "one owner"),
        ({"balance": "Shazeer loss"}, {"noise": True}, "noise is switched on"),
        ({"overflow": "reroute"}, {"overflow": "drop"}, "drop and reroute are the same"),
        ({"k": 4, "experts": 2}, {"k": 2}, "k = 2 is used"),
    ],
)
def test_what_makes_no_sense_gives_way_with_a_sentence_and_then_trains(settings, changed, word):
    run, told = sensible(**settings)
    assert run == DEFAULTS | settings | changed
    assert any(word in sentence for sentence in told)
    assert sensible(**run) == (run, []), "what gave way stays as it is"
    validate_trace(traces.train(**run | {"steps": 4}))


@pytest.mark.parametrize("settings", [{**CURE, "noise": True}, {"guide": "prior", "choice": "experts", "tau": 4.0},
                                      {"guide": traces.TAUGHT, **CURE}, {"balance": FREE, "k": 3, "noise": True}])  # fmt: skip
def test_what_makes_sense_is_left_alone(settings):
    run, told = sensible(**settings)
    assert run == DEFAULTS | settings and told == []
    validate_trace(traces.train(**run | {"steps": 4}))


def test_settings_without_effect_do_not_make_another_run():
    assert settings_key(strength=1.0, tau=4.0) == settings_key()
    assert settings_key(**CURE, strength=1.0) != settings_key(**CURE)


def test_runs_are_named_by_what_they_do():
    names = {
        "5 experts, k = 1, no balancing": {},
        "5 experts, k = 2, CV2 loss α = 0.3, z-loss 0.001, capacity × 1.25, drop":
            {"k": 2, "balance": "CV2 loss", "strength": 0.3, "z": 0.001, "capacity_factor": 1.25},
        "5 experts, k = 1, experts choose, prior τ = 2": {"choice": "experts", "guide": "prior", "tau": 2.0},
        "5 experts, k = 1, hash": {"guide": "hash"},
        "5 experts, k = 1, loss-free bias γ = 0.03": {"balance": FREE, "strength": 0.03},
    }  # fmt: skip
    for name, settings in names.items():
        assert describe(sensible(**settings)[0]) == name


def test_curves_have_a_row_per_run_frame_and_quantity(committed):
    rows = traces.curves({"A": preset(committed), "B": preset(committed, **CURE)})
    assert {row["what"] for row in rows} == {"accuracy", "task", "balance"}
    assert len(rows) == 33 * 2 + 33 * 3


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"k": 6}, "k"), ({"experts": 0}, "n_experts"), ({"capacity_factor": -1.0}, "capacity_factor"),
     ({"overflow": "queue"}, "overflow"), ({**CURE, "strength": -0.1}, "alpha"), ({"steps": 0}, "steps"),
     ({"balance": "luck"}, "balance"), ({"choice": "nobodys"}, "choice"), ({"colour": "red"}, "colour")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(settings, name):
    with pytest.raises(ValueError, match=name):
        traces.train(**settings)


def test_unknown_settings_have_no_key():
    with pytest.raises(ValueError, match="colour"):
        settings_key(colour="red")


# --- what is shown ---------------------------------------------------------------------------------------


routing_page = functools.partial(open_lab_page, "routing")


def players(app: AppTest) -> list[dict]:
    """The traces that the players on the page were given."""
    return [data["trace"] for data in given_to_players(app)]


def test_it_opens_with_collapse_beside_its_cure():
    app = routing_page()
    titles = [trace["title"] for trace in players(app)]
    assert titles == ["A: 5 experts, k = 1, no balancing", "B: 5 experts, k = 1, Switch loss α = 0.1"]
    assert "trained beforehand" in shown(app) and "trained here" not in shown(app)
    assert len(app.get("vega_lite_chart")) == 2 and not app.info


def test_presets_need_no_training_and_show_what_they_say():
    app = routing_page()
    expected = {
        "Another seed": ["Switch loss α = 0.1", "Switch loss α = 0.1"],
        "Noise and Shazeer loss": ["Shazeer loss α = 0.1, noise", "no balancing, noise"],
        "Loss-free bias": ["loss-free bias γ = 0.03", "Switch loss α = 0.1"],
        "Experts choose": ["experts choose", "no balancing"],
        "Hash": ["k = 1, hash", "Switch loss α = 0.1"],
        "Prior": ["prior τ = 1, no balancing", "prior τ = 1, no balancing"],
        "Train, then freeze": ["train, then freeze, no balancing", "Switch loss α = 0.1"],
        "Capacity 1.0 drops tokens": ["no balancing, capacity × 1, drop", "α = 0.1, capacity × 1, drop"],
        "Reroute": ["capacity × 1, drop", "capacity × 1, reroute"],
        "Collapse and its cure": ["no balancing", "Switch loss α = 0.1"],
    }
    assert set(expected) | {"Let me guess"} == set(BUTTONS)
    for label, ends in expected.items():
        next(button for button in app.button if button.label == label).click().run()
        assert not app.exception and not app.info
        titles = [trace["title"] for trace in players(app)]
        assert len(titles) == len(ends) and all(t.endswith(e) for t, e in zip(titles, ends, strict=True)), titles
        assert "trained here" not in shown(app)
        assert ("bias b" in shown(app)) == (label == "Loss-free bias")
        assert ("seed 0 and 1" in shown(app)) == (label in ("Another seed", "Prior"))


def test_other_settings_train_once_and_are_then_kept():
    app = routing_page(moe_experts="2", moe_steps="128", moe_compare="nothing")
    assert "A: trained here in" in shown(app)
    assert players(app)[0]["experts"] == 2
    before = shown(app)
    app.run()
    assert shown(app) == before  # the same seconds: it was not trained again


def test_what_gave_way_is_told_and_b_follows_a():
    app = routing_page(moe_guide="hash", moe_noise="true", moe_k="2", moe_balance="Shazeer loss", moe_capacity="1.0")
    told = app.info[0].value
    assert all(word in told for word in ("k = 1 is used", "noise is left out", "balancing is left out", "no capacity"))
    assert [trace["title"][3:] for trace in players(app)] == ["5 experts, k = 1, hash",
                                                              "5 experts, k = 1, Switch loss α = 0.1"]  # fmt: skip


def test_more_choices_than_experts_is_explained():
    app = routing_page(moe_experts="2", moe_k="4", moe_steps="128", moe_compare="nothing")
    assert "cannot visit 4 different experts out of 2: k = 2 is used" in shown(app)
    assert players(app)[0]["k"] == 2


def test_rerouting_without_a_limit_is_explained():
    app = routing_page(moe_compare="rerouting")
    assert "B: Without a capacity limit" in shown(app)
    assert "B has the same settings as A" in shown(app)
    assert len(players(app)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("moe_experts", "99"), ("moe_k", "one"), ("moe_strength", "nan"), ("moe_capacity", "-1"),
     ("moe_overflow", "queue"), ("moe_seed", "-3"), ("moe_guide", "luck"), ("moe_balance", "0.1"), ("moe_tau", "-1")],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence_and_defaults(key, value):
    app = routing_page(**{key: value})
    assert any(key in warning.value for warning in app.warning)
    assert players(app)[0]["title"] == "A: 5 experts, k = 1, no balancing"


def test_the_guess_comes_before_the_players():
    app = routing_page(moe_predict="true")
    assert not players(app) and not app.get("vega_lite_chart")
    app.get_by_key("moe_guess_0").set_value(4).run()
    assert "You said 4: 1 of 5 experts still get tokens" in shown(app)
    assert len(players(app)) == 2
