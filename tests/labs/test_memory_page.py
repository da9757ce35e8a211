"""The memory page: what it computes, and what it shows, with AppTest."""

import functools
from fractions import Fraction

import pytest
import torch
from streamlit.testing.v1 import AppTest

from cllab.device import generator
from cllab.player import validate_trace
from labs import memory_chances as chances
from labs import memory_traces as traces
from tests.tools.pages import given_to_players, open_lab_page, shown

# --- what is computed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(traces.SHARES))
@pytest.mark.parametrize("n", [6, 7, 90, 113, 150])
def test_streams_have_their_rows_and_all_their_classes(kind, n):
    labels, names = traces.stream(kind, n, 0)
    assert len(labels) == n and set(labels) == set(range(len(names)))


def test_the_rare_class_is_the_table_of_the_course():
    labels, names = traces.stream("a rare class", 113, 0)
    assert labels == [0] * 100 + [1] * 10 + [2] * 3 and names == ["A", "B", "C"]
    assert traces.stream("task A comes back", 8, 0)[0] == [0, 0, 1, 1, 0, 0, 2, 2]
    mixed = traces.stream("all mixed", 90, 1)[0]
    assert mixed != sorted(mixed) and mixed != traces.stream("all mixed", 90, 2)[0] and sorted(mixed)[30] == 1


@pytest.mark.parametrize("name", list(traces.MEMORIES))
@pytest.mark.parametrize(("kind", "n", "capacity"), [("three tasks in turn", 90, 12), ("five tasks in turn", 6, 30)])
def test_traces_of_every_memory(name, kind, n, capacity):
    trace = validate_trace(traces.trace(kind, n, capacity, (name,), 3))
    assert len(trace["steps"]) == n + 1
    assert sum(traces.counts(trace, 0)) <= min(n, capacity)
    assert sum(traces.in_proportion(trace, capacity)) == pytest.approx(capacity)


def test_presets_are_true_to_their_claims():
    fair = traces.trace("three tasks in turn", 90, 12, ("reservoir", "ring"), 0)
    assert min(traces.counts(fair, 0)) > 0 and traces.counts(fair, 1) == [0, 0, 12]
    rings = traces.trace("three tasks in turn", 90, 12, ("ring", "class ring"), 0)
    assert traces.counts(rings, 1) == [4, 4, 4]
    rare = traces.trace("a rare class", 113, 9, ("reservoir", "CBRS"), 0)
    assert traces.counts(rare, 0)[2] == 0 and traces.counts(rare, 1) == [3, 3, 3]
    equal = traces.trace("five tasks in turn", 90, 12, ("balanced", "reservoir"), 0)
    assert traces.counts(equal, 0) == [2] * 5


def test_exact_chances_of_the_right_and_the_wrong_reservoir():
    half = Fraction(1, 2)
    assert chances.exact("reservoir", 6, 3) == [half] * 6
    assert chances.exact("off by one", 6, 3) == [Fraction(2, 5)] * 3 + [Fraction(3, 5)] * 3
    for n, K in ((8, 1), (7, 4), (5, 5), (3, 4)):
        for name in ("reservoir", "off by one"):
            law = chances.law(name, [0] * n, K, 1)
            assert [float(p) for p in chances.exact(name, n, K)] == pytest.approx(law)


def test_measured_chances_come_to_their_law():
    labels, _ = traces.stream("three tasks in turn", 30, 0)
    for name in traces.MEMORIES:
        if (law := chances.law(name, labels, 6, 3)) is not None:
            found = chances.measured(name, labels, 6, 3, 2000)
            assert found == pytest.approx(law, abs=0.05), name
    right = chances.law("reservoir", [0] * 6, 3, 1)
    assert chances.measured("off by one", [0] * 6, 3, 1, 2000) != pytest.approx(right, abs=0.05)


def test_cbrs_is_measured_to_be_fair_within_each_class():
    labels, _ = traces.stream("a rare class", 113, 0)
    found = torch.tensor(chances.measured("CBRS", labels, 9, 3, 200))
    assert found[:100].mean() == pytest.approx(0.03) and found[100:110].mean() == pytest.approx(0.3)
    assert found[110:].eq(1).all()


def test_the_measured_reservoirs_are_the_memories_that_are_shown():
    """`measured` takes a short way for the two reservoirs; the same draws must lead to the same rows."""
    for name, bounds in (("reservoir", torch.arange(1, 21)), ("off by one", torch.arange(20).clamp(min=1))):
        memory = traces.make(name, 4, 1, 7)
        memory.add(torch.arange(20), torch.zeros(20, dtype=torch.int64))
        slots = traces.reservoir_slots(0, traces.draw_below(bounds, generator(7)), 4)
        assert memory.x.tolist() == [int((slots == slot).nonzero().max()) for slot in range(4)]


