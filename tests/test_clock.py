"""The clocks, what follows which, and how deadlines are written down."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from clockkit import SetClock
from linkkit import ALICE, BOB, body
from signedwire import clock
from signedwire.arguments import due_at
from signedwire.clock import StepWatch, WallInstant
from signedwire.delivery.deadlines import due_us, instant_of, is_relative, moved
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.store import MemoryStore
from signedwire.types import Priority
from signedwire.wire.header import expiry_of

YEAR = 365 * 86_400.0


def test_the_monotonic_clock_runs_through_a_suspend_where_the_system_has_such_a_one() -> None:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    expected = time.monotonic() if boottime is None else time.clock_gettime(boottime)
    assert abs(clock.monotonic() - expected) < 1.0


def test_a_clock_that_the_system_names_and_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 9999, raising=False)
    assert abs(clock.Clock().monotonic() - time.monotonic()) < 1.0


def test_seconds_follow_the_monotonic_clock_and_a_date_the_wall_clock() -> None:
    set_clock = SetClock()
    with clock.use(set_clock):
        seconds = due_at(60.0)
        same, date = due_at(timedelta(seconds=60)), due_at(datetime.now(UTC) + timedelta(minutes=1))
        for instant in (seconds, same, date):
            assert 59.0 < clock.left(instant) <= 60.0
        set_clock.ahead = 56 * YEAR
        assert 59.0 < clock.left(seconds) <= 60.0
        assert 59.0 < clock.left(same) <= 60.0
        assert clock.left(date) < -55 * YEAR
        set_clock.ahead = -3600.0
        assert clock.left(date) > 3600.0
        set_clock.ahead, set_clock.slept = 0.0, 61.0
        assert clock.left(seconds) < 0
        assert clock.left(date) < 0


def test_a_header_is_made_of_the_seconds_that_are_left_when_it_is_made() -> None:
    set_clock = SetClock(ahead=-56 * YEAR)
    with clock.use(set_clock):
        terms = SendOptions(BOB.did, Priority.NORMAL, due_at(60.0))
        parties = bytes(ALICE.did) + bytes(BOB.did)
        first = terms.common(parties, 9)
        assert terms.common(parties, 9) is first  # made once, while no clock is set
        set_clock.ahead = 0.0
        header = body(1)[:32] + terms.common(parties, 9)
        left = (expiry_of(header) or 0) / 1e6 - clock.unix_time()
        assert 59.0 < left <= 60.0


def test_a_header_tells_its_own_process_which_clock_its_deadline_follows() -> None:
    now = clock.now()
    seconds, date = due_us(now.monotonic + 60, now), due_us(WallInstant(now.wall + 60), now)
    assert (is_relative(seconds), is_relative(date)) == (True, False)
    assert abs(seconds - date) <= 2
    origin_us = round((now.wall - now.monotonic) * 1e6)
    instant = instant_of(seconds, origin_us)
    assert not isinstance(instant, WallInstant)
    assert instant == pytest.approx(now.monotonic + 60, abs=1e-4)
    assert instant_of(seconds, None) == WallInstant(seconds / 1e6)  # of an earlier process
    assert isinstance(instant_of(date, origin_us), WallInstant)


@pytest.mark.parametrize("instant", [WallInstant(-5.0), WallInstant(0.0), WallInstant(1e30), -1e12])
def test_any_deadline_fits_into_a_header_and_is_one(instant: float) -> None:
    assert 0 < due_us(instant) < 2**63


def test_a_moved_header_differs_in_its_deadline_alone() -> None:
    before = body(1, b"payload", expires_at_us=1_000_001)
    after = moved(before, 2_000_000)
    assert expiry_of(after) == 3_000_001
    assert (after[:114], after[122:]) == (before[:114], before[122:])
    assert moved(after, -2_000_000) == before
    assert (expiry_of(moved(before, -(10**15))) or 0) > 0  # never "for ever"


def test_a_clock_before_1970_says_that_it_is_1970() -> None:
    with clock.use(SetClock(ahead=-100 * YEAR)):
        assert clock.unix_time_us() == 1
        assert clock.new_epoch() >= 1


class TestStepWatch:
    def test_tells_how_far_the_clock_was_set_and_tells_it_once(self) -> None:
        set_clock = SetClock()
        with clock.use(set_clock):
            watch = StepWatch(0.5)
            assert watch.look() == 0.0
            for step in (3600.0, -7200.0, 56 * YEAR):
                set_clock.ahead += step
                assert watch.look() == pytest.approx(step, abs=0.1)
                assert watch.look() == 0.0

    def test_a_suspend_is_no_step(self) -> None:
        set_clock = SetClock()
        with clock.use(set_clock):
            watch = StepWatch(0.5)
            set_clock.slept = 86_400.0
            assert watch.look() == 0.0

    def test_small_ones_add_up(self) -> None:
        set_clock = SetClock()
        with clock.use(set_clock):
            watch, seen = StepWatch(0.5), 0.0
            for _ in range(10):
                set_clock.ahead += 0.2
                seen += watch.look()
            assert seen == pytest.approx(2.0, abs=0.5)


class TestEpochs:
    def test_never_go_back_within_a_process(self) -> None:
        set_clock = SetClock()
        with clock.use(set_clock):
            epochs = []
            for ahead in (0.0, -3600.0, 60.0, -56 * YEAR):
                set_clock.ahead = ahead
                epochs.append(clock.new_epoch())
            assert epochs == sorted(set(epochs))

    def test_also_not_those_of_a_peer_that_the_store_had_forgotten(self) -> None:
        set_clock = SetClock()
        with clock.use(set_clock):
            store = MemoryStore(ALICE.did)
            before = store.epoch(BOB.did)
            store._forget_peer(store._ledger.peers[BOB.did])
            set_clock.ahead = -3600.0
            assert store.epoch(BOB.did) > before
            store.close()
