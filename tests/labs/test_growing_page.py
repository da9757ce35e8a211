"""The page of growing experts: its claims and its runs, and what it shows, with AppTest."""

import functools
import json
import re

import pytest
from streamlit.testing.v1 import AppTest

from cllab.player import validate_trace
from labs import growing_traces as traces
from labs.growing_words import each, table, tell
from tests.tools.pages import given_to_players, open_lab_page, press, shown


def preset(**settings) -> list[dict]:
    return traces.committed()[traces.settings_key(**settings)]


def ends(**settings) -> list[dict]:
    return traces.ends(preset(**settings))


# --- what is computed ------------------------------------------------------------------------------------


def test_every_preset_has_a_committed_run():
    assert set(traces.committed()) == {traces.settings_key(**settings) for settings in traces.PRESETS}
    for key, run in traces.committed().items():
        chosen = json.loads(key)
        made = validate_trace(traces.trace({"A": run}, {"A": chosen}))
        assert len(made["steps"]) == 4 * (traces.FRAMES + 1)
        assert run[-1]["born"] == [0] * 4 + [t for t in (1, 2, 3) for _ in range(chosen["n_new"])]


def test_a_committed_run_is_what_training_gives():
    """A run without copies that compete: between two equal scores rounding decides, and another machine's may differ."""
    settings = {"init": "silent", "quiet": 64}
    old, heard = preset(**settings), []
    new = traces.train(heard.append, **settings)
    assert heard[-1] == 1
    for then, now in zip(old, new, strict=True):
        assert [now[key] for key in ("stage", "step", "born", "frozen")] == [
            then[key] for key in ("stage", "step", "born", "frozen")
        ]
        assert now["accuracy"] == pytest.approx(then["accuracy"], abs=0.05)
        assert now["drift"] == pytest.approx(then["drift"], abs=0.1)


def test_with_kl_and_without():
    kl, plain = ends(), ends(lam=0.0)
    assert kl[0]["kept"] > plain[0]["kept"] + 0.2 and plain[0]["kept"] < 0.3
    assert kl[3]["kept"] < 0.6 and plain[3]["kept"] > 0.99
    assert kl[0]["learned"] == plain[0]["learned"] > 0.9  # the first stage is the same


def test_fine_tuning_learns_all_and_keeps_nothing():
    *old, last = ends(n_new=0)
    assert last["kept"] > 0.99 and all(end["kept"] < 0.3 for end in old)


def test_frozen_rows_do_not_freeze_routing():
    run = preset(lam=0.0)
    assert all(frame["moved"]["old"] == 0 for frame in run if frame["stage"])
    assert traces.ends(run)[0] == {**traces.ends(run)[0], "drift": 1.0, "newer": 1.0}


def test_strong_kl_holds_the_routing_and_keeps_new_things_out():
    held, loose = ends(lam=30.0), ends(lam=0.0)
    assert held[0]["drift"] < loose[0]["drift"] - 0.4 and held[0]["kept"] > 0.7
    assert all(end["kept"] < 0.4 for end in held[1:])


def test_a_silent_start_changes_nothing_and_a_copy_does():
    for k in (1, 2):
        silent = traces.arrivals(preset(init="silent", quiet=64, k=k))
        assert all(f["kl"] == f["mass"][-1] == f["drift"][-1] == f["newer"][-1] == 0 for f in silent)
        first = traces.arrivals(preset(k=k))[0]
        assert first["mass"][0] > 0.2 and first["kl"] > 0.01
        assert k == 1 or first["drift"][0] > 0.2


def test_without_freezing_old_experts_move_and_stage_1_keeps_no_less():
    loose = preset(freeze=False)
    assert max(frame["moved"]["old"] for frame in loose if frame["stage"]) > 0.5
    assert traces.ends(loose)[0]["kept"] > ends()[0]["kept"]


