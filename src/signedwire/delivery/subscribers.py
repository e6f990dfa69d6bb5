"""The peers that are subscribed to subjects of this node.

    SUBSCRIBE ─→ take() ─→ ack, or nack with a text        publish() ─→ of(subject)

A subscription lasts for the link of its peer, and for 60 s after that. No timer ends it:
`of()` asks the session of the peer. Keys cost nothing, so what is over is forgotten each time
that the number of subscriptions has doubled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from signedwire import clock
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.session_context import SessionContext
from signedwire.errors import ClosedError
from signedwire.types import ControlType, Did, Reason

__all__ = ["GRACE", "MAX_SUBJECTS", "MAX_SUBJECTS_OF_STRANGER", "Subscribers"]

GRACE: Final = 60.0
"""Seconds for which a subscription outlives the link of its peer."""
MAX_SUBJECTS: Final = 256
"""Maximum number of subjects of one peer that is known."""
MAX_SUBJECTS_OF_STRANGER: Final = 16
"""Maximum number of subjects of one stranger."""
_MAX_OF_STRANGERS: Final = 16_384
"""Maximum number of subscriptions of all strangers together."""
_FIRST_SWEEP: Final = 1_024
_LEAST_SWEEP_PAUSE: Final = 1.0
"""Seconds between two searches for strangers to forget, because each looks at all peers."""


class _Peer:
    """The subscriptions of one peer."""

    __slots__ = ("epoch", "has_left", "is_known", "session", "subjects")

    def __init__(self, session: PeerSession, epoch: int, *, is_known: bool) -> None:
        self.session = session
        self.epoch = epoch
        """The volatile epoch of the peer; a restarted peer has another one."""
        self.is_known = is_known
        self.has_left = False
        """Whether its link has ended, and no other one has opened since."""
        self.subjects: dict[str, None] = {}

    @property
    def is_over(self) -> bool:
        """Whether the link has ended, and the time after it has passed."""
        session = self.session
        return session.link is None and clock.monotonic() - session.since > GRACE


class Subscribers:
    """The consumer of control messages, and a watcher of links. In the loop.

    Args:
        context: The parts that all sessions share.
        session_of: Returns the session of a DID; `None`: it was forgotten.
        hand_out: Frees the credit of a message; returns whether it may be handled.
        on_new: Called with each DID and subject that was not subscribed before.
    """

    def __init__(
        self,
        context: SessionContext,
        session_of: Callable[[Did], PeerSession | None],
        hand_out: Callable[[IncomingMessage], bool],
        on_new: Callable[[Did, str], None],
    ) -> None:
        self._context = context
        self._session_of = session_of
        self._hand_out = hand_out
        self._on_new = on_new
        self._peers: dict[Did, _Peer] = {}
        self._dids: dict[str, dict[Did, None]] = {}
        self._count = 0
        self._of_strangers = 0
        self._sweep_at = _FIRST_SWEEP
        self._next_pressure = 0.0

    def __len__(self) -> int:
        """Number of subscriptions that are kept, including some that are over."""
        return self._count

    def of(self, subject: str) -> list[Did]:
        """Return the DIDs that are subscribed to a subject now, in the order of subscribing."""
        found = []
        for did in tuple(self._dids.get(subject, ())):
            peer = self._peers[did]
            if self._is_lost(did, peer) or self._context.access.denies(did):
                self._forget(did, peer)
            else:
                found.append(did)
        return found

    def linked(self, did: Did) -> None:
        """Forget subscriptions of a peer that comes back too late, or as another process."""
        peer = self._peers.get(did)
        if peer is None:
            return
        is_late = peer.has_left and clock.monotonic() - peer.session.since > GRACE
        if is_late or peer.session.receiver.epochs.volatile != peer.epoch:
            self._forget(did, peer)
        peer.has_left = False

    def unlinked(self, did: Did) -> None:
        """Note that the link of a peer has ended; see `LinkWatcher`."""
        peer = self._peers.get(did)
        if peer is not None:
            peer.has_left = True

    def take(self, message: IncomingMessage) -> bool:
        """Subscribe or unsubscribe the sender of a control message, and answer it."""
        if not self._hand_out(message):
            return True
        did, subject = message.sender, message.subject
        is_new = False
        with contextlib.suppress(ClosedError):
            if not subject:
                self._refuse(message, Reason.REFUSED, "a subscription needs a subject")
            elif message.payload:
                text = "a subscription has no payload, and this one has"
                self._refuse(message, Reason.MALFORMED, text)
            elif message.control_type is ControlType.UNSUBSCRIBE:
                self._remove(did, subject)
                message.ack()
            else:
                is_new = self._subscribe(message, did, subject)
        if is_new:
            self._on_new(did, subject)
        return True

    def _refuse(self, message: IncomingMessage, reason: Reason, text: str) -> None:
        self._context.host.counters.subscriptions_refused += 1
        message.nack(reason, text)

    # -- changes --------------------------------------------------------------------------

    def _subscribe(self, message: IncomingMessage, did: Did, subject: str) -> bool:
        """Subscribe the sender, or refuse that; return whether it is a new subscription."""
        peer = self._peer(did)
        if peer is not None and subject in peer.subjects:
            message.ack()
            return False
        is_known = did in self._context.known
        limit = MAX_SUBJECTS if is_known else MAX_SUBJECTS_OF_STRANGER
        if peer is not None and len(peer.subjects) >= limit:
            whom = "one peer" if is_known else "a peer that this node has no route to"
            text = f"the limit is {limit} subscriptions of {whom}"
            self._refuse(message, Reason.REFUSED, text)
            return False
        if not is_known and not self._has_room_for_stranger():
            text = f"the limit is {_MAX_OF_STRANGERS} subscriptions of peers without a route"
            self._refuse(message, Reason.REFUSED, text)
            return False
        session = self._session_of(did)
        if session is None:
            return False
        if self._count >= self._sweep_at:
            self._sweep()
        peer = self._peers.get(did)
        if peer is None:
            epoch = session.receiver.epochs.volatile
            peer = self._peers[did] = _Peer(session, epoch, is_known=is_known)
        peer.subjects[subject] = None
        self._dids.setdefault(subject, {})[did] = None
        self._count += 1
        self._of_strangers += not peer.is_known
        message.ack()
        return True

    def _peer(self, did: Did) -> _Peer | None:
        """Return the subscriptions of a peer, without those of an earlier process of it."""
        peer = self._peers.get(did)
        if peer is None:
            return None
        is_same = not self._is_lost(did, peer)
        if is_same and peer.session.receiver.epochs.volatile == peer.epoch:
            return peer
        self._forget(did, peer)
        return None

    def _remove(self, did: Did, subject: str) -> None:
        peer = self._peers.get(did)
        if peer is None or subject not in peer.subjects:
            return
        del peer.subjects[subject]
        self._count -= 1
        self._of_strangers -= not peer.is_known
        dids = self._dids[subject]
        del dids[did]
        if not dids:
            del self._dids[subject]
        if not peer.subjects:
            del self._peers[did]

    # -- what is forgotten --------------------------------------------------------------------

    def _is_lost(self, did: Did, peer: _Peer) -> bool:
        return peer.is_over or self._session_of(did) is not peer.session

    def _forget(self, did: Did, peer: _Peer) -> None:
        for subject in tuple(peer.subjects):
            self._remove(did, subject)

    def _sweep(self) -> None:
        """Forget what is over. The cost of it is spread over as many new subscriptions."""
        for did, peer in tuple(self._peers.items()):
            if self._is_lost(did, peer):
                self._forget(did, peer)
        self._sweep_at = max(_FIRST_SWEEP, 2 * self._count)

    def _has_room_for_stranger(self) -> bool:
        """Whether one more stranger may subscribe; forget those without a link if need be."""
        if self._of_strangers < _MAX_OF_STRANGERS:
            return True
        now = clock.monotonic()
        if now >= self._next_pressure:
            self._next_pressure = now + _LEAST_SWEEP_PAUSE
            for did, peer in tuple(self._peers.items()):
                if not peer.is_known and peer.session.link is None:
                    self._forget(did, peer)
        return self._of_strangers < _MAX_OF_STRANGERS
