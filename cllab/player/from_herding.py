"""The trace of herding over stages: new classes are herded, old ones cut to K/t, queries are classified.

With `training` and `tests` it is a whole iCaRL walk, with features that stay where they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cllab import checks
from cllab.player.from_icarl import TrainingRow, loss_of_row, say_loss, say_targets, say_test
from cllab.player.schema import VERSION, round_trace
from cllab.replay.herding import HerdingStep, herding_steps, quota


def herding_trace(
    features: Tensor,
    labels: Tensor,
    *,
    capacity: int,
    stages: Sequence[Sequence[int]] | None = None,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    images: Tensor | None = None,
    query: Sequence[float] | None = None,
    ties: str = "first",
    training: Sequence[TrainingRow] | None = None,
    tests: Sequence[Sequence[Sequence[float]]] | None = None,
    title: str = "Herding",
    alt: str = "",
) -> dict:
    """A trace of kind "herding".

    features  [N, D] floating point. Herding works on all D features; with D > 2 the picture shows their
              first two principal directions, and means and targets are projected with them
    labels    [N] int64 in 0..C-1
    capacity  K, rows of memory; class lists are cut to m = floor(K / t) when t classes have arrived
    stages    which classes arrive together, in order; all at once when None. Each class arrives once
    classes   C names (A, B, C, ... when None); names: N point names; images: [N, 64] pixels from 0 to 16
    query     [2] where the query point starts in the picture
    ties      "first" or "last", as in `herding_steps`
    training  for an iCaRL walk: one row per stage whose loss is worked out before anything is chosen
    tests     for an iCaRL walk: the points [2] to classify after each stage; only where D = 2

    Raises ValueError or TypeError naming the argument, as `herding_steps` and `quota` do.
    """
    checks.floats("features", features, ndim=2)
    checks.labels("labels", labels, n=len(features))
    checks.choice("ties", ties, ("first", "last"))
    n_classes = int(labels.max()) + 1
    classes = _texts("classes", classes, [_letter(c) for c in range(n_classes)])
    names = _texts("names", names, _numbered(labels.tolist(), classes))
    stages = _stages(stages, labels, n_classes)
    quota(capacity, sum(len(stage) for stage in stages))  # raises where a class could keep nothing
    training = _per_stage("training", training, stages)
    tests = _per_stage("tests", tests, stages)
    if any(tests) and features.shape[1] != 2:
        raise ValueError(f"tests must be None unless features have 2 columns, got {features.shape[1]} columns")

    book = _Book(features.detach().double(), labels, capacity, classes, names, ties)
    for stage, row, points in zip(stages, training, tests, strict=True):
        book.arrive(stage)
        if row is not None:
            book.train(row)
        book.truncate()
        for c in stage:
            book.herd(c)
        book.classify(query)
        for point in points or ():
            book.test(point)

    axis = "feature {}" if book.flat else "principal direction {}"
    trace = {
        "v": VERSION, "kind": "herding", "title": title, "alt": alt or _alt(classes, stages, capacity),
        "points": book.project(book.phi), "owner": labels, "names": names, "classes": classes,
        "plane": book.flat, "x_label": axis.format(1), "y_label": axis.format(2), "steps": book.steps,
    }  # fmt: skip
    if images is not None:
        trace["images"] = images
    if query is not None:
        trace["query"] = list(query)
    return round_trace(trace)


class _Book:
    """Writes down the steps while the memory changes. phi [N, D] float64."""

    def __init__(self, phi: Tensor, labels: Tensor, capacity: int, classes: list, names: list, ties: str):
        self.phi, self.labels, self.capacity = phi, labels, capacity
        self.classes, self.names, self.ties = classes, names, ties
        self.flat = phi.shape[1] == 2
        self.project = _plane(phi)
        self.memory: dict[int, list[int]] = {}
        self.steps: list[dict] = []

    def arrive(self, stage: list[int]) -> None:
        self.available, t = stage, len(self.memory) + len(stage)
        self.m = quota(self.capacity, t)
        new = ", ".join(f"{self.classes[c]} with {int((self.labels == c).sum())} points" for c in stage)
        share = f"m = ⌊K / t⌋ = ⌊{self.capacity} / {t}⌋ = {self.m}"
        self._add("arrive", f"New: class {new}. Each class may keep {share}.")

    def train(self, row: TrainingRow) -> None:
        checks.integer("point in training", row.point, 0, len(self.phi) - 1)
        old, own = list(self.memory), int(self.labels[row.point])
        loss = loss_of_row(row, own, old, self.available)
        targets = say_targets(loss, self.classes, self.names[row.point], self.classes[own])
        hidden = [column | {"output": None, "loss": None, "gradient": None} for column in loss["columns"]]
        nothing = dict.fromkeys(("distillation", "floor", "new", "mean"))
        self._add("train", targets, loss={"row": row.point, "columns": hidden, **nothing})
        self._add("train", say_loss(loss), loss=loss)

    def truncate(self) -> None:
        long = {c: kept for c, kept in self.memory.items() if len(kept) > self.m}
        if not long:
            return
        cut = ", ".join(f"class {self.classes[c]} keeps {self.m} of {len(kept)}" for c, kept in long.items())
        self.memory = {c: kept[: self.m] for c, kept in self.memory.items()}
        self._add("truncate", f"The tail of each list is removed: {cut}. Nothing is chosen anew.")

    def herd(self, c: int) -> None:
        members = (self.labels == c).nonzero()[:, 0].tolist()
        phi = self.phi[members]
        self.memory[c] = []
        before = {}
        for step in herding_steps(phi, min(self.m, len(members)), self.ties):
            tied = (step.distances == step.distances.min()).nonzero()[:, 0].tolist()
            facts = {
                "class": c, "k": step.k, "target": self.project(step.target), "distances": step.distances,
                "class_mean": self.project(phi.mean(dim=0)),
                "candidates": [i for i, d in zip(members, step.distances.tolist()) if d != float("inf")],
                "tied": [members[row] for row in tied] if len(tied) > 1 else [],
            }  # fmt: skip
            if facts["tied"]:
                self._add("tie", self._say(c, step, facts["tied"], True), **facts, **before)
            chosen = members[step.chosen]
            self.memory[c] = [*self.memory[c], chosen]
            before = {"mean": self.project(step.mean), "error": step.error}
            text = self._say(c, step, facts["tied"], False, self.names[chosen])
            self._add("herd", text, **facts, **before, chosen=chosen)

    def classify(self, query: Sequence[float] | None) -> None:
        used = sum(len(kept) for kept in self.memory.values())
        text = f"{used} of {self.capacity} slots are used. The nearest memory mean names a query's class."
        self._add("ncm", text, query=None if query is None else list(query))

    def test(self, query: Sequence[float]) -> None:
        x = checks.floats("a point in tests", torch.tensor(list(query), dtype=torch.float64), 1)
        owners = [self.classes[c] for c in self.labels[(self.phi == x).all(dim=1)].unique().tolist()]
        means = {c: self.phi[kept].mean(dim=0) for c, kept in self.memory.items()}
        self._add("test", say_test(query, means, self.classes, owners), query=list(query))

    def _say(self, c: int, step: HerdingStep, tied: list[int], is_tie: bool, name: str = "") -> str:
        place = ", ".join(f"{v:.2f}" for v in self.project(step.target).tolist())
        where = f" at ({place})".replace("-", "−") if self.flat else ""
        near = f"d² = {float(step.distances.min()):.4g}"
        start = f"Class {self.classes[c]}, choice {step.k}:"
        if is_tie:
            *words, last = (self.names[i] for i in tied)
            return f"{start} {', '.join(words)} and {last} tie at {near} from the target{where}."
        how = f"the {self.ties} of the tied" if tied else "nearest to the target"
        mean = f"The mean of the chosen is now {step.error:.4g} from the class mean."
        return f"{start} {name} is {how}{where}, {near}. {mean}"

    def _add(self, phase: str, text: str, **known) -> None:
        blank = {
            "text": text, "phase": phase, "class": None, "k": 0, "target": None, "distances": None,
            "candidates": [], "tied": [], "chosen": None, "mean": None, "class_mean": None, "error": None,
            "capacity": self.capacity, "quota": self.m, "available": list(self.available),
            "memory": {c: list(kept) for c, kept in self.memory.items()},
            "means": {c: self.project(self.phi[kept].mean(dim=0)) for c, kept in self.memory.items() if kept},
        }  # fmt: skip
        self.steps.append(blank | known)


def _plane(phi: Tensor) -> Callable[[Tensor], Tensor]:
    """The map from features to drawn coordinates: nothing for D = 2, else the principal directions."""
    if phi.shape[1] == 2:
        return lambda rows: rows
    if phi.shape[1] == 1:
        return lambda rows: torch.cat([rows, torch.zeros_like(rows)], dim=-1)
    centre = phi.mean(dim=0)
    directions = torch.linalg.svd(phi - centre, full_matrices=False).Vh
    if len(directions) < 2:  # a single sample
        directions = torch.eye(2, phi.shape[1], dtype=phi.dtype)
    directions = directions[:2]
    # The sign of a principal direction is arbitrary: its largest entry is made positive.
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    directions = directions * largest.sign()
    return lambda rows: (rows - centre) @ directions.T


def _stages(stages, labels: Tensor, n_classes: int) -> list[list[int]]:
    present = sorted(set(labels.tolist()))
    stages = [present] if stages is None else [list(stage) for stage in stages]
    flat = [checks.integer("a class in stages", c, 0, n_classes - 1) for stage in stages for c in stage]
    if not all(stages) or not flat or len(set(flat)) < len(flat) or not set(flat) <= set(present):
        raise ValueError(f"stages must name each class of {present} at most once, got {stages}")
    return stages


def _per_stage(name: str, given: Sequence | None, stages: list) -> Sequence:
    if given is None:
        return [None] * len(stages)
    if len(given) != len(stages):
        raise ValueError(f"{name} must have one entry for each of the {len(stages)} stages, got {len(given)}")
    return given


def _texts(name: str, given: Sequence[str] | None, default: list[str]) -> list[str]:
    if given is None:
        return default
    if len(given) != len(default):
        raise ValueError(f"{name} must have {len(default)} entries, got {len(given)}")
    return [str(text) for text in given]


def _numbered(labels: list[int], classes: list[str]) -> list[str]:
    """A1, A2, ...; a class called 7 gives 7·1, 7·2, ..."""
    dot = {c: "·" if name[-1:].isdigit() else "" for c, name in enumerate(classes)}
    return [f"{classes[c]}{dot[c]}{labels[: i + 1].count(c)}" for i, c in enumerate(labels)]


def _letter(c: int) -> str:
    return chr(ord("A") + c) if c < 26 else str(c)


def _alt(classes: list[str], stages: list[list[int]], capacity: int) -> str:
    order = ", then ".join(" and ".join(classes[c] for c in stage) for stage in stages)
    return f"Herding chooses exemplars for a memory of {capacity}; classes arrive in the order {order}."
