"""The seam between the transport and what carries its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from signedwire.types import Address

__all__ = ["Carrier", "Listener"]


class Listener(Protocol):
    """An open door."""

    @property
    def address(self) -> Address:
        """Where it is, with the real port where 0 was asked for."""

    def close(self) -> None:
        """Accept no more. Connections that were accepted stay."""

    def shut_down(self) -> None:
        """Free the address, where the loop was closed and nothing else can be done."""


class Carrier(Protocol):
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
