"""The Fisher diagonal: worked numbers, a slow loop as oracle, and the wrong forms that must differ."""

import math

import pytest
import torch
from torch import nn

from cllab.models import MLP, ConvNet
from cllab.regularization import fisher_diagonal, output_sensitivity
from cllab.training import masked


class Logistic(nn.Module):
    """p(1 | x) = sigmoid(theta x) with theta = ln 3, as logits (0, theta x)."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(math.log(3.0), dtype=torch.float64))

    def forward(self, x):
        z = self.theta * x[:, :1]
        return torch.cat([torch.zeros_like(z), z], dim=1)


def column(values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("x", "y", "batch", "true", "empirical", "batched"),
    [
        ((1, 2), (1, 0), None, 0.27375, 1.65125, 0.600625), ((1, 2), (1, 1), None, 0.27375, 0.05125, 0.050625),
        ((1, 1, 1, 1),
        (1, 1, 1, 0), 1, 0.1875, 0.1875, 0.1875), ((1, 1, 1, 1), (1, 1, 1, 0), 2, 0.1875, 0.1875, 0.0625),
        ((1, 1, 1, 1), (1, 1, 1, 0), 4, 0.1875, 0.1875, 0.0), ((1, 1, 1, 1), (1, 1, 1, 0), None, 0.1875, 0.1875, 0.0),
    ],
)  # fmt: skip
def test_worked_table(x, y, batch, true, empirical, batched):
    x, y = column(x), torch.tensor(y)
    if batch == 2:  # the table pairs the rows (1, 1) and (1, 0): means 1/4 and -1/4
        y = torch.tensor([1, 1, 1, 0])
    values = {labels: fisher_diagonal(Logistic(), x, y, labels)["theta"].item() for labels in ("model", "true")}
    assert values["model"] == pytest.approx(true, abs=1e-9)
    assert values["true"] == pytest.approx(empirical, abs=1e-9)
    assert fisher_diagonal(Logistic(), x, y, "batched", batch_size=batch)["theta"].item() == pytest.approx(
        batched, abs=1e-9
    )


def test_one_logit_is_the_same_as_two():
    layer = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.fill_(math.log(3.0))
    assert fisher_diagonal(layer, column((1, 2)))["weight"].item() == pytest.approx(0.27375, abs=1e-9)


def test_sampled_labels_are_unbiased():
    x = column([1.0]).expand(200_000, 1)
    value = fisher_diagonal(Logistic(), x, labels="sampled", chunk=50_000)["theta"].item()
    assert value == pytest.approx(0.1875, abs=4 * 0.6 / math.sqrt(200_000))


def test_closed_form_of_a_softmax_layer_is_the_diagonal_of_the_hessian():
    source = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=source, dtype=torch.float64)
    layer = MLP(3, [], 4).double()
    F = fisher_diagonal(layer, x)["head.weight"]
    p = layer(x).softmax(dim=1)
    closed = torch.einsum("nc,nd->cd", p * (1 - p), x.square()) / len(x)
    assert torch.allclose(F, closed, atol=1e-12)
    W, b = layer.head.weight.detach(), layer.head.bias.detach()
    y = torch.randint(4, (40,), generator=source)

    def loss(flat):
        return nn.functional.cross_entropy(x @ flat.view(4, 3).T + b, y)

    hessian = torch.autograd.functional.hessian(loss, W.flatten())
    assert torch.allclose(F.flatten(), hessian.diagonal(), atol=1e-12)


def slow(model, x, y, labels, allowed=None):
    """One backward pass per row and class, exactly the definition."""
    model.eval()
    theta = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    for i in range(len(x)):
        logits = model(x[i : i + 1])
        log_p = masked(logits, torch.ones_like(logits, dtype=torch.bool) if allowed is None else allowed).log_softmax(
            1
        )[0]
        chosen = [(int(y[i]), 1.0)] if labels == "true" else [(c, log_p[c].exp().item()) for c in range(len(log_p))]
        for c, weight in chosen:
            if weight > 0:
                gradients = torch.autograd.grad(log_p[c], list(theta.values()), retain_graph=True, allow_unused=True)
                for name, g in zip(theta, gradients, strict=True):
                    total[name] += 0 if g is None else weight * g.square()
    return {name: value / len(x) for name, value in total.items()}


class Mixed(nn.Module):
    """Layers that the fast path for linear networks does not cover."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.b(self.drop(self.norm(self.a(x).tanh())))


