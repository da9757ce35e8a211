"""The table of three scenarios: bands are the published ones, every entry runs by the protocol."""

import argparse

import pytest
import torch

from cllab.bench import three_scenarios
from cllab.bench.three_scenarios import LINES, SCENARIOS, band, entry, standardised
from cllab.streams import Dataset, digits, split
from cllab.training import Joint

CPU = torch.device("cpu")


def options(*words):
    parser = argparse.ArgumentParser()
    three_scenarios.add_arguments(parser)
    return parser.parse_args(words)


def test_bands_are_two_published_deviations_but_at_least_a_point_and_a_half():
    assert band("EWC", "task") == pytest.approx((0.9770 - 0.0162, 0.9770 + 0.0162))
    assert band("MAS", "domain") == pytest.approx((0.6857 - 0.1370, 0.6857 + 0.1370))
    assert band("LwF", "class") == pytest.approx((0.2267, 0.2567)) and band("LwF", "task")[1] == 1.0


def test_coefficients_are_the_published_ones():
    ewc, online, si, mas = (
        [LINES[name].methods(c)[0] for c in LINES[name].coefficient] for name in ("EWC", "online EWC", "SI", "MAS")
    )
    assert [m.lam for m in ewc] == [200, 200, 1200] and {m.anchors for m in ewc} == {"separate"}
    assert [m.lam for m in online] == [800, 1400, 200] and {m.anchors for m in online} == {"online"}
    assert [m.c for m in si] == [300, 3000, 600] and [m.lam for m in mas] == [1, 10_000, 1]
    assert LINES["fine-tuning"].methods(0) == [] and isinstance(LINES["joint"].methods(0)[0], Joint)


def test_images_are_padded_and_standardised():
    x = torch.rand(6, 784)
    data = standardised(Dataset(x, torch.arange(6) % 2, x, torch.arange(6) % 2, "squares", (1, 28, 28)))
    seen = (data.x * 0.2752 + 0.1).view(6, 32, 32)
    assert data.shape == (1, 32, 32) and torch.allclose(seen[:, 2:30, 2:30], x.view(6, 28, 28), atol=1e-6)
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert seen[:, border].abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_entries_run_and_are_judged(scenario, monkeypatch):
    stream = split(digits().take(60), 5, scenario)
    for name in LINES:
        monkeypatch.setattr(three_scenarios, "band", lambda name, scenario: (0.0, 1.0))
        row = entry(name, scenario, stream, range(2), CPU)
        assert row.met and row.name == f"{scenario}, {name}" and "2 seeds" in row.detail
        monkeypatch.setattr(three_scenarios, "band", lambda name, scenario, at=row.value: (at + 0.01, 1.0))
        assert not entry(name, scenario, stream, range(2), CPU).met


def test_adam_is_kept_between_tasks(monkeypatch):
    kept = []
    monkeypatch.setattr(
        three_scenarios, "one_run", lambda *arguments, reset_optimizer: kept.append(reset_optimizer) or (0.5, 0)
    )
    entry("SI", "task", split(digits().take(60), 5, "task"), range(2), CPU)
    assert kept == [False, False]


def test_lines_can_be_asked_for_alone(monkeypatch):
    monkeypatch.setattr(three_scenarios, "mnist", lambda root: digits().take(60))
    monkeypatch.setattr(three_scenarios, "standardised", lambda data: data)
    monkeypatch.setattr(three_scenarios, "one_run", lambda *arguments, **settings: (0.5, 0))
    rows = three_scenarios.measure(options("--only", "SI", "--only", "MAS", "--seeds", "1"), CPU)
    assert [row.name for row in rows] == [f"{s}, {m}" for s in SCENARIOS for m in ("SI", "MAS")]
    with pytest.raises(ValueError, match="only must be one of"):
        three_scenarios.measure(options("--only", "SGD"), CPU)
