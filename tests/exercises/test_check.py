"""check(): its four states word for word, and what a learner's code can do without breaking the lesson."""

import json
import sys

import numpy as np
import pytest
import torch

from cllab.exercises import Case, Exercise, KnownWrong, check, claim, lessons, progress, setup
from cllab.exercises.exercise import exercises
from cllab.exercises.lesson import version_difference
from cllab.exercises.progress import remember

module = sys.modules["cllab.exercises.check"]
TWO = [[1.0, 0], [0.4, 0.9]]


def forgetting(R):
    return max(R[0][0], -1) - R[1][0]


def random_case(generator):
    return (torch.rand(2, 2, generator=generator, dtype=torch.float64).tolist(),)


TOY = {
    "L03.2": Exercise(
        id="L03.2",
        title="forgetting",
        reference=forgetting,
        agrees_with="cllab.metrics.forgetting",
        hint="rows = after which task, columns = which task",
        cases=(
            Case("two tasks", (TWO,)),
            Case("gain", ([[0.2, 0], [0.5, 0.9]],)),
            Case("none", ([[1, 0], [1, 1]],)),
        ),
        random_case=random_case,
        known_wrong=(KnownWrong(lambda R: R[0][1] - R[1][0], "best earlier accuracy minus last accuracy"),),
    ),
    "L03.1": Exercise(
        id="L03.1",
        title="a blank",
        reference=0.05,
        agrees_with="0.05",
        hint="later minus earlier",
        known_wrong=(KnownWrong(-0.05, "you took earlier minus later"),),
    ),
    "L03.3": Exercise(
        id="L03.3",
        title="halves",
        reference=lambda x: x / 2,
        agrees_with="x / 2",
        hint="divide by two",
        cases=(Case("a vector", (torch.tensor([1.0, 3.0], dtype=torch.float64),)),),
    ),
}


@pytest.fixture(autouse=True)
def toy_course(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "exercises", lambda: TOY)
    monkeypatch.setattr(module, "_failures", {})
    monkeypatch.setenv("CLLAB_HOME", str(tmp_path / "home"))


def verdict(capsys, exercise_id, answer, **options):
    returned = check(exercise_id, answer, **options)
    return returned, capsys.readouterr().out


def unattempted(R):
    raise NotImplementedError


@pytest.mark.parametrize("answer", [unattempted, None, ..., lambda R: None, lambda R: ...])
def test_not_attempted(capsys, answer):
    returned, text = verdict(capsys, "L03.2", answer)
    assert returned is forgetting
    assert text == (
        "[ ] L03.2 forgetting: not attempted yet. Fill the blank above and run this cell again.\n"
        "    used below: cllab.metrics.forgetting\n"
    )


def test_raised(capsys):
    returned, text = verdict(capsys, "L03.2", lambda R: R[5])
    assert returned is forgetting
    assert text == (
        "[!] L03.2 forgetting: your code raised IndexError: list index out of range"
        "   on input ([[1.0, 0], [0.4, 0.9]],)\n"
        "    hint: rows = after which task, columns = which task\n"
        "    used below: cllab.metrics.forgetting\n"
    )


def test_wrong_value_with_its_named_mistake(capsys):
    returned, text = verdict(capsys, "L03.2", lambda R: R[0][1] - R[1][0])
    assert returned is forgetting
    assert text == (
        "[x] L03.2 forgetting: case 1 of 3 (two tasks)   expected 0.6   got -0.4\n"
        "    hint: best earlier accuracy minus last accuracy\n"
        "    used below: cllab.metrics.forgetting\n"
    )


def test_wrong_value_that_only_shares_the_first_number_gets_the_general_hint(capsys):
    _, text = verdict(capsys, "L03.2", lambda R: -0.4)
    assert "hint: rows = after which task" in text


def test_right(capsys):
    def mine(R):
        return R[0][0] - R[1][0]

    returned, text = verdict(capsys, "L03.2", mine)
    assert returned is mine
    assert text == (
        "[v] L03.2 forgetting: 3 cases + 5 random cases agree with cllab.metrics.forgetting\n"
        "    used below: your answer\n"
    )


