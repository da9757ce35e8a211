"""Train, then freeze: experts are first taught their own tokens, then stay, and the router learns whom to ask.

    steps 1..S    expert(n) = owner(x_n)        each expert sees its own tokens only; the router has no say
    after S       experts frozen                the router and the layers around it learn, on all tokens

Specialisation is given here, not found: the owner decides what an expert is for, and whether the router can tell the
owners' tokens apart decides whether it is kept.
One of four ways to decide beforehand what an expert is for; the others are a prior, a hash (guided.py) and experts
that arrive with a stage of the data (lifelong.py). Sparse upcycling of domain models (Sukhbaatar et al. 2024,
"Branch-Train-MiX") trains experts apart in this way, but lets them learn on afterwards.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from cllab import checks
from cllab.isolation.moe_classifier import MoEClassifier, Owned
from cllab.isolation.switch import freeze
from cllab.training import Batch, Context, Method, Phase


class TrainThenFreeze(Method):
    """For an `MoEClassifier`: rows go to the expert owner(x) for `steps` steps, then the experts are frozen.

    owner: function of rows x [N, in_features] that returns experts int64 [N]. steps: at least 1; a run with fewer
    freezes the experts at its end. Evaluations before that use the owner as well. A guide that the model had
    comes back afterwards; a run that is abandoned before leaves the owner in place until the next one with this
    method. The next run of the same object on the model lets its experts learn again.
    """

    def __init__(self, owner: Callable[[Tensor], Tensor], steps: int):
        if not callable(owner):
            raise TypeError(f"owner must be a function of the rows, got {type(owner).__name__}")
        self.owner = owner
        self.steps = checks.integer("steps", steps, 1)
        self._model: nn.Module | None = None
        self._froze: list[nn.Parameter] = []
        self._guiding = False

    def start_run(self, ctx: Context) -> None:
        if not isinstance(ctx.model, MoEClassifier):
            raise ValueError(f"model must be an MoEClassifier, got {type(ctx.model).__name__}")
        if self._model is ctx.model:
            for parameter in self._froze:
                parameter.requires_grad_(True)
        self._model, self._froze, self._guiding = ctx.model, [], True
        self.taken = 0
        ctx.model.guide = Owned(self.owner, ctx.model)

    def start_task(self, ctx: Context) -> None:
        # what a task trains is known from the steps before it, also where a run is taken up again
        before = sum(ctx.epochs * -(-len(task.y) // ctx.batch_size) for task in ctx.stream.tasks[: ctx.task_index])
        if self._guiding and before >= self.steps:
            self._let_go(ctx.model)

    def after_step(self, ctx: Context, batch: Batch) -> None:
        self.taken += 1
        if self.taken == self.steps:
            self._let_go(ctx.model)

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        if self._guiding and ctx.task_index == len(ctx.stream) - 1:
            self._let_go(ctx.model)
        yield Phase("train, then freeze", {"taught": min(self.taken, self.steps), "frozen": not self._guiding})

    def _let_go(self, model: MoEClassifier) -> None:
        """The router decides from here on, and the experts stay what they are."""
        model.guide, self._guiding = model.guide.before, False
        self._froze = [parameter for parameter in model.moe.experts.parameters() if parameter.requires_grad]
        freeze(self._froze)

    def state_dict(self) -> dict:
        return {"taken": self.taken, "guiding": self._guiding}

    def load_state_dict(self, state: dict) -> None:
        self.taken = state["taken"]
        if self._guiding and not state["guiding"]:
            self._let_go(self._model)
