"""The generative page: what it computes, and what it shows, with AppTest."""

import functools

import pytest
import torch
from streamlit.testing.v1 import AppTest

from cllab.player import validate_trace
from labs import generative_traces as traces
from labs import latents_traces
from tests.tools.pages import given_to_players, open_lab_page, shown

# --- what is computed ------------------------------------------------------------------------------------


def values(trace: dict) -> dict[str, list]:
    return {line["name"]: line["values"] for line in trace["lines"]}


@pytest.mark.parametrize(("n", "T"), [(10, 20), (5, 40), (100, 5)])
def test_gaussians_tell_the_closed_form_and_what_is_drawn(n, T):
    trace = validate_trace(traces.gaussians(n, T))
    found = values(trace)
    assert len(trace["steps"]) == T + 1
    assert found["closed form"] == pytest.approx([((n - 1) / n) ** t for t in range(T + 1)], abs=1e-4)
    assert found["mean of runs"][-1] == pytest.approx(found["closed form"][-1], abs=0.05)
    assert found["median run"][-1] <= found["mean of runs"][-1]
    # "this picture" is what the drawn ellipses say
    first, last = (trace["steps"][t]["panels"][0]["ellipses"] for t in (0, -1))
    ratios = [(b[2] + b[4]) / (a[2] + a[4]) for a, b in zip(first, last, strict=True)]
    assert found["this picture"][-1] == pytest.approx(sum(ratios) / 4, abs=2e-3)
    assert all(len(step["panels"][0]["points"]) == 4 * min(n, 40) for step in trace["steps"])


def test_many_samples_hold_what_few_lose():
    few, many = (
        sum(values(traces.gaussians(n, 15, seed))["this picture"][-1] for seed in range(4)) / 4 for n in (5, 1000)
    )
    assert few < 0.5 < 0.9 < many


def test_the_seed_decides_the_picture():
    assert traces.gaussians(5, 3, 1) == traces.gaussians(5, 3, 1) != traces.gaussians(5, 3, 2)


def test_committed_images_are_what_training_gives():
    """The first two generations; each follows from the one before."""
    old, new = traces.committed()["20"], traces.images(20, generations=1)
    for name, told in values(new).items():
        assert told == pytest.approx(values(old)[name][:2], abs=0.04), name
    for then, now in zip(old["steps"], new["steps"], strict=False):
        for panel, (was, is_) in enumerate(zip(then["panels"], now["panels"], strict=True)):
            levels = [[int(d, 16) for image in side["images"] for d in image[0]] for side in (was, is_)]
            off = sum(abs(a - b) for a, b in zip(*levels, strict=True)) / len(levels[0])
            assert off < 0.5, panel


def test_committed_images_are_still_recognised_but_ever_more_alike():
    for n, trace in traces.committed().items():
        validate_trace(trace)
        found = values(trace)
        assert f"{n} samples" in trace["alt"]
        for name in ("Gaussians", "VAE"):
            left = found[f"{name}: variance left"]
            assert left[-1] < 0.6 * left[0]
            assert found[f"{name}: recognised"][-1] > 0.9
        assert found["VAE: student"][-1] < found["VAE: student"][0] - 0.02
        marked = trace["steps"][-1]["panels"][1]["images"]
        assert [image[1] for image in marked] == [c for c in range(10) for _ in range(3)]


def test_committed_latents_are_what_training_gives():
    old, new = latents_traces.committed()[latents_traces.settings_key()], latents_traces.train()
    validate_trace(old)
    assert [step["x"] for step in old["steps"]] == [step["x"] for step in new["steps"]]
    for name, told in values(new).items():
        assert told == pytest.approx(values(old)[name], abs=0.05), name


def test_only_the_moving_trunk_ages_and_forgets():
    found = values(latents_traces.committed()[latents_traces.settings_key()])
    assert max(found["frozen: age"]) < 1e-4 < 0.1 < found["moving: age"][0] < found["moving: age"][-1]
    assert found["frozen: accuracy"][-1] > found["moving: accuracy"][-1] + 0.4


def test_both_trunks_are_the_same_when_the_first_task_ends():
    trace = latents_traces.committed()[latents_traces.settings_key()]
    found = values(trace)
    assert found["frozen: accuracy"][0] == found["moving: accuracy"][0]
    for x0, y0, x1, y1, _ in trace["steps"][-1]["panels"][0]["arrows"]:
        assert (x0, y0) == (x1, y1)


def test_the_principal_plane_is_that_of_the_covariance():
    h = torch.randn(300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 4])
    mean, directions = latents_traces.principal_plane(h)
    assert torch.allclose(mean, h.mean(dim=0))
    assert directions.abs().argmax(dim=0).tolist() == [1, 2] and bool((directions[[1, 2], [0, 1]] > 0).all())
    assert torch.allclose(directions.T @ directions, torch.eye(2, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize(
    ("call", "named"),
    [(lambda: traces.gaussians(4), "n must be"), (lambda: traces.gaussians(10, 0), "generations"),
     (lambda: traces.images(1), "n must be"), (lambda: latents_traces.train(lr=0.0), "lr"),
     (lambda: latents_traces.train(epochs=0), "epochs"), (lambda: latents_traces.settings_key(colour=1), "colour")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(call, named):
    with pytest.raises(ValueError, match=named):
        call()


# --- what is shown ---------------------------------------------------------------------------------------


generative_page = functools.partial(open_lab_page, "generative")


def trace_of(app: AppTest) -> dict | None:
    """The trace that the player on the page was given."""
    found = given_to_players(app)
    return found[0]["trace"] if found else None


def test_every_preset_shows_what_it_says():
    app = generative_page()
    assert "(9/10)^20 = **0.122**" in shown(app)
    expected = {
        "A thousand samples": "(999/1000)^20 = **0.980**", "Thirty generations": "(24/25)^30",
        "Digits all alike": "A student that sees only these images", "More digits": "A student that sees only",
        "Latents age": "Mean age at the end", "Ten samples": "**0.122**",
    }  # fmt: skip
    for label, text in expected.items():
        next(button for button in app.button if button.label == label).click().run()
        assert not app.exception
        assert text in shown(app).replace("\n", " "), label
        assert trace_of(app)["kind"] == "generations"


def test_other_latents_are_trained_when_asked_for():
    app = generative_page(gen_view="Latents", gen_epochs="1", gen_lr="0.01")
    assert len(trace_of(app)["panels"]) == 2
    assert trace_of(app) != latents_traces.committed()[latents_traces.settings_key()]


@pytest.mark.parametrize(
    ("key", "value"),
    [("gen_view", "Sounds"), ("gen_n", "7"), ("gen_generations", "0"), ("gen_digits_n", "21"), ("gen_lr", "1"),
     ("gen_epochs", "99"), ("gen_colour", "red")],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence_and_defaults(key, value):
    app = generative_page(**{key: value})
    assert any(key in warning.value for warning in app.warning)
    assert "10 samples" in trace_of(app)["alt"]


@pytest.mark.parametrize(
    ("view", "answer", "verdict"),
    [("Gaussians", 0.75, "You said 0.75"), ("Digits", 1.0, "Right"), ("Latents", 0.0, "Right")],
)
def test_the_guess_comes_before_the_player(view, answer, verdict):
    app = generative_page(gen_predict="true", gen_view=view)
    assert trace_of(app) is None
    app.get_by_key(f"gen_guess_{view}_0").set_value(answer).run()
    assert verdict in shown(app) and trace_of(app) is not None
