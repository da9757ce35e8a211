"""Progressive networks: parameter counts, a slow loop over the equation, cut laterals, and old answers that stay."""

import copy
import functools
import itertools

import pytest
import torch
from torch.optim import SGD, AdamW

from cllab.device import generator
from cllab.isolation import (
    Progressive,
    ProgressiveNet,
    TaskSelector,
    column_cost,
    column_growth,
    lateral_adapter,
    lateral_sum,
    using,
)
from cllab.models import MLP
from cllab.replay import ExperienceReplay
from cllab.streams import digits, points, split
from cllab.training import Step, fit, predict, run

STREAM = split(points("clusters", n=60), 2, scenario="task")
MOMENTUM = functools.partial(SGD, momentum=0.9, weight_decay=5e-4)
LINEAR = (89_610, 190_220, 301_830, 424_440, 558_050)
ADAPTER = (89_610, 185_420, 285_230, 389_040, 496_850)


def net(k: int = 3, laterals: str = "linear", hidden=(5, 4), **options) -> ProgressiveNet:
    """k columns called 10, 20, ... in float64, with laterals that do something."""
    built = ProgressiveNet(3, list(hidden), 2, laterals, task=10, **options).double()
    for number in range(1, k):
        built.add_column(10 * (number + 1))
    source = generator(7)
    with torch.no_grad():
        for column in built.columns.parts:
            for weight in column.laterals.parameters():
                weight.copy_(torch.randn(weight.shape, generator=source))
    return built


def rows(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 3, dtype=torch.float64, generator=generator(3))


@torch.no_grad()
def slow(built: ProgressiveNet, x: torch.Tensor, k: int) -> list[float]:
    """Logits of column k for one row: the equation, one unit and one weight after the other."""
    h = [x.tolist()] * (k + 1)
    depth = len(built.sizes) - 1
    for i in range(depth):
        after = []
        for j in range(k + 1):
            column = built.columns.parts[j]
            z = []
            for unit in range(built.sizes[i + 1]):
                W, b = column.layers[i].weight[unit], column.layers[i].bias[unit]
                total = float(b) + sum(float(w) * value for w, value in zip(W, h[j], strict=True))
                if len(column.laterals) and i > 0:
                    total += sum(slow_lateral(built, column.laterals[i - 1], h[:j], unit))
                z.append(total if i == depth - 1 else max(total, 0.0))
            after.append(z)
        h = after
    return h[k]


def slow_lateral(built, lateral, older, unit):
    if built.laterals == "linear":
        for U, values in zip(lateral.U, older, strict=True):
            yield from (float(u) * value for u, value in zip(U[unit], values, strict=True))
        return
    read = [float(a) * value for a, values in zip(lateral.alpha, older, strict=True) for value in values]
    for u, V_row in zip(lateral.U[unit], lateral.V, strict=True):
        yield float(u) * max(sum(float(v) * value for v, value in zip(V_row, read, strict=True)), 0.0)


def test_parameter_counts_of_the_reference():
    for laterals, width, counts in (("linear", None, LINEAR), ("adapter", 20, ADAPTER)):
        built = ProgressiveNet(784, [100, 100], 10, laterals, width)
        for K, expected in enumerate(counts, start=1):
            if K > 1:
                built.add_column(K)
            growth = built.growth()
            assert growth.columns + growth.laterals == expected and growth.columns == 89_610 * K
            assert growth.scalars == (K * (K - 1) if laterals == "adapter" else 0)
            assert growth.total == sum(p.numel() for p in built.parameters()) == expected + growth.scalars
            assert growth == column_growth((784, 100, 100, 10), K, laterals, width)


@pytest.mark.parametrize("laterals", ["linear", "adapter", "none"])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4, 6)])
def test_counting_agrees_with_building(laterals, hidden):
    built = net(4, laterals, hidden)
    assert built.growth() == column_growth((3, *hidden, 2), 4, laterals)
    assert built.growth().laterals == 0 or len(hidden) > 0


