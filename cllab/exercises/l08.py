"""Exercises of lesson 08, Learning without forgetting: temperature, gradients, masks, old heads, language models."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cllab.exercises.exercise import Case, Exercise, KnownWrong
from cllab.regularization import distillation_loss

TITLE = "Learning without forgetting"

CAT = [7.377759, 4.394449, 0.0]  # at T = 2 they give 80, 18 and 2 percent
PAIRS = [[0, 1], [2, 3], [4, 5]]
TOKENS = torch.arange(18, dtype=torch.float64).reshape(2, 3, 3)
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def soften(z: list[float], T: float) -> list[float]:
    """softmax(z / T): the largest logit is subtracted first, so that no power overflows."""
    powers = [math.exp((value - max(z)) / T) for value in z]
    return [power / sum(powers) for power in powers]


def pull(z_stu: list[float], z_tea: list[float], T: float) -> list[float]:
    """Gradient of T^2 KL(q || p) with respect to z_stu: T (p - q)."""
    return [T * (p - q) for p, q in zip(soften(z_stu, T), soften(z_tea, T), strict=True)]


def token_loss(student: Tensor, teacher: Tensor, mask: Tensor, T: float) -> float:
    """T^2 times the mean KL of the positions where the mask is 1."""
    return float(distillation_loss(student, teacher, T, mask=mask))


def columns(tasks: list[list[int]], t: int, scenario: str) -> list[list[int]]:
    """Which output columns form a softmax of their own in the teacher, before task t (counted from 0) is learned."""
    if scenario == "task":
        return tasks[:t]
    earlier = sorted({c for classes in tasks[:t] for c in classes})
    return [earlier] if earlier else []


def language_loss(student: Tensor, teacher: Tensor, tokens: Tensor, mask: Tensor, T: float) -> float:
    """CE + T^2 KL of a causal language model: position s is judged by token s + 1, and counts if that is not masked."""
    return _language(student, teacher, tokens, mask, T)


def _token_kl(student, teacher, T):
    ln_q, ln_p = (teacher / T).log_softmax(dim=-1), (student / T).log_softmax(dim=-1)
    return (ln_q.exp() * (ln_q - ln_p)).sum(dim=-1)


def _per_sequence(student, teacher, mask, T):
    return float(T**2 * (mask * _token_kl(student, teacher, T)).sum() / len(student))


def _language(student, teacher, tokens, mask, T, shift=True, kl_mask=True) -> float:
    if shift:
        student, teacher, tokens, mask = student[:, :-1], teacher[:, :-1], tokens[:, 1:], mask[:, 1:]
    kept = mask.bool()
    kl = distillation_loss(student, teacher, T, mask=mask if kl_mask else None)
    return float(F.cross_entropy(student[kept], tokens[kept]) + kl)


def _logits(generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _temperature(generator: torch.Generator) -> float:
    return 0.5 + 4 * torch.rand(1, generator=generator, dtype=torch.float64).item()


def _random_row(generator: torch.Generator) -> tuple:
    return _logits(generator, 4).tolist(), _temperature(generator)


def _random_rows(generator: torch.Generator) -> tuple:
    return _logits(generator, 4).tolist(), _logits(generator, 4).tolist(), _temperature(generator)


def _random_tokens(generator: torch.Generator) -> tuple:
    mask = torch.randint(0, 2, (2, 4), generator=generator)
    mask[0, 0], mask[1, 3] = 1, 0  # never all of them, never none
    return _logits(generator, 2, 4, 3), _logits(generator, 2, 4, 3), mask, _temperature(generator)


def _random_tasks(generator: torch.Generator) -> tuple:
    order = torch.randperm(6, generator=generator)
    tasks = [sorted(pair) for pair in order.reshape(3, 2).tolist()]
    scenario = ("task", "class")[int(torch.randint(2, (1,), generator=generator))]
    return tasks, int(torch.randint(1, 3, (1,), generator=generator)), scenario


def _random_language(generator: torch.Generator) -> tuple:
    student, teacher, mask, T = _random_tokens(generator)
    mask[:, 1] = 1
    return student, teacher, torch.randint(0, 3, (2, 4), generator=generator), mask, T


EXERCISES = (
    Exercise(
        id="L08.1",
        title="how many times more likely",
        reference=1600,
        agrees_with="40 squared",
        hint="the ratio of two probabilities is exp((z_a - z_b) / T): halving T doubles the exponent",
        known_wrong=(
            KnownWrong(80, "halving T doubles the exponent, not the ratio: square the ratio"),
            KnownWrong(40, "that is the ratio at T = 2; at T = 1 the same logits are further apart"),
            KnownWrong(math.sqrt(40), "that is the ratio at T = 4: you went the wrong way, T falls from 2 to 1"),
        ),
    ),
    Exercise(
        id="L08.2",
        title="soften",
        reference=soften,
        agrees_with="torch.softmax(z / T)",
        hint="exp((z - max z) / T), then divide by the sum",
        cases=(
            Case("cat, lion, elephant", (CAT, 2.0)),
            Case("colder", (CAT, 1.0)),
            Case("large logits", ([1000.0, 998.0, 0.0], 2.0)),
        ),
        random_case=_random_row,
        known_wrong=(
            KnownWrong(
                lambda z, T: soften([T * value for value in z], 1.0),
                "you multiplied by T: a higher temperature must make the answer flatter, not sharper",
            ),
            KnownWrong(
                lambda z, T: [p / T for p in soften(z, 1.0)],
                "you divided the probabilities by T: they no longer sum to 1; divide the logits",
            ),
            KnownWrong(
                lambda z, T: [p ** (1 / T) for p in soften(z, 1.0)],
                "powers of probabilities do not sum to 1 any more: divide by their sum",
            ),
        ),
    ),
    Exercise(
        id="L08.3",
        title="which way the student is pulled",
        reference=pull,
        agrees_with="autograd through cllab.regularization.distillation_loss",
        hint="KL has the gradient (p - q) / T; then the factor of the loss",
        cases=(
            Case("the worked example", ([1.0, 1.0, 0.0], [4.0, 2.0, 0.0], 2.0)),
            Case("T = 1", ([1.0, 1.0, 0.0], [4.0, 2.0, 0.0], 1.0)),
            Case("a student that agrees", ([5.0, 3.0, 1.0], [4.0, 2.0, 0.0], 3.0)),
        ),
        random_case=_random_rows,
        known_wrong=(
            KnownWrong(
                lambda z_stu, z_tea, T: [value / T**2 for value in pull(z_stu, z_tea, T)],
                "that is the gradient of KL alone: the loss is T^2 times that",
            ),
            KnownWrong(
                lambda z_stu, z_tea, T: [-value for value in pull(z_stu, z_tea, T)],
                "you have q - p, the direction of the step; the gradient points the other way",
            ),
            KnownWrong(
                lambda z_stu, z_tea, T: [
                    T * (p - q) for p, q in zip(soften(z_stu, 1.0), soften(z_tea, T), strict=True)
                ],
                "the student's softmax has the temperature T, too",
            ),
        ),
    ),
    Exercise(
        id="L08.4",
        title="tokens that count",
        reference=token_loss,
        agrees_with="cllab.regularization.distillation_loss(..., mask=mask)",
        hint="one KL per position, summed where the mask is 1, divided by the number of ones, times T**2",
        cases=(
            Case("the worked example", (TOKENS.sin(), TOKENS.cos(), MASK, 2.0)),
            Case("T = 1", (TOKENS.sin(), TOKENS.cos(), MASK, 1.0)),
        ),
        random_case=_random_tokens,
        known_wrong=(
            KnownWrong(
                lambda student, teacher, mask, T: float(distillation_loss(student, teacher, T)),
                "you counted masked positions, too",
            ),
            KnownWrong(
                _per_sequence,
                "you divided by the number of sequences: the loss grows with their length; divide by mask.sum()",
            ),
            KnownWrong(
                lambda student, teacher, mask, T: token_loss(student, teacher, mask, T) / T**2,
                "the factor T**2 is missing",
            ),
        ),
    ),
    Exercise(
        id="L08.5",
        title="whose answers are kept",
        reference=columns,
        agrees_with="cllab.regularization.lwf.old_heads",
        hint="only tasks before t; task-incremental keeps them apart, class-incremental makes one list of them",
        cases=(
            Case("task-incremental, third task", (PAIRS, 2, "task")),
            Case("class-incremental, third task", (PAIRS, 2, "class")),
            Case("the first task", (PAIRS, 0, "class")),
        ),
        random_case=_random_tasks,
        known_wrong=(
            KnownWrong(
                lambda tasks, t, scenario: columns(tasks, t + 1, scenario),
                "the new classes are in: nobody has taught the old network what to say about them",
            ),
            KnownWrong(
                lambda tasks, t, scenario: columns(tasks[max(t - 1, 0) : t], min(t, 1), scenario),
                "you kept the last task only: the older ones are forgotten first",
            ),
            KnownWrong(
                lambda tasks, t, scenario: columns(tasks, t, "class"),
                "in the task-incremental scenario every old task has a softmax of its own",
            ),
        ),
    ),
    Exercise(
        id="L08.6",
        title="a language model",
        reference=language_loss,
        agrees_with="cllab.regularization.distillation_loss and cross-entropy after the shift",
        hint="drop the last position of both logits and the first of tokens and mask, then keep where the mask is 1",
        cases=(
            Case("six tokens", (TOKENS.sin(), TOKENS.cos(), torch.tensor([[0, 1, 2], [2, 0, 1]]),
                                torch.tensor([[1, 1, 1], [1, 1, 0]]), 2.0)),
            Case("T = 1", (TOKENS.cos(), TOKENS.sin(), torch.tensor([[1, 1, 2], [0, 2, 2]]),
                           torch.tensor([[1, 1, 0], [1, 1, 1]]), 1.0)),
        ),
        random_case=_random_language,
        known_wrong=(
            KnownWrong(
                lambda student, teacher, tokens, mask, T: _language(student, teacher, tokens, mask, T, shift=False),
                "position s predicts token s + 1: without the shift the model is taught to copy its input",
            ),
            KnownWrong(
                lambda student, teacher, tokens, mask, T: _language(student, teacher, tokens, mask, T, kl_mask=False),
                "the mask belongs to both terms: you averaged the KL over padding as well",
            ),
        ),
    ),
)  # fmt: skip
