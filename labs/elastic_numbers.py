"""The worked numbers of elastic weights, computed live by the functions that train: Fishers, the half, two anchors.

No Streamlit in here, so that tests call these functions directly.
"""

import math

import torch
from torch import Tensor, nn

from cllab.regularization import fisher_diagonal, proximal_step

# one weight, p(1 | x) = sigmoid(theta x) with theta = ln 3: x, y and the batch size of "batched"
FISHER_ROWS = (
    ((1, 2), (1, 0), 2), ((1, 2), (1, 1), 2), ((1, 1, 1, 1), (1, 1, 1, 0), 1), ((1, 1, 1, 1), (1, 1, 1, 0), 2),
    ((1, 1, 1, 1), (1, 1, 1, 0), 4),
)  # fmt: skip


def fisher_numbers() -> list[tuple[tuple, tuple, int, dict[str, float]]]:
    """(x, y, B, {estimator: F}) for one weight theta = ln 3."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, math.log(3))
    found = []
    for x, y, batch in FISHER_ROWS:
        inputs, labels = torch.tensor(x).double()[:, None], torch.tensor(y)
        F = {
            kind: fisher_diagonal(model, inputs, labels, kind, batch_size=batch)["weight"].item()
            for kind in ("model", "true", "batched")
        }
        found.append((x, y, batch, F))
    return found


def half_numbers() -> dict[str, float]:
    """Where theta ends: A is (1/2) 4 theta^2, then B is (1/2) (theta - 1)^2, lam = 1; with the half and without it.

    B has curvature 1, so its minimum together with the springs is one proximal step from B's own minimum.
    """
    anchor = [(_one(0.0), _one(4.0))]
    return {
        "with ½": proximal_step(_one(1.0), anchor, step=1.0).item(),
        "without ½": proximal_step(_one(1.0), anchor, step=2.0).item(),  # twice the pull
        "both tasks at once": (4 * 0.0 + 1 * 1.0) / (4 + 1),
    }


def anchor_numbers() -> dict[str, float]:
    """Where theta ends after three parabolas of curvature 1 at 0, 3 and 6, one after the other, with lam = 1."""
    after_b = proximal_step(_one(3.0), [(_one(0.0), _one(1.0))], step=1.0)
    separate = [(_one(0.0), _one(1.0)), (after_b, _one(1.0))]
    single = [(after_b, _one(2.0))]
    return {
        "after B": after_b.item(),
        "two anchors": proximal_step(_one(6.0), separate, step=1.0).item(),
        "one anchor": proximal_step(_one(6.0), single, step=1.0).item(),
        "all tasks at once": (0.0 + 3.0 + 6.0) / 3,
    }


def _one(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
