"""Task selectors: which task does this row come from, when nobody says?

A part per task is only as good as the choice of the part. With routing accuracy rho, accuracy a of the right part and w
of a wrong one,

    accuracy = rho a + (1 - rho) w                      rho = .9, a = .95, w = .3: 0.885, not 0.95

centroid   task(x) = argmin_t min_c ||phi(x) - mu_{t,c}||      mu_{t,c}: mean features of class c of task t
router     task(x) = argmax_t (W phi(x) + b)_t                 softmax regression on kept features
oracle     the task is given with the row

Symbols: phi(x) [N, H], features that no later task changes: the rows themselves, or the frozen base of the model.
A selector is itself learned task after task. Centroids of tasks that came earlier stay where they are. A router is
trained again with each task, and forgets unless it keeps features of earlier tasks (`keep`).
Source: the nearest-mean rule of Rebuffi et al. 2017 on frozen features; a gate beside frozen experts: Aljundi,
Chakravarty & Tuytelaars 2017, "Expert Gate" (there by reconstruction error).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.device import given_generator
from cllab.isolation.switch import using
from cllab.training import evaluating

KINDS = ("centroid", "router", "oracle")


def routed_accuracy(rho: float, right: float, wrong: float) -> float:
    """rho right + (1 - rho) wrong: accuracy when a share rho of the rows reaches the right part. All in [0, 1]."""
    rho, right, wrong = (
        checks.number(name, value, 0.0, 1.0) for name, value in (("rho", rho), ("right", right), ("wrong", wrong))
    )
    return rho * right + (1 - rho) * wrong


def nearest_centroid(phi: Tensor, mu: Tensor) -> Tensor:
    """Index of the nearest of the centroids mu [M, H] for each row of phi [N, H]: int64 [N], ties to the lowest."""
    checks.floats("phi", phi, 2)
    checks.floats("mu", mu, 2)
    if phi.shape[1] != mu.shape[1]:
        raise ValueError(f"mu must have the {phi.shape[1]} features of phi, got {mu.shape[1]}")
    # argmin_m ||phi - mu_m||
    return torch.cdist(phi, mu.to(phi.dtype)).argmin(dim=1)


class TaskSelector:
    """Learns tasks one after another and tells for a row which of them it belongs to.

    kind: see above. features: "input", the rows as they are; "base", features(x) of the model without its parts,
    which must be frozen. keep: how many rows' features a router keeps of each task. steps, lr: of its training (Adam,
    all kept rows at once).

    tasks: the numbers of the tasks learned so far, which may skip some.
    """

    def __init__(
        self, kind: str = "centroid", features: str = "input", *, keep: int = 100, steps: int = 200, lr: float = 0.05
    ):
        self.kind = checks.choice("kind", kind, KINDS)
        self.features = checks.choice("features", features, ("input", "base"))
        self.keep = checks.integer("keep", keep, 0)
        self.steps = checks.integer("steps", steps, 1)
        self.lr = checks.positive("lr", lr)
        self.forget()

    def __repr__(self) -> str:
        return f"TaskSelector({self.kind!r}, {self.features!r}, keep={self.keep}, steps={self.steps}, lr={self.lr})"

    def forget(self) -> None:
        """Be as before the first task."""
        self.tasks: list[int] = []
        self.mu: list[Tensor] = []  # centroids [C_t, H] of each task
        self.kept: list[Tensor] = []  # features [<= keep, H] of each task
        self.weight: Tensor | None = None  # the router's W [T, H] and b [T]
        self.bias: Tensor | None = None

    def learn(
        self, task: int, x: Tensor, y: Tensor, model: nn.Module | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Take up a new task from its rows x [N, ...] with labels y [N].

        model: needed for features="base". generator: chooses the rows that a router keeps.
        Raises ValueError for a task that is known already.
        """
        checks.integer("task", task, 0)
        if task in self.tasks:
            raise ValueError(f"task must be new, {task} has been learned already")
        checks.labels("y", y, n=len(checks.floats("x", x)))
        phi = self._phi(x, model)
        if self.kind == "router":
            self._train(phi, given_generator(generator, "TaskSelector"))
        elif self.kind == "centroid":
            # mu_{t,c} = mean of phi over the rows of class c
            self.mu.append(torch.stack([phi[y == c].mean(dim=0) for c in y.unique()]))
        self.tasks.append(task)

    def choose(self, x: Tensor, model: nn.Module | None = None, task_id: int | None = None) -> Tensor:
        """The task of each row of x [N, ...]: int64 [N]. task_id: what an oracle is told, and nobody else uses.

        Raises ValueError when no task has been learned, and when an oracle is told nothing, or a task not learned.
        """
        if not self.tasks:
            raise ValueError("the selector must learn a task before it can choose one")
        checks.floats("x", x)
        if self.kind == "oracle":
            if task_id not in self.tasks:
                raise ValueError(f"task_id must be one of {self.tasks} for an oracle, got {task_id!r}")
            return torch.full((len(x),), task_id, dtype=torch.int64, device=x.device)
        phi = self._phi(x, model)
        if self.kind == "centroid":
            owner = torch.cat([torch.full((len(mu),), i) for i, mu in enumerate(self.mu)]).to(x.device)
            place = owner[nearest_centroid(phi, torch.cat(self.mu))]
        else:
            # argmax_t (W phi + b)_t
            place = F.linear(phi, self.weight, self.bias).argmax(dim=1)
        return torch.tensor(self.tasks, device=x.device)[place]

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        kept = [*self.mu, *self.kept, *(t for t in (self.weight, self.bias) if t is not None)]
        return sum(tensor.nbytes for tensor in kept)

    def state_dict(self) -> dict:
        """Everything learned, as tensors and lists."""
        names = ("tasks", "mu", "kept", "weight", "bias")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict, device: torch.device | str = "cpu") -> None:
        """Take up the state where `state_dict` left it, on `device`."""
        self.tasks = list(state["tasks"])
        self.mu, self.kept = ([t.to(device) for t in state[name]] for name in ("mu", "kept"))
        self.weight, self.bias = (None if state[n] is None else state[n].to(device) for n in ("weight", "bias"))

    @torch.no_grad()
    def _phi(self, x: Tensor, model: nn.Module | None) -> Tensor:
        """phi(x) [N, H]; ValueError when H is not what the selector has learned from."""
        phi = self._raw(x, model)
        known = next((kept.shape[1] for kept in (*self.mu, *self.kept)), phi.shape[1])
        if phi.shape[1] != known:
            raise ValueError(f"x must give {known} features like the rows learned before, got {phi.shape[1]}")
        return phi

    def _raw(self, x: Tensor, model: nn.Module | None) -> Tensor:
        if self.features == "input":
            return x.flatten(1)
        if not callable(getattr(model, "features", None)):
            raise TypeError(f"model must have features(x) for a selector on its base, got {type(model).__name__}")
        with using(model), evaluating(model):
            return model.features(x).flatten(1)

    def _train(self, phi: Tensor, generator: torch.Generator) -> None:
        """Train W and b, with a new row each, on the new task's features and those kept of the others."""
        W, b = phi.new_zeros(len(self.tasks) + 1, phi.shape[1]), phi.new_zeros(len(self.tasks) + 1)
        if self.weight is not None:
            W[:-1], b[:-1] = self.weight, self.bias
        W.requires_grad_(True), b.requires_grad_(True)
        groups = [*self.kept, phi]
        target = torch.cat([torch.full((len(group),), t) for t, group in enumerate(groups)]).to(phi.device)
        # every task counts the same, however many of its rows are here
        weight = torch.tensor([1 / max(len(group), 1) for group in groups], dtype=phi.dtype, device=phi.device)
        optimizer = torch.optim.Adam([W, b], lr=self.lr)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                F.cross_entropy(F.linear(torch.cat(groups), W, b), target, weight).backward()
                optimizer.step()
        self.weight, self.bias = W.detach(), b.detach()
        rows = torch.randperm(len(phi), generator=generator)[: self.keep].to(phi.device)
        self.kept.append(phi[rows])


@torch.no_grad()
def routing_report(selector: TaskSelector, method, model: nn.Module, tasks) -> dict[str, list[float]]:
    """On the test rows of each of `tasks`: how many reach their part, and accuracies with the right part and as routed.

    The second is what an oracle would get; both only tell how good the answers are and never choose one.
    """
    report = {"routing accuracy": [], "accuracy, right part": [], "accuracy, routed": []}
    with evaluating(model):
        for number, task in enumerate(tasks):
            chosen = selector.choose(task.x_test, model, number)
            right = method.answer(model, task.x_test, number)
            routed = method.answer_by_row(model, task.x_test, chosen)
            values = (chosen == number, right.argmax(1) == task.y_test, routed.argmax(1) == task.y_test)
            for name, value in zip(report, values, strict=True):
                report[name].append(value.double().mean().item())
    return report
