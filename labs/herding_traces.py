"""What the herding page shows, computed from its settings: traces for the player, verdicts and error curves.

No Streamlit in here, so that tests call these functions directly. All arithmetic is cllab's: `herding_trace`,
`herding_steps`, `quota`, `nearest_class_mean`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.models import MLP
from cllab.player import herding_trace
from cllab.player.from_icarl import TrainingRow
from cllab.replay.herding import herding, herding_steps, nearest_class_mean, quota, unit_rows
from cllab.streams import digits, icarl_toy, split
from cllab.training import run

CLASSES = ("A", "B", "C")
STAGES = ((0, 1), (2,))
TOY = icarl_toy()
FEATURES = ("network", "pixels")
TRAINING = (TrainingRow(1, (0.5, 0.5)), TrainingRow(3, (0.8, 0.15, 0.05), (0.9, 0.1)))
"""Outputs for the loss of each stage: an untrained network's, then the worked example of iCaRL's loss."""
TESTS = (((0.9, 0.7), (2.0, 2.0)), ((0.9, 0.7), (-0.9, -0.6), (0.0, 0.0), (2.0, 2.0)))
"""Test points after each stage; (2, 2) ties after stage 1, (0, 0) after stage 2."""
ENTRIES = {
    "Stage 1": (0, "arrive", None), "Stage 2": (1, "arrive", None), "Test points": (1, "test", (0.9, 0.7)),
    "Tie (2, 2)": (0, "test", (2.0, 2.0)), "Tie (0, 0)": (1, "test", (0.0, 0.0)),
}  # fmt: skip
"""Where one may enter the story: the stage, the phase and the test point of a step."""
PER_DIGIT = 60
"""Training images of each digit in the picture: enough for herding, few enough to see."""


class Digits(NamedTuple):
    """The digits as the page uses them: features [N, D] and labels of training and test rows, pixels 0 to 16."""

    features: Tensor
    y: Tensor
    features_test: Tensor
    y_test: Tensor
    pixels: Tensor


def toy_trace(capacity: int = 8, ties: str = "first") -> dict:
    """The A/B/C toy as an iCaRL walk, from the first arrival to the last verdict, a "herding" trace.

    A and B arrive and keep m = floor(K/2) rows each; then C arrives, both lists are cut to m = floor(K/3), and C is
    herded. Each stage begins with the loss of one training row and ends with test points. The toy's features are its
    coordinates and no network moves them: the outputs in the loss are made-up numbers.
    capacity: K >= 3; ties: "first" or "last" row among equally near ones.
    """
    return herding_trace(
        TOY.x, TOY.y, capacity=capacity, stages=STAGES, classes=CLASSES, names=[point(row) for row in TOY.x], ties=ties,
        training=TRAINING, tests=TESTS, title=f"Classes A and B, then C: a memory of K = {capacity}",
        alt=f"Fifteen points of three classes in the plane; herding fills a memory of {capacity} rows one by one.",
    )  # fmt: skip


def choices(trace: dict) -> list[int]:
    """The steps of a trace in which a point is chosen: each answers the question "which point comes next?"."""
    return [i for i, step in enumerate(trace["steps"]) if step["phase"] == "herd"]


def last_steps(trace: dict) -> list[int]:
    """The steps that end a stage, where the memory is complete and a query point can be classified."""
    return [i for i, step in enumerate(trace["steps"]) if step["phase"] == "ncm"]


def entry(trace: dict, name: str) -> int:
    """The step of the toy's trace at which one enters the story: the first that `ENTRIES[name]` describes."""
    stage, phase, query = ENTRIES[name]
    first = [i for i, step in enumerate(trace["steps"]) if step["phase"] == "arrive"][stage]
    after = enumerate(trace["steps"][first:], first)
    query = None if query is None else list(query)
    return next(i for i, step in after if step["phase"] == phase and query in (None, step.get("query")))


