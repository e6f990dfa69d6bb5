"""When READ is sent: how much of the batches of the other side this end has read."""

from __future__ import annotations

from typing import Final

from signedwire.wire.link_frames import Read

__all__ = ["ReadReports"]

_SOON: Final = 32 * 1024
"""Bytes that were read and not reported, from which READ is due at once."""
_DELAY: Final = 0.01
"""Seconds from the first byte that was not reported until READ is due."""
_COMPANY: Final = 0.005
"""Seconds from the first byte that was not reported from which READ goes along with other frames.
One with every receipt of a lone message cost more than one each 5 ms."""
_MUCH: Final = 2 * 1024
"""Bytes that were read and not reported, from which READ goes along with other frames at once. So
the receipt of a batch takes it along, which saves a write."""


class ReadReports:
    """Counts the bytes of batches that were read, and the part that was reported."""

    __slots__ = ("_fine", "_fine_origin", "_fine_since", "_read", "_reported", "_since")

    def __init__(self) -> None:
        self._read = self._reported = 0
        self._since = self._fine_since = self._fine = 0.0
        self._fine_origin: float | None = None
        """The first instant that was noted. The clock itself is no business of the peer."""

    def note(self, read: int, now: float, fine: float) -> bool:
        """Note that `read` bytes were read so far; return whether READ is due at once.

        `fine` is the present instant `now` by a clock with a finer resolution.
        """
        if self._read == self._reported:
            self._since, self._fine_since = now, fine
        if self._fine_origin is None:
            self._fine_origin = fine
        self._read, self._fine = read, fine
        return read - self._reported >= _SOON

    def goes_along(self, fine: float) -> bool:
        """Whether READ goes along with other frames that are sent now. `fine` is as in `note()`."""
        unreported = self._read - self._reported
        return unreported >= _MUCH or (unreported > 0 and fine - self._fine_since >= _COMPANY)

    @property
    def due(self) -> float | None:
        """When READ is due; `None`: there is nothing new to report."""
        return None if self._read == self._reported else self._since + _DELAY

    def take(self, fine: float) -> Read | None:
        """Make the report; `None` if there is nothing new. `fine` is as in `note()`."""
        if self._read == self._reported or self._fine_origin is None:
            return None
        self._reported = self._read
        age = max(0, min(round((fine - self._fine) * 1e6), 2**32 - 1))
        return Read(self._read, age, max(0, round((self._fine - self._fine_origin) * 1e6)))
