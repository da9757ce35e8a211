"""The VAE: its two losses in closed form, noise and weights from what they were given, samples in eval mode."""

import math

import pytest
import torch
from torch import nn

from cllab.device import generator
from cllab.replay import VAE, kl_divergence, reconstruction_loss
from cllab.streams import digits

F64 = torch.float64


def small(**changes):
    return VAE(**{"in_features": 4, "n_classes": 3, "hidden": [8], "latent": 2, "seed": 0, **changes})


def settled(model, *classes):
    """Latents of these classes as if they were standard normal."""
    model.seen[list(classes)] = True
    model.root_S[list(classes)] = torch.eye(model.latent, dtype=model.m.dtype)
    return model


def test_the_worked_divergence():
    mu, log_var = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[0.0, math.log(4)]], dtype=F64)
    assert float(kl_divergence(mu, log_var)) == pytest.approx(1.306853, abs=5e-7)
    assert float(kl_divergence(mu, log_var)) == pytest.approx(0.5 + 1.5 - math.log(2), abs=1e-12)


def test_divergence_is_that_of_torch_and_zero_at_the_prior():
    mu, log_var = torch.randn(2, 5, 3, generator=generator(0), dtype=F64)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(kl_divergence(mu, log_var), theirs.sum(dim=1), atol=1e-12)
    assert kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]


def test_reconstruction_loss_is_summed_over_pixels():
    x, p = torch.tensor([[1.0, 0.25], [0.0, 1.0]], dtype=F64), torch.tensor([[0.9, 0.5], [0.2, 0.6]], dtype=F64)
    by_hand = [-math.log(0.9) - 0.25 * math.log(0.5) - 0.75 * math.log(0.5), -math.log(0.8) - math.log(0.6)]
    assert reconstruction_loss(x, p.logit()).tolist() == pytest.approx(by_hand, abs=1e-9)


def test_noise_enters_by_standard_deviation_and_not_by_variance():
    model = small().double()
    x, y, eps = torch.rand(5, 4, dtype=F64), torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 2, dtype=F64)
    logits, mu, log_var = model(x, y, eps)
    z = mu + log_var.exp().sqrt() * eps
    assert torch.allclose(logits, model.decode(z, y), atol=1e-12)
    assert not torch.allclose(logits, model.decode(mu + log_var.exp() * eps, y), atol=1e-3)


def test_weights_and_samples_come_from_their_seeds():
    models = [settled(small(seed=s), 1) for s in (0, 0, 1)]
    torch.manual_seed(5)
    draws = [model.draw(torch.ones(4, dtype=torch.int64), generator(3)) for model in models]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], models[0].draw(torch.ones(4, dtype=torch.int64), generator(4)))
    state = torch.get_rng_state()
    models[0].draw(torch.ones(4, dtype=torch.int64), generator(3))
    small()
    assert torch.equal(state, torch.get_rng_state())


def test_samples_are_drawn_in_eval_mode_and_the_mode_is_given_back():
    model = settled(small(), 0)
    model.decoder.append(nn.Dropout(0.5))
    asked = torch.zeros(64, dtype=torch.int64)
    model.train()
    first, second = model.draw(asked, generator(0)), model.draw(asked, generator(0))
    assert torch.equal(first, second) and model.training
    # the wrong variant: without eval mode dropout shows
    z = torch.randn(64, 2, generator=generator(0))
    assert not torch.equal(first, model.decode(z, asked).sigmoid())


