"""One end of a connection in memory: bytes that come late, never, or break the connection.

    write ─→ fate ─→ (delay) ─→ arriving ─→ received, in the loop of the other end

A stream holds a window of bytes for a reader that has paused, as the buffers of a socket do.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from signedwire.transport.network import Receiver, Remote, Stream

__all__ = ["Fate", "MemoryStream"]

Fate: TypeAlias = tuple[float, bool, bool]
"""The fate of one write: (delay in seconds, is_lost, is_cut)."""

_WINDOW: Final = 64 * 1024
"""Bytes that a stream holds for a reader that has paused."""


class MemoryStream(Stream):
    """One end of a connection. Its receiver is called in the event loop of this end.

    `write` of the other end may be called in another loop and thread.

    Args:
        loop: The event loop of the receiver.
        receiver: The receiver of the stream.
        remote: The other side.
        draw_fate: Returns the fate of the next write. Any thread.
        on_end: Called with the stream when it has ended, before its receiver is told.
    """

    other: MemoryStream
    """The other end. Its owner sets it before the stream is used."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receiver: Receiver,
        remote: Remote,
        draw_fate: Callable[[], Fate],
        on_end: Callable[[MemoryStream], None],
    ) -> None:
        self._loop = loop
        self._receiver = receiver
        self._remote = remote
        self._draw_fate = draw_fate
        self._on_end = on_end
        self._lock = threading.Lock()
        self._arriving: deque[tuple[float, bytes | None]] = deque()  # None: end of stream
        self._in_transit = 0  # bytes that were written here and that the other end has not read
        self._last_due = 0.0
        self._is_reading = True
        self._is_closing = False
        self._is_gone = False
        self._is_full = False  # `writable` is due

    def begin(self) -> None:
        """Report that the stream is open. Called in the event loop of its receiver."""
        self._receiver.connected(self)

    @property
    def remote(self) -> Remote:
        """See `Stream`."""
        return self._remote

    def set_receiver(self, receiver: Receiver) -> None:
        """See `Stream`."""
        self._receiver = receiver

    # -- writing: in the loop of this end ----------------------------------------------------------

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        if self._is_closing or not data:
            return
        delay, is_lost, is_cut = self._draw_fate()
        if is_cut:
            self.break_off()
            return
        if is_lost:
            return
        with self._lock:
            self._in_transit += len(data)
            self._is_full = self._in_transit > _WINDOW
        self.other._arrive(data, delay)

    def waiting(self) -> int:
        """See `Stream`: the bytes that the buffers of a socket would not hold."""
        return max(0, self._in_transit - _WINDOW)

    def unacknowledged(self) -> int | None:
        """See `Stream`: the bytes that the other end has not read."""
        return self._in_transit

    def is_closing(self) -> bool:
        """See `Stream`."""
        return self._is_closing

    def close(self) -> None:
        """See `Stream`."""
        if not self._is_closing:
            self._is_closing = True
            self.other._arrive(None, 0.0)
            self._loop.call_soon_threadsafe(self._end, None)

    def abort(self) -> None:
        """See `Stream`. Bytes on the way are lost; the other end sees the end of the stream."""
        if not self._is_closing:
            self.other._call(self.other._drop_arriving)
            self.close()

    def break_off(self) -> None:
        """Break the connection at both ends. Bytes on the way are lost."""
        for end in (self, self.other):
            end._is_closing = True
            end._call(end._end, ConnectionResetError("the connection was cut"))

    def peer_has_closed(self) -> bool:
        """See `Stream`."""
        return bool(self._arriving)

    # -- reading: `_arrive` is called in the other loop, all else in the loop of this end --

    def pause_reading(self) -> None:
        """See `Stream`."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """See `Stream`."""
        self._is_reading = True
        self._call(self._read)

    def _arrive(self, data: bytes | None, delay: float) -> None:
        with self._lock:
            # The clock of the loop that reads, whichever loop writes.
            self._last_due = max(self._last_due, self._loop.time() + delay)
            self._arriving.append((self._last_due, data))
        self._call(self._read)

    def _drop_arriving(self) -> None:
        """Drop the bytes on the way, but not the end of the stream."""
        while self._arriving and self._arriving[0][1] is not None:
            self._arriving.popleft()

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _read(self) -> None:
        while self._arriving and self._is_reading and not self._is_gone:
            due, data = self._arriving[0]
            now = self._loop.time()
            if due > now:
                self._loop.call_at(due, self._read)
                return
            self._arriving.popleft()
            if self._is_closing:
                continue
            if data is None:
                self._receiver.ended()
            else:
                self.other._on_read(len(data))
                self._receiver.received(data)

    def _on_read(self, size: int) -> None:
        with self._lock:
            self._in_transit -= size
            is_due = self._is_full and self._in_transit <= _WINDOW
            if is_due:
                self._is_full = False
        if is_due:
            self._call(self._report_writable)

    def _report_writable(self) -> None:
        # If the stream is full again, the call comes later.
        if not self._is_gone and not self._is_full:
            self._receiver.writable()

    def _end(self, error: Exception | None) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._on_end(self)
            self._receiver.lost(error)
