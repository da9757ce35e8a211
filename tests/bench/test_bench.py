"""The benchmarks run, write what they print, and would notice a missed target."""

import json

import pytest
import torch

from cllab.bench import overhead
from cllab.bench.__main__ import main
from cllab.bench.report import Row, at_least, at_most, between, machine, table
from cllab.models import MLP
from cllab.regularization import fisher_diagonal
from cllab.streams import digits

CPU = torch.device("cpu")


def test_targets():
    assert at_most("a", 1.0, "x", 1.15).met and not at_most("a", 1.2, "x", 1.15).met
    assert at_least("a", 20.0, "x", 15).met and not at_least("a", 14.9, "x", 15).met
    assert between("a", 0.2, "", 0.19, 0.21).met and not between("a", 0.22, "", 0.19, 0.21).met
    text = table([at_most("slow thing", 2.0, "s", 1.0), at_most("quick thing", 0.5, "s", 1.0)])
    assert "MISSED" in text.splitlines()[1] and "ok" in text.splitlines()[2]
    assert machine(CPU)["torch"] == torch.__version__


@pytest.mark.slow
def test_loops_time_what_they_say():
    rows = overhead.loops(rounds=2, steps=2, device=CPU)
    assert [row.name.split(" /")[0] for row in rows] == ["fine-tuning", "replay", "EWC"]
    assert all(0.1 < row.value < 100 for row in rows)


def test_the_slow_fisher_is_the_fast_one():
    model, x = MLP(64, [8], 10), digits().x[:6]
    fast, slow = fisher_diagonal(model, x), overhead.fisher_loop(model, x)
    assert all(torch.allclose(fast[name], slow[name], atol=1e-7) for name in slow)


@pytest.mark.parametrize(("power", "met"), [(1, True), (2, False)])
def test_herding_time_is_judged_by_how_it_grows(monkeypatch, power, met):
    assert overhead.herding_time(CPU, n=50, counts=(5, 10))[0].value > 0
    monkeypatch.setattr(overhead, "timed_call", lambda call, device: (call.__defaults__[0] ** power, None))
    row = overhead.herding_time(CPU, n=50, counts=(5, 10))[0]
    assert row.value == pytest.approx(2 ** (power - 1)) and row.met is met


@pytest.mark.parametrize(("copies", "met"), [(0.5, True), (2, False)])
def test_herding_memory_is_judged_by_the_size_of_the_features(monkeypatch, copies, met):
    peaks = iter([1000, 1000 + copies * 50 * 512 * 4])
    monkeypatch.setattr(overhead, "peak_bytes", lambda device: next(peaks))
    row = overhead.herding_memory(CPU, n=50)[0]
    assert row.value == pytest.approx(copies) and row.met is met


def fake(rows):
    return lambda options, device: rows


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(overhead, "measure", fake([Row("speed", 1.0, "x", "<= 2", True, "how")]))
    path = tmp_path / "deep" / "out.json"
    assert main(["overhead", "--json", str(path)]) == 0
    assert "speed" in capsys.readouterr().out
    result = json.loads(path.read_text())
    assert result["rows"][0]["value"] == 1.0 and result["machine"]["device"].startswith("cpu")
    monkeypatch.setattr(overhead, "measure", fake([Row("speed", 3.0, "x", "<= 2", False)]))
    assert main(["overhead", "--json", str(path)]) == 1


def test_mistakes_are_sentences(tmp_path, capsys):
    assert main(["split_mnist", "--root", str(tmp_path), "--json", str(tmp_path / "o.json")]) == 2
    assert "train-images" in capsys.readouterr().err
    assert main(["overhead", "--device", "quantum"]) == 2
    with pytest.raises(SystemExit):
        main(["nonsense"])
