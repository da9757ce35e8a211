"""HAT, hard attention to the task: each task learns which hidden units it needs, and keeps what it used.

    a = sigmoid(s e),   h <- a * h                                     a gate per hidden unit, after its layer
    s = 1/s_max + (s_max - 1/s_max) (b - 1) / (B - 1)                  for batch b of the B of an epoch
    dL/dw_ij <- (1 - min(a_i^{<t}, a_j^{<t})) dL/dw_ij                 a^{<t}: maximum over the earlier tasks
    L = L_task + c sum_i a_i (1 - a_i^{<t}) / sum_i (1 - a_i^{<t})     units used before are free of charge
    dL/de <- s_max/s (cosh(s e) + 1) / (cosh(e) + 1) dL/de             |s e| cut at 50, e kept within +-6

Symbols: e, trained, and a in (0, 1), one per unit of a hidden layer and task; w_ij, the weight from unit j to unit i of
the next layer (inputs always count as used); s, the slope, soft at an epoch's beginning and nearly a step at its end.
The last line undoes what the slope does to the gate's gradient: it becomes s_max sigmoid'(e) dL/da.
Source: Serra, Suris, Miron & Karatzoglou 2018, "Overcoming catastrophic forgetting with hard attention to the task",
and the authors' code. Departures:
- At a task's end its gates become exactly 0 or 1 (1 where e > 0), as they are at every test. In the paper they stay
  sigmoids at s_max, so that a little of every weight goes on moving.
- Weights that earlier tasks use are put back after every step. A gradient of zero does not stop momentum from earlier
  steps, nor weight decay. With both, old logits stay to the last bit.
- The gates take plain SGD steps of their own, as in the paper, whichever optimiser trains the weights. Adam divides by
  the size of a gradient, and what the gates are charged would then weigh as much as what they are good for.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.isolation.bits import kept_bytes, refuse_springs
from cllab.isolation.gated_layers import Gate, Gates, gated_layers
from cllab.isolation.isolating import Isolating
from cllab.isolation.selector import TaskSelector
from cllab.training import Batch, Context, Phase

LARGEST = 10_000.0
"""Largest s_max: far beyond it the gates' gradients overflow."""
LARGEST_E = 6.0
"""e is kept within this on both sides."""


def gate_slope(b: int, B: int, s_max: float) -> float:
    """s for batch b = 1 .. B of an epoch. An epoch of one batch has s_max."""
    checks.integer("b", b, 1, checks.integer("B", B, 1))
    checks.number("s_max", s_max, 1.0, LARGEST)
    # s = 1/s_max + (s_max - 1/s_max) (b - 1) / (B - 1)
    return 1 / s_max + (s_max - 1 / s_max) * (b - 1) / (B - 1) if B > 1 else s_max


def gate_gradient_factor(a_out: Tensor, a_in: Tensor) -> Tensor:
    """1 - min(a_i, a_j), [out, in]: a_out [out] and a_in [in], in [0, 1], say how far earlier tasks used the units."""
    for name, a in (("a_out", a_out), ("a_in", a_in)):
        if checks.floats(name, a, 1).min() < 0 or a.max() > 1:
            raise ValueError(f"{name} must lie in [0, 1], got {a.min():g} to {a.max():g}")
    # 1 - min(a_i, a_j)
    return 1 - torch.minimum(a_out[:, None], a_in[None, :])


def gate_sparsity(gates: Sequence[Tensor], used: Sequence[Tensor]) -> Tensor:
    """sum a (1 - a^{<t}) / sum (1 - a^{<t}) over all layers; 0 when no unit is free.

    gates: a of each layer; used: a^{<t} of each layer, of the same shapes.
    """
    if not gates or [a.shape for a in gates] != [u.shape for u in used]:
        raise ValueError(
            f"used must have the shapes of gates, got {[tuple(u.shape) for u in used]} "
            f"for {[tuple(a.shape) for a in gates]}"
        )
    free = sum((1 - u).sum() for u in used)
    # sum_i a_i (1 - a_i^{<t}) / sum_i (1 - a_i^{<t})
    charged = sum((a * (1 - u)).sum() for a, u in zip(gates, used, strict=True))
    return charged / free if free > 0 else charged * 0


def gate_compensation(e: Tensor, s: float, s_max: float) -> Tensor:
    """What dL/de is multiplied by, like e: s_max/s (cosh(s e) + 1) / (cosh(e) + 1), with |s e| cut at 50."""
    checks.floats("e", e)
    checks.positive("s", s)
    # s_max/s (cosh(s e) + 1) / (cosh(e) + 1)
    return s_max / s * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (torch.cosh(e) + 1)


