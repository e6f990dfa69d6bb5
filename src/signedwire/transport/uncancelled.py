"""Waits that cancelling does not cut short.

A node that starts or ends holds files, threads and sockets. If its caller is cancelled, once or
at every await as some frameworks do, the node first releases them, and then raises
`CancelledError`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from signedwire.logs import EventLog

__all__ = ["mark_retrieved", "next_turn", "run_steps", "wait_uncancelled"]


async def wait_uncancelled(waiting: asyncio.Future[Any], timeout: float | None = None) -> bool:
    """Wait until `waiting` is done, or for `timeout` seconds, even if the caller is cancelled.

    Returns:
        Whether the caller was cancelled. It then releases what it holds and raises
        `asyncio.CancelledError`.
    """
    loop, is_cancelled = asyncio.get_running_loop(), False
    end = None if timeout is None else loop.time() + timeout
    while not waiting.done():
        left = None if end is None else end - loop.time()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait({waiting}, timeout=left)
        except asyncio.CancelledError:
            is_cancelled = True
    return is_cancelled


async def next_turn() -> bool:
    """Wait for one turn of the loop; return what `wait_uncancelled()` returns."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    return await wait_uncancelled(turn)


def mark_retrieved(waiting: asyncio.Future[Any]) -> None:
    """Retrieve the exception, because the loop logs each exception that is not retrieved."""
    if not waiting.cancelled():
        waiting.exception()


async def run_steps(steps: Iterable[tuple[str, Callable[[], Any] | None]], log: EventLog) -> bool:
    """Run all steps in their order, even if one fails or the caller is cancelled.

    Args:
        steps: Each has its name and its function; `None`: there is nothing to do. A function
            that waits returns what `wait_uncancelled()` returns.
        log: Gets the fault of each step that fails.

    Returns:
        Whether the caller was cancelled.
    """
    is_cancelled = False
    for what, step in steps:
        if step is not None:
            is_cancelled |= await _run_step(what, step, log)
    return is_cancelled


async def _run_step(what: str, step: Callable[[], Any], log: EventLog) -> bool:
    try:
        result = step()
        return inspect.isawaitable(result) and bool(await result)
    except asyncio.CancelledError:
        return True
    except Exception as error:  # noqa: BLE001 - the steps after it free files and threads
        log.note_fault(what, error)
        return False
