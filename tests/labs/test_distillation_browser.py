"""The distillation page in a real browser: what a person sees, presses and reloads."""

import re

import pytest
from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its player is there."""
    page.goto(f"{url}/distillation?{query}", timeout=LONG)
    expect(page.locator(".cllab-player svg").first).to_be_visible(timeout=LONG)


def test_the_temperature_rises_without_a_click(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    expect(page.locator(".cllab-player")).to_have_attribute(
        "data-step", re.compile("^([2-9]|[12][0-9])$"), timeout=LONG
    )


def test_slider_and_player_move_the_same_temperature_and_a_link_keeps_it(open_page, lab_url):
    page = open_page()
    go(page, lab_url, "dist_T=2")
    status = page.locator(".cllab-player .status")
    expect(status).to_contain_text("T = 2: the teacher says cat 80.00%, lion 18.00%, elephant 2.00%", timeout=LONG)
    page.get_by_role("button", name="Step forward").click()
    expect(page).to_have_url(re.compile("dist_T=2.378"), timeout=LONG)
    slider = page.get_by_role("slider", name="Temperature T")
    expect(slider).to_have_attribute("aria-valuetext", "2.378", timeout=LONG)
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(status).to_contain_text("T = 2.828", timeout=LONG)
    second = open_page()
    go(second, lab_url, page.url.split("?")[1])
    expect(second.locator(".cllab-player .status")).to_have_text(status.inner_text(), timeout=LONG)


def test_bars_tell_their_formula(page, lab_url):
    go(page, lab_url, "dist_T=2")
    bars, tip = page.locator(".cllab-player rect.told"), page.locator(".cllab-player .tip")
    bars.first.hover()
    expect(tip).to_contain_text("softmax at T = 2: exp(0 / 2) / Σ (largest logit 7.3778 taken off first)")
    expect(tip).to_contain_text("= 1 / (1 + 0.225 + 0.025) = 0.8")
    bars.nth(6).hover()
    expect(tip).to_contain_text("T² · (p − q) / T = T (p − q) = 2 × (0.383652 − 0.8) = −0.832697")


def test_typed_logits_are_drawn_and_wrong_ones_get_a_sentence(page, lab_url):
    go(page, lab_url, "dist_T=2")
    teacher = page.get_by_role("textbox", name="Teacher logits z")
    teacher.fill("4, 2, 0")
    teacher.press("Enter")
    expect(page.locator(".cllab-player .status")).to_contain_text("cat 66.52%, lion 24.47%", timeout=LONG)
    teacher.fill("4, nan, 0")
    teacher.press("Enter")
    expect(page.get_by_text("which is not finite")).to_be_visible(timeout=LONG)
    expect(page.locator(".cllab-player .status")).to_contain_text("cat 66.52%, lion 24.47%")


def test_words_are_masked_by_a_click(page, lab_url):
    page.goto(f"{lab_url}/distillation?dist_view=Masked+tokens", timeout=LONG)
    numbers = page.get_by_role("table").nth(1)
    expect(numbers).to_contain_text("0.115426", timeout=LONG)
    page.get_by_test_id("stButtonGroup").get_by_text("word 3", exact=True).first.click()
    expect(numbers).to_contain_text("0.455649 / 4 kept", timeout=LONG)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_picture_comes_first_and_nothing_is_wider_than_the_screen(open_page, lab_url, scheme):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme=scheme)
    go(page, lab_url, "dist_view=A+real+teacher" if scheme == "dark" else "dist_T=50")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name=re.compile("Temperature|Weight"))
    assert player.bounding_box()["y"] < slider.first.bounding_box()["y"]
    page.get_by_role("button", name="Longer batch").click()
    expect(page.get_by_test_id("stVegaLiteChart")).to_be_visible(timeout=LONG)
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
