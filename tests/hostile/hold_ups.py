"""How long the event loop of a process was held up, and when.

A measurement that is late for that reason can say so: the process did other work, or the kernel
gave the core to another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final, TypeAlias

__all__ = ["HoldUps", "Span", "overlap"]

Span: TypeAlias = tuple[float, float]
"""Begin and end, in seconds of the machine's monotonic clock."""

_BEAT: Final = 0.004
_LEAST: Final = 0.003
"""A shorter one is not kept."""


class HoldUps:
    """A timer of 4 ms in the running loop; it keeps the spans in which it came late.

    `spans` has all of them. `own` has those in which the thread itself worked for half of the
    time or more; in the others, the kernel gave the core to another one, or the thread waited.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.clear()
        self._beat()

    def clear(self) -> None:
        """Forget all, and count from now on."""
        self.spans: list[Span] = []
        self.own: list[Span] = []
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._due = time.monotonic() + _BEAT
        self._worked = time.thread_time()

    def cpu(self) -> float:
        """Return the CPU time of the process, as a share of one core."""
        return (time.process_time() - self._cpu) / (time.monotonic() - self._began)

    def _beat(self) -> None:
        now, worked = time.monotonic(), time.thread_time()
        if now - self._due > _LEAST:
            self.spans.append((self._due, now))
            if worked - self._worked >= (now - self._due) / 2:
                self.own.append((self._due, now))
        self._due, self._worked = now + _BEAT, worked
        self._loop.call_later(_BEAT, self._beat)


def overlap(span: Span, spans: Iterable[Span]) -> float:
    """Return the seconds of `span` that at least one of `spans` covers."""
    covered, reached = 0.0, span[0]
    for begin, end in sorted(spans):
        begin, end = max(begin, reached), min(end, span[1])
        if end > begin:
            covered += end - begin
            reached = end
    return covered
