"""Growing a mixture of experts: new experts and router rows beside the old ones, which stay parameters of their own.

A new expert takes part at once: softmax and top-k are competitions, and every new row takes probability from the old
ones, frozen or not. What the layer answers right after growing depends on how the new rows start:

    init      new expert, new row                       same function as before?
    random    fresh                                     no
    copy      copy of an expert and of its row          only for k = 1, renormalised (twins: rounding decides)
    split     copy, ln(copies) taken from all of them   only where all experts are used (k = E before, all E' after)
    silent    copy, with a bias of SILENT               always; but the new expert gets no token until `wake`

Why split: exp(s - ln 2) + exp(s - ln 2) = exp(s), so that two copies share the mass that one had. With top-k the two
can fill two places. Duplicating a hidden unit and halving its outgoing weights (`widened`) is exact in every network.
Sources: Chen et al. 2023, "Lifelong language pretraining with distribution-specialized experts" (grow, freeze); Chen,
Goodfellow & Shlens 2016, Net2Net (widening). That Lifelong-MoE starts by such a copy could not be verified.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cllab import checks
from cllab.isolation.experts import Experts
from cllab.isolation.moe import MoE
from cllab.isolation.routing import SILENT
from cllab.isolation.switch import freeze
from cllab.models import MAX_WIDTH, linear

INITS = ("random", "copy", "split", "silent")


class Staged(nn.Module):
    """Modules that arrived one after another and answer side by side; each is frozen or trained as a whole."""

    def __init__(self, *stages: nn.Module):
        super().__init__()
        self.stages = nn.ModuleList(stages)


class StagedRouter(Staged):
    """h [N, D] -> scores [N, E] of all stages' rows."""

    @property
    def weight(self) -> Tensor:
        """All rows, [E, D]."""
        return torch.cat([stage.weight for stage in self.stages])

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([stage(h) for stage in self.stages], dim=1)


