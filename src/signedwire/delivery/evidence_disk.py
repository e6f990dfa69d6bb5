"""What an evidence log asks of the disk: to open, lock, write, sync and rename its files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import Final

from signedwire.delivery.evidence_files import NEW_SUFFIX, header_of
from signedwire.errors import EvidenceLogError
from signedwire.wire.evidence_log import HEADER_SIZE, NO_HEAD

__all__ = [
    "BINARY",
    "close",
    "finish_rotation",
    "lock",
    "open_file",
    "remove_unfinished",
    "sync_data",
    "sync_directory",
    "write_all",
]

BINARY: Final[int] = getattr(os, "O_BINARY", 0)
# O_NONBLOCK: opening a FIFO must not hang before we can see that it is one.
_FLAGS: Final[int] = (
    os.O_RDWR | os.O_APPEND | BINARY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
)


def open_file(path: str) -> tuple[int, bool]:
    """The file, private to its owner, and whether it is new."""
    try:
        return os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        fd = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return fd, False


def finish_rotation(path: str) -> None:
    """A crash between the two renames of `rotate()` leaves the new log with the wrong name."""
    new = path + NEW_SUFFIX
    header = None if os.path.lexists(path) else header_of(new)
    if header is not None and header.previous != NO_HEAD:
        fd, _ = open_file(new)
        try:
            lock(fd, path)  # a node that rotates just now has it
            os.rename(new, path)
            sync_directory(path)
        finally:
            close(fd)


def remove_unfinished(path: str, owner: bytes) -> None:
    """A crash before the first rename of `rotate()` leaves a new log that is out of date.

    It would be taken for the log itself as soon as that is moved away.
    """
    new = path + NEW_SUFFIX
    header = header_of(new)
    if header is not None and header.owner == owner and header.previous != NO_HEAD:
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(new) == HEADER_SIZE:
                os.unlink(new)


def lock(fd: int, path: str) -> None:
    if sys.platform != "win32":  # pragma: no branch
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvidenceLogError(
                path,
                "cannot be used: another process, or another node of this one, has it open",
                "Stop that one, or name another file: one node writes a log at a time",
            ) from None


def close(fd: int) -> None:
    """Let go of the file, for all who have it: a forked child may have a copy."""
    if sys.platform != "win32":  # pragma: no branch
        import fcntl

        with contextlib.suppress(OSError):  # some file systems know no locks
            fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def write_all(fd: int, data: bytes | bytearray) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(fd, view[done:])


def sync_data(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def sync_directory(path: str) -> None:
    if os.name == "posix":  # pragma: no branch
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some file systems have no such fsync
                os.fsync(directory)
        finally:
            os.close(directory)
