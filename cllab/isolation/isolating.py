"""Methods that give each task a part of its own: what they share.

Training reaches the newest part alone. At test a task's rows are answered with its part, so the task must be known:
given with the row (task-incremental), or chosen by a selector (see selector.py).
"""

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from cllab import checks
from cllab.isolation.heads import MultiHead
from cllab.isolation.selector import TaskSelector, routing_report
from cllab.isolation.switch import freeze, hold_statistics, release_statistics, set_module, switches, using
from cllab.training import Context, Method, Phase


class Isolating(Method):
    """A head, and in subclasses more, for each task. A task's key is its number in the stream.

    selector: chooses the task of rows that come without its number; it learns each task when the task ends.

    The model needs a linear layer `head`, which a MultiHead replaces. It is changed in place and keeps its parts after
    the run. The next run of the same object on that model removes them first; another object refuses such a model.
    """

    needs_task = True
    """False: a subclass can answer rows of unknown tasks, with one head for all."""

    def __init__(self, selector: TaskSelector | None = None):
        if not (selector is None or isinstance(selector, TaskSelector)):
            raise TypeError(f"selector must be a TaskSelector or None, got {type(selector).__name__}")
        self.selector = selector
        self.model: nn.Module | None = None
        self.newest, self.n_tasks, self.own_heads = -1, 0, False
        self._replaced: list[tuple[str, nn.Module]] = []
        self._froze: list[nn.Parameter] = []
        self._held: list[nn.Module] = []

    def __repr__(self) -> str:
        settings = super().__repr__()[:-1]
        if self.selector is not None:
            settings += f"{'' if settings.endswith('(') else ', '}selector={self.selector!r}"
        return f"{settings})"

    def start_run(self, ctx: Context) -> None:
        self._check_run(ctx)
        self._undo(ctx.model)
        if switches(ctx.model):
            raise ValueError(
                "model has parts of an earlier run, or columns; give a fresh model, or the method that added them"
            )
        if not isinstance(getattr(ctx.model, "head", None), nn.Linear):
            raise TypeError(f"model must have a linear layer `head`, {type(ctx.model).__name__} has not")
        if ctx.model.head.out_features < ctx.stream.n_classes:
            raise ValueError(
                f"model must have at least {ctx.stream.n_classes} outputs for this stream, got "
                f"{ctx.model.head.out_features}"
            )
        if self.selector is not None:
            self.selector.forget()
        self.model, self.newest = ctx.model, -1
        if self.own_heads:
            self.install("head", MultiHead(copy.deepcopy(ctx.model.head)))
        try:
            self.attach(ctx)
        except (TypeError, ValueError):
            self._undo(ctx.model)
            raise

    def attach(self, ctx: Context) -> None:
        """Once per run: install in the model what the method needs. Where it raises, the model is as it was before."""

    def start_task(self, ctx: Context) -> None:
        self.newest = ctx.task_index
        if self.own_heads:
            ctx.model.head.add(ctx.task_index, ctx.task.classes)

    def parameters(self, ctx: Context) -> list[nn.Parameter]:
        return [parameter for parameter in ctx.model.parameters() if parameter.requires_grad]

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        if self.selector is not None:
            self.selector.learn(ctx.task_index, ctx.task.x, ctx.task.y, ctx.model, self.generator)
            tasks = ctx.stream.tasks[: ctx.task_index + 1]
            yield Phase("selector", routing_report(self.selector, self, ctx.model, tasks))

    def answer(self, model: nn.Module, x: Tensor, task: int) -> Tensor:
        """Logits [N, C] with the part of `task`; of a task not seen yet, with no part at all (an untrained head)."""
        with using(model, task):
            return model(x)

    def predict(self, model: nn.Module, x: Tensor, allowed: Tensor, task_id: int | None) -> Tensor | None:
        if self.n_tasks == 0:
            raise ValueError(f"{type(self).__name__} must have been in a run before it can answer")
        if task_id is not None:
            return self.answer(model, x, checks.integer("task_id", task_id, 0, self.n_tasks - 1))
        if not self.own_heads:
            return None
        if self.selector is None:
            raise ValueError("task_id must be given: there is a part for each task and no selector to choose one")
        if not self.selector.tasks:
            return self.answer(model, x, max(self.newest, 0))
        return self.answer_by_row(model, x, self.selector.choose(x, model))

    def answer_by_row(self, model: nn.Module, x: Tensor, tasks: Tensor) -> Tensor:
        """Logits [N, C], each row of x with the part of its own task in `tasks`, int64 [N]."""
        logits = None
        for task in tasks.unique().tolist():
            rows = tasks == task
            answers = self.answer(model, x[rows], task)
            logits = answers.new_empty(len(x), answers.shape[1]) if logits is None else logits
            logits[rows] = answers
        return logits

    def memory_bytes(self) -> int:
        """All tasks' parts, and what the selector keeps."""
        parts = sum(p.nbytes for switch in switches(self.model) for p in switch.parts.parameters())
        return parts + (self.selector.nbytes if self.selector is not None else 0)

    def state_dict(self) -> dict:
        return {"selector": None if self.selector is None else self.selector.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        if self.selector is not None:
            self.selector.load_state_dict(state["selector"], next(self.model.parameters()).device)

    def install(self, name: str, module: nn.Module) -> None:
        """Put `module` in the place of the model's submodule `name`; undone before the next run on this model."""
        self._replaced.append((name, self.model.get_submodule(name)))
        set_module(self.model, name, module)

    def freeze(self, parameters: list[nn.Parameter], modules: list[nn.Module] = ()) -> None:
        """Freeze until the next run on this model: parameters, and running statistics of norm layers in `modules`."""
        self._froze += [parameter for parameter in parameters if parameter.requires_grad]
        freeze(parameters)
        self._held += hold_statistics(modules)

    def _check_run(self, ctx: Context) -> None:
        """Whether tasks can be told apart in this run (then `own_heads`), and what must not stand beside it."""
        scenario, self.n_tasks = ctx.stream.scenario, len(ctx.stream)
        self.own_heads = scenario == "task" or self.selector is not None
        if self.needs_task and not self.own_heads:
            raise ValueError(
                f"{type(self).__name__} must know a row's task at test, which a {scenario}-incremental stream does not "
                'tell: use scenario="task", or give it a selector=TaskSelector(...)'
            )
        for method in ctx.methods:
            replays = type(method).replay is not Method.replay or type(method).task_loss is not Method.task_loss
            if self.own_heads and replays:
                raise ValueError(
                    f"methods must not combine {type(self).__name__} with {type(method).__name__}: replayed rows of "
                    "earlier tasks would train the newest task's part"
                )
        if self.selector is None:
            return
        if self.selector.kind == "oracle" and scenario != "task":
            raise ValueError(f"selector must not be an oracle: a {scenario}-incremental stream tells it no task")
        if self.selector.features == "base" and not isinstance(self, OnFrozenBase):
            raise ValueError(
                f'selector must use features="input": {type(self).__name__} has no frozen base that keeps its features'
            )

    def _undo(self, model: nn.Module) -> None:
        """Give back what an earlier run of this object on this model took."""
        if model is self.model:
            for name, original in reversed(self._replaced):
                set_module(model, name, original)
            for parameter in self._froze:
                parameter.requires_grad_(True)
            release_statistics(self._held)
        self._replaced, self._froze, self._held = [], [], []


class OnFrozenBase(Isolating):
    """Small parts beside a network that stays as it is.

    base: "first", the first task trains the whole network, without a part, and then it is frozen; "given", it is
    frozen from the start, because it has been trained elsewhere.
    """

    def __init__(self, base: str = "first", selector: TaskSelector | None = None):
        super().__init__(selector)
        self.base = checks.choice("base", base, ("first", "given"))

    def start_task(self, ctx: Context) -> None:
        super().start_task(ctx)
        if self.base == "given" or ctx.task_index > 0:
            parts = [part for switch in switches(ctx.model) for part in switch.parts]
            parts += [] if self.own_heads else [ctx.model.head]
            inside = {id(module) for part in parts for module in part.modules()}
            own = {id(parameter) for part in parts for parameter in part.parameters()}
            self.freeze(
                [parameter for parameter in ctx.model.parameters() if id(parameter) not in own],
                [module for module in ctx.model.modules() if id(module) not in inside],
            )
            self.add_parts(ctx)

    def add_parts(self, ctx: Context) -> None:
        """Give every Switch of the model, besides the heads, a part for the task that begins."""
        raise NotImplementedError


class TaskHeads(Isolating):
    """A head for each task on a trunk that all share: the old heads stay, the trunk below them forgets."""
