"""Opens an evidence log: locks it, finishes an interrupted rotation, and reads it through.

Another process may have the log open and rotate it at any time. So an opened file is the
log only if its name still leads to it once it is locked.
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
from signedwire.evidence.files import NumberedFiles, place_of_rest
from signedwire.files import cause_of

__all__ = ["Found", "lost_error", "open_error", "open_log", "read_log"]

_ATTEMPTS: Final = 16
_CHUNK: Final = 1024 * 1024
_MAX_TORN: Final = 64 * 1024 * 1024
"""Maximum size of an unfinished write, in bytes: one write between two syncs is smaller, unless
it is one larger record."""
_DAMAGE_HINT: Final = (
    "Run `signedwire evidence verify` on it, and keep it; then name another file, or move it away"
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
            continue  # the file has just disappeared: a node is rotating
        try:
            lock(fd, path)
            if not os.fstat(fd).st_size:
                refuse_while_rotating(path)  # else that node would replace our file
            if is_at(fd, path):
                return fd
        except BaseException:
            close(fd)
            raise
        close(fd)
    raise EvidenceLogError(
        path,
        f"cannot be used: another program replaces it, {_ATTEMPTS} times by now",
        "Stop that one, or name another file: one node writes a log at a time",
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
        place = place_of_rest(path)
        if place is not None:
            raise EvidenceLogError(
                path,
                f"cannot be used: it has no header and begins behind {place}",
                "Another program cut it at its front. Put what it had before in front of it, "
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
    return EvidenceLogError(
        path,
        f"{what}, and {archive}, behind which it goes on, is still there: another program "
        "moved, cut or removed it",
        "Put it back; or move the numbered files away too, and a new chain begins",
    )


def open_error(path: str, error: OSError) -> EvidenceLogError:
    hint = "Is the disk full, or may this user not write there?"
    if error.errno == errno.ENOENT:
        hint = "Make its directory first"
    return EvidenceLogError(path, f"cannot be opened: {cause_of(error)}", hint)
