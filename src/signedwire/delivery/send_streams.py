"""Ordered exactly-once delivery: the state that sender and receiver keep across links.

`SendStreams` are the four streams of durable messages to one peer, or the four of volatile ones: a
lane for each priority, with numbers of its own. They keep written messages until their receipts
arrive. The `ReceiveStreams` of `delivery.receive_streams` keep one mark per lane: the highest
sequence accepted in the sender's present epoch. A received message is

    above the mark         new: delivered, and the mark moves up
    at or below the mark   the same message as before: receipted again;
                           another message: refused

When a link breaks, all messages without a receipt go back to the heads of their lanes. They are
sent again over the next link, with the same numbers and bytes, and messages are resent for no other
reason. So each message reaches the application at most once and in order, whatever happens to links
and receipts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias, cast
from weakref import ref

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import transition_all
from signedwire.delivery.receipted_batch import AnsweredBatch, ReceiptedBatch
from signedwire.types import Credit, DeliveryState, Priority, unix_time_us
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    HANDLED_ENVELOPES,
    REFUSED_ENVELOPES,
    Receipts,
)
from signedwire.wire.sent_batch import SentBatch

__all__ = ["Refused", "SendStreams"]

MAX_BATCH_MESSAGES: Final = 256
MAX_BATCH_BYTES: Final = 64 * 1024 - 1280
"""With its signature, the sizes of its bodies and the headers of its parts, a batch has at most
64 KiB: a link then writes it whole. The rest of a larger one takes a write of its own."""

_PLACE_WEIGHT: Final = 96
"""Memory of one place in a batch, in bytes: a hash, and its entries in two lists."""


class InFlightBatch:
    """A sent batch, until receipts have answered all of its messages."""

    __slots__ = ("batch", "messages", "unsettled", "unsettled_bytes")

    def __init__(
        self, batch: SentBatch, messages: list[OutgoingMessage], bodies: list[bytes]
    ) -> None:
        self.batch = batch
        self.messages: list[OutgoingMessage | None] = messages  # type: ignore[assignment]
        """Messages by index; `None` for those that were answered before others of the batch."""
        self.unsettled = len(messages)
        self.unsettled_bytes = sum(map(len, bodies))

    @property
    def weight(self) -> int:
        """Approximate memory of the batch without its messages, in bytes."""
        return _PLACE_WEIGHT * len(self.messages) + self.batch.shared_size

    def all(self) -> list[OutgoingMessage]:
        """Return the messages that have no answer yet."""
        if self.unsettled == len(self.messages):
            return cast("list[OutgoingMessage]", self.messages)
        return [message for message in self.messages if message is not None]

    def at(self, indices: Iterable[int]) -> list[OutgoingMessage]:
        """Return the messages at these indices, which have no answer yet."""
        messages = self.messages
        return [message for index in indices if (message := messages[index]) is not None]

    def remove(self, indices: Iterable[int]) -> None:
        """Remove answered messages while others of the batch wait."""
        if self.unsettled == len(self.messages):
            self.messages = list(self.messages)  # the first list belongs to the link
        for index in indices:
            self.messages[index] = None


_Place: TypeAlias = tuple[InFlightBatch, int]
"""A message without an answer: its batch, and its index there."""


class SendStreams:
    """The four streams to one peer that are durable, or the four that are volatile.

    Args:
        sender, recipient: The two DIDs, as bytes.
        epoch: The epoch of the numbers, greater than any earlier one of this kind to the peer.
    """

    def __init__(self, sender: bytes, recipient: bytes, epoch: int) -> None:
        self.epoch = epoch
        self._parties = sender + recipient  # as a header has them
        self._next = [1] * len(Priority)
        self._has_sent = False
        self._in_flight: dict[bytes, InFlightBatch] = {}  # by name, in the order of sending
        # Messages without an answer, by leaf, for receipts of single envelopes. `None` until one
        # comes: they are rare, and 256 entries for each batch cost as much as its encryption.
        # Without an index, a peer could make each lookup walk over all messages in flight.
        self._by_leaf: dict[bytes, _Place] | None = None
        self.in_flight = 0
        """Number of messages that were written and have no answer."""
        self.in_flight_bytes = 0
        """Bytes of the messages in flight with their headers, and the weight of their batches."""
        # Accepted messages by leaf, while the application holds their receipts. The peer's
        # application may still answer them.
        self._receipted: dict[bytes, ref[ReceiptedBatch]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no message is in flight."""
        return not self._in_flight

    @property
    def is_fresh(self) -> bool:
        """Whether no message was ever sent."""
        return not self._has_sent

    def is_in_flight(self, name: bytes) -> bool:
        """Whether the batch with this `SentBatch.name` has messages without an answer."""
        return name in self._in_flight

    @property
    def is_forgettable(self) -> bool:
        """Whether no further answer of the peer can change a receipt."""
        return not self._in_flight and not self._receipted

    def take_batch(
        self,
        lane: deque[OutgoingMessage],
        credit: Credit,
        end_if_dead: Callable[[OutgoingMessage], bool],
        largest: int = 2**32,
        max_bytes: int = MAX_BATCH_BYTES,
    ) -> list[OutgoingMessage]:
        """Take the messages of the next batch from one lane of the queue, and number them.

        They are at most 256, and at most `max_bytes` unless the first alone is larger. They fit
        into the credit.

        Args:
            lane: The lane. The caller holds its lock, and calls `notify_room()` after this.
            credit: The credit of the lane's stream that is left.
            end_if_dead: Returns whether a message must not be sent, and has it ended later. The
                message is then removed here. Called once per batch of equal `options` with a
                deadline, and for any message that is final or has a larger payload than
                `largest`. It must change neither the lanes nor the stream.
            largest: The largest payload that the peer accepts, in bytes.
            max_bytes: Maximum size of the batch in bytes; at most `MAX_BATCH_BYTES` are used.
        """
        max_bytes = min(max_bytes, MAX_BATCH_BYTES)
        batch: list[OutgoingMessage] = []
        size = 0
        credit_bytes = credit.bytes
        limit = min(credit.messages, MAX_BATCH_MESSAGES)
        parties, epoch, next_ = self._parties, self.epoch, self._next
        options, common = None, b""
        # Messages are numbered inline. With a function call, this loop took 0.1 µs longer per
        # message.
        while lane and len(batch) < limit:
            message = lane[0]
            header_size = message.options.header_size
            length = len(message.body)
            if not message.sequence:
                length += header_size
            is_large = length - header_size > largest
            if message.options is not options or is_large or message.is_final:
                # Messages with the same options have the same deadline: one check suffices.
                expires = message.options.expires_at is not None
                if (expires or is_large or message.is_final) and end_if_dead(message):
                    lane.popleft()
                    continue
                options, common = message.options, b""
            size += length
            if size > credit_bytes or (batch and size > max_bytes):
                break
            if not message.sequence:
                sequence = next_[options.priority]
                next_[options.priority] = sequence + 1
                common = common or options.common(parties, epoch)
                message.complete(common, sequence)
            lane.popleft()  # last, so that an exception above loses no message
            message.was_written = True
            batch.append(message)
        return batch

    def sent(self, batch: SentBatch, messages: list[OutgoingMessage], bodies: list[bytes]) -> None:
        """Note that a link has taken a batch of these messages."""
        self._has_sent = True
        flight = self._in_flight[batch.name] = InFlightBatch(batch, messages, bodies)
        self.in_flight += flight.unsettled
        self.in_flight_bytes += flight.unsettled_bytes + flight.weight
        if self._by_leaf is not None:
            self._by_leaf.update(_leaves_of(flight))

    def aborted(self, name: bytes) -> list[OutgoingMessage]:
        """Forget a batch that the link did not finish; return its messages without an answer."""
        flight = self._in_flight.get(name)
        if flight is None:
            return []  # the peer has answered before it had all parts
        messages = flight.all()
        self._settle(flight, _unsettled(flight))
        return messages

    def _settle(self, flight: InFlightBatch, indices: Sequence[int]) -> None:
        """Remove answered messages from a batch in flight, and the batch with its last one."""
        count, size = len(indices), flight.unsettled_bytes
        if count < flight.unsettled:
            size = sum([len(message.body) for message in flight.at(indices)])
            flight.remove(indices)
        flight.unsettled -= count
        flight.unsettled_bytes -= size
        self.in_flight -= count
        self.in_flight_bytes -= size
        if self._by_leaf is not None:
            for index in indices:
                del self._by_leaf[flight.batch.leaves[index]]
        if not flight.unsettled:
            del self._in_flight[flight.batch.name]
            self.in_flight_bytes -= flight.weight
            if not self._in_flight:
                self._by_leaf = None

    def _place_of(self, leaf: bytes) -> _Place | None:
        """Find a message in flight by its leaf."""
        if not self._in_flight:
            return None  # build no index, to which each later batch would be added
        if self._by_leaf is None:
            self._by_leaf = {}
            for flight in self._in_flight.values():
                self._by_leaf.update(_leaves_of(flight))
        return self._by_leaf.get(leaf)

    def is_expected(self, receipts: Receipts) -> bool:
        """Whether a message waits for one of these receipts.

        The cost does not grow with the number of messages in flight.
        """
        if receipts.kind == ACCEPTED_BATCHES:
            return not self._in_flight.keys().isdisjoint(receipts.hashes)
        is_later_answer = receipts.kind in (HANDLED_ENVELOPES, REFUSED_ENVELOPES)
        if is_later_answer and not self._receipted.keys().isdisjoint(receipts.hashes):
            return True
        return any(self._place_of(leaf) is not None for leaf in receipts.hashes)

    def receipts(self, receipts: Receipts, raw: bytes) -> list[OutgoingMessage]:
        """Apply receipts of kinds 1 to 3, and return the messages that are now accepted.

        `raw` is `Receipts.proof`. Unknown roots and leaves are ignored, because their messages were
        answered before.
        """
        if receipts.kind == HANDLED_ENVELOPES:
            return self._handled(receipts.hashes, raw)
        accepted: list[OutgoingMessage] = []
        if receipts.kind == ACCEPTED_BATCHES:
            for root in receipts.hashes:
                flight = self._in_flight.get(root)
                if flight is not None:
                    accepted += self._accept(flight, raw)
        else:
            accepted = self._accept_named(receipts.hashes, raw)
        # Last, because callbacks of the application run here. They see a consistent stream.
        transition_all(accepted, DeliveryState.ACCEPTED, unix_time_us())
        return accepted

    def _accept_named(self, leaves: Iterable[bytes], raw: bytes) -> list[OutgoingMessage]:
        """Settle the messages in flight with these leaves.

        The cost per leaf is constant, whichever leaves the peer picks.
        """
        indices: dict[InFlightBatch, list[int]] = {}
        for leaf in dict.fromkeys(leaves):
            place = self._place_of(leaf)
            if place is not None:
                indices.setdefault(place[0], []).append(place[1])
        accepted: list[OutgoingMessage] = []
        for flight, those in indices.items():
            accepted += self._accept(flight, raw, sorted(those))
        return accepted

    def _handled(self, leaves: Iterable[bytes], raw: bytes) -> list[OutgoingMessage]:
        """Apply "handled" receipts, and return the messages that are also newly accepted.

        The peer's application gets only accepted messages. So a message in flight, whose first
        receipt was lost with a link, counts as accepted too.
        """
        accepted = self._accept_named([leaf for leaf in leaves if leaf not in self._receipted], raw)
        transition_all(accepted, DeliveryState.ACCEPTED, unix_time_us())
        proofs: dict[ReceiptedBatch, AnsweredBatch] = {}
        for leaf in leaves:
            receipted, receipt = self._take_receipted(leaf)
            if receipted is None or receipt is None:
                continue
            if receipted.statement is not raw and receipted not in proofs:
                proofs[receipted] = AnsweredBatch(receipted.batch, raw)
            receipt.proof_source = proofs.get(receipted, receipted)
            receipt.advance(DeliveryState.HANDLED)
        return accepted

    def followed(self) -> list[OutgoingMessage]:
        """Return accepted messages whose receipts are held and may still change."""
        found = []
        for leaf, known in tuple(self._receipted.items()):
            receipted = known()
            receipt = None if receipted is None else receipted.receipts[leaf]()
            if receipt is not None:
                found.append(receipt)
        return found

    def _accept(
        self, flight: InFlightBatch, raw: bytes, indices: Sequence[int] | None = None
    ) -> list[OutgoingMessage]:
        """Settle the messages of a batch in flight that have no answer, or those at `indices`.

        The caller changes their state.
        """
        if indices is None:
            accepted, indices = flight.all(), _unsettled(flight)
        else:
            accepted = flight.at(indices)
        receipted = ReceiptedBatch(flight.batch, indices, accepted, raw)
        if receipted.receipts:
            leaves = tuple(receipted.receipts)
            known = ref(receipted, self._forgetting(leaves))
            self._receipted.update(dict.fromkeys(leaves, known))
        self._settle(flight, indices)
        for message in accepted:
            message.proof_source = receipted
        return accepted

    def _forgetting(self, leaves: Iterable[bytes]) -> Callable[[object], None]:
        def forget(_: object) -> None:
            for leaf in leaves:
                self._receipted.pop(leaf, None)

        return forget

    def _take_receipted(self, leaf: bytes) -> tuple[ReceiptedBatch | None, OutgoingMessage | None]:
        """Remove an accepted message: return its batch, and its receipt if held."""
        known = self._receipted.pop(leaf, None)
        receipted = None if known is None else known()
        if receipted is None:
            return None, None
        return receipted, receipted.receipts[leaf]()

    def refused(self, receipts: Receipts, raw: bytes) -> list[Refused]:
        """Apply receipts of kind 4 to messages in flight, and to messages accepted before.

        `raw` is as in `receipts()`. The caller changes the state of the messages.
        """
        found: list[Refused] = []
        proofs: dict[bytes, AnsweredBatch] = {}
        for leaf in receipts.hashes:
            place = self._place_of(leaf)
            message: OutgoingMessage | None
            if place is not None:
                flight, index = place
                batch, (message,) = flight.batch, flight.at([index])
                self._settle(flight, [index])
            else:
                receipted, message = self._take_receipted(leaf)
                if receipted is None or message is None:
                    continue
                batch = receipted.batch
            message.proof_source = proofs.setdefault(batch.name, AnsweredBatch(batch, raw))
            found.append(Refused(message, was_accepted=place is None))
        return found

    def take_unanswered(self) -> list[OutgoingMessage]:
        """Return all unanswered messages, in the order of sending, after the link has ended."""
        messages = [message for flight in self._in_flight.values() for message in flight.all()]
        self._in_flight.clear()
        self._by_leaf = None
        self.in_flight = self.in_flight_bytes = 0
        return messages


def _unsettled(flight: InFlightBatch) -> Sequence[int]:
    """Return the indices of the messages without an answer."""
    if flight.unsettled == len(flight.messages):
        return range(len(flight.messages))
    return [index for index, message in enumerate(flight.messages) if message is not None]


def _leaves_of(flight: InFlightBatch) -> dict[bytes, _Place]:
    leaves = flight.batch.leaves
    return {leaves[index]: (flight, index) for index in _unsettled(flight)}


class Refused(NamedTuple):
    """A message that its recipient has refused."""

    message: OutgoingMessage
    was_accepted: bool
    """Whether the recipient had accepted it before; otherwise it was in flight."""
