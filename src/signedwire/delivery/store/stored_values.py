"""Conversions of arguments of a store into stored values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from signedwire.delivery.store.ledger import PeerRecord
from signedwire.delivery.store.records import Marks, OnCommit, Unaccepted
from signedwire.delivery.store.tables import NO_LANE, NOT_STORED
from signedwire.errors import StoreError
from signedwire.wire.header import PRIORITY

__all__ = ["lanes_of", "set_committed_marks", "storable"]

_MAX_TEXT: Final = 1000


def lanes_of(bodies: Sequence[bytes], unaccepted: Unaccepted) -> bytes:
    """Encode one byte for each envelope of a batch: its lane, or why it was not stored."""
    lanes = bytearray(body[PRIORITY] & 3 for body in bodies)
    for place in unaccepted.not_stored:
        lanes[place] = NOT_STORED
    for place in unaccepted.invalid:
        lanes[place] = NO_LANE
    return bytes(lanes)


def storable(error: str) -> str:
    """Return error text of a system or a peer in a form that can be stored.

    At most 1000 characters are kept. Characters that have no UTF-8 form are replaced.
    """
    return error[:_MAX_TEXT].encode("utf-8", "replace").decode()


def set_committed_marks(
    peer: PeerRecord, marks: Marks, on_commit: OnCommit | None, error: StoreError | None
) -> None:
    """Set the marks for HELLO if their commit has not failed, then call `on_commit`."""
    if error is None:
        peer.marks = marks
    if on_commit is not None:
        on_commit(error)
