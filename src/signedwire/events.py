"""Events of a node for its watchers: `async for event in node.events()`.

Events are for people and dashboards, not for delivery. A watcher that does not keep up
loses the oldest events, and gets their number as `EventsMissed`.
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
from signedwire.types import Did, Reason, Target

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
    """A v2 link was opened, and the peer has proven its DID."""

    did: Did
    """The DID that the peer has proven."""
    address: Target | None
    """The address of the other end of the connection; `None` if unknown."""
    is_dialed: bool
    """Whether this node dialed the connection."""


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """A v2 link has ended."""

    did: Did
    """The DID of the peer."""
    cause: str
    """Why the link ended, as text for people."""
    kind: FailureKind
    """Why the link ended, for programs."""


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """An attempt to connect to a peer failed, or a connection that this node dialed ended.

    `PeerStatus.last_error` of the peer has been updated before this event.
    """

    did: Did
    """The DID of the peer."""
    address: Target
    """The address that was dialed."""
    kind: FailureKind
    """Why it failed or ended, for programs."""
    cause: str
    """Why it failed or ended, as text for people."""


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """A peer has refused a message of this node."""

    did: Did
    """The DID of the peer."""
    message_id: str
    """The id on the receipt of the message."""
    reason: Reason
    """The reason of the refusal."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages of this node, or envelopes or connections of others, were dropped.

    One event covers all drops of one peer and reason, at most once a second. The counts of
    all such events add up to `stats().dropped`.
    """

    reason: Reason
    """The reason of the drops, by which `stats().dropped` counts."""
    did: Did | None
    """The sender or the recipient; `None` if unknown."""
    source: str
    """The DID as text, else the host of the sender; may be empty."""
    count: int
    """Number of drops."""
    first_at: float
    """When the first drop happened: Unix time, seconds."""
    last_at: float
    """When the last drop happened: Unix time, seconds."""


@dataclass(frozen=True, slots=True)
class LoopStalled:
    """The event loop of this node stalled, so that its timers were late."""

    seconds: float
    """Delay of a timer in seconds. The stall took as long, or longer."""


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """The wall clock of this machine was set: at boot, by NTP or by hand.

    Deadlines in seconds are not affected. Deadlines that are dates follow the clock.
    """

    seconds: float
    """The step of the clock in seconds; negative if it was set back."""


@dataclass(frozen=True, slots=True)
class EvidenceFailed:
    """The evidence log has failed. From now on this node accepts and acknowledges nothing."""

    path: str
    """The file of the log."""
    cause: str
    """The cause as text for people; `health()` has it too."""


@dataclass(frozen=True, slots=True)
class EvidenceRotated:
    """The evidence log was rotated and continues in a new file."""

    path: str
    """The log: now a new file that names `head`."""
    archive: str
    """The name that the old file has now."""
    records: int
    """Records in the old file."""
    head: str
    """Hash of the last record in the old file, 64 hex digits."""


@dataclass(frozen=True, slots=True)
class EvidenceRemoved:
    """An old file of the evidence log was removed, because of `evidence_keep`."""

    path: str
    """The file of the log."""
    archive: str
    """The removed file."""
    last_record: int
    """The number of the last record in the removed file; the rest of the chain follows it."""


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """Events were lost, because the watcher is too slow."""

    count: int
    """Number of lost events, the oldest ones that waited."""


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
    """Gives every event to every watcher; costs nothing without watchers.

    Args:
        home: The home of the node; watchers run in its event loop.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        # Re-entrant, because the end of a watcher may run while this thread holds the lock.
        self._lock = threading.RLock()
        # Any thread may add a watcher while the loop iterates, so the tuple is replaced and
        # never changed. Weak references, so that an unused watcher is freed.
        self._watchers: tuple[ref[_Watcher], ...] = ()
        self._is_closed = False

    @property
    def is_watched(self) -> bool:
        """Whether there may be a watcher. Any thread may read this."""
        return bool(self._watchers)

    def put(self, event: Event) -> None:
        """Give an event to all watchers. Call in the event loop."""
        for reference in self._watchers:
            watcher = reference()
            if watcher is not None:
                watcher.put(event)

    def close(self) -> None:
        """End all watchers. Call in the event loop."""
        self._is_closed = True
        for reference in self._watchers:
            watcher = reference()
            if watcher is not None:
                watcher.wake.set()

    def watch(self) -> AsyncIterator[Event]:
        """Return an iterator over all events from now until the node is closed. Any thread."""
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