MODELS = {
    "mlp": lambda: MLP(5, [7, 6], 3), "linear": lambda: MLP(5, [], 3), "mixed": Mixed,
    "conv": lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("labels", ["model", "true"])
@pytest.mark.parametrize("masked_out", [False, True])
def test_equals_the_slow_loop(name, labels, masked_out):
    source = torch.Generator().manual_seed(1)
    model = MODELS[name]().double()
    x = torch.randn(9, 5, generator=source, dtype=torch.float64)
    y = torch.randint(2, (9,), generator=source)
    allowed = torch.tensor([True, True, False]) if masked_out else None
    fast = fisher_diagonal(model, x, y, labels, allowed=allowed)
    expected = slow(model, x, y, labels, allowed)
    assert set(fast) == set(expected)
    for key in fast:
        assert torch.allclose(fast[key], expected[key], atol=1e-12), key


def test_images_through_the_convolutional_network():
    model, x = ConvNet((1, 8, 8), 3, width=2).double(), torch.rand(4, 64, dtype=torch.float64)
    fast, expected = fisher_diagonal(model, x), slow(model, x, None, "model")
    assert all(torch.allclose(fast[k], expected[k], atol=1e-12) for k in expected)


@pytest.mark.parametrize("labels", ["model", "true", "sampled"])
@pytest.mark.parametrize("name", ["mlp", "mixed"])
def test_does_not_depend_on_the_chunk(name, labels):
    model = MODELS[name]().double()
    x, y = torch.randn(11, 5, dtype=torch.float64), torch.zeros(11, dtype=torch.int64)
    one, many = (fisher_diagonal(model, x, y, labels, chunk=c) for c in (100, 3))
    assert all(torch.allclose(one[k], many[k], atol=1e-14) for k in one)


def test_batched_depends_on_the_batch_and_vanishes_for_opposite_gradients():
    """Two rows with opposite gradients: their mean is zero, their importance is not."""
    x, y = column([1.0, 1.0]), torch.tensor([0, 1])
    model = Logistic()
    with torch.no_grad():
        model.theta.fill_(0.0)
    assert fisher_diagonal(model, x, y, "batched")["theta"].item() == 0
    assert fisher_diagonal(model, x, y, "true")["theta"].item() == pytest.approx(0.25)
    assert fisher_diagonal(model, x)["theta"].item() == pytest.approx(0.25)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    model[2].eval()  # a mode of its own
    x = torch.randn(6, 5, dtype=torch.float64)
    model(x).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    for labels in ("model", "sampled", "true", "batched"):
        fisher_diagonal(model, x, torch.zeros(6, dtype=torch.int64), labels)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())


def test_the_mode_is_restored_after_an_error():
    model = MLP(5, [4], 3).train()
    with pytest.raises(ValueError, match="y must be given"):
        fisher_diagonal(model, torch.randn(2, 5), labels="true")
    assert model.training


def test_frozen_parameters_are_left_out():
    model = MLP(5, [4], 3)
    model.trunk.requires_grad_(False)
    assert set(fisher_diagonal(model, torch.randn(3, 5))) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"x": torch.zeros(0, 5)}, ValueError, "x must not be empty"),
        ({"x": torch.full((2, 5), float("nan"))}, ValueError, "x must be finite"),
        ({"x": [[0.0] * 5]}, TypeError, "x must be"),
        ({"x": torch.zeros(2, 5, dtype=torch.int64)}, TypeError, "x must hold"),
        ({"labels": "empirical"}, ValueError, "labels"), ({"labels": "true"}, ValueError, "y must be given"),
        ({"labels": "true", "y": torch.tensor([0])}, ValueError, "y must have one label"),
        ({"labels": "true", "y": torch.tensor([0, 3])}, ValueError, "y must be below"),
        ({"labels": "true", "y": torch.tensor([0.0, 1.0])}, TypeError, "y must be int64"),
        ({"labels": "true", "y": torch.tensor([0, 2]), "allowed": torch.tensor([True, True, False])},
         ValueError, "y must"),
        ({"chunk": 0}, ValueError, "chunk"), ({"allowed": torch.tensor([False] * 3)}, ValueError, "allowed"),
        ({"allowed": torch.tensor([False] * 3 + [True])}, ValueError, "allowed"), ({"allowed": [True]}, TypeError, "allowed"),
        ({"labels": "batched", "y": torch.tensor([0, 1]), "batch_size": 0}, ValueError, "batch_size"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, error, named):
    call = {"x": torch.randn(2, 5), **arguments}
    with pytest.raises(error, match=named):
        fisher_diagonal(MLP(5, [4], 3), **call)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="trainable"):
        fisher_diagonal(MLP(5, [4], 3).requires_grad_(False), torch.randn(2, 5))


