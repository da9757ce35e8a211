"""Look at a model without changing it, or keep it as it is now."""

import contextlib
import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Run the block with `model` in eval mode, then give every module the mode it had (some may be frozen).

    Buffers that the block changed, as a counter of calls would be, get their values back.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield model
    finally:
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy that stays what the model is now: eval mode (no dropout), parameters that take no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def answer_with(model: nn.Module, theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What `model` answers for x with `theta`, {parameter name: tensor}, in place of its parameters; it is not changed.

    A parameter that stands in several places is replaced in all of them. (torch.func.functional_call by itself leaves
    a model changed in which one layer stands in two places.)
    """
    name_of = {id(p): name for name, p in model.named_parameters()}
    places = {
        f"{owner}.{name}".lstrip("."): name_of[id(p)]
        for owner, module in model.named_modules()
        for name, p in module.named_parameters(recurse=False)
    }
    values = {place: theta[name] for place, name in places.items() if name in theta}
    return functional_call(model, values, (x,), tie_weights=False)
