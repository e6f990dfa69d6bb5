"""The clocks. Delivery, transport and node read them here and nowhere else.

There are two, and neither follows the other:

    monotonic   seconds that have passed, also while the machine was suspended
                (CLOCK_BOOTTIME, where the system has one). For how long something lasts.
    wall        what date and time it is: Unix time. It is set, forward and back: from 1970
                to today some seconds after a boot, by an hour by an operator. For what
                others read, and for instants that a user has named by their date.

An event loop has a third one, `loop.time()`. Timers use that one: what is known by
another clock is asked again when the timer fires.

`use()` replaces both clocks, for tests and simulations.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
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
    "to_unix",
    "unix_time",
    "unix_time_us",
    "use",
]

_MAX_GAP: Final = 0.0001
"""Seconds between two readings that count as one. Else this thread was interrupted."""
_ATTEMPTS: Final = 5


class Now(NamedTuple):
    """One instant by both clocks."""

    monotonic: float
    """Seconds since some instant in the past; time that the machine was suspended included."""
    wall: float
    """Unix time, seconds."""


class WallInstant(float):
    """An instant of the wall clock: Unix time, seconds. It moves when that clock is set.

    A plain `float` is an instant of the monotonic clock.
    """

    __slots__ = ()


class Clock:
    """The clocks of the system. A test or a simulator replaces it by a subclass: see `use()`."""

    def __init__(self) -> None:
        self._boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)
        self._newest_epoch = 0
        self._lock = threading.Lock()
        if self._boot is not None:
            try:
                time.clock_gettime(self._boot)
            except OSError:  # a system that names it and does not have it
                self._boot = None

    def monotonic(self) -> float:
        """Seconds by the monotonic clock."""
        return time.monotonic() if self._boot is None else time.clock_gettime(self._boot)

    def unix_time_us(self) -> int:
        """Microseconds of Unix time by the wall clock."""
        return time.time_ns() // 1000

    def new_epoch(self) -> int:
        """A number greater than any that was given before, and about the Unix time in µs."""
        with self._lock:
            self._newest_epoch = max(self._newest_epoch + 1, self.unix_time_us(), 1)
            return self._newest_epoch


_clock = Clock()


@contextlib.contextmanager
def use(clock: Clock) -> Iterator[None]:
    """Replace the clocks of this process, for tests. Not for two threads at once."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before


def monotonic() -> float:
    """Seconds by the monotonic clock, time that the machine was suspended included."""
    return _clock.monotonic()


def unix_time_us() -> int:
    """The wall clock in microseconds since 1970, as envelopes carry it: at least 1.

    A clock can be set to before 1970, and no header or record can say so.
    """
    return max(1, _clock.unix_time_us())


def unix_time() -> float:
    """The wall clock in seconds since 1970."""
    return unix_time_us() / 1e6


def now() -> Now:
    """Both clocks at one instant."""
    for _ in range(_ATTEMPTS):
        before, wall, after = _clock.monotonic(), unix_time(), _clock.monotonic()
        if after - before < _MAX_GAP:
            break
    return Now(after, wall)


def new_epoch() -> int:
    """A number for a new epoch: greater than all before in this process, whatever the wall
    clock was set to meanwhile.
    """
    return _clock.new_epoch()


def left(instant: float, at: Now | None = None) -> float:
    """Seconds from the present (or from `at`) to an instant; 0 or less: it is past.

    A `WallInstant` is compared with the wall clock, any other with the monotonic one.
    """
    if isinstance(instant, WallInstant):
        return instant - (unix_time() if at is None else at.wall)
    return instant - (monotonic() if at is None else at.monotonic)


def to_unix(instant: float, at: Now | None = None) -> float:
    """An instant of either clock as Unix time, by what the wall clock shows now."""
    if isinstance(instant, WallInstant):
        return float(instant)
    at = now() if at is None else at
    return instant - at.monotonic + at.wall


class StepWatch:
    """Notices when the wall clock is set. Suspending moves both clocks, and is no step.

    Args:
        least: What is less, in seconds, is not looked at until it adds up to so much.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._origin = self._offset()

    @property
    def origin(self) -> float:
        """The wall clock at the instant 0 of the monotonic clock, by the last look."""
        return self._origin

    def look(self) -> float:
        """Seconds that the wall clock was moved since the last look; 0.0: it was not."""
        moved = self._offset() - self._origin
        if abs(moved) < self._least:
            return 0.0
        self._origin += moved
        return moved

    def _offset(self) -> float:
        instant = now()
        return instant.wall - instant.monotonic
