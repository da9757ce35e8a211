"""The page of growing experts in a real browser: what a person sees, moves and reloads."""

import re

from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its player is there and the page is settled."""
    page.goto(f"{url}/growing?{query}")
    expect(page.locator(".cllab-player .growing-grid")).to_be_visible(timeout=LONG)
    settled(page)


def settled(page: Page) -> None:
    expect(page.get_by_text("Show the code")).to_be_visible(timeout=LONG)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=LONG)


def test_something_moves_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    player = page.locator(".cllab-player")
    expect(player).to_have_attribute("data-step", re.compile("^[1-9]"), timeout=LONG)
    expect(player.locator("section h4")).to_have_count(2)


def test_boxes_locks_and_where_the_tokens_are(page, lab_url):
    go(page, lab_url)
    player = page.locator(".cllab-player")
    player.focus()
    page.keyboard.press("Home")
    first = player.locator("section").first
    boxes, locks = first.locator(".growing-box:visible"), first.locator("path[fill-rule=evenodd]:visible")
    expect(boxes).to_have_count(4)
    expect(locks).to_have_count(0)
    expect(first.locator(".growing-was:visible")).to_have_count(0)
    page.keyboard.press("End")
    expect(player.locator(".status")).to_contain_text("Stage 4, language, step 512", timeout=LONG)
    expect(boxes).to_have_count(7)
    expect(locks).to_have_count(6)
    assert first.locator(".growing-was:visible").count() > 3
    player.locator("section").nth(1).locator(".growing-whole").first.hover()
    expect(player.locator(".tip")).to_have_text(re.compile(r"^digit to expert 0: 0 of 194 = 0 %\nwhen stage 1 ended: "))
    player.locator("section").nth(1).get_by_text("digit", exact=True).focus()
    expect(player.locator(".tip")).to_contain_text("learned before")
    first.locator(".readouts li", has_text="KL").hover()
    expect(player.locator(".tip")).to_contain_text("Σ p_old ln(p_old / p_new)")
    expect(player.locator(".tip")).to_contain_text("the loss on training rows: task")


def test_a_new_run_is_trained_and_its_link_reproduces_it(open_page, lab_url):
    first, second = open_page(), open_page()
    go(first, lab_url, "grow_steps=32&grow_compare=nothing&grow_order=words+with+language")
    expect(first.get_by_text("trained here in")).to_be_visible(timeout=LONG)
    first.locator("[data-testid=stSegmentedControl], [data-testid=stButtonGroup]").get_by_text("silent").click()
    heading = first.locator(".cllab-player h4")
    expect(heading).to_have_text("A: 1 new expert per stage (silent), λ = 3", timeout=LONG)
    settled(first)
    expect(first).to_have_url(re.compile("grow_init=silent"), timeout=LONG)
    go(second, lab_url, first.url.split("?", 1)[1])
    expect(second.locator(".cllab-player h4")).to_have_text(heading.inner_text(), timeout=LONG)
    first.get_by_role("button", name="No freezing").click()
    expect(heading.first).to_contain_text("nothing frozen", timeout=LONG)
    expect(heading).to_have_count(2)
    settled(first)


def test_on_a_phone_the_picture_comes_before_the_settings(open_page, lab_url):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme="dark")
    go(page, lab_url)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name="New experts per stage")
    assert player.bounding_box()["y"] < slider.bounding_box()["y"]
