"""select: every strategy's own rule, what all have in common, and what is refused."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cllab.replay import herding
from cllab.replay.selection import STRATEGIES, gradient_norms, select

X = torch.tensor([[1, 2], [0, 1], [3, -1]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2])
W = torch.tensor([[0.5, 0], [0, 0.5], [-0.5, 0.5]], dtype=torch.float64)
NORMS = [2.199459, 1.078167, 4.322391]
LOSSES = [1.294377, 0.958020, 3.653178]
GREEDY = ("herding", "loss", "gradient_norm", "k_center", "diversity")


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def candidates(n, d=4, seed=0, dtype=torch.float64):
    """Features and all that a strategy may ask for."""
    features = torch.randn(n, d, generator=source(seed), dtype=dtype)
    logits = torch.randn(n, 3, generator=source(seed + 1), dtype=dtype)
    labels = torch.randint(3, (n,), generator=source(seed + 2))
    losses = F.cross_entropy(logits, labels, reduction="none")
    return features, {"labels": labels, "logits": logits, "losses": losses}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (20, 1), (20, 7), (20, 20)])
def test_answers_are_different_rows_in_range(strategy, n, m, dtype):
    features, extras = candidates(n, dtype=dtype)
    before = features.clone()
    rows = select(strategy, features, m, **extras, generator=source())
    assert rows.dtype == torch.int64 and rows.shape == (m,) and rows.device == features.device
    assert int(rows.min()) >= 0 and int(rows.max()) < n and len(set(rows.tolist())) == m
    assert torch.equal(features, before)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_rows_are_different_rows(strategy):
    features, extras = candidates(1)
    extras = {name: values.repeat_interleave(6, dim=0) for name, values in extras.items()}
    rows = select(strategy, features.repeat(6, 1), 6, **extras)
    assert sorted(rows.tolist()) == list(range(6))


@pytest.mark.parametrize("strategy", GREEDY)
@pytest.mark.parametrize("ties", ["first", "last"])
def test_prefixes_are_the_choice_of_fewer(strategy, ties):
    features, extras = candidates(20)
    features, extras["losses"] = features.round(), extras["losses"].round()  # with ties
    features[:, 0] += 10
    whole = select(strategy, features, 20, **extras, ties=ties)
    assert all(torch.equal(select(strategy, features, k, **extras, ties=ties), whole[:k]) for k in (1, 5, 19))


@settings(max_examples=40)
@given(strategy=st.sampled_from(GREEDY), seed=st.integers(0, 50), data=st.data())
def test_reordering_the_rows_reorders_the_answer(strategy, seed, data):
    """Without ties; row 0 stays, where k-center and diversity start."""
    features, extras = candidates(15, seed=seed)
    shuffle = torch.tensor([0, *data.draw(st.permutations(range(1, 15)))])
    moved = {name: values[shuffle] for name, values in extras.items()}
    assert torch.equal(
        shuffle[select(strategy, features[shuffle], 6, **moved)], select(strategy, features, 6, **extras)
    )


def test_random_rows_come_from_the_generator_and_are_a_fair_draw():
    features = torch.zeros(4, 1)
    draws = source(1)
    pairs = [tuple(select("random", features, 2, generator=draws).tolist()) for _ in range(2400)]
    counts = [pairs.count(pair) for pair in itertools.permutations(range(4), 2)]
    assert sum(counts) == 2400 and sum((c - 200) ** 2 / 200 for c in counts) < 31.3  # chi-square, 11 df, p = 0.001
    same = [select("random", features, 3, generator=source(7)).tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert torch.equal(select("random", features, 3), select("random", features, 3))


@pytest.mark.parametrize("ties", ["first", "last"])
def test_herding_is_herding(ties):
    features = candidates(20)[0].round()
    assert torch.equal(select("herding", features, 9, ties=ties), herding(features, 9, ties))


def test_loss_takes_the_hardest_or_the_easiest_and_the_lowest_index_of_equals():
    losses = torch.tensor([0.5, 2.0, 0.1, 2.0, 0.5])
    features = torch.zeros(5, 1)
    assert select("loss", features, 5, losses=losses).tolist() == [1, 3, 0, 4, 2]
    assert select("loss", features, 5, losses=losses, ties="last").tolist() == [3, 1, 4, 0, 2]
    assert select("loss", features, 5, losses=losses, hardest=False).tolist() == [2, 0, 4, 1, 3]
    assert select("loss", features, 5, losses=losses, hardest=False, ties="last").tolist() == [2, 4, 0, 3, 1]
    many = torch.zeros(1000, 1)
    assert select("loss", many, 1000, losses=many[:, 0]).tolist() == list(range(1000))  # torch.topk would shuffle


def test_a_cap_per_class_keeps_the_noisy_class_from_taking_all():
    losses = torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 6.0])
    labels = torch.tensor([5, 5, 5, 0, 0, 5])
    features = torch.zeros(6, 1)
    given = {"losses": losses, "labels": labels}
    assert select("loss", features, 4, **given).tolist() == [0, 1, 2, 5]
    assert select("loss", features, 4, **given, per_class=2).tolist() == [0, 1, 4, 3]
    assert select("loss", features, 3, **given, per_class=2, hardest=False).tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match=r"per_class must leave at least m = 5 rows, 2 leaves 4"):
        select("loss", features, 5, **given, per_class=2)


def test_a_cap_keeps_the_prefix_property():
    features, extras = candidates(30)
    whole = select("loss", features, 12, **extras, per_class=4)
    assert max(extras["labels"][whole].bincount().tolist()) == 4
    assert torch.equal(select("loss", features, 5, **extras, per_class=4), whole[:5])


def test_gradient_norms_of_the_worked_rows():
    logits = X @ W.T
    losses = F.cross_entropy(logits, Y, reduction="none")
    assert losses.tolist() == pytest.approx(LOSSES, abs=5e-7)
    assert gradient_norms(X, logits, Y).tolist() == pytest.approx(NORMS, abs=5e-7)
    assert gradient_norms(X.float(), logits.float(), Y).tolist() == pytest.approx(NORMS, abs=1e-5)
    assert select("gradient_norm", X, 3, logits=logits, labels=Y).tolist() == [2, 0, 1]
    assert select("gradient_norm", X, 1, logits=logits, labels=Y, hardest=False).tolist() == [1]


def autograd_norms(features, weight, bias, labels):
    norms = []
    for x, y in zip(features, labels, strict=True):
        theta = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
        F.cross_entropy((theta[0] @ x + theta[1])[None], y[None]).backward()
        norms.append(math.hypot(*(float(p.grad.norm()) for p in theta)))
    return norms


def test_gradient_norms_are_autograds_and_the_lookalikes_are_not():
    features, extras = candidates(12)
    weight, bias = torch.randn(3, 4, generator=source(5)).double(), torch.randn(3, generator=source(6)).double()
    logits, labels = features @ weight.T + bias, extras["labels"]
    expected = autograd_norms(features, weight, bias, labels)
    assert gradient_norms(features, logits, labels).tolist() == pytest.approx(expected, abs=1e-9)
    errors = (logits.softmax(1) - F.one_hot(labels, 3)).norm(dim=1)
    without_bias = errors * features.norm(dim=1)
    on_logits = errors
    losses = F.cross_entropy(logits, labels, reduction="none")
    for wrong in (without_bias, on_logits, losses):
        assert wrong.tolist() != pytest.approx(expected, rel=1e-2)


def test_gradient_norms_of_extreme_rows():
    zero = gradient_norms(torch.ones(1, 2), torch.tensor([[1e4, -1e4]]), torch.tensor([0]))
    assert zero.tolist() == [0.0]
    large = gradient_norms(torch.tensor([[1e30, 0.0]]), torch.tensor([[-1e4, 1e4]]), torch.tensor([0]))
    assert large.tolist() == pytest.approx([math.sqrt(2) * 1e30])
    with pytest.raises(ValueError, match="features must be smaller"):
        gradient_norms(torch.full((1, 9), 3e38), torch.tensor([[-1e4, 1e4]]), torch.tensor([0]))


def test_k_means_takes_the_real_row_nearest_to_each_centre():
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    spread = torch.tensor([[0.0, 0.1], [2.0, 0.0], [-2.0, 0.0], [0.0, -2.0], [0.0, 2.0]])
    features = (centres[:, None] + spread).reshape(15, 2)
    assert sorted(select("k_means", features, 3, generator=source()).tolist()) == [0, 5, 10]


def test_k_means_takes_the_next_nearest_row_when_one_is_gone():
    """Two different rows, four centres: sklearn's centres coincide, the rows must not."""
    features = torch.tensor([[0.0], [0.0], [9.0], [9.0], [9.0]])
    for seed in range(5):
        rows = select("k_means", features, 4, generator=source(seed)).tolist()
        assert len(set(rows)) == 4


