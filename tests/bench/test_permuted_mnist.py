"""Permuted MNIST by GEM's protocol: what the tasks are, that every line runs, how it is judged."""

import argparse

import pytest
import torch

from cllab.bench import permuted_mnist
from cllab.bench.permuted_mnist import LINES, one_run, permutations
from cllab.bench.report import Row
from cllab.streams import digits

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(permuted_mnist, "TASKS", 3)
    monkeypatch.setattr(permuted_mnist, "ROWS", 30)
    return digits()


def test_every_task_has_an_order_and_rows_of_its_own(small):
    stream = permutations(small, seed=0)
    assert len(stream) == 3 and stream.scenario == "domain" and all(len(task.y) == 30 for task in stream)
    for task in stream:
        assert torch.equal(task.x_test.sort(dim=1).values, small.x_test.sort(dim=1).values)
        assert torch.equal(task.y_test, small.y_test)
    assert not torch.equal(stream[0].x_test, stream[1].x_test) and not torch.equal(stream[0].y, stream[1].y)
    again, other = permutations(small, seed=0), permutations(small, seed=1)
    assert torch.equal(again[2].x, stream[2].x) and not torch.equal(other[2].x, stream[2].x)
    # train and test rows are shuffled alike: an image that stands in both looks the same
    order = [stream[1].x_test[:, j] for j in range(3)]
    columns = [next(k for k in range(64) if torch.equal(small.x_test[:, k], column)) for column in order]
    rows = {tuple(row.tolist()) for row in small.x[:, columns]}
    assert all(tuple(row.tolist()) in rows for row in stream[1].x[:, :3])


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_every_line_runs(small, name):
    assert 0 <= one_run(permutations(small, 0), LINES[name].methods(), 0, CPU) <= 1


def test_bands_and_the_lead_decide(monkeypatch):
    monkeypatch.setattr(permuted_mnist, "mnist", lambda root: digits())
    parser = argparse.ArgumentParser()
    permuted_mnist.add_arguments(parser)
    scores = {"GEM": 0.5, "A-GEM": 0.6}

    def line(name, data, seeds, device):
        return Row(name, scores.get(name, 0.5), "", "", True)

    monkeypatch.setattr(permuted_mnist, "line", line)
    rows = permuted_mnist.measure(parser.parse_args([]), CPU)
    assert rows[-1].value == pytest.approx(-0.1) and not rows[-1].met and len(rows) == len(LINES) + 1
    scores["GEM"] = 0.7
    assert permuted_mnist.measure(parser.parse_args([]), CPU)[-1].met


def test_a_line_is_the_mean_over_seeds(small, monkeypatch):
    monkeypatch.setattr(permuted_mnist, "one_run", lambda stream, methods, seed, device: 0.80 + 0.02 * seed)
    row = permuted_mnist.line("GEM", small, range(3), CPU)
    assert row.value == pytest.approx(0.82) and row.met and "sd 0.0200, 3 seeds" in row.detail
    monkeypatch.setattr(permuted_mnist, "one_run", lambda stream, methods, seed, device: 0.5)
    assert not permuted_mnist.line("GEM", small, range(3), CPU).met