class HAT(Isolating):
    """Gates on the hidden units of a Classifier, for each task; units and weights in use are no longer changed.

    s_max: the steepest slope, in [1, 10000]. c: how much open gates cost that no earlier task uses, >= 0.
    gate_lr: learning rate of e, >= 0, beside the optimiser of `fit`; 0 leaves the gates as they were drawn.
    A stage of the model must have one linear or convolution layer, and otherwise nothing that mixes units. Batch
    normalisation is frozen after the first task.
    A task whose gates all closed answers with its head's bias, and a Phase tells how many are open.
    """

    def __init__(
        self, s_max: float = 400.0, c: float = 0.75, gate_lr: float = 0.05, selector: TaskSelector | None = None
    ):
        super().__init__(selector)
        self.s_max = checks.number("s_max", s_max, 1.0, LARGEST)
        self.c = checks.number("c", c, 0.0)
        self.gate_lr = checks.number("gate_lr", gate_lr, 0.0)

    def start_run(self, ctx: Context) -> None:
        refuse_springs(self, ctx)
        super().start_run(ctx)

    def attach(self, ctx: Context) -> None:
        self.layers = gated_layers(ctx.model, ctx.stream[0].x[:1])
        trunk = list(ctx.model.trunk)
        self.gates = [Gates(trunk[layer.end], layer.units, layer.width, ctx.device) for layer in self.layers]
        for layer, gates in zip(self.layers, self.gates, strict=True):
            trunk[layer.end] = gates
        self.install("trunk", nn.Sequential(*trunk))

    def start_task(self, ctx: Context) -> None:
        super().start_task(ctx)
        self._factors: list[tuple[nn.Parameter, Tensor]] | None = None
        if ctx.task_index > 0:
            norms = [norm for layer in self.layers for norm in layer.norms]
            self.freeze([parameter for norm in norms for parameter in norm.parameters()], norms)
        for layer, gates in zip(self.layers, self.gates, strict=True):
            for finished in gates.parts:
                finished.pack()
            # e ~ N(0, 1)
            e = torch.randn(layer.units, generator=self.generator)
            gates.add(ctx.task_index, Gate(e.to(layer.layer.weight.device, layer.layer.weight.dtype), 0.0))
        self._set_slope(0, ctx)

    def embeddings(self) -> list[nn.Parameter]:
        """e [U] of the task under way, one per layer."""
        return [gates.chosen()[0].real for gates in self.gates]

    def parameters(self, ctx: Context) -> list[nn.Parameter]:
        own = {id(e) for e in self.embeddings()}
        return [parameter for parameter in super().parameters(ctx) if id(parameter) not in own]

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        a = [gates.a() for gates in self.gates]
        return {"sparsity": self.c * gate_sparsity(a, [gates.used.to(a[0].dtype) for gates in self.gates])}

    @torch.no_grad()
    def gradients(self, ctx: Context) -> None:
        ctx.info["s"] = self.s
        self._before = [parameter.clone() for parameter, _ in self.factors()]
        for parameter, factor in self.factors():
            # dL/dw_ij <- (1 - min(a_i^{<t}, a_j^{<t})) dL/dw_ij
            parameter.grad *= factor

    @torch.no_grad()
    def after_step(self, ctx: Context, batch: Batch) -> None:
        for (parameter, factor), before in zip(self.factors(), self._before, strict=True):
            parameter.copy_(torch.where(factor == 0, before, parameter))
        for e in self.embeddings():
            # dL/de <- s_max/s (cosh(s e) + 1) / (cosh(e) + 1) dL/de
            e -= self.gate_lr * gate_compensation(e, self.s, self.s_max) * e.grad
            e.clamp_(-LARGEST_E, LARGEST_E)
            e.grad = None
        self._set_slope(ctx.position % len(ctx.task.y), ctx)

    def factors(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The trunk's weights and biases that earlier tasks use, with what their gradients are multiplied by."""
        if self._factors is None:
            self._factors, below = [], None
            for layer, gates in zip(self.layers, self.gates, strict=True):
                used = gates.used.to(layer.layer.weight.dtype)
                factor = gate_gradient_factor(used, layer.inputs(below))
                self._factors.append((layer.layer.weight, layer.by_weight(factor)))
                if layer.layer.bias is not None:
                    self._factors.append((layer.layer.bias, 1 - used))
                below = used
            self._factors = [(p, factor) for p, factor in self._factors if p.requires_grad and bool((factor < 1).any())]
        return self._factors

    @torch.no_grad()
    def end_task(self, ctx: Context) -> Iterator[Phase]:
        for gates in self.gates:
            gates.chosen()[0].pack()
            gates.used |= gates.a()
        self._factors = None
        weights = [layer.layer.weight for layer in self.layers]
        kept = sum(int((factor == 0).expand_as(p).sum()) for p, factor in self.factors() if p.ndim > 1)
        info = {
            "units open": [int(gates.a().sum()) for gates in self.gates],
            "units used": [int(gates.used.sum()) for gates in self.gates],
            "units": [layer.units for layer in self.layers],
            "share of weights used": kept / sum(weight.numel() for weight in weights),
        }
        yield Phase("gates", info)
        yield from super().end_task(ctx)

    def memory_bytes(self) -> int:
        """All heads, a bit per unit for each task's gates, and a byte per unit for what they use together."""
        return super().memory_bytes() + kept_bytes(self.model) + sum(gates.used.nbytes for gates in self.gates)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "s": self.s}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._factors = None
        self._set_s(state["s"])

    def _set_slope(self, rows: int, ctx: Context) -> None:
        """The slope for the batch that comes after so many rows of an epoch."""
        b, B = (math.ceil(n / ctx.batch_size) for n in (rows, len(ctx.task.y)))
        self._set_s(gate_slope(b + 1, B, self.s_max))

    def _set_s(self, s: float) -> None:
        self.s = s
        for gates in self.gates:
            gates.s = s
