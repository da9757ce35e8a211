"""What the generative page shows of latents: stored ones beside what the trunk makes of the same rows now, as a trace.

No Streamlit in here. A small network learns digits two by two, once with the trunk frozen after the first task and
once with the trunk moving; both replay latents. The trace of the defaults is committed in traces/latents.json;
`python -m labs.latents_traces` computes it anew, and a test compares.
"""

import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.models import MLP
from cllab.player import generations_trace
from cllab.replay import LatentReplay, gaussian, latent_age, latents
from cllab.streams import digits, split
from cllab.training import Evaluated, TaskEnded, fit

COMMITTED = Path(__file__).parent / "traces" / "latents.json"
DEFAULTS = {"lr": 0.003, "epochs": 6, "seed": 0}
TASKS, STAGE, WIDTH, PROBES, FRAMES, BATCH = 3, 1, 32, 40, 30, 16


def train(lr: float = 0.003, epochs: int = 6, seed: int = 0) -> dict:
    """Latents of 40 rows of the first task, from its end on: stored, and as the trunk makes them now.

    The 16 latents of a row are drawn by their first two principal components as the first task left them; age and
    accuracy are measured on all 16.
    lr: learning rate of Adam; epochs: passes over each of the three tasks (two digits each, 16 rows per step);
    seed: of weights and order. Trained in float64, so that two machines agree. Accuracy is on the first task's test
    rows, which in this scenario compete with the later tasks' classes.
    """
    checks.number("lr", lr, 1e-6, 1.0)
    checks.integer("epochs", epochs, 1, 40)
    runs = {name: _run(name == "frozen", lr, epochs, seed) for name in ("frozen", "moving")}
    steps = []
    for frames in zip(*runs.values(), strict=True):
        ages, accuracies = ([frame[key] for frame in frames] for key in ("age", "accuracy"))
        text = f"Step {frames[0]['step']}: latents of the moving trunk are {ages[1]:.3f} old on average, those of the "
        text += f"frozen one {ages[0]:.3f}. The first task is answered right for {accuracies[1]:.0%} against "
        text += f"{accuracies[0]:.0%} of its test rows."
        steps.append(
            {"x": frames[0]["step"], "text": text, "panels": [{"arrows": frame["arrows"]} for frame in frames]}
        )
    about = {"age": "mean absolute difference of stored latents and latents now", "accuracy": "on the first task"}
    lines = [
        {"name": f"{name}: {key}", "values": [f[key] for f in runs[name]], "about": text, "colour": k, "dash": i}
        for i, (key, text) in enumerate(about.items())
        for k, name in enumerate(("frozen", "moving"))
    ]
    places = torch.tensor([arrow[:4] for frames in runs.values() for frame in frames for arrow in frame["arrows"]])
    reach = 1.08 * float(places.abs().max())
    names = {"frozen": "Trunk frozen after the first task", "moving": "Trunk goes on learning"}
    return generations_trace(
        [{"name": names[name], "extent": [-reach, reach, -reach, reach]} for name in runs],
        steps, ["digit 0", "digit 1"], lines, x_label="training step", y_label="age, accuracy", title="",
        alt="Arrows lead from where latents were stored to where the trunk puts the same rows now.",
    )  # fmt: skip


def committed() -> dict[str, dict]:
    """The committed traces, {settings as JSON: trace}."""
    return _read(COMMITTED)


def settings_key(**settings) -> str:
    """The name under which a trace is committed: its settings with defaults filled in, as JSON."""
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"settings must be among {sorted(DEFAULTS)}, got {sorted(unknown)}")
    return json.dumps({**DEFAULTS, **settings}, sort_keys=True)


def _run(frozen: bool, lr: float, epochs: int, seed: int) -> list[dict]:
    """One frame every few steps of the later tasks; the first is the end of the first task."""
    stream = split(digits().only(range(2 * TASKS)), 2)
    model = MLP(64, [WIDTH, WIDTH], 2 * TASKS, seed=seed).double()
    replay = LatentReplay(200, STAGE, frozen=frozen, probe=PROBES)
    steps = sum(epochs * -(-len(task.y) // BATCH) for task in stream.tasks[1:])
    every = max(1, steps // FRAMES)
    frames, kept, plane, told = [], None, None, None
    for event in fit(model, stream, [replay], epochs=epochs, batch_size=BATCH, lr=lr, seed=seed, eval_every=every):
        if isinstance(event, Evaluated):
            told = event
        if isinstance(event, TaskEnded) and event.task == 0:
            kept = replay.probes.state_dict()["columns"]
            plane = principal_plane(latents(model, stream[0].x.double(), STAGE))
        if (
            kept is not None
            and isinstance(event, Evaluated | TaskEnded)
            and (not frames or told.step > frames[-1]["step"])
        ):
            frames.append(_frame(model, kept, plane, told))
    return frames


def principal_plane(h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] of the latents h [N, D] and their two directions of largest variance [D, 2], longest first."""
    mean, covariance = gaussian(h)
    directions = torch.linalg.eigh(covariance).eigenvectors[:, [-1, -2]]
    # an eigenvector's sign is arbitrary: make its largest entry positive
    signs = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    return mean, directions * signs


def _frame(model: nn.Module, kept: dict, plane: tuple[Tensor, Tensor], told: Evaluated) -> dict:
    mean, directions = plane
    now = latents(model, kept["row"], STAGE)
    ends = torch.cat([(kept["x"] - mean) @ directions, (now - mean) @ directions], dim=1)
    arrows = [[*end, c] for end, c in zip(ends.tolist(), kept["y"].tolist(), strict=True)]
    return {"step": told.step, "accuracy": told.accuracy[0], "age": latent_age(kept["x"], now), "arrows": arrows}


@cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    COMMITTED.parent.mkdir(exist_ok=True)
    text = json.dumps({settings_key(): train()}, separators=(",", ":"))
    COMMITTED.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    _write()
