"""PING and PONG of one end of a link: its round-trip time, and how far the peer's clock is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from signedwire.wire.clock_offset import ClockOffsetEstimator, Stamp
from signedwire.wire.link_frames import Ping, Pong

__all__ = ["Pings"]

_MAX_OPEN: Final = 32
"""Maximum number of PINGs without a PONG. One is usual; more are sent to a peer whose silence is
watched, over a link whose round trip is longer than the time between two of them."""
_NONE: Final = (None, 0.0)

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
        "_number",
        "_on_round_trip",
        "_open",
        "_read_clocks",
        "clock_offset",
        "last_at",
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
        self._number = 0
        self._open: dict[int, tuple[Ping, float]] = {}
        """By number, the PINGs without a PONG, and when they were made. The oldest is first."""
        self.last_at = now
        """When the last PING was made; at first, when this end began."""
        self.sample_due = now
        """When the next PING is due if the peer does not fall silent."""
        self.round_trip: float | None = None
        """Smoothed round-trip time in seconds; `None` until measured."""
        self.clock_offset = ClockOffsetEstimator()
        """How far the peer's clock is from ours."""

    @property
    def is_waiting(self) -> bool:
        """Whether the last PING has no PONG yet."""
        return bool(self._open)

    def postpone(self, seconds: float) -> None:
        """Send the next PING later, because this end stalled."""
        self.sample_due += seconds
        self.last_at += seconds

    def ping(self, now: float, precise_now: float) -> Ping:
        """Make the next PING; `stamped()` encodes it when it is sent."""
        self.last_at = now
        self.sample_due = now + max(_SAMPLE_INTERVAL, self._interval)
        self._number += 1
        ping = Ping(self._number, Stamp(0, 0))
        self._open[ping.number] = ping, precise_now
        if len(self._open) > _MAX_OPEN:
            del self._open[next(iter(self._open))]
        return ping

    def answer(self, ping: Ping) -> Pong:
        """Make the PONG of a PING that has just come; `stamped()` encodes it when it is sent."""
        arrived = Stamp(*self._read_clocks())
        return Pong(ping, arrived, arrived)

    def stamped(self, frame: Ping | Pong) -> bytes:
        """Encode a PING or a PONG with the present instant."""
        frame = replace(frame, sent=Stamp(*self._read_clocks()))
        if isinstance(frame, Ping) and frame.number in self._open:
            self._open[frame.number] = frame, self._open[frame.number][1]
        return frame.encode()

    def measure(self, pong: Pong, precise_now: float) -> float | None:
        """Learn from a PONG, and return the round trip; `None`: it answers no PING that is open.

        A late PONG is no sign of life: the bytes that came before it were one.
        """
        ping, sent_at = self._open.get(pong.ping.number, _NONE)
        if pong.ping != ping:
            return None
        received = Stamp(*self._read_clocks())
        self.clock_offset.add(ping.sent, pong.arrived, pong.sent, received)
        sample = precise_now - sent_at
        self._open = {number: sent for number, sent in self._open.items() if number > ping.number}
        # RFC 6298, 2.3: a gain of 1/8.
        before = self.round_trip
        self.round_trip = sample if before is None else before + (sample - before) / 8
        self._on_round_trip(sample)
        return sample
