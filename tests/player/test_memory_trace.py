"""The memory trace: it shows what the memories did, and is refused when it does not."""

import copy
import json

import pytest
import torch
from playwright.sync_api import Page, expect

from cllab.device import generator
from cllab.player import memory_trace, validate_trace
from cllab.player import page as web_page
from cllab.replay import ClassBalanced, ClassRing, Reservoir, RingBuffer

LABELS = [0] * 5 + [1] * 5


def made(**options) -> dict:
    memories = {"ring": RingBuffer(3), "balanced": ClassBalanced(4)}
    return memory_trace(LABELS, memories, ["A", "B"], **options)


def test_every_step_is_what_the_memories_hold():
    trace = validate_trace(made())
    assert len(trace["steps"]) == 11 and [s["n"] for s in trace["steps"]] == list(range(11))
    assert json.loads(json.dumps(trace)) == trace
    ring, balanced = RingBuffer(3), ClassBalanced(4)
    for i, step in enumerate(trace["steps"][1:]):
        row, y = torch.tensor([i]), torch.tensor(LABELS[i : i + 1])
        assert step["went"] == [ring.add(row, y).tolist(), balanced.add(row, y).tolist()]
        for memory, slots in zip((ring, balanced), step["slots"], strict=True):
            assert [r for r in slots if r is not None] == memory.x.tolist()
    assert trace["steps"][0]["slots"] == [[None] * 3, [None] * 4]
    assert trace["steps"][-1]["slots"] == [[9, 7, 8], [0, 1, 5, 6]]


def test_sentences():
    texts = [step["text"] for step in made()["steps"]]
    assert texts[0] == "10 rows will pass, one after the other."
    assert texts[1] == "Row 1 (A). ring: slot 1. balanced: slot 1."
    assert texts[4] == "Row 4 (A). ring: slot 1, over row 1 (A). balanced: slot 4."
    assert "balanced: not stored" in texts[5]
    assert texts[6].endswith("balanced: slot 3, and 2 rows of other classes are given up.")
    assert texts[-1].endswith("In the end ring holds 0 A, 3 B; balanced holds 2 A, 2 B.")


def test_several_rows_per_step():
    trace = validate_trace(made(every=4))
    assert [step["n"] for step in trace["steps"]] == [0, 4, 8, 10]
    assert trace["steps"][1]["text"] == "Rows 1 to 4: ring stores 4, balanced stores 4 of 4."
    assert trace["steps"][-1]["slots"] == made()["steps"][-1]["slots"]


def test_no_more_slots_than_rows_are_drawn():
    trace = memory_trace(LABELS, {"large": Reservoir(10**12, generator(0)), "rings": ClassRing(2)}, ["A", "B"])
    assert [memory["slots"] for memory in trace["memories"]] == [10, 4]


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"labels": []}, ValueError, "labels"), ({"labels": [2]}, ValueError, "label"),
        ({"labels": [0.5]}, TypeError, "label"), ({"every": 0}, ValueError, "every"),
        ({"memories": {}}, ValueError, "memories"), ({"memories": {"deque": []}}, TypeError, "deque"),
        ({"labels": [0] * 500, "memories": {"long": RingBuffer(401)}}, ValueError, "long"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    given = {"labels": LABELS, "memories": {"ring": RingBuffer(3)}, "classes": ["A", "B"], **arguments}
    with pytest.raises(error, match=named):
        memory_trace(**given)


def test_a_memory_that_has_seen_rows_is_refused():
    used = RingBuffer(3)
    used.add(torch.ones(1), torch.tensor([0]))
    with pytest.raises(ValueError, match="must be empty"):
        memory_trace(LABELS, {"ring": used}, ["A", "B"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t["labels"].append(2), lambda t: t["labels"].clear(), lambda t: t["memories"][0].pop("slots"),
        lambda t: t["steps"][3]["slots"].pop(), lambda t: t["steps"][3]["slots"][0].append(None),
        lambda t: t["steps"][3]["slots"][0].__setitem__(0, 5), lambda t: t["steps"][3]["went"].pop(),
        lambda t: t["steps"][3].pop("n"), lambda t: t["steps"][-1].update(n=11),
    ],
)  # fmt: skip
def test_damaged_traces_are_refused(damage):
    trace = copy.deepcopy(made())
    damage(trace)
    with pytest.raises(ValueError, match="trace"):
        validate_trace(trace)


# --- drawn -----------------------------------------------------------------------------------------------


def at(page: Page, step: int, **options):
    page.set_content(web_page(made(**options), step=step))
    player = page.locator(".cllab-player")
    expect(player).to_be_visible()
    return player


def numbers(page: Page, panel: int) -> list[str]:
    """The numbers in the slots of one memory."""
    picture = page.locator(".memory-panel").nth(panel).locator("svg").first
    return [text for text in picture.locator("text.row").all_text_contents() if text]


def test_slots_hold_the_rows_of_the_step(page):
    at(page, 10)
    assert numbers(page, 0) == ["10", "8", "9"] and numbers(page, 1) == ["1", "2", "6", "7"]
    page.locator(".cllab-player").focus()
    page.keyboard.press("Home")
    assert numbers(page, 0) == [] == numbers(page, 1)
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert numbers(page, 1) == ["1", "2", "6"]


def test_numbers_are_explained(page):
    at(page, 10)
    tip = page.locator(".tip")
    page.get_by_text("B", exact=True).nth(1).hover(force=True)
    expect(tip).to_contain_text("stored · n_c / n = 3 · 5 / 10 = 1.50")
    page.get_by_text("10", exact=True).first.hover(force=True)
    expect(tip).to_contain_text("slot 1: row 10, class B")
    described = page.locator(".memory-panel svg").first.get_attribute("aria-label")
    assert "3 of 3 slots hold rows, 0 A, 3 B" in described


def test_a_row_flies_to_its_slot(open_page):
    page = open_page(reduced_motion="no-preference")
    page.set_content(web_page(made(), autoplay=True))
    page.wait_for_function(
        "[...document.querySelectorAll('[data-slot]')].some(d => d.closest('g').style.display === '')"
    )
    expect(page.locator(".cllab-player")).to_have_attribute("data-step", "3", timeout=30_000)


@pytest.mark.parametrize("width", [320, 1100])
def test_it_fits_its_place(open_page, width):
    page = open_page(viewport={"width": width, "height": 800})
    at(page, 10)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = [page.locator(".memory-panel").nth(i).bounding_box()["y"] for i in range(2)]
    assert (tops[0] == tops[1]) == (width > 640)
