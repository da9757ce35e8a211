"""The experts benchmark times what it says: the loop is the layer, the dense network does the same work, limits decide."""

import argparse

import pytest
import torch

from cllab.bench import experts
from cllab.bench.experts import Size, layer, looped, tokens
from cllab.models import MLP

CPU = torch.device("cpu")
SMALL = Size(64, 4, 2, 8)


@pytest.mark.parametrize("k", [1, 2])
def test_the_loop_is_the_layer(k):
    size = SMALL._replace(k=k)
    moe, x = layer(size, CPU, torch.float64), tokens(size, CPU, torch.float64)
    assert torch.allclose(looped(moe, x), moe(x), rtol=0, atol=1e-12)


def test_the_dense_network_has_the_weights_that_a_token_meets():
    moe = layer(SMALL, CPU, torch.float32)
    met = SMALL.k * (moe.experts.w1[0].numel() + moe.experts.w2[0].numel())
    dense = MLP(SMALL.D, [4 * SMALL.D * SMALL.k], SMALL.D)
    assert met == sum(p.numel() for p in dense.parameters() if p.ndim == 2)


def test_rows_and_limits(monkeypatch):
    monkeypatch.setattr(experts, "SIZES", (SMALL,))
    monkeypatch.setattr(experts, "GROWTH", SMALL)
    monkeypatch.setattr(experts, "MANY", 8)
    parser = argparse.ArgumentParser()
    experts.add_arguments(parser)
    rows = experts.measure(parser.parse_args(["--rounds", "1", "--turns", "1"]), CPU)
    assert [row.name.split(": ")[-1] for row in rows[:3]] == [
        "tokens per second", "over a loop over experts", "over a dense network",
    ]  # fmt: skip
    assert rows[3].name.startswith("E=8 over E=4") and all(row.value > 0 for row in rows)
    for value, met in ((1.4, True), (1.6, False)):
        monkeypatch.setattr(experts, "ratio", lambda *arguments, value=value: (value, 0.001))
        assert experts.growth_in_experts(SMALL, 8, 1, 1, CPU, torch.float32).met is met
    with pytest.raises(ValueError, match="turns must be at least 1"):
        experts.measure(parser.parse_args(["--turns", "0"]), CPU)
