"""The references of lesson 06's exercises against closed forms, slow loops and cllab's own functions."""

import itertools

import pytest
import torch
from torch import nn

from cllab.exercises import l06
from cllab.regularization import fisher_diagonal, quadratic_penalty


def neuron(theta):
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(theta)
    return model


@pytest.mark.parametrize(("theta", "x"), [(l06.LN3, [1.0, 2.0]), (-0.7, [0.3, 4.0, -1.0])])
def test_fisher_is_that_of_the_library(theta, x):
    rows = torch.tensor(x, dtype=torch.float64)[:, None]
    assert l06.fisher(theta, x) == pytest.approx(fisher_diagonal(neuron(theta), rows)["weight"].item(), abs=1e-12)


def test_fisher_of_the_worked_example():
    assert l06.fisher(l06.LN3, [1.0, 2.0]) == pytest.approx(0.27375, abs=1e-12)


def test_pull_is_the_gradient_of_the_penalty():
    model = neuron(2.0)
    theta_star, F = torch.tensor([[0.5]]).double(), torch.tensor([[3.0]]).double()
    (10 * quadratic_penalty(model, {"weight": theta_star}, {"weight": F})).backward()
    assert torch.equal(l06.pull(model.weight.detach(), theta_star, F, 10.0), model.weight.grad)


def test_proximal_leaves_no_force():
    theta, theta_star, F, lr, lam = 2.0, -1.0, 0.5, 0.2, 10.0
    t = l06.proximal(theta, theta_star, F, lr, lam)
    assert (t - theta) + lr * lam * F * (t - theta_star) == pytest.approx(0, abs=1e-12)
    assert l06.proximal(1.0, 0.0, 4.0, 0.1, 6.0) == pytest.approx(1 / 3.4)


def test_last_weight_of_the_worked_examples():
    three = [(1.0, 0.0), (1.0, 3.0), (1.0, 6.0)]
    assert l06.last_weight(three, online=False) == pytest.approx(2.5)
    assert l06.last_weight(three, online=True) == pytest.approx(3.0)
    assert l06.last_weight([(4.0, 0.0), (1.0, 1.0)], online=False) == pytest.approx(0.2)


def test_a_summed_anchor_always_ends_at_the_joint_optimum():
    tasks = [(0.5, 1.0), (2.0, -3.0), (1.3, 0.4), (0.1, 9.0)]
    joint = sum(a * mu for a, mu in tasks) / sum(a for a, _ in tasks)
    assert l06.last_weight(tasks, online=True) == pytest.approx(joint, abs=1e-12)
    assert abs(l06.last_weight(tasks, online=False) - joint) > 0.01


@pytest.mark.parametrize("B", [1, 2, 3, 5])
def test_expected_batched_is_the_mean_over_all_batches(B):
    g = [0.3, -1.0, 2.0, 0.5, -0.4]
    squares = [(sum(batch) / B) ** 2 for batch in itertools.combinations(g, B)]
    assert l06.expected_batched(g, B) == pytest.approx(sum(squares) / len(squares), abs=1e-12)
