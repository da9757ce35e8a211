"""The metrics against worked numbers, against the field's other conventions, and on bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cllab import metrics

R = np.array([[0.80, 0.30, 0.40], [0.90, 0.70, 0.35], [0.70, 0.75, 0.92]])
BASELINE = [0.10, 0.22, 0.30]
REFERENCE = [0.80, 0.82, 0.90]
LOWER = np.where(np.tri(3, dtype=bool), R, np.nan)

# Every metric of the worked example: (function of R, value by hand).
TABLE = {
    "ACC": (metrics.average_accuracy, (0.70 + 0.75 + 0.92) / 3),
    "AIA": (metrics.average_incremental_accuracy, (0.80 + 0.80 + 0.79) / 3),
    "BWT": (metrics.backward_transfer, (-0.10 + 0.05) / 2),
    "F": (metrics.forgetting, (0.20 - 0.05) / 2),
    "F_2": (lambda r: metrics.forgetting(r, after=2), -0.10),
    "FWT": (lambda r: metrics.forward_transfer(r, BASELINE), (0.08 + 0.05) / 2),
    "intransigence": (lambda r: metrics.intransigence(r, REFERENCE), (0 + 0.12 - 0.02) / 3),
    "plasticity": (metrics.plasticity, (0.80 + 0.70 + 0.92) / 3),
}

# What public code computes under the same names on the same matrix; each must differ from the number above.
T = 3
OTHER_CONVENTIONS = {
    "max includes the last row": ("F", 0.10, lambda r: (r.max(0) - r[-1])[:-1].mean()),
    "diagonal minus last row": ("F", 0.025, lambda r: (np.diag(r) - r[-1])[:-1].mean()),
    "max over all rows, mean over T": ("F", 0.2 / 3, lambda r: (r.max(0) - r[-1]).mean()),
    "BWT divided by T": ("BWT", -0.05 / 3, lambda r: (r[-1] - np.diag(r)).sum() / T),
    "BWT over the strict lower triangle": (
        "BWT",
        0.05 / 3,
        lambda r: np.mean([r[i, j] - r[j, j] for i in range(T) for j in range(i)]),
    ),
    "FWT divided by T": ("FWT", 0.13 / 3, lambda r: (np.diag(r, 1) - BASELINE[1:]).sum() / T),
    "FWT without a baseline": ("FWT", 0.35, lambda r: r[np.triu_indices(T, 1)].mean()),
    "ACC of the last column": ("ACC", 1.67 / 3, lambda r: r[:, -1].mean()),
}


def accuracy_matrices(low: int = 2, high: int = 6):
    return st.integers(low, high).flatmap(lambda n: arrays(np.float64, (n, n), elements=st.floats(0, 1)))


@pytest.mark.parametrize("name", TABLE)
def test_worked_example(name):
    function, value = TABLE[name]
    assert function(R) == pytest.approx(value, abs=1e-12)
    assert isinstance(function(R), float)


@pytest.mark.parametrize("name", OTHER_CONVENTIONS)
def test_other_conventions_give_other_numbers(name):
    metric, theirs, formula = OTHER_CONVENTIONS[name]
    assert formula(R) == pytest.approx(theirs, abs=1e-9)
    assert abs(TABLE[metric][0](R) - theirs) > 0.005


@pytest.mark.parametrize("name", TABLE)
def test_transposed_matrix_gives_another_number(name):
    function, value = TABLE[name]
    if name == "plasticity" or name == "intransigence":
        assert function(R.T) == pytest.approx(value)
    else:
        assert abs(function(R.T) - value) > 0.005


def test_per_task_values():
    np.testing.assert_allclose(metrics.incremental_accuracies(R), [0.80, 0.80, 0.79], atol=1e-12)
    np.testing.assert_allclose(metrics.forgetting_per_task(R), [0.20, -0.05], atol=1e-12)
    np.testing.assert_allclose(metrics.forgetting_per_task(R, after=2), [-0.10], atol=1e-12)
    np.testing.assert_allclose(metrics.intransigence_per_task(R, REFERENCE), [0, 0.12, -0.02], atol=1e-12)


def test_published_style_table_with_every_stage():
    stages = np.array([[0.95, np.nan, np.nan], [0.92, 0.87, np.nan], [0.88, 0.80, 0.95]])
    by_hand = (0.95 + (0.92 + 0.87) / 2 + (0.88 + 0.80 + 0.95) / 3) / 3
    assert metrics.average_incremental_accuracy(stages) == pytest.approx(by_hand)
    assert metrics.backward_transfer(stages) == pytest.approx(-0.07)
    assert metrics.forgetting(stages) == pytest.approx(0.07)


@given(accuracy_matrices())
def test_average_accuracy_is_plasticity_plus_backward_transfer(r):
    n = len(r)
    expected = metrics.plasticity(r) + (n - 1) / n * metrics.backward_transfer(r)
    assert metrics.average_accuracy(r) == pytest.approx(expected, abs=1e-12)


@given(accuracy_matrices())
def test_constant_columns_neither_forget_nor_transfer(r):
    constant = np.tile(r[0], (len(r), 1))
    assert metrics.backward_transfer(constant) == metrics.forgetting(constant) == 0


@given(accuracy_matrices())
def test_rising_columns_do_not_forget(r):
    rising = np.sort(r, axis=0)
    assert metrics.backward_transfer(rising) >= 0
    assert metrics.forgetting(rising) <= 0


@given(accuracy_matrices())
def test_forgetting_is_minus_backward_transfer_when_the_diagonal_is_best(r):
    best = r.copy()
    np.fill_diagonal(best, 1.0)
    assert metrics.forgetting(best) == pytest.approx(-metrics.backward_transfer(best), abs=1e-12)


@given(accuracy_matrices(low=1), st.randoms(use_true_random=False))
def test_loops_agree(r, random):
    """The slow form: every formula as nested loops over plain numbers, on random matrices and vectors."""
    n, b = len(r), [random.random() for _ in range(len(r))]
    stages = [sum(r[k][j] for j in range(k + 1)) / (k + 1) for k in range(n)]
    pairs = [
        (metrics.average_accuracy(r), sum(r[n - 1][j] for j in range(n)) / n),
        (metrics.average_incremental_accuracy(r), sum(stages) / n),
        (metrics.intransigence(r, b), sum(b[k] - r[k][k] for k in range(n)) / n),
    ]
    if n > 1:
        best = [max(r[i][j] for i in range(n - 1)) for j in range(n - 1)]
        pairs += [
            (metrics.backward_transfer(r), sum(r[n - 1][j] - r[j][j] for j in range(n - 1)) / (n - 1)),
            (metrics.forward_transfer(r, b), sum(r[j - 1][j] - b[j] for j in range(1, n)) / (n - 1)),
            (metrics.forgetting(r), sum(best[j] - r[n - 1][j] for j in range(n - 1)) / (n - 1)),
        ]
    for ours, loop in pairs:
        assert ours == pytest.approx(loop, abs=1e-12)


def test_only_the_needed_cells_are_asked_for():
    last_row_only = np.full((3, 3), np.nan)
    last_row_only[-1] = R[-1]
    assert metrics.average_accuracy(last_row_only) == pytest.approx(0.79)
    for name in ("ACC", "AIA", "BWT", "F", "F_2", "intransigence", "plasticity"):
        function, value = TABLE[name]
        assert function(LOWER) == pytest.approx(value)
    first_free = np.array([np.nan, *BASELINE[1:]])
    assert metrics.forward_transfer(R, first_free) == pytest.approx(0.065)
    two_stages = R.copy()
    two_stages[-1] = np.nan
    assert metrics.forgetting(two_stages, after=2) == pytest.approx(-0.10)


def test_evaluations_before_training_count_for_forgetting_where_they_exist():
    early = [[0.9, 0.8, np.nan], [0.9, 0.6, np.nan], [0.9, 0.5, 0.9]]
    assert metrics.forgetting(early) == pytest.approx((0 + 0.3) / 2)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("ACC", (2, 0)),
        ("AIA", (1, 0)),
        ("BWT", (0, 0)),
        ("BWT", (2, 1)),
        ("F", (1, 0)),
        ("F", (1, 1)),
        ("F", (2, 1)),
        ("F_2", (1, 0)),
        ("FWT", (1, 2)),
        ("intransigence", (2, 2)),
        ("plasticity", (1, 1)),
    ],
)
def test_a_missing_needed_cell_is_named(name, cell):
    holed = R.copy()
    holed[cell] = np.nan
    with pytest.raises(ValueError, match=rf"R\[{cell[0]}, {cell[1]}\] is missing"):
        TABLE[name][0](holed)


@pytest.mark.parametrize("name", ["BWT", "F", "FWT"])
def test_one_task_is_too_few(name):
    function = {"FWT": lambda r: metrics.forward_transfer(r, [0.1])}.get(name, TABLE[name][0])
    with pytest.raises(ValueError, match="R must hold at least 2 tasks"):
        function([[0.9]])


def test_one_task_is_enough_for_averages():
    assert metrics.average_accuracy([[0.9]]) == metrics.plasticity([[0.9]]) == 0.9
    assert metrics.average_incremental_accuracy([[0.9]]) == 0.9
    assert metrics.intransigence([[0.9]], [0.95]) == pytest.approx(0.05)


BAD_MATRICES = [
    (R * 100, ValueError, r"R\[0, 0\] must lie in \[0, 1\], got 80 \(percentages"),
    (R - 0.5, ValueError, "must lie in"),
    (np.where(R == 0.92, np.inf, R), ValueError, "must lie in"),
    (R[:2], ValueError, "R must be square"),
    (R[0], ValueError, "R must be square"),
    (R[None], ValueError, "R must be square"),
    (0.5, ValueError, "R must be square"),
    ([], ValueError, "R must be square"),
    (np.empty((0, 0)), ValueError, "R must be square"),
    ([[0.1, 0.2], [0.3]], ValueError, "R must be rectangular"),
    ([["0.8", "0.3"], ["0.9", "0.7"]], TypeError, "R must hold real numbers"),
    ([[0.8, None], [0.9, 0.7]], TypeError, "R must hold real numbers"),
    ([[True, False], [True, True]], TypeError, "R must hold real numbers"),
    ([[0.8, True], [0.9, 0.7]], TypeError, "R must hold real numbers"),
    (torch.ones(2, 2, dtype=torch.bool), TypeError, "R must hold real numbers"),
    (R.astype(complex), TypeError, "R must hold real numbers"),
    ("R", TypeError, "R must hold real numbers"),
    (None, TypeError, "R must hold real numbers"),
    ({0: [0.8]}, TypeError, "R must hold real numbers"),
]


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(("bad", "error", "message"), BAD_MATRICES)
def test_bad_matrices(name, bad, error, message):
    with pytest.raises(error, match=message):
        TABLE[name][0](bad)


@pytest.mark.parametrize(
    ("argument", "function"),
    [
        ("baseline", metrics.forward_transfer),
        ("reference", metrics.intransigence),
    ],
)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([0.1, 0.2], ValueError),
        ([0.1, 0.2, 0.3, 0.4], ValueError),
        ([[0.1, 0.2, 0.3]], ValueError),
        ([], ValueError),
        (0.1, ValueError),
        ([0.1, 0.2, math.nan], ValueError),
        ([10, 22, 30], ValueError),
        (["a", "b", "c"], TypeError),
        ([True, False, True], TypeError),
        (None, TypeError),
    ],
)
def test_bad_vectors(argument, function, bad, error):
    with pytest.raises(error, match=argument):
        function(R, bad)


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (0, ValueError),
        (1, ValueError),
        (4, ValueError),
        (-1, ValueError),
        (2.0, TypeError),
        (True, TypeError),
    ],
)
def test_bad_stage(after, error):
    with pytest.raises(error, match="after"):
        metrics.forgetting(R, after=after)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        np.float32,
        torch.tensor,
        lambda r: torch.tensor(r, requires_grad=True),
        np.asfortranarray,
    ],
)
def test_other_containers_give_the_same_number(name, convert):
    function, value = TABLE[name]
    assert function(convert(R)) == pytest.approx(value, abs=1e-6)


def test_low_precision_and_whole_numbers():
    assert metrics.average_accuracy(torch.tensor([[1, 0], [1, 0]])) == 0.5
    assert metrics.average_accuracy([[1, 0], [1, 0]]) == 0.5
    assert metrics.average_accuracy(torch.tensor(R, dtype=torch.bfloat16)) == pytest.approx(0.79, abs=0.01)


@pytest.mark.parametrize("name", TABLE)
def test_input_is_left_alone(name):
    given_matrix = R.copy()
    given_matrix.setflags(write=False)
    TABLE[name][0](given_matrix)
    tensor = torch.tensor(R)
    TABLE[name][0](tensor)
    assert torch.equal(tensor, torch.tensor(R))


def test_pooled_accuracy_weights_tasks_by_their_test_sets():
    r = [[0.8, 0.0], [0.5, 0.9]]
    assert metrics.average_accuracy(r) == pytest.approx(0.7)
    assert metrics.average_accuracy(r, test_sizes=[100, 300]) == pytest.approx((50 + 270) / 400)
    assert metrics.average_accuracy(r, test_sizes=[200, 200]) == pytest.approx(0.7)
    for bad in ([100], [0, 100], [-1, 2], [math.nan, 1], []):
        with pytest.raises(ValueError, match="test_sizes"):
            metrics.average_accuracy(r, test_sizes=bad)
    with pytest.raises(TypeError, match="test_sizes"):
        metrics.average_accuracy(r, test_sizes="ab")


def test_relative_forgetting():
    assert metrics.relative_forgetting(0.8, 0.7) == pytest.approx(0.125)
    assert isinstance(metrics.relative_forgetting(0.8, 0.7), float)
    rates = metrics.relative_forgetting(np.diag(R)[:-1], R[-1, :-1])
    np.testing.assert_allclose(rates, [0.125, -0.05 / 0.70], atol=1e-12)
    assert rates.mean() == pytest.approx(0.026786, abs=1e-6)
    named = metrics.relative_forgetting({"law": 0.8, "code": 0.70}, {"code": 0.75, "law": 0.7})
    assert named == pytest.approx({"law": 0.125, "code": -0.071429}, abs=1e-6)
    assert list(named) == ["law", "code"]
    assert metrics.relative_forgetting(0.95, 0.32) == pytest.approx(0.663, abs=5e-4)


def test_relative_forgetting_at_zero():
    with pytest.raises(ValueError, match="before must not be 0"):
        metrics.relative_forgetting(0.0, 0.5)
    with pytest.raises(ValueError, match="before must not be 0"):
        metrics.relative_forgetting({"a": 0.5, "b": 0.0}, {"a": 0.5, "b": 0.0})
    assert np.isnan(metrics.relative_forgetting(0.0, 0.5, zero="nan"))
    assert np.isnan(metrics.relative_forgetting([0.0, 0.5], [0.0, 0.25], zero="nan")).tolist() == [
        True,
        False,
    ]
    assert metrics.relative_forgetting(0.5, 0.0) == 1.0


@pytest.mark.parametrize(
    ("before", "after", "error", "message"),
    [
        ({"a": 0.5, "b": 0.5}, {"a": 0.5}, ValueError, "only one has 'b'"),
        ({"a": 0.5}, {"a": 0.5, "c": 0.1}, ValueError, "only one has 'c'"),
        ({}, {}, ValueError, "before and after"),
        ({"a": 0.5}, [0.5], TypeError, "before must hold real numbers, got dict"),
        ([0.5], {"a": 0.5}, TypeError, "after must hold real numbers, got dict"),
        ({"a": "0.5"}, {"a": 0.5}, TypeError, r"before\['a'\]"),
        ({"a": 0.5}, {"a": True}, TypeError, r"after\['a'\]"),
        ({"a": 0.5}, {"a": math.nan}, ValueError, r"after\['a'\]"),
        ([0.5, 0.5], [0.5], ValueError, "one length"),
        ([], [], ValueError, "before and after"),
        (R, R, ValueError, "before and after"),
        (0.5, [0.5], ValueError, "one length"),
        (math.nan, 0.5, ValueError, "NaN"),
        (90, 60, ValueError, "before must lie in"),
        (0.9, 60, ValueError, "after must lie in"),
        ("0.9", 0.5, TypeError, "before must hold"),
        (0.9, None, TypeError, "after must hold"),
    ],
)
def test_bad_relative_forgetting(before, after, error, message):
    with pytest.raises(error, match=message):
        metrics.relative_forgetting(before, after)


def test_relative_forgetting_knows_two_rules_for_zero():
    with pytest.raises(ValueError, match="zero"):
        metrics.relative_forgetting(0.5, 0.5, zero="skip")


def test_learning_curve_area():
    curves = [[0.1, 0.4, 0.6, 0.7], [0.2, 0.5, 0.7, 0.8]]
    assert metrics.learning_curve_area(curves) == pytest.approx(0.50)
    assert metrics.learning_curve_area([[0.1], [0.2]]) == pytest.approx(0.15)
    trapezoid = np.trapezoid(np.mean(curves, axis=0)) / 3
    assert abs(trapezoid - 0.50) > 0.01
    faster = [[0.1, 0.6, 0.7, 0.7], [0.2, 0.7, 0.8, 0.8]]
    assert metrics.learning_curve_area(faster) > metrics.learning_curve_area(curves)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([0.1, 0.4], ValueError, "curves must have shape"),
        ([[]], ValueError, "curves must have shape"),
        ([], ValueError, "curves must have shape"),
        ([[0.1, 0.2], [0.3]], ValueError, "curves must be rectangular"),
        ([[0.1, math.nan]], ValueError, r"curves\[0, 1\] is missing"),
        ([[10, 40]], ValueError, "must lie in"),
        ([["a"]], TypeError, "curves must hold"),
        ([[True]], TypeError, "curves must hold"),
    ],
)
def test_bad_curves(bad, error, message):
    with pytest.raises(error, match=message):
        metrics.learning_curve_area(bad)


def test_anytime_accuracy():
    assert metrics.anytime_accuracy([0.2, 0.4, 0.9]) == pytest.approx(0.5)
    for bad in ([], [[0.1]], [0.1, math.nan], [50.0]):
        with pytest.raises(ValueError, match="accuracies"):
            metrics.anytime_accuracy(bad)


def test_across_seeds_uses_the_sample_standard_deviation():
    mean, std, n = metrics.across_seeds([-0.1, 0.0, 0.4])
    assert mean == pytest.approx(0.1)
    assert std == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert n == 3
    for bad in ([0.5], [], [[0.5, 0.6]], [0.5, math.nan], [0.5, math.inf], 0.5):
        with pytest.raises(ValueError, match="values"):
            metrics.across_seeds(bad)
    with pytest.raises(TypeError, match="values"):
        metrics.across_seeds(["0.5", "0.6"])
