"""O-LoRA: each task's adapter is pushed away from the subspaces that earlier adapters read from.

    L = L_task + lam sum_layers sum_{i<t} sum_jk |O_jk|,    O = A_i A_t^T

Symbols: A_t [r, in], the new adapter's; A_i [r_i, in], those of earlier tasks, frozen; O [r_i, r], the overlap of their
rows. lam >= 0 weighs the sum; the authors use 0.5 and have tried 0 to 5.
All adapters stay active: their sum is the model, and no task number is needed to choose among them. Where all rows are
orthogonal, the new adapter reads nothing of what the earlier ones read. It still reads the base's features of old rows,
so that old answers move; isolation is not exact here.
Source: Wang et al. 2023. As in the authors' code, |O| and not its square, and A as in LoRA, next to the input (their
paper calls it B). Departure: without their second term, a norm of the new factors.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from cllab import checks
from cllab.isolation.lora import LoRA
from cllab.isolation.lora_layer import lora_layers
from cllab.isolation.selector import TaskSelector
from cllab.isolation.switch import using
from cllab.training import Batch, Context, Phase


def overlap(A_past: Tensor, A_new: Tensor) -> Tensor:
    """sum_jk |O_jk| of O = A_past A_new^T, for A_past [r_i, in] and A_new [r, in]: a scalar.

    The gradient goes to A_new alone. 0: every row of the one is orthogonal to every row of the other.
    """
    for name, value in (("A_past", A_past), ("A_new", A_new)):
        checks.floats(name, value, ndim=2)
    if A_past.shape[1] != A_new.shape[1]:
        raise ValueError(f"A_new must have rows of length {A_past.shape[1]} like A_past, got {tuple(A_new.shape)}")
    if A_past.dtype != A_new.dtype:
        raise TypeError(f"A_new must be {A_past.dtype} like A_past, got {A_new.dtype}")
    return _overlap(A_past, A_new)


class OLoRA(LoRA):
    """An adapter for each task, all active, of which the newest is trained and kept orthogonal to the earlier ones.

    r, alpha, targets, dropout, base: as in LoRA. lam >= 0: weight of the overlap; with 0 the adapters only add up.

    A stream that tells the task gets a head for each one. In the other scenarios one head serves all tasks, and goes
    on learning: it forgets like any other, whatever the adapters do. A selector gives them heads of their own.
    """

    def __init__(
        self,
        r: int,
        lam: float = 0.5,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        dropout: float = 0.0,
        base: str = "first",
        selector: TaskSelector | None = None,
    ):
        super().__init__(r, alpha, targets, dropout, base, selector=selector)
        self.lam = checks.number("lam", lam, 0.0)
        self.needs_task = False

    def add_parts(self, ctx: Context) -> None:
        super().add_parts(ctx)
        for layer in lora_layers(ctx.model).values():
            layer.use(*layer.tasks)

    def losses(self, ctx: Context, batch: Batch, outputs: Tensor) -> dict[str, Tensor]:
        if self.lam == 0 or not (terms := self.overlaps()):
            return {}
        # lam sum_layers sum_{i<t} sum_jk |O_jk|
        return {"O-LoRA": self.lam * sum(terms)}

    def overlaps(self) -> list[Tensor]:
        """The overlap of the newest adapter with each earlier one, in every layer of the run's model."""
        pairs = [(old, layer.parts[-1]) for layer in lora_layers(self.model).values() for old in layer.parts[:-1]]
        return [_overlap(old.A, new.A) for old, new in pairs]

    def end_task(self, ctx: Context) -> Iterator[Phase]:
        yield from super().end_task(ctx)
        terms = [term.item() for term in self.overlaps()]
        yield Phase("overlap", {"sum": sum(terms), "pairs": len(terms)})

    def answer(self, model: nn.Module, x: Tensor, task: int) -> Tensor:
        with using(model, task):
            for layer in lora_layers(model).values():
                layer.use(*layer.tasks)
            return model(x)


def _overlap(A_past: Tensor, A_new: Tensor) -> Tensor:
    # O = A_i A_t^T
    O = A_past.detach() @ A_new.T
    # sum_jk |O_jk|
    return O.abs().sum()
