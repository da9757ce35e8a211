"""Forgetting curves in a real browser: what a person sees and presses."""

import re

import pytest
from playwright.sync_api import Page, expect

LONG = 120_000  # ms that a busy machine may need
SHORT_RUN = "fc_ask=false&fc_epochs=2&fc_methods=fine-tuning&fc_methods=EWC"
LONG_RUN = "fc_ask=false&fc_epochs=30&fc_batch=10&fc_methods=fine-tuning&fc_speed=slow"


def go(page: Page, url: str, query: str = "") -> None:
    """Open the page and wait until its curves are there."""
    page.goto(f"{url}/?{query}")
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible(timeout=LONG)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def step(page: Page) -> int:
    """The step that the page says it is at."""
    text = page.get_by_test_id("stProgress").inner_text()
    return int(re.search(r"Step (\d+) of", text).group(1))


def wait_for_step(page: Page, more_than: int) -> None:
    page.wait_for_function(
        "least => Number(/Step (\\d+) of/.exec(document.querySelector('[data-testid=stProgress]').innerText)?.[1])"
        " > least", arg=more_than, timeout=LONG,
    )  # fmt: skip


def finished(page: Page) -> list[str]:
    """Wait for the end of the run; the metrics that the page shows then."""
    expect(page.get_by_test_id("stProgress")).to_contain_text("finished", timeout=LONG)
    expect(page.get_by_text("What was kept, in numbers")).to_be_visible(timeout=LONG)
    expect(page.locator(".cllab-player")).to_be_visible(timeout=LONG)
    values = page.get_by_test_id("stMetricValue")
    expect(values).not_to_have_count(0, timeout=LONG)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=LONG)
    return values.all_inner_texts()


def test_curves_grow_without_a_click(page, lab_url):
    go(page, lab_url, LONG_RUN)
    wait_for_step(page, 0)
    seen = step(page)
    curve = page.get_by_test_id("stVegaLiteChart").first
    before = curve.screenshot()
    wait_for_step(page, seen + 50)  # it is evaluated every 24 steps
    assert curve.screenshot() != before
    page.get_by_text("full speed", exact=True).click()
    assert len(finished(page)) == 5


def test_the_first_visit_asks_for_a_guess_and_ends_in_the_numbers_of_the_first_claim(page, lab_url):
    go(page, lab_url)
    lock = page.get_by_role("button", name="Lock in my guess")
    expect(lock).to_be_visible(timeout=LONG)
    guess = page.get_by_role("slider", name="Accuracy of fine-tuning on task A at the end")
    guess.focus()
    guess.press("ArrowLeft")
    expect(page.get_by_text("Take your time.")).to_be_visible(timeout=LONG)
    lock.click()
    expect(page.get_by_text("You guessed 0.49; fine-tuning kept 0.44")).to_be_visible(timeout=LONG)
    values = finished(page)
    assert len(values) == 15 and values[0] == "0.72"
    labels = [
        chart.get_attribute("aria-label") for chart in page.locator("[aria-label*='accuracy on each task']").all()
    ]
    assert any("after step 400: A 0.44, B 1.00" in label for label in labels)


def test_pause_step_resume_stop(page, lab_url):
    go(page, lab_url, LONG_RUN)
    wait_for_step(page, 0)
    press(page, "Pause")
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible(timeout=LONG)
    expect(page.get_by_test_id("stProgress")).to_contain_text("paused", timeout=LONG)
    frozen = step(page)
    page.wait_for_timeout(1000)
    assert step(page) == frozen
    for more in (1, 2):
        press(page, "Step")
        expect(page.get_by_test_id("stProgress")).to_contain_text(f"Step {frozen + more} of", timeout=LONG)
    page.wait_for_timeout(700)
    assert step(page) == frozen + 2
    press(page, "Resume")
    wait_for_step(page, frozen + 10)
    press(page, "Stop")
    expect(page.get_by_test_id("stProgress")).to_contain_text("stopped", timeout=LONG)
    expect(page.get_by_text("metrics, which need its end, are missing")).to_be_visible(timeout=LONG)
    stopped = step(page)
    page.wait_for_timeout(700)
    assert step(page) == stopped
    expect(page.get_by_role("button", name="Step", exact=True)).to_be_disabled()


