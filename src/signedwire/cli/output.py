"""Standard input and output, and the escaping of texts from the network or from files."""

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
    """Return `text` on one line, with each character that is not printable as a Python escape.

    Not printable are control characters, and so terminal sequences and line ends; invisible
    and direction-changing characters; surrogates; and unassigned code points.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def result(line: str) -> None:
    """Print one line of a result for people on stdout, at once and escaped."""
    result_as_is(escape(line))


def result_as_is(line: str) -> None:
    """Print one line on stdout, at once. The caller has escaped it, except for `paint()`."""
    _print(line)


def emit(value: Mapping[str, object]) -> None:
    """Print one JSON object on a line of stdout, at once, in ASCII."""
    _print(as_line(value))


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # The system's error names no file when a descriptor cannot be written.
        raise OSError(error.errno, error.strerror, "standard output") from None


def emit_error(value: Mapping[str, object]) -> None:
    """Print one JSON object on a line of stderr, at once, in ASCII."""
    say_as_is(as_line(value))


def as_line(value: Mapping[str, object]) -> str:
    """Return `value` as JSON that every program can read: ASCII, no NaN, no lone surrogate.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    return json.dumps(_sound(value), allow_nan=False)


def _sound(value: object) -> object:
    """Return `value` with surrogates, as file names may have them, as Python escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(_sound(name)): _sound(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sound(part) for part in value]
    return value


def say(line: str) -> None:
    """Print one line of prose on stderr, at once, escaped and without parts that look like keys."""
    say_as_is(escape(without_keys(line)))


def say_as_is(line: str) -> None:
    """Print a line on stderr as it is, such as JSON or the help.

    An error, as of a full disk or a closed pipe, is ignored: the work of a command and its
    exit code do not depend on whether somebody reads stderr.
    """
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def paint(text: str, colour: str) -> str:
    """Return `text` in a colour if stdout is a terminal and NO_COLOR is not set."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return typer.style(text, fg=colour)
    return text


def silence(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that flushing it at exit cannot fail."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # the stream has no descriptor, as in tests
        return
    os.close(nowhere)


def standard_input() -> TextIO:
    """Return `sys.stdin`.

    Raises:
        ConfigError: the process was started without standard input.
    """
    stdin: TextIO | None = sys.stdin
    if stdin is None:
        raise ConfigError("standard input is closed", "Give a file instead of -, or a pipe")
    return stdin
