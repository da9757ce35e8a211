"""PackNet: the ten weights of the reference, slow loops, and old answers that no optimiser moves."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW

from cllab.device import generator
from cllab.isolation import CapacityError, PackNet, TaskSelector, kept_count, packed, prune, share_out, using
from cllab.models import MLP, ConvNet
from cllab.streams import digits, online, points, split
from cllab.training import Phase, Step, TaskEnded, answer_with, evaluating, fit, run

TEN = [0.9, -0.1, 0.4, -0.8, 0.05, 0.6, -0.3, 0.7, -0.2, 0.5]
SECOND = {1: 0.33, 4: -0.02, 6: 0.25, 8: -0.6}
OWNERS = [1, 2, 1, 1, 3, 1, 2, 1, 2, 1]
STREAM = split(digits().only(range(6)).take(200), 2, scenario="task")
CLUSTERS = split(points("clusters", n=60), 2, scenario="task")
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)
SETTINGS = {"epochs": 2, "batch_size": 16, "lr": 0.01, "optimizer": MOMENTUM}


def ten() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(TEN, dtype=torch.float64), torch.zeros(10, dtype=torch.int64)


def after_three() -> tuple[torch.Tensor, torch.Tensor]:
    """The ten weights of the reference after all three tasks."""
    w, owner, *_ = prune(*ten(), 1, 0.6)
    for i, value in SECOND.items():
        w[i] = value
    w, owner, *_ = prune(w, owner, 2, 0.75)
    w[4] = 0.11
    return prune(w, owner, 3, 1.0)[:2]


def slow_prune(w, owner, task, keep):
    """One weight after the other: the largest candidate stays, the first of equal ones, until enough are kept."""
    left = [i for i, o in enumerate(owner) if o == 0]
    kept = []
    for _ in range(max(1, math.floor(keep * len(left) + 0.5))):
        best = left[0]
        for i in left:
            if abs(w[i]) > abs(w[best]):
                best = i
        kept.append(best)
        left.remove(best)
    return (
        [0.0 if i in left else value for i, value in enumerate(w)],
        [task if i in kept else o for i, o in enumerate(owner)],
    )


def cut_over_the_whole_tensor(w, owner, task, keep):
    """1{|W| >= tau} over all weights, old tasks' too: what the syllabus' formula says."""
    k = kept_count(int((owner == 0).sum()), keep)
    tau = w.abs().flatten().sort(descending=True).values[k - 1]
    return torch.where((w.abs() >= tau) & (owner == 0), task, owner)


def test_ten_weights():
    first = prune(*ten(), 1, 0.6)
    assert first.ranked.tolist() == [0, 3, 7, 5, 9, 2, 6, 8, 1, 4] and first.kept == 6
    assert first.owner.nonzero()[:, 0].tolist() == [0, 2, 3, 5, 7, 9]
    assert first.w.tolist() == [0.9, 0, 0.4, -0.8, 0, 0.6, 0, 0.7, 0, 0.5]
    w = first.w.clone()
    for i, value in SECOND.items():
        w[i] = value
    second = prune(w, first.owner, 2, 0.75)
    assert second.ranked.tolist() == [8, 1, 6, 4] and second.kept == 3
    w, owner = after_three()
    assert owner.tolist() == OWNERS
    assert [int((owner == t).sum()) for t in (1, 2, 3)] == [6, 3, 1]
    assert [int((packed(w, owner, t) != 0).sum()) for t in (1, 2, 3)] == [6, 9, 10]
    assert packed(w, owner, 1).tolist() == first.w.tolist()
    assert int((torch.where(owner == 2, w, 0.0) != 0).sum()) == 3  # the syllabus' subset of task 2, without task 1's


def test_a_cut_over_the_whole_tensor_gives_the_second_task_nothing():
    first = prune(*ten(), 1, 0.6)
    w = first.w.clone()
    for i, value in SECOND.items():
        w[i] = value
    assert int((prune(w, first.owner, 2, 0.75).owner == 2).sum()) == 3
    assert int((cut_over_the_whole_tensor(w, first.owner, 2, 0.75) == 2).sum()) == 0


def test_nothing_given_is_changed():
    w, owner = ten()
    prune(w, owner, 1, 0.5)
    packed(w, owner, 1)
    assert w.tolist() == TEN and not owner.any()


def test_shares_of_the_reference():
    assert share_out(1024, (0.5, 0.25), 4) == [512, 128, 96, 72]
    owned = [count / 1024 for count in share_out(1024, (0.5, 0.25), 4)]
    assert owned == pytest.approx([0.5, 0.125, 0.09375, 0.0703], abs=1e-4)
    assert 1 - sum(owned) == pytest.approx(0.2109, abs=1e-4)
    assert share_out(10, (0.6, 0.75, 1.0), 4) == [6, 3, 1, 0]
    assert share_out(8, 0.5, 5) == [4, 2, 1, 1, 0]
    # halves go up, and one weight at least stays
    assert [kept_count(7, 0.5), kept_count(5, 0.5), kept_count(1, 0.5), kept_count(1, 0.01)] == [4, 3, 1, 1]


def test_of_equal_weights_the_first_are_kept_and_no_more_than_asked():
    w = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    owner = torch.zeros(3, 2, dtype=torch.uint8)
    assert prune(w, owner, 1, 0.5).owner.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert prune(w * 0, owner, 1, 0.5).owner.sum() == 3  # zeros are weights too


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12),
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
    st.integers(0, 100),
)
def test_prune_against_the_slow_loop(values, keep, seed):
    """Owners never change once set, what they own keeps its value, and the shares are those that share_out tells."""
    w, owner = torch.tensor(values, dtype=torch.float64), torch.zeros(len(values), dtype=torch.int64)
    for task, (r, share) in enumerate(zip(keep, share_out(len(values), keep, len(keep)), strict=True), start=1):
        if share == 0:
            with pytest.raises(CapacityError, match=f"no free weight left for task {task}"):
                prune(w, owner, task, r)
            return
        trained = torch.where(owner == 0, torch.randn(len(values), generator=generator(seed)).double().round(), w)
        after = prune(trained, owner, task, r)
        slow_w, slow_owner = slow_prune(trained.tolist(), owner.tolist(), task, r)
        assert after.w.tolist() == slow_w and after.owner.tolist() == slow_owner
        assert int((after.owner == task).sum()) == after.kept == share
        assert torch.equal(after.owner[owner > 0], owner[owner > 0])
        for t in range(1, task):
            assert torch.equal(packed(after.w, after.owner, t), packed(w, owner, t))
        w, owner = after.w, after.owner


def test_bad_arguments_are_named():
    w, owner = ten()
    pruned = prune(w, owner, 1, 1.0)
    with pytest.raises(ValueError, match="task must be new, got 1: this layer has been pruned for task 1 already"):
        prune(pruned.w, pruned.owner, 1, 0.5)
    with pytest.raises(CapacityError, match="w has no free weight left for task 2: all 10 are owned"):
        prune(pruned.w, pruned.owner, 2, 0.5)
    for keep, error in (
        (0.0, "keep must be above 0"),
        (1.5, "keep must be finite and between"),
        (-0.1, "keep must be"),
    ):
        with pytest.raises(ValueError, match=error):
            prune(w, owner, 1, keep)
        with pytest.raises(ValueError, match=error):
            PackNet(keep=(0.5, keep))
    with pytest.raises(ValueError, match="w must be finite"):
        prune(w * math.nan, owner, 1, 0.5)
    with pytest.raises(ValueError, match="task must be between 1 and"):
        prune(w, owner, 0, 0.5)
    with pytest.raises(ValueError, match="task must be at least 1, got 0"):
        packed(w, owner, 0)
    with pytest.raises(ValueError, match=r"owner must have the shape \(10,\) of w, got \(9,\)"):
        packed(w, owner[:9], 1)
    with pytest.raises(TypeError, match="owner must be a tensor of whole numbers"):
        prune(w, w, 1, 0.5)
    with pytest.raises(ValueError, match="owner must hold 0"):
        prune(w, owner - 1, 1, 0.5)
    with pytest.raises(ValueError, match="at least one share"):
        PackNet(keep=())
    with pytest.raises(TypeError, match="keep must be a list of shares"):
        PackNet(keep="half")
    with pytest.raises(ValueError, match="retrain_epochs must be at least 0"):
        PackNet(retrain_epochs=-1)


# The optimiser leak: three ways in which a weight with a gradient of 0 moves.


def drift(make_optimizer, gradient: float = 0.0) -> float:
    """How far a weight of 1 is moved by three steps with its gradient masked, after a step with this gradient."""
    w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = make_optimizer([w], lr=0.1)
    if gradient:
        w.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    start = w.item()
    for _ in range(3):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    return w.item() - start


def test_leak_numbers_of_the_reference():
    assert drift(functools.partial(SGD, weight_decay=0.1)) == pytest.approx(0.99**3 - 1)
    assert drift(functools.partial(AdamW, weight_decay=0.1)) == pytest.approx(-0.0297, abs=5e-5)
    assert drift(torch.optim.Adam, 2.0) == pytest.approx(-0.161, abs=5e-4)
    assert drift(functools.partial(SGD, momentum=0.9), 2.0) == pytest.approx(-0.2 * (0.9 + 0.81 + 0.729))


class GradientMaskOnly(PackNet):
    """The field's bug: nothing is put back."""

    def after_step(self, ctx, batch):
        pass


