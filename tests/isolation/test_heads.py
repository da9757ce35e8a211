"""A head for each task: what it isolates, and that the trunk below still forgets."""

import functools

import pytest
import torch
from torch import nn
from torch.optim import SGD

from cllab.isolation import MultiHead, TaskHeads, using
from cllab.isolation.heads import NEVER
from cllab.models import MLP
from cllab.streams import points, split
from cllab.training import run

STREAM = split(points("clusters"), 2, scenario="task")
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)


def heads() -> MultiHead:
    torch.manual_seed(0)
    return MultiHead(nn.Linear(3, 4))


def test_a_head_starts_as_its_rows_and_knows_only_its_classes():
    net, h = heads(), torch.randn(5, 3)
    start = net(h)
    net.add(7, (3, 1))
    logits = net(h)
    assert torch.allclose(logits[:, [3, 1]], start[:, [3, 1]])
    assert bool((logits[:, [0, 2]] == NEVER).all()) and bool((logits.softmax(1)[:, [0, 2]] == 0).all())
    net.use()
    assert torch.equal(net(h), start)


def test_training_one_head_leaves_the_others_and_the_initial_one():
    net = heads()
    net.add("a", (0, 1))
    before = [p.clone() for p in (*net.part("a").parameters(), *net.initial.parameters())]
    optimizer = MOMENTUM(net.parameters(), lr=0.1)
    for name in ("a", "b"):
        if name == "b":
            before = [p.clone() for p in (*net.part("a").parameters(), *net.initial.parameters())]
            net.add("b", (2, 3))
            optimizer.add_param_group({"params": list(net.part("b").parameters())})
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(2, 3))[:, net.classes[-1]].pow(2).sum().backward()
            optimizer.step()
    after = [*net.part("a").parameters(), *net.initial.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_masked_rows_of_one_large_head_do_move():
    head = nn.Linear(3, 4)
    optimizer = MOMENTUM(head.parameters(), lr=0.1)
    old = head.weight[:2].clone()
    head(torch.ones(2, 3))[:, 2:].pow(2).sum().backward()
    assert bool((head.weight.grad[:2] == 0).all())
    optimizer.step()
    assert not torch.equal(head.weight[:2], old)  # weight decay


def test_bad_heads_are_refused_and_change_nothing():
    net = heads()
    for classes, message in (((), "once"), ((1, 1), "once"), ((4,), "between 0 and 3"), ((-1,), "between 0 and 3")):
        with pytest.raises(ValueError, match=message):
            net.add(0, classes)
    net.add(0, (0,))
    net.add(1, (1,))
    with pytest.raises(ValueError, match="has a part already"):
        net.add(0, (2,))
    assert len(net.parts) == len(net.classes) == 2
    with pytest.raises(ValueError, match="one task or none"):
        net.use(0, 1)
    with pytest.raises(ValueError, match="got 5"):
        net.use(5)
    with pytest.raises(TypeError, match="initial"):
        MultiHead(nn.ReLU())


def test_a_head_without_bias_in_double_precision():
    net = MultiHead(nn.Linear(3, 4, bias=False).double())
    net.add(0, (2,))
    assert net.part(0).bias is None and net(torch.ones(1, 3).double()).dtype == torch.float64


def test_a_head_per_task_is_one_masked_head_under_plain_sgd():
    """Where nothing moves rows without a gradient, both are the same function: in float64 to rounding."""
    data = STREAM.to(dtype=torch.float64)
    runs = []
    for methods in ([TaskHeads()], []):
        model = MLP(2, [16], STREAM.n_classes, seed=1).double()
        run(model, data, methods, optimizer="sgd", lr=0.05, epochs=2)
        runs.append(model.trunk[0].weight)
    assert torch.allclose(*runs, atol=1e-12, rtol=0)


def test_heads_stay_but_the_trunk_forgets():
    model = MLP(2, [16], STREAM.n_classes, seed=0)
    method = TaskHeads()
    x, allowed = STREAM[0].x_test, STREAM.allowed(0, 0)
    history = run(model, STREAM, [method], optimizer=MOMENTUM, epochs=5, lr=0.05)
    assert len(model.head.parts) == len(STREAM) and history.accuracy.shape == (len(STREAM), len(STREAM))
    with using(model, 0):
        assert torch.equal(model(x), method.predict(model, x, allowed, 0))
    with torch.no_grad():
        before = method.predict(model, x, allowed, 0)
        model.trunk[0].weight += 0.1
        assert not torch.equal(before, method.predict(model, x, allowed, 0))
