"""`SendWindow` on model paths: what it lets pass, and how long an urgent byte would wait."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from signedwire.wire.link_frames import MAX_BODY
from signedwire.wire.send_window import SendWindow

KIB = 1024
KB = 1e3
MB = 1e6
NEVER = 10**9


@dataclass
class Path:
    """A path with one bottleneck and a queue without a limit, and the node at its end.

    Args:
        rate: Bytes a second.
        delay: Seconds one way.
        burst: Bytes that pass at once after a pause, as a token bucket lets them.
        back: Seconds that a READ waits behind bytes of the other direction, by its instant.
        clock: How far the clock of the peer is ahead, in seconds.
        is_wanted: Whether the sender has something to send at an instant.
    """

    rate: float
    delay: float
    burst: int = 0
    back: Callable[[float], float] = lambda now: 0.0
    clock: float = 1e6
    is_wanted: Callable[[float], bool] = lambda now: True
    now: float = 0.0
    window: SendWindow = field(default_factory=SendWindow)
    read: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    """Instants, and how long an urgent byte that is written then is in the queue."""
    on_write: Callable[[float, int], None] = lambda now, size: None
    """Gets the instant and the bytes of each part that is written."""

    def __post_init__(self) -> None:
        self._events: list[Any] = []
        self._numbers = itertools.count()
        self._free_at = self._heard_at = 0.0
        self._tokens = float(self.burst)
        self._filled_at = 0.0
        self._written = self._reported = 0
        self._unreported_since: float | None = None
        self._read_at = 0.0
        self._is_timer_set = False
        self._at(0.0, self._pump)
        self._at(0.0, self._look)

    def run(self, until: float) -> Path:
        while self._events and self._events[0][0] <= until:
            self.now, _, call, *args = heapq.heappop(self._events)
            call(*args)
        self.now = until
        return self

    def goodput(self, since: float, until: float) -> float:
        """Go on until then; return the part of the rate that was used."""
        self.run(since)
        before = self.read
        self.run(until)
        return (self.read - before) / (until - since) / self.rate

    def worst_wait(self, since: float = 0.0) -> float:
        return max(wait for at, wait in self.waits if at >= since)

    def _at(self, when: float, *call: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), *call))

    def _look(self) -> None:
        self.waits.append((self.now, max(0.0, self._free_at - self.now)))
        self._at(self.now + 0.0071, self._look)

    def _pump(self) -> None:
        self._is_timer_set = False
        window = self.window
        while self.is_wanted(self.now):
            room = window.room(self.now)
            if room <= 0:
                window.note_full(self.now)
                due = window.next_room(self.now)
                if due is not None:
                    self._wake_at(due + 1e-6)
                return
            while room > 0:
                part = window.part
                self._written += part
                room -= part
                self._send(part)
            window.note_written(self._written, self.now)
        self._wake_at(self.now + 0.01)

    def _wake_at(self, when: float) -> None:
        if not self._is_timer_set:
            self._is_timer_set = True
            self._at(when, self._pump)

    def _send(self, size: int) -> None:
        self.on_write(self.now, size)
        start = max(self.now, self._free_at)
        self._tokens = min(self.burst, self._tokens + (start - self._filled_at) * self.rate)
        if self._tokens >= size:
            self._tokens -= size
            self._filled_at = self._free_at = start
        else:
            self._filled_at = self._free_at = start + (size - self._tokens) / self.rate
            self._tokens = 0.0
        self._at(self._free_at + self.delay, self._arrive, size)

    def _arrive(self, size: int) -> None:
        self.read += size
        self._read_at = self.now
        if self._unreported_since is None:
            self._unreported_since = self.now
            self._at(self.now + 0.01, self._report_if_due, self.now)
        if self.read - self._reported >= 32 * KIB:
            self._report()

    def _report_if_due(self, since: float) -> None:
        if self._unreported_since == since:
            self._report()

    def _report(self) -> None:
        self._reported, self._unreported_since = self.read, None
        heard_at = self.now + self.delay + self.back(self.now)
        self._heard_at = max(heard_at, self._heard_at)  # READs stay in order
        args = self.read, self.now - self._read_at, self._read_at + self.clock
        self._at(self._heard_at, self._hear, *args)

    def _hear(self, read: int, age: float, read_at: float) -> None:
        self.window.note_read(read, age, read_at, self.now)
        self._pump()


RATES = [0.03 * MB, 0.1 * MB, 0.3 * MB, MB, 3 * MB, 10 * MB, 100 * MB]


class TestSaturated:
    @pytest.mark.parametrize("delay", [0.0001, 0.0005, 0.01])
    @pytest.mark.parametrize("rate", RATES)
    def test_the_path_is_full_and_its_queue_is_short(self, rate: float, delay: float) -> None:
        path = Path(rate, delay)
        assert path.goodput(1, 8) >= 0.95
        # A quarter more than the window, and three parts.
        parts = 3 * path.window.part / rate
        assert path.worst_wait(1) <= 1.25 * (2 * delay + 0.02) - 2 * delay + 0.01 + parts

    @pytest.mark.parametrize("rate", [0.3 * MB, MB, 3 * MB])
    def test_a_long_round_trip(self, rate: float) -> None:
        path = Path(rate, 0.1)
        assert path.goodput(5, 15) >= 0.9
        assert path.worst_wait(5) <= 0.11

    @pytest.mark.parametrize("rate", [0.3 * MB, MB])
    def test_a_path_that_lets_a_burst_pass(self, rate: float) -> None:
        path = Path(rate, 0.005, burst=32 * KIB)
        assert path.goodput(2, 10) >= 0.95
        assert path.worst_wait() <= 0.35
        assert path.worst_wait(2) <= 0.06

    def test_it_starts_with_16_kib_and_grows_with_each_round_trip(self) -> None:
        path = Path(100 * MB, 0.05)
        sizes = [path.run(0.05 + 0.1 * trip).window.size for trip in range(1, 8)]
        assert sizes[0] >= 16 * KIB
        assert sizes[-1] >= 16 * sizes[0]
        for before, after in itertools.pairwise(sizes):
            assert after <= 3.2 * before

    def test_parts_take_ten_milliseconds(self) -> None:
        assert Path(0.03 * MB, 0.001).run(3).window.part == 2 * KIB
        assert Path(0.3 * MB, 0.001).run(3).window.part == pytest.approx(3000, rel=0.05)
        assert Path(10 * MB, 0.001).run(3).window.part == MAX_BODY


class TestChanges:
    def test_a_path_that_becomes_slower(self) -> None:
        path = Path(3 * MB, 0.005).run(3)
        path.rate = 0.3 * MB
        assert path.run(8).window.rate == pytest.approx(0.3 * MB, rel=0.05)
        assert path.worst_wait(5) <= 0.06

    def test_a_path_that_becomes_faster(self) -> None:
        path = Path(0.3 * MB, 0.005).run(3)
        path.rate = 3 * MB
        assert path.run(10).window.rate == pytest.approx(3 * MB, rel=0.05)
        assert path.worst_wait(3) <= 0.06

    def test_a_path_that_becomes_longer(self) -> None:
        """The least round trip is measured again after ten seconds, with a short queue."""
        path = Path(MB, 0.005).run(3)
        path.delay = 0.1
        assert path.goodput(25, 40) >= 0.85
        assert 0.2 <= path.window.least_round_trip <= 0.22

    def test_a_path_that_becomes_shorter(self) -> None:
        path = Path(MB, 0.1).run(5)
        path.delay = 0.005
        path.run(25)
        assert path.window.least_round_trip < 0.03
        assert path.worst_wait(17) <= 0.07

    def test_the_drain_for_the_round_trip_costs_little(self) -> None:
        path = Path(MB, 0.005)
        assert path.goodput(5, 45) >= 0.97
        assert path.window.least_round_trip < 0.025

    @pytest.mark.parametrize("rate", [0.3 * MB, MB, 3 * MB])
    def test_a_full_direction_of_the_peer_changes_nothing(self, rate: float) -> None:
        """READs wait up to 60 ms behind what the peer sends, and come in bursts."""
        path = Path(rate, 0.005, back=lambda now: 0.06 * (now % 0.35) / 0.35 if now > 3 else 0.0)
        assert path.goodput(4, 20) >= 0.9
        assert path.worst_wait(3) <= 0.07
        assert path.window.rate <= 1.1 * rate

    @pytest.mark.parametrize("step", [-3600.0, -0.03, 0.03, 3600.0])
    def test_a_clock_of_the_peer_that_steps(self, step: float) -> None:
        path = Path(MB, 0.005).run(5)
        path.clock += step
        path.run(20)
        assert path.goodput(20, 25) >= 0.9
        assert path.worst_wait(20) <= 0.06

    @pytest.mark.parametrize("speed", [-200e-6, 200e-6])
    def test_a_clock_of_the_peer_that_runs_at_another_speed(self, speed: float) -> None:
        path = Path(MB, 0.005)
        for second in range(60):
            path.run(second)
            path.clock += speed
        assert path.goodput(60, 80) >= 0.95
        assert path.worst_wait(5) <= 0.06

    def test_little_to_send_does_not_lower_the_rate(self) -> None:
        path = Path(MB, 0.005, is_wanted=lambda now: now < 3 or now % 1 < 0.003).run(3)
        rate = path.window.rate
        assert path.run(20).window.rate == pytest.approx(rate, rel=0.02)
        assert rate == pytest.approx(MB, rel=0.05)

    def test_little_to_send_at_first_does_not_shrink_the_window(self) -> None:
        window = SendWindow()
        for n in range(1, 100):
            window.note_written(200 * n, 0.01 * n)
            if n > 3:
                at = 0.01 * n
                window.note_read(200 * (n - 3), 0.005, at - 0.004, at + 0.002)
        assert (window.rate, window.size) == (0, 16 * KIB)

    def test_after_a_pause_it_does_not_write_a_whole_window_at_once(self) -> None:
        path = Path(MB, 0.1, is_wanted=lambda now: not 6 <= now < 8).run(8)
        assert path.window.size > 150 * KIB
        path.run(10)
        assert path.worst_wait(8) <= 0.11


class TestRoom:
    def test_it_is_full(self) -> None:
        window = SendWindow()
        assert (window.size, window.room(5.0)) == (16 * KIB, 16 * KIB)
        window.note_written(16 * KIB, 5.0)
        assert window.room(5.0) == 0
        assert window.next_room(5.0) is None
        states = [window.has_more]
        window.note_full(5.0)
        states.append(window.has_more)
        assert states == [False, True]
        assert window.under_way == 16 * KIB

    def test_the_next_room_is_a_matter_of_time(self) -> None:
        path = Path(MB, 0.1, is_wanted=lambda now: not 6 <= now < 8).run(8)
        window = path.window
        assert not window.under_way
        room = window.room(8.0)
        assert 0 < room < window.size
        window.note_written(window.written + room, 8.0)
        assert window.room(8.0) <= 0
        due = window.next_room(8.0)
        assert due is not None
        assert 8.0 < due < 8.02
        assert window.room(due) > 0

    def test_a_read_of_what_is_not_remembered_measures_nothing(self) -> None:
        window = SendWindow()
        for n in range(1, 301):
            window.note_written(n, 1.0)
        window.note_read(10, 0.0, 7.4, 1.5)
        assert window.read == 10
        assert window.least_round_trip == float("inf")
        window.note_read(300, 0.1, 7.5, 1.5)
        assert window.least_round_trip == pytest.approx(0.4)

    def test_a_ping_measures_the_round_trip_too(self) -> None:
        window = SendWindow()
        window.note_ping(0.05)
        window.note_ping(0.06)
        assert window.least_round_trip == 0.05

    def test_urgent_bytes_pass_up_to_their_rate(self) -> None:
        window = SendWindow()
        assert window.urgent_room(64 * KIB, 1.0) == 64 * KIB
        assert window.urgent_room(64 * KIB + 1, 1.0) == 0
        window.note_written(60 * KIB, 1.0, is_urgent=True)
        assert window.urgent_room(4 * KIB, 1.0) == 4 * KIB
        assert window.urgent_room(5 * KIB, 1.0) == 0
        assert window.urgent_room(20 * KIB, 1.25) == 20 * KIB
        window.note_written(NEVER, 1.25)
        assert window.urgent_room(20 * KIB, 1.25) == 20 * KIB
        assert window.urgent_room(64 * KIB, 3.0) == 64 * KIB


class TestCap:
    """`max_rate`."""

    @staticmethod
    def capped(rate: float, cap: float | None, delay: float = 0.005, **terms: Any) -> Path:
        path = Path(rate, delay, **terms)
        path.window.max_rate = cap
        return path

    @staticmethod
    def most_written(path: Path, since: float, until: float, span: float = 0.1) -> int:
        """Go on until then; return the most bytes that were written in any such span."""
        path.run(since)
        writes: deque[tuple[float, int]] = deque()
        path.on_write = lambda at, size: writes.append((at, size))
        path.run(until)
        most = total = 0
        recent: deque[tuple[float, int]] = deque()
        for at, size in writes:
            recent.append((at, size))
            total += size
            while recent[0][0] <= at - span:
                total -= recent.popleft()[1]
            most = max(most, total)
        return most

    @pytest.mark.parametrize("delay", [0.0001, 0.01, 0.1])
    @pytest.mark.parametrize("cap", [KB, 20 * KB, 0.3 * MB, 3 * MB])
    def test_it_holds_over_any_100_ms_and_is_reached(self, cap: float, delay: float) -> None:
        path = self.capped(10 * MB, cap, delay)
        most = self.most_written(path, 0, 2)
        assert most <= 0.12 * cap + path.window.part
        span = 50 if cap == KB else 4
        assert 0.95 <= path.goodput(4, 4 + span) * path.rate / cap <= 1.05

    @pytest.mark.parametrize(("cap", "burst"), [(KB, 2 * KIB), (0.3 * MB, 6000), (3 * MB, 60_000)])
    def test_the_first_burst_is_20_ms_or_one_part(self, cap: float, burst: int) -> None:
        window = SendWindow()
        window.max_rate = cap
        room, part = window.room(5.0), window.part
        assert max(room, part) == min(burst, 16 * KIB)

    def test_it_holds_for_a_part_that_takes_longer_than_20_ms(self) -> None:
        window = SendWindow()
        window.max_rate = KB
        assert window.room(5.0) > 0
        window.note_written(2000, 5.0)
        assert window.room(5.0) <= 0
        due = window.next_room(5.0)
        assert due == pytest.approx(6.99)
        assert due is not None
        assert window.room(due - 0.02) <= 0 < window.room(due)

    def test_what_waits_for_the_cap_alone_does_not_lower_the_rate(self) -> None:
        path = self.capped(3 * MB, None).run(3)
        rate = path.window.rate
        path.window.max_rate = 0.3 * MB
        path.run(20)
        assert path.window.rate == pytest.approx(rate, rel=0.05)
        path.window.max_rate = None
        assert path.goodput(21, 23) >= 0.95

    def test_a_path_that_is_slower_than_the_cap_has_a_short_queue(self) -> None:
        path = self.capped(0.3 * MB, MB)
        assert path.goodput(2, 9) >= 0.95
        assert path.worst_wait(2) <= 0.06

    def test_a_path_that_becomes_slower_than_the_cap(self) -> None:
        path = self.capped(10 * MB, MB).run(3)
        path.rate = 0.3 * MB
        assert path.run(8).window.rate == pytest.approx(0.3 * MB, rel=0.05)
        assert path.worst_wait(3) <= 0.25
        assert path.worst_wait(5) <= 0.06

    def test_urgent_bytes_do_not_wait_for_it_but_count(self) -> None:
        window = SendWindow()
        window.max_rate = 10 * KB
        window.note_written(4 * KIB, 1.0)
        assert window.room(1.0) <= 0
        assert window.urgent_room(10_000, 1.0) == 10_000
        window.note_written(window.written + 10_000, 1.0, is_urgent=True)
        due = window.next_room(1.0)
        assert due == pytest.approx(1.0 + (4 * KIB + 10_000) / (10 * KB) - 0.01)

    def test_a_change_counts_at_once(self) -> None:
        window = SendWindow()
        window.max_rate = KB
        window.note_written(2000, 1.0)
        window.max_rate = MB
        assert window.room(1.01) > 0
        window.max_rate = KB
        assert window.room(1.01) <= 0
        window.max_rate = None
        assert window.room(1.01) == 16 * KIB - 2000
        window.note_written(3000, 1.02)
        window.max_rate = KB
        assert window.room(1.03) == 20
