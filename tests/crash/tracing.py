"""Reads what strace wrote: whether each receipt came after the sync of its commit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["TRACED", "Order"]

TRACED: Final = "fdatasync,fsync,pwrite64,write,sendto"
"""The system calls that `Order` looks at."""
_LINE: Final = re.compile(r"(?P<thread>\d+) +(?P<text>.*)")
_CALL: Final = re.compile(r"(?P<name>\w+)\((?P<fd>\d+)<(?P<path>.*?)>(?P<rest>.*)")
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_NOTE: Final = re.compile(r'"(?P<word>stored|signed) (?P<name>[0-9a-f]+)\\n"')


@dataclass
class Order:
    """What was seen so far. Give it the lines of `strace -f -y -e trace=…` in order."""

    receipts: int = 0
    """Messages that were signed for."""
    sends: int = 0
    """Writes to a socket that took such signatures along."""
    syncs: int = 0
    """Syncs of the log that were the end of a commit."""
    violations: list[str] = field(default_factory=list)
    _open: dict[str, set[str]] = field(default_factory=dict)
    """By thread: in a transaction that is not yet in the file."""
    _written: dict[str, set[str]] = field(default_factory=dict)
    """By thread: in the file, and not yet synced."""
    _durable: set[str] = field(default_factory=set)
    _is_syncing: dict[str, set[str]] = field(default_factory=dict)
    _is_send_due: bool = False

    def read(self, lines: Iterable[str]) -> Order:
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                continue
            thread, text = match["thread"], match["text"]
            if resumed := _RESUMED.match(text):
                if resumed["name"] in ("fdatasync", "fsync"):
                    self._synced(thread, resumed["rest"])
            elif call := _CALL.match(text):
                self._called(thread, call)
        return self

    def _called(self, thread: str, call: re.Match[str]) -> None:
        name, path, rest = call["name"], call["path"], call["rest"]
        if name == "write" and path == "/dev/null":
            note = _NOTE.search(rest)
            if note is not None:
                self._noted(thread, note["word"], note["name"])
        elif name == "pwrite64" and path.endswith("-wal"):
            self._written.setdefault(thread, set()).update(self._open.pop(thread, ()))
        elif name in ("fdatasync", "fsync") and path.endswith("-wal"):
            self._is_syncing[thread] = self._written.pop(thread, set())
            if "<unfinished" not in rest:
                self._synced(thread, rest)
        elif name in ("sendto", "write") and path.startswith(("socket:", "TCP:")):
            self.sends += self._is_send_due
            self._is_send_due = False

    def _noted(self, thread: str, word: str, name: str) -> None:
        if word == "stored":
            self._open.setdefault(thread, set()).add(name)
            return
        self.receipts += 1
        self._is_send_due = True
        if name not in self._durable:
            self.violations.append(f"{name} was signed for before the sync of its commit")

    def _synced(self, thread: str, result: str) -> None:
        names = self._is_syncing.pop(thread, None)
        if names:
            self.syncs += 1
            if result.rpartition("=")[2].strip().startswith("0"):
                self._durable |= names
