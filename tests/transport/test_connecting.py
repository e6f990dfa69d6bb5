"""Waits that are ended from outside."""

from __future__ import annotations

import asyncio

import pytest

from signedwire.transport.connecting import expire
from wirekit import LIMIT, on_both_loops, within


@pytest.mark.parametrize("times", [1, 3])
@on_both_loops
async def test_a_wait_is_ended_now_however_often(times: int) -> None:
    """Also in the turn in which it expires: its task has not run yet."""
    loop, steps, has_expired_before = asyncio.get_running_loop(), [], []

    async def wait() -> None:
        async with asyncio.timeout(LIMIT) as step:
            steps.append(step)
            await asyncio.Event().wait()

    def again() -> None:
        has_expired_before.append(steps[0].expired())
        expire(steps[0])

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    expire(steps[0])
    for _ in range(times - 1):
        loop.call_soon(again)
    with pytest.raises(TimeoutError):
        await within(LIMIT / 2, waiting)
    assert has_expired_before == [True] * (times - 1), "not in the turn in which it expires"


@on_both_loops
async def test_a_wait_with_a_deadline_that_has_come() -> None:
    async def wait() -> None:
        async with asyncio.timeout(0) as step:
            expire(step)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await within(LIMIT, wait())
