"""Prompts and prefixes: counts, what stands before the tokens and what does not change for it, and folding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cllab.device import generator
from cllab.isolation import PrefixTuning, PromptTuning, using
from cllab.isolation.prompts import Inner, Prefixed, Prompted, Vectors
from cllab.models import MLP, Transformer, linear
from cllab.streams import digits, split
from cllab.training import Phase, fit, run

STREAM = split(digits().only(range(6)).take(150), 2, scenario="task")


def net(depth=2) -> Transformer:
    return Transformer(8, 8, 8, depth, 2, 10).double()


def rows(n=5):
    return torch.rand(n, 64, generator=generator(2)).double()


def vectors(p=3, d=8, seed=0) -> Vectors:
    return Vectors(torch.randn(p, d, generator=generator(seed)).double())


def size(module) -> int:
    return sum(p.numel() for p in module.parameters())


def prompted(p=3) -> Transformer:
    model = net()
    model.prompt = Prompted()
    model.prompt.add(0, vectors(p))
    return model


def prefixed(p=3) -> Transformer:
    model = net()
    for i, block in enumerate(model.blocks):
        for j, name in enumerate("kv"):
            switch = Prefixed(getattr(block.attention, name))
            switch.add(0, vectors(p, seed=10 * i + j))
            setattr(block.attention, name, switch)
    return model


def seen_by_blocks(model, x, mask):
    """The tokens and masks that the model's first attention is given, and the last block's answer."""
    seen = {}
    hooks = [
        model.blocks[0].attention.register_forward_pre_hook(lambda _, args: seen.update(h=args[0], mask=args[1])),
        model.blocks[-1].register_forward_hook(lambda _m, _args, h: seen.update(last=h)),
        model.blocks[0].register_forward_pre_hook(lambda _, args: seen.update(first=args[0])),
    ]
    seen["features"] = model.features(x, mask)
    for hook in hooks:
        hook.remove()
    return seen


def test_counts_of_the_papers():
    p, d, L = 20, 768, 12
    assert size(Vectors(torch.zeros(p, d))) == p * d == 15_360
    model = nn.ModuleList(Vectors(torch.zeros(p, d)) for _ in range(2 * L))
    assert size(model) == 2 * p * L * d == 368_640
    small = Transformer(8, 8, 8, 2, 2, 10)
    run(small, STREAM, [PromptTuning(3)], batch_size=64)
    assert size(small.prompt.part(1)) == 3 * 8
    small = Transformer(8, 8, 8, 2, 2, 10)
    run(small, STREAM, [PrefixTuning(3)], batch_size=64)
    parts = [module.part(1) for module in small.modules() if isinstance(module, Prefixed)]
    assert sum(map(size, parts)) == 2 * 3 * 2 * 8


@pytest.mark.parametrize("make", [prompted, prefixed])
def test_none_of_them_is_the_identity(make):
    mask = torch.ones(5, 8).bool().tril(5)
    for given in (None, mask):
        assert torch.equal(make(0).features(rows(), given), net().features(rows(), given))
        assert not torch.allclose(make(1).features(rows(), given), net().features(rows(), given), atol=1e-4)


def test_a_prompt_stands_before_the_tokens_which_keep_their_positions():
    model, mask = prompted(3), torch.ones(5, 8).bool().tril(5)
    seen = seen_by_blocks(model, rows(), mask)
    P = model.prompt.part(0).values
    assert seen["h"].shape == (5, 11, 8) and seen["mask"].shape == (5, 3 + 8)
    assert bool(seen["mask"][:, :3].all()) and torch.equal(seen["mask"][:, 3:], mask)
    assert torch.equal(seen["first"][:, :3], P.expand(5, 3, 8))  # without positions
    assert torch.equal(seen["first"][:, 3:], net().embedded(rows()))  # with those of 0 .. S - 1
    shifted = net().embed(rows().view(5, 8, 8)) + F.pad(net().positions, (0, 0, 3, 0))[:8]
    assert not torch.allclose(seen["first"][:, 3:], shifted, atol=1e-3)


def test_the_mean_is_over_the_tokens_alone():
    model = prompted(3)
    seen = seen_by_blocks(model, rows(), None)
    last = model.norm(seen["last"])
    assert torch.allclose(seen["features"], last[:, 3:].mean(dim=1), atol=1e-12)
    assert not torch.allclose(seen["features"], last.mean(dim=1), atol=1e-3)


@pytest.mark.parametrize("make", [prompted, prefixed])
def test_padding_stays_invisible_and_what_was_put_before_visible(make):
    model, mask = make(3), torch.ones(5, 8).bool()
    mask[:, 6:] = False
    short = model.features(rows()[:, : 6 * 8])
    assert torch.allclose(model.features(rows(), mask), short, atol=1e-12)
    junk = rows()
    junk[:, 6 * 8 :] = 9.0
    assert torch.allclose(model.features(junk, mask), short, atol=1e-12)
    assert not torch.allclose(short, net().features(rows()[:, : 6 * 8]), atol=1e-4)


def test_a_prefix_is_more_keys_and_values_for_every_token():
    model, h = prefixed(3), torch.randn(2, 8, 8, generator=generator(4)).double()
    attention, plain = model.blocks[0].attention, net().blocks[0].attention
    P_k, P_v = (getattr(attention, name).part(0).values for name in "kv")
    keys, values = (torch.cat([P.expand(2, 3, 8), layer(h)], dim=1) for P, layer in ((P_k, plain.k), (P_v, plain.v)))
    outputs = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (plain.q(h)[..., head] @ keys[..., head].mT / 2).softmax(dim=-1)
        assert weights.shape == (2, 8, 3 + 8)
        outputs.append(weights @ values[..., head])
    assert torch.allclose(attention(h), plain.o(torch.cat(outputs, dim=2)), atol=1e-12)
    swapped = torch.cat([P_v.expand(2, 3, 8), plain.k(h)], dim=1)
    assert not torch.allclose(keys, swapped, atol=1e-3)


def test_folding_keeps_what_the_network_says_to_the_last_bit():
    inner = Inner(3, 8, 16, generator(0)).double()
    part = Vectors(inner=inner, outer=linear(16, 8, generator(1)).double())
    assert size(part) == 3 * 8 + (8 * 16 + 16) + (16 * 8 + 8)
    # P = W_2 tanh(W_1 P' + b_1) + b_2
    W_1, b_1, W_2, b_2 = *inner.layer.parameters(), *part.outer.parameters()
    P = part().detach()
    assert torch.allclose(P, (inner.small @ W_1.T + b_1).tanh() @ W_2.T + b_2, atol=1e-12)
    part.fold()
    assert torch.equal(part(), P) and size(part) == 3 * 8 and list(part.state_dict()) == ["values"]
    part.fold()
    assert torch.equal(part(), P)
    with pytest.raises(ValueError, match="values"):
        Vectors()


def test_a_reparametrised_prefix_is_folded_when_its_task_ends():
    model = Transformer(8, 8, 8, 2, 2, 10)
    phases = [
        event.info
        for event in fit(model, STREAM, [PrefixTuning(3, reparametrise=16)], batch_size=64)
        if isinstance(event, Phase) and event.name == "fold"
    ]
    trained = 3 * 8 + 8 * 16 + 16 + 4 * (16 * 8 + 8)
    assert phases == [{"trained": trained, "kept": 2 * 3 * 2 * 8}] * 2  # of the second and the third task
    assert not any("inner" in name or "outer" in name for name in model.state_dict())


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("stop", [7, 10, 12])  # the second of three tasks has the steps 5 .. 8 of batches of 16
def test_a_folded_prefix_resumes(tmp_path, stop, reset):
    settings = {"batch_size": 16, "reset_optimizer": reset, "lr": 0.01}
    whole, resumed, path = (*(Transformer(8, 8, 8, 1, 2, 10) for _ in range(2)), tmp_path / "checkpoint")
    run(whole, STREAM, [PrefixTuning(2, reparametrise=4)], **settings)
    cut = fit(
        Transformer(8, 8, 8, 1, 2, 10), STREAM, [PrefixTuning(2, reparametrise=4)],
        checkpoint=path, checkpoint_every=1, **settings,
    )  # fmt: skip
    for event in cut:
        if getattr(event, "step", 0) == stop:
            break
    run(resumed, STREAM, [PrefixTuning(2, reparametrise=4)], resume=path, **settings)
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


def test_a_run_cut_off_between_two_tasks_resumes_with_the_folded_prefix(tmp_path):
    whole, resumed, path = (*(Transformer(8, 8, 8, 1, 2, 10) for _ in range(2)), tmp_path / "checkpoint")
    run(whole, STREAM, [PrefixTuning(2, reparametrise=4)])
    for event in fit(Transformer(8, 8, 8, 1, 2, 10), STREAM, [PrefixTuning(2, reparametrise=4)], checkpoint=path):
        if type(event).__name__ == "TaskEnded" and event.task == 1:
            break
    run(resumed, STREAM, [PrefixTuning(2, reparametrise=4)], resume=path)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


def test_a_prompt_starts_as_tokens_of_its_task():
    model = net(1)
    run(model, STREAM, [PromptTuning(3, base="given")], batch_size=64, lr=0.0)
    for task in range(3):
        tokens = model.embedded(STREAM[task].x.double()).flatten(0, 1)
        P = model.prompt.part(task).values
        assert torch.cdist(P, tokens).min(dim=1).values.max() < 1e-6
    assert not torch.equal(model.prompt.part(0).values, model.prompt.part(1).values)


@pytest.mark.parametrize("method", [PromptTuning(2), PrefixTuning(2), PrefixTuning(2, reparametrise=4)])
def test_the_base_is_frozen_while_later_tasks_train(method):
    model, kept = Transformer(8, 8, 8, 1, 2, 10), {}
    for event in fit(model, STREAM, [method], batch_size=32, lr=0.01):
        base = {name: p for name, p in model.named_parameters() if ".parts." not in name}
        if type(event).__name__ == "TaskStarted" and event.task == 1:
            kept = {name: p.clone() for name, p in base.items()}
            assert not any(p.requires_grad for p in base.values())
    assert kept and all(torch.equal(p, kept[name]) for name, p in base.items())


@pytest.mark.parametrize("method", [PromptTuning(0), PrefixTuning(0)])
def test_no_vectors_train_the_heads_alone(method):
    model = Transformer(8, 8, 8, 1, 2, 10)
    history = run(model, STREAM, [method], batch_size=32)
    with using(model, 2):
        features = model.features(STREAM[2].x_test)
    with using(model):
        assert torch.equal(model.features(STREAM[2].x_test), features)
    assert history.accuracy.shape == (3, 3)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: PromptTuning(-1), ValueError, "length"), (lambda: PromptTuning(2.0), TypeError, "length"),
        (lambda: PrefixTuning(-1), ValueError, "length"), (lambda: PrefixTuning(1, 0), ValueError, "reparametrise"),
        (lambda: PrefixTuning(1, True), TypeError, "reparametrise"), (lambda: PromptTuning(1, "last"), ValueError, "base"),
        (lambda: run(MLP(64, [4], 10), STREAM, [PromptTuning(1)]), TypeError, "model must be a cllab.models.Transformer"),
        (lambda: run(MLP(64, [4], 10), STREAM, [PrefixTuning(1)]), TypeError, "MLP has no tokens"),
    ],
)  # fmt: skip
def test_bad_arguments(make, error, named):
    with pytest.raises(error, match=named):
        make()
