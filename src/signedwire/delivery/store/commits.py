"""Group commit: runs the operations of a store and calls their callbacks.

    submit ─→ queue ─→ one transaction for all waiting operations ─→ commit ─→ callbacks

`Writer` runs them in its own thread, the only one that touches the file. Operations that
are submitted during a commit wait, and all of them become the next transaction. So a
lone operation is committed at once, without a timer, and a thousand share one sync of
the disk. `Inline` runs each operation in the call that submits it.

Callbacks run after the commit, in the order of submission. All callbacks of a commit
share one call of `Dispatch`, so that an event loop is woken only once. If a commit fails,
every operation in it or behind it fails too, and no further commit is tried: see
`StoreFailedError`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from signedwire.clock import monotonic
from signedwire.delivery.store.records import OnCommit
from signedwire.errors import ClosedError, StoreError, StoreFailedError
from signedwire.resources import start_thread

__all__ = ["UNLESS_FAILED", "Dispatch", "Engine", "Executor", "Inline", "Operation", "Writer"]

Dispatch: TypeAlias = Callable[[Callable[[], None]], object]
"""Schedules a function where callbacks are to run, such as `loop.call_soon_threadsafe`."""

UNLESS_FAILED: Final = contextlib.suppress(StoreFailedError, ClosedError)
"""Context for operations that only record progress, and may be lost if the store fails.

