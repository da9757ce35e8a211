"""LoRA: a small adapter of low rank for each task, beside the linear layers of a frozen network.

    y = x W^T + s (x A^T) B^T

See lora_layer.py for the symbols and the arithmetic. Here: adapters for any linear layers of any model, merging them
into its weights, and the method that trains one adapter and one head per task.
Source: Hu et al. 2022; one adapter per task follows from it, since the base never changes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.device import given_generator
from cllab.isolation.isolating import OnFrozenBase
from cllab.isolation.lora_layer import LoRALinear, LowRank, check_dropout, lora_layers
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import Key, freeze, layer_names, linear_layers, set_module, using
from cllab.training import Context

SHARED = "shared"
"""The key of one adapter for all tasks."""


def add_lora(
    model: nn.Module,
    task: Key,
    r: int,
    alpha: float | None = None,
    *,
    targets: Sequence[str] | None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> dict[str, LoRALinear]:
    """Give linear layers of `model`, in place, an adapter for `task`, and use it alone; returns them by name.

    r: from 1 to min(in, out) of every layer. alpha > 0: default r, so that s = 1. targets: names of layers, or ends of
    names (None: the layers that have adapters; in a model without any, all but `head`). dropout in [0, 1): on the
    adapter's input. generator: draws A (default seed 0).

    Afterwards only the new adapter is trainable: a head that is to learn with it needs
    `model.head.requires_grad_(True)`. Norm layers with running statistics stay in eval mode. Raises ValueError, and
    changes nothing, for a rank too large, a key that is taken, names that find nothing, and merged layers; also for
    dropout on the out_proj of torch's MultiheadAttention.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    source = given_generator(generator, "LoRA")
    layers = _targeted(model, targets)
    check_layers(model, layers, r, dropout)
    return attach(model, task, layers, lambda name: LowRank.fresh(layers[name], r, alpha, source, dropout))


def attach(
    model: nn.Module, task: Key, layers: dict[str, nn.Module], make: Callable[[str], LowRank]
) -> dict[str, LoRALinear]:
    """Put the adapters make(name) for `task` beside these layers of the model; nothing else is used or trainable."""
    if isinstance(task, bool) or not isinstance(task, int | str):
        raise TypeError(f"task must be an int or a str, got {task!r}")
    if "" in layers:
        raise ValueError("model must hold its linear layers, and not be one: put it into a torch.nn.Sequential")
    adapted = lora_layers(model)
    for name, layer in adapted.items():
        if layer.merged:
            raise ValueError(f"model must not be merged, layer {name!r} is: unmerge first")
        if task in layer.tasks:
            raise ValueError(f"task must be new, layer {name!r} has an adapter for {task!r} already")
    parts = {name: make(name) for name in layers}
    freeze(model)
    for layer in adapted.values():
        layer.use()
    for name, part in parts.items():
        if not isinstance(layers[name], LoRALinear):
            set_module(model, name, LoRALinear(layers[name]))
        model.get_submodule(name).add(task, part)
    return {name: model.get_submodule(name) for name in layers}


def merge_weights(model: nn.Module) -> None:
    """Merge the active adapters of every layer of the model that has any, see LoRALinear.merge; all or none."""
    layers = [layer for layer in lora_layers(model).values() if layer.active or layer.merged]
    if not layers:
        raise ValueError("model must have adapters in use, it has none")
    done = []
    try:
        for layer in layers:
            layer.merge()
            done.append(layer)
    except ValueError:
        for layer in done:
            layer.unmerge()
        raise


def unmerge_weights(model: nn.Module) -> None:
    """Undo `merge_weights`, exactly. Raises ValueError when nothing is merged."""
    merged = [layer for layer in lora_layers(model).values() if layer.merged]
    if not merged:
        raise ValueError("model must be merged before it can be unmerged")
    for layer in merged:
        layer.unmerge()


class LoRA(OnFrozenBase):
    """An adapter and a head for each task on a frozen network: nothing that an earlier task uses ever moves.

    r: from 1 to min(in, out) of every layer. alpha > 0: default r, so that s = 1. targets: names of the layers that get
    adapters, or ends of names (None: all linear layers but the head). dropout in [0, 1): on the adapters' input.
    base: "first", the first task trains the whole network and has no adapter; "given", it is frozen from the start.

    shared: one adapter for all tasks, which forgets, and which EWC can hold. It needs no task number: where the stream
    does not tell it, there is one head for all tasks too. (With task numbers, base="first" answers the first task
    without the adapter, as it was trained.)
    """

    def __init__(
        self,
        r: int,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        dropout: float = 0.0,
        base: str = "first",
        shared: bool = False,
        selector: TaskSelector | None = None,
    ):
        super().__init__(base, selector)
        self.r = checks.integer("r", r, 1)
        self.alpha = None if alpha is None else checks.positive("alpha", alpha)
        self.targets = None if targets is None else _names(targets)
        self.dropout = check_dropout(dropout)
        self.shared = checks.flag("shared", shared)
        self.needs_task = not shared

    def attach(self, ctx: Context) -> None:
        layers = linear_layers(ctx.model, self.targets)
        if "head" in layers:
            raise ValueError("targets must not name the head, which is trained as a whole")
        check_layers(ctx.model, layers, self.r, self.dropout)
        for name, layer in layers.items():
            self.install(name, LoRALinear(layer))

    def add_parts(self, ctx: Context) -> None:
        key = SHARED if self.shared else ctx.task_index
        for layer in lora_layers(ctx.model).values():
            if key in layer.tasks:
                layer.use(key)
            else:
                layer.add(key, LowRank.fresh(layer, self.r, self.alpha, self.generator, self.dropout))

    def answer(self, model: nn.Module, x: Tensor, task: int) -> Tensor:
        alone = not self.shared or (self.base == "first" and task == 0)
        with using(model, task) if alone else using(model, task, SHARED):
            return model(x)


def check_layers(model: nn.Module, layers: dict[str, nn.Module], r: int, dropout: float) -> None:
    """Raise ValueError unless adapters of this rank and dropout suit the layers."""
    checks.integer("r", r, 1)
    check_dropout(dropout)
    for name, layer in layers.items():
        if r > min(layer.in_features, layer.out_features):
            raise ValueError(
                f"r must be at most min(in, out) = {min(layer.in_features, layer.out_features)} of layer {name!r}, "
                f"got {r}"
            )
    if dropout > 0:
        unheard = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
        names = [name for name, layer in layers.items() if id(layer) in unheard]
        if names:
            raise ValueError(
                f"dropout must be 0 for {names}: torch's MultiheadAttention reads the weight of its out_proj and never "
                "calls it, so nothing would be dropped"
            )


def _targeted(model: nn.Module, targets: Sequence[str] | None) -> dict[str, nn.Module]:
    """The layers to give an adapter to, with those that have some already."""
    adapted = lora_layers(model)
    if targets is None:
        return adapted or linear_layers(model)
    found = {}
    for target in _names(targets):
        known = {name: layer for name, layer in adapted.items() if name == target or name.endswith(f".{target}")}
        try:
            found |= known | linear_layers(model, [target])
        except ValueError:
            if not known:
                raise
            found |= known
    return found


def _names(targets: Sequence[str]) -> tuple[str, ...]:
    names = layer_names("targets", targets)
    if not names:
        raise ValueError("targets must name at least one layer, got an empty list")
    return names
