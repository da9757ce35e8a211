"""The player in a real browser, on a page of its own: no server, only what `page(trace)` writes."""

import json
import math
import re

import pytest
from playwright.sync_api import Page, expect

from cllab.player import page as web_page
from cllab.player import script, style
from tests.player.test_traces import TRACES, routing, runs, toy

MOVING = {"reduced_motion": "no-preference"}
DARK = "<style>:root { --st-text-color: #fafafa; --st-background-color: #0e1117 }</style></head>"
# Loads the module as a host does and keeps it as window.host, with everything it reports in window.said.
HOST = """async (code) => {
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  window.host = await import(url);
  window.said = [];
}"""
STREAMLIT = """(data) => {
  window.root ??= document.querySelector("main");
  const setStateValue = (name, value) => said.push([name, value]);
  window.cleanup = host.default({ data, parentElement: root, setStateValue });
}"""


def show(page: Page, trace: dict, **options) -> Page:
    page.set_content(web_page(trace, **options))
    expect(page.locator(".cllab-player")).to_be_visible()
    return page


def counter(page: Page):
    return page.locator(".counter")


def press(page: Page, key: str) -> None:
    page.locator(".cllab-player").focus()
    page.keyboard.press(key)


def tell(page: Page, locator) -> str:
    """What the tip says when the pointer is over `locator`."""
    page.mouse.move(0, 0)
    locator.hover(force=True)
    return page.locator(".tip").inner_text()


# --- stepping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRACES)
def test_buttons_and_keys_step_through_every_kind(page, kind):
    trace = TRACES[kind]()
    n = len(trace["steps"])
    show(page, trace)
    expect(counter(page)).to_have_text(f"step 1 of {n}")
    expect(page.get_by_role("button", name="Step back")).to_be_disabled()
    page.get_by_role("button", name="Step forward").click()
    expect(counter(page)).to_have_text(f"step 2 of {n}")
    expect(page.get_by_role("status")).to_have_text(trace["steps"][1]["text"])
    for key, step in (("End", n), ("ArrowLeft", n - 1), ("ArrowRight", n), ("ArrowRight", n), ("Home", 1)):
        press(page, key)
        expect(counter(page)).to_have_text(f"step {step} of {n}")
    page.get_by_role("button", name="Step forward").focus()
    page.keyboard.press("Space")
    expect(counter(page)).to_have_text(f"step 2 of {n}")


def test_the_slider_scrubs_while_it_is_dragged(page):
    show(page, toy())
    slider = page.get_by_role("slider", name="Step")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 22)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 22, steps=4)
    expect(counter(page)).to_have_text(re.compile(r"step (9|10) of 18"))  # still held
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 22)
    expect(counter(page)).to_have_text("step 18 of 18")
    page.mouse.up()
    expect(slider).to_have_attribute("aria-valuetext", "step 18 of 18")


