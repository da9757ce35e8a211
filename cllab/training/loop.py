"""The training loop, the only one of the project: a generator of events."""

import contextlib
import math
import os
import time
from collections.abc import Generator, Sequence

import torch
from torch import nn

from cllab import checks
from cllab.device import cpu_threads
from cllab.streams import Stream
from cllab.training import checkpoint as checkpoints
from cllab.training.batch import Batch, task_loss
from cllab.training.context import Context
from cllab.training.events import Event, Phase, Step, TaskEnded, TaskStarted
from cllab.training.history import History
from cllab.training.method import Method


def fit(
    model: nn.Module,
    stream: Stream,
    methods: Sequence[Method] = (),
    *,
    epochs: int = 1,
    batch_size: int = 64,
    lr: float = 1e-3,
    optimizer="adam",
    seed: int = 0,
    device: str | torch.device = "cpu",
    eval_every: int | None = None,
    reset_optimizer: bool = True,
    threads: int | None = 1,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    resume: str | os.PathLike | None = None,
) -> Generator[Event, None, History]:
    """Train `model` (in place) on the tasks of `stream`, one after another. Training starts when it is pulled.

    Yields events as training goes on and returns the History; `run` collects it. A pause is not pulling.

    methods: combined in list order. epochs: passes over each task. batch_size: new rows per step. lr: learning
    rate. optimizer: "adam", "sgd" or a callable (parameters, lr=lr), e.g. functools.partial(SGD, momentum=0.9).
    seed: decides the data order and, separately, what each method draws. device: "cpu", "cuda", "auto".
    eval_every: also evaluate every so many steps; always before the first task and after each task.
    reset_optimizer: build a new one for each task. threads: of the CPU while training (None: leave torch's).
    checkpoint: file to write after every task and every `checkpoint_every` steps; resume: file to go on from.

    Stop at any step and resume: the result is that of the uninterrupted run, bit for bit (on one machine; dropout
    included). Accuracies are fractions in [0, 1], losses are in nats, seconds are seconds.

    Raises TypeError or ValueError at once for bad arguments, FloatingPointError when a loss is no longer finite.
    Source of the order of the stages in a step: van de Ven's `train_a_batch`; of the protocol: Lopez-Paz & Ranzato
    2017 (train on task i, test on every task).
    """
    if eval_every is not None:
        checks.integer("eval_every", eval_every, 1)
    if threads is not None:
        checks.integer("threads", threads, 1)
    if checkpoint_every is not None:
        checks.integer("checkpoint_every", checkpoint_every, 1)
        if checkpoint is None:
            raise ValueError("checkpoint must name a file when checkpoint_every is given")
    if checkpoint is not None:
        checkpoints.check_place(checkpoint)
    ctx = Context(
        model, stream, methods, epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer, seed=seed,
        device=device, reset_optimizer=reset_optimizer,
    )  # fmt: skip
    state = None if resume is None else checkpoints.read(resume, ctx)
    events = _events(ctx, state, eval_every, checkpoint, checkpoint_every)
    return _pulled(events, threads if ctx.device.type == "cpu" else None)


def _events(ctx: Context, state, eval_every, checkpoint, checkpoint_every) -> Generator[Event, None, History]:
    def note(event: Event) -> Event:
        ctx.history.record(event)
        return event

    ctx.start_run()
    ctx.model.train()  # before a resumed run sets up its tasks again: a method may hold a frozen part in eval mode
    started = False if state is None else checkpoints.restore(state, ctx)
    if state is None:
        yield note(ctx.evaluate(after=-1))

    while ctx.task_index < len(ctx.stream):
        clock = time.perf_counter()
        if not started:
            for method in ctx.methods:
                method.start_task(ctx)
            kept_or_new = ctx.build_optimizer()
            samples = {"samples": len(ctx.task.y), "optimizer": kept_or_new}
            yield note(TaskStarted(ctx.task_index, ctx.task.name, samples))
        started = False

        for batch in ctx.batches():
            step = note(_step(ctx, batch))
            due = eval_every is not None and ctx.step % eval_every == 0
            evaluated = note(ctx.evaluate(after=ctx.task_index)) if due else None
            if checkpoint_every is not None and ctx.step % checkpoint_every == 0:
                checkpoints.save(checkpoint, ctx, started=True)
            yield step
            if evaluated is not None:
                yield evaluated

        for method in ctx.methods:
            for phase in method.end_task(ctx):
                yield note(phase)
        yield note(ctx.evaluate(after=ctx.task_index))
        kept: dict[str, int] = {}
        for method in ctx.methods:
            if size := method.memory_bytes():
                kept[_unused(repr(method), kept)] = size
        info = {"seconds": time.perf_counter() - clock, "memory_bytes": kept}
        ended = note(TaskEnded(ctx.task_index, info))
        ctx.task_index += 1
        if checkpoint is not None:
            checkpoints.save(checkpoint, ctx, started=False)
        yield ended
    return ctx.history


