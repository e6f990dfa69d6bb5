"""How a file of limited size is read, also where what has its name may be no file."""

from __future__ import annotations

import errno
import os
import select
import stat
from typing import Final

from signedwire.clock import monotonic

__all__ = ["NotRegularError", "TooLargeError", "cause_of", "read_small_file", "read_to_end"]

# O_BINARY is Windows only, the others POSIX only. O_NONBLOCK: opening a FIFO
# that nobody writes must not hang before we can see that it is one.
_READ_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
_KINDS: Final = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class NotRegularError(OSError):
    """What has the name is no regular file; `mode` says what it is."""

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
    """All bytes of the file at `path`, and what the opened file is.

    Args:
        limit: How many bytes it may have.
        pipe_timeout: Seconds until a pipe or a terminal must have brought all; a pipe must
            bring something. `None`: only a regular file is read. Then nothing is waited
            for, and nothing else is opened, as that can do something: to a watchdog.

    Raises:
        NotRegularError: it is a folder, or of a kind that is not read.
        TooLargeError: it has more than `limit` bytes.
        TimeoutError: the pipe did not bring all in time.
        OSError, ValueError: it cannot be opened or read.
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
                raise OSError(errno.ENODATA, "the pipe brought nothing: did its writer fail?")
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise TooLargeError(limit)
    return data, status


def read_to_end(descriptor: int, limit: int, timeout: float) -> bytes:
    """What an open file, pipe or socket brings within `timeout` seconds: all, or `limit` + 1 bytes.

    Raises:
        TimeoutError: its end did not come.
        OSError: it cannot be read.
    """
    data = bytearray()
    until = monotonic() + timeout
    poll = None
    if hasattr(select, "poll"):  # not on Windows: a pipe there is waited for without end
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
    while len(data) <= limit:
        if poll is not None and not poll.poll(max(0.0, until - monotonic()) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"nobody wrote it to its end within {timeout:g} s")
        try:
            part = os.read(descriptor, min(2**20, limit + 1 - len(data)))
        except BlockingIOError:
            continue
        if not part:
            break
        data += part
    return bytes(data)


def cause_of(error: BaseException) -> str:
    """What the system said of an error, in words; never empty."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _mode_of(path: str | os.PathLike[str]) -> int | None:
    """What `path` leads to; `None`: what is wrong there, opening it says."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return None


def _check_kind(mode: int, pipe_timeout: float | None) -> None:
    is_stream = stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    if not (stat.S_ISREG(mode) or (is_stream and pipe_timeout is not None)):
        raise NotRegularError(mode)