def test_an_answer_fitted_to_the_lessons_cases_fails_on_a_random_one(capsys):
    known = {str(case.args): forgetting(*case.args) for case in TOY["L03.2"].cases}
    _, text = verdict(capsys, "L03.2", lambda R: known.get(str((R,)), 0.0))
    assert text.startswith("[x] L03.2 forgetting: random case 1 of 5   expected ")
    assert "on input ([[" in text


def test_values(capsys):
    assert verdict(capsys, "L03.1", 0.05)[1].startswith("[v] L03.1 a blank: 0.05 is right")
    assert verdict(capsys, "L03.1", ...)[1].startswith("[ ]")
    assert "hint: you took earlier minus later" in verdict(capsys, "L03.1", -0.05)[1]
    returned, text = verdict(capsys, "L03.1", "five")
    assert returned == 0.05
    assert text.startswith("[x] L03.1 a blank: 'five' is not it\n    hint: later minus earlier")


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (lambda x: [0.5], "expected shape (2,)   got shape (1,)"),
        (lambda x: 0.5, "expected a list, [0.5, 1.5]   got a number, 0.5"),
        (lambda x: "half", "got a str, 'half'"),
        (lambda x: x / 2 + float("nan"), "got [nan, nan]"),
        (lambda x: (x / 2)[None], "got shape (1, 2)"),
        (lambda x: {"a": 1}, "got a dict"),
    ],
)
def test_type_then_shape_then_value(capsys, answer, finding):
    _, text = verdict(capsys, "L03.3", answer)
    assert text.startswith("[x] L03.3 halves: case 1 of 1 (a vector)   ")
    assert finding in text


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x / 2,
        lambda x: (x / 2).float(),
        lambda x: x.numpy() / 2,
        lambda x: [v / 2 for v in x.tolist()],
        lambda x: tuple(np.float32(v / 2) for v in x),
        lambda x: (x / 2).requires_grad_(),
    ],
)
def test_tensors_arrays_and_lists_count_the_same(capsys, answer):
    assert verdict(capsys, "L03.3", answer)[1].startswith("[v]")


def endless(R):
    return endless(R)


def leaves(R):
    sys.exit("bye")


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no picture")


def knotted(R):
    knot = []
    knot.append(knot)
    return knot


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (endless, "[!]"),
        (leaves, "[!]"),
        (lambda: 1, "[!]"),
        (lambda R, k: 1, "[!]"),
        (3, "[!]"),
        ("code", "[!]"),
        (lambda R: Unprintable(), "[!]"),
        (knotted, "[!]"),
        (lambda R: object(), "[x]"),
        (lambda R: 10**400, "[!]"),
        (lambda R: 1j, "[x]"),
        (lambda R: True, "[x]"),
        (type("T", (), {}), "[!]"),
    ],
)
def test_nothing_a_learner_writes_breaks_the_lesson(capsys, answer, state):
    returned, text = verdict(capsys, "L03.2", answer)
    assert returned is forgetting
    assert text.startswith(f"{state} L03.2 forgetting: ")
    assert text.isascii()
    assert "Traceback" not in text and "0x" not in text


def test_sys_exit_is_reported_and_the_stop_button_still_works(capsys):
    assert "your code raised SystemExit: bye" in verdict(capsys, "L03.2", leaves)[1]

    def stopped(R):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("L03.2", stopped)


def test_prints_are_swallowed_unless_debugging(capsys):
    def chatty(R):
        print("inside")
        raise ValueError("\u9057\u5fd8")

    _, text = verdict(capsys, "L03.2", chatty)
    assert "inside" not in text and "Traceback" not in text
    assert text.startswith("[!] L03.2 forgetting: your code raised ValueError: \\u9057\\u5fd8")
    _, text = verdict(capsys, "L03.2", chatty, debug=True)
    assert "inside" in text and "Traceback" in text and "[!] L03.2" in text


def test_inputs_are_copies_and_changing_them_is_noticed(capsys):
    def spoils(x):
        half = x / 2
        x.zero_()
        return half

    returned, text = verdict(capsys, "L03.3", spoils)
    assert returned is TOY["L03.3"].reference
    assert "the value is right, but your code changed its input" in text
    assert TOY["L03.3"].cases[0].args[0].tolist() == [1.0, 3.0]


