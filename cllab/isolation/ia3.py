"""(IA)3: a task is a few vectors that make some activations of a frozen network louder and others softer.

    k = l_k * (W_k h + b_k),   v = l_v * (W_v h + b_v)      keys and values of an attention, element by element
    y = W_down (l_ff * gelu(W_up h + b_up)) + b_down        the hidden units of its block's feed-forward network

Symbols: l_k [d_k], l_v [d_v], l_ff [d_ff], all 1 at the start: the frozen network exactly. A block costs
d_k + d_v + d_ff numbers, 4,608 for (768, 768, 3072), and twelve of them 55,296.

Scaling is linear, so it can be merged: row i of W_k and entry i of b_k take l_k[i], likewise W_v, and column j of
W_down takes l_ff[j]. Merged, a task costs no time at all, but the network answers that one task only. (Scaling the rows
of W_down instead would scale what comes out of the layer, not what goes in.)

Source: Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning"
(t-few trains with a learning rate of 3e-3: these vectors want a larger one than whole networks do). Departure: in a
network without blocks every hidden linear layer's output is scaled, before its activation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.isolating import OnFrozenBase
from cllab.isolation.mergeable import MergeableLinear
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import Key, layer_names, linear_layers
from cllab.models import MAX_WIDTH
from cllab.training import Context

SIDES = ("output", "input")


class Scale(nn.Module):
    """x [..., n] -> l * x with l [n] trainable, at first 1."""

    def __init__(self, n: int):
        super().__init__()
        self.l = nn.Parameter(torch.ones(checks.integer("n", n, 1, MAX_WIDTH)))

    def forward(self, x: Tensor) -> Tensor:
        return self.l * x


class Scaled(MergeableLinear):
    """A linear layer with the scales of the active task on its outputs, l * (W x + b), or its inputs, W (l * x) + b.

    Merging: see mergeable.py.
    """

    def __init__(self, base: nn.Linear, side: str = "output"):
        super().__init__(base)
        self.side = checks.choice("side", side, SIDES)

    def beside(self, x: Tensor) -> Tensor:
        if self.side == "input":
            # y = W (l * x) + b
            for scale in self.chosen():
                x = scale(x)
            return self.base(x)
        # y = l * (W x + b)
        y = self.base(x)
        for scale in self.chosen():
            y = scale(y)
        return y

    def effective(self) -> tuple[Tensor, Tensor | None]:
        W, b = self.base.weight, self.base.bias
        for scale in self.chosen():
            if self.side == "input":
                # column j of W <- l_j * column j
                W = W * scale.l
                continue
            # row i of W <- l_i * row i,   b_i <- l_i * b_i
            W = W * scale.l[:, None]
            b = None if b is None else b * scale.l
        return W, b


def merge_scales(model: nn.Module, task: Key) -> None:
    """Merge the scales of `task` into every scaled layer of the model. ValueError, before any change, if one cannot."""
    scaled = [module for module in model.modules() if isinstance(module, Scaled)]
    if not scaled:
        raise ValueError("model must have scaled layers, it has none")
    for layer in scaled:
        layer.refuse_when_merged("merged")
        layer.part(task)
    for layer in scaled:
        layer.use(task)
        layer.merge()


def unmerge_scales(model: nn.Module) -> None:
    """Take the merged scales out of every layer of the model again. ValueError if none is merged."""
    merged = [module for module in model.modules() if isinstance(module, Scaled) and module.merged]
    if not merged:
        raise ValueError("model must have merged scales, it has none")
    for layer in merged:
        layer.unmerge()


class IA3(OnFrozenBase):
    """Scales for each task on the frozen network's activations.

    outputs, inputs: names of the linear layers whose outputs, or inputs, are scaled, or ends of names; default
    attention.k and attention.v, and the inputs of down, in a model with `blocks`; the outputs of all hidden linear
    layers in others. base, selector: see `OnFrozenBase`.
    """

    def __init__(
        self, outputs: Sequence[str] | None = None, inputs: Sequence[str] | None = None, base: str = "first",
        selector: TaskSelector | None = None,
    ):  # fmt: skip
        super().__init__(base, selector)
        self.outputs, self.inputs = layer_names("outputs", outputs), layer_names("inputs", inputs)

    def attach(self, ctx: Context) -> None:
        layers = self._layers(ctx.model)
        self.scaled = [Scaled(*layer) for layer in layers.values()]
        for name, scaled in zip(layers, self.scaled, strict=True):
            self.install(name, scaled)

    def add_parts(self, ctx: Context) -> None:
        for scaled in self.scaled:
            base = scaled.base
            scale = Scale(base.out_features if scaled.side == "output" else base.in_features)
            scaled.add(ctx.task_index, scale.to(base.weight))

    def _layers(self, model: nn.Module) -> dict[str, tuple[nn.Linear, str]]:
        """The layers to scale, by name, each with the side that is scaled."""
        outputs, inputs = self.outputs, self.inputs
        if outputs is None and inputs is None:
            if not hasattr(model, "blocks"):
                return {name: (layer, "output") for name, layer in linear_layers(model).items()}
            outputs, inputs = ("attention.k", "attention.v"), ("down",)
        found = {}
        for side, targets in zip(SIDES, (outputs, inputs), strict=True):
            for name, layer in (linear_layers(model, targets) if targets else {}).items():
                if name in found:
                    raise ValueError(f"outputs and inputs must not both name a layer, {name} is in both")
                found[name] = (layer, side)
        if not found:
            raise ValueError("outputs and inputs must name at least one layer")
        return found
