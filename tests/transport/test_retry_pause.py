"""The wait between two attempts, by the clock of the event loop."""

from __future__ import annotations

import asyncio

from signedwire.transport.retry_pause import RetryPause
from wirekit import LIMIT, on_both_loops, within


@on_both_loops
async def test_a_wait_ends_by_itself() -> None:
    pause, loop = RetryPause(), asyncio.get_running_loop()
    began = loop.time()
    await within(LIMIT, pause.wait(0.01))
    assert loop.time() - began >= 0.008  # uvloop's timers may fire a step of its clock early


@on_both_loops
async def test_a_wait_can_be_ended() -> None:
    pause = RetryPause()
    pause.end()  # nobody waits
    waiting = asyncio.create_task(pause.wait(100 * LIMIT))
    await asyncio.sleep(0)
    pause.end()
    pause.end()
    await within(LIMIT, waiting)
