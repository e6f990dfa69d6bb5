"""Deadlines in v2 headers, and the clock that each of our own deadlines follows.

A header holds an instant of Unix time in microseconds. The sender gave its deadline
either in seconds, which the monotonic clock measures, or as a date, which follows the
wall clock. The store keeps only headers. So the lowest bit of the microseconds tells the
sender's own process which one it was: 1 for seconds, 0 for a date. All other readers use
the value as an instant.
"""

from __future__ import annotations

from typing import Final

from signedwire.clock import Now, WallInstant, now, to_unix
from signedwire.wire.header import expiry_of, with_expiry

__all__ = ["due_us", "instant_of", "is_relative", "moved"]

_RELATIVE: Final = 1
_LEAST_US: Final = 2
"""Smallest deadline: 0 means none, and the lowest bit has a meaning."""
_MOST_US: Final = 2**63 - 2  # the largest even number in a column of the store


def due_us(expires_at: float | None, at: Now | None = None) -> int:
    """Return the deadline for a header: Unix time, microseconds; 0: none.

    A deadline in seconds is computed from the seconds that are left now.
    """
    if expires_at is None:
        return 0
    at = now() if at is None else at
    us = min(max(int(to_unix(expires_at, at) * 1e6), _LEAST_US), _MOST_US)
    return us & ~_RELATIVE if isinstance(expires_at, WallInstant) else us | _RELATIVE


def is_relative(us: int) -> bool:
    """Whether a deadline of our own was given in seconds, not as a date."""
    return bool(us & _RELATIVE)


def instant_of(us: int, origin_us: int | None) -> float:
    """Return the deadline of a header of ours as an instant of the clock that it follows.

    `origin_us` is the Unix time at the instant 0 of the monotonic clock when the header
    was made. `None` means that another process made it, so that only the date is known.
    """
    if origin_us is None or not is_relative(us):
        return WallInstant(us / 1e6)
    return (us - origin_us) / 1e6


def moved(body: bytes, by_us: int) -> bytes:
    """Return header and payload with a deadline moved by `by_us` microseconds, an even number."""
    us = (expiry_of(body) or 0) + by_us
    us = min(max(us, _LEAST_US | _RELATIVE), _MOST_US)
    return with_expiry(body, us)
