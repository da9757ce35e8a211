"""Adapters: a small bottleneck behind frozen layers, which learns how to change what they say for one task.

    f_t(h) = h + W_up gelu(W_down h + b_down) + b_up

Symbols: h [..., d] what a frozen layer answers; W_down [m, d], b_down [m]; W_up [d, m], b_up [d]; m = `width`, the
bottleneck. Each costs 2 m d + d + m parameters: 99,136 for d = 768 and m = 64.

The weights start near zero and the biases at zero, so that training begins at the frozen network: an adapter that
started as an ordinary layer would first have to repair what it broke. With W_up = 0 the start is the network exactly.
Unlike LoRA's two matrices these have a nonlinearity between them: an adapter cannot be merged into the weights.

Source: Houlsby et al. 2019, "Parameter-efficient transfer learning for NLP": two adapters in every block, behind the
projection of the attention and behind the feed-forward network, each before its result is added to the tokens; weights
from a normal distribution of standard deviation 1e-3, cut off at two of them. Departures: there the layer norms are
trained with the adapters, here they stay frozen; in a network without blocks an adapter stands behind every hidden
linear layer, before its activation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cllab import checks
from cllab.device import given_generator
from cllab.isolation.isolating import OnFrozenBase
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import Switch, layer_names, linear_layers
from cllab.models import MAX_WIDTH
from cllab.training import Context

STD = 1e-3
IN_BLOCKS = ("attention.o", "down")
"""The linear layers of a transformer's block that write to its tokens."""


class Bottleneck(nn.Module):
    """h [..., d] -> h + W_up gelu(W_down h + b_down) + b_up, of the same shape; at first nearly h.

    dim: d. width: m. generator: of the initial weights, default seed 0.
    """

    def __init__(self, dim: int, width: int, generator: torch.Generator | None = None):
        super().__init__()
        checks.integer("dim", dim, 1, MAX_WIDTH)
        checks.integer("width", width, 1, MAX_WIDTH)
        source = given_generator(generator, "Bottleneck")
        self.down = skip_init(nn.Linear, dim, width)
        self.up = skip_init(nn.Linear, width, dim)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=STD, a=-2 * STD, b=2 * STD, generator=source)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        # f_t(h) = h + W_up gelu(W_down h + b_down) + b_up
        return h + self.up(F.gelu(self.down(h)))


class Adapted(Switch):
    """A linear layer and, behind it, the bottleneck of the active task: x [..., D] -> f_t(base(x)) [..., d]."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        for bottleneck in self.chosen():
            h = bottleneck(h)
        return h


class Adapter(OnFrozenBase):
    """A bottleneck for each task behind the frozen network's layers.

    width: m, units of a bottleneck. targets: names of the linear layers that get one, or ends of names; default
    attention.o and down in a model with `blocks` (two per block), all hidden linear layers in others.
    base, selector: see `OnFrozenBase`.

    Source and departures: see this module's docstring.
    """

    def __init__(
        self, width: int, targets: Sequence[str] | None = None, base: str = "first",
        selector: TaskSelector | None = None,
    ):  # fmt: skip
        super().__init__(base, selector)
        self.width = checks.integer("width", width, 1, MAX_WIDTH)
        self.targets = layer_names("targets", targets)

    def attach(self, ctx: Context) -> None:
        blocks = IN_BLOCKS if hasattr(ctx.model, "blocks") else None
        layers = linear_layers(ctx.model, blocks if self.targets is None else self.targets)
        self.adapted = [Adapted(layer) for layer in layers.values()]
        for name, adapted in zip(layers, self.adapted, strict=True):
            self.install(name, adapted)

    def add_parts(self, ctx: Context) -> None:
        for adapted in self.adapted:
            bottleneck = Bottleneck(adapted.base.out_features, self.width, self.generator)
            adapted.add(ctx.task_index, bottleneck.to(adapted.base.weight))
