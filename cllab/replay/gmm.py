"""Class-conditional Gaussians: a generator that is fitted by counting, without any training.

Idea: of each class keep only its mean and its covariance, and draw new rows from that normal distribution.

    mu_c = (1/n_c) sum_i x_i        Sigma_c = (1/n_c) sum_i (x_i - mu_c)(x_i - mu_c)'
    x' ~ N(mu_c, Sigma_c + eps I)

Symbols: x_i [D] the n_c rows of class c; mu_c [D]; Sigma_c [D, D]; eps keeps the distribution proper where a feature
never varies. Several components per class are fitted by scikit-learn's EM and drawn by their weights.
Source: the generator of Shin et al. 2017, "Continual learning with deep generative replay", replaced by the simplest
one there is. Sigma_c divides by n_c (maximum likelihood), not by n_c - 1.

Drift, in closed form: fit a normal distribution to n of its own samples, T times over, and the variance shrinks to

    E[sigma_T^2] = ((n - 1) / n)^T sigma_0^2
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks


class Mixture(NamedTuple):
    """One class: weight [K] of its components, mean [K, D], covariance [K, D, D] (without eps), count of its rows.

    The covariance is float64 whatever the rows are: rounded to float32, that of few rows with values up to 255 would
    not stay positive definite with a small eps.
    """

    weight: Tensor
    mean: Tensor
    covariance: Tensor
    count: int


def gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and maximum-likelihood covariance [D, D] of the rows x [N, D]; ValueError where it overflows."""
    checks.floats("x", x, ndim=2)
    # mu = (1/n) sum x
    mean = x.mean(dim=0)
    # Sigma = (1/n) sum (x - mu)(x - mu)'
    covariance = (x - mean).T @ (x - mean) / len(x)
    if not bool(covariance.isfinite().all()):
        raise ValueError(f"x must be small enough for a covariance in {x.dtype}, got up to {float(x.abs().max()):g}")
    return mean, covariance


def expected_shrink(n: int, generations: int) -> float:
    """What is expected to be left of a variance of 1 after refitting to n own samples, `generations` times."""
    checks.integer("n", n, 1)
    checks.integer("generations", generations, 0)
    # E[sigma_T^2] = ((n - 1) / n)^T
    return ((n - 1) / n) ** generations


def refit_variances(n: int, generations: int, runs: int, generator: torch.Generator) -> Tensor:
    """Simulated sigma^2 [generations + 1, runs], float64: each run starts at N(0, 1) and refits to n own samples.

    The mean over runs follows `expected_shrink`; the median falls much faster, because shrinking multiplies.
    """
    for name, value, low in (("n", n, 1), ("generations", generations, 0), ("runs", runs, 1)):
        checks.integer(name, value, low)
    checks.generator("generator", generator)
    mean, variance = torch.zeros(runs, dtype=torch.float64), torch.ones(runs, dtype=torch.float64)
    found = [variance]
    for _ in range(generations):
        x = mean + variance.sqrt() * torch.randn(n, runs, generator=generator, dtype=torch.float64)
        mean, variance = x.mean(dim=0), x.var(dim=0, correction=0)
        found.append(variance)
    return torch.stack(found)


