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
from cllab.isolation.switch import Key, Switch


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


class LoRALinear(Switch):
    """A linear layer with an adapter per task: x [..., in] -> base(x) plus the branch of every active adapter.

    base: the layer, which `add_lora` and `LoRA` freeze.

    Merged, the layer answers with one matrix, at the price of its base alone. That matrix is a copy: the base's own
    weight stays as it is, also where another layer shares it, and `unmerge` is exact. A state_dict never holds the
    copy, and loading one unmerges.
    """

    merged_weight: Tensor | None

    def __init__(self, base: nn.Linear):
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base must be a torch.nn.Linear, got {type(base).__name__}")
        super().__init__()
        self.base = base
        self.register_buffer("merged_weight", None, persistent=False)
        self.merged_tasks: tuple[Key, ...] = ()
        self.train(base.training)

    @property
    def merged(self) -> bool:
        """Whether the layer answers with the merged weight."""
        return self.merged_weight is not None

    @property
    def weight(self) -> Tensor:
        """W plus the active changes, [out, in]: also for modules that read a layer's weight and never call it."""
        if self.merged:
            return self.merged_weight
        # W + sum_t s_t B_t A_t
        return sum((part.delta() for part in self.chosen()), start=self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        """The base's, [out]."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.base.out_features

    def delta(self, task: Key) -> Tensor:
        """The change of the weight that the task's adapter makes, s B A [out, in]."""
        return self.part(task).delta()

    def add(self, task: Key, part: LowRank) -> None:
        """Register an adapter; see Switch. Raises ValueError while merged, and when it does not fit the base."""
        self._refuse_when_merged("added")
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
        part.train(self.training)

    def use(self, *tasks: Key) -> None:
        """Let these adapters take part; see Switch. Raises ValueError while others are merged."""
        if tasks != self.merged_tasks:
            self._refuse_when_merged("used")
        super().use(*tasks)

    @torch.no_grad()
    def merge(self) -> None:
        """W + s B A of the active adapters in one matrix.

        Raises ValueError when merged already, when no adapter is active, and in training with dropout: the branch is
        not a matrix then.
        """
        self._refuse_when_merged("merged")
        if not self.active:
            raise ValueError(f"an adapter must be in use before it can be merged, the layer has {self.tasks}")
        if self.training and any(part.dropout.p > 0 for part in self.chosen()):
            raise ValueError("adapters with dropout must be merged in eval mode: call model.eval() first")
        self.merged_weight = checks.floats("the merged weight", self.weight.detach())
        self.merged_tasks = self.active

    def unmerge(self) -> None:
        """Back to the base and its branches, exactly. Raises ValueError when not merged."""
        if not self.merged:
            raise ValueError("the layer must be merged before it can be unmerged")
        self.merged_weight, self.merged_tasks = None, ()

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return F.linear(x, self.merged_weight, self.bias)
        y = self.base(x)
        for part in self.chosen():
            # y = x W^T + s (x A^T) B^T
            y = y + part(x)
        return y

    def _load_from_state_dict(self, *arguments) -> None:
        self.merged_weight, self.merged_tasks = None, ()
        super()._load_from_state_dict(*arguments)

    def _refuse_when_merged(self, what: str) -> None:
        if self.merged:
            raise ValueError(f"no adapter can be {what} while {list(self.merged_tasks)} are merged: unmerge first")


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The model's layers that have adapters, each once, by dotted name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def check_dropout(dropout: float) -> float:
    """`dropout` as a float in [0, 1)."""
    if checks.number("dropout", dropout, 0.0, 1.0) == 1:
        raise ValueError("dropout must be below 1: nothing would reach the adapter")
    return float(dropout)
