"""The TCP network: sockets with the options that a long-lived link needs."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

from signedwire.errors import Cause, DialError, FailureKind, ListenError
from signedwire.transport.accepting import SocketAcceptor
from signedwire.transport.asyncio_stream import AsyncioStream
from signedwire.transport.names import (
    RESOLVER,
    SocketAddress,
    address_of,
    interleaved,
    literal_address,
)
from signedwire.transport.network import Listener, Receiver, Remote, Stream
from signedwire.transport.os_errors import describe_os_error, most_telling
from signedwire.transport.racing import connect_first
from signedwire.types import Address, Target

fcntl: ModuleType | None
try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None

__all__ = ["TcpNetwork", "host_group"]

_KEEPALIVE_IDLE: Final = 15
_KEEPALIVE_INTERVAL: Final = 5
_KEEPALIVE_PROBES: Final = 3
# Linux counts the time in which the window of the peer is closed, too. A receiver whose
# application pauses is alive, so this is long: with 1 s, it lost its connection each second.
_USER_TIMEOUT_MS: Final = 600_000
_ZONE_HINT: Final = (
    "A link-local address needs the zone that its peer is in: fe80::1%eth0, for example"
)
# Unsent bytes in the kernel after which a socket is full. Everything that is written waits
# behind them, an emergency stop too. Sent bytes without an acknowledgement do not count.
_UNSENT_LIMIT: Final = 16 * 1024
_SEND_BUFFER: Final = 64 * 1024
"""The whole send buffer of the kernel, with bytes in flight, if it has no such limit."""
_SIOCOUTQNSD: Final = 0x894B
_TCP_INFO_SIZE: Final = 104
_TCP_INFO_RTT_OFFSET: Final = 68


_NO_ADDRESS: Final = Cause("TCP reaches host:port", FailureKind.UNREACHABLE)
_NO_ADDRESS_HINT: Final = (
    'For unix:/path set network = "unix", or give the node network=UnixNetwork()'
)


class TcpNetwork:
    """Dials and listens over TCP: the default network of a node.

    A target is an `Address`. A host name is looked up in a thread of its own. Its addresses are
    then tried in parallel (RFC 8305).
    """

    uses_descriptors = True
    _resolver = RESOLVER  # shared by the process; tests give a network one of its own

    def __repr__(self) -> str:
        return "<TcpNetwork>"

    async def resolve(self, target: Target) -> list[SocketAddress]:
        """See `Resolving.resolve`."""
        if not isinstance(target, Address):
            raise DialError(target, _NO_ADDRESS, _NO_ADDRESS_HINT)
        try:
            return await self._addresses(target)
        except OSError as error:
            raise DialError(target, describe_os_error(error)) from error
        except UnicodeError as error:  # a label that no domain name can have
            cause = Cause("the host name is malformed", FailureKind.NAME_UNKNOWN)
            raise DialError(target, cause) from error

    async def _addresses(self, address: Address) -> list[SocketAddress]:
        literal = literal_address(address)
        if literal is not None:
            return [literal]
        found = await self._resolver.look_up(address.host)
        return [socket_address.at(address.port) for socket_address in interleaved(found)]

    async def _connect(self, target: Target, addresses: Sequence[SocketAddress]) -> socket.socket:
        """Return a socket that is connected to the first address that answers.

        Raises:
            DialError: None has answered. It has the causes of all.
        """
        try:
            return await connect_first(addresses)
        except ExceptionGroup as group:
            causes = dict.fromkeys(
                describe_os_error(one) for one in group.exceptions if isinstance(one, OSError)
            )
            hint = _ZONE_HINT if _lacks_zone(addresses) else ""
            kind = most_telling({cause.kind for cause in causes})
            raise DialError(target, ", ".join(causes), hint, kind) from group

    async def dial(
        self, target: Target, receiver: Receiver, resolved: Sequence[SocketAddress] | None = None
    ) -> Stream:
        """See `Network.dial`."""
        addresses = await self.resolve(target) if resolved is None else resolved
        sock = await self._connect(target, addresses)
        stream = _TcpStream(receiver)
        try:
            await asyncio.get_running_loop().create_connection(lambda: stream, sock=sock)
        except OSError as error:  # closed already
            sock.close()
            raise DialError(target, describe_os_error(error)) from error
        except BaseException:
            stream.give_up()
            sock.close()
            raise
        return stream

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        """See `Network.listen`."""
        if not isinstance(target, Address):
            raise ListenError(target, _NO_ADDRESS, _NO_ADDRESS_HINT)
        loop = asyncio.get_running_loop()
        try:
            hosts = [_host_of(socket_address) for socket_address in await self._addresses(target)]
            server = await loop.create_server(
                asyncio.Protocol, hosts, target.port, start_serving=False
            )
            acceptor = SocketAcceptor(server.sockets, lambda: _TcpStream(accept()), server.close)
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
            raise ListenError(target, cause, hint) from error
        except UnicodeError as error:
            raise ListenError(target, "the host name is malformed") from error
        return _TcpListener(acceptor)


class _TcpStream(AsyncioStream):
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


class _TcpListener:
    def __init__(self, server: SocketAcceptor) -> None:
        self._server = server
        self.address = address_of(server.sockets[0].getsockname())

    def close(self) -> None:
        self._server.close()

    def shut_down(self) -> None:
        self._server.shut_down()

    def when_short(self, make_room: Callable[[OSError], bool]) -> None:
        """See `NeedsDescriptors`."""
        self._server.on_shortage = make_room


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


def host_group(host: str) -> str | None:
    """Return the group that counts as one host: an IPv4 address, or an IPv6 /56.

    `None`: the address is a loopback address, which has no limit.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 56), strict=False))
    return str(address)


def _host_of(socket_address: SocketAddress) -> str:
    """Return the host as `create_server` takes it: in digits, with its zone."""
    return address_of(socket_address.sockaddr).host


def _lacks_zone(addresses: Sequence[SocketAddress]) -> bool:
    """Whether an address is link-local and names no network interface."""
    return any(
        family == socket.AF_INET6
        and not sockaddr[3]
        and ipaddress.IPv6Address(sockaddr[0]).is_link_local
        for family, sockaddr in addresses
    )
