"""The offset of a peer's clock: whatever the way and the clocks do, the bound holds."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from signedwire.wire.clock_offset import (
    MAX_AGE,
    MAX_SAMPLES,
    ClockOffset,
    ClockOffsetEstimator,
    Stamp,
)

SEEDS = range(20)
DAY = 86_400.0
PPM = 1e-6


@dataclass
class Side:
    """The clocks of one side. Its monotonic clock runs fast by `speed`, its wall clock too."""

    wall: float
    speed: float = 0.0
    begun: float = 0.0

    def at(self, now: float) -> Stamp:
        passed = (now - self.begun) * (1 + self.speed)
        return Stamp(int((self.wall + passed) * 1e6), int(passed * 1e6))

    def reading(self, now: float) -> float:
        return self.wall + (now - self.begun) * (1 + self.speed)


def true_offset(ours: Side, theirs: Side, now: float) -> float:
    return theirs.reading(now) - ours.reading(now)


def sample(
    estimator: ClockOffsetEstimator,
    ours: Side,
    theirs: Side,
    now: float,
    there: float = 0.01,
    here: float = 0.0,
    back: float = 0.01,
) -> float:
    """Send one PING at `now`; return when its PONG is there."""
    times = now, now + there, now + there + here, now + there + here + back
    estimator.add(ours.at(times[0]), theirs.at(times[1]), theirs.at(times[2]), ours.at(times[3]))
    return times[3]


def estimate(estimator: ClockOffsetEstimator, ours: Side, now: float) -> ClockOffset:
    found = estimator.estimate(ours.at(now))
    assert found is not None
    return found


class TestOneSample:
    @pytest.mark.parametrize("ahead", [0.0, 1.0, -1.0, -9 * DAY, 7200.0, 1.6e9])
    def test_equal_ways_are_exact(self, ahead: float) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9 + ahead)
        estimator = ClockOffsetEstimator()
        assert estimator.estimate(ours.at(0.0)) is None
        now = sample(estimator, ours, theirs, 5.0, here=0.3)
        found = estimate(estimator, ours, now)
        assert found.seconds == pytest.approx(ahead, abs=1e-5)
        assert found.bound == pytest.approx(0.01, abs=1e-4)

    @pytest.mark.parametrize(("there", "back"), [(0.0, 0.5), (0.5, 0.0)])
    def test_the_worst_way_is_just_within_the_bound(self, there: float, back: float) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9 + 1)
        estimator = ClockOffsetEstimator()
        now = sample(estimator, ours, theirs, 5.0, there=there, back=back)
        found = estimate(estimator, ours, now)
        assert abs(found.seconds - 1.0) == pytest.approx(0.25, abs=1e-5)
        assert abs(found.seconds - 1.0) <= found.bound

    @pytest.mark.parametrize(
        ("arrived", "returned"),
        [
            pytest.param(Stamp(9, 2_000_000), Stamp(9, 1_000_000), id="it runs backwards"),
            pytest.param(Stamp(9, 0), Stamp(9, 9_000_000), id="it took longer than we waited"),
        ],
    )
    def test_stamps_that_cannot_be_right(self, arrived: Stamp, returned: Stamp) -> None:
        estimator = ClockOffsetEstimator()
        estimator.add(Stamp(10**15, 0), arrived, returned, Stamp(10**15 + 100, 100))
        assert estimator.estimate(Stamp(10**15 + 100, 100)) is None

    def test_any_number_of_the_wire(self) -> None:
        top, ours = 2**64 - 1, Side(1.7e9)
        estimator = ClockOffsetEstimator()
        for first in (0, top):
            for second in (0, top):
                stamp = Stamp(first, second)
                estimator.add(ours.at(1.0), stamp, stamp, ours.at(1.1))
                assert abs(estimate(estimator, ours, 1.1).seconds) < 2e13


class TestTheBest:
    def test_a_slow_sample_does_not_replace_a_quick_one(self) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9 + 1)
        estimator = ClockOffsetEstimator()
        sample(estimator, ours, theirs, 0.0, there=0.001, back=0.001)
        now = sample(estimator, ours, theirs, 60.0, there=0.9, back=0.1)
        found = estimate(estimator, ours, now)
        assert found.seconds == pytest.approx(1.0, abs=1e-5)
        assert found.bound == pytest.approx(0.001 + 61 * 200 * PPM, abs=1e-4)

    def test_it_is_void_after_five_minutes(self) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9 + 1)
        estimator = ClockOffsetEstimator()
        sample(estimator, ours, theirs, 0.0, there=0.001, back=0.001)
        sample(estimator, ours, theirs, 60.0, there=0.9, back=0.1)
        assert estimate(estimator, ours, MAX_AGE).seconds == pytest.approx(1.0, abs=1e-5)
        assert estimate(estimator, ours, MAX_AGE + 1).seconds == pytest.approx(1.4, abs=1e-5)
        assert estimator.estimate(ours.at(MAX_AGE + 62)) is None

    def test_few_are_kept(self) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9)
        estimator = ClockOffsetEstimator()
        for number in range(1000):
            sample(estimator, ours, theirs, number / 100, there=number / 1000)
        assert len(estimator._samples) == MAX_SAMPLES
        assert estimate(estimator, ours, 11.0).bound < 0.01


class TestSteps:
    @pytest.mark.parametrize("who", ["ours", "theirs"])
    @pytest.mark.parametrize("step", [3600.0, -3600.0, 0.02])
    def test_a_step_makes_older_samples_void(self, who: str, step: float) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9)
        estimator = ClockOffsetEstimator()
        sample(estimator, ours, theirs, 0.0, there=0.001, back=0.001)
        (ours if who == "ours" else theirs).wall += step
        if who == "ours":  # known at once
            assert estimator.estimate(ours.at(1.0)) is None
        now = sample(estimator, ours, theirs, 60.0, there=0.9, back=0.9)
        found = estimate(estimator, ours, now)
        assert found.seconds == pytest.approx(-step if who == "ours" else step, abs=1e-5)
        assert found.bound == pytest.approx(0.9, abs=1e-3)

    @pytest.mark.parametrize("who", ["ours", "theirs"])
    def test_a_step_between_ping_and_pong(self, who: str) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9)
        estimator = ClockOffsetEstimator()
        sample(estimator, ours, theirs, 0.0)
        asked, arrived = ours.at(1.0), theirs.at(1.1)
        (ours if who == "ours" else theirs).wall += 5.0
        estimator.add(asked, arrived, theirs.at(1.2), ours.at(1.3))
        assert estimator.estimate(ours.at(1.3)) is None
        now = sample(estimator, ours, theirs, 2.0)
        expected = true_offset(ours, theirs, now)
        assert estimate(estimator, ours, now).seconds == pytest.approx(expected, abs=1e-5)

    def test_a_small_step_widens_the_bound(self) -> None:
        ours, theirs = Side(1.7e9), Side(1.7e9)
        estimator = ClockOffsetEstimator()
        now = sample(estimator, ours, theirs, 0.0, there=0.0, back=0.0)
        ours.wall += 0.004
        found = estimate(estimator, ours, now)
        assert abs(found.seconds - true_offset(ours, theirs, now)) <= found.bound < 0.005


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_always_holds(seed: int) -> None:
    """Links with all that may happen; each estimate just after a sample, and up to the next."""
    chance = random.Random(seed)
    ours = Side(1.7e9 + chance.uniform(-9 * DAY, 9 * DAY), chance.uniform(-100, 100) * PPM)
    theirs = Side(1.7e9, chance.uniform(-100, 100) * PPM, begun=-chance.uniform(0, 1e6))
    estimator, now, found = ClockOffsetEstimator(), 0.0, 0
    for number in range(400):
        now += chance.choice((0.001, 1.0, 60.0, 60.0, 400.0)) * chance.random()
        if chance.random() < 0.1:
            ours.wall += chance.choice((0.001, 0.003, 1.0, DAY)) * chance.choice((-1, 1))
        if chance.random() < 0.1:
            theirs.wall += chance.choice((0.001, 0.003, 1.0, DAY)) * chance.choice((-1, 1))
        ways = [chance.choice((0.0, 0.0002, 0.05, 2.0)) * chance.random() for _ in range(3)]
        now = sample(estimator, ours, theirs, now, *ways)
        for later in (0.0, chance.random() * 100):
            one = estimator.estimate(ours.at(now + later))
            assert one is not None
            found += 1
            wrong = abs(one.seconds - true_offset(ours, theirs, now + later))
            assert wrong <= one.bound, f"seed {seed}, sample {number}: {one} is wrong by {wrong} s"
    assert found == 800


@pytest.mark.parametrize(
    ("offset", "words", "is_noticeable"),
    [
        (ClockOffset(1.02, 0.0004), "1.02 s ahead (± 0.4 ms)", True),
        (ClockOffset(-9 * DAY, 0.05), "9.00 days behind (± 50.0 ms)", True),
        (ClockOffset(-0.02, 0.05), "20.0 ms behind (± 50.0 ms)", False),
        (ClockOffset(0.0, 0.0), "0.0 ms behind (± 0.0 ms)", False),
    ],
)
def test_words(offset: ClockOffset, words: str, is_noticeable: bool) -> None:
    assert (str(offset), offset.is_noticeable) == (words, is_noticeable)
