"""Exercises of lesson 05, Latent and generative replay."""

import math

import torch
from torch import Tensor

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.replay import gaussian, kl_divergence

TITLE = "Latent and generative replay"

# the worked examples of the lesson
THREE_POINTS = torch.tensor([[0.0, 0.0], [2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
MU, LOG_VAR = [1.0, 0.0], [0.0, math.log(4)]
TWO_GENERATIONS = [[1.0, -1.0, 0.0], [2.0, 0.0, 1.0]]


def covariance(x: Tensor) -> Tensor:
    """Maximum-likelihood covariance [D, D] of the rows x [N, D]."""
    return gaussian(x)[1]


def scholar_loss(new: list[float], made: list[float], t: int) -> float:
    """Loss of a step in task t = 1, 2, .. from the losses of its new and its generated rows; r = 1/t."""
    if not made:
        return _mean(new)
    return _mean(new) / t + (1 - 1 / t) * _mean(made)


def kl(mu: list[float], log_var: list[float]) -> float:
    """KL(N(mu, sigma^2) || N(0, I)) in nats; log_var holds ln sigma^2."""
    return float(kl_divergence(_vector(mu), _vector(log_var)))


def task_weights(rs: list[float]) -> list[float]:
    """Share of every task in what the last scholar learned from; rs: importance r of each task when it was new."""
    weights = []
    for r in rs:
        weights = [*(w * (1 - r) for w in weights), r]
    return weights


def lineage(z: list[list[float]]) -> list[float]:
    """Variances [1, after generation 1, ..]: N(0, 1) refitted to samples that are drawn with the numbers in z."""
    return _lineage(z)


def _lineage(z, correction=0, centred=True, root=True) -> list[float]:
    mean, variance = 0.0, 1.0
    found = [variance]
    for row in z:
        x = [mean + (math.sqrt(variance) if root else variance) * value for value in row]
        mean = _mean(x) if centred else 0.0
        variance = sum((value - mean) ** 2 for value in x) / (len(x) - correction)
        found.append(variance)
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _below(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (1,), generator=generator))


def _random_rows(generator: torch.Generator) -> tuple:
    return (_normal(generator, 6, 3) + 1,)


def _random_losses(generator: torch.Generator) -> tuple:
    new, made = _normal(generator, 4).abs().tolist(), _normal(generator, 2).abs().tolist()
    return new, made, _below(generator, 3, 7)


def _random_latents(generator: torch.Generator) -> tuple:
    return _normal(generator, 3).tolist(), _normal(generator, 3).tolist()


def _random_importances(generator: torch.Generator) -> tuple:
    rest = torch.rand(_below(generator, 2, 5), generator=generator, dtype=torch.float64)
    return ([1.0, *rest.tolist()],)


def _random_draws(generator: torch.Generator) -> tuple:
    return (_normal(generator, 4, 5).tolist(),)


EXERCISES = (
    Exercise(
        id="L05.1",
        title="the age of a latent",
        reference=0.3,
        agrees_with="the right value",
        hint="the mean of |1 - 1.3| and |1 - 1.3|",
        known_wrong=(
            KnownWrong(0.6, "that is the sum over the two latent numbers; the age is their mean"),
            KnownWrong(0.1, "that is how far each weight moved; the latent moves by 0.1 * 1 + 0.1 * 2"),
            KnownWrong(-0.3, "a distance has no sign: take absolute differences"),
        ),
    ),
    Exercise(
        id="L05.2",
        title="fit a class",
        reference=covariance,
        agrees_with="cllab.replay.gaussian",
        hint="subtract the mean row, then (x - mu).T @ (x - mu), divided by the number of rows",
        cases=(
            Case("the lesson's three points", (THREE_POINTS,)),
            Case("one row has no spread", (THREE_POINTS[1:2],)),
            Case("far from the origin", (THREE_POINTS + 10,)),
        ),
        random_case=_random_rows,
        known_wrong=(
            KnownWrong(
                lambda x: (x - x.mean(dim=0)).T @ (x - x.mean(dim=0)) / max(len(x) - 1, 1),
                "you divided by N - 1; maximum likelihood divides by N",
            ),
            KnownWrong(lambda x: x.T @ x / len(x), "the mean was not subtracted"),
            KnownWrong(
                lambda x: gaussian(x)[1].diag().diag(),
                "only the variances: how two features move together is lost",
            ),
        ),
    ),
    Exercise(
        id="L05.3",
        title="the scholar's loss",
        reference=scholar_loss,
        agrees_with="the loss of cllab.replay.GenerativeReplay",
        hint="r = 1/t weighs the mean of the new rows, 1 - r the mean of the made-up rows; task 1 has none",
        cases=(
            Case("task 2", ([2.0, 4.0], [1.0], 2)),
            Case("task 5", ([1.0], [0.5, 0.5], 5)),
            Case("the first task", ([2.0, 4.0], [], 1)),
        ),
        random_case=_random_losses,
        known_wrong=(
            KnownWrong(
                lambda new, made, t: (1 - 1 / t) * _mean(new) + _mean(made) / t if made else _mean(new),
                "the shares are swapped: r = 1/t belongs to the new task",
            ),
            KnownWrong(
                lambda new, made, t: 0.5 * _mean(new) + 0.5 * _mean(made or new),
                "half and half: then four old tasks together weigh as much as one new task",
            ),
            KnownWrong(
                lambda new, made, t: _mean([*new, *made]),
                "one mean over all rows: now the batch sizes decide how much the past counts",
            ),
        ),
    ),
    Exercise(
        id="L05.4",
        title="distance from the prior",
        reference=kl,
        agrees_with="cllab.replay.kl_divergence",
        hint="half the sum over j of mu^2 + exp(log_var) - 1 - log_var",
        cases=(
            Case("mu = (1, 0), sigma^2 = (1, 4)", (MU, LOG_VAR)),
            Case("the prior itself", ([0.0, 0.0], [0.0, 0.0])),
            Case("a narrow one", ([0.5], [-2.0])),
        ),
        random_case=_random_latents,
        known_wrong=(
            KnownWrong(lambda mu, log_var: 2 * kl(mu, log_var), "the factor 1/2 is missing"),
            KnownWrong(
                lambda mu, log_var: kl(mu, [v / 2 for v in log_var]),
                "log_var is ln sigma^2, not 2 ln sigma: exp(log_var) is already the variance",
            ),
            KnownWrong(
                lambda mu, log_var: kl(mu, log_var) / len(mu),
                "the sum over latent numbers, not their mean: a mean makes the prior J times weaker",
            ),
        ),
    ),
    Exercise(
        id="L05.5",
        title="what each task weighs",
        reference=task_weights,
        agrees_with="the product of all later 1 - r",
        hint="every new task multiplies all weights so far by 1 - r and takes r for itself",
        cases=(
            Case("half and half", ([1.0, 0.5, 0.5],)),
            Case("r = 1/t", ([1.0, 1 / 2, 1 / 3, 1 / 4],)),
            Case("one task", ([1.0],)),
        ),
        random_case=_random_importances,
        known_wrong=(
            KnownWrong(lambda rs: list(rs), "a task's weight when it was new; later tasks shrink it"),
            KnownWrong(
                lambda rs: [*((1 - rs[-1]) / (len(rs) - 1) for _ in rs[1:]), rs[-1]],
                "the past is not shared out equally: it is what the last scholar had learned",
            ),
            KnownWrong(
                lambda rs: [r * (1 - rs[-1]) for r in rs[:-1]] + rs[-1:],
                "not only the last task shrinks a weight: each later one does",
            ),
        ),
    ),
    Exercise(
        id="L05.6",
        title="one lineage",
        reference=lineage,
        agrees_with="one run of cllab.replay.refit_variances",
        hint="x = mean + sqrt(variance) * z, row by row; then a new mean, and the variance around it, divided by n",
        cases=(
            Case("two generations of three", (TWO_GENERATIONS,)),
            Case("all samples equal", ([[0.5, 0.5], [1.0, -1.0]],)),
            Case("no generation yet", ([],)),
        ),
        random_case=_random_draws,
        known_wrong=(
            KnownWrong(lambda z: _lineage(z, correction=1), "you divided by n - 1; maximum likelihood divides by n"),
            KnownWrong(
                lambda z: _lineage(z, centred=False),
                "the mean moves too: refit it, and measure the variance around the new one",
            ),
            KnownWrong(lambda z: _lineage(z, root=False), "a sample is mean + sigma z: take the root of the variance"),
        ),
    ),
)
