"""Domain experts in training: each domain of the data gets an expert of its own, and the old ones stay.

    domain 1      trains the network and expert 1
    domain d > 1  expert d starts as a copy of the expert that answers its rows best, and learns on them alone
    at test       the domain is given: its expert.   Not given: p(y | x) = sum_d P(d) p(y | x, d)

No router is trained. How P(d) follows a text, from the tokens read so far, is told in domains.py; `log_likelihood`
below gives what it needs. Old experts and the shared layers are frozen, so what the network answers for a domain that
is given never changes.
Source: Gururangan et al. 2022, "DEMix layers: disentangling domains for modular language modeling". There the shared
layers learn with all domains known at the start together, and stay when others arrive; here they learn with the first.
"""

import contextlib

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.growth import freeze_old, grow
from cllab.isolation.moe import MoE
from cllab.isolation.moe_classifier import MoEClassifier, Owned
from cllab.isolation.switch import freeze
from cllab.training import Context, Method, evaluating


@contextlib.contextmanager
def sent_to(model: MoEClassifier, expert: int):
    """Inside the block all rows go to this expert."""
    _check(model)
    checks.integer("expert", expert, 0, model.moe.n_experts - 1)
    guide = model.guide
    model.guide = lambda x: {"expert": torch.full((len(x), 1), expert, device=x.device)}
    try:
        yield model
    finally:
        model.guide = guide


@torch.no_grad()
def log_likelihood(model: MoEClassifier, x: Tensor, y: Tensor) -> Tensor:
    """ln p(y | x, d) [N, D] by each of the model's D experts, for rows x [N, in_features] and answers y int64 [N]."""
    answers = _log_probabilities(model, x)
    checks.labels("y", y)
    n_classes = answers.shape[2]
    if len(y) != len(x) or int(y.max()) >= n_classes:
        raise ValueError(f"y must name one of {n_classes} classes for each of {len(x)} rows, got {len(y)}")
    return answers.gather(2, y.to(x.device)[:, None, None].expand(-1, answers.shape[1], 1))[:, :, 0]


class Newest:
    """An owner of all rows: the layer's newest expert."""

    def __init__(self, moe: MoE):
        self.moe = moe

    def __call__(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self.moe.n_experts - 1, device=x.device)


class DomainExperts(Method):
    """An expert per task, for an `MoEClassifier` that starts with a single expert.

    prior: P(d) for rows whose domain is not given, a list of a weight >= 0 per task, or None for equal weights; only
    the domains seen so far count. By itself the model answers with its newest expert.
    """

    def __init__(self, prior: list[float] | None = None):
        self.prior = None
        if prior is not None:
            if not isinstance(prior, list | tuple):
                raise TypeError(f"prior must be a list of weights or None, got {type(prior).__name__}")
            weights = [checks.number("each of prior", weight, 0.0) for weight in prior]
            if not weights or weights[0] == 0:
                raise ValueError(f"prior must leave the first domain a weight above 0, got {prior}")
            self.prior = torch.tensor(weights, dtype=torch.float64)

    def start_run(self, ctx: Context) -> None:
        _check(ctx.model)
        if ctx.model.moe.choice == "expert":
            raise ValueError("model must have an MoE layer whose tokens choose their experts")
        if ctx.model.moe.n_experts != 1:
            raise ValueError(f"model must start with a single expert, got {ctx.model.moe.n_experts}: use a new one")
        if self.prior is not None and len(self.prior) != len(ctx.stream):
            raise ValueError(f"prior must hold a weight for each of {len(ctx.stream)} tasks, got {len(self.prior)}")

    def start_task(self, ctx: Context) -> None:
        if ctx.task_index > 0:
            model, task = ctx.model, ctx.task
            best = int(log_likelihood(model, task.x, task.y).mean(dim=0).argmax())
            freeze(model)
            grow(model.moe, 1, "copy", source=[best], generator=self.generator)
            freeze_old(model.moe)
        ctx.model.guide = Owned(Newest(ctx.model.moe), ctx.model)

    def parameters(self, ctx: Context) -> list[nn.Parameter]:
        return [parameter for parameter in ctx.model.parameters() if parameter.requires_grad]

    def predict(self, model: nn.Module, x: Tensor, allowed: Tensor, task_id: int | None) -> Tensor:
        """Log-probabilities [N, C]: of the domain's expert, or of the mixture over the domains seen so far."""
        seen = model.moe.n_experts
        if task_id is not None and task_id < seen:
            with sent_to(model, task_id):
                return model(x).log_softmax(dim=1)
        answers = _log_probabilities(model, x)  # [N, D, C]
        weights = answers.new_ones(seen) if self.prior is None else self.prior[:seen].to(answers)
        # ln sum_d P(d) p(y | x, d)
        return ((weights / weights.sum()).log()[:, None] + answers).logsumexp(dim=1)


def _log_probabilities(model: MoEClassifier, x: Tensor) -> Tensor:
    """ln p(y | x, d) for all y: [N, D, C]."""
    _check(model)
    answers = []
    with evaluating(model), torch.no_grad():
        for expert in range(model.moe.n_experts):
            with sent_to(model, expert):
                answers.append(model(x).log_softmax(dim=1))
    return torch.stack(answers, dim=1)


def _check(model: nn.Module) -> None:
    if not isinstance(model, MoEClassifier):
        raise ValueError(f"model must be an MoEClassifier, got {type(model).__name__}")
