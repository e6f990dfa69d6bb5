"""Checks and conversions of the arguments of public calls: texts, seconds, DIDs, payloads.

Each public call checks its arguments with these functions before it queues anything. So a
mistake has the same error everywhere. A value of a wrong type raises TypeError, and a value
out of range ValueError. Both name the argument, the value and what to pass instead.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from functools import lru_cache
from itertools import islice
from typing import Final, Literal, TypeAlias, TypeVar, overload

from signedwire.clock import WallInstant, monotonic, unix_time
from signedwire.states import Until as Until
from signedwire.types import MAX_SUBJECT_SIZE, Did, PayloadType, Priority, is_subject_text

__all__ = [
    "BytesLike",
    "Deadline",
    "PayloadTypeName",
    "PriorityName",
    "RefusalName",
    "Until",
    "as_bytes",
    "as_count",
    "as_did",
    "as_flag",
    "as_latest",
    "as_rate",
    "as_seconds",
    "as_subject",
    "as_timeout",
    "chosen",
    "did_you_mean",
    "due_at",
    "next_chunk",
    "priority_of",
    "payload_type_of",
    "printable",
    "rate_text",
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
    "unknown subject",
    "clock unknown",
    "rate",
    "role",
    "size rule",
    "subject rule",
]
"""The text of a `Reason` that `Message.nack()` can send to the sender."""
BytesLike: TypeAlias = bytes | bytearray | memoryview
"""Types of a payload in a call. A payload is copied unless it is `bytes`."""
Deadline: TypeAlias = float | timedelta | datetime | None
"""Seconds from now, or a `timedelta`, or an instant with a time zone; `None`: no deadline."""

E = TypeVar("E", bound=Enum)
# Maximum number of messages of `send_many()`, and of their bytes, that are made at a time.
_CHUNK: Final = 256
_CHUNK_BYTES: Final = 1024 * 1024
MAX_LATEST_SIZE: Final = 255
"""Maximum size of the key of `latest`, in bytes."""
_MAX_SECONDS: Final = 1_000_000_000
_SHOWN: Final = 60
_RATE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(kB|MB|GB|KiB|MiB|GiB)/s", re.ASCII)
_UNITS: Final = {
    "GB": 10**9,
    "MB": 10**6,
    "kB": 10**3,
    "GiB": 2**30,
    "MiB": 2**20,
    "KiB": 2**10,
}
_LEAST_RATE: Final = 1000
_MOST_RATE: Final = 10**12


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a hint for an unknown name: the most similar known name, else all of them.

    Args:
        name: The unknown name.
        known: The known names.
        prefix: A text that is shown before each known name.
    """
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"Did you mean {prefix}{nearest[0]}?"
    return f"Known are {', '.join(prefix + each for each in known)}"


def printable(value: object, argument: str, limit: int) -> str:
    """Return a text for people that the caller has passed.

    Args:
        value: The text.
        argument: The name of the argument, for the error.
        limit: Maximum size in bytes of UTF-8.

    Raises:
        ValueError: the text is too long, or has a character that is not printable.
        TypeError: `value` is no text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument}={shown(value)} is {_kind(value)}; a text is wanted")
    if not value.isprintable():
        raise ValueError(f"{argument}={shown(value)} has a character that is not printable")
    size = len(value.encode())
    if size > limit:
        raise ValueError(f"{argument} has {size} bytes of UTF-8, and at most {limit} are allowed")
    return value


def chosen(
    kind: type[E],
    value: object,
    argument: str,
    among: Iterable[E] | None = None,
    fault: str = "is unknown",
) -> E:
    """Return the member of an enum that `value` is or names.

    The text of a member is its value for a StrEnum, else its name in lower case. An int
    that is the value of a member is accepted too, but no bool.

    Args:
        kind: The enum.
        value: The value that the caller has passed.
        argument: The name of the argument, for the error.
        among: The members that are allowed; `None`: all.
        fault: The words of the error for any other member or text.

    Raises:
        ValueError: `value` is no allowed member. The error names the argument, the allowed
            members, and the most similar one.
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
    """Return the text that names a member of an enum in a call."""
    return member.value if isinstance(member, StrEnum) else member.name.lower()


def priority_of(value: Priority | PriorityName) -> Priority:
    """Return the priority that is given as a member or its text; raises like `chosen()`."""
    return value if type(value) is Priority else chosen(Priority, value, "priority")


def payload_type_of(value: PayloadType | PayloadTypeName) -> PayloadType:
    """Return the payload type that is given as a member or its text; raises like `chosen()`."""
    return value if type(value) is PayloadType else chosen(PayloadType, value, "payload_type")


