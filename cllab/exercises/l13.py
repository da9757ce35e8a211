"""Exercises of lesson 13, mixture of experts and load balancing."""

import torch
from torch import Tensor

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.isolation import balance_loss, biased_choice, route, updated_bias
from cllab.isolation.noise import stay_probability

TITLE = "Mixture of experts and load balancing"

FOUR = [[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]]
BELOW_ONE = [[0.34, 0.33, 0.33], [0.34, 0.33, 0.33], [0.0, 0.99, 0.01], [0.0, 0.01, 0.99]]
# two batches of two tokens; the second batch is the first again
TWICE = [[[0.9, 0.8, 0.3], [0.6, 0.5, 0.1]], [[0.9, 0.8, 0.3], [0.6, 0.5, 0.1]]]


def serve(P: list[list[float]], C: int) -> list[int]:
    """The expert of each token with k = 1 and C places per expert, the surest tokens first; -1: dropped."""
    routing = route(_tensor(P).log(), 1, capacity=C, priority="probability")
    return torch.where(routing.kept, routing.expert, -1)[:, 0].tolist()


def stays(clean: list[float], noisy: list[float], sigma: float, k: int) -> list[float]:
    """For each expert of one token: how likely it is among the k best if its noise alone is drawn again."""
    clean, noisy = _tensor([clean]), _tensor([noisy])
    return stay_probability(clean, noisy, torch.full_like(clean, sigma), k)[0].tolist()


def switch_loss(P: list[list[float]], k: int) -> float:
    """E * sum_e f_e Pbar_e for router probabilities P [N][E]."""
    logits = _tensor(P).log()
    return balance_loss("switch", logits, route(logits, k)).item()


def loss_free(batches: list[list[list[float]]], gamma: float) -> list[list[float]]:
    """[b after the last batch, weights of the last batch's tokens]; batches of gate values s [N][E], k = 1."""
    return _loss_free(batches, gamma)


