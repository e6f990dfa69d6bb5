"""Files with saved envelopes and proofs: their formats are recognized and taken apart.

The memory that this takes does not depend on the size or the content of a file.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, Final, NamedTuple, cast

from signedwire.cli.errors import BadFile
from signedwire.cli.input_files import is_regular
from signedwire.cli.text_lines import (
    CHUNK,
    MAGIC_BYTES,
    NOT_HEX,
    Lines,
    bytes_of_hex,
    chunks,
    survey,
)
from signedwire.wire.envelope import ENVELOPE_OVERHEAD
from signedwire.wire.frames import FrameDecoder
from signedwire.wire.receipt_proof import MAGIC as RECEIPT_PROOF_MAGIC

__all__ = ["MAX_JSON", "Found", "find", "first_bytes"]

MAX_JSON: Final = 9 * 1024 * 1024
"""Maximum bytes of a line of JSON: 1 MiB of payload, each byte as `\\u00xx`, and the envelope
in hex."""
_MAX_FRAME_SIZE: Final = 2**24 - 1
_MAX_WIDE_JSON: Final = 4 * 1024 * 1024
"""Maximum bytes of a line that is not ASCII: Python needs four bytes for each character."""
_MAX_JSON_PARTS: Final = 256 * 1024
"""Maximum bytes of a line outside its strings; Python may need 25 bytes for each of them."""
_JSON_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_MAX_PIPE: Final = 1024 * 1024 * 1024
"""Maximum bytes of text from a pipe, which are copied to be read twice."""
_IN_MEMORY: Final = 4 * 1024 * 1024
"""Maximum bytes of that copy that are kept in memory instead of a temporary file."""


class Found(NamedTuple):
    """A part of a file that should be an envelope, or a receipt proof."""

    where: str
    """The place in the file, such as "line 3"."""
    pieces: Iterator[bytes]
    """The bytes of the part. Raises `ValueError` if the file has bad hex digits there."""
    claims: dict[str, object] | None = None
    """The fields of the line of JSON around it."""
    problem: str = ""
    """Why there are no bytes."""


def find(file: IO[bytes]) -> Iterator[Found]:
    """Yield every part of a file that is an envelope or a proof, or should be one.

    Raises:
        BadFile: the file cannot be read, or a pipe cannot be copied.
    """
    at = file.tell() if is_regular(file) else None
    try:
        first = file.read(CHUNK)
    except OSError as error:
        raise BadFile(f"cannot read it: {error.strerror}", "Is it a file?") from None
    found = _in_bytes(chain((first,), chunks(file)))
    if found is not None:
        yield from found
    elif b"\0" not in first:  # no text has a byte 0
        with _rewound(file, at, first) as text:
            yield from _in_text(text)


def first_bytes(pieces: Iterator[bytes]) -> bytes:
    """Return the first pieces joined: enough bytes to recognize the format."""
    start = b""
    while len(start) < len(RECEIPT_PROOF_MAGIC) and (piece := next(pieces, b"")):
        start += piece
    return start


@contextmanager
def _rewound(file: IO[bytes], at: int | None, first: bytes) -> Iterator[IO[bytes]]:
    """Yield a file at its start again; a file that cannot go back is copied.

    Args:
        file: The file.
        at: The position of its start; `None`: it cannot go back.
        first: The bytes that were read since.

    Raises:
        BadFile: the file has more than 1 GiB, or there is no room for a copy.
    """
    if at is not None:
        file.seek(at)
        yield file
        return
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        size = 0
        try:
            for piece in chain((first,), chunks(file)):
                size += len(piece)
                if size > _MAX_PIPE:
                    break
                copy.write(piece)
            copy.seek(0)
        except OSError as error:
            raise BadFile(
                f"input from a pipe is copied, and that failed: {error.strerror or error}",
                "Save it in a file, and give the name of that",
            ) from None
        if size > _MAX_PIPE:
            raise BadFile(
                "more than 1 GiB of text came by a pipe",
                "Save it in a file, and give the name of that",
            )
        yield cast(IO[bytes], copy)


def _in_text(file: IO[bytes]) -> Iterator[Found]:
    start = file.tell()
    is_json, count = survey(file)
    file.seek(start)
    if not is_json and count < 2:
        # One envelope or proof over several lines, as `xxd -p` prints it.
        yield from _in_bytes(bytes_of_hex(chunks(file))) or ()
        return
    lines = Lines(file)
    for number, pieces in lines:
        if is_json:
            yield from _in_json(f"line {number}", pieces)
        else:
            yield Found(f"line {number}", bytes_of_hex(pieces))
    if not lines.is_text:
        problem = "it has a byte 0, so the file is no text; what is behind was not read"
        yield Found(f"line {lines.number}", iter(()), problem=problem)


def _in_bytes(pieces: Iterator[bytes]) -> Iterator[Found] | None:
    """Return what is in these bytes; `None`: they have the start of no known format."""
    try:
        start = first_bytes(pieces)
    except ValueError:
        return None
    pieces = chain((start,), pieces)
    if start.startswith(RECEIPT_PROOF_MAGIC):
        return iter((Found("proof", pieces),))
    if start.startswith(MAGIC_BYTES):
        return iter((Found("envelope", pieces),))
    return _in_frames(pieces) if start.startswith(b"\0") else None


def _in_frames(pieces: Iterator[bytes]) -> Iterator[Found]:
    decoder = FrameDecoder(_MAX_FRAME_SIZE)
    number, problem = 0, ""
    try:
        for piece in pieces:
            for frame in decoder.receive_data(piece):
                number += 1
                if len(frame) < ENVELOPE_OVERHEAD:
                    problem = f"{len(frame)} bytes are no envelope; what is behind was not read"
                    yield Found(f"frame {number}", iter(()), problem=problem)
                    return
                yield Found(f"frame {number}", _pieces_of(frame))
                frame = b""  # frees up to 16 MiB before the next frame is read
            if decoder.error is not None:
                break
        decoder.receive_eof()
    except ValueError:
        problem = NOT_HEX
    if decoder.error is not None:
        problem = decoder.error.fact
    if problem and number:
        yield Found(f"frame {number + 1}", iter(()), problem=problem)


def _pieces_of(data: bytes) -> Iterator[bytes]:
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def _in_json(where: str, pieces: Iterator[bytes]) -> Iterator[Found]:
    line = bytearray()
    for piece in pieces:
        line += piece
        if len(line) > MAX_JSON:
            break
    if len(line) > (MAX_JSON if line.isascii() else _MAX_WIDE_JSON) or _has_many_parts(line):
        problem = (
            "the line is longer, or has more parts, than `signedwire listen --json` prints for "
            "1 MiB; take the envelope out of it, and verify that"
        )
        yield Found(where, iter(()), problem=problem)
        return
    try:
        text = line.decode()
        line.clear()
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield Found(where, iter(()), problem="not JSON; was the end cut off?")
        return
    del text
    if not isinstance(value, dict):
        yield Found(where, iter(()), problem="JSON, but no object")
        return
    if value.get("event") in ("listening", "summary"):
        return
    digits = value.pop("envelope", None)
    try:
        envelope = bytes.fromhex(digits if isinstance(digits, str) else "none")
    except ValueError:
        problem = 'no "envelope" in hex digits'
        yield Found(where, iter(()), value, problem)
    else:
        yield Found(where, _pieces_of(envelope), value)


def _has_many_parts(line: bytearray) -> bool:
    """Return whether a line has more bytes outside its strings than `listen` ever prints."""
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
