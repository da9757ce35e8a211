"""The generative page in a real browser: what a person sees, presses and reloads."""

import re

import pytest
from playwright.sync_api import Page, expect

LONG = 90_000  # ms that a busy machine may need


def go(page: Page, url: str, query: str = "") -> None:
    page.goto(f"{url}/generative?{query}")
    expect(page.locator(".cllab-player svg").first).to_be_visible(timeout=LONG)


def test_gaussians_move_without_a_click_and_shrink(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    player = page.locator(".cllab-player")
    expect(player).to_have_attribute("data-step", re.compile("[1-9]"), timeout=LONG)
    player.focus()
    page.keyboard.press("End")
    expect(player).to_contain_text("Generation 20, from 10 samples of generation 19")
    expect(player).to_contain_text("closed form = 0.122")
    ellipses = [player.locator(f"section path[stroke-width='{width}']").first for width in ("2.5", "1.5")]
    for _ in range(100):  # it is still on its way there
        solid, dashed = (ellipse.bounding_box() for ellipse in ellipses)
        if solid["width"] * solid["height"] < 0.5 * dashed["width"] * dashed["height"]:
            return
        page.wait_for_timeout(100)
    pytest.fail(f"the ellipse has not shrunk: {solid} beside {dashed}")


def test_every_view_is_drawn_and_a_link_brings_it_back(page, lab_url):
    go(page, lab_url)
    player = page.locator(".cllab-player")
    page.get_by_test_id("stButtonGroup").get_by_text("Digits", exact=True).click()
    expect(player.locator("canvas")).to_have_count(2, timeout=LONG)
    expect(page).to_have_url(re.compile("gen_view=Digits"))
    inked = "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data.some((v) => v > 200)"
    assert all(canvas.evaluate(inked) for canvas in player.locator("canvas").all())
    page.goto(page.url)
    expect(player.locator("canvas")).to_have_count(2, timeout=LONG)
    page.get_by_role("button", name="Latents age", exact=True).click()
    expect(player).to_contain_text("Trunk goes on learning", timeout=LONG)
    frozen, moving = (section.locator("line[opacity='0.75']") for section in player.locator("section").all())
    player.focus()
    page.keyboard.press("End")
    lengths = [
        max(line.evaluate("n => Math.hypot(n.x2.baseVal.value - n.x1.baseVal.value, "
                          "n.y2.baseVal.value - n.y1.baseVal.value)") for line in lines.all()[:5])
        for lines in (frozen, moving)
    ]  # fmt: skip
    assert lengths[0] < 0.5 and lengths[1] > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_picture_comes_before_the_settings(open_page, lab_url, scheme):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme=scheme)
    go(page, lab_url, "gen_view=Digits")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, choice = page.locator(".cllab-player"), page.get_by_test_id("stButtonGroup").first
    assert player.bounding_box()["y"] < choice.bounding_box()["y"]
