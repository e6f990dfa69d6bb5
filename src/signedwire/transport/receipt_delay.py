"""The delay of receipts, so that they share a write with the reply of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["ReceiptDelay"]

_MAX_DELAY: Final = 0.005
"""Seconds that receipts may be delayed."""
_PROMPT_FACTOR: Final = 20
"""Time without delays, as a multiple of a delay that was too long."""


class ReceiptDelay:
    """Calls a function two turns of the loop later, so that receipts share a write with a reply.

    One write wakes the peer once instead of twice: a round trip takes 0.65 ms in place of 0.80
    (median, asyncio). The delay has a limit of 5 ms. If the application holds the loop for longer
    twice in a row, receipts are not delayed for 20 times the overrun. Once may be another process
    that used the core.
    """

    __slots__ = ("_is_waiting", "_late", "_loop", "_prompt_until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_waiting = False
        self._late = 0
        self._prompt_until = 0.0

    def start(self, flush: Callable[[], None]) -> None:
        """Call `flush` soon, to write receipts."""
        if self._is_waiting:
            return
        now = self._loop.time()
        if now < self._prompt_until:
            flush()
            return
        self._is_waiting = True
        # The application receives and replies in the next turn of the loop. The reply is
        # written in the turn after that.
        self._loop.call_soon(self._loop.call_soon, self._end, now, flush)

    def _end(self, since: float, flush: Callable[[], None]) -> None:
        self._is_waiting = False
        now = self._loop.time()
        self._late = self._late + 1 if now - since > _MAX_DELAY else 0
        if self._late > 1:
            self._late = 0
            self._prompt_until = now + (now - since) * _PROMPT_FACTOR
        flush()
