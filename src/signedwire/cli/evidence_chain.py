"""Several files of one evidence log: each goes on from the head of the one before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from signedwire.errors import DidError
from signedwire.evidence.chain import NO_HEAD, BadRecord, LogHeader
from signedwire.types import Did

__all__ = ["Part", "did_or_hex", "first_record_of", "in_order"]

_NUMBERED: Final = re.compile(r".*\.(\d{12,})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """What was found in one file."""

    path: Path
    header: LogHeader
    records: int
    """Those that are proven."""
    head: bytes
    """The hash of the last of them, or of the header."""
    times: tuple[int, ...]
    """When the first and the last of them were accepted; none: there are no records."""
    error: BadRecord | None
    head_at: int | None
    """Which of them has the wanted head; 0: the header has it."""


def did_or_hex(owner: bytes) -> str:
    """The DID of a log's owner; hex digits where these bytes are none."""
    try:
        return str(Did(owner))
    except DidError:
        return owner.hex()


def in_order(parts: list[Part]) -> tuple[list[Part], str]:
    """The files in the order of their chain, and what is wrong with it; empty: it is whole.

    Where something is wrong, they stay in the order in which they were given.
    """
    problem = _problem(parts)
    if problem:
        return parts, problem
    behind = {part.header.previous: part for part in parts}
    heads = {part.head for part in parts}
    [first] = [part for part in parts if part.header.previous not in heads]
    chain = [first]
    while chain[-1].head in behind:
        chain.append(behind[chain[-1].head])
    return chain, ""


def _problem(parts: list[Part]) -> str:
    owner = parts[0].header.owner
    for part in parts[1:]:
        if part.header.owner != owner:
            whose = did_or_hex(part.header.owner)
            return f"{part.path} is the log of {whose}, and {parts[0].path} of another"
    seen: dict[bytes, Part] = {}
    heads = {part.head: part for part in parts}
    starts = []
    for part in parts:
        previous = part.header.previous
        if previous not in heads:
            starts.append(part)
        elif previous in seen:
            return f"{part.path} and {seen[previous].path} go on from the same head"
        seen[previous] = part
    if len(heads) < len(parts):
        return "one of the files is there twice"
    if len(starts) > 1:
        # The one that is not the beginning was written last.
        last = max(starts, key=lambda part: part.header.started_at_us)
        if last.header.previous == NO_HEAD:
            return f"{last.path} goes on from no other: it begins a chain of its own"
        return (
            f"{last.path} goes on from the log with head {last.header.previous.hex()}, and none "
            "of the files has that head: one between is missing, or its end was cut off"
        )
    return ""


def first_record_of(chain: list[Part]) -> int | None:
    """The number of the first record in the whole chain, of which the first files may be gone.

    By the names that a rotation gives, which have the number of the last record; `None`:
    they do not tell, or contradict each other.
    """
    if chain[0].header.previous == NO_HEAD:
        return 1
    ends = accumulate(part.records for part in chain)
    before = {
        int(match[1]) - end
        for part, end in zip(chain, ends, strict=True)
        if (match := _NUMBERED.fullmatch(part.path.name)) is not None
    }
    return before.pop() + 1 if len(before) == 1 and min(before) > 0 else None
