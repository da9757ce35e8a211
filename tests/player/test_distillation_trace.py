"""The traces of distillation: the course's numbers in them, and every way in which one is refused."""

import copy
import math

import pytest
import torch

from cllab.player import answers_trace, distillation_trace, following_trace, validate_trace
from cllab.player.from_distillation import TEMPERATURES, follow, gradient, measure


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


CAT, STUDENT = row(7.377759, 4.394449, 0.0), row(1.0, 1.0, 0.0)


def test_the_temperatures_hold_those_of_the_course():
    assert {0.25, 0.5, 1, 2, 4, 8, 50} <= set(TEMPERATURES) and list(TEMPERATURES) == sorted(TEMPERATURES)


@pytest.mark.parametrize(
    ("T", "percent", "entropy"),
    [(0.5, (99.74, 0.26, 0.0), None), (1, (95.12, 4.82, 0.06), 0.198033), (2, (80.0, 18.0, 2.0), 0.565419),
     (4, (61.26, 29.06, 9.69), 0.885446), (8, (47.93, 33.01, 19.06), None)],
)  # fmt: skip
def test_cat_lion_elephant(T, percent, entropy):
    trace = validate_trace(distillation_trace(CAT, STUDENT))
    step = trace["steps"][TEMPERATURES.index(T)]
    q = step["panels"][0]["values"][0]
    assert [round(100 * value, 2) for value in q] == list(percent)
    facts = {name: value for name, value, _ in step["facts"]}
    assert entropy is None or facts["H(q)"] == entropy
    assert facts["CE(q, p)"] - facts["KL(q‖p)"] == pytest.approx(facts["H(q)"], abs=2e-6)
    assert trace["charts"][0]["limit"] == ["ln 3", 1.098612]
    assert all(step["panels"][0]["values"][0] == sorted(step["panels"][0]["values"][0], reverse=True)
               for step in trace["steps"])  # fmt: skip


def test_the_worked_example():
    m = measure(row(4, 2, 0), STUDENT, 2.0)
    assert m["q"].tolist() == pytest.approx([0.665241, 0.244728, 0.090031], abs=1e-6)
    assert m["p"].tolist() == pytest.approx([0.383652, 0.383652, 0.232697], abs=1e-6)
    assert (m["ce"], m["kl"]) == pytest.approx((1.003035, 0.170640), abs=1e-6)
    assert m["gradient"].tolist() == pytest.approx([-0.563178, 0.277847, 0.285332], abs=1e-6)
    one = measure(row(4, 2, 0), STUDENT, 1.0)
    assert (one["ce"], one["kl"]) == pytest.approx((0.877871, 0.436814), abs=1e-6)


@pytest.mark.parametrize("form", ["kl", "ce"])
def test_autograd_gives_the_formula_and_its_limit(form):
    for T in TEMPERATURES:
        m = measure(CAT, STUDENT, T)
        torch.testing.assert_close(gradient(CAT, STUDENT, T, form), T * (m["p"] - m["q"]), rtol=0, atol=1e-12)
    limit = distillation_trace(CAT, STUDENT)["panels"][0]["limit"]
    assert gradient(CAT, STUDENT, 1e4, form).tolist() == pytest.approx(limit, abs=1e-3)


def test_the_mean_gradient_of_two_rows_keeps_its_size_only_with_the_square():
    pairs = [(row(4, 2, 0), STUDENT), (row(1, 0, 3), row(0, 2, 1))]
    for T, norm in ((1, 0.514282), (2, 0.598621), (4, 0.617239), (50, 0.610320)):
        found = torch.stack([gradient(teacher, student, float(T)) / 2 for teacher, student in pairs])
        assert float(found.norm()) == pytest.approx(norm, abs=1e-6)


def test_followers_arrive_with_the_square_and_crawl_without():
    trace = validate_trace(following_trace(CAT, STUDENT, 8.0, 1.0, 60))
    one, squared, plain = (line["values"] for line in trace["charts"][0]["lines"])
    assert squared[-1] < 1e-3 < 1 < one[-1] < plain[-1]
    # one step of each, by hand
    far = (CAT - CAT.mean()) - (STUDENT - STUDENT.mean())
    p, q = (STUDENT / 8).softmax(0), (CAT / 8).softmax(0)
    assert squared[1] == pytest.approx(float((far + 8 * (p - q)).norm()), abs=1e-6)
    assert plain[1] == pytest.approx(float((far + (p - q) / 8).norm()), abs=1e-6)
    assert len(trace["steps"]) == 61 == len(follow(CAT, STUDENT, 8.0, 1.0, 60))


def test_extremes_stay_finite_and_the_argument_stays_as_it_was():
    student = row(-50, 50).requires_grad_(True)
    trace = validate_trace(distillation_trace(row(50, -50), student))
    assert trace["steps"][0]["panels"][0]["values"] == [[1.0, 0.0], [0.0, 1.0]] and student.grad is None
    assert math.isfinite(trace["charts"][1]["lines"][1]["values"][0])
    same = distillation_trace(CAT, CAT, (2.0,))
    assert same["steps"][0]["panels"][0]["gradient"] == [0, 0, 0] == same["panels"][0]["limit"]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: distillation_trace(row(1, math.nan), row(1, 2)), "teacher"),
        (lambda: distillation_trace(row(1, 2), row(math.inf, 2)), "student"),
        (lambda: distillation_trace(row(1, 2), row(1, 2, 3)), "student must have as many"),
        (lambda: distillation_trace(row(1), row(1)), "at least two"),
        (lambda: distillation_trace(row(1, 2), row(1, 2), ()), "temperatures"),
        (lambda: distillation_trace(row(1, 2), row(1, 2), (0.0,)), "temperature"),
        (lambda: distillation_trace(row(1, 2), row(1, 2), names=("a",)), "names"),
        (lambda: following_trace(row(1, 2), row(1, 2), lr=-1.0), "lr"),
        (lambda: following_trace(row(1, 2), row(1, 2), n_steps=0), "n_steps"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, named):
    with pytest.raises(ValueError, match=named):
        call()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda t: t["charts"][0]["lines"][0]["values"].pop(), "a line of trace"),
        (lambda t: t["steps"][1]["panels"].pop(), "panels"),
        (lambda t: t["steps"][1]["panels"][0].pop("plain"), "lacks 'plain'"),
        (lambda t: t["steps"][1]["panels"][0]["values"].pop(), "values"),
        (lambda t: t["steps"][1]["panels"][0]["gradient"].pop(), "a row of"),
        (lambda t: t["steps"][1].pop("facts"), "facts"),
        (lambda t: t.pop("log"), "log"),
    ],
)
def test_a_spoilt_trace_is_refused(spoil, named):
    trace = copy.deepcopy(distillation_trace(CAT, STUDENT, (1.0, 2.0)))
    spoil(trace)
    with pytest.raises(ValueError, match=named):
        validate_trace(trace)


def test_parts_that_are_absent_are_empty():
    steps = [{"x": 0, "text": "one", "panels": [{"T": 1, "logits": [[0, 0]], "values": [[0.5, 0.5]]}]}]
    trace = validate_trace(answers_trace([{"name": "a"}], steps, ["x", "y"], ["q"], [], x_label="step"))
    assert trace["steps"][0]["facts"] == [] and trace["steps"][0]["panels"][0]["gradient"] is None
