"""The view of two weights on springs, on a page of its own: steps, tips, and a path that leaves the picture."""

import pytest
from playwright.sync_api import Page, expect

from cllab.player import page as web_page
from labs import elastic_traces as lab


def show(page: Page, trace: dict, step: int) -> Page:
    page.set_content(web_page(trace, step=step))
    expect(page.locator(".cllab-player .plane").first).to_be_visible()
    return page


def tell(page: Page, locator) -> str:
    page.mouse.move(0, 0)
    locator.hover(force=True)
    return page.locator(".tip").inner_text()


def told_of(page: Page, selector: str) -> str:
    """What the tip says about the last such shape, also where another one covers its middle."""
    page.locator(selector).last.dispatch_event("pointerover")
    return page.locator(".tip").inner_text()


def test_numbers_heads_and_tips_follow_the_step(page):
    trace = lab.story("two parabolas", 1, 0.1, "model", 8, 0)
    show(page, trace, 0)
    expect(page.locator(".springs-table")).to_contain_text("After 0 steps")
    start = page.locator(".head.proximal").get_attribute("transform")
    page.get_by_role("button", name="Step forward").click()
    expect(page.locator(".springs-table")).to_contain_text("After 1 step")
    assert page.locator(".head.proximal").get_attribute("transform") != start
    page.evaluate("player.setStep(60)")
    row = page.locator(".springs-table tbody tr").nth(2)
    expect(row).to_have_text("proximal0.20.50.2050.4450.943")
    assert "(−0.8, −0.5)" in tell(page, row.locator("td").last)
    told = tell(page, page.locator(".readouts li").first)
    assert "0.1 · 1 · 4 = 0.4" in told and "1 − lr λ F = 0.6 and 0.9" in told
    assert "axes 1/√(nF) = 0.5 and 1" in told_of(page, "ellipse.fisher")


def test_a_path_that_leaves_says_so_and_stays_drawable(page):
    show(page, lab.story("an idle feature", 10_000, 1, "model", 8, 0), 60)
    head = page.locator(".head.penalty")
    expect(head).to_contain_text("left at step")
    inside, plane = head.bounding_box(), page.locator(".plane").bounding_box()
    assert plane["x"] <= inside["x"] and inside["x"] + inside["width"] <= plane["x"] + plane["width"]
    expect(page.locator(".springs-table tr.violated")).to_have_count(1)
    drawn = page.locator(".stage").evaluate("node => node.innerHTML")
    assert "NaN" not in drawn and "Infinity" not in drawn
    assert page.locator(".stage").evaluate("node => node.scrollWidth <= node.clientWidth")


@pytest.mark.parametrize("width", [360, 1200])
def test_four_panels_fit_and_an_endless_ellipse_is_told(open_page, width):
    page = open_page(viewport={"width": width, "height": 900})
    show(page, lab.four_fishers("an idle feature", 3, 1, 64, 0), 60)
    expect(page.locator(".plane")).to_have_count(4)
    expect(page.locator(".springs-panels")).to_contain_text("batched, B = 64")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "∞ and ∞" in told_of(page, "ellipse.fisher")
