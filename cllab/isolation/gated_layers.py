"""Gates on the units of a Classifier's stages, and which of its weights meet which units."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cllab.isolation.bits import Bits
from cllab.isolation.switch import NORMS, Switch
from cllab.models import Classifier
from cllab.training import evaluating

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Gate(Bits):
    """One task's gates of one layer; e [U] is `real`, and the open ones are kept when the task ends."""

    def forward(self, s: float | None) -> Tensor:
        """a [U]: sigmoid(s e) while it is trained, 0 or 1 when s is None and ever after."""
        # a = sigmoid(s e)
        return self.ones() if s is None or self.real is None else torch.sigmoid(s * self.real)


class Gates(Switch):
    """The end of a stage with its gates, one set per task: h [N, U width, ...] -> a * h. None in use: h itself.

    base: the stage's last module. width: features of a unit, in a row; more than 1 where maps are flattened.
    used: bool [U], the units that finished tasks use. s: the slope, in training mode.
    """

    def __init__(self, base: nn.Module, units: int, width: int, device: torch.device):
        super().__init__()
        self.base, self.width, self.s = base, width, 1.0
        self.register_buffer("used", torch.zeros(units, dtype=torch.bool, device=device))

    def use(self, *tasks) -> None:
        """Let the gates of one task stand in the way, or none."""
        if len(tasks) > 1:
            raise ValueError(f"tasks must be one task or none: a unit gets one gate, got {tasks}")
        super().use(*tasks)

    def a(self) -> Tensor:
        """The gates in use, [U]."""
        return self.chosen()[0](self.s if self.training else None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        if not self.active:
            return h
        a = self.a().repeat_interleave(self.width)
        # h <- a * h
        return h * a.view(-1, *[1] * (h.ndim - 2))


class GatedLayer(NamedTuple):
    """layer: with weight [U, U_in r, ...]; end: where its stage ends in the trunk; units: U; repeat: r.

    width: features of each unit at the stage's end; repeat: inputs that each unit below feeds, in a row. They are more
    than 1 where feature maps are flattened. repeat is 0 for the first layer, whose inputs are the data.
    norms: normalisation layers with running statistics in the stage.
    """

    layer: nn.Module
    end: int
    units: int
    width: int
    repeat: int
    norms: list[nn.Module]

    def by_weight(self, units: Tensor) -> Tensor:
        """A number per unit and input [U, in] in a shape that the weight can be multiplied by, [U, in, 1, ...]."""
        return units.view(*units.shape, *[1] * (self.layer.weight.ndim - 2))

    def inputs(self, below: Tensor | None) -> Tensor:
        """What holds for the units below, [U_in], for each input of the layer: [U_in r]. None below: data, all 1."""
        weight = self.layer.weight
        return weight.new_ones(weight.shape[1]) if below is None else below.repeat_interleave(self.repeat)


@torch.no_grad()
def gated_layers(model: nn.Module, x: Tensor) -> list[GatedLayer]:
    """One per stage. x [1, ...]: a row, to see what the stages make of it.

    Raises TypeError when the model is no Classifier, ValueError when its units cannot be gated one by one.
    """
    if not isinstance(model, Classifier):
        raise TypeError(f"model must be a cllab.models.Classifier, with stages of units, got {type(model).__name__}")
    if not model.stages:
        raise ValueError(f"model must have a hidden stage with units to gate, this {type(model).__name__} has none")
    found: list[GatedLayer] = []
    starts = (0, *model.stages)
    for k, end in enumerate(model.stages):
        layer, norms = _layer_and_norms(model.trunk[starts[k] : end], k + 1)
        units, inputs = layer.weight.shape[:2]
        below = found[-1].units if found else 0
        if any(layer is other.layer for other in found):
            raise ValueError(f"model's stage {k + 1} must have a layer of its own, it shares one with another stage")
        if below and inputs % below:
            raise ValueError(f"model's stage {k + 1} must read the {below} units below it, it has {inputs} inputs")
        with evaluating(model):
            shape = model.lower(k + 1)(model.inputs(x)).shape
        if len(shape) < 2 or shape[1] % units or (isinstance(layer, nn.Linear) and len(shape) > 2):
            raise ValueError(
                f"model's stage {k + 1} must end with the {units} units of its layer, or their flattened maps, in the "
                f"second dimension; it ends with rows of shape {tuple(shape[1:])}"
            )
        repeat = inputs // below if below else 0
        found.append(GatedLayer(layer, end - 1, units, shape[1] // units, repeat, norms))
    if any(True for module in model.trunk[starts[-1] :] for _ in module.parameters()):
        raise ValueError("model must have no parameters between its last stage and the head: no gate would guard them")
    return found


def _layer_and_norms(stage: Sequence[nn.Module], number: int) -> tuple[nn.Module, list[nn.Module]]:
    """The one linear or convolution layer of a stage, and its normalisation layers."""
    modules = [inner for module in stage for inner in module.modules()]
    norms = [module for module in modules if isinstance(module, NORMS) and module.track_running_stats]
    own = [module for module in modules if module not in norms and any(True for _ in module.parameters(recurse=False))]
    layers = [module for module in own if isinstance(module, LAYERS) and getattr(module, "groups", 1) == 1]
    if len(layers) != 1 or len(own) != 1:
        names = [type(module).__name__ for module in own]
        raise ValueError(
            f"model's stage {number} must have one linear or convolution layer (groups=1), and besides it only batch "
            f"normalisation with running statistics and modules without parameters, it has {names}"
        )
    return layers[0], norms
