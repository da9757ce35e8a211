"""Traces of PackNet: the ten weights of the reference, the leaks, a layer against the run itself, every refusal."""

import copy
import functools

import pytest
import torch
from playwright.sync_api import Page, expect
from torch.optim import SGD

from cllab.isolation import CapacityError, PackNet, packed
from cllab.models import MLP
from cllab.player import drift_trace, packed_run_trace, packing_trace, validate_trace
from cllab.player import page as web_page
from cllab.player.from_packing import TEN, frozen_path
from cllab.streams import Stream, digits, points, split
from cllab.training import TaskEnded, fit

OWNERS = [1, 2, 1, 1, 3, 1, 2, 1, 2, 1]
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)
STREAM = split(digits().only(range(6)).take(200), 2, scenario="task")
SMALL = {"hidden": 4, "epochs": 2, "batch_size": 16, "optimizer": MOMENTUM, "tile": (8, 8)}


@functools.cache
def layer(restore: bool = True) -> dict:
    return packed_run_trace(STREAM, restore=restore, title="Three pairs of digits", **SMALL)


def phases(trace: dict, phase: str) -> list[dict]:
    return [step for step in trace["steps"] if step["phase"] == phase]


# --- ten weights -----------------------------------------------------------------------------------------


def test_the_ten_weights_of_the_course():
    trace = validate_trace(packing_trace())
    names = ["train", "rank", "prune", "retrain", "freeze"]
    assert [step["phase"] for step in trace["steps"]] == ["start", *names * 3, *["read"] * 3]
    assert [step["task"] for step in trace["steps"]] == [0] * 6 + [1] * 5 + [2] * 5 + [0, 1, 2]
    assert trace["steps"][-1]["owner"] == OWNERS
    assert trace["steps"][-1]["w"] == [0.9, 0.33, 0.4, -0.8, 0.11, 0.6, 0.25, 0.7, -0.6, 0.5]
    assert [step["ranked"][: step["kept"]] for step in phases(trace, "rank")] == [[0, 3, 7, 5, 9, 2], [8, 1, 6], [4]]
    assert [step["w"][i] for step, i in zip(phases(trace, "prune"), (1, 4), strict=False)] == [0, 0]
    # the second task finds the reference's numbers at the free places
    assert [phases(trace, "train")[1]["w"][i] for i in (1, 4, 6, 8)] == [0.33, -0.02, 0.25, -0.6]
    for read, step in zip((6, 9, 10), phases(trace, "read"), strict=True):
        assert f": {read} of 10" in step["text"]
    assert "Keep 0.75 · 4 = 3." in phases(trace, "rank")[1]["text"]


def test_a_step_is_what_prune_and_packed_give():
    trace = packing_trace(keep=(0.35, 0.5, 0.2))
    for before, after in zip(phases(trace, "rank"), phases(trace, "freeze"), strict=True):
        candidates = [i for i, owner in enumerate(before["owner"]) if owner == 0]
        assert sorted(before["ranked"]) == candidates
        sizes = [abs(before["w"][i]) for i in before["ranked"]]
        assert sizes == sorted(sizes, reverse=True)
        t = after["task"] + 1
        assert [i for i, o in enumerate(after["owner"]) if o == t] == sorted(before["ranked"][: before["kept"]])
        read = packed(torch.tensor(after["w"]), torch.tensor(after["owner"]), t)
        assert read.tolist() == torch.tensor(after["w"]).tolist()  # what is free is 0, and nobody came later
    assert "3.5, that is 4" in phases(trace, "rank")[0]["text"]


def test_no_room_ends_the_story_with_the_error():
    trace = validate_trace(packing_trace(keep=(1.0, 0.5, 0.5)))
    assert [step["phase"] for step in trace["steps"][-2:]] == ["full", "read"]
    full = phases(trace, "full")[0]
    assert full["text"].startswith("CapacityError: w has no free weight left for task 2: all 10 are owned.")
    assert full["owner"] == [1] * 10 and "1 weight" not in full["text"]


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"keep": (0.5, 0.5)}, ValueError, "keep must have one share for each of the 3 tasks"),
        ({"keep": (0.5, 0.0, 1.0)}, ValueError, "keep must be above 0"), ({"trained": [[]]}, ValueError, "trained"),
        ({"trained": [1.0, 2.0]}, ValueError, "trained must hold a row"), ({"trained": "ten"}, TypeError, "trained"),
        ({"trained": [[float("nan")]] * 3}, ValueError, "trained"),
        ({"trained": [[1.0] * 40] * 3}, ValueError, "number of weights"),
        ({"trained": [[1.0]] * 9, "keep": [1.0] * 9}, ValueError, "number of tasks"),
    ],
)  # fmt: skip
def test_bad_weights_are_named(change, error, named):
    with pytest.raises(error, match=named):
        packing_trace(**{"trained": TEN, **change})


