"""Traces of two weights on springs: closed forms, the same path as `fit` with EWC, and every way to be refused."""

import copy

import pytest
import torch

from cllab.player import springs_trace, validate_trace
from cllab.player.from_springs import minimum, path
from cllab.regularization import EWC
from cllab.streams import Stream, Task
from cllab.training import Step, fit
from labs import elastic_traces as lab

ORIGIN = torch.zeros(2, dtype=torch.float64)


def parabolas(lam: float = 1.0, lr: float = 0.1, n_steps: int = 200, **changes) -> dict:
    old, new = lab.losses("two parabolas", 0)
    F = torch.tensor([4.0, 1.0])
    return springs_trace(old, new, {"curvature": F}, lam=lam, lr=lr, n_steps=n_steps, **changes)


def ways(trace: dict) -> dict[str, dict]:
    return {way["name"]: way for way in trace["panels"][0]["paths"]}


def test_both_steps_end_where_the_springs_balance_the_new_task():
    for lam, expected in ((0.0, [1, 1]), (1.0, [0.2, 0.5]), (2.0, [0.11111, 0.33333])):
        for way in ways(parabolas(lam)).values():
            assert way["theta"][-1] == pytest.approx(expected, abs=2e-5)
            # at rest the pull -lam F (theta - theta*) is the new loss's gradient theta - 1
            assert way["pull"][-1] == pytest.approx([x - 1 for x in way["theta"][-1]], abs=1e-4)
    assert parabolas()["marks"] == {"old": [0, 0], "new": [1, 1], "joint": [0.2, 0.5]}


def test_every_step_follows_the_two_recursions():
    lam, lr = 3.0, 0.1
    for step in ("penalty", "proximal"):
        found = path(lab.losses("two parabolas", 0)[1], ORIGIN, torch.tensor([4.0, 1.0]).double(), lam, lr, step, 20)
        for i, F in enumerate((4.0, 1.0)):
            theta = 0.0
            for t in range(21):
                assert found[t][i].item() == pytest.approx(theta, abs=1e-12)
                if step == "penalty":
                    theta = theta - lr * ((theta - 1) + lam * F * theta)
                else:
                    theta = (theta - lr * (theta - 1)) / (1 + lr * lam * F)


def test_the_penalty_step_diverges_beyond_two_and_the_proximal_one_never_does():
    # the factor is 1 - lr (lam F + 1): lam = 4.7 gives -0.98, lam = 4.8 gives -1.02
    assert ways(parabolas(4.7))["penalty"]["left"] is None
    assert ways(parabolas(4.8, n_steps=400))["penalty"]["left"] is not None
    trace = parabolas(10_000.0)
    burst = ways(trace)["penalty"]
    assert burst["given_up"] == len(burst["theta"]) - 1 < 10 and trace["panels"][0]["product"] == 4000
    assert all(abs(x) < 1e12 for x in burst["theta"][-1]) and abs(burst["theta"][-2][0]) <= 1e6
    assert "given up after step" in trace["steps"][-1]["text"]
    assert ways(trace)["proximal"]["theta"][-1] == pytest.approx([0, 0], abs=2e-4)


@pytest.mark.parametrize("step", ["penalty", "proximal"])
def test_the_path_is_that_of_fit_with_ewc(step):
    """Full batches, plain SGD, task A begun at its minimum: the second task's steps are the path."""
    a, b = lab.rows("an idle feature", 0)
    theta_star = minimum("old", lab.logistic_loss(a), ORIGIN)

    class TwoColumns(torch.nn.Linear):
        def forward(self, x):
            return torch.cat([torch.zeros(len(x), 1, dtype=x.dtype), super().forward(x)], dim=1)

    tasks = tuple(Task(*data, *data, (0, 1)) for data in (a, b))
    model, seen = TwoColumns(2, 1, bias=False, dtype=torch.float64), []
    model.weight.data = theta_star.clone()[None]
    arguments = {"epochs": 12, "batch_size": lab.N, "lr": 1.0, "optimizer": "sgd"}
    for event in fit(model, Stream(tasks, "domain", 2), [EWC(3.0, step=step)], **arguments):
        if isinstance(event, Step) and event.task == 1:
            seen.append(model.weight.detach()[0].clone())
    F = lab.fisher("an idle feature", "model", 8, 0)
    found = path(lab.logistic_loss(b), theta_star, F, 3.0, 1.0, step, 12)
    assert torch.allclose(torch.stack(seen), torch.stack(found[1:]), atol=1e-8)


def test_the_pictures_frame_does_not_move_with_the_sliders():
    one, other = parabolas(1.0), parabolas(100.0, lr=0.01)
    for key in ("extent", "contours", "marks"):
        assert one[key] == other[key]
    x0, x1, y0, y1 = one["extent"]
    assert x1 - x0 == pytest.approx(y1 - y0) and x0 < 0 < 1 < x1


def test_contours_are_lines_of_equal_loss():
    trace = parabolas()
    for loss, lines in zip(lab.losses("two parabolas", 0), trace["contours"], strict=True):
        for line in lines:
            values = loss(torch.tensor(line, dtype=torch.float64))
            assert values.std() < 0.03 * values.mean()


def test_four_fishers_are_four_panels_with_one_path_each():
    trace = validate_trace(lab.four_fishers("an idle feature", 3, 1, 8, 0))
    assert [panel["name"] for panel in trace["panels"]] == ["model", "sampled", "true", "batched, B = 8"]
    assert all([way["name"] for way in panel["paths"]] == ["proximal"] for panel in trace["panels"])
    assert len(str(trace)) < 120_000


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"lam": -1.0}, ValueError, "lam"), ({"lr": float("nan")}, ValueError, "lr"),
        ({"n_steps": 0}, ValueError, "n_steps"), ({"n": 0}, ValueError, "n must"),
        ({"steps": ("adam",)}, ValueError, "steps"), ({"steps": ()}, ValueError, "steps"),
        ({"names": ("A",)}, ValueError, "names"), ({"theta_star": torch.zeros(3)}, ValueError, "theta_star"),
        ({"fishers": {}}, ValueError, "fishers"), ({"fishers": {"F": [1, 1]}}, TypeError, "fishers"),
        ({"fishers": {"F": torch.tensor([1.0, -1.0])}}, ValueError, "fishers"),
        ({"old": lambda theta: theta.sum(dim=-1)}, ValueError, "old must have a minimum"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, named):
    old, new = lab.losses("two parabolas", 0)
    with pytest.raises(error, match=named):
        springs_trace(**{"old": old, "new": new, "fishers": {"F": torch.ones(2)}, **change})


def test_traces_that_lack_something_are_refused():
    trace = validate_trace(parabolas(n_steps=5))
    for spoil, named in (
        (lambda t: t["panels"][0].pop("F"), "'F'"), (lambda t: t["panels"][0]["paths"].clear(), "one path"),
        (lambda t: t["panels"].clear(), "one panel"), (lambda t: t["free"].pop("pull"), "'pull'"),
        (lambda t: ways(t)["penalty"]["theta"].pop(), "6 entries"), (lambda t: t.pop("extent"), "extent"),
    ):  # fmt: skip
        spoiled = copy.deepcopy(trace)
        spoil(spoiled)
        with pytest.raises(ValueError, match=named):
            validate_trace(spoiled)
