"""Look at a model without changing it, or keep it as it is now."""

import contextlib
import copy

from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Run the block with `model` in eval mode, then give every module the mode it had: some may be frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy that stays what the model is now: eval mode (no dropout), parameters that take no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)