The next operation that stores messages reports the failure.
"""
_MAX_WEIGHT: Final = 16_384
"""Approximate number of rows in one transaction: more would delay callers for no gain."""
_MEASURED: Final = 512
"""Number of the last commits whose durations are kept."""
_MAX_LAZY: Final = 1024
"""Number of waiting operations from which lazy ones are committed too."""


class Engine(Protocol):
    """The layer between the operations and the disk."""

    def commit(self, *, is_idle: bool) -> bool:
        """Make the changes of the operations durable; return `False` if there are none.

        Args:
            is_idle: Whether no operation waits for the next commit.
        """

    def notifications(self) -> list[Callable[[], None]]:
        """Return further callbacks after a commit, to run before those of its operations."""

    def checkpoint(self) -> None:
        """Do maintenance, after the callbacks of a commit have been scheduled."""

    def close(self) -> None:
        """Release the file; no operation follows. Called after a failure too."""


class Operation(NamedTuple):
    """One operation of a store, with its callback or its future."""

    run: Callable[[], object] | None
    """Does the operation; a `StoreError` that it returns fails this operation alone."""
    on_commit: OnCommit | None = None
    """Called after the commit."""
    future: Future[Any] | None = None
    """Gets the result of `run`."""
    weight: int = 1
    """Number of rows that the operation touches."""


class Executor(Protocol):
    """The interface of `Writer` and `Inline`."""

    durations: deque[float]
    """Durations of the last 512 commits, in seconds."""
    commits: int
    """Number of commits."""
    on_commit: Callable[[float], object] | None
    """Called after each commit with its duration in seconds, in the thread that commits."""
    failure: StoreError | None
    """The error that stopped the store; `None` while it works."""
    on_failed: Callable[[StoreError], None] | None
    """Called once, when the store fails."""

    @property
    def waiting(self) -> int:
        """Number of operations that have not begun."""

    def submit(self, operation: Operation, *, is_lazy: bool = False) -> None:
        """Queue an operation. The caller holds the ledger's lock, which gives the order.

        Args:
            is_lazy: Whether the operation may wait for the next one that is not lazy.

        Raises:
            StoreError, ClosedError: the store takes nothing more.
        """

    def flush(self) -> None:
        """Schedule due callbacks. Callers call this after `submit()`, without the lock."""

    def close(self, timeout: float | None) -> bool:
        """Commit all submitted operations and release the file.

        `timeout` is in seconds, `None` for no limit. Returns `False` if it has passed.
        """


def _notify(dispatch: Dispatch, notifications: Iterator[Callable[[], None]]) -> None:
    for notify in notifications:
        try:
            notify()
        except BaseException:
            # The other callbacks must still run.
            dispatch(partial(_notify, dispatch, notifications))
            raise


def _commit_callbacks(
    operations: list[Operation], results: list[object]
) -> list[Callable[[], None]]:
    return [
        partial(each.on_commit, result if isinstance(result, StoreError) else None)
        for each, result in zip(operations, results, strict=True)
        if each.on_commit is not None
    ]


def _resolve(operations: list[Operation], results: list[object]) -> None:
    """Set the futures. The callbacks were scheduled before, so that they run first."""
    for each, result in zip(operations, results, strict=True):
        future = each.future
        # The caller may have cancelled it.
        if future is None or not future.set_running_or_notify_cancel():
            continue
        if isinstance(result, StoreError):
            future.set_exception(result)
        else:
            future.set_result(result)


def _count_commit(executor: Executor, started: float) -> None:
    """Count a commit that began at `started` and has just ended."""
    duration = monotonic() - started
    executor.commits += 1
    executor.durations.append(duration)
    if executor.on_commit is not None:
        executor.on_commit(duration)


def _closed() -> ClosedError:
    return ClosedError("the store is closed", "Use it before its node is closed")


class Inline:
    """Runs every operation at once, in the thread of its caller; has the API of `Writer`."""

    def __init__(
        self, engine: Engine, dispatch: Dispatch, failed: Callable[[BaseException], StoreError]
    ) -> None:
        self.durations: deque[float] = deque(maxlen=_MEASURED)
        self.commits = 0
        self.on_commit: Callable[[float], object] | None = None
        self.failure: StoreError | None = None
        self.on_failed: Callable[[StoreError], None] | None = None
        self.waiting = 0
        self._engine = engine
        self._dispatch = dispatch
        self._failed = failed
        self._is_closed = False
        self._is_call_due = False
        self._notifications: deque[Callable[[], None]] = deque()
        self._calling = threading.Lock()

    def submit(self, operation: Operation, *, is_lazy: bool = False) -> None:
        """See `Executor`."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        if self._is_closed:
            raise _closed()
        started = monotonic()
        results: list[object] = []
        try:
            results = [None if operation.run is None else operation.run()]
            if self._engine.commit(is_idle=True):
                _count_commit(self, started)
            self._notifications += self._engine.notifications()
            self._engine.checkpoint()
        except (sqlite3.Error, OSError) as error:
            self.failure = self._failed(error)
            results = [self.failure]
            if self.on_failed is not None:
                self._notifications.append(partial(self.on_failed, self.failure))
        self._notifications += _commit_callbacks([operation], results)
        _resolve([operation], results)

    def flush(self) -> None:
        """See `Executor`."""
        if self._notifications and not self._is_call_due:
            self._is_call_due = True
            self._dispatch(self._notify)

    def _notify(self) -> None:
        self._is_call_due = False
        # Only one thread runs callbacks at a time, to keep their order. The loop looks
        # again after the release: another thread may have failed to get the lock.
        while self._notifications and self._calling.acquire(blocking=False):
            try:
                while self._notifications:
                    self._notifications.popleft()()
            finally:
                self._calling.release()
                self.flush()  # if a callback raised, the others must still run

    def close(self, timeout: float | None) -> bool:
        """See `Executor`."""
        if not self._is_closed:
            self._is_closed = True
            self._engine.close()
        return True


