"""Everything that this node answers to one peer after a receipt: credit, handled, refused.

    message.ack() ─→ the store commits ─→ the queue ─→ the open link, in the next turn of the loop

Answers outlive links. A link that ends may lose answers, so the next one gets the last of them
again.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from signedwire.delivery.bounded_memory import BoundedMap
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.ports import LinkPort
from signedwire.delivery.receive_stream import ReceiveStream
from signedwire.delivery.recv_window import RecvWindow
from signedwire.delivery.session_context import SessionContext
from signedwire.errors import ClosedError, StoreError
from signedwire.logs import fields
from signedwire.types import Credit, Did
from signedwire.wire.link_frames import REASON_CODES, REASONS, Refusal

__all__ = ["AnswerQueue", "RememberedAnswers"]

_NO_CREDIT: Final = Credit(0, 0, 0, 0)
_ANSWER_BEFORE: Final = "Answer before `close()`; with a store, the message comes again"


class AnswerQueue:
    """Answers and credit for one peer, until a link takes them.

    All methods but `answer()` belong to the event loop.

    Args:
        context: The parts that all sessions share.
        peer: The peer's DID.
        stream: The messages that the answers are about.
        window: The credit of the peer.
        limit: Number of answers to remember, at least the credit, because a link that ends
            has lost no more. About 130 bytes each, and the text of a refusal.
    """

    __slots__ = (
        "_answered",
        "_context",
        "_handled",
        "_host",
        "_peer",
        "_receipt_first",
        "_refused",
        "_remembered",
        "_stream",
        "_window",
        "is_flush_due",
        "link",
    )

    def __init__(
        self,
        context: SessionContext,
        peer: Did,
        stream: ReceiveStream,
        window: RecvWindow,
        limit: int,
    ) -> None:
        self._context = context
        self._host = context.host
        self._peer = peer
        self._stream = stream
        self._window = window
        self.link: LinkPort | None = None
        """The open link of the peer; `None`: there is none, or the peer is denied."""
        self._handled: list[bytes] = []
        self._refused: list[Refusal] = []
        # Leaves of messages that the application has refused. An earlier link may have lost
        # their receipts, so these are sent again before the refusals: a peer must have the
        # receipt of an accepted message before it gets the refusal.
        self._receipt_first: list[bytes] = []
        self._remembered = RememberedAnswers(limit)
        # Answers of this turn of the loop, before they are given to the store.
        self._answered: list[tuple[IncomingMessage, Refusal | None]] = []
        self.is_flush_due = False
        """Whether `flush()` will be called in the next turn of the loop."""

    @property
    def weight(self) -> int:
        """Approximate memory of the remembered answers, in bytes."""
        return self._remembered.weight

    # -- sending --------------------------------------------------------------------------

    def use(self, link: LinkPort) -> None:
        """Make this the link for answers, and send again those that another may have lost."""
        self.link = link
        self._handled, self._refused = self._remembered.all()
        self._receipt_first = [refusal.leaf for refusal in self._refused]
        self.flush_soon()

    def detach(self) -> None:
        """Send nothing more over the present link: it has ended, or the peer is denied."""
        self.link = None

    def restart(self) -> None:
        """Forget all answers, because they are about numbers of an older epoch."""
        self._handled, self._refused, self._receipt_first = [], [], []
        self._remembered.clear()

    def flush_soon(self) -> None:
        """Send answers and credit in the next turn of the loop, in one write."""
        if not self.is_flush_due:
            self.is_flush_due = True
            self._host.call_soon(self.flush)

    def flush(self) -> None:
        """Send answers and credit now. Without a link, the next one gets them from `use()`."""
        self.is_flush_due = False
        self._window.update_budget()
        handled, self._handled = self._handled, []
        refused, self._refused = self._refused, []
        receipt_first, self._receipt_first = self._receipt_first, []
        link = self.link
        if link is None:
            return  # so nothing grows for a peer that stays away
        # A node that closes accepts nothing more, so it grants nothing.
        credit = self._window.credit(self) if self._host.is_open else _NO_CREDIT
        link.queue_receipts([], receipt_first)
        link.answer(credit, handled, refused)

    def refuse(self, refusals: list[Refusal]) -> None:
        """Send refusals of messages that were not accepted. They are not remembered."""
        self._refused += refusals
        self.flush_soon()

    def resend(self, leaves: list[bytes]) -> None:
        """Send the application's answers to these messages again, after their receipts."""
        handled, refused = self._remembered.pick(leaves)
        self._handled += handled
        self._refused += refused
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
        if message.epoch != self._stream.epoch:
            return  # the sender has begun a new epoch since
        leaf = message.leaf
        if refusal is None:
            self._handled.append(leaf)
        else:
            self._refused.append(refusal)
            self._receipt_first.append(leaf)
        self._remembered.put(leaf, refusal)
        self.flush_soon()


class RememberedAnswers(BoundedMap[bytes | None]):
    """The last `limit` answers, by leaf; the oldest is forgotten first.

    A refusal is kept as the code of its reason and the text, in one byte string, and `None`
    means "handled". So no answer is an object that the garbage collector has to visit.
    """

    __slots__ = ("_text_size",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._text_size = 0

    @property
    def weight(self) -> int:
        """Approximate memory of the answers, in bytes."""
        return 130 * len(self._entries) + self._text_size

    def put(self, leaf: bytes, refusal: Refusal | None) -> None:
        """Remember an answer: a refusal, or `None` for "handled"."""
        if leaf in self._entries:
            self._text_size -= len(self._entries[leaf] or b"")
        elif len(self._entries) >= self._limit:
            self._text_size -= len(self._forget_oldest() or b"")
        packed = None if refusal is None else _packed(refusal)
        self._text_size += len(packed or b"")
        self._entries[leaf] = packed

    def pick(self, leaves: list[bytes]) -> tuple[list[bytes], list[Refusal]]:
        """Return the known answers to these messages: handled leaves, and refusals."""
        known = [(leaf, self._entries[leaf]) for leaf in leaves if leaf in self._entries]
        return (
            [leaf for leaf, packed in known if packed is None],
            [_unpacked(leaf, packed) for leaf, packed in known if packed is not None],
        )

    def all(self) -> tuple[list[bytes], list[Refusal]]:
        """Return all answers: handled leaves, and refusals."""
        return self.pick(list(self._entries))

    def clear(self) -> None:
        """Forget all answers, because the sender has begun a new epoch."""
        self._entries.clear()
        self._gaps = self._text_size = 0


def _packed(refusal: Refusal) -> bytes:
    return bytes([REASON_CODES[refusal.reason]]) + refusal.text.encode()


def _unpacked(leaf: bytes, packed: bytes) -> Refusal:
    return Refusal(leaf, REASONS[packed[0]], packed[1:].decode())
