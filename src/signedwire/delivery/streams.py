"""Order and once: what a sender and a receiver remember of each other, across links.

A `SendStream` numbers the messages to one peer, each lane for itself, and keeps
what was written until its receipt comes. A `ReceiveStream` keeps one mark per
lane: the highest sequence accepted in the sender's present epoch.

    above the mark         new: delivered, and the mark moves up
    at or below it         accepted before, if it is the same message: answered with
                           its receipt again; refused, if it is another one

When a link breaks, everything without a receipt goes back to the heads of its
lanes and is sent again over the next one, with the same numbers and the same
bytes. It is never resent for any other reason. So each message reaches the
application at most once and in order, whatever happens to links and receipts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Set
from typing import Final, NamedTuple, TypeAlias
from weakref import ref

from signedwire.delivery.lanes import Lanes
from signedwire.delivery.message import Message, OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.replay import ReplayMemory
from signedwire.types import Allowance, DeliveryState, Priority, Reason, unix_time_us
from signedwire.wire.batch import HASH_SIZE
from signedwire.wire.envelope import (
    MAX_PAYLOAD_TYPE,
    V2_HEADER_SIZE,
    V2_START,
)
from signedwire.wire.evidence import encode_evidence
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    HANDLED_ENVELOPES,
    Receipts,
    Refusal,
)
from signedwire.wire.session import BatchFailed, BatchReceived, SentBatch

__all__ = ["Arrivals", "ReceiveStream", "SendStream"]

MAX_BATCH_MESSAGES: Final = 256
MAX_BATCH_BYTES: Final = 64 * 1024
_MAX_EXPIRED: Final = 4096
"""Refused as expired and remembered, per peer: about what it has in flight at once."""

_CRITICAL: Final = int(Priority.CRITICAL)
_SEQUENCE_AT: Final = 24
_SEQUENCE: Final = struct.Struct("<Q")
_LANE_AT: Final = 104
# magic and version, sequence, the two DIDs, lane, payload type, epoch, expiry
_HEADER: Final = struct.Struct("<8s16xQ64s8xBBQQ")


_Name: TypeAlias = tuple[int, int]
"""Lane and sequence."""


class _Flight:
    """One batch on its way: until a receipt names its root, or its envelopes one by one."""

    __slots__ = ("batch", "messages")

    def __init__(self, batch: SentBatch, messages: list[OutgoingMessage]) -> None:
        self.batch = batch
        self.messages = messages


class _Landed:
    """A batch, or some of it, that the peer has signed for: what proofs are made of.

    It lives for as long as somebody holds the receipt of one of its messages.
    """

    __slots__ = ("__weakref__", "batch", "bodies", "receipts", "statement")

    def __init__(self, flight: _Flight, indices: Iterable[int], statement: bytes) -> None:
        self.batch = flight.batch
        self.bodies = [message.body for message in flight.messages]
        self.statement = statement
        # Weak, or receipts and this would keep each other alive. Those of a
        # `send_many()` are not followed beyond this.
        self.receipts = {
            self.batch.leaves[index]: (index, ref(flight.messages[index].receipt))
            for index in indices
            if not flight.messages[index].is_bulk
        }

    def prove(self, index: int) -> bytes:
        """The proof for one of its messages."""
        return encode_evidence(self.bodies[index], self.batch, index, self.statement)


class SendStream:
    """The numbered messages to one peer.

    Args:
        sender, recipient: The two DIDs, as bytes.
        epoch: Of this stream: greater than that of any earlier one to the same peer.
    """

    def __init__(self, sender: bytes, recipient: bytes, epoch: int) -> None:
        self.epoch = epoch
        self._parties = sender + recipient  # as a header has them
        self._next = [1] * len(Priority)
        self._flights: dict[bytes, _Flight] = {}  # by root, in the order of sending
        self._by_name: dict[_Name, _Flight] = {}  # those that have no answer yet
        self._landed_names: dict[_Name, bytes] = {}
        self.in_flight_bytes = 0
        """Of messages that were written and have no answer yet."""
        # Accepted, by leaf, while somebody holds a receipt: for what the peer's
        # application says later.
        self._landed: dict[bytes, ref[_Landed]] = {}

    @property
    def in_flight(self) -> int:
        """Messages that were written and have no receipt yet."""
        return len(self._by_name)

    @property
    def is_empty(self) -> bool:
        """Whether no receipt is outstanding."""
        return not self._flights

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was ever sent."""
        return self._next == [1] * len(Priority)

    @property
    def is_forgettable(self) -> bool:
        """Whether nobody waits for anything that the peer may still say."""
        return not self._flights and not self._landed

    def next_batch(
        self,
        lanes: Lanes[OutgoingMessage],
        room: Allowance,
        is_dead: Callable[[OutgoingMessage], bool],
        largest: int = 2**32,
    ) -> list[OutgoingMessage]:
        """Take the messages of the next frame from their lanes, and number them.

        All Critical or none; at most 256, and 64 KiB unless one alone is larger; no
        more than the peer has room for. `is_dead` says which are not to be sent; it is
        asked where there may be a reason: a deadline, or more bytes than `largest`.
        """
        return self._take(
            lanes, room.critical_messages, room.critical_bytes, is_dead, largest, is_critical=True
        ) or self._take(lanes, room.messages, room.bytes, is_dead, largest, is_critical=False)

    def _take(
        self,
        lanes: Lanes[OutgoingMessage],
        messages_room: int,
        bytes_room: int,
        is_dead: Callable[[OutgoingMessage], bool],
        largest: int,
        *,
        is_critical: bool,
    ) -> list[OutgoingMessage]:
        batch: list[OutgoingMessage] = []
        size = 0
        limit = min(messages_room, MAX_BATCH_MESSAGES)
        while len(batch) < limit and (lane := lanes.head(is_critical=is_critical)) is not None:
            message = lane[0]
            payload_size = message.payload_size
            if (
                message.expires_at is not None or payload_size > largest or message.receipt.is_final
            ) and is_dead(message):
                lane.popleft()
                continue
            size += V2_HEADER_SIZE + payload_size
            if size > bytes_room or (batch and size > MAX_BATCH_BYTES):
                break
            if not message.body:
                self._number(message)
            lane.popleft()  # last: whatever goes wrong before, it is not lost
            batch.append(message)
        lanes.tell_room()
        return batch

    def _number(self, message: OutgoingMessage) -> None:
        lane = message.priority
        sequence = self._next[lane]
        self._next[lane] = sequence + 1
        message.number(self._parties, self.epoch, sequence)

    def sent(self, batch: SentBatch, messages: list[OutgoingMessage]) -> None:
        """The batch was handed to the link."""
        flight = self._flights[batch.root] = _Flight(batch, messages)
        for message in messages:
            self._by_name[message.priority, message.sequence] = flight
            self.in_flight_bytes += len(message.body)

    def _settle(self, message: OutgoingMessage) -> None:
        message.is_settled = True
        del self._by_name[message.priority, message.sequence]
        self.in_flight_bytes -= len(message.body)

    def receipts(self, receipts: Receipts, raw: bytes) -> list[OutgoingMessage]:
        """The peer's signed word: moves receipts on; returns the messages that are now accepted.

        `raw` is the statement with its signature, for whoever asks for a proof. What
        is named and not known is ignored: it was answered before.
        """
        if receipts.kind == HANDLED_ENVELOPES:
            for leaf in receipts.hashes:
                receipt = self._landed_receipt(leaf)
                if receipt is not None:
                    receipt.advance(DeliveryState.HANDLED)
            return []
        accepted: list[OutgoingMessage] = []
        if receipts.kind == ACCEPTED_BATCHES:
            for root in receipts.hashes:
                flight = self._flights.pop(root, None)
                if flight is not None:
                    accepted += self._accept(flight, raw)
            return accepted
        named = set(receipts.hashes)
        for root, flight in tuple(self._flights.items()):
            if not named.isdisjoint(flight.batch.leaves):
                accepted += self._accept(flight, raw, named)
                self._drop_settled(root, flight)
        return accepted

    def _accept(
        self, flight: _Flight, raw: bytes, named: Set[bytes] | None = None
    ) -> list[OutgoingMessage]:
        """Accept what has no answer yet of a flight, or of those with a `named` leaf."""
        now = unix_time_us()
        messages, leaves = flight.messages, flight.batch.leaves
        indices = [
            index
            for index, message in enumerate(messages)
            if not message.is_settled and (named is None or leaves[index] in named)
        ]
        landed = _Landed(flight, indices, raw)
        if landed.receipts:
            names = {
                (int(messages[index].priority), messages[index].sequence): leaf
                for leaf, (index, _) in landed.receipts.items()
            }
            known = ref(landed, self._forgetting(names))
            self._landed.update(dict.fromkeys(landed.receipts, known))
            self._landed_names.update(names)
        for index in indices:
            message = messages[index]
            self._settle(message)
            receipt = message.receipt
            receipt.evidence = landed
            receipt.evidence_index = index
            if receipt.state is not DeliveryState.ACCEPTED:
                receipt.climb(DeliveryState.ACCEPTED, now)
        return [messages[index] for index in indices]

    def _forgetting(self, names: dict[_Name, bytes]) -> Callable[[object], None]:
        def forget(_: object) -> None:
            for name, leaf in names.items():
                self._landed.pop(leaf, None)
                self._landed_names.pop(name, None)

        return forget

    def _landed_receipt(self, leaf: bytes) -> Receipt | None:
        known = self._landed.pop(leaf, None)
        landed = None if known is None else known()
        return None if landed is None else landed.receipts[leaf][1]()

    def _drop_settled(self, root: bytes, flight: _Flight) -> None:
        if all(message.is_settled for message in flight.messages):
            del self._flights[root]

    def refused(self, refusals: Iterable[Refusal]) -> list[tuple[Receipt, Reason]]:
        """What the peer will not take, in flight or after it had accepted it."""
        found: list[tuple[Receipt, Reason]] = []
        for lane, sequence, reason in refusals:
            flight = self._by_name.get((lane, sequence))
            if flight is not None:
                for message in flight.messages:
                    if message.sequence == sequence and message.priority == lane:
                        self._settle(message)
                        found.append((message.receipt, reason))
                self._drop_settled(flight.batch.root, flight)
                continue
            leaf = self._landed_names.pop((lane, sequence), None)
            receipt = None if leaf is None else self._landed_receipt(leaf)
            if receipt is not None:
                found.append((receipt, reason))
        return found

    def take_back(self) -> list[OutgoingMessage]:
        """The link broke: all that has no receipt, in the order of sending."""
        messages = [
            message
            for flight in self._flights.values()
            for message in flight.messages
            if not message.is_settled
        ]
        self._flights.clear()
        self._by_name.clear()
        self.in_flight_bytes = 0
        return messages