# --- the frozen weight -----------------------------------------------------------------------------------


def test_leaks_of_the_reference():
    trace = validate_trace(drift_trace())
    moved = [path["masked"][-1] - 1 for path in trace["paths"]]
    assert moved == pytest.approx([-0.0297, -0.0297, -0.4878, -0.1612], abs=5e-5)
    assert all(path["restored"] == [1] * 4 for path in trace["paths"])
    for number in ("−0.0297", "−0.488", "−0.161"):
        assert number in trace["steps"][-1]["text"]


def test_leaks_follow_their_recursions():
    lr, momentum, decay, gradient, steps = 0.05, 0.8, 0.2, 3.0, 12
    paths = [path["masked"] for path in drift_trace(steps, lr, momentum, decay, gradient=gradient)["paths"]]
    w, buffer = [1.0, 1.0], gradient
    for k in range(steps + 1):
        assert [path[k] for path in paths[:3]] == pytest.approx([w[0], w[0], w[1]], abs=2e-6)
        buffer *= momentum
        w = [w[0] * (1 - lr * decay), w[1] - lr * buffer]


def test_a_weight_without_memory_or_decay_stays():
    assert frozen_path(torch.optim.SGD, 5, 0.1, 2.0, restore=False) == [1.0] * 6
    assert frozen_path(torch.optim.Adam, 5, 0.1, 0.0, restore=False) == [1.0] * 6
    trace = drift_trace(300, 1.0, 0.99, 1.0)
    assert all(abs(value) < 200 for path in trace["paths"] for value in path["masked"])


@pytest.mark.parametrize(
    ("change", "named"),
    [({"steps": 0}, "steps"), ({"lr": 0.0}, "lr"), ({"momentum": 1.0}, "momentum"), ({"decay": -1.0}, "decay"),
     ({"gradient": float("inf")}, "gradient")],
)  # fmt: skip
def test_bad_leaks_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        drift_trace(**change)


# --- a layer ---------------------------------------------------------------------------------------------


def test_a_layer_is_that_of_the_run():
    trace = validate_trace(layer())
    model, method, maps, reads = MLP(64, [4], 6).double(), PackNet(), [], []
    settings = {"epochs": 2, "batch_size": 16, "lr": 0.1, "optimizer": MOMENTUM}
    events = fit(model, STREAM.to(dtype=torch.float64), [method], **settings)
    while True:
        try:
            if isinstance(next(events), TaskEnded):
                maps.append("".join(map(str, method.owner["trunk.0.weight"].flatten().tolist())))
        except StopIteration as end:
            reads = end.value.accuracy
            break
    ends = phases(trace, "freeze")
    assert [step["owner"] for step in ends] == maps
    for t, step in enumerate(ends):
        assert step["reads"] == pytest.approx(reads[t][: t + 1], abs=1e-4)
        assert len(step["own"]) == t + 1 and step["own"][0] == step["reads"][0]
    w = model.trunk[0].weight.detach().flatten().abs()
    told = [int(digit, 36) / 35 * trace["largest"] for digit in trace["steps"][-1]["w"]]
    assert told == pytest.approx(w.tolist(), abs=0.5 / 35 * trace["largest"] + 1e-4)
    assert [step["phase"] for step in trace["steps"]] == [
        "start", *["train", "train", "train", "prune", "retrain", "freeze"] * 3
    ]  # fmt: skip


def test_only_weights_that_are_put_back_stay():
    kept, masked = (layer(restore)["steps"][-1]["moved"] for restore in (True, False))
    assert kept == [0, 0, 0]
    assert masked[0] > masked[2] == 0 and masked[1] > 0
    for a, b in zip(phases(layer(), "freeze"), phases(layer(), "train")[3::3], strict=False):
        t = str(a["task"] + 1)
        assert [d for d, o in zip(a["w"], a["owner"], strict=True) if o == t] == [
            d for d, o in zip(b["w"], a["owner"], strict=True) if o == t
        ]


