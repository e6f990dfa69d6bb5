"""TCP: sockets with the options that a long-lived link needs."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Final

from signedwire.errors import Cause, DialError, FailureKind, ListenError
from signedwire.transport.accepting import Acceptor
from signedwire.transport.names import (
    RESOLVER,
    Endpoint,
    Resolver,
    address_of,
    interleaved,
    literal_endpoint,
)
from signedwire.transport.racing import connect_first
from signedwire.types import Address

fcntl: ModuleType | None
try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None

__all__ = ["TcpCarrier", "describe_os_error", "set_accepted_options", "unsent_bytes"]

_KEEPALIVE_IDLE: Final = 15
_KEEPALIVE_INTERVAL: Final = 5
_KEEPALIVE_PROBES: Final = 3
# Linux counts the time in which a peer's window is closed, too: a receiver whose
# application pauses is not dead, so this is long. (Seen: at 1 s, such a peer lost
# its connection each second.)
_USER_TIMEOUT_MS: Final = 600_000
_ZONE_HINT: Final = (
    "A link-local address needs the zone that its peer is in: fe80::1%eth0, for example"
)
_KINDS: Final = {
    errno.ECONNREFUSED: FailureKind.REFUSED,
    errno.ETIMEDOUT: FailureKind.TIMED_OUT,
    errno.ENETUNREACH: FailureKind.UNREACHABLE,
    errno.EHOSTUNREACH: FailureKind.UNREACHABLE,
    errno.ENETDOWN: FailureKind.UNREACHABLE,
    errno.EHOSTDOWN: FailureKind.UNREACHABLE,
    errno.EADDRNOTAVAIL: FailureKind.UNREACHABLE,
    errno.EINVAL: FailureKind.UNREACHABLE,  # a link-local address without its zone
    errno.ECONNRESET: FailureKind.RESET,
    errno.ECONNABORTED: FailureKind.RESET,
    errno.EPIPE: FailureKind.RESET,
}
_MOST_TELLING: Final = (
    FailureKind.REFUSED,
    FailureKind.RESET,
    FailureKind.TIMED_OUT,
    FailureKind.UNREACHABLE,
    FailureKind.NAME_SERVER_SILENT,
    FailureKind.NAME_UNKNOWN,
    FailureKind.SYSTEM,
)
"""Kinds of which one is named where several addresses failed: the first that occurred."""
# What the kernel holds unsent before it calls a socket full. What is written waits behind
# it, an emergency stop too; what was sent and not yet acknowledged does not count.
_UNSENT_LIMIT: Final = 16 * 1024
_SEND_BUFFER: Final = 64 * 1024
"""Where the kernel has no such limit: its whole buffer, of what is in the air as well."""
_SIOCOUTQNSD: Final = 0x894B
_TCP_INFO_SIZE: Final = 104
_TCP_INFO_RTT_OFFSET: Final = 68


class TcpCarrier:
    """Dials and listens with asyncio's TCP transports.

    Args:
        resolver: Looks host names up; the one of the process by default.
    """

    def __init__(self, resolver: Resolver = RESOLVER) -> None:
        self._resolver = resolver

    async def resolve(self, address: Address) -> list[Endpoint]:
        """See `Resolving.resolve`."""
        try:
            return await self._endpoints(address)
        except OSError as error:
            raise DialError(address, describe_os_error(error)) from error
        except UnicodeError as error:  # a label that no domain name can have
            cause = Cause("the host name is malformed", FailureKind.NAME_UNKNOWN)
            raise DialError(address, cause) from error

    async def _endpoints(self, address: Address) -> list[Endpoint]:
        literal = literal_endpoint(address)
        if literal is not None:
            return [literal]
        found = await self._resolver.look_up(address.host)
        return [endpoint.at(address.port) for endpoint in interleaved(found)]

    async def connect(self, address: Address, endpoints: Sequence[Endpoint]) -> socket.socket:
        """A socket that is connected to the first of the endpoints that answers.

        Raises:
            DialError: with the causes in words.
        """
        try:
            return await connect_first(endpoints)
        except ExceptionGroup as group:
            causes = dict.fromkeys(
                describe_os_error(one) for one in group.exceptions if isinstance(one, OSError)
            )
            hint = _ZONE_HINT if _lacks_zone(endpoints) else ""
            # Of several, who refused is somebody who answered: it says the most.
            kinds = {cause.kind for cause in causes}
            kind = next((each for each in _MOST_TELLING if each in kinds), FailureKind.OTHER)
            raise DialError(address, ", ".join(causes), hint, kind) from group

    async def dial(
        self,
        address: Address,
        protocol: asyncio.Protocol,
        endpoints: Sequence[Endpoint] | None = None,
    ) -> asyncio.Transport:
        """See `Resolving.dial`."""
        if endpoints is None:
            endpoints = await self.resolve(address)
        sock = await self.connect(address, endpoints)
        try:
            _set_options(sock)
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: protocol, sock=sock
            )
        except OSError as error:  # it is gone already
            sock.close()
            raise DialError(address, describe_os_error(error)) from error
        except BaseException:
            sock.close()
            raise
        return transport

    async def listen(
        self, address: Address, accept: Callable[[], asyncio.Protocol]
    ) -> _TcpListener:
        """See `Carrier.listen`."""
        loop = asyncio.get_running_loop()
        try:
            hosts = [_host_of(endpoint) for endpoint in await self._endpoints(address)]
            server = await loop.create_server(accept, hosts, address.port, start_serving=False)
            acceptor = Acceptor(server, accept)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                cause, hint = "the port is in use", "Stop its owner, choose another, or use port 0"
            elif error.errno == errno.EACCES:
                cause, hint = "permission denied", "Ports under 1024 need privileges"
            elif error.errno in (errno.EMFILE, errno.ENFILE):
                cause, hint = (
                    describe_os_error(error),
                    "Raise the limit of descriptors: `ulimit -n`",
                )
            else:
                cause, hint = describe_os_error(error), "Is it an address of this machine?"
            raise ListenError(address, cause, hint) from error
        except UnicodeError as error:
            raise ListenError(address, "the host name is malformed") from error
        return _TcpListener(acceptor)

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
        if sock is None or not sys.platform.startswith("linux"):  # the layout is Linux's
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        except (OSError, ValueError):  # closed meanwhile, in its own thread; uvloop's own words
            return None
        (microseconds,) = struct.unpack_from("=I", info, _TCP_INFO_RTT_OFFSET)
        return microseconds / 1e6 if microseconds else None


class _TcpListener:
    def __init__(self, server: Acceptor) -> None:
        self._server = server
        self.address = address_of(server.sockets[0].getsockname())

    def close(self) -> None:
        self._server.close()

    def shut_down(self) -> None:
        self._server.shut_down()

    def when_short(self, make_room: Callable[[OSError], bool]) -> None:
        """See `NeedsDescriptors`."""
        self._server.on_shortage = make_room


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
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_LIMIT)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Bytes that were written and have not left this host; in the kernel, where it tells."""
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None or fcntl is None or not sys.platform.startswith("linux"):
        return waiting
    count = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), _SIOCOUTQNSD, count)
    except (OSError, ValueError):  # closed meanwhile
        return waiting
    return waiting + count[0]


