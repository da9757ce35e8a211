"""The routing page in a real browser: what a person sees, presses and reloads."""

import re

import pytest
from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "", runs: int = 2) -> None:
    """Open the page and wait until its players are there."""
    page.goto(f"{url}/routing?{query}")
    expect(page.locator(".cllab-player")).to_have_count(runs, timeout=LONG)
    expect(page.locator(".cllab-player svg").first).to_be_visible(timeout=LONG)


def press(page: Page, name: str, run: int = 0) -> None:
    page.get_by_role("button", name=name, exact=True).nth(run).click()


def test_both_runs_move_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    for player in page.locator(".cllab-player").all():
        expect(player).to_have_attribute("data-step", re.compile("[1-9]"), timeout=LONG)


def test_collapse_stands_beside_its_cure(page, lab_url):
    go(page, lab_url)
    collapse, cure = page.locator(".cllab-player").all()
    for player in (collapse, cure):
        player.focus()
        page.keyboard.press("End")
    expect(collapse).to_contain_text("4 of 5 experts get nothing")
    expect(cure).to_contain_text("every expert is asked")
    expect(collapse.get_by_text("specialisation = 0.00")).to_be_visible()
    expect(cure.get_by_text(re.compile(r"specialisation = (0\.9|1\.0)"))).to_be_visible()
    for player, n_colours in ((collapse, 1), (cure, 5)):
        words = player.locator(".routing-word")
        assert words.count() == 30
        colours = words.evaluate_all("nodes => nodes.map(node => getComputedStyle(node).backgroundColor)")
        numbers = words.evaluate_all("nodes => nodes.map(node => node.dataset.expert)")
        assert len(set(colours)) == len(set(numbers)) == len(set(zip(colours, numbers, strict=True))) == n_colours
    tables = page.get_by_role("table")
    expect(tables).to_have_count(2)
    first = [row.split("\t") for row in tables.first.locator("tbody").inner_text().splitlines()]
    assert [row[0] for row in first] == ["0", "1", "2", "3", "4"]
    assert sorted(int(row[1]) for row in first) == [0, 0, 0, 0, 40]


def test_the_numbers_follow_the_step_of_their_player(page, lab_url):
    go(page, lab_url)
    expect(page.get_by_text("Balance of A at training step 512")).to_be_visible()
    for _ in range(2):
        press(page, "Step forward")
    expect(page.get_by_text("Balance of A at training step 32")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Balance of B at training step 512")).to_be_visible()


def test_the_heat_map_moves_with_the_step(page, lab_url):
    go(page, lab_url)
    cure = page.locator(".cllab-player").last
    cells = cure.locator(".routing-cell text")
    expect(cells).to_have_count(25)
    first = cells.all_text_contents()
    cure.focus()
    page.keyboard.press("End")
    expect(cure).to_contain_text("Step 512")
    last = cells.all_text_contents()
    assert first != last and sum(map(int, first)) == sum(map(int, last)) == 40
    assert max(map(int, last)) == 8
    cure.locator(".routing-word").first.hover()
    expect(cure.locator(".tip")).to_contain_text(re.compile(r"“the” \(language\): served by expert \d"))
    expect(cure.locator(".tip")).to_contain_text(re.compile(r"router probabilities: E0 \d+ %"))


def test_experts_that_choose_are_a_preset(page, lab_url):
    go(page, lab_url)
    press(page, "Experts choose")
    expect(page.get_by_text("A: 5 experts, k = 1, experts choose")).to_be_visible(timeout=LONG)
    player = page.locator(".cllab-player").first
    player.focus()
    page.keyboard.press("Home")
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    expect(player).to_contain_text("every expert takes its 8 surest of 40 tokens")
    expect(player.get_by_text(re.compile(r"served by no expert: \d+ of 40 tokens ×"))).to_be_visible()
    assert player.locator(".routing-word.lost").count() > 0
    expect(page).to_have_url(re.compile("moe_choice=experts"))


def test_what_makes_no_sense_together_is_told(page, lab_url):
    go(page, lab_url, "moe_choice=experts&moe_balance=Switch+loss&moe_compare=nothing", runs=1)
    expect(page.get_by_text("Experts that choose are balanced by construction")).to_be_visible()
    expect(page.locator(".cllab-player")).to_contain_text("A: 5 experts, k = 1, experts choose")


def test_dropped_tokens_are_crossed_out_and_rerouting_keeps_them(page, lab_url):
    go(page, lab_url)
    press(page, "Reroute")
    expect(page.get_by_text("B: 5 experts, k = 1, no balancing, capacity × 1, reroute")).to_be_visible(timeout=LONG)
    dropping, rerouting = page.locator(".cllab-player").all()
    for player in (dropping, rerouting):
        player.focus()
        page.keyboard.press("End")
    assert dropping.locator("path.dropped").count() > 0
    assert rerouting.locator("path.dropped").count() == 0


def test_a_link_reproduces_the_run(page, lab_url):
    go(page, lab_url, "moe_compare=nothing&moe_steps=128", runs=1)
    page.get_by_text("Experts, capacity, noise, seed, guessing").click()
    slider = page.get_by_role("slider", name="Experts E")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("moe_experts=6"), timeout=LONG)
    player = page.locator(".cllab-player")
    expect(player).to_contain_text("A: 6 experts", timeout=LONG)
    expect(page.get_by_text("trained here in")).to_be_visible(timeout=LONG)
    text = page.get_by_role("table").inner_text()
    page.goto(page.url)
    expect(player).to_contain_text("A: 6 experts", timeout=LONG)
    assert page.get_by_role("table").inner_text() == text


def test_the_guess_opens_the_players(page, lab_url):
    page.goto(f"{lab_url}/routing?moe_predict=true")
    expect(page.get_by_text("how many experts will still get tokens?")).to_be_visible(timeout=LONG)
    assert page.locator(".cllab-player").count() == 0
    page.get_by_test_id("stButtonGroup").get_by_text("3", exact=True).click()
    expect(page.locator(".cllab-player")).to_have_count(2, timeout=LONG)
    expect(page.get_by_text("You said 3: 1 of 5 experts still get tokens")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_picture_comes_before_the_settings(open_page, lab_url, scheme):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme=scheme)
    go(page, lab_url)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, setting = page.locator(".cllab-player").first, page.get_by_text("Compare with (B)")
    assert player.bounding_box()["y"] < setting.bounding_box()["y"]
