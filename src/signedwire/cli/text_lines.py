"""The lines of large text files, read in pieces: numbers, kinds, and hex digits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from typing import IO, Final

from signedwire.wire.header import MAGIC
from signedwire.wire.receipt_proof import MAGIC as RECEIPT_PROOF_MAGIC

__all__ = ["CHUNK", "MAGIC_BYTES", "NOT_HEX", "Lines", "bytes_of_hex", "chunks", "survey"]

CHUNK: Final = 64 * 1024
"""Bytes of a piece."""
NOT_HEX: Final = "not hex digits"
MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
"""The first bytes of an envelope."""

_MAX_BLANKS: Final = 4096
"""Bytes at the start of a line within which an envelope must begin."""
_BLANKS: Final = b" \t\r\v\f"
_LINE_START: Final = re.compile(
    b"\n[%b]*+(?:(\\{)|%b)"
    % (
        _BLANKS,
        b"|".join(
            (b"[%b]*+" % _BLANKS).join(bytes([digit]) for digit in start.hex().encode())
            for start in (MAGIC_BYTES, RECEIPT_PROOF_MAGIC)
        ),
    ),
    re.IGNORECASE,
)
"""Matches a line that begins with JSON, or with the hex digits of an envelope or a proof."""


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a file in pieces."""
    return iter(lambda: file.read(CHUNK), b"")


class Lines:
    """The lines of a text that are not blank, with their numbers.

    Each line comes in pieces; pieces that the caller does not take are skipped. A byte 0,
    which no text has, ends the iteration: a sparse file may have a TiB of them.

    Args:
        file: The text; it must be seekable.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.number = 0
        """Number of the last line that was read, from 1."""
        self.is_text = True
        """Whether no byte 0 was read."""
        self._file = file

    def __iter__(self) -> Iterator[tuple[int, Iterator[bytes]]]:
        while self.is_text and (piece := self._file.readline(CHUNK)):
            self.number += 1
            rest = self._rest(piece)
            is_whole = piece.endswith(b"\n") or len(piece) < CHUNK
            if is_whole and piece.isspace():
                self.number += _skip_blank_lines(self._file)
            else:
                yield self.number, chain((piece,), rest)
            for _ in rest:
                pass

    def _rest(self, piece: bytes) -> Iterator[bytes]:
        self.is_text = b"\0" not in piece
        while self.is_text and not piece.endswith(b"\n"):
            piece = self._file.readline(CHUNK)
            if not piece:
                return
            self.is_text = b"\0" not in piece
            yield piece


def _skip_blank_lines(file: IO[bytes]) -> int:
    """Go to the next line that is not blank, and return the number of blank lines before it.

    The pieces are searched as a whole: a loop over each line of a large file takes hours.
    """
    count, size = 0, 256
    while piece := file.read(size):
        text = piece.lstrip()
        blanks = piece[: len(piece) - len(text)]
        count += blanks.count(b"\n")
        if text:
            file.seek(-len(text), os.SEEK_CUR)
            break
        size = min(2 * size, CHUNK)
    return count


def survey(file: IO[bytes]) -> tuple[bool, int]:
    """Return whether a file has JSON, and how many lines begin with an envelope or a proof.

    Reading stops at the first line of JSON, at the second other line, or at a byte 0.
    """
    count, text = 0, b"\n"
    while True:
        piece = file.read(CHUNK)
        text += piece
        # The last line may be incomplete, and waits for more: at most the bytes within which an
        # envelope must begin.
        end = max(0, text.rfind(b"\n"))
        if not piece or len(text) - end > _MAX_BLANKS:
            end = len(text)
        for match in _LINE_START.finditer(text, 0, end):
            if match[1]:
                return True, count
            count += 1
            if count > 1:
                return False, count
        if not piece or b"\0" in piece:
            return False, count
        text = text[end:]


def bytes_of_hex(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the bytes of hex digits; blanks and line ends between them are ignored.

    Raises:
        ValueError: there are other characters, or the last digit lacks its second one.
    """
    odd = b""
    for piece in pieces:
        digits = odd + piece.translate(None, b" \t\n\r\v\f")
        odd = digits[len(digits) & ~1 :]
        yield bytes.fromhex(digits[: len(digits) & ~1].decode("ascii"))
    if odd:
        raise ValueError(NOT_HEX)
