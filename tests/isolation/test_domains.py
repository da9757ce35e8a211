"""Domain experts: Bayes' rule by hand, no look ahead, and a text that changes its domain."""

import math

import pytest
import torch

from cllab.isolation import cached_prior, domain_posterior, mixed_log_likelihood, mixture_weights

L = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]], dtype=torch.float64).log()


def test_bayes_by_hand():
    posterior = domain_posterior(L[:1], torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert posterior[0].tolist() == pytest.approx([0.8 / 1.4, 0.6 / 1.4])
    weights = mixture_weights(L)
    assert weights[0].tolist() == [0.5, 0.5] and weights[1].tolist() == pytest.approx([0.8, 0.2])
    assert weights[2].tolist() == pytest.approx([0.48 / 0.56, 0.08 / 0.56])


def test_a_weight_knows_nothing_of_its_own_token():
    changed = L.clone()
    changed[1:] = changed[1:].flip(1)
    for prior in ("uniform", "updating"):
        assert torch.equal(mixture_weights(L, prior)[:2], mixture_weights(changed, prior)[:2])
        assert not torch.equal(mixture_weights(L, prior)[2], mixture_weights(changed, prior)[2])


def test_the_cached_prior_is_where_a_text_starts():
    prior = cached_prior(L)
    assert prior.tolist() == pytest.approx([(0.8 + 0.6 + 0.5) / 3, (0.2 + 0.4 + 0.5) / 3])
    assert torch.allclose(mixture_weights(L, "cached", cached=2 * prior)[0], prior)


def test_the_running_average_by_hand_and_follows_a_change():
    weights = mixture_weights(L, "updating", decay=0.3)
    assert weights[1].tolist() == pytest.approx([0.7 * 0.5 + 0.3 * 0.8, 0.7 * 0.5 + 0.3 * 0.2])
    text = torch.tensor([[0.9, 0.1]] * 30 + [[0.1, 0.9]] * 20, dtype=torch.float64).log()
    assert mixture_weights(text, "updating")[-1, 1] > 0.8 > 0.1 > mixture_weights(text, "uniform")[-1, 1]


def test_the_mixture_is_a_distribution():
    weights = mixture_weights(L)
    by_hand = (weights * L.exp()).sum(dim=1).log()
    assert torch.allclose(mixed_log_likelihood(L, weights), by_hand)
    assert float(mixed_log_likelihood(L[:1], weights[:1])) == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixture_weights(L, "cached"), "cached must be a prior"),
        (lambda: mixture_weights(L, "cached", cached=torch.ones(3)), "cached must hold 2"),
        (lambda: mixture_weights(L, "updating", decay=0.0), "decay must be above 0"),
        (lambda: mixture_weights(L, "flat"), "prior must be one of"),
        (lambda: domain_posterior(L, torch.zeros(2)), "not all 0"),
        (lambda: domain_posterior(L * math.nan, torch.ones(2)), "log_likelihood must be finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_token_at_hand_never_leaks_into_its_own_weights():
    likelihood = torch.tensor([[0.0, -3.0], [-1e9, -1e9]])
    expected = torch.tensor([0.0, -3.0]).softmax(0)
    assert torch.allclose(mixture_weights(likelihood)[1], expected)