class Writer:
    """A thread that gathers operations into transactions.

    Args:
        open_: Opens the file, in the new thread.
        dispatch: Schedules the callbacks.
        failed: Makes the error for all operations from the exception of a commit.
        name: Name of the thread.

    Raises:
        StoreError: raised by `open_`.
    """

    def __init__(
        self,
        open_: Callable[[], Engine],
        dispatch: Dispatch,
        failed: Callable[[BaseException], StoreError],
        name: str,
    ) -> None:
        self.durations: deque[float] = deque(maxlen=_MEASURED)
        self.commits = 0
        self.on_commit: Callable[[float], object] | None = None
        self.failure: StoreError | None = None
        self.on_failed: Callable[[StoreError], None] | None = None
        self._dispatch = dispatch
        self._failed = failed
        self._queue: deque[Operation] = deque()
        self._wake = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._is_waiting = True
        self._is_closing = False
        opened: Future[None] = Future()
        # A daemon thread, so that a program that forgets to close still ends. No operation
        # whose callback has run is lost by that.
        self._thread = threading.Thread(
            target=self._run, args=(open_, opened), name=name, daemon=True
        )
        start_thread(self._thread)
        opened.result()

    @property
    def waiting(self) -> int:
        """See `Executor`."""
        return len(self._queue)

    def submit(self, operation: Operation, *, is_lazy: bool = False) -> None:
        """See `Executor`."""
        with self._lock:
            if self.failure is not None:
                raise self.failure.with_traceback(None)  # else the traceback grows each time
            if self._is_closing:
                raise _closed()
            self._queue.append(operation)
            # Lazy operations are bounded: an idle node records failed dials for ever.
            if self._is_waiting and (not is_lazy or len(self._queue) >= _MAX_LAZY):
                self._is_waiting = False
                self._wake.release()

    def flush(self) -> None:
        """See `Executor`."""

    def close(self, timeout: float | None) -> bool:
        """See `Executor`."""
        with self._lock:
            if not self._is_closing:
                self._is_closing = True
                self._wake.release()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread -------------------------------------------------------------------

    def _run(self, open_: Callable[[], Engine], opened: Future[None]) -> None:
        try:
            engine = open_()
        except BaseException as error:  # noqa: BLE001  # raised by the constructor
            opened.set_exception(error)
            return
        opened.set_result(None)
        del opened
        try:
            while (batch := self._next_batch()) and self._carry_out(engine, batch):
                pass
        except BaseException as error:
            if self.failure is None:  # a bug in this package: no caller may wait for ever
                self._fail(error, [])
            raise
        finally:
            engine.close()

    def _next_batch(self) -> list[Operation]:
        """Wait for operations; an empty list means that there will be none."""
        queue = self._queue
        while True:
            with self._lock:
                if not self._is_waiting or self._is_closing:
                    batch, weight = [], 0
                    while queue and weight < _MAX_WEIGHT:
                        operation = queue.popleft()
                        weight += operation.weight
                        batch.append(operation)
                    if batch or self._is_closing:
                        return batch
                    self._is_waiting = True
            self._wake.acquire()

    def _carry_out(self, engine: Engine, batch: list[Operation]) -> bool:
        started = monotonic()
        try:
            results: list[object] = [None if each.run is None else each.run() for each in batch]
            is_changed = engine.commit(is_idle=not self._queue)
        except (sqlite3.Error, OSError) as error:
            self._fail(error, batch)
            return False
        except BaseException as error:
            self._fail(error, batch)
            raise
        if is_changed:
            _count_commit(self, started)
        self._notify([*engine.notifications(), *_commit_callbacks(batch, results)])
        _resolve(batch, results)
        return self._checkpoint(engine)

    def _checkpoint(self, engine: Engine) -> bool:
        try:
            engine.checkpoint()
        except (sqlite3.Error, OSError) as error:
            self._fail(error, [])
            return False
        return True

    def _fail(self, error: BaseException, batch: list[Operation]) -> None:
        failure = self._failed(error)
        with self._lock:
            self.failure = failure
            batch += self._queue
            self._queue.clear()
        notifications: list[Callable[[], None]] = []
        if self.on_failed is not None:
            notifications.append(partial(self.on_failed, failure))
        results: list[object] = [failure] * len(batch)
        self._notify(notifications + _commit_callbacks(batch, results))
        _resolve(batch, results)

    def _notify(self, notifications: list[Callable[[], None]]) -> None:
        if notifications:
            # The event loop may be closed: then no caller is left to be called.
            with contextlib.suppress(RuntimeError):
                self._dispatch(partial(_notify, self._dispatch, iter(notifications)))
