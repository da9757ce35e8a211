"""The job: it pulls, pauses, steps, stops, shares the processor, and gives up when nobody looks any more."""

import threading
import time

import pytest

from labs.job import PATIENCE, UNWATCHED, Hold, Job, Slots, sentence, slots


def numbers(delay: float = 0.001, end: int | None = None, closed: list | None = None):
    """A generator of 0, 1, 2, ...; notes in `closed` that it was closed."""
    try:
        n = 0
        while end is None or n < end:
            time.sleep(delay)
            yield n
            n += 1
        return "all done"
    finally:
        if closed is not None:
            closed.append(True)


def iter_after(seconds):
    time.sleep(seconds)
    yield 0


def until(true, seconds: float = 10.0) -> bool:
    """Wait until true() holds; whether it ever did."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if true():
            return True
        time.sleep(0.005)
    return False


@pytest.fixture
def start():
    """Function that makes a job; all of them are ended after the test."""
    made = []

    def make(source, **options) -> Job:
        made.append(Job(source, **options))
        return made[-1]

    yield make
    for job in made:
        job.stop(wait=10)
        assert not job.thread.is_alive()


def settled(job: Job) -> int:
    """How many items a paused job has, once the one under way is in."""
    assert until(lambda: job.state == "paused")
    time.sleep(0.1)
    return len(job.items)


def test_a_job_pulls_to_the_end(start):
    job = start(lambda: numbers(end=5))
    assert until(lambda: job.ended)
    assert (job.state, job.items, job.result, job.error, job.ended_by) == (
        "finished",
        [0, 1, 2, 3, 4],
        "all done",
        "",
        "",
    )


def test_pause_freezes_and_go_goes_on(start):
    job = start(numbers)
    assert until(lambda: len(job.items) > 3)
    job.pause()
    frozen = settled(job)
    time.sleep(0.2)
    assert len(job.items) == frozen
    job.go()
    assert until(lambda: len(job.items) > frozen + 3)
    assert job.state == "running"


def test_pause_returns_when_the_item_under_way_is_in(start):
    def slow():
        for number in range(1000):
            time.sleep(0.15)
            yield number

    job = start(slow)
    assert until(lambda: len(job.items) == 1)
    time.sleep(0.05)  # the second item is under way
    job.pause()
    assert len(job.items) == 2
    time.sleep(0.3)
    assert len(job.items) == 2


def test_pause_does_not_wait_long_for_an_item(start):
    job = start(lambda: iter_after(0.6))
    started = time.monotonic()
    job.pause(wait=0.1)
    assert time.monotonic() - started < 0.5 and job.items == []


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_adds_one(start, steps):
    job = start(numbers)
    assert until(lambda: len(job.items) > 3)
    job.pause()
    frozen = settled(job)
    for _ in range(steps):
        job.step()
    assert until(lambda: len(job.items) == frozen + steps)
    assert settled(job) == frozen + steps


def test_a_step_while_running_pauses(start):
    job = start(numbers)
    assert until(lambda: len(job.items) > 3)
    job.step()
    assert job.state == "paused"
    assert settled(job) == settled(job)


@pytest.mark.parametrize("paused", [False, True])
def test_stop_ends_the_thread_and_closes_the_generator(start, paused):
    closed = []
    job = start(lambda: numbers(closed=closed))
    assert until(lambda: job.items)
    if paused:
        job.pause()
    job.stop(wait=10)
    assert not job.thread.is_alive()
    assert (job.state, job.ended_by, closed) == ("stopped", "", [True])


def test_a_job_that_nobody_polls_ends(start):
    closed = []
    job = start(lambda: numbers(closed=closed), patience=0.3)
    for _ in range(5):  # polled: it lives on well beyond its patience
        time.sleep(0.1)
        assert job.poll() == "running"
    assert until(lambda: not job.thread.is_alive(), 5)
    assert (job.state, job.ended_by, closed) == ("stopped", UNWATCHED, [True])


def test_a_paused_job_that_nobody_polls_ends_too(start):
    job = start(numbers, patience=0.3)
    job.pause()
    assert until(lambda: not job.thread.is_alive(), 5)
    assert job.ended_by == UNWATCHED


def test_the_patience_of_a_page_is_five_seconds(start):
    assert PATIENCE == 5.0
    assert start(numbers).patience == 5.0


def test_an_error_becomes_a_sentence(start):
    def broken():
        yield 1
        raise ValueError("epochs must be at least 1, got 0")

    job = start(broken)
    assert until(lambda: job.ended)
    assert (job.state, job.items, job.error) == ("failed", [1], "Epochs must be at least 1, got 0.")


def test_an_error_before_the_first_item_becomes_a_sentence(start):
    def broken():
        raise FileNotFoundError("MNIST is not on this machine")

    job = start(broken)
    assert until(lambda: job.ended)
    assert job.error == "MNIST is not on this machine."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "No."),
        (ValueError("what now?"), "What now?"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "The device ran out of memory."),
        (MemoryError(), "The device ran out of memory."),
        (KeyError("x"), "KeyError: 'x'."),
        (ValueError(""), "No further details."),
    ],
)
def test_sentences(error, text):
    assert sentence(error).startswith(text)


def test_only_unforeseen_errors_reach_the_log(caplog):
    sentence(ValueError("the visitor's mistake"))
    assert not caplog.records
    sentence(KeyError("ours"))
    assert caplog.records


def test_pace_limits_the_items(start):
    job = start(lambda: numbers(delay=0), pace=50)
    time.sleep(0.5)
    assert 3 <= len(job.items) <= 35
    job.pace = None
    assert until(lambda: len(job.items) > 200)


def test_a_hold_pauses_for_its_seconds(start):
    def waits():
        yield "before"
        yield Hold(0.4)
        yield "after"

    started = time.monotonic()
    job = start(waits)
    assert until(lambda: job.state == "paused")
    assert 0 < job.hold_seconds <= 0.4
    assert until(lambda: job.ended)
    assert job.items == ["before", "after"]
    assert time.monotonic() - started >= 0.4


def test_a_hold_ends_when_told_to_go_and_lasts_when_told_to_pause(start):
    def waits():
        yield Hold(30)
        yield "after"

    job = start(waits)
    assert until(lambda: job.state == "paused")
    job.pause()
    assert job.hold_seconds is None and job.state == "paused"
    job.go()
    assert until(lambda: job.items == ["after"])


def test_slots_let_so_many_in_and_serve_in_order():
    gate, order = Slots(1), []
    assert gate.take(lambda: False, lambda _: None)

    def worker(name: int) -> None:
        gate.take(lambda: False, lambda _: None)
        order.append(name)
        time.sleep(0.01)
        gate.give_back()

    threads = []
    for name in range(4):
        threads.append(threading.Thread(target=worker, args=(name,)))
        threads[-1].start()
        assert until(lambda name=name: len(gate._line) == name + 1)
    assert order == []
    gate.give_back()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3] and gate.free == 1


def test_who_no_longer_wants_a_slot_leaves_the_line():
    gate = Slots(1)
    gate.take(lambda: False, lambda _: None)
    assert not gate.take(lambda: True, lambda _: None)
    gate.give_back()
    assert gate.take(lambda: False, lambda _: None)


def test_a_job_without_a_slot_says_that_it_is_queued(start):
    gate = slots("cpu")
    taken = 0
    while gate.free:
        gate.take(lambda: False, lambda _: None)
        taken += 1
    job = start(numbers)
    try:
        assert until(lambda: job.poll() == "queued")
        assert job.items == []
    finally:
        for _ in range(taken):
            gate.give_back()
    assert until(lambda: job.poll() == "running" and job.items)


def test_two_jobs_share_one_slot(start):
    one, two = start(lambda: numbers(0.005), device="cuda"), start(lambda: numbers(0.005), device="cuda:0")
    assert until(lambda: min(len(one.items), len(two.items)) > 20)
    assert abs(len(one.items) - len(two.items)) < 10
