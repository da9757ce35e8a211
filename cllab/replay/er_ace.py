"""ER-ACE: experience replay with an asymmetric cross-entropy, so that new rows don't push old classes down.

Idea. Under the ordinary cross-entropy every new row lowers the logits of all other classes, old ones first of all,
since these are confident. Let new rows compete only among themselves, and leave it to the memory to tell all apart.

    L = (1 - rho) * mean CE(new rows; classes of this batch) + rho * mean CE(memory rows; all allowed classes)
    CE(z, y; P) = -z_y + log sum_{c in P} exp(z_c),  P the set of classes present among the new rows

Symbols: z [C] logits of a row; y its class, in P; rho in [0, 1), the share of the memory.
The logits outside P have gradient 0; a batch of a single class teaches nothing.
Source: Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual learning".
Departures: rho is explicit, the paper adds the two means; P holds what is present and nothing else, where public code
also opens all columns from the highest class seen on; the loss is asymmetric where it replays, from the second task on.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab import checks
from cllab.replay.er import ExperienceReplay
from cllab.training import Batch, Context, masked


def asymmetric_cross_entropy(logits: Tensor, y: Tensor, present: Tensor | Iterable[int]) -> Tensor:
    """Mean cross-entropy of logits [B, C], y int64 [B], in nats, the softmax over the classes `present` only.

    present: class ids, an int64 tensor or a set or list of integers (once or repeated); every y must be among them,
    otherwise ValueError.
    """
    checks.floats("logits", logits, ndim=2)
    B, C = logits.shape
    checks.labels("y", y, n=B, n_classes=C)
    if not isinstance(present, Iterable):
        raise TypeError(f"present must be a tensor, set or list of class ids, got {type(present).__name__}")
    if not isinstance(present, Tensor):
        classes = [checks.integer("a class in present", c, 0, C - 1) for c in present]
        present = torch.tensor(classes, dtype=torch.int64, device=logits.device)
    checks.labels("present", present, n_classes=C)
    P = torch.zeros(C, dtype=torch.bool, device=logits.device)
    P[present] = True
    if not bool(P[y].all()):
        classes, lacking = P.nonzero().flatten().tolist(), sorted(set(y[~P[y]].tolist()))
        raise ValueError(f"present must hold every label of y, got {classes} without {lacking}")
    # -z_y + log sum_{c in P} exp(z_c)
    return F.cross_entropy(masked(logits, P), y)


class ERACE(ExperienceReplay):
    """Experience replay from a reservoir with the asymmetric loss; arguments as in ExperienceReplay.

    rho = 0 is plain fine-tuning, bit for bit: with no memory rows nothing would tell old classes from new ones.
    """

    def __init__(self, capacity: int, batch_size: int | None = None, rho: float = 0.5):
        super().__init__(capacity, batch_size, rho)

    def task_loss(self, ctx: Context, batch: Batch, outputs: Tensor) -> Tensor | None:
        if ctx.task_index == 0 or self.rho == 0:
            return None
        means, weights = [], []
        for part in batch.parts:
            if part.weight == 0:
                continue
            logits, y = outputs[part.rows], batch.y[part.rows]
            if part.source == "new":
                means.append(asymmetric_cross_entropy(logits, y, present=y))
            else:
                means.append(F.cross_entropy(masked(logits, batch.allowed[part.rows]), y))
            weights.append(part.weight)
        # with weights 1 and rho / (1 - rho) these are the shares 1 - rho and rho
        return sum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)
