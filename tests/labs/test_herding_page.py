"""The herding page: what it computes, against numbers worked by hand, and what it shows, with AppTest."""

import functools
import itertools

import numpy as np
import pytest
import torch

from cllab.player import validate_trace
from labs import herding_traces as traces
from labs import herding_walk as walks
from tests.tools.pages import open_lab_page, shown

# --- what is computed ------------------------------------------------------------------------------------


def chosen_names(trace: dict) -> list[str]:
    return [trace["names"][trace["steps"][i]["chosen"]] for i in traces.choices(trace)]


def test_the_toy_with_a_memory_of_8_is_the_worked_example():
    trace = validate_trace(traces.toy_trace(8, "first"))
    assert chosen_names(trace) == [
        "(1, 1)", "(1, 0)", "(0, 1)", "(2, 2)", "(3, 3)", "(3, 2)", "(2, 3)", "(4, 4)", "(−1, −1)", "(−1, 0)",
    ]  # fmt: skip
    first, second = traces.last_steps(trace)
    assert traces.exemplar_means(trace, first) == {0: [1.0, 1.0], 1: [3.0, 3.0]}
    assert traces.exemplar_means(trace, second) == {0: [1.0, 0.5], 1: [3.0, 2.5], 2: [-1.0, -0.5]}
    errors = [trace["steps"][i]["error"] for i in traces.choices(trace)[:4]]
    assert errors == pytest.approx([0.2828, 0.3606, 0.1886, 0.2828], abs=1e-4)


def test_the_other_side_of_the_tie_moves_the_final_means():
    trace = traces.toy_trace(8, "last")
    assert chosen_names(trace)[:4] == ["(1, 1)", "(0, 1)", "(1, 0)", "(2, 2)"]
    expected = {0: [0.5, 1.0], 1: [2.5, 3.0], 2: [-0.5, -1.0]}
    assert traces.exemplar_means(trace, traces.last_steps(trace)[1]) == expected


@pytest.mark.parametrize(("capacity", "rows"), [(3, (1, 1)), (8, (4, 2)), (9, (4, 3)), (15, (5, 5))])
def test_the_budget_divides_by_the_classes_seen(capacity, rows):
    trace = traces.toy_trace(capacity)
    for step, m in zip(traces.last_steps(trace), rows, strict=True):
        memory = trace["steps"][step]["memory"]
        assert {len(kept) for kept in memory.values()} == {m}
        assert sum(len(kept) for kept in memory.values()) <= capacity


@pytest.mark.parametrize(
    ("stage", "query", "answer", "distances"),
    [
        (0, (0.9, 0.7), 0, [0.3162, 3.1145]),
        (1, (0.9, 0.7), 0, [0.2236, 2.7659, 2.2472]),
        (1, (-0.9, -0.6), 2, [2.1954, 4.9820, 0.1414]),
    ],
)
def test_verdicts_of_the_worked_example(stage, query, answer, distances):
    trace = traces.toy_trace(8)
    found = traces.verdict(traces.exemplar_means(trace, traces.last_steps(trace)[stage]), query)
    assert (found.answer, found.tied) == (answer, [answer])
    assert list(found.distances.values()) == pytest.approx(distances, abs=1e-4)


@pytest.mark.parametrize(
    ("stage", "query", "tied", "distance"), [(0, (2, 2), [0, 1], 2**0.5), (1, (0, 0), [0, 2], 1.25**0.5)]
)
def test_the_two_ambiguous_points_are_exact_ties(stage, query, tied, distance):
    trace = traces.toy_trace(8)
    found = traces.verdict(traces.exemplar_means(trace, traces.last_steps(trace)[stage]), query)
    assert found.tied == tied
    assert found.answer == tied[0]
    assert [found.distances[c] for c in tied] == pytest.approx([distance, distance], abs=1e-12)


