"""The arithmetic of the distillation page: logits as they are typed, 80/18/2 read two ways, masked tokens.

No Streamlit in here, so that tests call these functions directly. The tokens are those of the course: student logits
sin(0), sin(1), ..., teacher logits cos(0), cos(1), ..., filled into [B, S, V] = [2, 3, 3]; padding positions go on with
the same two rows of numbers.
"""

import math
import re
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks
from cllab.player.from_distillation import NAMES
from cllab.regularization import distillation_loss

REACH = 50.0
"""Logits are taken from -50 to 50."""
SENTENCES, WORDS, VOCABULARY = 2, 3, 3
TRUE_MASK = ((True, True, False), (True, False, False))


def logits(name: str, text: str) -> list[float]:
    """Two to six numbers between commas or spaces; ValueError is a sentence for the person who typed them."""
    allowed = f"Give 2 to {len(NAMES)} numbers from −{REACH:g} to {REACH:g}, separated by commas."
    parts = re.findall(r"[^\s,;，；、]+", text.replace("−", "-"))
    if not parts:
        raise ValueError(f"The {name}'s logits are empty. {allowed}")
    found = []
    for part in parts:
        shown = "".join(c for c in part[:20] if c.isprintable() and c != "`")
        try:
            value = float(part)
        except ValueError:
            raise ValueError(f"The {name}'s logits hold `{shown}`, which is not a number. {allowed}") from None
        if not math.isfinite(value):
            raise ValueError(f"The {name}'s logits hold `{shown}`, which is not finite: no softmax has it. {allowed}")
        if abs(value) > REACH:
            raise ValueError(f"The {name}'s logits hold `{shown}`, which is out of range. {allowed}")
        found.append(value)
    if not 2 <= len(found) <= len(NAMES):
        raise ValueError(f"The {name} has {len(found)} logit{'s' if len(found) > 1 else ''}. {allowed}")
    return found


def readings(q: list[float], printed_at: float, temperatures: tuple[float, ...]) -> tuple[list[float], list]:
    """Logits, the last one 0, whose softmax at T = `printed_at` is q, and their softmax at other temperatures."""
    # z_v = T ln(q_v / q_C)
    z = torch.tensor([printed_at * math.log(value / q[-1]) for value in q], dtype=torch.float64)
    return z.tolist(), [(z / T).softmax(dim=0).tolist() for T in temperatures]


def tokens(padding: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher, [2, 3 + padding, 3]."""
    checks.integer("padding", padding, 0, 20)
    first, more = SENTENCES * WORDS * VOCABULARY, SENTENCES * padding * VOCABULARY
    counted = torch.arange(first + more, dtype=torch.float64)
    made = []
    for wave in (counted.sin(), counted.cos()):
        words = wave[:first].view(SENTENCES, WORDS, VOCABULARY)
        made.append(torch.cat([words, wave[first:].view(SENTENCES, padding, VOCABULARY)], dim=1))
    return made[0], made[1]


class Reduction(NamedTuple):
    """One way to make a single number of all tokens' KL: its name, its formula with numbers, and what comes out."""

    name: str
    formula: str
    value: float


def token_kl(T: float, padding: int = 0) -> Tensor:
    """KL(q || p) of every token in nats, [2, 3 + padding]."""
    student, teacher = tokens(padding)
    pairs = zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)
    return torch.stack([distillation_loss(s[None], t[None], T) for s, t in pairs]).view(student.shape[:-1]) / T**2


def reductions(mask: Tensor, T: float, padding: int = 0) -> list[Reduction]:
    """The right mean over the tokens that `mask` [2, 3] keeps, and four wrong ones; padding is never kept. No T^2.

    ValueError, from `distillation_loss`, when the mask keeps nothing.
    """
    kl = token_kl(T, padding)
    B, S = kl.shape
    m = torch.cat([mask, torch.zeros(B, padding, dtype=torch.bool)], dim=1)
    student, teacher = tokens(padding)
    right = float(distillation_loss(student, teacher, T, mask=m)) / T**2
    kept, total, n = float(kl[m].sum()), float(kl.sum()), int(m.sum())
    return [
        Reduction("masked mean", f"{kept:.6f} / {n} kept", right),
        Reduction("sum / all tokens", f"{kept:.6f} / {B * S}", kept / (B * S)),
        Reduction("no mask", f"{total:.6f} / {B * S} tokens", total / (B * S)),
        Reduction("batchmean", f"{total:.6f} / {B} sentences", total / B),
        Reduction("mean", f"{total:.6f} / {B * S * VOCABULARY} numbers", total / (B * S * VOCABULARY)),
    ]
