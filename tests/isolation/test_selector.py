"""Choosing the task of a row: arithmetic by hand, order of learning, and what a wrong choice costs."""

import pytest
import torch

from cllab.device import generator
from cllab.isolation import TaskHeads, TaskSelector, nearest_centroid, routed_accuracy
from cllab.models import MLP
from cllab.streams import digits, points, split
from cllab.training import Phase, fit, predict, run

X = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
Y = torch.tensor([0, 0, 1, 1])


def test_the_price_of_a_wrong_choice():
    assert routed_accuracy(0.9, 0.95, 0.3) == pytest.approx(0.885, abs=1e-12)
    assert routed_accuracy(1, 0.95, 0.3) == 0.95
    with pytest.raises(ValueError, match="rho must be finite and between 0"):
        routed_accuracy(1.1, 0.9, 0.3)


def test_nearest_centroid_against_a_loop():
    phi, mu = torch.randn(20, 3, generator=generator(0)), torch.randn(5, 3, generator=generator(1))
    slow = [min(range(5), key=lambda m: float((row - mu[m]).norm())) for row in phi]
    assert nearest_centroid(phi, mu).tolist() == slow
    with pytest.raises(ValueError, match="mu must have the 3 features"):
        nearest_centroid(phi, mu[:, :2])


def test_a_centroid_for_each_class_by_hand():
    selector = TaskSelector("centroid")
    selector.learn(4, X, Y)
    assert selector.mu[0].tolist() == [[0.0, 1.0], [10.0, 1.0]]
    selector.learn(9, torch.tensor([[5.0, 1.0]]), torch.tensor([2]))
    # one mean for the whole of task 4 would lie at (5, 1), on task 9
    assert selector.choose(torch.tensor([[1.0, 1.0], [9.0, 1.0], [5.0, 2.0]])).tolist() == [4, 4, 9]


def test_learning_more_tasks_moves_no_centroid():
    selector = TaskSelector("centroid")
    selector.learn(0, X, Y)
    before = selector.mu[0].clone()
    selector.learn(1, X + 100, Y)
    assert torch.equal(selector.mu[0], before)


def test_a_router_without_kept_rows_forgets_and_with_them_does_not():
    rows = [torch.randn(50, 4, generator=generator(t)) + 4 * torch.eye(4)[t] for t in range(3)]
    accuracy = {}
    for keep in (0, 20):
        selector = TaskSelector("router", keep=keep)
        for task, x in enumerate(rows):
            selector.learn(task, x, torch.zeros(50, dtype=torch.int64), generator=generator(9))
        accuracy[keep] = (selector.choose(rows[0]) == 0).double().mean().item()
    assert accuracy[0] < 0.5 < 0.9 < accuracy[20]


def test_an_oracle_is_told():
    selector = TaskSelector("oracle")
    selector.learn(3, X, Y)
    assert selector.choose(X, task_id=3).tolist() == [3] * 4
    for told in (None, 0):
        with pytest.raises(ValueError, match=r"one of \[3\] for an oracle"):
            selector.choose(X, task_id=told)


def test_bad_input_is_named():
    selector = TaskSelector()
    with pytest.raises(ValueError, match="learn a task before"):
        selector.choose(X)
    selector.learn(0, X, Y)
    with pytest.raises(ValueError, match="0 has been learned already"):
        selector.learn(0, X, Y)
    with pytest.raises(ValueError, match="x must be finite"):
        selector.learn(1, X * torch.nan, Y)
    with pytest.raises(ValueError, match="y must have one label per row"):
        selector.learn(1, X, Y[:2])
    with pytest.raises(TypeError, match="model must have features"):
        TaskSelector(features="base").learn(0, X, Y)
    with pytest.raises(ValueError, match="kind must be one of"):
        TaskSelector("nearest")
    with pytest.raises(TypeError, match="generator must be"):
        TaskSelector("router").learn(0, X, Y, generator=3)
    for kind in ("centroid", "router"):
        wide = TaskSelector(kind)
        wide.learn(0, X, Y)
        for call in (lambda wide=wide: wide.learn(1, X[:, :1], Y), lambda wide=wide: wide.choose(X[:, :1])):
            with pytest.raises(ValueError, match="x must give 2 features"):
                call()
        assert wide.tasks == [0] and wide.choose(X).tolist() == [0] * 4
    assert selector.tasks == [0]


def test_state_goes_round_and_is_counted():
    kept = TaskSelector("router", keep=2)
    kept.learn(0, X, Y, generator=generator(0))
    kept.learn(5, X + 20, Y, generator=generator(0))
    again = TaskSelector("router", keep=2)
    again.load_state_dict(kept.state_dict())
    assert again.choose(X + 20).tolist() == kept.choose(X + 20).tolist() == [5] * 4
    assert kept.nbytes == 4 * (2 * 2 * 2 + 2 * 2 + 2)  # kept rows, W, b: float32


def test_routing_is_reported_beside_the_accuracies():
    stream = split(points("clusters"), 2, scenario="class")
    method = TaskHeads(selector=TaskSelector())
    model = MLP(2, [16], stream.n_classes)
    reports = [e.info for e in fit(model, stream, [method], epochs=5, lr=0.01) if isinstance(e, Phase)]
    rho, right, routed = reports[-1].values()
    assert list(reports[-1]) == ["routing accuracy", "accuracy, right part", "accuracy, routed"]
    assert len(rho) == len(stream) and all(r <= min(a, b) + 1e-9 for r, a, b in zip(routed, right, rho, strict=True))
    x, y = stream[0].x_test, stream[0].y_test
    answers = predict(model, x, stream, seen=len(stream) - 1, methods=[method])
    assert (answers == y).double().mean().item() == pytest.approx(routed[0])


def test_without_a_task_number_a_selector_is_needed():
    stream = split(points("clusters"), 2, scenario="class")
    with pytest.raises(ValueError, match="give it a selector"):
        run(MLP(2, [4], stream.n_classes), stream, [TaskHeads()])
    with pytest.raises(ValueError, match="must not be an oracle"):
        run(MLP(2, [4], stream.n_classes), stream, [TaskHeads(TaskSelector("oracle"))])
    with pytest.raises(ValueError, match="no frozen base"):
        run(MLP(2, [4], stream.n_classes), stream, [TaskHeads(TaskSelector(features="base"))])


def test_a_selector_makes_heads_answer_class_incrementally():
    stream = split(digits(), 2, scenario="class")
    for seed in range(2):
        scores = []
        for methods in ([TaskHeads(TaskSelector())], []):
            history = run(MLP(64, [32], 10, seed=seed), stream, methods, epochs=3, seed=seed)
            scores.append(history.metrics()["average_accuracy"])
        assert scores[0] > scores[1] + 0.3