class OwnSubsetOnly(PackNet):
    """The syllabus' reading: task t answers with the weights of M_t alone."""

    def answer(self, model, x, task):
        theta = {name: torch.where(self.owner[name] == task + 1, w, 0.0) for name, w in self.weights.items()}
        with using(model, task):
            return answer_with(model, theta, x)


class BiasesToo(PackNet):
    """Biases go on being trained by every task."""

    def _freeze_the_rest(self, model):
        self.freeze([], list(model.modules()))


class RanksAll(PackNet):
    """Freezes nothing but what the newest task owns: owners of old weights move."""

    def _let_move(self, owner):
        super()._let_move(owner)
        self.held = {name: w.detach() for name, w in self.weights.items()}


@torch.no_grad()
def answers(method, model, stream, task) -> torch.Tensor:
    with evaluating(model):
        return method.predict(model, stream[task].x_test, stream.allowed(task, task), task).clone()


def moved(method, model=None, stream=STREAM, **changes) -> list[bool]:
    """For each task but the last, whether any of its logits changed after it ended."""
    model = MLP(64, [12, 10], 10) if model is None else model
    logits = [
        answers(method, model, stream, event.task)
        for event in fit(model, stream, [method], **SETTINGS | changes)
        if isinstance(event, TaskEnded)
    ]
    later = [answers(method, model, stream, task) for task in range(len(stream))]
    assert all(bool(a[:, list(stream[t].classes)].isfinite().all()) for t, a in enumerate(later))
    return [not torch.equal(a, b) for a, b in zip(logits[:-1], later[:-1], strict=True)]


