"""The credit of a link by stream: what this end has granted, and what it was granted."""

from __future__ import annotations

from typing import Final

from signedwire.errors import RemoteProtocolError
from signedwire.types import Credit, Reason
from signedwire.wire.header import MAX_V2_HEADER_SIZE, STREAMS
from signedwire.wire.link_frames import CreditFrame

__all__ = ["AllowedCredit", "GrantedCredit"]

_NOTHING: Final = Credit(0, 0)


class GrantedCredit:
    """The totals that the peer may send in each stream, and that it has sent.

    Args:
        first: The first grant, by stream, which is in our HELLO.
        max_payload_size: The largest payload that we accept.
    """

    __slots__ = ("_first", "_largest", "granted", "received", "told")

    def __init__(self, first: tuple[Credit, ...], max_payload_size: int) -> None:
        self._first = first
        self._largest = MAX_V2_HEADER_SIZE + max_payload_size
        self.granted = list(first)
        """By stream, all that the peer may send."""
        self.told = first
        """By stream, the part of it that the peer has been told."""
        self.received = [_NOTHING] * STREAMS
        """By stream, all that the peer has begun to send."""

    def charge(self, stream: int, messages: int, size: int) -> bool:
        """Count a batch that the peer begins; return whether it was told of so much credit."""
        self.received[stream] = received = self.received[stream].plus(messages, size)
        return not received.exceeds(self.told[stream])

    def left(self, stream: int) -> Credit:
        """Return what the peer may still send in a stream, told or not."""
        return self.granted[stream].minus(self.received[stream])

    def add(self, stream: int, messages: int, size: int) -> bool:
        """Grant more; return whether the peer must be told now. See `Session.grant()`."""
        self.granted[stream] = granted = self.granted[stream].plus(messages, size)
        told, first, received = self.told[stream], self._first[stream], self.received[stream]
        more, more_bytes = granted.messages - told.messages, granted.bytes - told.bytes
        return (
            more > 0 and (more * 4 >= first.messages or told.messages <= received.messages)
        ) or (
            more_bytes > 0
            and (more_bytes * 4 >= first.bytes or told.bytes - received.bytes < self._largest)
        )

    def tell(self) -> CreditFrame:
        """Return the frame that tells the peer all that it may send."""
        self.told = tuple(self.granted)
        return CreditFrame(self.told)


class AllowedCredit:
    """The totals that the peer has allowed, and that this end has sent."""

    __slots__ = ("_allowed", "_sent")

    def __init__(self) -> None:
        self._allowed: tuple[Credit, ...] = (_NOTHING,) * STREAMS
        self._sent = [_NOTHING] * STREAMS

    def left(self, stream: int) -> Credit:
        """Return what may still be sent in a stream."""
        return self._allowed[stream].minus(self._sent[stream])

    def use(self, stream: int, messages: int, size: int) -> None:
        """Count a batch that is sent. The caller has checked that `left()` covers it."""
        self._sent[stream] = sent = self._sent[stream].plus(messages, size)
        assert not sent.exceeds(self._allowed[stream])

    def allow(self, credit: tuple[Credit, ...]) -> bool:
        """Take the peer's new totals; return whether they are greater than before.

        Raises:
            RemoteProtocolError: one of them is less.
        """
        before, self._allowed = self._allowed, credit
        if any(map(Credit.exceeds, before, credit)):
            raise RemoteProtocolError(Reason.PROTOCOL_ERROR, "the peer reduced its credit")
        return credit != before
