"""Stop at any step, resume, and get bit for bit what the uninterrupted run gets.

A checkpoint holds tensors, numbers and strings only, never pickled objects, and is read with weights_only=True.
"""

import io
import os
from pathlib import Path

import torch

from cllab.training.context import Context
from cllab.training.history import History, write_whole

FORMAT = 1
KEYS = {
    "format", "history", "started", "data", "shapes", "randomness", "at", "order", "model", "optimizer", "methods",
    "generators",
}  # fmt: skip


def save(path: str | os.PathLike, ctx: Context, started: bool) -> None:
    """Write where the run stands. started: the task under way has begun (False between two tasks)."""
    state = {
        "format": FORMAT, "history": ctx.history.to_json(), "started": started,
        "data": ctx.fingerprint, "shapes": ctx.shapes, "randomness": ctx.model_randomness,
        "at": [ctx.task_index, ctx.epoch, ctx.position, ctx.step],
        "order": ctx.order_state, "model": ctx.model.state_dict(),
        "optimizer": ctx.optimizer.state_dict() if ctx.optimizer else None,
        "methods": [method.state_dict() for method in ctx.methods],
        "generators": [method.generator.get_state() for method in ctx.methods],
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def check_place(path: str | os.PathLike) -> None:
    """Refuse at once a file that could not be written after hours of training."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"checkpoint must be the name of a file, got {type(path).__name__}")
    if not os.fspath(path) or Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
        raise ValueError(f"checkpoint must name a file in a folder that exists, got {os.fspath(path)!r}")


def read(path: str | os.PathLike, ctx: Context) -> dict:
    """The state in `path`, checked against this run before anything is changed."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"resume must be the name of a file, got {type(path).__name__}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"resume must name a checkpoint, there is no file {os.fspath(path)!r}")
    try:
        # whatever is wrong with a file, torch has its own kind of error for it
        state = torch.load(io.BytesIO(Path(path).read_bytes()), map_location="cpu", weights_only=True)
        missing = sorted(KEYS - set(state))
        if missing or state["format"] != FORMAT:
            raise ValueError(f"it lacks {missing}" if missing else f"format {state['format']} instead of {FORMAT}")
        history = History.from_json(state["history"])
    except Exception as error:
        raise ValueError(f"resume must be a checkpoint written by fit, {os.fspath(path)!r} is not: {error}") from error
    now = ctx.history.settings
    changed = [k for k in now if k not in ("device", "parameters") and history.settings.get(k) != now[k]]
    details = [f"{k} was {history.settings.get(k)!r}, now {now[k]!r}" for k in changed]
    if state["shapes"] != ctx.shapes:
        details.append("model has other parameters")
    if state["data"] != ctx.fingerprint or history.task_names != ctx.history.task_names:
        details.append("stream holds other data")
    if details:
        raise ValueError(f"resume must continue the same run, but {'; '.join(details)}")
    return state


def restore(state: dict, ctx: Context) -> bool:
    """Put the run back where it stood; returns whether the task under way has begun."""
    ctx.history = History.from_json(state["history"])
    task_index, epoch, position, step = state["at"]
    started = state["started"]
    for ctx.task_index in range(task_index + started):  # modules that methods add must exist before they are filled
        for method in ctx.methods:
            method.start_task(ctx)
        ctx.build_optimizer()
    ctx.task_index, ctx.epoch, ctx.position, ctx.step = task_index, epoch, position, step
    ctx.model.load_state_dict(state["model"])
    if ctx.optimizer is not None:
        ctx.optimizer.load_state_dict(state["optimizer"])
    for method, kept, randomness in zip(ctx.methods, state["methods"], state["generators"], strict=True):
        method.load_state_dict(kept)
        method.generator.set_state(randomness)
    ctx.data_generator.set_state(state["order"])
    ctx.model_randomness = state["randomness"]
    return started
