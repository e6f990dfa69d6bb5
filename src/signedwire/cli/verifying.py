"""`signedwire verify`."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple, cast

from signedwire.cli.errors import BadFile
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.output import emit, escape, paint, result_as_is, say, standard_input
from signedwire.cli.reading import is_regular, open_input
from signedwire.cli.render import (
    MAX_DECODED,
    UNPROVEN,
    at_utc,
    can_decode,
    decoded_fields,
    envelope_fields,
    recipient_text,
)
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.wire.envelope import ENVELOPE_OVERHEAD, SignedEnvelope
from signedwire.wire.frames import FrameDecoder
from signedwire.wire.header import MAGIC
from signedwire.wire.large import WHOLE, EnvelopeStream, ReceiptProofStream
from signedwire.wire.receipt_proof import MAGIC as RECEIPT_PROOF_MAGIC
from signedwire.wire.receipt_proof import ProvenDelivery

if TYPE_CHECKING:
    from signedwire.cli.surface import Verify

__all__ = ["verify"]

_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_STARTS: Final = (_MAGIC_BYTES, RECEIPT_PROOF_MAGIC)
_MAX_FRAME_SIZE: Final = 2**24 - 1
_CHUNK: Final = 64 * 1024
_MAX_JSON: Final = 9 * 1024 * 1024
"""Bytes of a line: 1 MiB of payload, each byte of it as `\\u00xx`, and the envelope in hex."""
_MAX_WIDE_JSON: Final = 4 * 1024 * 1024
"""The same of a line that is not ASCII: Python takes four bytes for each character of it."""
_MAX_JSON_PARTS: Final = 256 * 1024
"""Bytes of a line outside of its strings, each of which can cost Python 25."""
_JSON_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_MAX_INVALID: Final = 100_000
"""What is behind so many that are invalid is not looked at: it would take hours."""
_MAX_PIPE: Final = 1024 * 1024 * 1024
"""Bytes of text that may come by a pipe, which are copied to be read twice."""
_IN_MEMORY: Final = 4 * 1024 * 1024
"""Bytes of it that need no temporary file."""
_MAX_BLANKS: Final = 4096
"""Bytes at the start of a line in which an envelope has to begin."""
_BLANKS: Final = b" \t\r\v\f"
_LINE_START: Final = re.compile(
    b"\n[%b]*+(?:(\\{)|%b)"
    % (
        _BLANKS,
        b"|".join(
            (b"[%b]*+" % _BLANKS).join(bytes([digit]) for digit in start.hex().encode())
            for start in _STARTS
        ),
    ),
    re.IGNORECASE,
)
"""A line that begins JSON, or in hex digits an envelope or a proof."""
_NOT_HEX: Final = "not hex digits"
_TOO_MANY: Final = (
    f"neither this nor what is behind it was looked at: {_MAX_INVALID} before it are invalid"
)


class _Found(NamedTuple):
    """Something that should be an envelope, or a receipt proof."""

    where: str
    pieces: Iterator[bytes]
    """Its bytes. A ValueError from it: they stood there in hex digits, and some are none."""
    claims: dict[str, object] | None = None
    """What the line around it says."""
    problem: str = ""
    """Why there are no bytes to look at."""


class _Verdict(NamedTuple):
    where: str
    envelope: SignedEnvelope | None
    problem: str
    """Why it is invalid; empty: it is valid."""
    delivery: ProvenDelivery | None = None
    """What a valid receipt proof proves."""


def verify(options: Verify) -> int:
    """Check every envelope and every proof in the file; 1 if one is invalid.

    However large the file is, and whatever is in it: some 50 MiB of memory at most, beside
    those of the program itself, and time that grows with its size.
    """
    count = failures = 0
    with _opened(options.file) as file:
        for found in _find(file):
            verdict = _judge(found)
            count += 1
            failures += bool(verdict.problem)
            if failures > _MAX_INVALID:
                verdict = _Verdict(found.where, None, _TOO_MANY)
            if options.json:
                emit(_fields(verdict))
            else:
                result_as_is(_line(verdict))
            if failures > _MAX_INVALID:
                break
    if not count:
        raise BadFile(
            f"there is no envelope in {options.file}",
            "It takes receipt proofs, raw or hex envelopes, v1 frames, or what "
            "`signedwire listen --json` printed",
        )
    if not options.json:
        say(f"{count - failures} valid, {failures} invalid")
    return ExitCode.FAILED if failures else 0


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path == Path("-"):
        yield standard_input().buffer
        return
    with open_input(path) as file:
        yield file


@contextmanager
def _rewound(file: IO[bytes], at: int | None, first: bytes) -> Iterator[IO[bytes]]:
    """The file at its start again, which was at `at`; what cannot go back is copied.

    Args:
        first: What was read since.

    Raises:
        BadFile: it has more than 1 GiB, or there is no place for a copy.
    """
    if at is not None:
        file.seek(at)
        yield file
        return
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        size = 0
        try:
            for piece in chain((first,), _chunks(file)):
                size += len(piece)
                if size > _MAX_PIPE:
                    break
                copy.write(piece)
            copy.seek(0)
        except OSError as error:
            raise BadFile(
                f"what comes by a pipe is copied, and that failed: {error.strerror or error}",
                "Save it in a file, and give the name of that",
            ) from None
        if size > _MAX_PIPE:
            raise BadFile(
                "more than 1 GiB of text came by a pipe",
                "Save it in a file, and give the name of that",
            )
        yield cast(IO[bytes], copy)


# -- what there is ------------------------------------------------------------------


def _find(file: IO[bytes]) -> Iterator[_Found]:
    """Everything that looks like an envelope, or stands where one should.

    Raises:
        BadFile: it cannot be read.
    """
    at = file.tell() if is_regular(file) else None
    try:
        first = file.read(_CHUNK)
    except OSError as error:
        raise BadFile(f"cannot read it: {error.strerror}", "Is it a file?") from None
    found = _in_bytes(chain((first,), _chunks(file)))
    if found is not None:
        yield from found
    elif b"\0" not in first:  # no text has that
        with _rewound(file, at, first) as text:
            yield from _in_text(text)


def _in_text(file: IO[bytes]) -> Iterator[_Found]:
    start = file.tell()
    is_json, count = _survey(file)
    file.seek(start)
    if not is_json and count < 2:
        # One thing over several lines, as `xxd -p` prints it.
        yield from _in_bytes(_unhexed(_chunks(file))) or ()
        return
    lines = _Lines(file)
    for number, pieces in lines:
        if is_json:
            yield from _in_json(f"line {number}", pieces)
        else:
            yield _Found(f"line {number}", _unhexed(pieces))
    if not lines.is_text:
        problem = "it has a byte 0, so this is no text; what is behind was not read"
        yield _Found(f"line {lines.number}", iter(()), problem=problem)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK), b"")


def _in_bytes(pieces: Iterator[bytes]) -> Iterator[_Found] | None:
    """What is in bytes; `None` where they begin like nothing that is known."""
    try:
        start = _begin(pieces)
    except ValueError:
        return None
    pieces = chain((start,), pieces)
    if start.startswith(RECEIPT_PROOF_MAGIC):
        return iter((_Found("proof", pieces),))
    if start.startswith(_MAGIC_BYTES):
        return iter((_Found("envelope", pieces),))
    return _in_frames(pieces) if start.startswith(b"\0") else None


def _begin(pieces: Iterator[bytes]) -> bytes:
    """The first pieces, with at least as many bytes as tell what it is."""
    start = b""
    while len(start) < len(RECEIPT_PROOF_MAGIC) and (piece := next(pieces, b"")):
        start += piece
    return start


def _in_frames(pieces: Iterator[bytes]) -> Iterator[_Found]:
    decoder = FrameDecoder(_MAX_FRAME_SIZE)
    number, problem = 0, ""
    try:
        for piece in pieces:
            for frame in decoder.receive_data(piece):
                number += 1
                if len(frame) < ENVELOPE_OVERHEAD:
                    problem = f"{len(frame)} bytes are no envelope; what is behind was not read"
                    yield _Found(f"frame {number}", iter(()), problem=problem)
                    return
                yield _Found(f"frame {number}", _cut(frame))
                frame = b""  # 16 MiB, perhaps, which the next one needs
            if decoder.error is not None:
                break
        decoder.receive_eof()
    except ValueError:
        problem = _NOT_HEX
    if decoder.error is not None:
        problem = decoder.error.fact
    if problem and number:
        yield _Found(f"frame {number + 1}", iter(()), problem=problem)


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK))


class _Lines:
    """The lines of a text that are not blank, with their numbers.

    Each comes in pieces; what nobody takes of it is passed over. A byte 0, which no text
    has, ends it: behind it there may be a TiB of nothing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.number = 0
        self.is_text = True
        self._file = file

    def __iter__(self) -> Iterator[tuple[int, Iterator[bytes]]]:
        while self.is_text and (piece := self._file.readline(_CHUNK)):
            self.number += 1
            rest = self._rest(piece)
            is_whole = piece.endswith(b"\n") or len(piece) < _CHUNK
            if is_whole and piece.isspace():
                self.number += _skip_blank_lines(self._file)
            else:
                yield self.number, chain((piece,), rest)
            for _ in rest:
                pass

    def _rest(self, piece: bytes) -> Iterator[bytes]:
        self.is_text = b"\0" not in piece
        while self.is_text and not piece.endswith(b"\n"):
            piece = self._file.readline(_CHUNK)
            if not piece:
                return
            self.is_text = b"\0" not in piece
            yield piece


