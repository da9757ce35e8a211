"""A race: one to four methods learn the same stream side by side, one step each at a time. No Streamlit here.

    race = Race(settings)
    for step in race.events(): ...          # pulled by a job; race.lanes fill while it runs

A lane is one method's run, a `History` that grows and, for streams in the plane, the predicted class of every cell of
a grid at each evaluation.
"""

import contextlib
import itertools
import math
from collections.abc import Generator
from dataclasses import dataclass, field

import torch

from cllab.models import MLP
from cllab.player.traces import cell_string, grid_points, run_trace
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay
from cllab.streams import Stream
from cllab.training import Evaluated, Event, History, Joint, Method, Step, TaskEnded, fit, predict
from labs.forgetting_streams import build_stream
from labs.job import Hold

METHODS = ("fine-tuning", "experience replay", "EWC", "joint")
MOST_STEPS = 20_000  # per method; more would keep a page busy for minutes
GRID = 36  # cells along one side of the plane
BINS = 120  # of the loss curve
_numbers = itertools.count()


def build_methods(name: str, settings: dict) -> list[Method]:
    """What `fit` gets for the method called `name`: nothing for fine-tuning."""
    if name == "experience replay":
        return [ExperienceReplay(settings["capacity"], rho=settings["rho"])]
    if name == "EWC":
        how = {"anchors": settings["anchors"], "step": settings["ewc_step"], "labels": settings["fisher"]}
        return [EWC(settings["lam"], **how, n_samples=settings["fisher_rows"], batch_size=64)]
    return [Joint()] if name == "joint" else []


@dataclass
class Lane:
    """One method's run. accuracy on each task and loss terms are read from it while it grows.

    losses: per bin of `width` steps, the sums of the named terms and how many steps they are of.
    """

    name: str
    model: torch.nn.Module
    methods: list[Method]
    history: History
    width: int
    cells: list[str] = field(default_factory=list)
    losses: list[tuple[dict[str, float], int]] = field(default_factory=list)
    latest: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    def note(self, event: Event) -> None:
        """Take note of one event of the run."""
        self.history.record(event)
        if isinstance(event, Step):
            self.latest = event.losses
            if (event.step - 1) % self.width == 0:
                self.losses.append(({}, 0))
            sums, count = self.losses[-1]
            self.losses[-1] = ({k: sums.get(k, 0.0) + v for k, v in event.losses.items()}, count + 1)

    def loss_curve(self) -> list[tuple[int, str, float]]:
        """(step, term, mean over the bin), for terms that are above 0."""
        bins = list(self.losses)
        middle = (self.width + 1) / 2
        points = [(b * self.width + middle, k, v / n) for b, (sums, n) in enumerate(bins) for k, v in sums.items()]
        return [point for point in points if point[2] > 0]


