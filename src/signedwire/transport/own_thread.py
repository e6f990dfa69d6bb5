"""Threads for calls that block, such as those that open and close files: one thread for one call.

A disk may take long, or never answer. So such a call neither blocks the event loop nor takes a
thread of the loop's executor, and a process ends without waiting for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, Generic, TypeVar

from signedwire.transport.uncancelled import mark_retrieved, wait_uncancelled

__all__ = ["FileOpener", "in_own_thread"]

T = TypeVar("T")
_LEAST: Final = 0.2
"""Minimum time in seconds for closing what was opened late."""


class _OwnThread(Executor):
    """A thread for one call. The threads of the loop's executor may all be busy, and never end."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the waiter gets each
                future.set_exception(error)
            else:
                future.set_result(result)

        future.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        # A daemon thread, so that a disk that never answers cannot stop the program from ending.
        thread = threading.Thread(target=run, name="signedwire-disk", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # no more threads: block the loop instead
            run()
        return future

    def join(self, future: asyncio.Future[Any]) -> None:
        """Wait for the end of the thread before the result is reported."""
        if self._thread is not None and not future.cancelled():
            self._thread.join()


def in_own_thread(function: Callable[..., T], *args: object) -> asyncio.Future[T]:
    """Call a function that blocks, in a thread that ends when it returns."""
    thread = _OwnThread()
    future = asyncio.get_running_loop().run_in_executor(thread, function, *args)
    future.add_done_callback(thread.join)
    return future


class FileOpener:
    """Opens files, each in a thread of its own. Its methods run in a loop, where nothing is said.

    Args:
        limit: Maximum time in seconds that the end of an opening is awaited.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._under_way: list[_Opening[Any]] = []
        """The openings under way. A loop that was closed leaves them here."""

    async def open(self, open_: Callable[[], T], close: Callable[[T], object]) -> T:
        """Open something and return it.

        Cancelling waits at most `limit` seconds until it is open, and closes it again. If it is
        not open by then, the thread closes it later.
        """
        attempt = _Opening(open_, close)
        self._under_way.append(attempt)
        opening = in_own_thread(attempt.fill)
        try:
            await asyncio.wait({opening})  # not `await opening`, which would cancel it
        except asyncio.CancelledError:
            opening.add_done_callback(mark_retrieved)
            loop = asyncio.get_running_loop()
            deadline = loop.time() + self._limit
            await wait_uncancelled(opening, self._limit)
            closing = in_own_thread(attempt.give_up)
            closing.add_done_callback(mark_retrieved)
            await wait_uncancelled(closing, max(_LEAST, deadline - loop.time()))
            self._under_way.remove(attempt)
            raise
        # Not in a `finally`: a coroutine of a closed loop ends with GeneratorExit.
        self._under_way.remove(attempt)
        return opening.result()

    async def give_up(self) -> bool:
        """Close what was being opened in a loop that is closed. In another loop.

        Returns:
            Whether all is closed. If not after `limit` seconds, the threads close it later.
        """
        is_closed = True
        for attempt in self._under_way:
            ending = in_own_thread(attempt.end, self._limit)
            ending.add_done_callback(mark_retrieved)
            await wait_uncancelled(ending, self._limit)
            is_closed &= ending.done() and ending.exception() is None and ending.result()
        self._under_way.clear()
        return is_closed


class _Opening(Generic[T]):
    """An object that a thread opens; closed by that thread if the caller has given up."""

    def __init__(self, open_: Callable[[], T], close: Callable[[T], object]) -> None:
        self._open = open_
        self._close = close
        self._lock = threading.Lock()
        self._opened: list[T] = []
        self._is_given_up = False
        self._has_ended = threading.Event()

    def fill(self) -> T:
        try:
            opened = self._open()
            with self._lock:
                if not self._is_given_up:
                    self._opened.append(opened)
                    return opened
            self._close(opened)
            return opened
        finally:
            self._has_ended.set()

    def give_up(self) -> None:
        """Close the object, if it is open. Else `fill()` closes it. Blocks."""
        with self._lock:
            self._is_given_up = True
        while self._opened:
            self._close(self._opened.pop())

    def end(self, timeout: float) -> bool:
        """Do as `give_up()`, and return whether the object is closed within the time. Blocks."""
        self.give_up()
        return self._has_ended.wait(timeout)
