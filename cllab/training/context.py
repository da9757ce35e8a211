"""What `fit` and the methods share while they train."""

import contextlib
import functools
import math
import zlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator, pick_device
from cllab.streams import Stream, Task
from cllab.training.batch import Batch, masked
from cllab.training.evaluating import evaluating
from cllab.training.events import Evaluated
from cllab.training.history import History
from cllab.training.method import Method

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class Context:
    """The state of one run. Methods read it, write to `info`, and some change the model.

    task_index, epoch, position, step: where the run stands (position: rows of the epoch already used; step: steps
    taken in all). info: notes of the step under way, emitted with its event.
    """

    def __init__(self, model, stream, methods, *, epochs, batch_size, lr, optimizer, seed, device, reset_optimizer):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(stream, Stream):
            raise TypeError(f"stream must be a cllab.streams.Stream, got {type(stream).__name__}")
        self.methods: list[Method] = _method_list(methods)
        self.epochs = checks.integer("epochs", epochs, 1)
        if stream.online and epochs != 1:
            raise ValueError(f"epochs must be 1 for an online stream (every sample is seen once), got {epochs}")
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        self.lr = checks.number("lr", lr, 0.0)
        if not callable(optimizer):
            checks.choice("optimizer", optimizer, tuple(OPTIMIZERS))
        self.make_optimizer = optimizer if callable(optimizer) else OPTIMIZERS[optimizer]
        self.reset_optimizer = checks.flag("reset_optimizer", reset_optimizer)
        self.seed = checks.integer("seed", seed, 0)
        self.device = pick_device(device)
        may_grow = any(type(method).start_task is not Method.start_task for method in self.methods)
        if not may_grow and not any(p.requires_grad for p in model.parameters()):
            raise ValueError("model must have at least one trainable parameter")
        dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self.stream = stream.to(self.device, dtype)
        self.model = model.to(self.device)
        width = _outputs(self.model, self.stream)
        if width < stream.n_classes and not may_grow:
            raise ValueError(f"model must have at least {stream.n_classes} outputs for this stream, got {width}")

        self.task_index = self.epoch = self.position = self.step = 0
        self.data_generator = generator(self.seed, "data order")
        self.order_state = self.data_generator.get_state()
        self.model_randomness = generator(self.seed, "model").get_state()
        self.optimizer: torch.optim.Optimizer | None = None
        self.task_gradient: dict[str, Tensor] = {}
        self.info: dict = {}
        self._masks: dict[int, Tensor] = {}
        self.shapes = {name: [str(v.dtype), *v.shape] for name, v in model.state_dict().items()}
        self.history = History(stream.task_names, _settings(self, optimizer))

    def start_run(self) -> None:
        """Give every method a generator of its own, and let it forget an earlier run."""
        for i, method in enumerate(self.methods):
            earlier = sum(type(other) is type(method) for other in self.methods[:i])
            method.generator = generator(self.seed, f"{type(method).__name__} {earlier}")
            method.start_run(self)

    @contextlib.contextmanager
    def randomness(self):
        """What the model itself draws (dropout) comes from this run's own state, not from the global generator's."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            _set_randomness(self.model_randomness, cuda)
            yield
            self.model_randomness = torch.get_rng_state()

    @functools.cached_property
    def fingerprint(self) -> int:
        """A number that changes with any training or test row: a checkpoint belongs to its data."""
        tensors = [t for task in self.stream for t in (task.x, task.y, task.x_test, task.y_test)]
        return functools.reduce(lambda crc, t: zlib.crc32(t.cpu().contiguous().numpy(), crc), tensors, 0)

    @property
    def task(self) -> Task:
        """The task under way."""
        return self.stream[self.task_index]

    def allowed(self, task: Tensor | int, seen: int | None = None) -> Tensor:
        """Masks for rows of these tasks, bool [B, C] (or [C] for one number), by `Stream.allowed`."""
        seen = self.task_index if seen is None else seen
        if seen not in self._masks:
            masks = [self.stream.allowed(i, seen) for i in range(len(self.stream))]
            self._masks[seen] = torch.stack(masks).to(self.device)
        return self._masks[seen][task]

    def batches(self) -> Iterator[Batch]:
        """The rest of this task's batches, from where the run stands: each epoch in a fresh random order.

        `order_state` is the generator's state from before the epoch's order was drawn: with it a resumed run draws
        the same order again and goes on at `position`.
        """
        x, y = self.task.x, self.task.y
        allowed = self.allowed(self.task_index)
        while self.epoch < self.epochs:
            self.order_state = self.data_generator.get_state()
            order = torch.randperm(len(y), generator=self.data_generator).to(self.device)
            while self.position < len(y):
                rows = order[self.position : self.position + self.batch_size]
                self.position += len(rows)
                task = torch.full_like(rows, self.task_index)
                yield Batch.of("new", x[rows], y[rows], task, allowed.expand(len(rows), -1))
            self.epoch, self.position = self.epoch + 1, 0
        self.epoch = 0
        self.order_state = self.data_generator.get_state()

    def build_optimizer(self) -> str:
        """A new optimiser for this task, or the old one when asked to keep it; returns which."""
        chosen = next((p for m in self.methods if (p := m.parameters(self)) is not None), None)
        parameters = [p for p in (self.model.parameters() if chosen is None else chosen) if p.requires_grad]
        if not parameters:
            raise ValueError(f"model must have at least one trainable parameter in task {self.task_index}")
        if self.optimizer is None or self.reset_optimizer:
            self.optimizer = self.make_optimizer(parameters, lr=self.lr)
            return f"new {type(self.optimizer).__name__}"
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if added := [p for p in parameters if id(p) not in known]:
            self.optimizer.add_param_group({"params": added})
        return f"kept {type(self.optimizer).__name__}"

    def evaluate(self, after: int) -> Evaluated:
        """Accuracy on every task's test set after learning task `after` (-1: before any)."""
        accuracy, earlier = [], []
        for j, task in enumerate(self.stream):
            task_id = j if self.stream.scenario == "task" else None
            seen = max(after, j)
            answer = predict(self.model, task.x_test, self.stream, seen=seen, task_id=task_id, methods=self.methods)
            accuracy.append((answer == task.y_test).double().mean().item())
            if j < after:
                earlier.append(answer.cpu())
        return Evaluated(after, tuple(accuracy), self.step, self._newest(after, earlier))

    def _newest(self, after: int, earlier: list[Tensor]) -> float | None:
        """How many of the answers to earlier tasks' test rows name a class that came with task `after`."""
        if self.stream.scenario != "class" or not earlier:
            return None
        known = {c for task in self.stream.tasks[:after] for c in task.classes}
        new = torch.tensor(sorted(set(self.stream[after].classes) - known), dtype=torch.int64)
        return torch.isin(torch.cat(earlier), new).double().mean().item()