def normed(norm: nn.Module) -> MLP:
    model = MLP(64, [12, 10], 10)
    model.trunk = nn.Sequential(model.trunk[0], norm, *model.trunk[1:])
    return model


def a_layer_twice() -> MLP:
    model = MLP(64, [12, 12], 10)
    model.trunk = nn.Sequential(*model.trunk, *model.trunk[2:])
    return model


@pytest.mark.parametrize("reset", [True, False], ids=["new optimiser", "kept optimiser"])
@pytest.mark.parametrize(
    "model",
    [
        lambda: ConvNet((1, 8, 8), 10, width=2),
        lambda: normed(nn.BatchNorm1d(12)),
        lambda: normed(nn.LayerNorm(12)),
        a_layer_twice,
        lambda: normed(nn.Sequential(nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 1, 3, padding=1), nn.Flatten())),
    ],
    ids=["convolutions", "batch norm", "layer norm", "a layer twice", "1-d convolution"],
)
def test_old_logits_stay_whatever_the_layers(model, reset):
    assert moved(PackNet(), model(), reset_optimizer=reset) == [False, False]


@pytest.mark.parametrize("keep", [(0.01,), (0.9, 0.9), (0.5, 1.0, 0.5)])
def test_old_logits_stay_whatever_is_kept(keep):
    if keep == (0.5, 1.0, 0.5):
        with pytest.raises(CapacityError, match="no free weight for task 3 of 3"):
            moved(PackNet(keep))
    else:
        assert moved(PackNet(keep), epochs=1) == [False, False]


