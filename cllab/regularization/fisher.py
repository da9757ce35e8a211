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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cllab import checks
from cllab.device import given_generator
from cllab.regularization.rows import answers, classes, powers_of_row_gradients, two_columns
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
    source = given_generator(generator, "sampled labels")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have at least one trainable parameter")
    checks.floats("x", x)
    with evaluating(model):
        logits = two_columns(answers(model, x, chunk))
        allowed = classes(allowed, logits)
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
                y = torch.multinomial(p.cpu(), 1, generator=source).flatten().to(x.device)
            weights = p if labels == "model" else F.one_hot(y, p.shape[1]).to(p)
            F_diagonal = _mean_of_squares(model, x, weights, allowed, chunk)
    if not all(bool(torch.isfinite(value).all()) for value in F_diagonal.values()):
        raise ValueError("x must be smaller: the squared gradients of the model overflow")
    return F_diagonal


def log_probability(logits: Tensor, label: int, allowed: Tensor) -> Tensor:
    """ln p(label | x) per row of logits [N, C], over the allowed classes: [N]."""
    return masked(logits, allowed).log_softmax(dim=1)[:, label]


def _mean_of_squares(model, x, weights, allowed, chunk: int) -> dict[str, Tensor]:
    """F = (1/N) sum_n sum_c weights[n, c] * (d ln p(c | x_n) / d theta)^2."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for rows in range(0, len(x), chunk):
        part, weight = x[rows : rows + chunk], weights[rows : rows + chunk]
        for label in weight.sum(dim=0).nonzero().flatten().tolist():

            def log_p(logits, label=label):
                return log_probability(two_columns(logits), label, allowed)

            for name, square in powers_of_row_gradients(model, part, log_p, weight[:, label], power=2).items():
                total[name] += square
    return {name: value / len(x) for name, value in total.items()}


def _batched(model, x, y, allowed, batch_size: int | None) -> dict[str, Tensor]:
    """Mean over batches of (mean over the batch of d ln p(y | x) / d theta)^2."""
    size = len(x) if batch_size is None else batch_size
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    batches = range(0, len(x), size)
    for rows in batches:
        with torch.enable_grad():
            logits = masked(two_columns(model(x[rows : rows + size])), allowed)
            mean_log_p = -F.cross_entropy(logits, y[rows : rows + size])
        gradients = torch.autograd.grad(mean_log_p, list(theta.values()), allow_unused=True)
        for name, g in zip(theta, gradients, strict=True):
            total[name] += 0 if g is None else g.square()
    return {name: value / len(batches) for name, value in total.items()}