def test_the_puzzle_has_the_truth_among_several_answers():
    for names, kind, n, K in ((("ring",), "three tasks in turn", 90, 12), (("CBRS",), "a rare class", 113, 9),
                              (("reservoir",), "one class", 6, 1), (("balanced",), "five tasks in turn", 6, 30)):  # fmt: skip
        trace = traces.trace(kind, n, K, names, 0)
        c, answers = traces.puzzle(trace)
        assert traces.counts(trace, 0)[c] in answers and len(answers) > 1 and answers == sorted(answers)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: traces.stream("a river", 90, 0), "kind"), (lambda: traces.stream("one class", 10_000, 0), "n must"),
        (lambda: traces.make("deque", 3, 1, 0), "name"), (lambda: chances.exact("ring", 6, 3), "name"),
        (lambda: chances.exact("reservoir", 9, 3), "n must"),
        (lambda: chances.measured("ring", [0], 1, 1, 0), "seeds"),
    ],
)  # fmt: skip
def test_bad_arguments(call, named):
    with pytest.raises(ValueError, match=named):
        call()


# --- what is shown ---------------------------------------------------------------------------------------


memory_page = functools.partial(open_lab_page, "memory")


def players(app: AppTest) -> list[dict]:
    """The traces that the players on the page were given."""
    return [data["trace"] for data in given_to_players(app)]


def names(app: AppTest) -> list[str]:
    return [memory["name"] for memory in players(app)[0]["memories"]]


def test_presets_show_what_they_say():
    app = memory_page()
    assert names(app) == ["reservoir", "ring"] and len(app.get("vega_lite_chart")) == 2
    assert "| A | 30 | 4.00 | 2 | 0 |" in shown(app)
    expected = {
        "Only yesterday: ring": (["ring", "class ring"], "| A | 30 | 4.00 | 0 | 4 |"),
        "A rare class: CBRS": (["reservoir", "CBRS"], "| C | 3 | 0.24 | 0 | 3 |"),
        "Equal shares: balanced": (["balanced", "reservoir"], "| E | 18 | 2.40 | 2 |"),
        "Off by one": (["reservoir", "off by one"], "| 1 | 1/2 | 2/5 |"),
        "Fair: reservoir": (["reservoir", "ring"], "K / n = 12 / 90 = 0.133"),
    }
    for label, (memories, text) in expected.items():
        next(button for button in app.button if button.label == label).click().run()
        assert not app.exception
        assert names(app) == memories and text in shown(app), label


def test_the_guess_comes_before_the_player():
    app = memory_page()
    next(button for button in app.button if button.label == "Let me guess").click().run()
    assert not players(app) and not app.get("vega_lite_chart")
    assert "90 rows pass, 30 of them of class A" in shown(app)
    guess = next(group for group in app.button_group if group.key.startswith("mem_guess"))
    guess.set_value(4).run()
    assert not app.exception
    assert "You said 4: 0 of 12. In proportion to the stream it would be 4.0." in shown(app)
    assert names(app) == ["ring", "reservoir"]


@pytest.mark.parametrize(
    "address",
    [
        {"mem_rows": "6", "mem_slots": "1", "mem_stream": "five tasks in turn", "mem_a": "balanced", "mem_b": "CBRS"},
        {"mem_rows": "150", "mem_slots": "30", "mem_stream": "all mixed", "mem_a": "class ring", "mem_b": "nothing"},
        {"mem_rows": "6", "mem_slots": "30", "mem_stream": "one class", "mem_a": "off by one", "mem_b": "off by one"},
        {"mem_rows": "8", "mem_slots": "1", "mem_stream": "one class", "mem_a": "off by one", "mem_b": "reservoir"},
    ],
)
def test_every_slider_at_its_end(address):
    app = memory_page(**address)
    assert len(players(app)) == 1 and not app.warning
    if address["mem_stream"] == "five tasks in turn":
        assert "needs one for each of the 5 classes: K = 5 is used" in shown(app)
    if address["mem_a"] == address["mem_b"]:
        assert "it is shown once" in shown(app) and names(app) == ["off by one"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("mem_rows", "5"), ("mem_rows", "many"), ("mem_slots", "0"), ("mem_slots", "nan"), ("mem_a", "deque"),
     ("mem_b", "-1"), ("mem_stream", "river"), ("mem_seed", "-3"), ("mem_seeds", "7"), ("mem_colour", "red")],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence_and_defaults(key, value):
    app = memory_page(**{key: value})
    assert any(key in warning.value for warning in app.warning)
    assert (
        names(app) == ["reservoir", "ring"]
        and players(app)[0]["title"] == "90 rows, three tasks in turn, K = 12, seed 0"
    )
