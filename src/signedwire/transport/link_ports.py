"""The interfaces through which the parts of a link, and its owners, call each other."""

from __future__ import annotations

import ssl
from typing import Protocol

from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.ports import LinkPort
from signedwire.errors import Cause, DidProofError
from signedwire.types import Did
from signedwire.wire.link_frames import Hello
from signedwire.wire.session import Closed

__all__ = ["EventPort", "InputPort", "LinkDialerPort"]


class InputPort(Protocol):
    """The link whose input a `LinkInput` processes."""

    def begin(self, did: Did) -> None:
        """Begin the session with the DID that is proven, or end the link."""

    def take_events(self) -> None:
        """Handle the events of the session. The caller also calls `finish_turn()`."""

    def finish_turn(self) -> None:
        """Handle the events, write what is due, and set the timer."""

    def on_tls_failed(self, error: ssl.SSLError | DidProofError) -> None:
        """End the link: the other side has proven no DID, or has broken TLS."""

    def end(self, cause: Cause) -> None:
        """End the link: the connection is gone."""

    def close(self, code: int, reason: str) -> None:
        """Send CLOSE and hang up, without waiting."""

    def abort(self, cause: Cause) -> None:
        """End the link and its connection at once."""


class EventPort(LinkPort, Protocol):
    """The link whose events a `LinkEvents` handles."""

    def on_hello(self, peer_session: PeerSession, hello: Hello) -> None:
        """Open the link: the HELLO of the peer has come."""

    def end_session(self, closed: Closed) -> None:
        """Write what is left, and end the link: its session has ended."""


class LinkDialerPort(Protocol):
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
