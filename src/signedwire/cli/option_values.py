"""Parsers of option values: each returns the value, or raises with what is allowed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from signedwire.arguments import as_subject
from signedwire.types import DeliveryState, Kind, PayloadType, Priority

__all__ = [
    "UNTIL",
    "Motion",
    "choices",
    "read_count",
    "read_hash",
    "read_message_name",
    "read_motion",
    "read_path",
    "read_payload_type",
    "read_subject",
    "read_priority",
    "read_seconds",
    "read_size",
    "read_until",
    "word",
]

_LONGEST: Final = 1e9
"""Seconds, about 30 years: larger values are cut to this, which every clock and lock takes."""


_ID_DIGITS: Final = 32
"""Hex digits of a whole message id."""
_ID_START: Final = re.compile(r"[0-9a-f]{8,32}")


def word(member: Priority | PayloadType | Kind) -> str:
    """Return `Priority.LOW` as `low`, and `PayloadType.SENSOR_FUSION` as `sensor-fusion`."""
    return member.name.lower().replace("_", "-")


def choices(kind: type[Priority] | type[PayloadType]) -> str:
    """Return every member, as the help shows the choices."""
    return "|".join(map(word, kind))


def _read_word(kind: type[Priority] | type[PayloadType], text: object) -> Any:
    # typer may pass a default, which is a member already.
    for member in kind:
        if text in (member, word(member)):
            return member
    raise typer.BadParameter(f"{text!r} is none of {choices(kind).replace('|', ', ')}")


def read_priority(text: str) -> Priority:
    """Return the priority with this word."""
    return Priority(_read_word(Priority, text))


def read_payload_type(text: str) -> PayloadType:
    """Return the payload type with this word."""
    return PayloadType(_read_word(PayloadType, text))


def read_subject(text: str) -> str:
    """Return a subject that a header can carry."""
    try:
        as_subject(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


UNTIL: Final = (
    DeliveryState.QUEUED,
    DeliveryState.PERSISTED,
    DeliveryState.WRITTEN,
    DeliveryState.ACCEPTED,
    DeliveryState.HANDLED,
)
"""The states for which `send` can wait."""


def read_until(text: object) -> DeliveryState:
    """Return the state of `UNTIL` with this word."""
    for state in UNTIL:
        if text == state:
            return state
    raise typer.BadParameter(f"{text!r} is none of {', '.join(UNTIL)}")


def read_seconds(text: str) -> float:
    """Return a positive number of seconds; more than 30 years, as "inf", becomes 30 years."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:  # written so that NaN is refused too
        raise typer.BadParameter(f"{str(text)!r} is not a positive number of seconds")
    return min(seconds, _LONGEST)


def _read_whole(text: str, least: int) -> int:
    # The length is checked first, because int() raises on more than 4300 digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        raise typer.BadParameter(f"{text!r} is not a whole number from {least} on")
    return int(text)


def read_count(text: object) -> int:
    """Return a whole number from 1 on."""
    return _read_whole(str(text), 1)


def read_size(text: object) -> int:
    """Return a whole number from 0 on."""
    return _read_whole(str(text), 0)


def read_hash(text: object) -> bytes:
    """Return the 32 bytes of a hash that is given as 64 hex digits."""
    try:
        digest = bytes.fromhex(str(text))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise typer.BadParameter(f"{str(text)!r} is no head: that is 64 hex digits")
    return digest


def read_message_name(text: object) -> str:
    """Return a name of a stored message: its number, or 8 to 32 hex digits of its message id."""
    name = str(text).lower()
    is_number = name.isascii() and name.isdigit()
    if not (is_number or _ID_START.fullmatch(name)) or len(name) > _ID_DIGITS:
        raise typer.BadParameter(
            f"{str(text)!r} is neither a number that `list` shows, nor 8 to 32 hex digits of a "
            "message id"
        )
    return name


def read_path(text: str) -> Path:
    """Return a path; an empty text, most often from a variable that is not set, is refused."""
    if not text:
        raise typer.BadParameter("the path is empty: is a variable not set?")
    return Path(text)


@dataclass(frozen=True)
class Motion:
    """Two velocities, x, y and z each: m/s and rad/s."""

    linear: tuple[float, float, float]
    angular: tuple[float, float, float]


def read_motion(text: str) -> Motion:
    """Return the motion that six numbers with commas between them give."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 6 or not all(map(math.isfinite, values)):
        raise typer.BadParameter(f"{text!r} is not six numbers with commas between them")
    x, y, z, roll, pitch, yaw = values
    return Motion((x, y, z), (roll, pitch, yaw))
