"""Whether a message may be queued for a peer: access, the peer's wire, and the size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signedwire.errors import NotAllowedError, PayloadTooLargeError
from signedwire.types import Did, Reason

if TYPE_CHECKING:
    from signedwire.transport.core import Core
    from signedwire.transport.peer import Peer

__all__ = ["check_allowed", "check_size"]


def check_allowed(core: Core, did: Did, peer: Peer | None) -> None:
    """Whether access and the configuration let us send to a peer.

    Raises:
        NotAllowedError: they do not.
    """
    if core.links.access.is_denied(did):
        core.drop(Reason.DENIED, did)
        raise NotAllowedError(
            did, Reason.DENIED, f"{did} is denied by node.access; the message was not queued"
        )
    if _is_v1(core, peer) and not core.links.is_v1_allowed(did):
        core.drop(Reason.NOT_ALLOWED, did)
        raise NotAllowedError(
            did,
            Reason.NOT_ALLOWED,
            f"{did} speaks only v1 and is not among v1_peers; the message was not queued",
            'Name it in v1_peers, or set v1_peers = "all"',
        )


def check_size(core: Core, did: Did, peer: Peer | None, payload_size: int) -> None:
    """Whether the wire that the peer speaks carries so large a payload, in bytes.

    Raises:
        PayloadTooLargeError: it does not.
    """
    is_v1 = _is_v1(core, peer)
    limit = core.config.max_v1_payload_size if is_v1 else core.config.max_payload_size
    if payload_size > limit:
        core.drop(Reason.TOO_LARGE, did)
        wire = "v1 " if is_v1 else ""
        raise PayloadTooLargeError(
            did,
            Reason.TOO_LARGE,
            f"a payload of {payload_size} bytes is over the {wire}limit of {limit}; "
            f"the message to {did} was not queued",
            "Split it" + (", or raise max_v1_payload_size: live v1 peers drop more" * is_v1),
        )


def _is_v1(core: Core, peer: Peer | None) -> bool:
    return not core.speaks_v2 or (peer is not None and peer.wire == "v1")