def test_what_a_layer_refuses():
    with pytest.raises(CapacityError, match="no free weight for task 2 of 3"):
        packed_run_trace(STREAM, keep=1.0, **SMALL)
    for change, named in (
        ({"stream": split(points(), 2)}, "scenario"), ({"hidden": 0}, "hidden"), ({"hidden": 10_000}, "hidden"),
        ({"tile": (8, 9)}, "tile must have 64 places"), ({"keep": (2.0,)}, "keep"),
        ({"stream": Stream(STREAM.tasks * 3, "task", 6)}, "number of tasks"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            packed_run_trace(**{"stream": STREAM, **SMALL, **change})


# --- the schema ------------------------------------------------------------------------------------------


def test_traces_that_lack_something_are_refused():
    for trace, spoil, named in (
        (packing_trace(), lambda t: t.update(shows="film"), "'shows'"),
        (packing_trace(), lambda t: t.pop("tasks"), "tasks"),
        (packing_trace(), lambda t: t["steps"][3].pop("ranked"), "ranked"),
        (packing_trace(), lambda t: t["steps"][3].update(phase="sleep"), "phase"),
        (packing_trace(), lambda t: t["steps"][3]["owner"].pop(), "10 entries"),
        (packing_trace(), lambda t: t["steps"][3]["owner"].__setitem__(0, 4), "numbers of tasks up to 3"),
        (layer(), lambda t: t.update(units=5), "320 entries"),
        (layer(), lambda t: t["steps"][0].pop("moved"), "moved"),
        (drift_trace(), lambda t: t["paths"].clear(), "one path"),
        (drift_trace(), lambda t: t["paths"][0].pop("about"), "about"),
        (drift_trace(), lambda t: t["paths"][0]["masked"].pop(), "4 entries"),
    ):  # fmt: skip
        spoiled = copy.deepcopy(trace)
        spoil(spoiled)
        with pytest.raises(ValueError, match=named):
            validate_trace(spoiled)


# --- the views -------------------------------------------------------------------------------------------


def show(page: Page, trace: dict, step: int) -> Page:
    page.set_content(web_page(trace, step=step))
    expect(page.locator(".cllab-player .stage > *").first).to_be_visible()
    return page


def told_of(page: Page, selector: str, n: int) -> str:
    page.locator(selector).nth(n).dispatch_event("pointerover")
    return page.locator(".tip").inner_text()


def test_bars_owners_locks_and_readers_follow_the_step(page):
    show(page, packing_trace(title="Ten weights"), 7)
    weights = page.locator(".packing-weights > g")
    expect(weights).to_have_count(10)
    expect(weights.nth(8)).to_contain_text("1.")
    assert "rank 4 of 4; 3 are kept: goes" in told_of(page, ".packing-weights > g", 4)
    assert "owner 1, frozen\nread by task 1, task 2, task 3" in told_of(page, ".packing-weights > g", 0)
    page.evaluate("player.setStep(17)")
    row = page.locator(".packing-table tbody tr").nth(1)
    expect(row).to_have_text("task 2393")
    expect(row).to_have_class("chosen")
    assert weights.nth(4).get_attribute("opacity") == "0.2" and weights.nth(1).get_attribute("opacity") == "1"
    assert "1, 2, 1, 1, 3, 1, 2, 1, 2, 1" in page.locator(".packing-weights").get_attribute("aria-label")


@pytest.mark.parametrize("width", [360, 1200])
def test_a_layer_shows_owners_accuracies_and_drift(open_page, width):
    page = open_page(viewport={"width": width, "height": 900})
    trace = layer(restore=False)
    show(page, trace, len(trace["steps"]) - 1)
    cells = page.locator(".packing-table tbody tr").first.locator("td")
    owned = trace["steps"][-1]["owner"].count("1")
    expect(cells.nth(0)).to_have_text(str(owned))
    expect(cells.nth(4)).to_have_class("value violated")
    expect(page.locator(".stage .legend")).to_contain_text("blank: free, 0")
    canvas = page.locator(".packing-map canvas")
    inked = "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data.some((v) => v > 200)"
    assert canvas.evaluate(inked)
    canvas.hover(position={"x": 3, "y": 3})
    expect(page.locator(".tip")).to_contain_text("unit 1, input in row 1, column 1")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_frozen_weight_moves_and_the_one_put_back_does_not(page):
    show(page, drift_trace(), 3)
    told = page.locator(".packing-moved")
    expect(page.locator(".packing-drifts svg").first).to_contain_text("weight w")
    expect(told.nth(0)).to_have_text("moved −0.0297, put back 0")
    expect(told.nth(2)).to_have_text("moved −0.488, put back 0")
    expect(told.nth(3)).to_have_text("moved −0.161, put back 0")
    page.evaluate("player.setStep(0)")
    expect(told.nth(2)).to_have_text("moved 0, put back 0")
    show(page, drift_trace(1, 0.001, 0.0, 0.0), 1)  # so small a move keeps its digits, in words and on the axis
    expect(told.nth(3)).to_have_text("moved −0.00067, put back 0")
    labels = page.locator(".packing-drifts svg").nth(3).locator("text[text-anchor=end]").all_text_contents()
    assert len(set(labels)) == len(labels) > 1
    assert "NaN" not in page.locator(".stage").evaluate("node => node.innerHTML")