class Arrivals(NamedTuple):
    """What became of one received batch."""

    new: list[Message]
    """To be delivered, in order."""
    leaves: list[bytes] | None
    """Accepted now or before, and owed a receipt; `None`: the whole batch."""
    duplicates: list[bytes]
    """Leaves of those that were accepted before."""
    refusals: list[Refusal]
    """Not accepted."""
    refused: list[bytes]
    """Their bodies."""


class ReceiveStream:
    """What was accepted from one peer: marks within its epoch.

    A receipt is a proof of delivery, so none is ever given for another message under
    a number that was used: of each lane, the leaves of the last `remembered` are kept,
    32 bytes each. A sender has no more than its credit in flight, and resends a lane
    in order, so that is what they must cover.

    Args:
        us, peer: The two DIDs, as bytes.
    """

    __slots__ = ("_accepted", "_expired", "_parties", "_remembered_bytes", "epoch", "marks")

    def __init__(self, us: bytes, peer: bytes, remembered: int) -> None:
        self._parties = peer + us  # as a header has them
        self._remembered_bytes = remembered * HASH_SIZE
        self._accepted = tuple(bytearray() for _ in Priority)
        self.epoch = 0
        """The latest that was seen; 0: none."""
        self.marks = [0] * len(Priority)
        # Below the mark and yet not accepted: whoever sends them again, because our
        # refusal was lost, must not get a receipt for them.
        self._expired = ReplayMemory(_MAX_EXPIRED)

    def marks_now(self) -> tuple[int, int, int, int]:
        """The marks, as a HELLO carries them."""
        low, normal, high, critical = self.marks
        return low, normal, high, critical

    @property
    def weight(self) -> int:
        """Bytes that are remembered, about."""
        return sum(map(len, self._accepted)) + 150 * len(self._expired)

    def begin(self, epoch: int) -> bool:
        """The peer's HELLO names its epoch; `False` for one older than the latest."""
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch = epoch
            self.marks = [0] * len(Priority)
            for leaves in self._accepted:
                leaves.clear()
        return True

    def _was_accepted(self, leaf: bytes, lane: int) -> bool:
        leaves = self._accepted[lane]
        at = leaves.find(leaf)
        while at % HASH_SIZE and at >= 0:  # across two others
            at = leaves.find(leaf, at + 1)
        return at >= 0

    def arrived(self, batch: BatchReceived, max_payload_size: int, now_us: int) -> Arrivals:
        """Judge each envelope of a batch whose signature fits; moves the marks."""
        new: list[Message] = []
        duplicates: list[bytes] = []
        refusals: list[Refusal] = []
        refused: list[tuple[int, bytes]] = []
        parties, epoch, marks, accepted = self._parties, self.epoch, self.marks, self._accepted
        largest = V2_HEADER_SIZE + max_payload_size
        # Not the batch itself: one message would keep all others of it in memory.
        seal = SentBatch(batch.root, batch.leaves, batch.signature)
        is_critical = batch.bodies[0][_LANE_AT] == _CRITICAL
        unpack = _HEADER.unpack_from
        for index, body in enumerate(batch.bodies):
            start, sequence, its_parties, lane, payload_type, its_epoch, expires_at_us = unpack(
                body
            )
            if (
                its_parties == parties
                and its_epoch == epoch
                and lane <= _CRITICAL
                and payload_type <= MAX_PAYLOAD_TYPE
                and (lane == _CRITICAL) == is_critical
                and len(body) <= largest
                and start == V2_START
                and sequence
            ):
                leaf = batch.leaves[index]
                if sequence > marks[lane]:
                    marks[lane] = sequence
                    if not 0 < expires_at_us <= now_us:
                        new.append(Message(body, seal, index, expires_at_us=expires_at_us))
                        accepted[lane].extend(leaf)
                        continue
                    self._expired.add(leaf)
                elif self._was_accepted(leaf, lane):
                    duplicates.append(leaf)
                    continue
                reason = Reason.EXPIRED if leaf in self._expired else Reason.DUPLICATE
            else:
                reason = self._flaw(body, largest)
            refusals.append(Refusal(min(lane, _CRITICAL), sequence, reason))
            refused.append((index, body))
        for leaves_of_lane in accepted:
            if len(leaves_of_lane) > self._remembered_bytes:
                del leaves_of_lane[: len(leaves_of_lane) - self._remembered_bytes]
        if not refused:
            return Arrivals(new, None, duplicates, refusals, [])
        out = {index for index, _ in refused}
        leaves = [leaf for index, leaf in enumerate(batch.leaves) if index not in out]
        return Arrivals(new, leaves, duplicates, refusals, [body for _, body in refused])

    def _flaw(self, body: bytes, largest: int) -> Reason:
        if len(body) > largest:
            return Reason.TOO_LARGE
        if body[64:96] != self._parties[32:] and body[32:64] == self._parties[:32]:
            return Reason.NOT_FOR_US
        return Reason.MALFORMED

    def failed(self, batch: BatchFailed) -> list[Refusal]:
        """Refuse, by name, every envelope of a batch whose signature does not fit."""
        return [
            Refusal(
                min(body[_LANE_AT], _CRITICAL),
                _SEQUENCE.unpack_from(body, _SEQUENCE_AT)[0],
                Reason.BAD_SIGNATURE,
            )
            for body in batch.bodies
        ]
