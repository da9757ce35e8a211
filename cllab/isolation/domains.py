"""Domain experts: an expert per domain, trained on that domain alone, and mixed by how likely each domain is now.

    P(d | x_<t)  proportional to  P(d) prod_{s<t} p(x_s | x_<s, d)             Bayes' rule over domains
    p(x_t | x_<t) = sum_d P(d | x_<t) p(x_t | x_<t, d)

Symbols: d = 1..D domains with an expert each; x_t, the t-th token of a text, whose domain nobody told.
Priors P(d). uniform: 1/D. updating: an exponential moving average of the posteriors seen so far, so that a text that
changes its domain can be followed. cached: the mean posterior over a sample of texts like those to come, fixed.
New domains get new experts and old ones stay as they are; mixing needs no task number.
Source: Gururangan et al. 2022, "DEMix layers: disentangling domains for modular language modeling" (decay 0.3 there).
"""

import torch
from torch import Tensor

from cllab import checks

PRIORS = ("uniform", "updating", "cached")


def domain_posterior(log_likelihood: Tensor, prior: Tensor) -> Tensor:
    """P(d | x) [N, D] from ln p(x | d) [N, D], finite, and P(d) [D] >= 0, which need not sum to 1."""
    checks.floats("log_likelihood", log_likelihood, 2)
    _check_prior(prior, log_likelihood.shape[1])
    # P(d | x) = softmax_d( ln P(d) + ln p(x | d) )
    return (log_likelihood + prior.to(log_likelihood.dtype).log()).softmax(dim=1)


def cached_prior(log_likelihood: Tensor) -> Tensor:
    """P(d) [D]: the mean posterior, under a uniform prior, of sample texts with ln p(text | d) [N, D]."""
    checks.floats("log_likelihood", log_likelihood, 2)
    uniform = log_likelihood.new_ones(log_likelihood.shape[1])
    return domain_posterior(log_likelihood, uniform).mean(dim=0)


def mixture_weights(
    log_likelihood: Tensor, prior: str = "uniform", *, cached: Tensor | None = None, decay: float = 0.3
) -> Tensor:
    """The experts' weights before each token of one text: [T, D] from ln p(x_t | x_<t, d) [T, D].

    Row t uses tokens before t only; the first row is the prior itself.
    prior: see above. cached [D]: the prior for "cached". decay in (0, 1]: how much of the running average the newest
    posterior of "updating" replaces; each token then starts from that average, and not from the whole text so far.
    """
    checks.floats("log_likelihood", log_likelihood, 2)
    checks.choice("prior", prior, PRIORS)
    n_domains = log_likelihood.shape[1]
    start = log_likelihood.new_full((n_domains,), 1 / n_domains)
    if prior == "cached":
        if cached is None:
            raise ValueError('cached must be a prior [D] for prior="cached", got None')
        _check_prior(cached, n_domains, "cached")
        start = cached.to(log_likelihood) / cached.sum()
    if prior != "updating":
        # ln P(d) + sum_{s<t} ln p(x_s | x_<s, d)
        before = torch.cat([log_likelihood.new_zeros(1, n_domains), log_likelihood[:-1].cumsum(dim=0)])
        return domain_posterior(before, start)
    if checks.number("decay", decay, 0.0, 1.0) == 0:
        raise ValueError("decay must be above 0, got 0")
    rows, average = [], start
    for row in log_likelihood:
        rows.append(average)
        # P(d) <- (1 - decay) P(d) + decay P(d | x_t)
        average = (1 - decay) * average + decay * domain_posterior(row[None], average)[0]
    return torch.stack(rows)


def mixed_log_likelihood(log_likelihood: Tensor, weights: Tensor) -> Tensor:
    """ln p(x_t | x_<t) [T] of the mixture, from the experts' own [T, D] and their weights [T, D]."""
    checks.alike(log_likelihood=log_likelihood, weights=weights)
    if bool((weights < 0).any()) or not torch.allclose(weights.sum(dim=-1), weights.new_ones(()), atol=1e-4):
        raise ValueError("weights must be at least 0 and sum to 1 in every row")
    # ln sum_d w_d p_d
    return (log_likelihood + weights.log()).logsumexp(dim=1)


def _check_prior(prior: Tensor, n_domains: int, name: str = "prior") -> None:
    checks.floats(name, prior, 1)
    if len(prior) != n_domains or bool((prior < 0).any()) or float(prior.sum()) == 0:
        raise ValueError(f"{name} must hold {n_domains} numbers, at least 0 and not all 0, got {prior.tolist()}")
