"""The store of a node without a file: it keeps nothing, and messages end with the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from signedwire.delivery.advice import UNANSWERED
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.ports import Host, MessageQueue
from signedwire.delivery.receive_streams import Arrivals
from signedwire.delivery.send_streams import Refused
from signedwire.delivery.store import Backlog, Marks, OnCommit, RememberedLeaves
from signedwire.errors import BackpressureError, Cause, StoreError
from signedwire.types import Did, Reason
from signedwire.wire.session import BatchReceived

__all__ = ["NullStore"]


class NullStore:
    """An `OutboxStore` and `InboxStore` that keeps nothing. See `ports` for the methods."""

    is_durable = False
    failure: StoreError | None = None

    def __init__(self, host: Host) -> None:
        self._host = host

    # -- sending --------------------------------------------------------------------------

    def put(
        self,
        queue: MessageQueue,
        messages: list[OutgoingMessage],
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> int:
        """Put one message into the queue. Any thread.

        Raises:
            BackpressureError: the queue is full.
        """
        (message,) = messages
        if message.options.latest is not None:
            was_put, replaced = queue.lanes.put_latest(message, message.options.stream)
            if replaced is not None:
                queue.end_replaced([replaced])
        else:
            was_put = queue.lanes.put(message, message.options.stream)
        if was_put:
            return 1
        if not is_patient:
            self._host.drop_refused(queue.did, queue.dropped)
        raise BackpressureError(
            queue.did,
            Reason.QUEUE_FULL,
            f"the queue to {queue.did} is full ({self._host.config.send_queue_limit} messages); "
            "the message was not queued",
            "Send slower, or `await node.send(…)`, which waits for room",
        )

    def has_room(self, queue: MessageQueue, stream: int) -> bool:
        return queue.lanes.has_room(stream)

    def when_room(
        self, queue: MessageQueue, wake: Callable[[], None], *, is_durable: bool = True
    ) -> bool:
        return queue.when_room(wake, is_durable=is_durable)

    def forget_room(self, queue: MessageQueue, wake: Callable[[], None]) -> None:
        queue.forget_room(wake)

    def epoch(self, did: Did) -> int | None:
        return None

    def look_at_clock(self) -> bool:
        return False

    def written(self, did: Did, messages: list[OutgoingMessage]) -> None:
        pass

    def settled(self, did: Did, messages: Iterable[OutgoingMessage]) -> None:
        pass

    def refused(self, did: Did, refused: Iterable[Refused], reason: Reason, detail: str) -> None:
        pass

    def ended(self, message: OutgoingMessage, reason: Reason, cause: str) -> None:
        pass

    def doubt(self, message: OutgoingMessage) -> str:
        return UNANSWERED if message.was_written else ""

    def is_ahead(self, did: Did, marks: Sequence[int]) -> bool:
        return False

    def learn(self, did: Did, marks: Sequence[int]) -> bool:
        return False

    def restart(self, queue: MessageQueue, epoch: int, marks: Sequence[int] | None) -> None:
        pass

    def reached(self, did: Did) -> None:
        pass

    def attempt_failed(self, did: Did, cause: Cause) -> None:
        pass

    def give_up_denied(self, queue: MessageQueue) -> None:
        pass

    def backlog(self, did: Did) -> Backlog | None:
        return None

    # -- peers ----------------------------------------------------------------------------

    def has_spoken_v2(self, did: Did) -> bool:
        return False

    def note_v2(self, did: Did) -> None:
        pass

    # -- receiving ------------------------------------------------------------------------

    def marks(self, did: Did) -> Marks:
        return _NO_MARKS

    def hello_marks(self, did: Did, current: Marks) -> tuple[int, int, int, int]:
        return current.lanes

    def load_leaves(self, did: Did, on_loaded: Callable[[RememberedLeaves | None], None]) -> bool:
        return False

    def began(self, did: Did, marks: Marks) -> None:
        pass

    def inbox_room(self, did: Did, messages: Sequence[IncomingMessage]) -> int:
        return len(messages)

    def accept(
        self,
        did: Did,
        marks: Marks,
        batch: BatchReceived,
        arrivals: Arrivals,
        not_stored: Sequence[int],
        on_commit: OnCommit,
    ) -> None:
        on_commit(None)

    def acked(self, messages: Sequence[IncomingMessage], on_commit: OnCommit) -> None:
        on_commit(None)


_NO_MARKS = Marks(0, (0, 0, 0, 0))
