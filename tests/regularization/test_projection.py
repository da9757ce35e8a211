"""Projection on the cone of allowed directions: worked examples, the optimality conditions, degenerate rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.regularization import multipliers, project, project_on_one

D = torch.float64


def t(*values):
    return torch.tensor(values, dtype=D)


ROWS = t([1, 1], [-1, 1])
WORKED = [  # g, G, margin, v, u
    (t(1, 0), t([-1, 1]), 0.0, t(0.5), t(0.5, 0.5)),
    (t(2, -1), ROWS, 0.0, t(0, 1.5), t(0.5, 0.5)),
    (t(0, -1), ROWS, 0.0, t(0.5, 0.5), t(0, 0)),
    (t(2, -1), ROWS, 0.5, t(0.5, 1.5), t(1, 1)),
    (t(0, -1), t([1, 0.5], [-1, 0.5]), 0.0, t(1, 1), t(0, 0)),
    (t(-1, -2), t([1, 0], [1, 1]), 0.0, t(0, 1.5), t(0.5, -0.5)),
]


@pytest.mark.parametrize(("g", "G", "margin", "v", "u"), WORKED)
def test_worked_examples(g, G, margin, v, u):
    assert torch.allclose(multipliers(g, G, margin), v, atol=1e-12)
    assert torch.allclose(project(g, G, margin), u, atol=1e-12)


def test_a_gem_sees_only_the_mean():
    """One constraint made of two: the mean is respected, the second row is not."""
    u = project_on_one(t(2, -1), ROWS.mean(dim=0))
    assert torch.equal(u, t(2, 0)) and (ROWS @ u).tolist() == [2, -2]
    assert torch.allclose(project_on_one(t(-1, -2), t([1, 0], [1, 1]).mean(dim=0)), t(0.6, -1.2))
    assert torch.allclose(project_on_one(t(1, 0), t(-1, 1)), t(0.5, 0.5))


def test_one_after_another_is_not_the_projection():
    """The shortcut of projecting on each constraint in turn leaves the first violated, or goes too far."""
    for g, G, u in [(t(0, -1), t([1, 0.5], [-1, 0.5]), t(-0.24, -0.48)), (t(-1, -2), t([1, 0], [1, 1]), t(1, -1))]:
        in_turn = g
        for row in G:
            in_turn = project_on_one(in_turn, row)
        assert torch.allclose(in_turn, u) and not torch.allclose(project(g, G), u, atol=0.1)


def kkt(g, G):
    v = multipliers(g, G)
    u = project(g, G)
    scale = g.norm() * G.norm(dim=1).clamp(min=1e-300)
    stationary = (u - g - G.T @ v).abs().max() / g.norm()
    return {
        "v >= 0": max(0.0, float(-v.min())), "G u >= 0": max(0.0, float((-(G @ u) / scale).max())),
        "v (G u) = 0": float((v * (G @ u)).abs().max() / g.norm() ** 2), "u - g = G'v": float(stationary),
    }  # fmt: skip


def rows(kind, n, p, source):
    G = torch.randn(n, p, generator=source, dtype=D)
    if kind == "duplicate":
        G = torch.cat([G, G])
    elif kind == "zero":
        G[0] = 0
    elif kind == "parallel":
        G = torch.cat([G, G + 1e-6 * torch.randn(n, p, generator=source, dtype=D)])
    elif kind == "opposite":
        G = torch.cat([G, -G])
    return G


@pytest.mark.parametrize("kind", ["random", "duplicate", "zero", "parallel", "opposite"])
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_optimality_conditions(kind, scale):
    source = torch.Generator().manual_seed(0)
    for n, p in [(1, 2), (3, 8), (4, 50), (19, 400), (6, 4)]:
        g, G = scale * torch.randn(p, generator=source, dtype=D), scale * rows(kind, n, p, source)
        g = g - 2 * G.sum(dim=0) if float((G @ g).min()) >= 0 else g  # there must be something to project
        if float((G @ g).min()) < 0:
            assert max(kkt(g, G).values()) < 1e-8, (n, p, kkt(g, G))


@pytest.mark.parametrize("eps", [1e-6, 1e-8, 1e-9, 1e-12])
def test_rows_that_are_nearly_opposite(eps):
    """Their multipliers are about 1/eps and cancel: u must not be what rounding leaves of them."""
    source, worst, plain = torch.Generator().manual_seed(0), 0.0, 0.0
    for _ in range(50):
        r, noise, g = torch.randn(3, 5, generator=source, dtype=D)
        G = torch.stack([r, -r + eps * noise])
        u, scale = project(g, G), g.norm() * G.norm(dim=1)
        worst = max(worst, float((-(G @ u) / scale).max()))
        plain = max(plain, float((-(G @ (g + G.T @ multipliers(g, G))) / scale).max()))
    assert worst < 1e-12 and (eps > 1e-8 or plain > 1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((t(1, 0), t([float("nan"), 1])), ValueError, "constraints"), ((t(1, 0), t([1, 1]), -1.0), ValueError, "margin"),
        ((t(1, 0), t([1, 1]), True), TypeError, "margin"), ((t(1, 0), t([1, 1, 1])), ValueError, "columns"),
        ((t(1, 0), t(1, 1)), ValueError, "constraints"),
    ],
)  # fmt: skip
def test_multipliers_ask_the_same_of_their_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        multipliers(*arguments)


def test_the_authors_jitter_would_leave_small_gradients_unprojected():
    """1e-3 on the diagonal of G G^T at gradients of length .005: the constraint stays violated."""
    source = torch.Generator().manual_seed(1)
    g = 0.001 * torch.randn(20, generator=source, dtype=D)
    G = 0.001 * torch.randn(3, 20, generator=source, dtype=D) - g
    v = np.linalg.solve((G @ G.T + 1e-3 * torch.eye(3, dtype=D)).numpy(), -(G @ g).numpy()).clip(min=0)
    jittered = g + G.T @ torch.from_numpy(v)
    worst = [float((G @ u).min() / (G.norm(dim=1).max() * u.norm())) for u in (jittered, project(g, G))]
    assert worst[0] < -0.1 and worst[1] > -1e-12


def by_enumeration(g, G):
    """The nearest point over all sets of binding rows: slow and obvious."""
    best = None
    for bits in range(2 ** len(G)):
        binding = G[[i for i in range(len(G)) if bits >> i & 1]]
        u = g - binding.T @ torch.linalg.pinv(binding @ binding.T) @ (binding @ g) if len(binding) else g
        feasible = bool((G @ u >= -1e-9).all())
        if feasible and (best is None or (u - g).norm() < (best - g).norm()):
            best = u
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 8))
def test_equals_the_best_over_all_sets_of_binding_rows(seed, n, p):
    source = torch.Generator().manual_seed(seed)
    g, G = torch.randn(p, generator=source, dtype=D), torch.randn(n, p, generator=source, dtype=D)
    u = project(g, G)
    assert torch.allclose(u, by_enumeration(g, G), atol=1e-7)
    assert u.norm() <= g.norm() + 1e-12
    assert torch.allclose(project(3 * g, G), 3 * u, atol=1e-9)
    assert torch.allclose(project(g, torch.cat([G, G[:1]])), u, atol=1e-9)
    if n == 1:
        assert torch.allclose(project_on_one(g, G[0]), u, atol=1e-9)


def test_what_is_allowed_comes_back_itself():
    g = t(1, 1)
    assert project(g, t([1, 0], [0, 1]), 0.5) is g and project_on_one(g, t(1, 0)) is g
    assert project(g, torch.empty(0, 2, dtype=D)) is g
    assert project_on_one(g, t(0, 0)) is g and project(g, t([0, 0])) is g


def test_single_precision_is_solved_in_double():
    source = torch.Generator().manual_seed(3)
    g, G = torch.randn(30, generator=source), torch.randn(4, 30, generator=source)
    u = project(g, G)
    assert u.dtype == torch.float32 and float((G @ u).min()) > -1e-5
    assert torch.allclose(u.double(), project(g.double(), G.double()), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (([1.0], ROWS), TypeError, "gradient"), ((t(1, float("nan")), ROWS), ValueError, "gradient"),
        ((t([1, 0]), ROWS), ValueError, "gradient"), ((t(1, 0), t([1, float("inf")])), ValueError, "constraints"),
        ((t(1, 0, 0), ROWS), ValueError, "constraints"), ((t(1, 0), ROWS, -0.1), ValueError, "margin"),
        ((t(1, 0), ROWS, "0"), TypeError, "margin"),
    ],
)  # fmt: skip
def test_bad_input(arguments, error, named):
    with pytest.raises(error, match=named):
        project(*arguments)


def test_bad_reference():
    with pytest.raises(ValueError, match="reference"):
        project_on_one(t(1, 0), t(1, 0, 0))
