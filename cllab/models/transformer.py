"""A small transformer that classifies rows of tokens: what adapters, scales, prompts and new blocks are attached to.

Idea. A row is a sequence of tokens. In every block each token first looks at the others (attention), then is worked on
by itself (a two-layer network); both only add to it. The mean over the tokens goes to a linear head.

    h_s = W_e x_s + pos_s                                  embedding, and where in the row the token stands
    h <- h + Attention(LN(h))                              pre-norm: LN is layer normalisation, inside the branch
    h <- h + W_down gelu(W_up LN(h) + b_up) + b_down
    logits = W_head mean_s LN(h_s) + b_head

Symbols: N rows, S tokens of a row, d = dim, A = n_heads, e = d / A the width of a head, K keys that a token can look
at (S, or more when something stands before the tokens).
Sources: Vaswani et al. 2017 (attention); Xiong et al. 2020 (pre-norm); Hendrycks & Gimpel 2016 (GELU); Dosovitskiy et
al. 2021, ViT (pieces of an image as tokens, learned positions). Departures: no dropout, the mean in place of a class
token, PyTorch's initialisation of linear layers, no causal mask.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.device import generator
from cllab.models.networks import MAX_WIDTH, Classifier, linear


class Transformer(nn.Module):
    """x [N, tokens * token_size] -> features [N, dim] -> logits [N, n_classes].

    tokens: T, the most tokens that a row may have. token_size: numbers in a token. dim: d. depth: L, blocks.
    n_heads: A, which must divide dim. hidden: width inside a block's two-layer network, default 4 * dim.
    seed: of the initial weights; the global generator is not touched.

    Digits of 8 x 8 pixels are rows of 8 tokens with 8 pixels: Transformer(8, 8, dim=32, depth=2, n_heads=4,
    n_classes=10). Linear layers by name: embed, blocks.0.attention.q, .k, .v, .o, blocks.0.up, blocks.0.down, head.
    `prompt` is the place for a module that puts vectors before the tokens, [N, S, d] -> [N, p + S, d].
    """

    def __init__(
        self, tokens: int, token_size: int, dim: int, depth: int, n_heads: int, n_classes: int,
        hidden: int | None = None, seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.tokens = checks.integer("tokens", tokens, 1, MAX_WIDTH)
        self.token_size = checks.integer("token_size", token_size, 1, MAX_WIDTH)
        checks.integer("dim", dim, 1, MAX_WIDTH)
        checks.integer("depth", depth, 1, 1000)
        checks.integer("n_classes", n_classes, 1, MAX_WIDTH)
        hidden = 4 * dim if hidden is None else checks.integer("hidden", hidden, 1, MAX_WIDTH)
        if dim % checks.integer("n_heads", n_heads, 1, dim):
            raise ValueError(f"n_heads must divide dim={dim}, got {n_heads}")
        source = generator(seed, "weights")
        self.embed = linear(token_size, dim, source)
        # as large as embedded tokens: where a token stands must be told from the first step on
        self.positions = nn.Parameter(0.5 * torch.randn(tokens, dim, generator=source))
        self.prompt = nn.Identity()
        self.blocks = nn.ModuleList(Block(dim, n_heads, hidden, source) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = linear(dim, n_classes, source)

    def embedded(self, x: Tensor) -> Tensor:
        """x [N, S * token_size] or [N, S, token_size], S at most `tokens` -> tokens with positions [N, S, d]."""
        n_tokens = math.prod(x.shape[1:]) / self.token_size
        if x.ndim < 2 or not n_tokens.is_integer() or not 1 <= n_tokens <= self.tokens:
            raise ValueError(
                f"x must have rows of 1 to {self.tokens} tokens with {self.token_size} numbers each, "
                f"got shape {tuple(x.shape)}"
            )
        # h_s = W_e x_s + pos_s
        return self.embed(x.reshape(len(x), int(n_tokens), self.token_size)) + self.positions[: int(n_tokens)]

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the head sees in x: the mean over its tokens, [N, d].

        mask: bool [N, S], False on padding, which no token looks at and which the mean leaves out.
        """
        h = self.embedded(x)  # [N, S, d]
        n_tokens = h.shape[1]
        if mask is not None:
            check_mask(mask, h)
        h = self.prompt(h)  # [N, p + S, d]
        length = h.shape[1] - n_tokens
        for block in self.blocks:
            h = block(h, None if mask is None else widened(mask, h.shape[1]))
        h = self.norm(h[:, length:])  # [N, S, d]: only the tokens themselves are counted
        if mask is None:
            return h.mean(dim=1)
        real = mask[:, :, None].to(h.dtype)  # [N, S, 1]
        return (h * real).sum(dim=1) / real.sum(dim=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [N, S * token_size], mask bool [N, S] or None -> logits [N, C]."""
        return self.head(self.features(x, mask))

    grow_head = Classifier.grow_head


class Block(nn.Module):
    """Tokens h [N, S, d] -> [N, S, d]: attention, then a network for each token; each is added to what came in."""

    def __init__(self, dim: int, n_heads: int, hidden: int, source: torch.Generator):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, n_heads, source)
        self.norm2 = nn.LayerNorm(dim)
        self.up = linear(dim, hidden, source)
        self.down = linear(hidden, dim, source)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """h [N, S, d], mask bool [N, S] (False: padding) -> [N, S, d]."""
        # h <- h + Attention(LN(h))
        h = h + self.attention(self.norm1(h), mask)
        # h <- h + W_down gelu(W_up LN(h) + b_up) + b_down
        return h + self.down(F.gelu(self.up(self.norm2(h))))


class Attention(nn.Module):
    """Every token takes a weighted mean of the values of all; A heads do so at once, with weights of their own.

        q = W_q h, k = W_k h, v = W_v h;   a = softmax(q k^T / sqrt(e));   out = W_o [a v of all heads]

    The modules k and v may answer with more rows than there are tokens, [N, K, d] with K > S: keys and values that
    stand before the tokens, which every token can look at.
    """

    def __init__(self, dim: int, n_heads: int, source: torch.Generator):
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.o = (linear(dim, dim, source) for _ in range(4))

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """h [N, S, d], mask bool [N, S] (False: padding) -> [N, S, d]."""
        q, k, v = (self._heads(project(h)) for project in (self.q, self.k, self.v))  # [N, A, S, e], [N, A, K, e] twice
        # scores = q k^T / sqrt(e)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [N, A, S, K]
        if mask is not None:
            visible = widened(mask, k.shape[2])[:, None, None, :]  # [N, 1, 1, K]
            scores = scores.masked_fill(~visible, float("-inf"))
        a = scores.softmax(dim=-1)  # [N, A, S, K]
        mixed = (a @ v).transpose(1, 2).flatten(2)  # [N, A, S, e] -> [N, S, A, e] -> [N, S, d]
        return self.o(mixed)

    def _heads(self, projected: Tensor) -> Tensor:
        """[N, K, d] -> [N, A, K, e]: each head gets its e of the d numbers."""
        return projected.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


def widened(mask: Tensor, width: int) -> Tensor:
    """mask bool [N, S] -> [N, width]: what stands before the tokens may always be looked at."""
    return F.pad(mask, (width - mask.shape[1], 0), value=True)


def check_mask(mask: Tensor, h: Tensor) -> None:
    """Raise unless mask is bool [N, S] for the tokens h [N, S, d], with at least one real token in each row."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.shape != h.shape[:2]:
        raise ValueError(f"mask must have shape {tuple(h.shape[:2])}, got {tuple(mask.shape)}")
    if not bool(mask.any(dim=1).all()):
        raise ValueError(f"mask must leave a token in every row, row {int((~mask.any(dim=1)).nonzero()[0])} has none")