def test_the_story_has_the_loss_of_each_stage_and_the_test_points():
    trace = validate_trace(traces.toy_trace(8))
    phases = [step["phase"] for step in trace["steps"]]
    second = phases.index("arrive", 1)
    assert phases[:3] == ["arrive", "train", "train"] and phases[second : second + 4] == [
        "arrive", "train", "train", "truncate",
    ]  # fmt: skip
    first, worked = trace["steps"][2]["loss"], trace["steps"][second + 2]["loss"]
    assert first["mean"] == pytest.approx(0.6931, abs=1e-4) and first["distillation"] == 0
    assert (worked["distillation"], worked["floor"], worked["new"], worked["mean"]) == (0.6978, 0.6502, 0.0513, 0.2497)
    assert [column["target"] for column in worked["columns"]] == [0.9, 0.1, 0.0]
    assert [column["gradient"] for column in worked["columns"]] == pytest.approx([-0.0333, 0.0167, 0.0167], abs=1e-4)
    said = {tuple(step["query"]): step["text"] for step in trace["steps"][second:] if step["phase"] == "test"}
    assert "The answer is A." in said[0.9, 0.7] and "The answer is C." in said[-0.9, -0.6]
    assert "A 1.1180, B 3.9051, C 1.1180. An exact tie between A and C" in said[0.0, 0.0]
    assert "The answer is B." in said[2.0, 2.0]


@pytest.mark.parametrize(("name", "step"), list(zip(traces.ENTRIES, (0, 16, 24, 15, 26), strict=True)))
def test_one_may_enter_the_story_where_one_wants(name, step):
    assert traces.entry(traces.toy_trace(8), name) == step


def test_a_tie_at_thirds_is_recognised():
    found = traces.verdict({0: [2 / 3, 0.0], 1: [-2 / 3, 0.0]}, (0.0, 5.0))
    assert found.tied == [0, 1]
    assert traces.verdict({0: [2 / 3, 0.0], 1: [-2 / 3, 0.0]}, (1e-3, 5.0)).tied == [0]


def test_formulas_hold_the_numbers_of_the_distance():
    found = traces.verdict({2: [-1.0, -0.5]}, (0.9, 0.7))
    assert found.formulas[2] == "√((0.9 − (−1))² + (0.7 − (−0.5))²)"


def test_a_query_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="query"):
        traces.verdict({0: [0.0, 0.0]}, (float("nan"), 0.0))


def test_questions_hide_the_answer_until_it_is_given():
    whole = traces.toy_trace(8)
    answers = traces.choices(whole)
    assert len(answers) == 10
    for question, answer in enumerate(answers):
        trace = validate_trace(traces.asked(whole, question))
        ask = trace["steps"][-1]
        assert ask["chosen"] is None and ask["distances"] is None and not ask["tied"]
        assert whole["steps"][answer]["chosen"] not in itertools.chain(*ask["memory"].values())
        assert trace["names"][whole["steps"][answer]["chosen"]] not in ask["text"]
        assert answers[question] >= len(trace["steps"]) - 1
        assert [step["chosen"] for step in trace["steps"][:-1]] == [
            step["chosen"] for step in whole["steps"][: len(trace["steps"]) - 1]
        ]
    assert traces.asked(whole, 10) is whole


def test_guesses_are_judged_by_distance_and_both_points_of_a_tie_are_right():
    whole = traces.toy_trace(8)
    assert traces.judge(whole, 0, "(1, 1)")[0]
    right, text = traces.judge(whole, 1, "(0, 1)")
    assert right and "tie" in text and "(1, 0)" in text
    wrong, text = traces.judge(whole, 1, "(2, 2)")
    assert not wrong and "0.52" in text and "3.92" in text


def test_errors_of_the_toy_are_those_worked_by_hand_and_rise_twice():
    found = traces.error_curves(traces.TOY.x[traces.TOY.y == 0], 5)
    assert found["herding"] == pytest.approx([0.2828, 0.3606, 0.1886, 0.2828, 0.0], abs=1e-4)
    assert traces.rises(found["herding"]) == [2, 4]


