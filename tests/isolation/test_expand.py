"""Block expansion: the same logits to the last bit, where the new blocks stand, and what learns at the first step."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from cllab.device import generator
from cllab.isolation import ExpandBlocks, expand_blocks
from cllab.isolation.expand import identity_copy
from cllab.models import MLP, Transformer
from cllab.streams import digits, split
from cllab.training import TaskEnded, fit, run

STREAM = split(digits().only(range(6)).take(200), 2, scenario="task")


def net(depth=4) -> Transformer:
    return Transformer(8, 8, 8, depth, 2, 10)


def rows():
    return torch.rand(20, 64, generator=generator(0))


class Residual(nn.Module):
    """Someone else's block: h + W_2 relu(W_1 h), no biases."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 5, bias=False), nn.Linear(5, 3, bias=False)

    def forward(self, h):
        return h + self.outer(self.inner(h).relu())


class Deep(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.blocks = nn.ModuleList(Residual() for _ in range(depth))

    def forward(self, h):
        for block in self.blocks:
            h = block(h)
        return h


@pytest.mark.parametrize(("depth", "n_new", "indices"), [
    (32, 8, [4, 9, 14, 19, 24, 29, 34, 39]), (4, 1, [4]), (4, 2, [2, 5]), (4, 4, [1, 3, 5, 7]), (1, 1, [1]),
])  # fmt: skip
def test_where_the_new_blocks_stand(depth, n_new, indices):
    model, x = Deep(depth), torch.randn(6, 3, generator=generator(0))
    old, before = list(model.blocks), model(x)
    assert expand_blocks(model, n_new, outputs=["outer"]) == indices
    assert torch.equal(model(x), before) and len(model.blocks) == depth + n_new
    assert [block for i, block in enumerate(model.blocks) if i not in indices] == old
    for i in indices:  # a copy of the block before it
        assert torch.equal(model.blocks[i].inner.weight, model.blocks[i - 1].inner.weight)
        assert bool((model.blocks[i].outer.weight == 0).all())


def test_logits_are_equal_to_the_last_bit_and_only_new_blocks_train():
    model = net()
    before, old = model(rows()), {id(p): p.clone() for p in model.parameters()}
    indices = expand_blocks(model, 2)
    assert indices == [2, 5] and torch.equal(model(rows()), before)
    new = {id(p) for i in indices for p in model.blocks[i].parameters()}
    assert all(p.requires_grad == (id(p) in new) for p in model.parameters())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        optimizer.zero_grad()
        model(rows()).square().sum().backward()
        optimizer.step()
    assert not torch.equal(model(rows()), before)
    assert all(torch.equal(p, old[id(p)]) for p in model.parameters() if id(p) in old)


def gradients(model, indices):
    """Largest gradient of each parameter of the new blocks at the first step, and whether the parameter is 0."""
    nn.functional.cross_entropy(model(rows()), torch.arange(20) % 10).backward()
    new = [pair for i in indices for pair in model.blocks[i].named_parameters()]
    return [(name, float(p.grad.abs().max()), not bool(p.any())) for name, p in new]


def test_only_what_was_zeroed_has_a_gradient_at_the_first_step():
    model = net()
    found = gradients(model, expand_blocks(model, 2))
    outputs = ("attention.o.weight", "attention.o.bias", "down.weight", "down.bias")
    assert len(found) == 2 * 16
    for name, gradient, zero in found:
        assert (gradient > 0) == (name in outputs)
        assert name not in outputs or zero
    # zeroing only one of the two: the copy is no identity, and other weights have a gradient
    wrong = net()
    before = wrong(rows())
    assert sum(gradient > 0 for _, gradient, _ in gradients(wrong, expand_blocks(wrong, 2, ["down"]))) > 2 * 4
    assert not torch.equal(wrong(rows()), before)


def test_a_copy_of_a_frozen_block_trains():
    block = net().blocks[0].requires_grad_(False)
    assert all(p.requires_grad for p in identity_copy(block).parameters())
    assert not any(p.requires_grad for p in block.parameters()) and bool(block.down.weight.any())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_new": 3}, ValueError, "n_new must divide the number of blocks 4, got 3"),
        ({"n_new": 0}, ValueError, "n_new"), ({"n_new": 8}, ValueError, "n_new must be between 1 and 4"),
        ({"n_new": 2.0}, TypeError, "n_new"), ({"n_new": 2, "outputs": "down"}, TypeError, "outputs must be a list"),
        ({"n_new": 2, "outputs": []}, TypeError, "outputs"),
        ({"n_new": 2, "outputs": ["down", "out"]}, ValueError, "'out' is none"),
    ],
)  # fmt: skip
def test_errors_change_nothing(arguments, error, message):
    model = net()
    blocks, before = list(model.blocks), copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        expand_blocks(model, **arguments)
    assert list(model.blocks) == blocks and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_blocks():
    with pytest.raises(TypeError, match="blocks"):
        expand_blocks(MLP(3, [4], 2), 1)


OPTIMIZERS = {
    "momentum": functools.partial(SGD, momentum=0.9, weight_decay=5e-4),
    "adamw": functools.partial(AdamW, weight_decay=0.1),
}


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_blocks_by_task_keep_old_logits(optimizer, reset):
    model, method, learned = net(2), ExpandBlocks(1), []

    def answers(task):
        with torch.no_grad():
            return method.predict(model, STREAM[task].x_test, STREAM.allowed(task, task), task).clone()

    settings = {"optimizer": OPTIMIZERS[optimizer], "reset_optimizer": reset, "batch_size": 16, "lr": 0.01}
    for event in fit(model, STREAM, [method], **settings):
        if isinstance(event, TaskEnded):
            learned.append(answers(event.task))
    assert all(torch.equal(logits, answers(task)) for task, logits in enumerate(learned))
    blocks = model.blocks[2].parts
    assert len(blocks) == 2 and not torch.equal(blocks[0].down.weight, blocks[1].down.weight)
    assert all(bool(block.down.weight.any()) for block in blocks)


def test_blocks_by_task_resume(tmp_path):
    whole, resumed = net(2), net(2)
    run(whole, STREAM, [ExpandBlocks(2)], batch_size=16)
    path = tmp_path / "checkpoint"
    for event in fit(net(2), STREAM, [ExpandBlocks(2)], batch_size=16, checkpoint=path, checkpoint_every=3):
        if getattr(event, "step", 0) == 9:
            break
    run(resumed, STREAM, [ExpandBlocks(2)], batch_size=16, resume=path)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.parametrize(("method", "model"), [(ExpandBlocks(3), net(2)), (ExpandBlocks(1), MLP(64, [4], 10))])
def test_a_method_that_does_not_fit_leaves_the_model(method, model):
    names = list(model.state_dict())
    with pytest.raises((TypeError, ValueError), match=r"blocks|n_new"):
        run(model, STREAM, [method])
    assert list(model.state_dict()) == names


def test_the_first_blocks_come_back_for_another_run():
    model, method = net(2), ExpandBlocks(2)
    blocks = list(model.blocks)
    run(model, STREAM, [method], batch_size=64)
    method._undo(model)
    assert list(model.blocks) == blocks and all(p.requires_grad for p in model.parameters())
