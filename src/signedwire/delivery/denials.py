"""Messages of denied senders, which are dropped before the application has them."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterable

from signedwire.delivery.access import AccessList
from signedwire.delivery.message import AckSink, IncomingMessage
from signedwire.delivery.ports import Host
from signedwire.errors import ClosedError
from signedwire.types import Did, Reason

__all__ = ["DenialFilter"]


class DenialFilter:
    """Drops messages whose sender the access list denies, and counts them for each DID."""

    def __init__(self, host: Host, access: AccessList) -> None:
        self._host = host
        self._access = access
        self._discarded: deque[Did | None] = deque()
        """Senders of the messages that were dropped and are not counted yet."""
        self._is_count_due = False

    def is_from_denied(self, message: IncomingMessage) -> bool:
        """Whether the sender of a message is denied now. Any thread."""
        access = self._access
        return access.has_rules and message.is_denied_by(access.is_key_denied)

    def discard(self, messages: Iterable[IncomingMessage]) -> None:
        """Drop messages of denied senders, before the application has them. Any thread.

        They count as refused by the application. A sender that is allowed again gets that
        answer.
        """
        for message in messages:
            if message.origin is not None:
                self._take(message.origin, message)
                with contextlib.suppress(ClosedError):
                    message.origin.nacked(message, Reason.NOT_ALLOWED, "")
            # Not the claimed sender, because anybody can put any DID into an unsigned message.
            self._discarded.append(message.proven_sender)
        if self._discarded and not self._is_count_due:
            self._is_count_due = True
            self._host.call_soon(self.count)

    def _take(self, origin: AckSink, message: IncomingMessage) -> None:
        if self._host.is_in_loop:
            origin.taken(message)
        else:
            self._host.call_soon(origin.taken, message)

    def count(self) -> None:
        """Count the dropped messages of each DID. In the loop."""
        self._is_count_due = False
        counts: Counter[Did | None] = Counter()
        while self._discarded:
            counts[self._discarded.popleft()] += 1
        for did, count in counts.items():
            self._host.drop(Reason.DENIED, did, count=count)