def test_masking_the_gradient_alone_forgets():
    assert moved(GradientMaskOnly()) == [True, True]
    adamw = functools.partial(AdamW, weight_decay=0.1)
    assert moved(GradientMaskOnly(), optimizer=adamw, reset_optimizer=True) == [True, True]
    # plain SGD has nothing that moves a weight without a gradient
    assert moved(GradientMaskOnly(), optimizer="sgd") == [False, False]


def test_trained_biases_forget():
    assert moved(BiasesToo()) == [True, True]
    assert moved(RanksAll()) == [True, True]


def test_a_task_reads_the_weights_of_the_tasks_before_it():
    """Answering with M_t alone, as the syllabus writes, gives another network, and a worse one."""
    stream = split(digits(), 2, scenario="task")
    right, wrong = PackNet(retrain_epochs=0), OwnSubsetOnly(retrain_epochs=0)
    histories = [run(MLP(64, [24], 10), stream, [method], epochs=5) for method in (right, wrong)]
    assert all(torch.equal(right.owner[name], wrong.owner[name]) for name in right.owner)
    last = [history.accuracy[-1] for history in histories]
    assert last[0][0] == last[1][0] and last[0][1:].mean() > last[1][1:].mean() + 0.05
    forgotten = histories[0].metrics()["forgetting"]
    assert forgotten == 0.0


def reference_answer(model, method, x, task):
    """The forward pass of an MLP by hand, one layer after the other, with the weights of owners 1 .. task + 1."""
    h = x
    for i in range(0, len(model.trunk), 2):
        layer, owner = model.trunk[i], method.owner[f"trunk.{i}.weight"]
        mine = torch.zeros_like(layer.weight)
        for t in range(1, task + 2):
            mine[owner == t] = layer.weight.detach()[owner == t]
        h = (h @ mine.T + layer.bias).clamp(min=0)
    head = model.head.parts[task]
    return h @ head.weight.T + head.bias


def test_owner_maps_of_a_run_and_its_answers():
    model, method, phases, maps = MLP(64, [12, 10], 10).double(), PackNet((0.5, 0.25), retrain_epochs=2), [], []
    for event in fit(model, STREAM, [method], **SETTINGS):
        phases += [event] if isinstance(event, Phase) else []
        if isinstance(event, TaskEnded):
            maps.append({name: owner.clone() for name, owner in method.owner.items()})
    assert set(method.owner) == {"trunk.0.weight", "trunk.2.weight"}  # no bias, no head
    for name, owner in method.owner.items():
        n = owner.numel()
        assert [int((owner == t).sum()) for t in (1, 2, 3)] == share_out(n, (0.5, 0.25), 3)
        for t, earlier in enumerate(maps, start=1):
            assert torch.equal(earlier[name] == t, owner == t) and int(earlier[name].max()) == t
        assert not dict(model.named_parameters())[name][owner == 0].any()
    with torch.no_grad():
        for task in range(3):
            x = STREAM[task].x_test.double()
            logits = method.predict(model, x, STREAM.allowed(task, task), task)
            expected = reference_answer(model, method, x, task)
            assert torch.allclose(logits[:, list(STREAM[task].classes)], expected, atol=1e-12, rtol=0)
    assert [phase.name for phase in phases] == ["prune", "retrain", "retrain"] * 3
    weights = 64 * 12 + 12 * 10
    kept = [sum(shares) for shares in zip(share_out(768, method.keep, 3), share_out(120, method.keep, 3), strict=True)]
    assert [phase.info["kept"] for phase in phases[::3]] == kept
    assert [phase.info["free"] for phase in phases[::3]] == [weights - sum(kept[:t]) for t in (1, 2, 3)]
    heads = 3 * (10 * 2 + 2) * 8
    assert method.memory_bytes() == weights + heads


