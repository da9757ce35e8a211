"""A small variational autoencoder of images: a generator for generative replay that has to be trained.

Idea: an encoder turns a row into a normal distribution over a few latent numbers, a decoder turns latent numbers into
pixels; the latent distributions are held close to N(0, I). Latent numbers drawn from where a class's rows lie decode to
new rows of that class.

    z = mu + sigma eps,  eps ~ N(0, I)
    L = -sum_d [x_d ln p_d + (1 - x_d) ln(1 - p_d)]  +  beta/2 sum_j (mu_j^2 + sigma_j^2 - 1 - ln sigma_j^2)
    new rows: p = decoder(z', y),  z' ~ N(m_y, S_y)

Symbols: x [D] pixels in [0, 1]; mu, ln sigma^2 [J] from the encoder; z [J]; p = decoder(z, y) [D]; the second sum is
KL(N(mu, sigma^2) || N(0, I)); m_y, S_y mean and covariance of z over the rows of class y.
Source: Kingma & Welling 2014, "Auto-encoding variational Bayes"; y enters both halves as one-hot rows as in Sohn et al.
2015, "Learning structured output representation"; beta by Higgins et al. 2017, "beta-VAE". Departures: z' is drawn
from N(m_y, S_y), fitted after training, and not from N(0, I), as in Ghosh et al. 2020, "From variational to
deterministic autoencoders": after a few hundred steps N(0, I) still holds places that no row of the class decodes from.
A drawn row is p itself, not black and white pixels drawn from it.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator as seeded
from cllab.models import MAX_WIDTH, linear
from cllab.replay.gmm import gaussian
from cllab.training import evaluating


def kl_divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) of each row [N] in nats; mu and log_var = ln sigma^2 are [N, J] and finite."""
    for name, value in (("mu", mu), ("log_var", log_var)):
        checks.floats(name, value)
    return _kl_divergence(mu, log_var)


def _kl_divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    # KL = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - ln sigma_j^2)
    return 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(dim=-1)


def reconstruction_loss(x: Tensor, logits: Tensor) -> Tensor:
    """Bernoulli cross-entropy of each row [N] in nats, summed over pixels: x in [0, 1] and logits of p are [N, D]."""
    for name, value in (("x", x), ("logits", logits)):
        checks.floats(name, value)
    if float(x.min()) < 0 or float(x.max()) > 1:
        raise ValueError(f"x must lie in [0, 1], got values from {float(x.min()):g} to {float(x.max()):g}")
    return _reconstruction_loss(x, logits)


def _reconstruction_loss(x: Tensor, logits: Tensor) -> Tensor:
    # -sum_d [x_d ln p_d + (1 - x_d) ln(1 - p_d)]
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=-1)


class VAE(nn.Module):
    """x [N, D] in [0, 1] with classes y -> p [N, D] in [0, 1].

    in_features: D. n_classes: what y may be asked for, 0 .. n_classes - 1. hidden: widths of the encoder's layers, the
    decoder has them in reverse. latent: J. seed: of the first weights.
    """

    def __init__(
        self, in_features: int, n_classes: int, hidden: Sequence[int] = (400,), latent: int = 16, seed: int = 0
    ):
        super().__init__()
        checks.integer("in_features", in_features, 1, MAX_WIDTH)
        self.n_classes = checks.integer("n_classes", n_classes, 1, MAX_WIDTH)
        self.latent = checks.integer("latent", latent, 1, MAX_WIDTH)
        widths = [checks.integer("hidden", width, 1, MAX_WIDTH) for width in hidden]
        source = seeded(seed, "VAE")
        self.encoder = _layers([in_features + n_classes, *widths, 2 * latent], source)
        self.decoder = _layers([latent + n_classes, *reversed(widths), in_features], source)
        self.register_buffer("seen", torch.zeros(n_classes, dtype=torch.bool))
        self.register_buffer("m", torch.zeros(n_classes, latent))
        self.register_buffer("root_S", torch.zeros(n_classes, latent, latent))

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """mu and ln sigma^2, each [N, J], of rows x [N, D] of classes y int64 [N]."""
        return self.encoder(torch.cat([x, self._one_hot(y, x)], dim=1)).chunk(2, dim=1)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits of p [N, D] for latents z [N, J] and classes y int64 [N]."""
        return self.decoder(torch.cat([z, self._one_hot(y, z)], dim=1))

    def forward(self, x: Tensor, y: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of p [N, D], mu and ln sigma^2 [N, J]; eps [N, J] is standard normal noise."""
        mu, log_var = self.encode(x, y)
        # z = mu + sigma eps
        z = mu + (0.5 * log_var).exp() * eps
        return self.decode(z, y), mu, log_var

    def losses(self, x: Tensor, y: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reconstruction loss and KL divergence of each row, [N] and [N] in nats, to train on; values go unchecked."""
        logits, mu, log_var = self(x, y, self._noise(len(x), source))
        return _reconstruction_loss(x, logits), _kl_divergence(mu, log_var)

    @torch.no_grad()
    def settle(self, x: Tensor, y: Tensor) -> None:
        """After training: note where the latents of each class in y int64 [N] lie, from its rows x [N, D].

        Raises FloatingPointError for a class whose latents have no proper covariance; nothing is noted then.
        """
        checks.floats("x", x, ndim=2)
        checks.labels("y", y, len(x), self.n_classes)
        with evaluating(self):
            mu, log_var = self.encode(x, y)
        if not bool(mu.isfinite().all()):
            raise FloatingPointError("the latents of x are no longer finite: train the VAE with a lower lr")
        found = {}
        for c in y.unique().tolist():
            mean, spread = gaussian(mu[y == c].double())
            # S_y = covariance of mu + mean of sigma^2, the covariance of z = mu + sigma eps
            S = spread + log_var[y == c].double().exp().mean(dim=0).diag()
            root, failed = torch.linalg.cholesky_ex(S)
            found[c] = mean, root.to(self.root_S.dtype)
            if bool(failed) or not bool(found[c][1].isfinite().all()):
                raise FloatingPointError(
                    f"the latents of class {c} have no finite covariance of full rank: train the VAE with a lower lr"
                )
        for c, (mean, root) in found.items():
            self.m[c], self.root_S[c], self.seen[c] = mean, root, True

    @torch.no_grad()
    def draw(self, y: Tensor, source: torch.Generator) -> Tensor:
        """One new row for each of the classes y int64 [n]: p [n, D] in [0, 1], in eval mode whatever mode it is in.

        Raises ValueError for a class that was never settled.
        """
        y = checks.labels("y", y, n_classes=self.n_classes).to(self.m.device)
        if not bool(self.seen[y].all()):
            raise ValueError(f"y must hold classes settled, {self.seen.nonzero().flatten().tolist()}, got others")
        # z' = m_y + sqrt(S_y) eps
        z = self.m[y] + (self.root_S[y] @ self._noise(len(y), source)[:, :, None]).squeeze(2)
        with evaluating(self):
            return self.decode(z, y).sigmoid()

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and of where the latents lie."""
        return sum(values.nbytes for values in self.state_dict().values())

    def _noise(self, n: int, source: torch.Generator) -> Tensor:
        checks.generator("source", source)
        like = next(self.parameters())
        return torch.randn(n, self.latent, generator=source, dtype=like.dtype).to(like.device)

    def _one_hot(self, y: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(y, self.n_classes).to(like.dtype)


def _layers(widths: list[int], source: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them, none after the last."""
    layers = [module for a, b in itertools.pairwise(widths) for module in (linear(a, b, source), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
