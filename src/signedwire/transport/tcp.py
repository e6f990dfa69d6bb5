"""TCP: sockets with the options that a long-lived link needs."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import re
import select
import socket
import struct
import sys
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from types import ModuleType
from typing import Final

from signedwire.errors import DialError, ListenError
from signedwire.types import Address

fcntl: ModuleType | None
try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None

__all__ = ["TcpCarrier", "describe_os_error", "set_accepted_options"]

_KEEPALIVE_IDLE: Final = 15
_KEEPALIVE_INTERVAL: Final = 5
_KEEPALIVE_PROBES: Final = 3
# Linux counts the time in which a peer's window is closed, too: a receiver whose
# application pauses is not dead, so this is long. (Seen: at 1 s, such a peer lost
# its connection each second.)
_USER_TIMEOUT_MS: Final = 600_000
_LISTEN_BACKLOG: Final = 1024
# asyncio accepts as many at once as the backlog it is given, and when descriptors
# run out it reports each of those attempts: 8,192 lines in seven seconds.
_ACCEPTS_AT_ONCE: Final = 16
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
_TCP_INFO_SIZE: Final = 104
_TCP_INFO_RTT_OFFSET: Final = 68


class TcpCarrier:
    """Dials and listens with asyncio's TCP transports."""

    async def dial(self, address: Address, protocol: asyncio.Protocol) -> asyncio.Transport:
        """See `Carrier.dial`."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, address.host, address.port
            )
        except OSError as error:
            raise DialError(address, describe_os_error(error)) from error
        except UnicodeError as error:  # a label that no domain name can have
            raise DialError(address, "the host name is malformed") from error
        if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
            # Dialing a free port of the ephemeral range can meet itself (RFC 9293,
            # 3.5, simultaneous open): a connection, but nobody is there.
            transport.abort()
            raise DialError(address, "nobody listens there (connected to itself)")
        try:
            _set_options(transport.get_extra_info("socket"))
        except OSError as error:  # it is gone already
            transport.abort()
            raise DialError(address, describe_os_error(error)) from error
        return transport

    async def listen(
        self, address: Address, accept: Callable[[], asyncio.Protocol]
    ) -> _TcpListener:
        """See `Carrier.listen`."""
        loop = asyncio.get_running_loop()
        try:
            # Not serving yet: asyncio would wait for a turn of the loop with the sockets in
            # hand, and leave them open where it is cancelled then.
            server = await loop.create_server(
                accept, address.host, address.port, backlog=_ACCEPTS_AT_ONCE, start_serving=False
            )
            listener = _TcpListener(server)
            try:
                await server.start_serving()
                for sock in server.sockets:
                    _set_backlog(sock.fileno())
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                cause, hint = "the port is in use", "Stop its owner, choose another, or use port 0"
            elif error.errno == errno.EACCES:
                cause, hint = "permission denied", "Ports under 1024 need privileges"
            else:
                cause, hint = describe_os_error(error), "Is it an address of this machine?"
            raise ListenError(address, cause, hint) from error
        except UnicodeError as error:
            raise ListenError(address, "the host name is malformed") from error
        return listener

    def unacknowledged_bytes(self, transport: asyncio.Transport) -> int | None:
        """See `Carrier`. Linux keeps the answer after a connection broke, until its close."""
        if fcntl is None:
            return None
        count = array.array("i", [0])
        try:
            fcntl.ioctl(_fileno(transport), termios.TIOCOUTQ, count)
        except OSError:
            return None
        return count[0]

    def peer_has_closed(self, transport: asyncio.Transport) -> bool:
        """See `Carrier`."""
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(_fileno(transport), select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([_fileno(transport)], [], [], 0)[0])

    def round_trip(self, transport: asyncio.Transport) -> float | None:
        """See `Carrier`: the kernel's smoothed figure, tcp_info.tcpi_rtt."""
        sock = transport.get_extra_info("socket")
        if not sys.platform.startswith("linux"):  # the layout is Linux's
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        except (OSError, ValueError):  # closed meanwhile, in its own thread; uvloop's own words
            return None
        (microseconds,) = struct.unpack_from("=I", info, _TCP_INFO_RTT_OFFSET)
        return microseconds / 1e6 if microseconds else None


class _TcpListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        host, port = server.sockets[0].getsockname()[:2]
        self.address = Address(host, port)

    def close(self) -> None:
        for sock in self._server.sockets:
            _shut_down(sock.fileno())
        self._server.close()

    def shut_down(self) -> None:
        sockets: tuple[object, ...] = self._server.sockets
        for sock in sockets:
            # uvloop closes its sockets with the loop, and its objects keep the numbers.
            if isinstance(sock, TransportSocket) and sock.fileno() >= 0:
                _shut_down(sock.fileno())


def set_accepted_options(transport: asyncio.BaseTransport) -> None:
    """Give an accepted connection the same options as a dialed one."""
    with contextlib.suppress(OSError):  # it is gone already, which the loop will tell
        _set_options(transport.get_extra_info("socket"))


def _set_options(sock: socket.socket | None) -> None:
    """Notice a peer that vanished without a word; platforms know different options."""
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


def describe_os_error(error: OSError) -> str:
    """The operating system's words, without asyncio's around them."""
    if isinstance(error, socket.gaierror):
        return "the host name is unknown"
    codes = {error.errno} if error.errno else set(map(int, _ERRNO.findall(str(error))))
    if codes:  # asyncio packs the errors of several addresses into one text
        return ", ".join(os.strerror(code).lower() for code in sorted(codes))
    return str(error) or type(error).__name__


def _set_backlog(fd: int) -> None:
    """Let more connections wait in the kernel than are accepted at once."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.listen(_LISTEN_BACKLOG)


def _shut_down(fd: int) -> None:
    """End a listening socket for all who have it: a forked child may have a copy."""
    with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # ENOTCONN on some systems


def _fileno(transport: asyncio.Transport) -> int:
    fd: int = transport.get_extra_info("socket").fileno()
    return fd
