"""The receiving half of a peer: marks, credit, and the application's answers.

A receiver outlives links. Its marks make delivery happen once. Its credit bounds how much waits
here for the application, over all links of the peer. Its answers are sent again if the previous
link may have lost them.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from signedwire.delivery.answer_queue import RememberedAnswers
from signedwire.delivery.message import Message
from signedwire.delivery.ports import LinkPort
from signedwire.delivery.receive_stream import Arrivals, ReceiveStream
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.store import IncomingRow, Marks, OnCommit, RememberedLeaves
from signedwire.errors import ClosedError, StoreError, StoreFailedError
from signedwire.logs import fields
from signedwire.types import Credit, Did, Priority, Reason, unix_time_us
from signedwire.wire.header import PRIORITY, V2_HEADER_SIZE, expiry_of
from signedwire.wire.link_frames import CLOSE_DENIED, CLOSE_UNAVAILABLE, Refusal
from signedwire.wire.session import BatchFailed, BatchReceived

__all__ = ["PeerReceiver"]

_CRITICAL: Final = int(Priority.CRITICAL)
_ANSWER_BEFORE: Final = "Answer before `close()`; with a store, the message comes again"
_lane_of: Final = attrgetter("lane")
_MORE_REMEMBERED: Final = 1024
"""Messages that are remembered beyond the credit, for late answers of the application."""


class _PendingBatch(NamedTuple):
    """A received batch until it is committed."""

    link: LinkPort
    lane: int
    """Lane of its first message: a batch is all Critical, or has nothing Critical."""
    new: list[Message]
    """Messages to deliver."""
    roots: list[bytes]
    """Batches to sign a receipt for."""
    leaves: list[bytes]
    """Envelopes to sign a receipt for."""
    again: list[bytes]
    """Leaves that were accepted before: the application's answer follows the receipt."""
    held: tuple[int, int]
    """Messages and bytes of the batch that are not new, and use credit until then."""


