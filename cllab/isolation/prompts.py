"""Prompts and prefixes: nothing in a frozen transformer changes, but there is something before the tokens.

Prompt tuning puts p trainable vectors before the embedded tokens, once, and lets the blocks work on all of them:

    h = [P; h_1 .. h_S]                                       P [p, d]: p d numbers, 15,360 for p = 20 and d = 768

Prefix tuning puts p trainable keys and values before those of the tokens in every block:

    k = [P_k; W_k h + b_k],   v = [P_v; W_v h + b_v]          2 p L d numbers, 368,640 for L = 12 blocks

Symbols: S tokens, d width, L blocks, p = `length`. The tokens keep their positions, which are added before the prompt
comes; the prompt has none. A mask of padding grows to p + S, with the new places visible. The mean before the head is
over the tokens alone. Rows become longer: attention costs (p + S)^2, or S (p + S) with a prefix.

Reparametrisation: P_k and P_v trained directly learn slowly and unsteadily, so they may be the output of a small
network while they are trained, P = W_2 tanh(W_1 P' + b_1) + b_2, with P', W_1 and b_1 shared by all blocks. When the
task ends only P is kept: the network is folded away.

Sources: Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning" (which starts, as here, from the
embeddings of real tokens); Li & Liang 2021, "Prefix-tuning" (512 units in W_1). Departure: prefixes without the network
start as small random numbers, where Li & Liang advise the activations of real words.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.isolating import OnFrozenBase
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import Switch, linear_layers
from cllab.models import MAX_WIDTH, Transformer, linear
from cllab.training import Context, Phase

STD = 0.02


class Vectors(nn.Module):
    """p trainable vectors: () -> P [p, d].

    values: P at the start, trained as it is. inner, outer: instead of values, modules that compute it,
    P = outer(tanh(inner())), until `fold`.
    """

    def __init__(self, values: Tensor | None = None, inner: nn.Module | None = None, outer: nn.Linear | None = None):
        super().__init__()
        if (values is None) == (inner is None or outer is None):
            raise ValueError("values must be given, or inner and outer in its place")
        self.register_parameter("values", None if values is None else nn.Parameter(values.detach().clone()))
        self.inner, self.outer = inner, outer

    def forward(self) -> Tensor:
        if self.inner is None:
            return self.values
        # P = W_2 tanh(W_1 P' + b_1) + b_2
        return self.outer(torch.tanh(self.inner()))

    def fold(self) -> None:
        """Keep P itself, and drop what computes it. Without a network there is nothing to do."""
        if self.inner is not None:
            trained = self.outer.weight.requires_grad
            self.values = nn.Parameter(self.forward().detach(), requires_grad=trained)
            self.inner = self.outer = None

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        # a checkpoint of a finished task holds P alone, while a run that resumes has just built the network again
        if f"{prefix}values" in state_dict:
            self.fold()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Inner(nn.Module):
    """The half of a reparametrisation that all blocks share: () -> W_1 P' + b_1 [p, m]."""

    def __init__(self, length: int, dim: int, width: int, source: torch.Generator):
        super().__init__()
        self.small = nn.Parameter(torch.randn(length, dim, generator=source))  # P'
        self.layer = linear(dim, width, source)

    def forward(self) -> Tensor:
        return self.layer(self.small)


class Prompted(Switch):
    """Tokens h [N, S, d] -> [N, p + S, d], with the vectors of the active task before them."""

    def forward(self, h: Tensor) -> Tensor:
        return _before(self.chosen(), h)


class Prefixed(Switch):
    """Keys, or values, of tokens: h [N, S, d] -> [N, p + S, d], the active task's vectors before those of `base`."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base

    def forward(self, h: Tensor) -> Tensor:
        return _before(self.chosen(), self.base(h))


class PromptTuning(OnFrozenBase):
    """p vectors for each task before the tokens of a frozen transformer.

    length: p, 0 changes nothing. base, selector: see `OnFrozenBase`. The model must be a cllab.models.Transformer.
    """

    def __init__(self, length: int, base: str = "first", selector: TaskSelector | None = None):
        super().__init__(base, selector)
        self.length = checks.integer("length", length, 0, MAX_WIDTH)

    def attach(self, ctx: Context) -> None:
        _check_transformer(ctx.model)
        self.prompted = Prompted()
        self.install("prompt", self.prompted)

    @torch.no_grad()
    def add_parts(self, ctx: Context) -> None:
        # P starts as the embeddings of tokens drawn from the task's rows
        x = ctx.task.x
        rows = torch.randint(len(x), (self.length,), generator=self.generator).to(x.device)
        h = ctx.model.embedded(x[rows])  # [p, S, d]
        place = torch.randint(h.shape[1], (self.length,), generator=self.generator).to(x.device)
        self.prompted.add(ctx.task_index, Vectors(h[torch.arange(self.length, device=x.device), place]))


class PrefixTuning(OnFrozenBase):
    """p keys and p values for each task before those of the tokens, in every block of a frozen transformer.

    length: p, 0 changes nothing. reparametrise: units of the network that computes them while they are trained; None
    trains them directly. base, selector: see `OnFrozenBase`. The model must be a cllab.models.Transformer.
    """

    def __init__(
        self, length: int, reparametrise: int | None = None, base: str = "first",
        selector: TaskSelector | None = None,
    ):  # fmt: skip
        super().__init__(base, selector)
        self.length = checks.integer("length", length, 0, MAX_WIDTH)
        if reparametrise is not None:
            checks.integer("reparametrise", reparametrise, 1, MAX_WIDTH)
        self.reparametrise = reparametrise

    def attach(self, ctx: Context) -> None:
        _check_transformer(ctx.model)
        layers = linear_layers(ctx.model, ("attention.k", "attention.v"))
        self.prefixed = [Prefixed(layer) for layer in layers.values()]
        for name, prefixed in zip(layers, self.prefixed, strict=True):
            self.install(name, prefixed)

    def add_parts(self, ctx: Context) -> None:
        dim, width, source = self.prefixed[0].base.out_features, self.reparametrise, self.generator
        inner = None if width is None else Inner(self.length, dim, width, source)
        for prefixed in self.prefixed:
            if inner is None:
                vectors = Vectors(STD * torch.randn(self.length, dim, generator=source))
            else:
                vectors = Vectors(inner=inner, outer=linear(width, dim, source))
            prefixed.add(ctx.task_index, vectors.to(prefixed.base.weight))

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        parts = [prefixed.part(ctx.task_index) for prefixed in self.prefixed if ctx.task_index in prefixed.tasks]
        if parts and self.reparametrise is not None:
            trained = sum(p.numel() for p in nn.ModuleList(parts).parameters())
            for part in parts:
                part.fold()
            yield Phase("fold", {"trained": trained, "kept": sum(part.values.numel() for part in parts)})
        yield from super().end_task(ctx)


def _before(vectors: list[Vectors], h: Tensor) -> Tensor:
    """h [N, S, d] -> [N, p + S, d]: each of `vectors` before every row's own."""
    return torch.cat([*(part().expand(len(h), -1, -1) for part in vectors), h], dim=1)


def _check_transformer(model: nn.Module) -> None:
    if not isinstance(model, Transformer):
        raise TypeError(f"model must be a cllab.models.Transformer, {type(model).__name__} has no tokens")
