"""The references of lesson 03 against the package, exact fractions and the worked numbers."""

import pytest
import torch
from torch import nn

from cllab.device import generator
from cllab.exercises import l03
from cllab.replay import Reservoir, asymmetric_cross_entropy, interference, replay_weight, virtual_step
from cllab.replay.reservoir import draw_below
from cllab.training import Batch
from cllab.training.batch import task_loss


class Logistic(nn.Module):
    """Logits (0, w.x): its cross-entropy is the logistic loss."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), x @ self.w], dim=1)


def test_slots_are_those_of_the_package():
    rows = torch.arange(30)
    slots = Reservoir(4, generator(5)).add(rows, rows)
    draws = draw_below(rows + 1, generator(5)).tolist()
    assert slots.tolist() == [l03.slot(n, j, 4) for n, j in enumerate(draws, start=1)]


@pytest.mark.parametrize("rho", [0.25, 0.5, 0.8])
def test_replay_loss_is_the_task_loss_of_a_replayed_batch(rho):
    torch.manual_seed(0)
    logits, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    mask, task = torch.ones(5, 3, dtype=torch.bool), torch.zeros(5, dtype=torch.int64)
    new = Batch.of("new", logits[:3], y[:3], task[:3], mask[:3])
    old = Batch.of("memory", logits[3:], y[3:], task[3:], mask[3:], replay_weight(rho))
    losses = nn.functional.cross_entropy(logits, y, reduction="none").tolist()
    expected = task_loss(logits, Batch.cat([new, old])).item()
    assert l03.replay_loss(losses[:3], losses[3:], rho) == pytest.approx(expected, abs=1e-12)
    assert l03.replay_loss(losses, [], rho) == pytest.approx(sum(losses) / 5)


def test_mir_scores_are_the_package_s_interference():
    (x_new, y_new), w, eta = l03.NEW_ROW, [1.0, 0.0], 0.5
    x = torch.tensor([x for x, _ in l03.THREE_ROWS], dtype=torch.float64)
    y = torch.tensor([y for _, y in l03.THREE_ROWS])
    model = Logistic(w)
    theta = virtual_step(model, torch.tensor([x_new], dtype=torch.float64), torch.tensor([y_new]), eta)
    scores = l03.mir_scores(w, l03.NEW_ROW, l03.THREE_ROWS, eta)
    assert scores == pytest.approx(interference(model, theta, x, y).tolist(), abs=1e-12)
    assert scores == pytest.approx([-0.034424, 0.069494, -0.034424], abs=5e-7)


@pytest.mark.parametrize("present", [[1, 2], [0, 1], [0, 1, 2, 3]])
def test_asymmetric_ce_is_the_package_s(present):
    expected = asymmetric_cross_entropy(torch.tensor([l03.LOGITS], dtype=torch.float64), torch.tensor([1]), present)
    assert l03.asymmetric_ce(l03.LOGITS, 1, present) == pytest.approx(expected.item(), abs=1e-12)


def test_the_lessons_logits():
    assert l03.asymmetric_ce(l03.LOGITS, 1, [1, 2]) == pytest.approx(0.313262, abs=5e-7)
    assert l03.asymmetric_ce(l03.LOGITS, 1, [0, 1, 2, 3]) == pytest.approx(2.440190, abs=5e-7)


@pytest.mark.parametrize(("capacity", "n"), [(3, 6), (2, 4), (2, 5), (4, 3)])
def test_inclusion_of_the_rules(capacity, n):
    kept = min(1.0, capacity / n)
    assert l03.inclusion(l03.right_slots, capacity, n) == pytest.approx([kept] * n)
    assert l03.inclusion(l03.ring_slots, capacity, n) == [0.0] * (n - capacity) + [1.0] * min(n, capacity)
    if n > capacity:
        early, late = (capacity - 1) / (n - 1), capacity / (n - 1)
        expected = [early] * capacity + [late] * (n - capacity)
        assert l03.inclusion(l03.short_slots, capacity, n) == pytest.approx(expected)
