"""A small classifier around one mixture of experts, for the lessons, the lab and tests."""

from collections.abc import Callable

from torch import Tensor, nn

from cllab import checks
from cllab.device import generator
from cllab.isolation.moe import MoE
from cllab.models import MAX_WIDTH, linear


class Owned:
    """A guide for the time being: rows go to the experts owner(x), int64 [N]; `before` is the guide that comes back."""

    def __init__(self, owner: Callable[[Tensor], Tensor], model: "MoEClassifier"):
        self.owner = owner
        self.before = model.guide.before if isinstance(model.guide, Owned) else model.guide

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        return {"expert": self.owner(x)[:, None]}


class MoEClassifier(nn.Module):
    """embed -> MoE with a residual around it -> linear head: x [N, in_features] -> logits [N, n_classes].

    `.moe` is the MoE layer, `dim` its width; `options` (hidden, capacity_factor, overflow, ...) go to it.
    guide: what is known about the rows besides their features: a function of x [N, in_features] that returns the
    keyword arguments `prior` or `expert` for the layer's forward (guided.py). None: the router decides alone.
    """

    def __init__(
        self, in_features: int, dim: int, n_experts: int, k: int, n_classes: int, seed: int = 0, *,
        guide: Callable[[Tensor], dict[str, Tensor]] | None = None, **options,
    ):  # fmt: skip
        super().__init__()
        checks.integer("in_features", in_features, 1, MAX_WIDTH)
        checks.integer("dim", dim, 1, MAX_WIDTH)
        checks.integer("n_classes", n_classes, 1, MAX_WIDTH)
        if not (guide is None or callable(guide)):
            raise TypeError(f"guide must be a function of the rows or None, got {type(guide).__name__}")
        source = generator(seed, "weights")
        self.embed = linear(in_features, dim, source)
        self.moe = MoE(dim, n_experts, k, seed=seed, **options)
        self.head = linear(dim, n_classes, source)
        self.guide = guide

    def features(self, x: Tensor) -> Tensor:
        """What the head sees in x [N, in_features]: [N, dim]."""
        h = self.embed(x)
        told = self.guide(x) if self.guide else {}
        if not isinstance(told, dict) or not set(told) <= {"prior", "expert"}:
            raise TypeError(f"guide must return a dict with prior or expert, got {told!r:.80}")
        return h + self.moe(h, **told)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in_features] -> logits [N, n_classes]."""
        return self.head(self.features(x))
