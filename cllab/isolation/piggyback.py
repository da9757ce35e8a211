"""Piggyback: for each task, which weights of one good fixed network to switch off.

    y = f(x; W * mask),    mask = 1{m > tau}
    dL/dm := dL/dmask = dL/d(W * mask) * W              straight through

Symbols: W, the backbone's weight, fixed; m, real-valued and like W, trained; tau, the threshold; * entry by entry.
The step 1{.} has slope 0 almost everywhere, so its derivative is replaced by 1. A weight that is switched off goes on
getting a gradient and can come back. What is kept of a task is one bit per weight and its head.

The gradient does not depend on m. With the learning rate, tau and the start of m all multiplied by the same number, the
masks stay the same: what counts is how many steps a weight needs from its start to tau.
Source: Mallya, Davis & Lazebnik 2018, "Piggyback: adapting a single network to multiple tasks by learning to mask
weights". Departure: the paper trains masks with a learning rate of their own (Adam, 1e-4). `fit` has one for masks and
heads. Where its steps are too coarse for masks, give a larger `threshold` and `init`: at lr=1e-3 ten times larger ones
are the paper's masks.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cllab import checks
from cllab.isolation.bits import Bits, kept_bytes, refuse_springs
from cllab.isolation.isolating import OnFrozenBase
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import Key, Switch, switches
from cllab.training import Context, Phase

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose weights are masked."""


def straight_through_mask(m: Tensor, threshold: float) -> Tensor:
    """1{m > threshold} as zeros and ones of m's shape and type; its gradient passes through to m unchanged."""
    return _StraightThrough.apply(checks.floats("m", m), checks.number("threshold", threshold, -float("inf")))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, m: Tensor, threshold: float) -> Tensor:
        # mask = 1{m > tau}
        return (m > threshold).to(m.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        # dL/dm := dL/dmask
        return gradient, None


class Mask(Bits):
    """One task's mask of one layer: () -> zeros and ones like the weight."""

    def forward(self) -> Tensor:
        return self.ones() if self.real is None else straight_through_mask(self.real, self.threshold)


class MaskedLayer(Switch):
    """A linear or convolution layer with a mask per task; with none in use it is the layer itself.

    base: the layer, which stays as it is. All masks but the newest are packed.
    """

    def __init__(self, base: nn.Module):
        if not isinstance(base, LAYERS):
            raise TypeError(f"base must be a linear or convolution layer, got {type(base).__name__}")
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        """W * mask of the task in use."""
        # W * 1{m > tau}
        return self.base.weight * self.chosen()[0]() if self.active else self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's: biases are not masked."""
        return self.base.bias

    def add(self, task: Key, part: Mask) -> None:
        """Register the mask of a new task; see Switch. Earlier masks are packed."""
        if not isinstance(part, Mask):
            raise TypeError(f"part must be a Mask, got {type(part).__name__}")
        if part.shape != self.base.weight.shape:
            raise ValueError(
                f"part must have the weight's shape {tuple(self.base.weight.shape)}, got {tuple(part.shape)}"
            )
        super().add(task, part)
        self.pack(newest=False)

    def use(self, *tasks: Key) -> None:
        """Mask the weight for one task, or not at all when none is given."""
        if len(tasks) > 1:
            raise ValueError(f"tasks must be one task or none: a weight gets one mask, got {tasks}")
        super().use(*tasks)

    def pack(self, newest: bool = True) -> None:
        """Keep one bit per weight of every task; newest=False leaves the last one trainable."""
        for part in self.parts if newest else self.parts[:-1]:
            part.pack()

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.base, {"weight": self.weight}, (x,)) if self.active else self.base(x)


class Piggyback(OnFrozenBase):
    """A mask on every linear and convolution layer besides the head, for each task; biases and norm layers are fixed.

    threshold: tau. init: where every m starts, above tau, so that a task starts from the whole backbone, bit for bit.
    base: "first", the first task trains the backbone and gets no mask; "given", it has been trained elsewhere.
    Steps of lr move m by about lr under Adam: with the defaults a weight needs 5 steps of 1e-3 to be switched off.
    Weight decay pulls m towards 0, and over many steps below tau.
    """

    def __init__(
        self, threshold: float = 0.005, init: float = 0.01, base: str = "first", selector: TaskSelector | None = None
    ):
        super().__init__(base, selector)
        self.threshold = checks.number("threshold", threshold, -float("inf"))
        self.init = checks.number("init", init, -float("inf"))
        if self.init <= self.threshold:
            raise ValueError(
                f"init must be above threshold {threshold}, got {init}: every weight would start switched off"
            )

    def start_run(self, ctx: Context) -> None:
        refuse_springs(self, ctx)
        super().start_run(ctx)

    def attach(self, ctx: Context) -> None:
        inside = {id(inner) for switch in switches(ctx.model) for inner in switch.modules()}
        layers = {
            name: module
            for name, module in ctx.model.named_modules()
            if isinstance(module, LAYERS) and id(module) not in inside
        }
        if not layers:
            raise ValueError(
                f"model must have a linear or convolution layer besides its head, {type(ctx.model).__name__} has none"
            )
        self.layers = [MaskedLayer(layer) for layer in layers.values()]
        for name, masked in zip(layers, self.layers, strict=True):
            self.install(name, masked)

    def add_parts(self, ctx: Context) -> None:
        for layer in self.layers:
            layer.add(ctx.task_index, Mask(torch.full_like(layer.base.weight.detach(), self.init), self.threshold))

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        masks = [layer.part(ctx.task_index) for layer in self.layers if ctx.task_index in layer.tasks]
        if masks:
            on, weights = sum(int(mask.ones().sum()) for mask in masks), sum(mask.shape.numel() for mask in masks)
            yield Phase("mask", {"share of weights on": on / weights, "weights": weights})
            for layer in self.layers:
                layer.pack()
        yield from super().end_task(ctx)

    def memory_bytes(self) -> int:
        """All heads, and one bit per weight for each task with masks."""
        return super().memory_bytes() + kept_bytes(self.model)
