"""Tools for tests of an evidence log: messages, logs, and what a file contains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from linkkit import BOB, body, received
from signedwire.delivery.message import IncomingMessage
from signedwire.errors import StoreError
from signedwire.evidence.chain import NO_HEAD, LogChecker
from signedwire.evidence.files import RotationPolicy
from signedwire.evidence.log import EvidenceLog
from storekit import Told


def message(number: int, size: int = 10) -> IncomingMessage:
    """Make a message of Alice with this sequence number."""
    batch = received([body(number, b"x" * size)])
    return IncomingMessage(batch.bodies[0], batch, 0)


def inline(path: Path, rotation: RotationPolicy | None = None, **options: Any) -> EvidenceLog:
    """Open a log that writes in the thread of the test."""
    if rotation is not None:
        options["rotation"] = rotation
    return EvidenceLog(path, BOB.did, is_threaded=False, **options)


def append(log: EvidenceLog, *numbers: int, size: int = 10) -> StoreError | None:
    """Log one message after the other; return the result of the last one."""
    told = Told()
    for number in numbers:
        told = Told()
        log.append([message(number, size)], told)
    return told.wait()


def numbers_in(files: Sequence[Path]) -> list[int]:
    """Return the sequence numbers in a chain of files; check that each file follows the last."""
    numbers: list[int] = []
    head: bytes | None = None
    for path in files:
        checker = LogChecker()
        with path.open("rb") as file:
            for data in iter(partial(file.read, 1 << 20), b""):
                numbers += [each.envelope.sequence_number for each in checker.receive_data(data)]
        checker.receive_eof()
        assert checker.error is None, (path, checker.error)
        header = checker.reader.header
        assert header is not None
        assert header.previous == (head or NO_HEAD) or head is None, path
        head = checker.head
    return numbers


def chain_of(path: Path) -> list[Path]:
    """The numbered files of a log in their order, and the log."""
    return [*sorted(path.parent.glob(f"{path.name}.0*")), path]


class Killed(BaseException):
    """The process dies here."""


CALLS = (
    *("open", "write", "fsync", "fdatasync", "rename", "link", "unlink", "ftruncate", "close"),
    "fstat",
)


class Mortal:
    """Lets the process die before or after the nth of its system calls that touch files."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, *, is_after: bool) -> None:
        self.count = 0
        self._open: set[int] = set()
        self._close = os.close
        for name in CALLS:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name), at, is_after))

    def _wrapped(self, name: str, real: Any, at: int, is_after: bool) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == at and not is_after:
                raise Killed
            if self.count > at:
                raise Killed  # nothing runs in a process that is dead
            result = real(*args, **more)
            if name == "open":
                self._open.add(result)
            elif name == "close":
                self._open.discard(args[0])
            if self.count == at:
                raise Killed
            return result

        return call

    def let_go(self) -> None:
        """Do what the system does for a dead process: close its files."""
        for fd in self._open:
            self._close(fd)
