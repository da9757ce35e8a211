"""What the page of elastic weights shows, computed from its settings: tasks, Fishers, and the traces of both players.

No Streamlit in here, so that tests call these functions directly. The model has two weights and no bias,
p(1 | x) = sigmoid(theta . x), so that a picture of the plane shows all that there is.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator
from cllab.player import springs_trace
from cllab.player.from_springs import Loss, minimum
from cllab.regularization import fisher_diagonal

N = 64  # rows of a task
STEPS = 60
TASKS = ("an idle feature", "a leaning valley", "wrong labels", "two parabolas")
ESTIMATORS = ("model", "sampled", "true", "batched")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
DEFAULTS = {"tasks": TASKS[0], "lam": 3, "lr": 1, "fisher": "model", "batch": 8, "seed": 0}
# curvatures and minima of the two parabolas (1/2) sum_i a_i (theta_i - m_i)^2
PARABOLAS = ((4.0, 1.0), (0.0, 0.0)), ((1.0, 1.0), (1.0, 1.0))


class Rows(NamedTuple):
    """x [N, 2] and y [N] in {0, 1}."""

    x: Tensor
    y: Tensor


def two_weights(theta: Tensor) -> nn.Linear:
    """Logistic regression without bias: rows [N, 2] -> the logit of class 1 [N, 1]; theta [2] are its weights."""
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.data = theta.clone()[None]
    return model


def rows(tasks: str, seed: int) -> tuple[Rows, Rows]:
    """Tasks A and B. The labels are drawn from a model of the same form, so that no line separates them cleanly.

    "an idle feature": the second feature of A is small, so its weight hardly matters. "a leaning valley": both
    features of A say nearly the same, so only the sum of the weights matters. "wrong labels": four labels of A, far
    from the boundary, are turned round.
    """
    checks.choice("tasks", tasks, TASKS[:3])
    source = generator(seed, "elastic weights")
    z = [torch.randn(N, 2, generator=source, dtype=torch.float64) for _ in range(2)]
    u = [torch.rand(N, generator=source, dtype=torch.float64) for _ in range(2)]
    if tasks == "a leaning valley":
        mixed = torch.tensor([[1.1, 1.1], [0.35, -0.35]], dtype=torch.float64)
        x, slope = z[0] @ mixed, [0.9, 0.9]
    else:
        x, slope = z[0] * torch.tensor([1.6, 0.25], dtype=torch.float64), [1.2, 0.0]
    a, b = _labelled(x, slope, u[0]), _labelled(1.1 * z[1], [-0.8, 1.8], u[1])
    if tasks == "wrong labels":
        surest = (a.x @ torch.tensor(slope).double() * (2 * a.y - 1)).argsort(descending=True)[:4]
        a.y[surest] = 1 - a.y[surest]
    return a, b


def logistic_loss(data: Rows) -> Loss:
    """The mean cross-entropy over the rows as a function of the weights: [..., 2] -> [...]."""
    sign = (2 * data.y - 1).double()
    # -ln p(y | x) = ln(1 + exp(-(2y - 1) theta . x))
    return lambda theta: F.softplus(-sign * (theta @ data.x.T)).mean(dim=-1)


def parabola(curvature: tuple, centre: tuple) -> Loss:
    """(1/2) sum_i a_i (theta_i - m_i)^2."""
    a, m = torch.tensor(curvature).double(), torch.tensor(centre).double()
    return lambda theta: 0.5 * (a * (theta - m).square()).sum(dim=-1)


def losses(tasks: str, seed: int) -> tuple[Loss, Loss]:
    """Loss A and loss B over the two weights."""
    if tasks == TASKS[3]:
        return tuple(parabola(*shape) for shape in PARABOLAS)
    return tuple(logistic_loss(data) for data in rows(tasks, seed))


@functools.lru_cache(maxsize=64)
def learned(tasks: str, seed: int) -> tuple[Rows, Tensor]:
    """Task A's rows and the weights [2] at the minimum of their loss."""
    a, _ = rows(tasks, seed)
    return a, minimum("loss A", logistic_loss(a), torch.zeros(2).double())


def fisher(tasks: str, labels: str, batch: int, seed: int) -> Tensor:
    """F [2] at the minimum of loss A. Of a parabola it is the curvature, whatever the labels."""
    checks.choice("labels", labels, ESTIMATORS)
    if tasks == TASKS[3]:
        return torch.tensor(PARABOLAS[0][0]).double()
    a, theta_star = learned(tasks, seed)
    draws = generator(seed, "sampled labels")
    return fisher_diagonal(two_weights(theta_star), a.x, a.y, labels, batch_size=batch, generator=draws)["weight"][0]


def story(tasks: str, lam: float, lr: float, fisher_of: str, batch: int, seed: int) -> dict:
    """Both steps, penalty and proximal, with one Fisher."""
    old, new = losses(tasks, seed)
    found = {name_of(fisher_of, batch): fisher(tasks, fisher_of, batch, seed)}
    of = "curvature" if tasks == TASKS[3] else name_of(fisher_of, batch)
    return springs_trace(
        old, new, found, lam=lam, lr=lr, n_steps=STEPS, n=1 if tasks == TASKS[3] else N,
        title=f"{tasks.capitalize()}, λ = {lam:g}, lr = {lr:g}, Fisher: {of}",
        alt=f"Loss contours of tasks A and B over two weights ({tasks}), with two paths from where A ended.",
    )  # fmt: skip


def four_fishers(tasks: str, lam: float, lr: float, batch: int, seed: int) -> dict:
    """The proximal step with each of the four Fishers."""
    old, new = losses(tasks, seed)
    found = {name_of(labels, batch): fisher(tasks, labels, batch, seed) for labels in ESTIMATORS}
    return springs_trace(
        old, new, found, lam=lam, lr=lr, n_steps=STEPS, steps=("proximal",), n=N,
        title=f"Four Fishers, the same λ = {lam:g}, proximal steps",
        alt="The same contours four times, each with the ellipse and the path of another Fisher.",
    )  # fmt: skip


def name_of(labels: str, batch: int) -> str:
    """How the page calls an estimator."""
    return f"batched, B = {batch}" if labels == "batched" else labels


def ends(trace: dict, panel: int = 0) -> dict[str, dict]:
    """{path: theta, old, new, left, given_up} at the end of a panel's paths, and of "free", the one without springs."""
    found = {}
    for way in (trace["free"], *trace["panels"][panel]["paths"]):
        last = {part: way[part][-1] for part in ("theta", "old", "new")}
        found[way["name"]] = last | {"left": way["left"], "given_up": way["given_up"]}
    return found


def settled(trace: dict) -> str:
    """Which of the two steps of a story comes to rest: "both", "only the penalty step", ..."""
    x0, x1 = trace["extent"][:2]
    (panel,) = trace["panels"]
    still = {}
    for way in panel["paths"]:
        (a, b), (c, d) = way["theta"][-2:]
        still[way["name"]] = way["left"] is None and max(abs(a - c), abs(b - d)) < 0.01 * (x1 - x0)
    if still["penalty"] == still["proximal"]:
        return "both" if still["penalty"] else "neither"
    return "only the penalty step" if still["penalty"] else "only the proximal step"


def _labelled(x: Tensor, slope: list[float], u: Tensor) -> Rows:
    """Rows whose label is 1 with probability sigmoid(slope . x); u [N] are the draws."""
    return Rows(x, (u < (x @ torch.tensor(slope).double()).sigmoid()).long())
