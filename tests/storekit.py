"""Helpers for the tests of the store: drafts, batches, files, and waiting for a commit."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bodykit import encode_v2_body
from idkit import id_of
from linkkit import ALICE, BOB, EVE, body, received
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.store import Marks, MemoryStore, SqliteStore, Store, StoreLimits
from signedwire.delivery.store.commits import Writer
from signedwire.errors import StoreError
from signedwire.types import DeliveryState, Did, Priority, unix_time_us
from signedwire.wire.header import MIN_V2_HEADER_SIZE

US: Final = ALICE.did
PEER: Final = BOB.did
OTHER: Final = EVE.did
LIMIT: Final = 20.0


class Note:
    """A `Draft` with a payload."""

    def __init__(
        self,
        payload: bytes = b"hello",
        priority: Priority = Priority.NORMAL,
        expires_at_us: int = 0,
        queued_at_us: int = 1,
    ) -> None:
        self.payload = payload
        self.priority = priority
        self.size = MIN_V2_HEADER_SIZE + len(payload)
        self.body = b""
        self.row = 0
        self.sequence = 0
        self.epoch = 0
        self._expires_at_us = expires_at_us
        self._queued_at_us = queued_at_us

    def number(self, parties: bytes, epoch: int, sequence: int) -> None:
        self.sequence, self.epoch = sequence, epoch
        self.body = encode_v2_body(
            parties,
            self.payload,
            id_of(0),
            sequence,
            self._queued_at_us,
            self.priority,
            0,
            epoch,
            self._expires_at_us,
        )


class Told:
    """An `on_commit` with a `wait()`."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.error: StoreError | None = None

    def __call__(self, error: StoreError | None) -> None:
        assert not self._event.is_set(), "told twice"
        self.error = error
        self._event.set()

    @property
    def is_told(self) -> bool:
        return self._event.is_set()

    def wait(self) -> StoreError | None:
        assert self._event.wait(LIMIT), "not told"
        return self.error


def told(submit: Callable[..., Any], *arguments: Any, **options: Any) -> StoreError | None:
    """Submit an operation, and wait for its `on_commit`."""
    on_commit = Told()
    submit(*arguments, **options, on_commit=on_commit)
    return on_commit.wait()


@contextlib.contextmanager
def held(store: Store) -> Iterator[None]:
    """Delay all operations within the block, if the store has a thread."""
    gate = threading.Event()
    if isinstance(store._executor, Writer):
        store._ask(lambda: gate.wait(LIMIT))
    try:
        yield
    finally:
        gate.set()


def put(store: Store, *notes: Note, recipient: Did = PEER) -> None:
    assert told(store.put, recipient, notes) is None


def stored(
    store: Store,
    payload: bytes = b"hello",
    *,
    recipient: Did = PEER,
    priority: Priority = Priority.NORMAL,
    expires_at: float | None = None,
) -> OutgoingMessage:
    """Store an `OutgoingMessage`, as `StoreDriver.put()` does."""
    message = OutgoingMessage(SendOptions(recipient, priority, expires_at), id_of(1), payload)
    message.is_stored = True
    assert told(store.put, recipient, [message]) is None
    message.transition(DeliveryState.PERSISTED, unix_time_us())
    return message


def accept(store: Store, sequences: list[int], *, epoch: int = 9, payload: bytes = b"hi") -> range:
    """Accept a batch of `PEER` whose messages are all new."""
    bodies = [
        body(sequence, payload, sender=BOB, recipient=ALICE, epoch=epoch) for sequence in sequences
    ]
    on_commit = Told()
    marks = Marks(epoch, (0, max(sequences), 0, 0))
    ids = store.accept(PEER, marks, received(bodies, BOB), range(len(bodies)), on_commit=on_commit)
    assert on_commit.wait() is None
    return ids


def make(kind: str, path: Path, limits: StoreLimits | None = None, **options: Any) -> Store:
    if kind == "memory":
        return MemoryStore(US, limits=limits, **options)
    is_threaded = kind == "sqlite"
    return SqliteStore(path, US, limits=limits, is_threaded=is_threaded, **options)
