"""Balance losses: the worked numbers, where the gradient runs, and that they even out the load."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from cllab.isolation import LoadBalance, MoE, MoEClassifier, balance_loss, route, token_task
from cllab.streams import points, split
from cllab.training import Method, run

P = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]], dtype=torch.float64)
LOGITS = P.log() + torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)[:, None]
KINDS = ("switch", "variance", "cv2", "z")


def loss(kind, logits, k=1):
    return balance_loss(kind, logits, route(logits, k))


@pytest.mark.parametrize(
    ("kind", "k", "expected"),
    [
        ("switch", 1, 1.3875),
        ("switch", 2, 2.4),
        ("variance", 1, 1.555556 + 0.328889),
        ("variance", 2, 1.555556 + 0.328889),
        ("cv2", 1, 0.185),
        ("cv2", 2, 0.185),
        ("z", 1, 1.5),
    ],
)
def test_worked_numbers(kind, k, expected):
    value = loss(kind, LOGITS, k)
    assert value.ndim == 0 and math.isclose(float(value), expected, abs_tol=1e-6)


def test_look_alikes_would_be_caught():
    """Each is a definition found in the field; none gives the number above."""
    r = route(LOGITS, 1)
    load, p = r.load.double(), LOGITS.softmax(1)
    assert math.isclose(float((load / 4 * p.mean(0)).sum()), 0.4625)  # switch without the factor E
    # torch's default variance is the unbiased one
    assert math.isclose(float(load.var()), 2.333333, abs_tol=1e-6)
    # mean probability in place of the sum: N^2 smaller
    assert math.isclose(float(p.mean(0).var(unbiased=False)), 0.020556, abs_tol=1e-6)


def test_capacity_does_not_hide_imbalance():
    free, tight = route(LOGITS, 1), route(LOGITS, 1, capacity=1)
    assert balance_loss("switch", LOGITS, free) == balance_loss("switch", LOGITS, tight)


def test_uniform_routing():
    logits = 20 * torch.eye(4, dtype=torch.float64)
    assert math.isclose(float(loss("switch", logits)), 1.0, abs_tol=1e-9)
    for kind in ("variance", "cv2"):
        assert abs(float(loss(kind, logits))) < 1e-9


def test_collapse_reaches_the_number_of_experts_only_with_one_hot_probabilities():
    hard = torch.zeros(6, 4, dtype=torch.float64)
    hard[:, 2] = 50.0
    assert math.isclose(float(loss("switch", hard)), 4.0, abs_tol=1e-9)
    mild = torch.tensor([[0.4, 0.35, 0.25]] * 5, dtype=torch.float64).log()
    assert math.isclose(float(loss("switch", mild)), 1.2, abs_tol=1e-9)


def test_one_is_not_a_lower_bound():
    rows = [[0.34, 0.33, 0.33], [0.34, 0.33, 0.33], [1e-300, 0.99, 0.01], [1e-300, 0.01, 0.99]]
    p = torch.tensor(rows, dtype=torch.float64)
    assert math.isclose(float(loss("switch", p.log())), 0.8775, abs_tol=1e-9)


def test_switch_gradient_is_the_documented_formula():
    for k in (1, 2):
        logits = LOGITS.clone().requires_grad_()
        loss("switch", logits, k).backward()
        p, f = LOGITS.softmax(1), route(LOGITS, k).load / 4
        expected = 3 / 4 * p * (f - (p * f).sum(dim=1, keepdim=True))
        assert torch.allclose(logits.grad, expected, rtol=0, atol=1e-12)


def test_the_gradient_runs_through_logits_even_if_the_routing_was_detached():
    logits = LOGITS.clone().requires_grad_()
    balance_loss("switch", logits, route(LOGITS, 1)).backward()
    assert logits.grad.norm() > 0.1


def test_the_load_in_variance_is_a_readout():
    logits = LOGITS.clone().requires_grad_()
    loss("variance", logits).backward()
    alone = LOGITS.clone().requires_grad_()
    alone.softmax(1).sum(0).var(unbiased=False).backward()
    assert torch.allclose(logits.grad, alone.grad, rtol=0, atol=1e-12)
    assert not route(logits, 1).load.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_experts_do_not_matter(kind):
    logits = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    renamed = logits[:, [3, 0, 4, 2, 1]]
    assert torch.allclose(loss(kind, logits, 2), loss(kind, renamed, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(kind):
    assert loss(kind, LOGITS.to(torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"kind": "l2"}, ValueError, "kind"),
        ({"logits": LOGITS[:3]}, ValueError, "routing"),
        ({"logits": LOGITS[:, :2]}, ValueError, "routing"),
        ({"logits": LOGITS * math.nan}, ValueError, "logits"),
        ({"logits": LOGITS[0]}, ValueError, "logits"),
        ({"logits": LOGITS.long()}, TypeError, "logits"),
        ({"routing": (1, 2)}, TypeError, "routing"),
        ({"kind": "shazeer", "smooth_load": [1.0, 1.0, 1.0]}, ValueError, "smooth_load"),
        ({"kind": "z", "logits": LOGITS.float() * 1e30}, ValueError, "logits"),
    ],
)
def test_bad_input_is_named(arguments, error, names):
    with pytest.raises(error, match=f"^{names}"):
        balance_loss(**{"kind": "switch", "logits": LOGITS, "routing": route(LOGITS, 1), **arguments})


# The method in the training loop.


def classifier(in_features, n_classes, seed=0):
    return MoEClassifier(in_features, 16, 8, 1, n_classes, seed=seed, hidden=4, renormalise=False)


def test_its_term_is_added_and_named():
    stream = split(points("clusters"), 2, scenario="class")
    methods = [LoadBalance(0.5), LoadBalance(0.1, kind="z")]
    model = classifier(2, 4)
    before = copy.deepcopy(model)
    step = run(model, stream, methods, epochs=1, batch_size=10_000).losses[0]
    before(stream[0].x)
    expected = 0.5 * balance_loss("switch", before.moe.logits, before.moe.routing)
    assert set(step.losses) == {"task", "balance", "z-loss"}
    assert math.isclose(step.losses["balance"], float(expected.detach()), rel_tol=1e-5)


def test_coefficient_zero_trains_as_without():
    stream = split(points("clusters"), 2, scenario="class")
    plain, zero = classifier(2, 4), classifier(2, 4)
    run(plain, stream, epochs=2)
    run(zero, stream, [LoadBalance(0.0)], epochs=2)
    for a, b in zip(plain.parameters(), zero.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_layer_counts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = MoE(2, 3, 2), MoE(2, 5, 2, seed=1)

        def forward(self, x):
            return self.second(self.first(x))

    class Context:
        model = Two()

    Context.model(torch.randn(7, 2, generator=torch.Generator().manual_seed(0)))
    layers = Context.model.first, Context.model.second
    expected = sum(balance_loss("switch", m.logits, m.routing) for m in layers)
    assert torch.equal(LoadBalance(1.0).losses(Context, None, None)["balance"], expected)


def test_it_is_a_method_and_names_bad_input():
    assert isinstance(LoadBalance(), Method)
    for arguments, names in (((-1.0,), "alpha"), ((math.nan,), "alpha"), ((0.1, "l2"), "kind")):
        with pytest.raises(ValueError, match=f"^{names}"):
            LoadBalance(*arguments)
    with pytest.raises(ValueError, match="MoE layer"):
        run(nn.Linear(2, 4), split(points("clusters"), 2, scenario="class"), [LoadBalance()])


def test_it_spreads_the_load_over_the_experts():
    def share_of_top_three(alpha, seed):
        task = token_task(2048, seed)
        model = classifier(28, 4, seed)
        run(model, task.stream, [LoadBalance(alpha)], epochs=5, batch_size=128, lr=1e-2, seed=seed)
        with torch.no_grad():
            model(task.data.x_test)
        load = model.moe.routing.load
        return float(load.sort(descending=True).values[:3].sum() / load.sum())

    for seed in range(2):
        assert share_of_top_three(0.0, seed) > 0.75 > 0.62 > share_of_top_three(0.1, seed)


def test_no_warning_on_the_way():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(28, 4)
