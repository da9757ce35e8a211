"""Herding and nearest class mean: the worked tables, a slow oracle, invariances, the known wrong variants."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cllab.replay import k_center_steps
from cllab.replay.herding import (
    HerdingStep,
    class_means,
    herding,
    herding_steps,
    nearest_class_mean,
    quota,
    unit_rows,
)

A = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)]
B = [(3, 3), (3, 2), (2, 3), (4, 4), (2, 2)]
C = [(-1, -1), (-1, 0), (0, -1), (-2, -2), (0, 0)]
INF = math.inf
ERRORS = [0.2828, 0.3606, 0.1886, 0.2828, 0.0]

# By hand: (target, 25 x squared distances, chosen point, prefix mean) for each step.
TABLE_A = {
    "first": [
        ((0.8, 0.8), [32, 17, 17, 2, 72], (1, 1), (1, 1)),
        ((0.6, 0.6), [18, 13, 13, INF, 98], (1, 0), (1, 0.5)),
        ((0.4, 1.4), [53, INF, 8, INF, 73], (0, 1), (2 / 3, 2 / 3)),
        ((1.2, 1.2), [72, INF, INF, INF, 32], (2, 2), (1, 1)),
        ((0, 0), [0, INF, INF, INF, INF], (0, 0), (0.8, 0.8)),
    ],
    "last": [
        ((0.8, 0.8), [32, 17, 17, 2, 72], (1, 1), (1, 1)),
        ((0.6, 0.6), [18, 13, 13, INF, 98], (0, 1), (0.5, 1)),
        ((1.4, 0.4), [53, 8, INF, INF, 73], (1, 0), (2 / 3, 2 / 3)),
        ((1.2, 1.2), [72, INF, INF, INF, 32], (2, 2), (1, 1)),
        ((0, 0), [0, INF, INF, INF, INF], (0, 0), (0.8, 0.8)),
    ],
}
TABLE_B = {
    "first": [
        ((2.8, 2.8), [2, 17, 17, 72, 32], (3, 3), (3, 3)),
        ((2.6, 2.6), [INF, 13, 13, 98, 18], (3, 2), (3, 2.5)),
        ((2.4, 3.4), [INF, INF, 8, 73, 53], (2, 3), (8 / 3, 8 / 3)),
        ((3.2, 3.2), [INF, INF, INF, 32, 72], (4, 4), (3, 3)),
        ((2, 2), [INF, INF, INF, INF, 0], (2, 2), (2.8, 2.8)),
    ],
    "last": [
        ((2.8, 2.8), [2, 17, 17, 72, 32], (3, 3), (3, 3)),
        ((2.6, 2.6), [INF, 13, 13, 98, 18], (2, 3), (2.5, 3)),
        ((3.4, 2.4), [INF, 8, INF, 73, 53], (3, 2), (8 / 3, 8 / 3)),
        ((3.2, 3.2), [INF, INF, INF, 32, 72], (4, 4), (3, 3)),
        ((2, 2), [INF, INF, INF, INF, 0], (2, 2), (2.8, 2.8)),
    ],
}


def negative(table):
    """Class C is class A mirrored at the origin, row by row up to the order of its points."""
    order = [3, 1, 2, 4, 0]
    return {
        ties: [((-t[0], -t[1]), [d[i] for i in order], (-p[0], -p[1]), (-m[0], -m[1])) for t, d, p, m in steps]
        for ties, steps in table.items()
    }


TABLES = {"A": (A, TABLE_A), "B": (B, TABLE_B), "C": (C, negative(TABLE_A))}


def rows(points, dtype=torch.float64):
    return torch.tensor(points, dtype=dtype)


def toy(classes="ABC"):
    """All points of the toy with their labels; (2, 2) and (0, 0) occur in two classes."""
    points = {"A": A, "B": B, "C": C}
    x = rows([p for name in classes for p in points[name]])
    return x, torch.arange(len(classes)).repeat_interleave(5)


def exemplar_means(classes, m, ties="first"):
    points = {"A": A, "B": B, "C": C}
    kept = [rows(points[name])[herding(rows(points[name]), m, ties)] for name in classes]
    return torch.stack([exemplars.mean(dim=0) for exemplars in kept])


def greedy(points, m, ties):
    """The definition in exact fractions: try every row, measure the mean that would result."""
    n, d, chosen = len(points), len(points[0]), []
    mean = [Fraction(sum(p[a] for p in points), n) for a in range(d)]
    for k in range(1, m + 1):
        costs = {}
        for i in set(range(n)) - set(chosen):
            trial = [Fraction(sum(points[j][a] for j in [*chosen, i]), k) for a in range(d)]
            costs[i] = sum((trial[a] - mean[a]) ** 2 for a in range(d))
        tied = [i for i in costs if costs[i] == min(costs.values())]
        chosen.append(min(tied) if ties == "first" else max(tied))
    return chosen


def random_rows(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("ties", ["first", "last"])
@pytest.mark.parametrize("name", "ABC")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_worked_table(name, ties, dtype):
    points, table = TABLES[name]
    near = {"rtol": 0, "atol": 1e-9 if dtype is torch.float64 else 2e-5}
    steps = list(herding_steps(rows(points, dtype), 5, ties))
    assert [step.k for step in steps] == [1, 2, 3, 4, 5]
    for step, (target, distances, chosen, mean), error in zip(steps, table[ties], ERRORS, strict=True):
        torch.testing.assert_close(step.target, rows(target, dtype), **near)
        torch.testing.assert_close(step.distances * 25, rows(distances, dtype), rtol=0, atol=near["atol"] * 25)
        assert points[step.chosen] == chosen
        torch.testing.assert_close(step.mean, rows(mean, dtype), **near)
        assert step.error == pytest.approx(error, abs=5e-5)
    assert herding(rows(points, dtype), 5, ties).tolist() == [step.chosen for step in steps]


def test_ties_are_exact_at_step_two():
    for points in (A, B, C):
        for dtype in (torch.float64, torch.float32):
            step = list(herding_steps(rows(points, dtype), 2))[1]
            assert int((step.distances == step.distances.min()).sum()) == 2


def test_types_of_a_step_and_of_the_order():
    step = next(herding_steps(rows(A), 1))
    assert isinstance(step, HerdingStep)
    assert step._fields == ("k", "target", "distances", "chosen", "mean", "error")
    assert (type(step.k), type(step.chosen), type(step.error)) == (int, int, float)
    assert step.target.shape == step.mean.shape == (2,)
    assert step.distances.shape == (5,)
    order = herding(rows(A), 3)
    assert order.dtype == torch.int64
    assert order.shape == (3,)


@pytest.mark.parametrize("ties", ["first", "last"])
@given(n=st.sampled_from([1, 2, 4, 8]), data=st.data())
def test_greedy_oracle_with_exact_ties(ties, n, data):
    """Whole numbers and a power of two of them: every float is exact, so ties are ties."""
    points = data.draw(st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=n, max_size=n))
    assert herding(rows(points), n, ties).tolist() == greedy(points, n, ties)


@pytest.mark.parametrize("seed", range(5))
def test_prefixes_are_herding_too(seed):
    features = random_rows(40, 6, seed)
    order = herding(features, 40)
    for k in (1, 2, 7, 20, 39):
        assert torch.equal(herding(features, k), order[:k])


@pytest.mark.parametrize("seed", range(5))
def test_taking_all_is_a_permutation_with_zero_error(seed):
    steps = list(herding_steps(random_rows(30, 4, seed), 30))
    assert sorted(step.chosen for step in steps) == list(range(30))
    assert steps[-1].error < 1e-12


def test_error_is_the_distance_between_the_two_means():
    features = random_rows(50, 5)
    for step in herding_steps(features, 20):
        order = herding(features, step.k)
        torch.testing.assert_close(step.mean, features[order].mean(dim=0))
        expected = (features[order].mean(dim=0) - features.mean(dim=0)).norm()
        assert step.error == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_translation_and_rotation_do_not_change_the_choice(seed):
    features = random_rows(40, 5, seed)
    rotation = torch.linalg.qr(random_rows(5, 5, seed + 100)).Q
    order = herding(features, 15)
    assert torch.equal(herding(features + random_rows(1, 5, seed + 200), 15), order)
    assert torch.equal(herding(features @ rotation, 15), order)
    assert torch.equal(herding(features * 3, 15), order)


@pytest.mark.parametrize("seed", range(5))
def test_reordering_the_rows_reorders_the_answer(seed):
    features = random_rows(40, 5, seed)
    shuffle = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(shuffle[herding(features[shuffle], 15)], herding(features, 15))


def largest_inner_product(features, m):
    """The rule of iCaRL's authors: argmax <w, phi>, w += mu - phi(chosen); a row may be chosen again."""
    mean = features.mean(dim=0)
    w, picks = mean.clone(), []
    for _ in range(m):
        picks.append(int((features @ w).argmax()))
        w = w + mean - features[picks[-1]]
    return picks


