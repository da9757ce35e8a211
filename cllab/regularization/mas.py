"""Memory aware synapses: a weight matters as much as the model's answer reacts to it. No labels are needed.

    Omega_i = (1/N) sum_n | d ||f(x_n)||^2 / d theta_i |
    L(theta) = L_new(theta) + lam sum_i Omega_i (theta_i - theta*_i)^2

Symbols: f(x_n), the logits of row n, [C]; ||.||^2, their squared length; Omega, like theta; theta*, the weights at the
last task's end. The factor is 1 (not 1/2), the sum runs over parameters, Omega is a mean over rows, summed over tasks.
The absolute value is taken for every row. Taken after summing a batch, as in the authors' code, rows of opposite sign
cancel: f = w . x at w = (1, 1) with rows (1, 0) and (1, -2) has Omega = (2, 2), of the batch it would be (0, 2).
Source: Aljundi et al. 2018, "Memory aware synapses: learning what (not) to forget".
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.regularization.penalty import Springs
from cllab.regularization.rows import answers, classes, powers_of_row_gradients
from cllab.training import Context, Phase, evaluating


def output_sensitivity(
    model: nn.Module, x: Tensor, *, allowed: Tensor | None = None, chunk: int = 256
) -> dict[str, Tensor]:
    """Omega of every trainable parameter at the model's present weights: {name: tensor shaped like it}.

    model: rows [N, ...] -> logits [N, C]. x: [N, ...]. allowed: bool [C], the logits that count (default all).
    chunk: rows worked on at once; bounds the memory. The model is evaluated in eval mode and left as it was.
    """
    checks.integer("chunk", chunk, 1)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    Omega = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    if not Omega:
        raise ValueError("model must have at least one trainable parameter")
    checks.floats("x", x)
    with evaluating(model):
        logits = answers(model, x, chunk)
        counted = classes(allowed, logits)

        def squared_length(logits: Tensor) -> Tensor:
            return logits.square().masked_fill(~counted, 0.0).sum(dim=1)

        for part in x.split(chunk):
            # Omega_i = (1/N) sum_n | d ||f(x_n)||^2 / d theta_i |
            sums = powers_of_row_gradients(model, part, squared_length, part.new_ones(len(part)), power=1)
            for name, value in sums.items():
                Omega[name] += value / len(x)
    if not all(bool(torch.isfinite(value).all()) for value in Omega.values()):
        raise ValueError("x must be smaller: the gradients of the model overflow")
    return Omega


class MAS(Springs):
    """Fine-tuning with springs as stiff as the answers are sensitive; lam = 0 is plain fine-tuning, bit for bit.

    lam: strength, >= 0 (1 in the paper). n_samples: how many rows of the finished task Omega uses, drawn at random
    (None: all).
    """

    def __init__(self, lam: float = 1.0, *, n_samples: int | None = None):
        self.lam = checks.number("lam", lam, 0.0)
        self.n_samples = None if n_samples is None else checks.integer("n_samples", n_samples, 1)

    @property
    def strength(self) -> float:
        """2 lam: the springs have a factor 1/2 that MAS has not."""
        return 2 * self.lam

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        x = ctx.task.x
        if self.n_samples is not None:
            x = x[torch.randperm(len(x), generator=self.generator)[: self.n_samples].to(x.device)]
        new = output_sensitivity(ctx.model, x, allowed=ctx.allowed(ctx.task_index))
        self.hold(ctx.model, new, keep=1.0)
        yield Phase("output sensitivity", {"max Omega": max(Omega.max().item() for Omega in self.held[0].F.values())})
