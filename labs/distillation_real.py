"""A real teacher: what a network that knows the digits 0 to 4 answers on 5 to 9, and who keeps to it.

No Streamlit in here, so that tests call these functions directly. The traces of the defaults are committed in
traces/distillation.json; `python -m labs.distillation_real` computes them anew, and a test compares.
"""

import json
from collections.abc import Generator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.models import MLP
from cllab.player import answers_trace, image_digits
from cllab.regularization import LwF, distillation_loss
from cllab.streams import Stream, digits, split
from cllab.training import Step, TaskEnded, fit, frozen_copy

COMMITTED = Path(__file__).parent / "traces" / "distillation.json"
OLD, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
SHOWN = (5, 6, 7, 8)  # the first test image of each of these
TEMPERATURES = (1, 2, 4)
DEFAULTS = {"lam": 1.0, "seed": 0}
HIDDEN, EPOCHS, BATCH, LR = [64, 32], 10, 32, 1e-2
FRAMES = 30


def settings_key(temperature: float, lam: float = 1.0, seed: int = 0) -> str:
    """Under which name a trace is committed."""
    return f"{temperature:g} {lam:g} {seed}"


def committed() -> dict[str, dict]:
    return _read(COMMITTED)


def trained(temperature: float = 2.0, lam: float = 1.0, seed: int = 0, frames: int = FRAMES) -> dict:
    """What `training` returns, without a look at how far it is."""
    steps = training(temperature, lam, seed, frames)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def training(temperature: float, lam: float, seed: int, frames: int = FRAMES) -> Generator[float, None, dict]:
    """The second task of split digits, learned with LwF and by fine-tuning alone, each with a head per task: a trace.

    Both start from the same network. Shown are the old head's answers at T = `temperature` on four new test images;
    the charts measure KL(q || p) there on all new test rows, and the accuracy on the old digits. float64, so that two
    machines agree. frames: of the 30 moments that are drawn, only so many; training stops there. Yields after every
    step which share of all steps is taken.
    """
    checks.number("temperature", temperature, 0.25, 50.0)
    checks.number("lam", lam, 0.0, 100.0)
    checks.integer("frames", frames, 1, FRAMES)
    stream = split(digits(), [OLD, NEW], scenario="task")
    runs = []
    for methods in ([LwF(lam, temperature)], []):
        runs.append((yield from _run(stream, methods, seed, frames, before=len(runs) / 2)))
    x_new, y_new = _rows(stream, 1)
    rows = [int((y_new == c).nonzero()[0]) for c in SHOWN]
    teacher = _old_answers(runs[0][0][1], x_new)
    found = [[_frame(stream, model, teacher, temperature) for _, model in run] for run in runs]
    steps = []
    for t, (step, _) in enumerate(runs[0]):
        lwf, plain = found[0][t], found[1][t]
        panels = []
        for row in rows:
            logits = [teacher[row], lwf["z"][row], plain["z"][row]]
            panels.append({"T": temperature, "logits": logits, "values": [_soft(z, temperature) for z in logits]})
        text = (
            f"Step {step} of the new task. On new rows the old head is {lwf['kl']:.3f} nats from the teacher with LwF, "
            f"{plain['kl']:.3f} without. Old digits are answered right for {lwf['old']:.1%} and {plain['old']:.1%}, "
            f"new ones for {lwf['new']:.1%} and {plain['new']:.1%}."
        )
        steps.append({"x": step, "text": text, "panels": panels})
    style = [{"name": "LwF", "colour": 1, "dash": 0}, {"name": "fine-tuning", "colour": 2, "dash": 1}]
    charts = [
        {"y_label": label, "lines": [{**look, "values": [f[key] for f in run]}
                                     for look, run in zip(style, found, strict=True)]}
        for key, label in (("kl", f"KL(q ‖ p) on the new rows, T = {temperature:g} (nats)"),
                           ("old", "accuracy on the old digits"))
    ]  # fmt: skip
    # pixels of the course's digits are 0 to 1
    panels = [{"name": f"A {c}, seen by the old head", "image": image_digits(x_new[row])}
              for c, row in zip(SHOWN, rows, strict=True)]  # fmt: skip
    return answers_trace(
        panels, steps, [str(c) for c in OLD], ("teacher q", "LwF", "fine-tuning"), charts, x_label="training step",
        alt="Bars of the old head's answers on new digits: LwF stays with the teacher, fine-tuning leaves it.",
    )  # fmt: skip


def soft_targets(trace: dict, temperatures: tuple[float, ...] = TEMPERATURES, top: int = 3) -> list[list[str]]:
    """For every image of the trace, the teacher's `top` answers at each temperature, as text."""
    table = []
    for panel in trace["steps"][0]["panels"]:
        z = torch.tensor(panel["logits"][0], dtype=torch.float64)
        row = []
        for T in temperatures:
            best = (z / T).softmax(dim=0).topk(top)
            told = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            row.append(", ".join(f"{trace['classes'][c]}: {value:.1%}" for c, value in told))
        table.append(row)
    return table


def _run(
    stream: Stream, methods: list, seed: int, frames: int, before: float
) -> Generator[float, None, list[tuple[int, nn.Module]]]:
    """Copies of the network at some steps of the second task, from its very beginning.

    This is one half of all training; before: the share that was done when it began.
    """
    model = MLP(64, HIDDEN, len(OLD) + len(NEW), seed=seed).double()
    first, total = (EPOCHS * -(-len(task.y) // BATCH) for task in stream)
    # more frames at the beginning, where most happens
    wanted = {round(total * (i / FRAMES) ** 2) for i in range(1, frames + 1)} - {0}
    kept = []
    for event in fit(model, stream, methods, epochs=EPOCHS, batch_size=BATCH, lr=LR, seed=seed):
        if isinstance(event, TaskEnded) and event.task == 0:
            kept.append((0, frozen_copy(model)))
        elif isinstance(event, Step):
            done = event.step - first  # below 0 in the first task
            if done in wanted:
                kept.append((done, frozen_copy(model)))
            if done == max(wanted):
                break
            yield before + event.step / (first + total) / 2
    return kept


def _rows(stream: Stream, task: int) -> tuple[Tensor, Tensor]:
    """The test rows of a task, in float64."""
    return stream.tasks[task].x_test.double(), stream.tasks[task].y_test


@torch.no_grad()
def _old_answers(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of the old head, [N, 5]."""
    return model(x)[:, list(OLD)]


def _frame(stream: Stream, model: nn.Module, teacher: Tensor, T: float) -> dict:
    """Where one network stands: old head's logits on the new rows, its distance from the teacher, both accuracies."""
    (x_old, y_old), (x_new, y_new) = _rows(stream, 0), _rows(stream, 1)
    z = _old_answers(model, x_new)
    with torch.no_grad():
        new = model(x_new)[:, list(NEW)].argmax(dim=1) + NEW[0]
    old = _old_answers(model, x_old).argmax(dim=1)
    right = {"old": float((old == y_old).double().mean()), "new": float((new == y_new).double().mean())}
    return {"z": z, "kl": float(distillation_loss(z, teacher, T)) / T**2, **right}


def _soft(logits: Tensor, T: float) -> Tensor:
    return (logits / T).softmax(dim=-1)


@cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    found = {settings_key(T): trained(T) for T in TEMPERATURES}
    COMMITTED.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    _write()
