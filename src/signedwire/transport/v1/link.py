"""One v1 connection, and which of its messages the peer's host has acknowledged.

v1 has no receipts, so it cannot show which messages a broken connection lost. The kernel can, in
part: bytes that the peer's host never acknowledged were not received. Messages that reach into
these bytes are queued again, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from signedwire.delivery.message import OutgoingMessage
from signedwire.errors import Cause, FailureKind
from signedwire.transport.network import Stream
from signedwire.transport.os_errors import describe_os_error

__all__ = ["V1Link", "V1LinkOwner"]

_SHORTEST_PAUSE: Final = 0.005
"""Minimum seconds between two questions to the kernel."""
_LONGEST_PAUSE: Final = 0.08
"""Maximum seconds between two questions to the kernel."""


class V1LinkOwner(Protocol):
    """The dialer of a connection."""

    def pump(self) -> None:
        """Write what waits: the connection has room again."""

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        """Note that the operating system has taken these messages."""

    def on_acknowledged(self, messages: list[OutgoingMessage]) -> None:
        """Note that the peer's host has acknowledged these messages."""

    def on_lost(self, link: V1Link, lost: list[OutgoingMessage], cause: Cause) -> None:
        """Note that a connection has ended; `lost` did not reach the peer's host."""


class V1Link:
    """One dialed v1 connection. It only writes: no v1 peer writes on it, so any input ends it.

    Args:
        owner: The dialer.
    """

    def __init__(self, owner: V1LinkOwner) -> None:
        self._owner = owner
        self._stream: Stream | None = None
        self._offset = 0  # bytes given to the transport
        self._taken = 0  # bytes that the kernel has taken of them
        self._is_paused = False
        self._cause: Cause | None = None
        self.is_lost = False
        self._watch: asyncio.TimerHandle | None = None
        self._pause = _SHORTEST_PAUSE
        # What the operating system has not taken whole, and what the peer's host
        # has not acknowledged yet: each with the offset at which it ends.
        self._unwritten: deque[tuple[int, OutgoingMessage]] = deque()
        self._unacknowledged: deque[tuple[int, OutgoingMessage]] = deque()

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self._stream = stream

    @property
    def can_write(self) -> bool:
        """Whether the operating system has taken all bytes that were written."""
        return not self._is_paused and self._stream is not None

    @property
    def has_written(self) -> bool:
        """Whether anything was written."""
        return self._offset > 0

    @property
    def is_drained(self) -> bool:
        """Whether the peer's host has acknowledged all messages, so that closing loses none."""
        self._settle()
        return not self._unwritten and not self._unacknowledged

    @property
    def round_trip(self) -> float | None:
        """Seconds, as the kernel measures them; `None`: not measured."""
        return None if self._stream is None else self._stream.round_trip()

    def peer_has_closed(self) -> bool:
        """Ask the kernel whether the peer has closed; the event loop may learn it later."""
        assert self._stream is not None
        return self._stream.is_closing() or self._stream.peer_has_closed()

    def write(self, batch: list[tuple[bytes, OutgoingMessage]]) -> int:
        """Write frames, and return their size. The owner's `on_written` follows."""
        assert self._stream is not None
        offset = self._offset
        for frame, message in batch:
            offset += len(frame)
            self._unwritten.append((offset, message))
        self._offset = offset
        self._pause = _SHORTEST_PAUSE
        data = b"".join([frame for frame, _ in batch])
        self._stream.write(data)
        self._is_paused = self._stream.waiting() > 0
        self._settle()
        return len(data)

    def _settle(self) -> None:
        """Report messages that the kernel, and then the peer's host, has taken."""
        assert self._stream is not None
        if not self._stream.is_closing():  # a broken connection has an empty buffer
            self._taken = self._offset - self._stream.waiting()
        taken = self._taken
        unwritten, unacknowledged = self._unwritten, self._unacknowledged
        written: list[OutgoingMessage] = []
        while unwritten and unwritten[0][0] <= taken:
            entry = unwritten.popleft()
            written.append(entry[1])
            unacknowledged.append(entry)
        # On systems that do not show acknowledgements, what the kernel took counts as acknowledged.
        acknowledged = taken - (self._stream.unacknowledged() or 0)
        done: list[OutgoingMessage] = []
        while unacknowledged and unacknowledged[0][0] <= acknowledged:
            done.append(unacknowledged.popleft()[1])
        if done:
            self._owner.on_acknowledged(done)
        if written:
            self._owner.on_written(written)
        if unacknowledged and self._watch is None and not self.is_lost:
            # The kernel reports no acknowledgement, so it is asked until all are there: a row
            # in the store, a dialer that waits for a slot and the end of the node wait for them.
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(self._pause, self._on_watch)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _on_watch(self) -> None:
        self._watch = None
        self._settle()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def writable(self) -> None:
        """See `Receiver`."""
        self._is_paused = False
        self._settle()
        self._owner.pump()

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        # No v1 peer writes in this direction, so the other side is none.
        words = "the peer wrote bytes, which no v1 peer does"
        self._cause = Cause(words, FailureKind.PROTOCOL)
        self.abort()

    def ended(self) -> None:
        """See `Receiver`."""
        # An orderly close could wait for ever until a peer that has gone takes what is buffered.
        self.abort()

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        self.is_lost = True
        self._stop_watching()
        self._settle()
        lost = [message for _, message in (*self._unacknowledged, *self._unwritten)]
        self._unacknowledged.clear()
        self._unwritten.clear()
        cause = self._cause
        if cause is None and isinstance(error, OSError):
            cause = describe_os_error(error)
        cause = cause or Cause("the peer closed it", FailureKind.CLOSED)
        self._owner.on_lost(self, lost, cause)

    def close(self) -> list[OutgoingMessage]:
        """Close without waiting, and return the messages that the kernel has not taken.

        The kernel delivers what it has taken. The rest would keep the socket open as long as the
        peer does not read, so it is dropped.
        """
        assert self._stream is not None
        self._settle()
        lost = [message for _, message in self._unwritten]
        self._unwritten.clear()
        # A message without acknowledgement may be lost; the row of a stored one stays.
        for _, message in self._unacknowledged:
            if not message.is_stored:
                message.release()
        self._unacknowledged.clear()
        self._stop_watching()
        if lost:
            self._stream.abort()
        else:
            self._stream.close()
        return lost

    def abort(self) -> None:
        """Close at once."""
        if self._stream is not None:
            self._stream.abort()