def asked(trace: dict, question: int) -> dict:
    """The trace up to question number `question` (from 0): its last step shows the target, but neither distances nor
    the choice. The whole trace when every question is answered."""
    answers = choices(trace)
    if question >= len(answers):
        return trace
    answer = trace["steps"][answers[question]]
    before = trace["steps"][: answers[question]]
    if before[-1]["phase"] == "tie":  # it would name the candidates
        before = before[:-1]
    c, known = str(answer["class"]), before[-1]
    ask = {
        **answer, "distances": None, "tied": [], "chosen": None, "mean": None, "error": None, "means": known["means"],
        "memory": {**known["memory"], c: known["memory"].get(c, [])},
        "text": f"Class {trace['classes'][answer['class']]}, choice {answer['k']}: "
        f"which point is nearest to the target {point(answer['target'])}?",
    }  # fmt: skip
    return {**trace, "steps": [*before, ask]}


def judge(trace: dict, question: int, guess: str) -> tuple[bool, str]:
    """Whether `guess` (a point's name) is what herding takes at this question, and a sentence with both distances.

    Every point of a tie counts as right.
    """
    step = trace["steps"][choices(trace)[question]]
    own = [i for i, c in enumerate(trace["owner"]) if c == step["class"]]
    d2 = dict(zip(own, step["distances"], strict=True))
    guessed = next(i for i in step["candidates"] if trace["names"][i] == guess)
    taken = trace["names"][step["chosen"]]
    right = guessed == step["chosen"] or guessed in step["tied"]
    if guessed == step["chosen"]:
        text = f"{taken}, at d² = {d2[guessed]:g} from the target {point(step['target'])}."
    elif right:
        text = f"{guess} and {taken} are both at d² = {d2[guessed]:g}: a tie. The rule takes {taken}."
    else:
        text = f"Herding takes {taken} at d² = {d2[step['chosen']]:g}; {guess} is at d² = {d2[guessed]:g}."
    return right, text


def exemplar_means(trace: dict, step: int) -> dict[int, list[float]]:
    """Means of what the toy's memory holds at a step, {class: [x, y]}, with all their digits."""
    memory = trace["steps"][step]["memory"]
    return {int(c): TOY.x[rows].mean(dim=0).tolist() for c, rows in memory.items() if rows}


class Verdict(NamedTuple):
    """Nearest class mean for one point: what `nearest_class_mean` answers, and how one gets there by hand.

    tied lists the classes at the smallest distance, equal to 1e-9 (means such as 2/3 have no exact binary form).
    """

    answer: int
    distances: dict[int, float]
    formulas: dict[int, str]
    tied: list[int]


def verdict(means: dict[int, list[float]], query: tuple[float, float]) -> Verdict:
    """The class of the point `query`, given {class: mean [2]}."""
    x = checks.floats("query", torch.tensor([list(query)], dtype=torch.float64))
    mu = {c: torch.tensor(mean, dtype=torch.float64) for c, mean in means.items()}
    distances = {c: float((x[0] - row).norm()) for c, row in mu.items()}
    formulas = {
        c: f"√(({number(query[0])} − {bracket(row[0])})² + ({number(query[1])} − {bracket(row[1])})²)"
        for c, row in mu.items()
    }
    smallest = min(distances.values())
    tied = [c for c, d in distances.items() if d - smallest < 1e-9]
    return Verdict(int(nearest_class_mean(x, mu)), distances, formulas, tied)


def load_digits(features: str = "network", unit: bool = False, epochs: int = 6) -> Digits:
    """The digits with the features that herding compares, [N, 32] of a small network trained here, or the 64 pixels.

    unit: scale every feature vector to length 1, as iCaRL does.
    """
    checks.choice("features", features, FEATURES)
    data = digits()
    phi, phi_test = data.x, data.x_test
    if features == "network":
        model = MLP(data.x.shape[1], [32], data.n_classes, seed=0)
        run(model, split(data, data.n_classes), epochs=epochs, batch_size=64, lr=5e-3, seed=0)
        with torch.no_grad():
            phi, phi_test = model.features(data.x), model.features(data.x_test)
    if unit:
        phi, phi_test = unit_rows(phi), unit_rows(phi_test)
    return Digits(phi, data.y, phi_test, data.y_test, (data.x * 16).round())