def test_the_run_can_be_scrubbed_and_downloaded(page, lab_url):
    go(page, lab_url, SHORT_RUN)
    finished(page)
    player = page.locator(".cllab-player")
    status = player.locator(".status")
    expect(status).to_contain_text("Step 80")
    scrub = player.get_by_role("slider", name="Step")
    scrub.focus()
    scrub.press("Home")
    expect(status).to_contain_text("Step 0, before training")
    scrub.press("ArrowRight")
    expect(status).not_to_contain_text("Step 0,")
    for picture in ("EWC: predicted class over the plane", "Accuracy matrix R"):
        shown = player.get_by_label(picture).or_(player.get_by_text(picture))
        expect(shown.first).to_be_visible()
    page.wait_for_timeout(1000)  # the step just shown is told to the page, which then offers its files anew
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=LONG)
    with page.expect_download() as got:
        page.get_by_role("button", name="All evaluations (CSV)").click()
    text = got.value.path().read_text()
    assert text.startswith("method,step,learning,task,accuracy")
    with page.expect_download() as got:
        page.get_by_role("button", name="History: EWC").click()
    assert '"method": "EWC"' in got.value.path().read_text()


def test_the_address_holds_the_settings_and_the_link_reproduces_the_numbers(open_page, lab_url):
    page = open_page()
    go(page, lab_url, SHORT_RUN)
    finished(page)
    page.get_by_text("Training", exact=True).click()
    slider = page.get_by_role("slider", name="Hidden width")
    slider.focus()
    slider.press("ArrowRight")
    expect(page).to_have_url(re.compile("fc_hidden=33"))
    expect(page.get_by_text("Settings changed: press Run")).to_be_visible(timeout=LONG)
    press(page, "Run")
    expect(page.get_by_text("Settings changed: press Run")).to_be_hidden(timeout=LONG)
    expect(page.get_by_text("hidden 32 → 33")).to_be_visible(timeout=LONG)
    numbers = finished(page)
    other = open_page()
    other.goto(page.url)
    assert finished(other) == numbers
    other.reload()
    assert finished(other) == numbers


def test_a_preset_states_its_claim_and_runs(page, lab_url):
    go(page, lab_url, SHORT_RUN)
    finished(page)
    press(page, "EWC too strong")
    expect(page.locator("p", has_text="The claim.")).to_contain_text("With springs this stiff", timeout=LONG)
    expect(page).to_have_url(re.compile("fc_lam=1000"))
    expect(page.get_by_test_id("stProgress")).to_contain_text("of 600", timeout=LONG)
    page.get_by_text("full speed", exact=True).click()
    finished(page)
    expect(page.locator(".cllab-player .status")).to_contain_text("Step 600", timeout=LONG)


def test_a_wrong_address_is_a_message(page, lab_url):
    go(page, lab_url, "fc_epochs=abc&fc_lr=-3&fc_stream=zzz&fc_seed=1e99999&fc_ask=false&fc_batch=128")
    alert = page.get_by_test_id("stAlert")
    expect(alert).to_contain_text("fc_epochs=abc: it must be a whole number from 1 to 30. Using 10.")
    expect(alert).to_contain_text("fc_stream=zzz")
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page).not_to_have_url(re.compile("zzz"))
    assert len(finished(page)) == 15


def test_leaving_the_page_stops_its_training(page, lab_url):
    go(page, lab_url, LONG_RUN)
    wait_for_step(page, 0)
    page.get_by_role("link", name="Herding steps").first.click()
    expect(page.get_by_role("heading", name="Herding steps")).to_be_visible(timeout=LONG)
    page.get_by_role("link", name="Forgetting curves").first.click()
    expect(page.get_by_test_id("stProgress")).to_contain_text("stopped", timeout=LONG)
    stopped = step(page)
    page.wait_for_timeout(1000)
    assert step(page) == stopped
    assert page.get_by_test_id("stException").count() == 0


def test_two_visitors_at_once(open_page, lab_url):
    one, two = open_page(), open_page()
    go(one, lab_url, "fc_ask=false&fc_epochs=1&fc_methods=joint")
    go(two, lab_url, "fc_ask=false&fc_epochs=2&fc_methods=EWC")
    assert len(finished(one)) == len(finished(two)) == 5
    expect(one.get_by_test_id("stProgress")).to_contain_text("Step 40 of 40")
    expect(two.get_by_test_id("stProgress")).to_contain_text("Step 80 of 80")
    expect(one.get_by_text("History: EWC")).to_have_count(0)
    expect(two.get_by_text("History: joint")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_too(open_page, lab_url, scheme):
    page = open_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    go(page, lab_url, SHORT_RUN)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for box in (chart.bounding_box() for chart in page.get_by_test_id("stVegaLiteChart").all()):
        assert box["x"] >= 0 and box["x"] + box["width"] <= 400