def test_growth_is_quadratic_unless_the_adapters_narrow():
    for width in (None, 20):
        totals = [column_growth((784, 100, 100, 10), K, "adapter" if width else "linear", width) for K in range(1, 8)]
        first = [b.total - a.total for a, b in itertools.pairwise(totals)]
        second = {b - a for a, b in itertools.pairwise(first)}
        assert len(second) == 1 and second.pop() > 0
    alone = [column_growth((784, 100, 100, 10), K, "none").total for K in (1, 5)]
    assert alone[1] == 5 * alone[0]


def test_cost_of_an_answer_against_a_count_of_products():
    """Every weight that an answer reads is multiplied once: those with a gradient, counted by entries."""
    for laterals, width in (("linear", None), ("adapter", 3), ("none", None)):
        built = net(3, laterals, (5, 4), width=width)
        built.requires_grad_(True)
        for k, task in enumerate(built.tasks):
            built.zero_grad()
            built(rows(), task).sum().backward()
            used = [p for p in built.parameters() if p.grad is not None and p.ndim == 2]
            assert len(built.activations(rows(), task)[0]) == (1 if laterals == "none" else k + 1)
            assert column_cost(built.sizes, k, laterals, width) == sum(p.numel() for p in used)


@pytest.mark.parametrize("laterals", ["linear", "adapter", "none"])
def test_equal_to_a_loop_over_weights(laterals):
    built = net(3, laterals, width=3 if laterals == "adapter" else None)
    for k, task in enumerate(built.tasks):
        expected = torch.tensor([slow(built, row, k) for row in rows()], dtype=torch.float64)
        assert torch.allclose(built(rows(), task), expected, rtol=0, atol=1e-9)


def test_laterals_by_hand():
    h = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]])]
    U = [torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 5.0]])]
    assert lateral_sum(h, U).item() == 5  # 1 - 2 + 6
    V = torch.tensor([[1.0, 1.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    # alpha = (2, 1): reads (2, 4, 3, 0); V gives 2 + 4 - 3 = 3 and 2; U gives 3 - 2 * 2
    assert lateral_adapter(h, torch.tensor([2.0, 1.0]), V, torch.tensor([[1.0, -2.0]])).item() == -1
    assert lateral_adapter(h, torch.tensor([2.0, 1.0]), -V, torch.tensor([[1.0, -2.0]])).item() == 0  # the relu


def test_laterals_only_where_they_belong():
    for laterals in ("linear", "adapter"):
        built = net(3, laterals)
        assert [len(column.laterals) for column in built.columns.parts] == [0, 2, 2]
        assert not [name for name, _ in built.named_parameters() if "laterals" in name and "bias" in name]
    assert not [name for name, _ in net(3, "none").named_parameters() if "laterals" in name]


def test_without_a_width_adapters_are_as_wide_as_the_layer_they_read():
    laterals = net(3, "adapter").columns.parts[2].laterals
    assert [tuple(lateral.V.shape) for lateral in laterals] == [(5, 10), (4, 8)]
    assert [tuple(lateral.U.shape) for lateral in laterals] == [(4, 5), (2, 4)]


def test_zeroed_laterals_reduce_a_column_to_a_plain_network():
    for laterals in ("linear", "adapter"):
        built = net(3, laterals)
        plain = built.plain_column(30)
        assert isinstance(plain, MLP) and not torch.allclose(built(rows(), 30), plain(rows()))
        with torch.no_grad():
            for lateral in built.columns.part(30).laterals:
                for U in lateral.U if laterals == "linear" else [lateral.U]:
                    U.zero_()
        assert torch.equal(built(rows(), 30), plain(rows()))


def test_a_new_column_begins_as_a_plain_network_and_the_same_with_any_laterals():
    starts = []
    for laterals in ("linear", "adapter", "none"):
        built = ProgressiveNet(3, [5, 4], 2, laterals, seed=4)
        built.add_column("b")
        x = rows().float()
        assert torch.equal(built(x), built.plain_column("b")(x)) and not torch.equal(built(x), built(x, 0))
        starts.append(built(x))
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])


def test_old_columns_are_frozen_and_the_new_one_learns_all_of_its_parts():
    for laterals in ("linear", "adapter"):
        built = net(3, laterals)
        built(rows()).pow(2).sum().backward()
        *old, new = built.columns.parts
        assert all(p.grad is None and not p.requires_grad for column in old for p in column.parameters())
        assert all(p.grad is not None and bool(p.grad.any()) for p in new.parameters())


def test_any_keys_and_the_column_in_use():
    built = ProgressiveNet(3, [4], 2, task="pre-trained")
    for task in (7, 3, "b"):
        built.add_column(task)
    assert built.tasks == ["pre-trained", 7, 3, "b"]
    x = rows().float()
    assert torch.equal(built(x), built(x, "b"))
    with using(built, 7):
        assert torch.equal(built(x), built(x, 7)) and not torch.equal(built(x, 7), built(x, "b"))
    with using(built, 7, 3), pytest.raises(ValueError, match="one task or none"):
        built(x)
    built.drop_columns(2)
    assert built.tasks == ["pre-trained", 7] and torch.equal(built(x), built(x, 7))
    twin = copy.deepcopy(built)
    twin.add_column(3)
    assert len(twin.tasks) == 3 and len(built.tasks) == 2


def test_columns_follow_dtype_and_mode():
    built = ProgressiveNet(3, [4], 2).double().eval()
    built.add_column(1)
    assert {p.dtype for p in built.parameters()} == {torch.float64}
    assert not built.columns.part(1).training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, [4], 2), ValueError, "each of sizes must be at least 1|between 1"),
        ((3, 4, 2), TypeError, "hidden must be a list"),
        ((3, ["4"], 2), TypeError, "each of sizes must be an integer"),
        ((3, [4], 2, "dense"), ValueError, "laterals must be one of 'linear', 'adapter', 'none', got 'dense'"),
        ((3, [4], 2, "linear", 5), ValueError, "width must be None"),
        ((3, [4], 2, "adapter", 0), ValueError, "width must be between 1"),
        ((3, [4], 2, "linear", None, 1.5), TypeError, "task must be an int or a str"),
        ((3, [4], 2, "linear", None, 0, -1), ValueError, "seed must be at least 0"),
    ],
)
def test_bad_settings_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ProgressiveNet(*arguments)


