"""The credit that one end of a link has granted to the other, and when it is told."""

from __future__ import annotations

from signedwire.types import Credit
from signedwire.wire.header import MAX_V2_HEADER_SIZE
from signedwire.wire.link_frames import CreditFrame

__all__ = ["GrantedCredit"]


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
        self.received = [Credit(0, 0) for _ in first]
        """By stream, all that the peer has begun to send."""

    def charge(self, stream: int, messages: int, size: int) -> bool:
        """Count a batch that the peer begins; return whether it was told of so much credit."""
        self.received[stream] = received = self.received[stream].plus(messages, size)
        return not received.exceeds(self.told[stream])

    def unused(self, stream: int) -> Credit:
        """Return the credit of a stream that was granted, told or not, and not used."""
        return self.granted[stream].minus(self.received[stream])

    def add(self, stream: int, messages: int, size: int) -> bool:
        """Grant more; return whether the peer must be told now. See `Session.grant()`."""
        self.granted[stream] = granted = self.granted[stream].plus(messages, size)
        told = self.told[stream]
        return any(
            new > old and ((new - old) * 4 >= first or old - received < needed)
            for new, old, first, received, needed in zip(
                granted,
                told,
                self._first[stream],
                self.received[stream],
                (1, self._largest),
                strict=True,
            )
        )

    def tell(self) -> CreditFrame:
        """Return the frame that tells the peer all that it may send."""
        self.told = tuple(self.granted)
        return CreditFrame(self.told)
