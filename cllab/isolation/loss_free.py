"""Balance without a loss: a bias per expert takes part in the choice, and nowhere else.

    chosen(n) = the k experts with the largest s[n, e] + b[e]
    weight[n, e] = s[n, e]                                    without b
    b[e] <- b[e] + gamma sign(mean load - load[e])            after each step

Symbols: s [N, E] gate values (probabilities here), b [E], load [E] assignments of the last batch, gamma the step.
The task's gradient is not disturbed by a balance term. b itself gets no gradient: it follows the load.
Source: Wang et al. 2024, "Auxiliary-loss-free load balancing strategy"; gamma = 1e-3 there and in DeepSeek-V3, which
gathers unbiased sigmoid scores and then renormalises them.
"""

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation.balance import moe_layers
from cllab.training import Batch, Context, Method


def biased_choice(s: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(expert [N, k], weight [N, k]): chosen by s + b, weights from s [N, E] alone; ties go to the lowest expert."""
    checks.floats("s", s, 2)
    checks.floats("b", b, 1)
    if len(b) != s.shape[1]:
        raise ValueError(f"b must have one bias for each of the {s.shape[1]} experts of s, got {len(b)}")
    checks.integer("k", k, 1, len(b))
    # the k largest of s + b
    expert = (s + b).argsort(dim=1, descending=True, stable=True)[:, :k]
    return expert, s.gather(1, expert)


def updated_bias(b: Tensor, load: Tensor, gamma: float = 1e-3) -> Tensor:
    """b + gamma sign(mean load - load), all [E]; gamma >= 0. An expert with the mean load keeps its bias."""
    checks.floats("b", b, 1)
    if not isinstance(load, Tensor) or load.shape != b.shape:
        raise ValueError(f"load must be a tensor [E] like b, {tuple(b.shape)}, got {getattr(load, 'shape', load)}")
    checks.number("gamma", gamma, 0.0)
    load = checks.floats("load", load.to(b.dtype), 1)
    # b <- b + gamma sign(mean load - load)
    return b + gamma * (load.mean() - load).sign()


class LossFreeBalance(Method):
    """Moves the bias of every `MoE` layer of the model after each step; gamma: how far, >= 0.

    The biases become buffers of the layers, start at 0 in each run, and stay with the model and its state_dict.
    """

    def __init__(self, gamma: float = 1e-3):
        self.gamma = checks.number("gamma", gamma, 0.0)

    def start_run(self, ctx: Context) -> None:
        layers = moe_layers(ctx.model)
        if not layers or any(layer.choice == "expert" for layer in layers):
            raise ValueError("model must contain MoE layers whose tokens choose their experts")
        for layer in layers:
            layer.bias = torch.zeros(layer.n_experts, dtype=torch.float64, device=ctx.device)

    @torch.no_grad()
    def after_step(self, ctx: Context, batch: Batch) -> None:
        for layer in moe_layers(ctx.model):
            layer.bias = updated_bias(layer.bias, layer.routing.load, self.gamma)
