"""Exercises of lesson 06, EWC and the Fisher information."""

import math

import torch
from torch import Tensor

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.regularization import proximal_step

TITLE = "EWC and the Fisher information"

# the worked examples of the lesson
LN3 = math.log(3)
GRADIENTS = [0.25, 0.25, 0.25, -0.75]
THETA, THETA_STAR, F_THREE = torch.tensor([[1.0, 1.0, 0.5], [0.0, 0.0, 0.5], [4.0, 0.1, 9.0]], dtype=torch.float64)


def fisher(theta: float, x: list[float]) -> float:
    """True Fisher information of p(1 | x) = sigmoid(theta x), a mean over the inputs x."""
    return _mean([_p(theta, row) * (1 - _p(theta, row)) * row**2 for row in x])


def pull(theta: Tensor, theta_star: Tensor, F: Tensor, lam: float) -> Tensor:
    """Gradient of (lam / 2) sum_i F_i (theta_i - theta*_i)^2 with respect to theta, shaped like it."""
    return lam * F * (theta - theta_star)


def proximal(theta: float, theta_star: float, F: float, lr: float, lam: float) -> float:
    """Where the springs' own proximal step of rate lr takes one weight."""
    theta, theta_star, F = (torch.tensor(value, dtype=torch.float64) for value in (theta, theta_star, F))
    return float(proximal_step(theta, [(theta_star, F)], lr * lam))


def last_weight(tasks: list[tuple[float, float]], online: bool) -> float:
    """One weight after the quadratics (a, mu), in order, with EWC at lam = 1 and one summed or separate anchors."""
    return _last_weight(tasks, online)


def expected_batched(g: list[float], B: int) -> float:
    """Mean of (mean of B of the N numbers g)^2 over all ways to choose B of them without replacement."""
    N, mean = len(g), _mean(g)
    if N == 1:
        return mean**2
    # E = gbar^2 + (F_emp - gbar^2) (N - B) / (B (N - 1))
    return mean**2 + (_mean([value**2 for value in g]) - mean**2) * (N - B) / (B * (N - 1))


def _last_weight(tasks, online, centre="latest", total=True) -> float:
    """centre: which old minimum a summed anchor is placed at; total: whether it sums curvatures or keeps the last."""
    theta, anchors = 0.0, []
    for a, mu in tasks:
        # argmin a/2 (theta - mu)^2 + sum_k F_k/2 (theta - theta*_k)^2
        F = a + sum(F_k for F_k, _ in anchors)
        theta = (a * mu + sum(F_k * theta_k for F_k, theta_k in anchors)) / F
        if online:
            old = sum(F_k for F_k, _ in anchors) if total else 0.0
            place = theta if centre == "latest" or not anchors else anchors[0][1]
            anchors = [(old + a, place)]
        else:
            anchors.append((a, theta))
    return theta


def _p(theta: float, x: float) -> float:
    return 1 / (1 + math.exp(-theta * x))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _uniform(generator: torch.Generator, n: int) -> list[float]:
    return torch.rand(n, generator=generator, dtype=torch.float64).tolist()


def _random_neuron(generator: torch.Generator) -> tuple:
    return float(_normal(generator, 1)), _normal(generator, 5).tolist()


def _random_springs(generator: torch.Generator) -> tuple:
    return _normal(generator, 3), _normal(generator, 3), _normal(generator, 3).abs(), 0.1 + _uniform(generator, 1)[0]


def _random_spring(generator: torch.Generator) -> tuple:
    theta, theta_star = _normal(generator, 2).tolist()
    F, lr, lam = _uniform(generator, 3)
    return theta, theta_star, F, lr, 100 * lam


def _random_tasks(generator: torch.Generator) -> tuple:
    curvatures = [0.5 + value for value in _uniform(generator, 4)]
    return list(zip(curvatures, _normal(generator, 4).tolist(), strict=True)), bool(_uniform(generator, 1)[0] < 0.5)


def _random_gradients(generator: torch.Generator) -> tuple:
    return _normal(generator, 6).tolist(), int(torch.randint(2, 5, (1,), generator=generator))


