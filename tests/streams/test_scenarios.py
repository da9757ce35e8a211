"""Streams: every construction against what it promises, and every way to ask for nonsense."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cllab.streams import (
    Dataset,
    Stream,
    Task,
    blurry,
    digits,
    online,
    permuted,
    points,
    rotate,
    rotated,
    split,
)


@pytest.fixture(scope="module")
def data():
    return digits()


def tiny(n_classes=10, per_class=1000):
    """A data set whose single feature is the row's own number, so that rows can be recognised."""
    y = torch.arange(n_classes).repeat_interleave(per_class)
    x = torch.arange(len(y), dtype=torch.float32)[:, None]
    return Dataset(x, y, x, y, "tiny", (1,))


def test_split_covers_the_data_once(data):
    stream = split(data, 2)
    rows = torch.cat([task.x for task in stream])
    assert len(rows) == len(data.x)
    assert torch.equal(rows.sort(dim=0).values, data.x.sort(dim=0).values)
    assert [task.classes for task in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    for task in stream:
        assert set(task.y.tolist()) == set(task.classes) == set(task.y_test.tolist())


def test_one_data_set_three_scenarios(data):
    assert {s: split(data, 2, s).n_classes for s in ("task", "domain", "class")} == {
        "task": 10, "domain": 2, "class": 10,
    }  # fmt: skip
    domain = split(data, 2, "domain")
    original = split(data, 2, "class")
    for a, b in zip(domain, original, strict=True):
        assert torch.equal(a.y, b.y % 2)


@pytest.mark.parametrize(
    ("scenario", "task", "seen", "expected"),
    [
        ("task", 1, 3, [2, 3]), ("class", 1, 3, list(range(8))), ("class", 4, 1, list(range(10))),
        ("class", 0, 0, [0, 1]), ("domain", 1, 3, [0, 1]),
    ],
)  # fmt: skip
def test_allowed_classes(data, scenario, task, seen, expected):
    assert split(data, 2, scenario).allowed(task, seen).nonzero().flatten().tolist() == expected


def test_sizes_groups_and_orders(data):
    assert [t.classes for t in split(data, [4, 6])] == [(0, 1, 2, 3), (4, 5, 6, 7, 8, 9)]
    assert split(data, [[9, 0], [1, 2, 3, 4, 5, 6, 7, 8]])[0].classes == (9, 0)
    assert split(data, 5, class_order=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0])[0].classes == (9, 8, 7, 6, 5)
    even_odd = split(
        data, 2, "domain", labels={c: c % 2 for c in range(10)}, class_order=[0, 3, 2, 1, 4, 5, 6, 7, 8, 9]
    )
    assert even_odd[0].classes == (0, 1) and even_odd.n_classes == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"classes_per_task": 3}, "classes_per_task"),
        ({"classes_per_task": 0}, "classes_per_task"),
        ({"classes_per_task": [5, 4]}, "classes_per_task"),
        ({"classes_per_task": [[0, 1], [], list(range(2, 10))]}, "empty group"),
        ({"classes_per_task": [[0, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9]]}, "once"),
        ({"classes_per_task": [[0, 1], [2, 3]]}, "cover"),
        ({"classes_per_task": [[0, 11], list(range(1, 10))]}, "cover"),
        ({"classes_per_task": 2, "scenario": "online"}, "scenario"),
        ({"classes_per_task": 2, "labels": {c: c % 2 for c in range(10)}}, "labels"),
        ({"classes_per_task": 2, "labels": {0: 0}}, "labels"),
        ({"classes_per_task": 2, "scenario": "domain", "labels": dict.fromkeys(range(10), 0)}, "labels"),
        ({"classes_per_task": 2, "class_order": [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]}, "class_order"),
    ],
)
def test_split_refuses(data, arguments, named):
    with pytest.raises(ValueError, match=named):
        split(data, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"classes_per_task": 2.0}, TypeError, "classes_per_task"),
        ({"classes_per_task": None}, TypeError, "classes_per_task"),
        ({"classes_per_task": [[0, 1], [2, "a"]]}, TypeError, "classes_per_task"),
        ({"classes_per_task": [[0, 1.0], [2, 3]]}, TypeError, "classes_per_task"),
        ({"classes_per_task": ["01", "23"]}, TypeError, "classes_per_task"),
        ({"class_order": 5}, TypeError, "class_order"),
        ({"class_order": [None] * 4}, TypeError, "class_order"),
        ({"class_order": [3.0, 2.0, 1.0, 0.0]}, TypeError, "class_order"),
        ({"class_order": torch.tensor([3.0, 2.0, 1.0, 0.0])}, TypeError, "class_order"),
        ({"classes_per_task": [[0, 1], [2, 3]], "class_order": [3, 2, 1, 0]}, ValueError, "class_order"),
        ({"labels": [0, 1, 2, 3]}, TypeError, "labels"),
        ({"labels": {0: 0, 1: 1, 2: 2, 3: 3, -5: 9}}, ValueError, "labels"),
        ({"labels": {"a": 0}}, TypeError, "labels"),
        ({"labels": {0: 0, 1: 1, 2: 2, 3: 10**30}}, ValueError, "labels"),
        ({"labels": 5}, TypeError, "labels"),
        ({"labels": "abcd"}, TypeError, "labels"),
        ({"labels": {0: 0, 1: 1, 2: 2, 3: 3.0}}, TypeError, "labels"),
    ],
)
def test_split_names_the_argument(arguments, error, named):
    with pytest.raises(error, match=f"^{named} "):
        split(tiny(4, 3), **{"classes_per_task": 2, **arguments})