def test_inner_product_form_is_the_same_rule_for_unit_features_only():
    unit = unit_rows(random_rows(500, 16))
    assert largest_inner_product(unit, 20) == herding(unit, 20).tolist()
    stalled = largest_inner_product(rows(A), 20)
    assert [A[i] for i in stalled[:4]] == [(2, 2), (0, 0), (2, 2), (0, 0)]
    assert len(set(stalled)) < 4
    assert len(set(herding(rows(A), 4).tolist())) == 4


def test_equal_rows_are_distinct_items():
    twins = rows([(1, 1), (1, 1), (1, 1), (5, 5)])
    assert sorted(herding(twins, 4).tolist()) == [0, 1, 2, 3]
    assert herding(torch.ones(4, 2), 4, "first").tolist() == [0, 1, 2, 3]
    assert herding(torch.ones(4, 2), 4, "last").tolist() == [3, 2, 1, 0]
    by_value = {tuple(row) for row in twins[herding(twins, 3)].tolist()}
    assert len(by_value) < 3, "masking by value could not fill three slots here"


def test_wrong_variants_are_caught_by_the_table():
    def order(points, target):
        """Herding with another formula for the target of step k."""
        x, mean, chosen = rows(points), rows(points).mean(dim=0), []
        for k in range(1, 5):
            distances = (x - target(k, mean, x[chosen])).square().sum(dim=1)
            distances[chosen] = INF
            chosen.append(int(distances.argmin()))
        return [points[i] for i in chosen]

    by_hand = [chosen for _, _, chosen, _ in TABLE_A["first"]][:4]
    assert order(A, lambda k, mean, kept: k * mean - kept.sum(dim=0)) == by_hand
    assert order(A, lambda k, mean, kept: mean) != by_hand, "nearest to the class mean, never corrected"
    assert order(A, lambda k, mean, kept: (k - 1) * mean - kept.sum(dim=0)) != by_hand, "k counted from 0"
    assert order(A, lambda k, mean, kept: mean - kept.sum(dim=0)) != by_hand, "mean not multiplied by k"


