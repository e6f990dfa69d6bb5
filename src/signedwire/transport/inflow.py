"""What the transport knows of one DID that sends to us over v2.

It outlives links: the marks that make delivery happen once, the credit that bounds
what waits here for the application, whatever number of links it came by, and the
application's answers, which are told again where a link took them with it.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from functools import partial
from itertools import groupby
from operator import attrgetter
from threading import get_ident
from typing import TYPE_CHECKING, Final, NamedTuple

from signedwire.config import TransportConfig
from signedwire.delivery.answered import RememberedAnswers
from signedwire.delivery.message import Message
from signedwire.delivery.receive_stream import Arrivals, ReceiveStream
from signedwire.delivery.store import IncomingRow, Marks, Noted, RememberedLeaves, Store, Then
from signedwire.errors import ClosedError, StoreError, StoreFailedError
from signedwire.logs import fields
from signedwire.types import Allowance, Did, Priority, Reason, unix_time_us
from signedwire.wire.header import PRIORITY, V2_HEADER_SIZE, expiry_of
from signedwire.wire.link_frames import CLOSE_DENIED, CLOSE_UNAVAILABLE, Refusal
from signedwire.wire.session import BatchFailed, BatchReceived

if TYPE_CHECKING:
    from signedwire.transport.core import Core
    from signedwire.transport.link import Link

__all__ = ["InboxBudget", "Inflow"]

_CRITICAL: Final = int(Priority.CRITICAL)
_ANSWER_BEFORE: Final = "Answer before `close()`; with a store, the message comes again"
_lane_of: Final = attrgetter("lane")
_MORE_REMEMBERED: Final = 1024
"""What is remembered beyond the credit, for what the application answers late."""


class InboxBudget:
    """Bytes of envelopes that wait for the application, of all senders together.

    Anyone can make keys, so credit for each key alone would bound nothing. When half
    the budget is free again, those whose credit was cut are told.
    """

    def __init__(self, config: TransportConfig) -> None:
        self._limit = max(config.inbox_bytes, V2_HEADER_SIZE + config.max_payload_size)
        self._used = 0
        self._cut: set[Inflow] = set()

    def free_for(self, inflow: Inflow, wanted: int) -> int:
        """How much of `wanted` may be granted."""
        free = max(0, self._limit - self._used)
        if free < wanted:
            self._cut.add(inflow)
        return min(free, wanted)

    def add(self, size: int) -> None:
        """So much has arrived; less than 0: was taken."""
        self._used += size
        if self._cut and size < 0 and self._used * 2 <= self._limit:
            cut, self._cut = self._cut, set()
            for inflow in cut:
                inflow.flush_soon()

    def forget(self, inflow: Inflow) -> None:
        """It needs no credit any more."""
        self._cut.discard(inflow)


class _Unkept(NamedTuple):
    """A batch that waits for its commit, and what is done then."""

    link: Link
    lane: int
    """Of all of it, as far as Critical or not goes."""
    new: list[Message]
    roots: list[bytes]
    """Owed a receipt."""
    leaves: list[bytes]
    """The same, one by one."""
    again: list[bytes]
    """Of these, those that were accepted before: behind the receipt goes the answer, again."""
    held: tuple[int, int]
    """Messages and bytes that are not new, and take room until then."""


class Inflow:
    """The receiving half of a peer; `Message.origin` of what it sent.

    Args:
        us: Our DID.
    """

    def __init__(self, core: Core, us: Did, peer: Did, budget: InboxBudget) -> None:
        config = core.config
        self._core = core
        self._budget = budget
        # Without a reserve Critical loses its privilege, not its way.
        critical = max(1, config.critical_reserve)
        largest = V2_HEADER_SIZE + config.max_payload_size
        self._share = (
            config.credit_messages,
            config.credit_bytes,
            critical,
            critical * 1024 + largest,
        )
        self.peer = peer
        # A link takes with it the answers to no more than the credit; to that much, at
        # least, they are told again. About 130 bytes each.
        self._most_answers = config.credit_messages + critical + _MORE_REMEMBERED
        self.stream = ReceiveStream(
            bytes(us),
            bytes(peer),
            max(config.credit_messages, critical) + _MORE_REMEMBERED,
            self._most_answers,
        )
        self.link: Link | None = None
        # Delivered to the inbox and not yet taken by the application.
        self._waiting = [0, 0, 0, 0]
        # Waits for the disk, and not for the application: it is to be answered then.
        self._held = [0, 0, 0, 0]
        self._accounted = 0
        # Those that have been granted credit, from their HELLO on.
        self._links: list[Link] = []
        self._has_delivered = False
        self._handled: list[bytes] = []
        self._refused: list[Refusal] = []
        # Leaves of those that the application has refused: their receipt may be lost with an
        # earlier link, and is sent again before the refusal. So nobody is told that a message
        # was refused who was not told before that it had been accepted.
        self._receipt_first: list[bytes] = []
        self._answers = RememberedAnswers(self._most_answers)
        self._is_flush_due = False
        self._store = None if core.outbox is None else core.outbox.store
        # Answered in this turn of the loop, and not yet told to the store.
        self._done: list[tuple[Message, Reason | None]] = []
        # Batches that came before the store had said what it knows; `None`: it has.
        self._unjudged: list[tuple[BatchReceived, Link]] | None = None
        if self._store is not None:
            self._load(self._store)

    def _load(self, store: Store) -> None:
        """Take up where an earlier process was. What comes before it is known waits."""
        marks = store.marks(self.peer)
        if not marks.epoch:
            return
        self._has_delivered = True
        self.stream.restore(marks.epoch, marks.lanes)
        with contextlib.suppress(StoreFailedError, ClosedError):
            known = store.leaves(self.peer)
            self._unjudged = []
            known.add_done_callback(partial(self._core.call_in_loop, self._on_loaded, marks.epoch))

    def _on_loaded(self, epoch: int, known: Future[RememberedLeaves]) -> None:
        unjudged, self._unjudged = self._unjudged, None
        # A store that has failed meanwhile says so to whoever comes.
        if not known.cancelled() and known.exception() is None and epoch == self.stream.epoch:
            self.stream.remember(*known.result())
        for batch, link in unjudged or ():
            lane, count, size = _measure(batch)
            _add(self._held, lane, -count, -size)
            if not link.is_over:
                self.receive(batch, unix_time_us(), link)
        self.flush_soon()  # what they held is free, or told

    @property
    def weight(self) -> int:
        """Bytes of memory that it holds while it waits for its peer, about."""
        return 2048 + self.stream.weight + 130 * len(self._answers)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing but the marks would be lost with it."""
        return not self._links and not any(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether it never brought anything: nothing at all would be lost with it."""
        return not self._has_delivered and self.is_forgettable

    def credit(self) -> Allowance:
        """What may be granted now: all that neither waits here nor was granted to a link.

        Counted anew each time, so that links that overlap cannot add up to more.
        """
        messages, size, critical, critical_size = self._share
        for used in (self._waiting, self._held, *[link.outstanding for link in self._links]):
            messages -= used[0]
            size -= used[1]
            critical -= used[2]
            critical_size -= used[3]
        return Allowance(
            max(0, messages),
            self._budget.free_for(self, max(0, size)),
            max(0, critical),
            self._budget.free_for(self, max(0, critical_size)),
        )

    def begin(self, epoch: int) -> bool:
        """The peer's HELLO names its epoch; `False` for one older than the latest."""
        before = self.stream.epoch
        if not self.stream.begin(epoch):
            self._core.log.warning(
                "%s came with an older state than the one known: two processes use its key, "
                "or its clock went back",
                self.peer,
                extra=fields("older state", peer=self.peer),
            )
            return False
        if epoch != before:
            # What is still to be told was about numbers of the old one.
            self._handled, self._refused, self._receipt_first = [], [], []
            self._answers.clear()
            if self._store is not None:
                with contextlib.suppress(StoreFailedError, ClosedError):
                    self._store.began(self.peer, self._marks())
        return True

    @property
    def told_marks(self) -> tuple[int, int, int, int]:
        """What a HELLO may say: with a store, what is committed."""
        if self._store is None:
            return self.stream.marks_now()
        marks = self._store.marks(self.peer)
        return marks.lanes if marks.epoch == self.stream.epoch else (0, 0, 0, 0)

    def _marks(self) -> Marks:
        return Marks(self.stream.epoch, self.stream.marks_now())

    def began(self, link: Link) -> None:
        """A link has been granted `credit()`."""
        self._links.append(link)

    def use(self, link: Link) -> None:
        """It is open, and the one: answers go by it, also those that another may have lost."""
        self.link = link
        self._handled, self._refused = self._answers.all()
        self._receipt_first = self._answers.refused_leaves()
        self.flush_soon()

    def hush(self) -> None:
        """Say nothing more over the link of today: its peer is denied."""
        self.link = None

    def ended(self, link: Link) -> None:
        """What it was granted and did not use is free."""
        self._links.remove(link)
        self.flush_soon()

    def receive(self, batch: BatchReceived, now_us: int, link: Link) -> None:
        """Deliver what is new, and have `link` say what is owed a receipt.

        With a store both come after the commit.
        """
        core = self._core
        log = core.evidence
        if core.links.access.is_denied(self.peer):
            self.hush()
            link.close(CLOSE_DENIED, "denied")
            return
        if self._store is not None and self._store.failure is not None:
            link.close(CLOSE_UNAVAILABLE, "the store has failed")
            return
        if log is not None and log.failure is not None:
            link.close(CLOSE_UNAVAILABLE, "the evidence log has failed")
            return
        if self._unjudged is not None:
            self._unjudged.append((batch, link))
            _add(self._held, *_measure(batch))
            return
        arrivals = self.stream.arrived(batch, core.config.max_payload_size, now_us, self)
        nothing = len(arrivals.duplicates) + len(arrivals.strays) + len(arrivals.late)
        link.note_arrivals(len(arrivals.new), nothing)
        if arrivals.new:
            self._expect(arrivals.new)
        if arrivals.duplicates:
            core.drop(Reason.DUPLICATE, self.peer, count=len(arrivals.duplicates))
        for refusal in arrivals.refusals:
            core.drop(refusal.reason, self.peer)
        self._refused += arrivals.refusals
        if self._refused:
            self.flush_soon()
        roots, leaves = ([batch.root], []) if arrivals.leaves is None else ([], arrivals.leaves)
        if self._store is None and log is None:
            self._deliver(arrivals.new)
            link.owe(roots, leaves, is_urgent=batch.bodies[0][PRIORITY] == _CRITICAL)
            self._answer_again(arrivals.duplicates)
            link.settle()
            return
        held, again = self._hold(batch, arrivals.new), arrivals.duplicates
        unkept = _Unkept(link, batch.bodies[0][PRIORITY], arrivals.new, roots, leaves, again, held)
        if self._store is None:
            self._then(unkept)(None)
        else:
            try:
                self._keep(self._store, batch, arrivals, unkept)
            except (StoreFailedError, ClosedError):
                # In its own thread, since we looked. Nothing is receipted: it comes again.
                self._give_back(unkept)

    def _hold(self, batch: BatchReceived, new: list[Message]) -> tuple[int, int]:
        """What is not new takes room too until it has its receipt, or a sender that is cut
        off again and again while the disk is slow has ever more in flight.
        """
        if len(new) == len(batch.bodies):
            return 0, 0
        lane, count, size = _measure(batch)
        count, size = count - len(new), size - sum([message.size for message in new])
        _add(self._held, lane, count, size)
        return count, size

    def _keep(
        self, store: Store, batch: BatchReceived, arrivals: Arrivals, unkept: _Unkept
    ) -> None:
        new, then = arrivals.new, self._then(unkept)
        if not new and not arrivals.late:
            store.barrier(then)
            return
        fitting = store.inbox_room(self.peer, [message.size for message in new])
        full: list[int] = []
        if fitting < len(new):
            full = self._refuse_for_room(batch, new[fitting:])
            new = new[:fitting]
            # Signed for one by one, and never what was refused: also where the batch had
            # it twice.
            refused = {*full, *arrivals.late, *arrivals.strays}
            leaves = [leaf for at, leaf in enumerate(batch.leaves) if at not in refused]
            then = self._then(unkept._replace(new=new, roots=[], leaves=leaves))
        places = [message.index for message in new]
        notes = Noted(late=arrivals.late, unkept=full, strays=arrivals.strays)
        ids = store.accept(self.peer, self._marks(), batch, places, notes, then)
        for message, id_ in zip(new, ids, strict=True):
            message.row = id_

    def _refuse_for_room(self, batch: BatchReceived, messages: list[Message]) -> list[int]:
        """The store has no room: they are never delivered, and never receipted.

        That is remembered, for the marks have passed them. Returns their places, those
        included where the batch had one of them again.
        """
        for message in messages:
            self.stream.refuse(message.leaf, message.lane)
            self._refused.append(Refusal(message.lane, message.sequence_number, Reason.INBOX_FULL))
            self._core.drop(Reason.INBOX_FULL, self.peer)
            self._unexpect(message)
        self.flush_soon()
        gone = {message.leaf for message in messages}
        return [place for place, leaf in enumerate(batch.leaves) if leaf in gone]

    def _then(self, unkept: _Unkept) -> Then:
        """`_on_kept()`, to be told of the commit; with an evidence log once that has it too."""
        then = partial(self._on_kept, unkept)
        log = self._core.evidence
        return then if log is None else log.after(unkept.new, then)

    def _on_kept(self, unkept: _Unkept, error: StoreError | None) -> None:
        if error is not None:
            self._give_back(unkept)
            return
        self._release(unkept)
        self._deliver(unkept.new)
        unkept.link.owe(unkept.roots, unkept.leaves, is_urgent=unkept.lane == _CRITICAL)
        self._answer_again(unkept.again)
        unkept.link.settle()
        self.flush_soon()

    def _give_back(self, unkept: _Unkept) -> None:
        """It could not be kept, and so has not arrived."""
        self._release(unkept)
        for message in unkept.new:
            self._unexpect(message)
        unkept.link.close(CLOSE_UNAVAILABLE, "the store has failed")

    def _release(self, unkept: _Unkept) -> None:
        count, size = unkept.held
        if count:
            _add(self._held, unkept.lane, -count, -size)

    def restore(self, row: IncomingRow) -> None:
        """A message that an earlier process accepted and did not get done."""
        message = Message(row.body, row.batch, row.place, expiry_of(row.body), self)
        message.redelivered = True
        message.row = row.id
        self._expect([message])
        if self._core.evidence is None:
            self._deliver([message])
        else:
            self._core.evidence.restored(message, partial(self._on_restored, message))

    def _on_restored(self, message: Message, error: StoreError | None) -> None:
        if error is None:
            self._deliver([message])

    def _expect(self, messages: list[Message]) -> None:
        size = sum([message.size for message in messages])
        # All of a batch are Critical, or none.
        _add(self._waiting, messages[0].lane, len(messages), size)
        self._has_delivered = True
        self._account()

    def _unexpect(self, message: Message) -> None:
        _add(self._waiting, message.lane, -1, -message.size)

    def _deliver(self, messages: list[Message]) -> None:
        core = self._core
        if messages and core.links.access.is_denied(self.peer):
            core.links.denials.discard(messages)  # denied while they were being committed
            return
        core.counters.messages_received += len(messages)
        if len(set(map(_lane_of, messages))) == 1:  # as mostly
            core.incoming.inbox.add_many(messages, messages[0].lane)
            return
        for lane, those in groupby(messages, _lane_of):
            core.incoming.inbox.add_many(list(those), lane)

    def _answer_again(self, leaves: list[bytes]) -> None:
        """What the application said of these, right behind their receipts."""
        if leaves:
            handled, refused = self._answers.pick(leaves)
            self._handled += handled
            self._refused += refused
            self.flush_soon()

    def failed(self, batch: BatchFailed) -> list[Refusal]:
        """What to tell of a batch whose signature does not fit; nothing of it is believed."""
        refusals = self.stream.failed(batch)
        self._core.drop(Reason.BAD_SIGNATURE, self.peer, count=len(refusals))
        return refusals

    # -- what the application says: any thread -----------------------------------------

    def taken(self, message: Message) -> None:
        """The application has it: its place is free."""
        # `is_in_loop` and `_unexpect()`, without the calls: this is done for every message.
        if get_ident() != self._core.loop_thread:
            self._core.call_in_loop(self.taken, message)
            return
        waiting, base = self._waiting, 2 if message.lane == _CRITICAL else 0
        waiting[base] -= 1
        waiting[base + 1] -= message.size
        if not self._is_flush_due:
            self.flush_soon()

    def handled(self, message: Message) -> None:
        """The application is done with it."""
        self._answer(message, None)

    def refused(self, message: Message, reason: Reason) -> None:
        """The application will not do it."""
        self._answer(message, reason)

    def _answer(self, message: Message, reason: Reason | None) -> None:
        home = self._core.home
        if home.has_ended:
            raise ClosedError(self._too_late(message), _ANSWER_BEFORE)
        home.check_alive()
        if self._core.is_in_loop:
            self._take_answer(message, reason)
        else:
            self._core.call_in_loop(self._take_answer, message, reason)

    def _too_late(self, message: Message) -> str:
        number = message.sequence_number
        return f"message #{number} from {self.peer} was answered too late: this node is closed"

    def _take_answer(self, message: Message, reason: Reason | None) -> None:
        if self._core.links.has_ended:  # since another thread has answered
            late, extra = self._too_late(message), fields("answered too late", peer=self.peer)
            self._core.log.warning("%s; %s", late, _ANSWER_BEFORE, extra=extra)
            return
        if message.row is None or self._store is None:
            self._say(message, reason)
            return
        if not self._done:
            # One operation for all of a turn: half of a receiver's work was in one for each.
            self._core.call_in_loop(self._store_done, self._store)
        self._done.append((message, reason))

    def _store_done(self, store: Store) -> None:
        done, self._done = self._done, []
        rows = [message.row for message, _ in done if message.row is not None]
        with contextlib.suppress(StoreFailedError, ClosedError):
            store.done(rows, partial(self._on_done, done))

    def _on_done(self, done: list[tuple[Message, Reason | None]], error: StoreError | None) -> None:
        if error is None:
            for message, reason in done:
                self._say(message, reason)

    def _say(self, message: Message, reason: Reason | None) -> None:
        envelope = message.envelope
        if envelope.epoch != self.stream.epoch:
            return  # who sent it is no more
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

    # -- what the peer is told -----------------------------------------------------------

    def _account(self) -> None:
        used = self._waiting[1] + self._waiting[3]
        accounted, self._accounted = self._accounted, used
        self._budget.add(used - accounted)

    def flush_soon(self) -> None:
        """Tell the peer what there is to tell, in a moment and together."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._core.call_in_loop(self.flush)

    def flush(self) -> None:
        """Tell the peer, over the link of today; without one, when there is one again."""
        self._is_flush_due = False
        self._account()
        handled, self._handled = self._handled, []
        refused, self._refused = self._refused, []
        receipt_first, self._receipt_first = self._receipt_first, []
        link = self.link
        if link is None:
            return  # `use()` tells it, or it comes again: nothing piles up for who stays away
        # A node that closes takes nothing more, and so invites nothing.
        credit = self.credit() if self._core.is_open else Allowance(0, 0, 0, 0)
        link.owe([], receipt_first)
        link.answer(credit, handled, refused)


def _measure(batch: BatchReceived) -> tuple[int, int, int]:
    """Its lane, as far as Critical or not goes; its messages and bytes."""
    return batch.bodies[0][PRIORITY], len(batch.bodies), sum(map(len, batch.bodies))


def _add(totals: list[int], lane: int, messages: int, size: int) -> None:
    """Count messages and bytes; Critical apart."""
    base = 2 if lane == _CRITICAL else 0
    totals[base] += messages
    totals[base + 1] += size
