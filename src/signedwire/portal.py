"""A thread with an event loop, and blocking calls into it.

The blocking classes call the asyncio classes through a portal, so that there is
only one implementation of everything.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, TypeVar

from signedwire.errors import ClosedError, WrongContextError
from signedwire.resources import check_descriptors, start_thread
from signedwire.streams import open_standard_descriptors

__all__ = ["Portal", "new_event_loop"]

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop of uvloop if installed (the `fast` extra), else of asyncio.

    Closed standard streams are opened on the null device first. Otherwise the loop would
    get their descriptors, and a loop of uvloop would then end the process.

    Raises:
        SignedWireError: the process has too few descriptors left.
    """
    open_standard_descriptors()
    check_descriptors()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class _Unawaited(ThreadPoolExecutor):
    """Threads of the loop for calls that cannot be cancelled; their end is not awaited."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


class Threads:
    """Threads for functions of the application that may block.

    Args:
        name: The beginning of their names.
        limit: Maximum number of threads, 1 or more.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._pool = _Unawaited(max_workers=limit, thread_name_prefix=name)

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Call a function in one of the threads. Cancelling does not stop the function."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def end(self) -> None:
        """Start no further function. Those that run go on."""
        self._pool.shutdown()


class Portal:
    """One background thread that runs one event loop until `close()`.

    The thread is a daemon: a program that forgets to close still ends.
    """

    def __init__(self, name: str) -> None:
        self._loop = new_event_loop()
        self._loop.set_default_executor(_Unawaited(thread_name_prefix="blocking"))
        self._lock = threading.Lock()
        self._threads: list[Threads] = []
        self._is_closed = False
        self._process_id = os.getpid()  # a forked child has our objects, but not our thread
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            start_thread(self._thread)
        except BaseException:  # the system refuses a further thread
            self._loop.close()
            raise

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, for `call_soon_threadsafe`."""
        return self._loop

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the loop and return its result, or raise what it raised.

        Ctrl-C while waiting cancels the coroutine before KeyboardInterrupt goes on.

        Raises:
            ClosedError: the portal is closed.
            WrongContextError: this process is a forked child: the thread is not in it.
            RuntimeError: called from the loop's own thread, where it would wait for ever.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call in the event loop's own thread waits for ever; use signedwire.Node"
            )
        if os.getpid() != self._process_id:
            raise WrongContextError(
                "this node belongs to the process that was forked", "Make a new one after the fork"
            )
        with self._lock:
            # A call that enters before the stop is cancelled by it, and so ends.
            if self._is_closed:
                raise ClosedError("this node is closed")
            future = asyncio.run_coroutine_threadsafe(function(), self._loop)
        try:
            return future.result()
        except CancelledError:
            if not self._is_closed:
                raise
            raise ClosedError("this node was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def new_threads(self, name: str, limit: int) -> Threads:
        """Return threads that end with the portal; see `Threads`."""
        threads = Threads(name, limit)
        self._threads.append(threads)
        return threads

    def close(self) -> None:
        """Stop the loop and wait for its thread to end. Safe to call twice."""
        if threading.current_thread() is self._thread or os.getpid() != self._process_id:
            return
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for threads in self._threads:
            threads.end()
