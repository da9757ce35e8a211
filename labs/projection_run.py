"""What the projection page measures: three methods learn one stream, and every step's angle to the past is noted.

No Streamlit in here. `Watch` measures and changes nothing: one stands before the method that projects and sees g, one
behind it and sees u. Fine-tuning has no method between, so its u is g.
"""

import contextlib
import math
from collections.abc import Generator
from dataclasses import dataclass, field

import torch

from cllab import checks
from cllab.models import MLP
from cllab.regularization import AGEM, GEM
from cllab.regularization.gem import flat_gradient
from cllab.streams import Stream, digits, permuted, split
from cllab.training import Context, History, Method, Step, fit

NAMES = ("fine-tuning", "A-GEM", "GEM")
STREAMS = ("permuted digits", "split digits")
DEFAULTS = {"stream": "permuted digits", "lr": 0.1, "gamma": 0.5, "per_task": 64, "seed": 0}
TASKS, BATCH, HIDDEN, EVALUATIONS = 4, 20, 64, 48


class Watch(GEM):
    """Notes the cosine of the gradient, as it stands, with the gradient of every past task's memory.

    It keeps the memory that GEM keeps. first: a watch of the same step whose memory gradients are good here too,
    since the weights have not moved. cosines: of the latest step, [] in the first task.
    """

    def __init__(self, per_task: int, first: "Watch | None" = None):
        super().__init__(per_task, margin=0.0)
        self.first = first
        self.cosines: list[float] = []

    def gradients(self, ctx: Context) -> None:
        self.cosines = []
        if ctx.task_index == 0:
            return
        g = flat_gradient(ctx)
        self.G = G = self.constraints(ctx) if self.first is None else self.first.G
        lengths = (G.norm(dim=1) * g.norm()).clamp(min=torch.finfo(g.dtype).tiny)
        # cos(g, g_k) = g . g_k / (|g| |g_k|)
        self.cosines = ((G @ g) / lengths).tolist()


@dataclass(frozen=True)
class Angle:
    """One step: the smallest cosine with a past task's gradient, and with how many it is negative, of g and of u."""

    step: int
    before: float
    violated: int
    after: float
    still: int


@dataclass
class Lane:
    """One method's run, which grows."""

    history: History
    watches: list[Watch]
    angles: list[Angle] = field(default_factory=list)

    def note(self, event) -> None:
        self.history.record(event)
        if isinstance(event, Step) and self.watches[0].cosines:
            g, u = (watch.cosines for watch in (self.watches[0], self.watches[-1]))
            self.angles.append(Angle(event.step, min(g), _negative(g), min(u), _negative(u)))


class Run:
    """The three runs that settings (see DEFAULTS) describe; `events` is what a job pulls.

    lanes: {method: Lane}. step of total: how far all are. boundaries: the last step of each task.
    """

    def __init__(self, stream: str, lr: float, gamma: float, per_task: int, seed: int):
        checks.choice("stream", stream, STREAMS)
        self.settings = {"stream": stream, "lr": checks.number("lr", lr, 0.0), "gamma": gamma, "per_task": per_task,
                         "seed": seed}  # fmt: skip
        self.lanes: dict[str, Lane] = {}
        self.stream: Stream | None = None
        self.step = self.total = 0
        self.boundaries: list[int] = []
        self.finished = False

    def events(self) -> Generator[int, None, None]:
        """Yields the number of steps that every method has taken."""
        self.stream = stream = build_stream(self.settings["stream"], self.settings["seed"])
        steps = [math.ceil(len(task.y) / BATCH) for task in stream]
        self.boundaries = [sum(steps[: i + 1]) for i in range(len(steps))]
        self.total = self.boundaries[-1]
        lanes = {name: self._lane(name) for name in NAMES}
        with contextlib.ExitStack() as stack:
            runs = {name: stack.enter_context(contextlib.closing(self._fit(*lanes[name]))) for name in NAMES}
            self.lanes = {name: lane for name, (lane, _) in lanes.items()}
            while self.step < self.total:
                for name, run in runs.items():
                    _advance(self.lanes[name], run)
                self.step += 1
                yield self.step
            for name, run in runs.items():
                for event in run:  # the evaluation after the last step
                    self.lanes[name].note(event)
        self.finished = True

    def _lane(self, name: str) -> tuple[Lane, list[Method]]:
        per_task = self.settings["per_task"]
        before = Watch(per_task)
        after = Watch(per_task, before)
        if name == "fine-tuning":
            methods, watches = [before], [before]
        else:
            method = GEM(per_task, self.settings["gamma"]) if name == "GEM" else AGEM(per_task)
            methods, watches = [before, method, after], [before, after]
        return Lane(History(self.stream.task_names), watches), methods

    def _fit(self, lane: Lane, methods: list[Method]) -> Generator:
        stream, settings = self.stream, self.settings
        model = MLP(stream.in_features, [HIDDEN], stream.n_classes, seed=settings["seed"])
        # plain SGD: momentum or Adam would turn the step away from u
        return fit(
            model, stream, methods, epochs=1, batch_size=BATCH, lr=settings["lr"], optimizer="sgd",
            seed=settings["seed"], eval_every=max(1, self.total // EVALUATIONS),
        )  # fmt: skip


def build_stream(name: str, seed: int) -> Stream:
    """Four tasks of all digits with permuted pixels (domain-incremental), or five of two digits (task-incremental)."""
    if name == "permuted digits":
        return permuted(digits(), TASKS, seed=seed)
    return split(digits(), 2, scenario="task")


def _advance(lane: Lane, run: Generator) -> None:
    """Up to and with the next optimiser step."""
    for event in run:
        lane.note(event)
        if isinstance(event, Step):
            return


def _negative(cosines: list[float]) -> int:
    return sum(c < -1e-6 for c in cosines)  # what a projection leaves of 0 is rounding
