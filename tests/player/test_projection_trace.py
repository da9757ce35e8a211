"""The projection trace: the reference's worked examples, and a view that computes what Python does."""

import json
import math
import re

import pytest
import torch
from playwright.sync_api import Page, expect

from cllab.device import generator
from cllab.player import page as web_page
from cllab.player import projection_trace, script, validate_trace
from cllab.player.from_projection import answers, in_turn, ridge_multipliers

D = torch.float64
LOAD = """async (code) => {
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  window.solver = await import(url);
}"""


def t(*values):
    return torch.tensor(values, dtype=D)


WORKED = [  # g, G, margin, ridge, v, u, u of A-GEM (classic-algorithms 7.3)
    (t(1, 0), t([-1, 1]), 0, 0, [0.5], [0.5, 0.5], [0.5, 0.5]),
    (t(2, -1), t([1, 1], [-1, 1]), 0, 0, [0, 1.5], [0.5, 0.5], [2, 0]),
    (t(0, -1), t([1, 1], [-1, 1]), 0, 0, [0.5, 0.5], [0, 0], [0, 0]),
    (t(2, -1), t([1, 1], [-1, 1]), 0.5, 0, [0.5, 1.5], [1, 1], [2, 0]),
    (t(2, -1), t([1, 1], [-1, 1]), 0.5, 1e-3, [0.5, 1.49925], [1.00075, 0.99925], [2, 0]),
    (t(0, -1), t([1, 0.5], [-1, 0.5]), 0, 0, [1, 1], [0, 0], [0, 0]),
    (t(-1, -2), t([1, 0], [1, 1]), 0, 0, [0, 1.5], [0.5, -0.5], [0.6, -1.2]),
]


@pytest.mark.parametrize(("g", "G", "margin", "ridge", "v", "u", "by_mean"), WORKED)
def test_worked_examples(g, G, margin, ridge, v, u, by_mean):
    trace = validate_trace(projection_trace(g, G, margin=margin, ridge=ridge))
    assert json.loads(json.dumps(trace)) == trace
    assert trace["gem"]["v"] == pytest.approx(v, abs=2e-6) and trace["gem"]["u"] == pytest.approx(u, abs=2e-6)
    assert trace["agem"]["u"] == pytest.approx(by_mean, abs=2e-6)
    assert trace["gem"]["dots"] == pytest.approx((G @ t(*u)).tolist(), abs=5e-6)
    assert [step["phase"] for step in trace["steps"]] == ["cone", "turn", "agem", "gem"]
    missed = max(trace["gem"]["residuals"])
    assert missed == pytest.approx(0.0014993, abs=2e-6) if ridge else missed < 1e-9


def test_one_after_another_where_it_fails_and_where_it_goes_too_far():
    fails = projection_trace(t(0, -1), t([1, 0.5], [-1, 0.5]))["turn"]
    assert fails["u"] == pytest.approx([-0.24, -0.48]) and fails["dots"] == pytest.approx([-0.48, 0])
    far = projection_trace(t(-1, -2), t([1, 0], [1, 1]))
    assert far["turn"]["path"] == [[-1, -2], [0, -2], [1, -1]]
    assert math.dist(far["turn"]["u"], (-1, -2)) == pytest.approx(math.sqrt(5))
    assert math.dist(far["gem"]["u"], (-1, -2)) == pytest.approx(math.sqrt(4.5))


def test_a_gradient_in_the_cone_stays():
    trace = projection_trace(t(1, 2), t([1, 1], [0, 1]), margin=0.5)
    assert trace["gem"] == {"u": [1, 2], "dots": [3, 2], "v": None, "residuals": []}
    assert trace["turn"]["u"] == trace["agem"]["u"] == [1, 2]


