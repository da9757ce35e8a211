"""The references of lesson 04 against worked numbers and against the library's other parts."""

import math

import pytest
import torch

from cllab.exercises import l04
from cllab.replay import class_means, herding, herding_steps, icarl_targets, nearest_class_mean, unit_rows
from cllab.streams import icarl_toy

TOY = icarl_toy()


def rows(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_toy_is_that_of_the_streams():
    assert TOY.x[TOY.y == 0].tolist() == l04.A
    assert herding(TOY.x[TOY.y == 0], 5).tolist() == l04.ORDER_A


def test_the_lessons_numbers():
    assert l04.truncated(l04.LISTS, 8, 3) == [["a1", "a2"], ["b1", "b2"]]
    worked = [math.sqrt(0.08), math.sqrt(0.13), math.sqrt(0.32) / 3, math.sqrt(0.08), 0.0]
    assert l04.prefix_errors(l04.A, l04.ORDER_A) == pytest.approx(worked, abs=1e-12)
    assert [l04.nearest(x, [[1, 0.5], [3, 2.5], [-1, -0.5]]) for x in ([0.9, 0.7], [-0.9, -0.6])] == [0, 2]
    assert l04.nearest([2, 2], [[1, 1], [3, 3]]) == 0
    assert l04.targets(0, [0.9, 0.1], 3) == [0.9, 0.1, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_references_agree_with_the_library(seed):
    phi = rows(9, 3, seed)
    steps = list(herding_steps(phi, 9))
    order = [step.chosen for step in steps]
    assert l04.prefix_errors(phi.tolist(), order) == pytest.approx([step.error for step in steps], abs=1e-12)

    labels = torch.arange(9) % 3
    means = class_means(phi, labels)
    answers = [l04.nearest(x, [means[c].tolist() for c in range(3)]) for x in phi.tolist()]
    assert answers == nearest_class_mean(phi, means).tolist()

    old_logits = rows(9, 2, seed + 100)
    expected = icarl_targets(torch.arange(9) % 4, torch.tensor([2, 3]), old_logits)
    ours = [l04.targets(i % 4, q, 4) for i, q in enumerate(old_logits.sigmoid().tolist())]
    assert torch.allclose(torch.tensor(ours, dtype=torch.float64), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_authors_rule_is_herding_for_rows_of_length_1_only(seed):
    phi = rows(9, 3, seed)
    assert l04.herding_by_product(unit_rows(phi), 9) == herding(unit_rows(phi), 9).tolist()
    assert l04.herding_by_product(phi, 9) != herding(phi, 9).tolist()
