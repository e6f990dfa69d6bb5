"""The seam between the transport and what carries its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from signedwire.transport.names import Endpoint
from signedwire.types import Address

__all__ = ["Listener", "NeedsDescriptors", "Network", "Resolving"]


class Listener(Protocol):
    """An open door."""

    @property
    def address(self) -> Address:
        """Where it is, with the real port where 0 was asked for."""

    def close(self) -> None:
        """Accept no more. Connections that were accepted stay."""

    def shut_down(self) -> None:
        """Free the address, where the loop was closed and nothing else can be done."""


@runtime_checkable
class NeedsDescriptors(Protocol):
    """A listener that takes a descriptor of the process for each connection."""

    def when_short(self, make_room: Callable[[OSError], bool]) -> None:
        """Have `make_room` called where the process has no descriptor for a connection.

        It returns whether it has closed another one.
        """


class Network(Protocol):
    """Makes ordered byte streams. All calls belong to the running event loop."""

    async def dial(self, address: Address, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect `protocol` to whoever listens at `address`. Cancelling it leaves nothing open.

        Raises:
            DialError: with the cause in words.
        """

    async def listen(self, address: Address, accept: Callable[[], asyncio.Protocol]) -> Listener:
        """Accept connections at `address`, a new protocol from `accept` for each.

        Raises:
            ListenError: the address cannot be had.
        """

    def unacknowledged_bytes(self, transport: asyncio.Transport) -> int | None:
        """Bytes that left `transport` and that the other host is not known to have.

        `None` where the platform does not tell. Asked for the last time while the
        connection's loss is reported.
        """

    def peer_has_closed(self, transport: asyncio.Transport) -> bool:
        """Whether something can be read now: on a connection that only writes, its end."""

    def round_trip(self, transport: asyncio.Transport) -> float | None:
        """Seconds, where it is known."""


@runtime_checkable
class Resolving(Protocol):
    """A network whose hosts may be names, so that a dialer can tell a lookup from a dial."""

    async def resolve(self, address: Address) -> list[Endpoint]:
        """Look the host up. An address in digits needs no lookup and no thread.

        Raises:
            DialError: with the cause in words.
        """

    async def dial(
        self,
        address: Address,
        protocol: asyncio.Protocol,
        endpoints: Sequence[Endpoint] | None = None,
    ) -> asyncio.Transport:
        """See `Network.dial`; `endpoints` are what `resolve(address)` returned.

        The endpoints are raced: the next is tried when the one before has failed, or
        after 250 ms.
        """
