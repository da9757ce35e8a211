"""LoRA on whole models: any linear layer, peft's numbers, and isolation that is exact to the bit."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from cllab.device import generator
from cllab.isolation import (
    LoRA,
    LoRALinear,
    LowRank,
    TaskSelector,
    add_lora,
    lora_layers,
    merge_weights,
    unmerge_weights,
    using,
)
from cllab.models import MLP, ConvNet
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay
from cllab.streams import digits, permuted, points, split
from cllab.training import TaskEnded, fit, run

X = torch.randn(6, 8, generator=generator(0))
STREAM = split(digits(), 2, scenario="task")
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)
DECAY = functools.partial(AdamW, weight_decay=0.1)


class Odd(nn.Module):
    """Layers in a ModuleList, one layer in two places, a tied weight, an embedding, a norm, and no head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8, bias=False)])
        self.again = self.blocks[0]
        self.words = nn.Embedding(5, 8)
        self.out = nn.Linear(8, 5, bias=False)
        self.out.weight = self.words.weight
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        h = x + self.words.weight.mean(dim=0)
        for block in self.blocks:
            h = torch.relu(block(h))
        return self.out(self.norm(self.again(h)))


def stirred(model: nn.Module, seed: int = 1) -> nn.Module:
    """The same model with every adapter's B away from zero."""
    source = generator(seed)
    for layer in lora_layers(model).values():
        for part in layer.parts:
            nn.init.normal_(part.B, std=0.3, generator=source)
    return model


def everything(model: nn.Module) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before: dict, after: dict) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_any_linear_layer_of_any_module():
    model = Odd()
    before, words = model(X), model.words(torch.arange(5))
    layers = add_lora(model, "new", 2, alpha=4)
    assert list(layers) == ["blocks.0", "blocks.1", "out"] == list(lora_layers(model))
    assert model.again is model.blocks[0], "a layer in two places has one adapter"
    assert torch.equal(model(X), before)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{name}.parts.0.{factor}" for name in layers for factor in "AB"}
    stirred(model)(X).sum().backward()
    assert not torch.equal(model(X), before) and torch.equal(model.words(torch.arange(5)), words)
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trainable)
    with using(model):
        assert torch.equal(model(X), before)


def test_merging_a_model_and_back():
    model = stirred(add_and_return(Odd(), 0))
    state, answer, words = everything(model), model(X), model.words(torch.arange(5))
    merge_weights(model)
    assert torch.allclose(model(X), answer, atol=1e-6) and torch.equal(model.words(torch.arange(5)), words)
    assert same(state, everything(model))
    with pytest.raises(ValueError, match="are merged"):
        merge_weights(model)
    with pytest.raises(ValueError, match="must not be merged"):
        add_lora(model, 1, 2)
    with pytest.raises(ValueError, match="used while"), using(model):
        pass
    twin = copy.deepcopy(model)
    unmerge_weights(model)
    assert torch.equal(model(X), answer) and torch.allclose(twin(X), answer, atol=1e-6)
    with pytest.raises(ValueError, match="must be merged"):
        unmerge_weights(model)
    with pytest.raises(ValueError, match="must have adapters in use"):
        merge_weights(Odd())


def add_and_return(model: nn.Module, task, r: int = 2, **settings) -> nn.Module:
    add_lora(model, task, r, **settings)
    return model


def test_a_model_is_merged_whole_or_not_at_all():
    model = stirred(add_and_return(Odd(), 0))
    with torch.no_grad():
        model.out.part(0).B.fill_(torch.inf)
    with pytest.raises(ValueError, match="must be finite"):
        merge_weights(model)
    assert not any(layer.merged for layer in lora_layers(model).values())


