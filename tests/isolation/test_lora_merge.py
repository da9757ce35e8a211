"""Merging adapters: the reference's numbers, an independent library, and the wrong way taken apart."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cllab.device import generator
from cllab.isolation import Factors, LowRank, average_factors, merge_lora

E1, E2 = torch.eye(2).double()
FIRST = Factors(E1[None], E1[:, None])
SECOND = Factors(E2[None], E2[:, None])


def random_adapters(n: int, r: int = 2, n_out: int = 5, n_in: int = 6, seed: int = 0) -> list[Factors]:
    source = generator(seed)
    shapes = ((r, n_in), (n_out, r))
    return [
        Factors(*(torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes), s=0.5 + i)
        for i in range(n)
    ]


def loop(adapters, weights) -> Tensor:
    """sum_i w_i s_i B_i A_i, entry by entry."""
    A0, B0, _ = adapters[0]
    delta = torch.zeros(len(B0), A0.shape[1], dtype=torch.float64)
    for w, (A, B, s) in zip(weights, adapters):
        for o in range(len(B)):
            for i in range(A.shape[1]):
                for k in range(len(A)):
                    delta[o, i] += w * s * B[o, k] * A[k, i]
    return delta


def off(wrong: Tensor, right: Tensor) -> float:
    return float((wrong - right).norm() / right.norm())


def test_two_unit_adapters_by_hand():
    right = merge_lora([FIRST, SECOND])
    assert right.delta.tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert float(right.delta.norm()) == pytest.approx(0.7071067811865476)
    assert right.A is None and right.B is None and right.error == 0.0
    wrong = average_factors([FIRST, SECOND])
    assert wrong.delta.tolist() == [[0.25, 0.25], [0.25, 0.25]] and float(wrong.delta.norm()) == 0.5
    assert wrong.diagonal.tolist() == [[0.25, 0.0], [0.0, 0.25]]
    assert wrong.cross.tolist() == [[0.0, 0.25], [0.25, 0.0]]
    assert wrong.error == pytest.approx(math.sqrt(0.5))
    root = average_factors([FIRST, SECOND], root=True)
    assert torch.allclose(root.delta, torch.full((2, 2), 0.5).double(), atol=1e-12)
    assert float(root.delta.norm()) == pytest.approx(1.0)
    assert torch.allclose(root.diagonal, right.delta, atol=1e-12)
    negative = average_factors([FIRST, SECOND], [4, -9], root=True)
    assert negative.diagonal.tolist() == [[4.0, 0.0], [0.0, -9.0]]


def test_the_same_adapter_in_other_coordinates():
    flipped = Factors(-FIRST.A, -FIRST.B)
    assert torch.equal(merge_lora([FIRST, flipped]).delta, merge_lora([FIRST]).delta)
    assert bool((average_factors([FIRST, flipped]).delta == 0).all())
    assert average_factors([FIRST, flipped]).error == 1.0
    # a copy turned by 0.7 rad: relative error (1 - cos 0.7) / 2
    adapter = random_adapters(1)[0]._replace(s=1.0)
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64)
    turned = Factors(turn.T @ adapter.A, adapter.B @ turn)
    assert merge_lora([adapter, turned]).error == 0 and merge_lora([adapter, turned], how="cat").error < 1e-14
    assert average_factors([adapter, turned]).error == pytest.approx((1 - math.cos(0.7)) / 2, abs=1e-9)
    assert (1 - math.cos(0.7)) / 2 == pytest.approx(0.117579, abs=1e-6)
    # identical factors hide the mistake
    assert average_factors([adapter, adapter]).error < 1e-14


@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.integers(0, 99))
def test_every_form_against_a_loop(n, r, weights, seed):
    adapters, weights = random_adapters(n, r, seed=seed), weights[:n]
    right = loop(adapters, weights)
    assert torch.allclose(merge_lora(adapters, weights).delta, right, atol=1e-12)
    for how, rank in (("cat", None), ("svd", 5)):
        merged = merge_lora(adapters, weights, how, rank)
        assert torch.allclose(merged.B @ merged.A, right, atol=1e-9)
    wrong = average_factors(adapters, weights)
    slow = sum(w * v * s * B @ A for w, (_, B, s) in zip(weights, adapters) for v, (A, _, _) in zip(weights, adapters))
    assert torch.allclose(wrong.delta, slow, atol=1e-12)
    crossed = sum(
        (
            weights[i] * weights[j] * adapters[i].s * adapters[i].B @ adapters[j].A
            for i in range(n)
            for j in range(n)
            if i != j
        ),
        start=torch.zeros(5, 6).double(),
    )
    assert torch.allclose(wrong.cross, crossed, atol=1e-12)


def test_equal_weights_are_the_default():
    adapters = random_adapters(3)
    assert torch.allclose(merge_lora(adapters).delta, loop(adapters, [1 / 3] * 3), atol=1e-12)


def test_svd_is_the_best_of_its_rank_and_says_how_good():
    adapters = random_adapters(2)
    delta = merge_lora(adapters).delta
    sigma = torch.linalg.svdvals(delta)
    for rank in (1, 2, 3):
        merged = merge_lora(adapters, how="svd", rank=rank)
        assert merged.A.shape == (rank, 6) and merged.B.shape == (5, rank)
        assert merged.error == pytest.approx(float(sigma[rank:].norm() / sigma.norm()), abs=1e-9)
        assert merged.error == pytest.approx(off(merged.B @ merged.A, delta), abs=1e-12)
        other = torch.randn(5, rank, generator=generator(rank), dtype=torch.float64)
        nearest = other @ torch.linalg.lstsq(other, delta).solution
        assert merged.error < off(nearest, delta)
    assert merge_lora(adapters, how="svd", rank=4).error < 1e-12
    assert len(merge_lora(adapters, how="svd").A) == 2
    cat = merge_lora(adapters, how="cat")
    assert cat.A.shape == (4, 6) and cat.B.shape == (5, 4) and cat.error < 1e-14


def test_nothing_to_merge_is_zero_and_not_nan():
    merged = merge_lora([FIRST, FIRST], weights=[1, -1], how="svd", rank=1)
    assert merged.error == 0 and bool((merged.B @ merged.A == 0).all())
    assert average_factors([FIRST, SECOND], weights=[0, 0]).error == 0
    assert average_factors([Factors(E1[None], E2[:, None]), Factors(-E1[None], E2[:, None])]).error == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types_are_kept(dtype):
    adapters = [Factors(A.to(dtype), B.to(dtype), s) for A, B, s in random_adapters(2)]
    for how in ("delta", "cat", "svd"):
        merged = merge_lora(adapters, how=how, rank=4 if how == "svd" else None)
        assert merged.delta.dtype == dtype and (how == "delta" or merged.A.dtype == merged.B.dtype == dtype)
        assert merged.error < 0.02


def test_adapters_are_left_alone():
    layer = nn.Linear(6, 5)
    parts = [LowRank.fresh(layer, 2, None, generator(i)) for i in range(2)]
    merged = merge_lora([part.factors for part in parts])
    assert not merged.delta.requires_grad and parts[0].A.requires_grad
    adapters = random_adapters(2)
    before = [adapter.A.clone() for adapter in adapters]
    merge_lora(adapters, how="cat").A.zero_()
    assert all(torch.equal(adapter.A, old) for adapter, old in zip(adapters, before))


def test_bad_input_is_named():
    two = random_adapters(2)
    for wrong, message in (
        (lambda: merge_lora([]), "at least one, got an empty list"),
        (lambda: merge_lora(two, [1.0]), "2 adapters, got 1"),
        (lambda: merge_lora(two, [1.0, torch.nan]), "each of weights must be finite"),
        (lambda: merge_lora([two[0], Factors(two[1].A[:, :5], two[1].B)]), r"adapters\[1\] changes a weight \(5, 5\)"),
        (lambda: merge_lora([two[0], Factors(two[1].A, two[1].B[:, :1])]), r"adapters\[1\] must have B"),
        (lambda: merge_lora([two[0], Factors(two[1].A.float(), two[1].B.float())]), "must be alike"),
        (lambda: merge_lora([Factors(two[0].A * torch.inf, two[0].B)]), r"adapters\[0\].A must be finite"),
        (lambda: merge_lora([two[0]._replace(s=torch.nan)]), r"adapters\[0\].s must be finite"),
        (lambda: merge_lora(two, how="mean"), "how must be one of"),
        (lambda: merge_lora(two, how="svd", rank=0), "rank must be between 1 and 5, got 0"),
        (lambda: merge_lora(two, how="svd", rank=6), "rank must be between 1 and 5, got 6"),
        (lambda: merge_lora(two, how="cat", rank=2), "rank must be None"),
        (lambda: merge_lora(two, [1e308, 1e308]), "the merged change must be finite"),
        (lambda: average_factors([two[0], Factors(two[1].A[:1], two[1].B[:, :1])]), r"same rank here, got \[2, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    for wrong, message in (
        (lambda: merge_lora(two[0]), "adapters must be a list of Factors, got Factors"),
        (lambda: merge_lora([two[0], (two[0].A, two[0].B)]), "must hold Factors"),
        (lambda: merge_lora([Factors(two[0].A.tolist(), two[0].B)]), "A must be a torch.Tensor"),
        (lambda: merge_lora(two, ["a", "b"]), "weights must hold real numbers"),
        (lambda: merge_lora(two, how="svd", rank=1.5), "rank must be an integer"),
        (lambda: average_factors(two, root=1), "root must be True or False"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()


def peft_model(adapters, layer: nn.Linear):
    """The same adapters in peft, by name "0", "1", ..."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=2 * adapters[0].s, target_modules=["0"], bias="none", lora_dropout=0.0)
    model = peft.get_peft_model(nn.Sequential(layer), config, adapter_name="0")
    for i in range(1, len(adapters)):
        model.add_adapter(str(i), config)
    inside = model.base_model.model[0]
    for i, (A, B, _) in enumerate(adapters):
        inside.lora_A[str(i)].weight.data, inside.lora_B[str(i)].weight.data = A.float().clone(), B.float().clone()
    return model, inside