def test_k_means_is_seeded():
    features = candidates(60)[0]
    first = select("k_means", features, 6, generator=source(1))
    assert torch.equal(select("k_means", features, 6, generator=source(1)), first)
    assert any(not torch.equal(select("k_means", features, 6, generator=source(s)), first) for s in range(2, 6))
    draws = source(1)
    assert torch.equal(select("k_means", features, 6, generator=draws), first)
    assert draws.get_state().tolist() != source(1).get_state().tolist()


def test_k_center_and_diversity_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert select("k_center", line, 4).tolist() == [0, 3, 2, 1]
    crossing = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 3.0], [-5.0, 0.0]])
    assert select("diversity", crossing, 4).tolist() == [0, 3, 2, 1]


def test_covering_and_spread_are_what_the_names_promise():
    """On 300 rows: herding has the smallest error of the mean, k-center the smallest covering radius."""
    features, extras = candidates(300)

    def mean_error(rows):
        return float((features[rows].mean(0) - features.mean(0)).norm())

    def radius(rows):
        return float(torch.cdist(features, features[rows]).amin(dim=1).max())

    chosen = {s: select(s, features, 20, **extras, generator=source()) for s in STRATEGIES}
    assert min(STRATEGIES, key=lambda s: mean_error(chosen[s])) == "herding"
    assert min(STRATEGIES, key=lambda s: radius(chosen[s])) == "k_center"


