"""Errors for malformed bytes: of a peer, and of a receipt that came by a link or in a proof."""

from __future__ import annotations

from signedwire.errors import RemoteProtocolError
from signedwire.types import Reason

__all__ = ["BadReceipt", "peer_sent"]


class BadReceipt(ValueError):
    """A receipt is malformed; the text names it, for the error of a link or of a proof."""


def peer_sent(fact: str) -> RemoteProtocolError:
    """Return the error that ends the link of a peer.

    Args:
        fact: The malformed part, as in "a frame of 0 bytes".
    """
    return RemoteProtocolError(Reason.PROTOCOL_ERROR, f"the peer sent {fact}")
