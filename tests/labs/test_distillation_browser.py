"""The distillation page in a real browser: what a person sees, presses and reloads."""

import re

from playwright.sync_api import Page, expect

LONG = 180_000  # ms that a busy machine may need: its server imports torch at the first visit
IDLE = "[data-testid=stApp][data-test-script-state=notRunning]"


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its player is there and nothing below it is still to come."""
    page.goto(f"{url}/distillation?{query}", timeout=LONG)
    expect(page.locator(".cllab-player svg").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Lesson 08 does this by hand")).to_be_visible(timeout=LONG)
    page.wait_for_selector(IDLE, timeout=LONG)


def nothing_is_wider_than_the_screen(page: Page) -> None:
    page.wait_for_selector(IDLE, timeout=LONG)
    fits = "node => node.scrollWidth <= node.clientWidth"
    page.wait_for_function(fits, arg=page.get_by_test_id("stMain").element_handle(), timeout=LONG)


def test_the_temperature_rises_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", re.compile("^[1-9]"), timeout=LONG)


def test_slider_and_player_move_the_same_temperature_and_a_link_keeps_it(open_page, lab_url):
    page = open_page()
    go(page, lab_url, "dist_T=2")
    status = page.locator(".cllab-player .status")
    expect(status).to_contain_text("T = 2: the teacher says cat 80.00%, lion 18.00%, elephant 2.00%", timeout=LONG)
    page.get_by_role("button", name="Step forward").click()
    slider = page.get_by_role("slider", name="Temperature T")
    expect(slider).to_have_attribute("aria-valuetext", "2.378", timeout=LONG)
    expect(page).to_have_url(re.compile("dist_T=2.378"), timeout=LONG)
    expect(page.get_by_role("table")).to_contain_text("at T = 2.378", timeout=LONG)
    page.wait_for_selector(IDLE, timeout=LONG)
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(status).to_contain_text("T = 2.828", timeout=LONG)
    expect(page).to_have_url(re.compile("dist_T=2.828"), timeout=LONG)
    second = open_page()
    go(second, lab_url, page.url.split("?")[1])
    expect(second.locator(".cllab-player .status")).to_have_text(status.inner_text(), timeout=LONG)


def test_bars_tell_their_formula_and_follow_typed_logits_wrong_ones_get_a_sentence(page, lab_url):
    go(page, lab_url, "dist_T=2")
    bars, tip = page.locator(".cllab-player rect.told"), page.locator(".cllab-player .tip")
    bars.first.hover()
    expect(tip).to_contain_text("softmax at T = 2: exp(0 / 2) / Σ (largest logit 7.3778 taken off first)", timeout=LONG)
    expect(tip).to_contain_text("= 1 / (1 + 0.225 + 0.025) = 0.8")
    bars.nth(6).hover()
    expect(tip).to_contain_text("T² · (p − q) / T = T (p − q) = 2 × (0.383652 − 0.8) = −0.832697", timeout=LONG)
    teacher, status = page.get_by_role("textbox", name="Teacher logits z"), page.locator(".cllab-player .status")
    teacher.fill("4, 2, 0")
    teacher.press("Enter")
    expect(status).to_contain_text("cat 66.52%, lion 24.47%", timeout=LONG)
    page.wait_for_selector(IDLE, timeout=LONG)
    teacher.fill("4, nan, 0")
    teacher.press("Enter")
    expect(page.get_by_text("which is not finite")).to_be_visible(timeout=LONG)
    expect(status).to_contain_text("cat 66.52%, lion 24.47%", timeout=LONG)


def test_a_real_teacher_trains_while_the_page_is_used(page, lab_url):
    page.goto(f"{lab_url}/distillation?dist_view=A+real+teacher&dist_seed=7", timeout=LONG)
    expect(page.get_by_text("Now it learns 5 to 9")).to_be_visible(timeout=LONG)
    views = page.get_by_test_id("stButtonGroup").first
    views.get_by_text("Temperature", exact=True).click()
    expect(page.locator(".cllab-player .status")).to_contain_text("the teacher says", timeout=LONG)
    views.get_by_text("A real teacher", exact=True).click()
    expect(page.locator(".cllab-player .status")).to_contain_text("Step 0 of the new task", timeout=LONG)
    expect(page.get_by_text("The teacher's soft targets")).to_be_visible(timeout=LONG)
    expect(page.get_by_test_id("stProgress")).to_have_count(0, timeout=LONG)


def test_on_a_phone_the_picture_comes_first_and_nothing_is_wider_than_the_screen(open_page, lab_url):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme="dark")
    go(page, lab_url, "dist_view=A+real+teacher")
    nothing_is_wider_than_the_screen(page)
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name="Weight")
    assert player.bounding_box()["y"] < slider.bounding_box()["y"]
    page.get_by_role("button", name="Longer batch").click()
    expect(page.get_by_test_id("stVegaLiteChart")).to_be_visible(timeout=LONG)
    numbers = page.get_by_role("table").nth(1)
    expect(numbers).to_contain_text("0.346277 / 3 kept", timeout=LONG)
    nothing_is_wider_than_the_screen(page)
    page.get_by_test_id("stButtonGroup").get_by_text("word 3", exact=True).first.click()
    expect(numbers).to_contain_text("0.455649 / 4 kept", timeout=LONG)