def as_subject(subject: object) -> bytes:
    """Return a subject as bytes.

    Raises:
        TypeError, ValueError: it is not text, or not one that a header can carry.
    """
    if not isinstance(subject, str):
        raise TypeError(f"a subject is text, not {type(subject).__name__}")
    if not is_subject_text(subject):
        if subject.isprintable():
            fault = 'is not in NFC: unicodedata.normalize("NFC", subject) makes it so'
        else:
            fault = "has a character that is not printable, such as a line end"
        raise ValueError(f"subject={shown(subject)} {fault}")
    raw = subject.encode()
    if len(raw) > MAX_SUBJECT_SIZE:
        raise ValueError(
            f"subject={shown(subject)} has {len(raw)} bytes in UTF-8; "
            f"at most {MAX_SUBJECT_SIZE} are allowed"
        )
    return raw


def as_latest(latest: object) -> bytes | None:
    """Return the key of `latest` as bytes: empty for `True`, and `None` for `None` and `False`.

    Raises:
        TypeError: it is neither text nor a bool.
        ValueError: the text is empty, or has more than 255 bytes in UTF-8.
    """
    if latest is None or latest is False:
        return None
    if latest is True:
        return b""
    if not isinstance(latest, str):
        raise TypeError(
            f'latest={shown(latest)} is {_kind(latest)}; a text is wanted, such as "left arm", or '
            "True for the messages of the subject that have no key of their own"
        )
    raw = latest.encode(errors="surrogatepass")
    if not 0 < len(raw) <= MAX_LATEST_SIZE:
        raise ValueError(
            f"latest={shown(latest)} has {len(raw)} bytes in UTF-8; 1 to {MAX_LATEST_SIZE} are "
            "allowed, and latest=True means the empty key"
        )
    return raw


def as_bytes(payload: object) -> bytes:
    """Return a payload as bytes.

    Raises:
        TypeError: the payload is neither bytes, bytearray nor memoryview.
    """
    if type(payload) is bytes:
        return payload
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        hint = "; encode text with .encode()" if isinstance(payload, str) else ""
        raise TypeError(f"a payload is bytes, not {type(payload).__name__}{hint}")
    return bytes(payload)


def check_payloads(payloads: object) -> None:
    """Raise if the argument of `send_many()` is no iterable of payloads.

    All items of a sequence are checked; those of another iterable are checked when taken.

    Raises:
        TypeError: `payloads` is one payload or no iterable, or an item is no payload.
    """
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise TypeError(
            f"payloads is one {type(payloads).__name__}, not a list of payloads: "
            "pass [payload], or use send()"
        )
    if not isinstance(payloads, Iterable):
        hint = "; collect it into a list first" if hasattr(payloads, "__aiter__") else ""
        raise TypeError(f"payloads is {_kind(payloads)}; an iterable of bytes is wanted{hint}")
    # Nearly all payloads are bytes, and `issuperset` asks for each in C, which saves 0.03 µs.
    if isinstance(payloads, Sequence) and not {bytes}.issuperset(map(type, payloads)):
        for place, payload in enumerate(payloads):
            if not isinstance(payload, (bytes, bytearray, memoryview)):
                hint = "; encode text with .encode()" if isinstance(payload, str) else ""
                raise TypeError(
                    f"payloads[{place}] is {_kind(payload)}; bytes are wanted{hint}. "
                    "None of them was queued"
                )


_did_of: Final = lru_cache(maxsize=1024)(Did.parse)
"""Programs send to the same texts again and again, and the check of a key takes 40 µs."""


def as_did(value: object, argument: str = "recipient") -> Did:
    """Return the DID that is given as a `Did` or its text.

    Raises:
        DidError: the text is no DID.
        TypeError: `value` is neither a `Did` nor a text.
    """
    if type(value) is Did:
        return value
    if isinstance(value, str):
        return _did_of(value)
    if isinstance(value, Did):  # a plain copy: the attributes of a subclass may change
        return Did(value._raw)
    hint = ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        hint = ": Did(raw) takes the 32 bytes of a key"
    elif isinstance(getattr(value, "did", None), Did):
        hint = ": pass its .did"
    raise TypeError(f"a {argument} is a Did or its text, not {type(value).__name__}{hint}")


