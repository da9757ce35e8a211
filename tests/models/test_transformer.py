"""The transformer: its attention against a slow loop, its block against PyTorch's, padding, positions and seeds."""

import copy
import math

import pytest
import torch
from torch import nn

from cllab.device import generator
from cllab.models import Transformer
from cllab.models.transformer import Attention, Block, widened
from cllab.regularization import fisher_diagonal
from cllab.streams import digits, split
from cllab.training import run


def small(**settings) -> Transformer:
    return Transformer(**{"tokens": 4, "token_size": 3, "dim": 8, "depth": 2, "n_heads": 2, "n_classes": 5} | settings)


def rows(n=6, tokens=4, size=3):
    return torch.randn(n, tokens, size, generator=generator(1)).double()


def test_shapes_and_names():
    net, x = Transformer(8, 8, 32, 2, 4, 10), digits().x[:7]
    assert net(x).shape == (7, 10) and net.features(x).shape == (7, 32) and net.embedded(x).shape == (7, 8, 32)
    assert torch.equal(net(x), net(x.view(7, 8, 8)))
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    of_block = ["attention.q", "attention.k", "attention.v", "attention.o", "up", "down"]
    assert linear == ["embed", *(f"blocks.{i}.{name}" for i in range(2) for name in of_block), "head"]
    assert net.blocks[0].up.out_features == 128 and small(hidden=5).blocks[0].up.out_features == 5


def test_parameters_are_counted():
    T, s, d, L, C, m = 8, 8, 32, 2, 10, 128
    block = 4 * (d * d + d) + 2 * 2 * d + 2 * d * m + m + d
    assert sum(p.numel() for p in Transformer(T, s, d, L, 4, C).parameters()) == (
        s * d + d + T * d + L * block + 2 * d + d * C + C
    )


def attention_by_loops(attention: Attention, h, mask):
    """One row, head, token and key at a time."""
    N, S, d = h.shape
    e = d // attention.n_heads
    out = torch.zeros_like(h)
    attention.requires_grad_(False)
    for n in range(N):
        q, k, v = (torch.stack([layer.weight @ t + layer.bias for t in h[n]]) for layer in (attention.q, attention.k, attention.v))  # fmt: skip
        for head in range(attention.n_heads):
            part = slice(head * e, (head + 1) * e)
            for s in range(S):
                keys = [t for t in range(S) if mask is None or mask[n, t]]
                weight = [math.exp(float(q[s, part] @ k[t, part]) / math.sqrt(e)) for t in keys]
                out[n, s, part] = sum(w / sum(weight) * v[t, part] for w, t in zip(weight, keys, strict=True))
    return out @ attention.o.weight.T + attention.o.bias


@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()])
def test_attention_is_the_slow_loops(mask):
    attention, h = Attention(8, 2, generator(0)).double(), rows(3, 4, 8)
    assert torch.allclose(attention(h, mask), attention_by_loops(attention, h, mask), atol=1e-12)
    wrong = Attention(8, 1, generator(0)).double()  # one head in place of two: another scale, another mixture
    assert not torch.allclose(wrong(h, mask), attention_by_loops(attention, h, mask), atol=1e-3)


def test_block_is_pytorchs_pre_norm_layer():
    block = Block(8, 2, 20, generator(0)).double()
    theirs = nn.TransformerEncoderLayer(8, 2, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = theirs.double()
    a, attention = block.attention, theirs.self_attn
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([a.q.weight, a.k.weight, a.v.weight]))
        attention.in_proj_bias.copy_(torch.cat([a.q.bias, a.k.bias, a.v.bias]))
    pairs = ((a.o, attention.out_proj), (block.up, theirs.linear1), (block.down, theirs.linear2))
    for ours, module in (*pairs, (block.norm1, theirs.norm1), (block.norm2, theirs.norm2)):
        module.load_state_dict(ours.state_dict())
    h, mask = rows(3, 4, 8), torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 1]]).bool()
    assert torch.allclose(block(h), theirs(h), atol=1e-12)
    assert torch.allclose(block(h, mask), theirs(h, src_key_padding_mask=~mask), atol=1e-12)
    theirs.norm_first = False  # normalising behind the addition is another network
    assert not torch.allclose(block(h), theirs(h), atol=1e-3)


