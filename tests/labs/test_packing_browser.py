"""The packing page in a real browser: what a person sees, moves and reloads."""

import re

from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "") -> None:
    page.goto(f"{url}/packing?{query}")
    expect(page.locator(".cllab-player .stage svg").first).to_be_visible(timeout=LONG)
    settled(page)


def settled(page: Page) -> None:
    expect(page.get_by_text("Show the code")).to_be_visible(timeout=LONG)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=LONG)


def at_the_end(page: Page, part: str) -> None:
    """The player that shows `part`, at its last step."""
    player = page.locator(".cllab-player").filter(has=page.locator(part))
    expect(player).to_have_count(1, timeout=LONG)
    settled(page)
    player.press("End")
    expect(player.get_by_text(re.compile(r"^step (\d+) of \1$"))).to_be_visible(timeout=LONG)


def test_the_weights_move_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", re.compile("^[1-9]"), timeout=LONG)
    at_the_end(page, ".packing-weights")
    expect(page.locator(".packing-table tbody tr").nth(1)).to_have_text("task 2393")
    expect(page.locator(".packing-table tbody tr").nth(2)).to_have_text("task 31101")


def test_all_for_the_first_task_is_a_sentence_and_its_link_gives_it_again(page, lab_url):
    go(page, lab_url, "pack_r1=0.95")
    page.get_by_role("slider", name="Task 1 keeps r₁").press("ArrowRight")
    expect(page).to_have_url(re.compile("pack_r1=1"), timeout=LONG)
    sentence = page.get_by_test_id("stMarkdown").filter(has_text="CapacityError: w has no free weight")
    expect(sentence).to_be_visible(timeout=LONG)
    page.reload()
    expect(sentence).to_be_visible(timeout=LONG)


def test_a_layer_and_a_frozen_weight_are_drawn(page, lab_url):
    go(page, lab_url)
    page.get_by_role("button", name="Frozen by gradient 0").click()
    at_the_end(page, ".packing-map canvas")
    expect(page.locator(".packing-table td.violated").nth(1)).to_contain_text(re.compile(r"\d"))
    expect(page.locator(".packing-table tbody tr").nth(1)).to_contain_text("0.986 → 0.903")
    page.get_by_role("button", name="Three leaks").click()
    at_the_end(page, ".packing-moved")
    expect(page.locator(".packing-moved").nth(2)).to_have_text("moved −0.488, put back 0")


def test_on_a_phone_the_picture_comes_before_the_settings(open_page, lab_url):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme="dark")
    go(page, lab_url, "pack_view=A+real+layer")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name="Task 1 keeps r₁")
    assert player.bounding_box()["y"] < slider.bounding_box()["y"]
