"""DER and DER++: the distance and its scale, which logits are kept, two draws, heads that grow."""

import copy

import pytest
import torch
import torch.nn.functional as F

from cllab.device import generator
from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import DarkExperienceReplay, ExperienceReplay, dark_loss
from cllab.streams import digits, split
from cllab.training import Method, Step, fit, run


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(200), 2)


def net(seed=0):
    return MLP(64, [16], 10, seed=seed)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def f64(*rows):
    return torch.tensor(rows, dtype=torch.float64)


class Watch(Method):
    """Keeps every step's rows and logits."""

    def start_run(self, ctx):
        self.seen = []

    def losses(self, ctx, batch, outputs):
        self.seen.append((ctx.task_index, batch, outputs.detach()))
        return {}


def test_the_two_forms_differ_by_the_number_of_logits():
    logits, stored = f64((1.0, 2.0, 3.0)), f64((0.0, 1.0, 2.0))
    assert dark_loss(logits, stored).item() == 1.0
    assert dark_loss(logits, stored, "sum").item() == 3.0
    # rows are averaged in both forms: distances 3 and 12
    logits, stored = f64((1.0, 2.0, 3.0), (2.0, 2.0, 2.0)), f64((0.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    assert dark_loss(logits, stored, "sum").item() == 7.5 and dark_loss(logits, stored).item() == 2.5


@pytest.mark.parametrize(("form", "scale"), [("mean", 1 / 3), ("sum", 1.0)])
def test_gradient_on_a_linear_model(form, scale):
    """2 alpha (h - z) x^T / C, and nothing for the stored logits."""
    alpha, x, z = 0.7, f64((1.0, -2.0)), f64((0.5, 0.0, 1.0)).requires_grad_()
    W = f64((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)).requires_grad_()
    h = x @ W.T
    (alpha * dark_loss(h, z, form)).backward()
    expected = 2 * alpha * (h - z).detach().T @ x * scale
    assert torch.allclose(W.grad, expected, atol=1e-12) and z.grad is None


def test_a_head_that_has_grown_is_compared_where_it_was():
    """The first row was stored with two logits, the second with three; the head now has four."""
    logits = f64((1.0, 2.0, 30.0, 40.0), (1.0, 1.0, 1.0, 50.0))
    stored, width = f64((0.0, 0.0, 0.0), (0.0, 0.0, 3.0)), torch.tensor([2, 3])
    assert dark_loss(logits, stored, "sum", width).item() == ((1 + 4) + (1 + 1 + 4)) / 2
    assert dark_loss(logits, stored, "mean", width).item() == ((1 + 4) / 2 + (1 + 1 + 4) / 3) / 2
    # the known error: padding with zeros and comparing all of it pulls the new logit to 0
    assert dark_loss(logits, stored, "sum").item() > 400
    # padding may reach past the head of now
    assert dark_loss(logits[:, :3], F.pad(stored, (0, 7)), "sum", width).item() == 5.5


def test_a_row_that_was_just_stored_has_distance_zero(stream):
    """With no steps at all (lr = 0) every term is 0; with steps it is not."""
    for lr, still in ((0.0, True), (0.5, False)):
        model = net().double()
        history = run(model, stream, [DarkExperienceReplay(1000)], optimizer="sgd", lr=lr, batch_size=16)
        terms = [step.losses["DER"] for step in history.losses if step.task > 0]
        assert terms and (max(terms) < 1e-24) == still
        assert not any("DER" in step.losses for step in history.losses if step.task == 0)


def test_logits_are_those_of_the_first_sight(stream):
    """Not of a later epoch, not of the end of the task: each stored row's logits by a slow loop over all steps."""
    watch, dark = Watch(), DarkExperienceReplay(1000, 0.5, 0.5)
    run(net(), stream, [dark, watch], epochs=2, batch_size=16)
    first = {}
    for _, batch, outputs in watch.seen:
        new = batch.rows("new")
        for x, z in zip(batch.x[new], outputs[new], strict=True):
            first.setdefault(tuple(x.tolist()), z)
    rows = dark.memory.sample(1000)
    assert len(rows.y) == sum(len(task.y) for task in stream) == dark.memory.n_seen
    assert all(torch.equal(z, first[tuple(x.tolist())]) for x, z in zip(rows.x, rows.logits, strict=True))
    assert rows.width.eq(10).all() and not rows.logits.requires_grad


def test_a_step_by_hand(stream):
    """The last step's loss and its gradient, from the rows that were in it."""
    alpha, beta = 0.3, 0.8

    class Check(Watch):
        def gradients(self, ctx):
            self.last = copy.deepcopy(ctx.model), [p.grad.clone() for p in ctx.model.parameters()]

    check, dark = Check(), DarkExperienceReplay(60, alpha, beta, batch_size=9)
    history = run(net().double(), stream, [dark, check], batch_size=16)
    model, gradients = check.last
    _, batch, _ = check.seen[-1]
    new, one, two = (batch.rows(source) for source in ("new", "dark 0", "dark labels 0"))
    assert [part.weight for part in batch.parts] == [1.0, 0.0, 0.0] and two.stop - two.start == 9
    stored = dark.remembered.logits
    model.zero_grad()
    z = model(batch.x)  # in the last task every class is allowed
    task, labels = (F.cross_entropy(z[rows], batch.y[rows]) for rows in (new, two))
    terms = {"task": task, "DER": alpha * (z[one] - stored).square().mean(), "DER++": beta * labels}
    assert history.losses[-1].losses == pytest.approx({name: t.item() for name, t in terms.items()}, abs=1e-12)
    sum(terms.values()).backward()
    assert all(torch.allclose(p.grad, g, atol=1e-12) for p, g in zip(model.parameters(), gradients, strict=True))


def test_the_two_draws_are_independent(stream):
    watch = Watch()
    run(net(), stream, [DarkExperienceReplay(80, 0.5, 0.5, batch_size=10), watch], batch_size=16)
    shared = []
    for task, batch, _ in watch.seen:
        if task > 1:
            one, two = (batch.x[batch.rows(source)] for source in ("dark 0", "dark labels 0"))
            shared.append((torch.cdist(one, two) == 0).any(dim=1).double().mean().item())
    # ten of eighty at random share 10 / 80 of their rows; one draw used twice would share them all
    assert 0 < sum(shared) / len(shared) < 0.4


@pytest.mark.parametrize(("alpha", "beta", "names"), [(0.5, 0.0, {"DER"}), (0.0, 0.5, {"DER++"})])
def test_a_coefficient_of_zero_draws_nothing(stream, alpha, beta, names):
    history = run(net(), stream, [DarkExperienceReplay(50, alpha, beta, 6)], batch_size=16)
    assert set(history.losses[-1].losses) == {"task", *names} and history.losses[-1].info["replayed"] == 6


def test_zero_is_fine_tuning_and_the_steps_are_the_same(stream):
    plain, zero, dark = net(), net(), net()
    run(plain, stream, batch_size=16)
    run(zero, stream, [DarkExperienceReplay(50, 0.0, 0.0)], batch_size=16)
    steps = sum(isinstance(e, Step) for e in fit(dark, stream, [DarkExperienceReplay(50, 0.5, 0.5)], batch_size=16))
    assert torch.equal(bits(plain), bits(zero)) and not torch.equal(bits(plain), bits(dark))
    assert steps == sum(-(-len(task.y) // 16) for task in stream)


def test_a_batch_never_replays_itself(stream):
    watch = Watch()
    run(net(), stream, [DarkExperienceReplay(1000, 0.5, 0.5, 1000), watch], batch_size=16)
    for task, batch, _ in watch.seen[1:]:
        new, memory = batch.x[batch.rows("new")], batch.x[batch.rows("dark 0")]
        assert (task == 0) == (len(memory) == 0)
        assert task == 0 or torch.cdist(new, memory).min() > 0


class Growing(Method):
    """A head with outputs for the classes seen so far only."""

    def start_task(self, ctx):
        ctx.model.grow_head(2 * (ctx.task_index + 1), generator(0))


def test_in_a_run_whose_head_grows(stream):
    dark = DarkExperienceReplay(1000, 0.5, 0.5)
    model = MLP(64, [16], 2).double()
    history = run(model, stream, [Growing(), dark], optimizer="sgd", lr=0.0, batch_size=16)
    rows = dark.memory.sample(1000)
    assert torch.equal(rows.width, 2 * (rows.task + 1)) and rows.logits.shape[1] == 10
    assert torch.allclose(rows.logits, model(rows.x).detach() * (torch.arange(10) < rows.width[:, None]), atol=1e-12)
    # nothing has moved, so what was stored is what is answered; the outputs added since are not compared
    assert max(step.losses.get("DER", 0.0) for step in history.losses) < 1e-24


def test_a_head_with_outputs_to_spare(stream):
    dark = DarkExperienceReplay(50)
    run(MLP(64, [8], 13), stream, [dark], batch_size=32)
    assert dark.memory.sample(1).logits.shape == (1, 10)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_with_others_in_every_scenario(scenario):
    stream = split(digits().take(120), 2, scenario)
    methods = [EWC(1.0), DarkExperienceReplay(40, 0.5, 0.5, 4), ExperienceReplay(40, 4), DarkExperienceReplay(20, 1.0)]
    watch = Watch()
    history = run(MLP(64, [8], stream.n_classes), stream, [*methods, watch], batch_size=16)
    assert set(history.losses[-1].losses) == {"task", "EWC", "DER", "DER++", "DER 2"}
    for task, batch, _ in watch.seen:
        assert batch.task.le(task).all() and batch.allowed.gather(1, batch.y[:, None]).all()
        assert len(batch.parts) == (1 if task == 0 else 5)
    assert methods[1].memory_bytes() == 40 * (64 * 4 + 8 + 8 + stream.n_classes * 4 + 8)


@pytest.mark.slow
def test_it_beats_fine_tuning():
    stream = split(digits().take(400), 2)
    for seed in range(3):
        plain, dark = (
            run(MLP(64, [32], 10, seed), stream, methods, epochs=12, batch_size=16, lr=0.005, seed=seed).metrics()
            for methods in ([], [DarkExperienceReplay(100, 0.1, 1.0)])
        )
        assert dark["average_accuracy"] > plain["average_accuracy"] + 0.3


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"capacity": 0}, ValueError, "capacity"), ({"capacity": 5, "alpha": -0.1}, ValueError, "alpha"),
        ({"capacity": 5, "beta": -1}, ValueError, "beta"), ({"capacity": 5, "beta": "1"}, TypeError, "beta"),
        ({"capacity": 5, "alpha": float("nan")}, ValueError, "alpha"), ({"capacity": 5, "form": "mse"}, ValueError, "form"),
        ({"capacity": 5, "batch_size": 0}, ValueError, "batch_size"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        DarkExperienceReplay(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((torch.zeros(2, 3), torch.zeros(1, 3)), ValueError, "stored must have 2 rows"),
        ((torch.zeros(1, 3), torch.zeros(1, 4)), ValueError, "stored must not have more logits"),
        ((torch.zeros(1, 3), torch.full((1, 3), float("nan"))), ValueError, "stored must be finite"),
        ((torch.zeros(1, 3).long(), torch.zeros(1, 3)), TypeError, "logits"),
        ((torch.zeros(1, 3), torch.zeros(1, 3), "mse"), ValueError, "form"),
        ((torch.zeros(1, 3), torch.zeros(1, 3), "sum", torch.tensor([4])), ValueError, "width"),
        ((torch.zeros(1, 3), torch.zeros(1, 3), "sum", torch.tensor([0])), ValueError, "width"),
        ((torch.zeros(1, 3), torch.zeros(1, 5), "sum", torch.tensor([4])), ValueError, "more logits than now"),
    ],
)
def test_bad_logits(arguments, error, named):
    with pytest.raises(error, match=named):
        dark_loss(*arguments)