def test_space_plays_and_pauses_and_playing_ends_at_the_last_step(open_page):
    page = show(open_page(**MOVING), runs())
    press(page, "Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(counter(page)).to_have_text("step 4 of 4")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    press(page, "Space")  # plays again from the beginning
    expect(counter(page)).not_to_have_text("step 4 of 4")
    press(page, "Space")
    halted = counter(page).inner_text()
    page.wait_for_timeout(900)
    assert counter(page).inner_text() == halted


def test_the_speed_is_kept(open_page):
    page = show(open_page(**MOVING), toy())
    page.get_by_label("Speed").select_option("4")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("player.step() >= 3", timeout=4000)  # 3 x 1500 / 4 ms; at speed 1 it would take 4500


@pytest.mark.parametrize("kind", TRACES)
def test_thirty_frames_a_second_while_playing(open_page, kind):
    """Distinct drawings of the player per second, frame by frame; the best of three tries."""
    page = show(open_page(**MOVING), {**TRACES[kind](), "ms": 1500})
    count = """() => new Promise((done) => {
      const box = document.querySelector(".cllab-player"), seen = new Set(), begin = performance.now();
      const look = (now) => {
        const parts = box.querySelectorAll(".meter div, .stage [transform], .stage line, .stage path");
        const names = ["style", "transform", "d", "x1"];
        const state = (n) => names.map((name) => n.getAttribute(name)).join();
        seen.add([...parts].map(state).join("|"));
        if (now - begin < 1000) requestAnimationFrame(look);
        else done(1000 * seen.size / (now - begin));
      };
      requestAnimationFrame(look);
    })"""
    best = 0
    for _ in range(3):
        page.evaluate("player.setStep(0)")
        press(page, "Space")
        best = max(best, page.evaluate(count))
        press(page, "Space")
        if best >= 30:
            break
    assert best >= 30


def test_the_chosen_point_flies_into_the_memory(open_page):
    page = show(open_page(**MOVING), toy())
    frames = page.evaluate("""() => new Promise((done) => {
      const seen = [], begin = performance.now();
      document.querySelector("[aria-label='Step forward']").click();
      const look = (now) => {
        const flyer = document.querySelector(".flyer");
        if (!flyer.hidden) seen.push(flyer.style.transform);
        if (now - begin < 600) requestAnimationFrame(look);
        else done({ seen, landed: document.querySelector(".flyer").hidden });
      };
      requestAnimationFrame(look);
    })""")
    assert len(set(frames["seen"])) >= 3 and frames["landed"]
    expect(page.locator(".slot[data-point='3']")).to_contain_text("#1")


def test_reduced_motion_means_no_glide_no_autoplay_and_one_second_steps(page):
    show(page, runs(), autoplay=True)
    page.wait_for_timeout(600)
    expect(counter(page)).to_have_text("step 1 of 4")
    times = page.evaluate("""() => new Promise((done) => {
      const times = [], begin = performance.now(), player = document.querySelector(".counter");
      const cursors = new Set();
      const look = (now) => {
        cursors.add([...document.querySelectorAll(".run line")].map((l) => l.getAttribute("x1")).join());
        if (now - begin < 1600) requestAnimationFrame(look);
        else done({ times, drawings: cursors.size });
      };
      new MutationObserver(() => times.push(performance.now() - begin)).observe(player, { childList: true });
      document.querySelector("[aria-label=Play]").click();
      requestAnimationFrame(look);
    })""")
    assert times["drawings"] == 2  # step 1, then step 2, nothing in between
    assert len(times["times"]) == 1 and 950 <= times["times"][0] <= 1500


def test_autoplay_starts_where_motion_is_welcome(open_page):
    page = show(open_page(**MOVING), runs(), autoplay=True)
    page.wait_for_function("player.step() >= 1")


# --- what the hosts hear -----------------------------------------------------------------------------------


def test_streamlit_hears_the_step_on_pause_and_release_only(open_page):
    page = open_page(**MOVING)
    page.set_content(f"<style>{style()}</style><main></main>")
    page.evaluate(HOST, script())
    page.evaluate(STREAMLIT, {"trace": {**toy(), "ms": 200}, "step": 2, "query": None, "autoplay": False})
    expect(counter(page)).to_have_text("step 3 of 18")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.cllab-player').dataset.step >= 5")
    assert page.evaluate("said") == []
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(250)
    paused = int(page.locator(".cllab-player").get_attribute("data-step"))
    assert page.evaluate("said") == [["step", paused]]
    # Python's echo of an older report does not move a player that has gone on
    press(page, "ArrowRight")
    page.wait_for_timeout(250)
    page.evaluate(STREAMLIT, {"trace": {**toy(), "ms": 200}, "step": paused, "query": None})
    expect(counter(page)).to_have_text(f"step {paused + 2} of 18")
    # an order from Python does
    page.evaluate(STREAMLIT, {"trace": {**toy(), "ms": 200}, "step": 1, "query": None})
    expect(counter(page)).to_have_text("step 2 of 18")
    # another trace keeps the step, or the last one it has
    page.evaluate(STREAMLIT, {"trace": toy(capacity=6), "step": 1, "query": None})
    expect(counter(page)).to_have_text(re.compile(r"step 2 of \d+"))
    press(page, "End")
    page.evaluate(STREAMLIT, {"trace": runs(), "step": 1, "query": None})
    expect(counter(page)).to_have_text("step 4 of 4")
    # unmounting takes everything away; mounting again works
    page.evaluate("cleanup()")
    expect(page.locator(".cllab-player")).to_have_count(0)
    page.evaluate(STREAMLIT, {"trace": toy(), "step": 3, "query": None})
    expect(counter(page)).to_have_text("step 4 of 18")


def test_a_widget_follows_its_model_and_saves_to_it(page):
    page.set_content(f"<style>{style()}</style><main></main>")
    page.evaluate(HOST, script())
    page.evaluate(
        """(trace) => {
          const values = { trace, step: 1, query: [], autoplay: false }, handlers = {};
          window.model = {
            get: (name) => values[name],
            set: (name, value) => { values[name] = value; },
            save_changes: () => said.push(["saved", values.step]),
            on: (name, f) => { handlers[name] = f; },
            off: (name) => { delete handlers[name]; },
            change: (name, value) => { values[name] = value; handlers[`change:${name}`](); },
            left: () => Object.keys(handlers).length,
          };
          window.cleanup = host.default().render({ model, el: document.querySelector("main") });
        }""",
        toy(),
    )
    expect(counter(page)).to_have_text("step 2 of 18")
    press(page, "ArrowRight")
    page.wait_for_function("said.length === 1 && said[0][1] === 2")
    page.evaluate("model.change('step', 7)")
    expect(counter(page)).to_have_text("step 8 of 18")
    page.evaluate("(trace) => model.change('trace', trace)", runs())
    expect(counter(page)).to_have_text("step 4 of 4")
    page.evaluate("cleanup()")
    expect(page.locator(".cllab-player")).to_have_count(0)
    assert page.evaluate("model.left()") == 0


def test_two_players_on_a_page_do_not_disturb_each_other(page):
    page.set_content(f"<style>{style()}</style><main></main><aside></aside>")
    page.evaluate(HOST, script())
    page.evaluate(
        """([one, two]) => {
          host.mount(document.querySelector("main"), { trace: one });
          host.mount(document.querySelector("aside"), { trace: two });
        }""",
        [toy(), routing()],
    )
    page.locator("main .cllab-player").focus()
    page.keyboard.press("End")
    expect(page.locator("main .counter")).to_have_text("step 18 of 18")
    expect(page.locator("aside .counter")).to_have_text("step 1 of 3")


def test_destroy_frees_the_timers(open_page):
    page = open_page(**MOVING)
    page.set_content(f"<style>{style()}</style><main></main>")
    page.evaluate(HOST, script())
    page.evaluate("""(trace) => {
      window.asked = 0;
      const native = window.requestAnimationFrame.bind(window);
      window.requestAnimationFrame = (f) => { asked += 1; return native(f); };
      window.live = host.mount(document.querySelector("main"), { trace, onStep: (step) => said.push(step) });
    }""", toy())  # fmt: skip
    press(page, "ArrowRight")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("asked > 5")
    before = page.evaluate("() => { live.destroy(); said.length = 0; return asked; }")
    page.wait_for_timeout(400)
    assert page.evaluate("asked") == before and page.evaluate("said") == []


# --- bad traces --------------------------------------------------------------------------------------------


FAULTS = [
    (None, "there is no trace"),
    ("a trace", "there is no trace"),
    ({"v": 2, "kind": "run", "steps": [{}]}, "version 2"),
    ({"v": 1, "kind": "film", "steps": [{}]}, 'unknown kind "film"'),
    ({"v": 1, "kind": "constructor", "steps": [{}]}, "unknown kind"),
    ({"v": 1, "kind": "herding", "steps": []}, "has no steps"),
    ({"v": 1, "kind": "herding", "steps": [None]}, "a step of the trace is empty"),
    ({"v": 1, "kind": "herding", "steps": [{"text": "Nothing else."}]}, "does not fit its schema"),
    ({"v": 1, "kind": "routing", "steps": [{"text": "Nothing else."}]}, "does not fit its schema"),
    ({"v": 1, "kind": "run", "steps": [{"text": "Nothing else."}]}, "does not fit its schema"),
]


def test_a_trace_that_cannot_be_drawn_becomes_a_sentence(page):
    page.set_content(f"<style>{style()}</style><main></main>")
    page.evaluate(HOST, script())
    for trace, sentence in FAULTS:
        page.evaluate("(trace) => { window.live = host.mount(document.querySelector('main'), { trace }) }", trace)
        expect(page.get_by_role("status")).to_contain_text(sentence)
        expect(page.get_by_role("button")).to_have_count(0)
        page.evaluate("(trace) => live.update({ trace })", runs())  # and a good one mends it
        expect(counter(page)).to_have_text("step 1 of 4")
        page.evaluate("live.destroy()")


def test_text_stays_text(page):
    evil = "<img src=x onerror=\"document.title='owned'\">"
    trace = toy(title=evil, classes=[evil, "B", "C"], names=[evil] * 15, alt=evil)
    for step in trace["steps"]:
        step["text"] = evil
    show(page, trace, step=3)
    expect(page.get_by_role("status")).to_have_text(evil)
    assert page.locator(".cllab-player img").count() == 0 and page.title() == "cllab player"


# --- the views ---------------------------------------------------------------------------------------------


def test_herding_shows_distances_ties_and_the_formula_behind_every_number(page):
    show(page, toy(), step=3)
    rows = page.locator("table tbody tr")
    assert [row.split("\t")[2] for row in rows.all_inner_texts()] == ["0.72", "0.52", "0.52", "–", "3.92"]
    assert rows.nth(1).get_attribute("class") == "chosen told" and "tie, chosen" in rows.nth(1).inner_text()
    assert "d² = (0.60 − 1.00)² + (0.60 − 0.00)² = 0.52" in tell(page, rows.nth(1))
    assert "= 2·(0.80, 0.80) − (1.00, 1.00) = (0.60, 0.60)" in tell(page, page.get_by_text("target = "))
    assert "√((1.00 − 0.80)² + (0.50 − 0.80)²) = 0.3606" in tell(page, page.get_by_text("error = "))
    assert "((1.00, 1.00) + (1.00, 0.00)) / 2 = (1.00, 0.50)" in tell(page, page.get_by_text("mean = (1.00"))
    rows.nth(4).focus()  # by keyboard too
    expect(page.locator(".tip")).to_contain_text("= 3.92")


def test_truncation_shows_what_is_removed(page):
    trace = toy()
    cut = next(i for i, step in enumerate(trace["steps"]) if step["phase"] == "truncate")
    show(page, trace, step=cut)
    expect(page.locator(".slot.removed")).to_have_count(4)
    removed = page.locator(".slot.removed").evaluate_all("nodes => nodes.map((n) => n.dataset.point)")
    assert sorted(map(int, removed)) == [2, 4, 7, 8]
    press(page, "ArrowRight")
    expect(page.locator(".slot.removed")).to_have_count(0)


def test_the_query_point_is_placed_by_pointer_and_by_keys_and_reported_on_release(page):
    page.set_content(f"<style>{style()}</style><main></main>")
    page.evaluate(HOST, script())
    trace = toy()
    page.evaluate(
        "(trace) => { window.live = host.mount(document.querySelector('main'), "
        "{ trace, step: 17, query: [0.9, 0.7], onQuery: (p) => said.push(p) }) }",
        trace,
    )
    answers = page.locator(".answers")
    expect(answers.locator("caption")).to_have_text("Query (0.90, 0.70): class A")
    assert [row.split("\t")[2] for row in answers.locator("tbody tr").all_inner_texts()] == [
        "0.2236",
        "2.2472",
        "2.7659",
    ]
    told = "d = √((0.90 − 1.00)² + (0.70 − 0.50)²) = 0.2236"
    assert told in tell(page, answers.locator("tbody tr").first)
    plot = page.locator(".plot")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 330, steps=3)
    expect(answers.locator("caption")).not_to_contain_text("(0.90, 0.70)")
    assert page.evaluate("said") == []
    page.mouse.up()
    [[x, y]] = page.evaluate("said")
    means = trace["steps"][17]["means"].values()
    winner = "ABC"[min(range(3), key=lambda c: math.dist(list(means)[c], (x, y)))]
    expect(answers.locator("caption")).to_contain_text(f": class {winner}")
    plot.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("said.at(-1)") == pytest.approx([x + 0.1, y + 0.1], abs=0.011)
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", "17")  # the arrows did not step


