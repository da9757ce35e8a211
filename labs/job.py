"""A job pulls a generator in a thread of its own, so that a page can show how far it is, pause and stop it.

    job = Job(lambda: race(...), pace=100)   # at most 100 items a second
    job.poll()                               # from the page, a few times a second: "running", "paused", ...

The job ends when the generator does, on `stop`, on an error (which becomes a sentence) and when nobody has polled
for five seconds: a page that was closed cannot say so. It knows nothing of Streamlit.
"""

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

ENDED = ("finished", "stopped", "failed")
PATIENCE = 5.0  # seconds without a poll after which a job gives up
LONG_PATIENCE = 120.0  # the same while the visitor is known to be there: browsers slow down tabs in the background
UNWATCHED = "The run was stopped because its page was left."
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Hold:
    """An item with which a generator asks its job to pause by itself, for at most `seconds`."""

    seconds: float


class Job:
    """Pull the generator that `source()` makes, item by item.

    device: "cpu" or "cuda", whose slots the job waits for. pace: at most so many items a second (None: no limit),
    may be changed at any time. patience: seconds without `poll` after which the job ends; two minutes as long as
    `present()` says that the visitor is connected.

    items: what the generator has yielded so far. result: what it returned. error: a sentence when it failed.
    ended_by: a sentence when it was stopped by something else than `stop`.
    """

    def __init__(
        self,
        source: Callable[[], Generator],
        *,
        device: str = "cpu",
        pace: float | None = None,
        patience: float = PATIENCE,
        present: Callable[[], bool] = lambda: False,
    ):
        self.items: list[Any] = []
        self.result: Any = None
        self.error = ""
        self.ended_by = ""
        self.pace = pace
        self.patience = patience
        self.present = present
        self._slots = slots(device)
        self._change = threading.Condition()
        self._stop = self._paused = self._queued = self._pulling = False
        self._credit = 0  # single steps that were asked for and not yet taken
        self._hold_until: float | None = None
        self._end = ""
        self._seen = time.monotonic()
        name = f"job {next(_numbers)}"
        self.thread = threading.Thread(target=self._work, args=(source,), name=name, daemon=True)
        self.thread.start()

    @property
    def state(self) -> str:
        """ "running", "paused", "queued" (waits for a slot), "finished", "stopped" or "failed"."""
        if self._end:
            return self._end
        if self._paused:
            return "paused"
        return "queued" if self._queued else "running"

    @property
    def ended(self) -> bool:
        return bool(self._end)

    @property
    def hold_seconds(self) -> float | None:
        """Seconds until a `Hold` is over; None when the job does not hold."""
        until = self._hold_until
        return None if until is None else max(0.0, until - time.monotonic())

    def poll(self) -> str:
        """The state, and the sign of life without which the job ends."""
        self._seen = time.monotonic()
        return self.state

    def stop(self, wait: float = 0.0) -> None:
        """End after the item under way; `wait` seconds for it at most."""
        self._set(_stop=True)
        if wait:
            self.thread.join(wait)

    def pause(self, wait: float = 1.0) -> None:
        """Wait after the item under way, however long; returns once it is there, after `wait` seconds at most."""
        self._set(_paused=True, _credit=0, _hold_until=None)
        with self._change:
            self._change.wait_for(lambda: not self._pulling, wait)

    def go(self) -> None:
        """Go on after a pause or a hold."""
        self._set(_paused=False, _credit=0, _hold_until=None)

    def step(self) -> None:
        """Pause, but pull one item more."""
        with self._change:
            self._paused, self._hold_until = True, None
            self._credit += 1
            self._change.notify_all()

    # --- in the job's own thread -----------------------------------------------------------------------------

    def _work(self, source: Callable[[], Generator]) -> None:
        end = "stopped"
        try:
            with contextlib.closing(source()) as events:
                while self._may_pull():
                    started = time.monotonic()
                    if not self._slots.take(self._over, self._note_queue):
                        break
                    try:
                        item = next(events)
                    except StopIteration as stop:
                        self.result = stop.value
                        end = "finished"
                        break
                    finally:
                        self._slots.give_back()
                    if isinstance(item, Hold):
                        self._set(_paused=True, _pulling=False, _hold_until=time.monotonic() + item.seconds)
                    else:
                        self.items.append(item)
                        self._set(_pulling=False)
                        self._keep_pace(started)
        except Exception as error:
            end, self.error = "failed", sentence(error)
        if end == "stopped" and not self._stop:
            self.ended_by = UNWATCHED
        self._set(_end=end, _queued=False, _pulling=False, _hold_until=None)

    def _may_pull(self) -> bool:
        """Wait while paused; False when the job is over."""
        with self._change:
            while not self._over():
                if self._hold_until is not None and time.monotonic() >= self._hold_until:
                    self._paused, self._hold_until = False, None
                if self._credit or not self._paused:
                    self._credit = max(0, self._credit - 1)
                    self._pulling = True
                    return True
                self._change.wait(0.1)
            return False

    def _keep_pace(self, started: float) -> None:
        with self._change:
            while not (self._over() or self._paused or self.pace is None):
                left = started + 1 / self.pace - time.monotonic()
                if left <= 0:
                    return
                self._change.wait(min(left, 0.1))

    def _over(self) -> bool:
        alone = time.monotonic() - self._seen
        return self._stop or alone > LONG_PATIENCE or (alone > self.patience and not self.present())

    def _note_queue(self, waiting: bool) -> None:
        self._queued = waiting

    def _set(self, **values) -> None:
        with self._change:
            self.__dict__.update(values)
            self._change.notify_all()


class Slots:
    """At most `count` jobs compute at the same moment; the others wait in the order in which they came.

    A job takes a slot for one item and gives it back, so that short and long runs share the processor.
    """

    def __init__(self, count: int):
        self.free = count
        self._line: deque[object] = deque()
        self._change = threading.Condition()

    def take(self, over: Callable[[], bool], waiting: Callable[[bool], None]) -> bool:
        """Wait for a slot; False when `over()` says that it is no longer wanted. `waiting` hears of long waits."""
        ticket = object()
        started, told = time.monotonic(), False
        with self._change:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or self.free == 0:
                    if over():
                        return False
                    if not told and time.monotonic() - started > 0.3:
                        told = True
                        waiting(True)
                    self._change.wait(0.1)
                self.free -= 1
                return True
            finally:
                self._line.remove(ticket)
                self._change.notify_all()
                if told:
                    waiting(False)

    def give_back(self) -> None:
        with self._change:
            self.free += 1
            self._change.notify_all()


_SLOTS = {"cpu": Slots(max(1, (os.cpu_count() or 2) - 1)), "cuda": Slots(1)}


def slots(device: str) -> Slots:
    """The slots of a device, shared by all visitors of this server: cores - 1 on the CPU, one on a GPU."""
    return _SLOTS["cuda" if device.startswith("cuda") else "cpu"]


def sentence(error: Exception) -> str:
    """What a person is told about an error; one that nobody foresaw is also written to the server's log."""
    text = str(error).strip() or "no further details"
    if "out of memory" in text.lower() or isinstance(error, MemoryError):
        return "The device ran out of memory. Choose a smaller network, fewer samples or the CPU."
    if not isinstance(error, ValueError | TypeError | OSError | FloatingPointError):
        logging.getLogger(__name__).error("a job failed", exc_info=error)
        text = f"{type(error).__name__}: {text}"
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
