"""The references of lesson 02 against closed forms and against the library's other parts."""

import numpy as np
import pytest

from cllab.exercises import l02
from cllab.streams import digits, split


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_allowed_classes_is_the_rule_of_the_streams(scenario):
    groups = [[3, 7], [0, 1], [9, 2], [4, 5], [8, 6]]
    stream = split(digits(), groups, scenario=scenario)
    for seen in range(5):
        for task in range(seen + 1):
            mask = stream.allowed(task, seen=seen)
            assert l02.allowed_classes(scenario, groups, task, seen) == mask.nonzero().flatten().tolist()


def test_the_lessons_numbers():
    assert l02.plasticity(l02.R3) == pytest.approx((0.80 + 0.70 + 0.92) / 3)
    assert l02.forgetting_curve(l02.R3) == pytest.approx([-0.10, 0.075])
    assert l02.points_and_percent(0.95, 0.32) == pytest.approx([-63.0, -6300 / 95])
    assert l02.pooled_accuracy(l02.TWO_TASKS, [100, 300]) == pytest.approx((32 + 282) / 400)


def test_pooled_accuracy_is_accuracy_over_all_images():
    right = np.array([1] * 32 + [0] * 68 + [1] * 282 + [0] * 18)
    assert l02.pooled_accuracy(l02.TWO_TASKS, [100, 300]) == pytest.approx(right.mean())
