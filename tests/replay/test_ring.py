"""Rings hold the last rows: exactly these, in exactly these slots."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cllab.replay import ClassRing, RingBuffer, class_ring_slots, ring_slots


def filled(buffer, labels, batch=7):
    """`buffer` after rows numbered 0, 1, ... with these labels, in batches."""
    y = torch.as_tensor(labels)
    for start in range(0, len(y), batch):
        stop = min(start + batch, len(y))
        buffer.add(torch.arange(start, stop), y[start:stop])
    return buffer


def test_slots_count_round():
    assert ring_slots(0, 7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert ring_slots(7, 3, 3).tolist() == [1, 2, 0]


def test_exact_content_after_wrapping_round():
    buffer = filled(RingBuffer(5), [0] * 12)
    assert buffer.x.tolist() == [10, 11, 7, 8, 9] and buffer.n_seen == 12
    assert filled(RingBuffer(5), [0] * 5).x.tolist() == [0, 1, 2, 3, 4]
    assert filled(RingBuffer(5), [0] * 3).x.tolist() == [0, 1, 2]
    assert filled(RingBuffer(1), [0] * 3).x.tolist() == [2]


def test_a_batch_larger_than_the_ring():
    assert filled(RingBuffer(5), [0] * 12, batch=12).x.tolist() == [10, 11, 7, 8, 9]


def test_three_tasks_of_200_leave_only_the_third():
    tasks = torch.arange(3).repeat_interleave(200)
    buffer = filled(RingBuffer(100), tasks, batch=32)
    assert buffer.y.bincount(minlength=3).tolist() == [0, 0, 100]
    assert sorted(buffer.x.tolist()) == list(range(500, 600))
    assert filled(ClassRing(33), tasks, batch=32).y.bincount().tolist() == [33, 33, 33]


class Restarting(RingBuffer):
    """The pointer starts anew with every batch: the error of ring pointers that are local variables."""

    def _slots(self, y):
        return ring_slots(0, len(y), self.capacity)


def test_a_pointer_that_restarts_is_found_out():
    assert filled(Restarting(5), [0] * 12, batch=7).x.tolist() != [10, 11, 7, 8, 9]


def test_class_ring_by_hand():
    where, seen = {}, {}
    assert class_ring_slots([4, 4, 1, 4], 2, where, seen) == [0, 1, 2, 0]
    assert where == {4: [0, 1], 1: [2]} and seen == {4: 3, 1: 1}
    assert class_ring_slots([1, 1, 9, 4], 2, where, seen) == [3, 2, 4, 1]


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), m=st.integers(1, 5), batch=st.integers(1, 20))
def test_class_ring_holds_the_last_rows_of_every_class(labels, m, batch):
    buffer = filled(ClassRing(m), labels, batch)
    last = {i for c in set(labels) for i in [i for i, y in enumerate(labels) if y == c][-m:]}
    assert set(buffer.x.tolist()) == last and len(buffer) == len(last)
    assert buffer.capacity == m * len(set(labels))


def test_a_class_ring_is_a_ring_within_the_class():
    buffer = filled(ClassRing(3), [0, 0, 0, 1, 0, 1])
    assert buffer.x.tolist() == [4, 1, 2, 3, 5]
    assert ClassRing(3).capacity == 0
