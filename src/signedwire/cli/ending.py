"""SIGTERM, for the commands that run until they are told to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Final

__all__ = ["TERMINATED", "end_on_sigterm"]

TERMINATED: Final = 143
"""The exit code after SIGTERM."""


def end_on_sigterm() -> Callable[[], bool]:
    """Cancel the current task when SIGTERM comes.

    Returns:
        A function that tells whether it has come: else the task was cancelled by Ctrl-C.
    """
    task = asyncio.current_task()
    assert task is not None
    has_come = asyncio.Event()

    def end() -> None:
        has_come.set()
        task.cancel()

    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    return has_come.is_set
