"""A mixture of experts that grows stage by stage on the token task, looked at every few steps.

Every number comes from the library: `LifelongMoE` grows, freezes and distils, `fit` trains, `expert_usage`,
`routing_drift` and `kl_to_old` look. The frames are plain JSON, ready for `growing_trace`.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.isolation import (
    LifelongMoE,
    LoadBalance,
    MoEClassifier,
    TokenTask,
    expert_usage,
    kl_to_old,
    routing_drift,
    specialisation,
)  # fmt: skip
from cllab.isolation.growth import stages
from cllab.isolation.tokens import KINDS
from cllab.player.schema import round_trace
from cllab.streams import Stream, Task
from cllab.training import Context, Step, TaskEnded, TaskStarted, evaluating, fit

BATCH = 64
BALANCE = 0.1


class BalanceFirstStage(LoadBalance):
    """A balance loss in the first stage only: it spreads the tokens, so that there is something to drift from."""

    def losses(self, ctx: Context, batch, outputs: Tensor) -> dict[str, Tensor]:
        return super().losses(ctx, batch, outputs) if ctx.task_index == 0 else {}


def grown_run(
    task: TokenTask,
    groups: Sequence[Sequence[str]],
    *,
    n_new: int = 1,
    lam: float = 3.0,
    init: str = "split",
    freeze: bool = True,
    noise: float = 0.0,
    quiet: int = 0,
    experts: int = 4,
    k: int = 1,
    steps: int = 128,
    seed: int = 0,
    dim: int = 16,
    hidden: int = 16,
    lr: float = 5e-3,
    every: int = 16,
    on_frame: Callable[[float], None] | None = None,
) -> list[dict]:
    """The frames of one run: before each stage's first step (it has grown by then), every so many steps, at its end.

    groups: kinds of token per stage, see `TokenTask.stages`. n_new: experts per later stage, 0 for plain fine-tuning
    without growth and without KL. lam, init, freeze, noise, quiet: of `LifelongMoE`. experts, k, dim, hidden: of the
    first model; with k = 1 a token's weight is its probability, else the k weights sum to 1. steps: of BATCH rows in
    each stage, which repeats its rows. In float64, so that two machines agree. on_frame hears the share that is done.

    A frame holds: "step", "stage" (from 0), "born" [E] (the stage in which an expert came), "frozen" [E], "usage"
    [K, E] (test tokens of each kind by expert), "accuracy" [T]; for each earlier stage its "drift", the share "newer"
    (assignments that are now with experts that came later) and "mass" (mean router probability of those); "kl" on this
    stage's test rows against the model before it (None in the first stage), "moved" {"old", "shared"} (largest change
    of a weight since the stage began), "specialisation" of the kinds so far and "losses" (means since the last frame).
    Raises ValueError or TypeError naming the argument.
    """
    checks.integer("n_new", n_new, 0)
    checks.integer("steps", steps, 1)
    checks.integer("every", every, 1)
    stream = _equal_stages(task.stages(groups), steps, seed)
    model = MoEClassifier(
        stream.in_features, dim, experts, k, stream.n_classes, seed=seed, hidden=hidden, renormalise=k > 1
    ).double()
    growth = [LifelongMoE(n_new, lam, init, noise=noise, quiet=quiet, freeze=freeze)] if n_new else []
    events = fit(model, stream, [*growth, BalanceFirstStage(BALANCE)], batch_size=BATCH, lr=lr, seed=seed)
    look = _Look(model, stream, task, groups)
    frames, losses = [], []
    for event, step in _numbered(events):
        if isinstance(event, TaskStarted):
            look.begin(event.task)
        if isinstance(event, Step):
            losses.append(event.losses)
        regular = isinstance(event, Step) and (step - event.task * steps) % every == 0
        if isinstance(event, TaskStarted) or regular or (isinstance(event, TaskEnded) and frames[-1]["step"] < step):
            frames.append({"step": step, "stage": event.task, **look.frame(), "losses": _means(losses)})
            losses = []
            if on_frame is not None:
                on_frame(step / (steps * len(stream)))
        if isinstance(event, TaskEnded):
            look.end()
    return round_trace(frames)


class _Look:
    """What the frames say of the model, compared with what it was when each stage ended."""

    def __init__(self, model: MoEClassifier, stream: Stream, task: TokenTask, groups: Sequence[Sequence[str]]):
        self.model, self.n_stages = model, len(stream)
        self.x = torch.cat([stage.x_test for stage in stream]).double()
        self.y = torch.cat([stage.y_test for stage in stream])
        self.stage_of = torch.cat([torch.full_like(stage.y_test, t) for t, stage in enumerate(stream)])
        self.sizes_of_groups = [len(group) for group in groups]
        order = [KINDS.index(kind) for group in groups for kind in group]
        place = torch.zeros(len(KINDS), dtype=torch.int64)
        place[order] = torch.arange(len(order))
        named = [torch.tensor([KINDS.index(kind) for kind in group]) for group in groups]
        self.kind = place[torch.cat([task.kind_test[torch.isin(task.kind_test, kinds)] for kinds in named])]
        self.born: list[int] = []
        self.routes: list[Tensor] = []  # [n_t, k] of stage t's test rows when it was learned
        self.sizes: list[int] = []  # experts then
        self.old_answers: Tensor | None = None

    def begin(self, stage: int) -> None:
        """A stage starts; its experts are there."""
        moe = self.model.moe
        self.stage = stage
        self.born += [stage] * (moe.n_experts - len(self.born))
        parts = {
            "old": [part for grown in (moe.router, moe.experts) for part in stages(grown)[:stage]],
            "shared": [self.model.embed, self.model.head],
        }
        self.began = {
            name: [(p, p.detach().clone()) for part in found for p in part.parameters()]
            for name, found in parts.items()
        }

    def end(self) -> None:
        """A stage is over: this is what later ones are compared with."""
        with torch.no_grad(), evaluating(self.model):
            self.old_answers = self.model(self.x)
        self.routes.append(self.model.moe.routing.expert[self.stage_of == self.stage])
        self.sizes.append(self.model.moe.n_experts)

    @torch.no_grad()
    def frame(self) -> dict:
        with evaluating(self.model):
            logits = self.model(self.x)
        moe = self.model.moe
        right = (logits.argmax(dim=1) == self.y).double()
        probability = moe.logits.softmax(dim=1)
        usage = expert_usage(self.kind, moe.routing, sum(self.sizes_of_groups))
        now = [moe.routing.expert[self.stage_of == t] for t in range(self.stage)]
        new_rows = self.stage_of == self.stage
        return {
            "born": list(self.born),
            "frozen": [
                not any(p.requires_grad for p in stage.parameters())
                for stage in stages(moe.experts) for _ in range(len(stage))
            ],
            "usage": usage,
            "accuracy": [right[self.stage_of == t].mean() for t in range(self.n_stages)],
            "drift": [routing_drift(then, after) for then, after in zip(self.routes, now, strict=True)],
            "newer": [(after >= size).double().mean() for size, after in zip(self.sizes, now, strict=True)],
            "mass": [
                probability[self.stage_of == t, size:].sum(dim=1).mean() for t, size in enumerate(self.sizes)
            ],
            "kl": None if self.old_answers is None else kl_to_old(self.old_answers[new_rows], logits[new_rows]),
            "moved": {
                name: max((float((now - then).abs().max()) for now, then in pairs), default=0.0)
                for name, pairs in self.began.items()
            },
            "specialisation": specialisation(usage[: sum(self.sizes_of_groups[: self.stage + 1])]),
        }  # fmt: skip


def _numbered(events: Iterator) -> Iterator[tuple]:
    """Events with the number of steps taken so far."""
    step = 0
    for event in events:
        step = event.step if isinstance(event, Step) else step
        yield event, step


def _equal_stages(stream: Stream, steps: int, seed: int) -> Stream:
    """Every stage with BATCH * steps rows: its own ones, shuffled and repeated."""
    found, n = [], BATCH * steps
    for t, task in enumerate(stream):
        source = generator(seed, f"growing, stage {t}")
        rows = torch.cat([torch.randperm(len(task.y), generator=source) for _ in range(-(-n // len(task.y)))])[:n]
        found.append(Task(task.x[rows], task.y[rows], task.x_test, task.y_test, task.classes, task.name))
    return Stream(tuple(found), "domain", stream.n_classes, stream.name)


def _means(losses: list[dict[str, float]]) -> dict[str, float]:
    names = losses[0] if losses else ()
    return {name: sum(row[name] for row in losses) / len(losses) for name in names}