class PeerReceiver:
    """The messages received from one peer over v2; `Message.origin` of its messages.

    Args:
        context: What all sessions share.
        us: Our DID.
        peer: The peer's DID.
    """

    def __init__(self, context: SessionContext, us: Did, peer: Did) -> None:
        config = context.host.config
        self._context = context
        self._host = context.host
        # Without a reserve Critical loses its privilege, not its way.
        critical = max(1, config.critical_reserve)
        largest = V2_HEADER_SIZE + config.max_payload_size
        self._window = (
            config.credit_messages,
            config.credit_bytes,
            critical,
            critical * 1024 + largest,
        )
        self.peer = peer
        # A lost link loses the answers to no more messages than the credit; at least so many
        # are sent again. About 130 bytes each.
        self._most_answers = config.credit_messages + critical + _MORE_REMEMBERED
        self.stream = ReceiveStream(
            bytes(us),
            bytes(peer),
            max(config.credit_messages, critical) + _MORE_REMEMBERED,
            self._most_answers,
        )
        self.link: LinkPort | None = None
        """The open link by which answers go; `None`: there is none."""
        # Delivered to the inbox and not yet taken by the application.
        self._waiting = [0, 0, 0, 0]
        # Not new, and waits for a commit before its receipt is sent again.
        self._held = [0, 0, 0, 0]
        self._counted_bytes = 0
        # Those that have been granted credit, from their HELLO on.
        self._links: list[LinkPort] = []
        self._has_delivered = False
        self._handled: list[bytes] = []
        self._refused: list[Refusal] = []
        # Leaves of messages that the application has refused. An earlier link may have lost
        # their receipts, so these are sent again before the refusals: nobody hears that a
        # message was refused without having heard that it was accepted.
        self._receipt_first: list[bytes] = []
        self._answers = RememberedAnswers(self._most_answers)
        self._is_flush_due = False
        # Answered in this turn of the loop, and not yet given to the store.
        self._done: list[tuple[Message, Reason | None]] = []
        # Batches that came before the store has told what it remembers; `None`: it has.
        self._unjudged: list[tuple[BatchReceived, LinkPort]] | None = None
        self._restore_marks()

    def _restore_marks(self) -> None:
        """Go on where an earlier process was. What comes before that is loaded waits."""
        marks = self._context.inbox_store.marks(self.peer)
        if not marks.epoch:
            return
        self._has_delivered = True
        self.stream.restore(marks.epoch, marks.lanes)
        self._unjudged = []
        if not self._context.inbox_store.load_leaves(
            self.peer, partial(self._on_loaded, marks.epoch)
        ):
            self._unjudged = None

    def _on_loaded(self, epoch: int, known: RememberedLeaves | None) -> None:
        unjudged, self._unjudged = self._unjudged, None
        # A store that has failed meanwhile is reported to whoever comes.
        if known is not None and epoch == self.stream.epoch:
            self.stream.remember(*known)
        for batch, link in unjudged or ():
            lane, count, size = _measure(batch)
            _add(self._held, lane, -count, -size)
            if not link.is_over:
                self.receive(batch, unix_time_us(), link)
        self.flush_soon()  # the credit of those that were not judged is free

    @property
    def weight(self) -> int:
        """Bytes of memory that it holds while the peer is away, about."""
        return 2048 + self.stream.weight + 130 * len(self._answers)

    @property
    def has_links(self) -> bool:
        """Whether a link of the peer is open, or opening."""
        return bool(self._links)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing but the marks would be lost with it."""
        return not self._links and not any(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether it never brought anything: nothing at all would be lost with it."""
        return not self._has_delivered and self.is_forgettable

    # -- credit ---------------------------------------------------------------------------

    def recv_window(self) -> Credit:
        """The credit to grant now: the window, less waiting messages and unused credit of links.

        It is counted anew each time, so that links that overlap cannot add up to more.
        """
        messages, size, critical, critical_size = self._window
        for used in (self._waiting, self._held, *[link.granted_unused for link in self._links]):
            messages -= used[0]
            size -= used[1]
            critical -= used[2]
            critical_size -= used[3]
        budget = self._context.budget
        return Credit(
            max(0, messages),
            budget.free_for(self, max(0, size)),
            max(0, critical),
            budget.free_for(self, max(0, critical_size)),
        )

    def _count_bytes(self) -> None:
        waiting = self._waiting[1] + self._waiting[3]
        counted, self._counted_bytes = self._counted_bytes, waiting
        self._context.budget.add(waiting - counted)

    def forget(self) -> None:
        """The peer is a stranger again: free its part of the budget."""
        self._count_bytes()
        self._context.budget.forget(self)

    # -- links ----------------------------------------------------------------------------

    def begin(self, epoch: int) -> bool:
        """Note the epoch of the peer's HELLO; `False` for one older than the latest."""
        before = self.stream.epoch
        if not self.stream.begin(epoch):
            self._host.log.warning(
                "%s came with an older state than the one known: two processes use its key, "
                "or its clock went back",
                self.peer,
                extra=fields("older state", peer=self.peer),
            )
            return False
        if epoch != before:
            # The answers that wait are about numbers of the old epoch.
            self._handled, self._refused, self._receipt_first = [], [], []
            self._answers.clear()
            self._context.inbox_store.began(self.peer, self._marks())
        return True

    @property
    def hello_marks(self) -> tuple[int, int, int, int]:
        """The marks that a HELLO may name: with a store, those that are committed."""
        return self._context.inbox_store.hello_marks(self.peer, self._marks())

    def _marks(self) -> Marks:
        return Marks(self.stream.epoch, self.stream.marks_now())

    def link_granted(self, link: LinkPort) -> None:
        """Count the credit that the HELLO of a link has granted."""
        self._links.append(link)

    def use(self, link: LinkPort) -> None:
        """Make this the link for answers, and send again those that another may have lost."""
        self.link = link
        self._handled, self._refused = self._answers.all()
        self._receipt_first = self._answers.refused_leaves()
        self.flush_soon()

    def mute(self) -> None:
        """Send nothing more over the present link: the peer is denied."""
        self.link = None

    def link_ended(self, link: LinkPort) -> None:
        """Free the credit that a link was granted and has not used."""
        self._links.remove(link)
        self.flush_soon()

    # -- messages -------------------------------------------------------------------------

    def receive(self, batch: BatchReceived, now_us: int, link: LinkPort) -> None:
        """Deliver what is new, and queue the receipts, both when the batch is committed."""
        context = self._context
        if context.access.denies(self.peer):
            self.mute()
            link.close(CLOSE_DENIED, "denied")
            return
        log = context.evidence
        if context.inbox_store.failure is not None:
            link.close(CLOSE_UNAVAILABLE, "the store has failed")
            return
        if log is not None and log.failure is not None:
            link.close(CLOSE_UNAVAILABLE, "the evidence log has failed")
            return
        if self._unjudged is not None:
            self._unjudged.append((batch, link))
            _add(self._held, *_measure(batch))
            return
        config = self._host.config
        admit = context.policies.admit_v2 if context.policies else None
        arrivals = self.stream.arrived(batch, config.max_payload_size, now_us, self, admit)
        nothing = len(arrivals.duplicates) + len(arrivals.invalid) + len(arrivals.late)
        link.note_arrivals(len(arrivals.new), nothing)
        if arrivals.new:
            self._expect(arrivals.new)
        if arrivals.duplicates:
            self._host.drop(Reason.DUPLICATE, self.peer, count=len(arrivals.duplicates))
        for refusal in arrivals.refusals:
            self._host.drop(refusal.reason, self.peer)
        self._refused += arrivals.refusals
        if self._refused:
            self.flush_soon()
        self._keep(batch, arrivals, link)

    def _keep(self, batch: BatchReceived, arrivals: Arrivals, link: LinkPort) -> None:
        """Have the store commit a batch; `_on_committed()` goes on."""
        store, new = self._context.inbox_store, arrivals.new
        held = self._hold(batch, new)
        full: list[int] = []
        if new:
            fitting = store.inbox_room(self.peer, new)
            if fitting < len(new):
                full = self._refuse_for_room(batch, new[fitting:])
                new = new[:fitting]
        if full:
            # A receipt for the root would cover what was refused, also where the batch had
            # it twice.
            refused = {*full, *arrivals.late, *arrivals.invalid}
            roots = []
            leaves = [leaf for at, leaf in enumerate(batch.leaves) if at not in refused]
            arrivals = arrivals._replace(new=new)
        elif arrivals.leaves is None:
            roots, leaves = [batch.root], []
        else:
            roots, leaves = [], arrivals.leaves
        pending = _PendingBatch(
            link, batch.bodies[0][PRIORITY], new, roots, leaves, arrivals.duplicates, held
        )
        try:
            store.accept(
                self.peer, self._marks(), batch, arrivals, full, self._when_logged(pending)
            )
        except (StoreFailedError, ClosedError):
            # It failed in its own thread just now. No receipt is sent, so the batch comes again.
            self._give_back(pending)

    def _hold(self, batch: BatchReceived, new: list[Message]) -> tuple[int, int]:
        """Count messages that are not new, which also use credit until they are receipted.

        Otherwise a sender that keeps reconnecting while the disk is slow could exceed its
        window.
        """
        if len(new) == len(batch.bodies):
            return 0, 0
        lane, count, size = _measure(batch)
        count, size = count - len(new), size - sum([message.size for message in new])
        _add(self._held, lane, count, size)
        return count, size

    def _refuse_for_room(self, batch: BatchReceived, messages: list[Message]) -> list[int]:
        """Refuse messages for which the store has no room: they never get a receipt.

        The stream remembers that, because the marks have passed them. Returns their places,
        those included where the batch has one of them again.
        """
        for message in messages:
            self.stream.refuse(message.leaf, message.lane)
            self._refused.append(Refusal(message.lane, message.sequence_number, Reason.INBOX_FULL))
            self._host.drop(Reason.INBOX_FULL, self.peer)
            self._unexpect(message)
        self.flush_soon()
        gone = {message.leaf for message in messages}
        return [place for place, leaf in enumerate(batch.leaves) if leaf in gone]

    def _when_logged(self, pending: _PendingBatch) -> OnCommit:
        """`_on_committed()`, after the commit; with an evidence log, after that has it too."""
        on_commit = partial(self._on_committed, pending)
        log = self._context.evidence
        return on_commit if log is None else log.after(pending.new, on_commit)

    def _on_committed(self, pending: _PendingBatch, error: StoreError | None) -> None:
        if error is not None:
            self._give_back(pending)
            return
        link = pending.link
        self._release(pending)
        self._deliver(pending.new)
        link.queue_receipts(pending.roots, pending.leaves, is_urgent=pending.lane == _CRITICAL)
        if pending.again:
            self._answer_again(pending.again)
        link.batch_settled()

    def _give_back(self, pending: _PendingBatch) -> None:
        """Treat a batch that could not be kept as not received."""
        self._release(pending)
        for message in pending.new:
            self._unexpect(message)
        self.flush_soon()  # also where its link is over: its bytes are free for others
        pending.link.close(CLOSE_UNAVAILABLE, "the store has failed")

    def _release(self, pending: _PendingBatch) -> None:
        count, size = pending.held
        if count:
            _add(self._held, pending.lane, -count, -size)
            self.flush_soon()

    def restore(self, row: IncomingRow) -> None:
        """Deliver a message that an earlier process accepted but did not acknowledge."""
        message = Message(row.body, row.batch, row.place, expiry_of(row.body), self)
        message.redelivered = True
        message.row = row.id
        self._expect([message])
        log = self._context.evidence
        if log is None:
            self._deliver([message])
        else:
            log.restored(message, partial(self._on_restored, message))

    def _on_restored(self, message: Message, error: StoreError | None) -> None:
        if error is None:
            self._deliver([message])

    def _expect(self, messages: list[Message]) -> None:
        size = sum([message.size for message in messages])
        # All of a batch are Critical, or none.
        _add(self._waiting, messages[0].lane, len(messages), size)
        self._has_delivered = True
        self._count_bytes()

    def _unexpect(self, message: Message) -> None:
        _add(self._waiting, message.lane, -1, -message.size)

    def _deliver(self, messages: list[Message]) -> None:
        context = self._context
        if messages and context.access.denies(self.peer):
            context.denials.discard(messages)  # denied while they were being committed
            return
        self._host.counters.messages_received += len(messages)
        is_known = self.peer in context.known
        if len(set(map(_lane_of, messages))) == 1:  # the usual case
            context.inbox.add_many(messages, messages[0].lane, self.peer, is_known)
            return
        for lane, those in groupby(messages, _lane_of):
            context.inbox.add_many(list(those), lane, self.peer, is_known)

    def failed(self, batch: BatchFailed) -> list[Refusal]:
        """The refusals for a batch whose signature does not fit; nothing of it is accepted."""
        refusals = self.stream.failed(batch)
        self._host.drop(Reason.BAD_SIGNATURE, self.peer, count=len(refusals))
        return refusals

    # -- the application's answers: any thread ----------------------------------------------

    def taken(self, message: Message) -> None:
        """Free the credit of a message that the application has now."""
        if not self._host.is_in_loop:
            self._host.call_soon(self.taken, message)
            return
        self._unexpect(message)
        if not self._is_flush_due:
            self.flush_soon()

    def acked(self, message: Message) -> None:
        """Answer that the application has handled a message."""
        self._answer(message, None)

    def nacked(self, message: Message, reason: Reason) -> None:
        """Answer that the application will not handle a message."""
        self._answer(message, reason)

    def _answer(self, message: Message, reason: Reason | None) -> None:
        home = self._host.home
        if home.has_ended:
            raise ClosedError(self._too_late(message), _ANSWER_BEFORE)
        home.check_alive()
        if self._host.is_in_loop:
            self._take_answer(message, reason)
        else:
            self._host.call_soon(self._take_answer, message, reason)

    def _too_late(self, message: Message) -> str:
        number = message.sequence_number
        return f"message #{number} from {self.peer} was answered too late: this node is closed"

    def _take_answer(self, message: Message, reason: Reason | None) -> None:
        if self._context.has_closed_links:  # since another thread has answered
            late, extra = self._too_late(message), fields("answered too late", peer=self.peer)
            self._host.log.warning("%s; %s", late, _ANSWER_BEFORE, extra=extra)
            return
        if message.row is None:
            self._tell(message, reason)
            return
        if not self._done:
            # One store operation for all answers of one turn of the loop: one for each took
            # half of a receiver's time.
            self._host.call_soon(self._store_done)
        self._done.append((message, reason))

    def _store_done(self) -> None:
        done, self._done = self._done, []
        self._context.inbox_store.acked(
            [message for message, _ in done], partial(self._on_done, done)
        )

    def _on_done(self, done: list[tuple[Message, Reason | None]], error: StoreError | None) -> None:
        if error is None:
            for message, reason in done:
                self._tell(message, reason)

    def _tell(self, message: Message, reason: Reason | None) -> None:
        """Queue the answer to a message for its sender."""
        envelope = message.envelope
        if envelope.epoch != self.stream.epoch:
            return  # its sender has begun a new epoch since
        leaf = message.leaf
        refusal: Refusal | None = None
        if reason is None:
            self._handled.append(leaf)
        else:
            refusal = Refusal(message.lane, envelope.sequence_number, reason)
            self._refused.append(refusal)
            self._receipt_first.append(leaf)
        self._answers.put(leaf, refusal)
        self.flush_soon()

    def _answer_again(self, leaves: list[bytes]) -> None:
        """Queue the application's answers to these once more, behind their receipts."""
        handled, refused = self._answers.pick(leaves)
        self._handled += handled
        self._refused += refused
        self.flush_soon()

    # -- answers to the peer ------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send answers and credit in the next turn of the loop, in one write."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._host.call_soon(self.flush)

    def flush(self) -> None:
        """Send answers and credit now. Without a link they wait for the next one."""
        self._is_flush_due = False
        self._count_bytes()
        handled, self._handled = self._handled, []
        refused, self._refused = self._refused, []
        receipt_first, self._receipt_first = self._receipt_first, []
        link = self.link
        if link is None:
            return  # `use()` sends it: nothing grows for a peer that stays away
        # A node that closes takes nothing more, so it grants nothing.
        credit = self.recv_window() if self._host.is_open else Credit(0, 0, 0, 0)
        link.queue_receipts([], receipt_first)
        link.answer(credit, handled, refused)


def _measure(batch: BatchReceived) -> tuple[int, int, int]:
    """The lane of the first message, and how many messages and bytes a batch has."""
    return batch.bodies[0][PRIORITY], len(batch.bodies), sum(map(len, batch.bodies))


def _add(totals: list[int], lane: int, messages: int, size: int) -> None:
    """Count messages and bytes; Critical apart."""
    base = 2 if lane == _CRITICAL else 0
    totals[base] += messages
    totals[base + 1] += size
