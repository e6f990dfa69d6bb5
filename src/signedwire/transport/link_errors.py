"""Why a v2 link did not open, where the dialer must tell one reason from the others."""

from __future__ import annotations

from typing import Final

from signedwire.errors import DialError
from signedwire.transport.tcp import describe_os_error
from signedwire.types import Target

__all__ = ["HUNG_UP_ON_TLS", "FullError", "HungUpError", "describe_loss", "dial_error"]

HUNG_UP_ON_TLS: Final = (
    "it hung up on TLS without a word, as v1 peers do, and v2 peers that are full"
)


class HungUpError(DialError):
    """The other side hung up before it sent a byte, as v1 peers do."""

    def __init__(self, address: Target) -> None:
        super().__init__(address, HUNG_UP_ON_TLS, "If it is a v1 peer, name its DID in v1_peers")


class FullError(DialError):
    """The other side speaks v2 and has no room for another connection now."""


def describe_loss(error: Exception | None, *, is_before_hello: bool) -> str:
    """Why a connection is gone, in words.

    Args:
        error: What the system said, if it said anything.
        is_before_hello: Whether the other side is proven and has not sent HELLO.
    """
    if isinstance(error, OSError):
        return describe_os_error(error)
    if is_before_hello:
        return "closed by the peer before HELLO"
    return "the peer closed the connection"


def dial_error(address: Target, cause: str, *, is_full: bool, is_silent: bool) -> DialError:
    """Why the link did not open.

    Args:
        address: The address that was dialed.
        cause: Why the link ended, in words.
        is_full: Whether the other side sent the alert of a full listener.
        is_silent: Whether it hung up before it sent a byte.
    """
    if is_full:
        return FullError(address, cause)
    return HungUpError(address) if is_silent else DialError(address, cause)
