"""The references of lesson 14 against NumPy and loops."""

import math

import numpy as np
import pytest
import torch

from cllab.exercises import l14


def value_of(exercise_id):
    return next(exercise.reference for exercise in l14.EXERCISES if exercise.id == exercise_id)


def softmax(scores):
    e = np.exp(np.array(scores) - np.max(scores))
    return e / e.sum()


def test_what_a_new_row_takes_and_what_three_of_a_kind_pay():
    scores = np.log([0.6, 0.4])
    assert softmax([*scores, scores[0]])[2] == pytest.approx(value_of("L14.1"))
    three = scores[0] - value_of("L14.2")
    assert softmax([three, scores[1], three, three])[1] == pytest.approx(0.4)


def test_kl_by_loops():
    old, new = l14._random_kl(torch.Generator().manual_seed(0))
    rows = [sum(p * math.log(p / q) for p, q in zip(softmax(a), softmax(b))) for a, b in zip(old, new)]
    assert l14.kl(old, new) == pytest.approx(sum(rows) / len(rows))


def test_shared_copies_keep_the_mass_of_each_expert():
    scores, source = l14._random_growth(torch.Generator().manual_seed(0))
    mass = softmax(l14.grown_scores(scores, source))
    kept = [mass[e] + sum(mass[4 + i] for i, s in enumerate(source) if s == e) for e in range(4)]
    assert np.allclose(kept, softmax(scores))
    assert all(mass[4 + i] == pytest.approx(mass[s]) for i, s in enumerate(source))


def test_drift_with_sets():
    before, after = l14._random_routes(torch.Generator().manual_seed(2))
    stayed = sum(len(set(a) & set(b)) for a, b in zip(before, after))
    assert l14.drift(before, after) == pytest.approx(1 - stayed / 12)


def test_following_a_text_by_loops():
    L, decay = l14._random_text(torch.Generator().manual_seed(1))
    average, rows = np.full(3, 1 / 3), []
    for row in L:
        rows.append(average)
        posterior = average * np.exp(row)
        average = (1 - decay) * average + decay * posterior / posterior.sum()
    assert np.allclose(l14.follow(L, decay), rows)
