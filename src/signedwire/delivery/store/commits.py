"""Who carries out the operations of a store, and tells their callers.

    submit ─→ queue ─→ one transaction for all that waits ─→ commit ─→ tell

`Writer` does it in a thread of its own, which alone touches the file. While one
commit runs, what is submitted waits; all of it becomes the next transaction. So
a lone operation is committed at once, with no timer, and a thousand share one
sync of the disk. `Inline` does each operation in the call that submits it.

An operation is told after its commit, in the order of submission, and all those
of a commit by one call of `Call`: an event loop is woken once for it, not once
for each. A commit that fails is told to everybody whose operation was in it or
behind it, and is the last: see `StoreFailedError`.
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
from signedwire.delivery.store.records import Then
from signedwire.errors import ClosedError, StoreError
from signedwire.resources import start_thread

__all__ = ["Call", "Engine", "Executor", "Inline", "Operation", "Writer"]

Call: TypeAlias = Callable[[Callable[[], None]], object]
"""Has a function called where callers want to be told: `loop.call_soon_threadsafe`, say."""

_MAX_WEIGHT: Final = 16_384
"""Rows in one transaction, about: more would make its callers wait for no gain."""
_MEASURED: Final = 512
_MAX_LAZY: Final = 1024


class Engine(Protocol):
    """What is between the operations and the disk."""

    def commit(self, *, is_idle: bool) -> bool:
        """Make durable what operations have changed; `False`: nothing had been.

        Args:
            is_idle: Whether nothing waits for the next commit.
        """

    def news(self) -> list[Callable[[], None]]:
        """After a commit: what is to be told beside its operations, and before them."""

    def tidy(self) -> None:
        """The commit has been told."""

    def close(self) -> None:
        """No operation follows. After a failure too."""


class Operation(NamedTuple):
    """One thing to do."""

    run: Callable[[], object] | None
    """What to do; a `StoreError` that it returns is that of this operation alone."""
    then: Then | None = None
    future: Future[Any] | None = None
    """Gets what `run` returns."""
    weight: int = 1
    """Rows."""


class Executor(Protocol):
    """What both kinds offer."""

    durations: deque[float]
    """Of the last commits, in seconds."""
    commits: int
    on_commit: Callable[[float], object] | None
    """Called after each commit with its duration in seconds, in the thread that commits."""
    failure: StoreError | None
    """Why nothing more is done."""
    on_failed: Callable[[StoreError], None] | None
    """Told once, when that is so."""

    @property
    def waiting(self) -> int:
        """Operations that were not begun."""

    def submit(self, operation: Operation, *, is_lazy: bool = False) -> None:
        """Have it done. Under the ledger's lock, which makes the order.

        Args:
            is_lazy: It may wait for the next one that is not.

        Raises:
            StoreError, ClosedError: it will not be.
        """

    def kick(self) -> None:
        """To be called after `submit()`, without the lock."""

    def close(self, timeout: float | None) -> bool:
        """Finish what was submitted, and let go of the file; `False`: not within `timeout`."""


def _tell(call: Call, news: Iterator[Callable[[], None]]) -> None:
    for tell in news:
        try:
            tell()
        except BaseException:
            call(partial(_tell, call, news))  # the others are to be told all the same
            raise


def _thens(operations: list[Operation], results: list[object]) -> list[Callable[[], None]]:
    return [
        partial(each.then, result if isinstance(result, StoreError) else None)
        for each, result in zip(operations, results, strict=True)
        if each.then is not None
    ]


def _answer(operations: list[Operation], results: list[object]) -> None:
    """Set the futures: after the callbacks were sent for, so that those come first."""
    for each, result in zip(operations, results, strict=True):
        future = each.future
        # Not where whoever asked has gone away.
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
    return ClosedError("the store is closed", "Its operations end before the node is closed")


class Inline:
    """Every operation at once, in the thread of its caller; takes what `Writer` does."""

    def __init__(
        self, engine: Engine, call: Call, failed: Callable[[BaseException], StoreError]
    ) -> None:
        self.durations: deque[float] = deque(maxlen=_MEASURED)
        self.commits = 0
        self.on_commit: Callable[[float], object] | None = None
        self.failure: StoreError | None = None
        self.on_failed: Callable[[StoreError], None] | None = None
        self.waiting = 0
        self._engine = engine
        self._call = call
        self._failed = failed
        self._is_closed = False
        self._is_call_due = False
        self._news: deque[Callable[[], None]] = deque()
        self._telling = threading.Lock()

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
            self._news += self._engine.news()
            self._engine.tidy()
        except (sqlite3.Error, OSError) as error:
            self.failure = self._failed(error)
            results = [self.failure]
            if self.on_failed is not None:
                self._news.append(partial(self.on_failed, self.failure))
        self._news += _thens([operation], results)
        _answer([operation], results)

    def kick(self) -> None:
        """See `Executor`."""
        if self._news and not self._is_call_due:
            self._is_call_due = True
            self._call(self._tell)

    def _tell(self) -> None:
        self._is_call_due = False
        # One thread tells at a time, or the order would be lost. Looked at again after
        # the lock is free: another may have come in vain meanwhile.
        while self._news and self._telling.acquire(blocking=False):
            try:
                while self._news:
                    self._news.popleft()()
            finally:
                self._telling.release()
                self.kick()  # one raised, and the others are to be told all the same

    def close(self, timeout: float | None) -> bool:
        """See `Executor`."""
        if not self._is_closed:
            self._is_closed = True
            self._engine.close()
        return True


class Writer:
    """A thread that gathers operations into transactions.

    Args:
        open_: Opens the file, in the thread.
        call: How callers are told.
        failed: Makes the error of everybody out of the one that a commit raised.

    Raises:
        StoreError: whatever `open_` raises.
    """

    def __init__(
        self,
        open_: Callable[[], Engine],
        call: Call,
        failed: Callable[[BaseException], StoreError],
    ) -> None:
        self.durations: deque[float] = deque(maxlen=_MEASURED)
        self.commits = 0
        self.on_commit: Callable[[float], object] | None = None
        self.failure: StoreError | None = None
        self.on_failed: Callable[[StoreError], None] | None = None
        self._call = call
        self._failed = failed
        self._queue: deque[Operation] = deque()
        self._wake = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._is_waiting = True
        self._is_closing = False
        opened: Future[None] = Future()
        # A daemon: a program that forgets to close still ends, and loses nothing by it
        # that it was told is kept.
        self._thread = threading.Thread(
            target=self._run, args=(open_, opened), name="signedwire-store", daemon=True
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
                raise self.failure.with_traceback(None)  # or it would grow with each
            if self._is_closing:
                raise _closed()
            self._queue.append(operation)
            # An idle node that cannot reach its peers notes that for ever.
            if self._is_waiting and (not is_lazy or len(self._queue) >= _MAX_LAZY):
                self._is_waiting = False
                self._wake.release()

    def kick(self) -> None:
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
            if self.failure is None:  # a fault of ours: nobody may wait for ever
                self._fail(error, [])
            raise
        finally:
            engine.close()

    def _next_batch(self) -> list[Operation]:
        """Wait for work; empty: there will be none."""
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
        self._tell([*engine.news(), *_thens(batch, results)])
        _answer(batch, results)
        return self._tidy(engine)

    def _tidy(self, engine: Engine) -> bool:
        try:
            engine.tidy()
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
        news: list[Callable[[], None]] = []
        if self.on_failed is not None:
            news.append(partial(self.on_failed, failure))
        results: list[object] = [failure] * len(batch)
        self._tell(news + _thens(batch, results))
        _answer(batch, results)

    def _tell(self, news: list[Callable[[], None]]) -> None:
        if news:
            # A loop that is closed has nobody left who wants to know.
            with contextlib.suppress(RuntimeError):
                self._call(partial(_tell, self._call, iter(news)))
