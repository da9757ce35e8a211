"""The diagonal of the Fisher information: how sharply the model's answers react to each single parameter.

    F_i = E_{x ~ data} E_{y ~ p(y | x, theta)} [ (d ln p(y | x, theta) / d theta_i)^2 ]

Symbols: theta_i, one parameter; p(y | x, theta), the model's softmax, [N, C]; F, like theta, [P].
Source: Kirkpatrick et al. 2017; the comparison of estimators is van de Ven 2025 (arXiv 2502.11756).

The label is the model's own, not the data's. Four estimators differ in it and in when they square:
"model"   every label, weighted by p: the definition, exact over the given x
"sampled" one label per row drawn from p: unbiased, and cheaper by the number of classes
"true"    the observed label y: the "empirical Fisher", a different quantity unless the model fits perfectly
"batched" the square of a batch's mean gradient at observed labels: common in public code and too small by about
          the batch size, zero for a full batch at the optimum; here only to show what it does
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from cllab import checks
from cllab.device import generator as seeded
from cllab.models import MLP
from cllab.training.batch import masked
from cllab.training.evaluating import evaluating

ESTIMATORS = ("model", "sampled", "true", "batched")


def fisher_diagonal(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    labels: str = "model",
    *,
    allowed: Tensor | None = None,
    batch_size: int | None = None,
    chunk: int = 256,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """F for every trainable parameter of `model` at its present weights: {name: tensor shaped like it}, mean over x.

    model: rows [N, ...] -> logits [N, C]; one output column is read as the logit of class 1 against 0.
    x: [N, ...]. y: observed labels int64 [N], for "true" and "batched". labels: the estimator, see above.
    allowed: bool [C], the classes the softmax runs over, as in training; default all.
    batch_size: of "batched" (default all of x in one batch). chunk: rows worked on at once; bounds the memory.
    generator: draws of "sampled" (default seed 0).
    The model is evaluated in eval mode and left as it was: mode, buffers and `.grad`.
    """
    checks.choice("labels", labels, ESTIMATORS)
    checks.integer("chunk", chunk, 1)
    if batch_size is not None:
        checks.integer("batch_size", batch_size, 1)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have at least one trainable parameter")
    checks.floats("x", x)
    with evaluating(model):
        logits = _answers(model, x)
        allowed = _classes(allowed, logits)
        if y is not None:
            checks.labels("y", y, n=len(x), n_classes=logits.shape[1])
            if not bool(allowed[y].all()):
                raise ValueError("y must only hold allowed classes")
        elif labels in ("true", "batched"):
            raise ValueError(f"y must be given for labels={labels!r}")
        if labels == "batched":
            F_diagonal = _batched(model, x, y, allowed, batch_size)
        else:
            p = masked(logits, allowed).softmax(dim=1)
            if labels == "sampled":
                source = seeded(0, "sampled labels") if generator is None else generator
                y = torch.multinomial(p.cpu(), 1, generator=source).flatten().to(x.device)
            weights = p if labels == "model" else F.one_hot(y, p.shape[1]).to(p)
            squares = _squares_of_linears if _only_linears(model) else _squares_by_vmap
            F_diagonal = _mean_of_squares(model, x, weights, allowed, squares, chunk)
    if not all(bool(torch.isfinite(value).all()) for value in F_diagonal.values()):
        raise ValueError("x must be smaller: the squared gradients of the model overflow")
    return F_diagonal


def log_probability(logits: Tensor, label: int, allowed: Tensor) -> Tensor:
    """ln p(label | x) per row of logits [N, C], over the allowed classes: [N]."""
    return masked(logits, allowed).log_softmax(dim=1)[:, label]


def _mean_of_squares(model, x, weights, allowed, squares: Callable, chunk: int) -> dict[str, Tensor]:
    """F = (1/N) sum_n sum_c weights[n, c] * (d ln p(c | x_n) / d theta)^2."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for rows in range(0, len(x), chunk):
        part, weight = x[rows : rows + chunk], weights[rows : rows + chunk]
        for label in weight.sum(dim=0).nonzero().flatten().tolist():
            for name, square in squares(model, part, label, weight[:, label], allowed).items():
                total[name] += square
    return {name: value / len(x) for name, value in total.items()}


