"""All peers of a node: one map from DID to `PeerSession`, and what is decided across them.

    submit ─→ PeerSender.lanes ─→ an open link, or the connector, which dials

`submit()` may be called from any thread; all the rest belongs to the loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from signedwire import clock
from signedwire.delivery.denials import DenialLogLimiter
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.peer_sender import BROKE
from signedwire.delivery.peer_session import LinkVerdict, PeerSession
from signedwire.delivery.ports import Host, LinkPort, Routes
from signedwire.delivery.replay import ReplayMemory
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.session_map import SessionMap
from signedwire.delivery.store import IncomingRow
from signedwire.delivery.submitter import Submitter
from signedwire.errors import (
    Cause,
)
from signedwire.stats import PeerStatus
from signedwire.types import Did, Reason, Target
from signedwire.wire import link_frames
from signedwire.wire.link_frames import Hello, Receipts, Refusal
from signedwire.wire.session import Closed

__all__ = ["Connector", "Endpoint"]

_MAX_V2_SPEAKERS: Final = 100_000
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
        self.denials = context.denials
        """Drops the messages of denied senders."""
        self.peers = SessionMap(context, routes, lock)
        """The sessions of all peers."""
        self.submitter = Submitter(context, self.peers, self.send_waiting)
        """Puts messages of the application into the queues."""
        self.v2_speakers = ReplayMemory(_MAX_V2_SPEAKERS)
        """DIDs that have proven themselves over v2: nothing of theirs is believed over v1."""
        self.denial_log = DenialLogLimiter()
        self.links: set[LinkPort] = set()
        """Open links."""
        self.connector: Connector | None = None
        """Who dials; `None` until the node has one."""
        self._is_ending = False

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
        if self.context.is_v1_allowed(did):  # else it is not believed on v1 anyway
            self.v2_speakers.add(bytes(did))
        if was_v1 and session.has_sender and session.sender.route is not None:
            self._disconnect(session)
            self._host.call_soon(self.send_waiting, session)
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
                self._requeue_unanswered(session, is_fault=False)
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
        if self.context.has_closed_links or not (self._host.is_open or is_durable):
            for message in session.sender.stream.take_unanswered():
                session.sender.give_up(message, Reason.CLOSED, "written, but no receipt came")
            return
        # A link that brought nothing through was a failed attempt, which its dialer has
        # counted for all that waits; on another, what was in flight is under suspicion.
        is_fault = not is_excused and (link.has_progress or on_over is None)
        cause = cause.after("the link ended before an answer came: ")
        self._requeue_unanswered(session, is_fault=is_fault, cause=cause)
        if session.sender.lanes:
            self.send_waiting(session)

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

    def close_links(self) -> None:
        """Send every answer that is due, and close every link."""
        self.context.has_closed_links = True
        for session in self.peers.all():
            if session.has_receiver:
                session.receiver.answers.flush()  # what the application answered last
        for link in tuple(self.links):
            link.close(link_frames.CLOSE_DONE, "the node is closing")

    # -- v1 and v2 ------------------------------------------------------------------------

    def may_speak_v1(self, session: PeerSession) -> bool:
        """Whether to try v1 with a peer that hung up on TLS. Never once it has spoken v2."""
        # Not by `session.wire`: strangers are forgotten, and this is not.
        did = session.did
        if bytes(did) in self.v2_speakers or self.context.store.has_spoken_v2(did):
            return False
        return self.context.is_v1_allowed(did)

    def note_hang_up(self, session: PeerSession) -> bool:
        """The peer hung up on TLS: whether it may be a v1 peer. After some times it is one."""
        if not self.may_speak_v1(session):
            return False
        session.hang_ups += 1
        if session.hang_ups >= _HANG_UPS_OF_V1:
            session.wire = "v1"
            self._host.call_soon(self.send_waiting, session)
        return True

    def note_v1_over(self, session: PeerSession) -> None:
        """A v1 connection to the peer has ended: it may speak v2 when it is back."""
        if session.wire == "v1" and self.context.us is not None:
            session.wire = None
            session.hang_ups = _HANG_UPS_OF_V1 - 1

    # -- the loop: how messages leave -------------------------------------------------------

    def send_waiting(self, session: PeerSession) -> None:
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
        elif not (self._host.speaks_v2 and session.has_just_left):
            self._give_up_stranded(session)
        else:
            # The peer dials us, from where we cannot dial it.
            session.wait_for_return(self._give_up_stranded)

    def send_stranded(self) -> None:
        """A route has changed: bring what had no way until now."""
        for session in self.peers.senders():
            is_stranded = session.link is None and session.sender.route is None
            if is_stranded and session.sender.lanes:
                self.send_waiting(session)

    def _give_up_stranded(self, session: PeerSession) -> None:
        session.stop_waiting()
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
                self.send_waiting(session)

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
            self.send_waiting(session)

    def _requeue_unanswered(
        self, session: PeerSession, *, is_fault: bool, cause: Cause = BROKE
    ) -> None:
        """Queue again what a link has taken and its peer has not answered."""
        messages = session.sender.stream.take_unanswered()
        self.requeue(session, messages, is_fault=is_fault, cause=cause)

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
                session.receiver.answers.detach()
                session.link.close(link_frames.CLOSE_DENIED, "denied")
        self.denials.discard(self.inbox.remove_if(self.denials.is_from_denied))
        self.denials.count()
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
        self.submitter.end()
        for session in self.peers.all():
            session.stop_waiting()
            if session.has_sender:
                session.sender.end()
