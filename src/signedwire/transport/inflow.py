"""What the transport knows of one DID that sends to us over v2.

It outlives links: the marks that make delivery happen once, the credit that bounds
what waits here for the application, whatever number of links it came by, and the
application's answers, which are told again where a link took them with it.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from signedwire.config import TransportConfig
from signedwire.delivery.message import Message
from signedwire.delivery.streams import ReceiveStream
from signedwire.types import Allowance, Did, Priority, Reason
from signedwire.wire.envelope import V2_HEADER_SIZE
from signedwire.wire.link_frames import Refusal
from signedwire.wire.session import BatchFailed, BatchReceived

if TYPE_CHECKING:
    from signedwire.transport.core import Core
    from signedwire.transport.link import Link

__all__ = ["InboxBudget", "Inflow"]

_CRITICAL: Final = int(Priority.CRITICAL)
_lane_of: Final = attrgetter("lane")
_MAX_ANSWERS: Final = 1024
"""`handled` and `refused`, kept for who did not hear them, about 200 bytes each."""


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
        # Less than one whole message would be none at all.
        largest = V2_HEADER_SIZE + config.max_payload_size
        self._share = (
            config.credit_messages,
            max(config.credit_bytes, largest),
            critical,
            critical * 1024 + largest,
        )
        self.peer = peer
        self.stream = ReceiveStream(
            bytes(us), bytes(peer), max(config.credit_messages, critical) + _MAX_ANSWERS
        )
        self.link: Link | None = None
        # Delivered to the inbox and not yet taken by the application.
        self._waiting = [0, 0, 0, 0]
        self._accounted = 0
        # Those that have been granted credit, from their HELLO on.
        self._links: list[Link] = []
        self._has_delivered = False
        self._handled: list[bytes] = []
        self._refused: list[Refusal] = []
        # What was answered last, by leaf: `None` is handled.
        self._answers: OrderedDict[bytes, Refusal | None] = OrderedDict()
        self._is_flush_due = False

    @property
    def weight(self) -> int:
        """Bytes of memory that it holds while it waits for its peer, about."""
        return 2048 + self.stream.weight + 200 * len(self._answers)

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
        free = list(self._share)
        for used in (self._waiting, *(link.outstanding for link in self._links)):
            free = [max(0, all_ - some) for all_, some in zip(free, used, strict=True)]
        messages, size, critical, critical_size = free
        return Allowance(
            messages,
            self._budget.free_for(self, size),
            critical,
            self._budget.free_for(self, critical_size),
        )

    def begin(self, epoch: int) -> bool:
        """The peer's HELLO names its epoch; `False` for one older than the latest."""
        before = self.stream.epoch
        if not self.stream.begin(epoch):
            return False
        if epoch != before:
            # What is still to be told was about numbers of the old one.
            self._handled, self._refused = [], []
            self._answers.clear()
        return True

    def began(self, link: Link) -> None:
        """A link has been granted `credit()`."""
        self._links.append(link)

    def use(self, link: Link) -> None:
        """It is open, and the one: answers go by it, also those that another may have lost."""
        self.link = link
        # All of them, and so no more than these: what waited to be told is among them.
        self._handled = [leaf for leaf, refusal in self._answers.items() if refusal is None]
        self._refused = [refusal for refusal in self._answers.values() if refusal is not None]
        self.flush_soon()

    def ended(self, link: Link) -> None:
        """What it was granted and did not use is free."""
        self._links.remove(link)
        self.flush_soon()

    def receive(self, batch: BatchReceived, now_us: int) -> tuple[list[bytes], list[bytes]]:
        """Deliver what is new; returns (roots, leaves) that are owed a receipt."""
        core = self._core
        arrivals = self.stream.arrived(batch, core.config.max_payload_size, now_us)
        if arrivals.new:
            self._deliver(arrivals.new)
        if arrivals.duplicates:
            core.drop(Reason.DUPLICATE, count=len(arrivals.duplicates))
            self._answer_again(arrivals.duplicates)
        for refusal in arrivals.refusals:
            core.drop(refusal.reason, self.peer.short)
        self._refused += arrivals.refusals
        if self._refused or arrivals.duplicates:
            self.flush_soon()
        return ([batch.root], []) if arrivals.leaves is None else ([], arrivals.leaves)

    def _deliver(self, messages: list[Message]) -> None:
        core = self._core
        size = 0
        for message in messages:
            message.origin = self
            size += message.size
        base = 2 if messages[0].lane == _CRITICAL else 0  # all of a batch, or none
        self._waiting[base] += len(messages)
        self._waiting[base + 1] += size
        self._has_delivered = True
        self._account()
        core.counters.messages_received += len(messages)
        for lane, those in groupby(messages, _lane_of):
            core.incoming.inbox.add_many(list(those), lane)

    def _answer_again(self, leaves: list[bytes]) -> None:
        for leaf in leaves:
            if leaf in self._answers:
                refusal = self._answers[leaf]
                if refusal is None:
                    self._handled.append(leaf)
                else:
                    self._refused.append(refusal)

    def failed(self, batch: BatchFailed) -> list[Refusal]:
        """What to tell of a batch whose signature does not fit; nothing of it is believed."""
        refusals = self.stream.failed(batch)
        self._core.drop(Reason.BAD_SIGNATURE, self.peer.short, count=len(refusals))
        return refusals

    # -- what the application says: any thread -----------------------------------------

    def taken(self, message: Message) -> None:
        """The application has it: its place is free."""
        if not self._core.is_in_loop:
            self._core.call_in_loop(self.taken, message)
            return
        size, is_critical = message.size, message.lane == _CRITICAL
        base = 2 if is_critical else 0
        self._waiting[base] -= 1
        self._waiting[base + 1] -= size
        if not self._is_flush_due:
            self.flush_soon()

    def handled(self, message: Message) -> None:
        """The application is done with it."""
        self._answer(message, None)

    def refused(self, message: Message, reason: Reason) -> None:
        """The application will not do it."""
        self._answer(message, reason)

    def _answer(self, message: Message, reason: Reason | None) -> None:
        if not self._core.is_in_loop:
            self._core.call_in_loop(self._answer, message, reason)
            return
        envelope = message.envelope
        if envelope.epoch != self.stream.epoch:
            return  # who sent it is no more
        leaf = message.leaf
        if reason is None:
            self._handled.append(leaf)
            self._answers[leaf] = None
        else:
            refusal = Refusal(message.lane, envelope.sequence_number, reason)
            self._refused.append(refusal)
            self._answers[leaf] = refusal
        if len(self._answers) > _MAX_ANSWERS:
            self._answers.popitem(last=False)
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
        link = self.link
        if link is None:
            return
        handled, self._handled = self._handled, []
        refused, self._refused = self._refused, []
        # A node that closes takes nothing more, and so invites nothing.
        credit = self.credit() if self._core.is_open else Allowance(0, 0, 0, 0)
        link.answer(credit, handled, refused)
