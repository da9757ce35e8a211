"""Soft labels: a student learns the probabilities that a teacher gives to the classes, not only its best answer.

Idea: the teacher's probabilities tell which wrong classes a row looks like. A temperature above 1 makes the small ones
count, and the factor T^2 keeps the gradient as large as at T = 1.

    L = T^2 (1/B) sum_i sum_c q_ic (ln q_ic - ln p_ic),    p_i = softmax(z_i / T)

Symbols: q [B, C] the teacher's probabilities at temperature T; z [B, H] the student's logits; p its probabilities
among the classes that each row may use; T > 0.
Source: Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network". Departure: the teacher's entropy
stays in, so that the loss is 0 when the student answers the targets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab import checks
from cllab.training import masked

COLDEST = 1e-6
"""The lowest temperature: logits are divided by it."""


def soft_label_loss(logits: Tensor, targets: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Mean over rows of T^2 KL(targets || student at temperature T), in nats; 0 when the student answers the targets.

    logits: of the student, [B, H]. targets: probabilities [B, C], C <= H. allowed: bool [B, C], the student's masks.
    Raises ValueError for values that are not finite, a temperature below 1e-6, targets that have more classes than
    the logits, are negative, or give a share to a class that `allowed` excludes.
    """
    checks.floats("logits", logits, ndim=2)
    checks.floats("targets", targets, ndim=2)
    checks.number("temperature", temperature, COLDEST)
    if targets.shape[1] > logits.shape[1]:
        raise ValueError(f"targets must have at most the logits' {logits.shape[1]} classes, got {targets.shape[1]}")
    excluded = masked(torch.zeros_like(targets), allowed).isneginf()
    if bool((targets < 0).any()) or bool((excluded & (targets > 0)).any()):
        raise ValueError("targets must be probabilities, and 0 for every class that allowed excludes")
    return scaled_divergence(logits, targets, allowed, temperature)


def scaled_divergence(logits: Tensor, targets: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """`soft_label_loss` without its checks, for every step of a training."""
    q = F.pad(targets, (0, logits.shape[1] - targets.shape[1]))
    log_p = masked(logits / temperature, allowed).log_softmax(dim=1)
    # T^2 sum_c q_c (ln q_c - ln p_c), where a class with q_c = 0 adds nothing
    terms = torch.xlogy(q, q) - q * log_p.masked_fill(q == 0, 0.0)
    return temperature**2 * terms.sum(dim=1).mean()
