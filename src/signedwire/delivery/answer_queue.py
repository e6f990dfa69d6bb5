"""Everything that this node answers to one peer after a receipt: credit, handled, refused.

    message.ack() ─→ the store commits ─→ the queue ─→ the open link, in the next turn of the loop

Answers outlive links. A link that ends may lose answers, so the next one gets the last of them
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.ports import LinkPort
from signedwire.delivery.receive_streams import ReceiveStreams
from signedwire.delivery.recv_window import RecvWindow
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.stream_answers import Answers, StreamAnswers
from signedwire.errors import ClosedError, StoreError
from signedwire.logs import fields
from signedwire.types import Credit, Did
from signedwire.wire.link_frames import Refusal

__all__ = ["AnswerQueue"]

_NO_CREDIT: Final[Mapping[int, Credit]] = {}
_ANSWER_BEFORE: Final = "Answer before `close()`; with a store, the message comes again"


class AnswerQueue:
    """Answers and credit for one peer, until a link takes them.

    All methods but `answer()` belong to the event loop.

    Args:
        context: The parts that all sessions share.
        peer: The peer's DID.
        durable, volatile: The messages that the answers are about.
        window: The credit of the peer.
        limit: Number of answers to remember for each of the two, at least their credit, because
            a link that ends has lost no more.
    """

    __slots__ = (
        "_answered",
        "_context",
        "_durable_half",
        "_host",
        "_peer",
        "_volatile_half",
        "_window",
        "is_flush_due",
        "link",
    )

    def __init__(
        self,
        context: SessionContext,
        peer: Did,
        durable: ReceiveStreams,
        volatile: ReceiveStreams,
        window: RecvWindow,
        limit: int,
    ) -> None:
        self._context = context
        self._host = context.host
        self._peer = peer
        self._durable_half = StreamAnswers(durable, limit)
        self._volatile_half = StreamAnswers(volatile, limit)
        self._window = window
        self.link: LinkPort | None = None
        """The open link of the peer; `None`: there is none, or the peer is denied."""
        # Answers of this turn of the loop, before they are given to the store.
        self._answered: list[tuple[IncomingMessage, Refusal | None]] = []
        self.is_flush_due = False
        """Whether `flush()` will be called in the next turn of the loop."""

    @property
    def weight(self) -> int:
        """Approximate memory of the remembered answers, in bytes."""
        return self._durable_half.weight + self._volatile_half.weight

    # -- sending --------------------------------------------------------------------------

    def use(self, link: LinkPort) -> None:
        """Make this the link for answers, and send again those that another may have lost."""
        self.link = link
        self._durable_half.repeat_all()
        self._volatile_half.repeat_all()
        self.flush_soon()

    def detach(self) -> None:
        """Send nothing more over the present link: it has ended, or the peer is denied."""
        self.link = None

    def restart(self, *, is_durable: bool) -> None:
        """Forget all answers about messages of this kind: their numbers are of an older epoch."""
        self._answers(is_durable).clear()

    def _answers(self, is_durable: bool) -> StreamAnswers:
        return self._durable_half if is_durable else self._volatile_half

    def flush_soon(self) -> None:
        """Send answers and credit in the next turn of the loop, in one write."""
        if not self.is_flush_due:
            self.is_flush_due = True
            self._host.call_soon(self.flush)

    def flush(self) -> None:
        """Send answers and credit now. Without a link, the next one gets them from `use()`."""
        self.is_flush_due = False
        self._window.update_budget()
        first, handled, refused = self._durable_half.take()
        volatile_first, volatile_handled, volatile_refused = self._volatile_half.take()
        link = self.link
        if link is None:
            return  # so nothing grows for a peer that stays away
        # A node that closes accepts nothing more, so it grants nothing.
        credit = self._window.next_grant(self) if self._host.is_open else _NO_CREDIT
        is_committed = self._context.inbox_store.is_durable
        if first:
            link.queue_receipts([], first, is_committed=is_committed)
        if volatile_first:
            link.queue_receipts([], volatile_first, is_committed=False)
        refused += volatile_refused
        if is_committed:
            link.answer(credit, Answers(volatile_handled, handled, refused))
        else:
            link.answer(credit, Answers(handled + volatile_handled, [], refused))

    def refuse(self, refusals: list[Refusal], *, is_durable: bool) -> None:
        """Send refusals of messages that were not accepted. They are not remembered."""
        self._answers(is_durable).refuse(refusals)
        self.flush_soon()

    def resend(self, leaves: list[bytes], *, is_durable: bool) -> None:
        """Send the application's answers to these messages again, after their receipts."""
        self._answers(is_durable).repeat(leaves)
        self.flush_soon()

    # -- the application's answers --------------------------------------------------------

    def answer(self, message: IncomingMessage, refusal: Refusal | None) -> None:
        """Answer that a message is refused, or handled for `None`. Any thread.

        Raises:
            ClosedError: the node is closed, so the answer is neither stored nor sent.
            WrongContextError: the node belongs to another event loop or process.
        """
        home = self._host.home
        if home.has_ended:
            raise ClosedError(self._too_late(message), _ANSWER_BEFORE)
        home.check_alive()
        if self._host.is_in_loop:
            self._answer(message, refusal)
        else:
            self._host.call_soon(self._answer, message, refusal)

    def _too_late(self, message: IncomingMessage) -> str:
        name = message.message_id[:8]
        return f"message {name} from {self._peer} was answered too late: this node is closed"

    def _answer(self, message: IncomingMessage, refusal: Refusal | None) -> None:
        if self._context.has_closed_links:  # after the call in another thread
            late, extra = self._too_late(message), fields("answered too late", peer=self._peer)
            self._host.log.warning("%s; %s", late, _ANSWER_BEFORE, extra=extra)
            return
        if message.row is None:
            self._put(message, refusal)
            return
        if not self._answered:
            # One store operation for all answers of one turn of the loop: one for each took
            # half of a receiver's time.
            self._host.call_soon(self._store_answered)
        self._answered.append((message, refusal))

    def _store_answered(self) -> None:
        answered, self._answered = self._answered, []
        self._context.inbox_store.acked(
            [message for message, _ in answered], partial(self._on_stored, answered)
        )

    def _on_stored(
        self, answered: list[tuple[IncomingMessage, Refusal | None]], error: StoreError | None
    ) -> None:
        if error is None:
            for message, refusal in answered:
                self._put(message, refusal)

    def _put(self, message: IncomingMessage, refusal: Refusal | None) -> None:
        """Queue the answer to a message for its sender."""
        answers = self._answers(message.durable)
        if message.epoch != answers.streams.epoch:
            return  # the sender has begun a new epoch since
        answers.put(message.leaf, refusal)
        self.flush_soon()
