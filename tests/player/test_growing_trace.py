"""Traces of growing experts: the same run as `fit` alone, shares by hand, and every way to be refused."""

import copy
import functools
import itertools

import pytest
import torch

from cllab.isolation import LifelongMoE, MoEClassifier, token_task
from cllab.isolation.tokens import KINDS
from cllab.player import growing_trace, grown_run_trace, validate_trace
from cllab.player.growing_run import BALANCE, BATCH, BalanceFirstStage, _equal_stages, grown_run
from cllab.training import Evaluated, Phase, fit

TASK = token_task(512, n_test=128)
GROUPS = [["digit", "bracket"], ["word"], ["code"]]
SETTINGS = {"steps": 12, "every": 5, "experts": 3, "dim": 8, "hidden": 8, "lr": 0.02, "seed": 1}


@functools.cache
def frames(**changes) -> list[dict]:
    return grown_run(TASK, GROUPS, **{**SETTINGS, **changes})


def arrivals(found: list[dict]) -> list[dict]:
    return [b for a, b in itertools.pairwise(found) if b["stage"] > a["stage"]]


@functools.cache
def trace() -> dict:
    runs = {"with": frames(), "without": frames(lam=0.0)}
    return growing_trace(runs, GROUPS, about={"without": "λ = 0"}, title="Two runs")


def test_frames_and_their_places():
    found = frames()
    within = [(0, 0), (5, 0), (10, 0), (12, 0)]
    assert [(f["step"] - 12 * f["stage"], f["stage"]) for f in found] == [(s, t) for t in range(3) for s, _ in within]
    assert [f["born"] for f in found[::4]] == [[0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1, 2]]
    assert [f["frozen"] for f in found[::4]] == [[False] * 3, [True] * 3 + [False], [True] * 4 + [False]]
    assert [len(f["drift"]) for f in found] == [f["stage"] for f in found]
    assert found[0]["losses"] == {} and set(found[1]["losses"]) == {"task", "balance"}
    assert set(found[5]["losses"]) == {"task", "KL to old"} and "balance" not in found[5]["losses"]
    assert [f["kl"] is None for f in found] == [f["stage"] == 0 for f in found]


@pytest.mark.parametrize("changes", [{}, {"k": 2, "init": "silent", "lam": 1.0}])
def test_the_run_is_that_of_fit(changes):
    """Drift, newer experts, accuracy and usage of the last frame, from a run of its own."""
    k = changes.get("k", 1)
    net = MoEClassifier(28, 8, 3, k, 4, seed=1, hidden=8, renormalise=k > 1).double()
    method = LifelongMoE(1, changes.get("lam", 3.0), changes.get("init", "split"))
    stream = _equal_stages(TASK.stages(GROUPS), 12, 1)
    events = list(fit(net, stream, [method, BalanceFirstStage(BALANCE)], batch_size=BATCH, lr=0.02, seed=1))
    *_, told = (event.info for event in events if isinstance(event, Phase))
    *_, accuracy = (event.accuracy for event in events if isinstance(event, Evaluated))
    last = frames(**changes)[-1]
    assert last["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert last["drift"] == pytest.approx(told["drift"], abs=1e-4) and len(last["drift"]) == 2
    assert last["newer"] == pytest.approx(told["to newer experts"], abs=1e-4)
    net.eval()(TASK.data.x_test.double())
    counts = [[0] * 5 for _ in range(4)]
    for kind, chosen in zip(TASK.kind_test.tolist(), net.moe.routing.expert.tolist(), strict=True):
        for expert in chosen if KINDS[kind] != "language" else ():
            counts[kind][expert] += 1
    assert last["usage"] == counts


def test_a_lone_expert_and_its_copy_share_the_mass():
    """exp(s) / (exp(s) + exp(s)) = 1/2, whatever s is; a silent one has none, and then nothing changes."""
    for init in ("copy", "split"):
        first, second = arrivals(frames(experts=1, init=init))
        assert first["mass"] == [0.5] and first["kl"] > 0 and first["moved"] == {"old": 0.0, "shared": 0.0}
        assert second["born"] == [0, 1, 2]
    for frame in arrivals(frames(init="silent")):
        assert frame["mass"][-1] == frame["newer"][-1] == frame["drift"][-1] == frame["kl"] == 0
    assert arrivals(frames(init="random"))[0]["kl"] > 0


def test_freezing_is_seen_and_so_is_its_lack():
    for found, still in ((frames(), True), (frames(freeze=False), False)):
        moved = [frame["moved"] for frame in found if frame["stage"] and frame["step"] % 12]
        assert all((m["old"] == 0) is still and m["shared"] > 0 for m in moved)
    assert not any(any(frame["frozen"]) for frame in frames(freeze=False))


def test_fine_tuning_neither_grows_nor_freezes():
    found = frames(n_new=0)
    assert all(frame["born"] == [0, 0, 0] and not any(frame["frozen"]) for frame in found)
    assert all(set(frame["newer"] + frame["mass"]) <= {0.0} for frame in found)
    assert all(frame["kl"] == 0 and frame["drift"][-1] == 0 for frame in arrivals(found))
    assert found[-1]["moved"]["old"] > 0 and "KL to old" not in found[-1]["losses"]


def test_shares_are_shares():
    for frame in (*frames(), *frames(k=2, n_new=2, init="copy", noise=0.1)):
        for newer, drift, mass in zip(frame["newer"], frame["drift"], frame["mass"], strict=True):
            assert 0 <= newer <= drift <= 1 and 0 <= mass <= 1
        assert 0 <= frame["specialisation"] <= 1
        assert len(frame["usage"]) == 4 and {len(row) for row in frame["usage"]} == {len(frame["born"])}


def test_what_the_steps_say():
    steps = validate_trace(trace())["steps"]
    assert steps[0]["text"].startswith("Stage 1, digit, bracket, step 0: nothing is trained yet. Accuracy: 0.")
    assert steps[4]["text"].startswith("Stage 2, word, step 12: new experts arrive: 1. Nothing is trained yet")
    assert "with " in steps[-1]["text"] and "without " in steps[-1]["text"]
    alone = growing_trace({"": frames()}, GROUPS)
    drift = frames()[-1]["drift"]
    assert f"routing: {sum(drift) / 2:.0%}. Mean accuracy" in alone["steps"][-1]["text"]
    assert trace()["stage_of"] == [0, 0, 1, 2] and trace()["kinds"] == ["digit", "bracket", "word", "code"]
    assert [run["about"] for run in trace()["runs"]] == ["", "λ = 0"]


def test_runs_side_by_side_in_one_call():
    heard = []
    made = grown_run_trace(TASK, GROUPS, {"A": {}, "B": {"lam": 0.0}}, on_frame=heard.append, **SETTINGS)
    assert [run["frames"] for run in made["runs"]] == [frames(), frames(lam=0.0)]
    assert heard == sorted(heard) and heard[0] == 0 and heard[-1] == 1
    assert len(grown_run_trace(TASK, GROUPS, **SETTINGS)["runs"]) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [({"n_new": -1}, "n_new"), ({"steps": 0}, "steps"), ({"every": 0}, "every"), ({"k": 4}, "k must"),
     ({"lam": -1.0}, "lam"), ({"init": "twin"}, "init"), ({"quiet": 3}, "quiet"), ({"experts": 0}, "n_experts")],
)  # fmt: skip
def test_bad_settings(change, named):
    with pytest.raises(ValueError, match=named):
        grown_run(TASK, GROUPS, **{**SETTINGS, **change})


