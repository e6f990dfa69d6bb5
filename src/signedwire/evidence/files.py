"""The files of an evidence log: their numbers, their removal, and changes by other programs.

    evidence.log.000000012000    rotated; the number of its last record in the whole chain
    evidence.log.000000020000
    evidence.log                 the present file
    evidence.log.new             the next file, during a rotation

The log writes to one open file. `FileWatch` checks size, names and inode of this file
before a message is acknowledged, because a changed file proves nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from signedwire.errors import EnvelopeError
from signedwire.evidence.chain import (
    HEADER_SIZE,
    NO_HEAD,
    LogHeader,
    LogReader,
    LogRecord,
    first_record,
    follows,
)
from signedwire.logs import fields

__all__ = [
    "NEW_SUFFIX",
    "ChangedByOthersError",
    "FileWatch",
    "NumberedFiles",
    "Removed",
    "Rotated",
    "RotationPolicy",
    "header_of",
    "describe_predecessor",
]

NEW_SUFFIX: Final = ".new"
_CHUNK: Final = 1024 * 1024
_DIGITS: Final = 12
_MAX_SEARCHED: Final = 32
_MAX_FIRST_RECORD: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """When a log is rotated, and how many old files are kept."""

    max_bytes: int | None = None
    """Size in bytes at which the log is rotated; `None`: no limit."""
    max_age: float | None = None
    """Age of the file in seconds at which the log is rotated; `None`: no limit."""
    keep: int | None = None
    """Number of numbered files kept after a rotation, the newest ones; `None`: all."""


class Rotated(NamedTuple):
    """A rotation: the log continues in a new file."""

    archive: str
    """The new name of the old file."""
    records: int
    """Number of records of the old file."""
    head: str
    """Hash of the last record of the old file, which the new file names."""


class Removed(NamedTuple):
    """The removal of a numbered file, because there were more than `keep`."""

    archive: str
    """The name of the removed file."""
    last_record: int
    """The number of its last record in the whole chain."""


class ChangedByOthersError(OSError):
    """Another program truncated, moved, removed, linked or wrote to the open file."""


class FileWatch:
    """Detects changes of an open file by other programs.

    Args:
        fd: Descriptor of the open file.
        path: The path by which the file was opened.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._links = os.fstat(fd).st_nlink

    def check(self, size: int) -> None:
        """Compare size, names, device and inode; `size` is in bytes.

        Only `signedwire evidence verify` finds changes that keep the size.

        Raises:
            ChangedByOthersError: something differs.
            OSError: the file system has returned an error.
        """
        known = os.fstat(self._fd)
        if known.st_size < size:
            raise ChangedByOthersError(
                f"another program cut it to {known.st_size} bytes; the node wrote {size}"
            )
        if known.st_size > size:
            raise ChangedByOthersError(
                f"another program wrote to it: it has {known.st_size} bytes instead of {size}"
            )
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            verb = "moved it away" if known.st_nlink else "removed it"
            raise ChangedByOthersError(f"another program {verb}") from None
        if not os.path.samestat(known, found):
            raise ChangedByOthersError("another program put another file in its place")
        if known.st_nlink != self._links:
            raise ChangedByOthersError(
                "another program added or removed a hard link to it: "
                f"it has {known.st_nlink} names instead of {self._links}"
            )