def test_padding_is_as_if_it_were_not_there():
    net, x = small().double(), rows()
    mask = torch.tensor([[1, 1, 1, 0]]).bool().expand(6, 4)
    short = net(x[:, :3])
    assert torch.allclose(net(x, mask), short, atol=1e-12)
    junk = x.clone()
    junk[:, 3] = 100.0
    assert torch.allclose(net(junk, mask), short, atol=1e-12)
    assert not torch.allclose(net(x), short, atol=1e-3)
    assert torch.allclose(net(x, torch.ones(6, 4).bool()), net(x), atol=1e-12)
    assert net(x, mask).isfinite().all()


def test_a_mask_grows_by_what_stands_before_the_tokens():
    mask = torch.tensor([[True, False]])
    assert widened(mask, 5).tolist() == [[True, True, True, True, False]]
    assert torch.equal(widened(mask, 2), mask)


def test_the_order_of_tokens_counts_by_their_positions_only():
    net, x = small().double(), rows()
    turned = x.flip(1)
    assert not torch.allclose(net(x), net(turned), atol=1e-3)
    with torch.no_grad():
        net.positions.zero_()
    assert torch.allclose(net(x), net(turned), atol=1e-12)


def test_weights_come_from_the_seed_only():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first, again, other = (nn.utils.parameters_to_vector(small(seed=s).parameters()) for s in (0, 0, 1))
    assert torch.equal(expected, torch.rand(2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_it_learns_digits():
    data = digits()
    net = Transformer(8, 8, 16, 1, 2, 10)
    history = run(net, split(data, 10), epochs=3, lr=1e-2, batch_size=32)
    assert history.accuracy[0, 0] > 0.75 > 0.3 > history.baseline[0]


def test_fisher_and_copies():
    net, x = small().double(), rows(3).flatten(1)
    F = fisher_diagonal(net, x, torch.tensor([0, 1, 2]), labels="true")
    by_row = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for n in range(3):
        net.zero_grad()
        nn.functional.cross_entropy(net(x[n : n + 1]), torch.tensor([n])).backward()
        for name, p in net.named_parameters():
            by_row[name] += p.grad.square() / 3
    assert F.keys() == by_row.keys() and all(torch.allclose(F[name], by_row[name], atol=1e-12) for name in F)
    copied = copy.deepcopy(net)
    assert torch.equal(copied(x), net(x))
    with torch.no_grad():
        copied.head.bias += 1
    assert not torch.equal(copied(x), net(x))


def test_the_head_grows():
    net, x = small().double(), rows()
    before = net(x)
    net.grow_head(7, generator(1))
    assert net(x).shape == (6, 7) and torch.allclose(net(x)[:, :5], before, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"tokens": 0}, ValueError, "tokens"), ({"token_size": 0}, ValueError, "token_size"),
        ({"dim": 0}, ValueError, "dim"), ({"depth": 0}, ValueError, "depth"), ({"depth": 2.0}, TypeError, "depth"),
        ({"n_heads": 0}, ValueError, "n_heads"), ({"n_heads": 3}, ValueError, "n_heads must divide dim=8, got 3"),
        ({"n_heads": 16}, ValueError, "n_heads"), ({"n_classes": 0}, ValueError, "n_classes"),
        ({"hidden": 0}, ValueError, "hidden"), ({"seed": -1}, ValueError, "seed"),
    ],
)  # fmt: skip
def test_bad_arguments(settings, error, named):
    with pytest.raises(error, match=named):
        small(**settings)


@pytest.mark.parametrize("shape", [(2, 13), (2, 15), (2, 0), (12,), (2, 5, 3)])
def test_rows_that_are_not_tokens(shape):
    with pytest.raises(ValueError, match="1 to 4 tokens with 3 numbers"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(6, 4), TypeError, "mask must be a boolean"), ([True] * 4, TypeError, "mask must be a boolean"),
        (torch.ones(6, 3).bool(), ValueError, r"mask must have shape \(6, 4\)"),
        (torch.arange(24).view(6, 4) > 3, ValueError, "mask must leave a token in every row, row 0 has none"),
    ],
)  # fmt: skip
def test_bad_masks(mask, error, message):
    with pytest.raises(error, match=message):
        small().double()(rows(), mask)
