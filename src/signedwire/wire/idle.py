"""How much a peer may cost without bringing anything: a leaky bucket, without a clock.

Frames that carry no new message and no answer cost the peer a few bytes and this node
some microseconds. A few are part of the protocol; a flood of them is not.
"""

from __future__ import annotations

from typing import Final

__all__ = ["IdleMeter"]

_MAX_LEVEL: Final = 10_000
_LEAK_PER_SECOND: Final = 1000
_COSTLY_LEVEL: Final = 64
ANSWERS_PER_MESSAGE: Final = 3
"""A message that was sent may be accepted or refused, then handled, and its credit granted."""


class IdleMeter:
    """Counts, in units of about one PING, what a peer sends that brings nothing.

    Args:
        repeats: Messages that the peer may send again without cost: after a broken link
            it repeats what it has no receipt for, at most the credit that it had.
        now: The present instant, in seconds, of a clock that only goes forward.
    """

    __slots__ = ("_answers", "_at", "_level", "_repeats")

    def __init__(self, repeats: int, now: float) -> None:
        self._answers = 0
        self._repeats = repeats
        self._level = 0.0
        self._at = now

    @property
    def is_costly(self) -> bool:
        """Whether the peer has lately cost more than it brought."""
        return self._level > _COSTLY_LEVEL

    def add(self, cost: int, now: float) -> bool:
        """Count `cost` units; `False` when the peer has cost too much."""
        elapsed, self._at = now - self._at, now
        self._level = max(0.0, self._level - elapsed * _LEAK_PER_SECOND) + cost
        return self._level <= _MAX_LEVEL

    def expect_answers(self, messages: int) -> None:
        """So many messages were sent: the peer may answer each of them."""
        self._answers += messages * ANSWERS_PER_MESSAGE

    def cost_of_answers(self, count: int) -> int:
        """The cost of `count` answers in one frame: none, where messages were sent for them."""
        paid = min(count, self._answers)
        self._answers -= paid
        return (count - paid + 15) // 16

    def cost_of_repeats(self, count: int) -> int:
        """The cost of `count` messages that are not new."""
        paid = min(count, self._repeats)
        self._repeats -= paid
        return count - paid
