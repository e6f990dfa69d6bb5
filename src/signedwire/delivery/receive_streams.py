"""Ordered exactly-once delivery at the receiver: the accepted messages of one peer, across links.

`delivery.send_streams` describes the sender and the state that both sides keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from signedwire.delivery.accepted import AcceptedLeaves
from signedwire.delivery.bounded_memory import BoundedSet
from signedwire.delivery.message import AckSink, IncomingMessage
from signedwire.types import Kind, Priority, Reason
from signedwire.wire.batch import leaf_of
from signedwire.wire.header import (
    HANDLED_CONTROLS,
    MAX_KIND_OF_MESSAGE,
    MAX_PAYLOAD_TYPE,
    MIN_V2_HEADER_SIZE,
    V2_START,
    VOLATILE,
    has_sound_end,
    payload_start,
    recipient_of,
    sender_of,
    stream_of,
    unpack_v2,
)
from signedwire.wire.link_frames import Refusal
from signedwire.wire.sent_batch import SentBatch
from signedwire.wire.session import BatchFailed, BatchReceived

__all__ = ["Arrivals", "ReceiveStreams"]

_CRITICAL: Final = int(Priority.CRITICAL)
_REPLY: Final = int(Kind.REPLY)


class Arrivals(NamedTuple):
    """The result of checking one received batch."""

    new: list[IncomingMessage]
    """Messages to deliver, in order."""
    leaves: list[bytes] | None
    """Leaves to receipt, accepted now or before; `None`: the whole batch."""
    duplicates: list[bytes]
    """Leaves of the messages that were accepted before."""
    refusals: list[Refusal]
    """Refusals of the envelopes that are not accepted."""
    late: list[int]
    """Indices of new envelopes that came too late; the marks have passed them."""
    invalid: list[int]
    """Indices of all other refused envelopes, which are not remembered."""
    has_kinds: bool = False
    """Whether a new message is of another kind than `Kind.MESSAGE`."""


class ReceiveStreams:
    """The four streams from one peer that are durable, or the four that are volatile.

    They have one epoch of the peer. Each has its mark, and its last accepted messages.

    A receipt proves delivery, so none is ever signed for another message under a used number. For
    that, the leaves of the last `remembered` messages of each lane are kept. They must cover the
    credit: a sender has no more in flight, and resends a lane in order.

    Args:
        us, peer: The two DIDs, as bytes.
        remembered: Number of accepted leaves kept for each lane, at least the credit.
        refused: Number of leaves kept of late envelopes, and again of envelopes for which
            the store had no room, over all lanes: at least the credit of all lanes.
    """

    __slots__ = (
        "_accepted",
        "_late",
        "_not_stored",
        "_parties",
        "_remembered",
        "epoch",
        "marks",
    )

    def __init__(self, us: bytes, peer: bytes, remembered: int, refused: int = 4096) -> None:
        self._parties = peer + us  # as a header has them
        self._remembered = remembered
        self._accepted: list[AcceptedLeaves | None] = [None] * len(Priority)
        """The last accepted messages of each lane; `None`: the lane has accepted none."""
        self.epoch = 0
        """The latest epoch of the peer; 0: none."""
        self.marks = [0] * len(Priority)
        # Envelopes at or below the mark that were refused as late, or because the store was
        # full. A peer that sends them again, because our refusal was lost, gets the same answer.
        self._late = BoundedSet(refused)
        self._not_stored = BoundedSet(refused)

    def _accepted_in(self, lane: int) -> AcceptedLeaves:
        """Return the last accepted messages of one lane."""
        accepted = self._accepted[lane]
        if accepted is None:
            accepted = self._accepted[lane] = AcceptedLeaves(self._remembered)
        return accepted

    def marks_now(self) -> tuple[int, int, int, int]:
        """Return the marks of the four streams, for HELLO."""
        low, normal, high, critical = self.marks
        return low, normal, high, critical

    @property
    def weight(self) -> int:
        """Approximate memory of the remembered leaves, in bytes."""
        refused = len(self._late) + len(self._not_stored)
        accepted = sum([len(lane) for lane in self._accepted if lane is not None])
        return 40 * accepted + 150 * refused

    def begin(self, epoch: int) -> None:
        """Begin an epoch of the peer that is later than the latest known one."""
        before = self.epoch
        assert epoch > before
        self.epoch = epoch
        self.marks = [0] * len(Priority)
        self._accepted = [None] * len(Priority)
        self._late.clear()
        self._not_stored.clear()

    def restore(self, epoch: int, marks: Sequence[int]) -> None:
        """Continue from the state of an earlier process.

        The caller also calls `remember()`, before the first message arrives.
        """
        self.epoch, self.marks = epoch, list(marks)

    def remember(
        self,
        accepted: Iterable[Iterable[bytes]],
        late: Iterable[bytes],
        not_stored: Iterable[bytes],
    ) -> None:
        """Add the leaves that an earlier process stored in this epoch; `accepted` by lane."""
        for lane, leaves in enumerate(accepted):
            if known := list(leaves):
                self._accepted_in(lane).restore(known)
        for leaf in late:
            self._late.add(leaf)
        for leaf in not_stored:
            self._not_stored.add(leaf)

    def refuse(self, leaf: bytes, lane: int) -> None:
        """Turn an accepted message into a refused one, because it could not be stored."""
        self._accepted_in(lane).remove(leaf)
        self._not_stored.add(leaf)

    def arrived(
        self,
        batch: BatchReceived,
        max_payload_size: int,
        now_us: int,
        origin: AckSink | None = None,
        admit: Callable[[bytes], Reason | None] | None = None,
    ) -> Arrivals:
        """Check each envelope of a batch whose signature fits, and advance the marks.

        Args:
            batch: The batch. All of its envelopes are of one stream.
            max_payload_size: Largest accepted payload, in bytes.
            now_us: The present Unix time in microseconds, for deadlines.
            origin: Receives the application's answers to the messages.
            admit: Gives the reason to refuse header and payload of a message that was not
                accepted before; `None` admits all.
        """
        new: list[IncomingMessage] = []
        duplicates: list[bytes] = []
        refusals: list[Refusal] = []
        refused, late = list[int](), list[int]()
        parties, epoch, marks = self._parties, self.epoch, self.marks
        unpack, leaves, stream, kinds = unpack_v2, batch.leaves, stream_of(batch.bodies[0]), 0
        accepted = self._accepted_in(stream % VOLATILE)
        keep_sequence, keep_leaf = accepted.keepers()
        largest = MIN_V2_HEADER_SIZE + max_payload_size
        # Not the batch itself: else one message would keep all others of it in memory.
        seal = SentBatch(batch.root, batch.leaves, batch.signature)
        for index, body in enumerate(batch.bodies):
            start, sequence, its_parties, lane, type_, its_epoch, due_us, kind, more = unpack(body)
            if (
                its_parties == parties
                and its_epoch == epoch
                and lane <= _CRITICAL
                and type_ <= MAX_PAYLOAD_TYPE
                and (kind <= MAX_KIND_OF_MESSAGE or kind in HANDLED_CONTROLS)
                and start == V2_START
                and sequence
                and len(body) <= (_limit_of(body, largest) if more or kind == _REPLY else largest)
            ):
                leaf, flaw = leaves[index], None
                if sequence > marks[lane]:
                    marks[lane] = sequence
                    flaw = None if admit is None else admit(body)
                    if flaw is None and not 0 < due_us <= now_us:
                        due = due_us or None
                        new.append(IncomingMessage(body, seal, index, due, origin, True, stream))
                        keep_sequence(sequence)
                        keep_leaf(leaf)
                        kinds |= kind
                        continue
                    if flaw is None:
                        self._late.add(leaf)
                        late.append(index)
                elif accepted.has(sequence, leaf):
                    duplicates.append(leaf)
                    continue
                elif admit is not None:
                    flaw = admit(body)  # the peer may not have received the refusal
                reason = flaw or self._reason(leaf)
            else:
                reason = self._flaw(body, largest)
            refusals.append(Refusal(leaves[index], reason))
            refused.append(index)
        accepted.trim()
        receipted = _receipted(batch, new, refused)
        invalid = sorted({*refused} - {*late})
        return Arrivals(new, receipted, duplicates, refusals, late, invalid, kinds > 0)

    def _reason(self, leaf: bytes) -> Reason:
        """Return the reason to refuse a valid message that was not accepted before."""
        if leaf in self._late:
            return Reason.EXPIRED
        return Reason.INBOX_FULL if leaf in self._not_stored else Reason.DUPLICATE

    def _flaw(self, body: bytes, largest: int) -> Reason:
        if len(body) > largest - MIN_V2_HEADER_SIZE + payload_start(body):
            return Reason.TOO_LARGE
        if recipient_of(body) != self._parties[32:] and sender_of(body) == self._parties[:32]:
            return Reason.NOT_FOR_US
        return Reason.MALFORMED

    def failed(self, batch: BatchFailed) -> list[Refusal]:
        """Make a refusal for every envelope of a batch whose signature does not fit."""
        return [Refusal(leaf_of(body), Reason.BAD_SIGNATURE) for body in batch.bodies]


def _receipted(
    batch: BatchReceived, new: list[IncomingMessage], refused: list[int]
) -> list[bytes] | None:
    """Give new copies their paths, and return the leaves to receipt.

    `None`: the whole batch, by its root. The root of copies belongs to all recipients, so they
    are answered by leaf.
    """
    copies = batch.copies
    if copies is not None:
        for message in new:
            at = message.index
            message.keep_path(copies.path(at, batch.signature), copies.overhead_at(at))
    if refused:
        out = set(refused)
        return [leaf for index, leaf in enumerate(batch.leaves) if index not in out]
    return None if copies is None else batch.leaves


def _limit_of(body: bytes, largest: int) -> int:
    """Return the largest size of a body with this header; 0 if the header is not in order.

    `largest` is that of a body whose header has neither subject nor reply_to.
    """
    return largest - MIN_V2_HEADER_SIZE + payload_start(body) if has_sound_end(body) else 0