def test_a_class_order_may_be_a_tensor():
    assert split(tiny(4, 3), 2, class_order=torch.tensor([3, 1, 0, 2]))[0].classes == (3, 1)


def test_labels_of_other_classes_do_not_matter():
    stream = split(tiny(4, 3), 2, "domain", labels={9: 0, 0: 1, 1: 0, 2: 0, 3: 1})
    assert stream[0].y.tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: split(None, 2), TypeError, "dataset"), (lambda: permuted(None, 2), TypeError, "dataset"),
        (lambda: rotated(None, 2), TypeError, "dataset"), (lambda: blurry(None, 2, 0.1), TypeError, "dataset"),
        (lambda: online(None), TypeError, "stream"), (lambda: online(tiny(4, 3)), TypeError, "stream"),
        (lambda: rotated(points(n=3), 2, angles=5), ValueError, "angles"),
        (lambda: rotated(points(n=3), 2, angles=["a", "b"]), TypeError, "angles"),
        (lambda: rotate(None, 5, (2,)), TypeError, "x"), (lambda: rotate(torch.ones(2), 5, (2,)), ValueError, "x"),
        (lambda: rotate(torch.ones(3, 2), math.nan, (2,)), ValueError, "angle"),
        (lambda: rotate(torch.ones(3, 2), None, (2,)), TypeError, "angle"),
        (lambda: rotate(torch.ones(3, 2), 5, None), TypeError, "shape"),
        (lambda: rotate(torch.ones(3, 2), 5, (1, 8, 8)), ValueError, "shape"),
    ],
)  # fmt: skip
def test_constructions_name_the_argument(make, error, named):
    with pytest.raises(error, match=f"^{named} "):
        make()