def test_the_band_of_random_orders_agrees_with_all_orders():
    rows = traces.TOY.x[traces.TOY.y == 0]
    found = traces.error_curves(rows, 5, draws=4000)
    for m in range(1, 6):
        subsets = [rows[list(pick)].mean(dim=0) for pick in itertools.combinations(range(5), m)]
        exact = np.array([float((mean - rows.mean(dim=0)).norm()) for mean in subsets])
        for name, share in (("low", 0.1), ("median", 0.5), ("high", 0.9)):
            below, above = np.quantile(exact, (share - 0.05, share + 0.05), method="closest_observation")
            assert below - 1e-9 <= found[name][m - 1] <= above + 1e-9


@pytest.fixture(scope="module")
def pixels() -> traces.Digits:
    return traces.load_digits("pixels")


def test_on_digits_herding_beats_random_choice(pixels):
    for digit in range(10):
        found = traces.error_curves(pixels.features[pixels.y == digit], 20)
        assert (found["herding"] < found["low"]).mean() > 0.9
    accuracy = traces.digits_accuracy(pixels, (3, 5, 8), 12)
    assert accuracy["herding"] > accuracy["random"]


def test_distances_of_digits_are_those_of_the_features(pixels):
    trace = validate_trace(traces.digits_trace(pixels, (3, 5, 8), 12))
    own = pixels.features[(pixels.y == 3).nonzero()[: traces.PER_DIGIT, 0]].double()
    step = trace["steps"][traces.choices(trace)[0]]
    expected = (own - own.mean(dim=0)).square().sum(dim=1)
    assert step["distances"] == pytest.approx(expected.tolist(), abs=2e-4)
    assert not trace["plane"]
    assert trace["images"][0] == pixels.pixels[(pixels.y == 3).nonzero()[0, 0]].int().tolist()


def test_network_features_separate_the_digits_better_than_pixels(pixels):
    network = traces.load_digits("network", unit=True)
    assert network.features.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(network.y, pixels.y)
    trio = (3, 5, 8)
    assert traces.digits_accuracy(network, trio, 60)["all"] > traces.digits_accuracy(pixels, trio, 60)["all"]


@pytest.fixture(scope="module")
def found() -> walks.Walk:
    return walks.walk()


def test_a_real_run_keeps_prefixes_and_counts_its_answers(found):
    trace = validate_trace(found.trace)
    kept: dict[str, list[int]] = {}
    for step in trace["steps"]:
        for c, rows in step["memory"].items():
            assert all(trace["owner"][i] == int(c) and trace["role"][i] == "train" for i in rows)
            assert rows == kept.get(c, rows)[: len(rows)], "a list is only cut at its end"
        kept = step["memory"]
        for c, mean in step["means"].items():
            expected = np.array(step["points"])[step["memory"][c]].mean(axis=0)
            assert mean == pytest.approx(expected.tolist(), abs=2e-3), "means are those of the features of now"
    assert [len(rows) for rows in kept.values()] == [4, 4, 4, 4]
    last = trace["steps"][-2]
    points, means = np.array(last["points"]), {int(c): np.array(mean) for c, mean in last["means"].items()}
    for row, said in last["answers"].items():
        assert said == min(means, key=lambda c: np.linalg.norm(points[int(row)] - means[c]))


def test_in_a_real_run_features_move_and_stale_means_answer_worse(found):
    moved = [step for step in found.trace["steps"] if step["phase"] == "moved"]
    assert len(moved) == 2
    for step in moved:
        assert all(np.linalg.norm(np.subtract(step["means"][c], step["before"][c])) > 0.5 for c in step["before"])
    assert found.anew[-1] - found.stale[-1] > 0.2
    assert found.means[-1] - found.head[-1] > 0.2


