"""Multi-head: one trunk that all tasks share, and for each task a head of its own.

    f_t(x) = W_t phi(x) + b_t            on the classes of task t

Symbols: phi(x) = h [N, H], the trunk's features; W_t [C_t, H], b_t [C_t], the head of task t with its C_t classes.
At test the task must be known: it chooses the head. Only the last layer is isolated. The trunk goes on learning, and
with it every old head's answers change: that is forgetting too.

A head for each task is more than a mask over one large head. There the rows of other tasks get a gradient of zero, and
an optimiser with weight decay or with momentum from earlier steps moves them all the same.
Source: Li & Hoiem 2016 (task-specific parameters theta_n); van de Ven, Tuytelaars & Tolias 2022 (multi-headed layers
belong to the task-incremental scenario only).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.switch import Key, Switch, freeze

NEVER = -1e9
"""The logit of a class that the active head does not know: its probability is exactly 0. It is finite, so that methods
which look at all logits (a Fisher, MAS) find a constant there and not an infinity."""


class MultiHead(Switch):
    """Heads by task: features h [N, H] -> logits [N, C], NEVER (-1e9) outside the classes of the active head.

    initial: the linear layer [C, H] that the heads start from and that answers while no head is active. It is frozen,
    so that a head that has not been added yet cannot have learned anything.
    """

    def __init__(self, initial: nn.Linear):
        if not isinstance(initial, nn.Linear):
            raise TypeError(f"initial must be a torch.nn.Linear, got {type(initial).__name__}")
        super().__init__()
        self.initial = initial
        self.classes: list[list[int]] = []
        freeze(initial)

    def add(self, task: Key, classes: Sequence[int]) -> None:
        """A head for the classes of a new task, which starts as their rows of the initial one; the others freeze."""
        wanted = [checks.integer("each of classes", c, 0, self.initial.out_features - 1) for c in classes]
        if not wanted or len(set(wanted)) != len(wanted):
            raise ValueError(f"classes must name each class of the task once, got {list(classes)}")
        with torch.device(self.initial.weight.device):
            head = nn.utils.skip_init(nn.Linear, self.initial.in_features, len(wanted), dtype=self.initial.weight.dtype)
        head.bias = head.bias if self.initial.bias is not None else None
        with torch.no_grad():
            for new, old in zip(head.parameters(), self.initial.parameters(), strict=True):
                new.copy_(old[wanted])
        super().add(task, head)
        self.classes.append(wanted)

    def use(self, *tasks: Key) -> None:
        """Answer with the head of one task, or with the initial head when none is given."""
        if len(tasks) > 1:
            raise ValueError(f"tasks must be one task or none: a row gets one head, got {tasks}")
        super().use(*tasks)

    def forward(self, h: Tensor) -> Tensor:
        """h [N, H] -> logits [N, C]."""
        if not self.active:
            return self.initial(h)
        (task,) = self.active
        logits = h.new_full((*h.shape[:-1], self.initial.out_features), NEVER)
        # f_t(x) = W_t h + b_t
        logits[..., self.classes[self.tasks.index(task)]] = self.part(task)(h)
        return logits