def test_all_owners_together_are_all_weights_once_the_stream_uses_them_up():
    method = PackNet((0.5, 0.5, 1.0))
    run(MLP(64, [12], 10), STREAM, [method], batch_size=64)
    (owner,) = method.owner.values()
    assert (owner.unique(return_counts=True)[1] == torch.tensor([384, 192, 192])).all()


def test_retraining_trains_the_kept_weights_alone():
    """Without it, the weights that stay are those that were trained; with it they have moved, the others are 0."""
    models = [MLP(64, [12], 10) for _ in range(3)]
    stream = split(digits().only(range(2)).take(100), 2, scenario="task")
    methods = [PackNet(retrain_epochs=0), PackNet(retrain_epochs=2), PackNet(retrain_epochs=2, retrain_lr=0.0)]
    for model, method in zip(models, methods, strict=True):
        run(model, stream, [method], epochs=2, lr=0.01)
    plain, retrained, still = (model.trunk[0].weight.detach() for model in models)
    owner = methods[0].owner["trunk.0.weight"]
    assert all(torch.equal(method.owner["trunk.0.weight"], owner) for method in methods)
    assert torch.equal(plain, still)
    assert not torch.equal(plain, retrained) and not retrained[owner == 0].any()
    assert bool((plain[owner == 1] != retrained[owner == 1]).double().mean() > 0.3)


def test_the_order_of_retraining_is_drawn_from_the_methods_own_generator():
    """The next number it draws is that after one permutation of each task's rows, and the data order is untouched."""
    method = PackNet(retrain_epochs=1)
    run(MLP(64, [12], 10), STREAM, [method], batch_size=64)
    fresh = generator(0, "PackNet 0")
    for task in STREAM.tasks:
        torch.randperm(len(task.y), generator=fresh)
    assert torch.equal(method.generator.get_state(), fresh.get_state())


def test_norm_layers_and_biases_are_held_as_soon_as_the_first_task_ends():
    model = normed(nn.BatchNorm1d(12))
    norm, held = model.trunk[1], []
    for event in fit(model, STREAM, [PackNet()], batch_size=16):
        if isinstance(event, TaskEnded):
            now = (norm.running_mean, norm.running_var, norm.weight, norm.bias, model.trunk[0].bias)
            held.append([value.detach().clone() for value in now])
            assert not norm.training and not norm.weight.requires_grad and not model.trunk[0].bias.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(held[0], held[-1], strict=True))
    assert held[0][0].abs().sum() > 0  # the first task has moved them


def test_half_as_many_epochs_of_retraining_by_default():
    def rounds(method, **changes):
        events = fit(MLP(2, [6], 8), CLUSTERS, [method], batch_size=16, **changes)
        return sum(isinstance(event, Phase) and event.name == "retrain" for event in events)

    tasks = len(CLUSTERS)
    assert [rounds(PackNet(), epochs=n) for n in (1, 4, 5)] == [tasks, 2 * tasks, 3 * tasks]
    once = online(CLUSTERS)
    assert not [e for e in fit(MLP(2, [6], 8), once, [PackNet()]) if isinstance(e, Phase) and e.name == "retrain"]
    with pytest.raises(ValueError, match="retrain_epochs must be 0 for an online stream, got 1"):
        run(MLP(2, [6], 8), once, [PackNet(retrain_epochs=1)])


