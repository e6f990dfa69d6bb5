"""All peers of a node: one map from DID to `PeerSession`, and what is decided across them.

    submit ─→ PeerSender.lanes ─→ an open link, or the connector, which dials

`submit()` may be called from any thread; all the rest belongs to the loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, NoReturn, Protocol

from signedwire import clock
from signedwire.delivery.denied import DeniedLog
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.peer_sender import BROKE, PeerSender
from signedwire.delivery.peer_session import LinkVerdict, PeerSession
from signedwire.delivery.ports import Host, LinkPort, Routes
from signedwire.delivery.replay import ReplayMemory
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.session_map import SessionMap
from signedwire.delivery.store import IncomingRow
from signedwire.errors import (
    Cause,
    ClosedError,
    NotAllowedError,
    PayloadTooLargeError,
    UnknownPeerError,
)
from signedwire.stats import PeerStatus
from signedwire.types import Did, Reason, Target
from signedwire.wire import link_frames
from signedwire.wire.link_frames import Hello, Receipts, Refusal
from signedwire.wire.session import Closed

__all__ = ["Connector", "Endpoint"]

_MAX_V2_SPEAKERS: Final = 100_000
_RETURN_GRACE: Final = 5.0
"""Seconds that messages wait for a peer that can only be reached when it dials us."""
# A v2 peer that is full hangs up as v1 peers do, though not time after time.
_HANG_UPS_OF_V1: Final = 2


class Connector(Protocol):
    """Whoever makes connections to peers."""

    def connect(self, session: PeerSession, address: Target) -> None:
        """See to it that what waits for the peer is sent to this address."""

    def disconnect(self, session: PeerSession) -> None:
        """Dial the peer no more; an open link stays."""


class Endpoint:
    """The sessions of all peers. See the module's text.

    Args:
        context: What the sessions share.
        routes: Which DID is reached where.
        lock: Guards the map of sessions against the threads that send.
    """

    def __init__(
        self, context: SessionContext, routes: Routes, lock: AbstractContextManager[object]
    ) -> None:
        self.context = context
        self._host: Host = context.host
        self._config = context.host.config
        self.access = context.access
        """Which DIDs are denied."""
        self.inbox = context.inbox
        """What waits for the application."""
        self.denied = context.denied
        """Drops the messages of denied senders."""
        self.peers = SessionMap(context, routes, lock)
        """The sessions of all peers."""
        self.v2_speakers = ReplayMemory(_MAX_V2_SPEAKERS)
        """DIDs that have proven themselves over v2: nothing of theirs is believed over v1."""
        self.denied_log = DeniedLog()
        self.links: set[LinkPort] = set()
        """Open links."""
        self.connector: Connector | None = None
        """Who dials; `None` until the node has one."""
        self._scheduled: deque[PeerSession] = deque()
        self._is_flush_due = False
        self._is_ending = False
        self._has_ended = False

    def restore(self, rows: Iterable[IncomingRow]) -> list[int]:
        """Deliver what an earlier process has accepted and its application has not acknowledged.

        Returns:
            Ids of the rows whose sender is denied now: they are not delivered.
        """
        denied, counts = [], Counter[Did]()
        for row in rows:
            if self.access.is_denied(row.sender):
                denied.append(row.id)
                counts[row.sender] += 1
            else:
                self.peers.session(row.sender).receiver.restore(row)
        for did, count in counts.items():
            self._host.drop(Reason.DENIED, did, count=count)
        return denied

    def status(self) -> dict[Did, PeerStatus]:
        """The state of every peer that was ever sent to or linked to us. Any thread."""
        return {session.did: session.status() for session in self.peers.senders()}

    # -- links ----------------------------------------------------------------------------

    def check_access(self, did: Did) -> Reason | None:
        """Why a proven DID may not link to us; `None`: it may."""
        if self.context.store.failure is not None:
            return Reason.STORE_FAILED  # nothing more is accepted here
        return Reason.DENIED if self.access.denies(did) else None

    def proven(self, did: Did) -> PeerSession:
        """A DID has proven itself over v2: never again v1 with it, in neither direction."""
        session = self.peers.session(did)
        was_v1, session.wire = session.wire == "v1", "v2"
        store = self.context.store
        if not store.has_spoken_v2(did):
            store.note_v2(did)
        if self.is_v1_allowed(did):  # else it is not believed on v1 anyway
            self.v2_speakers.add(bytes(did))
        if was_v1 and session.has_sender and session.sender.route is not None:
            self._disconnect(session)
            self._host.call_soon(self.bring, session)
        return session

    def hello_received(self, session: PeerSession, link: LinkPort, hello: Hello) -> bool:
        """The HELLO of a link has come: close the link, or return `True` to open it."""
        if self.check_access(session.did) is not None:  # since the DID was proven
            link.close(link_frames.CLOSE_DENIED, "denied")
            self._host.drop(Reason.DENIED, session.did)
            return False
        if not session.receiver.begin(hello.epoch):
            link.close(link_frames.CLOSE_STALE_EPOCH, "an older epoch than the one known")
            self._host.drop(Reason.STALE_EPOCH, session.did)
            return False
        return True

    def link_opened(self, session: PeerSession, link: LinkPort, hello: Hello) -> None:
        """The HELLO of a link has come: use the link, or close it."""
        self.links.add(link)
        verdict = session.judge(link, hello)
        if verdict is LinkVerdict.OURSELVES:
            self._host.drop(Reason.BAD_IDENTITY, session.did)
            session.sender.give_up_all(Reason.BAD_IDENTITY, "the address is that of this very node")
            link.close(link_frames.CLOSE_DUPLICATE_LINK, "that is this very node")
        elif verdict is LinkVerdict.DUPLICATE:
            link.close(link_frames.CLOSE_DUPLICATE_LINK, "there is another link already")
        elif verdict is LinkVerdict.NO_EPOCH_LEFT:
            text = "it leaves us no epoch to count on in"
            link.close(link_frames.CLOSE_PROTOCOL_ERROR, text)
        elif verdict is LinkVerdict.PEER_IS_AHEAD:
            session.restart_stream(hello, self.peers.new_stream(session, hello.known_epoch + 1))
            link.close(link_frames.CLOSE_STALE_EPOCH, "reconnecting with a newer epoch")
        elif verdict is LinkVerdict.HELLO_IS_STALE:
            link.close(link_frames.CLOSE_STALE_EPOCH, "a newer epoch has begun since its HELLO")
        else:
            had_link = session.link is not None
            session.link_opened(link, hello)
            self.peers.touch(session)
            if had_link:
                self.requeue(session, session.take_back(), is_fault=False)
            session.announce(link)
            link.pump()

    def link_closed(
        self,
        session: PeerSession,
        link: LinkPort,
        cause: Cause,
        closed: Closed | None,
        on_over: Callable[[bool], None] | None = None,
    ) -> None:
        """An open link has ended: what has no receipt waits for the next one.

        Args:
            on_over: Called with whether the end is excused, before anything is queued again;
                for the dialer of the link.
        """
        self.links.discard(link)
        was_used, is_excused = session.link_closed(link, cause, closed)
        if on_over is not None:
            on_over(is_excused)
        if not was_used:
            return
        self._note_left(session)
        # While a node closes, another link may come yet, and order is to hold over it for
        # what a later process will send.
        is_durable = self.context.store.is_durable
        if self.context.has_said_goodbye or not (self._host.is_open or is_durable):
            for message in session.take_back():
                session.sender.give_up(message, Reason.CLOSED, "written, but no receipt came")
            return
        # A link that brought nothing through was a failed attempt, which its dialer has
        # counted for all that waits; on another, what was in flight is under suspicion.
        is_fault = not is_excused and (link.has_progress or on_over is None)
        self.requeue(
            session,
            session.take_back(),
            is_fault=is_fault,
            cause=cause.after("the link ended before an answer came: "),
        )
        if session.sender.lanes:
            self.bring(session)

    def _note_left(self, session: PeerSession) -> None:
        """The link of a peer has ended: without a route it can only be waited for."""
        if self.peers.route(session) is None:
            session.left_at = clock.monotonic()

    def on_receipts(self, session: PeerSession, receipts: Receipts) -> bool:
        """The peer has signed for messages of ours; returns whether any waited for that."""
        has_progress = session.sender.receipts(receipts)
        if has_progress:
            session.note_progress()
        self.context.on_progress()
        return has_progress

    def on_refusals(self, session: PeerSession, refusals: tuple[Refusal, ...]) -> bool:
        """The peer does not take messages of ours; returns whether any waited for that."""
        has_progress = session.sender.refusals(refusals)
        if has_progress:
            session.note_progress()
        self.context.on_progress()
        return has_progress

    def say_goodbye(self) -> None:
        """Send every answer that is due, and close every link."""
        self.context.has_said_goodbye = True
        for session in self.peers.all():
            if session.has_receiver:
                session.receiver.flush()  # what the application answered last
        for link in tuple(self.links):
            link.close(link_frames.CLOSE_DONE, "the node is closing")

    # -- v1 and v2 ------------------------------------------------------------------------

    def is_v1_allowed(self, did: Did) -> bool:
        """Whether the configuration lets this DID speak v1."""
        return self._config.v1_peers == "all" or did in self._config.v1_peers

    def may_speak_v1(self, session: PeerSession) -> bool:
        """Whether to try v1 with a peer that hung up on TLS. Never once it has spoken v2."""
        # Not by `session.wire`: strangers are forgotten, and this is not.
        did = session.did
        if bytes(did) in self.v2_speakers or self.context.store.has_spoken_v2(did):
            return False
        return self.is_v1_allowed(did)

    def note_hang_up(self, session: PeerSession) -> bool:
        """The peer hung up on TLS: whether it may be a v1 peer. After some times it is one."""
        if not self.may_speak_v1(session):
            return False
        session.hang_ups += 1
        if session.hang_ups >= _HANG_UPS_OF_V1:
            session.wire = "v1"
            self._host.call_soon(self.bring, session)
        return True

    def note_v1_over(self, session: PeerSession) -> None:
        """A v1 connection to the peer has ended: it may speak v2 when it is back."""
        if session.wire == "v1" and self.context.us is not None:
            session.wire = None
            session.hang_ups = _HANG_UPS_OF_V1 - 1

    # -- sending: any thread ----------------------------------------------------------------

    def submit(
        self,
        message: OutgoingMessage,
        payload_size: int,
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> None:
        """Queue a message. Any thread; returns at once.

        Args:
            payload_size: Bytes of the payload.
            is_patient: Whether the caller retries: then a full queue is not counted as a drop.
            replaces: Ids of dead letters that go when the message is stored.

        Raises:
            ClosedError, UnknownPeerError, NotAllowedError, PayloadTooLargeError,
                BackpressureError, StoreFullError, StoreFailedError: it was not queued.
        """
        session = self._check(message.terms.recipient, payload_size)
        sender = session.sender
        message.failures_before = sender.failures
        self.context.store.put(sender, [message], is_patient=is_patient, replaces=replaces)
        if message.is_stored:
            return  # the commit brings it
        if self._is_in_use(session, sender):
            self._queued(session, sender, (message,))
        elif sender.lanes.remove_if(lambda one: one is message):
            # Forgotten as a stranger since we looked.
            self.submit(message, payload_size, is_patient=is_patient)

    def submit_many(self, messages: list[OutgoingMessage]) -> int:
        """Queue messages with equal options to one recipient; returns how many had room.

        Raises:
            What `submit()` does for the first of them, if not even that can be queued.
        """
        first = messages[0]
        if self.context.store.is_durable:
            sender = self._check(first.recipient, first.payload_size).sender
            return self.context.store.put(sender, messages)
        self.submit(first, first.payload_size, is_patient=True)
        return 1 + self._put_many(messages[1:])

    def _put_many(self, messages: list[OutgoingMessage]) -> int:
        """Queue messages to one recipient that was checked; returns how many had room."""
        if not messages:
            return 0
        session = self.peers.session(messages[0].recipient)
        sender = session.sender
        for message in messages:
            message.failures_before = sender.failures
        count = sender.lanes.put_many(messages, messages[0].priority)
        if not count:
            return 0
        if not self._is_in_use(session, sender):
            # Forgotten as a stranger since we looked.
            back = frozenset(sender.lanes.remove_if(frozenset(messages).__contains__))
            return self._put_many([one for one in messages if one in back])
        self._queued(session, sender, messages[:count])
        return count

    def _is_in_use(self, session: PeerSession, sender: PeerSender) -> bool:
        """Whether what was put into this queue leaves it: its peer was not forgotten before."""
        return session.is_sending_by(sender) and self.peers.get(session.did) is session

    def _check(self, did: Did, payload_size: int) -> PeerSession:
        """The session of a peer, if a message may be queued for it."""
        home = self._host.home
        home.check_alive()
        if not self._host.is_open:
            raise ClosedError(
                f"message to {did} not queued: this node is {home.in_words}",
                "Start it with `async with`, and send before it is closed",
            )
        session = self.peers.get(did)
        is_v1 = self._is_v1(session)
        self._check_allowed(did, is_v1=is_v1)
        limit = self._config.max_v1_payload_size if is_v1 else self._config.max_payload_size
        if payload_size > limit:
            self._refuse_size(did, payload_size, limit, is_v1=is_v1)
        if not self.context.store.is_durable and not self._has_way(did, session):
            self._host.drop(Reason.UNKNOWN_PEER, did)
            has_left = session is not None and self._has_just_left(session, for_ever=True)
            raise UnknownPeerError(
                did,
                Reason.UNKNOWN_PEER,
                f"no address is known for {did}; the message was not queued",
                "It had dialed us, and its link has ended: wait until it dials again"
                if has_left
                else 'Add one with routing.update(did, "host:port"), or set `fallback`',
            )
        return self.peers.session(did) if session is None else session

    def _check_allowed(self, did: Did, *, is_v1: bool) -> None:
        if self.access.denies(did):
            self._host.drop(Reason.DENIED, did)
            raise NotAllowedError(
                did, Reason.DENIED, f"{did} is denied by node.access; the message was not queued"
            )
        if is_v1 and not self.is_v1_allowed(did):
            self._host.drop(Reason.NOT_ALLOWED, did)
            raise NotAllowedError(
                did,
                Reason.NOT_ALLOWED,
                f"{did} speaks only v1 and is not among v1_peers; the message was not queued",
                'Name it in v1_peers, or set v1_peers = "all"',
            )

    def check_size(self, did: Did, payload_size: int) -> None:
        """Whether the wire that the peer speaks carries so large a payload, in bytes.

        Raises:
            PayloadTooLargeError: it does not.
        """
        is_v1 = self._is_v1(self.peers.get(did))
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

    def has_way(self, did: Did) -> bool:
        """Whether a peer is linked, has been, or can be dialed. Any thread."""
        return self._has_way(did, self.peers.get(did))

    def _has_way(self, did: Did, session: PeerSession | None) -> bool:
        if session is None:
            has_address = self.peers.resolve(did) is not None
        elif session.link is not None or self.peers.route(session) is not None:
            return True
        else:
            has_address = self._has_just_left(session)  # it may be back in a moment
        # A peer that has linked to us once may again.
        return has_address or self.context.store.has_spoken_v2(did)

    def _has_just_left(self, session: PeerSession, *, for_ever: bool = False) -> bool:
        left_at = session.left_at
        if left_at is None:
            return False
        return for_ever or clock.monotonic() - left_at < _RETURN_GRACE

    def _queued(
        self, session: PeerSession, sender: PeerSender, messages: Sequence[OutgoingMessage]
    ) -> None:
        """Messages wait in the queue: have the loop look at it. Any thread."""
        if messages and messages[0].terms.expires_at is not None:
            for message in messages:
                self._host.call_soon(sender.watch_deadline, message)
        if not sender.is_scheduled:
            sender.is_scheduled = True
            self._schedule(session)
        if self._has_ended:
            # Closed since we looked, by another thread, and perhaps past this peer.
            sender.give_up_all(Reason.CLOSED)

    def _schedule(self, session: PeerSession) -> None:
        """Have the loop look at a queue; one wake-up for many messages."""
        self._scheduled.append(session)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._host.call_soon(self.flush_scheduled)

    # -- the loop: how messages leave -------------------------------------------------------

    def flush_scheduled(self) -> None:
        """Bring what was queued since the last time."""
        # First the flags, then the queues: a message that comes between is seen.
        self._is_flush_due = False
        while self._scheduled:
            session = self._scheduled.popleft()
            if session.has_sender:
                session.sender.is_scheduled = False
                self.bring(session)

    def bring(self, session: PeerSession) -> None:
        """Hand what waits for a peer to its link, or to the connector."""
        if self._is_ending:
            return  # end() comes to it
        if self.access.denies(session.did) and self.give_up_denied(session):
            return
        if session.link is not None:
            session.link.pump()
            return
        address = self.peers.route(session)
        if address is not None:
            assert self.connector is not None
            self.connector.connect(session, address)
        elif not (self._host.speaks_v2 and self._has_just_left(session)):
            self._give_up_stranded(session)
        elif session.return_timer is None:
            # It dials us, from where we cannot dial it: give it time to return.
            session.return_timer = self._host.call_later(
                _RETURN_GRACE, self._give_up_stranded, session
            )

    def bring_stranded(self) -> None:
        """A route has changed: bring what had no way until now."""
        for session in self.peers.senders():
            is_stranded = session.link is None and session.sender.route is None
            if is_stranded and session.sender.lanes:
                self.bring(session)

    def _give_up_stranded(self, session: PeerSession) -> None:
        session.return_timer = None
        if session.link is None and self.peers.route(session) is None:
            sender = session.sender
            for message in sender.lanes.remove_if(lambda message: not message.is_stored):
                sender.give_up(message, Reason.UNKNOWN_PEER)
            self.peers.forget_if_stranger(session)

    def reroute(self, sessions: Iterable[PeerSession]) -> None:
        """Move peers whose address has changed to a connection to their new one."""
        for session in tuple(sessions):
            route = session.sender.route
            if route is None or self.peers.route(session) != route.address:
                self._disconnect(session)
                self.bring(session)

    def requeue(
        self,
        session: PeerSession,
        messages: Sequence[OutgoingMessage],
        *,
        is_fault: bool = True,
        cause: Cause = BROKE,
    ) -> None:
        """Queue messages of an ended connection again. See `PeerSender.requeue()`."""
        self._host.counters.rewritten += len(messages)
        if messages:
            session.sender.requeue(messages, is_fault=is_fault, cause=cause)
            self.bring(session)

    # -- denials --------------------------------------------------------------------------

    def on_access_change(self) -> None:
        """The access list has changed. Any thread."""
        if not self._host.is_open:
            return  # before and after there is no link; what is restored is asked about
        if self._host.is_in_loop and self._host.is_loop_running:
            self._enforce()  # so that counters and links show it when the call returns
        else:
            self._host.call_soon(self._enforce)

    def _enforce(self) -> None:
        denies = self.access.denies
        for session in self.peers.all():
            if session.link is not None and denies(session.did):
                session.receiver.mute()
                session.link.close(link_frames.CLOSE_DENIED, "denied")
        self.denied.discard(self.inbox.remove_if(self.denied.is_from_denied))
        self.denied.count()
        for session in self.peers.senders():
            if denies(session.did):
                self.give_up_denied(session)
                self.context.store.give_up_denied(session.sender)

    def give_up_denied(self, session: PeerSession) -> bool:
        """Fail what waits for a peer and dial it no more; `False`: the peer is not denied now."""
        sender = session.sender
        waiting = frozenset(sender.lanes)  # before the list is asked: later ones may be allowed
        if not self.access.denies(session.did):
            return False
        self._disconnect(session)
        for message in sender.lanes.remove_if(waiting.__contains__):
            sender.give_up(message, Reason.DENIED)
        return True

    def _disconnect(self, session: PeerSession) -> None:
        if self.connector is not None:
            self.connector.disconnect(session)

    # -- clocks and the end -----------------------------------------------------------------

    def on_clock_step(self) -> None:
        """A clock was set, or the machine was suspended: look at every deadline anew."""
        for session in self.peers.senders():
            session.sender.on_clock_step()

    def begin_end(self) -> None:
        """Bring nothing more."""
        self._is_ending = True

    def end(self) -> None:
        """End every message that is left."""
        self._has_ended = True
        for session in self.peers.all():
            session.stop_waiting()
            if session.has_sender:
                session.sender.end()
