"""Exercises of lesson 14: Lifelong-MoE, and experts per domain."""

import math

import torch

from cllab.device import generator as generator_of
from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.isolation.domains import domain_posterior, mixture_weights
from cllab.isolation.growth import grow
from cllab.isolation.lifelong import kl_to_old, routing_drift
from cllab.isolation.moe import MoE

TITLE = "Lifelong-MoE: grow, freeze, distil"

Rows = list[list[float]]
Experts = list[list[int]]
CHANGING = [[math.log(0.8), math.log(0.2)]] * 2 + [[math.log(0.2), math.log(0.8)]] * 2


def kl(old: Rows, new: Rows) -> float:
    """Mean over rows of KL(p_old || p_new), from logits."""
    return kl_to_old(_matrix(old), _matrix(new)).item()


def grown_scores(scores: list[float], source: list[int]) -> list[float]:
    """The router scores of one token after growing by shared copies of the experts `source`."""
    layer = MoE(1, len(scores), len(scores)).double()
    layer.router.weight.data.zero_()
    layer.router.bias.data.copy_(_matrix(scores))
    grow(layer, len(source), "split", source=source, generator=generator_of(0))
    return layer.router(_matrix([[0.0]]))[0].tolist()


def drift(before: Experts, after: Experts) -> float:
    """The share of the assignments in `before` that are no more in `after`."""
    return routing_drift(torch.tensor(before), torch.tensor(after))


def follow(log_likelihood: Rows, decay: float) -> Rows:
    """The experts' weights before each token: an exponential moving average of posteriors."""
    return mixture_weights(_matrix(log_likelihood), "updating", decay=decay).tolist()


def _turned_round(old, new):
    return kl(new, old)


def _sum_of_rows(old, new):
    return len(old) * kl(old, new)


def _mean_of_all_numbers(old, new):
    return kl(old, new) / len(old[0])


def _plain_copies(scores, source):
    return scores + [scores[i] for i in source]


def _only_new_ones_pay(scores, source):
    return scores + grown_scores(scores, source)[len(scores) :]


def _always_two(scores, source):
    shared = [s - math.log(2) if i in source else s for i, s in enumerate(scores)]
    return shared + [scores[i] - math.log(2) for i in source]


def _slot_by_slot(before, after):
    pairs = [a == b for row, other in zip(before, after, strict=True) for a, b in zip(row, other, strict=True)]
    return 1 - sum(pairs) / len(pairs)


def _tokens_that_changed(before, after):
    return sum(set(row) != set(other) for row, other in zip(before, after, strict=True)) / len(before)


def _what_stayed(before, after):
    return 1 - drift(before, after)


def _looks_ahead(log_likelihood, decay):
    return follow([*log_likelihood, log_likelihood[-1]], decay)[1:]


def _turned_decay(log_likelihood, decay):
    return follow(log_likelihood, 1 - decay)


def _forgets_the_prior(log_likelihood, decay):
    L = _matrix(log_likelihood)
    average, rows = torch.full_like(L[0], 1 / L.shape[1]), []
    for alone in domain_posterior(L, torch.ones_like(L[0])):
        rows.append(average.tolist())
        average = (1 - decay) * average + decay * alone
    return rows


def _matrix(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _random(generator: torch.Generator, *shape: int) -> list:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).tolist()


def _random_kl(generator: torch.Generator) -> tuple:
    return _random(generator, 3, 4), _random(generator, 3, 4)


def _random_growth(generator: torch.Generator) -> tuple:
    return _random(generator, 4), torch.randint(4, (3,), generator=generator).tolist()


def _random_routes(generator: torch.Generator) -> tuple:
    return tuple([torch.randperm(4, generator=generator)[:2].tolist() for _ in range(6)] for _ in range(2))