def test_an_exact_tie_of_the_query_is_called_a_tie(page):
    trace = toy(query=(2, 2))
    end = next(i for i, step in enumerate(trace["steps"]) if step["phase"] == "ncm")
    show(page, trace, step=end)
    expect(page.locator(".answers caption")).to_have_text("Query (2.00, 2.00): a tie between A and B")


def test_thumbnails_are_drawn_where_the_points_are_images(page):
    images = [[16.0 if i % 9 == 0 else 0.0 for i in range(64)] for _ in range(15)]
    show(page, {**toy(), "images": images}, step=3)
    pixels = page.locator(".slot canvas").first.evaluate("c => [...c.getContext('2d').getImageData(0, 0, 2, 1).data]")
    assert pixels[0] < 10 and pixels[4] == 255


def test_routing_shows_drops_loads_and_capacity(page):
    show(page, routing(), step=1)
    expect(page.locator("path.dropped")).to_have_count(1)
    expect(page.get_by_text("dropped: 1 of 3 ×")).to_be_visible()
    assert "expert 0 already has its 2 tokens" in tell(page, page.get_by_text("y", exact=True))
    assert "1 / (3 tokens × k = 1) = 33.3 %" in tell(page, page.get_by_text("dropped = 1 of 3"))
    show(page, routing("reroute"))
    expect(page.locator("path.dropped")).to_have_count(0)
    assert "rerouted, expert 0 was full" in tell(page, page.get_by_text("y", exact=True))


