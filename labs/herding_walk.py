"""A real iCaRL run on digits, small enough to see: the last hidden layer has two units, so features are points.

No Streamlit in here, so that tests call these functions directly. `walk` pulls `cllab.training.fit` and writes down
where the features lie while the network learns 0 and 1, then 2, then 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator
from cllab.models import Classifier, linear
from cllab.player.from_features import Moment, features_trace
from cllab.replay import ICaRL, nearest_class_mean, unit_rows
from cllab.streams import Stream, digits, split
from cllab.training import Phase, Step, TaskEnded, TaskStarted, fit, frozen_copy, predict

GROUPS = ((0, 1), (2,), (3,))
CLASSES = [c for group in GROUPS for c in group]
PER_DIGIT = 20
"""Test images of each digit in the picture; accuracies are over all of them."""
EPOCHS, BATCH, LR = 20, 32, 5e-3
SEED = 4
SNAPSHOTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""At which shares of a stage's training the features are drawn, besides its beginning and end."""


class Plane(Classifier):
    """64 pixels -> 64 ReLU units -> features [N, 2], linear -> logits."""

    def __init__(self, n_classes: int, seed: int):
        super().__init__()
        source = generator(seed, "weights")
        self.trunk = nn.Sequential(linear(64, 64, source), nn.ReLU(), linear(64, 2, source))
        self.stages = (2, 3)
        self.head = linear(2, n_classes, source)


class Walk(NamedTuple):
    """A run as a "features" trace, with accuracies on the test images of the digits seen so far.

    means, head   after each stage, by the nearest mean of exemplars and by the head
    stale, anew   before the choice of each later stage, on the older digits: with means of the features of before,
                  and with the same exemplars' means computed anew
    """

    trace: dict
    means: list[float]
    head: list[float]
    stale: list[float]
    anew: list[float]


class Stop(NamedTuple):
    """Where the run stood at one moment: a copy of the network, and what each class keeps, in herding order."""

    phase: str
    stage: int
    share: float
    model: Classifier
    kept: dict[int, Tensor]


def walk(capacity: int = 16, unit: bool = False, seed: int = SEED) -> Walk:
    """Train and write down. capacity: K images, 4 to 40. unit: scale features to length 1, as iCaRL does."""
    checks.integer("capacity", capacity, len(CLASSES), 40)
    stream = split(digits().only(CLASSES), GROUPS)
    stops = _run(stream, ICaRL(capacity, normalise=unit, union=True), seed)
    return _Story(stream, stops, capacity, unit).tell()


