"""k-center: the worked row of points, a brute-force optimum, prefixes, and the ways it is commonly got wrong."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.replay.k_center import KCenterStep, distances_to, k_center_steps

LINE = [[0.0], [1.0], [2.0], [10.0]]


def rows(points, dtype=torch.float64):
    return torch.tensor(points, dtype=dtype)


def random_rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order(features, m, ties="first"):
    return [step.chosen for step in k_center_steps(features, m, ties)]


def radius(features, chosen):
    """The definition: the row farthest from its nearest centre."""
    points = features.tolist()
    return max(min(math.dist(x, points[c]) for c in chosen) for x in points)


def smallest_radius(features, k):
    return min(radius(features, chosen) for chosen in itertools.combinations(range(len(features)), k))


def farthest_from_mean(features, m):
    """Wrong: the distance to the chosen rows' mean, not to the nearest of them."""
    chosen = [0]
    while len(chosen) < m:
        distance = (features - features[chosen].mean(dim=0)).norm(dim=1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


def farthest_from_last(features, m):
    """Wrong: forgets every centre but the last."""
    chosen = [0]
    while len(chosen) < m:
        distance = (features - features[chosen[-1]]).norm(dim=1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


def masked_by_value(features, m):
    """Wrong: no mask by index; once all distances are 0 row 0 is taken again and again."""
    nearest, chosen = torch.full((len(features),), torch.inf), [0]
    while len(chosen) < m:
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).norm(dim=1))
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_worked_line(dtype):
    steps = list(k_center_steps(rows(LINE, dtype), 4))
    assert [step.chosen for step in steps] == [0, 3, 2, 1]
    assert [step.radius for step in steps] == [10, 2, 1, 0]
    assert [step.distances.tolist() for step in steps] == [[0, 1, 2, 10], [0, 1, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert all(step.distances.dtype == dtype for step in steps)


def test_types_of_a_step():
    step = next(k_center_steps(rows(LINE), 1))
    assert isinstance(step, KCenterStep) and step._fields == ("k", "chosen", "distances", "radius")
    assert (type(step.k), type(step.chosen), type(step.radius)) == (int, int, float)


def test_kept_steps_do_not_change_later():
    steps = k_center_steps(rows(LINE), 4)
    first = next(steps)
    before = first.distances.clone()
    list(steps)
    assert torch.equal(first.distances, before)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wrong", [farthest_from_mean, farthest_from_last])
def test_the_choice_is_the_definition_and_not_its_lookalikes(seed, wrong):
    features = random_rows(30, 3, seed)
    points, chosen = features.tolist(), [0]
    while len(chosen) < 10:
        chosen.append(max(range(30), key=lambda i: min(math.dist(points[i], points[c]) for c in chosen)))
    assert order(features, 10) == chosen != wrong(features, 10)


@given(
    points=st.lists(st.tuples(*[st.integers(-9, 9)] * 2), min_size=1, max_size=8),
    k=st.integers(1, 4),
)
def test_radius_falls_and_is_at_most_twice_the_best(points, k):
    features = rows(points)
    k = min(k, len(points))
    steps = list(k_center_steps(features, len(points)))
    radii = [step.radius for step in steps]
    assert all(a >= b for a, b in itertools.pairwise(radii)) and radii[-1] == 0
    chosen = [step.chosen for step in steps[:k]]
    assert steps[k - 1].radius == pytest.approx(radius(features, chosen), abs=1e-9)
    assert steps[k - 1].radius <= 2 * smallest_radius(features, k) + 1e-9


@pytest.mark.parametrize("wrong", [farthest_from_mean, farthest_from_last])
def test_the_lookalikes_break_the_factor_of_two(wrong):
    features = rows([[0, 0], [10, 0], [-10, 0], [9.9, 0], [0, 5]])
    assert radius(features, order(features, 4)) == pytest.approx(0.1) == smallest_radius(features, 4)
    assert radius(features, wrong(features, 4)) == 5


@pytest.mark.parametrize("seed", range(3))
def test_prefixes_are_k_center_too(seed):
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


def test_translation_and_rotation_and_scale_do_not_change_the_choice():
    features = random_rows(40, 5)
    rotation = torch.linalg.qr(random_rows(5, 5, 1)).Q
    for moved in (features + random_rows(1, 5, 2), features @ rotation, 3 * features):
        assert order(moved, 15) == order(features, 15)


def test_equal_rows_are_two_rows_and_ties_have_a_rule():
    features = rows([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert order(features, 4) == [0, 1, 3, 2]
    assert order(features, 4, "last") == [0, 3, 2, 1]
    assert order(rows([[5.0]] * 4), 4) == [0, 1, 2, 3]
    assert order(rows([[5.0]] * 4), 4, "last") == [0, 3, 2, 1]
    assert masked_by_value(rows([[5.0]] * 4), 4) == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [5, 7, 1001])
def test_equal_rows_tie_exactly_wherever_they_stand(n, dtype):
    features = random_rows(2, 64).to(dtype)[[0] + [1] * (n - 1)]
    assert order(features, 4) == [0, 1, 2, 3]


def test_a_far_offset_costs_no_digits():
    """|a|^2 - 2ab + |b|^2 in float32 sees only noise here."""
    features = rows(LINE, torch.float32) + 3e5
    assert order(features, 4) == [0, 3, 2, 1]
    point = features[0]
    expanded = features.square().sum(1) - 2 * features @ point + point.square().sum()
    assert not torch.allclose(expanded.clamp(min=0).sqrt(), distances_to(features, point), atol=0.5)


def test_half_precision_is_computed_in_single():
    assert order(rows(LINE, torch.bfloat16), 4) == [0, 3, 2, 1]


@pytest.mark.parametrize(
    ("features", "m", "ties", "error", "said"),
    [
        (rows(LINE), 5, "first", ValueError, "m must be between 1 and 4, got 5"),
        (rows(LINE), 0, "first", ValueError, "m must be"),
        (rows(LINE), 1.5, "first", TypeError, "m must be an integer"),
        (rows(LINE), 2, "random", ValueError, "ties must be one of 'first', 'last'"),
        (rows([[torch.nan]]), 1, "first", ValueError, "features must be finite"),
        (torch.zeros(0, 2), 1, "first", ValueError, "features must not be empty"),
        (torch.zeros(3, dtype=torch.float32), 1, "first", ValueError, "features must have 2 dimension"),
        (torch.zeros(3, 2, dtype=torch.int64), 1, "first", TypeError, "features must hold floating-point"),
        ([[0.0]], 1, "first", TypeError, "features must be a torch.Tensor"),
    ],
)
def test_bad_input_is_refused_at_the_call(features, m, ties, error, said):
    with pytest.raises(error, match=said):
        k_center_steps(features, m, ties)


def test_overflow_is_an_error():
    with pytest.raises(ValueError, match="features must be smaller"):
        order(rows([[3e38], [-3e38]], torch.float32), 2)
