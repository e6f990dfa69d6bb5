"""Receipts that a link has to sign, until the next write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from signedwire.transport.receipt_delay import ReceiptDelay
from signedwire.types import unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.session import Session

__all__ = ["ReceiptQueue"]


class ReceiptQueue:
    """Batches and envelopes to sign for, and how long their receipts may be delayed."""

    __slots__ = ("_delay", "_leaves", "_roots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._roots: list[bytes] = []
        self._leaves: list[bytes] = []
        self._delay = ReceiptDelay(loop)

    def __bool__(self) -> bool:
        return bool(self._roots or self._leaves)

    def add(self, roots: list[bytes], leaves: list[bytes]) -> None:
        """Sign for these with the next write."""
        self._roots += roots
        self._leaves += leaves

    def sign(self, session: Session) -> None:
        """Sign what waits, and give the receipts to the session."""
        if self._roots:
            roots, self._roots = self._roots, []
            session.send_receipts(frames.ACCEPTED_BATCHES, roots, unix_time_us())
        if self._leaves:
            leaves, self._leaves = self._leaves, []
            session.send_receipts(frames.ACCEPTED_ENVELOPES, leaves, unix_time_us())

    def clear(self) -> None:
        """Sign for nothing more."""
        self._roots, self._leaves = [], []

    def flush_soon(self, flush: Callable[[], None]) -> None:
        """Call `flush` when the application has had time to reply. See `ReceiptDelay`."""
        self._delay.start(flush)
