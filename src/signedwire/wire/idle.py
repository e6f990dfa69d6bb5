"""A limit on frames that carry nothing new: a leaky bucket, without a clock.

A frame with no new message and no expected answer costs the peer a few bytes and this
node some microseconds. The protocol needs a few of them; a flood of them is an attack.
"""

from __future__ import annotations

from typing import Final

__all__ = ["IdleMeter"]

_MAX_LEVEL: Final = 10_000
_LEAK_PER_SECOND: Final = 1000
_COSTLY_LEVEL: Final = 64
ANSWERS_PER_MESSAGE: Final = 3
"""Answers to one sent message: accepted or refused, then handled, then a credit grant."""


class IdleMeter:
    """Counts frames of a peer that carry nothing new, in units of about one PING.

    Args:
        repeats: Number of messages that the peer may send again without cost. After a
            broken link it repeats unreceipted messages, at most as many as its credit.
        now: The present instant, in seconds, of a monotonic clock.
    """

    __slots__ = ("_answers", "_at", "_level", "_repeats")

    def __init__(self, repeats: int, now: float) -> None:
        self._answers = 0
        self._repeats = repeats
        self._level = 0.0
        self._at = now

    @property
    def is_costly(self) -> bool:
        """Whether the level of the bucket is over 64 units."""
        return self._level > _COSTLY_LEVEL

    def add(self, cost: int, now: float) -> bool:
        """Add `cost` units; return `False` when the level is over 10,000 units."""
        elapsed, self._at = now - self._at, now
        self._level = max(0.0, self._level - elapsed * _LEAK_PER_SECOND) + cost
        return self._level <= _MAX_LEVEL

    def expect_answers(self, messages: int) -> None:
        """Note that `messages` were sent; the peer may answer each of them without cost."""
        self._answers += messages * ANSWERS_PER_MESSAGE

    def cost_of_answers(self, count: int) -> int:
        """Return the cost of `count` answers in one frame; an expected answer costs 0."""
        paid = min(count, self._answers)
        self._answers -= paid
        return (count - paid + 15) // 16

    def cost_of_repeats(self, count: int) -> int:
        """Return the cost of `count` repeated messages, after those that are free."""
        paid = min(count, self._repeats)
        self._repeats -= paid
        return count - paid
