"""SIGTERM and SIGHUP, for the commands that run until they are ended.

The first such signal closes the node in order; a second one stops waiting for peers. The
process then ends by the signal itself, which systemd counts as a clean end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

from signedwire.cli.exit_codes import ExitCode

__all__ = [
    "ENDING_CODES",
    "end_by_signal",
    "end_on_signals",
    "notify_ready",
    "restoring_signals",
]

ENDING_CODES: Final = (ExitCode.TERMINATED, ExitCode.HUNG_UP)
"""Results of a command after such a signal, and exit codes if the signal cannot end us."""
_SIGNAL_BASE: Final = 128
_HANDLED: Final = ("SIGTERM", "SIGHUP", "SIGUSR1")


@contextlib.contextmanager
def restoring_signals() -> Iterator[None]:
    """Restore the handlers of the signals that a command handles, after its loop is closed.

    A loop of asyncio leaves the default action in their place. A loop of uvloop leaves its
    own handlers, which do nothing any more, so the signals would be ignored from then on.
    """
    numbers = [getattr(signal, name) for name in _HANDLED if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # `None`: it was not set from Python
                signal.signal(number, handler)


def end_on_signals() -> Callable[[], ExitCode | None]:
    """Cancel the current task when SIGTERM or SIGHUP arrives.

    A signal that is ignored stays ignored, as `nohup` requires.

    Returns:
        A function that returns the exit code of the first signal. It returns `None` if none
        arrived: then Ctrl-C has cancelled the task.
    """
    task = asyncio.current_task()
    assert task is not None
    came: list[ExitCode] = []

    def end(code: ExitCode) -> None:
        came.append(code)
        task.cancel()

    if os.getpid() == 1:
        # The first process of a container inherits the children of processes that died, such
        # as those of `docker exec`. With SIGCHLD ignored the kernel reaps them at once; these
        # commands start no children of their own.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for code in ENDING_CODES:
        number = code - _SIGNAL_BASE
        with contextlib.suppress(NotImplementedError, ValueError):  # Windows
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, end, code)
    return lambda: came[0] if came else None


def end_by_signal(code: ExitCode) -> None:
    """End the process by the signal of `code`, after everything is closed.

    The function returns if the system ignores the signal, as for the first process of a
    container.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader has closed it
            stream.flush()
    number = code - _SIGNAL_BASE
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def notify_ready() -> None:
    """Tell systemd that the service is ready, if it has asked for that (`Type=notify`)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")) or sys.platform == "win32":
        return
    name = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(b"READY=1", name)
