"""One v1 connection: which of its messages the operating system and the peer's host have.

v1 has no receipts, so nobody knows which messages a broken connection lost. The kernel knows in
part: bytes that the host of the peer never acknowledged were not received. Messages that reach
into that tail are queued again, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.errors import Cause, FailureKind
from signedwire.transport.network import Stream
from signedwire.transport.os_errors import describe_os_error

__all__ = ["ConnectionOwner", "V1Connection"]

_SHORTEST_PAUSE: Final = 0.005
"""Seconds between two questions to the kernel, at first."""
_LONGEST_PAUSE: Final = 0.08
"""Seconds between two questions to the kernel at most."""


class ConnectionOwner(Protocol):
    """The sender whose connection this is: `V1Sender`."""

    def pump(self) -> None:
        """Write a batch: the socket takes more bytes."""

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        """Note messages that the operating system has taken."""

    def on_acknowledged(self, messages: list[OutgoingMessage]) -> None:
        """Note messages that the host of the peer has acknowledged."""

    def on_lost(self, connection: V1Connection, lost: list[OutgoingMessage], cause: Cause) -> None:
        """Note the end of the connection, and the messages that may be lost with it."""


class V1Connection:
    """One dialed v1 connection. It only writes: bytes from the other side end it.

    Args:
        owner: Is told what becomes of the messages.
    """

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._stream: Stream | None = None
        self._offset = 0  # bytes given to the transport
        self._taken = 0  # bytes of them that the kernel had taken when it was last asked
        self._is_paused = False
        self._cause: Cause | None = None
        self.is_lost = False
        self._watch: asyncio.TimerHandle | None = None
        self._pause = _SHORTEST_PAUSE
        # Messages that the operating system has not taken whole, and those that the host of
        # the peer has not acknowledged yet, each with the offset at which it ends.
        self._unwritten: deque[tuple[int, OutgoingMessage]] = deque()
        self._unacknowledged: deque[tuple[int, OutgoingMessage]] = deque()

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self._stream = stream

    @property
    def can_write(self) -> bool:
        """Whether the operating system has taken everything so far."""
        return not self._is_paused and self._stream is not None

    @property
    def has_written(self) -> bool:
        """Whether anything was written."""
        return self._offset > 0

    @property
    def is_drained(self) -> bool:
        """Whether the host of the peer has acknowledged all that was written."""
        left = self._unwritten or self._unacknowledged
        return not left or left[-1][0] <= self._acknowledged()

    @property
    def round_trip(self) -> float | None:
        """Round-trip time in seconds; `None`: the kernel does not measure it."""
        return None if self._stream is None else self._stream.round_trip()

    def peer_has_closed(self) -> bool:
        """Whether the peer has closed the connection. The event loop may not have read that yet."""
        assert self._stream is not None
        return self._stream.is_closing() or self._stream.peer_has_closed()

    def write(self, batch: list[tuple[bytes, OutgoingMessage]]) -> int:
        """Write frames, and return their size in bytes. `on_written` follows."""
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

    def _taken_now(self) -> int:
        """Return the bytes that the kernel has taken since the connection was opened."""
        assert self._stream is not None
        if self._stream.is_closing():  # a broken one has thrown its buffer away
            return self._taken
        return self._offset - self._stream.waiting()

    def _acknowledged(self) -> int:
        """Return the bytes that the host of the peer has acknowledged.

        If the kernel does not count them, these are the bytes that it has taken.
        """
        assert self._stream is not None
        return self._taken_now() - (self._stream.unacknowledged() or 0)

    def _settle(self) -> None:
        """Report messages that the kernel has taken, or the host of the peer has acknowledged."""
        taken = self._taken = self._taken_now()
        unwritten, unacknowledged = self._unwritten, self._unacknowledged
        written: list[OutgoingMessage] = []
        while unwritten and unwritten[0][0] <= taken:
            entry = unwritten.popleft()
            written.append(entry[1])
            unacknowledged.append(entry)
        acknowledged = self._acknowledged()
        done: list[OutgoingMessage] = []
        while unacknowledged and unacknowledged[0][0] <= acknowledged:
            done.append(unacknowledged.popleft()[1])
        if done:
            self._owner.on_acknowledged(done)
        if written:
            self._owner.on_written(written)
        if unacknowledged and self._watch is None and not self.is_lost:
            # The kernel has no event for an acknowledgement, so it is asked until all have come.
            # A row in the store, a dialer without a slot and the end of the node wait for them.
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
        words = "the other side wrote bytes, which no v1 peer does"
        self._cause = Cause(words, FailureKind.PROTOCOL)
        self.abort()

    def ended(self) -> None:
        """See `Receiver`."""
        self.abort()  # a close would wait, perhaps for ever, until the peer has read all bytes

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
        cause = cause or Cause("the peer closed the connection", FailureKind.CLOSED)
        self._owner.on_lost(self, lost, cause)

    def close(self) -> list[OutgoingMessage]:
        """Close without waiting; return the messages that were not written.

        The kernel delivers the bytes that it has taken. Other bytes would keep the socket open
        until the peer reads them, so they are thrown away.
        """
        assert self._stream is not None
        self._settle()
        lost = [message for _, message in self._unwritten]
        self._unwritten.clear()
        # Messages without an acknowledgement may be lost. Those in a store keep their rows.
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