def as_seconds(value: object, argument: str = "timeout") -> float | None:
    """Return the seconds to wait; `None`: no limit.

    More than 1,000,000,000 seconds (30 years) become no limit, because event loops and locks
    raise for larger numbers.

    Raises:
        TypeError: `value` is no number. A bool is no number.
        ValueError: `value` is less than 0, or NaN.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; use .total_seconds()" if isinstance(value, timedelta) else ""
        raise TypeError(
            f"{argument}={shown(value)} is {_kind(value)}; seconds are wanted, "
            f"such as 5.0, or None for no limit{hint}"
        )
    if not value >= 0:  # written so that NaN is refused too
        raise ValueError(
            f"{argument}={shown(value)} is not a number of seconds, 0 or more; None sets no limit"
        )
    return None if value > _MAX_SECONDS else float(value)


def as_timeout(value: object, argument: str = "timeout") -> float:
    """Return the seconds of a limit that must be there: more than 0, and up to 30 years.

    Raises:
        TypeError, ValueError: `value` is no such number.
    """
    seconds = as_seconds(value, argument) if value is not None else None
    if not seconds:
        raise ValueError(
            f"{argument}={shown(value)} is not a number of seconds above 0, up to 30 years"
        )
    return seconds


def as_count(value: object, argument: str) -> int:
    """Return a whole number of 1 or more.

    Raises:
        TypeError, ValueError: `value` is no such number. A bool is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument}={shown(value)} is {_kind(value)}; a whole number is wanted")
    if value < 1:
        raise ValueError(f"{argument}={shown(value)} is not a whole number, 1 or more")
    return value


def as_flag(value: object, argument: str) -> bool:
    """Return a truth value, which must be one: the text "no" would be true.

    Raises:
        TypeError: `value` is neither true nor false.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{argument}={shown(value)} is {_kind(value)}; True or False is wanted")
    return value


def as_rate(value: object, argument: str = "max_rate") -> float | None:
    """Return a rate in bytes per second; `None`: no cap.

    Args:
        value: A number of bytes per second, or a text such as "2MB/s", "300 kB/s" or "64KiB/s".
        argument: The name of the argument, for the error.

    Raises:
        TypeError: `value` is neither a number nor a text. A bool is no number.
        ValueError: the text is no rate, or the rate is not from 1 kB/s to 1000 GB/s.
    """
    if value is None:
        return None
    hint = 'write bytes per second, or a text such as "2MB/s", "300 kB/s" or "64KiB/s"'
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{argument}={shown(value)} is {_kind(value)}; {hint}")
    rate: float = 0
    if not isinstance(value, str):
        rate = value
    elif (match := _RATE.fullmatch(value.strip())) is None:
        raise ValueError(f"{argument}={shown(value)} is not a rate; {hint}")
    else:
        rate = float(match[1]) * _UNITS[match[2]]
    if not _LEAST_RATE <= rate <= _MOST_RATE:  # written so that NaN is refused too
        raise ValueError(f"{argument}={shown(value)} is not from 1 kB/s to 1000 GB/s; {hint}")
    return float(rate)


def rate_text(rate: float) -> str | None:
    """Return the text that `as_rate()` reads as this rate; `None`: no unit gives a whole number."""
    for unit, size in _UNITS.items():
        if rate % size == 0:
            return f"{rate / size:.0f}{unit}/s"
    return None


def whole_number(value: object, argument: str, *, least: int = 0) -> int:
    """Return a whole number of at least `least`; a number above 2**62 becomes 2**62.

    A store cannot count further than that.

    Raises:
        TypeError: `value` is no int. A bool is no int.
        ValueError: `value` is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument}={shown(value)} is {_kind(value)}; a whole number is wanted")
    if value < least:
        raise ValueError(f"{argument}={shown(value)} is less than {least}")
    return min(value, 2**62)


def next_chunk(source: Iterator[BytesLike]) -> list[BytesLike]:
    """Return the next payloads: at most 256, and about 1 MiB or one larger payload.

    Raises:
        TypeError: an item is no payload. The items of this chunk before it are lost.
    """
    chunk: list[BytesLike] = []
    size = 0
    for payload in islice(source, _CHUNK):
        payload = payload if type(payload) is bytes else as_bytes(payload)
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
    """Return the instant of a deadline: of the monotonic clock, or a `WallInstant` for a date.

    A date follows the wall clock when that is set. Seconds pass also while the machine is
    suspended.

    Raises:
        TypeError: `deadline` is neither a number, a `timedelta` nor a `datetime`.
        ValueError: `deadline` is not a positive number of seconds of at most 30 years, or is
            a `datetime` without a time zone.
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
            f"{_MAX_SECONDS:_} (30 years); None sets no deadline"
        )
    return monotonic() + seconds


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def shown(value: object, most: int = _SHOWN) -> str:
    """Return a value as errors show it, in at most `most` characters; never raises."""
    # Bytes may be a payload or a key, and so their content is not shown.
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, int) and not isinstance(value, Enum) and value.bit_length() > 200:
        return f"<a number of {value.bit_length()} bits>"  # str() may refuse it
    try:
        text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    except Exception:  # noqa: BLE001 - a list with such a number, or the repr() of a stranger
        return f"<{_kind(value)}>"
    return text if len(text) <= most else f"{text[: most - 1]}…"
