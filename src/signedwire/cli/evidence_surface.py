"""`signedwire evidence` and its options, as `surface` has those of the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from signedwire.cli.surface import Command

__all__ = ["EvidenceShow", "EvidenceVerify"]


def _read_hash(text: object) -> bytes:
    try:
        digest = bytes.fromhex(str(text))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise typer.BadParameter(f"{str(text)!r} is no head: that is 64 hex digits")
    return digest


@dataclass(frozen=True, kw_only=True)
class EvidenceVerify(Command):
    """Check an evidence log: its chain and every signature in it. Needs nothing else.

    A log that was rotated is in several files: give them all, in any order, and they are
    checked as one chain. A file between that is missing is an error; those before the
    first may be missing, and what that one goes on from is shown.

    It prints the head, a hash that stands for all that is in the log. Write it down
    elsewhere: whoever cuts off the end or writes the log anew cannot keep it, and
    --head finds that. A log that has grown since passes. Exit code 1: something is
    wrong, and the first bad record is named; 3: it is no evidence log.
    """

    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="The files of the log.")]

    head: Annotated[
        bytes | None,
        typer.Option(
            parser=_read_hash, metavar="HASH", help="A head of this log that was written down."
        ),
    ] = None

    def run(self) -> int:
        from signedwire.cli import evidence

        return evidence.verify(self)


@dataclass(frozen=True, kw_only=True)
class EvidenceShow(Command):
    """Show every record of an evidence log, each checked as `verify` does.

    With --json each line has all of an envelope, its bytes and the record's hash. It
    stops at the first bad record, with exit code 1.
    """

    file: Annotated[Path, typer.Argument(metavar="FILE", help="The evidence log.")]

    def run(self) -> int:
        from signedwire.cli import evidence

        return evidence.show(self)
