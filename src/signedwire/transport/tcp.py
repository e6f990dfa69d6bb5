"""The TCP network: it looks hosts up, dials, and listens."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final

from signedwire.errors import Cause, DialError, FailureKind, ListenError
from signedwire.transport.accepting import SocketAcceptor
from signedwire.transport.names import RESOLVER
from signedwire.transport.network import Listener, Receiver, Stream
from signedwire.transport.os_errors import describe_os_error, most_telling
from signedwire.transport.racing import connect_first
from signedwire.transport.socket_addresses import (
    SocketAddress,
    address_of,
    interleaved,
    lacks_zone,
    literal_address,
)
from signedwire.transport.tcp_stream import TcpStream
from signedwire.types import Address, Target

__all__ = ["TcpNetwork"]

_ZONE_HINT: Final = (
    "A link-local address needs the zone that its peer is in: fe80::1%eth0, for example"
)
_NO_ADDRESS: Final = Cause("TCP reaches host:port", FailureKind.UNREACHABLE)
_NO_ADDRESS_HINT: Final = (
    'For unix:/path set network = "unix", or give the node network=UnixNetwork()'
)


class TcpNetwork:
    """Dials and listens over TCP: the default network of a node.

    A target is an `Address`. A host name is looked up in a thread of its own, an IP address needs
    none. The addresses of a host are tried in parallel (RFC 8305).
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
            hint = _ZONE_HINT if lacks_zone(addresses) else ""
            kind = most_telling({cause.kind for cause in causes})
            raise DialError(target, ", ".join(causes), hint, kind) from group

    async def dial(
        self, target: Target, receiver: Receiver, resolved: Sequence[SocketAddress] | None = None
    ) -> Stream:
        """See `Network.dial`."""
        addresses = await self.resolve(target) if resolved is None else resolved
        sock = await self._connect(target, addresses)
        stream = TcpStream(receiver)
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
            acceptor = SocketAcceptor(server.sockets, lambda: TcpStream(accept()), server.close)
        except OSError as error:
            raise ListenError(target, *_listen_failure(error)) from error
        except UnicodeError as error:
            raise ListenError(target, "the host name is malformed") from error
        return _TcpListener(acceptor)


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


def _host_of(socket_address: SocketAddress) -> str:
    """Return the host as `create_server` takes it: in digits, with its zone."""
    return address_of(socket_address.sockaddr).host


def _listen_failure(error: OSError) -> tuple[str, str]:
    """Return the cause of a failed listen, and a hint."""
    if error.errno == errno.EADDRINUSE:
        return "the port is in use", "Stop its owner, choose another, or use port 0"
    if error.errno == errno.EACCES:
        return "permission denied", "Ports under 1024 need privileges"
    cause = describe_os_error(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return cause, "Raise the limit of descriptors: `ulimit -n`"
    return cause, "Is it an address of this machine?"
