"""The clocks. Delivery, transport and node read them here and nowhere else.

There are two independent clocks:

    monotonic   seconds that have passed, also while the machine was suspended
                (CLOCK_BOOTTIME, where the system has one). Measures durations.
    wall        Unix time. The clock can be set, forward and back: from 1970 to today some
                seconds after a boot, or by an hour by an operator. For values that others
                read, and for instants that a user has given as a date.

An event loop has a third clock, `loop.time()`, which timers use. A deadline of another
clock is checked again when its timer fires.

`use()` replaces both clocks, for tests and simulations.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

__all__ = [
    "Clock",
    "Now",
    "StepWatch",
    "WallInstant",
    "left",
    "monotonic",
    "new_epoch",
    "now",
    "stamp",
    "to_unix",
    "unix_time",
    "unix_time_us",
    "use",
    "utc_text",
]

_MAX_GAP: Final = 0.0001
"""Maximum seconds between two readings of one instant; above, the thread was interrupted."""
_ATTEMPTS: Final = 5
_LAST_SECOND: Final = 253_402_300_799
"""Unix time of the last second of the year 9999."""


class Now(NamedTuple):
    """One instant by both clocks."""

    monotonic: float
    """Seconds since some instant in the past, including time in suspension."""
    wall: float
    """Unix time, seconds."""


class WallInstant(float):
    """An instant of the wall clock, in seconds of Unix time. Setting that clock affects it.

    A plain `float` is an instant of the monotonic clock.
    """

    __slots__ = ()


class Clock:
    """The clocks of the system. Tests and simulators replace it with a subclass: see `use()`."""

    def __init__(self) -> None:
        self._newest_epoch = 0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the seconds of the monotonic clock."""
        return _system_monotonic()

    def unix_time_us(self) -> int:
        """Return the Unix time of the wall clock in microseconds."""
        return time.time_ns() // 1000

    def new_epoch(self) -> int:
        """Return a number near the Unix time in µs, greater than all returned before."""
        with self._lock:
            self._newest_epoch = max(self._newest_epoch + 1, self.unix_time_us(), 1)
            return self._newest_epoch


def _monotonic_of_system() -> Callable[[], float]:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is not None:
        # Some systems have the name of this clock, but not the clock.
        with contextlib.suppress(OSError):
            time.clock_gettime(boot)
            return partial(time.clock_gettime, boot)
    return time.monotonic


_system_monotonic: Final = _monotonic_of_system()
_clock = Clock()
# Read several times for each frame, so without the methods of the class in between.
_monotonic = _system_monotonic
_unix_time_ns: Callable[[], int] = time.time_ns


@contextlib.contextmanager
def use(clock: Clock) -> Iterator[None]:
    """Replace the clocks of this process, for tests. Only one thread at a time may use it."""
    global _clock, _monotonic, _unix_time_ns

    def unix_time_ns() -> int:
        return clock.unix_time_us() * 1000

    before = _clock, _monotonic, _unix_time_ns
    _clock, _monotonic, _unix_time_ns = clock, clock.monotonic, unix_time_ns
    try:
        yield
    finally:
        _clock, _monotonic, _unix_time_ns = before


def monotonic() -> float:
    """Return the seconds of the monotonic clock, including time in suspension."""
    return _monotonic()


def unix_time_us() -> int:
    """Return the wall clock in microseconds since 1970, at least 1, as in envelopes.

    A clock can be set to before 1970, which no header or record can represent.
    """
    return max(1, _unix_time_ns() // 1000)


def unix_time() -> float:
    """Return the wall clock in seconds since 1970."""
    return unix_time_us() / 1e6


def now() -> Now:
    """Read both clocks at one instant."""
    for _ in range(_ATTEMPTS):
        before, wall, after = _clock.monotonic(), unix_time(), _clock.monotonic()
        if after - before < _MAX_GAP:
            break
    return Now(after, wall)


def stamp(origin: float) -> tuple[int, int]:
    """Read both clocks at one instant, for a peer.

    Args:
        origin: The instant of the monotonic clock from which to count. The system counts from
            its start, which is no business of a peer.

    Returns:
        The Unix time, and the time since `origin`, both in microseconds.
    """
    at = now()
    return round(at.wall * 1e6), max(0, round((at.monotonic - origin) * 1e6))


def new_epoch() -> int:
    """Return a number for a new epoch.

    The number is greater than all before in this process, even if the wall clock was set back.
    """
    return _clock.new_epoch()


def left(instant: float, at: Now | None = None) -> float:
    """Return the seconds from the present (or from `at`) to an instant; at most 0 if past.

    A `WallInstant` is compared with the wall clock, any other with the monotonic one.
    """
    if isinstance(instant, WallInstant):
        return instant - (unix_time() if at is None else at.wall)
    return instant - (monotonic() if at is None else at.monotonic)


def to_unix(instant: float, at: Now | None = None) -> float:
    """Convert an instant of either clock to Unix time, by the present wall clock."""
    if isinstance(instant, WallInstant):
        return float(instant)
    at = now() if at is None else at
    return instant - at.monotonic + at.wall


def utc_text(time_us: int) -> str:
    """Return a Unix time in microseconds as text; a time after 9999 as the end of that year."""
    moment = time.gmtime(min(time_us // 1_000_000, _LAST_SECOND))
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", moment)


class StepWatch:
    """Detects when the wall clock is set. Suspension moves both clocks, and is no step.

    Args:
        least: Minimum step in seconds; smaller steps are reported once they add up to it.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._origin = self._offset()

    @property
    def origin(self) -> float:
        """Unix time at the instant 0 of the monotonic clock, as of the last `look()`."""
        return self._origin

    def look(self) -> float:
        """Return the seconds by which the wall clock was set since the last call, or 0.0."""
        moved = self._offset() - self._origin
        if abs(moved) < self._least:
            return 0.0
        self._origin += moved
        return moved

    def _offset(self) -> float:
        instant = now()
        return instant.wall - instant.monotonic
