"""A store whose thread and whose disk are simulated: the real tables, in virtual time.

`DiskStore` is the `SqliteStore` of a node but for who carries its operations out. `Disk`
gathers them as the real thread does and commits them after a while of virtual time:

    submit ─→ queue ─→ operations run ─→ … the disk works … ─→ COMMIT ─→ told

A crash in between leaves what a crash leaves: the file as it was, or with the whole
commit that nobody was told of, or with a part of it at the end of the WAL. A commit may
fail, and is then on the disk or not.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import random
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from signedwire.delivery.store import Marks, OnCommit, Store, StoreLimits
from signedwire.delivery.store.commits import (
    _MAX_WEIGHT,
    Operation,
    _closed,
    _commit_callbacks,
    _notify,
    _resolve,
)
from signedwire.delivery.store.ledger import Ledger
from signedwire.delivery.store.records import ALL_ACCEPTED, Unaccepted
from signedwire.delivery.store.schema import commit_failed, open_file, reading
from signedwire.delivery.store.sqlite_tables import SqliteTables
from signedwire.delivery.store.work import Work
from signedwire.errors import StoreError
from signedwire.types import Did
from signedwire.wire.session import BatchReceived

from .loop import Owner, VirtualLoop

__all__ = ["Disk", "DiskStore", "Habits"]

T = TypeVar("T")

_WAL_HEADER: Final = 32
_AFTERMATHS: Final = ("nothing", "part", "part", "all")


@dataclass
class Habits:
    """What the disk of a station is like, over all its lives."""

    commit_time: tuple[float, float] = (0.0005, 0.005)
    """Seconds."""
    is_failing: bool = False
    """Whether its next commit fails."""
    is_full: bool = False
    """Whether it fails for want of room."""
    crash_in_commit: Callable[[], None] | None = None
    """Called in the midst of its next commit."""


class Disk:
    """An `Executor` in virtual time."""

    def __init__(
        self,
        loop: VirtualLoop,
        owner: Owner,
        work: Work,
        path: str,
        habits: Habits,
        rng: random.Random,
        trace: Callable[[str], None],
    ) -> None:
        self.durations: deque[float] = deque(maxlen=512)
        self.commits = 0
        self.on_commit: Callable[[float], object] | None = None
        self.failure: StoreError | None = None
        self.on_failed: Callable[[StoreError], None] | None = None
        self.path = path
        self.is_gone = False
        """Whether the file was closed, or the machine has crashed."""
        self._loop = loop
        self._owner = owner
        self._work = work
        self._habits = habits
        self._rng = rng
        self._trace = trace
        self._queue: deque[Operation] = deque()
        self._batch: list[Operation] = []
        self._results: list[object] = []
        self._is_committing = False
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None

    # -- an Executor ------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """See `Executor`."""
        return len(self._queue)

    def submit(self, operation: Operation, *, is_lazy: bool = False) -> None:
        """See `Executor`."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        if self._is_closing:
            raise _closed()
        self._queue.append(operation)
        if self._timer is None and not is_lazy:
            self._after(self._rng.uniform(0.0, 0.0003), self._begin)

    def flush(self) -> None:
        """See `Executor`."""

    def close(self, timeout: float | None) -> bool:
        """See `Executor`. The time that it takes is the caller's."""
        self._is_closing = True
        if not self.is_gone:
            self.hurry()
            self._let_go()
        return True

    def hurry(self) -> None:
        """Somebody blocks until all is done: no time passes for the others."""
        while self._is_committing or self._queue:
            if self._is_committing:
                self._end()
            else:
                self._begin()
            if self.failure is not None or self.is_gone:
                return
        self._stop()

    # -- a commit ---------------------------------------------------------------------

    def _after(self, delay: float, on_commit: Callable[[], None]) -> None:
        self._stop()
        # The thread dies with its process, and sees the clock of its machine.
        self._timer = self._loop.call_later(delay, on_commit, context=self._owner.context)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        weight = 0
        while self._queue and weight < _MAX_WEIGHT:
            operation = self._queue.popleft()
            weight += operation.weight
            self._batch.append(operation)
        self._is_committing = True
        try:
            self._results = [None if each.run is None else each.run() for each in self._batch]
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
            return
        pause = self._rng.uniform(*self._habits.commit_time)
        crash, self._habits.crash_in_commit = self._habits.crash_in_commit, None
        if crash is not None:
            delay = pause * self._rng.random()
            self._loop.call_later(delay, crash, context=contextvars.Context())
        self._after(pause, self._end)

    def _end(self) -> None:
        self._stop()
        habits = self._habits
        try:
            if habits.is_failing:
                habits.is_failing = False
                if self._rng.random() < 0.5:  # all was written, but the sync was not answered
                    self._work.commit(is_idle=True)
                code = errno.ENOSPC if habits.is_full else errno.EIO
                raise OSError(code, os.strerror(code))
            is_changed = self._work.commit(is_idle=not self._queue)
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
            return
        if is_changed:
            self.commits += 1
        batch, results, self._batch, self._results = self._batch, self._results, [], []
        self._is_committing = False
        self._say([*self._work.notifications(), *_commit_callbacks(batch, results)])
        _resolve(batch, results)
        self._work.checkpoint()
        if self._queue:
            self._after(0.0, self._begin)

    def _fail(self, error: Exception) -> None:
        self._stop()
        self._trace(f"{self._owner.name} store fails: {error}")
        self.failure = failure = commit_failed(self.path, error)
        batch = [*self._batch, *self._queue]
        self._queue.clear()
        self._batch, self._is_committing = [], False
        news: list[Callable[[], None]] = []
        if self.on_failed is not None:
            news.append(partial(self.on_failed, failure))
        results: list[object] = [failure] * len(batch)
        self._say(news + _commit_callbacks(batch, results))
        _resolve(batch, results)
        self._let_go()

    def _say(self, news: list[Callable[[], None]]) -> None:
        def call(run: Callable[[], None]) -> None:
            self._loop.call_soon(run, context=self._owner.context)

        if news:
            call(partial(_notify, call, iter(news)))

    def _let_go(self) -> None:
        self._stop()
        self.is_gone = True
        self._work.close()

    # -- the end of its machine -------------------------------------------------------

    def crash(self, new_path: str) -> None:
        """Nothing more is done. What a disk has then is at `new_path`."""
        self._stop()
        self._queue.clear()
        if self.is_gone:
            os.rename(self.path, new_path)
            return
        wal = _read(self.path + "-wal")
        if self._is_committing:
            aftermath = self._rng.choice(_AFTERMATHS)
            at = self._rng.random()
            self._trace(f"{self._owner.name} crashes in a commit: {aftermath} of it stays")
            if aftermath != "nothing":
                self._work.commit(is_idle=True)
                whole = _read(self.path + "-wal")
                wal = whole if aftermath == "all" else _torn(wal, whole, at)
        data = _read(self.path)
        self._let_go()
        os.unlink(self.path)
        _write(new_path, data)
        if wal:
            _write(new_path + "-wal", wal)


