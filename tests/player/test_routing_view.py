"""The routing view on a page of its own: the text's colours, the heat map, experts that choose, tips."""

import re

import pytest
import torch
from playwright.sync_api import Page, expect

from cllab.isolation import expert_choice, route
from cllab.player import page as web_page
from cllab.player import routing_trace
from tests.player.test_routing_trace import KINDS, TOKENS, WORDS, P, chosen, frame

DARK = "<style>:root { --st-text-color: #fafafa; --st-background-color: #0e1117 }</style></head>"


def spread(**options) -> dict:
    """First everything goes to expert 1, then each kind to an expert of its own; one word is dropped at first."""
    frames = []
    for step, (owners, words) in enumerate((([1, 1, 1, 1], [1, 1]), ([0, 2, 2, 0], [2, 0]))):
        logits, of_line = (torch.nn.functional.one_hot(torch.tensor(rows), 3).double() * 4 for rows in (owners, words))
        line = {"routing": route(of_line, 1, capacity=1), "logits": of_line}
        frames.append(frame(route(logits, 1), step=10 * step, line=line))
    return routing_trace(frames, TOKENS, KINDS, line=WORDS, **options)


def show(page: Page, trace: dict, step: int = 0, head: str = "</head>") -> None:
    page.set_content(web_page(trace, step=step).replace("</head>", head))
    expect(page.locator(".cllab-player svg").first).to_be_visible()


def tell(page: Page, locator) -> str:
    page.mouse.move(0, 0)
    locator.hover(force=True)
    return page.locator(".tip").inner_text()


def tint(word) -> str:
    return word.evaluate("node => getComputedStyle(node).backgroundColor")


def contrast(word) -> float:
    """WCAG's contrast of a word's letters against its own background."""
    return word.evaluate("""node => {
      const style = getComputedStyle(node);
      const light = (text) => {
        const parts = text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const scaled = text.startsWith("rgb") ? parts.map((v) => v / 255) : parts;
        const [r, g, b] = scaled.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const [a, b] = [light(style.color), light(style.backgroundColor)];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }""")


def counts(page: Page) -> list[str]:
    """The heat map's numbers, expert by expert, each from the first kind to the last."""
    return page.locator(".routing-cell text").all_text_contents()


@pytest.mark.parametrize("head", ["</head>", DARK])
def test_every_experts_colour_is_readable(page, head):
    logits = 4 * torch.eye(7, dtype=torch.float64)
    tokens = [(str(e), 0) for e in range(7)]
    trace = [frame(route(logits, 1), line={"routing": route(logits, 1), "logits": logits})]
    show(page, routing_trace(trace, tokens, KINDS, line=tokens), head=head)
    words = page.locator(".routing-word").all()
    assert len({tint(word) for word in words}) == 7
    assert min(contrast(word) for word in words) > 4.5


def test_the_text_wears_the_colour_and_the_number_of_its_experts(page):
    show(page, spread())
    first, second = page.locator(".routing-word").all()
    expect(first).to_have_text("x1")
    expect(second).to_have_text("9×")
    expect(second).to_have_class(re.compile("lost"))
    assert "dropped: its expert was full" in tell(page, second)
    before = tint(first)
    page.evaluate("player.setStep(1)")
    expect(first).to_have_text("x2")
    expect(second).to_have_text("90")
    expect(second).not_to_have_class(re.compile("lost"))
    assert len({before, tint(first), tint(second)}) == 3
    told = tell(page, first)
    assert "“x” (letter): served by expert 2" in told and "E0 2 %, E1 2 %, E2 96 %" in told
    assert page.locator(".routing-words").get_attribute("aria-label") == "expert 0: 9\nexpert 1: nothing\nexpert 2: x"


def test_the_heat_map_and_specialisation_move_with_the_step(page):
    show(page, spread())
    assert counts(page) == ["0", "0", "2", "2", "0", "0"]
    expect(page.get_by_text("specialisation = 0.00")).to_be_visible()
    page.evaluate("player.setStep(1)")
    assert counts(page) == ["2", "0", "0", "0", "0", "2"]
    expect(page.get_by_text("specialisation = 1.00")).to_be_visible()
    cells = page.locator(".routing-cell rect")
    strengths = [float(cells.nth(i).get_attribute("fill-opacity")) for i in range(6)]
    assert strengths[0] == strengths[5] == max(strengths) and strengths[1:5] == [0] * 4
    assert "expert 0 serves 2 of the 2 assignments of kind “digit”" in tell(page, page.locator(".routing-cell").first)
    assert "I(kind; expert) / H(kind) = 1.0000" in tell(page, page.locator(".routing-special"))
    heat = page.locator(".routing-heat svg").first
    assert "letter: 2 by E2" in heat.get_attribute("aria-label")


def test_experts_that_choose_leave_tokens_out_and_share_others(page):
    show(page, chosen(capacity=1))
    lines = page.locator("path[stroke-width][opacity].told:visible")
    expect(page.get_by_text("served by no expert: 1 of 4 tokens ×")).to_be_visible()
    expect(page.locator("path.dropped")).to_have_count(0)
    assert lines.count() == 3
    assert "no expert chose it" in tell(page, page.get_by_text("7", exact=True))
    show(page, chosen())
    assert lines.count() == 6
    assert tell(page, page.get_by_text("7", exact=True)).count("→ expert") == 2
    expect(page.get_by_text("served by none = 0 of 4")).to_be_visible()


def test_a_word_of_two_experts_has_stripes_and_both_numbers(page):
    logits = P[:2].log()
    line = {"routing": route(logits, 2), "logits": logits}
    show(page, routing_trace([frame(route(P.log(), 2), line=line)], TOKENS, KINDS, line=WORDS))
    word = page.locator(".routing-word").first
    expect(word).to_have_text("x0·1")
    assert "gradient" in word.evaluate("node => getComputedStyle(node).backgroundImage")


def test_rows_that_grow_and_shrink_play_without_a_fault(open_page):
    page = open_page(reduced_motion="no-preference")
    frames = [frame(expert_choice(p.log(), 2), step=i) for i, p in enumerate((P, P.flip(1), P.flip(0)))]
    show(page, routing_trace(frames, TOKENS, KINDS, capacity=2))
    player = page.locator(".cllab-player")
    player.focus()
    page.keyboard.press("Space")
    expect(player).to_have_attribute("data-step", "2", timeout=20_000)
    drawn = page.locator(".stage").evaluate("node => node.innerHTML")
    assert "NaN" not in drawn and "undefined" not in drawn


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_leaves_the_page(open_page, width):
    page = open_page(viewport={"width": width, "height": 900})
    show(page, spread(), step=1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
