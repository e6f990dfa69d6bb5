"""SIGTERM, for the commands that run until they are told to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["TERMINATED", "end_by_sigterm", "end_on_sigterm"]

TERMINATED: Final = 143
"""What a command returns after SIGTERM; the exit code where the signal cannot end us."""


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


def end_by_sigterm() -> None:
    """End the process by SIGTERM, now that all is closed: that is what its sender waits for.

    Returns where the system does not do it, as for the first process of a container.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
