"""The page of elastic weights: its claims and worked numbers, and what it shows, with AppTest."""

import functools
import re

import pytest
import torch
from streamlit.testing.v1 import AppTest

from cllab.player import validate_trace
from labs import elastic_numbers as numbers
from labs import elastic_traces as traces
from labs.elastic_tables import held
from tests.tools.pages import given_to_players, open_lab_page, press, shown

IDLE, LEANING, WRONG, PARABOLAS = traces.TASKS


@functools.cache
def story(tasks: str = IDLE, lam: float = 3, lr: float = 1, fisher: str = "model", batch: int = 8) -> dict:
    return traces.story(tasks, lam, lr, fisher, batch, 0)


# --- what is computed ------------------------------------------------------------------------------------


def test_table_of_fishers_is_that_of_the_course():
    table = [
        (0.27375, 1.65125, 0.600625), (0.27375, 0.05125, 0.050625), (0.1875, 0.1875, 0.1875),
        (0.1875, 0.1875, 0.0625), (0.1875, 0.1875, 0),
    ]  # fmt: skip
    for (*_, F), expected in zip(numbers.fisher_numbers(), table, strict=True):
        assert [F["model"], F["true"], F["batched"]] == pytest.approx(expected, abs=1e-12)


def test_the_half_and_the_anchors_by_hand():
    assert list(numbers.half_numbers().values()) == pytest.approx([0.2, 1 / 9, 0.2], abs=1e-12)
    assert list(numbers.anchor_numbers().values()) == pytest.approx([1.5, 2.5, 3.0, 3.0], abs=1e-12)


def test_the_fisher_is_the_closed_form_at_the_minimum():
    a, _ = traces.rows(IDLE, 0)
    theta = torch.tensor(story()["marks"]["old"], dtype=torch.float64)
    p = torch.sigmoid(a.x @ theta)
    closed = {
        "model": ((p * (1 - p))[:, None] * a.x**2).mean(dim=0),
        "true": ((a.y - p)[:, None] * a.x).square().mean(dim=0),
        "batched": ((a.y - p)[:, None] * a.x).view(8, 8, 2).mean(dim=1).square().mean(dim=0),
    }
    for kind, expected in closed.items():
        assert torch.allclose(traces.fisher(IDLE, kind, 8, 0), expected, atol=1e-5), kind
    assert ((a.y - p)[:, None] * a.x).mean(dim=0).abs().max() < 1e-5  # it is a minimum


def test_what_mattered_is_held_and_what_idles_moves():
    trace = story()
    first, second = (int(text.split()[0]) for text in held(trace, traces.ends(trace)["proximal"]))
    assert first >= 67 and second <= 33
    found = traces.ends(trace)
    assert found["proximal"]["old"] < 0.5 * found["free"]["old"]


def test_without_springs_the_old_loss_triples():
    found = traces.ends(story(lam=0))
    assert found["penalty"] == {**found["free"]} and found["proximal"] == {**found["free"]}
    assert found["free"]["old"] > 3 * story()["free"]["old"][0]


def test_presets_about_the_border_of_two():
    burst = story(lam=20)
    assert burst["panels"][0]["product"] > 2 and traces.settled(burst) == "only the proximal step"
    edge = story(PARABOLAS, lam=5, lr=0.1)
    assert edge["panels"][0]["product"] == 2 and traces.settled(edge) == "only the proximal step"
    below = story(PARABOLAS, lam=4, lr=0.1)
    assert below["panels"][0]["product"] == 1.6 and traces.settled(below) == "both"
    by_hand = traces.ends(story(PARABOLAS, lam=1, lr=0.1))
    assert by_hand["penalty"]["theta"] == pytest.approx([0.2, 0.5], abs=1e-4)


def test_presets_about_fishers():
    full_batch = story(fisher="batched", batch=64)
    assert full_batch["panels"][0]["F"] == [0, 0]
    assert traces.ends(full_batch)["proximal"] == traces.ends(full_batch)["free"]
    observed, own = (story(WRONG, fisher=kind)["panels"][0] for kind in ("true", "model"))
    assert observed["F"][0] == pytest.approx(1.5 * own["F"][0], rel=0.03)
    assert observed["product"] > 2 > own["product"]
    small = traces.fisher(IDLE, "batched", 8, 0).sum() / traces.fisher(IDLE, "true", 8, 0).sum()
    assert 1 / 16 < small < 1 / 4  # about 1 / B


