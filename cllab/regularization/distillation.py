"""Distillation: answer as a teacher answers, its small probabilities included.

    q = softmax(z_tea / T),  p = softmax(z_stu / T)
    KL(q || p) = sum_v q_v (ln q_v - ln p_v),   CE(q, p) = -sum_v q_v ln p_v = KL(q || p) + H(q)
    loss = T^2 (1 / N_eff) sum_n m_n KL(q_n || p_n)

Symbols: z_tea, z_stu, logits [N, C] or [B, S, V]; T > 0, the temperature; m, a mask of positions [N] or [B, S]; N_eff =
sum m; H(q), the teacher's entropy. Both forms have the same gradient T (p - q) / N_eff. The factor T^2, applied once,
keeps it of order 1: for large T it tends to the difference of the centred logits divided by C.
Source: Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network". Language models: align the logits
and the mask with the labels (the causal shift) before calling.
"""

import torch
from torch import Tensor

from cllab import checks

FORMS = ("kl", "ce")


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float = 2.0, mask: Tensor | None = None, form: str = "kl"
) -> Tensor:
    """T^2 times the mean over kept positions of KL(q || p) or CE(q, p), in nats: a scalar.

    student, teacher: finite logits of one shape [N, C] or [B, S, V], classes last. The teacher takes no gradient.
    mask: bool or 0/1, [N] or [B, S]; positions at 0 count for nothing, neither in the sum nor in the mean. ValueError
    when it keeps none.
    """
    checks.floats("student", student)
    checks.floats("teacher", teacher)
    if student.ndim not in (2, 3) or student.shape != teacher.shape:
        raise ValueError(
            "student and teacher must have one shape [N, C] or [B, S, V], "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    T = checks.number("temperature", temperature, 0.0)
    if T == 0:
        raise ValueError("temperature must be above 0, got 0")
    checks.choice("form", form, FORMS)
    if mask is not None:
        kept = _positions(mask, student)
        student, teacher = student[kept], teacher[kept]
    # logarithms from log_softmax: softmax first would give ln 0 for logits far apart
    ln_q, ln_p = (teacher.detach() / T).log_softmax(dim=-1), (student / T).log_softmax(dim=-1)
    # KL(q || p) = sum_v q_v (ln q_v - ln p_v),  CE(q, p) = -sum_v q_v ln p_v
    per_position = (ln_q.exp() * (ln_q - ln_p if form == "kl" else -ln_p)).sum(dim=-1)
    return T**2 * per_position.mean()


def _positions(mask: Tensor, logits: Tensor) -> Tensor:
    """The mask as bool [N] or [B, S]."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.shape != logits.shape[:-1]:
        raise ValueError(f"mask must have shape {tuple(logits.shape[:-1])}, got {tuple(mask.shape)}")
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask must hold only 0 and 1")
    if not bool(mask.any()):
        raise ValueError("mask must keep at least one position")
    return mask.bool()
