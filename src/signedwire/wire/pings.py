"""PING and PONG of one end of a link: its round-trip time, and how far the peer's clock is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from signedwire.wire.clock_offset import ClockOffsetEstimator, Stamp
from signedwire.wire.link_frames import Ping, Pong

__all__ = ["Pings"]

_SAMPLE_INTERVAL: Final = 60.0
"""Seconds between two PINGs to a peer that does not fall silent. Each measures its clock."""


class Pings:
    """The PINGs that this end sends, and the PONGs that both ends send.

    Args:
        now: The present instant, of a monotonic clock, in seconds.
        interval: Time in seconds without a received byte after which a PING is due. Without
            silence, PINGs are as rare as this, and at most one each minute.
        read_clocks: Returns the present instant as Unix time in µs, and in µs by a monotonic
            clock since any fixed instant.
        on_round_trip: Called with the seconds from each PING to its PONG.
    """

    __slots__ = (
        "_interval",
        "_last",
        "_on_round_trip",
        "_read_clocks",
        "_sent_at",
        "clock_offset",
        "round_trip",
        "sample_due",
    )

    def __init__(
        self,
        now: float,
        interval: float,
        read_clocks: Callable[[], tuple[int, int]],
        on_round_trip: Callable[[float], object],
    ) -> None:
        self._interval = interval
        self._read_clocks = read_clocks
        self._on_round_trip = on_round_trip
        self._last = Ping(0, Stamp(0, 0))
        self._sent_at: float | None = None
        self.sample_due = now
        """When the next PING is due if the peer does not fall silent."""
        self.round_trip: float | None = None
        """Smoothed round-trip time in seconds; `None` until measured."""
        self.clock_offset = ClockOffsetEstimator()
        """How far the peer's clock is from ours."""

    @property
    def is_waiting(self) -> bool:
        """Whether the last PING has no PONG yet."""
        return self._sent_at is not None

    def postpone(self, seconds: float) -> None:
        """Send the next PING later, because this end stalled."""
        self.sample_due += seconds

    def ping(self, now: float, precise_now: float) -> Ping:
        """Make the next PING; `stamped()` encodes it when it is sent."""
        self._sent_at = precise_now
        self.sample_due = now + max(_SAMPLE_INTERVAL, self._interval)
        self._last = replace(self._last, number=self._last.number + 1)
        return self._last

    def answer(self, ping: Ping) -> Pong:
        """Make the PONG of a PING that has just come; `stamped()` encodes it when it is sent."""
        arrived = Stamp(*self._read_clocks())
        return Pong(ping, arrived, arrived)

    def stamped(self, frame: Ping | Pong) -> bytes:
        """Encode a PING or a PONG with the present instant."""
        frame = replace(frame, sent=Stamp(*self._read_clocks()))
        if isinstance(frame, Ping):
            self._last = frame
        return frame.encode()

    def measure(self, pong: Pong, precise_now: float) -> float | None:
        """Learn from a PONG, and return the round trip; `None`: it answers no PING, or an old one.

        A late PONG is no sign of life: the bytes that came before it were one.
        """
        if self._sent_at is None or pong.ping != self._last:
            return None
        received = Stamp(*self._read_clocks())
        self.clock_offset.add(self._last.sent, pong.arrived, pong.sent, received)
        sample = precise_now - self._sent_at
        self._sent_at = None
        # RFC 6298, 2.3: a gain of 1/8.
        before = self.round_trip
        self.round_trip = sample if before is None else before + (sample - before) / 8
        self._on_round_trip(sample)
        return sample
