"""The references of lesson 10 against PyTorch's optimisers and a real progressive network."""

import pytest
import torch

from cllab.exercises import l10
from cllab.isolation import ProgressiveNet


def trained(optimizer, lr, steps, **options):
    """A weight and its optimiser after `steps` steps with gradient 1."""
    w = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    stepper = optimizer([w], lr=lr, **options)
    for _ in range(steps):
        w.grad = torch.ones_like(w)
        stepper.step()
    return w, stepper


def test_two_steps_without_a_gradient():
    w, stepper = trained(torch.optim.SGD, 0.1, 1, momentum=0.9)
    w.data.fill_(1.0)
    for _ in range(2):
        w.grad = torch.zeros_like(w)
        stepper.step()
    assert w.item() == pytest.approx(l10.EXERCISES[0].reference)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 5), (10, 3), (40, 60)])
def test_adam_coasts_as_in_torch(before, after):
    w, stepper = trained(torch.optim.Adam, 0.1, before)
    m, v = (stepper.state[w][name].item() for name in ("exp_avg", "exp_avg_sq"))
    start = w.item()
    for _ in range(after):
        w.grad = torch.zeros_like(w)
        stepper.step()
    assert w.item() - start == pytest.approx(l10.coast(m, v, before, 0.1, after), abs=1e-12)


def test_a_layer_of_the_worked_example():
    assert l10.layer(l10.W, l10.B, l10.H, l10.U, l10.OLD) == [3.0, 2.0]
    assert tuple(l10.layer(l10.W, l10.B, l10.H, l10.U, l10.OLD)) == l10.EXERCISES[1].reference


@pytest.mark.parametrize("sizes", [[5, 4], [5, 4, 3], [6, 5, 4, 3]])
def test_parameters_and_columns_are_those_of_a_network(sizes):
    net, tasks = ProgressiveNet(sizes[0], sizes[1:-1], sizes[-1], task=7), [7, "night", 2]
    for K, task in enumerate(tasks, start=1):
        if task != 7:
            net.add_column(task)
        assert l10.parameters(sizes, K) == sum(p.numel() for p in net.parameters())
    for task in tasks:
        assert len(l10.columns_to_run(tasks, task)) == len(net.activations(torch.zeros(1, sizes[0]), task)[0])


def test_published_counts():
    assert [l10.parameters([784, 100, 100, 10], K) for K in range(1, 6)] == [89_610, 190_220, 301_830, 424_440, 558_050]
