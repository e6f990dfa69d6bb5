"""The credit that one end of a link has granted to the other, and when it is told."""

from __future__ import annotations

from signedwire.types import Credit
from signedwire.wire.header import MAX_V2_HEADER_SIZE
from signedwire.wire.link_frames import CreditFrame

__all__ = ["GrantedCredit"]


class GrantedCredit:
    """The totals that the peer may send, and that it has sent.

    Args:
        first: The first grant, which is in our HELLO.
        max_payload_size: The largest payload that we accept.
    """

    __slots__ = ("_first", "_largest", "granted", "received", "told")

    def __init__(self, first: Credit, max_payload_size: int) -> None:
        self._first = first
        self._largest = MAX_V2_HEADER_SIZE + max_payload_size
        self.granted = first
        """All that the peer may send."""
        self.told = first
        """The part of it that the peer has been told."""
        self.received = Credit(0, 0, 0, 0)
        """All that the peer has begun to send."""

    def charge(self, messages: int, size: int, *, is_critical: bool) -> bool:
        """Count a batch that the peer begins; return whether it was told of so much credit."""
        self.received = self.received.plus(messages, size, is_critical=is_critical)
        return not self.received.exceeds(self.told)

    def add(self, messages: int, size: int, *, is_critical: bool) -> bool:
        """Grant more; return whether the peer must be told now. See `Session.grant()`."""
        self.granted = self.granted.plus(messages, size, is_critical=is_critical)
        return any(
            new > old and ((new - old) * 4 >= first or old - received < needed)
            for new, old, first, received, needed in zip(
                self.granted,
                self.told,
                self._first,
                self.received,
                (1, self._largest, 1, self._largest),
                strict=True,
            )
        )

    def tell(self) -> CreditFrame:
        """Return the frame that tells the peer all that it may send."""
        self.told = self.granted
        return CreditFrame(self.granted)