@torch.no_grad()
def predict(
    model: nn.Module,
    x: Tensor,
    stream: Stream,
    *,
    seen: int,
    task_id: int | None = None,
    methods: Sequence[Method] = (),
) -> Tensor:
    """Answers int64 [N] to the rows x [N, ...] when the tasks 0 .. `seen` of `stream` are known.

    task_id: the number of the task that x comes from. The task-incremental scenario gives it to the model and
    must; the other two don't, and a number raises ValueError because it would leak the answer.
    methods: those of the run; one of them may answer in the model's place.
    """
    if stream.scenario == "task" and task_id is None:
        raise ValueError("task_id must be given at test in the task-incremental scenario")
    if stream.scenario != "task" and task_id is not None:
        raise ValueError(
            f"task_id must not be given at test in the {stream.scenario}-incremental scenario, got {task_id}: "
            "it would leak the answer"
        )
    checks.integer("seen", seen, 0, len(stream) - 1)
    if task_id is not None:
        checks.integer("task_id", task_id, 0, len(stream) - 1)
    checks.floats("x", x)
    allowed = stream.allowed(seen if task_id is None else task_id, seen).to(x.device)
    with evaluating(model):
        answers = (method.predict(model, x, allowed, task_id) for method in _method_list(methods))
        scores = next((a for a in answers if a is not None), None)
        scores = model(x) if scores is None else scores
    if bool(scores.isnan().any()):
        raise FloatingPointError("the model answers NaN: its weights are no longer finite, lower the learning rate")
    return masked(scores, allowed).argmax(dim=1)


def _method_list(methods) -> list[Method]:
    if isinstance(methods, Method):
        raise TypeError(f"methods must be a list of methods, got one: write methods=[{type(methods).__name__}(...)]")
    if not isinstance(methods, Sequence) or isinstance(methods, str):
        raise TypeError(f"methods must be a list of methods, got {type(methods).__name__}")
    methods = list(methods)
    for method in methods:
        if not isinstance(method, Method):
            raise TypeError(f"methods must hold cllab.training.Method objects, got {type(method).__name__}")
    if len({id(method) for method in methods}) != len(methods):
        raise ValueError("methods must not hold the same object twice")
    replacing = [type(m).__name__ for m in methods if type(m).task_loss is not Method.task_loss]
    if len(replacing) > 1:
        raise ValueError(f"methods must replace the task loss at most once, {' and '.join(replacing)} each do")
    return methods


@torch.no_grad()
def _outputs(model: nn.Module, stream: Stream) -> int:
    try:
        with evaluating(model):
            outputs = model(stream[0].x[:1])
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"model must accept rows of shape {tuple(stream[0].x.shape[1:])}: {error}") from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise ValueError("model must turn rows [N, ...] into logits [N, C]")
    return outputs.shape[1]


def _name(optimizer) -> str:
    if isinstance(optimizer, functools.partial):
        options = ", ".join(f"{k}={v!r}" for k, v in sorted(optimizer.keywords.items()))
        return f"{_name(optimizer.func)}({options})"
    return optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", type(optimizer).__name__)


def _set_randomness(state: Tensor, cuda: list[torch.device]) -> None:
    torch.set_rng_state(state)
    for device in cuda:  # a GPU's own generator, seeded by what the CPU's would draw next
        with torch.cuda.device(device):
            torch.cuda.manual_seed(int(torch.randint(2**62, (1,))))


def _settings(ctx: Context, optimizer) -> dict:
    return {
        "stream": ctx.stream.name, "scenario": ctx.stream.scenario, "tasks": len(ctx.stream),
        "samples": sum(len(task.y) for task in ctx.stream), "epochs": ctx.epochs, "batch_size": ctx.batch_size,
        "lr": ctx.lr, "optimizer": _name(optimizer),
        "reset_optimizer": ctx.reset_optimizer, "seed": ctx.seed, "device": str(ctx.device),
        "methods": [repr(method) for method in ctx.methods],
        "parameters": sum(math.prod(p.shape) for p in ctx.model.parameters()),
    }  # fmt: skip