EXERCISES = (
    Exercise(
        id="L06.1",
        title="the missing half",
        reference=1 / 9,
        agrees_with="the right value",
        hint="the penalty 4 theta^2 has the gradient 8 theta: solve (theta - 1) + 8 theta = 0",
        known_wrong=(
            KnownWrong(0.2, "that is the minimum with the half; without it the spring is twice as stiff"),
            KnownWrong(1 / 3, "that is half the stiffness; leaving the half out doubles it"),
        ),
    ),
    Exercise(
        id="L06.2",
        title="the Fisher information of a neuron",
        reference=fisher,
        agrees_with="cllab.regularization.fisher_diagonal",
        hint='per input: p (1 - p)^2 x^2 for the answer "1" plus (1 - p) p^2 x^2 for the answer "0"; then the mean',
        cases=(
            Case("theta = ln 3, x = (1, 2)", (LN3, [1.0, 2.0])),
            Case("a neuron that knows nothing", (0.0, [1.0, -1.0, 3.0])),
        ),
        random_case=_random_neuron,
        known_wrong=(
            KnownWrong(
                lambda theta, x: _mean([_p(theta, row) * (1 - _p(theta, row)) for row in x]),
                "the gradient is (y - p) x: its square carries x squared",
            ),
            KnownWrong(
                lambda theta, x: _mean([(1 - _p(theta, row)) ** 2 * row**2 for row in x]),
                "that is one observed label, always 1; here both answers count, with the model's probabilities",
            ),
            KnownWrong(
                lambda theta, x: len(x) * fisher(theta, x),
                "that is the sum over the inputs; F is their mean",
            ),
        ),
    ),
    Exercise(
        id="L06.3",
        title="the pull of a spring",
        reference=pull,
        agrees_with="the gradient of cllab.regularization.quadratic_penalty",
        hint="the derivative of F_i (theta_i - theta*_i)^2 / 2 is F_i (theta_i - theta*_i)",
        cases=(
            Case("three weights", (THETA, THETA_STAR, F_THREE, 2.0)),
            Case("at the anchor", (THETA_STAR, THETA_STAR, F_THREE, 5.0)),
        ),
        random_case=_random_springs,
        known_wrong=(
            KnownWrong(
                lambda theta, theta_star, F, lam: 2 * pull(theta, theta_star, F, lam),
                "twice too strong: the half cancels the 2 of the derivative",
            ),
            KnownWrong(
                lambda theta, theta_star, F, lam: -pull(theta, theta_star, F, lam),
                "the sign is the force's, not the gradient's: descent subtracts it once more",
            ),
            KnownWrong(
                lambda theta, theta_star, F, lam: lam * (theta - theta_star),
                "without F all springs are alike, and the useless weights are held as hard as the others",
            ),
        ),
    ),
    Exercise(
        id="L06.4",
        title="the proximal step",
        reference=proximal,
        agrees_with="cllab.regularization.proximal_step",
        hint="set the derivative to 0: (t - theta) + lr lam F (t - theta*) = 0, and solve for t",
        cases=(
            Case("lr lam F = 2.4", (1.0, 0.0, 4.0, 0.1, 6.0)),
            Case("a free weight", (1.0, 0.0, 0.0, 0.1, 6.0)),
            Case("an anchor elsewhere", (2.0, -1.0, 0.5, 0.2, 10.0)),
        ),
        random_case=_random_spring,
        known_wrong=(
            KnownWrong(
                lambda theta, theta_star, F, lr, lam: theta - lr * lam * F * (theta - theta_star),
                "that is the explicit step, with the gradient at the old weight; take it at the new one",
            ),
            KnownWrong(
                lambda theta, theta_star, F, lr, lam: theta / (1 + lr * lam * F),
                "this pulls to 0; the spring is fixed at theta_star",
            ),
            KnownWrong(
                lambda theta, theta_star, F, lr, lam: proximal(theta, theta_star, F, 1.0, lam),
                "lr is missing: the step would be as long with every learning rate",
            ),
        ),
    ),
    Exercise(
        id="L06.5",
        title="one anchor or many",
        reference=last_weight,
        agrees_with="minimising the penalties of cllab.regularization.EWC",
        hint="the minimum is a weighted mean: the curvatures a, F_k weigh the centres mu, theta*_k",
        cases=(
            Case("minima 0, 3, 6, separate", ([(1.0, 0.0), (1.0, 3.0), (1.0, 6.0)], False)),
            Case("minima 0, 3, 6, online", ([(1.0, 0.0), (1.0, 3.0), (1.0, 6.0)], True)),
            Case("the two tasks of section 4", ([(4.0, 0.0), (1.0, 1.0)], False)),
        ),
        random_case=_random_tasks,
        known_wrong=(
            KnownWrong(
                lambda tasks, online: _last_weight(tasks, online, total=False),
                "your online anchor keeps only the newest curvature: they must be summed",
            ),
            KnownWrong(
                lambda tasks, online: _last_weight(tasks, online, centre="first"),
                "your online anchor stays at the first task's weight; it moves to the latest one",
            ),
            KnownWrong(
                lambda tasks, online: sum(a * mu for a, mu in tasks) / sum(a for a, _ in tasks),
                "that is the joint optimum; separate anchors do not reach it",
            ),
        ),
    ),
    Exercise(
        id="L06.6",
        title="the law of the batched Fisher",
        reference=expected_batched,
        agrees_with="the mean over all batches, counted one by one",
        hint="itertools.combinations(g, B) lists the batches; take each one's mean, square it, and average",
        cases=(
            Case("the lesson's four rows, B = 2", (GRADIENTS, 2)),
            Case("the full batch", (GRADIENTS, 4)),
            Case("one row at a time", (GRADIENTS, 1)),
        ),
        random_case=_random_gradients,
        known_wrong=(
            KnownWrong(
                lambda g, B: _mean([value**2 for value in g]),
                "you squared before you averaged: that is the empirical Fisher, for every B",
            ),
            KnownWrong(
                lambda g, B: _mean(g) ** 2 + (_mean([value**2 for value in g]) - _mean(g) ** 2) / B,
                "these batches may hold a row twice; a batch is drawn without replacement",
            ),
            KnownWrong(
                lambda g, B: _mean([_mean(g[i : i + B]) ** 2 for i in range(0, len(g), B)]),
                "these are the batches of one fixed order; the expectation goes over all of them",
            ),
        ),
    ),
)
