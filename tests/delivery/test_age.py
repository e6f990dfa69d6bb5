"""The age of a message, by clocks that differ by a known offset with a known bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from signedwire.delivery.age import age_of, check_age, is_usable
from signedwire.types import Reason
from signedwire.wire.clock_offset import ClockOffset

NOW = 1_700_000_000_000_000
ages = st.floats(0, 1000)
skews = st.floats(-100_000, 100_000)
bounds = st.floats(4e-6, 5)
limits = st.floats(0.001, 1000)
ROUNDING = 2e-6


def sent(age: float, skew: float) -> int:
    """The timestamp of a sender whose clock is `skew` ahead, `age` ago."""
    return NOW + round((skew - age) * 1e6)


@given(ages, skews, bounds, st.floats(-1, 1), limits)
def test_nothing_older_than_the_limit_is_taken(
    age: float, skew: float, bound: float, part: float, limit: float
) -> None:
    """However wrong the offset is, within its bound."""
    offset = ClockOffset(skew + part * bound, bound)
    verdict = check_age(sent(age, skew), NOW, offset, limit)
    if age >= limit + ROUNDING:
        assert verdict is not None
    if verdict is Reason.EXPIRED:
        assert age + 2 * bound >= limit - ROUNDING, "the bound shortens the time by twice at most"


@given(ages, skews, bounds, limits)
def test_one_that_is_young_enough_is_taken(
    age: float, skew: float, bound: float, limit: float
) -> None:
    offset = ClockOffset(skew, bound)
    if is_usable(offset, limit) and age + bound < limit - ROUNDING:
        assert check_age(sent(age, skew), NOW, offset, limit) is None


@given(ages, skews, bounds, limits, st.floats(0, 5))
def test_a_larger_bound_never_helps(
    age: float, skew: float, bound: float, limit: float, more: float
) -> None:
    at = sent(age, skew)
    if check_age(at, NOW, ClockOffset(skew, bound + more), limit) is None:
        assert check_age(at, NOW, ClockOffset(skew, bound), limit) is None


@given(st.floats(0.001, 1000), bounds, limits)
def test_one_from_the_future_is_never_taken(ahead: float, bound: float, limit: float) -> None:
    """Else a sender with a later timestamp would have more time."""
    offset = ClockOffset(0.0, bound)
    at = NOW + round((bound + ahead) * 1e6)
    assert check_age(at, NOW, offset, limit) is Reason.CLOCK_UNKNOWN
    assert age_of(at, NOW, offset) is None


def test_a_usable_bound() -> None:
    assert is_usable(ClockOffset(9.0, 0.050), 0.1)
    assert not is_usable(ClockOffset(0.0, 0.051), 0.1)
    assert is_usable(ClockOffset(0.0, 0.25), 1.0)
    assert not is_usable(ClockOffset(0.0, 0.26), 1.0)


def test_by_the_numbers() -> None:
    ahead = ClockOffset(3600.0, 0.01)  # the clock of the sender
    assert check_age(sent(0.28, 3600), NOW, ahead, 0.3) is None
    assert check_age(sent(0.2901, 3600), NOW, ahead, 0.3) is Reason.EXPIRED
    assert check_age(sent(0.1, 3600), NOW, None, 0.3) is Reason.CLOCK_UNKNOWN
    assert age_of(sent(0.25, 3600), NOW, ahead) == 0.25
    assert age_of(sent(-0.005, 3600), NOW, ahead) == 0.0