ROWS, LABELS = torch.zeros(3, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: Task(ROWS, LABELS, ROWS, LABELS, (0, 1, -1)), ValueError, "classes"),
        (lambda: Task(ROWS, LABELS, ROWS, LABELS, (0.0, 1.0)), TypeError, "classes"),
        (lambda: Task(ROWS, LABELS, ROWS, LABELS, (False, True)), TypeError, "classes"),
        (lambda: Task(ROWS, LABELS, ROWS, LABELS, (0, 1, 10**30)), ValueError, "classes"),
        (lambda: Task(ROWS, LABELS, ROWS, LABELS, None), TypeError, "classes"),
        (lambda: Task(ROWS, LABELS, ROWS, LABELS, 2), TypeError, "classes"),
        (lambda: Task(ROWS, LABELS, ROWS, LABELS, torch.tensor([0.0, 1.0])), TypeError, "classes"),
        (lambda: Task(torch.tensor(1.0), LABELS, ROWS, LABELS, (0, 1)), ValueError, "x"),
        (lambda: Stream(None, "class", 2), TypeError, "tasks"), (lambda: Stream([1], "class", 2), TypeError, ".*tasks"),
        (lambda: Stream(Task(ROWS, LABELS, ROWS, LABELS, (0, 1)), "class", 2), TypeError, "tasks"),
    ],
)  # fmt: skip
def test_tasks_and_streams_name_the_argument(make, error, named):
    with pytest.raises(error, match=f"^{named} "):
        make()


def test_permutations_can_be_undone_and_differ(data):
    stream = permuted(data, 3)
    assert torch.equal(stream[0].x, data.x)
    for task in list(stream)[1:]:
        assert not torch.equal(task.x, data.x)
        assert torch.equal(task.x.sort(dim=1).values, data.x.sort(dim=1).values)
    assert not torch.equal(stream[1].x, stream[2].x)
    assert not torch.equal(stream[1].x, permuted(data, 3, seed=1)[1].x)
    # train and test rows share the permutation: recover it from distinct values and undo it
    marked = Dataset(
        torch.arange(64.0)[None], torch.tensor([0]), torch.arange(64.0)[None], torch.tensor([0]), "m", (64,)
    )
    task = permuted(marked, 2)[1]
    order = task.x[0].long()
    assert torch.equal(task.x_test[0][order.argsort()], torch.arange(64.0))


def test_rotation_of_points_is_exact():
    turned = rotate(torch.tensor([[1.0, 0.0]], dtype=torch.float64), 30, (2,))
    assert torch.allclose(turned, torch.tensor([[math.sqrt(3) / 2, 0.5]], dtype=torch.float64), atol=1e-12)
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = rotate(x, 77, (2,))
    assert torch.allclose(x @ x.T, y @ y.T)


def test_rotation_of_images_turns_counter_clockwise():
    image = torch.zeros(8, 8)
    image[3:5, 6] = 1.0  # right of the centre
    turned = rotate(image.reshape(1, 64), 90, (1, 8, 8)).view(8, 8)
    assert torch.allclose(turned, torch.rot90(image), atol=1e-6)
    assert torch.allclose(rotate(image.reshape(1, 64), 0, (1, 8, 8)).view(8, 8), image, atol=1e-6)


def test_rotated_streams_keep_labels(data):
    stream = rotated(points("moons"), 4, max_angle=180)
    assert stream.task_names == ["0 degrees", "45 degrees", "90 degrees", "135 degrees"]
    assert stream.n_classes == 2
    assert rotated(data, 3, "class").n_classes == 30
    assert rotated(data, 2, "task").allowed(1, 1).nonzero().flatten().tolist() == list(range(10, 20))