def test_herding_beats_random_choice():
    features = unit_rows(random_rows(500, 16))
    source = torch.Generator().manual_seed(1)
    subsets = [features[torch.randperm(500, generator=source)[:20]] for _ in range(50)]
    random_error = sum(float((s.mean(dim=0) - features.mean(dim=0)).norm()) for s in subsets) / 50
    assert list(herding_steps(features, 20))[-1].error < random_error / 3


def test_error_is_not_monotone():
    errors = [step.error for step in herding_steps(rows(A), 5)]
    assert errors[3] > errors[2]
    assert errors[1] > errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_features(dtype):
    features = random_rows(30, 4).to(dtype)
    assert torch.equal(herding(features, 10), herding(features.float(), 10))


def test_float32_agrees_with_float64_over_a_long_list():
    features = random_rows(400, 8, dtype=torch.float32)
    assert torch.equal(herding(features, 300), herding(features.double(), 300))


def test_features_far_from_the_origin_keep_their_ties():
    """Squared distances by |a|^2 - 2ab + |b|^2 lose everything here: |a|^2 is 10^8, distances are about 1."""
    grid = torch.randint(-2, 3, (32, 3), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(herding(grid + 8192, 32), herding(grid, 32))
    centres = torch.tensor([[0.0, 0, 0], [1, 1, 1], [2, 2, 2]])
    assert torch.equal(nearest_class_mean(grid + 8192, centres + 8192), nearest_class_mean(grid, centres))


def test_strided_and_differentiable_features_are_left_alone():
    features = random_rows(6, 30).T.requires_grad_()
    before = features.detach().clone()
    step = list(herding_steps(features, 5))[-1]
    assert not step.distances.requires_grad
    assert torch.equal(features.detach(), before)
    assert torch.equal(herding(features, 5), herding(before.contiguous(), 5))


def test_steps_already_yielded_do_not_change():
    steps = herding_steps(rows(A), 3)
    first = next(steps)
    kept = first.distances.clone()
    list(steps)
    assert torch.equal(first.distances, kept)


BAD = [
    ((rows([(0.0, math.nan)]), 1), {}, ValueError, "features"),
    ((rows([(0.0, INF)]), 1), {}, ValueError, "features"),
    ((torch.empty(0, 2), 1), {}, ValueError, "features"),
    ((torch.empty(3, 0), 1), {}, ValueError, "features"),
    ((torch.ones(5), 1), {}, ValueError, "features"),
    ((torch.ones(5, 2, 2), 1), {}, ValueError, "features"),
    ((torch.ones(5, 2, dtype=torch.int64), 1), {}, TypeError, "features"),
    ((torch.ones(5, 2, dtype=torch.bool), 1), {}, TypeError, "features"),
    ((A, 1), {}, TypeError, "features"),
    ((None, 1), {}, TypeError, "features"),
    ((rows(A), 0), {}, ValueError, "m must"),
    ((rows(A), -1), {}, ValueError, "m must"),
    ((rows(A), 6), {}, ValueError, "m must be between 1 and 5, got 6"),
    ((rows(A), 2.0), {}, TypeError, "m must"),
    ((rows(A), True), {}, TypeError, "m must"),
    ((rows(A), "2"), {}, TypeError, "m must"),
    ((rows(A), None), {}, TypeError, "m must"),
    ((rows(A), 2), {"ties": "x"}, ValueError, "ties"),
    ((rows(A), 2), {"ties": None}, ValueError, "ties"),
]


@pytest.mark.parametrize("function", [herding, herding_steps])
@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_input_raises_at_the_call(function, arguments, options, error, message):
    with pytest.raises(error, match=message):
        function(*arguments, **options)


def test_overflowing_distances_raise_instead_of_choosing_anything():
    with pytest.raises(ValueError, match="features must be smaller"):
        herding(torch.tensor([[3e38, 0.0], [-3e38, 0.0], [1e38, 0.0]]), 3)


def test_nearest_class_mean_on_the_toy():
    stage_1, stage_2 = exemplar_means("AB", 4), exemplar_means("ABC", 2)
    torch.testing.assert_close(stage_1, rows([(1, 1), (3, 3)]))
    torch.testing.assert_close(stage_2, rows([(1, 0.5), (3, 2.5), (-1, -0.5)]))
    torch.testing.assert_close(exemplar_means("ABC", 2, "last"), rows([(0.5, 1), (2.5, 3), (-0.5, -1)]))
    near_a, near_c = rows([(0.9, 0.7)]), rows([(-0.9, -0.6)])

    def distances(query, means):
        return [math.dist(query[0].tolist(), mean) for mean in means.tolist()]

    assert distances(near_a, stage_1) == pytest.approx([0.3162, 3.1145], abs=5e-5)
    assert distances(near_a, stage_2) == pytest.approx([0.2236, 2.7659, 2.2472], abs=5e-5)
    assert distances(near_c, stage_2) == pytest.approx([2.1954, 4.9820, 0.1414], abs=5e-5)
    assert nearest_class_mean(near_a, stage_1).tolist() == [0]
    assert nearest_class_mean(torch.cat([near_a, near_c]), stage_2).tolist() == [0, 2]
    assert nearest_class_mean(torch.cat([near_a, near_c]), exemplar_means("ABC", 2, "last")).tolist() == [
        0,
        2,
    ]


def test_accuracy_on_the_points_that_define_the_toy():
    for classes, m, right in (("AB", 4, 9), ("ABC", 2, 13)):
        x, y = toy(classes)
        assert int((nearest_class_mean(x, exemplar_means(classes, m)) == y).sum()) == right
    assert nearest_class_mean(rows([(2, 2)]), exemplar_means("AB", 4)).tolist() == [0], "exactly sqrt(2) from both"
    assert nearest_class_mean(rows([(0, 0)]), exemplar_means("ABC", 2)).tolist() == [0], "exactly sqrt(1.25) from A, C"


def test_nearest_class_mean_takes_a_dict_in_any_order():
    means = {7: torch.tensor([5.0, 5.0]), 2: torch.tensor([0.0, 0.0])}
    labels = nearest_class_mean(torch.tensor([[4.0, 4.0], [1.0, 0.0], [2.5, 2.5]]), means)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [7, 2, 2]


def test_nearest_class_mean_against_a_loop():
    x, mu = random_rows(60, 7), random_rows(5, 7, seed=1)
    slow = [min(range(5), key=lambda c: math.dist(row, mu[c].tolist())) for row in x.tolist()]
    assert nearest_class_mean(x, mu).tolist() == slow
    assert nearest_class_mean(x.float(), mu).tolist() == slow


def test_normalised_classification_ignores_positive_scale():
    x, mu = random_rows(60, 7), random_rows(5, 7, seed=1)
    scale = torch.rand(60, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 9 + 0.1
    plain = nearest_class_mean(x, mu, normalise=True)
    assert torch.equal(nearest_class_mean(x * scale, mu * 4, normalise=True), plain)
    largest_cosine = (unit_rows(x) @ unit_rows(mu).T).argmax(dim=1)
    assert torch.equal(plain, largest_cosine)
    assert not torch.equal(nearest_class_mean(x * scale, mu), nearest_class_mean(x, mu))


@pytest.mark.parametrize(
    ("features", "means", "error", "message"),
    [
        (torch.ones(2, 2), torch.ones(2, 3), ValueError, "means"),
        (torch.ones(2, 2), torch.ones(2), ValueError, "means"),
        (torch.ones(2, 2), torch.empty(0, 2), ValueError, "means"),
        (torch.ones(2, 2), {}, ValueError, "means"),
        (torch.ones(2, 2), {0: torch.ones(2), 1: torch.ones(3)}, ValueError, "means"),
        (torch.ones(2, 2), {0: torch.ones(2), 1: torch.tensor([1.0, math.nan])}, ValueError, r"means\[1\]"),
        (torch.ones(2, 2), {0: torch.ones(2), 1: torch.empty(0)}, ValueError, r"means\[1\]"),
        (torch.ones(2, 2), {"A": torch.ones(2)}, TypeError, "means"),
        (torch.ones(2, 2), {-1: torch.ones(2)}, ValueError, "means"),
        (torch.ones(2, 2), [[1.0, 1.0]], TypeError, "means"),
        (torch.ones(2, 2), torch.ones(2, 2, dtype=torch.int64), TypeError, "means"),
        (torch.tensor([[math.nan, 1.0]]), torch.ones(2, 2), ValueError, "features"),
        (torch.ones(2), torch.ones(2, 2), ValueError, "features"),
        (torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2), TypeError, "features"),
    ],
)
def test_bad_means(features, means, error, message):
    with pytest.raises(error, match=message):
        nearest_class_mean(features, means)


def test_rows_of_norm_zero_cannot_be_normalised():
    x, y = toy("A")
    for call in (
        lambda: nearest_class_mean(x, torch.ones(2, 2, dtype=torch.float64), normalise=True),
        lambda: class_means(x, y, normalise=True),
        lambda: unit_rows(x),
    ):
        with pytest.raises(ValueError, match="features must have no row of norm 0"):
            call()
    with pytest.raises(ValueError, match="means must have no row of norm 0"):
        nearest_class_mean(torch.ones(1, 2), torch.zeros(1, 2), normalise=True)


def test_rows_of_any_size_are_scaled_to_length_1():
    x = torch.tensor([[1e30, 1e30], [1e-30, 1e-30], [3.0, 4.0]])
    torch.testing.assert_close(unit_rows(x), torch.tensor([[0.5**0.5, 0.5**0.5]] * 2 + [[0.6, 0.8]]))


def test_means_of_huge_features_are_right_or_refused():
    one_class = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(class_means(torch.tensor([[3e38], [3e38]]), one_class)[0], torch.tensor([3e38]))
    with pytest.raises(ValueError, match=r"^features must be smaller"):
        class_means(rows([(1e308, 0.0), (1e308, 0.0)]), one_class)


def test_no_class_is_named_when_no_distance_can_be_told():
    x, means = torch.tensor([[1e20, 0.0]]), torch.tensor([[-1e20, 0.0], [-0.5e20, 0.0]])
    with pytest.raises(ValueError, match=r"^features and means must be smaller"):
        nearest_class_mean(x, means)
    assert nearest_class_mean(x.double(), means.double()).tolist() == [1]
    assert nearest_class_mean(x, torch.tensor([[-1e20, 0.0], [1e20, 0.0]])).tolist() == [1], "one distance overflows"


def test_normalise_is_a_yes_or_a_no():
    x, y = toy("B")
    for call in (lambda: nearest_class_mean(x, x, normalise="no"), lambda: class_means(x, y, normalise="no")):
        with pytest.raises(TypeError, match=r"^normalise"):
            call()


def test_class_means():
    x, y = toy()
    means = class_means(x, y)
    assert list(means) == [0, 1, 2]
    torch.testing.assert_close(torch.stack(list(means.values())), rows([(0.8, 0.8), (2.8, 2.8), (-0.8, -0.8)]))
    shuffled = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert list(class_means(x[shuffled], y[shuffled])) == [0, 1, 2]
    unit = class_means(rows([(3, 4), (0, 2)]), torch.tensor([5, 5]), normalise=True)
    torch.testing.assert_close(unit[5], rows((0.3, 0.9)))
    with pytest.raises(ValueError, match="labels"):
        class_means(x, y[:-1])
    with pytest.raises(TypeError, match="labels"):
        class_means(x, y.float())


def test_quota_rounds_down_and_refuses_an_empty_share():
    assert (quota(8, 2), quota(8, 3), quota(2000, 30), quota(5, 5)) == (4, 2, 66, 1)
    assert all(quota(capacity, t) * t <= capacity for capacity in range(10, 60) for t in range(1, 11))
    for arguments, error, message in (
        ((3, 4), ValueError, "capacity"),
        ((0, 1), ValueError, "capacity"),
        ((8, 0), ValueError, "n_classes"),
        ((8.0, 2), TypeError, "capacity"),
        ((8, True), TypeError, "n_classes"),
    ):
        with pytest.raises(error, match=message):
            quota(*arguments)


@pytest.mark.parametrize("steps", [herding_steps, k_center_steps])
def test_features_whose_squares_vanish_are_refused(steps):
    """Rounded to 0, all distances would be equal and the first rows win: no error, and a wrong order."""
    tiny = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 1.0]]) * 1e-25
    with pytest.raises(ValueError, match="features must be larger"):
        steps(tiny, 2)
    assert len(list(steps(tiny.double(), 2))) == 2 and len(list(steps(0 * tiny, 2))) == 2
