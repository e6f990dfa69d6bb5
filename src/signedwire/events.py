"""What happened, for whoever watches: `async for event in node.events()`.

Events are for people and dashboards, not for delivery: a watcher that does not
keep up loses the oldest, and is told how many.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, TypeAlias
from weakref import ref

from signedwire.errors import FailureKind
from signedwire.home import Home
from signedwire.types import Address, Did, Reason

__all__ = [
    "ClockStepped",
    "ConnectionFailed",
    "Dropped",
    "Event",
    "EventsMissed",
    "EvidenceFailed",
    "EvidenceRemoved",
    "EvidenceRotated",
    "LoopStalled",
    "MessageRefused",
    "PeerConnected",
    "PeerDisconnected",
]

_MAX_WAITING: Final = 1000


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A v2 link is open: the peer has proven its DID."""

    did: Did
    """The DID that the peer has proven."""
    address: Address | None
    """Where the other end of the connection is; `None` where that is not known."""
    is_dialed: bool
    """Whether we dialed it."""


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """A v2 link has ended."""

    did: Did
    """The DID of the peer."""
    cause: str
    """Why the link ended, in words."""
    kind: FailureKind
    """Why the link ended, for programs."""


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """An attempt to connect to a peer failed, or a connection that we made has ended.

    `PeerStatus.last_error` of the peer has changed when this comes.
    """

    did: Did
    """The DID of the peer."""
    address: Address
    """The address that was dialed."""
    kind: FailureKind
    """Why, for programs."""
    cause: str
    """Why, in words."""


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """A peer will not take a message of ours."""

    did: Did
    """The DID of the peer."""
    sequence_number: int
    """The number on the receipt of the message."""
    reason: Reason
    """Why the peer refused it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages of ours, or envelopes or connections of others, were dropped.

    Those of one peer and reason are told together, at most once a second. The counts of all
    such events add up to `stats().dropped`.
    """

    reason: Reason
    """Why they were dropped; `stats().dropped` counts by it."""
    did: Did | None
    """The peer that they came from, or that they were for; `None`: that is not known."""
    source: str
    """The DID as text, else the host that they came from; may be empty."""
    count: int
    """How many."""
    first_at: float
    """When the first of them was dropped: Unix time, seconds."""
    last_at: float
    """When the last of them was dropped: Unix time, seconds."""


@dataclass(frozen=True, slots=True)
class LoopStalled:
    """Our own event loop stood still, so that timers came late."""

    seconds: float
    """How late the timers came."""


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """The wall clock of this machine was set: at boot, by NTP, by hand.

    Deadlines in seconds go on as if nothing had happened; those that are dates follow the
    clock.
    """

    seconds: float
    """How far the clock was set, in seconds; less than 0: back."""


@dataclass(frozen=True, slots=True)
class EvidenceFailed:
    """The evidence log has failed: from now on this node accepts and acknowledges nothing."""

    path: str
    """Its file."""
    cause: str
    """What happened, in words; `health()` has it too."""


@dataclass(frozen=True, slots=True)
class EvidenceRotated:
    """The evidence log goes on in a new file."""

    path: str
    """The log: now a new file that names `head`."""
    archive: str
    """The name that the old file has now."""
    records: int
    """Records in the old file."""
    head: str
    """Hash of its last record, 64 hex digits."""


@dataclass(frozen=True, slots=True)
class EvidenceRemoved:
    """An old file of the evidence log was removed, because of `evidence_keep`."""

    path: str
    """The log."""
    archive: str
    """The file that was removed."""
    last_record: int
    """The number of its last record: what is left of the chain begins behind that."""


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """This watcher was too slow for so many events."""

    count: int
    """How many events it has missed, the oldest of those that waited."""


Event: TypeAlias = (
    PeerConnected
    | PeerDisconnected
    | ConnectionFailed
    | MessageRefused
    | Dropped
    | LoopStalled
    | ClockStepped
    | EvidenceFailed
    | EvidenceRotated
    | EvidenceRemoved
    | EventsMissed
)


class EventQueue:
    """Hands every event to every watcher; costs nothing while there is none.

    Args:
        home: Of the node: watchers are followed in its event loop.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.RLock()  # an end of a watcher may come within
        # Any thread adds one, while the loop may be walking through them: so this is
        # replaced and never changed. Weak: of a watcher that nobody follows nothing stays.
        self._watchers: tuple[ref[_Watcher], ...] = ()
        self._is_closed = False

    @property
    def is_watched(self) -> bool:
        """Whether anybody may watch. Any thread."""
        return bool(self._watchers)

    def put(self, event: Event) -> None:
        """Something happened. In the loop."""
        for reference in self._watchers:
            watcher = reference()
            if watcher is not None:
                watcher.put(event)

    def close(self) -> None:
        """Nothing more will happen: watchers end. In the loop."""
        self._is_closed = True
        for reference in self._watchers:
            watcher = reference()
            if watcher is not None:
                watcher.wake.set()

    def watch(self) -> AsyncIterator[Event]:
        """Every event from now on, until the node is closed. Any thread."""
        watcher = _Watcher()
        self._change(watcher, None)
        return self._follow(watcher)

    def _change(self, added: _Watcher | None, removed: _Watcher | None) -> None:
        with self._lock:
            left = [one for one in self._watchers if one() not in (None, removed)]
            self._watchers = (*left, ref(added)) if added is not None else tuple(left)

    async def _follow(self, watcher: _Watcher) -> AsyncIterator[Event]:
        try:
            self._home.check_here()
            self._home.check_begun()
            while True:
                while watcher.waiting or watcher.missed:
                    yield watcher.next()
                if self._is_closed:
                    return
                watcher.wake.clear()
                await watcher.wake.wait()
                self._home.check_begun()
        finally:
            self._change(None, watcher)


class _Watcher:
    def __init__(self) -> None:
        self.waiting: deque[Event] = deque()
        self.missed = 0
        self.wake = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self.waiting) >= _MAX_WAITING:
            self.waiting.popleft()
            self.missed += 1
        self.waiting.append(event)
        self.wake.set()

    def next(self) -> Event:
        if self.missed:
            event, self.missed = EventsMissed(self.missed), 0
            return event
        return self.waiting.popleft()
