"""Exercises of lesson 09, GEM and A-GEM."""

import math

import torch

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.regularization import project, project_on_one

TITLE = "GEM and A-GEM"

# the worked examples of the lesson: g, G
TWO_ROWS = ([2.0, -1.0], [[1.0, 1.0], [-1.0, 1.0]])
NARROW = ([0.0, -1.0], [[1.0, 0.5], [-1.0, 0.5]])
BEHIND = ([-1.0, -2.0], [[1.0, 0.0], [1.0, 1.0]])


def by_the_mean(g: list[float], r: list[float]) -> list[float]:
    """A-GEM's step: g without its part along r where the two disagree; g itself where r is zero."""
    return project_on_one(_vector(g), _vector(r)).tolist()


def residuals(g: list[float], G: list[list[float]], v: list[float]) -> list[float]:
    """How far v and u = g + G^T v are from v >= 0, G u >= 0 and v * (G u) = 0: three numbers, all 0 at the solution."""
    dots = [_dot(row, _combined(g, G, v)) for row in G]
    return [max(0.0, *(-x for x in v)), max(0.0, *(-d for d in dots)), _slack(v, dots)]


def change(r: list[float], h: list[float], u: list[float], lr: float) -> float:
    """Change of a loss with gradient r and second derivatives h (no mixed ones) when theta moves by -lr u."""
    return -lr * _dot(r, u) + lr**2 / 2 * sum(c * x**2 for c, x in zip(h, u, strict=True))


def round_and_round(g: list[float], G: list[list[float]]) -> list[float]:
    """u, the vector nearest to g that has no negative inner product with any row of G."""
    return project(_vector(g), _vector(G)).tolist()


def _always(g, r):
    length = _dot(r, r)
    return [a - _dot(g, r) / length * b for a, b in zip(g, r, strict=True)] if length else list(g)


def _by_length(g, r):
    if _dot(g, r) >= 0:
        return list(g)
    return [a - _dot(g, r) / math.hypot(*r) * b for a, b in zip(g, r, strict=True)]


def _stands_still(g, r):
    return by_the_mean(g, r) if any(r) else [0.0] * len(g)


def _of_the_wanted(g, G, v):
    dots = [_dot(row, g) for row in G]
    return [max(0.0, *(-x for x in v)), max(0.0, *(-d for d in dots)), _slack(v, dots)]


def _signed(g, G, v):
    dots = [_dot(row, _combined(g, G, v)) for row in G]
    return [min(v), min(dots), _slack(v, dots)]


def _sweeps(g, G, rounds, lowest):
    """u after `rounds` rounds in which every multiplier in turn takes its best value, but at least `lowest`."""
    v, u = [0.0] * len(G), list(g)
    for _ in range(rounds):
        for k, row in enumerate(G):
            new = max(lowest, v[k] - _dot(row, u) / _dot(row, row))
            u = [a + (new - v[k]) * b for a, b in zip(u, row, strict=True)]
            v[k] = new
    return u


def _clipped_at_the_end(g, G):
    rows = _vector(G)
    v = torch.linalg.solve(rows @ rows.T, -rows @ _vector(g)).clamp(min=0)
    return (_vector(g) + rows.T @ v).tolist()


def _slack(v, dots) -> float:
    return max(abs(x * d) for x, d in zip(v, dots, strict=True))


def _combined(g, G, v) -> list[float]:
    return [a + sum(x * row[i] for x, row in zip(v, G, strict=True)) for i, a in enumerate(g)]


def _dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _vector(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _random(generator: torch.Generator, *shape: int) -> list:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).tolist()


def _random_pair(generator: torch.Generator) -> tuple:
    return _random(generator, 4), _random(generator, 4)


def _random_multipliers(generator: torch.Generator) -> tuple:
    return _random(generator, 4), _random(generator, 3, 4), _random(generator, 3)


def _random_step(generator: torch.Generator) -> tuple:
    return _random(generator, 4), _random(generator, 4), _random(generator, 4), 0.1


def _random_problem(generator: torch.Generator) -> tuple:
    return _random(generator, 8), _random(generator, 3, 8)


