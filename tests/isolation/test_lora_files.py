"""Adapters in files: they come back as they were, beside their own base only, and never by halves."""

import copy

import pytest
import torch
from torch import nn

from cllab.device import generator
from cllab.isolation import LoRA, add_lora, base_identity, load_lora, lora_layers, merge_weights, save_lora, using
from cllab.models import MLP
from cllab.streams import digits, split
from cllab.training import run

X = torch.randn(6, 8, generator=generator(0))


def base(seed: int = 0, hidden: tuple[int, ...] = (6, 5)) -> MLP:
    return MLP(8, hidden, 3, seed=seed)


def adapted(task="a", **settings) -> MLP:
    model = base()
    for layer in add_lora(model, task, 2, **({"alpha": 3.0, "dropout": 0.1} | settings)).values():
        nn.init.normal_(layer.part(task).B, generator=generator(1))
    return model.eval()


def everything(model: nn.Module) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(path, change) -> None:
    """Write the file anew with `change` made to what it holds."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_what_is_saved_comes_back(tmp_path):
    model = adapted(7)
    save_lora(model, tmp_path / "a.pt", 7)
    fresh = base().eval()
    layers = load_lora(fresh, tmp_path / "a.pt")
    assert list(layers) == ["trunk.0", "trunk.2"] and torch.equal(fresh(X), model(X))
    part = fresh.trunk[0].part(7)
    assert part.s == 1.5 and part.dropout.p == 0.1 and part.A.requires_grad and not part.training
    assert [name for name, p in fresh.named_parameters() if p.requires_grad] == [
        f"{n}.parts.0.{p}" for n in layers for p in "AB"
    ]
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert state["task"] == 7 and state["names"] == ["trunk.0", "trunk.2"] and len(state["base"]) == 64
    assert {**state["layers"]["trunk.0"], "A": 0, "B": 0} == {
        "A": 0,
        "B": 0,
        "s": 1.5,
        "r": 2,
        "alpha": 3.0,
        "dropout": 0.1,
    }


def test_several_adapters_beside_one_base(tmp_path):
    first, second, both = adapted("a"), adapted("b", targets=["2"]), base().eval()
    save_lora(first, tmp_path / "a.pt", "a")
    save_lora(second, tmp_path / "b.pt", "b")
    load_lora(both, tmp_path / "a.pt")
    load_lora(both, tmp_path / "b.pt")
    load_lora(both, tmp_path / "b.pt", task=3)
    assert torch.equal(both(X), second(X)), "the adapter loaded last is used alone, also where it has no part"
    for task, model in (("a", first), ("b", second), (3, second)):
        with using(both, task):
            assert torch.equal(both(X), model(X))
    save_lora(both, tmp_path / "again.pt", "a")
    load_lora(fresh := base().eval(), tmp_path / "again.pt", task="other")
    assert torch.equal(fresh(X), first(X))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(tmp_path, dtype):
    model = adapted().to(dtype)
    save_lora(model, tmp_path / "a.pt", "a")
    load_lora(fresh := base().to(dtype).eval(), tmp_path / "a.pt")
    assert torch.equal(fresh(X.to(dtype)), model(X.to(dtype)))
    with pytest.raises(ValueError, match=f"of {dtype}, the model's is"):
        load_lora(base(), tmp_path / "a.pt")


def test_the_identity_is_the_bases():
    plain, own = base(), base_identity(base())
    assert base_identity(adapted()) == own
    merge_weights(merged := adapted())
    assert base_identity(merged) == own
    with torch.no_grad():
        plain.head.weight += 1
        assert base_identity(plain) == own != base_identity(plain, head=True)
        plain.trunk[2].bias[0] += 1e-6
    others = [plain, base(seed=1), base(hidden=(6, 5, 5)), base().double(), nn.Sequential(base())]
    assert own not in {base_identity(model) for model in others}
    norm = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = base_identity(norm)
    norm(torch.randn(5, 2))
    assert base_identity(norm) != before, "running statistics belong to the base"


def test_the_method_keeps_its_base(tmp_path):
    """Adapters of a run come back beside the network of the first task, heads and other methods' parts aside."""
    stream = split(digits(), 5, scenario="task")
    model, fresh = MLP(64, [12], 10, seed=0), MLP(64, [12], 10, seed=3)
    run(model, stream, [LoRA(2)], lr=5e-3)
    save_lora(model, tmp_path / "1.pt", 1)
    fresh.trunk[0].load_state_dict(model.trunk[0].base.state_dict())
    load_lora(fresh, tmp_path / "1.pt")
    x = stream[1].x_test
    with using(model, 1):
        assert torch.equal(fresh.features(x), model.features(x))