def _run(stream: Stream, icarl: ICaRL, seed: int) -> list[Stop]:
    """Stops at the start of each stage, while it trains, at its end before and after the choice of exemplars."""
    model = Plane(len(GROUPS[0]), seed).double()
    stops: list[Stop] = []

    def stop(phase: str, stage: int, share: float) -> None:
        stops.append(Stop(phase, stage, share, frozen_copy(model), icarl.exemplars))

    for event in fit(model, stream, [icarl], epochs=EPOCHS, batch_size=BATCH, lr=LR, seed=seed):
        if isinstance(event, TaskStarted):
            total, done = EPOCHS * -(-event.info["samples"] // BATCH), 0
            stop("arrive", event.task, 0.0)
        elif isinstance(event, Step):
            done += 1
            if done in [max(1, round(share * total)) for share in SNAPSHOTS]:
                stop("train", event.task, done / total)
        elif isinstance(event, Phase) and stops[-1].phase == "train":
            stop("moved", stops[-1].stage, 1.0)  # trained, nothing chosen yet
        elif isinstance(event, TaskEnded):
            stop("herd", event.task, 1.0)
    return stops


class _Story:
    """Turns stops into moments. Rows: the shown test images first, then every image that is ever kept."""

    def __init__(self, stream: Stream, stops: list[Stop], capacity: int, unit: bool):
        self.stream, self.stops, self.capacity, self.unit = stream, stops, capacity, unit
        x, self.y_test = (torch.cat([getattr(task, name) for task in stream]) for name in ("x_test", "y_test"))
        self.x_test = x.double()
        shown = torch.cat([(self.y_test == c).nonzero()[:PER_DIGIT, 0] for c in CLASSES])
        self.shown = shown.tolist()
        chosen = {c: stop.kept[c] for stop in reversed(stops) for c in stop.kept}  # each list as it was first
        self.first, rows, owner = {}, [self.x_test[shown]], self.y_test[shown].tolist()
        for c in CLASSES:
            self.first[c] = len(owner)
            rows.append(chosen[c])
            owner += [c] * len(chosen[c])
        self.rows, self.owner = torch.cat(rows), owner
        self.moments: list[Moment] = []
        self.right: dict[str, list[float]] = {"means": [], "head": [], "stale": [], "anew": []}
        self.before: dict[int, Tensor] = {}  # means with the features that the last choice saw

    def tell(self) -> Walk:
        for i, stop in enumerate(self.stops):
            after = self.stops[i + 1] if i + 1 < len(self.stops) else None
            {"arrive": self.arrive, "train": self.train, "moved": self.moved, "herd": self.herd}[stop.phase](stop)
            if after is None or after.stage > stop.stage:
                self.before = self.means(stop)
        n_test = len(self.shown)
        counts = [self.owner[: i + 1].count(c) for i, c in enumerate(self.owner)]
        names = [
            f"test {c}" if i < n_test else f"{c}·{n - PER_DIGIT}" for i, (c, n) in enumerate(zip(self.owner, counts))
        ]
        trace = features_trace(
            self.moments, self.owner, ["test"] * n_test + ["train"] * (len(self.owner) - n_test),
            capacity=self.capacity, classes=[f"“{c}”" for c in range(max(CLASSES) + 1)], names=names,
            images=(self.rows * 16).round().int(), unit=self.unit,
            title=f"Digits 0 and 1, then 2, then 3: two features of a network, K = {self.capacity} images",
            alt="Images of four digits as points in the plane of a network's two features, while it is trained.",
        )  # fmt: skip
        return Walk(trace, **self.right)

    # --- one kind of moment each -------------------------------------------------------------------------------

    def arrive(self, stop: Stop) -> None:
        new = " and ".join(map(str, GROUPS[stop.stage]))
        text = f"Stage {stop.stage + 1}: images of {new} arrive. "
        text += "The network has not seen them." if stop.stage else "The network is untrained."
        self.add(stop, "arrive", text)

    def train(self, stop: Stop) -> None:
        kept = sum(len(rows) for rows in stop.kept.values())
        beside = f" together with the {kept} images kept" if kept else ""
        self.add(stop, "train", f"Training{beside}, {stop.share:.0%} of the stage's steps are done: the features move.")

    def moved(self, stop: Stop) -> None:
        if not stop.kept:
            self.add(stop, "train", "Training has ended. Now exemplars are chosen.")
            return
        now, old = self.means(stop), torch.isin(self.y_test, torch.tensor(list(stop.kept)))
        phi, y = self.phi(stop, self.x_test[old]), self.y_test[old]
        stale, anew = (float((nearest_class_mean(phi, mu) == y).double().mean()) for mu in (self.before, now))
        self.right["stale"].append(stale)
        self.right["anew"].append(anew)
        farthest = max(now, key=lambda c: float((now[c] - self.before[c]).norm()))
        way = float((now[farthest] - self.before[farthest]).norm())
        text = (
            f"Training has ended. The same images of {farthest} now have their mean {way:.2f} away (arrow). With the "
            f"means of before {stale:.0%} of the old digits' test images would be right, computed anew "
            f"{anew:.0%}."
        )
        facts = [("means of before", f"{stale:.1%} right"), ("computed anew", f"{anew:.1%} right")]
        self.add(stop, "moved", text, before=self.before, facts=facts)

    def herd(self, stop: Stop) -> None:
        new, m = GROUPS[stop.stage], len(next(iter(stop.kept.values())))
        t = len(stop.kept)
        share = f"m = ⌊{self.capacity} / {t}⌋ = {m}"
        if stop.stage:
            cut = {c: rows for c, rows in stop.kept.items() if c not in new}
            text = f"{t} digits share the memory now, {share}: the older lists keep their first {m}."
            self.add(stop, "truncate", text, kept=cut)
        whom = " and ".join(map(str, new))
        self.add(stop, "herd", f"Herding chooses {m} images of {whom} with the features of now ({share}).")
        self.answer(stop, "means")
        self.answer(stop, "head")

    def answer(self, stop: Stop, rule: str) -> None:
        """What the nearest mean, or the head, says to all test images of the digits seen so far."""
        methods = []
        if rule == "means":
            methods = [ICaRL(self.capacity, normalise=self.unit)]
            methods[0].x = torch.cat(list(stop.kept.values()))
            methods[0].y = torch.tensor([c for c, rows in stop.kept.items() for _ in rows])
        said = predict(stop.model, self.x_test, self.stream, seen=stop.stage, methods=methods)
        known = torch.isin(self.y_test, torch.tensor(list(stop.kept)))
        right = (said == self.y_test).double()
        self.right[rule].append(float(right[known].mean()))
        who = "The nearest mean of exemplars" if rule == "means" else "The network's own head"
        text = f"{who} is right on {self.right[rule][-1]:.0%} of all test images so far"
        facts = [("right", f"{self.right[rule][-1]:.1%}")]
        if stop.stage:
            new = torch.isin(self.y_test, torch.tensor(GROUPS[stop.stage]))
            older, digit = known & ~new, GROUPS[stop.stage][0]
            on_older, on_new = float(right[older].mean()), float(right[new].mean())
            newest = float((said == digit)[older].double().mean())
            text += f": {on_older:.0%} of the older digits and {on_new:.0%} of the {digit}s"
            facts += [("right on older", f"{on_older:.1%}"), (f"right on {digit}", f"{on_new:.1%}")]
            facts += [(f"older called {digit}", f"{newest:.1%}")]
        if rule == "head" and stop.stage:
            text += ". Each output learned its own yes or no, the old ones what the old network said of every image"
        answers = {i: int(said[row]) for i, row in enumerate(self.shown) if self.owner[i] in stop.kept}
        self.add(stop, "answer", f"{text}. Wrong answers have a ring.", answers=answers, facts=facts)

    # --- helpers -----------------------------------------------------------------------------------------------

    def phi(self, stop: Stop, x: Tensor) -> Tensor:
        features = stop.model.features(x)
        return unit_rows(features) if self.unit else features

    def means(self, stop: Stop) -> dict[int, Tensor]:
        """The exemplars' means as they are compared: of unit length again where features are."""
        means = {c: self.phi(stop, rows).mean(dim=0) for c, rows in stop.kept.items()}
        return {c: mean / mean.norm() for c, mean in means.items()} if self.unit else means

    def add(self, stop: Stop, phase: str, text: str, kept: dict[int, Tensor] | None = None, **known) -> None:
        kept = stop.kept if kept is None else kept
        memory = {c: range(self.first[c], self.first[c] + len(rows)) for c, rows in kept.items()}
        arrived = [c for group in GROUPS[: stop.stage + 1] for c in group]
        m = (
            self.capacity // len(arrived)
            if phase in ("truncate", "herd", "answer")
            else max(map(len, kept.values()), default=0)
        )
        means = self.means(stop._replace(kept=kept))
        points = self.phi(stop, self.rows)
        self.moments.append(
            Moment(phase, text, points, arrived, {c: list(rows) for c, rows in memory.items()}, m, means, **known)
        )