def test_bad_tasks_are_named_and_change_nothing():
    built = net(2)
    before = built.growth()
    for call in (lambda: built(rows(), 5), lambda: built(rows(), "20"), lambda: built.plain_column(5)):
        with pytest.raises(ValueError, match=r"task must be one of \[10, 20\]"):
            call()
    with pytest.raises(ValueError, match="20 has a part already"):
        built.add_column(20)
    assert built.growth() == before and all(p.requires_grad for p in built.columns.part(20).parameters())
    with pytest.raises(ValueError, match="keep must be between 1 and 2"):
        built.drop_columns(0)
    with pytest.raises(ValueError, match="k must be at least 0"):
        column_cost((3, 4, 2), -1)
    with pytest.raises(ValueError, match="n_columns must be at least 1"):
        column_growth((3, 4, 2), 0)
    with pytest.raises(TypeError, match="sizes must be a list"):
        column_growth((3,), 1)


def answers(events, method, model, stream=STREAM):
    """The logits of every task's test rows right after that task, and again at the end."""
    first = {}
    for event in events:
        if type(event).__name__ == "TaskEnded":
            task = stream[event.task]
            first[event.task] = method.predict(model, task.x_test, stream.allowed(event.task, event.task), event.task)
    last = [method.predict(model, task.x_test, None, j) for j, task in enumerate(stream)]
    return [first[j] for j in range(len(stream))], last


@pytest.mark.parametrize("laterals", ["linear", "adapter", "none"])
@pytest.mark.parametrize("optimizer", [MOMENTUM, functools.partial(AdamW, weight_decay=0.1)])
@pytest.mark.parametrize("reset", [True, False])
def test_old_answers_are_bit_equal(laterals, optimizer, reset):
    stream = split(digits(), 2, scenario="task")
    model, method = ProgressiveNet(64, [8, 8], 10, laterals), Progressive()
    events = fit(model, stream, [method], optimizer=optimizer, lr=0.05, reset_optimizer=reset)
    first, last = answers(events, method, model, stream)
    assert len(model.tasks) == 5 and all(torch.equal(a, b) for a, b in zip(first, last, strict=True))


