"""The herding page in a real browser: what a person sees, presses, drags and reloads."""

import re

import pytest
from playwright.sync_api import Page, expect

LONG = 60_000  # ms that a busy machine may need
LAST = 27  # the last step of the story by hand


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its player is there."""
    page.goto(f"{url}/herding?{query}")
    expect(page.locator(".cllab-player")).to_be_visible(timeout=LONG)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def at(page: Page) -> int:
    return int(page.locator(".cllab-player").get_attribute("data-step"))


def expect_step(page: Page, step: int) -> None:
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", str(step), timeout=LONG)


def test_it_plays_by_itself_and_stops_when_asked(open_page, lab_url):
    page = open_page(reduced_motion="no-preference")
    go(page, lab_url)
    expect(page.locator(".cllab-player")).not_to_have_attribute("data-step", str(at(page)), timeout=LONG)
    press(page, "Pause")
    stopped = at(page)
    page.wait_for_timeout(2500)
    assert at(page) == stopped


def test_stepping_shows_the_target_the_tie_and_the_choice(page, lab_url):
    go(page, lab_url)
    player = page.locator(".cllab-player")
    for _ in range(3):  # past the loss of the first stage
        press(page, "Step forward")
    expect(player.locator(".readouts")).to_contain_text("target = (0.80, 0.80)")
    expect(player.get_by_role("row", name=re.compile(r"\(1, 1\).*0\.08.*chosen"))).to_be_visible()
    press(page, "Step forward")
    for point in (r"\(1, 0\)", r"\(0, 1\)"):
        expect(player.get_by_role("row", name=re.compile(rf"{point}.*0\.52.*tie"))).to_be_visible()
    player.focus()
    page.keyboard.press("End")
    expect_step(page, LAST)
    expect(player.locator(".memory")).to_contain_text("6 of 8 slots used")
    page.keyboard.press("Home")
    expect_step(page, 0)


def test_the_query_point_follows_the_mouse_the_keys_and_the_fields(page, lab_url):
    go(page, lab_url)
    player = page.locator(".cllab-player")
    player.focus()
    page.keyboard.press("End")
    expect_step(page, LAST)
    x, y = page.get_by_label("x", exact=True), page.get_by_label("y", exact=True)
    expect(player.locator(".answers")).to_contain_text("Query (2.00, 2.00): class B")
    picture = player.locator("svg.plot")
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.up()
    expect(x).not_to_have_value("0.90", timeout=LONG)
    expect(page).to_have_url(re.compile(r"herd_x=.*herd_y=|herd_y=.*herd_x="))
    dragged = float(x.input_value())
    picture.focus()
    page.keyboard.press("ArrowRight")
    expect(x).to_have_value(f"{dragged + 0.1:.2f}", timeout=LONG)
    for field, value in ((x, "-0.9"), (y, "-0.6")):
        field.fill(value)
        field.press("Enter")
    expect(player.locator(".answers")).to_contain_text("Query (−0.90, −0.60): class C", timeout=LONG)
    expect(page.get_by_text("(−0.9, −0.6) is classified as C")).to_be_visible()


def test_a_link_reproduces_the_page(page, lab_url):
    go(page, lab_url)
    slider = page.get_by_role("slider", name="Memory budget K (rows)")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("herd_capacity=9"), timeout=LONG)
    expect(page.locator(".cllab-player")).to_contain_text("a memory of K = 9")
    page.get_by_test_id("stButtonGroup").get_by_text("last", exact=True).click()
    expect(page).to_have_url(re.compile("herd_ties=last"), timeout=LONG)
    page.goto(page.url)
    expect(page.locator(".cllab-player")).to_contain_text("a memory of K = 9", timeout=LONG)
    expect(page.get_by_role("slider", name="Memory budget K (rows)")).to_have_value("9")


def test_a_preset_goes_to_the_moment_that_it_is_about(page, lab_url):
    go(page, lab_url)
    press(page, "Point (2, 2)")
    expect_step(page, 15)
    answers = page.locator(".cllab-player .answers")
    expect(answers).to_contain_text("a tie between A and B", timeout=LONG)
    expect(page.get_by_text("(2, 2) is exactly as far from A and B: a tie.")).to_be_visible()
    press(page, "Step forward")
    press(page, "Point (2, 2)")
    expect_step(page, 15)
    press(page, "By hand, K = 8")
    expect_step(page, 0)


def test_the_story_is_entered_at_its_second_stage_and_shows_the_loss(page, lab_url):
    go(page, lab_url)
    page.get_by_test_id("stButtonGroup").get_by_text("Stage 2", exact=True).click()
    expect_step(page, 16)
    expect(page).to_have_url(re.compile(r"herd_enter=Stage\+2"), timeout=LONG)
    player = page.locator(".cllab-player")
    press(page, "Step forward")
    expect(player.get_by_role("row", name=re.compile(r"A 0\.9 old network \? \?"))).to_be_visible()
    press(page, "Step forward")
    expect(player.locator(".readouts")).to_contain_text("distillation = 0.6978")
    player.get_by_role("row", name=re.compile(r"C 0 label 0\.05 0\.0513")).hover()
    expect(player.get_by_role("tooltip")).to_contain_text("−[0 ln 0.05 + (1 − 0) ln(1 − 0.05)] = 0.0513")


def test_test_points_show_themselves_until_another_is_placed(page, lab_url):
    go(page, lab_url, "herd_enter=Test+points")
    answers = page.locator(".cllab-player .answers")
    expect(answers).to_contain_text("Query (0.90, 0.70): class A")
    press(page, "Step forward")
    expect(answers).to_contain_text("Query (−0.90, −0.60): class C")
    page.locator("svg.plot").press("ArrowRight")
    expect(answers).to_contain_text("Query (−0.80, −0.60)", timeout=LONG)
    press(page, "Step forward")
    expect(answers).to_contain_text("Query (0.00, 0.00): a tie between A and C")


def test_a_real_run_moves_its_features_and_marks_wrong_answers(page, lab_url):
    go(page, lab_url, "herd_view=A+real+run")
    player = page.locator(".cllab-player")
    player.focus()
    page.keyboard.press("End")
    expect_step(page, 28)
    expect(player.locator(".status")).to_contain_text("own head is right on")
    expect(player.locator(".memory canvas")).to_have_count(16)
    wrong = player.locator("table.taken td.value").all_inner_texts()
    counts = [[int(n) for n in text.split(" of ")] for text in wrong]
    rings = player.locator("svg.plot g > g:has(circle[stroke-width='2'])")
    expect(rings).to_have_count(sum(of - right for right, of in counts))
    page.keyboard.press("Home")
    expect(player.locator(".memory canvas")).to_have_count(0)


def test_a_guess_is_judged_and_only_then_shown(page, lab_url):
    go(page, lab_url, "herd_predict=true")
    player = page.locator(".cllab-player")
    expect(page.get_by_text("1 of 10.")).to_be_visible()
    expect(player.locator("tbody")).to_have_count(0)
    page.get_by_test_id("stButtonGroup").get_by_text("(2, 2)", exact=True).click()
    expect(page.get_by_text("Herding takes (1, 1) at d² = 0.08; (2, 2) is at d² = 2.88.")).to_be_visible(timeout=LONG)
    expect(player.get_by_role("row", name=re.compile(r"\(1, 1\).*chosen"))).to_be_visible(timeout=LONG)
    expect(page.get_by_text("2 of 10.")).to_be_visible()


def test_real_digits_come_with_their_thumbnails(page, lab_url):
    go(page, lab_url, "herd_view=Real+digits&herd_features=pixels")
    player = page.locator(".cllab-player")
    press(page, "Step forward")
    expect(player.locator(".memory canvas")).to_have_count(1)
    assert player.locator("table canvas").count() >= 8


def test_the_error_chart_has_a_name_and_is_drawn(page, lab_url):
    page.goto(f"{lab_url}/herding?herd_view=Against+random&herd_source=toy+class+A")
    chart = page.get_by_test_id("stVegaLiteChart")
    expect(chart.locator("canvas, svg").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text(re.compile(r"larger than one step before at m = 2, 4"))).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(open_page, lab_url, scheme):
    page = open_page(viewport={"width": 400, "height": 850}, color_scheme=scheme)
    go(page, lab_url)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth")
    player, slider = page.locator(".cllab-player"), page.get_by_role("slider", name="Memory budget K (rows)")
    assert player.bounding_box()["y"] < slider.bounding_box()["y"]


def test_two_visitors_do_not_disturb_each_other(open_page, lab_url):
    first, second = open_page(), open_page()
    go(first, lab_url, "herd_capacity=12")
    go(second, lab_url)
    press(first, "Step forward")
    expect_step(first, 1)
    expect(second.locator(".cllab-player")).to_contain_text("a memory of K = 8")
    assert at(second) == 0
