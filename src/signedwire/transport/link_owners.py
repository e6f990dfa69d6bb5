"""The owners of a link: the admission of an accepted one, the dialer of ours."""

from __future__ import annotations

from typing import Protocol

from signedwire.delivery.ports import LinkPort
from signedwire.errors import Cause
from signedwire.wire.session import Closed

__all__ = ["LinkDialerPort", "LinkGuest"]


class LinkGuest(Protocol):
    """The admission of an accepted connection."""

    host: str
    since: float
    """When the connection was accepted, by the monotonic clock."""

    def touch(self) -> None:
        """The connection brought something."""

    def prove(self) -> None:
        """The connection brought its HELLO."""

    def leave(self) -> None:
        """The connection has ended."""


class LinkDialerPort(Protocol):
    """The dialer of a link."""

    def touch(self) -> None:
        """The link is of use."""

    def on_link_over(
        self, link: LinkPort, cause: Cause, closed: Closed | None, *, is_excused: bool
    ) -> None:
        """The link was open and has ended; what was in flight is not queued again yet."""
