"""MIR: the virtual step and the scores in numbers, what it leaves alone, what it chooses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import MIR, ExperienceReplay, interference, virtual_step
from cllab.streams import digits, split
from cllab.training import Step, fit, run


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(200), 2)


def net(seed=0):
    return MLP(64, [16], 10, seed=seed)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def f64(*rows):
    return torch.tensor(rows, dtype=torch.float64)


class Logistic(nn.Module):
    """P(y = 1) = sigmoid(w x): two logits, 0 and w x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(f64(1.0, 0.0))

    def forward(self, x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), x @ self.w], dim=1)


CANDIDATES, LABELS = f64((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)), torch.tensor([1, 0, 0])


def test_the_worked_example():
    model = Logistic()
    theta_v = virtual_step(model, f64((1.0, 1.0)), torch.tensor([1]), lr=0.5)
    assert theta_v["w"].tolist() == pytest.approx([1.134471, 0.134471], abs=1e-6)
    scores = interference(model, theta_v, CANDIDATES, LABELS)
    assert scores.tolist() == pytest.approx([-0.034424, 0.069494, -0.034424], abs=1e-6)
    assert not theta_v["w"].requires_grad and not scores.requires_grad


def test_the_loss_itself_would_choose_other_rows():
    """A row that is hard but that the step does not touch: (1, -1) with label 0."""
    model = Logistic()
    x, y = torch.cat([CANDIDATES, f64((1.0, -1.0))]), torch.cat([LABELS, torch.tensor([0])])
    theta_v = virtual_step(model, f64((1.0, 1.0)), torch.tensor([1]), lr=0.5)
    z = x @ theta_v["w"]
    after = F.cross_entropy(torch.stack([torch.zeros_like(z), z], dim=1), y, reduction="none")
    scores = interference(model, theta_v, x, y)
    assert scores[3].item() == pytest.approx(0, abs=1e-12)
    assert scores.argmax() == 1 and after.argmax() == 3


def test_without_a_step_there_is_no_interference():
    model = net().double()
    x, y = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)).double(), torch.arange(5)
    theta_v = virtual_step(model, x, y, lr=0.0)
    assert interference(model, theta_v, x, y).eq(0).all()
    assert (interference(model, virtual_step(model, x, y, lr=0.1), x, y).sum() < 0).item()  # it helps its own rows


def noisy():
    torch.manual_seed(3)
    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    return nn.Sequential(*layers).double()