def test_bad_runs():
    with pytest.raises(ValueError, match="each of groups"):
        grown_run(TASK, [["smiley"]])
    for runs, named in (
        ({}, "1 to 3 runs, got 0"), ({name: frames() for name in "abcd"}, "got 4"), ([frames()], "got list"),
        ({"a": frames(), "b": frames()[:-1]}, "same stages"), ({"a": []}, "one at least"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            growing_trace(runs, GROUPS)
    with pytest.raises(ValueError, match="k must"):
        growing_trace({"a": frames()}, GROUPS, k=0)
    with pytest.raises(ValueError, match="usage"):
        growing_trace({"a": frames()}, [["digit"], ["word"], ["code"]])


def test_traces_that_lack_something_are_refused():
    for spoil, named in (
        (lambda t: t["runs"].clear(), "at least one run"), (lambda t: t["runs"][1]["frames"].pop(), "frames"),
        (lambda t: t["runs"][0].pop("about"), "about"), (lambda t: t["stage_of"].pop(), "stage_of"),
        (lambda t: t["stage_of"].__setitem__(0, 3), "stage_of"), (lambda t: t.pop("k"), "'k'"),
        (lambda t: t["runs"][0]["frames"][4]["born"].reverse(), "born"),
        (lambda t: t["runs"][0]["frames"][4]["frozen"].pop(), "frozen"),
        (lambda t: t["runs"][0]["frames"][4]["usage"][0].pop(), "a row of"),
        (lambda t: t["runs"][0]["frames"][4]["accuracy"].pop(), "accuracy"),
        (lambda t: t["runs"][0]["frames"][4]["mass"].pop(), "mass"),
        (lambda t: t["runs"][0]["frames"][4]["moved"].pop("old"), "moved"),
        (lambda t: t["runs"][0]["frames"][4].pop("kl"), "lacks 'kl'"),
        (lambda t: t["runs"][0]["frames"][4].update(stage=2), "stage and step"),
    ):  # fmt: skip
        spoiled = copy.deepcopy(trace())
        spoil(spoiled)
        with pytest.raises(ValueError, match=named):
            validate_trace(spoiled)


def test_every_stage_has_as_many_rows_and_only_its_own():
    stages = TASK.stages(GROUPS)
    equal = _equal_stages(stages, 12, 0)
    for own, repeated in zip(stages, equal, strict=True):
        assert len(repeated.y) == 12 * BATCH and torch.equal(own.x_test, repeated.x_test)
        assert torch.equal(own.x.unique(dim=0), repeated.x.unique(dim=0))
    assert not torch.equal(equal[1].x, _equal_stages(stages, 12, 1)[1].x)
