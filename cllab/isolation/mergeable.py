"""A linear layer whose active parts can be merged into one matrix.

Merged, the layer answers at the price of its base alone. The matrix is a copy: the base's own weight stays as it is,
also where another layer shares it, and unmerging is exact. A state_dict never holds the copy; loading one unmerges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.switch import Key, Switch


class MergeableLinear(Switch):
    """x [..., in] -> [..., out] through `base` and the active parts. Subclasses say how: `effective` and `beside`."""

    merged_weight: Tensor | None
    merged_bias: Tensor | None

    def __init__(self, base: nn.Linear):
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base must be a torch.nn.Linear, got {type(base).__name__}")
        super().__init__()
        self.base = base
        self.register_buffer("merged_weight", None, persistent=False)
        self.register_buffer("merged_bias", None, persistent=False)
        self.merged_tasks: tuple[Key, ...] = ()
        self.train(base.training)

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight [out, in] and bias [out] that answer as the base and its active parts do."""
        raise NotImplementedError

    def beside(self, x: Tensor) -> Tensor:
        """The answer of the base with its active parts, not merged."""
        raise NotImplementedError

    @property
    def merged(self) -> bool:
        """Whether the layer answers with the merged matrix."""
        return self.merged_weight is not None

    @property
    def weight(self) -> Tensor:
        """The effective weight [out, in]: also for modules that read a layer's weight and never call it."""
        return self.merged_weight if self.merged else self.effective()[0]

    @property
    def bias(self) -> Tensor | None:
        """The effective bias [out]."""
        return self.merged_bias if self.merged else self.effective()[1]

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.base.out_features

    def add(self, task: Key, part: nn.Module) -> None:
        """Register a part; see Switch. Raises ValueError while merged."""
        self.refuse_when_merged("added")
        super().add(task, part)
        part.train(self.training)

    def use(self, *tasks: Key) -> None:
        """Let these parts take part; see Switch. Raises ValueError while others are merged."""
        if tasks != self.merged_tasks:
            self.refuse_when_merged("used")
        super().use(*tasks)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the active parts into one matrix. Raises ValueError when merged already and when no part is active."""
        self.refuse_when_merged("merged")
        if not self.active:
            raise ValueError(f"a part must be in use before it can be merged, the layer has {self.tasks}")
        weight, bias = self.effective()
        self.merged_weight = checks.floats("the merged weight", weight.detach().clone())
        self.merged_bias = None if bias is None else bias.detach().clone()
        self.merged_tasks = self.active

    def unmerge(self) -> None:
        """Back to the base and its parts, exactly. Raises ValueError when not merged."""
        if not self.merged:
            raise ValueError("the layer must be merged before it can be unmerged")
        self.merged_weight, self.merged_bias, self.merged_tasks = None, None, ()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.merged_weight, self.merged_bias) if self.merged else self.beside(x)

    def refuse_when_merged(self, what: str) -> None:
        """Raise ValueError while the layer is merged."""
        if self.merged:
            raise ValueError(f"no part can be {what} while {list(self.merged_tasks)} are merged: unmerge first")

    def _load_from_state_dict(self, *arguments) -> None:
        self.merged_weight, self.merged_bias, self.merged_tasks = None, None, ()
        super()._load_from_state_dict(*arguments)
