"""The texts of options become values, or an error that says what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from signedwire.types import DeliveryState, PayloadType, Priority

__all__ = [
    "UNTIL",
    "Motion",
    "read_count",
    "read_motion",
    "read_path",
    "read_payload_type",
    "read_priority",
    "read_seconds",
    "read_size",
    "read_until",
    "word",
    "words",
]

_LONGEST: Final = 1e9
"""Seconds, 30 years: no loop and no lock need count further."""


def word(member: Priority | PayloadType) -> str:
    """`Priority.LOW` as the command line has it."""
    return member.name.lower().replace("_", "-")


def words(kind: type[Priority] | type[PayloadType]) -> str:
    """Every member, as the help shows the choices."""
    return "|".join(map(word, kind))


def _read_word(kind: type[Priority] | type[PayloadType], text: object) -> Any:
    # typer may hand over a default, which is a member already.
    for member in kind:
        if text in (member, word(member)):
            return member
    raise typer.BadParameter(f"{text!r} is none of {words(kind).replace('|', ', ')}")


def read_priority(text: str) -> Priority:
    """A priority by its word."""
    return Priority(_read_word(Priority, text))


def read_payload_type(text: str) -> PayloadType:
    """A payload type by its word."""
    return PayloadType(_read_word(PayloadType, text))


UNTIL: Final = (
    DeliveryState.QUEUED,
    DeliveryState.PERSISTED,
    DeliveryState.WRITTEN,
    DeliveryState.ACCEPTED,
    DeliveryState.HANDLED,
)
"""How far `send` can wait for a message to come."""


def read_until(text: object) -> DeliveryState:
    """How far to wait, by its word."""
    for state in UNTIL:
        if text == state:
            return state
    raise typer.BadParameter(f"{text!r} is none of {', '.join(UNTIL)}")


def read_seconds(text: str) -> float:
    """A positive number of seconds; what is above 30 years, as "inf" is, counts as 30 years."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:  # written so that NaN is refused too
        raise typer.BadParameter(f"{str(text)!r} is not a positive number of seconds")
    return min(seconds, _LONGEST)


def _read_whole(text: str, least: int) -> int:
    # The length first: int() raises on more than 4300 digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        raise typer.BadParameter(f"{text!r} is not a whole number from {least} on")
    return int(text)


def read_count(text: object) -> int:
    """A whole number from 1 on."""
    return _read_whole(str(text), 1)


def read_size(text: object) -> int:
    """A whole number from 0 on."""
    return _read_whole(str(text), 0)


def read_path(text: str) -> Path:
    """A path. An empty text, which `Path` takes for the working directory, is most often a
    variable that is not set.
    """
    if not text:
        raise typer.BadParameter("the path is empty: is a variable not set?")
    return Path(text)


@dataclass(frozen=True)
class Motion:
    """Two velocities, x, y and z each: m/s and rad/s."""

    linear: tuple[float, float, float]
    angular: tuple[float, float, float]


def read_motion(text: str) -> Motion:
    """Six numbers with commas between them."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 6 or not all(map(math.isfinite, values)):
        raise typer.BadParameter(f"{text!r} is not six numbers with commas between them")
    x, y, z, roll, pitch, yaw = values
    return Motion((x, y, z), (roll, pitch, yaw))
