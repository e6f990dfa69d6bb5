"""What callers pass to `send()`, made exact: deadlines, payloads, names of enums."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import Enum
from itertools import islice
from typing import TypeVar, overload

from signedwire.clock import WallInstant, monotonic, unix_time

__all__ = ["Deadline", "as_bytes", "due_at", "named", "next_chunk"]

Deadline = float | timedelta | datetime | None
"""Seconds from now, or a `timedelta`, or an instant with a time zone; `None`: no deadline."""

E = TypeVar("E", bound=Enum)
# How many messages of `send_many()`, and how many bytes, are made at a time.
_CHUNK = 256
_CHUNK_BYTES = 1024 * 1024
_MAX_DEADLINE = 1_000_000_000


def named(kind: type[E], value: E | str) -> E:
    """A member of an enum, also by its name."""
    try:
        return kind[value.upper()] if isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        known = ", ".join(member.name.lower() for member in kind)
        raise ValueError(f"{value!r} is no {kind.__name__}; known are {known}") from None


def as_bytes(payload: object) -> bytes:
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"a payload is bytes, not {type(payload).__name__}; encode text with .encode()"
        )
    return bytes(payload)


def next_chunk(source: Iterator[bytes]) -> list[bytes]:
    """The next payloads: a full batch, but no more memory than a few large ones."""
    chunk: list[bytes] = []
    size = 0
    for payload in islice(source, _CHUNK):
        chunk.append(payload)
        size += len(payload)
        if size >= _CHUNK_BYTES:
            break
    return chunk


@overload
def due_at(deadline: None) -> None: ...


@overload
def due_at(deadline: float | timedelta | datetime) -> float: ...


@overload
def due_at(deadline: Deadline) -> float | None: ...


def due_at(deadline: Deadline) -> float | None:
    """The instant by the clock that it follows: seconds the monotonic clock, a date the wall clock.

    A date moves when the wall clock is set; seconds pass, also while the machine is suspended.
    """
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise ValueError(
                f"deadline {deadline.isoformat()} has no time zone; use datetime.now(timezone.utc)"
            )
        return WallInstant(min(deadline.timestamp(), unix_time() + _MAX_DEADLINE))
    seconds = deadline.total_seconds() if isinstance(deadline, timedelta) else float(deadline)
    if not 0 < seconds <= _MAX_DEADLINE:
        raise ValueError(
            f"deadline {deadline!r} is not a positive number of seconds of at most "
            f"{_MAX_DEADLINE:_} (30 years); None is for ever"
        )
    return monotonic() + seconds
