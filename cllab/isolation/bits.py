"""Parts that are trained as real numbers and kept as one bit each: 1{real > threshold}.

What a mask or a gate says in the end is yes or no. The real numbers behind it are needed only while it is trained: they
are dropped when the task ends, and no weight decay or left-over momentum can turn a decision of a finished task.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.training import Context, Method


def pack_bits(mask: Tensor) -> Tensor:
    """mask, bool of any shape with n entries -> uint8 [ceil(n / 8)], eight entries a byte, the first the lowest bit."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor, got {given}")
    eights = F.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8)
    # byte_k = sum_i mask_{8k + i} 2^i
    return (eights.to(torch.uint8) << _places(mask)).sum(dim=1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask of this shape, bool, that `pack_bits` packed; ValueError when the number of bytes does not fit."""
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8:
        given = bits.dtype if isinstance(bits, Tensor) else type(bits).__name__
        raise TypeError(f"bits must be a uint8 tensor, got {given}")
    n = math.prod(checks.integer("each of shape", size, 0) for size in shape)
    if bits.shape != (math.ceil(n / 8),):
        raise ValueError(f"bits must have {math.ceil(n / 8)} bytes for the shape {tuple(shape)}, got {bits.numel()}")
    ones = (bits[:, None] >> _places(bits)) & 1
    return ones.flatten()[:n].view(*shape).bool()


class Bits(nn.Module):
    """real: the trained numbers, None once packed. bits: uint8, None until then. threshold: what counts as 1 is above.

    A state_dict with bits in it makes the module that loads it packed too.
    """

    def __init__(self, real: Tensor, threshold: float):
        super().__init__()
        self.shape, self.threshold = real.shape, threshold
        self.real = nn.Parameter(real)
        self.register_buffer("bits", None)

    def ones(self) -> Tensor:
        """1{real > threshold}, bool."""
        return unpack_bits(self.bits, self.shape) if self.real is None else self.real.detach() > self.threshold

    def pack(self) -> None:
        """Keep the bits alone. Packing twice changes nothing."""
        if self.real is not None:
            bits = pack_bits(self.ones())
            self.real.requires_grad_(False).grad = None  # an optimiser that is kept still knows it, and passes it over
            self.real, self.bits = None, bits

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        if f"{prefix}bits" in state_dict:
            self.pack()
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def kept_bytes(model: nn.Module) -> int:
    """Bytes of all packed bits in the model."""
    return sum(module.bits.nbytes for module in model.modules() if isinstance(module, Bits) and module.real is None)


def refuse_springs(user: Method, ctx: Context) -> None:
    """Methods that keep copies of every parameter, or follow its path, cannot do so with numbers that are dropped."""
    if kept := [
        type(method).__name__ for method in ctx.methods if method.holds_parameters or method.needs_task_gradient
    ]:
        raise ValueError(
            f"methods must not combine {type(user).__name__} with {kept[0]}: the real numbers that a task trained are "
            "dropped when it ends, and nothing else that it uses moves afterwards"
        )


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
