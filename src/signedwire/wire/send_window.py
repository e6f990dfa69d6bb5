"""How many bytes of batches may be under way to the peer, so that an urgent one need not wait long.

    window = best rate of the last 10 full round trips × (round trip − wait on the way + 20 ms)

The rate is what the peer reads, by its READ frames. A window of less than rate × round trip would
leave the path idle. Each byte beyond that waits in a queue, and the 20 ms bound this queue,
whatever buffers lie on the path. The rule is that of BBR [1], with the path's end in the peer's
node instead of its kernel. So it also holds over a proxy or a relay, which acknowledge bytes that
the peer does not have yet.

READ tells when the bytes were read, by the clock of the peer. So the time on the way is known, but
for a constant, and the bytes with the least time in 10 s did not wait. LEDBAT measures so too [2].
What the peer sends does not disturb it. If the peer fills its own direction, READs wait behind
those bytes: the window is longer by that wait, and the rate is measured by the clock of the peer.

The sending rate may also have a cap, `max_rate`. A debt grows with each byte and shrinks at that
rate. More is written when the debt is less than 20 ms of the rate. The measured rate does not fall
while the cap alone limits.

[1] Cardwell, Cheng, Gunn, Hassas Yeganeh, Jacobson: BBR: Congestion-Based Congestion Control.
    ACM Queue 14(5), 2016.
[2] Shalunov, Hazel, Iyengar, Kuehlewind: Low Extra Delay Background Transport. RFC 6817, 2012.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from signedwire.wire.link_frames import MAX_BODY

__all__ = ["SendWindow"]

_FIRST: Final = 16 * 1024
"""Bytes of the window until a rate is known."""
_QUEUE: Final = 0.02
"""Seconds that a byte may wait in queues of the path."""
_PART_TIME: Final = 0.01
"""Seconds that one part may take at the measured rate."""
_LEAST_PART: Final = 2 * 1024
"""A shorter part that is not the last one of its batch is an error of the peer."""
_ROUNDS: Final = 10
"""Number of full round trips whose best rate counts."""
_PROBE_EVERY: Final = 8
"""One of so many full round trips has a larger window, to find a higher rate."""
_PROBE_GAIN: Final = 1.25
"""How much faster bytes may leave then."""
_PROBE: Final = 0.05
"""The share by which the window is larger then. Less could not be told from chance."""
_LEAST_PROBE: Final = 0.005
_MOST_PROBE: Final = 0.01
"""Bounds of the same, in seconds of the rate."""
_START_GAIN: Final = 2.89
"""The window is so much larger until the rate stops rising. So the rate doubles with each round
trip: 2 / ln 2, from BBR."""
_PROBE_PATIENCE: Final = 2
"""Number of full round trips without a rise that end the larger window."""
_RISE: Final = 1.03
"""A rate that is so much higher is not chance."""
_CAP_GAIN: Final = 2
"""With a cap, the window is at most so many times what the cap lets pass. So it is full only if
the path is slower than the cap."""
_PATIENCE: Final = 3
"""Number of full round trips without a rise that end the start, as a longer queue also does."""
_URGENT_RATE: Final = 64 * 1024
"""Bytes per second of urgent batches that may pass a full window."""
_PAUSE: Final = 0.1
"""Seconds without a write after which what waited does not wait any more."""
_MEMORY: Final = 10.0
"""Seconds after which a way without a wait must be seen again."""
_MAX_SENT: Final = 256
"""Number of writes that are remembered. Of more, every second one is forgotten, and a READ for that
gives no measurement."""
_LEAST_RATE: Final = 1000.0
"""Bytes per second that a path carries at least. This is also the least cap."""


class _Sent(NamedTuple):
    """One write."""

    begin: int
    """Bytes of batches that were written before it."""
    end: int
    """The bytes with it."""
    at: float
    is_paced: bool
    """Whether it was written at a known rate, so that it has not made a queue of its own."""


class SendWindow:
    """Measures the path to a peer, and bounds the bytes that are under way on it.

    Instants are in seconds of one clock with a fine resolution, but for `read_at` of `note_read()`,
    which is of the peer's clock.
    """

    __slots__ = (
        "_debt",
        "_debt_at",
        "_drain_end",
        "_heard_at",
        "_is_full",
        "_least_at",
        "_least_transit",
        "_leaves_at",
        "_path",
        "_quiet_rounds",
        "_rates",
        "_round_at",
        "_round_end",
        "_round_read",
        "_round_sent_at",
        "_rounds",
        "_sent",
        "_urgent_until",
        "has_more",
        "is_starting",
        "least_round_trip",
        "max_rate",
        "rate",
        "read",
        "written",
    )

    def __init__(self) -> None:
        self.written = 0
        """Bytes of batches that were written."""
        self.read = 0
        """Bytes of batches that the peer has read."""
        self.rate = 0.0
        """Bytes per second that the path carries; 0: not known yet."""
        self.least_round_trip = inf
        """Seconds of the shortest round trip lately; infinite: not known yet."""
        self.is_starting = True
        """Whether the rate still rises with the window."""
        self.has_more = False
        """Whether bytes had to wait at the last write."""
        self.max_rate: float | None = None
        """The cap, in bytes per second; `None`: there is none. It may change at any time."""
        # Lists, not deques: most windows are idle, and an empty deque takes 624 bytes.
        self._sent: list[_Sent] = []
        self._rates: list[float] = []
        """The rates of the last `_ROUNDS` full round trips."""
        self._leaves_at = 0.0
        """When the last byte has left for the path, if it carries the rate."""
        self._heard_at = 0.0
        """When the last READ came."""
        self._debt = self._debt_at = 0.0
        """Bytes at the last write that the cap had not let pass yet, and the instant."""
        self._is_full = False
        """Whether bytes had to wait in this round trip because the window was full."""
        self._urgent_until = 0.0
        """When all urgent bytes will have passed at their rate."""
        self._round_end = self._round_read = 0
        """Bytes that the peer will have read at the end of the round trip, and at its beginning."""
        self._round_at: float | None = None
        """When the peer had read them, by its clock; `None`: the first READ will tell."""
        self._round_sent_at = 0.0
        """When the last of them was written."""
        self._path = 0.0
        """Seconds of the last round trip without the wait on the way to the peer."""
        self._least_transit = inf
        """Seconds from a write to the peer's clock when it was read, if no byte had to wait."""
        self._rounds = 0
        """Number of full round trips; one with a larger window that found a rise does not count."""
        self._quiet_rounds = 0
        self._least_at = -inf
        self._drain_end: int | None = None
        """While the queue is drained to measure the round trip: bytes written before that."""

    @property
    def size(self) -> int:
        """Bytes that may be under way now."""
        if not self.rate:
            return _FIRST
        if self._drain_end is not None:
            return self.part
        seconds = self._path + _QUEUE
        if self.is_starting:
            seconds *= _START_GAIN
        elif self._is_probing:
            seconds += min(_MOST_PROBE, max(_LEAST_PROBE, _PROBE * seconds))
        rate = self.rate
        if self.max_rate is not None:
            rate = min(rate, _CAP_GAIN * self.max_rate)
        return max(self.part, int(rate * seconds))

    @property
    def _gain(self) -> float:
        if self.is_starting:
            return _START_GAIN
        return _PROBE_GAIN if self._is_probing else 1.0

    @property
    def _is_probing(self) -> bool:
        return self._rounds % _PROBE_EVERY == 0

    @property
    def part(self) -> int:
        """Bytes that one part may have, so that an urgent one need not wait long behind it."""
        most = min(MAX_BODY, int(self.rate * _PART_TIME)) if self.rate else _FIRST // 4
        if self.max_rate is not None:
            most = min(most, int(self.max_rate * _PART_TIME))
        return max(_LEAST_PART, most)

    @property
    def under_way(self) -> int:
        """Bytes that were written and that the peer has not read, as far as is known."""
        return self.written - self.read

    def room(self, now: float) -> int:
        """Return the bytes that may be written now; 0 or less: none."""
        room = self._path_room(now)
        return room if self.max_rate is None else min(room, self._capped_room(now, self.max_rate))

    def _path_room(self, now: float) -> int:
        """Return the bytes that may be written now as if there were no cap."""
        room = self.size - self.under_way
        if self.rate:
            # Else a window that is written at once, after a pause, would wait in one place.
            left = _QUEUE - max(0.0, self._leaves_at - now)
            room = min(room, int(left * self._gain * self.rate))
        return room

    def _capped_room(self, now: float, max_rate: float) -> int:
        """Return the bytes that the cap lets pass now; 0 or less: none."""
        return int(_QUEUE * max_rate - self._debt_left(now, max_rate))

    def _debt_left(self, now: float, max_rate: float) -> float:
        return max(0.0, self._debt - max(0.0, now - self._debt_at) * max_rate)

    def next_room(self, now: float) -> float | None:
        """Return when there is room although no READ comes; `None`: READ alone gives room."""
        if self.under_way >= self.size:
            return None
        due = self._leaves_at - _QUEUE / 2
        if self.max_rate is not None:
            due = max(due, now + self._debt_left(now, self.max_rate) / self.max_rate - _QUEUE / 2)
        return max(now, due)

    def urgent_room(self, now: float) -> int:
        """Return the urgent bytes that may be written now although the window is full.

        They may be 64 KiB at once, and 64 KiB a second. They count for the cap, but do not wait
        for it.
        """
        return int(_URGENT_RATE * (1 - max(0.0, self._urgent_until - now)))

    def next_urgent_room(self, now: float) -> float:
        """Return when urgent bytes may be written."""
        return max(now, self._urgent_until - 1 + _PART_TIME)

    def note_full(self, now: float) -> None:
        """Note that bytes wait: because the window is full, for the cap, or for the socket."""
        self.has_more = True
        room, cap = self._path_room(now), self.max_rate
        if room < self.part and (cap is None or room <= self._capped_room(now, cap)):
            self._is_full = self._drain_end is None

    def note_written(self, written: int, now: float, urgent: int = 0) -> None:
        """Note that `written` bytes of batches were written so far, the last of them now.

        `urgent` is the number of new bytes that count for `urgent_room()`.
        """
        if urgent:
            self._urgent_until = max(self._urgent_until, now) + urgent / _URGENT_RATE
        is_paused = now > max(self._heard_at, self._leaves_at) + _PAUSE
        if not self.under_way and (is_paused or not self.has_more):
            self._begin_round(self.written, None, now)  # a pause is over
        self.has_more = False
        if self.rate:
            paced = (written - self.written) / (self._gain * self.rate)
            self._leaves_at = max(self._leaves_at, now) + paced
        if self.max_rate is not None:
            self._debt = self._debt_left(now, self.max_rate) + written - self.written
            self._debt_at = now
        else:
            self._debt = 0.0
        before, self.written = self.written, written
        if len(self._sent) == _MAX_SENT:
            self._sent = self._sent[1::2]
        self._sent.append(_Sent(before, written, now, self.rate > 0))

    def note_read(self, read: int, age: float, read_at: float, now: float) -> None:
        """Note that the peer has read `read` bytes of batches.

        Args:
            read: The number of bytes.
            age: Seconds from the last of them to the peer's READ.
            read_at: When the peer read the last of them, by its clock, in seconds.
            now: When READ came. Its journey counts as a part of the round trip.
        """
        self._heard_at = now
        sent = None  # the write of the last byte that was read
        while self._sent and (sent is None or sent.end < read):
            sent = self._sent[0]
            if sent.end > read:
                break
            del self._sent[0]
        self.read = read
        if sent is None or not sent.begin < read <= sent.end:
            return
        self._note_round_trip(max(0.0, now - age - sent.at), read_at - sent.at, sent, now)
        if self._round_at is None or read_at < self._round_at:  # a clock was set
            self._begin_round(self._round_end, read_at, sent.at)
        elif read > self._round_end and read_at - self._round_at >= _QUEUE:
            self._end_round(read_at - self._round_at, sent.at - self._round_sent_at)
            self._begin_round(self.written, read_at, sent.at)

    def note_ping(self, seconds: float) -> None:
        """Note the round trip of a PING."""
        self.least_round_trip = min(self.least_round_trip, seconds)

    def _begin_round(self, end: int, read_at: float | None, sent_at: float) -> None:
        """Begin a round trip, which ends when the peer has read more than `end` bytes."""
        self._is_full = False
        self._round_end, self._round_read = end, self.read
        self._round_at, self._round_sent_at = read_at, sent_at

    def _end_round(self, read_in: float, sent_in: float) -> None:
        """Learn the rate of bytes that were sent and read in so many seconds."""
        # A round takes at least the time of the queue: a path may let one burst pass at once.
        # Bytes that were read faster than they were sent had waited for a peer that stalled.
        found = (self.read - self._round_read) / max(read_in, sent_in)
        known = max(self._rates, default=0.0)
        if self._is_full or found > known > 0:  # the first rate is one that a window has limited
            self._rates = [*self._rates, found][-_ROUNDS:]
            if max(self._rates[-2:]) < known / 2:
                self._rates = self._rates[-2:]  # the path is slower
            self.rate = max(_LEAST_RATE, *self._rates)
        if self._is_full:
            is_rising = found >= _RISE * known
            self._quiet_rounds = 0 if is_rising else self._quiet_rounds + 1
            self.is_starting &= self._quiet_rounds < _PATIENCE
            # A larger window shows in the rate of the next round trip. If it rises, go on with it.
            if not self._is_probing or self._quiet_rounds >= _PROBE_PATIENCE:
                self._rounds += 1

    def _note_round_trip(self, seconds: float, transit: float, sent: _Sent, now: float) -> None:
        self.note_ping(seconds)
        if transit - self._least_transit > seconds:
            self._least_transit = inf  # no wait is longer than the round trip: a clock was set
        if transit <= self._least_transit:
            self._least_transit, self._least_at = transit, now
        wait = transit - self._least_transit
        self._path = seconds - wait
        if sent.is_paced and wait > _QUEUE:
            self.is_starting = False
        if self._drain_end is not None:
            if sent.end > self._drain_end:  # written when the queue was short
                # A path that is longer now has made the rate look lower.
                self.is_starting = wait > _QUEUE
                self._least_transit, self._least_at = transit, now
                self.least_round_trip = self._path = seconds
                self._drain_end, self._quiet_rounds = None, 0
                self._begin_round(self.written, None, now)
        elif now > self._least_at + _MEMORY:
            self._drain_end = self.written
