"""The references of lesson 12 against autograd, NumPy and loops."""

import numpy as np
import pytest
import torch

from cllab.exercises import l12


def value_of(exercise_id):
    return next(exercise.reference for exercise in l12.EXERCISES if exercise.id == exercise_id)


def test_the_second_gradient_of_a_by_autograd():
    W, x, t = (torch.tensor(v, dtype=torch.float64) for v in ([[2, 0], [1, 1]], [1, 2], [1, 5]))
    A, B = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([1, 1], [0, 0]))
    for first in (True, False):
        loss = (W @ x + B * (A @ x) - t).square().sum() / 2
        dA, dB = torch.autograd.grad(loss, (A, B))
        if first:
            assert dA.tolist() == [0, 0] and dB.tolist() == [3, -6]
        A.data, B.data = A - 0.1 * dA, B - 0.1 * dB
    assert dA.tolist() == pytest.approx(value_of("L12.1"))


def test_other_clothes_on_a_random_adapter():
    A, B = np.random.default_rng(0).normal(size=(2, 5)), np.random.default_rng(1).normal(size=(4, 2))
    average = (B + 3 * B) / 2 @ ((A + A / 3) / 2)
    assert np.allclose(average, value_of("L12.2") * B @ A)


def test_merging_by_loops():
    adapters, weights = l12._random_adapters(torch.Generator().manual_seed(0))
    found = np.zeros((3, 4))
    for (A, B, s), w in zip(adapters, weights, strict=True):
        for i, j, k in np.ndindex(3, 4, 2):
            found[i, j] += w * s * B[i][k] * A[k][j]
    assert np.allclose(l12.merged(adapters, weights), found)


def test_overlap_of_the_worked_example_and_by_loops():
    assert l12.overlap([l12.FIRST], l12.SECOND) == pytest.approx(1.4)
    past, A = l12._random_overlap(torch.Generator().manual_seed(0))
    slow = sum(abs(np.dot(row, new)) for A_i in past for row in A_i for new in A)
    assert l12.overlap(past, A) == pytest.approx(slow)


def test_the_nearest_class_decides():
    phi, centroids = l12._random_choice(torch.Generator().manual_seed(3))
    distances = [min(np.linalg.norm(np.subtract(phi, mu)) for mu in task) for task in centroids]
    assert l12.choose(phi, centroids) == int(np.argmin(distances))
    assert [l12.choose([x, 1.0], l12.CENTROIDS) for x in (1.0, 4.0, 9.0)] == [0, 1, 0]


@pytest.mark.parametrize("r", [1, 2, 3])
def test_what_a_rank_leaves_out(r):
    delta, _ = l12._random_cut(torch.Generator().manual_seed(1))
    sigma = np.linalg.svd(delta, compute_uv=False)
    assert l12.rank_error(delta, r) == pytest.approx(np.sqrt((sigma[r:] ** 2).sum() / (sigma**2).sum()))
