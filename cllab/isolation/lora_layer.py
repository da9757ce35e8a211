"""One linear layer with low-rank adapters beside it: the arithmetic of LoRA.

    y = x W^T + s (x A^T) B^T,    delta W = s B A,    s = alpha / r

Symbols: W [out, in], frozen; A [r, in] and B [out, r], trained; r, the rank that delta W cannot exceed; alpha, which
sets the size of the branch. r (in + out) numbers in place of in * out.
B starts at zero, so that the layer starts as its base, and A does not: dL/dA contains B and is exactly zero at the
first step, dL/dB is not. Were both zero, nothing would ever learn.
Source: Hu et al. 2022. Departure: A starts uniform in +-1/sqrt(in) (Kaiming, a = sqrt 5), as in the authors' code; the
paper says Gaussian. Dropout acts on the input of the branch only.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.lora_merge import Factors, check_factors
from cllab.isolation.mergeable import MergeableLinear
from cllab.isolation.switch import Key


class LowRank(nn.Module):
    """An adapter: x [..., in] -> s (x A^T) B^T [..., out].

    A [r, in] and B [out, r]: copied, trainable. s: a number. dropout in [0, 1): the share of the input that is set
    to 0 in training.
    """

    def __init__(self, A: Tensor, B: Tensor, s: float = 1.0, dropout: float = 0.0):
        super().__init__()
        A, B, self.s = check_factors("an adapter", Factors(A, B, s))
        self.A, self.B = nn.Parameter(A.clone()), nn.Parameter(B.clone())
        self.dropout = nn.Dropout(check_dropout(dropout))

    @classmethod
    def fresh(
        cls, layer: nn.Module, r: int, alpha: float | None, generator: torch.Generator, dropout: float = 0.0
    ) -> "LowRank":
        """An adapter for `layer`, in its type and on its device, that changes nothing yet: A random, B zero.

        r: from 1 to min(in, out). alpha > 0: default r, so that s = 1. generator: draws A, on the CPU.
        """
        checks.integer("r", r, 1, min(layer.in_features, layer.out_features))
        s = 1.0 if alpha is None else checks.positive("alpha", alpha) / r
        A = torch.empty(r, layer.in_features, dtype=torch.float32)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=checks.generator("generator", generator))
        A = A.to(layer.weight.device, layer.weight.dtype)
        return cls(A, A.new_zeros(layer.out_features, r), s, dropout)

    @property
    def factors(self) -> Factors:
        """Copies of A, B and s as they are now."""
        return Factors(self.A.detach().clone(), self.B.detach().clone(), self.s)

    def delta(self) -> Tensor:
        """s B A [out, in]."""
        return self.s * (self.B @ self.A)

    def forward(self, x: Tensor) -> Tensor:
        # s (x A^T) B^T
        return self.s * F.linear(F.linear(self.dropout(x), self.A), self.B)

    def extra_repr(self) -> str:
        return f"r={len(self.A)}, s={self.s:g}"


class LoRALinear(MergeableLinear):
    """A linear layer with an adapter per task: x [..., in] -> base(x) plus the branch of every active adapter.

    base: the layer, which `add_lora` and `LoRA` freeze. Merging: see mergeable.py.
    """

    def effective(self) -> tuple[Tensor, Tensor | None]:
        # W + sum_t s_t B_t A_t
        return sum((part.delta() for part in self.chosen()), start=self.base.weight), self.base.bias

    def beside(self, x: Tensor) -> Tensor:
        y = self.base(x)
        for part in self.chosen():
            # y = x W^T + s (x A^T) B^T
            y = y + part(x)
        return y

    def delta(self, task: Key) -> Tensor:
        """The change of the weight that the task's adapter makes, s B A [out, in]."""
        return self.part(task).delta()

    def add(self, task: Key, part: LowRank) -> None:
        """Register an adapter; see Switch. Raises ValueError while merged, and when it does not fit the base."""
        self.refuse_when_merged("added")
        if not isinstance(part, LowRank):
            raise TypeError(f"part must be a LowRank, got {type(part).__name__}")
        given, own = (len(part.B), part.A.shape[1]), (self.out_features, self.in_features)
        if given != own:
            raise ValueError(f"part must change a weight of shape {own}, got factors for {given}")
        weight = self.base.weight
        if part.A.dtype != weight.dtype or part.A.device != weight.device:
            raise ValueError(
                f"part must be {weight.dtype} on {weight.device} like the base, got {part.A.dtype} on {part.A.device}"
            )
        super().add(task, part)

    def merge(self) -> None:
        """W + s B A of the active adapters in one matrix, see `MergeableLinear`; not in training with dropout.

        The branch is no matrix then: ValueError.
        """
        if self.training and any(part.dropout.p > 0 for part in self.chosen()):
            raise ValueError("adapters with dropout must be merged in eval mode: call model.eval() first")
        super().merge()


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The model's layers that have adapters, each once, by dotted name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def check_dropout(dropout: float) -> float:
    """`dropout` as a float in [0, 1)."""
    if checks.number("dropout", dropout, 0.0, 1.0) == 1:
        raise ValueError("dropout must be below 1: nothing would reach the adapter")
    return float(dropout)
