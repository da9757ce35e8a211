"""Mixture of experts: many feed-forward networks, of which each token uses k.

Idea. A layer with E experts has the parameters of E networks and the cost per token of k of them (plus the
router). The router, a linear map, scores the experts for each token; the token's output is the weighted sum
of its experts' outputs.

    S = h W_r^T + b                                router scores, see `cllab.isolation.routing`
    y[n] = sum_slots kept[n, s] * weight[n, s] * f_{expert[n, s]}(h[n])

Symbols: `h` [N, D] tokens, `S` [N, E], `E` experts, `k` slots, `H` hidden width of an expert, `C` places per
expert.

A token whose assignments were all dropped gets 0 from the layer; a residual connection around it (see
`MoEClassifier`) lets the token pass unchanged.

Sources: Shazeer et al. 2017 (sparsely gated layer); Fedus et al. 2022, Switch Transformers (k=1, where the
weight is the probability itself: renormalised to the constant 1 it would give the router no gradient from the
task).
"""

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cllab import checks
from cllab.device import generator
from cllab.isolation.expert_choice import ExpertChoice, expert_choice
from cllab.isolation.experts import Experts, mixed
from cllab.isolation.guided import guided_scores
from cllab.isolation.noise import noisy_scores, smooth_load
from cllab.isolation.routing import SILENT, Routing, check_factor, expert_capacity, route
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
    noise            True: noisy top-k while training (noise.py), router and noise start at 0. Drawn from
                     torch's global generator, like dropout.
    choice           "token": tokens choose experts. "expert": experts choose tokens (expert_choice.py), with
                     k as the mean number of experts per token; capacity_factor None counts as 1.
    seed             of the initial weights; the global generator is not touched.

    After a forward `.routing`, `.logits` [N, E] (with prior and noise in them) and, with noise in training,
    `.smooth_load` [E] are those of that batch (N tokens = all leading dimensions together), with gradient, for a
    balance loss. Copies and checkpoints of the layer leave them out. `.bias` [E] is what `LossFreeBalance` moves; None
    without it.
    """

    logits: Tensor | None
    routing: Routing | ExpertChoice | None
    smooth_load: Tensor | None
    bias: Tensor | None

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
        *,
        noise: bool = False,
        choice: str = "token",
    ):
        super().__init__()
        self.dim = checks.integer("dim", dim, 1, MAX_WIDTH)
        checks.integer("n_experts", n_experts, 1, MAX_WIDTH)
        self.k = checks.integer("k", k, 1, n_experts)
        self.hidden = 4 * dim if hidden is None else checks.integer("hidden", hidden, 1, MAX_WIDTH)
        self.capacity_factor = None if capacity_factor is None else check_factor("capacity_factor", capacity_factor)
        self.overflow = checks.choice("overflow", overflow, ("drop", "reroute"))
        self.priority = checks.choice("priority", priority, ("order", "probability"))
        self.renormalise = checks.flag("renormalise", renormalise)
        self.choice = checks.choice("choice", choice, ("token", "expert"))
        if choice == "expert" and (overflow != "drop" or priority != "order"):
            raise ValueError('overflow and priority must keep their defaults with choice="expert": no expert overflows')
        if k == 1 and renormalise and n_experts > 1 and choice == "token":
            warnings.warn(
                "MoE with k=1 and renormalise=True: every weight is 1, so the task loss gives the router no "
                "gradient and it stays as it was initialised; use renormalise=False (Switch) or k=2",
                stacklevel=2,
            )
        source = generator(seed, "MoE")
        self.router = linear(dim, n_experts, source)
        self.experts = Experts(n_experts, dim, self.hidden, source)
        self.noise = skip_init(nn.Linear, dim, n_experts, bias=False) if checks.flag("noise", noise) else None
        if self.noise is not None:
            for parameter in (*self.noise.parameters(), *self.router.parameters()):
                nn.init.zeros_(parameter)
        self.register_buffer("bias", None)
        self.logits = self.routing = self.smooth_load = None

    @property
    def n_experts(self) -> int:
        """E, which grows in `LifelongMoE`."""
        return len(self.experts)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, prior: Tensor | None = None, expert: Tensor | None = None
    ) -> Tensor:
        """x [..., dim] -> y [..., dim].

        mask [...] bool: False on padding, which gets 0, takes no place and counts in no statistic. For the N tokens
        that count, in order: prior [N, E], a prior over the experts (guided.py); expert int64 [N, slots], the
        experts themselves, each with the same weight: neither the router is asked (hash routing) nor the capacity.
        """
        checks.floats("x", x if mask is None else _counted(x, mask))
        if x.shape[-1:] != (self.dim,):
            raise ValueError(f"x must have shape [..., {self.dim}], got {tuple(x.shape)}")
        if x.dtype != self.router.weight.dtype:
            raise TypeError(f"x must be {self.router.weight.dtype} as the layer's weights, got {x.dtype}")
        if mask is not None:
            y = torch.zeros_like(x)
            y[mask] = self._tokens(x[mask], prior, expert)
            return y
        return self._tokens(x.reshape(-1, self.dim), prior, expert).view(x.shape)

    def _tokens(self, h: Tensor, prior: Tensor | None, expert: Tensor | None) -> Tensor:
        """h [N, D] -> y [N, D]."""
        if prior is not None and expert is not None:
            raise ValueError("expert must not be given together with a prior: it leaves nothing to choose")
        logits, load = self._scores(h, prior)
        # an expert that no token may go to, as a silent one, takes no share of the places
        n_open = int((logits > -math.inf).any(dim=0).sum())
        if expert is not None:
            routing = self._forced(logits, expert)
        elif self.choice == "expert":
            capacity = expert_capacity(len(h), max(n_open, self.k), self.k, self.capacity_factor or 1.0)
            routing = expert_choice(logits, min(capacity, len(h)))
        else:
            capacity = None
            if self.capacity_factor is not None:
                capacity = expert_capacity(len(h), max(n_open, self.k), self.k, self.capacity_factor)
            options = (self.overflow, self.renormalise, self.priority, self.bias)
            routing = route(logits, self.k, capacity, *options)
        self.logits, self.routing, self.smooth_load = logits, routing, load

        if isinstance(routing, ExpertChoice):
            n_experts, places = routing.token.shape
            owner = torch.arange(n_experts, device=h.device).repeat_interleave(places)
            return mixed(self.experts, h, routing.token.flatten(), owner, routing.weight.flatten())
        token, slot = routing.kept.nonzero(as_tuple=True)  # [M], [M]
        return mixed(self.experts, h, token, routing.expert[token, slot], routing.weight[token, slot])

    def _scores(self, h: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Router scores [N, E] with prior, noisy in training where there is noise, and then the smooth load [E]."""
        clean = self.router(h) if prior is None else guided_scores(self.router(h), prior)
        closed = clean < SILENT / 2  # silent experts, and those that the prior forbids
        noisy, load = clean, None
        if self.noise is not None and self.training:
            clean = clean.masked_fill(closed, SILENT)
            noisy, sigma = noisy_scores(clean, self.noise(h), torch.randn_like(clean))
            load = smooth_load(clean, noisy, sigma, self.k)
        return noisy.masked_fill(closed, -math.inf), load

    def _forced(self, logits: Tensor, expert: Tensor) -> Routing:
        """The routing to experts that are given: equal weights, no limit of places."""
        if not isinstance(expert, Tensor) or expert.dtype != torch.int64 or expert.ndim != 2:
            given = (expert.dtype, tuple(expert.shape)) if isinstance(expert, Tensor) else type(expert).__name__
            raise TypeError(f"expert must be an int64 tensor [N, slots], got {given}")
        in_range = expert.numel() and 0 <= int(expert.min()) <= int(expert.max()) < self.n_experts
        if len(expert) != len(logits) or not in_range:
            raise ValueError(
                f"expert must name one of {self.n_experts} experts for each of {len(logits)} tokens, got shape "
                f"{tuple(expert.shape)}"
                + (f" with {int(expert.min())} to {int(expert.max())}" if expert.numel() else "")
            )
        ordered = expert.sort(dim=1).values
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            raise ValueError("expert must not name an expert twice for one token")
        load = torch.bincount(expert.flatten(), minlength=self.n_experts)
        weight = torch.full(expert.shape, 1 / expert.shape[1], dtype=logits.dtype, device=logits.device)
        return Routing(
            expert, weight, torch.ones_like(expert, dtype=torch.bool), load, logits.softmax(dim=1).sum(dim=0), 0
        )

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        bias = state_dict.get(f"{prefix}bias")
        if self.bias is None and bias is not None and bias.shape == (self.n_experts,):  # balanced without a loss
            self.bias = torch.zeros_like(bias, device=self.router.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __getstate__(self) -> dict:
        # torch refuses to copy a tensor that is part of a graph, and a stale routing means nothing in a copy.
        return {**self.__dict__, "logits": None, "routing": None, "smooth_load": None}


def _counted(x: Tensor, mask: Tensor) -> Tensor:
    """The rows of x [..., D] that are no padding; the mask is checked."""
    if not isinstance(x, Tensor) or x.ndim == 0:
        return x
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.shape != x.shape[:-1] or not bool(mask.any()):
        raise ValueError(
            f"mask must have shape {tuple(x.shape[:-1])} and at least one True, "
            f"got shape {tuple(mask.shape)} with {int(mask.sum())} True"
        )
    return x[mask]
