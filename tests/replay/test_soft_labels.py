"""Soft labels: worked numbers, the gradient in closed form, refusals."""

import pytest
import torch

from cllab.replay import soft_label_loss

F64 = torch.float64


def test_soft_labels_by_hand():
    teacher, student = torch.tensor([[4.0, 2.0, 0.0]], dtype=F64), torch.tensor([[1.0, 1.0, 0.0]], dtype=F64)
    every = torch.ones(1, 3, dtype=torch.bool)
    for temperature, expected in ((1.0, 0.436814), (2.0, 0.682559)):
        targets = (teacher / temperature).softmax(dim=1)
        assert float(soft_label_loss(student, targets, every, temperature)) == pytest.approx(expected, abs=1e-6)
    assert float(soft_label_loss(teacher, targets, every, 2.0)) == pytest.approx(0.0, abs=1e-12)


def test_soft_labels_give_new_classes_nothing_and_forbidden_classes_no_gradient():
    targets = torch.tensor([[0.75, 0.25]], dtype=F64)  # the old solver had two outputs
    logits = torch.tensor([[1.0, 0.0, 2.0, 9.0]], dtype=F64, requires_grad=True)
    allowed = torch.tensor([[True, True, True, False]])
    soft_label_loss(logits, targets, allowed, 2.0).backward()
    p = (logits.detach()[:, :3] / 2).softmax(dim=1)
    # d/dz T^2 KL(q || softmax(z / T)) = T (p - q)
    expected = 2 * (p - torch.tensor([[0.75, 0.25, 0.0]]))
    assert torch.allclose(logits.grad[:, :3], expected, atol=1e-9) and logits.grad[0, 3] == 0


def test_bad_input_is_refused_by_name():
    logits, targets = torch.zeros(1, 3), torch.tensor([[0.5, 0.5, 0.0]])
    allowed = torch.tensor([[True, True, False]])
    good = {"logits": logits, "targets": targets, "allowed": allowed, "temperature": 2.0}
    assert float(soft_label_loss(**good)) == pytest.approx(0.0, abs=1e-6)
    for wrong, named in (
        ({"temperature": 0.0}, "temperature must be"),
        ({"logits": logits * float("nan")}, "logits must be finite"),
        ({"targets": targets * float("inf")}, "targets must be finite"),
        ({"logits": logits[:, :2]}, "targets must have at most the logits' 2 classes, got 3"),
        ({"targets": torch.tensor([[0.5, 0.0, 0.5]])}, "0 for every class that allowed excludes"),
        ({"targets": torch.tensor([[1.5, -0.5, 0.0]])}, "targets must be probabilities"),
    ):
        with pytest.raises(ValueError, match=named):
            soft_label_loss(**{**good, **wrong})