def test_the_model_is_left_as_it_is():
    model, x, y = noisy(), torch.rand(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    model[1].eval()  # someone has frozen these statistics: that must stay, too
    F.cross_entropy(model(x), y).backward()
    before, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    randomness = torch.get_rng_state()
    first, again = (interference(model, virtual_step(model, x, y, 0.5), x, y) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(randomness, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [m.training for m in model] == [True, False, True, True, True] and model.training


def test_frozen_parameters_do_not_move():
    model = noisy()
    model[0].requires_grad_(False)
    theta_v = virtual_step(model, torch.rand(6, 4).double(), torch.arange(6) % 3, 0.5)
    assert set(theta_v) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert not torch.equal(theta_v["4.weight"], model[4].weight)


def test_each_candidate_has_its_own_mask():
    model, source = net().double(), torch.Generator().manual_seed(0)
    x, y = torch.rand(4, 64, generator=source).double(), torch.tensor([0, 3, 8, 9])
    allowed = torch.zeros(4, 10, dtype=torch.bool)
    for row, classes in enumerate([[0, 1], [2, 3], [8, 9], [8, 9]]):
        allowed[row, classes] = True
    theta_v = virtual_step(model, x, y, 0.3, allowed)
    moved = copy.deepcopy(model)
    moved.load_state_dict(theta_v)
    expected = []
    for row in range(4):
        classes = allowed[row].nonzero().flatten()
        losses = [torch.logsumexp(m(x)[row, classes], 0) - m(x)[row, y[row]] for m in (moved, model)]
        expected.append((losses[0] - losses[1]).item())
    assert interference(model, theta_v, x, y, allowed).tolist() == pytest.approx(expected, abs=1e-12)
    unmasked = interference(model, theta_v, x, y).tolist()
    assert unmasked != pytest.approx(expected, abs=1e-3)


class Watched(MIR):
    """Compares every choice with one made by a slow loop on a copy of the model."""

    def start_run(self, ctx):
        super().start_run(ctx)
        self.choices = 0

    def choose(self, ctx, batch, n):
        state = self.generator.get_state()
        rows = super().choose(ctx, batch, n)
        after = self.generator.get_state()
        self.generator.set_state(state)
        drawn = self.memory.sample(self.candidates)
        assert torch.equal(after, self.generator.get_state()) and len(drawn.y) == self.candidates
        kept = self.by_hand(ctx, batch, drawn)[:n]
        assert torch.equal(rows.x, drawn.x[kept]) and torch.equal(rows.task, drawn.task[kept])
        self.choices += 1
        return rows

    def by_hand(self, ctx, batch, drawn):
        def loss(model, x, y, allowed):
            return F.cross_entropy(model(x).masked_fill(~allowed, float("-inf")), y)

        moved = copy.deepcopy(ctx.model).eval()
        still = copy.deepcopy(moved)
        optimizer = torch.optim.SGD(moved.parameters(), lr=ctx.lr)
        optimizer.zero_grad()
        loss(moved, batch.x, batch.y, batch.allowed).backward()
        optimizer.step()
        scores = []
        for i in range(len(drawn.y)):
            row = drawn.x[i : i + 1], drawn.y[i : i + 1], ctx.allowed(drawn.task[i : i + 1])
            scores.append((loss(moved, *row) - loss(still, *row)).item())
        return sorted(range(len(scores)), key=lambda i: -scores[i])


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_run_replays_what_the_slow_loop_chooses(scenario):
    stream = split(digits().take(80), 2, scenario)
    watched = Watched(60, batch_size=3, candidates=8)
    model = MLP(64, [8], stream.n_classes).double()
    history = run(model, stream, [watched], batch_size=20, lr=0.05)
    later = [step for step in history.losses if step.task > 0]
    assert watched.choices == len(later) > 0 and all(step.info["replayed"] == 3 for step in later)
    assert all("interference" not in step.info for step in history.losses if step.task == 0)


class First(Watched):
    """With a learning rate of 0 every score is 0: the rows drawn first."""

    def by_hand(self, ctx, batch, drawn):
        return list(range(len(drawn.y)))


def test_ties_go_to_the_first_candidate(stream):
    first = First(60, batch_size=4, candidates=30)
    run(net(), stream, [first], batch_size=16, lr=0.0, optimizer="sgd")
    assert first.choices > 0


def test_rho_zero_is_fine_tuning_and_the_steps_are_the_same(stream):
    plain, zero, chosen = net(), net(), net()
    run(plain, stream, batch_size=16)
    run(zero, stream, [MIR(50, rho=0.0)], batch_size=16)
    steps = sum(isinstance(e, Step) for e in fit(chosen, stream, [MIR(50)], batch_size=16))
    assert torch.equal(bits(plain), bits(zero)) and not torch.equal(bits(plain), bits(chosen))
    assert steps == sum(-(-len(task.y) // 16) for task in stream)


def test_with_ewc_and_dropout_nothing_global_is_drawn(stream):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
    randomness = torch.get_rng_state()
    history = run(model, stream, [EWC(1.0), MIR(50, candidates=30)], batch_size=10)
    assert torch.equal(randomness, torch.get_rng_state())
    assert {"task", "EWC"} == set(history.losses[-1].losses)


def test_no_choice_is_told(stream):
    with pytest.warns(UserWarning, match="candidates"):
        next(fit(net(), stream, [MIR(50, candidates=16)], batch_size=16))


@pytest.mark.slow
def test_it_beats_fine_tuning():
    stream = split(digits().take(400), 2)
    for seed in range(3):
        plain, replay = (
            run(net(seed), stream, methods, epochs=12, batch_size=16, lr=0.005, seed=seed).metrics()["average_accuracy"]
            for methods in ([], [MIR(100)])
        )
        assert replay > plain + 0.3


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"capacity": 0}, ValueError, "capacity"), ({"capacity": 5, "rho": 1.0}, ValueError, "rho"),
        ({"capacity": 5, "candidates": 0}, ValueError, "candidates"),
        ({"capacity": 5, "candidates": 2.0}, TypeError, "candidates"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        MIR(**arguments)


def test_bad_rows():
    model, x, y = Logistic(), CANDIDATES, LABELS
    for call in (lambda *a: virtual_step(model, *a, 0.1), lambda *a: interference(model, {}, *a)):
        with pytest.raises(ValueError, match="y must have one label per row"):
            call(x, y[:2])
        with pytest.raises(TypeError, match="x must hold floating-point"):
            call(y, y)
    with pytest.raises(ValueError, match="lr"):
        virtual_step(model, x, y, -0.1)
    with pytest.raises(ValueError, match="trainable"):
        virtual_step(Logistic().requires_grad_(False), x, y, 0.1)
    with pytest.raises(FloatingPointError, match="not finite"):
        interference(model, {"w": f64(float("inf"), 0.0)}, x, y)
    assert repr(MIR(5)) == "MIR(capacity=5, batch_size=None, rho=0.5, candidates=50)"
    assert isinstance(MIR(5), ExperienceReplay)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"y": torch.tensor([0, 9])}, "y must be below"), ({"x": torch.rand(2, 3)}, "x must be rows"),
        ({"x": torch.rand(2, 4).double()}, "x must be rows"),
        ({"allowed": torch.tensor([False, True, True])}, "allowed must hold"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_named(change, named):
    model = MLP(4, [5], 3)
    rows = {"x": torch.rand(2, 4), "y": torch.tensor([0, 1]), "allowed": None, **change}
    with pytest.raises(ValueError, match=named):
        virtual_step(model, rows["x"], rows["y"], 0.1, rows["allowed"])
    with pytest.raises(ValueError, match=named):
        interference(model, {}, rows["x"], rows["y"], rows["allowed"])
    with pytest.raises(ValueError, match="theta_v"):
        interference(model, {"foo": torch.zeros(1)}, torch.rand(2, 4), torch.tensor([0, 1]))


def test_a_memory_too_small_to_choose_from_warns(stream):
    with pytest.warns(UserWarning, match="5 candidates for 8 rows"):
        run(net(), stream, [MIR(5, batch_size=8)])