def _skip_blank_lines(file: IO[bytes]) -> int:
    """Go to the next line that is not blank; how many were: a loop over each takes hours."""
    count, size = 0, 256
    while piece := file.read(size):
        text = piece.lstrip()
        blanks = piece[: len(piece) - len(text)]
        count += blanks.count(b"\n")
        if text:
            file.seek(-len(text), os.SEEK_CUR)
            break
        size = min(2 * size, _CHUNK)
    return count


def _survey(file: IO[bytes]) -> tuple[bool, int]:
    """Whether there is JSON in it, and how many lines begin an envelope or a proof.

    It stops where the one or the other is decided.
    """
    count, text = 0, b"\n"
    while True:
        piece = file.read(_CHUNK)
        text += piece
        # The last line may go on: it is looked at when that makes no difference any more.
        end = max(0, text.rfind(b"\n"))
        if not piece or len(text) - end > _MAX_BLANKS:
            end = len(text)
        for match in _LINE_START.finditer(text, 0, end):
            if match[1]:
                return True, count
            count += 1
            if count > 1:
                return False, count
        if not piece or b"\0" in piece:  # or no text
            return False, count
        text = text[end:]


def _unhexed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes that hex digits stand for, whatever blanks and line ends are between them.

    Raises:
        ValueError: something else is among them, or the last one lacks its second digit.
    """
    odd = b""
    for piece in pieces:
        digits = odd + piece.translate(None, b" \t\n\r\v\f")
        odd = digits[len(digits) & ~1 :]
        yield bytes.fromhex(digits[: len(digits) & ~1].decode("ascii"))
    if odd:
        raise ValueError(_NOT_HEX)


def _in_json(where: str, pieces: Iterator[bytes]) -> Iterator[_Found]:
    line = bytearray()
    for piece in pieces:
        line += piece
        if len(line) > _MAX_JSON:
            break
    if len(line) > (_MAX_JSON if line.isascii() else _MAX_WIDE_JSON) or _has_many_parts(line):
        problem = (
            "the line is longer, or has more parts, than `signedwire listen --json` prints of "
            "1 MiB; take the envelope out of it, and verify that"
        )
        yield _Found(where, iter(()), problem=problem)
        return
    try:
        text = line.decode()
        line.clear()
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield _Found(where, iter(()), problem="not JSON; was the end cut off?")
        return
    del text
    if not isinstance(value, dict):
        yield _Found(where, iter(()), problem="JSON, but no object")
        return
    if value.get("event") in ("listening", "summary"):
        return
    digits = value.pop("envelope", None)
    try:
        envelope = bytes.fromhex(digits if isinstance(digits, str) else "none")
    except ValueError:
        problem = 'no "envelope" in hex digits'
        yield _Found(where, iter(()), value, problem)
    else:
        yield _Found(where, _cut(envelope), value)


def _has_many_parts(line: bytearray) -> bool:
    """Whether more is outside of the strings than in any honest line."""
    if len(line) <= _MAX_JSON_PARTS:
        return False
    at = parts = 0
    while parts <= _MAX_JSON_PARTS:
        quote = line.find(b'"', at)
        if quote < 0:
            return parts + len(line) - at > _MAX_JSON_PARTS
        parts += quote - at + 2
        string = _JSON_STRING.match(line, quote)
        if string is None:
            return False  # not JSON
        at = string.end()
    return True


# -- what it is worth ---------------------------------------------------------------


def _judge(found: _Found) -> _Verdict:
    where = found.where
    if found.problem:
        return _Verdict(where, None, found.problem)
    try:
        start = _begin(found.pieces)
        stream: ReceiptProofStream | EnvelopeStream
        if start.startswith(RECEIPT_PROOF_MAGIC):
            stream = ReceiptProofStream()
        else:
            # What a line says of a payload is compared with it.
            stream = EnvelopeStream(whole=WHOLE if found.claims is None else _MAX_JSON)
        stream.receive_data(start)
        for piece in found.pieces:
            stream.receive_data(piece)
            if stream.is_too_long:
                return _Verdict(where, None, "it is longer than any envelope")
    except ValueError:
        return _Verdict(where, None, _NOT_HEX)
    if isinstance(stream, ReceiptProofStream):
        return _judge_proof(where, stream)
    try:
        envelope = stream.envelope()
    except EnvelopeError as error:
        return _Verdict(where, None, error.fact)
    try:
        envelope.verify()
    except SignatureError as error:
        return _Verdict(where, envelope, error.fact)
    return _Verdict(where, envelope, _contradiction(found.claims or {}, envelope))


def _contradiction(claims: dict[str, object], envelope: SignedEnvelope) -> str:
    """What the line around an envelope says otherwise than it."""
    if not claims:
        return ""
    actual = envelope_fields(envelope, is_proven=True)
    if can_decode() and envelope.payload_size <= MAX_DECODED:
        actual["decoded"] = decoded_fields(envelope.payload)
    for name, claimed in claims.items():
        if name in actual and claimed != actual[name]:
            return f"the line was changed: its {name} is not that of the envelope"
    return ""


def _judge_proof(where: str, stream: ReceiptProofStream) -> _Verdict:
    try:
        delivery = stream.delivery()
    except (EnvelopeError, SignatureError) as error:
        return _Verdict(where, None, error.fact)
    return _Verdict(where, delivery.envelope, "", delivery)


def _fields(verdict: _Verdict) -> dict[str, object]:
    is_valid = not verdict.problem
    fields: dict[str, object] = {
        "where": verdict.where,
        "is_valid": is_valid,
        "problem": verdict.problem or None,
    }
    if verdict.envelope is not None:
        fields |= envelope_fields(verdict.envelope, is_proven=is_valid)
    if verdict.delivery is not None:
        fields["delivery"] = _outcome(verdict.delivery)
        fields["delivered_at_us"] = verdict.delivery.at_us
    return fields


def _line(verdict: _Verdict) -> str:
    is_valid = not verdict.problem
    mark = paint("valid  ", "green") if is_valid else paint("invalid", "red")
    parts = [mark, verdict.where]
    envelope = verdict.envelope
    if envelope is not None:
        # In full: twelve characters of a DID can be imitated.
        sender = str(envelope.sender) if is_valid else UNPROVEN
        parts += [
            f"from {sender}",
            f"to {recipient_text(envelope)}",
            f"#{envelope.sequence_number}",
            at_utc(envelope.timestamp_us),
            f"{envelope.payload_size} bytes",
        ]
    delivery = verdict.delivery
    if delivery is not None:
        recipient = recipient_text(delivery.envelope)
        parts.append(f"{_outcome(delivery)} by {recipient} at {at_utc(delivery.at_us)}")
    if not is_valid:
        parts.append(escape(verdict.problem))
    return "  ".join(parts)


def _outcome(delivery: ProvenDelivery) -> str:
    return "handled" if delivery.is_handled else "accepted"
