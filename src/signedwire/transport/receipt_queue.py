"""The receipts that a link signs with its next write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from signedwire.transport.receipt_delay import ReceiptDelay
from signedwire.types import unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.receipt_signer import Acceptance
from signedwire.wire.session import Session

__all__ = ["ReceiptQueue"]


class ReceiptQueue:
    """Batches and envelopes without a receipt, and the delay until it is written."""

    __slots__ = ("_delay", "_leaves", "_roots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Those that no store has committed, then those that one has.
        self._roots: tuple[list[bytes], list[bytes]] = [], []
        self._leaves: tuple[list[bytes], list[bytes]] = [], []
        self._delay = ReceiptDelay(loop)

    def __bool__(self) -> bool:
        return any(self._roots) or any(self._leaves)

    def add(self, roots: list[bytes], leaves: list[bytes], *, is_committed: bool) -> None:
        """Add batches, by their roots, and envelopes, by their leaves.

        `is_committed` says whether a store has committed them.
        """
        self._roots[is_committed].extend(roots)
        self._leaves[is_committed].extend(leaves)

    def sign(self, session: Session) -> None:
        """Sign the receipts, and give them to the session."""
        for kind, waiting in (
            (frames.ACCEPTED_BATCHES, self._roots),
            (frames.ACCEPTED_ENVELOPES, self._leaves),
        ):
            for is_committed, hashes in enumerate(waiting):
                if hashes:
                    named = hashes.copy()
                    hashes.clear()
                    session.send_receipts(
                        kind, named, unix_time_us(), is_committed=bool(is_committed)
                    )

    def take(self, most: int) -> Acceptance | None:
        """Take receipts that make one statement of at most `most` hashes; `None`: there are none.

        The caller has them signed together with a batch.
        """
        for kind, waiting in (
            (frames.ACCEPTED_BATCHES, self._roots),
            (frames.ACCEPTED_ENVELOPES, self._leaves),
        ):
            for is_committed, hashes in enumerate(waiting):
                if 0 < len(hashes) <= most:
                    named = hashes.copy()
                    hashes.clear()
                    return Acceptance(kind, named, unix_time_us(), bool(is_committed))
        return None

    def clear(self) -> None:
        """Forget batches and envelopes that have no receipt yet."""
        self._roots, self._leaves = ([], []), ([], [])

    def flush_soon(self, flush: Callable[[], None]) -> None:
        """Call `flush` after a delay. See `ReceiptDelay`."""
        self._delay.start(flush)
