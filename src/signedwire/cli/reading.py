"""Opens files from others to be read: none of them holds a command up for ever."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import time
from pathlib import Path
from typing import IO, Any, Final

from signedwire.cli.errors import BadFile

__all__ = ["is_regular", "open_input"]

_WAIT_FOR_A_WRITER: Final = 5.0
_LOOK_INTERVAL: Final = 0.05
_FIRST: Final = 64 * 1024


def open_input(path: Path) -> IO[bytes]:
    """Open a file, or a named pipe that another program writes to.

    Raises:
        BadFile: it cannot be read, or nobody has written to the pipe within 5 seconds.
    """
    try:
        if os.name == "posix" and stat.S_ISFIFO(os.stat(path).st_mode):
            return io.BufferedReader(_open_pipe(path))
        return path.open("rb")
    except OSError as error:
        raise BadFile(
            f"cannot read {path}: {error.strerror}", "Does the file exist, and may you read it?"
        ) from None


def is_regular(file: IO[bytes]) -> bool:
    """Whether a file has an end that stays where it is, unlike a pipe or a device."""
    with contextlib.suppress(OSError):
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    return file.seekable()  # in memory


class _Pipe(io.RawIOBase):
    """A pipe of which the first bytes have been read."""

    def __init__(self, fd: int, first: bytes) -> None:
        self._fd = fd
        self._first = first

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._first:
            data = self._first[: len(buffer)]
            self._first = self._first[len(data) :]
        else:
            data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def _open_pipe(path: Path) -> _Pipe:
    # With O_NONBLOCK the opening does not wait for a writer, and a read tells whether there
    # is one: else it ends at once.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _WAIT_FOR_A_WRITER
        while time.monotonic() < deadline:
            first = b""
            with contextlib.suppress(BlockingIOError):
                first = os.read(fd, _FIRST)
                if not first:
                    time.sleep(_LOOK_INTERVAL)
                    continue
            os.set_blocking(fd, True)
            return _Pipe(fd, first)
        raise BadFile(
            f"cannot read {path}: it is a pipe, and nobody has written to it",
            "Start the program that writes to it first",
        )
    except BaseException:
        os.close(fd)
        raise
