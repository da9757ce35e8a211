"""History: the accuracy matrix, the summary, and a file that gives every bit back."""

import json

import numpy as np
import pytest

from cllab.models import MLP
from cllab.streams import points, split
from cllab.training import Evaluated, History, Step, TaskEnded, fit, run


def finished():
    history = History(["A", "B", "C"])
    history.record(Evaluated(-1, (0.10, 0.22, 0.30)))
    history.record(Evaluated(0, (0.5, 0.1, 0.1), 1))  # during the task: the later one counts
    for i, row in enumerate([(0.80, 0.30, 0.40), (0.90, 0.70, 0.35), (0.70, 0.75, 0.92)]):
        history.record(Evaluated(i, row, 10 * (i + 1)))
        history.record(TaskEnded(i))
    history.record(Step(0, 1, {"task": 0.1 + 0.2}, {"replayed": 3}))
    return history


def test_summary_of_the_worked_example():
    assert finished().metrics() == pytest.approx(
        {"average_accuracy": 0.79, "average_incremental_accuracy": 2.39 / 3, "backward_transfer": -0.025,
         "forgetting": 0.075, "forward_transfer": 0.065}
    )  # fmt: skip
    assert finished().baseline.tolist() == [0.10, 0.22, 0.30]


def test_unfinished_runs_show_nan_and_have_no_summary():
    stream = split(points(n=20), 2)
    events = fit(MLP(2, [4], 4), stream)
    history = History(stream.task_names)
    for _ in range(4):
        history.record(next(events))
    assert np.isnan(history.accuracy[1]).all() and np.isfinite(history.baseline).all()
    with pytest.raises(ValueError, match="finished run"):
        history.metrics()


def test_files_keep_every_bit(tmp_path):
    path = tmp_path / "history.json"
    history = run(MLP(2, [4], 4), split(points(n=20), 2), eval_every=1)
    history.save(path)
    again = History.load(path)
    assert again.curve == history.curve and again.losses == history.losses
    assert again.settings == json.loads(json.dumps(history.settings)) and again.task_names == history.task_names
    assert np.array_equal(again.accuracy, history.accuracy)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"format": 1}',
     '{"format": 1, "task_names": ["a"], "settings": {}, "ended": 0, "curve": [[0, 1, ["high"]]], "losses": []}',
     '{"format": 1, "task_names": ["a"], "settings": {}, "ended": 0, "curve": [[7, 1, [0.5]]], "losses": []}',
     '{"format": 1, "task_names": ["a"], "settings": {}, "ended": 0, "curve": [], "losses": [[0, 1]]}',
     '{"format": 1, "task_names": ["a"], "settings": {}, "ended": 9, "curve": [], "losses": []}',
     '{"format": 9, "task_names": [], "settings": {}, "curve": [], "losses": []}',
     '{"format": 1, "task_names": ["a"], "settings": {}, "ended": 0, "curve": [[0, 1, [0.5, 0.5]]], "losses": []}',
     '{"format": 1, "task_names": ["a"], "settings": {}, "ended": 0, "curve": [[0, 1, [50]]], "losses": []}'],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "history.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="not a History"):
        History.load(path)


def test_a_run_stopped_in_its_last_task_is_not_finished():
    stream = split(points(n=20), 2)
    history = History(stream.task_names)
    for event in fit(MLP(2, [4], 4), stream, eval_every=1, batch_size=10):
        history.record(event)
        if isinstance(event, Evaluated) and event.task == 1:
            break
    assert np.isfinite(history.accuracy[0]).all() and np.isnan(history.accuracy[1]).all()
    with pytest.raises(ValueError, match="finished run"):
        history.metrics()


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "history.json"
    path.write_bytes(bytes([0xFF, 0xFE, 0x00, 0x80]))
    with pytest.raises(ValueError, match="not a History"):
        History.load(path)
