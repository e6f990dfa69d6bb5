"""The parts of a node that own a link: the admission of an accepted one, the dialer of ours."""

from __future__ import annotations

from typing import Protocol

from signedwire.delivery.ports import LinkPort
from signedwire.errors import Cause
from signedwire.wire.session import Closed

__all__ = ["DialerPort", "InboundPort"]


class InboundPort(Protocol):
    """The admission of an accepted connection."""

    host: str
    since: float
    """When the connection was accepted, by the monotonic clock."""

    def touch(self) -> None:
        """Note that the connection brought bytes."""

    def prove(self) -> None:
        """Note that the HELLO of the peer has come."""

    def leave(self) -> None:
        """Note that the connection has ended."""


class DialerPort(Protocol):
    """The dialer of a link."""

    def touch(self) -> None:
        """Note that the link has carried messages."""

    def on_link_over(
        self, link: LinkPort, cause: Cause, closed: Closed | None, *, is_excused: bool
    ) -> None:
        """Note that an open link has ended. Messages in flight are queued again after this call.

        Args:
            link: The link.
            cause: Why it ended.
            closed: How its session ended; `None`: the connection was cut.
            is_excused: Whether the end costs the messages in flight no attempt.
        """
