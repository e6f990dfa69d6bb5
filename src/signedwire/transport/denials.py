"""What a denial does: links closed, messages dropped on both ways, and told once for each DID."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from signedwire.clock import monotonic
from signedwire.delivery.message import Message
from signedwire.delivery.store import IncomingRow
from signedwire.errors import ClosedError, StoreFailedError
from signedwire.transport.access import AccessList
from signedwire.types import Did, Reason
from signedwire.wire.link_frames import CLOSE_DENIED

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["Denials"]

_MAX_LOGGED: Final = 100
_LOG_AGAIN: Final = 60.0
"""Seconds in which the attempts of one denied DID are logged once."""


class Denials:
    """Carries out what the access list of a node says."""

    def __init__(self, core: Core, access: AccessList) -> None:
        self._core = core
        self._access = access
        self._discarded: deque[Did | None] = deque()
        """The sender of each message that was dropped and not yet told of, or nothing."""
        self._is_telling_due = False
        self._logged: OrderedDict[Did, float] = OrderedDict()

    def on_change(self) -> None:
        """The list has changed. Any thread."""
        if not self._core.is_open:
            return  # before and after there is no link; what is restored is asked about
        if _is_loop_running() and self._core.is_in_loop:
            self._enforce()  # so that counters and links show it when the call returns
        else:
            self._core.call_in_loop(self._enforce)

    def _enforce(self) -> None:
        core = self._core
        for link in core.links.of_denied():
            assert link.did is not None
            core.links.inflow(link.did).hush()
            link.close(CLOSE_DENIED, "denied")
        self.discard(core.incoming.inbox.remove_if(self.is_from_denied))
        self._tell()
        for peer in core.outgoing.denied():
            core.outgoing.give_up_denied(peer)
            if core.outbox is not None:
                core.outbox.give_up_denied(peer)

    def is_from_denied(self, message: Message) -> bool:
        """Whether the sender of a message is denied now. Any thread."""
        access = self._access
        return access.has_rules and access.is_key_denied(message._claimed_sender)

    def discard(self, messages: Iterable[Message]) -> None:
        """Drop messages of denied senders, before the application has them. Any thread.

        They count as refused by it: should their sender be let in again, it is told so.
        """
        for message in messages:
            if message.origin is not None:
                message.origin.taken(message)
                with contextlib.suppress(ClosedError):
                    message.origin.refused(message, Reason.NOT_ALLOWED)
            # Of an unsigned one anybody may have written who it is from.
            self._discarded.append(message.proven_sender)
        if self._discarded and not self._is_telling_due:
            self._is_telling_due = True
            self._core.call_in_loop(self._tell)

    def _tell(self) -> None:
        """Count and tell, once for each DID."""
        self._is_telling_due = False
        counts: Counter[Did | None] = Counter()
        while self._discarded:
            counts[self._discarded.popleft()] += 1
        for did, count in counts.items():
            self._core.drop(Reason.DENIED, did, count=count)

    def allowed_of(self, rows: Iterable[IncomingRow]) -> list[IncomingRow]:
        """Those whose sender is not denied, of what an earlier process has accepted.

        The others leave the store, and are counted.
        """
        allowed, counts, gone = [], Counter[Did](), []
        for row in rows:
            if self._access.is_denied(row.sender):
                counts[row.sender] += 1
                gone.append(row.id)
            else:
                allowed.append(row)
        if gone and self._core.outbox is not None:
            with contextlib.suppress(StoreFailedError, ClosedError):
                self._core.outbox.store.done(gone)
        for did, count in counts.items():
            self._core.drop(Reason.DENIED, did, count=count)
        return allowed

    def is_logged(self, did: Did) -> bool:
        """Whether an attempt of a denied DID was logged lately; if not, it counts as logged."""
        now = monotonic()
        last = self._logged.get(did)
        if last is not None and now - last < _LOG_AGAIN:
            return True
        self._logged[did] = now
        self._logged.move_to_end(did)
        if len(self._logged) > _MAX_LOGGED:
            # Each may be a new key of one stranger: so few in all, too.
            _, oldest = self._logged.popitem(last=False)
            return now - oldest < _LOG_AGAIN
        return False


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
