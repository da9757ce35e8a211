"""The memory page in a real browser: what a person sees, presses and reloads."""

import re

import pytest
from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its player and its charts are there."""
    page.goto(f"{url}/memory?{query}")
    expect(page.locator(".cllab-player svg").first).to_be_visible(timeout=LONG)
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible(timeout=LONG)


def test_rows_fly_without_a_click_and_a_reload_in_mid_run_starts_anew(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    player = page.locator(".cllab-player")
    go(page, lab_url)
    under_way = re.compile("^([1-9]|[1-8][0-9])$")
    expect(player).to_have_attribute("data-step", under_way, timeout=LONG)
    page.reload()
    expect(player).to_have_attribute("data-step", under_way, timeout=LONG)


def test_the_reservoir_keeps_all_tasks_and_the_ring_one(page, lab_url):
    go(page, lab_url)
    player = page.locator(".cllab-player")
    expect(player).to_contain_text("In the end reservoir holds 2 A, 5 B, 5 C; ring holds 0 A, 0 B, 12 C.")
    page.get_by_role("button", name="A rare class: CBRS").click()
    # the last picture goes only when the new one has come
    expect(player.filter(has_text="CBRS holds 3 A, 3 B, 3 C")).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Off by one").click()
    expect(page.get_by_text("Off by one: (K − 1) / (n − 1) = 2/5")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("table").last).to_contain_text("3/5")


def test_a_link_reproduces_what_is_shown_in_two_windows(open_page, lab_url):
    first, second = open_page(), open_page()
    go(first, lab_url, "mem_rows=6&mem_slots=2&mem_stream=one+class")
    slider = first.get_by_role("slider", name="Slots K")
    slider.focus()
    first.keyboard.press("ArrowRight")
    expect(first).to_have_url(re.compile("mem_slots=3"), timeout=LONG)
    expect(first.locator(".cllab-player .title")).to_have_text("6 rows, one class, K = 3, seed 0", timeout=LONG)
    go(second, lab_url)
    expect(second.locator(".cllab-player .title")).to_have_text("90 rows, three tasks in turn, K = 12, seed 0")
    second.goto(first.url)
    expect(second.locator(".cllab-player .title")).to_have_text("6 rows, one class, K = 3, seed 0", timeout=LONG)
    assert second.locator(".status").inner_text() == first.locator(".status").inner_text()


def test_the_guess_opens_the_player(page, lab_url):
    page.goto(f"{lab_url}/memory?mem_predict=true&mem_b=nothing&mem_a=ring")
    expect(page.get_by_text("how many of its 12 slots does the ring fill with class A?")).to_be_visible(timeout=LONG)
    assert page.locator(".cllab-player").count() == 0
    page.get_by_test_id("stButtonGroup").get_by_text("0", exact=True).click()
    expect(page.locator(".cllab-player")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Right: 0 of 12.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_picture_comes_before_the_settings(open_page, lab_url, scheme):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme=scheme)
    go(page, lab_url, "mem_slots=30&mem_rows=150&mem_stream=five+tasks+in+turn&mem_a=CBRS")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name="Rows n")
    assert player.bounding_box()["y"] < slider.bounding_box()["y"]