@pytest.mark.parametrize(("mix", "own", "borrowed"), [(0.1, 1800, 50), (0.3, 1400, 150), (0.0, 2000, 0), (1.0, 0, 500)])
def test_blurry_counts(mix, own, borrowed):
    stream = blurry(tiny(), 5, mix)
    for i, task in enumerate(stream):
        counts = [int(((task.y // 2) == j).sum()) for j in range(5)]
        assert counts == [own if j == i else borrowed for j in range(5)]
        assert set(task.y_test.tolist()) == {2 * i, 2 * i + 1}
    rows = torch.cat([task.x.flatten() for task in stream])
    assert torch.equal(rows.sort().values, torch.arange(10_000.0))  # nobody twice, nobody lost


@given(
    st.integers(2, 5), st.integers(1, 3), st.integers(5, 12), st.floats(0, 1),
    st.sampled_from(["task", "domain", "class"]),
)  # fmt: skip
def test_blurry_only_moves_rows(n_tasks, classes_per_task, per_class, mix, scenario):
    data = tiny(n_tasks * classes_per_task, per_class)
    stream = blurry(data, n_tasks, mix, scenario)
    assert torch.equal(torch.cat([task.x for task in stream]).sort(dim=0).values, data.x)
    lent = math.floor(mix * classes_per_task * per_class / (n_tasks - 1) + 1e-9)
    assert {len(task.y) for task in stream} == {classes_per_task * per_class}
    for i, task in enumerate(stream):
        owner = (task.x.flatten() / (classes_per_task * per_class)).floor().long()
        counts = owner.bincount(minlength=n_tasks).tolist()
        assert counts[:i] + counts[i + 1 :] == [lent] * (n_tasks - 1)


@pytest.mark.parametrize("mix", [-0.1, 1.1, float("nan")])
def test_blurry_refuses_a_share_outside_0_1(data, mix):
    with pytest.raises(ValueError, match="mix"):
        blurry(data, 5, mix)


@pytest.mark.parametrize("make", [lambda d: permuted(d, 0), lambda d: rotated(d, 0), lambda d: blurry(d, 0, 0.1)])
def test_no_tasks_is_refused(data, make):
    with pytest.raises(ValueError, match="n_tasks"):
        make(data)


def test_blurry_refuses_uneven_classes(data):
    with pytest.raises(ValueError, match="n_tasks"):
        blurry(data, 3, 0.1)


def test_rotated_refuses_wrong_angles(data):
    with pytest.raises(ValueError, match="angles"):
        rotated(data, 3, angles=[0, 1])
    with pytest.raises(ValueError, match="angles"):
        rotated(data, 1, angles=[float("nan")])


def test_online_marks_the_stream(data):
    assert online(split(data, 2)).online and not split(data, 2).online


def test_streams_refuse_what_cannot_be_learned():
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="outside its classes"):
        Task(x, y, x, y, (0,))
    with pytest.raises(ValueError, match="classes"):
        Task(x, y, x, y, (0, 0, 1))
    with pytest.raises(ValueError, match="one label per row"):
        Task(x, y[:2], x, y, (0, 1))
    with pytest.raises(ValueError, match="finite"):
        Task(x * float("nan"), y, x, y, (0, 1))
    with pytest.raises(TypeError, match="int64"):
        Task(x, y.float(), x, y, (0, 1))
    with pytest.raises(ValueError, match="empty"):
        Task(x[:0], y[:0], x, y, (0, 1))
    good = Task(x, y, x, y, (0, 1))
    with pytest.raises(ValueError, match="tasks"):
        Stream((), "class", 2)
    with pytest.raises(ValueError, match="n_classes"):
        Stream((good,), "class", 1)
    with pytest.raises(ValueError, match="shape"):
        Stream((good, Task(torch.zeros(3, 3), y, torch.zeros(3, 3), y, (0, 1))), "class", 2)
    for wrong in (-1, 1):
        with pytest.raises(ValueError, match="task"):
            Stream((good,), "class", 2).allowed(wrong, 0)


@given(st.integers(1, 5), st.sampled_from(["task", "domain", "class"]))
def test_a_row_may_always_use_its_own_class(n_tasks, scenario):
    stream = blurry(tiny(5 * 4 * 3, 2), n_tasks, 0.0, scenario)
    for i, task in enumerate(stream):
        for seen in range(n_tasks):
            assert stream.allowed(i, seen)[task.y].all()


def test_a_class_that_was_not_drawn_for_training_may_still_be_tested():
    few = digits().take(12)
    assert len(few.y.unique()) < 10
    for stream in (permuted(few, 2), rotated(few, 2), split(few, 5)):
        assert stream.n_classes == 10
