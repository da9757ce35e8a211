"""Mixture of experts: many feed-forward networks, of which each token uses k.

Idea. A layer with E experts has the parameters of E networks and the cost per token of k of them (plus the
router). The router, a linear map, scores the experts for each token; the token's output is the weighted sum
of its experts' outputs.

    S = h W_r^T + b                                router scores, see `cllab.isolation.routing`
    f_e(h) = W2_e relu(W1_e h + b1_e) + b2_e       one expert
    y[n] = sum_slots kept[n, s] * weight[n, s] * f_{expert[n, s]}(h[n])

Symbols: `h` [N, D] tokens, `S` [N, E], `E` experts, `k` slots, `H` hidden width of an expert, `C` places per
expert.

A token whose assignments were all dropped gets 0 from the layer; a residual connection around it (see
`MoEClassifier`) lets the token pass unchanged.

Sources: Shazeer et al. 2017 (sparsely gated layer); Fedus et al. 2022, Switch Transformers (k=1, where the
weight is the probability itself: renormalised to the constant 1 it would give the router no gradient from the
task).
"""

import warnings

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator
from cllab.isolation.routing import Routing, check_factor, expert_capacity, position_in_expert, route
from cllab.models import MAX_WIDTH, linear


class MoE(nn.Module):
    """x [..., dim] -> y [..., dim] through the k best of n_experts feed-forward experts per token.

    dim              D, features of a token.
    n_experts        E >= 1.
    k                experts per token, 1..E.
    hidden           H, hidden width of each expert; None: 4 * dim.
    capacity_factor  places per expert relative to an even load (`expert_capacity`); None: no limit.
    overflow, renormalise, priority   as in `route`. k=1 with renormalise=True warns: its router cannot learn
                     from the task.
    seed             of the initial weights; the global generator is not touched.

    After a forward `.routing` and `.logits` [N, E] are those of that batch (N tokens = all leading dimensions
    together), with gradient, for a balance loss. Copies and checkpoints of the layer leave them out.
    """

    logits: Tensor | None
    routing: Routing | None

    def __init__(
        self,
        dim: int,
        n_experts: int,
        k: int,
        hidden: int | None = None,
        capacity_factor: float | None = None,
        overflow: str = "drop",
        renormalise: bool = True,
        priority: str = "order",
        seed: int = 0,
    ):
        super().__init__()
        self.dim = checks.integer("dim", dim, 1, MAX_WIDTH)
        self.n_experts = checks.integer("n_experts", n_experts, 1, MAX_WIDTH)
        self.k = checks.integer("k", k, 1, n_experts)
        hidden = 4 * dim if hidden is None else checks.integer("hidden", hidden, 1, MAX_WIDTH)
        self.capacity_factor = None if capacity_factor is None else check_factor("capacity_factor", capacity_factor)
        self.overflow = checks.choice("overflow", overflow, ("drop", "reroute"))
        self.priority = checks.choice("priority", priority, ("order", "probability"))
        self.renormalise = checks.flag("renormalise", renormalise)
        if k == 1 and renormalise and n_experts > 1:
            warnings.warn(
                "MoE with k=1 and renormalise=True: every weight is 1, so the task loss gives the router no "
                "gradient and it stays as it was initialised; use renormalise=False (Switch) or k=2",
                stacklevel=2,
            )
        source = generator(seed, "MoE")
        self.router = linear(dim, n_experts, source)
        self.experts = Experts(n_experts, dim, hidden, source)
        self.logits = self.routing = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [..., dim] -> y [..., dim].

        mask [...] bool: False on padding, which gets 0, takes no place and counts in no statistic.
        """
        checks.floats("x", x)
        if x.shape[-1:] != (self.dim,):
            raise ValueError(f"x must have shape [..., {self.dim}], got {tuple(x.shape)}")
        if x.dtype != self.router.weight.dtype:
            raise TypeError(f"x must be {self.router.weight.dtype} as the layer's weights, got {x.dtype}")
        if mask is not None:
            _check_mask(mask, x)
            y = torch.zeros_like(x)
            y[mask] = self._tokens(x[mask])
            return y
        return self._tokens(x.reshape(-1, self.dim)).view(x.shape)

    def _tokens(self, h: Tensor) -> Tensor:
        """h [N, D] -> y [N, D]."""
        capacity = None
        if self.capacity_factor is not None:
            capacity = expert_capacity(len(h), self.n_experts, self.k, self.capacity_factor)
        logits = self.router(h)
        routing = route(logits, self.k, capacity, self.overflow, self.renormalise, self.priority)
        self.logits, self.routing = logits, routing

        # Dispatch: each kept (token, slot) gets a row of its expert's block; all experts run in one product.
        token, slot = routing.kept.nonzero(as_tuple=True)  # [M], [M]
        expert = routing.expert[token, slot]  # [M]
        row = position_in_expert(expert, self.n_experts)  # [M]
        block = h.new_zeros(self.n_experts, int(row.max()) + 1, self.dim)  # [E, C, D]
        block[expert, row] = h[token]

        # Combine: y[n] = sum_slots kept * weight * f_expert(h[n])
        weight = routing.weight[token, slot].to(h.dtype)
        output = weight[:, None] * self.experts(block)[expert, row]  # [M, D]
        return torch.zeros_like(h).index_add(0, token, output)

    def __getstate__(self) -> dict:
        # torch refuses to copy a tensor that is part of a graph, and a stale routing means nothing in a copy.
        return {**self.__dict__, "logits": None, "routing": None}


class Experts(nn.Module):
    """E feed-forward networks with stacked weights: block [E, C, D] -> [E, C, D], expert e on block[e]."""

    def __init__(self, n_experts: int, dim: int, hidden: int, source: torch.Generator):
        super().__init__()
        inner = [linear(dim, hidden, source) for _ in range(n_experts)]
        outer = [linear(hidden, dim, source) for _ in range(n_experts)]
        self.w1 = nn.Parameter(torch.stack([layer.weight.detach().T for layer in inner]))  # [E, D, H]
        self.b1 = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in inner]))  # [E, 1, H]
        self.w2 = nn.Parameter(torch.stack([layer.weight.detach().T for layer in outer]))  # [E, H, D]
        self.b2 = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in outer]))  # [E, 1, D]

    def forward(self, block: Tensor) -> Tensor:
        return torch.relu(block @ self.w1 + self.b1) @ self.w2 + self.b2


class MoEClassifier(nn.Module):
    """embed -> MoE with a residual around it -> linear head: x [N, in_features] -> logits [N, n_classes].

    `.moe` is the MoE layer, `dim` its width; `options` (hidden, capacity_factor, overflow, renormalise,
    priority) go to it.
    """

    def __init__(self, in_features: int, dim: int, n_experts: int, k: int, n_classes: int, seed: int = 0, **options):
        super().__init__()
        checks.integer("in_features", in_features, 1, MAX_WIDTH)
        checks.integer("dim", dim, 1, MAX_WIDTH)
        checks.integer("n_classes", n_classes, 1, MAX_WIDTH)
        source = generator(seed, "weights")
        self.embed = linear(in_features, dim, source)
        self.moe = MoE(dim, n_experts, k, seed=seed, **options)
        self.head = linear(dim, n_classes, source)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees in x [N, in_features]: [N, dim]."""
        h = self.embed(x)
        return h + self.moe(h)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in_features] -> logits [N, n_classes]."""
        return self.head(self.features(x))


def _check_mask(mask: Tensor, x: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.shape != x.shape[:-1] or not bool(mask.any()):
        raise ValueError(
            f"mask must have shape {tuple(x.shape[:-1])} and at least one True, "
            f"got shape {tuple(mask.shape)} with {int(mask.sum())} True"
        )
