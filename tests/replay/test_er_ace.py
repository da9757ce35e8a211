"""ER-ACE: who competes with whom, in numbers; the shares of the parts; the public code's mask is another."""

import pytest
import torch
import torch.nn.functional as F

from cllab.models import MLP
from cllab.regularization import EWC
from cllab.replay import ERACE, MIR, DarkExperienceReplay, ExperienceReplay, asymmetric_cross_entropy
from cllab.streams import digits, split
from cllab.training import Method, Step, fit, run

LOGITS, Y, PRESENT = torch.tensor([[2.0, 1.0, 0.0, 3.0]], dtype=torch.float64), torch.tensor([1]), {1, 2}


@pytest.fixture(scope="module")
def stream():
    return split(digits().take(200), 2)


def net(seed=0):
    return MLP(64, [16], 10, seed=seed)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def value_and_gradient(loss, logits=LOGITS):
    z = logits.clone().requires_grad_()
    value = loss(z)
    value.backward()
    return value.item(), z.grad[0].tolist()


def test_the_worked_example():
    value, gradient = value_and_gradient(lambda z: F.cross_entropy(z, Y))
    assert value == pytest.approx(2.440190, abs=1e-6)
    assert gradient == pytest.approx([0.236883, -0.912856, 0.032059, 0.643914], abs=1e-6)
    value, gradient = value_and_gradient(lambda z: asymmetric_cross_entropy(z, Y, PRESENT))
    assert value == pytest.approx(0.313262, abs=1e-6)
    assert gradient == pytest.approx([0, -0.268941, 0.268941, 0], abs=1e-6)
    assert gradient[0] == gradient[3] == 0.0


@pytest.mark.parametrize("present", [[2, 1], (1, 2, 2, 1), torch.tensor([1, 2]), torch.tensor([2, 1, 1])])
def test_present_is_a_set(present):
    assert asymmetric_cross_entropy(LOGITS, Y, present) == asymmetric_cross_entropy(LOGITS, Y, PRESENT)


def test_all_classes_present_is_cross_entropy():
    assert asymmetric_cross_entropy(LOGITS, Y, range(4)).item() == pytest.approx(F.cross_entropy(LOGITS, Y).item())


def test_the_public_codes_mask_is_another():
    """It opens every column from the highest class seen on: here class 3, which is old and not in the batch."""

    def from_highest_seen_on(z, highest=3):
        mask = torch.zeros(4, dtype=torch.bool)
        mask[list(PRESENT)] = True
        mask[highest:] = True
        return F.cross_entropy(z.masked_fill(~mask, float("-inf")), Y)

    value, gradient = value_and_gradient(from_highest_seen_on)
    assert value != pytest.approx(0.313262, abs=0.1) and gradient[3] > 0.5


def test_multiplying_by_zero_would_not_mask():
    """With negative logits a column times 0 is the largest of all."""
    z = -10 - LOGITS
    zeroed = F.cross_entropy(z * torch.tensor([0.0, 1.0, 1.0, 0.0]), Y)
    assert asymmetric_cross_entropy(z, Y, PRESENT).item() == pytest.approx(1.313262, abs=1e-6)
    assert zeroed.item() > 10


class Watch(Method):
    def start_run(self, ctx):
        self.seen = []

    def losses(self, ctx, batch, outputs):
        self.seen.append((ctx.task_index, batch, outputs.detach()))
        return {}


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("rho", [0.25, 0.5])
def test_every_step_by_a_slow_loop(scenario, rho):
    """Also beside EWC and with the rows of another replay, which count as memory; DER's carry no task loss."""
    stream = split(digits().take(150), 2, scenario)
    watch = Watch()
    methods = [EWC(1.0), ERACE(60, 7, rho), ExperienceReplay(20, 3), DarkExperienceReplay(20, 0.1), watch]
    history = run(MLP(64, [8], stream.n_classes).double(), stream, methods, batch_size=10)
    for (task, batch, outputs), step in zip(watch.seen, history.losses, strict=True):
        here, total = set(batch.y[batch.rows("new")].tolist()), 0.0
        shares = [1.0, rho / (1 - rho), 1.0, 0.0][: len(batch.parts)]
        for part, share in zip(batch.parts, shares, strict=True):
            losses = []
            for z, y, allowed in zip(outputs[part.rows], batch.y[part.rows], batch.allowed[part.rows], strict=True):
                rivals = sorted(here) if part.source == "new" and task > 0 else allowed.nonzero().flatten().tolist()
                losses.append((torch.logsumexp(z[rivals], 0) - z[y]).item())
            total += share / sum(shares) * sum(losses) / len(losses)
        assert step.losses["task"] == pytest.approx(total, abs=1e-9)