@pytest.mark.parametrize(("weights", "s"), [([0.5, 0.5], 1.0), ([0.7, -0.4], 1.5)])
def test_peft_agrees_on_all_three_of_its_ways(weights, s):
    adapters = [adapter._replace(s=s) for adapter in random_adapters(2, n_out=12, n_in=16)]
    model, inside = peft_model(adapters, nn.Linear(16, 12))
    right = merge_lora(adapters, weights).delta
    ours = {
        "linear": average_factors(adapters, weights, root=True).delta,
        "cat": merge_lora(adapters, weights, "cat").delta,
        "svd 2": (m := merge_lora(adapters, weights, "svd", 2)).B @ m.A,
        "svd 4": (m := merge_lora(adapters, weights, "svd", 4)).B @ m.A,
    }
    for name, delta in ours.items():
        how, _, rank = name.partition(" ")
        extra = {"svd_rank": int(rank)} if rank else {}
        model.add_weighted_adapter(["0", "1"], weights, name.replace(" ", ""), combination_type=how, **extra)
        theirs = inside.get_delta_weight(name.replace(" ", "")).detach().double()
        assert torch.allclose(theirs, delta, atol=1e-5), name
    assert off(ours["linear"], right) > 0.5 > 0.1 > off(ours["svd 4"], right)
    assert off(ours["cat"], right) < 1e-12


def test_the_references_sizes_of_error():
    """On random adapters of rank 2, factors averaged with roots are off by about one, rank 2 by about a half."""
    roots, halves = [], []
    for seed in range(20):
        adapters = [adapter._replace(s=1.0) for adapter in random_adapters(2, n_out=12, n_in=16, seed=seed)]
        roots.append(average_factors(adapters, [0.5, 0.5], root=True).error)
        halves.append(merge_lora(adapters, [0.5, 0.5], "svd", 2).error)
    assert 0.85 < sum(roots) / 20 < 1.15 and 0.4 < sum(halves) / 20 < 0.65
