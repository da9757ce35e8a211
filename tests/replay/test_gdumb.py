"""GDumb: its balanced memory, weights that only the end of a task changes, training from scratch."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cllab.device import generator
from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay, GDumb, GreedyBalanced, greedy_slots
from cllab.streams import digits, split
from cllab.training import Method, Phase, Step, TaskEnded, TaskStarted, fit, run


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(200), 2)


def net(seed=0):
    return MLP(64, [16], 10, seed=seed)


def bits(model):
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


def stored_after(labels, capacity, draws):
    """Which arrivals are in memory at the end, by a list of slots."""
    where, memory = {}, {}
    for arrival, slot in enumerate(greedy_slots(labels, draws, capacity, where)):
        if slot >= 0:
            memory[slot] = arrival
    assert {c: {memory[s] for s in own} for c, own in where.items()} == {
        c: {a for a in memory.values() if labels[a] == c} for c in where
    }
    return frozenset(memory.values())


def test_the_worked_stream():
    """100 A, 10 B, 3 C in blocks, nine slots: three each, where a reservoir would hold 8.0, 0.8 and 0.2."""
    labels = [0] * 100 + [1] * 10 + [2] * 3
    draws = torch.randint(2**62, (113,), generator=generator(0)).tolist()
    kept = stored_after(labels, 9, draws)
    assert [sum(labels[a] == c for a in kept) for c in (0, 1, 2)] == [3, 3, 3]
    assert {a for a in kept if labels[a] == 2} == {110, 111, 112}


def test_every_draw_of_a_small_stream():
    """A A A B B in three slots, all 3 x 6 choices: B evicts any A with the same chance, then A and B are 1 and 2."""
    counts = {}
    for first, second in itertools.product(range(6), repeat=2):
        kept = stored_after([0, 0, 0, 1, 1], 3, [0, 0, 0, first, second])
        counts[kept] = counts.get(kept, 0) + 1
    # after the first B there are two A and one B: A is still the largest and gives up another row
    assert counts == {frozenset({a, 3, 4}): 12 for a in (0, 1, 2)}


def test_a_largest_class_is_rejected_and_a_tie_is_drawn():
    assert greedy_slots([0, 0, 0], [0, 0, 0], 2, {}) == [0, 1, -1]
    # two classes with two rows each make room for a third class: all four rows alike
    slots = [greedy_slots([0, 0, 1, 1, 2], [0] * 4 + [draw], 4, {})[-1] for draw in range(8)]
    assert slots == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_memory_goes_on_where_it_was_saved():
    x, y = torch.rand(60, 2), torch.randint(4, (60,), generator=generator(1))
    whole, first = GreedyBalanced(10, generator(3)), GreedyBalanced(10, generator(3))
    whole.add(x, y)
    first.add(x[:31], y[:31])
    second = GreedyBalanced(10)
    second.load_state_dict(first.state_dict())
    second.add(x[31:], y[31:])
    assert torch.equal(whole.x, second.x) and torch.equal(whole.y, second.y)
    assert whole.y.bincount().tolist() == second.y.bincount().tolist() and len(whole) == 10
    wrong = first.state_dict() | {"where": {0: [0]}}
    with pytest.raises(ValueError, match="state"):
        second.load_state_dict(wrong)
    assert torch.equal(whole.x, second.x)


def with_noise():
    torch.manual_seed(3)
    layers = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("make", [net, with_noise])
def test_steps_leave_everything_alone(stream, make):
    """Weights, batch-norm statistics and optimiser: only the end of a task changes the network."""
    model = make()
    before, compared = bits(model), 0
    for event in fit(model, stream, [GDumb(40, epochs=1)], batch_size=16, epochs=2):
        if isinstance(event, TaskStarted):
            before = bits(model)
        elif isinstance(event, Step):
            assert torch.equal(before, bits(model))
            compared += 1
        elif isinstance(event, TaskEnded):
            assert not torch.equal(before, bits(model)) and model.training
    assert compared == 2 * sum(-(-len(task.y) // 16) for task in stream)


class Remembered(GDumb):
    """Notes what the training at the end of a task starts from."""

    def end_task(self, ctx):
        self.start = self.generator.get_state(), self.memory.state_dict()
        yield from super().end_task(ctx)


def from_scratch(model, start, allowed, lr, epochs=3, batch_size=7):
    source, memory = torch.Generator(), GreedyBalanced(40)
    memory.load_state_dict(start[1])
    source.set_state(start[0])
    order = torch.randperm(len(memory), generator=source)
    x, y = memory.x[order], memory.y[order]
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=source)
        for i in range(0, len(y), batch_size):
            rows = order[i : i + batch_size]
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]).masked_fill(~allowed, float("-inf")), y[rows]).backward()
            optimizer.step()
    return model


def test_the_answer_comes_from_the_initial_weights_and_the_memory_alone(stream):
    method, model = Remembered(40, epochs=3, batch_size=7, lr=0.01), net()
    untouched = copy.deepcopy(model)
    carried = None
    for event in fit(model, stream, [method], batch_size=16):
        if isinstance(event, TaskEnded):
            allowed = stream.allowed(event.task, event.task)
            assert torch.equal(bits(model), bits(from_scratch(copy.deepcopy(untouched), method.start, allowed, 0.01)))
            if event.task == 1:  # going on from the weights of the task before would be noticed
                assert not torch.equal(bits(model), bits(from_scratch(carried, method.start, allowed, 0.01)))
            carried = copy.deepcopy(model)
    assert method.memory.y.bincount().tolist() == [4] * 10


def test_it_tells_as_it_goes(stream):
    phases = [e for e in fit(net(), stream, [GDumb(30, epochs=4)]) if isinstance(e, Phase)]
    assert len(phases) == 4 * len(stream) and [p.info["epoch"] for p in phases[:5]] == [1, 2, 3, 4, 1]
    losses = [p.info["loss"] for p in phases[-4:]]
    assert phases[-1].info["rows"] == 30 and losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_every_scenario(scenario):
    stream = split(digits().take(150), 2, scenario)
    method = GDumb(40, epochs=20, lr=0.01)
    history = run(MLP(64, [16], stream.n_classes), stream, [method], batch_size=16)
    assert history.metrics()["average_accuracy"] > history.baseline.mean() + 0.1
    assert method.memory_bytes() == 40 * (64 * 4 + 8 + 8) and GDumb(40).memory_bytes() == 0


def test_nothing_global_is_drawn(stream):
    model, other = with_noise(), with_noise()
    torch.manual_seed(1)
    randomness = torch.get_rng_state()
    run(model, stream, [GDumb(40, epochs=2)])
    assert torch.equal(randomness, torch.get_rng_state())
    torch.manual_seed(2)
    run(other, stream, [GDumb(40, epochs=2)])
    assert torch.equal(bits(model), bits(other))


def test_dropout_resumes_too(stream, tmp_path):
    path, arguments = tmp_path / "run.pt", {"epochs": 2, "batch_size": 16}
    whole, resumed = with_noise(), with_noise()
    run(whole, stream, [GDumb(40, epochs=2)], **arguments)
    for event in fit(with_noise(), stream, [GDumb(40, epochs=2)], checkpoint=path, checkpoint_every=1, **arguments):
        if isinstance(event, Step) and event.step == 9:
            break
    nn.init.zeros_(resumed[0].weight)  # the initial weights must come from the file
    run(resumed, stream, [GDumb(40, epochs=2)], resume=path, **arguments)
    assert torch.equal(bits(whole), bits(resumed))


@pytest.mark.parametrize("other", [EWC(1.0), ExperienceReplay(10), GDumb(10), Method()])
def test_it_wants_no_company(stream, other):
    for methods in ([GDumb(10), other], [other, GDumb(10)]):
        with pytest.raises(ValueError, match=f"GDumb must be the only method.*{type(other).__name__}"):
            next(fit(net(), stream, methods))


@pytest.mark.slow
def test_it_beats_fine_tuning():
    stream = split(digits().take(400), 2)
    for seed in range(3):
        plain, dumb = (
            run(MLP(64, [32], 10, seed), stream, methods, epochs=epochs, batch_size=16, lr=0.005, seed=seed).metrics()
            for methods, epochs in (([], 12), ([GDumb(100, epochs=15)], 1))
        )
        assert dumb["average_accuracy"] > plain["average_accuracy"] + 0.3


@pytest.mark.filterwarnings("ignore")
def test_a_rate_far_too_high_is_an_error(stream):
    with pytest.raises(FloatingPointError, match="GDumb"):
        run(net(), stream, [GDumb(40, lr=1e30)], optimizer="sgd")


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"capacity": 0}, ValueError, "capacity"), ({"capacity": 5, "epochs": 0}, ValueError, "epochs"),
        ({"capacity": 5, "batch_size": 0}, ValueError, "batch_size"), ({"capacity": 5, "lr": -1.0}, ValueError, "lr"),
        ({"capacity": "5"}, TypeError, "capacity"), ({"capacity": 5, "lr": float("inf")}, ValueError, "lr"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        GDumb(**arguments)
