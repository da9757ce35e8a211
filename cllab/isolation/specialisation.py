"""Who serves what: kinds of token counted by expert, and how much an expert's number tells about the kind.

    U[c, e]        assignments of tokens of kind c that expert e served
    I(C; E)        = sum_{c,e} U/n ln( n U / (U_c U_e) )          mutual information, in nats; n, U_c, U_e: sums of U
    specialisation = I(C; E) / H(C)                               0: the expert tells nothing; 1: it tells the kind

One kind on two experts is still 1, two kinds on one expert are not. It is 0 when one expert serves everything, and it
does not depend on the experts' numbers: two runs can be equally specialised and give the kinds to other experts.
Small counts make it too large: n tokens spread at random have an expected I of about (K - 1)(E - 1) / (2 n).
Source: mutual information as in Cover & Thomas, "Elements of information theory", chapter 2 (uncertainty coefficient).
"""

import torch
from torch import Tensor

from cllab import checks
from cllab.isolation.expert_choice import ExpertChoice
from cllab.isolation.routing import Routing


def expert_usage(kind: Tensor, routing: Routing | ExpertChoice, n_kinds: int) -> Tensor:
    """U int64 [n_kinds, E]: the kept assignments of each kind of token to each expert.

    kind int64 [N], each below n_kinds, of the N tokens that `routing` is about.
    """
    checks.labels("kind", kind)
    checks.integer("n_kinds", n_kinds, 1)
    if int(kind.max()) >= n_kinds:
        raise ValueError(f"kind must be below n_kinds = {n_kinds}, got {int(kind.max())}")
    if isinstance(routing, ExpertChoice):
        n, n_experts = len(routing.multiplicity), len(routing.token)
        expert, place = (routing.weight.detach() > 0).cpu().nonzero(as_tuple=True)
        token = routing.token.cpu()[expert, place]
    elif isinstance(routing, Routing):
        n, n_experts = len(routing.expert), len(routing.load)
        token, expert = routing.kept.nonzero()[:, 0], routing.expert[routing.kept]
    else:
        raise TypeError(f"routing must be a Routing or an ExpertChoice, got {type(routing).__name__}")
    if len(kind) != n:
        raise ValueError(f"kind must name a kind for each of the {n} tokens of routing, got {len(kind)}")
    pairs = kind.cpu()[token.cpu()] * n_experts + expert.cpu()
    return torch.bincount(pairs, minlength=n_kinds * n_experts).view(n_kinds, n_experts)


def specialisation(usage: Tensor) -> float:
    """I(kind; expert) / H(kind) in [0, 1] for counts U [K, E]; 0 where all tokens are of one kind."""
    if not isinstance(usage, Tensor) or usage.ndim != 2 or usage.numel() == 0:
        raise TypeError("usage must be a tensor [K, E] of counts")
    joint = usage.double()
    if not bool(joint.isfinite().all()) or bool((joint < 0).any()) or float(joint.sum()) == 0:
        raise ValueError("usage must hold counts, at least 0 and not all 0")
    joint = joint / joint.sum()
    of_kind, of_expert = joint.sum(dim=1), joint.sum(dim=0)
    # I(C; E) = H(C) + H(E) - H(C, E)
    entropy_of_kind = _entropy(of_kind)
    if entropy_of_kind == 0:
        return 0.0
    information = entropy_of_kind + _entropy(of_expert) - _entropy(joint)
    return min(1.0, max(0.0, information / entropy_of_kind))


def _entropy(p: Tensor) -> float:
    """H = -sum p ln p, in nats."""
    return -torch.special.xlogy(p, p).sum().item()
