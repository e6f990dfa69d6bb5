"""What callers pass to the API, checked and made exact: texts, seconds, DIDs, payloads.

Each public call checks its arguments with these functions before it queues anything, so
that one mistake has one error everywhere. A value of a wrong kind is a TypeError, a value
out of range a ValueError; both name the argument, the value and what to pass instead.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from itertools import islice
from typing import Final, Literal, TypeAlias, TypeVar, overload

from signedwire.clock import WallInstant, monotonic, unix_time
from signedwire.states import Until as Until
from signedwire.types import Did, PayloadType, Priority

__all__ = [
    "BytesLike",
    "Deadline",
    "PayloadTypeName",
    "PriorityName",
    "RefusalName",
    "Until",
    "as_bytes",
    "as_did",
    "as_seconds",
    "chosen",
    "did_you_mean",
    "due_at",
    "next_chunk",
    "priority_of",
    "payload_type_of",
    "shown",
    "whole_number",
]

PriorityName: TypeAlias = Literal["low", "normal", "high", "critical"]
"""The text of a `Priority`."""
PayloadTypeName: TypeAlias = Literal[
    "raw", "robot_command", "model_weights", "inference_result", "sensor_fusion"
]
"""The text of a `PayloadType`."""
RefusalName: TypeAlias = Literal[
    "expired",
    "not for us",
    "too large",
    "inbox full",
    "not allowed",
    "refused",
    "malformed",
    "bad signature",
    "duplicate",
]
"""The text of a `Reason` that `Message.nack()` can tell the sender."""
BytesLike: TypeAlias = bytes | bytearray | memoryview
"""What a payload may be given as. It is copied unless it is `bytes`."""
Deadline: TypeAlias = float | timedelta | datetime | None
"""Seconds from now, or a `timedelta`, or an instant with a time zone; `None`: no deadline."""

E = TypeVar("E", bound=Enum)
# How many messages of `send_many()`, and how many bytes, are made at a time.
_CHUNK: Final = 256
_CHUNK_BYTES: Final = 1024 * 1024
_MAX_SECONDS: Final = 1_000_000_000
_SHOWN: Final = 60


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """A hint for an unknown `name`: the nearest of `known`, else all of them.

    `prefix` is put before each that is shown.
    """
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"Did you mean {prefix}{nearest[0]}?"
    return f"Known are {', '.join(prefix + each for each in known)}"


def chosen(
    kind: type[E],
    value: object,
    argument: str,
    among: Iterable[E] | None = None,
    fault: str = "is unknown",
) -> E:
    """The member of an enum that `value` is or names.

    The text of a member is its value for a StrEnum, else its name in lower case. A number
    that is the value of a member is taken, too; True and False are none.

    Args:
        argument: Its name in the call, for the error.
        among: The members that are allowed; by default all.
        fault: What the error says of any other.

    Raises:
        ValueError: `value` is none of them. The error names the argument and the choices,
            and the nearest of them.
        TypeError: `value` is neither a member nor a text.
    """
    members = list(kind if among is None else among)
    if isinstance(value, kind):
        if value in members:
            return value
    elif isinstance(value, str):
        for member in members:
            if text_of(member) == value:
                return member
    elif type(value) is int and not issubclass(kind, StrEnum):
        for member in members:
            if member.value == value:
                return member
    else:
        raise TypeError(
            f"{argument}={shown(value)} is {_kind(value)}; a {kind.__name__} or its text is "
            f"wanted, such as {text_of(members[0])!r}"
        )
    texts = [text_of(member) for member in members]
    text = text_of(value) if isinstance(value, Enum) else str(value)
    nearest = difflib.get_close_matches(text.lower(), texts, n=1)
    hint = f". Did you mean {nearest[0]!r}?" if nearest and nearest[0] != text else ""
    what = repr(text) if isinstance(value, Enum) else shown(value)
    raise ValueError(f"{argument}={what} {fault}; known are {', '.join(texts)}{hint}")


def text_of(member: Enum) -> str:
    """The text that names a member of an enum in a call."""
    return member.value if isinstance(member, StrEnum) else member.name.lower()


def priority_of(value: Priority | PriorityName) -> Priority:
    """A priority that is given as a member or its text. Raises what `chosen()` does."""
    return value if type(value) is Priority else chosen(Priority, value, "priority")


def payload_type_of(value: PayloadType | PayloadTypeName) -> PayloadType:
    """A payload type that is given as a member or its text. Raises what `chosen()` does."""
    return value if type(value) is PayloadType else chosen(PayloadType, value, "payload_type")


def as_bytes(payload: object) -> bytes:
    """A payload as bytes.

    Raises:
        TypeError: it is neither bytes, bytearray nor memoryview.
    """
    if type(payload) is bytes:
        return payload
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        hint = "; encode text with .encode()" if isinstance(payload, str) else ""
        raise TypeError(f"a payload is bytes, not {type(payload).__name__}{hint}")
    return bytes(payload)


def check_payloads(payloads: object) -> None:
    """Raise where `send_many()` was not given several payloads. Checks all of a list or tuple.

    Raises:
        TypeError: `payloads` is one payload, or no iterable, or a list with something else.
    """
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise TypeError(
            f"payloads is one {type(payloads).__name__}, not a list of payloads: "
            "pass [payload], or use send()"
        )
    if not isinstance(payloads, Iterable):
        hint = "; collect it into a list first" if hasattr(payloads, "__aiter__") else ""
        raise TypeError(f"payloads is {_kind(payloads)}; an iterable of bytes is wanted{hint}")
    if isinstance(payloads, Sequence):
        for place, payload in enumerate(payloads):
            if not isinstance(payload, (bytes, bytearray, memoryview)):
                hint = "; encode text with .encode()" if isinstance(payload, str) else ""
                raise TypeError(
                    f"payloads[{place}] is {_kind(payload)}; bytes are wanted{hint}. "
                    "None of them was queued"
                )


def as_did(value: object, argument: str = "recipient") -> Did:
    """A DID that is given as a `Did` or its text.

    Raises:
        DidError: the text is no DID.
        TypeError: `value` is neither.
    """
    if type(value) is Did:
        return value
    if isinstance(value, str):
        return Did.parse(value)
    if isinstance(value, Did):  # a plain one of it: a subclass may change what it is made of
        return Did(value._raw)
    hint = ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        hint = ": Did(raw) takes the 32 bytes of a key"
    elif isinstance(getattr(value, "did", None), Did):
        hint = ": pass its .did"
    raise TypeError(f"a {argument} is a Did or its text, not {type(value).__name__}{hint}")


def as_seconds(value: object, argument: str = "timeout") -> float | None:
    """Seconds to wait; `None`: without limit, as is everything above 1,000,000,000 (30 years).

    No event loop and no lock can count to any number, and nobody sees the difference.

    Raises:
        TypeError: `value` is no number. A bool is none.
        ValueError: it is less than 0, or not a number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; use .total_seconds()" if isinstance(value, timedelta) else ""
        raise TypeError(
            f"{argument}={shown(value)} is {_kind(value)}; seconds are wanted, "
            f"such as 5.0, or None for no limit{hint}"
        )
    if not value >= 0:  # NaN, which compares false, is refused, too
        raise ValueError(
            f"{argument}={shown(value)} is not a number of seconds, 0 or more; None sets no limit"
        )
    return None if value > _MAX_SECONDS else float(value)


