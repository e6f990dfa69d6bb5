"""What a fuzz target is, and what all of them use: text, files, and reading an input as choices."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = [
    "Choices",
    "Target",
    "clean_up",
    "expect_named",
    "expect_same_error",
    "expect_short",
    "file_with",
    "folder",
    "text_of",
]


@dataclass(frozen=True, slots=True)
class Target:
    """One reader of foreign bytes."""

    name: str
    run: Callable[[bytes], None]
    """Reads one input; an assertion or an undocumented exception is a crash."""
    seeds: tuple[bytes, ...]
    """Inputs to begin with."""
    words: tuple[bytes, ...] = ()
    """What such inputs are made of."""
    max_size: int = 4096


class Choices:
    """Reads an input as a list of choices, front to back; behind its end every choice is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        """Whether the input is used up."""
        return self._at >= len(self._data)

    def byte(self) -> int:
        """The next byte."""
        return (self.take(1) or b"\0")[0]

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1, by the next byte."""
        return self.byte() % limit

    def take(self, count: int) -> bytes:
        """The next `count` bytes, or as many as there are."""
        self._at += count
        return self._data[self._at - count : self._at]


def text_of(data: bytes) -> str:
    """As arguments and variables come: bytes that are no UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def expect_short(error: Exception) -> None:
    """An error does not repeat at length what it was given."""
    assert len(str(error)) < 1000


def expect_named(error: Exception, path: Path) -> None:
    """An error about a file says which."""
    assert str(path) in str(error)


def expect_same_error(error: Exception, read: Callable[[], object]) -> None:
    """Another way to read the same bytes finds fault with them, too."""
    try:
        read()
    except type(error):
        return
    raise AssertionError("only one of two ways to read it finds an error") from error


@cache
def folder() -> Path:
    """Where input files are written."""
    directory = tempfile.TemporaryDirectory(prefix="signedwire-fuzz-")
    _OPEN.append(directory)
    return Path(directory.name)


_OPEN: list[tempfile.TemporaryDirectory[str]] = []


def clean_up() -> None:
    """Remove the folder of the input files."""
    folder.cache_clear()
    while _OPEN:
        _OPEN.pop().cleanup()


def file_with(data: bytes, name: str = "input") -> Path:
    """A private file that holds `data`; the next call overwrites it."""
    path = folder() / name
    if not path.exists():
        path.touch(mode=0o600)
    path.write_bytes(data)
    return path