def test_the_first_task_is_fine_tuning_up_to_its_own_head():
    """With everything kept and nothing retrained, one task trains as without PackNet, its head aside."""
    stream = split(digits().take(100), 10, scenario="task")  # one task with all classes: its head is the whole head
    plain, with_packnet = MLP(64, [12], 10), MLP(64, [12], 10)
    run(plain, stream, [], epochs=2)
    run(with_packnet, stream, [PackNet(keep=1, retrain_epochs=0)], epochs=2)
    for a, b in zip(plain.trunk.parameters(), with_packnet.trunk.parameters(), strict=True):
        assert torch.equal(a, b)


def test_capacity_is_checked_before_training():
    model = MLP(64, [12], 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CapacityError, match=r"keep=\(1.0,\) leaves no free weight for task 2 of 3: all 768 are owned"):
        run(model, STREAM, [PackNet(keep=1.0)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    run(model, STREAM, [PackNet()], batch_size=64)  # and it is as usable as before


def test_a_full_layer_is_read_and_not_trained():
    """A layer of 2 weights is full after two tasks; the other one goes on."""
    model, method = MLP(2, [1, 40], 8), PackNet((0.5, 0.5), retrain_epochs=0)
    stream = split(points("clusters", n=60), 1, scenario="task")
    full = [
        event.info["full layers"]
        for event in fit(model, stream, [method], lr=0.05)
        if isinstance(event, Phase) and event.name == "prune"
    ]
    assert full == [0, 1, 1, 1] and sorted(method.owner["trunk.0.weight"].flatten().tolist()) == [1, 2]


def test_models_and_resumes_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match="model must have a linear or convolution layer besides its head"):
        run(MLP(64, [], 10), STREAM, [PackNet()])
    path = tmp_path / "run"
    run(MLP(64, [12], 10), STREAM, [PackNet((0.5, 0.3))], checkpoint=path, batch_size=64)
    with pytest.raises(ValueError, match="methods was"):
        run(MLP(64, [12], 10), STREAM, [PackNet((0.5, 0.25))], resume=path, batch_size=64)


@pytest.mark.parametrize("stop", [3, 10, 16])
def test_resume_with_batch_norm_and_a_kept_optimiser(tmp_path, stop):
    whole, path = normed(nn.BatchNorm1d(12)), tmp_path / "run"
    arguments = SETTINGS | {"reset_optimizer": False, "epochs": 1}
    run(whole, STREAM, [PackNet()], **arguments)
    for event in fit(normed(nn.BatchNorm1d(12)), STREAM, [PackNet()], checkpoint=path, checkpoint_every=1, **arguments):
        if isinstance(event, Step) and event.step == stop:
            break
    resumed, method = normed(nn.BatchNorm1d(12)), PackNet()
    run(resumed, STREAM, [method], resume=path, **arguments)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [int((method.owner["trunk.0.weight"] == t).sum()) for t in (1, 2, 3)] == share_out(768, (0.5, 0.25), 3)


def test_frozen_layers_of_the_user_are_left_alone():
    model = MLP(64, [12, 10], 10)
    model.trunk[0].weight.requires_grad_(False)
    first, method = model.trunk[0].weight.clone(), PackNet()
    run(model, STREAM, [method], batch_size=64)
    assert set(method.owner) == {"trunk.2.weight"} and torch.equal(model.trunk[0].weight, first)
    run(model, STREAM, [method], batch_size=64)
    assert not model.trunk[0].weight.requires_grad


def test_a_selector_chooses_the_owner_map():
    stream = split(digits(), 2, scenario="class")
    method = PackNet(selector=TaskSelector())
    history = run(MLP(64, [32], 10), stream, [method], epochs=5)
    assert history.metrics()["average_accuracy"] > 0.6  # fine-tuning: 0.2
