"""Holds two actors to their word: what may be said of a message after what was said before."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Final

from signedwire.types import Priority

from .records import Kind

__all__ = ["Ledger"]

_MAX_VIOLATIONS: Final = 50
_FLAGS: Final = {
    Kind.PERSISTED: 1,
    Kind.ACCEPTED: 2,
    Kind.HANDLED: 4,
    Kind.DELIVERED: 8,
    Kind.FINISHING: 16,
    Kind.DONE: 32,
}


class Ledger:
    """One byte of what was said for each number, and the process that said it last."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.counts: Counter[Kind] = Counter()
        self.first_deliveries = 0
        self.redeliveries = 0
        self.highest = 0
        """The highest number that anybody has named."""
        self._said = bytearray()
        self._lanes = bytearray()
        self._delivered_in = array("I")
        self._handled_in = array("I")
        self._generation = 1
        self._first = [0] * len(Priority)
        self._last = [0] * len(Priority)

    def receiver_restarts(self) -> None:
        """All that the last one has said was heard."""
        self._generation += 1
        self._last = [0] * len(Priority)

    def violate(self, text: str) -> None:
        """Something does not hold."""
        if len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(text)

    def hear(self, kind: Kind, lane: int, detail: int, number: int) -> None:
        """An actor says this."""
        flag = _FLAGS.get(kind)
        if kind is Kind.FAILED:
            self.violate(f"message {number} failed")
        if flag is None:
            return
        self.counts[kind] += 1
        if number >= len(self._said):
            more = number + 65_536 - len(self._said)
            self._said.extend(bytes(more))
            self._lanes.extend(bytes(more))
            self._delivered_in.frombytes(bytes(more * self._delivered_in.itemsize))
            self._handled_in.frombytes(bytes(more * self._handled_in.itemsize))
        self.highest = max(self.highest, number)
        self._lanes[number] = lane
        if kind is Kind.DELIVERED:
            self._delivered(lane, number, is_redelivered=bool(detail))
        elif kind is Kind.HANDLED:
            self._handled_in[number] = self._generation
        self._said[number] |= flag

    def _delivered(self, lane: int, number: int, *, is_redelivered: bool) -> None:
        said, now = self._said[number], self._generation
        name = f"message {number} of lane {lane} to receiver {now}"
        if number <= self._last[lane]:
            self.violate(f"{name} came after {self._last[lane]}")
        self._last[lane] = max(self._last[lane], number)
        if self._delivered_in[number] == now:
            self.violate(f"{name} came twice")
        if said & _FLAGS[Kind.DONE]:
            self.violate(f"{name} came again after its ack() was on the disk")
        if 0 < self._handled_in[number] < now:
            self.violate(f"{name} came again after its sender was told that it was handled")
        if is_redelivered and now == 1:
            self.violate(f"{name} is marked as redelivered, and there was none before")
        if said & _FLAGS[Kind.DELIVERED]:
            self.redeliveries += 1
            if not is_redelivered:
                self.violate(f"{name} came again, unmarked; first to {self._delivered_in[number]}")
        else:
            self.first_deliveries += 1
            if number < self._first[lane]:
                self.violate(f"{name} came first after {self._first[lane]}")
            self._first[lane] = max(self._first[lane], number)
        self._delivered_in[number] = now

    def missing(self) -> list[int]:
        """Numbers that were persisted and never delivered, or not until `ack()`."""
        due = _FLAGS[Kind.DELIVERED] | _FLAGS[Kind.FINISHING]
        promised = _FLAGS[Kind.PERSISTED] | _FLAGS[Kind.ACCEPTED] | _FLAGS[Kind.DELIVERED]
        return [number for number, said in enumerate(self._said) if said & promised and ~said & due]

    def unfinished(self) -> list[int]:
        """Numbers that the receiver of today was given and that are not done."""
        return [
            number
            for number, receiver in enumerate(self._delivered_in)
            if receiver == self._generation and not self._said[number] & _FLAGS[Kind.DONE]
        ]

    def describe(self, number: int) -> str:
        """What was said of a message."""
        said = [kind.name.lower() for kind, flag in _FLAGS.items() if self._said[number] & flag]
        return f"message {number} of lane {self._lanes[number]}: {', '.join(said)}"
