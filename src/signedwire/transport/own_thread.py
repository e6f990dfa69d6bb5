"""Threads for calls that block, such as those that open and close files: one thread for one call.

A disk may take long, or never answer. So such a call neither blocks the event loop nor takes a
thread of the loop's executor, and a process ends without waiting for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Generic, TypeVar

from signedwire.transport.uncancelled import wait_uncancelled

__all__ = ["in_own_thread", "open_in_thread"]

T = TypeVar("T")


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


async def open_in_thread(open_: Callable[[], T], close: Callable[[T], object], limit: float) -> T:
    """Open something in a thread of its own and return it.

    Cancelling waits at most `limit` seconds until it is open, and closes it again. If it is not
    open by then, the thread closes it later.
    """
    attempt = _Opening(open_, close)
    opening = in_own_thread(attempt.fill)
    try:
        await asyncio.wait({opening})  # not `await opening`, which would cancel it
    except asyncio.CancelledError:
        opening.add_done_callback(_mark_retrieved)
        await wait_uncancelled(opening, limit)
        for opened in attempt.give_up():
            await wait_uncancelled(in_own_thread(partial(close, opened)))
        raise
    return opening.result()


class _Opening(Generic[T]):
    """An object that a thread opens; closed by that thread if the caller has given up."""

    def __init__(self, open_: Callable[[], T], close: Callable[[T], object]) -> None:
        self._open = open_
        self._close = close
        self._lock = threading.Lock()
        self._opened: list[T] = []
        self._is_given_up = False

    def fill(self) -> T:
        opened = self._open()
        with self._lock:
            if not self._is_given_up:
                self._opened.append(opened)
                return opened
        self._close(opened)
        return opened

    def give_up(self) -> list[T]:
        """Return the object, if it is open, for the caller to close. Else `fill()` closes it."""
        with self._lock:
            self._is_given_up = True
            return self._opened


def _mark_retrieved(opening: asyncio.Future[Any]) -> None:
    """Retrieve the exception, because the loop logs each exception that is not retrieved."""
    if not opening.cancelled():
        opening.exception()