def test_a_column_that_is_not_frozen_would_be_caught():
    """The same check, with a method that forgets to freeze: momentum and new gradients move the old columns."""

    class Careless(Progressive):
        def start_task(self, ctx):
            super().start_task(ctx)
            ctx.model.requires_grad_(True)

    for kind, stays in ((Progressive, True), (Careless, False)):
        model, method = ProgressiveNet(2, [8, 8], 4), kind()
        first, last = answers(fit(model, STREAM, [method], optimizer=MOMENTUM, lr=0.05, epochs=3), method, model)
        assert torch.equal(first[0], last[0]) is stays


def test_a_stop_and_a_resume_give_the_same_run(tmp_path):
    def trained(**more):
        model = ProgressiveNet(2, [6, 6], 4, "adapter", 3)
        events = fit(model, STREAM, [Progressive()], epochs=2, batch_size=30, optimizer=MOMENTUM, lr=0.05, **more)
        return model, events

    whole, events = trained()
    list(events)
    for stop in (3, 11):
        path = tmp_path / f"at{stop}.pt"
        _, events = trained(checkpoint=path, checkpoint_every=1)
        next(event for event in events if isinstance(event, Step) and event.step == stop)
        events.close()
        model, events = trained(resume=path)
        list(events)
        pairs = zip(whole.state_dict().values(), model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_second_run_begins_with_one_column_again():
    model, method = ProgressiveNet(2, [6], 4), Progressive()
    for _ in range(2):
        run(model, STREAM, [method])
        assert model.tasks == [0, 1]
    with pytest.raises(ValueError, match=r"no columns for tasks of this stream but one for task 0, it has \[0, 1\]"):
        run(model, STREAM, [Progressive()])


def test_a_column_trained_elsewhere_is_read_and_kept():
    model, method = ProgressiveNet(2, [6, 6], 4, task="pre-trained"), Progressive()
    before = model(STREAM[0].x)
    for _ in range(2):
        run(model, STREAM, [method], lr=0.01, optimizer=MOMENTUM)
        assert model.tasks == ["pre-trained", 0, 1] and torch.equal(model(STREAM[0].x, "pre-trained"), before)
        assert all(bool(U.any()) for lateral in model.columns.part(0).laterals for U in lateral.U)


def test_runs_that_make_no_sense_are_refused():
    classes = split(points("clusters", n=60), 2, scenario="class")
    with pytest.raises(TypeError, match="model must be a ProgressiveNet for Progressive, got MLP"):
        run(MLP(2, [4], 4), STREAM, [Progressive()])
    with pytest.raises(ValueError, match="give it a selector"):
        run(ProgressiveNet(2, [4], 4), classes, [Progressive()])
    with pytest.raises(ValueError, match="must not combine Progressive with ExperienceReplay"):
        run(ProgressiveNet(2, [4], 4), STREAM, [Progressive(), ExperienceReplay(5)])
    with pytest.raises(ValueError, match="task_id must be between 0 and 1, got -1"):
        method = Progressive()
        model = ProgressiveNet(2, [4], 4)
        run(model, STREAM, [method])
        method.predict(model, STREAM[0].x, None, -1)


def test_every_task_is_learned_and_none_forgotten():
    stream = split(points("clusters"), 2, scenario="task")
    for seed in range(3):
        history = run(ProgressiveNet(2, [16], 4, seed=seed), stream, [Progressive()], epochs=10, lr=0.01, seed=seed)
        metrics = history.metrics()
        assert metrics["average_accuracy"] > 0.97 and metrics["forgetting"] == 0


def test_a_selector_answers_rows_of_unknown_tasks():
    stream = split(points("clusters"), 2, scenario="class")
    model, method = ProgressiveNet(2, [16], 4), Progressive(TaskSelector())
    history = run(model, stream, [method], epochs=10, lr=0.01)
    assert history.metrics()["average_accuracy"] > 0.9 and method.memory_bytes() > 4 * model.growth().total
    seen = predict(model, stream[0].x_test, stream, seen=1, methods=[method])
    assert (seen == stream[0].y_test).double().mean() > 0.9
