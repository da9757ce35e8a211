"""The distillation page: what it computes, and what it shows, with AppTest."""

import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from streamlit.testing.v1 import AppTest

from cllab.player import validate_trace
from labs import distillation_numbers as numbers
from labs import distillation_real as real
from labs import distillation_views
from tests.tools.pages import given_to_players, open_lab_page, press, shown

# --- what is computed ------------------------------------------------------------------------------------

MASK = torch.tensor(numbers.TRUE_MASK)


def by_name(mask=MASK, T: float = 2.0, padding: int = 0) -> dict[str, float]:
    return {one.name: one.value for one in numbers.reductions(mask, T, padding)}


def test_tokens_of_the_course():
    expected = [[0.106881, 0.120855, 0.109372], [0.118541, 0.098720, 0.097185]]
    assert numbers.token_kl(2.0).tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
    found = by_name()
    wanted = {"masked mean": 0.115426, "no mask": 0.108592, "batchmean": 0.325777, "mean": 0.036197}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert found["sum / all tokens"] == pytest.approx(0.346277 / 6, abs=1e-6)


@pytest.mark.parametrize("padding", [0, 4])
def test_the_wrong_reductions_are_those_of_torch(padding):
    student, teacher = numbers.tokens(padding)
    log_p, q = (student / 2).log_softmax(-1), (teacher / 2).softmax(-1)
    found = by_name(padding=padding)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of "mean", which is the point
        for reduction in ("batchmean", "mean"):
            assert found[reduction] == pytest.approx(float(F.kl_div(log_p, q, reduction=reduction)), abs=1e-12)


def test_only_the_masked_mean_is_indifferent_to_padding():
    before, after = by_name(), by_name(padding=5)
    assert [name for name in before if before[name] == pytest.approx(after[name], abs=1e-12)] == ["masked mean"]
    assert by_name(torch.ones(2, 3, dtype=torch.bool))["masked mean"] == pytest.approx(before["no mask"])
    with pytest.raises(ValueError, match="at least one"):
        numbers.reductions(torch.zeros(2, 3, dtype=torch.bool), 2.0)


def test_80_18_2_is_two_teachers():
    z, rows = numbers.readings([0.8, 0.18, 0.02], 2, (1, 2))
    assert z == pytest.approx([7.377759, 4.394449, 0], abs=1e-6)
    assert [round(100 * value, 2) for value in rows[0]] == [95.12, 4.82, 0.06]
    z, rows = numbers.readings([0.8, 0.18, 0.02], 1, (1, 2))
    assert z == pytest.approx([3.688879, 2.197225, 0], abs=1e-6)
    assert rows[0] == pytest.approx([0.8, 0.18, 0.02]) and [round(100 * v, 2) for v in rows[1]] == [61.26, 29.06, 9.69]


def test_logits_as_they_are_typed():
    assert numbers.logits("teacher", " 4, −2.5;1e1 ") == numbers.logits("teacher", "4，−2.5、10") == [4.0, -2.5, 10.0]


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "are empty"), (" , ", "are empty"), ("1, nan", "`nan`, which is not finite"),
     ("inf, 1", "`inf`, which is not finite"), ("1, cat", "`cat`, which is not a number"), ("3", "has 1 logit"),
     ("1,2,3,4,5,6,7", "has 7 logits"), ("1, 51", "out of range")],
)  # fmt: skip
def test_wrong_logits_get_a_sentence(text, named):
    with pytest.raises(ValueError, match=named) as raised:
        numbers.logits("student", text)
    assert "student" in str(raised.value) and str(raised.value).endswith(".")


def test_the_committed_traces_are_what_training_gives():
    kept = real.committed()
    assert set(kept) == {real.settings_key(T) for T in real.TEMPERATURES}
    old, new = kept[real.settings_key(2)], real.trained(2, frames=6)
    assert old["panels"] == new["panels"] and len(new["steps"]) > 4
    assert [step["x"] for step in new["steps"]] == [step["x"] for step in old["steps"]][: len(new["steps"])]
    for a, b in zip(old["charts"], new["charts"], strict=True):
        for one, two in zip(a["lines"], b["lines"], strict=True):
            assert two["values"] == pytest.approx(one["values"][: len(two["values"])], abs=0.02)


@pytest.mark.parametrize("T", real.TEMPERATURES)
def test_lwf_stays_with_the_real_teacher_and_fine_tuning_leaves_it(T):
    trace = validate_trace(real.committed()[real.settings_key(T)])
    (lwf, plain), (kept, lost) = ([line["values"] for line in chart["lines"]] for chart in trace["charts"])
    assert lwf[0] == plain[0] == 0 and 20 * lwf[-1] < plain[-1]
    assert kept[-1] > lost[-1] + 0.2
    table = real.soft_targets(trace)
    first = [float(cell.split(": ")[1].split("%")[0]) for cell in table[1]]
    assert len(table) == 4 and first == sorted(first, reverse=True)  # the likeliest answer falls with T
    assert len({cell.split(":")[0] for cell in table[1]}) == 1  # and stays the likeliest


# --- what is shown ---------------------------------------------------------------------------------------

distillation_page = functools.partial(open_lab_page, "distillation")


def trace_of(app: AppTest) -> dict | None:
    found = given_to_players(app)
    return found[0]["trace"] if found else None