def test_a_run_shows_its_matrix_with_the_meaning_of_every_cell(page):
    show(page, runs(), step=3)
    run = page.get_by_label("one", exact=True)
    texts = run.locator("svg").first.locator("g text").all_text_contents()
    assert texts == ["0.90", "0.40", "0.60", "0.80"]
    cell = run.locator("svg").first.locator("g").nth(2)
    assert tell(page, cell) == "R[2,1] = 0.60: accuracy on task 1 (first) after task 2 (second)"


def test_decision_regions_are_painted_from_below_without_smoothing(page):
    cells = ["0011"] * 3
    show(page, runs(cells={"one": cells, "two": cells}, extent=(0, 2, 0, 2), grid=2))
    pixels = page.locator("canvas").first.evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, 1, 2).data].slice(0, 8)"
    )
    upper, lower = pixels[:3], pixels[4:7]
    assert upper[0] > 200 and lower[2] > 150 and lower[0] < 30  # class 1 orange above, class 0 blue below
    rendering = page.locator("canvas").first.evaluate("c => getComputedStyle(c).imageRendering")
    assert rendering == "pixelated"


# --- for everybody -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRACES)
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_overflows_and_text_and_targets_are_large_enough(open_page, kind, width):
    page = show(open_page(viewport={"width": width, "height": 900}), TRACES[kind](), step=2)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    sizes = page.locator(".cllab-player *").evaluate_all(
        "nodes => nodes.filter((n) => [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim()))"
        ".map((n) => parseFloat(getComputedStyle(n).fontSize))"
    )
    assert min(sizes) >= 11
    targets = page.locator(".controls button, .controls select, .controls input").evaluate_all(
        "nodes => nodes.map((n) => n.getBoundingClientRect()).map((r) => [r.width, r.height])"
    )
    assert all(w >= 44 and h >= 44 for w, h in targets), targets
    outside = page.evaluate("""() => {
      const box = document.querySelector(".cllab-player").getBoundingClientRect();
      return [...document.querySelectorAll(".stage text")].filter((n) => {
        const r = n.getBoundingClientRect();
        return r.width && (r.left < box.left - 1 || r.right > box.right + 1);
      }).map((n) => n.textContent);
    }""")
    assert outside == []