def test_an_adapter_on_the_head_belongs_to_that_head(tmp_path):
    model = adapted(targets=["head"])
    save_lora(model, tmp_path / "a.pt", "a")
    load_lora(fresh := base().eval(), tmp_path / "a.pt")
    assert torch.equal(fresh(X), model(X))
    other = base()
    nn.init.zeros_(other.head.bias)
    with pytest.raises(ValueError, match="must be the base"):
        load_lora(other, tmp_path / "a.pt")


def test_what_cannot_be_saved(tmp_path):
    path, model = tmp_path / "a.pt", adapted()
    with pytest.raises(ValueError, match=r"task must be one of \['a'\], got 'b'"):
        save_lora(model, path, "b")
    with pytest.raises(ValueError, match=r"task must be one of \[\]"):
        save_lora(base(), path, "a")
    merge_weights(model)
    with pytest.raises(ValueError, match="must not be merged"):
        save_lora(model, path, "a")
    with torch.no_grad():
        (broken := adapted()).trunk[0].part("a").B[0] = torch.nan
    with pytest.raises(ValueError, match="B must be finite"):
        save_lora(broken, path, "a")
    assert not list(tmp_path.iterdir())


def _other_s(state):
    state["layers"]["trunk.0"]["s"] = 2.0


def _other_r(state):
    state["layers"]["trunk.0"]["r"] = 3


def _no_layer(state):
    del state["layers"]["trunk.2"]


def _more_layers(state):
    state["layers"]["trunk.4"] = state["layers"]["trunk.2"]


def _renamed(state):
    state["layers"]["base_model.trunk.2"] = state["layers"].pop("trunk.2")
    state["names"] = list(state["layers"])


def _inside(state):
    state["layers"] = {"trunk.0.base": state["layers"]["trunk.0"]}
    state["names"] = list(state["layers"])


def _narrow(state):
    state["layers"]["trunk.0"]["A"] = torch.ones(2, 7)


def _torn(state):
    state["layers"]["trunk.0"]["A"] = torch.ones(3, 8)


def _not_finite(state):
    state["layers"]["trunk.0"]["B"][0, 0] = torch.inf


def _without_base(state):
    del state["base"]


def _of_text(state):
    state["layers"]["trunk.0"]["s"] = "1.5"


def _of_the_future(state):
    state["format"] = 2


def _empty(state):
    state["layers"], state["names"] = {}, []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_s, "must have s = alpha / r, got s=2, alpha=3, r=2"),
        (_other_r, "must have s = alpha / r"),
        (_no_layer, r"missing \['trunk.2'\], unexpected \[\]"),
        (_more_layers, r"missing \[\], unexpected \['trunk.4'\]"),
        (_renamed, r"it lacks \['base_model.trunk.2'\] among"),
        (_inside, r"it lacks \['trunk.0.base'\]"),
        (_narrow, r"changes a weight \(6, 7\) .* the model's is \(6, 8\)"),
        (_torn, r"must have B \[out, r\]"),
        (_not_finite, "must be finite"),
        (_without_base, "must name a file of save_lora"),
        (_of_text, "must name a file of save_lora"),
        (_of_the_future, "format 2"),
        (_empty, "the layers that it names"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_that_does_not_fit_changes_nothing(tmp_path, change, message, wrapped):
    save_lora(adapted(), tmp_path / "a.pt", "a")
    changed(tmp_path / "a.pt", change)
    model = adapted("own") if wrapped else base()
    before, flags = everything(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        load_lora(model, tmp_path / "a.pt")
    after = everything(model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert flags == [p.requires_grad for p in model.parameters()]


def test_another_base_and_other_refusals(tmp_path):
    path = tmp_path / "a.pt"
    save_lora(adapted(), path, "a")
    for wrong in (base(seed=1), base(seed=1).eval()):
        with pytest.raises(ValueError, match="must be the base that the adapters were trained beside"):
            load_lora(wrong, path)
        assert not lora_layers(wrong)
    with pytest.raises(ValueError, match="it lacks"):
        load_lora(base(hidden=(6,)), path)
    model = adapted()
    with pytest.raises(ValueError, match="has an adapter for 'a' already"):
        load_lora(model, path)
    merge_weights(model)
    with pytest.raises(ValueError, match="must not be merged"):
        load_lora(model, path, task="b")
    with pytest.raises(TypeError, match="task must be an int or a str"):
        load_lora(base(), path, task=1.5)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_lora(base(), tmp_path / "none.pt")
    with pytest.raises(TypeError, match="path must be the name of a file"):
        load_lora(base(), 3)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    torch.save(copy.deepcopy(base()), tmp_path / "pickled.pt")
    for name in ("noise.pt", "pickled.pt"):
        with pytest.raises(ValueError, match="must name a file of save_lora"):
            load_lora(base(), tmp_path / name)
