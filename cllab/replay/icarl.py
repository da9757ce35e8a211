"""iCaRL: learn features with distillation and a few exemplars, answer by the nearest mean of exemplars.

Idea. A linear head is unfair between old and new classes and goes stale when features move. So keep an ordered
list of exemplars per class (herding.py), train on them together with the new data, hold the outputs of the old
classes where the network of the previous task had them, and classify by the means of the exemplars' features, which
are computed anew with the current network. The head is only there to train the features.

    z = logits [B, t] of the t classes seen so far, the first s of them old;  g = sigma(z)
    q_iy = sigma(z_iy of the old network)                                       old columns, for every row
    L = -(1 / (B t)) sum_i ( sum_{y new} [ 1{y = y_i} ln g_iy + 1{y != y_i} ln(1 - g_iy) ]        "task"
                           + sum_{y old} [ q_iy ln g_iy + (1 - q_iy) ln(1 - g_iy) ] )             "distillation"
    dL / dz_iy = (g_iy - target_iy) / (B t)
    m = K / t exemplars per class, rounded;  y(x) = argmin_y || phi(x) - mu_y ||, phi and mu of unit length

The distillation part is at least the mean entropy of q / t, not 0: only what exceeds that floor can be learned away.
An old exemplar's own label is not used, its old columns follow q like those of every other row.
After a task the old lists keep their first m entries and only the new classes are herded: old training data is gone,
and a list in herding order is one that may be cut at its end.

Source: Rebuffi et al. 2017 (CVPR), algorithms 1 to 5. The mean over all B t entries is our reading of the authors'
learning rate of 2. Departures from their code: the head grows with the classes (theirs has all columns from the start
and trains unseen ones towards 0); the quota is rounded down by default (`rounding="ceil"` is theirs and may exceed K);
a row is chosen at most once; means are not averaged with those of mirrored images, which are wrong for digits; q is
computed per batch; a step brings as many exemplars as new rows. `union=True` brings them in proportion instead, as the
paper's shuffled union of both does, which needs more epochs where exemplars are few (Split-MNIST: 0.92 against 0.89).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.replay.herding import ROUNDINGS, class_means, herding_steps, mean_distances, quota, unit_rows
from cllab.training import Batch, Context, Method, Phase, evaluating, frozen_copy


class ICaRLLoss(NamedTuple):
    """The two parts of the loss; their sum is the mean over all B t sigmoid outputs, in nats."""

    new: Tensor
    distillation: Tensor


def icarl_targets(labels: Tensor, new_classes: Tensor, old_logits: Tensor | None = None) -> Tensor:
    """What the sigmoid outputs should be, [B, t]: the s old columns first, then those of `new_classes`.

    labels: int64 [B]. new_classes: int64 [t - s], the classes that came with this task. old_logits: [B, s], what the
    old network says of the same rows in the old columns; None where there are no old classes.
    """
    checks.labels("labels", labels, None if old_logits is None else len(old_logits))
    checks.labels("new_classes", new_classes)
    # 1{y = y_i}
    one_hot = labels[:, None] == new_classes
    if old_logits is None:
        return one_hot.to(torch.get_default_dtype())
    # q_iy = sigma(z_iy of the old network)
    q = checks.floats("old_logits", old_logits, 2).detach().sigmoid()
    return torch.cat([q, one_hot.to(q.dtype)], dim=1)


def icarl_loss(logits: Tensor, targets: Tensor, n_old: int = 0, weights: Tensor | None = None) -> ICaRLLoss:
    """Binary cross-entropies of the t outputs, averaged over all B t of them, in two parts.

    logits, targets [B, t], the first `n_old` columns of old classes. weights [B]: the rows' shares, which sum to 1;
    default 1 / B each. ValueError for shapes that differ, numbers that are not finite and targets outside [0, 1].
    """
    checks.floats("logits", logits, 2)
    checks.floats("targets", targets, 2)
    if logits.shape != targets.shape:
        raise ValueError(f"targets must be [B, t] like logits {tuple(logits.shape)}, got {tuple(targets.shape)}")
    if bool(((targets < 0) | (targets > 1)).any()):
        raise ValueError("targets must lie in [0, 1]: they are probabilities")
    checks.integer("n_old", n_old, 0, logits.shape[1])
    if weights is None:
        weights = logits.new_full((len(logits),), 1 / len(logits))
    elif len(checks.floats("weights", weights, 1)) != len(logits):
        raise ValueError(f"weights must hold one number per row: {len(logits)} rows, got {len(weights)}")
    return _loss(logits, targets, n_old, weights)


def _loss(logits: Tensor, targets: Tensor, n_old: int, weights: Tensor) -> ICaRLLoss:
    # -[ target ln g + (1 - target) ln(1 - g) ]
    entries = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    # (1 / B) sum_i (1 / t) sum_y
    columns = weights @ entries / logits.shape[1]
    return ICaRLLoss(columns[n_old:].sum(), columns[:n_old].sum())


def first_of_each(labels: Tensor, m: int) -> Tensor:
    """Truncation: which rows are the first `m` of their class in `labels` int64 [N], in the order they stand in."""
    checks.labels("labels", labels)
    checks.integer("m", m, 1)
    rows = [(labels == c).nonzero().flatten()[:m] for c in labels.unique()]
    return torch.cat(rows).sort().values


class ICaRL(Method):
    """Multi-label training with distillation, herded exemplars, nearest mean of exemplars.

    capacity: K, exemplars of all classes together, at least one for each class of the stream.
    rounding: of the quota K / t, "floor" (never more than K) or "ceil" (the authors' code), see `quota`.
    normalise: scale features to unit length for herding, means and answers, as the paper does. A row whose features
    are all 0 has no direction and raises ValueError, as a narrow ReLU network may need normalise=False.
    batch_size: exemplars per step, default as many as there are new rows; every row weighs the same in the loss.
    union: draw them in proportion to the new rows, so that an epoch sees each exemplar once on average.

    Only for streams whose tasks bring classes of their own. Until a class has exemplars it is never an answer; while
    no class that is asked for has any (in the first task) the head answers. Rows that other methods replay count with
    the weight they were given. The model needs `features`, `head` and `grow_head`, as those of `cllab.models`.
    """

    def __init__(
        self, capacity: int, *, rounding: str = "floor", normalise: bool = True, batch_size: int | None = None,
        union: bool = False,
    ):  # fmt: skip
        self.capacity = checks.integer("capacity", capacity, 1)
        self.rounding = checks.choice("rounding", rounding, ROUNDINGS)
        self.normalise = checks.flag("normalise", normalise)
        self.batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        self.union = checks.flag("union", union)
        if union and batch_size is not None:
            raise ValueError("batch_size must be None with union=True, which decides how many exemplars a step brings")
        self._forget()

    def _forget(self) -> None:
        self.x: Tensor | None = None  # [n, ...], class by class, each in herding order
        self.y: Tensor | None = None  # int64 [n]
        self.old: nn.Module | None = None  # the network as the task before left it, while a task is under way

    @property
    def exemplars(self) -> dict[int, Tensor]:
        """What is kept of each class, in herding order: {class: [m, ...]}."""
        return {} if self.x is None else {c: self.x[self.y == c] for c in self.y.unique().tolist()}

    def start_run(self, ctx: Context) -> None:
        tasks = ctx.stream.tasks
        classes = [c for task in tasks for c in task.classes]
        if len(set(classes)) < len(classes):
            raise ValueError(
                f"ICaRL needs a stream whose tasks bring classes of their own, {ctx.stream.name} "
                f"({ctx.stream.scenario}-incremental) repeats some: a class is herded once, when all its data is there"
            )
        if missing := [name for name in ("features", "head", "grow_head") if not hasattr(ctx.model, name)]:
            raise ValueError(f"model must have {', '.join(missing)} for ICaRL, as the models of cllab.models do")
        quota(self.capacity, len(classes), self.rounding)  # raises where a class could keep nothing
        self._forget()
        self.task_of = torch.zeros(ctx.stream.n_classes, dtype=torch.int64, device=ctx.device)
        for i, task in enumerate(tasks):
            self.task_of[list(task.classes)] = i

    def start_task(self, ctx: Context) -> None:
        before = [c for task in ctx.stream.tasks[: ctx.task_index] for c in task.classes]
        self.old = frozen_copy(ctx.model) if before else None
        needed = max([*before, *ctx.task.classes]) + 1
        if ctx.model.head.out_features < needed:
            ctx.model.grow_head(needed, self.generator)
        self.old_classes = torch.tensor(before, dtype=torch.int64, device=ctx.device)
        self.new_classes = torch.tensor(ctx.task.classes, device=ctx.device)

    def replay(self, ctx: Context, batch: Batch) -> list[Batch]:
        if self.x is None:
            return []
        n = self.batch_size or len(batch.y)
        if self.union:
            n = max(1, round(len(batch.y) * len(self.y) / len(ctx.task.y)))
        rows = torch.randperm(len(self.y), generator=self.generator)[:n].to(ctx.device)
        ctx.info["exemplars"] = len(rows)
        task = self.task_of[self.y[rows]]
        weight = len(rows) / len(batch.y)  # the mean over all rows, new or not
        return [Batch.of("exemplars", self.x[rows], self.y[rows], task, ctx.allowed(task), weight)]

    def task_loss(self, ctx: Context, batch: Batch, outputs: Tensor) -> Tensor:
        old_logits = None
        if self.old is not None:
            with torch.no_grad():
                old_logits = self.old(batch.x)[:, self.old_classes]
        targets = icarl_targets(batch.y, self.new_classes, old_logits)
        columns = torch.cat([self.old_classes, self.new_classes])
        # columns of classes that have not come yet stand in neither part
        loss = _loss(outputs[:, columns], targets, len(self.old_classes), batch.shares(outputs.dtype))
        self.distillation = loss.distillation
        return loss.new

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        return {} if self.old is None else {"distillation": self.distillation}

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        m = quota(self.capacity, len(self.old_classes) + len(self.new_classes), self.rounding)
        x, y = [], []
        if self.x is not None:
            kept = first_of_each(self.y, m)
            x, y = [self.x[kept]], [self.y[kept]]
            yield Phase("truncation", {"quota": m, "dropped": len(self.y) - len(kept)})
        for c in ctx.task.classes:
            rows = ctx.task.x[ctx.task.y == c]
            if not len(rows):
                continue
            steps = list(herding_steps(self._features(ctx.model, rows), min(m, len(rows))))
            x.append(rows[[step.chosen for step in steps]])
            y.append(ctx.task.y.new_full((len(steps),), c))
            yield Phase("herding", {"class": c, "kept": len(steps), "of": len(rows), "error": steps[-1].error})
        self.x, self.y, self.old = torch.cat(x), torch.cat(y), None

    @torch.no_grad()
    def predict(self, model: nn.Module, x: Tensor, allowed: Tensor, task_id: int | None) -> Tensor | None:
        """Minus the distance to each class's exemplar mean, -inf for classes without exemplars: [N, C]."""
        if self.x is None or not bool(allowed[self.y].any()):
            return None
        # mu_y = mean of phi over the exemplars of y, with the features of now
        means = class_means(self._features(model, self.x), self.y)
        distances = mean_distances(self._features(model, x), means, self.normalise)
        scores = torch.full((len(x), len(allowed)), -torch.inf, dtype=distances.dtype, device=x.device)
        scores[:, list(means)] = -distances
        return scores

    @torch.no_grad()
    def _features(self, model: nn.Module, x: Tensor) -> Tensor:
        with evaluating(model):
            phi = checks.floats("features of the model", model.features(x), 2)
        if not self.normalise:
            return phi
        if dead := int((phi == 0).all(dim=1).sum()):
            raise ValueError(
                f"ICaRL cannot scale features to unit length that are all 0, as those of {dead} of {len(x)} rows are: "
                "give the last hidden layer more units, or use normalise=False"
            )
        return unit_rows(phi)

    def memory_bytes(self) -> int:
        """Bytes of the exemplars and their labels."""
        return 0 if self.x is None else self.x.nbytes + self.y.nbytes

    def state_dict(self) -> dict:
        return {"x": self.x, "y": self.y, "old": None if self.old is None else self.old.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        device = self.task_of.device
        self.x, self.y = (None if state[k] is None else state[k].to(device) for k in ("x", "y"))
        self.old = None if state["old"] is None else self.old
        if self.old is not None:
            self.old.load_state_dict(state["old"])
