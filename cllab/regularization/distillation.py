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

from torch import Tensor

from cllab import checks

FORMS = ("kl", "ce")


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float = 2.0, mask: Tensor | None = None, form: str = "kl"
) -> Tensor:
    """T^2 times the mean over kept positions of KL(q || p) or CE(q, p), in nats: a scalar.

    student, teacher: logits of one shape [N, C] or [B, S, V], classes last, finite where they count. The teacher takes
    no gradient. temperature: from 1e-3 to 1e5.
    mask: bool or 0/1, [N] or [B, S]; positions at 0 count for nothing, neither in the sum nor in the mean. ValueError
    when it keeps none.
    """
    for name, logits in (("student", student), ("teacher", teacher)):
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            given = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"{name} must be a torch.Tensor of floating-point logits, got {given}")
    if student.ndim not in (2, 3) or student.shape != teacher.shape:
        raise ValueError(
            "student and teacher must have one shape [N, C] or [B, S, V], "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    T = temperature_of(temperature)
    checks.choice("form", form, FORMS)
    if mask is not None:
        kept = _positions(mask, student)
        student, teacher = student[kept], teacher[kept]
    checks.floats("student", student)
    checks.floats("teacher", teacher)
    # in float64: T^2 times the difference of two nearly equal logarithms loses float32's digits from T = 100 on
    z_stu, z_tea = student.double(), teacher.detach().double()
    # logarithms from log_softmax: softmax first would give ln 0 for logits far apart
    ln_q, ln_p = (z_tea / T).log_softmax(dim=-1), (z_stu / T).log_softmax(dim=-1)
    # KL(q || p) = sum_v q_v (ln q_v - ln p_v),  CE(q, p) = -sum_v q_v ln p_v
    per_position = (ln_q.exp() * (ln_q - ln_p if form == "kl" else -ln_p)).sum(dim=-1)
    return (T**2 * per_position.mean()).to(student.dtype)


def temperature_of(temperature: float) -> float:
    """T as a float; ValueError outside 1e-3 to 1e5, where rounding would be all that is left of the loss."""
    return checks.number("temperature", temperature, 1e-3, 1e5)


def _positions(mask: Tensor, logits: Tensor) -> Tensor:
    """The mask as bool [N] or [B, S]."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.shape != logits.shape[:-1]:
        raise ValueError(f"mask must have shape {tuple(logits.shape[:-1])}, got {tuple(mask.shape)}")
    if mask.is_complex() or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask must hold only 0 and 1")
    if not bool(mask.any()):
        raise ValueError("mask must keep at least one position")
    return mask.bool()