def test_the_ridge_is_what_the_regularised_problem_asks_for():
    """v of the ridge minimises 1/2 v'(GG' + eps I)v + (Gg)'v over v >= gamma: no feasible direction leads lower."""
    source = generator(0)
    for _ in range(20):
        g, G = torch.randn(2, generator=source, dtype=D), torch.randn(3, 2, generator=source, dtype=D)
        v = ridge_multipliers(g, G, 0.2, 0.1)
        slope = (G @ G.T + 0.1 * torch.eye(3, dtype=D)) @ v + G @ g
        assert (v >= 0.2 - 1e-12).all() and (slope >= -1e-9).all() and ((v - 0.2) * slope).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((t(1, 0, 0), t([1, 1, 1])), ValueError, "gradient must have shape"),
        ((t(1, 0), t([1, 1, 1])), ValueError, "constraints"),
        ((t(1, 0), torch.ones(4, 2)), ValueError, "at most 3 rows"), ((t(1, 0), torch.ones(0, 2)), ValueError, "empty"),
        ((t(1, math.nan), t([1, 1])), ValueError, "gradient must be finite"),
        ((t(1, 0), t([1e9, 1])), ValueError, "up to 100"), (([1, 0], t([1, 1])), TypeError, "gradient"),
    ],
)  # fmt: skip
def test_bad_vectors(arguments, error, named):
    with pytest.raises(error, match=named):
        projection_trace(*arguments)


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"ridge": -1.0}, {"margin": math.inf}])
def test_bad_numbers(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        projection_trace(t(1, 0), t([1, 1]), **options)


def test_traces_that_do_not_fit():
    for broken in ({"constraints": []}, {"agem": {"u": [0, 0], "dots": [1]}}, {"gradient": [1, 2, 3]}):
        with pytest.raises(ValueError, match=r"constraints|agem|vector"):
            validate_trace({**projection_trace(t(2, -1), t([1, 1], [-1, 1])), **broken})


# --- in the browser ----------------------------------------------------------------------------------------


def cases() -> list[dict]:
    """Random and degenerate problems: zero, duplicate, opposite and nearly parallel rows, margins and ridges."""
    source, found = generator(1), []
    for i in range(300):
        rows = i % 3 + 1
        g, G = torch.randn(2, generator=source, dtype=D), torch.randn(rows, 2, generator=source, dtype=D)
        kind = i // 3 % 6
        if kind == 1:
            G[-1] = 0
        elif kind == 2:
            G[-1] = G[0]
        elif kind == 3:
            G[-1] = -2 * G[0]
        elif kind == 4:
            G[-1] = G[0] + 1e-5 * torch.randn(2, generator=source, dtype=D)
        elif kind == 5:
            g, G = (g * 2).round() / 2, (G * 2).round() / 2  # many ties, and zeros
        margin, ridge = (0.0, 0.5, 0.0)[i // 18 % 3], (0.0, 0.0, 1e-3)[i // 18 % 3]
        found.append({"g": g, "G": G, "margin": margin, "ridge": ridge})
    return found


def test_the_view_computes_what_python_does(page):
    problems = cases()
    page.evaluate(LOAD, script() + "\nexport { projectionAnswers };")
    plain = [{**p, "g": p["g"].tolist(), "G": p["G"].tolist()} for p in problems]
    ask = "(all) => all.map((p) => solver.projectionAnswers(p.g, p.G, p.margin, p.ridge))"
    solved = 0
    for problem, seen in zip(problems, page.evaluate(ask, plain), strict=True):
        mine = answers(**problem)
        for name in ("turn", "agem", "gem"):
            assert seen[name]["u"] == pytest.approx(mine[name]["u"].tolist(), abs=1e-8), (name, problem)
        assert (seen["gem"]["v"] is None) == (mine["gem"]["v"] is None)
        if seen["gem"]["v"] is not None:
            solved += 1
            stationary = problem["g"] + problem["G"].T @ t(*seen["gem"]["v"]) - t(*seen["gem"]["u"])
            assert stationary.abs().max() < 1e-8
            if not problem["ridge"]:
                assert max(seen["gem"]["residuals"]) < 1e-8
    assert solved > 150


def test_the_cases_tell_the_shortcut_from_the_solution():
    """Projection one after another in GEM's place would not pass the comparison above."""
    wrong = 0
    for problem in cases():
        if not problem["margin"] and not problem["ridge"]:
            mine = answers(**problem)["gem"]["u"]
            wrong += float((in_turn(problem["g"], problem["G"])[-1] - mine).abs().max()) > 1e-8
    assert wrong > 20


def show(page: Page, trace: dict, step: int = 3) -> Page:
    page.set_content(web_page(trace, step=step))
    expect(page.locator(".cllab-player .plane")).to_be_visible()
    return page


def head(page: Page, name: str):
    return page.get_by_role("slider", name=name, exact=True)


def test_a_head_is_dragged_and_everything_follows_while_it_is_held(page):
    show(page, projection_trace(t(2, -1), t([1, 1], [-1, 1])))
    verdict = page.locator(".verdict")
    expect(verdict).to_have_text("GEM: u = (0.5, 0.5) = g + 1.5 g₂.")
    box = head(page, "Head of g").locator(".ring").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y - 10, steps=3)
    expect(verdict).not_to_contain_text("0.5, 0.5")
    held = verdict.inner_text()
    page.mouse.move(x - 300, y - 600, steps=3)  # far outside: the head stays in the plane
    expect(verdict).not_to_have_text(held)
    expect(head(page, "Head of g")).to_have_attribute("aria-valuetext", re.compile(r", 3\)$"))
    page.mouse.up()
    expect(verdict).to_contain_text("GEM: u = ")


def test_arrow_keys_move_a_head_and_do_not_step(page):
    show(page, projection_trace(t(2, -1), t([1, 1], [-1, 1])))
    node = head(page, "Head of row 2")
    node.focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    expect(node).to_have_attribute("aria-valuetext", "(−1.4, 1.1)")
    expect(page.locator(".counter")).to_have_text("step 4 of 4")
    page.wait_for_timeout(600)  # after the report
    expect(node).to_be_focused()


def test_violated_rows_are_marked_by_more_than_colour(page):
    show(page, projection_trace(t(2, -1), t([1, 1], [-1, 1])), step=2)
    expect(page.locator(".plane .edge.violated")).to_have_count(1)
    expect(page.locator(".plane .name.violated")).to_have_text("g₂ ✗")
    expect(page.get_by_role("row", name=re.compile("g₂"))).to_contain_text("−2 ✗")
    expect(page.locator(".verdict")).to_have_text("A-GEM: u = (2, 0), mean r = (0, 1); still violates g₂ (dot −2).")
    page.get_by_role("button", name="Step forward").click()
    expect(page.locator(".plane .edge.violated")).to_have_count(0)
    expect(page.locator(".conditions li")).to_have_text(
        ["✓ v ≥ γ", "✓ G u ≥ 0", "✓ (v − γ) (G u) = 0", "✓ u − g = Gᵀv"]
    )


@pytest.mark.parametrize(
    ("g", "G", "text"),
    [
        (t(0, 0), t([1, 1]), "lies in the cone"), (t(1, 0), t([0, 0], [0, 0]), "lies in the cone"),
        (t(1, 0), t([1, 0], [-1, 0]), "violates g₂"), (t(1, 1), t([1, 0], [-1, 0], [0, -1]), "violates g₂"),
        (t(1, 1), t([-1, 0], [0.5, 1], [0.5, -1]), "violates g₁"), (t(100, -100), t([-100, 1]), "violates g₁"),
    ],
)  # fmt: skip
def test_degenerate_arrows_are_drawn(page, g, G, text):
    show(page, projection_trace(g, G, margin=1.0), step=0)
    expect(page.locator(".verdict")).to_contain_text(text)
    for _ in range(3):
        page.get_by_role("button", name="Step forward").click()
    assert "NaN" not in page.locator(".stage").inner_html()
