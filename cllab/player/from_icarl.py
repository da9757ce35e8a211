"""Steps of an iCaRL walk beside its herding: what the training loss of a stage asks for, and where test points go."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cllab import checks
from cllab.replay.herding import mean_distances
from cllab.replay.icarl import icarl_loss, icarl_targets


class TrainingRow(NamedTuple):
    """One row of a stage's training, for its arithmetic.

    point        which row of the features it is
    outputs      g, the sigmoid outputs of the network under training, in (0, 1): one per class seen so far, the old
                 classes first
    old_outputs  q, those of the network before this stage for its classes; empty in the first stage
    """

    point: int
    outputs: Sequence[float]
    old_outputs: Sequence[float] = ()


def loss_of_row(row: TrainingRow, label: int, old: Sequence[int], new: Sequence[int]) -> dict:
    """The loss of one row by columns: {"row", "columns", "distillation", "floor", "new", "mean"}, in nats.

    columns: {"class", "old", "target", "output", "loss", "gradient"} for each class of `old` and `new`; gradient is
    (g - target) / t, what the mean over the t columns passes to the logit. distillation and new are sums of the
    columns' losses, floor the least that distillation can be (the entropy of q), mean is over all columns.
    """
    n_old, t = len(old), len(old) + len(new)
    if len(row.outputs) != t or len(row.old_outputs) != n_old:
        raise ValueError(
            f"training must have {t} outputs and {n_old} old_outputs in this stage, "
            f"got {len(row.outputs)} and {len(row.old_outputs)}"
        )
    z, z_old = _logits("outputs", row.outputs), _logits("old_outputs", row.old_outputs) if n_old else None
    targets = icarl_targets(torch.tensor([label]), torch.tensor(list(new)), z_old).double()
    parts = icarl_loss(z, targets, n_old)
    floor = icarl_loss(z_old, targets[:, :n_old], n_old).distillation * n_old if n_old else torch.zeros(())
    columns = [
        {
            "class": c, "old": i < n_old, "target": targets[0, i], "output": z[0, i].sigmoid(),
            "loss": icarl_loss(z[:, i : i + 1], targets[:, i : i + 1]).new,
            "gradient": (z[0, i].sigmoid() - targets[0, i]) / t,
        }
        for i, c in enumerate([*old, *new])
    ]  # fmt: skip
    return {
        "row": row.point, "columns": columns, "distillation": parts.distillation * t, "floor": floor,
        "new": parts.new * t, "mean": sum(parts),
    }  # fmt: skip


def say_targets(loss: dict, classes: Sequence[str], name: str, own: str) -> str:
    """A sentence on where the targets come from."""
    rows = {c["class"]: c for c in loss["columns"]}
    old = [f"{classes[c]} {float(r['target']):g}" for c, r in rows.items() if r["old"]]
    new = [f"{classes[c]} {float(r['target']):g}" for c, r in rows.items() if not r["old"]]
    start = f"Training, row {name} of class {own}: each class's output answers yes or no on its own."
    if not old:
        return f"{start} Targets are 1 for the row's class and 0 for the others: {', '.join(new)}."
    return (
        f"{start} Old columns aim at what the old network says of the row ({', '.join(old)}), not at its label; "
        f"the new column at its label ({', '.join(new)})."
    )


def say_loss(loss: dict) -> str:
    """A sentence with the parts of the loss."""
    t, mean = len(loss["columns"]), float(loss["mean"])
    new = float(loss["new"])
    if not any(column["old"] for column in loss["columns"]):
        return f"The loss is the mean over the {t} outputs, {new:.4f} / {t} = {mean:.4f}; there is nothing to distil."
    held, floor = float(loss["distillation"]), float(loss["floor"])
    return (
        f"Distillation {held:.4f} (it cannot fall below {floor:.4f}, so {held - floor:.4f} can be learned) and new "
        f"classes {new:.4f}: the mean over the {t} outputs is {mean:.4f}."
    )


def say_test(query: Sequence[float], means: dict[int, Tensor], classes: Sequence[str], owners: Sequence[str]) -> str:
    """A sentence on where the nearest mean sends a point; distances equal to 1e-9 are a tie.

    means {class: [2]}; owners: names of the classes whose data holds this very point.
    """
    x = torch.tensor([list(query)], dtype=torch.float64)
    order = sorted(means)
    d = dict(zip(order, mean_distances(x, means)[0].tolist(), strict=True))
    nearest = [c for c in order if d[c] - min(d.values()) < 1e-9]
    told = ", ".join(f"{classes[c]} {d[c]:.4f}" for c in order)
    place = f"({', '.join(_plain(v) for v in query)})"
    whose = f", a point of {' and of '.join(owners)}" if owners else ""
    if len(nearest) == 1:
        return f"Test point {place}{whose}. Distances to the means: {told}. The answer is {classes[nearest[0]]}."
    tied = " and ".join(classes[c] for c in nearest)
    return (
        f"Test point {place}{whose}. Distances to the means: {told}. An exact tie between {tied}: "
        f"the rule says {classes[nearest[0]]}, the features cannot tell."
    )


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _logits(name: str, probabilities: Sequence[float]) -> Tensor:
    g = checks.floats(name, torch.tensor([list(probabilities)], dtype=torch.float64))
    if not bool(((g > 0) & (g < 1)).all()):
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {list(probabilities)}")
    return g.logit()
