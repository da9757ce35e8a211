"""Class-conditional Gaussians: moments, classes asked for, and the closed form of refitting."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cllab.device import generator
from cllab.replay import ClassGaussians, expected_shrink, gaussian, refit_variances

F64 = torch.float64


def rows(n=200, d=3, classes=3, seed=0):
    source = generator(seed)
    y = torch.randint(classes, (n,), generator=source)
    y[:classes] = torch.arange(classes)
    spread = torch.randn(classes, d, d, generator=source, dtype=F64)
    x = torch.randn(n, 1, d, generator=source, dtype=F64) @ spread[y] + 3.0 * y[:, None, None]
    return x.squeeze(1), y


def slow_moments(x):
    """Mean and covariance, entry by entry."""
    n, d = x.shape
    mean = [sum(float(row[j]) for row in x) / n for j in range(d)]
    covariance = [[sum((float(r[i]) - mean[i]) * (float(r[j]) - mean[j]) for r in x) / n for j in range(d)]
                  for i in range(d)]  # fmt: skip
    return torch.tensor(mean, dtype=F64), torch.tensor(covariance, dtype=F64)


def test_mean_and_covariance_are_those_of_a_slow_loop():
    x, _ = rows(20)
    for ours, slow in zip(gaussian(x), slow_moments(x), strict=True):
        assert torch.allclose(ours, slow, atol=1e-9)


def test_two_rows_by_hand():
    mean, covariance = gaussian(torch.tensor([[0.0, 0.0], [2.0, 4.0]], dtype=F64))
    assert mean.tolist() == [1, 2] and covariance.tolist() == [[1, 2], [2, 4]]  # n - 1 would double it


def test_every_class_keeps_its_own_moments_and_count():
    x, y = rows()
    made = ClassGaussians()
    made.fit(x, y)
    for c, mixture in made.mixtures.items():
        mean, covariance = slow_moments(x[y == c])
        assert torch.allclose(mixture.mean[0], mean, atol=1e-9)
        assert torch.allclose(mixture.covariance[0], covariance, atol=1e-9)
        assert mixture.count == int((y == c).sum())


@pytest.mark.parametrize("components", [1, 3])
def test_moments_of_a_hundred_thousand_samples(components):
    x, y = rows(100, d=2, classes=2)
    made = ClassGaussians(components, eps=0.05)
    made.fit(x, y, generator(0))
    drawn = made.draw(torch.ones(100_000, dtype=torch.int64), generator(1))
    mean, covariance = gaussian(x[y == 1])
    assert torch.allclose(drawn.mean(dim=0), mean, atol=0.03)
    found = (drawn - drawn.mean(dim=0)).T @ (drawn - drawn.mean(dim=0)) / len(drawn)
    assert torch.allclose(found, covariance + 0.05 * torch.eye(2), atol=0.1)


def test_samples_come_from_the_class_asked_for_in_the_mix_asked_for():
    x, y = rows()
    made = ClassGaussians(eps=0.0)
    made.fit(x + 100 * y[:, None], y)
    drawn, labels = made.sample(10_000, generator(0), classes=[2, 0], weights=[3, 1])
    assert sorted(labels.unique().tolist()) == [0, 2]
    assert (labels == 2).double().mean() == pytest.approx(0.75, abs=0.02)
    assert torch.equal((drawn.mean(dim=1) / 100).round().long(), labels)
    _, labels = made.sample(10_000, generator(0))
    shares = torch.tensor([m.count for _, m in sorted(made.mixtures.items())]) / len(y)
    assert torch.allclose(labels.bincount() / 10_000, shares, atol=0.02)


def test_the_same_generator_gives_the_same_rows_and_none_are_no_rows():
    x, y = rows()
    made = ClassGaussians(2)
    made.fit(x, y, generator(3))
    first, second = (made.sample(50, generator(1)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert made.sample(0, generator(1))[0].shape == (0, 3)


def test_fitting_one_class_leaves_the_others():
    x, y = rows()
    made = ClassGaussians()
    made.fit(x, y)
    before = made.mixtures[0]
    made.fit(x[y == 2] + 1, y[y == 2])
    assert made.mixtures[0] is before
    assert torch.allclose(made.mixtures[2].mean[0], x[y == 2].mean(dim=0) + 1)


def test_state_draws_on_where_it_was():
    x, y = rows()
    made, other = ClassGaussians(2), ClassGaussians(2)
    made.fit(x, y, generator(0))
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.sample(30, generator(5))[0], other.sample(30, generator(5))[0])
    assert other.nbytes == made.nbytes == 3 * (2 + 2 * 3 + 2 * 9) * 8


def test_a_class_with_few_rows_and_features_that_never_vary():
    x = torch.zeros(3, 4, dtype=F64)
    x[:, 0] = torch.tensor([0.0, 1.0, 2.0])
    made = ClassGaussians(components=5, eps=1e-3)
    made.fit(x, torch.tensor([0, 0, 1]), generator(0))
    assert torch.isfinite(made.sample(100, generator(0))[0]).all()
    with pytest.raises(ValueError, match=r"eps must be larger than 0.*class 0 is singular"):
        ClassGaussians(eps=0.0).fit(x, torch.tensor([0, 0, 1]))


def test_few_rows_of_many_large_values_are_no_trouble():
    x = 255 * torch.rand(20, 64, generator=generator(0))
    made, other = ClassGaussians(), ClassGaussians()
    made.fit(x, torch.zeros(20, dtype=torch.int64))
    other.load_state_dict(made.state_dict())
    drawn = made.sample(500, generator(1))[0]
    assert drawn.dtype == torch.float32 and torch.equal(drawn, other.sample(500, generator(1))[0])
    assert float(drawn.var(dim=0).sum() / x.var(dim=0, correction=0).sum()) == pytest.approx(1, abs=0.15)


def test_bad_input_is_refused_by_name_and_changes_nothing():
    x, y = rows()
    made = ClassGaussians()
    with pytest.raises(ValueError, match="classes must have been fitted"):
        made.sample(3, generator(0))
    made.fit(x, y)
    kept = dict(made.mixtures)
    for wrong, named in (
        (lambda: made.sample(3, generator(0), classes=[0, 7]), r"classes.*\[7\]"),
        (lambda: made.draw(torch.tensor([9]), generator(0)), r"classes.*\[9\]"),
        (lambda: made.sample(3, generator(0), classes=[0], weights=[0.0]), "weights"),
        (lambda: made.sample(3, generator(0), classes=[0, 1], weights=[1.0]), "weights"),
        (lambda: made.sample(-1, generator(0)), "n must be"),
        (lambda: made.fit(x[:, :2], y), "3 features"),
        (lambda: made.fit(x * float("nan"), y), "x must be finite"),
        (lambda: ClassGaussians(eps=-1.0), "eps"),
        (lambda: ClassGaussians(0), "components"),
        (lambda: refit_variances(0, 1, 1, generator(0)), "n must be"),
        (lambda: expected_shrink(3, -1), "generations"),
    ):
        with pytest.raises(ValueError, match=named):
            wrong()
    for wrong, named in (
        (lambda: made.fit(x.float(), y), "dtype torch.float64 as before, got torch.float32"),
        (lambda: made.sample(3, generator(0), weights=5), "weights must be 3 numbers"),
        (lambda: made.load_state_dict({}), "state must come from state_dict of ClassGaussians"),
        (lambda: gaussian(torch.tensor([[1e30], [-1e30]])), "x must be small enough"),
        (lambda: made.fit(x * 1e300, y), "x must be small enough"),
    ):
        with pytest.raises(ValueError, match=named):
            wrong()
    for wrong, named in (
        (lambda: ClassGaussians(2).fit(x, y), "generator must be given"),
        (lambda: made.sample(3, generator(0), classes=[0.0]), "classes must be an integer"),
        (lambda: made.sample(3, generator(0), classes=5), "classes must be a list"),
        (lambda: made.draw([0], generator(0)), "y must be a torch.Tensor"),
        (lambda: made.draw(torch.tensor([0]), None), "generator must be a torch.Generator"),
        (lambda: made.sample(3, 0), "generator must be a torch.Generator"),
        (lambda: refit_variances(3, 1, 1, None), "generator must be a torch.Generator"),
    ):
        with pytest.raises(TypeError, match=named):
            wrong()
    assert made.mixtures == kept


# --- drift -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "expected"), [(10, 0.1216), (100, 0.818), (1000, 0.980)])
def test_expected_shrink_of_the_table(n, expected):
    assert expected_shrink(n, 20) == pytest.approx(expected, abs=5e-4)


@given(st.integers(1, 50), st.integers(0, 30))
def test_expected_shrink_is_a_product(n, generations):
    product = 1.0
    for _ in range(generations):
        product *= (n - 1) / n
    assert expected_shrink(n, generations) == pytest.approx(product, abs=1e-12)


def test_simulated_variances_follow_the_closed_form_and_their_median_falls_faster():
    found = refit_variances(10, 20, 20_000, generator(0))
    assert found.shape == (21, 20_000) and bool((found[0] == 1).all())
    for t in (1, 5, 20):
        assert float(found[t].mean()) == pytest.approx(0.9**t, abs=4 * float(found[t].std()) / np.sqrt(20_000))
    assert float(found[20].median()) == pytest.approx(0.012, abs=0.004)


def test_the_unbiased_variance_would_not_shrink():
    """The wrong variant: with n - 1 in the denominator the mean stays at 1, which the test above would notice."""
    source = generator(0)
    mean, variance = torch.zeros(20_000, dtype=F64), torch.ones(20_000, dtype=F64)
    for _ in range(20):
        x = mean + variance.sqrt() * torch.randn(10, 20_000, generator=source, dtype=F64)
        mean, variance = x.mean(dim=0), x.var(dim=0)
    assert abs(float(variance.mean()) - 0.9**20) > 0.3


def test_one_row_has_no_variance():
    assert refit_variances(1, 2, 3, generator(0))[1:].abs().max() == 0 == expected_shrink(1, 2)