def whole_number(value: object, argument: str, *, least: int = 0) -> int:
    """A whole number of at least `least`; what a store cannot count is made 2**62.

    Raises:
        TypeError: `value` is no int. A bool is none.
        ValueError: it is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument}={shown(value)} is {_kind(value)}; a whole number is wanted")
    if value < least:
        raise ValueError(f"{argument}={shown(value)} is less than {least}")
    return min(value, 2**62)


def next_chunk(source: Iterator[BytesLike]) -> list[BytesLike]:
    """The next payloads: a full batch, but no more memory than a few large ones.

    Raises:
        TypeError: one of them is no payload. What was taken before it is lost.
    """
    chunk: list[BytesLike] = []
    size = 0
    for payload in islice(source, _CHUNK):
        chunk.append(payload if type(payload) is bytes else as_bytes(payload))
        size += len(chunk[-1])
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

    Raises:
        TypeError: `deadline` is neither a number, a `timedelta` nor a `datetime`.
        ValueError: it is not a positive number of seconds of at most 30 years, or a
            `datetime` without a time zone.
    """
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise ValueError(
                f"deadline {deadline.isoformat()} has no time zone; use datetime.now(timezone.utc)"
            )
        return WallInstant(min(deadline.timestamp(), unix_time() + _MAX_SECONDS))
    seconds = deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(
            f"deadline={shown(deadline)} is {_kind(deadline)}; seconds, a timedelta or a "
            "datetime with a time zone is wanted, or None for no deadline"
        )
    if not 0 < seconds <= _MAX_SECONDS:
        raise ValueError(
            f"deadline {shown(deadline)} is not a positive number of seconds of at most "
            f"{_MAX_SECONDS:_} (30 years); None is for ever"
        )
    return monotonic() + seconds


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def shown(value: object, most: int = _SHOWN) -> str:
    """A value as errors have it: in at most so many characters, and never another error."""
    # Bytes may be a payload or a key, and so are not shown.
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, int) and not isinstance(value, Enum) and value.bit_length() > 200:
        return f"<a number of {value.bit_length()} bits>"  # str() may refuse it
    try:
        text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    except Exception:  # noqa: BLE001 - a list with such a number, or a class of others
        return f"<{_kind(value)}>"
    return text if len(text) <= most else f"{text[: most - 1]}…"
