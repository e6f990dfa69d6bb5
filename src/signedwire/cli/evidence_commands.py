"""`signedwire evidence verify` and `signedwire evidence show`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from signedwire.cli.errors import BadFile
from signedwire.cli.evidence_chain import Part, did_or_hex, first_record_of, in_order
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.file_options import EvidenceShowOptions, EvidenceVerifyOptions
from signedwire.cli.formatting import at_utc, count_of, envelope_fields, payload_text
from signedwire.cli.input_files import open_input
from signedwire.cli.output import emit, escape, paint, result, result_as_is, say
from signedwire.evidence.chain import NO_HEAD, BadRecord, CheckedRecord, LogChecker
from signedwire.evidence.files import describe_predecessor

__all__ = ["show", "verify"]

_CHUNK: Final = 1024 * 1024
_NO_SUCH_HEAD: Final = (
    "no record has that head: the end was cut off, the log was rewritten, or the head is that "
    "of another log"
)


def verify(options: EvidenceVerifyOptions) -> int:
    """Check the files of a log as one chain; 1 if something is wrong."""
    parts = [_check(path, options.head) for path in options.files]
    bad = next((part for part in parts if part.error is not None), None)
    chain, problem = in_order(parts)
    if bad is not None and bad.error is not None:
        problem = bad.error.problem
    verdict = _Verdict(chain, problem, bad, len(parts) == len(chain) and not problem)
    if not problem and options.head is not None and verdict.head_at is None:
        verdict = dataclasses.replace(verdict, problem=_NO_SUCH_HEAD)
    if options.json:
        emit(_fields(verdict))
    else:
        _print(verdict)
    return ExitCode.FAILED if verdict.problem else 0


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The result of checking all files."""

    chain: list[Part]
    problem: str
    """Empty: the chain and every record are good."""
    bad: Part | None
    """The file with the first bad record."""
    is_chain: bool
    """Whether each file continues the one before."""

    @property
    def records(self) -> int:
        return sum(part.records for part in self.chain)

    @property
    def times(self) -> list[int]:
        return [each for part in self.chain for each in part.times]

    @property
    def head_at(self) -> int | None:
        """Number of the record with the head that was given, counted from the first file."""
        before = 0
        for part in self.chain:
            if part.head_at is not None:
                return before + part.head_at
            before += part.records
        return None


def _check(path: Path, head: bytes | None) -> Part:
    checker = LogChecker(head)
    times: list[int] = []
    for checked in _walk(path, checker):
        times[1:] = [checked.record.accepted_at_us]
    if len(times) == 1:
        times *= 2
    header = checker.reader.header
    assert header is not None  # else _walk() has raised
    return Part(
        path, header, checker.count, checker.head, tuple(times), checker.error, checker.head_at
    )


def _print(verdict: _Verdict) -> None:
    chain, problem, times = verdict.chain, verdict.problem, verdict.times
    first, last = chain[0], chain[-1]
    result(f"owner   {did_or_hex(first.header.owner)}")
    result(f"begun   {at_utc(first.header.started_at_us)}{_after(verdict)}")
    for part in chain if len(chain) > 1 else ():
        result(f"file    {escape(str(part.path))}: {count_of(part.records, 'record')}")
    span = f", {at_utc(times[0])} to {at_utc(times[-1])}" if times else ""
    result(f"sound   {count_of(verdict.records, 'record')}{span}")
    result(f"head    {last.head.hex()}")
    if problem:
        where = "" if verdict.bad is None else _where(verdict.bad, len(chain) > 1)
        result_as_is(f"{paint('invalid', 'red')} {where}{escape(problem)}")
    else:
        mark = paint("valid", "green")
        result_as_is(f"{mark}   the chain and every signature hold{_since(verdict)}")


def show(options: EvidenceShowOptions) -> int:
    """Print the records up to the first bad one; 1 if there is a bad one."""
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
                envelope.message_id.hex()[:8],
                f"({envelope.payload_size} bytes)"
                if record.large
                else payload_text(envelope.payload),
            ]
            result("  ".join(parts))
    if checker.error is None:
        return 0
    say(f"invalid: {_place(checker.error)}{escape(checker.error.problem)}")
    return ExitCode.FAILED


def _walk(path: Path, checker: LogChecker) -> Iterator[CheckedRecord]:
    """Yield the proven records of a file. The file is never in memory as a whole."""
    try:
        with open_input(path) as file:
            while checker.error is None and (data := file.read(_CHUNK)):
                yield from checker.receive_data(data)
    except OSError as error:
        raise BadFile(
            f"cannot read {path}: {error.strerror}", "Does the file exist, and may you read it?"
        ) from None
    checker.receive_eof()
    if checker.reader.header is None:
        assert checker.error is not None
        place = describe_predecessor(str(path)) if os.path.isfile(path) else None
        if place is not None:
            raise BadFile(
                f"{path}: not a whole evidence log: it has no header and begins behind {place}",
                "Join it with the part before it, and verify the result",
            )
        raise BadFile(
            f"{path}: {checker.error.problem}",
            'Give a file that a node with `evidence = "FILE"` has written',
        )


def _where(part: Part, with_path: bool) -> str:
    assert part.error is not None
    where = f"{escape(str(part.path))}: " if with_path else ""
    return f"{where}{_place(part.error)}"


def _place(bad: BadRecord) -> str:
    return f"record {bad.number}, at byte {bad.offset}: "


def _since(verdict: _Verdict) -> str:
    at = verdict.head_at
    if at is None:
        return ""
    more = verdict.records - at
    since = f", and {more} came since" if more else ""
    return f"; the head that was given is that of record {at}{since}"


def _after(verdict: _Verdict) -> str:
    previous = verdict.chain[0].header.previous
    if previous == NO_HEAD:
        return ""
    number = first_record_of(verdict.chain) if verdict.is_chain else None
    behind = "" if number is None else f", with record {number} of the whole chain"
    return f", continuing the log with head {previous.hex()}{behind}"


def _fields(verdict: _Verdict) -> dict[str, object]:
    chain, bad, times = verdict.chain, verdict.bad, verdict.times
    header = chain[0].header
    error = None if bad is None else bad.error
    return {
        "is_valid": not verdict.problem,
        "problem": verdict.problem or None,
        "bad_file": None if bad is None else str(bad.path),
        "bad_record": None if error is None else error.number,
        "offset": None if error is None else error.offset,
        "owner": did_or_hex(header.owner),
        "started_at_us": header.started_at_us,
        "previous": None if header.previous == NO_HEAD else header.previous.hex(),
        "first_record": first_record_of(chain) if verdict.is_chain else None,
        "records": verdict.records,
        "first_at_us": times[0] if times else None,
        "last_at_us": times[-1] if times else None,
        "head": chain[-1].head.hex(),
        "given_head_at": verdict.head_at,
        "files": [
            {"file": str(part.path), "records": part.records, "head": part.head.hex()}
            for part in chain
        ],
    }
