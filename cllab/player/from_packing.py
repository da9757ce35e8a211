"""Traces of PackNet on numbers small enough for paper: a few weights shared out, and a frozen weight that moves.

The weights are pruned and read by `cllab.isolation.prune` and `packed`. What moves the frozen weight is torch's
optimisers.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from cllab import checks
from cllab.isolation import CapacityError, packed, prune
from cllab.player.schema import VERSION, round_trace

TEN = (
    (0.9, -0.1, 0.4, -0.8, 0.05, 0.6, -0.3, 0.7, -0.2, 0.5),
    (0.35, 0.33, -0.45, 0.15, -0.02, -0.28, 0.25, 0.12, -0.6, -0.08),
    (-0.22, 0.17, 0.31, -0.14, 0.11, 0.26, -0.19, 0.07, 0.24, -0.36),
)
"""What each of three tasks would make of ten weights, wherever they are free for it."""
MOST_WEIGHTS = 16
MOST_TASKS = 7
FAR = 1000


def packing_trace(
    trained: Sequence[Sequence[float]] = TEN, keep: Sequence[float] = (0.6, 0.75, 1.0), *, title: str = ""
) -> dict:
    """A few weights shared out among tasks: train, rank, prune, retrain and freeze, task by task (kind "packing").

    trained [T][n]: what task t makes of each weight if it finds it free. keep [T]: the share that each task keeps. The
    defaults are the ten weights of lesson 11, with owners 1 2 1 1 3 1 2 1 2 1. Retraining is shown, but leaves the
    values as they are. After the tasks, a step for each shows what it reads. A task that finds no free weight ends
    the story. Raises ValueError or TypeError naming the argument.
    """
    values = _numbers(trained)
    T, n = values.shape
    if len(keep) != T:
        raise ValueError(f"keep must have one share for each of the {T} tasks, got {len(keep)}")
    w, owner = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    steps = [_step("start", 0, w, owner, f"{n} weights, all of them free. Every task that comes takes some.")]
    done = 0
    for t in range(1, T + 1):
        mine = torch.where(owner == 0, values[t - 1], w)
        try:
            after = prune(mine, owner, t, keep[t - 1])
        except CapacityError as error:
            steps.append(_step("full", t - 1, w, owner, f"CapacityError: {error}. The story ends here."))
            break
        steps += _life(t, mine, owner, after, keep[t - 1])
        w, owner, done = after.w, after.owner, t
    steps += [_step("read", t - 1, w, owner, _reading(t, w, owner)) for t in range(1, done + 1)]
    return round_trace({
        "v": VERSION, "kind": "packing", "shows": "weights", "title": title, "ms": 1300,
        "tasks": [f"task {t}" for t in range(1, T + 1)],
        "alt": f"{n} weights as bars over coloured cells. Task by task some of them get an owner.", "steps": steps,
    })  # fmt: skip


def drift_trace(
    steps: int = 3,
    lr: float = 0.1,
    momentum: float = 0.9,
    decay: float = 0.1,
    *,
    gradient: float = 2.0,
    title: str = "",
) -> dict:
    """A frozen weight of 1 under four optimisers, its gradient set to 0: left alone, and put back (kind "packing").

    steps: taken after the freeze. lr, momentum in [0, 1), decay: the optimisers' settings. gradient: of the one step
    before the freeze, from which momentum and Adam remember something; the two with weight decay begin anew.
    """
    steps = checks.integer("steps", steps, 1, FAR)
    lr, decay = checks.positive("lr", lr), checks.number("decay", decay, 0.0)
    if checks.number("momentum", momentum, 0.0, 1.0) == 1:
        raise ValueError(f"momentum must be below 1, got {momentum}")
    checks.number("gradient", gradient, -1e6, 1e6)
    cases = [
        (f"SGD, weight decay {decay:g}", functools.partial(SGD, weight_decay=decay), 0.0,
         "every step takes lr · decay · w away"),
        (f"AdamW, weight decay {decay:g}", functools.partial(AdamW, weight_decay=decay), 0.0,
         "every step takes lr · decay · w away"),
        (f"SGD, momentum {momentum:g} kept", functools.partial(SGD, momentum=momentum), gradient,
         f"the buffer still holds the gradient {gradient:g} of the last task"),
        ("Adam, state kept", Adam, gradient, f"its averages still hold the gradient {gradient:g} of the last task"),
    ]  # fmt: skip
    paths = [
        {"name": name, "about": about, "before": before,
         "masked": frozen_path(make, steps, lr, before, restore=False),
         "restored": frozen_path(make, steps, lr, before, restore=True)}
        for name, make, before, about in cases
    ]  # fmt: skip
    return round_trace({
        "v": VERSION, "kind": "packing", "shows": "drift", "title": title, "ms": max(60, 3000 // (steps + 1)),
        "lr": lr, "paths": paths,
        "alt": "Two lines for each of four optimisers: a frozen weight whose gradient is 0, and one that is put back.",
        "steps": [{"step": k, "text": _drifted(k, paths)} for k in range(steps + 1)],
    }, 6)  # fmt: skip


def frozen_path(make_optimizer: Callable, steps: int, lr: float, before: float, restore: bool) -> list[float]:
    """A weight that is frozen at 1: its value then, and after each of `steps` steps with a gradient of 0.

    before: the gradient of a step that was taken just before it was frozen (0: the optimiser is new). restore: put the
    value back after every step.
    """
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = make_optimizer([w], lr=lr)
    if before:
        w.grad = torch.full_like(w, before)
        optimizer.step()
        w.data.fill_(1.0)
    held, path = w.detach().clone(), [w.item()]
    for _ in range(steps):
        w.grad = torch.zeros_like(w)
        optimizer.step()
        if restore:
            w.data.copy_(held)
        path.append(w.item())
    return path


def _life(t: int, w: Tensor, owner: Tensor, after, keep: float) -> list[dict]:
    """The five steps of task t: w, owner before pruning, `after` as `prune` returned it."""
    n, k, gone = len(after.ranked), after.kept, len(after.ranked) - after.kept
    exact = keep * n
    share = f"{keep:g} · {n} = {exact:g}" + ("" if abs(exact - k) < 1e-9 else f", that is {k}")
    told = {
        "train": f"Task {t} trains the {_count(n, 'free weight')}"
        + (". It reads the others, and does not move them." if t > 1 else "."),
        "rank": f"Rank the {_count(n, 'weight')} that task {t} has just trained by |w|. Keep {share}.",
        "prune": f"Prune: {_count(gone, 'weight')} {'becomes' if gone == 1 else 'become'} 0 and free again."
        if gone
        else "Prune: nothing is left over, no weight becomes free.",
        "retrain": f"Retrain the {_count(k, 'kept weight')} alone, without the pruned ones (the example leaves the "
        "numbers as they are).",
        "freeze": f"Freeze: owner {t}, for good. Task {t} owns {k} and reads {int((after.owner > 0).sum())}; "
        f"{int((after.owner == 0).sum())} of {len(w)} are free.",
    }
    ranking = {"ranked": after.ranked, "kept": k}
    return [
        _step(phase, t - 1, *((w, owner) if phase in ("train", "rank") else (after.w, after.owner)), text,
              **(ranking if phase in ("rank", "prune") else {}))
        for phase, text in told.items()
    ]  # fmt: skip


def _step(phase: str, task: int, w: Tensor, owner: Tensor, text: str, ranked=None, kept=None) -> dict:
    return {"phase": phase, "task": task, "w": w, "owner": owner, "ranked": ranked, "kept": kept, "text": text}


def _reading(t: int, w: Tensor, owner: Tensor) -> str:
    read, own = int((packed(torch.ones_like(w), owner, t) > 0).sum()), int((owner == t).sum())
    text = f"Task {t} reads every weight with owner {'1' if t == 1 else f'1 to {t}'}: {read} of {len(w)}."
    if t == 1:
        return text
    return f"{text} Its own mask M{'₀₁₂₃₄₅₆₇'[t]} alone, {_count(own, 'weight')}, would be another network."


def _drifted(k: int, paths: list[dict]) -> str:
    if k == 0:
        return "The weight is 1 and frozen. From now on its gradient is 0 in every step."
    moves = ", ".join(f"{_signed(path['masked'][k] - 1)} ({path['name']})" for path in paths)
    return f"After {_count(k, 'step')} with a gradient of 0 the frozen weight has moved by {moves}. Put back, it is 1."


def _signed(x: float) -> str:
    return f"{x:+.3g}".replace("-", "−") if x else "0"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _numbers(trained) -> Tensor:
    values = torch.from_numpy(checks.real_numbers("trained", trained))
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(f"trained must hold a row of weights for each task, got shape {tuple(values.shape)}")
    checks.integer("the number of weights in trained", values.shape[1], 1, MOST_WEIGHTS)
    checks.integer("the number of tasks in trained", values.shape[0], 1, MOST_TASKS)
    return checks.floats("trained", values)
