"""The references of lesson 09 against worked numbers, a real loss, and a search over all sets of binding rows."""

import pytest
import torch

from cllab.exercises import l09


def rows(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_lessons_numbers():
    assert l09.by_the_mean([2.0, -1.0], [0.0, 1.0]) == [2.0, 0.0]
    assert l09.by_the_mean([-1.0, -2.0], [1.0, 0.5]) == pytest.approx([0.6, -1.2])
    assert l09.by_the_mean([1.0, -1.0], [0.0, 0.0]) == [1.0, -1.0]
    assert l09.residuals(*l09.TWO_ROWS, [0.0, 1.5]) == [0.0, 0.0, 0.0]
    assert l09.residuals(*l09.TWO_ROWS, [0.0, 0.0]) == [0.0, 3.0, 0.0]
    assert l09.residuals(*l09.TWO_ROWS, [0.5, 1.5]) == [0.0, 0.0, 1.0]
    assert l09.change([-1.0, 1.0], [1.0, 1.0], [1.0, 0.0], 0.1) == pytest.approx(0.105)
    for problem, u in ((l09.TWO_ROWS, [0.5, 0.5]), (l09.NARROW, [0.0, 0.0]), (l09.BEHIND, [0.5, -0.5])):
        assert l09.round_and_round(*problem) == pytest.approx(u, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_second_order_is_exact_for_a_quadratic(seed):
    r, h, u, theta = rows(4, 5, seed=seed)

    def loss(theta):
        return r @ theta + (h * theta**2).sum() / 2

    gradient = r + h * theta
    expected = loss(theta - 0.3 * u) - loss(theta)
    assert l09.change(gradient.tolist(), h.tolist(), u.tolist(), 0.3) == pytest.approx(expected.item())


@pytest.mark.parametrize("seed", range(5))
def test_many_rounds_end_at_the_projection_and_one_round_does_not(seed):
    g, G = rows(8, seed=seed).tolist(), rows(3, 8, seed=seed + 100).tolist()
    if min(l09._dot(row, g) for row in G) >= 0:
        g = [-value for value in g]
    assert l09._sweeps(g, G, 500, 0.0) == pytest.approx(l09.round_and_round(g, G), abs=1e-9)
    assert l09._sweeps(*l09.NARROW, 1, 0.0) == pytest.approx([-0.24, -0.48])
