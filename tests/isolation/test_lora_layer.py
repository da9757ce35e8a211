"""One layer with adapters: arithmetic by hand, what learns, merging, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cllab.device import generator
from cllab.isolation import Factors, LoRALinear, LowRank, using

X = torch.randn(7, 5, generator=generator(3), dtype=torch.float64)


def linear(in_features: int = 5, out_features: int = 4, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(in_features, out_features, bias=bias).double().requires_grad_(False)


def trained(layer: nn.Linear, r: int = 2, seed: int = 0, alpha: float | None = None, dropout: float = 0.0) -> LowRank:
    """An adapter whose B is no longer zero."""
    part = LowRank.fresh(layer, r, alpha, generator(seed), dropout)
    nn.init.normal_(part.B, generator=generator(seed + 100))
    return part


def adapted(*tasks, **settings) -> LoRALinear:
    layer = LoRALinear(linear())
    for seed, task in enumerate(tasks):
        layer.add(task, trained(layer.base, seed=seed, **settings))
    return layer


def test_the_equation_on_numbers_by_hand():
    base = nn.Linear(2, 2, bias=False).double()
    base.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double())
    layer = LoRALinear(base)
    A, B = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0], [-1.0]]).double()
    layer.add(0, LowRank(A, B, s=0.5))
    x = torch.tensor([[1.0, 1.0]]).double()
    # x A^T = 3, times B^T = (9, -3), times s = (4.5, -1.5), beside x W^T = (1, 1)
    assert layer(x).tolist() == [[5.5, -0.5]]
    assert layer.delta(0).tolist() == [[1.5, 3.0], [-0.5, -1.0]]
    assert layer.weight.tolist() == [[2.5, 3.0], [-0.5, 0.0]]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 99))
@torch.no_grad()
def test_against_a_loop_over_rows_and_outputs(n_in, n_out, rank, bias, seed):
    r = min(rank, n_in, n_out)
    layer = LoRALinear(linear(n_in, n_out, bias))
    layer.add(0, part := trained(layer.base, r, seed, alpha=3.0))
    x = torch.randn(3, n_in, generator=generator(seed), dtype=torch.float64)
    y = layer(x)
    for n in range(3):
        for o in range(n_out):
            slow = sum(layer.base.weight[o, i] * x[n, i] for i in range(n_in)) + (layer.bias[o] if bias else 0)
            for k in range(r):
                slow += 3.0 / r * part.B[o, k] * sum(part.A[k, i] * x[n, i] for i in range(n_in))
            assert float(y[n, o]) == pytest.approx(float(slow), abs=1e-9)
    assert int(torch.linalg.matrix_rank(layer.delta(0))) <= r


def test_the_start_is_the_base_and_only_B_has_a_gradient():
    layer = LoRALinear(linear())
    layer.add(0, part := LowRank.fresh(layer.base, 2, None, generator(0)))
    assert torch.equal(layer(X), layer.base(X))
    layer(X).pow(2).sum().backward()
    assert bool((part.A.grad == 0).all()) and float(part.B.grad.abs().max()) > 0.1
    assert layer.base.weight.grad is None and layer.bias.grad is None
    # with both at zero nothing would ever learn
    dead = LowRank(torch.zeros_like(part.A), torch.zeros_like(part.B))
    dead(X).pow(2).sum().backward()
    assert bool((dead.A.grad == 0).all()) and bool((dead.B.grad == 0).all())


def test_A_is_uniform_and_comes_from_the_generator():
    wide = nn.Linear(400, 300)
    before = torch.get_rng_state()
    part = LowRank.fresh(wide, 100, None, generator(5))
    assert torch.equal(torch.get_rng_state(), before)
    bound, A = 1 / 400**0.5, part.factors.A
    assert 0.999 * bound < float(A.abs().max()) <= bound
    assert float(A.var()) == pytest.approx(bound**2 / 3, rel=0.02)
    assert torch.equal(part.A, LowRank.fresh(wide, 100, None, generator(5)).A)
    assert not torch.equal(part.A, LowRank.fresh(wide, 100, None, generator(6)).A)


def test_counts_and_scale():
    part = LowRank.fresh(nn.Linear(4096, 4096), 8, None, generator(0))
    assert sum(p.numel() for p in part.parameters()) == 65_536
    assert round(65_536 / 4096**2, 4) == 0.0039
    assert part.s == 1.0 and LowRank.fresh(nn.Linear(9, 9), 4, 16, generator(0)).s == 4.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_type_follows_the_base_with_the_same_numbers(dtype):
    base = linear().to(dtype)
    layer = LoRALinear(base)
    layer.add(0, part := LowRank.fresh(base, 2, None, generator(0)))
    assert {part.A.dtype, part.B.dtype, layer(X.to(dtype)).dtype} == {dtype}
    assert torch.equal(part.A, LowRank.fresh(nn.Linear(5, 4), 2, None, generator(0)).A.to(dtype))


def test_several_adapters_add_up_and_none_is_the_base():
    layer = adapted("a", 7)
    assert layer.active == (7,)
    assert not layer.part("a").A.requires_grad and layer.part(7).A.requires_grad
    layer.use("a", 7)
    expected = layer.base(X) + X @ (layer.delta("a") + layer.delta(7)).T
    assert torch.allclose(layer(X), expected, atol=1e-12)
    layer.use()
    assert torch.equal(layer(X), layer.base(X)) and torch.equal(layer.weight, layer.base.weight)


def test_dropout_is_on_the_branch_and_in_training_only():
    layer = LoRALinear(linear())
    layer.add(0, LowRank.fresh(layer.base, 2, None, generator(0), dropout=0.5))
    torch.manual_seed(0)
    assert torch.equal(layer(X), layer.base(X))  # B = 0: whatever is dropped, the base's own input is not
    nn.init.ones_(layer.part(0).B)
    first, second = layer(X), layer(X)
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(X), layer(X))


def test_merged_is_unmerged_and_back_is_exact():
    layer = adapted(0, 1, alpha=3.0)
    before, W = layer(X), layer.base.weight.clone()
    layer.merge()
    assert layer.merged and torch.allclose(layer.weight, W + 1.5 * layer.part(1).B @ layer.part(1).A, atol=1e-12)
    assert torch.allclose(layer(X), before, atol=1e-12)
    assert torch.allclose(F.linear(X, layer.weight, layer.bias), before, atol=1e-12)
    layer.unmerge()
    assert torch.equal(layer(X), before) and torch.equal(layer.base.weight, W)


def test_float32_merges_to_one_in_a_million():
    layer = adapted(0).float()
    before = layer(X.float())
    layer.merge()
    assert torch.allclose(layer(X.float()), before, atol=1e-6)


def test_what_a_merged_layer_refuses():
    layer = adapted(0, 1)
    layer.merge()
    answer = layer(X)
    with pytest.raises(ValueError, match=r"merged while \[1\] are merged"):
        layer.merge()
    with pytest.raises(ValueError, match="used while"):
        layer.use(0)
    with pytest.raises(ValueError, match="used while"):
        layer.use()
    with pytest.raises(ValueError, match="added while"):
        layer.add(2, trained(layer.base))
    assert layer.tasks == [0, 1] and torch.equal(layer(X), answer)
    layer.use(1)  # what is merged
    layer.unmerge()
    with using(layer, 0):
        layer.merge()
        answer = layer(X)
    with pytest.raises(ValueError, match=r"used while \[0\] are merged"):
        layer.use(1)
    with using(layer, 0):
        assert torch.equal(layer(X), answer)
    layer.unmerge()
    with pytest.raises(ValueError, match="before it can be unmerged"):
        layer.unmerge()
    layer.use()
    with pytest.raises(ValueError, match=r"must be in use .* has \[0, 1\]"):
        layer.merge()


def test_merging_in_training_with_dropout_is_refused():
    layer = adapted(0, dropout=0.1)
    with pytest.raises(ValueError, match="eval"):
        layer.merge()
    assert not layer.merged
    layer.eval()
    layer.merge()
    assert layer.merged


def test_a_weight_that_two_layers_share_is_merged_in_one():
    base, other = linear(5, 5), nn.Linear(5, 5).double()
    other.weight = base.weight
    layer = LoRALinear(base)
    layer.add(0, trained(base))
    before = other(X)
    layer.merge()
    assert torch.equal(other(X), before)


@pytest.mark.parametrize("merged", [False, True])
def test_copies_and_states_survive(merged):
    layer = adapted("a", "b")
    before = layer(X)
    if merged:
        layer.merge()
    twin = copy.deepcopy(layer)
    assert torch.allclose(twin(X), before, atol=1e-12) and twin.merged == merged and twin.active == ("b",)
    nn.init.zeros_(twin.part("b").B)
    assert torch.equal(layer.part("b").B, adapted("a", "b").part("b").B)
    # the state holds the base and the factors, so that what is loaded is not merged
    assert set(layer.state_dict()) == {f"parts.{i}.{p}" for i in (0, 1) for p in "AB"} | {"base.weight", "base.bias"}
    fresh = LoRALinear(nn.Linear(5, 4).double())
    for task in ("a", "b"):
        fresh.add(task, LowRank.fresh(fresh.base, 2, None, generator(9)))
    if merged:
        fresh.merge()
    fresh.load_state_dict(layer.state_dict())
    assert not fresh.merged and torch.equal(fresh(X), before)


def test_a_layer_in_an_eval_model_stays_in_eval_mode():
    layer = LoRALinear(linear().eval())
    layer.add(0, trained(layer.base, dropout=0.5))
    assert not layer.training and torch.equal(layer(X), layer(X))


def test_bad_factors_are_refused():
    layer = adapted(0)
    A, B = torch.ones(2, 5).double(), torch.ones(4, 2).double()
    for wrong, message in (
        (lambda: LowRank(A, torch.ones(4, 3).double()), r"B \[out, r\] and A \[r, in\]"),
        (lambda: LowRank(A * torch.nan, B), "A must be finite"),
        (lambda: LowRank(A, B, torch.inf), "s must be finite"),
        (lambda: LowRank(A[:0], B[:, :0]), "must not be empty"),
        (lambda: LowRank(A, B.float()), "must be alike"),
        (lambda: LowRank(A, B, dropout=1.0), "dropout must be below 1"),
        (lambda: LowRank(A, B, dropout=-0.1), "dropout must be finite and between 0"),
        (lambda: layer.add(1, LowRank(A[:, :4], B)), r"shape \(4, 5\), got factors for \(4, 4\)"),
        (lambda: layer.add(1, LowRank(A.float(), B.float())), "float64 on cpu like the base"),
        (lambda: layer.add(0, LowRank(A, B)), "has a part already"),
        (lambda: LowRank.fresh(linear(), 5, None, generator(0)), "r must be between 1 and 4, got 5"),
        (lambda: LowRank.fresh(linear(), 0, None, generator(0)), "r must be between 1 and 4, got 0"),
        (lambda: LowRank.fresh(linear(), 1, 0.0, generator(0)), "alpha must be above 0"),
        (lambda: layer.use(5), r"one of \[0\], got 5"),
        (lambda: layer.delta("b"), r"one of \[0\], got 'b'"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    for wrong, message in (
        (lambda: LoRALinear(nn.Conv2d(1, 1, 1)), "base must be a torch.nn.Linear, got Conv2d"),
        (lambda: layer.add(1, nn.Linear(5, 4)), "part must be a LowRank"),
        (lambda: LowRank(A, "B"), "B must be a torch.Tensor"),
        (lambda: LowRank.fresh(linear(), 1, None, 0), "generator must be a torch.Generator"),
        (lambda: LowRank.fresh(linear(), 1.5, None, generator(0)), "r must be an integer"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()
    assert layer.tasks == [0] and layer.part(0).A.requires_grad


def test_factors_are_copies():
    part = adapted(0).part(0)
    factors = part.factors
    assert isinstance(factors, Factors) and torch.equal(factors.B @ factors.A, part.delta())
    factors.A.zero_()
    assert bool((part.A != 0).all())
