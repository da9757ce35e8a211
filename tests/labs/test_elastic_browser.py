"""The page of elastic weights in a real browser: what a person sees, moves and reloads."""

import re

from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "", players: int = 2) -> None:
    """Open the page and wait until its players are there and the page is settled."""
    page.goto(f"{url}/elastic?{query}")
    expect(page.locator(".cllab-player .plane")).to_have_count({1: 1, 2: 5}[players], timeout=LONG)
    settled(page)


def settled(page: Page) -> None:
    expect(page.get_by_text("The same by hand")).to_be_visible(timeout=LONG)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=LONG)


def test_the_paths_move_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    first = page.locator(".cllab-player").first
    expect(first).to_have_attribute("data-step", re.compile("^([1-9]|[1-5][0-9])$"), timeout=LONG)
    page.reload()
    expect(first).to_have_attribute("data-step", re.compile("^([1-9]|[1-5][0-9])$"), timeout=LONG)


def test_more_stiffness_bursts_the_penalty_step_and_a_link_reproduces_it(open_page, lab_url):
    first, second = open_page(), open_page()
    go(first, lab_url, "el_lam=16")
    title = first.locator(".cllab-player .title").first
    slider = first.get_by_role("slider", name="Stiffness λ")
    slider.focus()
    first.keyboard.press("ArrowRight")
    expect(first).to_have_url(re.compile("el_lam=20"), timeout=LONG)
    expect(title).to_have_text("An idle feature, λ = 20, lr = 1, Fisher: model", timeout=LONG)
    status = first.locator(".status").first
    expect(status).to_contain_text("the penalty step left the picture at step 6", timeout=LONG)
    expect(first.get_by_text("its last value is θ = (−1.36e+06, 2.86)")).to_be_visible(timeout=LONG)
    second.goto(first.url)
    expect(second.locator(".status").first).to_have_text(status.inner_text(), timeout=LONG)


def test_presets_and_the_worked_numbers(page, lab_url):
    go(page, lab_url)
    page.get_by_role("button", name="By hand: 0.2").click()
    expect(page.locator(".cllab-player")).to_have_count(1, timeout=LONG)
    expect(page.locator(".springs-table tbody tr").nth(2)).to_contain_text("0.20.5", timeout=LONG)
    page.get_by_text("The same by hand").click()
    expect(page.get_by_role("cell", name="1.65125")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Full batch: no spring").click()
    expect(page.locator(".springs-panels")).to_contain_text("batched, B = 64", timeout=LONG)


def test_on_a_phone_the_picture_comes_before_the_settings(open_page, lab_url):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme="dark")
    go(page, lab_url, "el_lam=10000")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, slider = page.locator(".cllab-player").first, page.get_by_role("slider", name="Stiffness λ")
    assert player.bounding_box()["y"] < slider.bounding_box()["y"]
