"""Noisy top-k: the smooth load by hand, by simulation, and with a gradient where counts have none."""

import math

import pytest
import torch

from cllab.device import generator
from cllab.isolation import LoadBalance, MoE, MoEClassifier, balance_loss, noisy_scores, route, smooth_load, token_task
from cllab.isolation.noise import stay_probability
from cllab.training import run

CLEAN = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)
NOISY = torch.tensor([[1.2, 0.3, 0.1]], dtype=torch.float64)
SIGMA = torch.full((1, 3), 0.5, dtype=torch.float64)


def test_smooth_load_by_hand():
    stay = stay_probability(CLEAN, NOISY, SIGMA, 1)
    assert stay[0].tolist() == pytest.approx([0.919243, 0.080757, 0.008198], abs=1e-6)
    assert float(stay.sum()) == pytest.approx(1.008198, abs=1e-6)  # not 1: each redraws its own noise alone
    assert torch.equal(smooth_load(CLEAN, NOISY, SIGMA, 1), stay[0])
    assert torch.equal(stay_probability(CLEAN, NOISY, SIGMA, 3), torch.ones(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_against_redrawn_noise(k):
    source, n, E = generator(k), 20_000, 5
    clean, sigma = torch.randn(E, generator=source), 0.2 + torch.rand(E, generator=source)
    noisy = clean + sigma * torch.randn(E, generator=source)
    stay = stay_probability(clean[None], noisy[None], sigma[None], k)[0]
    for e in range(E):
        redrawn = noisy.repeat(n, 1)
        redrawn[:, e] = clean[e] + sigma[e] * torch.randn(n, generator=source)
        share = (redrawn.topk(k, dim=1).indices == e).any(dim=1).double().mean().item()
        assert abs(share - stay[e]) < 4 * math.sqrt(0.25 / n)


def test_a_threshold_of_probabilities_would_be_caught():
    """A public implementation compares clean scores with the k-th probability."""
    p = NOISY.softmax(dim=1)
    wrong = torch.special.ndtr((CLEAN - p.topk(2, dim=1).values[:, 1, None]) / SIGMA)
    assert not torch.allclose(wrong, stay_probability(CLEAN, NOISY, SIGMA, 1), atol=0.05)


def test_noise_is_the_softplus_of_its_scores():
    noisy, sigma = noisy_scores(torch.zeros(1, 2), torch.tensor([[0.0, 100.0]]), torch.ones(1, 2))
    assert sigma[0].tolist() == pytest.approx([math.log(2), 100.0]) and torch.equal(noisy, sigma)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        _, tiny = noisy_scores(*(torch.full((1, 2), value, dtype=dtype) for value in (0.0, -200.0, 1.0)))
        assert 0 < float(tiny.max()) < 1e-4


def test_the_smooth_load_has_a_gradient_where_counts_have_none():
    logits = torch.randn(6, 4, generator=generator(0), requires_grad=True)
    assert not route(logits, 1).load.requires_grad
    load = smooth_load(logits, logits + 0.1, torch.full((6, 4), 0.3), 1)
    load.var().backward()
    assert float(logits.grad.abs().sum()) > 0


def test_the_layer_is_noisy_in_training_only_and_starts_even():
    layer, x = MoE(4, 3, 1, noise=True, renormalise=False), torch.randn(64, 4, generator=generator(0))
    layer.train()
    torch.manual_seed(0)
    layer(x)
    assert layer.smooth_load.tolist() == pytest.approx([64 / 3] * 3, rel=0.2)
    first = layer.routing.expert.clone()
    layer(x)
    assert not torch.equal(first, layer.routing.expert)
    layer.eval()
    layer(x)
    assert layer.smooth_load is None and bool((layer.routing.expert == 0).all())  # scores tie, the lowest wins


def test_a_prior_is_in_the_smooth_load_too():
    layer, x = MoE(4, 3, 1, noise=True, renormalise=False).train(), torch.randn(600, 4, generator=generator(0))
    torch.manual_seed(0)
    layer(x, prior=torch.tensor([0.9, 0.1, 0.0]))
    assert layer.smooth_load[2] == 0 and layer.routing.load[2] == 0
    assert abs(layer.smooth_load[0] - layer.routing.load[0]) < 60


def test_shazeers_loss_wants_noise_and_is_zero_for_even_gates_and_load():
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    routing = route(logits, 1)
    assert float(balance_loss("shazeer", logits, routing, torch.ones(2))) == 0
    skewed = route(torch.tensor([[5.0, 0.0], [5.0, 0.0]]), 1)
    assert float(balance_loss("shazeer", logits, skewed, torch.tensor([2.0, 0.0]))) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="its layer needs noise"):
        balance_loss("shazeer", logits, routing)


def test_noise_and_its_loss_keep_experts_from_collapsing():
    for seed in range(2):
        task, most = token_task(1024, seed=seed, n_test=64), {}
        for noise in (False, True):
            model = MoEClassifier(28, 16, 8, 1, 4, seed=seed, hidden=8, renormalise=False, noise=noise)
            methods = [LoadBalance(0.1, "shazeer")] if noise else []
            run(model, task.stream, methods, epochs=4, lr=5e-3, seed=seed)
            model.eval()(task.data.x)
            load = model.moe.routing.load
            most[noise] = (load.max() / load.sum()).item()
        assert most[True] < most[False] - 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": torch.zeros(1, 3, dtype=torch.float64)}, "sigma must be above 0"),
        ({"k": 4}, "k must be between 1 and 3"),
        ({"noisy": NOISY[:, :2]}, "noisy must have the shape"),
        ({"clean": CLEAN * math.nan}, "clean must be finite"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        smooth_load(**({"clean": CLEAN, "noisy": NOISY, "sigma": SIGMA, "k": 1} | change))
