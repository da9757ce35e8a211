"""The references of lesson 13 against worked numbers, closed forms and what routing must satisfy."""

import math

import pytest
import torch

from cllab.exercises import l13


def rows(seed: int, n: int = 12, n_experts: int = 4) -> list[list[float]]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_experts, generator=source, dtype=torch.float64).softmax(dim=1).tolist()


def test_four_tokens_and_their_places():
    assert l13.serve(l13.FOUR, 2) == [0, -1, 0, 1]
    assert l13.serve(l13.FOUR, 1) == [-1, -1, 0, 1]
    assert l13.serve(l13.FOUR, 4) == [0, 0, 0, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("places", [1, 2, 5])
def test_a_token_is_dropped_only_when_surer_ones_fill_its_expert(seed, places):
    P = rows(seed)
    served = l13.serve(P, places)
    for n, row in enumerate(P):
        first = row.index(max(row))
        surer = sum(other.index(max(other)) == first and max(other) > max(row) for other in P)
        assert served[n] == (first if surer < places else -1)


def test_the_smooth_load_of_the_lesson():
    assert l13.stays([1.0, 0.5, 0.0], [1.2, 0.3, 0.1], 0.5, 1) == pytest.approx(
        [0.919243, 0.080757, 0.008198], abs=1e-6
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_chances_to_stay_are_those_of_drawing_one_noise_again(k):
    clean, noisy = [0.4, -0.3, 1.1, 0.2], [0.9, -0.1, 0.3, 0.5]
    for i, chance in enumerate(l13.stays(clean, noisy, 0.7, k)):
        to_beat = sorted(noisy[:i] + noisy[i + 1 :])[-k]
        assert chance == pytest.approx((1 + math.erf((clean[i] - to_beat) / 0.7 / math.sqrt(2))) / 2, abs=1e-12)


def test_the_switch_loss_on_paper():
    assert l13.switch_loss(l13.FOUR, 1) == pytest.approx(1.3875)
    assert l13.switch_loss(l13.FOUR, 2) == pytest.approx(2.4)
    assert l13.switch_loss(l13.BELOW_ONE, 1) == pytest.approx(0.8775)
    assert l13.switch_loss([[0.4, 0.35, 0.25]] * 4, 1) == pytest.approx(1.2)
    assert l13.switch_loss([[1.0, 0.0, 0.0]] * 4, 1) == pytest.approx(3.0)


@pytest.mark.parametrize("k", [1, 2])
def test_the_switch_loss_knows_neither_the_experts_numbers_nor_the_batch_size(k):
    P = rows(1)
    value = l13.switch_loss(P, k)
    assert l13.switch_loss([row[::-1] for row in P], k) == pytest.approx(value)
    assert l13.switch_loss(P * 3, k) == pytest.approx(value)


def test_biases_and_weights_on_paper():
    # both tokens take expert 0; then b = (-.06, .06, .06) sends both to expert 1, whose bias goes back to 0
    b, weights = l13.loss_free(l13.TWICE[:1], 0.06)
    assert b == pytest.approx([-0.06, 0.06, 0.06]) and weights == [0.9, 0.6]
    b, weights = l13.loss_free(l13.TWICE, 0.06)
    assert b == pytest.approx([0.0, 0.0, 0.12]) and weights == [0.8, 0.5]


@pytest.mark.parametrize("seed", range(3))
def test_a_skewed_stream_becomes_even_and_no_weight_contains_the_bias(seed):
    source = torch.Generator().manual_seed(seed)
    skew = torch.tensor([1.0, 0.5, 0.0, -0.5], dtype=torch.float64)
    s = (torch.randn(150, 60, 4, generator=source, dtype=torch.float64) + skew).softmax(dim=2)
    b, weights = l13.loss_free(s.tolist(), 0.005)
    before, after = (_busiest_share(s, bias) for bias in (0 * skew, torch.tensor(b, dtype=torch.float64)))
    # even would be a quarter
    assert before > 0.4
    assert after < 0.3
    assert all(weight in row for weight, row in zip(weights, s[-1].tolist(), strict=True))


def _busiest_share(s: torch.Tensor, bias: torch.Tensor) -> float:
    """The largest share of all tokens of the stream that one expert is chosen for."""
    counts = torch.bincount((s + bias).argmax(dim=2).flatten(), minlength=len(bias))
    return (counts.max() / counts.sum()).item()
