"""The projection page in a real browser: what a person drags, presses and reloads."""

import re

from playwright.sync_api import Page, expect

LONG = 180_000  # ms that a busy machine may need: its server imports torch at the first visit
IDLE = "[data-testid=stApp][data-test-script-state=notRunning]"


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its plane is there and nothing below it is still to come."""
    page.goto(f"{url}/projection?{query}", timeout=LONG)
    settle(page)


def settle(page: Page) -> None:
    expect(page.locator(".cllab-player .plane")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Lesson 09 solves these problems")).to_be_visible(timeout=LONG)
    page.wait_for_selector(IDLE, timeout=LONG)


def head(page: Page, name: str):
    return page.get_by_role("slider", name=name, exact=True)


def last_step(page: Page) -> None:
    page.locator(".cllab-player").focus()
    page.keyboard.press("End")
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", "3", timeout=LONG)


def field(page: Page, label: str):
    return page.get_by_label(label, exact=True)


def test_it_plays_by_itself_and_presets_start_anew(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", re.compile("[1-3]"), timeout=LONG)
    page.get_by_role("button", name="In turn fails").click()
    expect(page.locator(".verdict")).to_contain_text("g = (0, −1) violates g₁ (dot −0.5)", timeout=LONG)
    expect(page.get_by_test_id("stMarkdown").get_by_role("table")).to_contain_text("(−0.24, −0.48)", timeout=LONG)


def test_dragging_moves_numbers_and_address_and_a_second_drag_may_follow_at_once(page, lab_url):
    go(page, lab_url)
    last_step(page)
    verdict = page.locator(".verdict")
    for name, dx, dy in (("Head of g", -60, -40), ("Head of row 1", 30, 50)):
        box = head(page, name).locator(".ring").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        before = head(page, name).get_attribute("aria-valuetext")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + dx, y + dy, steps=4)
        expect(head(page, name)).not_to_have_attribute("aria-valuetext", before, timeout=LONG)  # while it is held
        page.mouse.up()
    expect(page).to_have_url(re.compile("proj_ay="), timeout=LONG)
    expect(page).to_have_url(re.compile("proj_gx="), timeout=LONG)
    for name, fields in (("Head of g", "gx gy"), ("Head of row 1", "ax ay")):
        told = head(page, name).get_attribute("aria-valuetext").replace("−", "-").strip("()").split(", ")
        label = {"g": "g", "a": "g₁"}[fields[0]]
        for axis, value in zip("xy", told, strict=True):
            expect(field(page, f"{label}, {axis}")).to_have_value(f"{float(value):.2f}", timeout=LONG)
    settled = verdict.inner_text()
    page.goto(page.url, timeout=LONG)
    settle(page)
    last_step(page)
    expect(verdict).to_have_text(settled, timeout=LONG)


def test_keys_move_a_head_that_keeps_the_focus_and_a_typed_number_moves_it_too(page, lab_url):
    go(page, lab_url, "proj_gx=-1&proj_gy=-2&proj_ax=1&proj_ay=0&proj_bx=1&proj_by=1")
    last_step(page)
    expect(page.locator(".verdict")).to_have_text("GEM: u = (0.5, −0.5) = g + 1.5 g₂.", timeout=LONG)
    head(page, "Head of row 2").focus()
    page.keyboard.press("ArrowUp")
    expect(field(page, "g₂, y")).to_have_value("1.10", timeout=LONG)
    page.keyboard.press("Shift+ArrowUp")
    expect(field(page, "g₂, y")).to_have_value("1.60", timeout=LONG)
    expect(head(page, "Head of row 2")).to_be_focused(timeout=LONG)
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", "3", timeout=LONG)
    page.wait_for_selector(IDLE, timeout=LONG)
    number = field(page, "g, x")
    number.fill("-3")
    number.press("Enter")
    expect(head(page, "Head of g")).to_have_attribute("aria-valuetext", "(−3, −2)", timeout=LONG)
    expect(page.locator(".verdict")).to_contain_text(
        "GEM: u = (0, 0) = g + 1.75 g₁ + 1.25 g₂: the nearest", timeout=LONG
    )


def test_the_real_run_streams_and_ends_in_a_table(page, lab_url):
    page.goto(f"{lab_url}/projection?proj_view=A+real+run&proj_stream=split+digits", timeout=LONG)
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("All 75 steps of three methods are taken.")).to_be_visible(timeout=LONG)
    row = page.get_by_role("row", name=re.compile("^GEM"))
    expect(row).to_contain_text("0%", timeout=LONG)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(9, timeout=LONG)
    page.reload(timeout=LONG)  # the finished run is kept
    expect(page.get_by_role("row", name=re.compile("^GEM"))).to_contain_text("0%", timeout=LONG)


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page, lab_url):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme="dark")
    go(page, lab_url, "proj_rows=3")
    last_step(page)
    fits = "node => node.scrollWidth <= node.clientWidth + 1"
    for place in (page.get_by_test_id("stMain"), page.locator(".stage")):
        page.wait_for_function(fits, arg=place.element_handle(), timeout=LONG)
    assert page.locator(".plane").bounding_box()["y"] < field(page, "g, x").bounding_box()["y"]