def _tensor(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _served_in_turn(P, C, overflow="drop") -> list[int]:
    routing = route(_tensor(P).log(), 1, capacity=C, overflow=overflow)
    return torch.where(routing.kept, routing.expert, -1)[:, 0].tolist()


def _as_served(P, C) -> list[int]:
    order = sorted(range(len(P)), key=lambda n: -max(P[n]))
    return [serve(P, C)[n] for n in order]


def _one_threshold(clean, noisy, sigma, k) -> list[float]:
    threshold = sorted(noisy)[-k]
    return torch.special.ndtr((_tensor(clean) - threshold) / sigma).tolist()


def _parts(P, k) -> tuple[Tensor, Tensor]:
    """f (share of tokens, [E]) and mean probability [E]."""
    p = _tensor(P)
    load = torch.bincount(p.argsort(dim=1, descending=True, stable=True)[:, :k].flatten(), minlength=p.shape[1])
    return load / len(p), p.mean(dim=0)


def _loss_free(batches, gamma, update=updated_bias, weights_with_bias=False) -> list[list[float]]:
    b = torch.zeros(len(batches[0][0]), dtype=torch.float64)
    for batch in batches:
        s = _tensor(batch)
        expert, weight = biased_choice(s, b, 1)
        if weights_with_bias:
            weight = (s + b).gather(1, expert)
        b = update(b, torch.bincount(expert[:, 0], minlength=len(b)), gamma)
    return [b.tolist(), weight[:, 0].tolist()]


def _towards_the_busy(b: Tensor, load: Tensor, gamma: float) -> Tensor:
    return b + gamma * (load - load.double().mean()).sign()


def _by_the_gap(b: Tensor, load: Tensor, gamma: float) -> Tensor:
    return b + gamma * (load.double().mean() - load)


def _random_probabilities(generator: torch.Generator, n: int = 6) -> list[list[float]]:
    return (2 * torch.randn(n, 3, generator=generator, dtype=torch.float64)).softmax(dim=1).tolist()


def _random_stays(generator: torch.Generator) -> tuple:
    clean = torch.randn(4, generator=generator, dtype=torch.float64)
    noisy = clean + torch.randn(4, generator=generator, dtype=torch.float64)
    return clean.tolist(), noisy.tolist(), 0.7, int(torch.randint(1, 4, (1,), generator=generator))


def _random_batches(generator: torch.Generator) -> tuple:
    return torch.rand(4, 5, 3, generator=generator, dtype=torch.float64).tolist(), 0.2


EXERCISES = (
    Exercise(
        id="L13.1",
        title="two weights",
        reference=(7 / 9, 2 / 9),
        agrees_with="the worked example",
        hint="the two largest probabilities of the row, each divided by their sum",
        known_wrong=(
            KnownWrong((0.7, 0.2), "these are probabilities over all three experts: scaled, the two must sum to 1"),
            KnownWrong((0.875, 0.125), "you took the first two experts of the list, not the two most probable"),
            KnownWrong(
                (0.6224593312018546, 0.3775406687981454),
                "you took a softmax of probabilities: softmax wants scores, which are their logarithms",
            ),
        ),
    ),
    Exercise(
        id="L13.2",
        title="who finds a place",
        reference=serve,
        agrees_with="cllab.isolation.route",
        hint="visit the tokens by their largest probability, highest first; count the places that are taken",
        cases=(
            Case("four tokens, two places", (FOUR, 2)),
            Case("one place each", (FOUR, 1)),
            Case("room for all", (FOUR, 4)),
        ),
        random_case=lambda generator: (_random_probabilities(generator), 2),
        known_wrong=(
            KnownWrong(_served_in_turn, "you served the tokens in their order; here the surest come first"),
            KnownWrong(
                lambda P, C: _served_in_turn(P, C, "reroute"),
                "you sent a token on to its next choice: here it is dropped",
            ),
            KnownWrong(_as_served, "you returned the tokens in the order of service: entry n is for token n"),
        ),
    ),
    Exercise(
        id="L13.3",
        title="the smooth load",
        reference=stays,
        agrees_with="cllab.isolation.noise.stay_probability",
        hint="for expert i: m is the k-th largest noisy score of the others; Phi((clean[i] - m) / sigma)",
        cases=(
            Case("the worked example", ([1.0, 0.5, 0.0], [1.2, 0.3, 0.1], 0.5, 1)),
            Case("k = 2", ([1.0, 0.5, 0.0], [1.2, 0.3, 0.1], 0.5, 2)),
            Case("another leads by chance", ([1.0, 0.5, 0.0], [0.2, 0.9, 0.1], 0.5, 1)),
        ),
        random_case=_random_stays,
        known_wrong=(
            KnownWrong(
                _one_threshold, "you compared all with one threshold: an expert among the best has itself to beat there"
            ),
            KnownWrong(
                lambda clean, noisy, sigma, k: stays(noisy, noisy, sigma, k),
                "you put the noisy score into Phi: its noise is drawn again, so start from the clean one",
            ),
            KnownWrong(
                lambda clean, noisy, sigma, k: stays(clean, clean, sigma, k),
                "you took the clean scores of the others: they keep the noise that they have drawn",
            ),
        ),
    ),
    Exercise(
        id="L13.4",
        title="the Switch loss",
        reference=switch_loss,
        agrees_with='cllab.isolation.balance_loss("switch", ...)',
        hint="f: assignments of each expert over N; Pbar: column means of P; return E * sum f * Pbar",
        cases=(
            Case("four tokens, k = 1", (FOUR, 1)),
            Case("four tokens, k = 2", (FOUR, 2)),
            Case("collapse", ([[1.0, 0.0, 0.0]] * 2, 1)),
            Case("f and Pbar disagree", (BELOW_ONE, 1)),
        ),
        random_case=lambda generator: (_random_probabilities(generator), 2),
        known_wrong=(
            KnownWrong(
                lambda P, k: len(P[0]) * (_parts(P, k)[1] ** 2).sum().item(),
                "you squared the mean probability: one factor is the share of tokens really sent",
            ),
            KnownWrong(
                lambda P, k: (_parts(P, k)[0] * _parts(P, k)[1]).sum().item(),
                "you left out E: uniform routing should give 1 for k = 1, whatever E is",
            ),
            KnownWrong(
                lambda P, k: len(P) * switch_loss(P, k),
                "you used counts: divide the load by N, so that the batch size does not matter",
            ),
        ),
    ),
    Exercise(
        id="L13.5",
        title="balance without a loss",
        reference=loss_free,
        agrees_with="cllab.isolation.biased_choice and updated_bias",
        hint="choose by s + b, weigh by s; after each batch b += gamma * sign(mean load - load)",
        cases=(
            Case("one batch", (TWICE[:1], 0.06)),
            Case("the same batch again", (TWICE, 0.06)),
            Case("no step", (TWICE, 0.0)),
        ),
        random_case=_random_batches,
        known_wrong=(
            KnownWrong(
                lambda batches, gamma: _loss_free(batches, gamma, weights_with_bias=True),
                "your weights contain b: it takes part in the choice and nowhere else",
            ),
            KnownWrong(
                lambda batches, gamma: _loss_free(batches, gamma, _towards_the_busy),
                "your sign is the wrong way round: a busy expert must lose bias",
            ),
            KnownWrong(
                lambda batches, gamma: _loss_free(batches, gamma, _by_the_gap),
                "you moved b by the gap itself: only its sign counts, every step is gamma or 0",
            ),
        ),
    ),
)
