"""Exercises of lesson 12: LoRA, adapters, prompts."""

import torch

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.isolation.lora_merge import Factors, average_factors, merge_lora
from cllab.isolation.olora import overlap as overlap_of_two
from cllab.isolation.selector import nearest_centroid

TITLE = "LoRA, adapters, prompts: small modules for new tasks"

Matrix = list[list[float]]
E1, E2 = ([[1.0, 0.0]], [[1.0], [0.0]], 1.0), ([[0.0, 1.0]], [[0.0], [1.0]], 1.0)
FIRST = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
SECOND = [[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
CENTROIDS = [[[0.0, 1.0], [10.0, 1.0]], [[5.0, 1.0]]]


def merged(adapters: list[tuple[Matrix, Matrix, float]], weights: list[float]) -> Matrix:
    """sum_i w_i s_i B_i A_i for adapters (A, B, s)."""
    return merge_lora([_factors(adapter) for adapter in adapters], weights).delta.tolist()


def overlap(past: list[Matrix], A: Matrix) -> float:
    """sum_i sum_jk |A_i A^T|_jk over the earlier adapters A_i."""
    return sum((overlap_of_two(_matrix(A_i), _matrix(A)).item() for A_i in past), start=0.0)


def choose(phi: list[float], centroids: list[Matrix]) -> int:
    """The task whose nearest class centroid is nearest to phi."""
    owner = [task for task, mu in enumerate(centroids) for _ in mu]
    nearest = nearest_centroid(_matrix([phi]), torch.cat([_matrix(mu) for mu in centroids]))
    return owner[int(nearest)]


def rank_error(delta: Matrix, r: int) -> float:
    """||B A - delta|| / ||delta|| for the best B A of rank r."""
    delta = _matrix(delta)
    whole = Factors(torch.eye(delta.shape[1], dtype=delta.dtype), delta)
    return merge_lora([whole], [1.0], "svd", rank=r).error


def _averages_factors(adapters, weights):
    return average_factors([_factors(adapter) for adapter in adapters], weights).delta.tolist()


def _without_scale(adapters, weights):
    return merged([(A, B, 1.0) for A, B, _ in adapters], weights)


def _squares_weights(adapters, weights):
    return merged(adapters, [w**2 for w in weights])


def _squared(past, A):
    return sum(((_matrix(A_i) @ _matrix(A).T).square().sum().item() for A_i in past), start=0.0)


def _signed(past, A):
    return sum(((_matrix(A_i) @ _matrix(A).T).sum().item() for A_i in past), start=0.0)


def _last_only(past, A):
    return overlap(past[-1:], A)


def _mean_of_the_task(phi, centroids):
    return choose(phi, [_matrix(mu).mean(dim=0, keepdim=True).tolist() for mu in centroids])


def _place_in_the_list(phi, centroids):
    return int(nearest_centroid(_matrix([phi]), torch.cat([_matrix(mu) for mu in centroids])))


def _largest_product(phi, centroids):
    products = [max((_matrix(mu) @ _matrix([phi])[0]).tolist()) for mu in centroids]
    return products.index(max(products))


def _not_squared(delta, r):
    sigma = torch.linalg.svdvals(_matrix(delta))
    return (sigma[r:].sum() / sigma.sum()).item()


def _not_rooted(delta, r):
    return rank_error(delta, r) ** 2


def _what_is_kept(delta, r):
    return (1 - rank_error(delta, r) ** 2) ** 0.5


def _factors(adapter: tuple[Matrix, Matrix, float]) -> Factors:
    A, B, s = adapter
    return Factors(_matrix(A), _matrix(B), s)


def _matrix(values: Matrix) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _random(generator: torch.Generator, *shape: int) -> list:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).tolist()


def _random_adapters(generator: torch.Generator) -> tuple:
    scales = (0.5, 2.0, 1.0)
    adapters = [(_random(generator, 2, 4), _random(generator, 3, 2), s) for s in scales]
    return adapters, torch.rand(3, generator=generator, dtype=torch.float64).tolist()


def _random_overlap(generator: torch.Generator) -> tuple:
    return [_random(generator, 2, 5), _random(generator, 3, 5)], _random(generator, 2, 5)


def _random_choice(generator: torch.Generator) -> tuple:
    return _random(generator, 3), [_random(generator, 2, 3) for _ in range(4)]


def _random_cut(generator: torch.Generator) -> tuple:
    return _random(generator, 4, 5), int(torch.randint(1, 4, (1,), generator=generator))


EXERCISES = (
    Exercise(
        id="L12.1",
        title="the second gradient of A",
        reference=(-0.15, -0.3),
        agrees_with="the worked example",
        hint="first B^T g = -0.3 * 0.1 + 0.6 * (-0.2), one number; then that number times x",
        known_wrong=(
            KnownWrong((0.0, 0.0), "that was the first step: B is no longer zero"),
            KnownWrong((-1.5, -3.0), "g has changed with y: it is (0.1, -0.2) now"),
            KnownWrong((-0.15, -0.15), "the number B^T g is multiplied by x = (1, 2), not by A"),
        ),
    ),
    Exercise(
        id="L12.2",
        title="the same adapter in other clothes",
        reference=4 / 3,
        agrees_with="cllab.isolation.average_factors",
        hint="average the two B (what multiple of B?), average the two A, then multiply the two numbers",
        known_wrong=(
            KnownWrong(
                1.0, "the two changes are equal, and their average would be 1; but here the factors are averaged"
            ),
            KnownWrong(0.5, "you have B1 A1 and B2 A2, each with a quarter: B1 A2 and B2 A1 come in as well"),
            KnownWrong(2.0, "that is the average of the B alone: the average of the A is not A"),
        ),
    ),
    Exercise(
        id="L12.3",
        title="merge adapters",
        reference=merged,
        agrees_with="cllab.isolation.merge_lora",
        hint="for each adapter w * s * np.array(B) @ np.array(A), and add these up",
        cases=(
            Case("two units, half each", ([E1, E2], [0.5, 0.5])),
            Case("a scale", ([([[1.0, 2.0]], [[3.0], [4.0]], 2.0)], [1.0])),
            Case("a weight below zero", ([E1, ([[1.0, 1.0]], [[1.0], [1.0]], 0.5)], [1.0, -1.0])),
        ),
        random_case=_random_adapters,
        known_wrong=(
            KnownWrong(_averages_factors, "you averaged factors: multiply B and A of each adapter first, then add"),
            KnownWrong(_without_scale, "the scale s of each adapter is missing"),
            KnownWrong(_squares_weights, "each weight belongs into the sum once, not squared"),
        ),
    ),
    Exercise(
        id="L12.4",
        title="overlap",
        reference=overlap,
        agrees_with="cllab.isolation.overlap",
        hint="for each A_i in past: np.abs(np.array(A_i) @ np.array(A).T).sum(); add these up",
        cases=(
            Case("the worked example", ([FIRST], SECOND)),
            Case("two earlier adapters, one turned round", ([FIRST, [[-1.0, 0.0, -2.0, 0.0]]], SECOND)),
            Case("none yet", ([], SECOND)),
        ),
        random_case=_random_overlap,
        known_wrong=(
            KnownWrong(_squared, "absolute values, as in the authors' code, not squares"),
            KnownWrong(_signed, "take absolute values: products of opposite sign must not cancel"),
            KnownWrong(_last_only, "every earlier adapter counts, not the last one alone"),
        ),
    ),
    Exercise(
        id="L12.5",
        title="choose the task",
        reference=choose,
        agrees_with="cllab.isolation.nearest_centroid",
        hint="for each task the smallest distance to one of its centroids; then the task with the smallest of these",
        cases=(
            Case("left", ([1.0, 1.0], CENTROIDS)),
            Case("in the middle", ([5.0, 2.0], CENTROIDS)),
            Case("right", ([9.0, 1.0], CENTROIDS)),
            Case("small but near", ([1.0, 0.0], [[[1.0, 0.5]], [[9.0, 9.0]]])),
        ),
        random_case=_random_choice,
        known_wrong=(
            KnownWrong(_mean_of_the_task, "one mean for a whole task may lie where none of its classes is"),
            KnownWrong(_place_in_the_list, "return the task that owns the centroid, not the centroid's place"),
            KnownWrong(_largest_product, "near means a small distance, not a large inner product"),
        ),
    ),
    Exercise(
        id="L12.6",
        title="what a rank leaves out",
        reference=rank_error,
        agrees_with='cllab.isolation.merge_lora(how="svd")',
        hint="sigma = np.linalg.svd(delta, compute_uv=False); the squares of sigma[r:] over all squares; the root",
        cases=(
            Case("3 and 4", ([[3.0, 0.0], [0.0, 4.0]], 1)),
            Case("a change of rank 1", ([[1.0, 2.0], [2.0, 4.0]], 1)),
            Case("three directions", ([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]], 2)),
        ),
        random_case=_random_cut,
        known_wrong=(
            KnownWrong(_not_squared, "lengths add up in squares: square the singular values"),
            KnownWrong(_not_rooted, "that is the error squared: take the root"),
            KnownWrong(_what_is_kept, "that is what is kept; the error is what is left out"),
        ),
    ),
)
