"""Messages of the rows that a store has loaded."""

from __future__ import annotations

from collections.abc import Sequence

from signedwire.delivery.deadlines import instant_of
from signedwire.delivery.message import OutgoingMessage, SendOptions
from signedwire.delivery.ports import MessageQueue
from signedwire.delivery.store import OutgoingRow, Store
from signedwire.transport.backlog_cursor import BacklogCursor
from signedwire.types import DeliveryState, Did, Reason
from signedwire.wire.header import PARTIES, V2_START

__all__ = ["RowLoader"]


class RowLoader:
    """Turns rows into messages, and gives up those that may not be sent.

    Args:
        store: The store that has the rows.
        us: The node's DID.
    """

    def __init__(self, store: Store, us: Did) -> None:
        self._store = store
        self._us = bytes(us)

    def messages(
        self,
        queue: MessageQueue,
        cursor: BacklogCursor,
        lane: int,
        rows: Sequence[OutgoingRow],
        held: Sequence[OutgoingMessage | None],
    ) -> list[OutgoingMessage]:
        """The messages of these rows that may be sent, in order.

        Args:
            queue: What waits for their peer.
            cursor: How far its rows were loaded.
            lane: The lane of the rows.
            held: For each row the message whose receipt somebody holds, if there is one.
        """
        did = queue.did
        opened_at = self._store.lane(did, lane).opened_at
        messages = []
        for row, known in zip(rows, held, strict=True):
            message = known or _message_of(row)
            due = row.expires_at_us
            origin_us = self._store.clock_steps.origin_us if row.row >= opened_at else None
            expires_at = None if due is None else instant_of(due, origin_us)
            message.restore(row.body, was_written=row.is_written, expires_at=expires_at)
            message.row = row.row
            cursor.receipts[lane, row.row] = message
            if not self._is_ours(row, did, lane):
                why = "somebody has changed the store: this is not what was stored"
                queue.give_up(message, Reason.MALFORMED, why)
                continue
            was_used = row.is_written or row.sequence <= cursor.accepted[lane]
            if cursor.restarts and was_used:
                queue.give_up(message, Reason.STALE_EPOCH)
            else:
                messages.append(message)
        return messages

    def _is_ours(self, row: OutgoingRow, did: Did, lane: int) -> bool:
        """Whether a row is what a node of our key stores: it is about to be signed."""
        header = row.body
        return (
            header.startswith(V2_START)
            and header[PARTIES] == self._us + bytes(did)
            and row.lane == lane
            and self._store.lane(did, lane).can_have(row.row, row.sequence)
        )


def _message_of(row: OutgoingRow) -> OutgoingMessage:
    """A message whose sender has ended, or has let go of its receipt; `restore()` follows."""
    terms = SendOptions(row.recipient, row.priority, queued_at_us=row.queued_at_us)
    message = OutgoingMessage(terms, row.message_number)
    message.transition(DeliveryState.PERSISTED, row.queued_at_us)
    return message
