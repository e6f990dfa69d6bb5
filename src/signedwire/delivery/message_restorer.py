"""Makes messages of the rows that were read from a store, and of dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from signedwire.delivery.backlog_cursor import BacklogCursor
from signedwire.delivery.deadlines import instant_of, is_relative, moved
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.ports import MessageQueue
from signedwire.delivery.send_options import SendOptions, new_ids
from signedwire.delivery.store import DeadLetter, OutgoingRow, Store
from signedwire.errors import StoreError
from signedwire.types import DeliveryState, Did, Kind, Priority, Reason
from signedwire.wire.header import V2_START, expiry_of, message_id_of, parties_of

__all__ = ["MessageRestorer", "copy_of"]


class MessageRestorer:
    """Makes messages of rows, and gives up the messages that must not be sent.

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
        """Return the messages of the rows that may be sent, in order.

        Args:
            queue: The queue to the peer of the rows.
            cursor: The cursor of the peer.
            lane: The lane of the rows.
            rows: The rows, in order.
            held: For each row the message whose receipt somebody holds, if there is one.
        """
        did = queue.did
        place = self._store.lane(did, lane)
        opened_at = place.opened_at
        messages = []
        for row, known in zip(rows, held, strict=True):
            message = known or _message_of(row)
            due = row.expires_at_us
            origin_us = self._store.clock_steps.origin_us if row.row >= opened_at else None
            expires_at = None if due is None else instant_of(due, origin_us)
            message.restore(
                row.body,
                was_written=row.is_written,
                may_be_written=place.may_be_written(row.row),
                expires_at=expires_at,
            )
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

    def move_deadlines(self, did: Did, queued: Iterable[OutgoingMessage], by_us: int) -> None:
        """Move the deadlines of messages in a queue, as the store has moved those of the rows.

        Only deadlines in seconds of this process move. A message that was written keeps its
        bytes, because the peer may have it.

        Args:
            did: The DID of their peer.
            queued: The messages.
            by_us: Microseconds, an even number.
        """
        opened_at = [self._store.lane(did, lane).opened_at for lane in range(len(Priority))]
        for message in queued:
            due = expiry_of(message.body) if message.sequence else None
            if (
                due is not None
                and is_relative(due)
                and not message.was_written
                and message.is_stored
                and message.row >= opened_at[message.priority]
            ):
                message.body = moved(message.body, by_us)

    def _is_ours(self, row: OutgoingRow, did: Did, lane: int) -> bool:
        """Whether a node with our key can have stored the row, which is about to be signed."""
        header = row.body
        return (
            header.startswith(V2_START)
            and parties_of(header) == self._us + bytes(did)
            and row.lane == lane
            and self._store.lane(did, lane).can_have(row.row, row.sequence)
        )


def _message_of(row: OutgoingRow) -> OutgoingMessage:
    """Make a message whose receipt nobody holds; `restore()` completes it."""
    options = SendOptions(row.recipient, row.priority, queued_at_us=row.queued_at_us)
    message = OutgoingMessage(options, message_id_of(row.body))
    message.transition(DeliveryState.PERSISTED, row.queued_at_us)
    return message


def copy_of(letter: DeadLetter) -> OutgoingMessage:
    """Return a new message with the payload of a dead letter, without a deadline.

    Raises:
        StoreError: the letter is a request or a reply, which nobody waits for any more.
    """
    if letter.kind in (Kind.REQUEST, Kind.REPLY):
        raise StoreError(
            f"dead letter {letter.id} is a {letter.kind.name.lower()}, and nobody waits for it any "
            "more; it was not sent",
            "Send a new request, or drop the letter",
        )
    options = SendOptions(
        letter.recipient,
        letter.priority,
        payload_type=letter.payload_type,
        subject=letter.subject.encode(),
        kind=letter.kind,
    )
    options.has_store = True
    (message_id,) = new_ids(1)
    return OutgoingMessage(options, message_id, letter.payload)
