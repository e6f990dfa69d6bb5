"""The socket under a link: how much waits to be sent on it, and whether it is read.

Encrypted bytes cannot be taken back, and an urgent message goes behind them. So parts of batches
are written only when the socket has taken the last ones. At most 64 KiB of them wait to be sent,
including the kernel's share, or 16 KiB above that share.
"""

from __future__ import annotations

import asyncio
from typing import Final

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import transition_all
from signedwire.stats import Counters
from signedwire.transport.lingering import Lingering
from signedwire.transport.network import Stream
from signedwire.types import DeliveryState, Target, unix_time_us

__all__ = ["LinkSocket"]

_MAX_UNSENT: Final = 64 * 1024
"""Bytes that may wait to be sent, with the parts that are added."""
_LEAST_ROOM: Final = 16 * 1024
"""Bytes of parts that are written at once, however many wait in the kernel."""
_MAX_UNREAD: Final = 1024 * 1024 + 2 * _MAX_UNSENT
"""Bytes of parts, receipts and other frames that wait for a peer which does not read. If more
wait, the node stops reading from the peer."""
_LINGER: Final = 1.0
"""Seconds that a closing socket may take to send the bytes that are left."""


class LinkSocket:
    """The stream of one link, with bounds for the bytes that wait in it.

    Args:
        counters: Counts the bytes and messages that are written.
        lingering: Bounds the connections that were hung up and still send.
    """

    __slots__ = (
        "_counters",
        "_is_held",
        "_is_read",
        "_is_waiting",
        "_linger_timer",
        "_lingering",
        "_stream",
        "_unwritten",
        "is_paused",
    )

    def __init__(self, counters: Counters, lingering: Lingering) -> None:
        self._counters = counters
        self._lingering = lingering
        self._stream: Stream | None = None
        self._unwritten: list[OutgoingMessage] = []
        self._is_read = True
        self._is_held = False
        self._is_waiting = False
        self._linger_timer: asyncio.TimerHandle | None = None
        self.is_paused = False
        """Whether the operating system has not yet taken all bytes that were written."""

    def open(self, stream: Stream) -> None:
        """Use a stream that is connected."""
        self._stream = stream

    @property
    def is_connected(self) -> bool:
        """Whether bytes can still be written."""
        return self._stream is not None and not self._stream.is_closing()

    @property
    def address(self) -> Target | None:
        """The address of the other side."""
        return None if self._stream is None else self._stream.remote.target

    # -- out ------------------------------------------------------------------------

    def writable_bytes(self) -> int:
        """Return the bytes of parts that may be written.

        0: the last ones are not taken yet, or the connection is lost.
        """
        if self._stream is None or self.is_paused or self._stream.is_closing():
            return 0
        return max(_LEAST_ROOM, _MAX_UNSENT - self._stream.unsent())

    def write(self, data: bytes) -> None:
        """Write ciphertext, if there is any."""
        stream = self._stream
        if stream is None or not data:
            return
        self._counters.bytes_sent += len(data)
        stream.write(data)
        waiting = stream.waiting()
        self.is_paused = waiting > 0
        if not waiting:
            if self._unwritten:
                self.mark_written()
        elif self._is_read and waiting > _MAX_UNREAD:
            self._update_reading()

    def expect_written(self, messages: list[OutgoingMessage]) -> None:
        """Note the messages of the next `write()`."""
        self._unwritten += messages

    def mark_written(self) -> None:
        """Set the state of the messages: the operating system has taken all bytes.

        Also at the end of a connection, where it may have taken them.
        """
        messages, self._unwritten = self._unwritten, []
        self._counters.messages_sent += len(messages)
        transition_all(messages, DeliveryState.WRITTEN, unix_time_us())

    def writable(self) -> None:
        """Note that the operating system has taken all bytes."""
        self.is_paused = False
        self.mark_written()
        self._update_reading()

    # -- in -------------------------------------------------------------------------

    def set_waiting(self, is_waiting: bool) -> None:
        """Stop reading while input waits for a later turn."""
        self._is_waiting = is_waiting
        self._update_reading()

    def set_held(self, is_held: bool) -> None:
        """Stop reading while there is no room for what the peer sends."""
        self._is_held = is_held
        self._update_reading()

    def _update_reading(self) -> None:
        """Read, unless input waits, or has no room, or the peer does not read."""
        stream = self._stream
        if stream is None or stream.is_closing():
            return
        if self._is_waiting or self._is_held or stream.waiting() > _MAX_UNREAD:
            if self._is_read:
                self._is_read = False
                stream.pause_reading()
        elif not self._is_read:
            self._is_read = True
            stream.resume_reading()

    @property
    def is_reset(self) -> bool:
        """Whether the other side has reset the connection. Needed while the stream is not read."""
        return self._stream is not None and self._stream.is_reset()

    # -- the end ----------------------------------------------------------------------

    def hang_up(self, *, is_node_open: bool) -> None:
        """Close the connection when all bytes are sent, or after a second.

        Args:
            is_node_open: Whether to abort the connection instead if many others still send.
        """
        stream = self._stream
        if is_node_open and self._lingering.is_full:
            self.abort()
        elif stream is not None and not stream.is_closing():
            stream.close()
            self._linger_timer = asyncio.get_running_loop().call_later(_LINGER, stream.abort)
            self._lingering.add(self)

    def close(self) -> None:
        """Close the connection when all bytes are sent."""
        if self._stream is not None:
            self._stream.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._stream is not None:
            self._stream.abort()

    def lost(self) -> None:
        """Note that the connection is closed."""
        self._lingering.discard(self)
        if self._linger_timer is not None:
            self._linger_timer.cancel()