class NumberedFiles:
    """The rotated files beside a log.

    Args:
        path: Path of the log.
        owner: DID of the log, 32 bytes; files of another owner are never removed.
    """

    def __init__(self, path: str, owner: bytes) -> None:
        self._path = path
        self._owner = owner
        name = re.escape(os.path.basename(path))
        # Compressors and copiers add a suffix behind the digits.
        self._pattern = re.compile(rf"{name}\.(\d{{{_DIGITS},}})(\..+)?", re.DOTALL)

    def name(self, last_record: int) -> str:
        """Return the path of the file whose last record has this number in the chain."""
        return f"{self._path}.{last_record:0{_DIGITS}}"

    def _found(self) -> list[tuple[int, str, bool]]:
        """Return number and path of each file, and whether it has no further suffix."""
        folder = os.path.dirname(self._path)
        found = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                match = self._pattern.fullmatch(name)
                # A rotation writes a number in one way only.
                if match is not None and match[1] == f"{int(match[1]):0{_DIGITS}}":
                    path = os.path.join(folder, name)
                    found.append((int(match[1]), path, match[2] is None))
        return sorted(found)

    def newest(self) -> str | None:
        """Return the path with the largest number, compressed or not; `None` if none exists."""
        found = self._found()
        return found[-1][1] if found else None

    def records_before(self, log: LogHeader) -> int:
        """Return how many records of the whole chain come before the log with this header.

        That is the number of the file whose last hash the header names. If that file was
        compressed or moved away, it is the largest number of the others, without copies.
        A copy has the header of its original, so the smallest number of a header counts.

        Raises:
            OSError: the folder cannot be listed.
        """
        if log.previous == NO_HEAD:
            return 0
        originals: dict[LogHeader, int] = {}
        largest = 0
        for number, path, is_plain in self._found():
            header = header_of(path) if is_plain else None
            if header is None:
                largest = largest if is_plain else number
            elif header.owner == self._owner and header != log:
                if _head_of(path) == log.previous:
                    return number
                originals.setdefault(header, number)
        return max(largest, *originals.values(), 0)

    def later_part(self, log: LogHeader, size: int, records: int) -> str | None:
        """Find a rotated file with a later part of the chain, for which the log is an old copy.

        Args:
            log: The header of the log.
            size: Size of the log in bytes.
            records: Number of records of the log.

        Returns:
            The path of that file; `None` if there is none.

        Raises:
            OSError: the folder cannot be listed.
        """
        for number, path, is_plain in reversed(self._found()):
            header = header_of(path) if is_plain else None
            if header is None or header.owner != self._owner:
                continue
            if header == log:  # a copy of this log is not longer than the log
                is_first = log.previous == NO_HEAD
                if os.path.getsize(path) > size or (is_first and number == records):
                    return path
            elif log.previous == NO_HEAD:  # a chain begins where no rotated file is
                return path
        return None

    def remove_all_but(self, keep: int, last: int, log: logging.Logger) -> list[Removed]:
        """Remove the oldest files until `keep` are left; failures are logged.

        Args:
            keep: Number of files to keep; 1 or more.
            last: Number of records of the whole chain before the log. A file with a larger
                number is a copy: it is neither counted nor removed.
            log: The logger for removals and failures.
        """
        removed: list[Removed] = []
        try:
            found = [each for each in self._found() if each[2] and each[0] <= last]
        except OSError as error:
            log.warning(
                "evidence log %s: its old files cannot be removed: %s; the next rotation will try",
                self._path,
                error,
                extra=fields("evidence not removed", path=self._path),
            )
            return removed
        if len(found) <= keep:
            return removed
        ours = [each for each in found if self._is_ours(each[1])]
        for number, path, _ in ours[:-keep]:
            try:
                os.unlink(path)
            except OSError as error:
                log.warning(
                    "evidence log %s: %s cannot be removed: %s",
                    self._path,
                    path,
                    error,
                    extra=fields("evidence not removed", path=path),
                )
            else:
                log.info(
                    "evidence log %s: %s was removed, because only %d rotated files are kept; "
                    "the chain begins behind record %d now",
                    self._path,
                    path,
                    keep,
                    number,
                    extra=fields("evidence removed", path=path),
                )
                removed.append(Removed(path, number))
        return removed

    def _is_ours(self, path: str) -> bool:
        header = header_of(path)
        return header is not None and header.owner == self._owner


def header_of(path: str) -> LogHeader | None:
    """Return the header of the log at `path`; `None` if it is no log or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            return LogHeader.decode(file.read(HEADER_SIZE))
    except (OSError, EnvelopeError):
        return None


def _head_of(path: str) -> bytes:
    """Return the last 32 bytes of the file at `path`, the head of a whole log; may be empty."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(-len(NO_HEAD), os.SEEK_END)
        return file.read()
    return b""


def describe_predecessor(path: str) -> str | None:
    """Describe the record before the first one of a file without a header.

    Another program that removes the beginning of a log leaves such a file. The search
    covers files beside it whose names begin with its name.

    Returns:
        A text for people; `None` if the file does not begin with a record.
    """
    with open(path, "rb") as file:
        record = first_record(file.read(_MAX_FIRST_RECORD))
    if record is None:
        return None
    own = Path(path)
    beside = [
        each
        for each in own.parent.glob(f"{_escaped(own.name)}[.-]*")
        if header_of(str(each)) is not None
    ]
    for other in sorted(beside)[:_MAX_SEARCHED]:
        number = _number_before(str(other), record)
        if number is not None:
            return f"record {number} of {other}" if number else f"the header of {other}"
    return "a record of another file"


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _number_before(path: str, rest: LogRecord) -> int | None:
    """Return the number of the record in `path` that `rest` follows, 0 for the header.

    Returns `None` if it follows no record of that file.
    """
    header, reader = header_of(path), LogReader()
    if header is not None and follows(rest, header.encode()[-32:]):
        return 0
    with contextlib.suppress(OSError), open(path, "rb") as file:
        while reader.error is None and (data := file.read(_CHUNK)):
            for record in reader.receive_data(data):
                if follows(rest, record.hash):
                    return record.number
    return None
