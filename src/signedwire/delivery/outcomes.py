"""Waiting for several messages at once, each as soon as it has an outcome."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from functools import partial

from signedwire.arguments import Until, as_seconds
from signedwire.clock import monotonic
from signedwire.delivery.receipt import Receipt, future_waker
from signedwire.errors import SignedWireError
from signedwire.home import Turns, running_loop
from signedwire.types import DeliveryState

__all__ = ["as_completed", "as_completed_blocking"]


def as_completed(
    receipts: Iterable[Receipt], until: Until | None = None, timeout: float | None = None
) -> AsyncGenerator[Receipt]:
    """Yield the receipts in the order in which their messages get an outcome.

    An outcome is that the message has come as far as `until`, or that it comes no further. A
    failed message raises no error here: ask `receipt.has_reached(until)`, or
    `receipt.raise_if_failed()`. `await anext(as_completed(receipts))` waits for the first of
    them. Cancelling it, or leaving it early, withdraws no message. Any event loop in any thread
    may wait.

    Args:
        receipts: Receipts of one node or of several. A receipt given twice is yielded once.
        until: As in `Receipt.wait()`, with the same default for each of them.
        timeout: Seconds, 0 or more, for all of them; `None`, the default, sets no limit.

    Raises:
        ValueError, TypeError: as in `Receipt.wait()`.
        WrongContextError: the node's event loop cannot run meanwhile, or no loop of asyncio
            runs here.
        TimeoutError: `timeout` seconds passed and some have no outcome; those go on.
    """
    seconds = as_seconds(timeout)
    levels = {receipt: receipt._state_named(until) for receipt in receipts}
    return _in_loop(levels, seconds)


async def _in_loop(
    levels: dict[Receipt, DeliveryState], timeout: float | None
) -> AsyncGenerator[Receipt]:
    loop = running_loop("as_completed()", "Call signedwire.sync.as_completed() in a thread")
    waiting, turns = _Waiting(levels, timeout), Turns()
    try:
        while True:
            changed: asyncio.Future[None] = loop.create_future()
            waiting.wake = future_waker(loop, changed)
            for receipt in waiting.take():
                yield receipt
                if turns.is_over():
                    await turns.give()
            if waiting.is_over:
                return
            if waiting.may_sleep():
                await asyncio.wait({changed}, timeout=waiting.pause())
                turns.begin()
    finally:
        waiting.end()


def as_completed_blocking(
    receipts: Iterable[Receipt], until: Until | None = None, timeout: float | None = None
) -> Generator[Receipt]:
    """See `signedwire.as_completed`; this blocks the calling thread. Ctrl-C ends the wait.

    Raises:
        RuntimeError: without a `timeout` in the event loop's own thread, where it would wait
            for ever; and what `signedwire.as_completed` does.
    """
    seconds = as_seconds(timeout)
    levels = {
        receipt: receipt._state_named(until, is_blocking=seconds is None) for receipt in receipts
    }
    return _in_thread(levels, seconds)


def _in_thread(levels: dict[Receipt, DeliveryState], timeout: float | None) -> Generator[Receipt]:
    changed = threading.Event()
    waiting = _Waiting(levels, timeout)
    waiting.wake = changed.set
    try:
        while True:
            changed.clear()
            yield from waiting.take()
            if waiting.is_over:
                return
            if waiting.may_sleep():
                pause = waiting.pause()
                changed.wait(None if pause is None else min(pause, threading.TIMEOUT_MAX))
    finally:
        waiting.end()


class _Waiting:
    """Receipts without an outcome. The cost of a change does not grow with their number.

    Args:
        levels: The state that each receipt is to reach.
        timeout: Seconds for all receipts together; `None`: no limit.
    """

    def __init__(self, levels: dict[Receipt, DeliveryState], timeout: float | None) -> None:
        self._timeout = timeout
        self._deadline = None if timeout is None else monotonic() + timeout
        self._count = len(levels)
        self._levels = dict(levels)
        self._timed: set[Receipt] = set()  # accepted ones with a deadline
        self._look_at: float | None = None
        self._changed: deque[Receipt] = deque(levels)
        self._callbacks = {receipt: partial(self._on_change, receipt) for receipt in levels}
        self._is_asleep = False
        self.wake: Callable[[], None] = _nothing
        """Called in any thread at the first change after `may_sleep()`."""
        for receipt, callback in self._callbacks.items():
            receipt.add_callback(callback)

    def _on_change(self, receipt: Receipt) -> None:
        self._changed.append(receipt)
        if self._is_asleep:
            self._is_asleep = False
            self.wake()

    def may_sleep(self) -> bool:
        """Whether there is nothing for `take()`; the next change calls `wake`."""
        # In this order: a change in another thread is seen here, or calls `wake`.
        self._is_asleep = True
        return not self._changed

    @property
    def is_over(self) -> bool:
        """Whether each receipt has an outcome."""
        return not self._levels

    def take(self) -> Iterator[Receipt]:
        """Yield the receipts that have got an outcome since the last call.

        Raises:
            TimeoutError: the timeout has passed, and some receipts have no outcome.
        """
        now = monotonic()
        if self._look_at is not None and now >= self._look_at:
            self._look_at = None
            self._changed.extend(self._timed)
        is_late = self._deadline is not None and now >= self._deadline
        while self._changed:
            receipt = self._changed.popleft()
            level = self._levels.get(receipt)
            if level is None:
                continue
            if not _has_outcome(receipt, level):
                self._note_deadline(receipt, now)
                continue
            self._forget(receipt)
            yield receipt
        if is_late and self._levels:
            raise TimeoutError(
                f"{len(self._levels)} of {self._count} messages have no outcome after "
                f"{self._timeout:g} s; the first is {next(iter(self._levels))!r}"
            )

    def _note_deadline(self, receipt: Receipt, now: float) -> None:
        left = receipt._seconds_left()
        if left is not None:
            self._timed.add(receipt)
            look_at = now + left
            self._look_at = look_at if self._look_at is None else min(self._look_at, look_at)

    def pause(self) -> float | None:
        """Return the maximum time to wait, in seconds; `None`: until a receipt changes."""
        instants = [each for each in (self._deadline, self._look_at) if each is not None]
        return max(0.0, min(instants) - monotonic()) if instants else None

    def _forget(self, receipt: Receipt) -> None:
        del self._levels[receipt]
        self._timed.discard(receipt)
        receipt.remove_callback(self._callbacks.pop(receipt))

    def end(self) -> None:
        """Withdraw the callbacks of all receipts that are left."""
        for receipt in tuple(self._levels):
            self._forget(receipt)


def _nothing() -> None:
    """Do nothing."""


def _has_outcome(receipt: Receipt, level: DeliveryState) -> bool:
    if receipt.has_reached(level):
        return True
    try:
        receipt._raise_if_over(level)
    except (SignedWireError, ValueError):  # ValueError: it is handled, and cannot fail any more
        return True
    return False