@pytest.mark.parametrize("kind", TRACES)
def test_controls_and_pictures_have_names(page, kind):
    trace = TRACES[kind]()
    show(page, trace)
    for name in ("Step back", "Play", "Step forward"):
        assert page.get_by_role("button", name=name).count() == 1
    assert page.get_by_role("slider", name="Step").count() == page.get_by_role("combobox", name="Speed").count() == 1
    expect(page.get_by_role("status")).to_have_attribute("aria-live", "polite")
    names = page.locator(".stage svg:not([aria-hidden])").evaluate_all(
        "nodes => nodes.map((n) => [n.getAttribute('role'), n.getAttribute('aria-label')])"
    )
    assert names and all(role == "img" and label for role, label in names)


def test_the_last_colour_is_readable_in_the_dark(page):
    points = toy()
    points["owner"] = [6] * 15
    points["classes"] = list("ABCDEFG")
    points["steps"] = [
        {**step, "class": None, "memory": {"6": [0]}, "means": {}, "distances": None, "available": [6]}
        for step in points["steps"]
    ]
    fill = "() => document.querySelector('.legend .swatch path').getAttribute('fill')"
    page.set_content(web_page(points))
    assert page.evaluate(fill) == "#000000"
    page.set_content(web_page(points).replace("</head>", DARK))
    assert page.evaluate(fill) == "#F0E442"


def test_a_player_in_a_closed_tab_draws_itself_when_it_opens(page):
    page.set_content(web_page(runs()).replace("<main>", "<main hidden>"))
    assert page.locator(".run").count() == 0
    page.evaluate("document.querySelector('main').hidden = false")
    expect(page.locator(".run")).to_have_count(2)


def test_the_trace_is_not_changed_by_being_played(page):
    trace = routing()
    show(page, trace)
    page.evaluate("(trace) => { window.mine = trace; player.update({ trace: mine, step: 0 }); }", trace)
    press(page, "End")
    assert json.loads(page.evaluate("JSON.stringify(mine)")) == trace
