"""The projection beside quadprog: the problems bind, differences are noticed, growth is judged."""

import sys
import types

import pytest
import torch

from cllab.bench import projections
from cllab.regularization import multipliers, project

CPU = torch.device("cpu")
GRID = {"t": 3, "p": 50}


def test_several_rows_bind_in_the_timed_problems():
    for t in (5, 20):
        g, G = projections.problem(t, 2000, CPU)
        assert int((multipliers(g, G) > 0).sum()) > t / 2 and (G @ project(g, G)).min() > -1e-9


def solver(scale):
    """A stand-in for quadprog that answers with our own v, times `scale`."""

    def solve_qp(P, a, C, b):
        factor = torch.linalg.cholesky(torch.from_numpy(P))  # P = F F^T: rows F with g = F^-1 q have the same dual
        q = -torch.from_numpy(a)
        v = multipliers(torch.linalg.solve_triangular(factor, q[:, None], upper=False)[:, 0], factor)
        return (scale * v.numpy(),)

    return types.SimpleNamespace(solve_qp=solve_qp)


@pytest.mark.parametrize(("scale", "met"), [(1.0, True), (1.001, False)])
def test_another_answer_is_noticed(monkeypatch, scale, met):
    monkeypatch.setitem(sys.modules, "quadprog", solver(scale))
    speed, apart = projections.beside_quadprog(3, 50, CPU, repeats=1)
    assert speed.value > 0 and apart.met is met and "1e-08" in apart.target


def test_without_quadprog_only_growth_is_told(monkeypatch):
    monkeypatch.setattr(projections.importlib.util, "find_spec", lambda name: None)
    seconds = {3: 1.0, 12: 64.0}
    monkeypatch.setattr(projections, "_seconds", lambda g, G, repeats, device: seconds[len(G)] * len(g))
    rows = projections.projections(CPU, GRID)
    assert [row.value for row in rows] == pytest.approx([3, 1]) and [row.met for row in rows] == [False, True]


def test_with_quadprog_every_size_is_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "quadprog", solver(1.0))
    monkeypatch.setattr(projections.importlib.util, "find_spec", lambda name: object())
    rows = projections.projections(CPU, GRID, repeats=1)
    assert len(rows) == 2 + 3 * 2 and all(row.met for row in rows if "apart" in row.name)


def test_the_real_quadprog_agrees():
    pytest.importorskip("quadprog")
    assert projections.beside_quadprog(4, 60, CPU, repeats=1)[1].met