def test_presets_show_what_they_say():
    app = distillation_page()
    assert trace_of(app)["steps"][0]["x"] == 0.25 and "61.26 / 29.06 / 9.69" in shown(app)
    press(app, "A worked example")
    assert "| KL(q‖p) | 0.170640 | 0.682559 | (−0.563178, 0.277847, 0.285332) |" in shown(app)
    assert "| CE(q, p) | 1.003035 | 4.012141 | (−0.563178, 0.277847, 0.285332) |" in shown(app)
    press(app, "Too sure")
    assert trace_of(app)["steps"][8]["panels"][0]["values"][0][0] > 0.9999
    press(app, "Follow, with T² and without")
    assert "| T = 8, with T² | 8 |" in shown(app) and "| T = 8, without T² | not in 60 |" in shown(app)
    press(app, "Masked tokens")
    assert "| batchmean = 0.651554 / 2 sentences | 0.325777 | × 2.822 |" in shown(app) and trace_of(app) is None
    press(app, "Longer batch")
    assert "| **masked mean** = 0.346277 / 3 kept | **0.115426** | right |" in shown(app)
    assert "2² × 0.115426 = **0.461702**" in shown(app) and "| padding 6 |" in shown(app)
    press(app, "A real teacher")
    assert trace_of(app)["series"] == ["teacher q", "LwF", "fine-tuning"] and "| a 8 |" in shown(app)


def test_wrong_logits_leave_the_last_good_picture():
    app = distillation_page()
    app.text_input(key="dist_teacher").set_value("1, nan, 0").run()
    assert "`nan`, which is not finite" in app.error[0].value and "[7.377759, 4.394449, 0.0]" in app.error[0].value
    assert trace_of(app)["steps"][0]["panels"][0]["logits"][0] == [7.377759, 4.394449, 0]
    app.text_input(key="dist_teacher").set_value("1, 2").run()
    assert "The teacher has 2 logits and the student 3" in app.error[0].value
    app.text_input(key="dist_student").set_value("3, 2").run()
    assert not app.error and trace_of(app)["classes"] == ["cat", "lion"]
    app.text_input(key="dist_student").set_value("").run()
    assert "are empty" in app.error[0].value and "[3.0, 2.0]" in app.error[0].value and not app.exception


def test_the_question_is_answered_by_moving_T():
    app = distillation_page()
    press(app, "Which T is 80/18/2?")
    assert trace_of(app) is None and "95.12" not in shown(app)
    app.button_group[-1].set_value("T = 1").run()
    assert "It could be" in shown(app) and trace_of(app)["panels"][0]["target"] == [0.8, 0.18, 0.02]
    press(app, "This is my T")
    assert "At T = 0.25 they say 100.00 / 0.00 / 0.00. That is too sure" in shown(app)
    app.select_slider(key="dist_T").set_value(2.0).run()
    press(app, "This is my T")
    assert "Right: at T = 2" in shown(app)
    assert "95.12 / 4.82 / 0.06" in shown(app) and "3.688879, 2.197225, 0.000000" in shown(app)


def test_other_settings_train_in_the_background(monkeypatch):
    monkeypatch.setattr(real, "EPOCHS", 1)
    app = distillation_page(dist_view="A real teacher", dist_seed="999")
    assert trace_of(app) is None and "Training the network twice" in app.get("progress")[0].proto.text
    job = app.session_state["dist.job"]
    while not job.ended:
        job.poll()  # as a browser would
        job.thread.join(0.1)
    app.run()
    assert trace_of(app) == job.result and not app.get("progress") and not app.exception
    assert job.items == sorted(job.items) and 0 < job.items[0] < job.items[-1] <= 1
    distillation_views.finished_trainings.clear()


@pytest.mark.parametrize(
    "address",
    [
        {"dist_T": "50", "dist_teacher": "50, -50", "dist_student": "-50, 50"},
        {"dist_T": "0.25", "dist_teacher": "0, 0, 0, 0, 0, 0", "dist_student": "0, 0, 0, 0, 0, 0"},
        {"dist_view": "Follow the teacher", "dist_follow_T": "50", "dist_rate": "2.0",
         "dist_student": "7.377759, 4.394449, 0"},
        {"dist_view": "Masked tokens", "dist_padding": "6", "dist_token_T": "4"},
    ],
)  # fmt: skip
def test_every_slider_at_its_end(address):
    app = distillation_page(**address)
    assert not app.warning and not app.error and "nan" not in shown(app).lower()


def test_no_word_counts():
    app = distillation_page(dist_view="Masked tokens")
    for group in [group for group in app.button_group if group.key in ("dist_first", "dist_second")]:
        group.set_value([])
    app.run()
    assert "let one word count" in app.error[0].value and not app.exception


@pytest.mark.parametrize(
    ("key", "value"),
    [("dist_T", "0"), ("dist_T", "nan"), ("dist_teacher", "nan,1"), ("dist_student", "inf,1,2"), ("dist_view", "x"),
     ("dist_colour", "red")],
)  # fmt: skip
def test_a_wrong_address_gets_a_sentence_and_defaults(key, value):
    app = distillation_page(**{key: value})
    assert any(key in warning.value for warning in app.warning)
    assert trace_of(app)["steps"][0]["panels"][0]["logits"] == [[7.377759, 4.394449, 0], [1, 1, 0]]
