"""`signedwire evidence`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from signedwire.cli.errors import BadFile
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.output import emit, escape, paint, result, say
from signedwire.cli.render import at_utc, count_of, envelope_fields, payload_text
from signedwire.errors import DidError
from signedwire.types import Did
from signedwire.wire.evidence_log import NO_HEAD, CheckedRecord, LogChecker

if TYPE_CHECKING:
    from signedwire.cli.evidence_surface import EvidenceShow, EvidenceVerify

__all__ = ["show", "verify"]

_CHUNK: Final = 1024 * 1024
_NO_SUCH_HEAD: Final = (
    "no record has that head: the end was cut off, or the log was rewritten, or it is another's"
)


def verify(options: EvidenceVerify) -> int:
    """Check all of it; 1 if something is wrong."""
    checker = LogChecker(options.head)
    times: list[int] = []
    for checked in _walk(options.file, checker):
        times[1:] = [checked.record.accepted_at_us]
    if len(times) == 1:
        times *= 2
    problem = "" if checker.error is None else checker.error.problem
    if not problem and not checker.has_head:
        problem = _NO_SUCH_HEAD
    if options.json:
        emit(_verdict(checker, problem, times))
        return ExitCode.FAILED if problem else 0
    header = checker.reader.header
    assert header is not None  # _walk() has seen to that
    result(f"owner   {_owner(checker)}")
    result(f"begun   {at_utc(header.started_at_us)}{_after(header.previous)}")
    span = f", {at_utc(times[0])} to {at_utc(times[-1])}" if times else ""
    result(f"sound   {count_of(checker.count, 'record')}{span}")
    result(f"head    {checker.head.hex()}")
    if problem:
        result(f"{paint('invalid', 'red')} {_where(checker)}{escape(problem)}")
        return ExitCode.FAILED
    result(f"{paint('valid', 'green')}   the chain and every signature hold{_since(checker)}")
    return 0


def show(options: EvidenceShow) -> int:
    """Print the records up to the first bad one; 1 if there is one."""
    checker = LogChecker()
    for record, envelope in _walk(options.file, checker):
        if options.json:
            fields = envelope_fields(envelope, is_proven=True)
            emit(
                {
                    "record": record.number,
                    "offset": record.offset,
                    "accepted_at_us": record.accepted_at_us,
                    **fields,
                    "envelope": None if record.large else record.envelope.hex(),
                    "hash": record.hash.hex(),
                }
            )
        else:
            parts = [
                str(record.number),
                at_utc(record.accepted_at_us),
                f"from {envelope.sender}",
                f"#{envelope.sequence_number}",
                f"({envelope.payload_size} bytes)"
                if record.large
                else payload_text(envelope.payload),
            ]
            result("  ".join(parts))
    if checker.error is None:
        return 0
    say(f"invalid: {_where(checker)}{escape(checker.error.problem)}")
    return ExitCode.FAILED


def _walk(path: Path, checker: LogChecker) -> Iterator[CheckedRecord]:
    """The proven records of a file, which is never in memory as a whole."""
    try:
        with path.open("rb") as file:
            while checker.error is None and (data := file.read(_CHUNK)):
                yield from checker.receive_data(data)
    except OSError as error:
        raise BadFile(
            f"cannot read {path}: {error.strerror}", "Does the file exist, and may you read it?"
        ) from None
    checker.receive_eof()
    if checker.reader.header is None:
        assert checker.error is not None
        raise BadFile(
            f"{path}: {checker.error.problem}",
            'It takes what a node with `evidence = "FILE"` has written',
        )


def _where(checker: LogChecker) -> str:
    bad = checker.error
    return "" if bad is None else f"record {bad.number}, at byte {bad.offset}: "


def _since(checker: LogChecker) -> str:
    if checker.head_at is None:
        return ""
    more = checker.count - checker.head_at
    since = f", and {more} came since" if more else ""
    return f"; the head that was given is that of record {checker.head_at}{since}"


def _after(previous: bytes) -> str:
    return "" if previous == NO_HEAD else f", going on from the log with head {previous.hex()}"


def _owner(checker: LogChecker) -> str:
    header = checker.reader.header
    assert header is not None
    try:
        return str(Did(header.owner))
    except DidError:
        return header.owner.hex()


def _verdict(checker: LogChecker, problem: str, times: list[int]) -> dict[str, object]:
    header, bad = checker.reader.header, checker.error
    assert header is not None
    return {
        "is_valid": not problem,
        "problem": problem or None,
        "bad_record": None if bad is None else bad.number,
        "offset": None if bad is None else bad.offset,
        "owner": _owner(checker),
        "started_at_us": header.started_at_us,
        "previous": None if header.previous == NO_HEAD else header.previous.hex(),
        "records": checker.count,
        "first_at_us": times[0] if times else None,
        "last_at_us": times[-1] if times else None,
        "head": checker.head.hex(),
        "given_head_at": checker.head_at,
    }