def test_the_third_failure_points_at_the_solution_and_a_success_starts_over(capsys):
    texts = [verdict(capsys, "L03.2", answer)[1] for answer in (lambda R: 9.0, lambda R: R[7], lambda R: 9.0)]
    assert "Solution" not in texts[0] + texts[1]
    assert "    attempt 3: open the fold 'Solution L03.2' under the exercise\n" in texts[2]
    check("L03.2", None)
    check("L03.2", forgetting)
    capsys.readouterr()
    assert "Solution" not in verdict(capsys, "L03.2", lambda R: 9.0)[1]


@pytest.mark.parametrize("name", ["L3.2", "l03.2", "L03.9", "", 7, None])
def test_unknown_exercise_names_the_nearest(capsys, name):
    returned, text = verdict(capsys, name, 5)
    assert returned == 5
    assert text.startswith("There is no exercise ") and "L03.2" in text


def test_text_is_the_same_in_every_run(capsys):
    wrong = [lambda R: 0.0, lambda R: object(), lambda R: R[9], lambda R: np.array([1.0])]
    first = [verdict(capsys, "L03.2", answer)[1] for answer in wrong[:2]]
    module._failures.clear()
    assert first == [verdict(capsys, "L03.2", answer)[1] for answer in wrong[:2]]


def test_progress_remembers_successes_across_kernels(capsys, tmp_path):
    known = list(exercises())
    check("L03.2", None)
    assert not (tmp_path / "home").exists()  # a stub is no attempt
    remember(known[0], "v")
    remember(known[0], "x")
    remember(known[1], "!")
    assert json.loads((tmp_path / "home/progress.json").read_text()) == {known[0]: "v", known[1]: "x"}
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["progress.json"]
    progress()
    text = capsys.readouterr().out
    assert f"    [v] {known[0]} " in text and f"    [x] {known[1]} " in text and f"    [ ] {known[2]} " in text
    for number, (title, _) in lessons().items():
        assert f"Lesson {number} {title}: " in text


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"L03.2": ["v"], "L03.1": "maybe"}', "\x00"])
def test_a_damaged_progress_file_counts_as_empty(capsys, tmp_path, content):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/progress.json").write_text(content)
    progress()
    assert "[v]" not in capsys.readouterr().out
    check("L03.2", forgetting)
    assert json.loads((tmp_path / "home/progress.json").read_text()) == {"L03.2": "v"}


def test_a_place_that_cannot_be_written_costs_nothing(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CLLAB_HOME", str(tmp_path / "file"))
    assert verdict(capsys, "L03.2", forgetting)[1].startswith("[v]")
    progress()


def test_claim(capsys):
    claim("two beats one", np.float64(2) > 1)
    claim("a tensor counts", torch.tensor(2.0) > 1)
    assert capsys.readouterr().out == "[v] two beats one\n[v] a tensor counts\n"
    with pytest.raises(AssertionError, match=r"^\[x\] one beats two$"):
        claim("one beats two", 1 > 2)
    with pytest.raises(AssertionError):
        claim("nan beats one", float("nan") > 1)
    with pytest.raises(TypeError, match="condition must be one bool"):
        claim("many", torch.tensor([True, False]))
    with pytest.raises(TypeError, match="sentence"):
        claim("", True)


def test_setup_compares_versions_in_one_friendly_line(capsys):
    assert version_difference("0.1", "0.1.9") == "" == version_difference(None, "3.0")
    assert "checked with cllab 0.1 and 0.2.0 is installed" in version_difference("0.1", "0.2.0")
    number = next(iter(lessons()))
    setup(number)
    first = torch.rand(3), np.random.rand(3)
    setup(number)
    assert torch.equal(first[0], torch.rand(3)) and (first[1] == np.random.rand(3)).all()
    assert f"Lesson {number}, {lessons()[number][0]}." in capsys.readouterr().out
    with pytest.raises(ValueError, match="lesson must be one of"):
        setup("99")
