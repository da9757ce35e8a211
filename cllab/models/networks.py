"""The small networks of the course; every initial weight comes from `seed`, never from the global generator."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cllab import checks
from cllab.device import generator

MAX_WIDTH = 1_000_000
"""Most features or units of one layer: more is a mistake, and would not fit in memory."""


class Classifier(nn.Module):
    """A trunk of stages and a linear head: x [N, ...] -> features [N, H] -> logits [N, C].

    stages: where each stage (a layer with its activation and pooling) ends in `trunk`; a model can be cut after any.
    """

    trunk: nn.Sequential
    head: nn.Linear
    stages: tuple[int, ...]

    def inputs(self, x: Tensor) -> Tensor:
        """The rows x [N, ...] in the shape that the trunk reads, here [N, D]."""
        return x.flatten(1)

    def features(self, x: Tensor) -> Tensor:
        """What the last hidden layer sees in x [N, ...]: [N, H]."""
        return self.trunk(self.inputs(x))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, ...] -> logits [N, C]."""
        return self.head(self.features(x))

    def lower(self, stage: int) -> nn.Sequential:
        """The first `stage` stages, sharing their weights: what turns inputs(x) into latents h [N, ...]."""
        checks.integer("stage", stage, 1, len(self.stages))
        return self.trunk[: self.stages[stage - 1]]

    def upper(self, stage: int) -> nn.Sequential:
        """Everything after the first `stage` stages, sharing its weights: what turns latents into logits."""
        checks.integer("stage", stage, 1, len(self.stages))
        return nn.Sequential(*self.trunk[self.stages[stage - 1] :], self.head)

    def grow_head(self, n_classes: int, source: torch.Generator) -> None:
        """Give the head outputs for `n_classes` classes, at least those it has, whose weights stay as they are.

        The new outputs have PyTorch's default initialisation, drawn from `source`.
        """
        old = self.head
        checks.integer("n_classes", n_classes, old.out_features, MAX_WIDTH)
        if n_classes == old.out_features:
            return
        self.head = linear(old.in_features, n_classes, source).to(old.weight.device, old.weight.dtype)
        with torch.no_grad():
            self.head.weight[: old.out_features] = old.weight
            self.head.bias[: old.out_features] = old.bias


class MLP(Classifier):
    """Fully connected ReLU network: x [N, D] -> features [N, H] -> logits [N, C].

    in_features: D. hidden: widths of the hidden layers, [] for a linear classifier. n_classes: C.
    Images of any shape [N, ...] are flattened.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], n_classes: int, seed: int = 0):
        super().__init__()
        widths = [checks.integer("in_features", in_features, 1, MAX_WIDTH), *_sizes("hidden", hidden, "[64]")]
        checks.integer("n_classes", n_classes, 1, MAX_WIDTH)
        source = generator(seed, "weights")
        layers = [linear(a, b, source) for a, b in itertools.pairwise(widths)]
        self.trunk = nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))
        self.stages = tuple(range(2, 2 * len(layers) + 1, 2))
        self.head = linear(widths[-1], n_classes, source)


class ConvNet(Classifier):
    """Two convolutions with pooling and one hidden layer: x [N, D] or [N, channels, H, W] -> logits [N, C].

    shape: (channels, H, W) of one image, with H and W at least 4.
    """

    def __init__(self, shape: tuple[int, int, int], n_classes: int, width: int = 16, seed: int = 0):
        super().__init__()
        self.shape = tuple(_sizes("shape", shape, "(1, 28, 28)"))
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ValueError(f"shape must be (channels, height, width) with sides of at least 4, got {shape}")
        checks.integer("width", width, 1, MAX_WIDTH)
        checks.integer("n_classes", n_classes, 1, MAX_WIDTH)
        source = generator(seed, "weights")
        channels, height, side = self.shape
        self.trunk = nn.Sequential(
            _convolution(channels, width, source), nn.ReLU(), nn.MaxPool2d(2),
            _convolution(width, 2 * width, source), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            linear(2 * width * (height // 4) * (side // 4), 4 * width, source), nn.ReLU(),
        )  # fmt: skip
        self.stages = (3, 7, 9)
        self.head = linear(4 * width, n_classes, source)

    def inputs(self, x: Tensor) -> Tensor:
        """x [N, D] or [N, channels, H, W] -> [N, channels, H, W]."""
        return x.reshape(-1, *self.shape)


def linear(in_features: int, out_features: int, source: torch.Generator) -> nn.Linear:
    """A linear layer with PyTorch's default initialisation, drawn from `source`."""
    return _initialised(skip_init(nn.Linear, in_features, out_features), in_features, source)


def _sizes(name: str, value, example: str) -> list[int]:
    if not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of sizes such as {example}, got {value!r}")
    return [checks.integer(name, size, 1, MAX_WIDTH) for size in value]


def _convolution(in_channels: int, out_channels: int, source: torch.Generator) -> nn.Conv2d:
    layer = skip_init(nn.Conv2d, in_channels, out_channels, kernel_size=3, padding=1)
    return _initialised(layer, 9 * in_channels, source)


def _initialised(layer, fan_in: int, source: torch.Generator):
    bound = 1 / math.sqrt(fan_in)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=source)
    return layer