GIVEN = {"strategy": "random", "features": torch.eye(4), "m": 2}


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"strategy": "best"}, ValueError, "strategy must be one of 'random', 'herding', 'loss', .* got 'best'"),
        ({"strategy": None}, ValueError, "strategy must be one of"),
        ({"m": 5}, ValueError, "m must be between 1 and 4, got 5"),
        ({"m": 0}, ValueError, "m must be"),
        ({"m": 2.0}, TypeError, "m must be an integer"),
        ({"features": torch.tensor([[0.0, torch.nan]]), "m": 1}, ValueError, "features must be finite"),
        ({"features": torch.zeros(0, 3)}, ValueError, "features must not be empty"),
        ({"features": torch.zeros(3)}, ValueError, "features must have 2 dimension"),
        ({"features": torch.eye(4).long()}, TypeError, "features must hold floating-point"),
        ({"ties": "lowest"}, ValueError, "ties must be one of"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator, got int"),
        ({"per_class": 2}, ValueError, "per_class must be left out for strategy 'random'"),
        ({"strategy": "herding", "hardest": False}, ValueError, "hardest must be left out for strategy 'herding'"),
        ({"strategy": "loss"}, ValueError, "losses must be given for strategy 'loss'"),
        ({"strategy": "loss", "losses": torch.zeros(3)}, ValueError, "losses must have one entry per row .* 4, got 3"),
        ({"strategy": "loss", "losses": torch.full((4,), torch.nan)}, ValueError, "losses must be finite"),
        ({"strategy": "loss", "losses": torch.zeros(4), "hardest": 1}, TypeError, "hardest must be True or False"),
        ({"strategy": "loss", "losses": torch.zeros(4), "per_class": 2}, ValueError, "labels must be given with per_class"),
        ({"strategy": "loss", "losses": torch.zeros(4), "per_class": 0}, ValueError, "per_class must be at least 1"),
        ({"strategy": "gradient_norm", "labels": torch.zeros(4).long()}, ValueError, "logits must be given for"),
        ({"strategy": "gradient_norm", "logits": torch.zeros(4, 2)}, ValueError, "labels must be given for"),
        ({"strategy": "gradient_norm", "logits": torch.zeros(4, 2), "labels": torch.tensor([0, 1, 2, 0])}, ValueError, "labels must be below the number of classes 2"),
        ({"strategy": "gradient_norm", "logits": torch.zeros(3, 2), "labels": torch.zeros(4).long()}, ValueError, "logits must have one row per row"),
        ({"strategy": "diversity", "features": torch.zeros(4, 2)}, ValueError, "no row of norm 0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(changed, error, said):
    with pytest.raises(error, match=said):
        select(**{**GIVEN, **changed})
