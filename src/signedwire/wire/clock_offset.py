"""How far the clock of a peer is from ours: an estimate from PINGs and PONGs.

    we      t0 ──PING─╮                ╭──→ t3
    peer              ╰──→ t1 … t2 ─PONG

    offset = ((t1 − t0) + (t2 − t3)) / 2
    bound  = ((t3 − t0) − (t2 − t1)) / 2, and more for the age of the sample

The offset is that of the peer's wall clock from ours, and positive if the peer's is ahead. It is
exact if both ways take the same time. However they differ, it is wrong by the bound at most. NTP
measures in the same way: RFC 5905, section 8.

The bound grows with the age of the sample, because no two clocks run at the same speed. So the
estimate is the sample with the smallest bound now, among those of the last `MAX_AGE` seconds.

A clock that is set makes older samples void. It was set if it has moved against the monotonic clock
of its side by more than `STEP_US` µs. A smaller move widens the bound.

A peer can say what it likes about its clock. The estimate is for people, and no rule of the
protocol depends on it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ClockOffset", "ClockOffsetEstimator", "Stamp"]

DRIFT: Final = 200e-6
"""How much the speeds of two clocks differ at most: 100 ppm for each clock, of which NTP counts
on 15."""
MAX_AGE: Final = 300.0
"""Seconds after which a sample is void."""
STEP_US: Final = 5_000
"""Microseconds by which a wall clock may move against the monotonic clock between two readings."""
RESOLUTION: Final = 4e-6
"""Seconds of the bound for the four readings of a sample, which have whole microseconds."""
MAX_SAMPLES: Final = 16
"""The number of samples that are kept at once."""


class Stamp(NamedTuple):
    """One instant by both clocks of one side."""

    wall_us: int
    """Unix time, microseconds."""
    monotonic_us: int
    """Microseconds since an instant that is the same for a whole link. This clock is never set."""

    @property
    def origin_us(self) -> int:
        """The Unix time at the instant 0 of the monotonic clock. It changes when a clock is set."""
        return self.wall_us - self.monotonic_us


class ClockOffset(NamedTuple):
    """How far the wall clock of a peer is from ours, in seconds."""

    seconds: float
    """Positive if the clock of the peer is ahead of ours."""
    bound: float
    """The offset is wrong by this at most."""

    @property
    def is_noticeable(self) -> bool:
        """Whether the clocks certainly differ, and by more than the bound."""
        return abs(self.seconds) > 2 * self.bound

    def __str__(self) -> str:
        side = "ahead" if self.seconds > 0 else "behind"
        return f"{duration_text(abs(self.seconds))} {side} (± {duration_text(self.bound)})"


def duration_text(seconds: float) -> str:
    """Return a duration as text for people, in ms, seconds or days."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 2 * 86_400:
        return f"{seconds:.2f} s"
    return f"{seconds / 86_400:.2f} days"


class _Sample(NamedTuple):
    offset: float
    bound: float
    """At the instant `at`, in seconds."""
    at: float
    """By our monotonic clock, in seconds."""

    def bound_at(self, now: float) -> float:
        return self.bound + (now - self.at) * DRIFT


class ClockOffsetEstimator:
    """The samples of one link, and the best of them.

    Any thread may call `estimate()`; one thread at a time calls `add()`.
    """

    __slots__ = ("_ours_us", "_samples", "_theirs_us")

    def __init__(self) -> None:
        # From the oldest to the newest, and from the smallest bound to the largest.
        self._samples: tuple[_Sample, ...] = ()
        self._ours_us: int | None = None
        self._theirs_us: int | None = None

    def add(self, asked: Stamp, arrived: Stamp, returned: Stamp, received: Stamp) -> None:
        """Take the four stamps of one PING and its PONG. Stamps that cannot be right are ignored.

        Args:
            asked: When we sent PING.
            arrived: When the peer received it, by its clocks.
            returned: When the peer sent PONG, by its clocks.
            received: When we received that.
        """
        waited = (received.monotonic_us - asked.monotonic_us) / 1e6
        resided = (returned.monotonic_us - arrived.monotonic_us) / 1e6
        on_the_way = waited - resided
        if resided < 0 or on_the_way < -(RESOLUTION + waited * DRIFT):
            return
        before = (
            0 if self._ours_us is None else abs(asked.origin_us - self._ours_us),
            0 if self._theirs_us is None else abs(arrived.origin_us - self._theirs_us),
        )
        meanwhile = (
            abs(received.origin_us - asked.origin_us),
            abs(returned.origin_us - arrived.origin_us),
        )
        self._ours_us, self._theirs_us = received.origin_us, returned.origin_us
        if max(meanwhile) > STEP_US:
            self._samples = ()
            return
        now = received.monotonic_us / 1e6
        moved = sum(meanwhile) / 1e6
        there, back = arrived.wall_us - asked.wall_us, returned.wall_us - received.wall_us
        newest = _Sample(
            (there + back) / 2e6,
            max(0.0, on_the_way) / 2 + RESOLUTION + waited * DRIFT + moved,
            now,
        )
        older = () if max(before) > STEP_US else self._samples
        moved += sum(before) / 1e6
        kept = [
            each._replace(bound=each.bound + moved)
            for each in older
            # A newer sample with a smaller bound is better for ever.
            if now - each.at <= MAX_AGE and each.bound_at(now) + moved < newest.bound
        ]
        self._samples = (*kept[: MAX_SAMPLES - 1], newest)

    def estimate(self, now: Stamp) -> ClockOffset | None:
        """Return the best estimate at the instant `now`; `None` if there is no valid sample."""
        samples, ours = self._samples, self._ours_us
        moved = 0 if ours is None else abs(now.origin_us - ours)
        if moved > STEP_US:
            return None
        at = now.monotonic_us / 1e6
        for sample in samples:
            if at - sample.at <= MAX_AGE:
                return ClockOffset(sample.offset, sample.bound_at(at) + moved / 1e6)
        return None
