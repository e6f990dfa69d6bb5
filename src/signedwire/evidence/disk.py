"""Disk operations of an evidence log: open, lock, write, sync and rename its files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import Final

from signedwire.errors import EvidenceLogError
from signedwire.evidence.chain import HEADER_SIZE, MAGIC, NO_HEAD
from signedwire.evidence.files import NEW_SUFFIX, header_of
from signedwire.folders import rename_new, sync_folder

__all__ = [
    "BINARY",
    "NotRotatedError",
    "close",
    "discard_next",
    "finish_rotation",
    "is_at",
    "lock",
    "make_next",
    "open_file",
    "refuse_while_rotating",
    "remove_unfinished",
    "sync_data",
    "write_all",
]

BINARY: Final[int] = getattr(os, "O_BINARY", 0)
# O_NONBLOCK: opening a FIFO must not block; `_open_existing()` then refuses it.
_FLAGS: Final[int] = (
    os.O_RDWR | os.O_APPEND | BINARY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
)


class NotRotatedError(Exception):
    """The log was not rotated and continues in the same file; the text has the cause."""


def open_file(path: str) -> tuple[int, bool]:
    """Open the file, private to its owner, or make it; return it, and whether it is new."""
    try:
        return os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        return _open_existing(path), False


def _open_existing(path: str) -> int:
    fd = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return fd


def make_next(path: str, data: bytes, old: int) -> tuple[int, bool]:
    """Make the next file of the log, locked, with `data` on the disk.

    Args:
        path: Path of the log.
        data: The first bytes of the new file.
        old: Descriptor of the log.

    Returns:
        The descriptor, and whether the new file has the same readers as the old one.

    Raises:
        OSError, EvidenceLogError: the file cannot be made; nothing is left of it.
    """
    new = path + NEW_SUFFIX
    _remove_beginning(new)
    fd, _ = open_file(new)
    try:
        lock(fd, new)
        is_readable = _copy_readers(fd, old)
        write_all(fd, data)
        os.fsync(fd)
    except (OSError, EvidenceLogError):
        discard_next(fd, path)
        raise
    return fd, is_readable


def _remove_beginning(new: str) -> None:
    """Remove a new file that a crash left with a part of a header, a whole one, or zeros.

    Raises:
        FileExistsError: the file has other content, so it may belong to somebody else.
        OSError: the file cannot be removed.
    """
    try:
        status = os.lstat(new)
    except FileNotFoundError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_size <= HEADER_SIZE:
        with open(new, "rb") as file:
            beginning = file.read(len(MAGIC))
        if MAGIC.startswith(beginning) or not any(beginning):
            os.unlink(new)
            return
    raise FileExistsError(errno.EEXIST, f"another file is at {new}")


def _copy_readers(fd: int, old: int) -> bool:
    """Give a new file the group and mode of the old one, without write access for others.

    Returns:
        `False` if the new file stays private to its owner. Then its group cannot be
        changed, or the old file has an access control list, whose rights exceed its mode.
    """
    status = os.fstat(old)
    mode = stat.S_IMODE(status.st_mode) & 0o755 | 0o600
    if os.name != "posix" or mode == 0o600:
        return True
    try:
        if "system.posix_acl_access" in _attributes(old):
            return False
        if os.fstat(fd).st_gid != status.st_gid:
            os.fchown(fd, -1, status.st_gid)
        os.fchmod(fd, mode)
    except OSError:
        return False
    return True


def _attributes(fd: int) -> list[str]:
    """Return the names of the extended attributes of a file, if its file system has any."""
    with contextlib.suppress(OSError):
        if sys.platform == "linux":  # pragma: no branch
            return os.listxattr(fd)
    return []


def discard_next(fd: int, path: str) -> None:
    """Close and remove the file of `make_next()`; if it stays, the next call removes it."""
    close(fd)
    with contextlib.suppress(OSError):
        os.unlink(path + NEW_SUFFIX)


def is_at(fd: int, path: str) -> bool:
    """Whether the path leads to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def finish_rotation(path: str) -> None:
    """Do the second rename of `rotate()`, if a crash came after the first one.

    Raises:
        EvidenceLogError: another node is rotating the log now.
        OSError: the file cannot be renamed.
    """
    new = path + NEW_SUFFIX
    fd = -1 if os.path.lexists(path) else _lock_next(path)
    if fd < 0:
        return
    try:
        # The node that held the lock may have ended its rotation meanwhile.
        if is_at(fd, new) and not os.path.lexists(path):
            with contextlib.suppress(FileExistsError):
                rename_new(new, path)
            sync_folder(os.path.dirname(path))
    finally:
        close(fd)


def refuse_while_rotating(path: str) -> None:
    """Fail if a node is between the two renames of `rotate()`.

    Raises:
        EvidenceLogError: a node is rotating the log.
        OSError: the new file of that node cannot be opened.
    """
    fd = _lock_next(path)
    if fd >= 0:
        close(fd)


def _lock_next(path: str) -> int:
    """Open and lock the next file of the log; return -1 if there is none."""
    new = path + NEW_SUFFIX
    header = header_of(new)
    if header is None or header.previous == NO_HEAD:
        return -1
    try:
        fd = _open_existing(new)
    except FileNotFoundError:  # the other node has just ended its rotation
        return -1
    try:
        lock(fd, path)
    except BaseException:
        close(fd)
        raise
    return fd


def remove_unfinished(path: str, owner: bytes) -> None:
    """Remove a new file that a crash has left.

    A crash before the first rename of `rotate()` leaves an outdated next file, which
    would be taken for the log once the log is moved away. A crash in `finish_rotation()`
    leaves a second name of the log.
    """
    new = path + NEW_SUFFIX
    header = header_of(new)
    if header is not None and header.owner == owner and header.previous != NO_HEAD:
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(new) == HEADER_SIZE or os.path.samefile(path, new):
                os.unlink(new)


def lock(fd: int, path: str) -> None:
    """Lock the open file, without waiting.

    Raises:
        EvidenceLogError: another process, or another node of this one, has locked it.
    """
    if sys.platform != "win32":  # pragma: no branch
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvidenceLogError(
                path,
                "cannot be used: another process, or another node of this one, has it open",
                "Stop the other one, or name another file: one node writes a log at a time",
            ) from None


def close(fd: int) -> None:
    """Unlock and close the file. A forked child may still hold a copy of the descriptor."""
    if sys.platform != "win32":  # pragma: no branch
        import fcntl

        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of `data`, in as many calls as the system needs."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(fd, view[done:])


def sync_data(fd: int) -> None:
    """Wait until the data of the file is on the disk."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)
