"""What a store writes beside the messages, made of what it was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from signedwire.delivery.store.ledger import PeerRecord
from signedwire.delivery.store.records import Marks, Noted, Then
from signedwire.delivery.store.tables import NO_LANE, UNKEPT
from signedwire.errors import StoreError
from signedwire.wire.header import PRIORITY

__all__ = ["lanes_of", "note_marks", "storable"]

_MAX_TEXT: Final = 1000


def lanes_of(bodies: Sequence[bytes], noted: Noted) -> bytes:
    """The lane of each envelope of a batch, or why it was not kept, a byte each."""
    lanes = bytearray(body[PRIORITY] & 3 for body in bodies)
    for place in noted.unkept:
        lanes[place] = UNKEPT
    for place in noted.strays:
        lanes[place] = NO_LANE
    return bytes(lanes)


def storable(error: str) -> str:
    """What can be stored: whatever a system or a peer may have put into its words."""
    return error[:_MAX_TEXT].encode("utf-8", "replace").decode()


def note_marks(peer: PeerRecord, marks: Marks, then: Then | None, error: StoreError | None) -> None:
    """The marks are committed, or not."""
    if error is None:
        peer.marks = marks
    if then is not None:
        then(error)
