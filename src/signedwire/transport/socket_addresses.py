"""IP addresses in the form that sockets take: their zones, their order, and who counts as one host.

No I/O, except that the operating system is asked for the number or name of a network interface.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple

from signedwire.types import Address

__all__ = [
    "SocketAddress",
    "address_of",
    "host_group",
    "interleaved",
    "lacks_zone",
    "literal_address",
]

_MAX_ADDRESSES: Final = 16


class SocketAddress(NamedTuple):
    """One address that a socket can connect to, as `socket.getaddrinfo` returns it.

    `TcpNetwork.resolve` returns a list of them, for `TcpNetwork.dial`.
    """

    family: int
    """The address family: `socket.AF_INET` or `socket.AF_INET6`."""
    sockaddr: tuple[Any, ...]
    """The address in the form that `socket.connect` takes for this family."""

    def at(self, port: int) -> SocketAddress:
        """Return the address at another port of the same host."""
        return SocketAddress(self.family, (self.sockaddr[0], port, *self.sockaddr[2:]))


def literal_address(address: Address) -> SocketAddress | None:
    """Return the socket address of an IP address; `None`: the host is a name.

    Raises:
        OSError: An IPv6 zone names no network interface of this machine.
    """
    bare, _, zone = address.host.partition("%")
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        return SocketAddress(socket.AF_INET6, (bare, address.port, 0, _scope_id(zone)))
    return None if zone else SocketAddress(socket.AF_INET, (bare, address.port))


def _scope_id(zone: str) -> int:
    try:
        if not zone.isascii() or not zone.isdigit():
            return socket.if_nametoindex(zone) if zone else 0
        if len(zone) <= 10 and int(zone) < 2**32:
            socket.if_indextoname(int(zone))
            return int(zone)
    except OSError:
        pass
    raise OSError(f"this machine has no network interface {zone!r}, the zone of the address")


def address_of(sockaddr: tuple[Any, ...]) -> Address:
    """Return the address of a socket, with the IPv6 zone that `getsockname()` omits."""
    host, port = sockaddr[:2]
    scope_id = sockaddr[3] if len(sockaddr) > 3 else 0
    if scope_id and "%" not in host:
        try:
            host = f"{host}%{socket.if_indextoname(scope_id)}"
        except OSError:  # the interface is gone
            host = f"{host}%{scope_id}"
    return Address(host, port)


def interleaved(addresses: Iterable[SocketAddress]) -> list[SocketAddress]:
    """Return at most 16 different addresses, the families in turn (RFC 8305, section 4)."""
    unique = list(dict.fromkeys(addresses))
    first = [one for one in unique if one.family == unique[0].family]
    others = [one for one in unique if one.family != unique[0].family]
    pairs = chain.from_iterable(zip_longest(first, others))
    return [one for one in pairs if one is not None][:_MAX_ADDRESSES]


def lacks_zone(addresses: Iterable[SocketAddress]) -> bool:
    """Whether an address is link-local and names no network interface."""
    return any(
        family == socket.AF_INET6
        and not sockaddr[3]
        and ipaddress.IPv6Address(sockaddr[0]).is_link_local
        for family, sockaddr in addresses
    )


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