class StagedExperts(Staged):
    """rows [M, D], sorted by expert, -> [M, D], each stage's experts on their part of the rows."""

    def __len__(self) -> int:
        return sum(len(stage) for stage in self.stages)

    def forward(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        outputs, expert, row = [], 0, 0
        for stage in self.stages:
            own = sizes[expert : expert + len(stage)]
            outputs.append(stage(rows[row : row + sum(own)], own))
            expert, row = expert + len(stage), row + sum(own)
        return torch.cat(outputs)


def stages(module: nn.Module) -> list[nn.Module]:
    """The stages of a router or of experts; a module that never grew is one stage."""
    return list(module.stages) if isinstance(module, Staged) else [module]


def grow(
    moe: MoE, n_new: int, init: str = "copy", *, source: Sequence[int] | None = None, noise: float = 0.0,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Give the layer n_new >= 1 more experts with their router rows, as a stage of their own.

    init: see above. source: for copies, the index of the expert that each new one is copied from; default one
    after the other. noise: standard deviation, relative to the copied weights' own, of what is added to new experts
    and rows, so that they differ from their sources; any noise makes every init but "silent" inexact.
    Nothing is frozen here, see `freeze_old`. Raises ValueError before anything has changed.
    """
    if not isinstance(moe, MoE):
        raise TypeError(f"moe must be an MoE layer, got {type(moe).__name__}")
    old = moe.n_experts
    checks.integer("n_new", n_new, 1, MAX_WIDTH)
    checks.choice("init", init, INITS)
    checks.number("noise", noise, 0.0)
    checks.generator("generator", generator)
    if source is not None and not isinstance(source, Sequence):
        raise TypeError(f"source must be a list of experts or None, got {source!r}")
    if source is not None and init == "random":
        raise ValueError(f'source must be None with init="random", which copies nothing, got {source}')
    source = [i % old for i in range(n_new)] if source is None else list(source)
    if init != "random":
        if len(source) != n_new:
            raise ValueError(f"source must name an expert for each of the {n_new} new ones, got {source}")
        for index in source:
            checks.integer("each of source", index, 0, old - 1)
    like = moe.router.weight
    rows = linear(moe.dim, n_new, generator).to(like.device, like.dtype)
    experts = Experts(n_new, moe.dim, moe.hidden, generator).to(like.device, like.dtype)
    if init != "random":
        _copy(moe, rows, experts, source, noise, generator)
    with torch.no_grad():
        if init == "split":
            _share(moe, rows, source)
        elif init == "silent":
            rows.bias.fill_(SILENT)
    moe.router = StagedRouter(*stages(moe.router), rows)
    moe.experts = StagedExperts(*stages(moe.experts), experts)
    if moe.noise is not None:
        silence = skip_init(nn.Linear, moe.dim, n_new, bias=False).to(like.device, like.dtype)
        nn.init.zeros_(silence.weight)
        moe.noise = StagedRouter(*stages(moe.noise), silence)
    if moe.bias is not None:
        moe.bias = torch.cat([moe.bias, moe.bias.new_zeros(n_new)])


def freeze_old(moe: MoE) -> list[nn.Parameter]:
    """Freeze every stage but the newest: old experts and old router rows. Returns the parameters that it froze."""
    _check_grown(moe)
    old = [stage for part in (moe.router, moe.experts, moe.noise) if part is not None for stage in stages(part)[:-1]]
    parameters = [p for stage in old for p in stage.parameters() if p.requires_grad]
    freeze(parameters)
    return parameters


@torch.no_grad()
def wake(moe: MoE) -> None:
    """Let silent rows of the newest stage compete: they get the mean bias of the older rows that are awake."""
    _check_grown(moe)
    *old, newest = stages(moe.router)
    known = torch.cat([stage.bias for stage in old])
    # weight decay may have brought a silent row nearer
    newest.bias[newest.bias <= SILENT / 100] = known[known > SILENT / 2].mean()


def widened(inner: nn.Linear, outer: nn.Linear, unit: int) -> tuple[nn.Linear, nn.Linear]:
    """Net2Wider: copies of both layers with hidden unit `unit` twice and its outgoing weights halved; same function."""
    for name, layer in (("inner", inner), ("outer", outer)):
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{name} must be a torch.nn.Linear, got {type(layer).__name__}")
    if outer.in_features != inner.out_features:
        raise ValueError(f"outer must read the {inner.out_features} units of inner, got {outer.in_features} inputs")
    checks.integer("unit", unit, 0, inner.out_features - 1)
    has_bias = [layer.bias is not None for layer in (inner, outer)]
    wide_in = skip_init(nn.Linear, inner.in_features, inner.out_features + 1, bias=has_bias[0]).to(inner.weight)
    wide_out = skip_init(nn.Linear, outer.in_features + 1, outer.out_features, bias=has_bias[1]).to(outer.weight)
    with torch.no_grad():
        wide_in.weight.copy_(torch.cat([inner.weight, inner.weight[unit, None]]))
        if has_bias[0]:
            wide_in.bias.copy_(torch.cat([inner.bias, inner.bias[unit, None]]))
        # W'[:, unit] = W'[:, new] = W[:, unit] / 2
        weight = torch.cat([outer.weight, outer.weight[:, unit, None]], dim=1)
        weight[:, [unit, -1]] /= 2
        wide_out.weight.copy_(weight)
        if has_bias[1]:
            wide_out.bias.copy_(outer.bias)
    return wide_in, wide_out


@torch.no_grad()
def _copy(
    moe: MoE, rows: nn.Linear, experts: Experts, source: list[int], noise: float, generator: torch.Generator
) -> None:
    """Fill new rows and experts with those of `source`, with noise added to all but the rows' biases."""

    def disturbed(value: Tensor) -> Tensor:
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        return value + noise * value.std() * drawn if noise else value

    router, stacks = stages(moe.router), stages(moe.experts)
    rows.weight.copy_(disturbed(torch.cat([stage.weight for stage in router])[source]))
    rows.bias.copy_(torch.cat([stage.bias for stage in router])[source])
    for name, new in experts.named_parameters():
        new.copy_(disturbed(torch.cat([stack.get_parameter(name) for stack in stacks])[source]))


def _share(moe: MoE, rows: nn.Linear, source: list[int]) -> None:
    """Take ln(number of copies) from the scores of an expert and of all its copies."""
    for index in set(source):
        # s - ln(1 + copies), for the expert itself and for each copy
        share = math.log(1 + source.count(index))
        rows.bias[[i for i, s in enumerate(source) if s == index]] -= share
        for stage in stages(moe.router):
            if index < stage.out_features:
                stage.bias[index] -= share
                break
            index -= stage.out_features


def _check_grown(moe: MoE) -> None:
    if not isinstance(moe, MoE):
        raise TypeError(f"moe must be an MoE layer, got {type(moe).__name__}")
    if not isinstance(moe.router, StagedRouter):
        raise ValueError("moe must have grown: it has one stage only")
