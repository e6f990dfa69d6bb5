"""`backoff_delays`: the pauses of the v1 reference, their jitter and their cap."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signedwire.config import TransportConfig
from signedwire.delivery.backoff import backoff_delays


class Edge(random.Random):
    """Draws the lowest or the highest that may be drawn."""

    def __init__(self, is_high: bool) -> None:
        super().__init__(0)
        self.is_high = is_high

    def uniform(self, a: float, b: float) -> float:
        return b if self.is_high else a


def first(count: int, *args: float, rng: random.Random | None = None) -> list[float]:
    base, cap, jitter = args
    return list(itertools.islice(backoff_delays(base, cap, jitter, rng), count))


def test_the_pauses_of_the_reference() -> None:
    config = TransportConfig()
    delays = first(8, config.retry_base_delay, config.retry_max_delay, 0)
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


def test_it_goes_on_for_ever_without_overflow() -> None:
    assert first(5_000, 0.1, 86_400.0, 0)[-1] == 86_400


def test_every_pause_is_jittered_the_first_too() -> None:
    seed = random.randrange(2**32)
    delays = [first(4, 0.1, 5, 0.25, rng=random.Random(seed + n)) for n in range(20)]
    for position in range(4):
        assert len({each[position] for each in delays}) > 10, f"seed {seed}"


def test_without_a_generator_it_draws_from_the_module() -> None:
    seed = random.randrange(2**32)
    random.seed(seed)
    drawn = first(3, 0.1, 5, 0.25)
    assert drawn == first(3, 0.1, 5, 0.25, rng=random.Random(seed)), f"seed {seed}"


def test_the_cap_holds_after_the_jitter() -> None:
    assert first(6, 0.1, 1, 0.25, rng=Edge(True)) == pytest.approx([0.25, 0.5, 1, 1, 1, 1])
    # Below the cap the jitter goes on, so that peers which waited long spread too.
    assert first(6, 0.1, 1, 0.25, rng=Edge(False)) == pytest.approx(
        [0.15, 0.3, 0.6, 0.75, 0.75, 0.75]
    )


def test_a_cap_under_the_first_pause() -> None:
    assert first(3, 10, 0.5, 0) == [0.5, 0.5, 0.5]


@given(
    st.floats(0.001, 86_400),
    st.floats(0.001, 86_400),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_bounds(base: float, cap: float, jitter: float, seed: int) -> None:
    for attempt, delay in enumerate(first(20, base, cap, jitter, rng=random.Random(seed)), 1):
        assert 0 <= delay <= cap
        plain = base * 2**attempt
        assert delay <= plain * (1 + jitter) * 1.000001
        assert delay >= min(plain, cap) * (1 - jitter) * 0.999999