def test_latents_are_drawn_from_where_those_of_the_class_lie():
    model = small().double()
    x, y = torch.rand(40, 4, dtype=F64), torch.arange(40) % 2
    model.settle(x, y)
    mu, log_var = model.encode(x, y)
    # many draws of z = mu + sigma eps for the rows of class 1 have the moments that were noted
    eps = torch.randn(20_000, 20, 2, generator=generator(0), dtype=F64)
    z = (mu[y == 1] + (0.5 * log_var[y == 1]).exp() * eps).flatten(0, 1).detach()
    assert torch.allclose(z.mean(dim=0), model.m[1], atol=0.01)
    assert torch.allclose(z.T.cov(correction=0), model.root_S[1] @ model.root_S[1].T, atol=0.02)
    # and this is what `draw` decodes
    noise = torch.randn(3, 2, generator=generator(7), dtype=F64)
    by_hand = torch.stack([model.m[1] + model.root_S[1] @ row for row in noise])
    asked = torch.ones(3, dtype=torch.int64)
    assert torch.allclose(model.draw(asked, generator(7)), model.decode(by_hand, asked).sigmoid(), atol=1e-9)


def test_training_lowers_the_loss_and_classes_look_different():
    data = digits().only([0, 1])
    model = VAE(64, 2, [32], 2, seed=0)
    optimizer, source = torch.optim.Adam(model.parameters(), lr=5e-3), generator(0)
    told = []
    for _ in range(100):
        rows = torch.randperm(len(data.y), generator=source)[:32]
        reconstruction, kl = model.losses(data.x[rows], data.y[rows], source)
        assert reconstruction.shape == kl.shape == (32,)
        loss = (reconstruction + kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    assert sum(told[-10:]) < 0.7 * sum(told[:10])
    model.settle(data.x, data.y)
    for c in (0, 1):
        drawn = model.draw(torch.full((200,), c), source)
        assert drawn.min() >= 0 and drawn.max() <= 1
        distance = [(drawn.mean(dim=0) - data.x[data.y == k].mean(dim=0)).norm() for k in (0, 1)]
        assert distance[c] < 0.5 * distance[1 - c]


def test_what_it_was_never_shown_it_does_not_draw():
    model = small()
    model.settle(torch.rand(4, 4), torch.tensor([0, 2, 2, 0]))
    with pytest.raises(ValueError, match=r"y must hold classes settled, \[0, 2\]"):
        model.draw(torch.tensor([1]), generator(0))
    with pytest.raises(ValueError, match="below the number of classes 3"):
        model.draw(torch.tensor([3]), generator(0))
    with pytest.raises(TypeError, match="int64"):
        model.draw(torch.tensor([0.0]), generator(0))


@pytest.mark.parametrize(
    ("log_var", "named"), [(float("nan"), "finite"), (float("inf"), "full rank"), (-1e4, "full rank")]
)
def test_latents_without_a_proper_covariance_are_told_and_nothing_is_noted(log_var, named):
    model = small()
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias[2:] = log_var
        if named == "finite":
            model.encoder[-1].bias[:] = log_var
    with pytest.raises(FloatingPointError, match=named):
        model.settle(torch.rand(4, 4), torch.tensor([0, 2, 2, 0]))
    assert not model.seen.any() and not model.root_S.any()


def test_values_that_no_loss_is_defined_for_are_refused_by_name():
    fine, nan = torch.full((2, 3), 0.5), torch.full((2, 3), float("nan"))
    for wrong, named in (
        (lambda: kl_divergence(nan, fine), "mu must be finite"),
        (lambda: kl_divergence(fine, nan), "log_var must be finite"),
        (lambda: reconstruction_loss(nan, fine), "x must be finite"),
        (lambda: reconstruction_loss(fine, nan), "logits must be finite"),
        (lambda: reconstruction_loss(fine + 1, fine), r"x must lie in \[0, 1\], got values from 1.5"),
        (lambda: reconstruction_loss(-fine, fine), r"x must lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=named):
            wrong()


def test_samples_need_a_generator():
    with pytest.raises(TypeError, match=r"source must be a torch.Generator, got NoneType"):
        settled(small(), 0).draw(torch.zeros(2, dtype=torch.int64), None)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"in_features": 0}, "in_features"), ({"n_classes": 0}, "n_classes"), ({"hidden": [0]}, "hidden"),
     ({"latent": 0}, "latent")],
)  # fmt: skip
def test_bad_sizes_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        small(**change)
