"""The experts of a layer, and the way of tokens to them and back.

    f_e(h) = W2_e relu(W1_e h + b1_e) + b2_e              one expert
    y[n] = sum over the assignments (n, e) of weight * f_e(h[n])

Dispatch gives each assignment a row in the block of its expert; all experts run in one batched product; combine adds
their weighted outputs to their tokens. Nothing here loops over tokens.
"""

import torch
from torch import Tensor, nn

from cllab.isolation.routing import position_in_expert
from cllab.models import linear


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

    def __len__(self) -> int:
        return len(self.w1)

    def forward(self, block: Tensor) -> Tensor:
        # f_e(h) = W2_e relu(W1_e h + b1_e) + b2_e, for all e at once
        return torch.baddbmm(self.b2, torch.relu(torch.baddbmm(self.b1, block, self.w1)), self.w2)


def mixed(experts: nn.Module, h: Tensor, token: Tensor, expert: Tensor, weight: Tensor) -> Tensor:
    """y [N, D] from tokens h [N, D] and M assignments: int64 [M] token and expert, and weight [M]."""
    # dispatch: each assignment gets a row of its expert's block
    row = position_in_expert(expert, len(experts))  # [M]
    block = h.new_zeros(len(experts), int(row.max()) + 1, h.shape[1])  # [E, C, D]
    block[expert, row] = h[token]
    # combine: y[n] = sum weight * f_e(h[n])
    output = weight.to(h.dtype)[:, None] * experts(block)[expert, row]  # [M, D]
    return torch.zeros_like(h).index_add(0, token, output)
