"""Hints for errors about a message, and details of messages with an uncertain outcome."""

from __future__ import annotations

from typing import Final

from signedwire.errors import Cause, FailureKind
from signedwire.types import Reason
from signedwire.wire.clock_offset import ClockOffset, duration_text

__all__ = [
    "HALF_SENT",
    "HOW_TO_UNDENY",
    "NEEDS_STORE",
    "NOT_DELIVERED",
    "UNANSWERED",
    "advice",
    "late_by_the_peer",
]

NEEDS_STORE: Final = (
    "until='persisted' needs a store: Node(identity, store=\"node.db\"), and a durable message"
)
HOW_TO_UNDENY: Final = (
    "node.access.undeny(did) ends a denial made at run time; for others, change `deny`, the allow "
    "lists or the access file"
)
UNANSWERED: Final = Cause(
    "it had been written, so the peer may have taken it in time", FailureKind.UNANSWERED
)
"""The detail of a message that expired after it had been written."""
HALF_SENT: Final = "its sending was stopped half-way, so the peer does not have it"
"""The detail of a message that expired while a link was writing its batch, for the first time."""
# Hints by the kind of the last failure.
_BY_KIND: Final = {
    FailureKind.WRONG_KEY: "Another key answers at that address: is the DID right?",
    FailureKind.HUNG_UP_ON_TLS: "If it is a v1 peer, name its DID in v1_peers",
    FailureKind.TURNED_AWAY: "The peer's access list may not let us in",
    FailureKind.CLOCKS_DIFFER: "Compare the clocks of the two machines, and have both set by NTP",
    FailureKind.DENIED: "The peer's operator can let us in with node.access",
    FailureKind.FULL: "Try again later, or ask the peer's operator for a higher limit",
    FailureKind.VERSION: "Install versions of signedwire with a common wire on both sides",
    FailureKind.BAD_SIGNATURE: "Does something between the two machines change bytes?",
}
NOT_DELIVERED: Final = "; it was NOT delivered: another process used this number"
_BY_REASON: Final = {
    Reason.DUPLICATE: "Send it again; one process per key at a time",
    Reason.EXPIRED: "Give it a later deadline, or check node.peers() for what holds the peer up",
    Reason.ATTEMPTS_EXHAUSTED: "Is the peer running, and is its address right? "
    "`signedwire ping DID@address` tries it",
    Reason.CLOSED: "The node was closed before its peer had answered",
    Reason.AGED_OUT: "Add its route with routing.update(did, address), then "
    "node.dead.retry(id) sends it",
    Reason.DENIED: f"{HOW_TO_UNDENY}. Then send it again; with a store, node.dead.retry(id) does",
    Reason.REPLACED: "A newer message with the same `latest` key took its place in the queue",
    Reason.UNKNOWN_PEER: "The peer has no route and no link: add a route with "
    "routing.update(did, address), or wait until the peer dials this node",
}


def late_by_the_peer(late: float, offset: ClockOffset | None) -> Cause:
    """Return the detail of a message that expired by the peer's clock and not by ours.

    Args:
        late: By how many seconds, by the peer's clock; 0 or less: the peer has not told.
        offset: How far that is from ours; `None`: not known.
    """
    is_ahead = offset is not None and offset.is_noticeable and offset.seconds > 0
    clock = f"is {offset} of ours" if is_ahead else "may be ahead of ours"
    how_late = f"{duration_text(late)} late" if late > 0 else "late"
    return Cause(
        f"the peer refused it as {how_late}, but by our clock its deadline had not passed: "
        f"the peer's clock {clock}",
        FailureKind.CLOCKS_DIFFER,
    )


def advice(kind: FailureKind | None, reason: Reason) -> str:
    """Return what to do about a failed message, as text; empty: there is no hint.

    Args:
        kind: The kind of the last failure on the way, whose hint is more exact than that of
            the reason; `None`: nothing failed.
        reason: Why the message was given up.
    """
    return ("" if kind is None else _BY_KIND.get(kind, "")) or _BY_REASON.get(reason, "")
