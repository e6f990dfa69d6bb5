"""How messages of the application come into the queues of their peers.

    submit() ─→ checks ─→ OutboxStore.put() ─→ in the next turn of the loop, flush()

Any thread may submit. One wake-up of the loop serves all messages that came since the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from signedwire.delivery.advice import HOW_TO_UNDENY
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_sender import PeerSender
from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.ports import Host
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.session_map import SessionMap
from signedwire.errors import (
    BackpressureError,
    ClosedError,
    NotAllowedError,
    PayloadTooLargeError,
    UnknownPeerError,
)
from signedwire.types import Did, Reason

__all__ = ["Submitter"]

_MOST_FOR_STRANGER: Final = 4 * 1024 * 1024
"""Bytes of replies and publications that may wait for one peer without a route."""


class Submitter:
    """Checks messages, and puts them into the queues. Any thread, where nothing else is said.

    Args:
        context: The parts that the sessions share.
        sessions: The sessions of all peers.
        send_waiting: Sends the queue of a peer. Called in the loop.
    """

    def __init__(
        self,
        context: SessionContext,
        sessions: SessionMap,
        send_waiting: Callable[[PeerSession], None],
    ) -> None:
        self._context = context
        self._host: Host = context.host
        self._config = context.host.config
        self._sessions = sessions
        self._send_waiting = send_waiting
        self._scheduled: deque[PeerSession] = deque()
        self._is_flush_due = False
        self._has_ended = False

    def submit(
        self,
        message: OutgoingMessage,
        payload_size: int,
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
        is_in_loop: bool = False,
    ) -> None:
        """Queue a message. Any thread; returns at once.

        Args:
            message: The message.
            payload_size: Size of the payload in bytes.
            is_patient: Whether the caller retries. If so, a full queue is not counted as a drop.
            replaces: Ids of dead letters to remove when the message is stored.
            is_in_loop: Whether the caller is a task of the node's event loop. Then the message is
                sent before this returns if it is alone, which saves a turn of the loop.

        Raises:
            ClosedError, UnknownPeerError, NotAllowedError, PayloadTooLargeError,
                BackpressureError, StoreFullError, StoreFailedError: the message was not
                queued.
        """
        is_durable = message.options.is_durable
        session = self._check(message.recipient, payload_size, is_durable=is_durable)
        sender = session.sender
        message.failures_before = sender.failures
        store = self._context.store_of(is_durable=is_durable)
        store.put(sender, [message], is_patient=is_patient, replaces=replaces)
        if message.is_stored:
            return  # it is queued after the commit
        if self._is_in_use(session, sender):
            self._queued(session, sender, (message,), is_in_loop=is_in_loop)
        elif sender.lanes.remove_if(lambda one: one is message):
            # The peer was forgotten as a stranger since the check.
            self.submit(message, payload_size, is_patient=is_patient, is_in_loop=is_in_loop)

    def submit_many(self, messages: list[OutgoingMessage]) -> int:
        """Queue messages with equal options to one recipient. Any thread; returns at once.

        Returns:
            Number of messages for which there was room, from the first one on.

        Raises:
            The errors of `submit()`, if not even the first message was queued.
        """
        first = messages[0]
        store = self._context.store_of(is_durable=first.options.is_durable)
        if store.is_durable:
            session = self._check(first.recipient, first.payload_size, is_durable=True)
            return store.put(session.sender, messages, is_patient=True)
        self.submit(first, first.payload_size, is_patient=True)
        return 1 + self._put_many(messages[1:])

    def _put_many(self, messages: list[OutgoingMessage]) -> int:
        """Queue messages to one recipient that was checked; return how many had room."""
        if not messages:
            return 0
        session = self._sessions.session(messages[0].recipient)
        sender = session.sender
        failures = sender.failures
        for message in messages:
            message.failures_before = failures
        count = sender.lanes.put_many(messages, messages[0].options.stream)
        if not count:
            return 0
        if not self._is_in_use(session, sender):
            # The peer was forgotten as a stranger since the check.
            back = frozenset(sender.lanes.remove_if(frozenset(messages).__contains__))
            return self._put_many([one for one in messages if one in back])
        self._queued(session, sender, messages[:count])
        return count

    def _is_in_use(self, session: PeerSession, sender: PeerSender) -> bool:
        """Whether the messages in this queue will be sent, because the peer was not forgotten."""
        return session.is_sending_by(sender) and self._sessions.get(session.did) is session

    # -- checks ---------------------------------------------------------------------------

    def _check(self, did: Did, payload_size: int, *, is_durable: bool) -> PeerSession:
        """Return the session of a peer, or raise if no message may be queued for it."""
        home = self._host.home
        home.check_alive()
        if not self._host.is_open:
            raise ClosedError(
                f"message to {did} not queued: this node is {home.in_words}",
                "Start it with `async with`, and send before it is closed",
            )
        session = self._sessions.get(did)
        is_v1 = self._is_v1(session)
        self._check_allowed(did, is_v1=is_v1)
        limit = self._config.max_v1_payload_size if is_v1 else self._config.max_payload_size
        if payload_size > limit:
            self._refuse_size(did, payload_size, limit, is_v1=is_v1)
        is_stored = self._context.store_of(is_durable=is_durable).is_durable
        if not is_stored and not self._sessions.has_way(did):
            self._host.drop(Reason.UNKNOWN_PEER, did)
            raise UnknownPeerError(
                did,
                Reason.UNKNOWN_PEER,
                f"no address is known for {did}; the message was not queued",
                "It had dialed us, and its link has ended: wait until it dials again"
                if session is not None and session.left_at is not None
                else 'Add one with routing.update(did, "host:port"), or set `fallback`',
            )
        return self._sessions.session(did) if session is None else session

    def _check_allowed(self, did: Did, *, is_v1: bool) -> None:
        if self._context.access.denies(did):
            self._host.drop(Reason.DENIED, did)
            raise NotAllowedError(
                did,
                Reason.DENIED,
                f"{did} is denied by node.access; the message was not queued",
                HOW_TO_UNDENY,
            )
        if is_v1 and not self._context.is_v1_allowed(did):
            self._host.drop(Reason.NOT_ALLOWED, did)
            raise NotAllowedError(
                did,
                Reason.NOT_ALLOWED,
                f"{did} speaks only v1 and is not among v1_peers; the message was not queued",
                'Name it in v1_peers, or set v1_peers = "all"',
            )

    def check_stranger(self, did: Did, payload_size: int) -> None:
        """Check that no more than 4 MiB wait for a peer that this node has no route to. Any thread.

        For messages that a stranger has asked for: it need not read them.

        Raises:
            BackpressureError: more would wait.
        """
        session = self._sessions.get(did)
        if session is None or not session.has_sender or did in self._context.known:
            return
        waiting = sum([message.size for message in session.sender.lanes])
        if waiting and waiting + payload_size > _MOST_FOR_STRANGER:
            self._host.drop(Reason.QUEUE_FULL, did)
            raise BackpressureError(
                did,
                Reason.QUEUE_FULL,
                f"{waiting} bytes wait for {did}, which this node has no route to; "
                "the message was not queued",
                "Add a route to it, if it is a peer of yours",
            )

    def check_size(self, did: Did, payload_size: int) -> None:
        """Check that the wire of a peer carries a payload of so many bytes. Any thread.

        Raises:
            PayloadTooLargeError: the payload is too large.
        """
        is_v1 = self._is_v1(self._sessions.get(did))
        limit = self._config.max_v1_payload_size if is_v1 else self._config.max_payload_size
        if payload_size > limit:
            self._refuse_size(did, payload_size, limit, is_v1=is_v1)

    def _refuse_size(self, did: Did, payload_size: int, limit: int, *, is_v1: bool) -> NoReturn:
        self._host.drop(Reason.TOO_LARGE, did)
        wire = "v1 " if is_v1 else ""
        raise PayloadTooLargeError(
            did,
            Reason.TOO_LARGE,
            f"a payload of {payload_size} bytes is over the {wire}limit of {limit}; "
            f"the message to {did} was not queued",
            "Split it" + (", or raise max_v1_payload_size: live v1 peers drop more" * is_v1),
        )

    def _is_v1(self, session: PeerSession | None) -> bool:
        return not self._host.speaks_v2 or (session is not None and session.wire == "v1")

    # -- the way to the loop ----------------------------------------------------------------

    def _queued(
        self,
        session: PeerSession,
        sender: PeerSender,
        messages: Sequence[OutgoingMessage],
        *,
        is_in_loop: bool = False,
    ) -> None:
        """Have the loop send the queue of a peer, which has got these messages."""
        if messages[0].options.expires_at is not None:
            for message in messages:
                self._host.call_soon(sender.watch_deadline, message)
        if is_in_loop and not sender.is_scheduled and session.link and not sender.streams.in_flight:
            # As Nagle's algorithm does (RFC 896): what follows before an answer goes together.
            self._send_waiting(session)
        elif not sender.is_scheduled:
            sender.is_scheduled = True
            self._scheduled.append(session)
            if not self._is_flush_due:
                self._is_flush_due = True
                self._host.call_soon(self.flush)
        if self._has_ended:
            # Another thread has closed the node since the check, perhaps after it has ended
            # the messages of this peer.
            sender.give_up_all(Reason.CLOSED)

    def flush(self) -> None:
        """Send what was queued since the last call. In the loop."""
        # First the flags, then the queues, so that no message is missed that comes between.
        self._is_flush_due = False
        while self._scheduled:
            session = self._scheduled.popleft()
            if session.has_sender:
                session.sender.is_scheduled = False
                self._send_waiting(session)

    def end(self) -> None:
        """End each message that is queued from now on. In the loop."""
        self._has_ended = True
