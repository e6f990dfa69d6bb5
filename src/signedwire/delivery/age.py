"""The age of a received message, and whether it is within the limit of its receiver.

    sender    send() ── by its clock ──→ timestamp of the header
    receiver                              age = now − (timestamp − offset), wrong by the bound

The sender's clock may be wrong, and so may ours. PING and PONG have measured how far they are
apart, and the bound of that measurement: see `wire.clock_offset`. The bound is always added to the
age. So it shortens the time in which a message is taken, and never extends it.

A timestamp that lies in the future by more than the bound shows a clock that was set, or a sender
that wants more time. Its age is not known.
"""

from __future__ import annotations

from typing import Final

from signedwire.types import Reason
from signedwire.wire.clock_offset import ClockOffset

__all__ = ["age_of", "check_age", "is_usable"]

_GOOD_BOUND: Final = 0.050
"""A bound in seconds with which an offset is used for any limit."""
_USABLE_PART: Final = 0.25
"""The part of a limit that a larger bound may take."""


def age_of(sent_us: int, now_us: int, offset: ClockOffset) -> float | None:
    """Return the age of a message in seconds, by our clock; wrong by `offset.bound` at most.

    Args:
        sent_us: The timestamp of the message: Unix time by the sender's clock, microseconds.
        now_us: The present instant: Unix time by our clock, microseconds.
        offset: How far the sender's clock is from ours.

    Returns:
        The age, 0 or more; `None`: the message would come from the future.
    """
    age = (now_us - sent_us) / 1e6 + offset.seconds
    return None if age < -offset.bound else max(0.0, age)


def is_usable(offset: ClockOffset, limit: float) -> bool:
    """Whether an offset is exact enough for a limit in seconds."""
    return offset.bound <= max(_GOOD_BOUND, limit * _USABLE_PART)


def check_age(sent_us: int, now_us: int, offset: ClockOffset | None, limit: float) -> Reason | None:
    """Return why a message may not be taken; `None`: it is certainly younger than the limit.

    Args:
        sent_us: The timestamp of the message: Unix time by the sender's clock, microseconds.
        now_us: The present instant: Unix time by our clock, microseconds.
        offset: How far the sender's clock is from ours; `None`: not known.
        limit: The greatest age in seconds.

    Returns:
        `Reason.EXPIRED`: the message may be as old as the limit. `Reason.CLOCK_UNKNOWN`: its age
        is not known well enough.
    """
    if offset is None or not is_usable(offset, limit):
        return Reason.CLOCK_UNKNOWN
    age = age_of(sent_us, now_us, offset)
    if age is None:
        return Reason.CLOCK_UNKNOWN
    return None if age + offset.bound < limit else Reason.EXPIRED
