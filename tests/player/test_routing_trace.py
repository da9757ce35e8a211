"""The routing trace: experts that choose, a text to colour, specialisation, biases, and what its schema refuses."""

import copy
import math

import pytest
import torch

from cllab.isolation import expert_choice, route
from cllab.player import routing_trace, validate_trace

P = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]], dtype=torch.float64)
TOKENS = [("7", 0), ("x", 1), ("y", 1), ("8", 0)]
KINDS = ["digit", "letter"]
WORDS = [("x", 1), ("9", 0)]


def frame(routing, step: int = 0, **extra) -> dict:
    return {"step": step, "routing": routing, "losses": {"task": 0.5}, "accuracy": None, **extra}


def chosen(capacity: int = 2, **options) -> dict:
    """Experts 0, 1 and 2 choose two of four tokens each: 2 0, then 3 and one of 0 and 1, then 1 2."""
    p = P.clone()
    p[0, 1] = 0.31  # expert 1 prefers token 0 to token 1
    return routing_trace([frame(expert_choice(p.log(), capacity))], TOKENS, KINDS, capacity=capacity, **options)


def texts(**changes) -> dict:
    """Two words, of which the second is dropped at capacity 1."""
    logits = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    line = {"routing": route(logits, 1, capacity=1), "logits": logits}
    frames = [frame(route(P.log(), 1), bias=torch.tensor([0.1, -0.1, 0.0]), line=line | changes)]
    return routing_trace(frames, TOKENS, KINDS, line=WORDS)


def test_experts_that_choose_give_every_token_the_row_of_its_experts():
    trace = validate_trace(chosen())
    assert (trace["choice"], trace["experts"], trace["k"], trace["capacity"]) == ("expert", 3, 2, 2)
    step = trace["steps"][0]
    assert step["expert"] == [[0, 1], [2], [0, 2], [1]]
    expected = P.clone()
    expected[0, 1] = 0.31
    expected /= expected.sum(dim=1, keepdim=True)
    for n, (experts, weights) in enumerate(zip(step["expert"], step["weight"], strict=True)):
        assert weights == pytest.approx([float(expected[n, e]) for e in experts], abs=1e-4)
        assert weights == sorted(weights, reverse=True)
    assert step["load"] == [2, 2, 2] and step["dropped"] == 0
    assert step["kept"] == [[True, True], [True], [True, True], [True]]
    assert "takes its 2 surest of 4 tokens; taken by none: 0, by several: 2." in step["text"]


def test_a_token_that_nobody_chose_has_an_empty_row():
    step = chosen(capacity=1)["steps"][0]
    assert step["expert"] == [[], [2], [0], [1]] and step["weight"][0] == []
    assert "taken by none: 1, by several: 0" in step["text"]


def test_tokens_that_choose_are_the_default():
    assert routing_trace([frame(route(P.log(), 1))], TOKENS, KINDS)["choice"] == "token"


def test_specialisation_is_one_when_the_expert_tells_the_kind_and_zero_when_one_serves_all():
    for owners, expected in (([0, 2, 2, 0], 1.0), ([1, 1, 1, 1], 0.0), ([0, 0, 1, 1], 0.0)):
        logits = torch.nn.functional.one_hot(torch.tensor(owners), 3).double()
        trace = routing_trace([frame(route(logits, 1))], TOKENS, KINDS)
        assert trace["steps"][0]["specialisation"] == pytest.approx(expected)
    # two experts, of which one serves three tokens of two kinds: I = H(1/4) - 3/4 H(1/3)... over ln 2
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 1]), 3).double()
    trace = routing_trace([frame(route(logits, 1))], TOKENS, KINDS)
    information = math.log(2) - 0.75 * (math.log(3) - 2 / 3 * math.log(2))
    assert trace["steps"][0]["specialisation"] == pytest.approx(information / math.log(2), abs=1e-4)


def test_a_dropped_assignment_counts_for_no_expert():
    logits = torch.tensor([[2.0, 0, 0]] * 4)
    kept = routing_trace([frame(route(logits, 1, capacity=1))], TOKENS, KINDS)["steps"][0]
    assert kept["kept"] == [[True], [False], [False], [False]] and kept["specialisation"] == 0


def test_a_text_carries_its_experts_and_probabilities_in_percent():
    trace = validate_trace(texts())
    assert trace["line"] == [{"label": "x", "kind": 1}, {"label": "9", "kind": 0}]
    step = trace["steps"][0]
    assert step["line"] == {
        "expert": [[0], [0]], "kept": [[True], [False]], "percent": [[80, 10, 10], [60, 30, 10]],
    }  # fmt: skip
    assert step["bias"] == pytest.approx([0.1, -0.1, 0.0])


def test_a_text_may_be_served_by_experts_that_choose():
    logits = P[:2].log()
    routing = expert_choice(P.log(), 2)
    line = {"routing": expert_choice(logits, 1), "logits": logits}
    step = validate_trace(routing_trace([frame(routing, line=line)], TOKENS, KINDS, line=WORDS))["steps"][0]
    assert sum(len(row) for row in step["line"]["expert"]) == 3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"line": []}, "line must hold"),
        ({"line": [("x", 2)]}, "kind in line"),
        ({"line": WORDS}, r"frames\[0\]\['line'\] must be a mapping"),
        ({"frames": [frame(route(P.log(), 1)), frame(route(P.log(), 2))]}, r"frames\[1\]"),
        ({"frames": [frame(route(P.log(), 1)), frame(expert_choice(P.log(), 1))]}, r"frames\[1\]"),
        ({"frames": [frame(expert_choice(P[:3].log(), 1))]}, "must route 4 tokens, got 3"),
    ],
)
def test_bad_arguments_are_named(change, word):
    with pytest.raises(ValueError, match=word):
        routing_trace(**{"frames": [frame(route(P.log(), 1))], "tokens": TOKENS, "kinds": KINDS, **change})


def test_a_text_of_another_length_and_a_routing_of_another_type_are_refused():
    with pytest.raises(ValueError, match="must route 2 tokens, got 4"):
        texts(routing=route(P.log(), 1))
    with pytest.raises(ValueError, match=r"\['logits'\] must have shape \(2, 3\)"):
        texts(logits=P.log())
    with pytest.raises(TypeError, match="Routing or an ExpertChoice, got list"):
        routing_trace([frame(route(P.log(), 1), line={"routing": [], "logits": P[:2]})], TOKENS, KINDS, line=WORDS)


@pytest.mark.parametrize(
    ("make", "path", "value", "word"),
    [
        (chosen, ("expert", 0), [0, 0], "twice"),
        (chosen, ("expert", 0), [3], "0 to 2"),
        (chosen, ("weight", 0), [0.5], "a row of .*weight"),
        (chosen, ("kept", 1), [], "a row of .*kept"),
        (texts, ("expert", 0), [0, 1], "a row of .*expert"),
        (texts, ("line",), {}, "lacks 'expert'"),
        (texts, ("line", "expert"), [[0]], "line"),
        (texts, ("line", "expert", 0), [5], "0 to 2"),
        (texts, ("line", "percent", 1), [50, 50], "percent"),
    ],
)
def test_the_schema_names_what_is_wrong(make, path, value, word):
    trace = copy.deepcopy(make())
    at = trace["steps"][0]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    if path == ("expert", 0) and value in ([0, 0], [3], [0, 1]):
        trace["steps"][0]["weight"][0] = trace["steps"][0]["kept"][0] = [1] * len(value)
    with pytest.raises(ValueError, match=word):
        validate_trace(trace)
