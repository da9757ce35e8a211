"""Dark experience replay: remember what the model answered, and keep answering it.

Idea. Beside a row and its label the memory keeps the logits that the model gave when the row was first seen. They
tell more than the label: what the row looked like to the model, class by class.

    L = mean CE(new rows) + alpha * mean ||h(x') - z'||^2 + beta * mean CE(x'', y'')

Symbols: h(x) [C], the logits now; (x', z'), remembered rows with their logits; (x'', y''), a second, independent draw
with labels (DER++, beta > 0); alpha, beta >= 0. Terms are added to the task loss as they are, nothing is divided by
1 + alpha + beta.
Scale. form "mean" (default, what the authors' code does): the squared norm divided by the C logits compared. "sum": the
squared norm of the equation. The same alpha is C times as strong with "sum".
Which logits. Those of the step's own forward pass: with those weights the row's term is 0 (without dropout), and the
step itself is the first thing that moves it away. All logits are compared, unmasked, also those of classes that have
not come yet. A head that has grown since is compared on the logits it had when the row was stored.
Source: Buzzega et al. 2020, "Dark experience for general continual learning". Departures: replay starts with the second
task, like everywhere in this package, where the paper starts at once; new and remembered rows share one forward pass;
rows are offered to the memory in the first epoch only. The authors' code offers them again in every epoch, so that over
many epochs its logits come to be those of a model that knows its task; here they stay those of the first sight, and a
large alpha holds on to early answers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab import checks
from cllab.replay.memory import MOST
from cllab.replay.reservoir import Reservoir
from cllab.training import Batch, Context, Method, masked


def dark_loss(logits: Tensor, stored: Tensor, form: str = "mean", width: Tensor | None = None) -> Tensor:
    """Mean over rows of the squared distance between logits [B, H] now and stored ones [B, W]: a scalar.

    form: "mean" divides each row's squared distance by the number of logits compared, "sum" does not.
    width: int64 [B], how many of its W stored logits a row really has (default all W); the rest is padding. ValueError
    when a row has more stored logits than the H of now. The gradient goes to `logits`; `stored` is a constant.
    """
    checks.floats("logits", logits, ndim=2)
    checks.floats("stored", stored, ndim=2)
    checks.choice("form", form, ("mean", "sum"))
    if len(stored) != len(logits):
        raise ValueError(f"stored must have {len(logits)} rows like logits, got {len(stored)}")
    W = stored.shape[1]
    if width is None:
        width = torch.full((len(stored),), W, device=stored.device)
    elif int(checks.labels("width", width, n=len(stored)).min()) < 1 or int(width.max()) > W:
        raise ValueError(f"width must be between 1 and the {W} columns of stored, got {width.tolist()}")
    if int(width.max()) > logits.shape[1]:
        raise ValueError(f"stored must not have more logits than now, got {int(width.max())} and {logits.shape[1]} now")
    columns = min(W, logits.shape[1])
    known = torch.arange(columns, device=stored.device) < width[:, None]
    # ||h(x') - z'||^2 over the logits that were there
    distances = (logits[:, :columns] - stored[:, :columns].detach()).masked_fill(~known, 0.0).square().sum(dim=1)
    # divided by C in the mean form
    return (distances / width if form == "mean" else distances).mean()


class DarkExperienceReplay(Method):
    """DER, and DER++ with beta > 0; alpha = beta = 0 is plain fine-tuning, bit for bit.

    capacity: K, rows in a reservoir. alpha: strength of the stored logits, beta: of the stored labels; both >= 0.
    batch_size: memory rows per draw, default as many as there are new ones. form: scale of the distance, see above.
    """

    def __init__(
        self,
        capacity: int,
        alpha: float = 0.5,
        beta: float = 0.0,
        batch_size: int | None = None,
        *,
        form: str = "mean",
    ):
        self.capacity = checks.integer("capacity", capacity, 1, MOST)
        self.alpha = checks.number("alpha", alpha, 0.0)
        self.beta = checks.number("beta", beta, 0.0)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        self.form = checks.choice("form", form, ("mean", "sum"))
        self.memory = Reservoir(self.capacity)  # empty until a run makes its own

    def start_run(self, ctx: Context) -> None:
        self.memory = Reservoir(self.capacity, self.generator)
        self.device = ctx.device
        place = ctx.methods.index(self)  # two of them in one run must not take each other's rows
        self.dark, self.labelled = f"dark {place}", f"dark labels {place}"

    def replay(self, ctx: Context, batch: Batch) -> list[Batch]:
        if ctx.task_index == 0:
            return []
        n = self.batch_size or len(batch.y)
        drawn = {}
        if self.alpha > 0:
            drawn[self.dark] = self.remembered = self.memory.sample(n)
        if self.beta > 0:
            drawn[self.labelled] = self.memory.sample(n)
        if drawn:
            ctx.info["replayed"] = ctx.info.get("replayed", 0) + sum(len(rows.y) for rows in drawn.values())
        # weight 0: in the forward pass, but not in the task loss
        return [Batch.of(s, r.x, r.y, r.task, ctx.allowed(r.task), 0.0) for s, r in drawn.items()]

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        self.answered = outputs[batch.rows("new")].detach()
        terms = {}
        if len(outputs[dark := batch.rows(self.dark)]):
            # alpha * mean ||h(x') - z'||^2
            distance = dark_loss(outputs[dark], self.remembered.logits, self.form, self.remembered.width)
            terms["DER"] = self.alpha * distance
        if len(outputs[labelled := batch.rows(self.labelled)]):
            # beta * mean CE(x'', y'')
            logits = masked(outputs[labelled], batch.allowed[labelled])
            terms["DER++"] = self.beta * F.cross_entropy(logits, batch.y[labelled])
        return terms

    def after_step(self, ctx: Context, batch: Batch) -> None:
        if ctx.epoch > 0:
            return
        C = ctx.stream.n_classes
        logits = self.answered[:, :C]
        width = torch.full_like(batch.y, logits.shape[1])
        logits = F.pad(logits, (0, C - logits.shape[1]))  # rows of one memory are equally long
        self.memory.add(batch.x, batch.y, task=batch.task, logits=logits, width=width)

    def memory_bytes(self) -> int:
        """Bytes of the stored rows, labels, task numbers and logits."""
        return self.memory.nbytes

    def state_dict(self) -> dict:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.memory.load_state_dict(state["memory"], self.device)
