"""Opens an evidence log: locks it, finishes an interrupted rotation, and reads it through.

Another process may rotate the log at any time. So the opened file is the log only if its
name still leads to it when it is locked.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from signedwire.errors import EvidenceLogError
from signedwire.evidence.chain import HEADER_SIZE, MAGIC, LogHeader, LogReader, name_of
from signedwire.evidence.disk import (
    close,
    finish_rotation,
    is_at,
    lock,
    open_file,
    refuse_while_rotating,
)
from signedwire.evidence.files import NumberedFiles, describe_predecessor
from signedwire.files import cause_of

__all__ = ["Found", "lost_error", "open_error", "open_log", "read_log"]

_ATTEMPTS: Final = 16
_CHUNK: Final = 1024 * 1024
_MAX_TORN: Final = 64 * 1024 * 1024
"""Maximum size of a torn write, in bytes. More bytes behind the last sound record are damage."""
_DAMAGE_HINT: Final = (
    "Run `signedwire evidence verify` on it, and keep it; then move it away or name another file"
)


@dataclass(frozen=True, slots=True)
class Found:
    """The content of an opened log."""

    header: LogHeader
    head: bytes
    count: int
    """Number of records."""
    size: int
    """Size of the sound part, in bytes."""
    unlogged: set[bytes]
    """Names of the given messages that are not in the log."""


def open_log(path: str, numbers: NumberedFiles) -> int:
    """Open the log, or make an empty file, and lock it.

    Raises:
        EvidenceLogError: another process has the log, or the log is missing beside its
            numbered files.
        OSError: the file cannot be opened.
    """
    for _ in range(_ATTEMPTS):
        finish_rotation(path)
        newest = numbers.newest()
        if newest is not None and not os.path.lexists(path):
            refuse_while_rotating(path)
            if not os.path.lexists(path):
                raise lost_error(path, "is not there", newest)
        try:
            fd, _is_new = open_file(path)
        except FileNotFoundError:
            if os.path.islink(path) or not os.path.isdir(os.path.dirname(path)):
                raise
            continue  # another node has just renamed it
        try:
            lock(fd, path)
            if not os.fstat(fd).st_size:
                refuse_while_rotating(path)  # a node that rotates would replace our file
            if is_at(fd, path):
                return fd
        except BaseException:
            close(fd)
            raise
        close(fd)
    raise EvidenceLogError(
        path,
        f"cannot be used: another program has replaced it {_ATTEMPTS} times during the opening",
        "Stop that program, or name another file: one node writes a log at a time",
    )


def read_log(fd: int, path: str, unacked: set[bytes]) -> Found | None:
    """Read a log through; return `None` if nothing was ever written to it.

    Raises:
        EvidenceLogError: the file is not a log, or is damaged.
    """
    reader = LogReader()
    beginning = b""
    while reader.error is None and (data := os.read(fd, _CHUNK)):
        beginning = (beginning + data)[:HEADER_SIZE] if len(beginning) < HEADER_SIZE else beginning
        for record in reader.receive_data(data):
            unacked.discard(name_of(record.envelope))
    reader.receive_eof()
    total = os.fstat(fd).st_size
    error, header = reader.error, reader.header
    if header is None:
        assert error is not None
        # A crash can leave a new file with a part of its header, or with zeros.
        if total <= HEADER_SIZE and (MAGIC.startswith(beginning[:8]) or not any(beginning)):
            return None
        place = describe_predecessor(path)
        if place is not None:
            raise EvidenceLogError(
                path,
                f"cannot be used: it has no header, and its first record follows {place}",
                "Another program removed its beginning. Put the missing part in front of it, "
                "then run `signedwire evidence verify` on it",
            )
        raise EvidenceLogError(path, f"cannot be used: {error.problem}", "Name another file")
    if error is not None and not error.is_incomplete and total - reader.offset > _MAX_TORN:
        raise EvidenceLogError(
            path,
            f"is damaged: record {error.number}, at byte {error.offset} of {total}: "
            f"{error.problem}",
            _DAMAGE_HINT,
        )
    return Found(header, reader.head, reader.count, reader.offset, unacked)


def lost_error(path: str, what: str, archive: str) -> EvidenceLogError:
    """Return the error for a log that does not continue its rotated file `archive`."""
    return EvidenceLogError(
        path,
        f"{what}, and its rotated file {archive} exists: another program moved, cut or removed "
        "the log",
        "Put the log back; or move the numbered files away too, to begin a new chain",
    )


def open_error(path: str, error: OSError) -> EvidenceLogError:
    """Return the error for a log that the system does not open."""
    hint = "Check that the disk has room and that this user may write there"
    if error.errno == errno.ENOENT:
        hint = "Make its directory first"
    return EvidenceLogError(path, f"cannot be opened: {cause_of(error)}", hint)
