"""Reads files of limited size, and reports paths that are not regular files."""

from __future__ import annotations

import errno
import os
import select
import stat
from typing import Final

from signedwire.clock import monotonic

__all__ = ["NotRegularError", "TooLargeError", "cause_of", "read_small_file", "read_to_end"]

# O_BINARY exists only on Windows, the others only on POSIX. O_NONBLOCK: opening a FIFO
# without a writer must not hang before we can see that it is one.
_READ_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
_KINDS: Final = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class NotRegularError(OSError):
    """The path is not a regular file; `mode` tells its kind."""

    def __init__(self, mode: int) -> None:
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        super().__init__(number, f"it is {kind}, not a regular file")
        self.mode = mode


class TooLargeError(OSError):
    """The file has more bytes than are allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(errno.EFBIG, f"it is larger than {limit} bytes")


def read_small_file(
    path: str | os.PathLike[str], limit: int, *, pipe_timeout: float | None = None
) -> tuple[bytes, os.stat_result]:
    """Read the whole file at `path`; return its bytes and the status of the opened file.

    Args:
        path: The file, or a pipe or terminal if `pipe_timeout` is given.
        limit: Maximum size in bytes.
        pipe_timeout: Limit in seconds for reading a pipe or a terminal to its end; a pipe
            must not be empty. By default only a regular file is read, without any wait.
            Other kinds are not even opened then: opening a watchdog starts it.

    Raises:
        NotRegularError: the path is a folder, or of a kind that is not read.
        TooLargeError: the file has more than `limit` bytes.
        TimeoutError: the pipe did not end in time.
        OSError, ValueError: the file cannot be opened or read.
    """
    mode = _mode_of(path)
    if mode is not None:
        _check_kind(mode, pipe_timeout)
    descriptor = os.open(path, _READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        _check_kind(status.st_mode, pipe_timeout)
        if pipe_timeout is None or stat.S_ISREG(status.st_mode):
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        else:
            data = read_to_end(descriptor, limit, pipe_timeout)
            if not data and stat.S_ISFIFO(status.st_mode):
                raise OSError(errno.ENODATA, "the pipe was empty: did its writer fail?")
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise TooLargeError(limit)
    return data, status


def read_to_end(descriptor: int, limit: int, timeout: float) -> bytes:
    """Read an open file, pipe or socket to its end, but at most `limit` + 1 bytes.

    Raises:
        TimeoutError: the end did not come within `timeout` seconds.
        OSError: the descriptor cannot be read.
    """
    data = bytearray()
    until = monotonic() + timeout
    poll = None
    if hasattr(select, "poll"):  # not on Windows, where reading a pipe has no timeout
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
    while len(data) <= limit:
        if poll is not None and not poll.poll(max(0.0, until - monotonic()) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"its writer did not close it within {timeout:g} s")
        try:
            part = os.read(descriptor, min(2**20, limit + 1 - len(data)))
        except BlockingIOError:
            continue
        if not part:
            break
        data += part
    return bytes(data)


def cause_of(error: BaseException) -> str:
    """Return the system's text for an error; never empty."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _mode_of(path: str | os.PathLike[str]) -> int | None:
    """Return the mode of `path`; `None` after an error, which opening it will report."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return None


def _check_kind(mode: int, pipe_timeout: float | None) -> None:
    is_stream = stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    if not (stat.S_ISREG(mode) or (is_stream and pipe_timeout is not None)):
        raise NotRegularError(mode)
