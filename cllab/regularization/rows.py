"""One gradient per row, without keeping them all: what the Fisher and MAS are sums of.

    sum_n w_n |d s_n / d theta|^power        s_n: a scalar of row n's logits; power 1 or 2

A gradient of the mean is not enough: rows whose gradients cancel would look as if they did not matter.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from cllab.models import MLP
from cllab.training.evaluating import answer_with


def powers_of_row_gradients(
    model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor], weight: Tensor, power: int
) -> dict[str, Tensor]:
    """sum_n weight[n] |g_n|^power for every trainable parameter: {name: tensor shaped like it}.

    x [N, ...]; weight [N]; objective: logits [N, C] -> [N], each entry of its own row only. g_n is the gradient of
    entry n. Memory grows with N (except for an MLP): pass a chunk of rows at a time. The model should be in eval mode.
    """
    of_layers = _of_linears if _plain_linears(model) else _by_vmap
    return of_layers(model, x, objective, weight, power)


def two_columns(logits: Tensor) -> Tensor:
    """A single logit z means p(1 | x) = sigmoid(z), the softmax of (0, z)."""
    _logits(logits)
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


@torch.no_grad()
def answers(model: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """The model's logits for x, `chunk` rows at a time; what may be wrong is said in terms of the arguments."""
    try:
        logits = torch.cat([_logits(model(part), len(part)) for part in x.split(chunk)])
        with torch.enable_grad():
            follows = model(x[:1]).requires_grad
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"x must be rows that model accepts, {tuple(x.shape)} of {x.dtype} are not: {error}"
        ) from error
    if not follows:
        raise ValueError("model must answer with a gradient to its parameters: its logits are detached from them")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("model must give finite logits for x")
    return logits


def classes(allowed: Tensor | None, logits: Tensor) -> Tensor:
    """`allowed` as a mask bool [C] for these logits [N, C]; None allows every class."""
    if allowed is None:
        return torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
        raise TypeError("allowed must be a bool tensor [C]")
    if allowed.ndim != 1 or not bool(allowed[: logits.shape[1]].any()):
        raise ValueError(f"allowed must name at least one of {logits.shape[1]} classes, got {allowed.tolist()}")
    spare = logits.shape[1] - len(allowed)  # as in `masked`: a head may be wider, or have still to grow
    return F.pad(allowed, (0, spare), value=False).to(logits.device)


def _logits(answer: Tensor, n: int | None = None) -> Tensor:
    """What a model returned for n rows, if it is logits [N, C]."""
    if not isinstance(answer, Tensor) or not answer.is_floating_point() or answer.ndim != 2 or answer.shape[1] == 0:
        raise ValueError("model must turn rows [N, ...] into floating-point logits [N, C]")
    if n is not None and len(answer) != n:
        raise ValueError(f"model must give one row of logits per row of x, got {len(answer)} for {n}")
    return answer


def _by_vmap(model, x, objective, weight, power: int) -> dict[str, Tensor]:
    """With one gradient per row in memory. One row at a time where vmap fails."""
    frozen = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}
    theta = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    def of_row(theta, row):
        return objective(answer_with(model, {**theta, **frozen}, row[None]))[0]

    try:
        per_row = vmap(grad(of_row), in_dims=(None, 0))(theta, x)
    except RuntimeError:  # the model takes decisions that depend on its values, as a router does
        rows = [grad(of_row)(theta, row) for row in x]
        per_row = {name: torch.stack([row[name] for row in rows]) for name in theta}
    return {name: torch.einsum("n,n...->...", weight, g.abs().pow(power)) for name, g in per_row.items()}


def _of_linears(model, x, objective, weight, power: int) -> dict[str, Tensor]:
    """The same for networks whose parameters all sit in linear layers, without one gradient per row in memory.

    Row n's gradient of a layer z = a W^T + b is delta_n a_n^T for W and delta_n for b, with delta = d s / d z;
    a power of an outer product is the outer product of the powers.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    hooks = [
        layer.register_forward_hook(lambda _, a, z, name=name: seen.__setitem__(name, (a[0].detach(), z)))
        for name, layer in layers
    ]
    try:
        with torch.enable_grad():
            total = objective(model(x)).sum()  # rows do not interact
    finally:
        for hook in hooks:
            hook.remove()
    deltas = torch.autograd.grad(total, [z for _, z in seen.values()])
    sums = {}
    for (name, (a, _)), delta in zip(seen.items(), deltas, strict=True):
        prefix = f"{name}." if name else ""
        layer = model.get_submodule(name)
        # sum_n w_n |delta_n a_n^T|^power = (w |delta|^power)^T |a|^power
        sums[f"{prefix}weight"] = (weight[:, None] * delta.abs().pow(power)).T @ a.abs().pow(power)
        if layer.bias is not None:
            sums[f"{prefix}bias"] = weight @ delta.abs().pow(power)
    return sums


def _plain_linears(model: nn.Module) -> bool:
    """Whether all parameters are trainable and in linear layers that are called once each, as in an MLP.

    Nothing may stand between a layer's input and output and what its hook sees: no hooks of others, no layer in two
    places, no shared or re-parametrised weight, nothing that overwrites its input.
    """
    modules = list(model.modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    weights = sum(1 + (m.bias is not None) for m in modules if type(m) is nn.Linear)
    return (
        type(model) in (MLP, nn.Linear)
        and all(type(m) in (MLP, nn.Sequential, nn.Linear, nn.ReLU) for m in modules)
        and not any(getattr(m, "inplace", False) or any(getattr(m, kind) for kind in hooks) for m in modules)
        and len(list(model.named_modules(remove_duplicate=False))) == len(modules)
        and len(list(model.parameters())) == weights
        and all(p.requires_grad for p in model.parameters())
    )
