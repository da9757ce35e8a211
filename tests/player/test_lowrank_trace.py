"""Traces of low rank: worked numbers of the course, slow sums as oracles, and every way to be refused."""

import copy
import math

import numpy as np
import pytest
import torch

from cllab.isolation import Factors, average_factors, merge_lora
from cllab.player import lowrank_trace, merging_trace, overlap_trace, validate_trace

E = torch.eye(2, dtype=torch.float64)
UNITS = {"one": Factors(E[:1], E[:, :1]), "two": Factors(E[1:], E[:, 1:])}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(n: int = 2, rank: int = 2) -> dict[str, Factors]:
    return {f"task {i}": Factors(random(rank, 5, seed=i), random(4, rank, seed=9 + i), 1.5 + i) for i in range(n)}


def steps(trace: dict) -> dict[str, dict]:
    return {step["phase"]: step for step in trace["steps"]}


def result(trace: dict, phase: str) -> np.ndarray:
    """What the view draws: the cut, or the cells added up with the step's weights."""
    step = steps(trace)[phase]
    if step["cut"] is not None:
        return np.array(step["cut"])
    return np.einsum("ij,ijab->ab", np.array(step["weights"]), np.array(trace["cells"]))


# --- a change, rank by rank --------------------------------------------------------------------------------


def test_every_rank_is_the_sum_of_the_largest_singular_terms():
    delta = random(6, 9)
    trace = validate_trace(lowrank_trace(delta, {"accuracy": [0.1 * r for r in range(7)]}))
    U, sigma, Vt = np.linalg.svd(delta.numpy(), full_matrices=False)
    A, B = np.array(trace["A"]), np.array(trace["B"])
    np.testing.assert_allclose(trace["sigma"], sigma, atol=1e-6)
    for r, step in enumerate(trace["steps"]):
        best = sum((sigma[k] * np.outer(U[:, k], Vt[k]) for k in range(r)), np.zeros((6, 9)))
        np.testing.assert_allclose(B[:, :r] @ A[:r], best, atol=1e-5)
        assert step["error"] == pytest.approx(math.sqrt((sigma[r:] ** 2).sum() / (sigma**2).sum()), abs=1e-6)
        assert (step["rank"], step["parameters"]) == (r, r * (6 + 9))
    assert trace["lines"][0]["values"] == [step["error"] for step in trace["steps"]]
    assert trace["steps"][3]["text"] == (
        f"Rank 3: 45 numbers in place of 54, relative error {trace['steps'][3]['error']:.3f}, accuracy 0.300."
    )


def test_a_change_of_rank_two_needs_two():
    trace = lowrank_trace(random(5, 2) @ random(2, 7, seed=1))
    assert [step["error"] > 1e-6 for step in trace["steps"]] == [True, True, False, False, False, False]


# --- ways to merge -----------------------------------------------------------------------------------------


def test_the_worked_merge_of_two_unit_adapters():
    trace = validate_trace(merging_trace(UNITS))
    found = steps(trace)
    norms = {phase: found[phase]["norm"] for phase in ("delta", "average", "root", "cat")}
    assert norms == {"delta": 0.707107, "average": 0.5, "root": 1.0, "cat": 0.707107}
    assert result(trace, "average").tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert result(trace, "root").tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert result(trace, "delta").tolist() == [[0.5, 0], [0, 0.5]]
    assert trace["cells"][0][1] == [[0, 1], [0, 0]]  # B_1 A_2 = e_1 e_2^T, which no adapter has learned
    assert found["average"]["cross"] == pytest.approx(math.sqrt(2) / 4, abs=1e-6)
    assert found["adapters"]["norm"] is None and not result(merging_trace(UNITS, [0, 0]), "delta").any()


@pytest.mark.parametrize(("angle", "error"), [(0.7, 0.117579), (0.0, 0.0), (math.pi, 1.0)])
def test_the_worked_error_of_averaging_with_a_turned_copy(angle, error):
    c, s = math.cos(angle), math.sin(angle)
    R = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    A, B = random(2, 5), random(4, 2, seed=1)
    found = steps(merging_trace({"one": Factors(A, B), "copy": Factors(R.T @ A, B @ R)}))
    assert found["average"]["error"] == pytest.approx(error, abs=1e-6)
    assert found["cat"]["error"] == found["svd"]["error"] == 0.0


@pytest.mark.parametrize("weights", [None, [0.3, 0.7], [1.0, -0.5], [0.0, 1.0]])
def test_cells_and_weights_add_up_to_what_the_library_merges(weights):
    given = pairs()
    trace = validate_trace(merging_trace(given, weights, rank=3))
    parts = list(given.values())
    library = {how: merge_lora(parts, weights, how).delta for how in ("delta", "cat")}
    library |= {"average": average_factors(parts, weights).delta, "root": average_factors(parts, weights, True).delta}
    cut = merge_lora(parts, weights, "svd", rank=3)
    library["svd"] = cut.B @ cut.A
    for phase, expected in library.items():
        np.testing.assert_allclose(result(trace, phase), expected.numpy(), atol=1e-4)
        assert steps(trace)[phase]["norm"] == pytest.approx(float(expected.norm()), abs=1e-5)


