"""What a mixture of experts costs: beside a loop over experts, beside a dense network, and as E grows.

Forward and backward of one `MoE` layer without capacity limit, top-k by its own router at initialisation, over N
tokens of D features, hidden width 4 D, in blocks that take turns. The loop is the usual one: for each expert a mask
over all tokens, its rows, its network. The dense network has the width of k experts, as many multiplications per token.
On a GPU the layer also runs in bfloat16.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cllab import checks
from cllab.bench.report import Row, at_least, at_most
from cllab.bench.timing import keep_freed_memory, ratio, timed_call
from cllab.device import cpu_threads, generator
from cllab.isolation import MoE
from cllab.isolation.experts import Experts
from cllab.models import MLP


class Size(NamedTuple):
    """N tokens of D features, E experts, k per token."""

    N: int
    E: int
    k: int
    D: int

    def __str__(self) -> str:
        return f"N={self.N:,} E={self.E} k={self.k} D={self.D}"


SIZES = (Size(2048, 8, 1, 128), Size(2048, 8, 2, 128), Size(2048, 64, 2, 128), Size(8192, 8, 2, 256))
GROWTH = Size(8192, 4, 2, 256)
MANY = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="timed blocks per loop, interleaved (default 7)")
    parser.add_argument("--turns", type=int, default=3, help="forward and backward passes in a block (default 3)")


def measure(options: argparse.Namespace, device: torch.device) -> list[Row]:
    rounds, turns = (checks.integer(name, getattr(options, name), 1) for name in ("rounds", "turns"))
    keep_freed_memory()
    types = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    rows = []
    with cpu_threads(1):
        for dtype in types:
            for size in SIZES:
                rows += beside_others(size, rounds, turns, device, dtype)
            rows.append(growth_in_experts(GROWTH, MANY, rounds, turns, device, dtype))
    return rows


def beside_others(size: Size, rounds: int, turns: int, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """Tokens per second of the layer; its time over that of the loop, and over that of the dense network."""
    moe, x = layer(size, device, dtype), tokens(size, device, dtype)
    dense = MLP(size.D, [4 * size.D * size.k], size.D).to(device, dtype)
    seconds, _ = min(timed_call(lambda: next(passes(moe, x)), device) for _ in range(2 + turns))
    name = f"{size}, {_short(dtype)}"
    over_loop, _ = ratio(passes(lambda x: looped(moe, x), x), passes(moe, x), rounds, turns, device)
    over_dense, plain = ratio(passes(dense, x), passes(moe, x), rounds, turns, device)
    return [
        at_least(f"{name}: tokens per second", size.N / seconds, "/s", 10_000, "forward and backward"),
        at_most(f"{name}: over a loop over experts", over_loop, "x", 1.1, f"median of {rounds} interleaved blocks"),
        at_most(f"{name}: over a dense network", over_dense, "x", 2.0, f"the dense network {1e3 * plain:.1f} ms"),
    ]


def growth_in_experts(size: Size, many: int, rounds: int, turns: int, device: torch.device, dtype: torch.dtype) -> Row:
    """Time with `many` experts over that with size.E, at the same k."""
    x = tokens(size, device, dtype)
    few, more = (passes(layer(s, device, dtype), x) for s in (size, size._replace(E=many)))
    value, seconds = ratio(few, more, rounds, turns, device)
    name = f"E={many} over E={size.E} at N={size.N:,} D={size.D} k={size.k}, {_short(dtype)}"
    return at_most(name, value, "x", 1.5, f"E={size.E}: {1e3 * seconds:.0f} ms forward and backward")


def layer(size: Size, device: torch.device, dtype: torch.dtype) -> MoE:
    return MoE(size.D, size.E, size.k, renormalise=size.k > 1).to(device, dtype)


def tokens(size: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.randn(size.N, size.D, generator=generator(0, "tokens")).to(device, dtype)


def passes(module: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[Tensor]:
    """Forward and backward passes without end."""
    while True:
        if isinstance(module, nn.Module):
            module.zero_grad()
        module(x).square().mean().backward()
        yield x


def looped(moe: MoE, x: Tensor) -> Tensor:
    """The same layer as a loop over experts with masks."""
    moe.zero_grad()
    weight, expert = moe.router(x).softmax(dim=1).topk(moe.k, dim=1)  # [N, k] each
    if moe.renormalise:
        weight = weight / weight.sum(dim=1, keepdim=True)
    y = torch.zeros_like(x)
    for e in range(moe.n_experts):
        token, slot = (expert == e).nonzero(as_tuple=True)
        if len(token):
            y = y.index_add(0, token, weight[token, slot, None] * one_expert(moe.experts, e, x[token]))
    return y


def one_expert(experts: Experts, e: int, h: Tensor) -> Tensor:
    """f_e(h) for rows h [M, D]."""
    return torch.relu(h @ experts.w1[e] + experts.b1[e]) @ experts.w2[e] + experts.b2[e]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