def test_new_rows_do_not_push_old_classes_down(stream):
    """Gradient of the new rows' part in the head: nothing for the classes that are not among them."""

    class Head(ERACE):
        def task_loss(self, ctx, batch, outputs):
            loss = super().task_loss(ctx, batch, outputs)
            if loss is not None:
                new, memory = batch.rows("new"), batch.rows("memory")
                (g,) = torch.autograd.grad(loss, outputs, retain_graph=True)
                absent = torch.ones(10, dtype=torch.bool)
                absent[batch.y[new]] = False
                self.pushed = g[new][:, absent].abs().max().item(), g[memory][:, absent].abs().max().item()
            return loss

    method = Head(60)
    run(net(), stream, [method], batch_size=16)
    assert method.pushed[0] == 0 and method.pushed[1] > 0


def test_rho_zero_is_fine_tuning_and_the_steps_are_the_same(stream):
    plain, zero, ace, er = net(), net(), net(), net()
    run(plain, stream, batch_size=16)
    run(zero, stream, [ERACE(50, rho=0.0)], batch_size=16)
    run(er, stream, [ExperienceReplay(50)], batch_size=16)
    steps = [e for e in fit(ace, stream, [ERACE(50)], batch_size=16) if isinstance(e, Step)]
    assert torch.equal(bits(plain), bits(zero)) and not torch.equal(bits(er), bits(ace))
    assert len(steps) == sum(-(-len(task.y) // 16) for task in stream)
    assert all(("replayed" in step.info) == (step.task > 0) for step in steps)


def test_only_one_method_replaces_the_task_loss(stream):
    with pytest.raises(ValueError, match="ERACE and ERACE"):
        fit(net(), stream, [ERACE(5), ERACE(5)])
    run(net(), stream, [ERACE(20, 4), MIR(20, 4, candidates=9)], batch_size=32)


@pytest.mark.slow
def test_it_beats_fine_tuning():
    stream = split(digits().take(400), 2)
    for seed in range(3):
        plain, ace = (
            run(MLP(64, [32], 10, seed), stream, methods, epochs=12, batch_size=16, lr=0.005, seed=seed).metrics()
            for methods in ([], [ERACE(100)])
        )
        assert ace["average_accuracy"] > plain["average_accuracy"] + 0.3


@pytest.mark.parametrize(
    ("logits", "y", "present", "error", "named"),
    [
        (LOGITS, Y, {0, 2}, ValueError, r"present must hold every label of y.*\[1\]"),
        (LOGITS, Y, set(), ValueError, "present"), (LOGITS, Y, {1, 4}, ValueError, "present"),
        (LOGITS, Y, [1.0], TypeError, "present"), (LOGITS, Y, torch.tensor([True, True]), TypeError, "present"),
        (LOGITS, torch.tensor([4]), {1}, ValueError, "y must be below"), (LOGITS, torch.tensor([1, 1]), {1}, ValueError, "y"),
        (LOGITS[0], Y, {1}, ValueError, "logits"), (LOGITS / 0, Y, {1}, ValueError, "logits"),
    ],
)  # fmt: skip
def test_bad_rows(logits, y, present, error, named):
    with pytest.raises(error, match=named):
        asymmetric_cross_entropy(logits, y, present)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"capacity": 0}, ValueError, "capacity"), ({"capacity": 5, "rho": 1.0}, ValueError, "rho"),
        ({"capacity": 5, "batch_size": 1.5}, TypeError, "batch_size"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    with pytest.raises(error, match=named):
        ERACE(**arguments)