def test_targets_are_names_or_ends_of_names():
    def named(model, targets):
        return list(add_lora(model, 0, 1, targets=targets))

    assert named(Odd(), ["out", "1"]) == ["out", "blocks.1"]
    assert named(MLP(8, [4, 4], 3), ["trunk.2"]) == ["trunk.2"]
    assert named(MLP(8, [4, 4], 3), None) == ["trunk.0", "trunk.2"]
    assert named(MLP(8, [4, 4], 3), ["head"]) == ["head"]
    model = add_and_return(MLP(8, [4, 4], 3), "a", 1, targets=["2"])
    assert list(add_lora(model, "b", 1)) == ["trunk.2"], "the layers that have adapters already"
    assert list(add_lora(model, "c", 1, targets=["0", "2"])) == ["trunk.0", "trunk.2"]
    assert [layer.tasks for layer in lora_layers(model).values()] == [["c"], ["a", "b", "c"]]
    add_lora(model, "d", 1, targets=["2"])
    assert [layer.active for layer in lora_layers(model).values()] == [(), ("d",)], "the new adapter alone"
    with pytest.raises(ValueError, match=r"layer 'trunk.0' has an adapter for 'c'"):
        add_lora(model, "c", 1)
    assert list(add_lora(ConvNet((1, 8, 8), 3, width=2), 0, 1)) == ["trunk.7"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_type_and_mode_follow_the_model(dtype):
    model = MLP(8, [4], 3).to(dtype).eval()
    answer = model(X.to(dtype))
    layer = add_lora(model, 0, 2, dropout=0.5)["trunk.0"]
    assert not layer.training and torch.equal(stirred(model)(X.to(dtype)), model(X.to(dtype)))
    assert model(X.to(dtype)).dtype == dtype and not torch.equal(model(X.to(dtype)), answer)
    merge_weights(model)
    assert model(X.to(dtype)).dtype == dtype
    unmerge_weights(model)
    model.float()
    assert model(X).dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_torchs_attention_reads_the_weights_of_its_layers(training):
    """MultiheadAttention never calls its out_proj, nor a TransformerEncoderLayer its linear layers when it is in a
    hurry: a wrapper that only had a forward would change nothing, silently."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)).train(training)
    tokens = torch.randn(3, 4, 8, generator=generator(2))
    with torch.no_grad():
        base = model(tokens)
        layers = add_lora(model, 0, 2)
        assert list(layers) == ["0.self_attn.out_proj", "0.linear1", "0.linear2"]
        fast = stirred(model)(tokens)
        merged = copy.deepcopy(nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)))
        merged.load_state_dict(
            {name.replace(".base.", "."): value for name, value in model.state_dict().items() if "parts" not in name}
        )
        for name, layer in layers.items():
            merged.get_submodule(name).weight.copy_(layer.base.weight + layer.delta(0))
    assert not torch.allclose(fast, base, atol=1e-3)
    assert torch.allclose(fast, merged.train(training)(tokens), atol=1e-5)
    model.train()(tokens).sum().backward()
    assert all(float(layer.part(0).A.grad.abs().max()) > 0 for layer in layers.values())
    with pytest.raises(ValueError, match=r"dropout must be 0 for \['0.self_attn.out_proj'\]"):
        add_lora(model, 1, 2, dropout=0.1)


def test_bad_input_changes_nothing():
    model = add_and_return(Odd(), 0)
    model.norm.requires_grad_(True)
    before, flags = everything(model), [p.requires_grad for p in model.parameters()]
    source = generator(4)
    drawn = source.get_state()
    for wrong, message in (
        (lambda: add_lora(model, 1, 0), "r must be at least 1, got 0"),
        (lambda: add_lora(model, 1, 6), r"at most min\(in, out\) = 5 of layer 'out', got 6"),
        (lambda: add_lora(model, 0, 2), "has an adapter for 0 already"),
        (lambda: add_lora(model, 1, 2, targets=["words"]), "none for"),
        (lambda: add_lora(model, 1, 2, targets=["blocks.0", "nothing"]), "none for"),
        (lambda: add_lora(model, 1, 2, targets=[]), "at least one layer"),
        (lambda: add_lora(model, 1, 2, alpha=-1), "alpha must be finite and at least 0"),
        (lambda: add_lora(model, 1, 2, alpha=torch.nan), "alpha must be finite"),
        (lambda: add_lora(model, 1, 2, dropout=1.0), "dropout must be below 1"),
        (lambda: add_lora(nn.Conv2d(1, 1, 1), 1, 2), "must have a linear layer"),
        (lambda: add_lora(nn.Linear(4, 4), 1, 2), "put it into a torch.nn.Sequential"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    for wrong, message in (
        (lambda: add_lora(model, None, 2), "task must be an int or a str"),
        (lambda: add_lora(model, True, 2), "task must be an int or a str"),
        (lambda: add_lora(model, 1, 2.0), "r must be an integer"),
        (lambda: add_lora(model, 1, 2, targets="out"), "targets must be a list of names"),
        (lambda: add_lora(model, 1, 2, generator=3), "generator must be a torch.Generator"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()
    with pytest.raises(ValueError, match="must be at most"):
        add_lora(model, 1, 6, generator=source)
    assert torch.equal(source.get_state(), drawn)
    assert same(before, everything(model)) and flags == [p.requires_grad for p in model.parameters()]


def test_the_same_factors_give_what_peft_gives():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["0", "2"], lora_dropout=0.0, init_lora_weights=False)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    ours = add_and_return(copy.deepcopy(plain), 0, 3, alpha=5)
    theirs = peft.get_peft_model(copy.deepcopy(plain), config)
    for name, layer in lora_layers(ours).items():
        other = theirs.base_model.model.get_submodule(name)
        with torch.no_grad():
            layer.part(0).A.copy_(other.lora_A["default"].weight)
            layer.part(0).B.copy_(other.lora_B["default"].weight)
        assert layer.part(0).s == other.scaling["default"]
        assert torch.allclose(layer.delta(0), other.get_delta_weight("default"), atol=1e-6)
    assert torch.allclose(ours(X), theirs(X), atol=1e-6)
    for model in (ours, theirs):
        model(X).pow(2).sum().backward()
    merged = theirs.merge_and_unload()
    gradients = {name: [part.A.grad, part.B.grad] for name, layer in lora_layers(ours).items() for part in layer.parts}
    merge_weights(ours)
    for name, layer in lora_layers(ours).items():
        assert torch.allclose(layer.weight, merged.get_submodule(name).weight, atol=1e-6)
        assert all(bool(torch.isfinite(g).all()) and float(g.abs().max()) > 0 for g in gradients[name])
    assert torch.allclose(ours(X), merged(X), atol=1e-6)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("optimizer", [MOMENTUM, DECAY])
@pytest.mark.parametrize("method", [LoRA(2, alpha=4), LoRA(2, dropout=0.2, base="given")])
def test_old_answers_stay_to_the_bit(optimizer, reset, method):
    model, kept = MLP(64, [16, 8], 10, seed=0), {}
    events = fit(model, STREAM, [method], optimizer=optimizer, epochs=2, lr=0.05, reset_optimizer=reset)
    for event in events:
        if isinstance(event, TaskEnded):
            kept[event.task] = answers(method, model, event.task)
            others = [answers(method, model, task) for task in range(event.task)]
            assert all(torch.equal(kept[task], now) for task, now in enumerate(others))
    assert len(kept) == len(STREAM)
    first = 1 if method.base == "first" else 0
    assert [layer.tasks for layer in lora_layers(model).values()] == [list(range(first, len(STREAM)))] * 2
    # the test could fail: with another task's adapter the answers are others
    with torch.no_grad(), using(model, len(STREAM) - 1):
        assert not torch.equal(model.features(STREAM[0].x_test), feature(model, 0))


def answers(method, model, task: int) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        logits = method.predict(model, STREAM[task].x_test, STREAM.allowed(task, task), task)
    model.train()
    return logits


@torch.no_grad()
def feature(model, task: int) -> torch.Tensor:
    with using(model, task):
        return model.features(STREAM[0].x_test)


def test_a_wrong_freeze_is_caught():
    """Zeroed gradients in place of none: momentum and decay move an old adapter all the same."""
    layer = LoRALinear(nn.Linear(4, 4))
    layer.add(0, LowRank.fresh(layer.base, 2, None, generator(0)))
    optimizer, x = MOMENTUM(layer.parameters(), lr=0.1), torch.ones(2, 4)
    for step in range(3):
        if step == 2:
            before = layer.part(0).B.clone()
        optimizer.zero_grad()
        layer(x).pow(2).sum().backward()
        if step == 2:
            for parameter in layer.part(0).parameters():
                parameter.grad.zero_()
        optimizer.step()
    assert not torch.equal(layer.part(0).B, before)


def test_forgetting_is_exactly_zero_and_tasks_are_learned():
    stream = split(digits(), 2, scenario="task")
    history = run(MLP(64, [32], 10, seed=0), stream, [LoRA(8)], epochs=5, lr=5e-3)
    assert history.metrics()["forgetting"] == 0.0 and history.metrics()["backward_transfer"] == 0.0
    assert float(history.accuracy.diagonal().min()) > 0.85


@pytest.mark.parametrize("method", [lambda: LoRA(2, dropout=0.1), lambda: LoRA(2, shared=True, base="given")])
def test_stopped_and_resumed_is_the_same_run(method, tmp_path):
    def start(method, **more):
        model = MLP(64, [16], 10, seed=0)
        return model, fit(model, STREAM, [method], optimizer=MOMENTUM, lr=0.05, reset_optimizer=False, **more)

    path, whole, second = tmp_path / "run.pt", method(), method()
    model, events = start(whole)
    list(events)
    _, events = start(method(), checkpoint=path, checkpoint_every=2)
    next(event for event in events if isinstance(event, TaskEnded) and event.task == 2)
    for _ in range(5):  # into the fourth task
        next(events)
    events.close()
    again, events = start(second, resume=path)
    list(events)
    assert same(everything(model), everything(again))
    for task in range(len(STREAM)):
        assert torch.equal(answers(whole, model, task), answers(second, again, task))


def test_the_same_method_runs_twice_on_one_model():
    method, model = LoRA(2, base="given"), MLP(64, [16], 10, seed=0)
    names, first = set(model.state_dict()), run(model, STREAM, [method], lr=0.05).accuracy
    assert (run(model, STREAM, [method], lr=0.05).accuracy == first).all()
    with pytest.raises(ValueError, match="has parts of an earlier run"):
        run(model, STREAM, [LoRA(2)])
    for targets, r, message in (
        (["nothing"], 2, "none for"),
        (None, 99, "at most min"),
        (["trunk.0"], 17, "at most min"),
    ):
        fresh = MLP(64, [16], 10, seed=0)
        with pytest.raises(ValueError, match=message):
            run(fresh, STREAM, [LoRA(r, targets=targets)])
        assert set(fresh.state_dict()) == names and isinstance(fresh.head, nn.Linear)


def test_without_a_task_number_a_selector_chooses_the_adapter():
    stream = split(points("clusters"), 2, scenario="class")
    with pytest.raises(ValueError, match="selector"):
        run(MLP(2, [16], 4), stream, [LoRA(2)])
    history = run(MLP(2, [16], stream.n_classes, seed=0), stream, [LoRA(2, selector=TaskSelector())], epochs=5, lr=0.05)
    assert history.metrics()["average_accuracy"] > 0.8


def test_springs_hold_a_shared_adapter():
    """LoRA + EWC: alone, one adapter for all tasks forgets; springs on A, B and the head hold it."""
    stream = permuted(digits(), 2)
    for seed in range(3):
        base = MLP(64, [32], 10, seed=seed)
        run(base, split(digits(), 10), epochs=2, lr=3e-3)
        forgotten = []
        for springs in ([], [EWC(30.0, n_samples=200)]):
            model, adapter = copy.deepcopy(base), LoRA(4, shared=True, base="given")
            history = run(model, stream, [adapter, *springs], epochs=4, batch_size=32, lr=5e-3, seed=seed)
            assert torch.equal(model.trunk[0].base.weight, base.trunk[0].weight)
            forgotten.append(history.metrics()["forgetting"])
        assert forgotten[0] > forgotten[1] + 0.1
        held = {"trunk.0.parts.0.A", "trunk.0.parts.0.B", "head.weight", "head.bias"}
        assert set(springs[0].held[0].F) == held


def test_a_shared_adapter_answers_the_tasks_that_it_was_trained_for():
    for base, alone in (("first", 0), ("given", None)):
        model, method = MLP(64, [16], 10, seed=0), LoRA(2, shared=True, base=base)
        events = fit(model, STREAM, [method], epochs=2, lr=0.05)
        kept = {}
        for event in events:
            if isinstance(event, TaskEnded):
                kept[event.task] = answers(method, model, event.task)
        same_answers = [torch.equal(kept[task], answers(method, model, task)) for task in range(len(STREAM) - 1)]
        assert same_answers == [task == alone for task in range(len(STREAM) - 1)]
        assert [layer.tasks for layer in lora_layers(model).values()] == [["shared"]]


def test_replay_is_refused_beside_parts_of_their_own():
    with pytest.raises(ValueError, match="must not combine LoRA"):
        run(MLP(64, [16], 10), STREAM, [LoRA(2), ExperienceReplay(10)])
    # one adapter and one head for all tasks is an ordinary model, which may replay
    stream = permuted(digits(), 2)
    history = run(MLP(64, [8], 10, seed=0), stream, [LoRA(2, shared=True), ExperienceReplay(50)])
    assert history.accuracy.shape == (2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r must be at least 1"),
        ({"alpha": 0}, "alpha must be above 0"),
        ({"dropout": 1}, "dropout must be below 1"),
        ({"base": "second"}, "base must be one of"),
        ({"targets": []}, "at least one layer"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**({"r": 2} | settings))
    with pytest.raises(TypeError, match="targets must be a list"):
        LoRA(2, targets="q")
    with pytest.raises(TypeError, match="shared must be True or False"):
        LoRA(2, shared="yes")
