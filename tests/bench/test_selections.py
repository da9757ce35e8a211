"""Herding and k-center beside their NumPy loops: the loops are right by hand, and other rows are noticed."""

import numpy as np
import pytest
import torch

from cllab.bench import selections
from cllab.bench.selections import Timing, contest, herding_loop, k_center_loop

CPU = torch.device("cpu")
GRID = {"n": 40, "m": 6, "d": 3}


def test_the_loops_by_hand():
    toy = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (2, 2)], dtype=float)
    assert herding_loop(toy[:, ::-1].copy() * [1, 1.01], 5)[0] == 3
    assert herding_loop(toy, 5)[0] == 3 and sorted(herding_loop(toy, 5)[1:3]) == [1, 2]
    assert herding_loop(toy, 5)[3:] == [4, 0]
    assert k_center_loop(np.array([[0.0], [1.0], [2.0], [10.0]]), 4) == [0, 3, 2, 1]


@pytest.mark.parametrize("name", ["herding", "k_center"])
def test_ours_and_the_loop_choose_the_same_rows(name):
    result = contest(getattr(selections, name), getattr(selections, f"{name}_loop"), **GRID, device=CPU, repeats=1)
    assert result.same and result.seconds > 0 and result.ratio > 0
    other = contest(getattr(selections, name), lambda phi, m: list(range(m)), **GRID, device=CPU, repeats=1)
    assert not other.same


def fake(monkeypatch, seconds, ratio=0.5, same=True):
    def contest(ours, plain, n, m, d, device, repeats):
        return Timing(seconds(n / 40, m / 6, d / 3), ratio, same)

    monkeypatch.setattr(selections, "contest", contest)
    return {row.name: row for row in selections.selections(CPU, GRID)}


def test_a_line_fails_when_rows_differ_or_it_is_slow(monkeypatch):
    rows = fake(monkeypatch, lambda n, m, d: n * m * d)
    assert len(rows) == 14 and all(row.met for row in rows.values())
    assert "the same rows" in rows["herding / NumPy loop, 40 x 3, m = 6"].detail
    rows = fake(monkeypatch, lambda n, m, d: n * m * d, same=False)
    assert [row.met for row in rows.values()] == [False] * 4 + [True] * 3 + [False] * 4 + [True] * 3
    assert "OTHER rows" in rows["k-center / NumPy loop, 160 x 3, m = 6"].detail
    rows = fake(monkeypatch, lambda n, m, d: n * m * d, ratio=1.6)
    assert sum(not row.met for row in rows.values()) == 8


def test_growth_is_judged_axis_by_axis(monkeypatch):
    rows = fake(monkeypatch, lambda n, m, d: n * m**2 * d**0.5)
    powers = {axis: rows[f"herding, power of {axis} in its time"] for axis in "nmd"}
    assert [row.value for row in powers.values()] == pytest.approx([1, 2, 0.5])
    assert [row.met for row in powers.values()] == [True, False, True]
