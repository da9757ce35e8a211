"""Look at a model without changing it."""

import contextlib

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
