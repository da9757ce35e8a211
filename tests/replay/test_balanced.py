"""The class-balanced memory: equal quotas, the earliest rows of each class, never more than capacity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cllab.replay import ClassBalanced, balanced_slots, class_quotas


def filled(buffer, labels, batch=7):
    """`buffer` after rows numbered 0, 1, ... with these labels, in batches."""
    y = torch.as_tensor(labels)
    for start in range(0, len(y), batch):
        stop = min(start + batch, len(y))
        buffer.add(torch.arange(start, stop), y[start:stop])
    return buffer


@pytest.mark.parametrize(
    ("capacity", "classes", "leftover", "expected"),
    [
        (9, [0, 1, 2], "empty", {0: 3, 1: 3, 2: 3}), (10, [2, 0, 1], "empty", {0: 3, 1: 3, 2: 3}),
        (10, [2, 0, 1], "lowest", {0: 4, 1: 3, 2: 3}), (11, [5, 7, 3], "lowest", {3: 4, 5: 4, 7: 3}),
        (3, [0, 1, 2], "lowest", {0: 1, 1: 1, 2: 1}), (7, [4], "empty", {4: 7}),
    ],
)  # fmt: skip
def test_quotas(capacity, classes, leftover, expected):
    assert class_quotas(capacity, classes, leftover) == expected


def test_more_classes_than_slots():
    with pytest.raises(ValueError, match="capacity"):
        class_quotas(2, [0, 1, 2])
    buffer = filled(ClassBalanced(3), [0, 1, 1, 0])
    before = buffer.state_dict()
    for batch in ([2, 3], [0, 5, 6, 7]):
        with pytest.raises(ValueError, match="capacity must be at least the number of classes"):
            buffer.add(torch.arange(len(batch)), torch.tensor(batch))
    assert buffer.n_seen == 4 and buffer.x.tolist() == before["columns"]["x"].tolist()
    new = ClassBalanced(1)
    with pytest.raises(ValueError, match="capacity"):
        new.add(torch.ones(2), torch.tensor([0, 1]))
    new.add(torch.ones(2, 5), torch.tensor([0, 0]))  # the refused batch has not fixed the shape
    assert len(new) == 1


def test_a_new_class_cuts_the_others_to_their_first_rows():
    buffer = filled(ClassBalanced(6), [0] * 10)
    assert buffer.x.tolist() == [0, 1, 2, 3, 4, 5]
    buffer.add(torch.tensor([10]), torch.tensor([1]))
    assert sorted(buffer.x.tolist()) == [0, 1, 2, 10] and buffer.y.tolist() == [0, 0, 0, 1]
    buffer.add(torch.arange(11, 20), torch.tensor([1] * 9))
    assert sorted(buffer.x.tolist()) == [0, 1, 2, 10, 11, 12]
    buffer.add(torch.tensor([20, 21, 22, 23]), torch.tensor([0, 2, 2, 2]))
    assert sorted(buffer.x.tolist()) == [0, 1, 10, 11, 21, 22]


def test_kept_rows_do_not_move():
    where, free = {}, []
    assert balanced_slots([0, 0, 0, 0, 0], 4, where, free) == [0, 1, 2, 3, -1]
    assert balanced_slots([1, 0, 1, 1], 4, where, free) == [2, -1, 3, -1]
    assert where == {0: [0, 1], 1: [2, 3]} and free == []
    assert balanced_slots([7], 4, where, free) == [1]
    assert where == {0: [0], 1: [2], 7: [1]} and free == [3]


def slow(labels, K, leftover):
    """Lists per class, cut at every row as the quota says: the definition, row by row."""
    lists: dict[int, list[int]] = {}
    for row, c in enumerate(labels):
        lists.setdefault(c, []).append(row)
        t = len(lists)
        for rank, k in enumerate(sorted(lists)):
            m = K // t + (leftover == "lowest" and rank < K % t)
            lists[k] = lists[k][:m]
    return lists


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=50), K=st.integers(6, 20), batch=st.integers(1, 20),
    leftover=st.sampled_from(["empty", "lowest"]),
)  # fmt: skip
def test_against_lists(labels, K, batch, leftover):
    buffer = filled(ClassBalanced(K, leftover=leftover), labels, batch)
    lists = slow(labels, K, leftover)
    for c, rows in lists.items():
        assert sorted(buffer.x[buffer.y == c].tolist()) == rows
    assert len(buffer) == sum(len(rows) for rows in lists.values()) <= K


def test_leftover_slots():
    labels = [0] * 20 + [1] * 20 + [2] * 20
    assert filled(ClassBalanced(10), labels).y.bincount().tolist() == [3, 3, 3]
    assert filled(ClassBalanced(10, leftover="lowest"), labels).y.bincount().tolist() == [4, 3, 3]
    assert filled(ClassBalanced(11, leftover="lowest"), labels[::-1]).y.bincount().tolist() == [4, 4, 3]
    with pytest.raises(ValueError, match="leftover"):
        ClassBalanced(10, leftover="highest")


def keeping_the_last(labels, K):
    lists: dict[int, list[int]] = {}
    for row, c in enumerate(labels):
        lists.setdefault(c, []).append(row)
        lists = {k: rows[-(K // len(lists)) :] for k, rows in lists.items()}
    return lists


def rounding_up(labels, K):
    lists: dict[int, list[int]] = {}
    for row, c in enumerate(labels):
        lists.setdefault(c, []).append(row)
        lists = {k: rows[: -(-K // len(lists))] for k, rows in lists.items()}
    return lists


def test_wrong_variants_are_told_apart():
    labels = [0] * 8 + [1] * 8 + [2] * 8
    right = slow(labels, 10, "empty")
    assert right == {0: [0, 1, 2], 1: [8, 9, 10], 2: [16, 17, 18]}
    assert keeping_the_last(labels, 10) != right
    assert sum(len(rows) for rows in rounding_up(labels, 10).values()) == 12  # more than K
