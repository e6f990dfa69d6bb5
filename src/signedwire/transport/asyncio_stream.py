"""Streams over the transports of asyncio and uvloop: the common part of TCP and Unix sockets.

The calls for each message go straight from one side to the other. The stream binds the methods of
its transport and its receiver once, so it adds no call.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from signedwire.transport.network import Receiver, Remote, Stream

__all__ = ["AsyncioStream"]

_MAX_READ: Final = 128 * 1024
"""Bytes that asyncio reads at once; its default is twice as much. Received bytes wait in memory:
with 40 strangers, this saves 5 MiB."""

_MAX_LAST_READS: Final = 2
"""Maximum number of reads after a connection broke: 256 KiB."""


class AsyncioStream(Stream, asyncio.Protocol):
    """A stream, and the asyncio protocol of the transport under it.

    Pass one to `loop.create_connection`, or return one from the factory of a server. A subclass
    overrides `_remote`, which makes a `Remote` of the transport's `peername`. After a cancelled
    dial, call `give_up()`.

    Args:
        receiver: The receiver of the stream.
    """

    __slots__ = (
        "_has_ended",
        "_is_paused",
        "_known_remote",
        "_receiver",
        "_transport",
        "data_received",
        "is_closing",
        "waiting",
        "write",
    )

    # Bound when the connection is made: each is called once or more for a message.
    write: Callable[[bytes], None]
    waiting: Callable[[], int]
    is_closing: Callable[[], bool]
    data_received: Callable[[bytes], None]  # type: ignore[assignment]

    def __init__(self, receiver: Receiver) -> None:
        self._receiver: Receiver | None = receiver
        self.data_received = receiver.received
        self._known_remote: Remote | None = None
        self._has_ended = False
        self._is_paused = False

    def __repr__(self) -> str:
        remote = self._known_remote
        return f"<{type(self).__name__}{'' if remote is None else f' {remote.host}'}>"

    def set_receiver(self, receiver: Receiver) -> None:
        """See `Stream`."""
        self._receiver = receiver
        self.data_received = receiver.received
        self._transport.set_protocol(self)  # uvloop binds `data_received` there

    # -- calls by the transport ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance(): uvloop's transports are of no asyncio class.
        self._transport = transport = cast(asyncio.Transport, transport)
        self.write = transport.write
        self.waiting = transport.get_write_buffer_size
        self.is_closing = transport.is_closing
        if hasattr(transport, "max_size"):
            transport.max_size = _MAX_READ
        # Zero: `writable` follows whenever the kernel has not taken all bytes at once.
        transport.set_write_buffer_limits(high=0)
        assert self._receiver is not None
        self._receiver.connected(self)
        if self._is_paused:  # uvloop begins to read after this call
            asyncio.get_running_loop().call_soon(self._pause)

    def eof_received(self) -> bool:
        # Only once: asyncio reports the end again when reading is paused and resumed after it.
        if self._receiver is not None and not self._has_ended:
            self._has_ended = True
            self._receiver.ended()
        return True  # stay open: it may still write

    def resume_writing(self) -> None:
        # In the next turn: asyncio calls this amid its own write. When the receiver closes the
        # stream there, or writes to a broken one, asyncio reports the end twice.
        asyncio.get_running_loop().call_soon(self._tell_writable)

    def _tell_writable(self) -> None:
        if self._receiver is not None and not self.waiting():
            self._receiver.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            if exc is not None and self._receiver is not None:
                self._receive_rest()
        finally:
            # Otherwise stream and receiver would refer to each other until a garbage collection.
            receiver, self._receiver = self._receiver, None
            self.data_received = _ignore
            if receiver is not None:
                receiver.lost(exc)

    def _receive_rest(self) -> None:
        """Receive the bytes that came before the connection broke.

        After a failed write, asyncio and uvloop read nothing more. But the peer may have sent
        its receipts, and then closed. A pause does not hold here: the receiver cannot end it on
        a broken stream.
        """
        sock = self._socket
        fd = -1 if sock is None or os.name != "posix" else sock.fileno()
        if fd < 0:
            return
        for _ in range(_MAX_LAST_READS):
            try:
                data = os.read(fd, _MAX_READ)
            except OSError:  # nothing is left, or the connection was reset
                return
            if not data:
                return
            self.data_received(data)

    def give_up(self) -> None:
        """Report the end of a connection whose dial was cancelled, which uvloop does not."""
        if hasattr(self, "_transport"):
            asyncio.get_running_loop().call_soon(self.connection_lost, None)

    # -- calls by the receiver ------------------------------------------------------

    def pause_reading(self) -> None:
        """See `Stream`."""
        self._is_paused = True
        self._pause()

    def _pause(self) -> None:
        if self._is_paused and not self._transport.is_closing():  # where uvloop would raise
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `Stream`."""
        self._is_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """See `Stream`."""
        self._transport.close()

    def abort(self) -> None:
        """See `Stream`."""
        self._transport.abort()

    @property
    def remote(self) -> Remote:
        """See `Stream`."""
        if self._known_remote is None:
            self._known_remote = self._remote(self._transport.get_extra_info("peername"))
        return self._known_remote

    def _remote(self, peername: Any) -> Remote:
        """Return the other side, by the address of its socket."""
        raise NotImplementedError

    def is_reset(self) -> bool:
        """See `Stream`."""
        sock = self._socket
        try:
            return sock is not None and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        except (OSError, ValueError):  # closed meanwhile; uvloop raises ValueError
            return False

    def peer_has_closed(self) -> bool:
        """See `Stream`."""
        sock = self._socket
        fd = -1 if sock is None else sock.fileno()
        if fd < 0:
            return True
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([fd], [], [], 0)[0])

    @property
    def _socket(self) -> socket.socket | None:
        """The socket of the transport; `None`: uvloop has none after the end."""
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        return sock


def _ignore(_: bytes) -> None:
    """Drop bytes after the end."""