def test_a_diagonal_fisher_cannot_lean():
    """With the whole matrix, at the same lam, B is learned much better and A is hardly worse."""
    trace = story(LEANING)
    old, new = traces.losses(LEANING, 0)
    theta_star = torch.tensor(trace["marks"]["old"], dtype=torch.float64)
    H = torch.autograd.functional.hessian(old, theta_star)
    assert H.diag().tolist() == pytest.approx(trace["panels"][0]["F"], abs=1e-4)
    lean = traces.minimum(
        "both", lambda theta: new(theta) + 1.5 * ((theta - theta_star) @ H @ (theta - theta_star)), theta_star
    )
    end = traces.ends(trace)["proximal"]
    assert end["new"] > float(new(lean)) + 0.05 and float(old(lean)) < end["old"] + 0.02


@pytest.mark.parametrize("tasks", [IDLE, LEANING, WRONG])
def test_other_seeds_have_their_minima(tasks):
    for seed in range(1, 4):
        for loss in traces.losses(tasks, seed):
            assert traces.minimum("loss", loss, torch.zeros(2).double()).abs().max() < 10


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: traces.rows("a river", 0), "tasks"), (lambda: traces.fisher(IDLE, "guessed", 8, 0), "labels"),
        (lambda: traces.fisher(IDLE, "batched", 0, 0), "batch_size"),
    ],
)  # fmt: skip
def test_bad_arguments(call, named):
    with pytest.raises(ValueError, match=named):
        call()


# --- what is shown ---------------------------------------------------------------------------------------


elastic_page = functools.partial(open_lab_page, "elastic")


def players(app: AppTest) -> list[dict]:
    """The traces that the players on the page were given."""
    return [validate_trace(data["trace"]) for data in given_to_players(app)]


def test_presets_show_what_they_say():
    app = elastic_page()
    assert [len(trace["panels"]) for trace in players(app)] == [1, 4]
    assert "lr · λ · max F = 1 · 3 · 0.128 = 0.383" in shown(app) and "| two anchors | 2.5000 |" in shown(app)
    assert "| *no springs* | | | | 0 %, 0 % | 1.235 | 0.400 |" in shown(app)
    expected = {
        "No springs": "both steps are plain fine-tuning",
        "The penalty step bursts": "The path left the picture at step 6",
        "Exactly 2": "1 − 2 = −1, and the curvature of loss B takes that below −1.",
        "By hand: 0.2": "alone multiplies its weight's distance from θ* by 1 − 0.4 = 0.6: the path glides.",
        "Full batch: no spring": "stiff beside no springs at all",
    }
    for label, text in expected.items():
        press(app, label)
        assert text in shown(app), label
        assert len(players(app)) == (1 if label in ("Exactly 2", "By hand: 0.2") else 2)


def test_the_guess_comes_before_the_players():
    app = elastic_page()
    press(app, "Let me guess")
    assert not players(app) and "With λ = 20 and lr = 1, which comes to rest" in shown(app)
    guess = next(group for group in app.button_group if group.key.startswith("el_guess"))
    guess.set_value("both").run()
    assert not app.exception
    assert "You said both: only the proximal step. lr · λ · F = 2.55; the border is 2." in shown(app)
    assert len(players(app)) == 2


@pytest.mark.parametrize(
    "address",
    [
        {"el_lam": "10000", "el_lr": "1", "el_fisher": "batched", "el_batch": "1", "el_tasks": WRONG},
        {"el_lam": "0.1", "el_lr": "0.05", "el_seed": "999", "el_tasks": LEANING},
    ],
)  # fmt: skip
def test_every_slider_at_its_end(address):
    app = elastic_page(**address)
    assert not app.warning and players(app)
    assert not {"nan", "inf"} & set(re.findall(r"\w+", shown(app).lower())) and "−0 %" not in shown(app)


def test_a_wrong_address_is_a_sentence():
    app = elastic_page(el_lam="many", el_tasks="three")
    assert "`el_lam=many`" in app.warning[0].value and "`el_tasks=three`" in app.warning[0].value
    assert len(players(app)) == 2
