"""The page of progressive columns in a real browser: what a person sees, moves and reloads."""

import re

from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its player is there and the page is settled."""
    page.goto(f"{url}/columns?{query}")
    expect(page.locator(".cllab-player .columns-grid")).to_be_visible(timeout=LONG)
    settled(page)


def settled(page: Page) -> None:
    expect(page.get_by_text("How it grows")).to_be_visible(timeout=LONG)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=LONG)


def ink(page: Page, place: int) -> int:
    """How much there is to see in one of the maps of weights: the sum of its opacities."""
    return (
        page.locator(".columns-map canvas")
        .nth(place)
        .evaluate(
            "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data"
            ".reduce((sum, value, i) => sum + (i % 4 === 3 ? value : 0), 0)"
        )
    )


def test_the_columns_grow_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", re.compile("^[1-9]"), timeout=LONG)
    expect(page.locator(".readouts").get_by_text("columns = 2")).to_be_visible(timeout=LONG)
    expect(page.locator(".columns-note").first).to_contain_text("Thickness of a line: its share")


def test_laterals_light_up_and_old_answers_stay(page, lab_url):
    go(page, lab_url)
    player = page.locator(".cllab-player")
    player.focus()
    page.keyboard.press("Home")
    expect(page.locator(".columns-map")).to_have_count(2)  # own weights of two layers, nobody to read
    page.keyboard.press("End")
    expect(page.locator(".status")).to_contain_text("Column 3, names 3, step 120", timeout=LONG)
    expect(page.locator(".status")).to_contain_text("Old answers moved not at all")
    expect(page.locator(".readouts")).to_contain_text("parameters = 3,990")
    assert ink(page, 0) > 0
    for _ in range(12):  # back to this column's first frame, where all its laterals are 0
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".status")).to_contain_text("Column 3, names 3, step 0", timeout=LONG)
    assert ink(page, 0) == 0 < ink(page, 2)
    page.locator(".readouts li", has_text="parameters").hover()
    expect(page.locator(".tip")).to_have_text("3 × 1,066 in the columns + 792 in laterals = 3,990")


def test_a_new_run_is_trained_and_its_link_reproduces_it(open_page, lab_url):
    first, second = open_page(), open_page()
    go(first, lab_url, "col_columns=2")
    expect(first.get_by_text("Trained here in")).to_be_visible(timeout=LONG)
    first.locator("[data-testid=stSegmentedControl], [data-testid=stButtonGroup]").get_by_text("adapter").click()
    title = first.locator(".cllab-player .title")
    expect(title).to_have_text(re.compile("^2 columns, .* adapters of width 3$"), timeout=LONG)
    settled(first)
    expect(first).to_have_url(re.compile("col_laterals=adapter"), timeout=LONG)
    second.goto(first.url)
    expect(second.locator(".cllab-player .title")).to_have_text(title.inner_text(), timeout=LONG)
    settled(second)
    first.get_by_role("button", name="Five columns").click()
    expect(title).to_have_text(re.compile("^5 columns"), timeout=LONG)
    settled(first)


def test_on_a_phone_the_picture_comes_before_the_settings(open_page, lab_url):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme="dark")
    go(page, lab_url, "col_columns=5")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name="Rows of a new task")
    assert player.bounding_box()["y"] < slider.bounding_box()["y"]
