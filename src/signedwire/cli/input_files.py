"""Input files. A named pipe without a writer does not block a command for ever."""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
from pathlib import Path
from typing import IO, Final

from signedwire.cli.errors import BadFile
from signedwire.resources import start_thread

__all__ = ["is_regular", "open_input"]

_WAIT_FOR_A_WRITER: Final = 5.0
"""Seconds."""


def open_input(path: Path) -> IO[bytes]:
    """Open a file, or a named pipe that another program writes to.

    Raises:
        BadFile: it cannot be read, or no program has opened the pipe within 5 seconds.
    """
    try:
        if os.name == "posix" and stat.S_ISFIFO(os.stat(path).st_mode):
            return open(_open_pipe(path), "rb")
        return path.open("rb")
    except OSError as error:
        raise BadFile(
            f"cannot read {path}: {error.strerror}", "Does the file exist, and may you read it?"
        ) from None


def is_regular(file: IO[bytes]) -> bool:
    """Return whether the file is a regular file, or one in memory; no pipe and no device."""
    with contextlib.suppress(OSError):
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    return file.seekable()  # in memory


def _open_pipe(path: Path) -> int:
    """Return a descriptor of a named pipe. Opening one waits for a writer, so a thread does it."""
    opened: queue.SimpleQueue[int | OSError] = queue.SimpleQueue()

    def open_it() -> None:
        try:
            opened.put(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            opened.put(error)

    # A daemon thread: without a writer, the command ends, and the thread with it.
    start_thread(threading.Thread(target=open_it, daemon=True))
    try:
        found = opened.get(timeout=_WAIT_FOR_A_WRITER)
    except queue.Empty:
        raise BadFile(
            f"cannot read {path}: it is a pipe, and nobody has written to it",
            "Start the program that writes to it first",
        ) from None
    if isinstance(found, OSError):
        raise found
    return found
