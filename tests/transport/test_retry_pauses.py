"""The pauses of a dialer, by the clock of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from signedwire.transport.retry_pauses import RetryPauses
from wirekit import LIMIT, on_asyncio, on_both_loops, within


def delays() -> Iterator[float]:
    """100 s after the first failure, 200 s after the second, and so on."""
    seconds = 0.0
    while True:
        seconds += 100.0
        yield seconds


def about(seconds: float) -> object:
    return pytest.approx(seconds, abs=LIMIT)


@on_asyncio
async def test_the_first_attempt_needs_no_pause() -> None:
    assert RetryPauses(delays).left <= 0


@on_asyncio
async def test_each_failure_makes_the_pause_longer() -> None:
    pauses = RetryPauses(delays)
    pauses.lengthen()
    assert pauses.left == about(100)
    pauses.lengthen()
    assert pauses.left == about(200)  # from now on, not in addition
    pauses.add(1000)
    assert pauses.left == about(1200)
    pauses.add()
    assert pauses.left == about(1500)


@on_asyncio
async def test_after_a_stable_connection_pauses_are_short_again() -> None:
    pauses = RetryPauses(delays)
    pauses.lengthen()
    pauses.lengthen()
    pauses.clear()
    assert pauses.left <= 0
    pauses.lengthen()
    assert pauses.left == about(100)


@on_asyncio
async def test_a_reset_does_not_end_the_pause() -> None:
    pauses = RetryPauses(delays)
    pauses.lengthen()
    pauses.lengthen()
    pauses.reset()
    assert pauses.left == about(200)
    pauses.lengthen()
    assert pauses.left == about(100)


@on_both_loops
async def test_a_wait_ends_with_the_pause() -> None:
    pauses = RetryPauses(lambda: iter([0.01]))
    await within(LIMIT, pauses.wait())  # there is none
    pauses.lengthen()
    await within(LIMIT, pauses.wait())
    assert pauses.left <= 0.002  # uvloop's timers may fire a step of its clock early


@on_both_loops
async def test_hurry_ends_a_wait() -> None:
    pauses = RetryPauses(delays)
    pauses.hurry()  # nobody waits
    pauses.lengthen()
    waiting = asyncio.create_task(pauses.wait())
    await asyncio.sleep(0)
    pauses.hurry()
    pauses.hurry()
    await within(LIMIT, waiting)
    assert pauses.left <= 0
    pauses.lengthen()
    assert pauses.left == about(100)
