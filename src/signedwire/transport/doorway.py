"""The door: every accepted connection stands here until its first byte.

    0x16  a TLS ClientHello   → a v2 `Link`
    0x00  a v1 length         → an `InboundLink`, where the configuration takes v1
    else                      → closed and counted

Nothing is ever answered in plaintext, but for the TLS alert that tells a v2 dialer
that we have no room. A `Guest` is an accepted connection as far
as admission goes: it is unproven until an acceptable v1 envelope or a v2 HELLO,
and must prove itself within `handshake_timeout`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from signedwire.transport.inbound import InboundLink
from signedwire.transport.link import Link
from signedwire.transport.network import Stream
from signedwire.transport.tls import FULL_ALERT, TLS_FIRST_BYTE
from signedwire.types import Reason

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["MADE_ROOM", "Doorway", "Guest"]

MADE_ROOM: Final = "made room for a newer connection"
"""Why a connection was closed that others took the place of."""

_V1_FIRST_BYTE: Final = 0x00
_LOOK_AGAIN: Final = 0.05
_LAST_MOMENT: Final = 1.0
"""Seconds in which a connection that lost its place may still prove itself."""


class Guest:
    """One accepted connection, from the door to its end."""

    __slots__ = (
        "_core",
        "_is_hurried",
        "_stream",
        "_timer",
        "group",
        "host",
        "is_proven",
        "is_refused",
        "protocol",
    )

    def __init__(self, core: Core, stream: Stream) -> None:
        self._core = core
        self._stream = stream
        self.host, self.group = stream.remote.host, stream.remote.group
        self._is_hurried = False
        self.is_proven = False
        self.is_refused = False
        self.protocol: Doorway | InboundLink | Link | None = None
        """Who deals with the connection now."""
        timeout = core.config.handshake_timeout
        self._timer = None
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._on_unproven, False)

    def prove(self) -> None:
        """It has brought what it had to."""
        self.is_proven = True
        self._cancel()
        self._core.incoming.prove(self)

    def touch(self) -> None:
        """It was used just now."""
        self._core.incoming.touch(self)

    def hurry(self) -> None:
        """A newer connection of its host has its place: it must prove itself in a moment."""
        loop = asyncio.get_running_loop()
        self._is_hurried = True
        if self._timer is not None and self._timer.when() <= loop.time() + _LAST_MOMENT:
            return
        self._cancel()
        self._timer = loop.call_later(_LAST_MOMENT, self._on_unproven, False)

    def _on_unproven(self, was_seen: bool) -> None:
        """Its time is over, but for what has arrived already.

        After a stall of our own loop, its timers can be due before its reads.
        """
        is_working = isinstance(self.protocol, InboundLink) and self.protocol.is_working
        if was_seen and not is_working and self._is_hurried:
            self.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)
        elif was_seen and not is_working:
            self.refuse(Reason.TOO_SLOW, "it has not proven itself in time")
        else:
            self._timer = asyncio.get_running_loop().call_later(
                _LOOK_AGAIN, self._on_unproven, True
            )

    def refuse(self, reason: Reason, fact: str) -> None:
        """Close it, and count why. Once."""
        if self.is_refused:
            return
        self.is_refused = True
        self._cancel()
        if isinstance(self.protocol, InboundLink):
            self.protocol.discard()
        self._core.drop(reason, None, self.host)
        self._core.drops.log_closed(self.host, reason, fact)
        if isinstance(self.protocol, Link) and reason is Reason.CONNECTION_LIMIT:
            self.protocol.turn_away(fact)
        elif reason is Reason.CONNECTION_LIMIT and self._core.incoming.may_linger(self):
            # Its first byte, which is on its way, tells whether to answer.
            self._timer = asyncio.get_running_loop().call_later(_LAST_MOMENT, self.close)
        else:
            self._stream.abort()

    def answer_full(self, first_byte: int) -> None:
        """It was refused for want of room, and now its first byte has come."""
        self._cancel()
        if first_byte == TLS_FIRST_BYTE:
            self._stream.write(FULL_ALERT)
            self._stream.close()
        else:
            self._stream.abort()

    def leave(self) -> None:
        """The connection has ended."""
        self._cancel()
        self.protocol = None
        self._core.incoming.forget(self)

    def close(self) -> None:
        """The node closes."""
        self.is_refused = True
        self._cancel()
        self._stream.abort()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Doorway:
    """Looks at the first byte, then hands the connection on."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._stream: Stream | None = None
        self._guest: Guest | None = None

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self._stream = stream
        self._guest = guest = Guest(self._core, stream)
        guest.protocol = self
        if not self._core.incoming.admit(guest):
            guest.refuse(Reason.CONNECTION_LIMIT, "too many connections")

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        guest, stream = self._guest, self._stream
        assert guest is not None
        assert stream is not None
        if guest.is_refused:
            guest.answer_full(data[0])
        elif data[0] == TLS_FIRST_BYTE and self._core.speaks_v2:
            guest.protocol = Link(self._core, guest=guest)
        elif data[0] == _V1_FIRST_BYTE and self._core.incoming.accepts_v1:
            guest.protocol = InboundLink(self._core, guest)
        else:
            guest.refuse(Reason.WRONG_PROTOCOL, f"the first byte is {data[0]:#04x}")
        if guest.protocol is not self:
            assert guest.protocol is not None
            stream.set_receiver(guest.protocol)
            guest.protocol.connected(stream)
            guest.protocol.received(data)

    def ended(self) -> None:
        """See `Receiver`."""
        assert self._stream is not None
        self._stream.close()

    def writable(self) -> None:
        """See `Receiver`: nothing waits for that here."""

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        assert self._guest is not None
        self._guest.leave()
