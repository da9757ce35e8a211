"""Adapters in files: A, B and s of every layer, and which base they belong to.

An adapter means nothing without the network that it was trained beside. A file therefore names its base by a hash, and
is loaded whole beside that base, or not at all. (Loading with strict=False is how adapters come to do nothing: names
that do not fit are passed over in silence.)
"""

import hashlib
import io
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from cllab.isolation.lora import attach
from cllab.isolation.lora_layer import LoRALinear, LowRank, check_dropout, lora_layers
from cllab.isolation.lora_merge import Factors, check_factors
from cllab.isolation.switch import Key, Switch
from cllab.training.history import write_whole

FORMAT = 1
FILE = {"format": int, "base": str, "task": int | str, "names": list, "layers": dict}
ENTRY = {"A": Tensor, "B": Tensor, "s": float, "r": int, "alpha": float, "dropout": float}


def base_identity(model: nn.Module, head: bool = False) -> str:
    """A SHA-256 over the names, types, shapes and values of the model's state: 64 hexadecimal digits.

    The parts of tasks are left out, and so is what stands in `model.head`, unless `head` is True. A base has the same
    identity with adapters as without any, merged or not. Rounded to another type it is another base.
    """
    named = list(model.named_modules(remove_duplicate=False))
    parts = tuple(f"{name}.parts.".lstrip(".") for name, module in named if isinstance(module, Switch))
    wrapped = [f"{name}.base.".lstrip(".") for name, module in named if isinstance(module, LoRALinear)]
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(parts) or (name.startswith("head.") and not head) or not isinstance(value, Tensor):
            continue
        for inside in wrapped:
            name = name.replace(inside, inside.removesuffix("base."), 1) if name.startswith(inside) else name
        digest.update(f"{name} {value.dtype} {list(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_lora(model: nn.Module, path: str | os.PathLike, task: Key) -> None:
    """Write the adapters of `task` to a file, whole or not at all. The task's head is not among them.

    Raises ValueError for a task without an adapter, while layers are merged, and for factors that are not finite.
    """
    layers = lora_layers(model)
    chosen = {name: layer.part(task) for name, layer in layers.items() if task in layer.tasks}
    if not chosen:
        known = sorted({key for layer in layers.values() for key in layer.tasks}, key=str)
        raise ValueError(f"task must be one of {known}, got {task!r}")
    if merged := [name for name, layer in layers.items() if layer.merged]:
        raise ValueError(f"model must not be merged, {merged} are: unmerge first")
    state = {
        "format": FORMAT, "base": base_identity(model, "head" in chosen), "task": task, "names": list(chosen),
        "layers": {name: _entry(name, part) for name, part in chosen.items()},
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_lora(model: nn.Module, path: str | os.PathLike, task: Key | None = None) -> dict[str, LoRALinear]:
    """Put the adapters of a file beside their base, in place, and use them alone; returns the layers by name.

    model: the base, with or without adapters of other tasks. task: the key to load them under (None: that of the file).
    As after `add_lora`, nothing but the loaded adapters is trainable.
    Raises ValueError, and changes nothing, when the file is not one of `save_lora`, when the model lacks one of its
    layers or has it in another shape, when the model is not its base, when the key is taken, and while merged.
    """
    state = _read(path)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | LoRALinear)}
    inside = {id(inner) for layer in lora_layers(model).values() for inner in layer.children()}
    layers = {name: layer for name, layer in layers.items() if id(layer) not in inside}
    if absent := [name for name in state["layers"] if name not in layers]:
        raise ValueError(f"model must have the linear layers of the file, it lacks {absent} among {sorted(layers)}")
    parts = {name: _part(name, entry, layers[name]) for name, entry in state["layers"].items()}
    own = base_identity(model, "head" in parts)
    if own != state["base"]:
        raise ValueError(
            f"model must be the base that the adapters were trained beside, {state['base'][:12]}..., got another one, "
            f"{own[:12]}..."
        )
    return attach(model, state["task"] if task is None else task, {name: layers[name] for name in parts}, parts.get)


def _entry(name: str, part: LowRank) -> dict:
    A, B, s = check_factors(f"the adapter of {name!r}", part.factors)
    return {"A": A.cpu(), "B": B.cpu(), "s": s, "r": len(A), "alpha": s * len(A), "dropout": part.dropout.p}


def _part(name: str, entry: dict, layer: nn.Module) -> LowRank:
    """The adapter in a file's entry, for `layer` of the model."""
    A, B, s = check_factors(f"the file's {name!r}", Factors(entry["A"], entry["B"], entry["s"]))
    given, own = (len(B), A.shape[1]), (layer.out_features, layer.in_features)
    if given != own or A.dtype != layer.weight.dtype:
        raise ValueError(
            f"the file's {name!r} changes a weight {given} of {A.dtype}, the model's is {own} of {layer.weight.dtype}"
        )
    if len(A) != entry["r"] or abs(s - entry["alpha"] / len(A)) > 1e-9 * abs(s):
        raise ValueError(
            f"the file's {name!r} must have s = alpha / r, got s={s:g}, alpha={entry['alpha']:g}, r={entry['r']} with "
            f"factors of rank {len(A)}"
        )
    return LowRank(A.to(layer.weight.device), B.to(layer.weight.device), s, check_dropout(entry["dropout"]))


def _read(path: str | os.PathLike) -> dict:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be the name of a file, got {type(path).__name__}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must name a file of save_lora, there is no file {os.fspath(path)!r}")
    try:
        # whatever is wrong with a file, torch has its own kind of error for it
        state = torch.load(io.BytesIO(Path(path).read_bytes()), map_location="cpu", weights_only=True)
        _check_kinds("the file", state, FILE)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']} instead of {FORMAT}")
        for name, entry in state["layers"].items():
            _check_kinds(repr(name), entry, ENTRY)
    except Exception as error:
        raise ValueError(f"path must name a file of save_lora, {os.fspath(path)!r} is not: {error}") from error
    missing, unexpected = set(state["names"]) - set(state["layers"]), set(state["layers"]) - set(state["names"])
    if missing or unexpected or not state["names"]:
        raise ValueError(
            f"the file must hold the layers that it names: missing {sorted(missing)}, unexpected {sorted(unexpected)}"
        )
    return state


def _check_kinds(where: str, found, kinds: dict[str, type]) -> None:
    if not isinstance(found, dict) or set(found) != set(kinds):
        raise ValueError(f"{where} must hold {sorted(kinds)}")
    if wrong := [key for key, kind in kinds.items() if not isinstance(found[key], kind)]:
        raise ValueError(f"{where} holds {wrong} of another type")
