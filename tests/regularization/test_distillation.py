"""Distillation: the worked numbers, its gradient, its mask, and what must change nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.regularization import distillation_loss

D = torch.float64
TEACHER, STUDENT = torch.tensor([[4.0, 2.0, 0.0]], dtype=D), torch.tensor([[1.0, 1.0, 0.0]], dtype=D)
TOKENS_S = torch.arange(18.0, dtype=D).sin().view(2, 3, 3)
TOKENS_T = torch.arange(18.0, dtype=D).cos().view(2, 3, 3)
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def test_worked_numbers():
    assert distillation_loss(STUDENT, TEACHER, 1.0).item() == pytest.approx(0.436814, abs=5e-7)
    assert distillation_loss(STUDENT, TEACHER, 1.0, form="ce").item() == pytest.approx(0.877871, abs=5e-7)
    assert distillation_loss(STUDENT, TEACHER).item() == pytest.approx(0.682559, abs=1e-6)
    assert distillation_loss(STUDENT, TEACHER, form="ce").item() == pytest.approx(4 * 1.003035, abs=2e-6)
    z = STUDENT.clone().requires_grad_()
    distillation_loss(z, TEACHER).backward()
    assert z.grad.flatten().tolist() == pytest.approx([-0.563178, 0.277847, 0.285332], abs=1e-6)


@pytest.mark.parametrize(("T", "norm"), [(1.0, 0.514282), (2.0, 0.598621), (4.0, 0.617239), (50.0, 0.610320)])
def test_the_square_of_the_temperature_keeps_the_gradient(T, norm):
    z = torch.tensor([[1.0, 1, 0], [0, 2, 1]], dtype=D, requires_grad=True)
    teacher = torch.tensor([[4.0, 2, 0], [1, 0, 3]], dtype=D)
    distillation_loss(z, teacher, T).backward()
    assert z.grad.norm().item() == pytest.approx(norm, abs=1e-6)
    without = z.grad.norm().item() / T**2
    assert T == 1 or without < norm / 3  # the common omission


@pytest.mark.parametrize("T", [10.0, 1e3, 1e5])
def test_single_precision_keeps_its_digits_at_high_temperature(T):
    """The limit of T^2 KL is the squared distance of the centred logits over 2 C: 14/18."""
    loss = distillation_loss(STUDENT.float(), TEACHER.float(), T)
    expected = distillation_loss(STUDENT, TEACHER, T).item()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=1e-6)
    assert T < 1e3 or loss.item() == pytest.approx(14 / 18, rel=1e-2)


def test_masked_positions_may_hold_anything():
    student, teacher = TOKENS_S.clone(), TOKENS_T.clone()
    student[~MASK.bool()], teacher[~MASK.bool()] = math.nan, math.inf
    student.requires_grad_()
    loss = distillation_loss(student, teacher, 2.0, MASK)
    loss.backward()
    assert loss.item() == pytest.approx(0.461702, abs=1e-6)
    assert student.grad[~MASK.bool()].eq(0).all() and torch.isfinite(student.grad).all()


def test_masked_tokens():
    masked = distillation_loss(TOKENS_S, TOKENS_T, 2.0, MASK).item()
    assert masked == pytest.approx(0.461702, abs=1e-6)
    assert distillation_loss(TOKENS_S, TOKENS_T, 2.0).item() / 4 == pytest.approx(0.108592, abs=1e-6)
    kept = MASK.bool()
    assert distillation_loss(TOKENS_S[kept], TOKENS_T[kept], 2.0).item() == pytest.approx(masked, abs=1e-12)


def test_masked_positions_and_padding_change_nothing():
    z = TOKENS_S.clone().requires_grad_()
    loss = distillation_loss(z, TOKENS_T, 2.0, MASK)
    loss.backward()
    other = TOKENS_S.clone()
    other[~MASK.bool()] += 7.0
    moved = other.requires_grad_()
    again = distillation_loss(moved, TOKENS_T, 2.0, MASK)
    again.backward()
    assert again.item() == loss.item() and torch.equal(moved.grad, z.grad)
    assert z.grad[~MASK.bool()].eq(0).all()
    padding = torch.ones(2, 4, 3, dtype=D)
    long_mask = torch.cat([MASK, torch.zeros(2, 4, dtype=torch.int64)], dim=1)
    padded = [torch.cat([t, padding], dim=1) for t in (TOKENS_S, TOKENS_T)]
    assert distillation_loss(*padded, 2.0, long_mask).item() == pytest.approx(loss.item(), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 20.0), st.sampled_from([(4, 5), (2, 3, 4)]))
def test_forms_differ_by_the_entropy_and_share_the_gradient(seed, T, shape):
    source = torch.Generator().manual_seed(seed)
    teacher = 3 * torch.randn(shape, generator=source, dtype=D)
    z = (3 * torch.randn(shape, generator=source, dtype=D)).requires_grad_()
    kl, ce = distillation_loss(z, teacher, T), distillation_loss(z, teacher, T, form="ce")
    q, p = (teacher / T).softmax(-1), (z / T).softmax(-1)
    entropy = -(q * q.log()).sum(-1).mean()
    assert (ce - kl).item() == pytest.approx(T**2 * entropy.item(), rel=1e-9)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (kl, ce)]
    n = math.prod(shape[:-1])
    assert torch.allclose(gradients[0], T * (p - q) / n, atol=1e-12)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)
    shifted = distillation_loss(z + 5.0, teacher - 3.0, T)
    assert shifted.item() == pytest.approx(kl.item(), abs=1e-9 * T**2)


def test_a_perfect_student_has_no_loss_and_no_gradient():
    z = TEACHER.clone().requires_grad_()
    loss = distillation_loss(z, TEACHER)
    loss.backward()
    assert loss.item() == 0 and z.grad.abs().max() < 1e-15


def test_logits_far_apart_stay_finite():
    z = torch.tensor([[1e4, -1e4, 0.0]], dtype=D, requires_grad=True)
    loss = distillation_loss(z, -z.detach(), 2.0)
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(z.grad).all()


def test_the_teacher_takes_no_gradient():
    teacher, z = TEACHER.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    distillation_loss(z, teacher).backward()
    assert teacher.grad is None and z.grad is not None


def test_colder_or_warmer_keeps_the_order_of_the_answers():
    """80/18/2 percent at T = 2 are 95/5/0 at T = 1: without its temperature a soft target says little."""
    logits = torch.tensor([7.377759, 4.394449, 0.0], dtype=D)
    at = {T: (logits / T).softmax(0).tolist() for T in (1, 2, 4, 8)}
    assert at[2] == pytest.approx([0.80, 0.18, 0.02], abs=1e-4)
    assert at[1] == pytest.approx([0.9512, 0.0482, 0.0006], abs=1e-4)
    assert all(sorted(p, reverse=True) == p for p in at.values())


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((None, TEACHER), TypeError, "student"), ((STUDENT, TEACHER.long()), TypeError, "teacher"),
        ((STUDENT, TEACHER[:, :2]), ValueError, "one shape"), ((STUDENT[0], TEACHER[0]), ValueError, "one shape"),
        ((STUDENT, TEACHER, 0.0), ValueError, "temperature"), ((STUDENT, TEACHER, -1.0), ValueError, "temperature"),
        ((STUDENT * math.nan, TEACHER), ValueError, "student"), ((STUDENT, TEACHER, 1e-40), ValueError, "temperature"),
        ((STUDENT, TEACHER, 1e200), ValueError, "temperature"),
        ((TOKENS_S, TOKENS_T, 2.0, torch.ones(2, 3, dtype=torch.complex64)), ValueError, "only 0 and 1"),
        ((TOKENS_S, TOKENS_T, 2.0, torch.zeros(2, 3)), ValueError, "at least one"),
        ((TOKENS_S, TOKENS_T, 2.0, torch.full((2, 3), 0.5)), ValueError, "only 0 and 1"),
        ((TOKENS_S, TOKENS_T, 2.0, torch.ones(2, 2)), ValueError, "shape"),
        ((TOKENS_S, TOKENS_T, 2.0, [[1]]), TypeError, "mask"), ((STUDENT, TEACHER, 2.0, None, "mse"), ValueError, "form"),
    ],
)  # fmt: skip
def test_bad_input(arguments, error, named):
    with pytest.raises(error, match=named):
        distillation_loss(*arguments)