def _random_text(generator: torch.Generator) -> tuple:
    p = torch.rand(5, 3, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    return p.log().tolist(), 0.1 + 0.3 * torch.rand(1, generator=generator, dtype=torch.float64).item()


EXERCISES = (
    Exercise(
        id="L14.1",
        title="what a new row takes",
        reference=0.375,
        agrees_with="the worked example",
        hint="0.6, 0.4 and once more 0.6 are 1.6 in all: which share has the new one?",
        known_wrong=(
            KnownWrong(0.6, "probabilities sum to 1, and now they sum to 1.6: divide by that"),
            KnownWrong(0.625, "that is what the old rows have left"),
            KnownWrong(0.3, "that is what it takes when both copies lose ln 2"),
        ),
    ),
    Exercise(
        id="L14.2",
        title="three of a kind",
        reference=math.log(3),
        agrees_with='cllab.isolation.grow(init="split")',
        hint="3 exp(s - c) must be exp(s)",
        known_wrong=(
            KnownWrong(math.log(2), "that is right for two of a kind; here are three"),
            KnownWrong(1 / 3, "a third of the mass, yes, but scores are logarithms of it"),
            KnownWrong(2 * math.log(2), "each copy halves only if they came one after the other; here all three share"),
        ),
    ),
    Exercise(
        id="L14.3",
        title="KL to the old model",
        reference=kl,
        agrees_with="cllab.isolation.kl_to_old",
        hint="s -= max s; log p = s - log(sum(exp(s))) per row; then sum p_old (log p_old - log p_new); mean of rows",
        cases=(
            Case("the worked example", ([[0.0, 0.0]], [[math.log(3), 0.0]])),
            Case("two rows, one of them equal", ([[0.0, 0.0], [1.0, 2.0]], [[math.log(3), 0.0], [1.0, 2.0]])),
            Case("large scores", ([[1000.0, 0.0]], [[500.0, 500.0]])),
        ),
        random_case=_random_kl,
        known_wrong=(
            KnownWrong(_turned_round, "the old model comes first: it weighs the logarithms"),
            KnownWrong(_sum_of_rows, "take the mean over rows, not the sum"),
            KnownWrong(_mean_of_all_numbers, "divide by rows only; F.kl_div's default divides by classes, too"),
        ),
    ),
    Exercise(
        id="L14.4",
        title="shared copies",
        reference=grown_scores,
        agrees_with='cllab.isolation.grow(init="split")',
        hint="an expert named m times in source, with its m copies, loses log(1 + m) from every score",
        cases=(
            Case("one copy", ([1.0, 0.0], [0])),
            Case("two copies of one", ([0.0, 1.0, 2.0], [2, 2])),
            Case("copies of two", ([0.5, -1.0, 3.0], [2, 0])),
        ),
        random_case=_random_growth,
        known_wrong=(
            KnownWrong(_plain_copies, "these copies share nothing: each still has the mass of the original"),
            KnownWrong(_only_new_ones_pay, "the expert that was copied must lose as much as its copies"),
            KnownWrong(_always_two, "an expert copied twice is three in all: log 3"),
        ),
    ),
    Exercise(
        id="L14.5",
        title="routing drift",
        reference=drift,
        agrees_with="cllab.isolation.routing_drift",
        hint="for each token count the experts of before that are in after; all counts over all assignments; 1 minus",
        cases=(
            Case("the same two, swapped", ([[0, 1]], [[1, 0]])),
            Case("one of four stays", ([[0, 1], [1, 2]], [[1, 3], [3, 4]])),
            Case("top-1", ([[0], [2], [2]], [[0], [3], [2]])),
        ),
        random_case=_random_routes,
        known_wrong=(
            KnownWrong(_slot_by_slot, "a token's experts have no order here: 0, 1 and 1, 0 are the same"),
            KnownWrong(_tokens_that_changed, "count assignments, not tokens: half of a token may stay"),
            KnownWrong(_what_stayed, "that is what stayed; drift is what moved"),
        ),
    ),
    Exercise(
        id="L14.6",
        title="follow a text",
        reference=follow,
        agrees_with='cllab.isolation.mixture_weights(prior="updating")',
        hint="store the average first; then posterior = average * exp(L) / sum; then average it in",
        cases=(
            Case("one token", ([[math.log(0.8), math.log(0.2)]], 0.3)),
            Case("a change after two tokens", (CHANGING, 0.3)),
            Case("quick", (CHANGING, 0.9)),
        ),
        random_case=_random_text,
        known_wrong=(
            KnownWrong(_looks_ahead, "row t must not know token t: store the average before you update it"),
            KnownWrong(_turned_decay, "decay is the share of the newest posterior, not of the old average"),
            KnownWrong(
                _forgets_the_prior, "each posterior starts from the average: multiply by it before you normalise"
            ),
        ),
    ),
)
