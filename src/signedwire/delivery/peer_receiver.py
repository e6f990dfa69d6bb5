"""The receiving half of a peer: it accepts each message once, and delivers it to the inbox.

    batch ─→ ReceiveStreams ─→ InboxStore ─→ Inbox
              each message     commit        └ receipts, then the application's answers
              once, in order                   (AnswerQueue)

A receiver outlives links. `RecvWindow` bounds how much waits here for the application, over all
links of the peer.
"""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

from signedwire.delivery.answer_queue import AnswerQueue
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.ports import LinkPort
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.receive_streams import Arrivals, ReceiveStreams
from signedwire.delivery.recv_window import RecvWindow
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.store import IncomingRow, Marks, OnCommit, RememberedLeaves
from signedwire.errors import ClosedError, StoreError, StoreFailedError
from signedwire.logs import fields
from signedwire.types import Credit, Did, PayloadType, Priority, Reason, unix_time_us
from signedwire.wire.header import VOLATILE, expiry_of, stream_of
from signedwire.wire.link_frames import CLOSE_DENIED, CLOSE_UNAVAILABLE, Epochs, Refusal
from signedwire.wire.session import BatchFailed, BatchReceived

__all__ = ["PeerReceiver"]

_CRITICAL: Final = int(Priority.CRITICAL)
_MORE_REMEMBERED: Final = 1024
"""Number of messages remembered beyond the credit, for late answers of the application."""


class _PendingBatch(NamedTuple):
    """A received batch until it is committed."""

    link: LinkPort
    stream: int
    """Stream of the batch."""
    new: list[IncomingMessage]
    """Messages to deliver."""
    has_kinds: bool
    """Whether one of them is of another kind than `Kind.MESSAGE`."""
    roots: list[bytes]
    """Batches to sign a receipt for."""
    leaves: list[bytes]
    """Envelopes to sign a receipt for."""
    duplicates: list[bytes]
    """Leaves that were accepted before. The application's answer follows the receipt."""
    uncommitted: tuple[int, int]
    """Messages and bytes of the batch that are not new, and use credit until the commit."""


