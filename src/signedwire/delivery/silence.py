"""Decides when a peer that is watched has been silent for too long.

    heard ──limit──→ silent ──heard──→ heard …
                       └ reported once

A `SilenceDetector` has one watch. It is asked at instants that it names itself, each at most a
third of the limit after the last. So it also learns whether our own event loop stood still: it is
asked late then. After such a stall it waits a little longer, because frames of the peer may still
wait in a socket.

`WatchedPeers` has what the sessions of peers need: how often to send a PING to each watched peer,
and when ended links have heard from it.

All instants are of the clock of the event loop, which times the links.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from signedwire.types import Did

__all__ = ["MOST_SECONDS", "SilenceDetector", "SilenceFound", "WatchedPeers", "ping_interval"]

LEAST_SECONDS: Final = 0.1
"""The smallest limit in seconds."""
MOST_SECONDS: Final = 86_400.0
"""The largest limit in seconds."""
_PART: Final = 3
"""The number of PINGs, and of looks, within one limit."""
_LEAST_INTERVAL: Final = 0.050
"""The shortest time in seconds between two PINGs."""
STALL: Final = 0.100
"""Lateness of a look, in seconds, that shows a stall of our own event loop."""
GRACE: Final = 0.050
"""Seconds in which the sockets are read after a stall, before a silence is reported."""


def ping_interval(limit: float) -> float:
    """Return the seconds of silence after which a PING is due, for a limit in seconds."""
    return max(limit / _PART, _LEAST_INTERVAL)


class SilenceFound(NamedTuple):
    """A silence that must be reported now."""

    seconds: float
    """The time since the peer was heard last, or since the watch began."""
    is_own_stall: bool
    """Whether our own event loop stood still during the silence."""


class SilenceDetector:
    """The state of one watch.

    Args:
        limit: Seconds of silence after which it is reported.
        now: The present instant.
    """

    __slots__ = ("_has_stalled", "_heard_at", "_is_reported", "_is_second_look", "_limit", "due")

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._heard_at = now
        self._is_reported = False
        self._has_stalled = False
        self._is_second_look = False
        self.due = now + limit / _PART
        """The instant of the next `look()`."""

    def is_reported(self, heard_at: float | None) -> bool:
        """Whether the silence was reported, and no frame has come since. See `look()`."""
        return self._is_reported and not (heard_at is not None and heard_at > self._heard_at)

    def look(self, now: float, heard_at: float | None) -> SilenceFound | None:
        """Return the silence if it must be reported now. Then `due` has the next instant.

        Args:
            now: The present instant.
            heard_at: When the last frame of the peer came; `None`: none is known.
        """
        is_late = now - self.due > STALL
        if heard_at is not None and heard_at > self._heard_at:
            self._heard_at = heard_at
            self._is_reported = self._has_stalled = self._is_second_look = False
        self._has_stalled = self._has_stalled or is_late
        reported_at = self._heard_at + self._limit
        self.due = now + self._limit / _PART
        if self._is_reported:
            return None
        if now < reported_at:
            self.due = min(self.due, reported_at)
            return None
        if self._has_stalled and not self._is_second_look:
            self._is_second_look = True
            self.due = now + GRACE
            return None
        self._is_reported = True
        return SilenceFound(now - self._heard_at, self._has_stalled)


class WatchedPeers:
    """The peers whose silence is watched. In the loop."""

    __slots__ = ("_heard_at", "_limits")

    def __init__(self) -> None:
        self._limits: dict[Did, list[float]] = {}
        self._heard_at: dict[Did, float] = {}

    def add(self, did: Did, limit: float) -> None:
        """Watch a peer with one more limit, in seconds."""
        self._limits.setdefault(did, []).append(limit)

    def remove(self, did: Did, limit: float) -> None:
        """End a watch with this limit."""
        limits = self._limits[did]
        limits.remove(limit)
        if not limits:
            del self._limits[did]
            self._heard_at.pop(did, None)

    def interval(self, did: Did) -> float | None:
        """Return the seconds of silence after which to send a PING; `None`: it is not watched."""
        limits = self._limits.get(did)
        return None if limits is None else ping_interval(min(limits))

    def note_link_over(self, did: Did, heard_at: float) -> None:
        """Keep when an ended link had its last frame from a peer."""
        if did in self._limits:
            self._heard_at[did] = max(heard_at, self._heard_at.get(did, heard_at))

    def heard_at(self, did: Did) -> float | None:
        """Return when ended links had the last frame from a peer; `None`: not known."""
        return self._heard_at.get(did)