def _pulled(events: Generator[Event, None, History], threads: int | None) -> Generator[Event, None, History]:
    """The same events; the number of threads is changed only while one is being made."""
    with contextlib.closing(events):
        while True:
            with cpu_threads(threads):
                try:
                    event = next(events)
                except StopIteration as end:
                    return end.value
            yield event


def _step(ctx: Context, batch: Batch) -> Step:
    """One optimiser step, in the documented order."""
    ctx.info = {}
    ctx.optimizer.zero_grad()
    # 1. more rows to train on
    rows = Batch.cat([batch, *(extra for method in ctx.methods for extra in method.replay(ctx, batch))])
    # 2. one forward pass over all rows, the task loss, and each method's named terms
    with ctx.randomness():
        outputs = ctx.model(rows.x)
    answers = (method.task_loss(ctx, rows, outputs) for method in ctx.methods)
    replaced = next((loss for loss in answers if loss is not None), None)
    losses = {"task": task_loss(outputs, rows) if replaced is None else replaced}
    for method in ctx.methods:
        for name, loss in method.losses(ctx, rows, outputs).items():
            losses[_unused(name, losses)] = loss
    values = {name: loss.item() for name, loss in losses.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise FloatingPointError(
            f"the loss is no longer finite at step {ctx.step + 1} ({values}): lower the learning rate or the "
            "coefficient of the term that grew"
        )
    # 3. the gradient of the sum, and that of the task loss alone for methods that ask
    if any(method.needs_task_gradient for method in ctx.methods):
        task, *terms = (loss for loss in losses.values() if loss.requires_grad)
        task.backward(retain_graph=bool(terms))
        trained = {n: p for n, p in ctx.model.named_parameters() if p.requires_grad and p.grad is not None}
        ctx.task_gradient = {n: p.grad.clone() for n, p in trained.items()}
    else:
        terms = list(losses.values())
    if terms:
        sum(terms).backward()
    # 4. edit the gradient
    for method in ctx.methods:
        method.gradients(ctx)
    # 5. the step
    ctx.optimizer.step()
    ctx.step += 1
    # 6. what follows a step: restored weights, memory, and last the path integrals, which see where the step ended
    for method in sorted(ctx.methods, key=lambda method: method.needs_task_gradient):
        method.after_step(ctx, batch)
    return Step(ctx.task_index, ctx.step, values, ctx.info)


def _unused(name: str, taken: dict) -> str:
    """`name`, or "name 2", "name 3" ... where another method's term has it already."""
    names = [name, *(f"{name} {i}" for i in range(2, len(taken) + 2))]
    return next(n for n in names if n not in taken)


def run(
    model: nn.Module, stream: Stream, methods: Sequence[Method] = (), *, progress: bool = False, **arguments
) -> History:
    """Train to the end and return the History.

    arguments: those of `fit`, see `help(fit)`. progress: show a tqdm bar of tasks and steps.
    """
    events = fit(model, stream, methods, **arguments)
    if not progress:
        return _finish(events)
    from tqdm.auto import tqdm

    epochs, batch_size = arguments.get("epochs", 1), arguments.get("batch_size", 64)
    total = sum(epochs * math.ceil(len(task.y) / batch_size) for task in stream)
    with tqdm(total=total, unit="step") as bar:
        return _finish(events, bar)


def _finish(events: Generator[Event, None, History], bar=None) -> History:
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        if bar is None:
            continue
        if isinstance(event, TaskStarted):
            bar.set_description(f"task {event.task} ({event.name})")
        elif isinstance(event, Phase):
            bar.set_description(event.name)
        elif isinstance(event, Step):
            bar.update(event.step - bar.n)
            bar.set_postfix(loss=f"{sum(event.losses.values()):.3f}", refresh=False)
