"""Balance losses: pressure on the router to use all its experts.

Idea. The router and the experts are learned together: an expert that gets more tokens gets better, and then
gets still more. Without pressure a few experts may take everything. Each loss here is a number that grows
with imbalance.

    switch     E * sum_e f[e] * Pbar[e]             f[e] = load[e] / N, Pbar[e] = mean_n P[n, e]
    variance   Var_e(load) + Var_e(importance)      counts and summed probabilities: grows with N^2
    cv2        Var_e(importance) / Mean_e(importance)^2        free of N
    z          mean_n logsumexp_e(S[n, :])^2        keeps the scores small; says nothing about balance
    shazeer    CV2(gates) + CV2(smooth load)        gates[e] = sum of the weights that e was given

Symbols: `S` = `logits` [N, E], `P` = softmax of S, `load` [E] counts the assignments before capacity,
`importance` [E] = sum_n P[n, e]. Variances are population variances (divided by E).

Where the gradient runs. Counts are piecewise constant in the scores, so `load` has no gradient: "switch"
learns through Pbar only, d/dS[n, e] = (E/N) P[n, e] (f[e] - sum_j P[n, j] f[j]), and in "variance" the load
term is a readout, only the importance term trains. "shazeer" has a load that trains: the smooth one of noise.py,
which a layer with noise has while it trains.

"switch" is 1 for uniform routing with k=1 (k in general) and E when all tokens have P one-hot on one expert.
1 is not a lower bound: f and Pbar can disagree, and then it is smaller.

Sources: Fedus et al. 2022 (switch, alpha = 1e-2); Shazeer et al. 2017 (shazeer, alpha = 1e-2 for both terms; cv2 is
its first term on probabilities instead of gate values); Zoph et al. 2022, ST-MoE (z, alpha = 1e-3).
"""

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.moe import MoE
from cllab.isolation.routing import Routing, scores
from cllab.training import Batch, Context, Method

KINDS = ("switch", "variance", "cv2", "z", "shazeer")


def balance_loss(kind: str, logits: Tensor, routing: Routing, smooth_load: Tensor | None = None) -> Tensor:
    """The balance loss "switch", "variance", "cv2", "z" or "shazeer" of one batch, a scalar without coefficient.

    logits [N, E] are the router scores and `routing` what `route` made of them. The gradient runs to
    `logits`, through the probabilities only (the load is a count). smooth_load [E]: for "shazeer", see noise.py.
    Raises ValueError for an unknown kind, when the arguments disagree on N or E, when "z" overflows and when
    "shazeer" lacks its load, TypeError when `routing` is not a `Routing`.
    """
    checks.choice("kind", kind, KINDS)
    logits = scores("logits", logits)
    _same_batch(logits, routing)
    n, n_experts = logits.shape
    load = routing.load.to(logits.dtype)  # [E]
    importance = logits.softmax(dim=1).sum(dim=0)  # [E]

    if kind == "switch":
        # E * sum_e f[e] * Pbar[e]
        return n_experts * (load / n * importance / n).sum()
    if kind == "variance":
        return load.var(unbiased=False) + importance.var(unbiased=False)
    if kind == "cv2":
        return squared_variation(importance)
    if kind == "shazeer":
        if not isinstance(smooth_load, Tensor) or smooth_load.shape != importance.shape:
            raise ValueError('smooth_load must be a tensor [E] for "shazeer": its layer needs noise, and training mode')
        if checks.floats("smooth_load", smooth_load).min() < 0 or smooth_load.sum() == 0:
            raise ValueError(f"smooth_load must be at least 0 and not all 0, got {smooth_load.tolist()}")
        # gates[e] = sum of weight[n, s] over the assignments to e
        gates = torch.zeros_like(importance).index_add(0, routing.expert.flatten(), routing.weight.flatten())
        return squared_variation(gates) + squared_variation(smooth_load)
    z = (logits.logsumexp(dim=1) ** 2).mean()
    if not bool(z.isfinite()):
        raise ValueError(f"logits must be smaller: their squares overflow {logits.dtype}")
    return z


def squared_variation(values: Tensor) -> Tensor:
    """CV2 = Var / Mean^2, the squared coefficient of variation (population variance), of values [E]; a scalar."""
    return values.var(unbiased=False) / values.mean() ** 2


class LoadBalance(Method):
    """Adds alpha * balance_loss(kind), summed over the model's `MoE` layers, to the training loss.

    The term is called "balance" ("z-loss" for kind "z", which often goes together with a balance loss).

    alpha  coefficient, >= 0; 1e-2 is usual for "switch". 0 shows the term without training on it.
    kind   see `balance_loss`.

    Put it in `fit(model, stream, methods=[LoadBalance(1e-2)])`. It reads the routing that each layer kept
    from the forward of this step, so it costs no second forward. ValueError at the start of a run when the
    model has no MoE layer.
    """

    def __init__(self, alpha: float = 1e-2, kind: str = "switch"):
        self.alpha = checks.number("alpha", alpha, 0)
        self.kind = checks.choice("kind", kind, KINDS)

    def start_run(self, ctx: Context) -> None:
        if not moe_layers(ctx.model):
            raise ValueError(f"model must contain an MoE layer, got {type(ctx.model).__name__} without one")
        for layer in moe_layers(ctx.model):
            if layer.choice == "expert":
                raise ValueError(
                    "model must have MoE layers whose tokens choose: experts that choose are balanced already"
                )
            if self.kind == "shazeer" and layer.noise is None:
                raise ValueError('model must have MoE layers with noise=True for kind="shazeer"')

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        layers = moe_layers(ctx.model)
        total = sum(balance_loss(self.kind, layer.logits, layer.routing, layer.smooth_load) for layer in layers)
        return {"z-loss" if self.kind == "z" else "balance": self.alpha * total}


def moe_layers(model: nn.Module) -> list[MoE]:
    """Every MoE layer of the model."""
    return [module for module in model.modules() if isinstance(module, MoE)]


def _same_batch(logits: Tensor, routing: Routing) -> None:
    if not isinstance(routing, Routing):
        raise TypeError(f"routing must be a Routing, the result of route(), got {type(routing).__name__}")
    n, n_experts = routing.expert.shape[0], routing.load.shape[0]
    if (n, n_experts) != tuple(logits.shape):
        raise ValueError(
            f"routing must come from these logits: routing has {n} tokens and {n_experts} experts, "
            f"logits has shape {tuple(logits.shape)}"
        )
