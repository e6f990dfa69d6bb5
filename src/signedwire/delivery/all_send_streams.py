"""The eight streams to one peer: four of durable messages, and four of volatile ones.

A `SendStreams` has the four of one kind, with an epoch of their own. An answer names a batch or an
envelope by its hash, which says nothing about the stream, so both are asked.
"""

from __future__ import annotations

from collections.abc import Callable

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.send_streams import Refused, SendStreams
from signedwire.types import Credit
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import Epochs, Receipts
from signedwire.wire.sent_batch import SentBatch

__all__ = ["AllSendStreams"]


class AllSendStreams:
    """The numbers and receipts of all messages to one peer that were sent over v2.

    Args:
        durable: The streams of durable messages.
        volatile: The streams of volatile messages.
    """

    __slots__ = ("_used", "durable", "volatile")

    def __init__(self, durable: SendStreams, volatile: SendStreams) -> None:
        self.durable = durable
        self.volatile = volatile
        self._used: list[SendStreams] = []
        """The streams of each kind that has sent a message: usually one kind."""

    def begin(self, streams: SendStreams, *, is_durable: bool) -> None:
        """Number messages of this kind anew, in the newer epoch of `streams`."""
        if is_durable:
            self.durable = streams
        else:
            self.volatile = streams
        self._used = [streams for streams in self._used if streams in (self.durable, self.volatile)]

    @property
    def epochs(self) -> Epochs:
        """The epochs of new numbers."""
        return Epochs(self.durable.epoch, self.volatile.epoch)

    @property
    def is_empty(self) -> bool:
        """Whether no message is in flight."""
        return self.durable.is_empty and self.volatile.is_empty

    @property
    def is_fresh(self) -> bool:
        """Whether no message was ever sent."""
        return self.durable.is_fresh and self.volatile.is_fresh

    @property
    def is_forgettable(self) -> bool:
        """Whether no further answer of the peer can change a receipt."""
        return self.durable.is_forgettable and self.volatile.is_forgettable

    @property
    def in_flight(self) -> int:
        """Number of messages that were written and have no answer."""
        return self.durable.in_flight + self.volatile.in_flight

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the messages in flight with their headers, and the weight of their batches."""
        return self.durable.in_flight_bytes + self.volatile.in_flight_bytes

    def is_in_flight(self, name: bytes) -> bool:
        """Whether the batch with this `SentBatch.name` has messages without an answer."""
        return self.durable.is_in_flight(name) or self.volatile.is_in_flight(name)

    def take_batch(
        self,
        queue: SendQueue[OutgoingMessage],
        stream: int,
        credit: Credit,
        end_if_dead: Callable[[OutgoingMessage], bool],
        largest: int,
        max_bytes: int,
    ) -> list[OutgoingMessage]:
        """Take the messages of the next batch of a stream. See `SendStreams.take_batch()`."""
        streams = self.volatile if stream >= VOLATILE else self.durable
        return queue.take_from(
            stream,
            lambda lane: streams.take_batch(lane, credit, end_if_dead, largest, max_bytes),
        )

    def sent(self, batch: SentBatch, messages: list[OutgoingMessage], bodies: list[bytes]) -> None:
        """Note that a link has taken a batch of these messages."""
        streams = self.durable if messages[0].options.is_durable else self.volatile
        if streams.is_fresh:
            self._used.append(streams)
        streams.sent(batch, messages, bodies)

    def aborted(self, name: bytes) -> list[OutgoingMessage]:
        """Forget a batch that the link did not finish; return its messages without an answer."""
        return self.durable.aborted(name) + self.volatile.aborted(name)

    def is_expected(self, receipts: Receipts) -> bool:
        """Whether a message waits for one of these receipts."""
        return self.durable.is_expected(receipts) or self.volatile.is_expected(receipts)

    def receipts(self, receipts: Receipts, raw: bytes) -> list[OutgoingMessage]:
        """Apply receipts of kinds 1 to 3, and return the messages that are now accepted."""
        accepted: list[OutgoingMessage] = []
        for streams in self._used:
            accepted += streams.receipts(receipts, raw)
        return accepted

    def refused(self, receipts: Receipts, raw: bytes) -> list[Refused]:
        """Apply receipts of kind 4. The caller changes the state of the messages."""
        refused: list[Refused] = []
        for streams in self._used:
            refused += streams.refused(receipts, raw)
        return refused

    def take_unanswered(self) -> list[OutgoingMessage]:
        """Return all unanswered messages after the link has ended.

        Those of each stream are in the order of sending.
        """
        return self.durable.take_unanswered() + self.volatile.take_unanswered()
