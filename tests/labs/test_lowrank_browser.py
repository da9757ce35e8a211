"""The page of low rank in a real browser: what a person sees, moves and reloads."""

import re

from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its player is there and the page is settled."""
    page.goto(f"{url}/lowrank?{query}")
    expect(page.locator(".cllab-player .heat").first).to_be_visible(timeout=LONG)
    settled(page)


def settled(page: Page) -> None:
    expect(page.get_by_text("Show the code")).to_be_visible(timeout=LONG)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=LONG)


def tell(page: Page, locator) -> str:
    page.mouse.move(0, 0)
    locator.hover(force=True)
    return page.locator(".cllab-player .tip").inner_text()


def test_ranks_are_added_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", re.compile("[1-9]"), timeout=LONG)


def test_the_slider_and_the_player_move_each_other(page, lab_url):
    go(page, lab_url, "lora_r=4")
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name="Rank r")
    expect(player).to_have_attribute("data-step", "4", timeout=LONG)
    expect(player).to_contain_text("384 numbers in place of 2,048")
    assert "4 · (64 + 32) = 384" in tell(page, page.locator(".readouts li").nth(1))
    slider.focus()
    page.keyboard.press("End")
    expect(page).to_have_url(re.compile("lora_r=32"), timeout=LONG)
    expect(player).to_have_attribute("data-step", "32", timeout=LONG)
    left = page.locator(".heat").nth(2)
    expect(left).to_have_attribute("aria-label", re.compile("Frobenius norm 0$"))
    player.get_by_role("button", name="Step back").click()
    expect(slider).to_have_value("31", timeout=LONG)
    expect(page).to_have_url(re.compile("lora_r=31"), timeout=LONG)
    player.focus()
    page.keyboard.press("Home")
    expect(page.locator(".heat").nth(1)).to_have_attribute("aria-label", re.compile("Frobenius norm 0$"))
    expect(page).not_to_have_url(re.compile("lora_r="), timeout=LONG)


def test_merging_shows_the_cross_terms_and_a_link_reproduces_it(open_page, lab_url):
    first, second = open_page(), open_page()
    go(first, lab_url)
    first.get_by_role("button", name="Average the factors").click()
    cross = first.locator(".product.cross")
    expect(cross).to_have_count(2, timeout=LONG)
    settled(first)
    for _ in range(2):
        first.get_by_role("button", name="Step forward").click()
    expect(cross.first).to_contain_text("0.25 × B₁A₂")
    rows = first.locator(".ways tbody tr")
    expect(rows.nth(1)).to_have_class("chosen")
    expect(rows.nth(1)).to_contain_text("0.50.707107")
    assert "in this merge times 0.25" in tell(first, cross.first.locator(".heat"))
    second.goto(first.url)
    expect(second.locator(".ways tbody tr").nth(2)).to_contain_text("11", timeout=LONG)


def test_subspaces_on_a_phone(open_page, lab_url):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme="dark")
    go(page, lab_url, "lora_view=O-LoRA&lora_run=by+hand")
    expect(page.locator(".lowrank-sum").first).to_have_text("Σ |O| = 1.4, Σ O² = 1, largest |cos| = 0.8")
    page.locator(".cllab-player").focus()
    page.keyboard.press("End")
    expect(page.locator(".lowrank-sum").last).to_contain_text("Σ |O| = 0.0394, Σ O² = 0.0008")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, choice = page.locator(".cllab-player"), page.get_by_role("radio", name="by hand").or_(
        page.get_by_role("button", name="by hand", exact=True)
    )  # fmt: skip
    assert player.bounding_box()["y"] < choice.first.bounding_box()["y"]
