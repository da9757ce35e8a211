"""Block expansion: deepen a trained network by blocks that do nothing at first, and train only those.

A block adds to its tokens what its attention and its feed-forward network say:

    h <- h + W_o attention(h);    h <- h + W_down f(h)

With W_o = 0 and W_down = 0 (and their biases) it adds nothing: the block is the identity, to the last bit. So a copy of
a block with its two output projections set to zero can stand anywhere without changing one logit, and yet it can learn:
the zeroed matrices get a gradient at once, and after one step so does everything before them.

Where: the L blocks are cut into n_new groups of L / n_new; behind each group comes a copy of its last block. L = 32 and
n_new = 8 give 40 blocks, of which 4, 9, ..., 39 are new.
Source: Wu et al. 2024, "LLaMA Pro: Progressive LLaMA with block expansion".
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from cllab import checks
from cllab.isolation.isolating import OnFrozenBase
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import Switch, freeze
from cllab.training import Context

OUTPUTS = ("attention.o", "down")
"""The projections of a block of `cllab.models.Transformer` whose results are added to its tokens."""


def expand_blocks(model: nn.Module, n_new: int, outputs: Sequence[str] = OUTPUTS) -> list[int]:
    """Insert n_new identity blocks into model.blocks, freeze all that was there, return the new blocks' indices.

    model: any whose `blocks`, an nn.ModuleList of L, run one after another with residual connections. n_new: must
    divide L. outputs: names within a block of the layers whose results are added; their weights and biases become 0.

    The logits stay bit for bit the same, and only the zeroed parameters have a gradient other than 0 at the first step.
    Raises TypeError or ValueError before anything is changed.
    """
    groups = grouped(model, n_new, outputs)
    new = [identity_copy(group[-1], outputs) for group in groups]
    freeze(model)
    model.blocks = nn.ModuleList(block for group, copied in zip(groups, new, strict=True) for block in [*group, copied])
    # behind each group of g blocks: g, 2 g + 1, 3 g + 2, ...
    return [i for i, block in enumerate(model.blocks) if any(block is copied for copied in new)]


def grouped(model: nn.Module, n_new: int, outputs: Sequence[str] = OUTPUTS) -> list[list[nn.Module]]:
    """The model's blocks in n_new groups of equal size; raises unless the model and the numbers are fit for that."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise TypeError(f"model must have blocks in an nn.ModuleList `blocks`, {type(model).__name__} has not")
    checks.integer("n_new", n_new, 1, len(blocks))
    if len(blocks) % n_new:
        raise ValueError(f"n_new must divide the number of blocks {len(blocks)}, got {n_new}")
    if isinstance(outputs, str) or not outputs:
        raise TypeError(f"outputs must be a list of names of layers in a block, got {outputs!r}")
    size = len(blocks) // n_new
    groups = [list(blocks[start : start + size]) for start in range(0, len(blocks), size)]
    for group in groups:
        layers = dict(group[-1].named_modules())
        for name in outputs:
            if not isinstance(getattr(layers.get(name), "weight", None), Tensor):
                raise ValueError(f"outputs must name layers with a weight in every block, {name!r} is none")
    return groups


def identity_copy(block: nn.Module, outputs: Sequence[str] = OUTPUTS) -> nn.Module:
    """A trainable copy of `block` that adds nothing to its tokens."""
    copied = copy.deepcopy(block).requires_grad_(True)
    for name in outputs:
        # W_o = 0, W_down = 0
        for parameter in copied.get_submodule(name).parameters():
            nn.init.zeros_(parameter)
    return copied


class Inserted(Switch):
    """A place between two blocks: tokens h [N, S, d] -> the active task's block of them, or h itself."""

    def forward(self, h: Tensor, *rest) -> Tensor:
        for block in self.chosen():
            h = block(h, *rest)
        return h


class ExpandBlocks(OnFrozenBase):
    """n_new blocks for each task in a frozen network, skipped when another task is answered.

    n_new, outputs: see `expand_blocks`. base, selector: see `OnFrozenBase`.

    Departure: LLaMA Pro expands once, for one new domain, and its new blocks are then part of the model for all inputs.
    That keeps the old weights and not the old answers. Here every task has blocks of its own, all beside the same base:
    nothing is forgotten, the network is only as deep as one expansion makes it, and the task must be known.
    """

    def __init__(
        self, n_new: int, outputs: Sequence[str] = OUTPUTS, base: str = "first", selector: TaskSelector | None = None
    ):
        super().__init__(base, selector)
        self.n_new = checks.integer("n_new", n_new, 1)
        self.outputs = outputs

    def attach(self, ctx: Context) -> None:
        self.groups = grouped(ctx.model, self.n_new, self.outputs)
        self.places = [Inserted() for _ in self.groups]
        pairs = zip(self.groups, self.places, strict=True)
        self.install("blocks", nn.ModuleList(block for group, place in pairs for block in [*group, place]))

    def add_parts(self, ctx: Context) -> None:
        for group, place in zip(self.groups, self.places, strict=True):
            place.add(ctx.task_index, identity_copy(group[-1], self.outputs))