def _squares_by_vmap(model, x, label: int, weight, allowed) -> dict[str, Tensor]:
    """sum_n weight[n] g_n^2 with one gradient g_n per row: like each parameter. One row at a time where vmap fails."""
    frozen = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}
    theta = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    def row_log_probability(theta, row):
        logits = functional_call(model, {**theta, **frozen}, (row[None],))
        return log_probability(_two_columns(logits), label, allowed)[0]

    try:
        per_row = vmap(grad(row_log_probability), in_dims=(None, 0))(theta, x)
    except RuntimeError:  # the model takes decisions that depend on its values, as a router does
        rows = [grad(row_log_probability)(theta, row) for row in x]
        per_row = {name: torch.stack([row[name] for row in rows]) for name in theta}
    return {name: torch.einsum("n,n...->...", weight, g.square()) for name, g in per_row.items()}


def _squares_of_linears(model, x, label: int, weight, allowed) -> dict[str, Tensor]:
    """The same for networks whose parameters all sit in linear layers, without one gradient per row in memory.

    Row n's gradient of a layer z = a W^T + b is delta_n a_n^T for W and delta_n for b, with delta = d ln p / d z;
    the square of an outer product is the outer product of the squares.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    hooks = [
        layer.register_forward_hook(lambda _, a, z, name=name: seen.__setitem__(name, (a[0].detach(), z)))
        for name, layer in layers
    ]
    try:
        with torch.enable_grad():
            log_p = log_probability(_two_columns(model(x)), label, allowed).sum()  # rows do not interact
    finally:
        for hook in hooks:
            hook.remove()
    deltas = torch.autograd.grad(log_p, [z for _, z in seen.values()])
    squares = {}
    for (name, (a, _)), delta in zip(seen.items(), deltas, strict=True):
        prefix = f"{name}." if name else ""
        layer = model.get_submodule(name)
        # sum_n w_n (delta_n a_n^T)^2 = (w delta^2)^T a^2
        squares[f"{prefix}weight"] = (weight[:, None] * delta.square()).T @ a.square()
        if layer.bias is not None:
            squares[f"{prefix}bias"] = weight @ delta.square()
    return squares


def _batched(model, x, y, allowed, batch_size: int | None) -> dict[str, Tensor]:
    """Mean over batches of (mean over the batch of d ln p(y | x) / d theta)^2."""
    size = len(x) if batch_size is None else batch_size
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    batches = range(0, len(x), size)
    for rows in batches:
        with torch.enable_grad():
            logits = masked(_two_columns(model(x[rows : rows + size])), allowed)
            mean_log_p = -F.cross_entropy(logits, y[rows : rows + size])
        gradients = torch.autograd.grad(mean_log_p, list(theta.values()), allow_unused=True)
        for name, g in zip(theta, gradients, strict=True):
            total[name] += 0 if g is None else g.square()
    return {name: value / len(batches) for name, value in total.items()}


def _only_linears(model: nn.Module) -> bool:
    """Whether all parameters are trainable and in linear layers used once on rows [N, features], as in an MLP."""
    owners = [m for m in model.modules() if list(m.parameters(recurse=False))]
    return (
        type(model) in (MLP, nn.Linear)
        and all(type(owner) is nn.Linear for owner in owners)
        and all(p.requires_grad for p in model.parameters())
    )


@torch.no_grad()
def _answers(model: nn.Module, x: Tensor) -> Tensor:
    """The model's logits for x, with what may be wrong about them said in terms of the arguments."""
    try:
        logits = _two_columns(model(x))
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"x must be rows that model accepts, {tuple(x.shape)} of {x.dtype} are not: {error}"
        ) from error
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("model must give finite logits for x")
    return logits


def _two_columns(logits: Tensor) -> Tensor:
    """A single logit z means p(1 | x) = sigmoid(z), the softmax of (0, z)."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError("model must turn rows [N, ...] into logits [N, C]")
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def _classes(allowed: Tensor | None, logits: Tensor) -> Tensor:
    if allowed is None:
        return torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
        raise TypeError("allowed must be a bool tensor [C]")
    if allowed.ndim != 1 or not bool(allowed[: logits.shape[1]].any()):
        raise ValueError(f"allowed must name at least one of {logits.shape[1]} classes, got {allowed.tolist()}")
    spare = logits.shape[1] - len(allowed)  # as in `masked`: a head may be wider, or have still to grow
    return F.pad(allowed, (0, spare), value=False).to(logits.device)
