"""(IA)3: counts, ones are the identity, merging into rows and columns, and peft's layers as a second opinion."""

import re
import warnings

import pytest
import torch
from torch import nn

from cllab.device import generator
from cllab.isolation import IA3, Scaled, merge_scales, unmerge_scales, using
from cllab.isolation.ia3 import Scale
from cllab.models import MLP, Transformer
from cllab.streams import digits, split
from cllab.training import run

STREAM = split(digits().only(range(6)).take(150), 2, scenario="task")
X = STREAM[1].x_test


def layer(side="output", bias=True) -> Scaled:
    base = nn.Linear(3, 2, bias=bias).double()
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        if bias:
            base.bias.copy_(torch.tensor([0.5, -0.5]))
    scaled = Scaled(base, side)
    scaled.add(0, with_values([2.0, -1.0] if side == "output" else [2.0, 0.0, -1.0]))
    return scaled


def with_values(values) -> Scale:
    scale = Scale(len(values)).double()
    with torch.no_grad():
        scale.l.copy_(torch.tensor(values))
    return scale


def transformer(lr=0.05):
    model = Transformer(8, 8, 8, 2, 2, 10)
    run(model, STREAM, [IA3()], lr=lr, batch_size=32)
    return model


def test_ones_are_the_identity():
    h = torch.randn(4, 7, generator=generator(0))
    assert torch.equal(Scale(7)(h), h)
    model = transformer(lr=0.0)
    with using(model, 1):
        one = model.features(X)
    with using(model):
        assert torch.equal(model.features(X), one)


def test_the_equations_by_hand():
    x = torch.tensor([[1.0, 1.0, 1.0]]).double()
    # outputs: 2 * (6 + 0.5), -1 * (15 - 0.5); inputs: (2, 0, -1) -> 2 - 3 + 0.5, 8 - 6 - 0.5
    assert layer("output")(x).tolist() == [[13.0, -14.5]]
    assert layer("input")(x).tolist() == [[-0.5, 1.5]]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", ["output", "input"])
def test_merged_is_unmerged(side, bias):
    scaled, x = layer(side, bias), torch.randn(5, 3, generator=generator(0)).double()
    weights, before = scaled.base.weight.clone(), scaled(x)
    scaled.merge()
    assert scaled.merged and torch.allclose(scaled(x), before, atol=1e-12)
    expected = weights * (torch.tensor([[2.0], [-1.0]]) if side == "output" else torch.tensor([[2.0, 0.0, -1.0]]))
    assert torch.equal(scaled.weight, expected) and torch.equal(scaled.base.weight, weights)
    scaled.unmerge()
    assert not scaled.merged and torch.equal(scaled.base.weight, weights) and torch.equal(scaled(x), before)


def test_merging_into_the_weight_alone_is_wrong():
    """The bias of a key or value is scaled with it."""
    scaled, x = layer(), torch.ones(1, 3).double()
    wrong = scaled.part(0).l[:, None] * scaled.base.weight @ x[0] + scaled.base.bias
    assert not torch.allclose(wrong, scaled(x)[0], atol=0.1)


def test_merging_twice_and_changing_what_is_merged_raise():
    scaled = layer()
    with pytest.raises(ValueError, match="must be merged before"):
        scaled.unmerge()
    scaled.merge()
    weights = scaled.weight.clone()
    for call in (scaled.merge, scaled.use, lambda: scaled.add(1, Scale(2))):
        with pytest.raises(ValueError, match=r"\[0\] are merged: unmerge first"):
            call()
    scaled.use(0)
    assert torch.equal(scaled.weight, weights) and scaled.tasks == [0]
    scaled.unmerge()
    scaled.use()
    with pytest.raises(ValueError, match="a part must be in use"):
        scaled.merge()


def test_counts_of_the_paper():
    d, ff, L = 768, 3072, 12
    block = sum(p.numel() for scale in (Scale(d), Scale(d), Scale(ff)) for p in scale.parameters())
    assert block == 4_608 and L * block == 55_296
    model = transformer()
    scaled = {name: module for name, module in model.named_modules() if isinstance(module, Scaled)}
    assert {name: module.side for name, module in scaled.items()} == {
        f"blocks.{i}.{name}": side
        for i in (0, 1)
        for name, side in (("attention.k", "output"), ("attention.v", "output"), ("down", "input"))
    }
    assert sum(p.numel() for module in scaled.values() for p in module.part(1).parameters()) == 2 * (8 + 8 + 32)


