"""`DialHistory`: what the end of an attempt or a connection means, without a loop or a clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Final

import pytest

from signedwire import Address, FailureKind, ResolveTimeout, TransportConfig
from signedwire.delivery.backoff import dial_delays
from signedwire.delivery.dial_history import (
    IN_USE,
    STABLE_AFTER,
    AttemptOutcome,
    DialHistory,
    Standing,
)
from signedwire.errors import Cause, DialError

NOW: Final = 1000.0
THERE: Final = Address("robot", 9001)
REFUSED: Final = Cause("refused", FailureKind.REFUSED)
SILENT: Final = Cause("no name server answers", FailureKind.NAME_SERVER_SILENT)


def delays() -> Iterator[float]:
    """100 s after the first failure, 200 s after the second, and so on."""
    return itertools.count(100.0, 100.0)


@pytest.fixture
def history() -> DialHistory:
    return DialHistory(delays)


def opened(history: DialHistory, at: float = NOW) -> None:
    history.begin_attempt()
    history.opened(at, 0.25)


class TestOutcomes:
    @pytest.mark.parametrize(
        ("outcome", "pause", "standing", "costs_attempt"),
        [
            (AttemptOutcome.FAILED, 200.0, Standing.DOUBTFUL, True),
            (AttemptOutcome.EXCUSED, 200.0, Standing.DOUBTFUL, False),
            (AttemptOutcome.UNRESOLVED, 200.0, Standing.DOUBTFUL, False),
            (AttemptOutcome.NEEDLESS, 0.0, Standing.DOUBTFUL, False),
            (AttemptOutcome.CALLED_OFF, 0.0, Standing.DOUBTFUL, False),
            (AttemptOutcome.STABLE, 0.0, Standing.PROVEN, False),
            (AttemptOutcome.USED, 200.0, Standing.PROVEN, False),
            (AttemptOutcome.UNUSED, 200.0, Standing.PROVEN, True),
        ],
    )
    def test_each_decides_the_next_attempt(
        self,
        history: DialHistory,
        outcome: AttemptOutcome,
        pause: float,
        standing: Standing,
        costs_attempt: bool,
    ) -> None:
        history.ended(AttemptOutcome.FAILED, NOW - 100)
        assert history.pause(NOW) == 0
        if outcome.has_opened:
            opened(history)
        history.ended(outcome, NOW)
        assert history.pause(NOW) == pause
        assert history.standing is standing
        assert outcome.costs_attempt is costs_attempt

    def test_the_table_has_all(self) -> None:
        (mark,) = TestOutcomes.test_each_decides_the_next_attempt.pytestmark  # type: ignore[attr-defined]
        assert [row[0] for row in mark.args[1]] == list(AttemptOutcome)

    @pytest.mark.parametrize(
        ("error", "is_excused", "outcome"),
        [
            (DialError(THERE, REFUSED), False, AttemptOutcome.FAILED),
            (DialError(THERE, REFUSED), True, AttemptOutcome.EXCUSED),
            (ResolveTimeout(THERE, "no answer"), False, AttemptOutcome.UNRESOLVED),
            (ResolveTimeout(THERE, "no answer"), True, AttemptOutcome.UNRESOLVED),
            (DialError(THERE, SILENT), False, AttemptOutcome.UNRESOLVED),
            (DialError(THERE, SILENT), True, AttemptOutcome.UNRESOLVED),
            (ZeroDivisionError(), False, AttemptOutcome.FAILED),
        ],
    )
    def test_of_an_error(
        self, history: DialHistory, error: Exception, is_excused: bool, outcome: AttemptOutcome
    ) -> None:
        history.begin_attempt()
        history.is_excused = is_excused
        assert history.outcome_of(error) is outcome

    def test_an_excuse_is_for_one_attempt(self, history: DialHistory) -> None:
        history.begin_attempt()
        history.is_excused = True
        history.begin_attempt()
        assert history.outcome_of(DialError(THERE, REFUSED)) is AttemptOutcome.FAILED

    @pytest.mark.parametrize(
        ("lasted", "was_used", "outcome"),
        [
            (0.0, False, AttemptOutcome.UNUSED),
            (0.0, True, AttemptOutcome.USED),
            (STABLE_AFTER - 0.001, True, AttemptOutcome.USED),
            (STABLE_AFTER, True, AttemptOutcome.STABLE),
            (STABLE_AFTER, False, AttemptOutcome.STABLE),
        ],
    )
    def test_of_the_end_of_a_connection(
        self, history: DialHistory, lasted: float, was_used: bool, outcome: AttemptOutcome
    ) -> None:
        opened(history)
        assert history.outcome_of_end(NOW + lasted, was_used=was_used) is outcome


class TestConnections:
    def test_nothing_is_known_at_first(self, history: DialHistory) -> None:
        assert history.standing is Standing.UNTRIED
        assert (history.last_error, history.last_error_at) == (None, None)
        assert (history.pause(NOW), history.opening_time) == (0, 0)
        assert not history.is_in_use(NOW)

    def test_the_second_one_is_a_reconnection(self, history: DialHistory) -> None:
        assert not history.opened(NOW, 0.25)
        assert history.opened(NOW + 1, 0.5)
        assert (history.standing, history.opening_time) == (Standing.PROVEN, 0.5)

    def test_one_that_follows_failures_is_none(self, history: DialHistory) -> None:
        history.ended(AttemptOutcome.FAILED, NOW)
        assert not history.opened(NOW, 0.25)

    def test_the_last_error_stays_after_a_connection(self, history: DialHistory) -> None:
        history.note_error(REFUSED, 7.0)
        opened(history)
        assert (history.last_error, history.last_error_at) == (REFUSED, 7.0)

    def test_one_use_is_not_enough_to_be_in_use(self, history: DialHistory) -> None:
        history.touch(NOW)
        assert not history.is_in_use(NOW)
        history.touch(NOW + IN_USE)  # too late to be a second one
        assert not history.is_in_use(NOW + IN_USE)
        history.touch(NOW + IN_USE + 0.5)
        assert history.is_in_use(NOW + IN_USE + 0.5)
        assert not history.is_in_use(NOW + 2 * IN_USE + 0.5)


class TestPauses:
    def test_each_failure_makes_the_pause_longer(self, history: DialHistory) -> None:
        history.ended(AttemptOutcome.FAILED, NOW)
        assert history.pause(NOW + 30) == 70
        history.ended(AttemptOutcome.FAILED, NOW)
        assert history.pause(NOW) == 200  # from now on, not in addition
        history.add_pause(1000)
        assert history.pause(NOW) == 1200
        history.add_pause()
        assert history.pause(NOW) == 1500

    def test_after_a_stable_connection_they_are_short_again(self, history: DialHistory) -> None:
        history.ended(AttemptOutcome.FAILED, NOW)
        opened(history)
        history.ended(AttemptOutcome.STABLE, NOW)
        history.ended(AttemptOutcome.FAILED, NOW)
        assert history.pause(NOW) == 100

    def test_after_a_short_one_they_are_not(self, history: DialHistory) -> None:
        history.ended(AttemptOutcome.FAILED, NOW)
        opened(history)
        history.ended(AttemptOutcome.USED, NOW)
        assert history.pause(NOW) == 200

    @pytest.mark.parametrize(("waits_at", "pause"), [(NOW + 99, 200), (NOW + 100, 100)])
    def test_messages_that_wait_again_begin_with_short_ones(
        self, history: DialHistory, waits_at: float, pause: float
    ) -> None:
        history.ended(AttemptOutcome.FAILED, NOW)
        left = history.pause(waits_at)
        history.wanted(waits_at)
        assert history.pause(waits_at) == left
        history.ended(AttemptOutcome.FAILED, waits_at)
        assert history.pause(waits_at) == pause

    def test_hurry_ends_them(self, history: DialHistory) -> None:
        history.ended(AttemptOutcome.FAILED, NOW)
        history.hurry()
        assert history.pause(NOW) == 0
        history.ended(AttemptOutcome.FAILED, NOW)
        assert history.pause(NOW) == 100

    @pytest.mark.parametrize(("is_durable", "expected"), [(False, [4, 8, 10]), (True, [0.5, 0.8])])
    def test_they_are_longer_with_a_store(self, is_durable: bool, expected: list[float]) -> None:
        class Even(random.Random):
            def uniform(self, a: float, b: float) -> float:
                return (a + b) / 2

        config = TransportConfig(retry_base_delay=2, retry_max_delay=10)
        pauses = dial_delays(config, Even(), is_durable=is_durable)
        assert list(itertools.islice(pauses, len(expected))) == pytest.approx(expected)
