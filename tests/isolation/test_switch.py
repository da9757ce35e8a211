"""Parts by task: registered once, switched together, frozen when the next one comes."""

import pytest
import torch
from torch import nn

from cllab.isolation import Switch, freeze, using
from cllab.isolation.switch import linear_layers, set_module, switches
from cllab.models import MLP


class Added(Switch):
    """x plus what the active parts say."""

    def forward(self, x):
        return x + sum((part(x) for part in self.chosen()), torch.zeros_like(x))


def bank(*tasks) -> Added:
    switch = Added()
    for task in tasks:
        switch.add(task, nn.Linear(2, 2))
    return switch


def test_parts_answer_under_their_keys_which_may_skip_numbers():
    switch, x = bank(3, 17, "cats"), torch.ones(1, 2)
    assert switch.active == ("cats",)
    for task in (3, 17, "cats"):
        switch.use(task)
        assert torch.equal(switch(x), x + switch.part(task)(x))
    switch.use(3, "cats")
    assert torch.allclose(switch(x), x + switch.part(3)(x) + switch.part("cats")(x))
    switch.use()
    assert torch.equal(switch(x), x)


def test_an_earlier_part_is_frozen_when_a_new_one_arrives():
    switch = bank("a")
    switch.part("a").weight.grad = torch.ones(2, 2)
    switch.add("b", nn.Linear(2, 2))
    old, new = switch.part("a"), switch.part("b")
    assert not old.weight.requires_grad and old.weight.grad is None
    assert new.weight.requires_grad


@pytest.mark.parametrize("task", [1.5, None, True, (1,)])
def test_a_key_is_a_number_or_a_name(task):
    with pytest.raises(TypeError, match="task must be an int or a str"):
        bank().add(task, nn.Identity())


def test_a_key_stands_for_one_part():
    switch = bank(0)
    with pytest.raises(ValueError, match="0 has a part already"):
        switch.add(0, nn.Identity())
    assert len(switch.parts) == 1


def test_an_unknown_key_changes_nothing():
    switch = bank(0, 2)
    for call in (lambda: switch.use(0, 1), lambda: switch.part(1)):
        with pytest.raises(ValueError, match=r"task must be one of \[0, 2\], got 1"):
            call()
    with pytest.raises(ValueError, match="each task once"):
        switch.use(0, 0)
    assert switch.active == (2,)


def test_using_switches_a_whole_model_and_puts_it_back_even_after_an_error():
    model = nn.Sequential(bank(0, 1), bank(1))
    with using(model, 0):
        assert [switch.active for switch in switches(model)] == [(0,), ()]
    with pytest.raises(RuntimeError), using(model):
        raise RuntimeError
    assert [switch.active for switch in switches(model)] == [(1,), (1,)]


def test_a_frozen_module_moves_neither_weights_nor_statistics():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout())
    model.train()
    freeze(model)
    mean = model[1].running_mean.clone()
    model(torch.randn(8, 2))
    assert torch.equal(model[1].running_mean, mean) and not any(p.requires_grad for p in model.parameters())
    assert model[2].training  # only what keeps statistics is held


def test_layers_are_found_by_name_or_by_the_end_of_a_name():
    model = MLP(4, [5, 6], 3)
    assert list(linear_layers(model)) == ["trunk.0", "trunk.2"]
    assert list(linear_layers(model, ["2", "head"])) == ["trunk.2", "head"]
    with pytest.raises(ValueError, match=r"there is none for \['q'\]"):
        linear_layers(model, ["0", "q"])
    with pytest.raises(TypeError, match="targets must be a list"):
        linear_layers(model, "0")
    with pytest.raises(ValueError, match="besides its head"):
        linear_layers(MLP(4, [], 3))


def test_a_layer_that_stands_in_two_places_is_replaced_in_both():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.Sequential(nn.ReLU(), layer))
    set_module(model, "0", nn.Identity())
    assert isinstance(model[0], nn.Identity) and model[0] is model[1][1]
