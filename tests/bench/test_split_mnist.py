"""The Split-MNIST table: every line runs, bands decide, one line can be asked for alone."""

import argparse

import pytest
import torch

from cllab.bench import split_mnist
from cllab.bench.__main__ import main
from cllab.bench.report import Row
from cllab.bench.split_mnist import LINES
from cllab.streams import digits, split

CPU = torch.device("cpu")


def options(*words):
    parser = argparse.ArgumentParser()
    split_mnist.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def small(monkeypatch):
    """Digits instead of MNIST, and few of them."""
    monkeypatch.setattr(split_mnist, "mnist", lambda root: digits().take(100))


def test_bands_decide_and_seeds_differ(small, monkeypatch, capsys):
    rows = split_mnist.measure(options("--seeds", "2", "--only", "fine-tuning"), CPU)
    assert [row.name for row in rows] == ["fine-tuning"] and "2 seeds; 0 s a run; keeps 0.0 MB" in rows[0].detail
    printed = [float(text.split("accuracy ")[1].split(",")[0]) for text in capsys.readouterr().out.splitlines()]
    assert len(set(printed)) == 2 and rows[0].value == pytest.approx(sum(printed) / 2, abs=1e-4)
    for low, high, met in ((0.0, 1.0, True), (0.0, 0.01, False), (0.99, 1.0, False)):
        monkeypatch.setitem(LINES, "fine-tuning", LINES["fine-tuning"]._replace(low=low, high=high))
        assert split_mnist.measure(options("--seeds", "1", "--only", "fine-tuning"), CPU)[0].met is met


def test_the_bands_are_the_published_ones():
    bands = {name: (line.low, line.high) for name, line in LINES.items()}
    assert bands["fine-tuning"] == (0.19, 0.21) and bands["ER"] == (0.87, 0.93) and bands["iCaRL"] == (0.90, 0.95)
    assert bands["GR"][0] == 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LINES))
def test_every_line_runs_and_keeps_no_more_than_it_may(name):
    stream = split(digits().take(100), 5)
    accuracy, kept = split_mnist.one_run(stream, LINES[name].methods(), seed=0, device=CPU)
    assert 0 <= accuracy <= 1
    longest_row = (64 + 10) * 4 + 3 * 8  # pixels and logits; label, task and the number of logits
    if name == "GR":
        assert 0 < kept < 4 * 1_000_000  # a network, whatever the data
    elif name != "joint":
        assert (kept > 0) == (name != "fine-tuning") and kept <= split_mnist.ROWS * longest_row


def line(values):
    return lambda name, stream, seeds, device: Row(name, values[name], "", "", True)


@pytest.mark.parametrize(("plus", "met"), [(0.91, True), (0.9, False), (0.89, False)])
def test_der_plus_plus_must_be_above_er(small, monkeypatch, plus, met):
    monkeypatch.setattr(split_mnist, "line", line(dict.fromkeys(LINES, 0.9) | {"DER++": plus}))
    rows = split_mnist.measure(options(), CPU)
    assert [row.name for row in rows] == [*LINES, "DER++ minus ER"]
    assert rows[-1].met is met and rows[-1].value == pytest.approx(plus - 0.9)
    assert [row.name for row in split_mnist.measure(options("--only", "DER++"), CPU)] == ["DER++"]
    both = split_mnist.measure(options("--only", "DER++", "--only", "ER", "--only", "ER"), CPU)
    assert [row.name for row in both] == ["DER++", "ER", "DER++ minus ER"]


def test_mistakes_are_sentences(tmp_path, capsys):
    out = ["--json", str(tmp_path / "o.json")]
    assert main(["split_mnist", "--only", "DER+", *out]) == 2
    assert "only must be one of 'fine-tuning', 'joint', 'ER'" in capsys.readouterr().err
    assert main(["split_mnist", "--seeds", "0", *out]) == 2
    assert "seeds must be at least 1" in capsys.readouterr().err