def test_features_of_length_1_lie_on_a_circle():
    trace = walks.walk(unit=True, capacity=8).trace
    assert np.linalg.norm(np.array(trace["steps"][-1]["points"]), axis=1) == pytest.approx(1.0, abs=2e-3)
    assert np.linalg.norm(list(trace["steps"][-1]["means"].values()), axis=1) == pytest.approx(1.0, abs=2e-3)


# --- what is shown ---------------------------------------------------------------------------------------


herding_page = functools.partial(open_lab_page, "herding")


def test_it_opens_with_the_worked_example_classified():
    text = shown(herding_page())
    assert "**0.3162**" in text and "**2.2472**" in text
    assert text.count("is classified as **A**") == 2


def test_presets_bring_the_two_ambiguous_points():
    app = herding_page()
    for label, point, classes in (("Point (2, 2)", "(2, 2)", "A and B"), ("Point (0, 0)", "(0, 0)", "A and C")):
        next(button for button in app.button if button.label == label).click().run()
        assert not app.exception
        assert [
            warning.value for warning in app.warning if f"{point} is exactly as far from {classes}" in warning.value
        ]


def test_the_address_holds_the_settings():
    app = herding_page(herd_capacity="9", herd_ties="last", herd_x="-0.9", herd_y="-0.6")
    assert app.slider(key="herd_capacity").value == 9
    assert "is classified as **C**" in shown(app)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("herd_capacity", "99"), ("herd_capacity", "many"), ("herd_x", "nan"), ("herd_x", "1e9"), ("herd_ties", "both"),
        ("herd_view", "nowhere"), ("herd_enter", "Stage 9"), ("herd_colour", "red"),
    ],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence_and_defaults(key, value):
    app = herding_page(**{key: value})
    assert any(key in warning.value for warning in app.warning)
    assert app.slider(key="herd_capacity").value == 8
    assert "**0.3162**" in shown(app)


def test_settings_of_another_view_are_no_mistake():
    assert not herding_page(herd_images="30", herd_source="digit 7", herd_predict="false").warning


def test_guessing_goes_through_all_ten_choices():
    app = herding_page(herd_predict="true")
    assert "is classified as" not in shown(app)
    for question, name in enumerate(chosen_names(traces.toy_trace(8))):
        assert f"**{question + 1} of 10.**" in shown(app)
        app.get_by_key(f"herd_guess_{question}").set_value(name).run()
        assert not app.exception
    assert "10 of 10 right." in shown(app)


@pytest.mark.parametrize("value", [3, 15])
def test_the_ends_of_the_budget_slider(value):
    app = herding_page()
    app.slider(key="herd_capacity").set_value(value).run()
    assert not app.exception


def test_real_digits_show_the_accuracies_of_their_memory():
    app = herding_page(herd_view="Real digits", herd_features="pixels")
    values = [float(metric.value.rstrip("%")) for metric in app.metric]
    assert len(values) == 3 and values[0] > values[1]
    app.slider(key="herd_images").set_value(3).run()
    assert not app.exception
    assert "1 image per digit" in shown(app)


def test_a_real_run_shows_both_answers_by_stage():
    app = herding_page(herd_view="A real run", herd_kept="8")
    assert "| stage 3: 3 |" in shown(app) and "computed anew" in shown(app)


def test_against_random_says_where_the_error_rises():
    app = herding_page(herd_view="Against random", herd_source="toy class A")
    assert "m = 2, 4" in shown(app)
    chart = app.get("vega_lite_chart")[0]
    assert chart.proto.alt.startswith("Error of the exemplar mean, toy class A")


def test_two_visitors_do_not_share_settings_or_guesses():
    first, second = herding_page(herd_predict="true"), herding_page(herd_predict="true")
    first.get_by_key("herd_guess_0").set_value("(1, 1)").run()
    assert "**2 of 10.**" in shown(first)
    second.run()
    assert "**1 of 10.**" in shown(second)
