"""Diversity: angles that fit on paper, the definition as a slow loop, and its lookalikes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.replay.diversity import DiversityStep, diversity_steps


def rows(points, dtype=torch.float64):
    return torch.tensor(points, dtype=dtype)


def angles(degrees, lengths=None):
    lengths = lengths or [1.0] * len(degrees)
    turns = [math.radians(a) for a in degrees]
    return rows([[r * math.cos(a), r * math.sin(a)] for a, r in zip(turns, lengths, strict=True)])


def random_rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order(features, m, ties="first"):
    return [step.chosen for step in diversity_steps(features, m, ties)]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def definition(features, m, similarity=cosine, together=max):
    """The greedy rule, pair by pair; `similarity` and `together` make the wrong variants."""
    points, chosen = features.tolist(), [0]
    while len(chosen) < m:
        left = [i for i in range(len(points)) if i not in chosen]
        chosen.append(min(left, key=lambda i: together([similarity(points[i], points[c]) for c in chosen])))
    return chosen


def inner_product(a, b):
    """Wrong: without the lengths a short row looks different from everything, a long one like everything."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def mean(values):
    """Wrong: GSS takes the most similar one, not the average."""
    return sum(values) / len(values)


def unsigned(a, b):
    """Wrong: opposite directions are as different as can be, not alike."""
    return abs(cosine(a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_hand(dtype):
    """From 0 degrees: 180 is opposite; of 80 and 40 the one nearer to a right angle."""
    features = angles([0, 40, 80, 180], [1, 5, 0.1, 2]).to(dtype)
    steps = list(diversity_steps(features, 4))
    assert [step.chosen for step in steps] == [0, 3, 2, 1]
    cos40, cos80 = math.cos(math.radians(40)), math.cos(math.radians(80))
    near = {"rel": 0, "abs": 1e-9 if dtype is torch.float64 else 1e-6}
    assert steps[0].similarity.tolist() == pytest.approx([1, cos40, cos80, -1], **near)
    assert steps[1].similarity.tolist() == pytest.approx([1, cos40, cos80, 1], **near)
    assert steps[2].similarity.tolist() == pytest.approx([1, cos40, 1, 1], **near)
    assert all(step.similarity.dtype == dtype for step in steps)


def test_types_of_a_step():
    step = next(diversity_steps(angles([0, 10]), 1))
    assert isinstance(step, DiversityStep) and step._fields == ("k", "chosen", "similarity")
    assert (type(step.k), type(step.chosen)) == (int, int)


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_definition_and_not_its_lookalikes(seed):
    features = random_rows(25, 3, seed) * torch.linspace(0.1, 5, 25, dtype=torch.float64)[:, None]
    chosen = order(features, 10)
    assert chosen == definition(features, 10)
    assert chosen != definition(features, 10, similarity=inner_product)
    assert chosen != definition(features, 10, together=mean)
    assert chosen != definition(features, 10, similarity=unsigned)


@pytest.mark.parametrize("seed", range(3))
def test_prefixes_are_diverse_too(seed):
    features = random_rows(25, 4, seed)
    whole = order(features, 25)
    assert sorted(whole) == list(range(25))
    assert all(order(features, k) == whole[:k] for k in (1, 2, 9, 24))


@settings(max_examples=25)
@given(data=st.data())
def test_reordering_the_other_rows_reorders_the_answer(data):
    """Row 0 is where it starts, so it stays."""
    features = random_rows(20, 4, data.draw(st.integers(0, 50)))
    shuffle = torch.tensor([0, *data.draw(st.permutations(range(1, 20)))])
    assert shuffle[order(features[shuffle], 20)].tolist() == order(features, 20)


def test_lengths_do_not_matter():
    features = random_rows(30, 5)
    lengths = torch.rand(30, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    assert order(features * lengths, 12) == order(features, 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [5, 7, 1001, 1030])
def test_equal_rows_are_different_rows_and_tie_exactly_wherever_they_stand(n, dtype):
    """A matrix product would differ in the last digit between the end of the array and its middle."""
    features = random_rows(2, 64).to(dtype)[[0] + [1] * (n - 1)]
    assert order(features, 4) == [0, 1, 2, 3]
    assert order(features, 4, "last") == [0, n - 1, n - 2, n - 3]


@pytest.mark.parametrize("scale", [1e-22, 1e22])
def test_squares_beyond_single_precision_are_no_trouble(scale):
    features = random_rows(20, 4).float()
    assert order(features * scale, 8) == order(features, 8)


@pytest.mark.parametrize(
    ("features", "m", "ties", "error", "said"),
    [
        (angles([0, 1]), 3, "first", ValueError, "m must be between 1 and 2, got 3"),
        (angles([0, 1]), 0, "first", ValueError, "m must be"),
        (angles([0, 1]), 1, "lowest", ValueError, "ties must be one of"),
        (rows([[1.0, 0.0], [0.0, 0.0]]), 1, "first", ValueError, "no row of norm 0 .* got row 1"),
        (rows([[1e200, 1e200]]), 1, "first", ValueError, "features must be smaller"),
        (rows([[torch.inf]]), 1, "first", ValueError, "features must be finite"),
        (torch.zeros(0, 2), 1, "first", ValueError, "features must not be empty"),
        (torch.ones(2, 2, dtype=torch.int64), 1, "first", TypeError, "features must hold floating-point"),
    ],
)
def test_bad_input_is_refused_at_the_call(features, m, ties, error, said):
    with pytest.raises(error, match=said):
        diversity_steps(features, m, ties)
