"""The references of lesson 05's exercises against closed forms, torch, and what cllab's methods do."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from cllab.exercises import l05
from cllab.replay import expected_shrink, refit_variances


def test_covariance_is_torchs_without_correction():
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(l05.covariance(x), torch.cov(x.T, correction=0), atol=1e-12)
    expected = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64) / 3
    assert torch.allclose(l05.covariance(l05.THREE_POINTS), expected, atol=1e-12)


def test_scholar_loss_by_hand():
    assert l05.scholar_loss([2.0, 4.0], [1.0], 2) == 2.0
    assert l05.scholar_loss([2.0, 2.0], [0.5], 5) == pytest.approx(0.8)
    assert l05.scholar_loss([2.0, 4.0], [], 1) == 3.0


def test_kl_is_the_divergence_of_two_normals():
    assert l05.kl(l05.MU, l05.LOG_VAR) == pytest.approx(1.306853, abs=5e-7)
    for mu, log_var in ((0.3, -1.2), (-2.0, 0.7)):
        mean, sigma, zero, one = torch.tensor([mu, math.exp(log_var / 2), 0.0, 1.0], dtype=torch.float64)
        expected = kl_divergence(Normal(mean, sigma), Normal(zero, one))
        assert l05.kl([mu], [log_var]) == pytest.approx(float(expected), abs=1e-12)


def test_tasks_weigh_the_same_with_one_over_t_and_sum_to_one():
    assert l05.task_weights([1 / t for t in range(1, 8)]) == pytest.approx([1 / 7] * 7)
    assert l05.task_weights([1, 0.5, 0.5]) == [0.25, 0.25, 0.5]
    assert sum(l05.task_weights([1, 0.3, 0.9, 0.2])) == pytest.approx(1)


def test_a_lineage_is_one_run_of_refit_variances():
    n, generations, runs = 5, 6, 3
    found = refit_variances(n, generations, runs, torch.Generator().manual_seed(3))
    source = torch.Generator().manual_seed(3)
    z = [torch.randn(n, runs, generator=source, dtype=torch.float64) for _ in range(generations)]
    for run in range(runs):
        assert l05.lineage([row[:, run].tolist() for row in z]) == pytest.approx(found[:, run].tolist(), abs=1e-12)


def test_lineages_shrink_on_average_as_the_closed_form_says():
    z = torch.randn(4000, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    left = torch.tensor([l05.lineage(one)[-1] for one in z])
    assert float(left.mean()) == pytest.approx(expected_shrink(5, 4), abs=0.03)
