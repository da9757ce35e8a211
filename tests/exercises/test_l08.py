"""The references of lesson 08 against worked numbers, the library and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F

from cllab.exercises import l08
from cllab.models import MLP
from cllab.regularization import distillation_loss
from cllab.regularization.lwf import old_heads
from cllab.streams import digits, split
from cllab.training import Method, run


def logits(*shape, seed):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_lessons_numbers():
    for T, expected in {2: (80, 18, 2), 1: (95.12, 4.82, 0.06), 4: (61.26, 29.06, 9.69)}.items():
        assert [100 * p for p in l08.soften(l08.CAT, T)] == pytest.approx(expected, abs=0.005)
    cat, _, elephant = l08.soften([2 * math.log(40), 2 * math.log(9), 0.0], 1)
    assert cat / elephant == pytest.approx(1600)
    gradient = l08.pull([1.0, 1.0, 0.0], [4.0, 2.0, 0.0], 2)
    assert gradient == pytest.approx([-0.563178, 0.277847, 0.285332], abs=1e-6)
    assert l08.token_loss(l08.TOKENS.sin(), l08.TOKENS.cos(), l08.MASK, 2.0) == pytest.approx(0.461702, abs=1e-6)


@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
def test_the_pull_is_the_gradient(T):
    z_stu, z_tea = logits(1, 5, seed=0).requires_grad_(), logits(1, 5, seed=1)
    (expected,) = torch.autograd.grad(distillation_loss(z_stu, z_tea, T), z_stu)
    assert l08.pull(z_stu[0].tolist(), z_tea[0].tolist(), T) == pytest.approx(expected[0].tolist(), abs=1e-12)


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_the_columns_are_those_of_lwf(scenario):
    stream, seen = split(digits().take(40), 2, scenario=scenario), []

    class Watch(Method):
        def start_task(self, ctx):
            seen.append([head.tolist() for head in old_heads(ctx)])

    run(MLP(64, [2], 10), stream, [Watch()])
    tasks = [list(task.classes) for task in stream]
    assert seen == [l08.columns(tasks, t, scenario) for t in range(5)]


def test_the_language_model_loss_by_a_loop():
    student, teacher, T = logits(2, 4, 3, seed=2), logits(2, 4, 3, seed=3), 1.5
    tokens, mask = torch.tensor([[0, 2, 1, 1], [1, 0, 2, 0]]), torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0]])
    ce, kl = [], []
    for b in range(2):
        for s in range(3):
            if mask[b, s + 1]:
                ce.append(F.cross_entropy(student[b, s], tokens[b, s + 1]).item())
                q, p = (torch.tensor(l08.soften(z[b, s].tolist(), T)) for z in (teacher, student))
                kl.append((q * (q / p).log()).sum().item())
    expected = sum(ce) / len(ce) + T**2 * sum(kl) / len(kl)
    assert len(ce) == 4
    assert l08.language_loss(student, teacher, tokens, mask, T) == pytest.approx(expected, abs=1e-6)
