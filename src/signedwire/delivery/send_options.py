"""The options that all messages of one call share, and the ids of new messages."""

from __future__ import annotations

import os
import struct
from typing import Final

from signedwire.delivery.deadlines import due_us
from signedwire.delivery.receipt import queued_step
from signedwire.home import Home
from signedwire.types import ControlType, Did, Kind, PayloadType, Priority, unix_time_us
from signedwire.wire.header import MESSAGE_ID_SIZE, MIN_V2_HEADER_SIZE, VOLATILE, encode_v2_common

__all__ = ["SendOptions", "new_ids"]

_SAME_INSTANT_US: Final = 1000
"""Maximum difference of two readings of the clocks, in microseconds, if neither was set."""


def new_ids(count: int) -> list[bytes]:
    """Return ids for new messages, 16 bytes each.

    All are drawn now, and none is kept for later: a forked process would use it again.
    """
    drawn = os.urandom(MESSAGE_ID_SIZE * count)
    # One call cuts them all: slices in a loop took 0.06 µs longer per message.
    return list(struct.unpack(f"{MESSAGE_ID_SIZE}s" * count, drawn))


class SendOptions:
    """The options that all messages of one `send_many()` share.

    All of these messages refer to one object, so that a message itself is small.
    """

    __slots__ = (
        "_common",
        "_control_type",
        "_due_us",
        "_epoch",
        "expires_at",
        "has_store",
        "header_size",
        "home",
        "is_bulk",
        "is_durable",
        "kind",
        "latest",
        "payload_type",
        "priority",
        "queued",
        "recipient",
        "reply_to",
        "stream",
        "subject",
    )

    def __init__(
        self,
        recipient: Did,
        priority: Priority,
        expires_at: float | None = None,
        payload_type: PayloadType = PayloadType.RAW,
        *,
        subject: bytes = b"",
        kind: Kind = Kind.MESSAGE,
        control_type: ControlType | None = None,
        reply_to: bytes = b"",
        is_bulk: bool = False,
        is_durable: bool = True,
        latest: bytes | None = None,
        queued_at_us: int | None = None,
    ) -> None:
        self.recipient = recipient
        self.priority = priority
        self.expires_at = expires_at
        """The deadline, by the monotonic clock or as a `WallInstant`; `None`: none. See `clock`."""
        self.payload_type = payload_type
        self.subject = subject
        """The subject, as the header has it."""
        self.kind = kind
        self._control_type = 0 if control_type is None else int(control_type)
        self.reply_to = reply_to
        """The leaf of the request, in a reply; else empty."""
        self.is_bulk = is_bulk
        """Whether the receipts are not tracked beyond `accepted`, as for a `send_many()`."""
        self.queued = queued_step(unix_time_us() if queued_at_us is None else queued_at_us)
        """The first history of the receipts: queued."""
        self.home: Home | None = None
        """The event loop of the node, for checks of waits; `None`: no checks."""
        self.has_store = False
        """Whether a store of the node keeps the messages, so that `persisted` can be reached."""
        self.is_durable = is_durable
        """Whether stores keep the messages: that of the node, and that of the recipient."""
        self.latest = None if latest is None else (subject, latest)
        """Subject and key; a newer message with both takes the place of one that waits. `None`: the
        message has no key. Only volatile messages have one."""
        self.stream = int(priority) if is_durable else priority + VOLATILE
        """The stream of the messages; see `wire.header`."""
        self.header_size = MIN_V2_HEADER_SIZE + len(subject) + len(reply_to)
        """Size of the v2 header in bytes."""
        self._epoch = -1
        self._due_us = 0
        self._common = b""

    def common(self, parties: bytes, epoch: int) -> bytes:
        """Return the common part of the v2 headers; made again if the clock was set."""
        due = due_us(self.expires_at)
        if epoch != self._epoch or abs(due - self._due_us) > _SAME_INSTANT_US:
            self._common = encode_v2_common(
                parties,
                self.queued[1],
                self.priority,
                self.payload_type,
                epoch,
                due,
                self.kind,
                self.subject,
                self.reply_to,
                control_type=self._control_type,
                is_durable=self.is_durable,
            )
            self._epoch, self._due_us = epoch, due
        return self._common
