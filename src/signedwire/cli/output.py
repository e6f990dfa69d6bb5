"""What goes in and out of the process, and the escaping of what others wrote."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import TextIO

import typer

from signedwire.cli.redaction import without_keys
from signedwire.errors import ConfigError

__all__ = [
    "as_line",
    "emit",
    "emit_error",
    "escape",
    "paint",
    "result",
    "result_as_is",
    "say",
    "say_as_is",
    "silence",
    "standard_input",
]


def escape(text: str) -> str:
    """`text` on one line, with every character that is not printable as its Python escape.

    Not printable are control characters, so also terminal sequences, line ends, invisible
    and direction-changing characters, surrogates and unassigned code points.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def result(line: str) -> None:
    """Print one line of a result for people on stdout, at once and escaped."""
    result_as_is(escape(line))


def result_as_is(line: str) -> None:
    """Print one line with `paint()` in it on stdout, at once. The caller has escaped the rest."""
    _print(line)


def emit(value: Mapping[str, object]) -> None:
    """One JSON object on a line of stdout, at once; all of it ASCII."""
    _print(as_line(value))


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # The system's error names no file where a descriptor cannot be written.
        raise OSError(error.errno, error.strerror, "standard output") from None


def emit_error(value: Mapping[str, object]) -> None:
    """Print one JSON object on a line of stderr, at once; all of it ASCII."""
    say_as_is(as_line(value))


def as_line(value: Mapping[str, object]) -> str:
    """`value` as JSON that every program can read: ASCII, no NaN, no lone surrogate.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    return json.dumps(_sound(value), allow_nan=False)


def _sound(value: object) -> object:
    """`value` with Python's escape for what no UTF-8 can carry, as in a file name of bytes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(_sound(name)): _sound(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sound(part) for part in value]
    return value


def say(line: str) -> None:
    """Print one line of prose on stderr, at once, escaped and without what looks like a key."""
    say_as_is(escape(without_keys(line)))


def say_as_is(line: str) -> None:
    """Print a line on stderr as it is, such as JSON or the help.

    Where it cannot be written, on a full disk or into a closed pipe, the command goes on: what
    it does and its exit code do not depend on who reads along.
    """
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def paint(text: str, colour: str) -> str:
    """`text` in a colour where stdout is a terminal and NO_COLOR is not set."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return typer.style(text, fg=colour)
    return text


def silence(stream: TextIO) -> None:
    """Send whatever is still buffered nowhere, so that the interpreter's exit says nothing."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # it has no descriptor, as in tests
        return
    os.close(nowhere)


def standard_input() -> TextIO:
    """`sys.stdin`, which is None where the process was started without."""
    stdin: TextIO | None = sys.stdin
    if stdin is None:
        raise ConfigError("standard input is closed", "Give a file instead of -, or a pipe")
    return stdin