def test_settings_that_play_no_part_are_the_defaults():
    assert traces.settings_key(n_new=0, lam=30.0, init="random", freeze=False, noise=1.0) == traces.settings_key(
        n_new=0
    )
    assert traces.settings_key(quiet=64) == traces.settings_key() != traces.settings_key(init="silent")
    assert traces.describe(n_new=0) == "no growth, no KL, nothing frozen"
    assert traces.describe(n_new=2, init="silent", quiet=16) == "2 new experts per stage (silent for 16 steps), λ = 3"
    with pytest.raises(ValueError, match="settings must be among"):
        traces.settings_key(depth=3)
    for wrong in ({"order": "rivers"}, {"steps": 3}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            traces.train(**wrong)


def test_curves_and_words_by_hand():
    frame = {"drift": [], "newer": [], "mass": [], "kl": None, "moved": {"old": 0.0, "shared": 1.0}}
    later = {**frame, "drift": [0.5], "newer": [0.25], "mass": [0.125], "moved": {"old": 0.3, "shared": 1.0}}
    run = [
        {**frame, "stage": 0, "step": 0, "accuracy": [0.2, 0.3]}, {**frame, "stage": 0, "step": 9, "accuracy": [0.8, 0.3]},
        {**later, "stage": 1, "step": 9, "accuracy": [0.7, 0.3]}, {**later, "stage": 1, "step": 18, "accuracy": [0.4, 0.9]},
    ]  # fmt: skip
    assert traces.ends(run) == [
        {"learned": 0.8, "kept": 0.4, "drift": 0.5, "newer": 0.25}, {"learned": 0.9, "kept": 0.9, "drift": 0.0, "newer": 0.0}
    ]  # fmt: skip
    assert traces.arrivals(run) == [run[2]]
    assert traces.curves({"A": run})[-2:] == [("A", 18, "accuracy", pytest.approx(0.65)), ("A", 18, "moved", 0.5)]
    assert table({"A": run}, ["x", "y"]).splitlines()[2:] == [
        "| 1: x | 0.80 | 0.40 | 50% | 25% |", "| 2: y | 0.90 | 0.90 | – | – |"
    ]  # fmt: skip
    told = tell({"A": run}, {"A": {**traces.DEFAULTS, "freeze": False}})
    assert told.startswith("**Stage 1 keeps 0.40 of the accuracy 0.80 that it had; the last stage gets to 0.90.")
    assert "have 12% of the router's probability" in told and "by up to 0.30 in one stage" in told
    assert each({"A": "1", "B": "1"}) == "1" and each({"A": "1", "B": "2"}) == "1 (A), 2 (B)"


# --- what is shown ---------------------------------------------------------------------------------------


growing_page = functools.partial(open_lab_page, "growing")


def player(app: AppTest) -> dict | None:
    """The trace that the player on the page was given."""
    found = given_to_players(app)
    return validate_trace(found[0]["trace"]) if found else None


def test_presets_show_what_they_say_and_train_nothing():
    app = growing_page()
    assert [run["about"] for run in player(app)["runs"]] == [
        f"1 new expert per stage (copy), λ = {lam}" for lam in (3, 0)
    ]
    for label, runs in (
        ("Fine-tuning: no growth, no KL", ["no growth, no KL, nothing frozen", "1 new expert per stage (copy), λ = 3"]),
        ("Frozen rows do not freeze routing", ["1 new expert per stage (copy), λ = 0"]),
        ("KL holds the routing", [f"1 new expert per stage (copy), λ = {lam}" for lam in (30, 0)]),
        ("Silent start: nothing changes",
         ["1 new expert per stage (silent for 64 steps), λ = 3", "1 new expert per stage (copy), λ = 3"]),
        ("Copy: mass moves at once",
         ["1 new expert per stage (copy), λ = 3", "1 new expert per stage (silent for 64 steps), λ = 3"]),
        ("No freezing", [f"1 new expert per stage (copy), λ = 3{more}" for more in (", nothing frozen", "")]),
    ):  # fmt: skip
        press(app, label)
        assert [run["about"] for run in player(app)["runs"]] == runs, label
        assert "trained beforehand" in shown(app) and "trained here" not in shown(app)
        assert not app.info


def test_the_numbers_of_the_claims_are_those_of_the_runs():
    claims = {button.label: button.help for button in growing_page().button if button.help}
    first, held, plain = ends(), ends(lam=30.0), ends(lam=0.0)
    loose = max(frame["moved"]["old"] for frame in preset(freeze=False) if frame["stage"])
    copied = {k: traces.arrivals(preset(k=k))[0] for k in (1, 2)}
    for label, numbers in {
        "With KL and without": [f"{x:.2f}" for x in (first[0]["kept"], plain[0]["kept"], first[3]["kept"], plain[3]["kept"])],
        "Fine-tuning: no growth, no KL": [f"{ends(n_new=0)[3]['kept']:.2f}"],
        "KL holds the routing": [f"{100 * end[0]['drift']:.0f} %" for end in (held, plain)],
        "Silent start: nothing changes": [f"{100 * copied[1]['mass'][0]:.0f} %"],
        "Copy: mass moves at once": [f"{100 * copied[2]['drift'][0]:.0f} %"],
        "No freezing": [f"{loose:.2f}"],
    }.items():  # fmt: skip
        places = [claims[label].find(number) for number in numbers]
        assert places == sorted(places) and places[0] >= 0, (label, numbers, claims[label])


def test_the_guess_comes_before_the_player():
    app = growing_page()
    press(app, "Let me guess")
    assert player(app) is None and "All that is old is frozen, experts and router rows." in shown(app)
    guess = next(group for group in app.button_group if group.key.startswith("grow_guess"))
    guess.set_value("less than a quarter").run()
    assert not app.exception
    assert "You said less than a quarter: more than three quarters, 100%." in shown(app) and player(app) is not None


def test_settings_at_their_ends_train_what_is_new():
    app = growing_page(
        grow_n_new="4", grow_lam="30.0", grow_init="silent", grow_quiet="64", grow_freeze="false", grow_experts="2",
        grow_k="2", grow_order="words with language", grow_steps="32", grow_noise="1.0", grow_seed="999",
        grow_compare="no growth, no KL",
    )  # fmt: skip
    assert not app.warning and "A: trained here in" in shown(app) and "B: trained here in" in shown(app)
    assert [len(run["frames"][-1]["born"]) for run in player(app)["runs"]] == [10, 2]
    assert not {"nan", "inf"} & set(re.findall(r"\w+", shown(app).lower()))


def test_two_alike_are_shown_once_and_a_wrong_address_is_a_sentence():
    app = growing_page(grow_n_new="0", grow_lam="much")
    assert "`grow_lam=much`" in app.warning[0].value
    assert "B has the same settings as A" in app.info[0].value
    assert len(player(app)["runs"]) == 1
