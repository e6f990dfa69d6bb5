"""Waits that are made to their end, and threads for what blocks.

A node that starts or ends has files, threads and sockets in its hands. Whoever cancels
that, once or at every await as some frameworks do, is obeyed when they are let go of.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Generic, TypeVar

__all__ = ["expire", "in_own_thread", "next_turn", "open_in_thread", "outlast"]

T = TypeVar("T")


class _OwnThread(Executor):
    """A thread for one call: those of the loop's executor may all be busy, and they stay."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the waiter gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        future.set_running_or_notify_cancel()  # nothing stops it any more
        # A daemon: a disk that never answers does not keep the program from its end.
        thread = threading.Thread(target=run, name="signedwire-disk", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # the system gives no more threads: the loop has to wait
            run()
        return future

    def join(self, future: asyncio.Future[Any]) -> None:
        """Wait for the end of the thread before the result is reported."""
        if self._thread is not None and not future.cancelled():
            self._thread.join()


def in_own_thread(function: Callable[..., T], *args: object) -> asyncio.Future[T]:
    """Call what blocks, in a thread that ends with it."""
    thread = _OwnThread()
    future = asyncio.get_running_loop().run_in_executor(thread, function, *args)
    future.add_done_callback(thread.join)
    return future


async def outlast(waiting: asyncio.Future[Any], timeout: float | None = None) -> bool:
    """Wait until `waiting` is done, or for `timeout` seconds, whoever cancels the caller.

    Returns:
        Whether somebody did. The caller then raises `asyncio.CancelledError` when it has
        let go of what it holds.
    """
    loop, is_cancelled = asyncio.get_running_loop(), False
    end = None if timeout is None else loop.time() + timeout
    while not waiting.done():
        left = None if end is None else end - loop.time()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait({waiting}, timeout=left)
        except asyncio.CancelledError:
            is_cancelled = True
    return is_cancelled


def expire(step: asyncio.Timeout) -> None:
    """End the block of `asyncio.timeout()` now, with TimeoutError. In the loop of the block.

    A block whose time is over already ends without this call. A second deadline for it would be
    a RuntimeError.
    """
    if not step.expired():
        step.reschedule(asyncio.get_running_loop().time())


async def next_turn() -> bool:
    """Let the loop do what waits in its queue; returns what `outlast()` does."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    return await outlast(turn)


async def open_in_thread(open_: Callable[[], T], close: Callable[[T], object], limit: float) -> T:
    """Open something in a thread of its own and return it.

    Cancelled, it is closed again before this raises; or later, by that thread, where it
    is not open after `limit` more seconds.
    """
    box = _Box(open_, close)
    opening = in_own_thread(box.fill)
    try:
        await asyncio.wait({opening})  # not `await opening`, which would cancel it
    except asyncio.CancelledError:
        opening.add_done_callback(_look_at)
        await outlast(opening, limit)
        for opened in box.give_up():
            await outlast(in_own_thread(partial(close, opened)))
        raise
    return opening.result()


class _Box(Generic[T]):
    """An object that is being opened, for its caller or for the thread that closes it."""

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
        """Return the objects that are open, for the caller to close; else `fill()` closes them."""
        with self._lock:
            self._is_given_up = True
            return self._opened


def _look_at(opening: asyncio.Future[Any]) -> None:
    """Nobody asks any more what went wrong; else the loop would log that."""
    if not opening.cancelled():
        opening.exception()
