"""A module with a part per task, of which the active ones take part in the forward pass.

Heads, columns, low-rank adapters, bottlenecks, scales and prompts all come one per task. What they share stands here:
they are registered under the task's key, earlier ones are frozen when a new one arrives, and `using` switches all of a
model's at once. A key is whatever names the task, a number or a string; keys may skip numbers.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from torch import nn

Key = int | str
NORMS = (nn.modules.batchnorm._NormBase,)
"""Layers that keep running statistics: frozen weights alone do not hold them still."""


class Switch(nn.Module):
    """Parts by task. parts: the modules, in order of arrival; tasks: their keys; active: keys of those in use."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList()
        self.tasks: list[Key] = []
        self.active: tuple[Key, ...] = ()

    def add(self, task: Key, part: nn.Module) -> None:
        """Register `part` under the key `task`, freeze all earlier parts, and use the new one alone.

        Raises ValueError when the key is taken, TypeError when it is neither an int nor a str.
        """
        if isinstance(task, bool) or not isinstance(task, int | str):
            raise TypeError(f"task must be an int or a str, got {task!r}")
        if task in self.tasks:
            raise ValueError(f"task must be new, {task!r} has a part already")
        freeze(self.parts)
        self.parts.append(part)
        self.tasks.append(task)
        self.active = (task,)

    def use(self, *tasks: Key) -> None:
        """Let the parts of these tasks take part in the forward pass; none given, none does."""
        for task in tasks:
            self.part(task)
        if len(set(tasks)) != len(tasks):
            raise ValueError(f"tasks must name each task once, got {tasks}")
        self.active = tasks

    def part(self, task: Key) -> nn.Module:
        """The part of `task`; ValueError for an unknown key."""
        if task not in self.tasks:
            raise ValueError(f"task must be one of {self.tasks}, got {task!r}")
        return self.parts[self.tasks.index(task)]

    def chosen(self) -> list[nn.Module]:
        """The active parts."""
        return [self.part(task) for task in self.active]


def switches(model: nn.Module) -> list[Switch]:
    """Every Switch in the model, each once."""
    return [module for module in model.modules() if isinstance(module, Switch)]


@contextlib.contextmanager
def using(model: nn.Module, *tasks: Key) -> Iterator[nn.Module]:
    """Inside the block every Switch uses its parts of these tasks, as far as it has them; afterwards as before.

    A Switch without a part for any of them is its base alone.
    """
    before = [(switch, switch.active) for switch in switches(model)]
    try:
        for switch, _ in before:
            switch.use(*(task for task in tasks if task in switch.tasks))
        yield model
    finally:
        for switch, active in before:
            switch.active = active


def freeze(frozen: nn.Module | Iterable[nn.Parameter]) -> None:
    """Nothing moves these parameters any more, nor the running statistics of normalisation layers among the modules.

    Without a gradient (None, not zero) an optimiser passes a parameter over, weight decay and momentum included. The
    layers stay in eval mode whatever model.train() says, until `release_statistics`.
    """
    if isinstance(frozen, nn.Module):
        hold_statistics(frozen.modules())
        frozen = frozen.parameters()
    for parameter in frozen:
        parameter.requires_grad_(False)
        parameter.grad = None


def hold_statistics(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Keep layers that have running statistics in eval mode; returns those of `modules` that were not held yet."""
    held = []
    for module in modules:
        is_free = _stay_in_eval_mode not in module._forward_pre_hooks.values()
        if isinstance(module, NORMS) and module.track_running_stats and is_free:
            module.eval().register_forward_pre_hook(_stay_in_eval_mode)
            held.append(module)
    return held


def release_statistics(modules: Iterable[nn.Module]) -> None:
    """Let layers that `hold_statistics` held learn their statistics again, in the mode that they are put into next."""
    for module in modules:
        for number, hook in list(module._forward_pre_hooks.items()):
            if hook is _stay_in_eval_mode:
                del module._forward_pre_hooks[number]


def _stay_in_eval_mode(module: nn.Module, inputs: tuple) -> None:
    """model.train() reaches every layer: what is frozen goes back before it is used."""
    module.eval()


def layer_names(name: str, value) -> tuple[str, ...] | None:
    """`value` as a tuple of names of layers; None stays None, for a default."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        raise TypeError(f"{name} must be a list of names of layers, or None, got {value!r}")
    return tuple(value)


def linear_layers(model: nn.Module, targets: Sequence[str] | None = None) -> dict[str, nn.Linear]:
    """The linear layers to give parts to, by dotted name.

    targets: names, or ends of names: "q" finds blocks.0.attention.q. None: all but the head and what is inside a
    Switch already. Raises ValueError when a target finds no linear layer, or when the model has none.
    """
    targets = layer_names("targets", targets)
    if targets == ():
        raise ValueError("targets must name at least one layer, got an empty list")
    taken = {id(inner) for switch in switches(model) for inner in switch.modules()}
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in taken
    }
    if targets is None:
        chosen = {name: module for name, module in linear.items() if name != "head"}
        if not chosen:
            raise ValueError(f"model must have a linear layer besides its head, {type(model).__name__} has none")
        return chosen
    found = {target: [n for n in linear if n == target or n.endswith(f".{target}")] for target in targets}
    if missing := [target for target, names in found.items() if not names]:
        raise ValueError(f"targets must name linear layers, there is none for {missing} among {sorted(linear)}")
    wanted = {name for names in found.values() for name in names}
    return {name: module for name, module in linear.items() if name in wanted}


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` wherever the submodule `name` stands; a layer may stand in several places."""
    old = model.get_submodule(name)
    for owner in list(model.modules()):
        for place, child in list(owner._modules.items()):
            if child is old:
                owner._modules[place] = module
