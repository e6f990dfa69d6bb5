"""Deadlines as v2 headers carry them, and which clock those of ours follow.

A header has an instant of Unix time in microseconds. A sender's deadline is either so
many seconds, which pass whatever the wall clock is set to, or a date, which follows that
clock. The store keeps headers alone. So the lowest bit of the microseconds tells the
sender's own process which of the two it was: 1 for seconds, 0 for a date. To everybody
else it is an instant.
"""

from __future__ import annotations

from typing import Final

from signedwire.clock import Now, WallInstant, now, to_unix
from signedwire.wire.header import expiry_of, with_expiry

__all__ = ["due_us", "instant_of", "is_relative", "moved"]

_RELATIVE: Final = 1
_LEAST_US: Final = 2
"""0 is no deadline."""
_MOST_US: Final = 2**63 - 2  # what a column of the store can hold


def due_us(expires_at: float | None, at: Now | None = None) -> int:
    """What a header says: 0 for none. Of seconds, it is made of those that are left now."""
    if expires_at is None:
        return 0
    at = now() if at is None else at
    us = min(max(int(to_unix(expires_at, at) * 1e6), _LEAST_US), _MOST_US)
    return us & ~_RELATIVE if isinstance(expires_at, WallInstant) else us | _RELATIVE


def is_relative(us: int) -> bool:
    """Whether a deadline of our own was so many seconds, and no date."""
    return bool(us & _RELATIVE)


def instant_of(us: int, origin_us: int | None) -> float:
    """The instant that a header of ours names, by the clock that it follows.

    `origin_us` is the Unix time at the instant 0 of the monotonic clock when it was made;
    `None`: another process has made it, so nothing is left but the date.
    """
    if origin_us is None or not is_relative(us):
        return WallInstant(us / 1e6)
    return (us - origin_us) / 1e6


def moved(body: bytes, by_us: int) -> bytes:
    """Header and payload with a deadline that is so much later; `by_us` is even."""
    us = (expiry_of(body) or 0) + by_us
    us = min(max(us, _LEAST_US | _RELATIVE), _MOST_US)
    return with_expiry(body, us)