def digits_trace(data: Digits, trio: tuple[int, int, int], capacity: int) -> dict:
    """The toy's story on real images: the first two digits arrive, then the third; K = `capacity` images are kept.

    Distances and errors are those of all features, the picture shows their first two principal directions.
    """
    rows = torch.cat([(data.y == digit).nonzero()[:PER_DIGIT, 0] for digit in trio])
    labels = torch.arange(3).repeat_interleave(PER_DIGIT)
    a, b, c = trio
    trace = herding_trace(
        data.features[rows], labels, capacity=capacity, stages=STAGES, classes=[f"“{digit}”" for digit in trio],
        names=[f"{digit}·{i}" for digit in trio for i in range(1, PER_DIGIT + 1)], images=data.pixels[rows].int(),
        title=f"Digits {a} and {b}, then {c}: a memory of K = {capacity} images",
        alt=f"{3 * PER_DIGIT} images of three digits in a plane; herding fills a memory of {capacity} images.",
    )  # fmt: skip
    return {**trace, "ask": False}  # a point of the plane says too little about all features


def digits_accuracy(data: Digits, trio: tuple[int, int, int], capacity: int, draws: int = 50) -> dict[str, float]:
    """Accuracy of the nearest exemplar mean on the test images of three digits, for m = floor(K/3) images per digit.

    {"herding", "random" (mean over `draws` random choices), "all" (the means of all training images)}
    """
    m = quota(capacity, 3)
    of = {digit: data.features[data.y == digit][:PER_DIGIT] for digit in trio}
    test = torch.isin(data.y_test, torch.tensor(trio))
    x, y = data.features_test[test], data.y_test[test]

    def accuracy(pick) -> float:
        means = {digit: phi[pick(phi)].mean(dim=0) for digit, phi in of.items()}
        return float((nearest_class_mean(x, means) == y).double().mean())

    m = min(m, PER_DIGIT)
    source = generator(0, "random exemplars")
    random = [accuracy(lambda phi: torch.randperm(len(phi), generator=source)[:m]) for _ in range(draws)]
    return {
        "herding": accuracy(lambda phi: herding(phi, m)),
        "random": sum(random) / draws,
        "all": accuracy(lambda phi: slice(None)),
    }


def error_curves(features: Tensor, m: int, draws: int = 200) -> dict[str, np.ndarray]:
    """||mean of the first rows - class mean|| for 1 to m rows of one class, features [N, D]: every value an array [m].

    "herding" against `draws` random orders: their "median", and "low" and "high", between which 80% of them lie.
    """
    checks.integer("m", m, 1, len(features))
    rows = features.double().numpy()
    mu, counts = rows.mean(axis=0), np.arange(1, m + 1)[:, None]
    source = np.random.default_rng(0)
    random = [
        np.linalg.norm(source.permutation(rows)[:m].cumsum(axis=0) / counts - mu, axis=1) for _ in range(draws)
    ]  # fmt: skip
    low, median, high = np.quantile(random, (0.1, 0.5, 0.9), axis=0)
    errors = np.array([step.error for step in herding_steps(features, m)])
    return {"herding": errors, "median": median, "low": low, "high": high}


def rises(errors: np.ndarray) -> list[int]:
    """The m at which the error is larger than at m - 1: herding is not monotone."""
    return [m for m in range(2, len(errors) + 1) if errors[m - 1] > errors[m - 2] + 1e-12]


def number(value: float) -> str:
    """At most three digits behind the point, no trailing zeros, a true minus sign: 0.5, −1, 0.667."""
    text = f"{float(value):.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")


def bracket(value: float) -> str:
    """`number`, in brackets if it is negative, as it stands after a minus sign."""
    return f"({number(value)})" if float(value) < -5e-4 else number(value)


def point(xy) -> str:
    """(0.5, −1)"""
    return f"({number(xy[0])}, {number(xy[1])})"
