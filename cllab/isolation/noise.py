"""Noisy top-k: chance lets second-best experts win now and then, and makes the load something one can train.

    H[n, e] = S[n, e] + epsilon[n, e] sigma[n, e]            epsilon ~ N(0, 1), in training only
    sigma[n, e] = softplus(h[n] W_noise)[e]

    stay[n, e] = Phi( (S[n, e] - m[n, e]) / sigma[n, e] )    m: the k-th largest H[n, .] without expert e
    load~[e] = sum_n stay[n, e]                              the smooth load

Symbols: S [N, E] clean router scores, H noisy ones, sigma [N, E] > 0, Phi the normal distribution function.
stay[n, e] is the probability that token n chooses expert e when only that expert's noise is drawn again. Counts have no
gradient; load~ has one, to S, to H's threshold and to sigma. It need not sum to N k.
At test the noise is left out, like dropout.
Source: Shazeer et al. 2017, "Outrageously large neural networks", section 4 and appendix A; both W_noise and the router
start at zero there. The noise goes to the scores and not to probabilities, and the threshold is a score as well.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cllab import checks
from cllab.isolation.routing import scores


def noisy_scores(clean: Tensor, spread: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """(H, sigma) from clean scores, h W_noise (`spread`) and standard normal numbers `epsilon`, all [N, E]."""
    checks.alike(clean=clean, spread=spread, epsilon=epsilon)
    # sigma = softplus(h W_noise), and never 0 by underflow
    sigma = softplus(spread).clamp_min(torch.finfo(spread.dtype).tiny)
    # H = S + epsilon sigma
    return clean + epsilon * sigma, sigma


def stay_probability(clean: Tensor, noisy: Tensor, sigma: Tensor, k: int) -> Tensor:
    """stay [N, E]: how likely each expert is among the token's k best when its own noise is drawn again.

    All tensors [N, E], sigma above 0; k in 1..E (with k = E every expert always is).
    """
    clean, noisy = scores("clean", clean), scores("noisy", noisy)
    checks.alike(clean=clean, noisy=noisy, sigma=sigma)
    n_experts = clean.shape[1]
    checks.integer("k", k, 1, n_experts)
    if bool((sigma <= 0).any()):
        raise ValueError(f"sigma must be above 0, got {sigma.min().item():g}")
    if k == n_experts:
        return torch.ones_like(clean)
    ranked = noisy.topk(k + 1, dim=1)  # [N, k + 1]
    among_k = torch.zeros_like(noisy, dtype=torch.bool).scatter(1, ranked.indices[:, :k], True)
    # m = k-th largest H without e: the (k + 1)-th of all for those among the k best, else the k-th
    m = torch.where(among_k, ranked.values[:, k, None], ranked.values[:, k - 1, None])
    # stay = Phi((S - m) / sigma)
    return torch.special.ndtr((clean - m) / sigma)


def smooth_load(clean: Tensor, noisy: Tensor, sigma: Tensor, k: int) -> Tensor:
    """load~ [E] = sum_n stay[n, e], with gradient; arguments as in `stay_probability`."""
    return stay_probability(clean, noisy, sigma, k).sum(dim=0)
