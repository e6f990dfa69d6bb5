"""The sessions of all peers, and which of them are kept.

Keys cost nothing, so a node that answers strangers would otherwise keep each of them for ever.
A peer is a stranger if it has no route. A stranger without a link keeps its sending half while
answers of the peer may still come, and loses it then. The receiving half, which makes delivery
happen once, is kept longer: until there are too many sessions.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final

from signedwire import clock
from signedwire.delivery.all_send_streams import AllSendStreams
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_sender import PeerSender
from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.ports import Routes
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.send_streams import SendStreams
from signedwire.delivery.session_context import SessionContext
from signedwire.types import Did, Target

__all__ = ["SessionMap"]

_MAX_STRANGERS: Final = 10_000
"""Maximum number of sessions while there are strangers to forget."""
_MAX_STRANGER_BYTES: Final = 64 * 1024 * 1024


class SessionMap:
    """One `PeerSession` for each DID. Methods belong to the loop, where nothing else is said.

    Other threads add sessions. Only the loop forgets them.

    Args:
        context: The parts that the sessions share.
        routes: The addresses of DIDs.
        lock: Guards the map against the threads that send.
    """

    def __init__(
        self, context: SessionContext, routes: Routes, lock: AbstractContextManager[object]
    ) -> None:
        self._context = context
        self._routes = routes
        self._lock = lock
        self._us = b"" if context.us is None else bytes(context.us)
        self._epoch = clock.new_epoch()
        self._sessions: OrderedDict[Did, PeerSession] = OrderedDict()
        """All sessions, the least recently linked one first."""
        self._stranger_bytes = 0
        self._is_forgetting_due = False

    def get(self, did: Did) -> PeerSession | None:
        """Return the session of a peer; `None`: there is none. Any thread."""
        return self._sessions.get(did)

    def session(self, did: Did) -> PeerSession:
        """Return the session of a peer; make it if there is none. Any thread."""
        session = self._sessions.get(did)
        if session is None:
            with self._lock:
                session = self._sessions.get(did)
                if session is None:
                    session = PeerSession(self._context, did, self._new_sender)
                    self._sessions[did] = session
            if len(self._sessions) > _MAX_STRANGERS and not self._is_forgetting_due:
                # In a turn of the loop, because this may be another thread. And the caller in
                # the loop may hold another session, to which it has not attached its link yet.
                self._is_forgetting_due = True
                self._context.host.call_soon(self._forget_surplus)
        return session

    def all(self) -> list[PeerSession]:
        """Return all sessions now. Any thread."""
        with self._lock:
            return list(self._sessions.values())

    def senders(self) -> list[PeerSession]:
        """Return the sessions with a sending half. Any thread."""
        return [session for session in self.all() if session.has_sender]

    def touch(self, session: PeerSession) -> None:
        """Note that a peer was linked, so that others are forgotten before it."""
        with self._lock:
            self._sessions.move_to_end(session.did)

    # -- sending halves -----------------------------------------------------------------------

    def _new_sender(self, session: PeerSession) -> PeerSender:
        context = self._context
        with self._lock:
            if session.has_sender:
                return session.sender  # made by another thread just now
            config = context.host.config
            queue: SendQueue[OutgoingMessage] = SendQueue(
                config.send_queue_limit, config.critical_reserve, _latest_of
            )
            own = max(self._epoch, session.least_epoch)
            streams = AllSendStreams(
                self.new_streams(session, context.store.epoch(session.did) or own, is_durable=True),
                self.new_streams(session, own, is_durable=False),
            )
            sender = PeerSender(context, session.did, queue, streams, lambda: session.link)
            session.set_sender(sender)
            return sender

    def new_streams(self, session: PeerSession, epoch: int, *, is_durable: bool) -> SendStreams:
        """Make the streams of one kind to a peer, which number from 1."""
        is_stored = is_durable and self._context.store.is_durable
        if epoch > self._epoch and not is_stored:
            # The session may lose its sending half, but a later one must not use this epoch.
            session.least_epoch = max(session.least_epoch, epoch)
        return SendStreams(self._us, bytes(session.did), epoch)

    # -- routes -------------------------------------------------------------------------------

    def route(self, session: PeerSession) -> Target | None:
        """Return the address of a peer; `None`: it has none. Any thread.

        The address is looked up again only after the routing table has changed.
        """
        version = self._routes.version
        known, address = session.resolved
        if known != version:
            address = self.resolve(session.did)
            session.resolved = version, address
        return address

    def resolve(self, did: Did) -> Target | None:
        """Return the address of a DID, by the routing table or the fallback. Any thread."""
        return self._routes.resolve(did) or self._context.host.config.fallback

    def has_way(self, did: Did) -> bool:
        """Whether a peer is linked, has been, or can be dialed. Any thread."""
        session = self._sessions.get(did)
        if session is None:
            has_address = self.resolve(did) is not None
        elif session.link is not None or self.route(session) is not None:
            return True
        else:
            has_address = session.has_just_left
        # A peer that has linked to us once may link again.
        return has_address or self._context.store.has_spoken_v2(did)

    # -- strangers ----------------------------------------------------------------------------

    def is_known(self, did: Did) -> bool:
        """Whether a DID has a route, or a session with a sending half."""
        session = self._sessions.get(did)
        has_sender = session is not None and session.has_sender
        return has_sender or self._routes.resolve(did) is not None

    @contextlib.contextmanager
    def in_use(self, did: Did) -> Iterator[None]:
        """Forget no peer whose request is being handled: the reply needs its streams."""
        session = self.session(did)
        session.uses += 1
        try:
            yield
        finally:
            session.uses -= 1
            if not session.uses and session.link is None:
                self.forget_if_stranger(session)

    def forget_if_stranger(self, session: PeerSession) -> None:
        """Forget what a stranger does not need any more, after its connection has ended.

        A stranger that sent and received no message is forgotten whole.
        """
        if not session.is_forgettable or self.route(session) is not None:
            self._weigh(session)
            return
        with self._lock:
            # Remove first, then look at the queue. `Submitter` queues first, then looks whether
            # the session was removed. So one of the two threads sees what the other has done.
            if session.has_sender and not self._forget_sender(session):
                return
            if session.has_receiver and session.receiver.is_empty:
                session.forget_receiver()
            is_worth_keeping = session.has_receiver or session.least_epoch or session.left_at
            if not is_worth_keeping and self._sessions.get(session.did) is session:
                self._drop(session)
        self._weigh(session)

    def _forget_sender(self, session: PeerSession) -> bool:
        """Forget a sending half; `False`, without a change, if a message has come meanwhile."""
        sender = session.sender
        session.set_sender(None)
        if sender.lanes:
            session.set_sender(sender)
            return False
        if not sender.streams.is_fresh:
            # Numbers for this peer begin at 1 again, which needs a newer epoch.
            self._renew_epoch()
            if session.least_epoch:
                session.least_epoch = max(session.least_epoch, *sender.streams.epochs) + 1
        return True

    def _renew_epoch(self) -> None:
        """Begin a newer epoch for the sending halves that are made from now on."""
        self._epoch = max(self._epoch + 1, clock.new_epoch())

    def _weigh(self, session: PeerSession) -> None:
        """Count the memory of a peer without a link, and forget strangers beyond the limit."""
        if session.has_receiver and not session.receiver.is_forgettable:
            return
        with self._lock:
            if self._sessions.get(session.did) is not session:
                return
            weight = session.receiver.weight if session.has_receiver else 0
            self._stranger_bytes += weight - session.weight
            session.weight = weight
            self._forget_strangers(size=self._stranger_bytes - _MAX_STRANGER_BYTES)

    def _forget_surplus(self) -> None:
        """Forget strangers until there are not too many sessions."""
        self._is_forgetting_due = False
        with self._lock:
            self._forget_strangers(len(self._sessions) - _MAX_STRANGERS)

    def _forget_strangers(self, count: int = 0, size: int = 0) -> None:
        """Forget strangers: at least `count` of them, and at least `size` bytes.

        The strangers that were linked longest ago go first. The caller holds the lock.
        """
        gone: list[PeerSession] = []
        for session in self._sessions.values():
            if count <= 0 and size <= 0:
                break
            if self._is_stranger(session):
                gone.append(session)
                count, size = count - 1, size - session.weight
        for session in gone:
            if not session.has_sender or self._forget_sender(session):
                self._drop(session)

    def _is_stranger(self, session: PeerSession) -> bool:
        """Whether a session may be forgotten. Only its marks and last answers are lost then."""
        is_free = not session.has_receiver or session.receiver.is_forgettable
        return is_free and session.is_forgettable and self._routes.resolve(session.did) is None

    def _drop(self, session: PeerSession) -> None:
        if session.has_receiver and not session.receiver.is_empty:
            # A newer volatile epoch tells the peer that its marks are lost.
            self._renew_epoch()
        session.forget_receiver()
        self._stranger_bytes -= session.weight
        session.weight = 0
        del self._sessions[session.did]


def _latest_of(message: OutgoingMessage) -> tuple[bytes, bytes] | None:
    return message.options.latest
