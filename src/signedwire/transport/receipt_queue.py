"""The receipts that a link signs with its next write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from signedwire.transport.receipt_delay import ReceiptDelay
from signedwire.types import unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.receipt_signer import Answers
from signedwire.wire.session import Session

__all__ = ["ReceiptQueue"]


class ReceiptQueue:
    """Batches and envelopes without a receipt, and the delay until it is written."""

    __slots__ = ("_delay", "_leaves", "_roots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._roots: list[bytes] = []
        self._leaves: list[bytes] = []
        self._delay = ReceiptDelay(loop)

    def __bool__(self) -> bool:
        return bool(self._roots or self._leaves)

    def add(self, roots: list[bytes], leaves: list[bytes]) -> None:
        """Add batches, by their roots, and envelopes, by their leaves."""
        self._roots += roots
        self._leaves += leaves

    def sign(self, session: Session) -> None:
        """Sign the receipts, and give them to the session."""
        if self._roots:
            roots, self._roots = self._roots, []
            session.send_receipts(frames.ACCEPTED_BATCHES, roots, unix_time_us())
        if self._leaves:
            leaves, self._leaves = self._leaves, []
            session.send_receipts(frames.ACCEPTED_ENVELOPES, leaves, unix_time_us())

    def take(self, most: int) -> Answers | None:
        """Take receipts that make one statement of at most `most` hashes; `None`: there are none.

        The caller has them signed together with a batch.
        """
        if 0 < len(self._roots) <= most:
            roots, self._roots = self._roots, []
            return Answers(frames.ACCEPTED_BATCHES, roots, unix_time_us())
        if 0 < len(self._leaves) <= most:
            leaves, self._leaves = self._leaves, []
            return Answers(frames.ACCEPTED_ENVELOPES, leaves, unix_time_us())
        return None

    def clear(self) -> None:
        """Forget batches and envelopes that have no receipt yet."""
        self._roots, self._leaves = [], []

    def flush_soon(self, flush: Callable[[], None]) -> None:
        """Call `flush` after a delay. See `ReceiptDelay`."""
        self._delay.start(flush)
