"""The references of lesson 11 against closed forms, the reference's fractions, and what least squares must satisfy."""

import pytest
import torch

from cllab.exercises import l11


@pytest.mark.parametrize(
    ("arguments", "moved"),
    [((1.0, 0.0, 0.1, 0.0, 0.1, 3), 0.99**3 - 1), ((0.8, 2.0, 0.1, 0.9, 0.0, 3), -0.1 * (1.8 + 1.62 + 1.458))],
)
def test_the_leaks_of_the_lesson(arguments, moved):
    assert l11.drift(*arguments) == pytest.approx(moved, abs=1e-12)


def test_momentum_alone_moves_a_weight_by_a_geometric_sum():
    for steps in (1, 5, 300):
        expected = -0.1 * 2.0 * sum(0.9**k for k in range(1, steps + 1))
        assert l11.drift(0.8, 2.0, 0.1, 0.9, 0.0, steps) == pytest.approx(expected)


def test_the_neuron_of_the_lesson():
    assert l11.straight_through(*l11.NEURON) == [[1.0], [2.0, -3.0, -1.0]]


def test_shares_of_a_large_layer_are_the_fractions_and_none_is_lost():
    owned = l11.share_out(10**6, [0.5, 0.25, 0.25, 0.25])
    assert [share / 10**6 for share in owned] == pytest.approx([0.5, 0.125, 0.09375, 0.0703125, 0.2109375], abs=2e-6)
    for n in range(1, 40):
        owned = l11.share_out(n, [0.5] * 8)
        assert sum(owned) == n
        assert all(share >= 1 for share in owned[: min(3, n) - 1])


def test_a_packed_neuron_on_paper():
    # task 1 keeps weight 0: (3 + 4.5) / 2; task 2 fits what is left of 5, 1, 7: (1.25 + 2.75 - 0.5) / 3
    assert l11.pack(l11.PAIR, [1, 1]) == pytest.approx([3.75, 3.5 / 3])


@pytest.mark.parametrize("seed", range(5))
def test_packing_on_leaves_old_weights_and_fits_the_new_ones(seed):
    tasks, r = l11._random_tasks(torch.Generator().manual_seed(seed))
    after = [torch.tensor(l11.pack(tasks[:k], r[:k]), dtype=torch.float64) for k in (1, 2, 3)]
    old = torch.zeros(6, dtype=torch.bool)
    for k, theta in enumerate(after):
        mine = (theta != 0) & ~old
        assert int(mine.sum()) == r[k]
        x, y = (torch.tensor(part, dtype=torch.float64) for part in tasks[k])
        # the residual is orthogonal to the columns of the new weights, and older weights have not moved
        assert (x[:, mine].T @ (y - x @ theta)).abs().max() < 1e-9
        assert k == 0 or theta[old].tolist() == pytest.approx(after[k - 1][old].tolist(), abs=1e-12)
        old |= mine