EXERCISES = (
    Exercise(
        id="L09.1",
        title="the nearest allowed step",
        reference=(0.5, 0.5),
        agrees_with="the worked example",
        hint="how much of g1 must be added to g so that the inner product with g1 becomes 0?",
        known_wrong=(
            KnownWrong((-1.0, 2.0), "you added 3 times g1: divide by g1 . g1 first"),
            KnownWrong(
                (3.5, -2.5), "you went away from g1: the part of g along it is negative, so taking it away adds"
            ),
            KnownWrong((2.0, -1.0), "that is g itself, whose inner product with g1 is -3"),
        ),
    ),
    Exercise(
        id="L09.2",
        title="A-GEM's step",
        reference=by_the_mean,
        agrees_with="cllab.regularization.project_on_one",
        hint="nothing to do unless g . r < 0; then take (g . r / r . r) r away from g",
        cases=(
            Case("they disagree", ([2.0, -1.0], [0.0, 1.0])),
            Case("r is not of length 1", ([-1.0, -2.0], [1.0, 0.5])),
            Case("they agree", ([1.0, 1.0], [1.0, 0.0])),
            Case("r is zero", ([1.0, 1.0], [0.0, 0.0])),
        ),
        random_case=_random_pair,
        known_wrong=(
            KnownWrong(_always, "you project always: where g . r is not negative, g is allowed and stays as it is"),
            KnownWrong(_by_length, "you divided by the length of r: it is its square, r . r"),
            KnownWrong(_stands_still, "r = 0 objects to nothing: then the step is g, not zero"),
        ),
    ),
    Exercise(
        id="L09.3",
        title="judge a solution",
        reference=residuals,
        agrees_with="the conditions of Karush, Kuhn and Tucker",
        hint="u = g + G^T v first; then max(0, -smallest v), max(0, -smallest dot), largest |v_k dot_k|",
        cases=(
            Case("the solution", (*TWO_ROWS, [0.0, 1.5])),
            Case("nothing done", (*TWO_ROWS, [0.0, 0.0])),
            Case("too much done", (*TWO_ROWS, [0.0, 2.0])),
            Case("a row that pulls", (*TWO_ROWS, [-0.5, 1.5])),
        ),
        random_case=_random_multipliers,
        known_wrong=(
            KnownWrong(_of_the_wanted, "you took the inner products with g: the conditions are about u = g + G^T v"),
            KnownWrong(_signed, "you returned the smallest values themselves: a positive one misses nothing, so 0"),
        ),
    ),
    Exercise(
        id="L09.4",
        title="the second order",
        reference=change,
        agrees_with="the expansion to second order",
        hint="-lr (r . u) + lr^2 / 2 sum_i h_i u_i^2",
        cases=(
            Case("along g", ([-1.0, 1.0], [1.0, 1.0], [1.0, 0.0], 0.1)),
            Case("along u", ([-1.0, 1.0], [1.0, 1.0], [0.5, 0.5], 0.1)),
            Case("a steep valley", ([0.0, 1.0], [40.0, 0.0], [1.0, 1.0], 0.1)),
        ),
        random_case=_random_step,
        known_wrong=(
            KnownWrong(
                lambda r, h, u, lr: change(r, h, [-x for x in u], lr),
                "the sign of the first term: the step is -lr u, so r . u > 0 lets the loss fall",
            ),
            KnownWrong(
                lambda r, h, u, lr: 2 * change(r, h, u, lr) + lr * _dot(r, u),
                "the second term has a half: it is lr^2 / 2",
            ),
            KnownWrong(
                lambda r, h, u, lr: -lr * _dot(r, u) + lr / 2 * sum(c * x**2 for c, x in zip(h, u, strict=True)),
                "the second term grows with the square of lr",
            ),
        ),
    ),
    Exercise(
        id="L09.5",
        title="round and round",
        reference=round_and_round,
        agrees_with="cllab.regularization.project",
        hint="for each row: new = max(0, v[k] - row . u / row . row); u += (new - v[k]) row; v[k] = new; many rounds",
        cases=(
            Case("row 2", TWO_ROWS),
            Case("row 6", NARROW),
            Case("row 7", BEHIND),
        ),
        random_case=_random_problem,
        known_wrong=(
            KnownWrong(
                lambda g, G: _sweeps(g, G, 1, 0.0),
                "one round is not enough: what one row puts right the next may undo, and a multiplier may shrink again",
            ),
            KnownWrong(
                lambda g, G: _sweeps(g, G, 500, -math.inf),
                "without max(0, ...) rows pull as well as push: u loses its part along every row, harmful or not",
            ),
            KnownWrong(
                _clipped_at_the_end,
                "you solved for all rows and cut negative multipliers to 0 at the end: the others must answer to that",
            ),
        ),
    ),
)