class PeerReceiver:
    """The messages received from one peer over v2; `IncomingMessage.origin` of these messages.

    Args:
        context: The parts that all sessions share.
        us: Our DID.
        did: The peer's DID.
    """

    def __init__(self, context: SessionContext, us: Did, did: Did) -> None:
        config = context.host.config
        self._context = context
        self._host = context.host
        self.did = did
        self._window = RecvWindow(
            config, context.budget, context.host.stranger_room, lambda: did not in context.known
        )
        critical = max(1, config.critical_reserve)
        # A link that ends has lost the answers to no more messages than the credit.
        most = max(config.credit_messages, critical) + _MORE_REMEMBERED
        most_answers = 3 * config.credit_messages + critical + _MORE_REMEMBERED
        self.durable = ReceiveStreams(bytes(us), bytes(did), most, most_answers)
        """The durable messages, which a store keeps."""
        self.volatile = ReceiveStreams(bytes(us), bytes(did), most, most_answers)
        """The volatile messages, which are in memory alone."""
        self.answers = AnswerQueue(
            context, did, self.durable, self.volatile, self._window, most_answers
        )
        """Answers and credit for the peer."""
        self._has_delivered = False
        # Batches that came before the store has loaded the remembered leaves; `None`: it has.
        self._unjudged: list[tuple[BatchReceived, LinkPort]] | None = None
        self._restore_marks()

    def _restore_marks(self) -> None:
        """Continue from the state of an earlier process. Batches wait until it is loaded."""
        marks = self._context.inbox_store.marks(self.did)
        if not marks.epoch:
            return
        self._has_delivered = True
        self.durable.restore(marks.epoch, marks.lanes)
        self._unjudged = []
        if not self._context.inbox_store.load_leaves(
            self.did, partial(self._on_loaded, marks.epoch)
        ):
            self._unjudged = None

    def _on_loaded(self, epoch: int, known: RememberedLeaves | None) -> None:
        unjudged, self._unjudged = self._unjudged, None
        # `None`: the store has failed. `receive()` closes the links for that.
        if known is not None and epoch == self.durable.epoch:
            self.durable.remember(*known)
        for batch, link in unjudged or ():
            stream, count, size = _measure(batch)
            self._window.add_uncommitted(stream, -count, -size)
            if not link.state.is_over:
                self.receive(batch, unix_time_us(), link)
        self.answers.flush_soon()  # the batches of links that have ended use no credit now

    @property
    def weight(self) -> int:
        """Approximate memory of the receiver while the peer is away, in bytes."""
        return 4096 + self.durable.weight + self.volatile.weight + self.answers.weight

    @property
    def has_links(self) -> bool:
        """Whether a link of the peer is open, or opening."""
        return self._window.has_links

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing but the marks would be lost with the receiver."""
        return self._window.is_unused

    @property
    def is_empty(self) -> bool:
        """Whether no message was ever accepted, so that not even marks would be lost."""
        return not self._has_delivered and self.is_forgettable

    def forget(self) -> None:
        """Free the peer's part of the shared budget, because the peer is a stranger again."""
        self._window.update_budget()
        self._context.budget.forget(self.answers)

    # -- links ----------------------------------------------------------------------------

    def first_grant(self) -> tuple[Credit, ...]:
        """Return the credit to grant in a HELLO, by stream."""
        return self._window.first_grant(self.answers)

    def begin(self, epochs: Epochs) -> bool:
        """Note the epochs of the peer's HELLO; `False` if one is older than the latest."""
        before = self.epochs
        if any(new < known for new, known in zip(epochs, before, strict=True)):
            if not self._context.claims_log.note_attempt(self.did):
                self._host.log.warning(
                    "%s linked with an older state than the one known, and the link was refused: "
                    "two processes use its key, or its clock went back",
                    self.did,
                    extra=fields("older state", peer=self.did),
                )
            return False
        if epochs.durable != before.durable:
            self.durable.begin(epochs.durable)
            self.answers.restart(is_durable=True)
            self._context.inbox_store.began(self.did, self._marks())
        if epochs.volatile != before.volatile:
            self.volatile.begin(epochs.volatile)
            self.answers.restart(is_durable=False)
        return True

    @property
    def epochs(self) -> Epochs:
        """The latest epochs of the peer; 0: none."""
        return Epochs(self.durable.epoch, self.volatile.epoch)

    @property
    def hello_marks(self) -> tuple[int, ...]:
        """The marks that a HELLO may name: with a store, the committed ones of durable streams."""
        durable = self._context.inbox_store.hello_marks(self.did, self._marks())
        return *durable, *self.volatile.marks_now()

    def _marks(self) -> Marks:
        return Marks(self.durable.epoch, self.durable.marks_now())

    def link_granted(self, link: LinkPort) -> None:
        """Count the credit that the HELLO of a link has granted."""
        self._window.add_link(link)

    def link_ended(self, link: LinkPort) -> None:
        """Free the credit that a link was granted and has not used."""
        self._window.remove_link(link)
        self.answers.flush_soon()

    # -- messages -------------------------------------------------------------------------

    def receive(self, batch: BatchReceived, now_us: int, link: LinkPort) -> None:
        """Deliver the new messages, and queue the receipts, both when the batch is committed.

        Args:
            batch: A batch whose signature fits.
            now_us: The present Unix time in microseconds, for deadlines.
            link: The link that has received the batch, and gets its receipts.
        """
        context = self._context
        if context.access.denies(self.did):
            self.answers.detach()
            link.close(CLOSE_DENIED, "denied")
            return
        log = context.evidence
        if context.inbox_store.failure is not None:
            link.close(CLOSE_UNAVAILABLE, "the store has failed")
            return
        if log is not None and log.failure is not None:
            link.close(CLOSE_UNAVAILABLE, "the evidence log has failed")
            return
        stream = stream_of(batch.bodies[0])
        if self._unjudged is not None and stream < VOLATILE:
            self._unjudged.append((batch, link))
            self._window.add_uncommitted(*_measure(batch))
            return
        config = self._host.config
        admit = context.policies.admit_v2 if context.policies else None
        streams = self.durable if stream < VOLATILE else self.volatile
        arrivals = streams.arrived(batch, config.max_payload_size, now_us, self, admit)
        repeats = len(arrivals.duplicates) + len(arrivals.invalid) + len(arrivals.late)
        link.note_arrivals(len(arrivals.new), repeats)
        if arrivals.duplicates:
            self._host.drop(Reason.DUPLICATE, self.did, count=len(arrivals.duplicates))
        if arrivals.refusals:
            for refusal in arrivals.refusals:
                self._host.drop(refusal.reason, self.did)
            self.answers.refuse(arrivals.refusals, is_durable=streams is self.durable)
        self._store(stream, batch, arrivals, link)

    def _store(self, stream: int, batch: BatchReceived, arrivals: Arrivals, link: LinkPort) -> None:
        """Have the store commit a batch, and the evidence log; `_on_committed()` goes on.

        The store commits durable messages alone.
        """
        context, new = self._context, arrivals.new
        store, log = context.inbox_store_of(is_durable=stream < VOLATILE), context.evidence
        uncommitted, full = (0, 0), []
        if len(new) < len(batch.bodies):
            uncommitted = self._hold(stream, batch, new)
        if new:
            self._window.add_to_inbox(stream, new)
            self._has_delivered = True
            fitting = store.inbox_room(self.did, new)
            if fitting < len(new):
                full = self._refuse_for_room(batch, new[fitting:])
                new = new[:fitting]
        if full:
            # A receipt for the root would cover the refused messages, also where the batch has
            # one of them twice.
            refused = {*full, *arrivals.late, *arrivals.invalid}
            roots = []
            leaves = [leaf for at, leaf in enumerate(batch.leaves) if at not in refused]
            arrivals = arrivals._replace(new=new)
        elif arrivals.leaves is None:
            roots, leaves = [batch.root], []
        else:
            roots, leaves = [], arrivals.leaves
        pending = _PendingBatch(
            link, stream, new, arrivals.has_kinds, roots, leaves, arrivals.duplicates, uncommitted
        )
        on_commit: OnCommit = partial(self._on_committed, pending)
        if log is not None:
            on_commit = log.after(new, on_commit)
        try:
            store.accept(self.did, self._marks(), batch, arrivals, full, on_commit)
        except (StoreFailedError, ClosedError):
            # The store's thread has failed just now. No receipt is sent, so the batch comes again.
            self._undo(pending)

    def _hold(
        self, stream: int, batch: BatchReceived, new: list[IncomingMessage]
    ) -> tuple[int, int]:
        """Count messages that are not new, which also use credit until they are receipted.

        Otherwise a sender that keeps reconnecting while the disk is slow could exceed its
        window.
        """
        _, count, size = _measure(batch)
        count, size = count - len(new), size - sum([message.size for message in new])
        self._window.add_uncommitted(stream, count, size)
        return count, size

    def _refuse_for_room(self, batch: BatchReceived, messages: list[IncomingMessage]) -> list[int]:
        """Refuse messages for which the store has no room: they never get a receipt.

        The stream remembers the refusal, because the marks have passed the messages.

        Returns:
            Places of the messages in the batch, also where it has one of them twice.
        """
        for message in messages:
            self.durable.refuse(message.leaf, message.stream)
            self._host.drop(Reason.INBOX_FULL, self.did)
        self._window.taken += messages
        refusals = [Refusal(message.leaf, Reason.INBOX_FULL) for message in messages]
        self.answers.refuse(refusals, is_durable=True)
        gone = {message.leaf for message in messages}
        return [place for place, leaf in enumerate(batch.leaves) if leaf in gone]

    def _on_committed(self, pending: _PendingBatch, error: StoreError | None) -> None:
        if error is not None:
            self._undo(pending)
            return
        link = pending.link
        self._release(pending)
        self._deliver(pending.new, has_kinds=pending.has_kinds)
        is_durable = pending.stream < VOLATILE
        link.queue_receipts(
            pending.roots,
            pending.leaves,
            is_committed=is_durable and self._context.inbox_store.is_durable,
            is_urgent=pending.stream % VOLATILE == _CRITICAL,
        )
        if pending.duplicates:
            self.answers.resend(pending.duplicates, is_durable=is_durable)
        link.batch_settled()

    def _undo(self, pending: _PendingBatch) -> None:
        """Treat a batch that could not be stored as not received."""
        self._release(pending)
        self._window.taken += pending.new
        self.answers.flush_soon()  # also if the link is over: the bytes are free for others
        pending.link.close(CLOSE_UNAVAILABLE, "the store has failed")

    def _release(self, pending: _PendingBatch) -> None:
        count, size = pending.uncommitted
        if count:
            self._window.add_uncommitted(pending.stream, -count, -size)
            self.answers.flush_soon()

    def restore(self, row: IncomingRow) -> None:
        """Deliver a message that an earlier process accepted but did not acknowledge."""
        message = IncomingMessage(row.body, row.seal, row.place, expiry_of(row.body), self)
        message.redelivered = True
        message.row = row.id
        self._window.add_to_inbox(message.stream, [message])
        self._has_delivered = True
        log = self._context.evidence
        if log is None:
            self._deliver([message])
        else:
            log.restored(message, partial(self._on_restored, message))

    def _on_restored(self, message: IncomingMessage, error: StoreError | None) -> None:
        if error is None:
            self._deliver([message])

    def _deliver(self, messages: list[IncomingMessage], *, has_kinds: bool = True) -> None:
        context = self._context
        if messages and context.access.denies(self.did):
            context.denials.discard(messages)  # denied while they were being committed
            return
        self._host.counters.messages_received += len(messages)
        if has_kinds:
            messages = context.consumers.offer(messages)
        is_known = self.did in context.known
        if messages:  # all of one lane, as a batch is
            lane = messages[0].stream % VOLATILE
            context.inbox.add_many(messages, lane, self.did, is_known)

    def failed(self, batch: BatchFailed) -> list[Refusal]:
        """Return the refusals for a batch whose signature does not fit; none is accepted."""
        refusals = self.durable.failed(batch)
        self._window.look_at(stream_of(batch.bodies[0]))
        self._host.drop(Reason.BAD_SIGNATURE, self.did, count=len(refusals))
        return refusals

    # -- the application ---------------------------------------------------------------------

    def taken(self, message: IncomingMessage) -> None:
        """Free the credit of a message that the application has now. In the loop."""
        self._window.taken.append(message)
        if not self.answers.is_flush_due:
            self.answers.flush_soon()

    def reply(self, message: IncomingMessage, payload: bytes, payload_type: PayloadType) -> Receipt:
        """Queue the reply of the application to a request. Any thread."""
        return self._context.reply(message, payload, payload_type)

    def acked(self, message: IncomingMessage) -> None:
        """Answer that the application has handled a message. Any thread."""
        self.answers.answer(message, None)

    def nacked(self, message: IncomingMessage, reason: Reason, text: str) -> None:
        """Answer that the application will not handle a message. Any thread."""
        self.answers.answer(message, Refusal(message.leaf, reason, text))


def _measure(batch: BatchReceived) -> tuple[int, int, int]:
    """Return the stream of a batch, and the numbers of its messages and bytes."""
    return stream_of(batch.bodies[0]), len(batch.bodies), batch.size