class ClassGaussians:
    """A normal distribution per class, or a mixture of `components` of them.

    eps: >= 0, added to the diagonal when rows are drawn; 0 needs covariances of full rank.
    """

    def __init__(self, components: int = 1, eps: float = 1e-4):
        self.components = checks.integer("components", components, 1)
        self.eps = checks.number("eps", eps, 0.0)
        self.mixtures: dict[int, Mixture] = {}
        self._factors: dict[int, Tensor] = {}

    def fit(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> None:
        """Fit every class that occurs in y int64 [N] to its rows x [N, D]; the other classes stay as they are.

        generator: seeds the EM of several components and is needed for these only. A class with fewer rows than
        components gets one component per row. Raises before anything changes.
        """
        checks.floats("x", x, ndim=2)
        checks.labels("y", y, n=len(x))
        if self.components > 1 and not isinstance(generator, torch.Generator):
            raise TypeError("generator must be given for more than one component: it seeds the EM algorithm")
        known = next(iter(self.mixtures.values()), None)
        if known is not None and known.mean.shape[1] != x.shape[1]:
            raise ValueError(f"x must have {known.mean.shape[1]} features as before, got {x.shape[1]}")
        if known is not None and known.mean.dtype != x.dtype:
            raise ValueError(f"x must have the dtype {known.mean.dtype} as before, got {x.dtype}")
        fitted = {c: self._mixture(x[y == c], generator) for c in y.unique().tolist()}
        factors = {c: self._factor(c, mixture) for c, mixture in fitted.items()}
        self.mixtures |= fitted
        self._factors |= factors

    def sample(
        self,
        n: int,
        generator: torch.Generator,
        classes: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """n rows x [n, D] and their classes y int64 [n].

        classes: those to draw from, default all. weights: how often each, default as often as it was fitted to rows.
        """
        checks.integer("n", n, 0)
        checks.generator("generator", generator)
        if classes is not None and not isinstance(classes, Sequence):
            raise TypeError(f"classes must be a list of classes, got {classes!r}")
        classes = sorted(self.mixtures) if classes is None else [checks.integer("classes", c, 0) for c in classes]
        self._known(classes)
        weights = [self.mixtures[c].count for c in classes] if weights is None else weights
        y = torch.tensor(classes)[draw_index(weights, len(classes), n, generator)]
        return self.draw(y, generator), y.to(self.mixtures[classes[0]].mean.device)

    @torch.no_grad()
    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """One row for each of the classes y int64 [n]: x [n, D]. Raises ValueError for a class never fitted."""
        checks.generator("generator", generator)
        if not isinstance(y, Tensor) or len(y):
            checks.labels("y", y)
        wanted = y.unique().tolist()
        self._known(wanted)
        like = self.mixtures[wanted[0]].mean if wanted else next(iter(self.mixtures.values())).mean
        y = y.to(like.device)
        noise = torch.randn(len(y), like.shape[1], generator=generator, dtype=like.dtype).to(like.device)
        x = torch.empty_like(noise)
        for c in wanted:
            rows = (y == c).nonzero().flatten()
            mixture, factors = self.mixtures[c], self._factors[c]
            component = draw_index(mixture.weight.tolist(), len(factors), len(rows), generator).to(like.device)
            for k, factor in enumerate(factors):
                those = rows[component == k]
                # x' = mu + L z with L L' = Sigma + eps I and z ~ N(0, I)
                x[those] = mixture.mean[k] + noise[those] @ factor.T
        return x

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, means and covariances; the factors used in drawing are worked out from these."""
        return sum(t.nbytes for mixture in self.mixtures.values() for t in mixture[:3])

    def state_dict(self) -> dict:
        """The mixture of every class."""
        return {"mixtures": {c: mixture._asdict() for c, mixture in self.mixtures.items()}}

    def load_state_dict(self, state: dict, device: torch.device | str | None = None) -> None:
        """Take up what `state_dict` described, on `device`; ValueError before anything is changed."""
        try:
            kept = state["mixtures"].items()
            mixtures = {c: Mixture(**{k: v if k == "count" else v.to(device) for k, v in m.items()}) for c, m in kept}
            factors = {c: self._factor(c, mixture) for c, mixture in mixtures.items()}
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            message = f"state must come from state_dict of ClassGaussians, this one does not: {error}"
            raise ValueError(message) from error
        self.mixtures, self._factors = mixtures, factors

    def _mixture(self, x: Tensor, generator: torch.Generator | None) -> Mixture:
        k = min(self.components, len(x))
        mean, covariance = gaussian(x.double())
        if k == 1:
            return Mixture(x.new_ones(1), mean[None].to(x.dtype), covariance[None], len(x))
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        seed = int(torch.randint(2**31, (1,), generator=generator))
        with warnings.catch_warnings():  # equal rows give fewer clusters than components, which does no harm
            warnings.simplefilter("ignore", ConvergenceWarning)
            em = GaussianMixture(k, random_state=seed).fit(x.double().cpu().numpy())
        weight, mean = (torch.as_tensor(a).to(x) for a in (em.weights_, em.means_))
        return Mixture(weight, mean, torch.as_tensor(em.covariances_).to(covariance), len(x))

    def _factor(self, c: int, mixture: Mixture) -> Tensor:
        """The Cholesky factor L [K, D, D] of Sigma + eps I, or ValueError."""
        covariance = mixture.covariance.double()
        factor, failed = torch.linalg.cholesky_ex(
            covariance + self.eps * torch.eye(covariance.shape[-1]).to(covariance)
        )
        if bool(failed.any()):
            raise ValueError(f"eps must be larger than {self.eps:g}: the covariance of class {c} is singular")
        return factor.to(mixture.mean.dtype)

    def _known(self, classes: Sequence[int]) -> None:
        if not self.mixtures:
            raise ValueError("classes must have been fitted before rows are drawn, none has")
        if unseen := sorted(set(classes) - set(self.mixtures)):
            raise ValueError(f"classes must be among the fitted ones {sorted(self.mixtures)}, got {unseen}")


def draw_index(weights: Sequence[float], n_weights: int, n: int, generator: torch.Generator) -> Tensor:
    """n numbers of 0 .. n_weights - 1, each as often as its weight says: int64 [n] on the CPU."""
    shares = torch.from_numpy(checks.real_numbers("weights", weights))
    if shares.shape != (n_weights,) or not bool((shares >= 0).all()) or not 0 < float(shares.sum()) < float("inf"):
        raise ValueError(f"weights must be {n_weights} numbers of at least 0 with a positive sum, got {weights}")
    if not n:
        return torch.zeros(0, dtype=torch.int64)
    return shares.multinomial(n, replacement=True, generator=generator)