def test_a_whole_model_merges_and_answers_that_task_only():
    model = transformer().double()
    x = X.double()
    answers, weights = {}, {name: value.clone() for name, value in model.state_dict().items()}
    for task in (1, 2):
        with using(model, task):
            answers[task] = model.features(x)
    assert not torch.allclose(answers[1], answers[2], atol=1e-3)
    merge_scales(model, 1)
    assert torch.allclose(model.features(x), answers[1], atol=1e-12)
    with pytest.raises(ValueError, match="are merged"):
        merge_scales(model, 1)
    for tasks in ((2,), ()):  # another task, or the base alone: neither is there any more
        with pytest.raises(ValueError, match="are merged"), using(model, *tasks):
            pass
    assert torch.allclose(model.features(x), answers[1], atol=1e-12)
    unmerge_scales(model)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="it has none"):
        unmerge_scales(model)
    with pytest.raises(ValueError, match=r"task must be one of \[1, 2\], got 0"):
        merge_scales(model, 0)
    first, *_, last = (module for module in model.modules() if isinstance(module, Scaled))
    last.merge()
    with pytest.raises(ValueError, match="are merged"):
        merge_scales(model, 2)
    assert not first.merged and first.active == (1,)  # nothing is half merged
    last.unmerge()
    assert not any(module.merged for module in model.modules() if isinstance(module, Scaled))
    with pytest.raises(ValueError, match="scaled layers"):
        merge_scales(MLP(4, [3], 2), 0)


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.c, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.c.weight = self.a.weight

    def forward(self, x):
        return self.head(torch.relu(self.c(torch.relu(self.a(x)))))


@pytest.mark.parametrize("make", [Tied, lambda: Transformer(8, 8, 8, 2, 2, 10)])
def test_merging_leaves_the_base_alone_also_where_a_weight_is_shared(make):
    model, method = make(), IA3(base="given")
    run(model, STREAM, [method], lr=0.05, batch_size=32)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), using(model, 1):
        answer = model(X)
    merge_scales(model, 1)
    assert torch.allclose(method.answer(model, X, 1), answer, atol=1e-5)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    model.load_state_dict(kept)  # what is merged belongs to the weights that were there
    with torch.no_grad(), using(model, 1):
        assert torch.equal(model(X), answer)
    merge_scales(model, 1)
    run(model, STREAM, [method], lr=0.05, batch_size=32)  # a new run starts from the base, not from a merged one
    bases = {name: value for name, value in model.state_dict().items() if name.endswith("base.weight")}
    assert bases and all(torch.equal(value, kept[name]) for name, value in bases.items())


def test_peft_scales_the_same():
    import peft

    ours = transformer().double()
    plain = Transformer(8, 8, 8, 2, 2, 10).double()
    of_base = {name: value for name, value in ours.state_dict().items() if ".parts." not in name}
    plain.load_state_dict({re.sub(r"\.(base|initial)\.", ".", name): value for name, value in of_base.items()})
    names = ["attention.k", "attention.v", "down"]
    config = peft.IA3Config(target_modules=names, feedforward_modules=["down"], init_ia3_weights=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(plain, config).double()
    with torch.no_grad(), using(ours, 1):
        for name, module in theirs.base_model.model.named_modules():
            if hasattr(module, "ia3_l"):
                l = module.ia3_l["default"]
                l.copy_(ours.get_submodule(name).part(1).l.view_as(l))
        x = X.double()
        assert torch.allclose(theirs.base_model.model.features(x), ours.features(x), atol=1e-12)
        merged = theirs.merge_and_unload()
        merge_scales(ours, 1)
        for name in ("blocks.0.attention.k", "blocks.1.attention.v", "blocks.1.down"):
            theirs, scaled = merged.get_submodule(name), ours.get_submodule(name)
            assert torch.allclose(theirs.weight, scaled.weight, atol=1e-12)
            assert torch.allclose(theirs.bias, scaled.bias, atol=1e-12)


def test_in_other_networks_and_at_chosen_layers():
    model = MLP(64, [12, 9], 10)
    run(model, STREAM, [IA3()], batch_size=64)
    assert [(m.side, m.part(1).l.numel()) for m in model.modules() if isinstance(m, Scaled)] == [
        ("output", 12), ("output", 9),
    ]  # fmt: skip
    model = MLP(64, [12, 9], 10)
    run(model, STREAM, [IA3(outputs=["0"], inputs=["trunk.2"])], batch_size=64)
    assert [(m.side, m.part(1).l.numel()) for m in model.modules() if isinstance(m, Scaled)] == [
        ("output", 12), ("input", 12),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"outputs": ["q"]}, ValueError, r"there is none for \['q'\]"), ({"inputs": "0"}, TypeError, "inputs must be a list"),
        ({"outputs": ["0"], "inputs": ["trunk.0"]}, ValueError, "trunk.0 is in both"),
        ({"outputs": []}, ValueError, "at least one layer"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_leave_the_model_as_it_was(settings, error, message):
    model = MLP(64, [12], 10)
    names = list(model.state_dict())
    with pytest.raises(error, match=message):
        run(model, STREAM, [IA3(**settings)])
    assert list(model.state_dict()) == names and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("make", [lambda: Scale(0), lambda: Scaled(nn.Linear(2, 2), "both"), lambda: IA3(base="none")])
def test_bad_arguments(make):
    with pytest.raises(ValueError, match=r"n must|side must|base must"):
        make()