def test_three_adapters_and_scores():
    trace = validate_trace(merging_trace(pairs(3), score=lambda delta: {"norm": float(delta.norm())}))
    assert np.array(trace["cells"]).shape == (3, 3, 4, 5)
    assert all(step["scores"] == {"norm": step["norm"]} for step in trace["steps"][1:])
    assert steps(trace)["cat"]["rank"] == 6 and trace["steps"][0]["scores"] == {}


def test_a_sum_of_zero_has_no_relative_error():
    A, B = random(2, 5), random(4, 2, seed=1)
    trace = validate_trace(merging_trace({"one": Factors(A, B), "minus": Factors(2 * A, -B / 2)}))
    found = steps(trace)
    assert found["delta"]["norm"] == 0 and found["average"]["error"] is None and found["average"]["norm"] > 0.1
    assert "no relative error, since the right sum is 0" in found["average"]["text"] and "nan" not in str(trace)


# --- an overlap --------------------------------------------------------------------------------------------


def test_the_worked_overlap():
    past = torch.eye(4, dtype=torch.float64)[:2]
    new = torch.tensor([[0.6, 0.8, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)
    orthogonal = torch.eye(4, dtype=torch.float64)[2:]
    trace = validate_trace(overlap_trace([0, 5], {"run": (past, [new, orthogonal])}, {"acc": {"run": [0.5, 0.7]}}))
    first, last = (step["runs"][0] for step in trace["steps"])
    assert first["overlap"] == 1.4 and first["O"] == [[0.6, 0], [0.8, 0]]
    assert sum(x * x for row in first["O"] for x in row) == pytest.approx(1.0)
    assert last["overlap"] == 0 and trace["steps"][1]["text"] == "Training step 5. run: Σ |O| = 0."
    assert [chart["lines"][0]["values"] for chart in trace["charts"]] == [[1.4, 0.0], [0.5, 0.7]]


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: lowrank_trace(torch.zeros(3, 4)), ValueError, "delta must not be all 0"),
        (lambda: lowrank_trace(torch.full((3, 4), math.nan)), ValueError, "delta"),
        (lambda: lowrank_trace(random(129, 2)), ValueError, "128"),
        (lambda: lowrank_trace(random(3)), ValueError, "delta"),
        (lambda: lowrank_trace(random(3, 4), {"a": [0.1, 0.2]}), ValueError, "one number per rank 0 to 3"),
        (lambda: lowrank_trace(random(1, 1), {"a": [0.1, 1.2]}), ValueError, "scores"),
        (lambda: merging_trace(pairs(1)), ValueError, "2 to 3"),
        (lambda: merging_trace(pairs(4)), ValueError, "2 to 3"),
        (lambda: merging_trace(pairs(), [1.0]), ValueError, "weights"),
        (lambda: merging_trace(pairs(), rank=5), ValueError, "rank"),
        (lambda: merging_trace({**pairs(1), "other": pairs(2, 3)["task 1"]}), ValueError, "same rank"),
        (lambda: overlap_trace([0], {}), ValueError, "runs must be 1 to 3"),
        (lambda: overlap_trace([1, 1], {"a": (random(2, 3), [random(2, 3)] * 2)}), ValueError, "increasing"),
        (lambda: overlap_trace([1, 2], {"a": (random(2, 3), [random(2, 3)])}), ValueError, "each of 2 steps"),
        (lambda: overlap_trace([1], {"a": (random(2, 3), [random(2, 4)])}), ValueError, "A_new"),
        (lambda: overlap_trace([1], {"a": (random(2, 3), [random(2, 3)])}, {"x": {"a": []}}), ValueError, "scores"),
    ],
)
def test_bad_arguments(make, error, named):
    with pytest.raises(error, match=named):
        make()


def test_traces_that_lack_something_are_refused():
    made = {
        "rank": lowrank_trace(random(3, 4)), "merge": merging_trace(pairs()),
        "overlap": overlap_trace([0], {"a": (random(2, 3), [random(2, 3)])}),
    }  # fmt: skip
    for shows, spoil, named in (
        ("rank", lambda t: t.pop("sigma"), "sigma"), ("rank", lambda t: t["A"].pop(), "A'"),
        ("rank", lambda t: t["lines"][0]["values"].pop(), "values"), ("rank", lambda t: t.update(shows="x"), "shows"),
        ("rank", lambda t: t["steps"][0].update(rank=9), "ranks"), ("rank", lambda t: t.pop("shows"), "shows"),
        ("merge", lambda t: t["cells"].pop(), "cells"), ("merge", lambda t: t["cells"][1][1].pop(), "a cell"),
        ("merge", lambda t: t["steps"][1]["weights"].pop(), "weights"),
        ("merge", lambda t: t["adapters"][0].pop("B"), "'B'"),
        ("merge", lambda t: t["steps"][-1]["cut"].pop(), "result"), ("overlap", lambda t: t["runs"].clear(), "one run"),
        ("overlap", lambda t: t["steps"][0]["runs"][0]["O"].pop(), "O of a step"),
        ("overlap", lambda t: t["charts"][0]["lines"][0].pop("values"), "values"),
        ("overlap", lambda t: t["steps"][0].pop("x"), "'x'"),
    ):  # fmt: skip
        spoiled = copy.deepcopy(made[shows])
        spoil(spoiled)
        with pytest.raises(ValueError, match=named):
            validate_trace(spoiled)