def describe_os_error(error: OSError) -> Cause:
    """The operating system's words, without asyncio's around them, and the kind of failure."""
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            words = "the host name cannot be looked up now: no name server answers"
            return Cause(words, FailureKind.NAME_SERVER_SILENT)
        return Cause("the host name is unknown", FailureKind.NAME_UNKNOWN)
    if error.errno:
        kind = _KINDS.get(error.errno, FailureKind.SYSTEM)
        return Cause(os.strerror(error.errno).lower(), kind)
    kind = FailureKind.OTHER
    if isinstance(error, TimeoutError):
        kind = FailureKind.TIMED_OUT
    elif isinstance(error, ConnectionRefusedError):
        kind = FailureKind.REFUSED
    return Cause(str(error) or type(error).__name__, kind)


def _host_of(endpoint: Endpoint) -> str:
    """The host in digits, with its zone, as `create_server` takes it."""
    return address_of(endpoint.sockaddr).host


def _lacks_zone(endpoints: Sequence[Endpoint]) -> bool:
    """Whether an endpoint is link-local and names no network interface."""
    return any(
        family == socket.AF_INET6
        and not sockaddr[3]
        and ipaddress.IPv6Address(sockaddr[0]).is_link_local
        for family, sockaddr in endpoints
    )


def _fileno(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    if sock is None:  # uvloop has none for a transport that is closed
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    fd: int = sock.fileno()
    return fd
