"""What an actor says: records of fixed size, so that one cut by a kill is known as such."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

__all__ = ["RECORD", "Kind"]

RECORD: Final = struct.Struct("<BBHQ")
"""Kind, lane, detail, number."""


class Kind(IntEnum):
    """What a record says of the message `number`."""

    READY = 1
    """The node runs."""
    PERSISTED = 2
    """`send()` has returned."""
    ACCEPTED = 3
    """The receipt says so."""
    HANDLED = 4
    """The receipt says so."""
    FAILED = 5
    """The call raised, or the receipt says so; detail is the code of the reason."""
    DELIVERED = 6
    """The application has it, and has not said `ack()`; detail 1: `redelivered`."""
    FINISHING = 7
    """`ack()` is about to be called."""
    DONE = 8
    """`ack()` is on the disk."""
    QUIET = 9
    """Nothing waits; number is how many dead letters there are."""
    MEMORY = 10
    """Resident, in KiB; comes after IN_USE."""
    IN_USE = 11
    """What the allocators have given out, in KiB."""
