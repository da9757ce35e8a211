"""O-LoRA: the overlap by hand, what it moves, and what it keeps apart while training."""

import functools

import pytest
import torch
from torch import nn
from torch.optim import SGD

from cllab.device import generator
from cllab.isolation import MultiHead, OLoRA, TaskSelector, lora_layers, overlap
from cllab.isolation.heads import NEVER
from cllab.models import MLP
from cllab.replay import ExperienceReplay
from cllab.streams import digits, permuted, split
from cllab.training import Phase, Step, TaskEnded, TaskStarted, fit, run

STREAM = split(digits(), 2, scenario="task")
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)


def test_the_references_numbers():
    A1 = torch.eye(4)[:2].double()
    A2 = torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    # O = [[.6, 0], [.8, 0]]
    assert float(overlap(A1, A2)) == pytest.approx(1.4, abs=1e-12)
    assert float((A1 @ A2.T).pow(2).sum()) == pytest.approx(1.0, abs=1e-12), "the squared form that others quote"
    assert float(overlap(A1, torch.eye(4)[2:].double())) == 0.0
    # ranks may differ
    assert float(overlap(A1, -A2[:1])) == pytest.approx(1.4, abs=1e-12)


def test_against_a_loop():
    A1, A2 = (torch.randn(r, 6, generator=generator(r), dtype=torch.float64) for r in (2, 3))
    slow = sum(abs(sum(A1[j, i] * A2[k, i] for i in range(6))) for j in range(2) for k in range(3))
    assert float(overlap(A1, A2)) == pytest.approx(float(slow), abs=1e-12)


def test_the_gradient_goes_to_the_new_rows_alone():
    A1 = torch.eye(4)[:2].double().requires_grad_(True)
    A2 = torch.tensor([[0.6, -0.8, 0.0, 0.0]]).double().requires_grad_(True)
    overlap(A1, A2).backward()
    assert A1.grad is None
    # d sum_j |a_j . a| / d a = sum_j sign(a_j . a) a_j
    assert A2.grad.tolist() == [[1.0, -1.0, 0.0, 0.0]]


def test_bad_rows_are_refused():
    rows = torch.ones(2, 4)
    for wrong, message in (
        (lambda: overlap(rows, rows[:, :3]), "rows of length 4"),
        (lambda: overlap(rows, rows * torch.nan), "A_new must be finite"),
        (lambda: overlap(rows[0], rows), r"A_past must have 2 dimension\(s\)"),
        (lambda: overlap(rows, rows[:0]), "must not be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    with pytest.raises(TypeError, match="A_past must be a"):
        overlap([[1.0]], rows)
    with pytest.raises(ValueError, match="lam must be finite and at least 0"):
        OLoRA(2, lam=-0.1)


def test_all_adapters_answer_and_only_the_newest_learns():
    model, method = MLP(64, [12, 8], 10, seed=0), OLoRA(2, base="given")
    for event in fit(model, STREAM, [method], optimizer=MOMENTUM, lr=0.05, reset_optimizer=False):
        layers = lora_layers(model).values()
        if isinstance(event, TaskStarted):
            kept = [[p.clone() for part in layer.parts[:-1] for p in part.parameters()] for layer in layers]
        if isinstance(event, Step):
            known = tuple(range(event.task + 1))
            assert all(layer.active == known == tuple(layer.tasks) for layer in layers)
            assert all(
                p.requires_grad == (part is layer.parts[-1])
                for layer in layers
                for part in layer.parts
                for p in part.parameters()
            )
            expected = {"task", "O-LoRA"} if event.task > 0 else {"task"}
            assert set(event.losses) == expected
        if isinstance(event, TaskEnded):
            now = [[p for part in layer.parts[:-1] for p in part.parameters()] for layer in layers]
            assert all(torch.equal(a, b) for old, new in zip(kept, now) for a, b in zip(old, new))
    x, allowed = STREAM[0].x_test, STREAM.allowed(0, 0)
    with torch.no_grad():
        h = x
        for layer in layers:
            h = torch.relu(h @ (layer.base.weight + sum(layer.delta(t) for t in range(5))).T + layer.bias)
        by_hand = model.head.part(0)(h)
        answer = method.predict(model, x, allowed, 0)
    assert torch.allclose(answer[:, :2], by_hand, atol=1e-5) and bool((answer[:, 2:] == NEVER).all())


def test_the_term_is_summed_over_layers_and_earlier_adapters():
    model, method = MLP(64, [12, 8], 10, seed=0), OLoRA(2, lam=0.25)
    checked = 0
    for event in fit(model, STREAM, [method]):
        if isinstance(event, TaskStarted):
            pairs = [(old, layer.parts[-1]) for layer in lora_layers(model).values() for old in layer.parts[:-1]]
            assert len(pairs) == 2 * max(0, event.task - 1)
            expected = 0.25 * sum(float((old.A @ new.A.T).detach().abs().sum()) for old, new in pairs)
            first = True
        if isinstance(event, Step) and first and event.task > 1:
            assert event.losses["O-LoRA"] == pytest.approx(expected, rel=1e-5)
            first, checked = False, checked + 1
    assert checked == 3


def test_the_overlap_falls_while_training():
    for seed in range(3):
        ends = {}
        for lam in (0.0, 0.5):
            found = []
            for event in fit(MLP(64, [32], 10, seed=seed), STREAM, [OLoRA(4, lam)], epochs=3, lr=3e-3, seed=seed):
                if isinstance(event, Phase) and event.name == "overlap":
                    found.append(event.info["sum"])
            assert found[:2] == [0.0, 0.0] and len(found) == 5
            ends[lam] = found[2:]
        assert all(with_term < 0.5 * without for with_term, without in zip(ends[0.5], ends[0.0]))


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_without_task_numbers_one_head_serves_all(scenario):
    stream = split(digits(), 2, scenario=scenario)
    model = MLP(64, [16], 10, seed=0)
    run(model, stream, [OLoRA(2)], lr=3e-3)
    assert isinstance(model.head, nn.Linear) and model.head.weight.requires_grad
    assert [layer.tasks for layer in lora_layers(model).values()] == [[1, 2, 3, 4]]
    # a selector gives the tasks heads of their own
    run(model := MLP(64, [16], 10, seed=0), stream, [OLoRA(2, selector=TaskSelector())], lr=3e-3)
    assert isinstance(model.head, MultiHead)


def test_replay_may_join_where_there_is_one_head():
    history = run(MLP(64, [8], 10, seed=0), permuted(digits(), 2), [OLoRA(2), ExperienceReplay(50)])
    assert history.accuracy.shape == (2, 2)
    with pytest.raises(ValueError, match="must not combine OLoRA"):
        run(MLP(64, [8], 10, seed=0), STREAM, [OLoRA(2), ExperienceReplay(50)])


def test_stopped_and_resumed_is_the_same_run(tmp_path):
    def start(**more):
        model = MLP(64, [16], 10, seed=0)
        return model, fit(model, STREAM, [OLoRA(2)], optimizer=MOMENTUM, lr=0.05, reset_optimizer=False, **more)

    model, events = start()
    list(events)
    _, events = start(checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    next(event for event in events if isinstance(event, TaskEnded) and event.task == 2)
    for _ in range(5):  # into the fourth task
        next(events)
    events.close()
    again, events = start(resume=tmp_path / "run.pt")
    list(events)
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