class Race:
    """The runs that `settings` (the values of the page's controls) describe.

    number: how many races this server saw before. lanes: {method name: Lane}, filled once the stream is built.
    step: steps that every lane has taken. total: steps that each will take. boundaries: the step after which each
    task ends. extent: the part of the plane that is drawn, None for images. asking: the race waits for a guess;
    guess: (method, accuracy) once it was made. trace: for the player, when it is over.
    """

    def __init__(self, settings: dict, ask_for: float = 0.0):
        self.number = next(_numbers)
        self.settings = dict(settings)
        self.ask_for = ask_for
        self.lanes: dict[str, Lane] = {}
        self.stream: Stream | None = None
        self.step = self.total = 0
        self.boundaries: list[int] = []
        self.extent: list[float] | None = None
        self.asking = False
        self.guess: tuple[str, float] | None = None
        self.trace: dict | None = None

    @property
    def finished(self) -> bool:
        """Whether every lane has reached the end."""
        return bool(self.lanes) and all(lane.finished for lane in self.lanes.values())

    @property
    def learning(self) -> str:
        """The name of the task that the next step trains on, or the last one's."""
        task = sum(self.step >= end for end in self.boundaries[:-1])
        return self.stream[task].name

    def events(self) -> Generator[int | Hold, None, None]:
        """Build everything, then yield after each step of all lanes; holds once, after the first task."""
        self.stream = stream = build_stream(self.settings)
        self.boundaries, every = self._plan(stream)
        self.total = self.boundaries[-1]
        self._look_at_plane(stream)
        lanes = {name: self._lane(name, stream) for name in self.settings["methods"]}
        runs = {name: self._fit(lane, stream, every) for name, lane in lanes.items()}
        with contextlib.ExitStack() as stack:
            for run in runs.values():
                stack.enter_context(contextlib.closing(run))
            for name, run in runs.items():
                lanes[name].note(next(run))  # the untrained model
                self._see(lanes[name])
            self.lanes = lanes
            while self.step < self.total:
                for name, run in runs.items():
                    self._advance(lanes[name], run, every)
                self.step += 1
                yield self.step
                if self.ask_for and self.step == self.boundaries[0]:
                    self.asking = True
                    yield Hold(self.ask_for)
                    self.asking = False
        self.make_trace()

    def make_trace(self) -> None:
        """Turn what the lanes hold into a trace for the player; also for a run that was stopped."""
        samples = None if self.extent is None else _some_points(self.stream)
        self.trace = run_trace(
            {name: lane.history for name, lane in self.lanes.items()},
            cells=None if self.extent is None else {name: lane.cells for name, lane in self.lanes.items()},
            extent=self.extent, grid=0 if self.extent is None else GRID, samples=samples, max_frames=60,
            title=f"{self.stream.name}, {self.stream.scenario}-incremental",
        )  # fmt: skip

    def _plan(self, stream: Stream) -> tuple[list[int], int]:
        """The last step of each task, and after how many steps to evaluate."""
        epochs, batch = self.settings["epochs"], self.settings["batch"]
        boundaries, steps = [], 0
        for task in stream:
            steps += epochs * math.ceil(len(task.y) / batch)
            boundaries.append(steps)
        if steps > MOST_STEPS:
            raise ValueError(
                f"this would take {steps:,} steps per method, and the lab stops at {MOST_STEPS:,}: choose fewer "
                "epochs, larger batches or fewer training rows"
            )
        tested = sum(len(task.y_test) for task in stream)
        return boundaries, max(1, math.ceil(steps / (100 if tested < 10_000 else 30)))

    def _lane(self, name: str, stream: Stream) -> Lane:
        model = MLP(stream.in_features, [self.settings["hidden"]], stream.n_classes, seed=self.settings["seed"])
        history = History(stream.task_names, {"method": name, "lab": self.settings})
        return Lane(name, model, build_methods(name, self.settings), history, max(1, math.ceil(self.total / BINS)))

    def _fit(self, lane: Lane, stream: Stream, every: int) -> Generator[Event, None, History]:
        settings = self.settings
        return fit(
            lane.model, stream, lane.methods, epochs=settings["epochs"], batch_size=settings["batch"],
            lr=settings["lr"], seed=settings["seed"], device=settings["device"], eval_every=every,
        )  # fmt: skip

    def _advance(self, lane: Lane, run: Generator[Event, None, History], every: int) -> None:
        """One optimiser step of a lane, with the evaluations that belong to it and, after a task, its end."""
        closing = self.step + 1 in self.boundaries
        due = closing or (self.step + 1) % every == 0
        while True:
            event = next(run)
            lane.note(event)
            if isinstance(event, Evaluated):
                self._see(lane)
            last = TaskEnded if closing else Evaluated if due else Step
            if isinstance(event, last):
                break
        if self.step + 1 == self.total:
            try:
                next(run)
            except StopIteration as end:
                end.value.settings |= lane.history.settings  # the coefficients, beside what fit knows
                lane.history, lane.finished = end.value, True

    def _look_at_plane(self, stream: Stream) -> None:
        """For streams of points: the part of the plane that is drawn, and the centres of its cells."""
        if stream.in_features != 2:
            return
        x = torch.cat([task.x_test for task in stream])
        low, high = x.amin(0) - 0.3, x.amax(0) + 0.3
        self.extent = [round(v, 2) for v in (low[0].item(), high[0].item(), low[1].item(), high[1].item())]
        self._cells = grid_points(self.extent, GRID)

    def _see(self, lane: Lane) -> None:
        """Keep what the lane's model answers in every cell of the plane, as of its latest evaluation."""
        if self.extent is None:
            return
        seen = max(0, lane.history.curve[-1].task)
        device = next(lane.model.parameters()).device
        task_id = seen if self.stream.scenario == "task" else None
        answers = predict(lane.model, self._cells.to(device), self.stream, seen=seen, task_id=task_id)
        lane.cells.append(cell_string(answers.cpu()))


def _some_points(stream: Stream, most: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    """Test points to draw: at most `most`, evenly from all tasks."""
    x, y = torch.cat([t.x_test for t in stream]), torch.cat([t.y_test for t in stream])
    keep = torch.linspace(0, len(y) - 1, min(most, len(y))).long()
    return x[keep], y[keep]
