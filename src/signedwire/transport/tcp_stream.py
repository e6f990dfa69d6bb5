"""A stream over a TCP socket: the socket's options, and what the kernel knows about its bytes.

The options notice a peer that is gone, and keep the bytes few that wait in the kernel.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import struct
import sys
from types import ModuleType
from typing import Any, Final

from signedwire.transport.asyncio_stream import AsyncioStream
from signedwire.transport.network import Remote
from signedwire.transport.socket_addresses import address_of, host_group

fcntl: ModuleType | None
try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None

__all__ = ["TcpStream"]

_KEEPALIVE_IDLE: Final = 15
_KEEPALIVE_INTERVAL: Final = 5
_KEEPALIVE_PROBES: Final = 3
# Linux counts the time in which the window of the peer is closed, too. A receiver whose
# application pauses is alive, so this is long: with 1 s, it lost its connection each second.
_USER_TIMEOUT_MS: Final = 600_000
# Unsent bytes in the kernel after which a socket is full. Everything that is written waits
# behind them, an emergency stop too. Sent bytes without an acknowledgement do not count.
_UNSENT_LIMIT: Final = 16 * 1024
_SEND_BUFFER: Final = 64 * 1024
"""The whole send buffer of the kernel, with bytes in flight, if it has no such limit."""
_SIOCOUTQNSD: Final = 0x894B
_TCP_INFO_SIZE: Final = 104
_TCP_INFO_RTT_OFFSET: Final = 68


class TcpStream(AsyncioStream):
    """A stream over a TCP socket. Its options are set when the connection is made."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with contextlib.suppress(OSError):  # closed already: `connection_lost` follows
            _set_options(transport.get_extra_info("socket"))
        super().connection_made(transport)

    def _remote(self, peername: Any) -> Remote:
        if peername is None:  # closed before the name was read
            return Remote(None, "unknown", "unknown")
        address = address_of(peername)
        return Remote(address, address.host, host_group(address.host))

    def unsent(self) -> int:
        """See `Stream`. Linux counts the unsent bytes in the kernel."""
        waiting = self.waiting()
        sock = self._socket
        if sock is None or fcntl is None or not sys.platform.startswith("linux"):
            return waiting
        count = array.array("i", [0])
        try:
            fcntl.ioctl(sock.fileno(), _SIOCOUTQNSD, count)
        except (OSError, ValueError):  # closed meanwhile
            return waiting
        return waiting + count[0]

    def unacknowledged(self) -> int | None:
        """See `Stream`. Linux keeps the answer after a connection broke, until its close."""
        sock = self._socket
        if fcntl is None or sock is None:
            return None
        count = array.array("i", [0])
        try:
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
        except (OSError, ValueError):
            return None
        return count[0]

    def round_trip(self) -> float | None:
        """See `Stream`: the kernel's smoothed figure, tcp_info.tcpi_rtt."""
        sock = self._socket
        if sock is None or not sys.platform.startswith("linux"):  # the layout is Linux's
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        except (OSError, ValueError):  # closed meanwhile; uvloop raises ValueError
            return None
        (microseconds,) = struct.unpack_from("=I", info, _TCP_INFO_RTT_OFFSET)
        return microseconds / 1e6 if microseconds else None


def _set_options(sock: socket.socket | None) -> None:
    """Set the options that notice a peer which is gone. Platforms have different ones."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_LIMIT)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
