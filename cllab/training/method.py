"""The hooks of a continual-learning method, called by `fit` in list order (`after_step` says where it differs)."""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cllab.training.batch import Batch
from cllab.training.events import Phase

if TYPE_CHECKING:
    from cllab.training.context import Context


class Method:
    """Plain fine-tuning: every hook does nothing. A method overrides those it needs.

    `fit` gives each method its own `generator`, so that adding one never changes the order of the data nor what
    another method draws; anything random must come from it.
    """

    needs_task_gradient = False
    """True: from `gradients` on, ctx.task_gradient holds the gradient of the task loss alone, by name."""

    holds_parameters = False
    """True: keeps copies of parameters under their names from task to task (springs)."""

    generator: torch.Generator

    def __repr__(self) -> str:
        """The call that makes this method: a checkpoint is only resumed with methods that read the same."""
        names = inspect.signature(type(self)).parameters
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        plain = [f"{k}={v!r}" for k, v in values.items() if v is None or isinstance(v, bool | int | float | str)]
        return f"{type(self).__name__}({', '.join(plain)})"

    def start_run(self, ctx: "Context") -> None:
        """Once per run, before the first task: forget whatever an earlier run left."""

    def start_task(self, ctx: "Context") -> None:
        """Before the optimiser is built: grow a head, freeze a column, copy a teacher."""

    def parameters(self, ctx: "Context") -> list[nn.Parameter] | None:
        """Which parameters to train in this task; None leaves it to the next method, at last all of the model's."""

    def replay(self, ctx: "Context", batch: Batch) -> list[Batch]:
        """Step 1. More rows to train on together with the new `batch`."""
        return []

    def task_loss(self, ctx: "Context", batch: Batch, outputs: Tensor) -> Tensor | None:
        """Step 2. The task loss in place of cross-entropy, or None; one method of a run may replace it, not two."""
        return None

    def losses(self, ctx: "Context", batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        """Step 2. Named scalars added to the task loss; `batch` holds all rows, `outputs` their unmasked logits."""
        return {}

    def gradients(self, ctx: "Context") -> None:
        """Step 4. Edit `.grad` in place before the optimiser's step."""

    def after_step(self, ctx: "Context", batch: Batch) -> None:
        """Step 6. After the optimiser's step; `batch` holds the new rows only. Memories are filled here.

        Methods that need the task gradient follow the path of the weights, so theirs comes after all others.
        """

    def end_task(self, ctx: "Context") -> Iterator[Phase]:
        """After a task's last step, before its evaluation. A generator: long work reports as it goes."""
        yield from ()

    def predict(self, model: nn.Module, x: Tensor, allowed: Tensor, task_id: int | None) -> Tensor | None:
        """Scores [N, C] in place of the model's logits, or None. The first method that answers wins."""
        return None

    def memory_bytes(self) -> int:
        """Bytes kept of earlier tasks (rows, latents, logits, a generator, anchors), told after each task."""
        return 0

    def state_dict(self) -> dict:
        """Everything a checkpoint must hold besides the settings: tensors, numbers, strings, lists, dicts."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take up the state where `state_dict` left it."""