class Twice(MLP):
    """Uses one layer twice: what is true of the layers of an MLP is not true of its subclasses."""

    def forward(self, x):
        return self.head(self.trunk[1](self.trunk[0](self.trunk[1](self.trunk[0](x)))))


class Decides(nn.Module):
    """Takes a path that depends on its values, which vmap cannot follow."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        return self.a(x) if x.sum().item() > 0 else self.b(x)


def changed(change):
    """An MLP of which one detail is not as it was built."""

    def make():
        model = MLP(5, [5, 5], 3)
        change(model)
        return model

    return make


def shared_layer(model):
    model.trunk[2] = model.trunk[0]


def shared_weight(model):
    model.trunk[2].weight = model.trunk[0].weight


def in_place(model):
    model.trunk[1] = nn.ReLU(inplace=True)


def hooked(model):
    model.trunk[0].register_forward_hook(lambda module, a, z: 2 * z)


def other_parameters(model):
    nn.utils.parametrizations.weight_norm(model.trunk[0])


UNUSUAL = [lambda: Twice(5, [5], 3), Decides]
UNUSUAL += [changed(change) for change in (shared_layer, shared_weight, in_place, hooked, other_parameters)]


@pytest.mark.parametrize("make", UNUSUAL)
def test_unusual_models_are_right_too(make):
    model = make().double()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    fast, expected = fisher_diagonal(model, x), slow(model, x, None, "model")
    assert all(torch.allclose(fast[name], expected[name], atol=1e-12) for name in expected)


def test_models_that_cannot_be_measured_are_refused():
    class Odd(nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.layer, self.answer = nn.Linear(5, 3), answer

        def forward(self, x):
            return self.answer(self.layer(x))

    x = torch.randn(4, 5)
    odd = {"detached": lambda z: z.detach(), "one row of logits": lambda z: z[:1], "floating-point": lambda z: z.long()}
    for message, answer in odd.items():
        for measure in (fisher_diagonal, output_sensitivity):
            with pytest.raises(ValueError, match=message):
                measure(Odd(answer), x)


def test_a_buffer_that_counts_calls_gets_its_value_back():
    class Counting(MLP):
        def __init__(self):
            super().__init__(5, [4], 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = Counting()
    fisher_diagonal(model, torch.randn(4, 5), torch.tensor([0, 1, 2, 0]), "batched")
    assert model.calls == 0


def test_overflow_is_said_not_returned():
    with pytest.raises(ValueError, match=r"x must be smaller|finite logits"):
        fisher_diagonal(MLP(5, [4], 3), torch.full((2, 5), 1e30))


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"model": None}, TypeError, "model"), ({"model": lambda x: x}, TypeError, "model"),
        ({"x": torch.randn(2, 5).double()}, ValueError, "x must be rows"), ({"x": torch.randn(2, 4)}, ValueError, "x must be rows"),
        ({"x": torch.randn(5)}, ValueError, "x must be rows"), ({"generator": 5}, TypeError, "generator"),
        ({"y": torch.tensor([0, 9])}, ValueError, "y must be below"), ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)  # fmt: skip
def test_more_bad_arguments(arguments, error, named):
    call = {"model": MLP(5, [4], 3), "x": torch.randn(2, 5), **arguments}
    with pytest.raises(error, match=named):
        fisher_diagonal(call.pop("model"), call.pop("x"), **call)