def _torn(before: bytes, after: bytes, at: float) -> bytes:
    """The new WAL up to somewhere, then a little of nothing, then what was there."""
    if before == after:
        return after
    first = next(
        (place for place, (old, new) in enumerate(zip(before, after, strict=False)) if old != new),
        min(len(before), len(after)),
    )
    last = len(after)
    while last <= len(before) and before[last - 1] == after[last - 1]:
        last -= 1
    # A new header is synced before anything follows it.
    first = min(max(first, _WAL_HEADER), last - 1)
    cut = first + int(at * (last - first))
    zeros = bytes(min(512, last - cut) if at > 0.5 else 0)
    return after[:cut] + zeros + before[cut + len(zeros) :]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


class _Future(Future[T]):
    """Whoever blocks for it has the disk hurry."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def result(self, timeout: float | None = None) -> T:
        if not self.done():
            self._disk.hurry()
        return super().result(0)


class DiskStore(Store):
    """The store of one life of a station; tells `on_done` what became durably done."""

    def __init__(
        self,
        path: str,
        owner: Did,
        limits: StoreLimits,
        make_disk: Callable[[Work], Disk],
    ) -> None:
        ledger = Ledger(limits)
        connection = open_file(path, owner)
        with reading(connection, path):
            # The bytes are the same, and nobody pulls the plug of the real machine.
            connection.execute("PRAGMA synchronous = OFF")
            self.integrity: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
            self.outgoing_bodies = [
                body for (body,) in connection.execute("SELECT body FROM outgoing ORDER BY id")
            ]
            self.incoming_bodies: dict[int, bytes] = dict(
                connection.execute("SELECT id, body FROM incoming ORDER BY id").fetchall()
            )
            self.dead_rows: list[tuple[bytes, str]] = connection.execute(
                "SELECT body, reason FROM dead ORDER BY id"
            ).fetchall()
            work = Work(ledger, SqliteTables(connection, ledger))
        self.disk = make_disk(work)
        super().__init__(owner, work, self.disk)
        self.on_done: Callable[[bytes], None] = lambda body: None
        """Told the body of a message that is durably done."""

    def _ask(self, run: Callable[[], T]) -> Future[T]:
        future: Future[T] = _Future(self.disk)
        with self._lock:
            self.disk.submit(Operation(run, None, future))
        return future

    def accept(
        self,
        sender: Did,
        marks: Marks,
        batch: BatchReceived,
        new: Sequence[int],
        unaccepted: Unaccepted = ALL_ACCEPTED,
        on_commit: OnCommit | None = None,
    ) -> range:
        ids = super().accept(sender, marks, batch, new, unaccepted, on_commit)
        for id_, place in zip(ids, new, strict=True):
            self.incoming_bodies[id_] = batch.bodies[place]
        return ids

    def acked(self, ids: Iterable[int], on_commit: OnCommit | None = None) -> None:
        ids = list(ids)
        bodies = [self.incoming_bodies.pop(id_) for id_ in ids if id_ in self.incoming_bodies]

        def told(error: StoreError | None) -> None:
            if error is None:
                for body in bodies:
                    self.on_done(body)
            if on_commit is not None:
                on_commit(error)

        super().acked(ids, told)
