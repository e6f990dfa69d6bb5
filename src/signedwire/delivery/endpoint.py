"""Decisions about all peers of a node: which link to use, where to send, whom to deny.

    Submitter ─→ PeerSender.lanes ─→ Endpoint.send_waiting() ─→ the open link, or a dialer

Everything here belongs to the event loop, where nothing else is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from signedwire import clock
from signedwire.delivery.bounded_memory import BoundedSet
from signedwire.delivery.log_limiter import LogLimiter
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_sender import BROKE
from signedwire.delivery.peer_session import EndedLink, LinkVerdict, PeerSession
from signedwire.delivery.ports import Host, LinkPort, Routes
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.session_map import SessionMap
from signedwire.delivery.store import IncomingRow
from signedwire.delivery.submitter import Submitter
from signedwire.errors import Cause
from signedwire.stats import PeerStatus
from signedwire.types import Did, Reason, Target
from signedwire.wire import link_frames
from signedwire.wire.link_frames import Hello, Receipts
from signedwire.wire.session import Closed

__all__ = ["Connector", "Endpoint"]

_MAX_V2_SPEAKERS: Final = 100_000
_HANG_UPS_OF_V1: Final = 2
"""Hang-ups during TLS, in a row, after which a peer counts as v1. One is not enough, because a
v2 peer without room for a connection hangs up in the same way."""


class Connector(Protocol):
    """The dialers of a node."""

    def connect(self, session: PeerSession, address: Target) -> None:
        """Dial this address, and send what waits for the peer over the connection."""

    def disconnect(self, session: PeerSession) -> None:
        """Stop dialing the peer. An open link stays."""


class Endpoint:
    """The sessions of all peers. See the module's text.

    Args:
        context: The parts that the sessions share.
        routes: The addresses of DIDs.
        lock: Guards the map of sessions against the threads that send.
    """

    def __init__(
        self, context: SessionContext, routes: Routes, lock: AbstractContextManager[object]
    ) -> None:
        self.context = context
        self._host: Host = context.host
        self._config = context.host.config
        self._routes = routes
        self.access = context.access
        """The access list, which decides which DIDs are denied."""
        self.inbox = context.inbox
        """Received messages that wait for the application."""
        self.denials = context.denials
        """Drops the messages of denied senders."""
        self.sessions = SessionMap(context, routes, lock)
        """The sessions of all peers."""
        self.submitter = Submitter(context, self.sessions, self.send_waiting)
        """Puts messages of the application into the queues."""
        self.v2_speakers = BoundedSet(_MAX_V2_SPEAKERS)
        """DIDs that have proven themselves over v2. Their v1 messages are refused."""
        self.denial_log = LogLimiter()
        """Limits the lines about links of denied DIDs."""
        self.links: set[LinkPort] = set()
        """Open links."""
        self.connector: Connector | None = None
        """The dialers; `None` until the node has made them."""
        self._is_ending = False
        self._is_enforcement_due = False
        self._is_look_due = False

    def restore(self, rows: Iterable[IncomingRow]) -> list[int]:
        """Deliver messages that an earlier process accepted but did not acknowledge.

        Returns:
            Ids of the rows that are not delivered, because their sender is denied now.
        """
        denied, counts = [], Counter[Did]()
        for row in rows:
            if self.access.is_denied(row.sender):
                denied.append(row.id)
                counts[row.sender] += 1
            else:
                self.sessions.session(row.sender).receiver.restore(row)
        for did, count in counts.items():
            self._host.drop(Reason.DENIED, did, count=count)
        return denied

    def status(self) -> dict[Did, PeerStatus]:
        """Return the state of every peer that has a sending half, by DID. Any thread.

        A stranger that was forgotten is absent; see `session_map`.
        """
        return {session.did: session.status() for session in self.sessions.senders()}

    # -- links ----------------------------------------------------------------------------

    def proven(self, did: Did) -> PeerSession:
        """Note that a DID has proven itself over v2: v1 with it ends, in both directions."""
        session = self.sessions.session(did)
        was_v1, session.wire = session.wire == "v1", "v2"
        store = self.context.store
        if not store.has_spoken_v2(did):
            store.note_v2(did)
        if self.context.is_v1_allowed(did):  # else its v1 messages are refused anyway
            self.v2_speakers.add(bytes(did))
        if was_v1 and session.has_sender and session.sender.dialer is not None:
            self._disconnect(session)
            self._host.call_soon(self.send_waiting, session)
        return session

    def hello_received(self, session: PeerSession, link: LinkPort, hello: Hello) -> bool:
        """The HELLO of a link has come: close the link, or return `True` to open it."""
        if self.access.denies(session.did):  # since the DID was proven
            link.close(link_frames.CLOSE_DENIED, "denied")
            self._host.drop(Reason.DENIED, session.did)
            return False
        if self.context.store.failure is not None:
            # Not before the HELLO: a hang-up without one would look like a denial to the peer.
            link.close(link_frames.CLOSE_UNAVAILABLE, "the store has failed")
            self._host.drop(Reason.STORE_FAILED, session.did)
            return False
        if not session.receiver.begin(hello.epochs):
            link.close(link_frames.CLOSE_STALE_EPOCH, "the epoch is older than one used before")
            self._host.drop(Reason.STALE_EPOCH, session.did)
            return False
        return True

    def link_opened(self, session: PeerSession, link: LinkPort, hello: Hello) -> None:
        """Use a link whose HELLO has come, or close it."""
        self.links.add(link)
        verdict = session.judge(link, hello)
        if verdict is LinkVerdict.OURSELVES:
            self._host.drop(Reason.BAD_IDENTITY, session.did)
            session.sender.give_up_all(Reason.BAD_IDENTITY, "the address is that of this very node")
            link.close(link_frames.CLOSE_DUPLICATE_LINK, "this link leads to its own node")
        elif verdict is LinkVerdict.DUPLICATE:
            link.close(link_frames.CLOSE_DUPLICATE_LINK, "there is another link already")
        elif verdict is LinkVerdict.NO_EPOCH_LEFT:
            text = "the HELLO names the last epoch, so no newer one can begin"
            link.close(link_frames.CLOSE_PROTOCOL_ERROR, text)
        elif verdict is LinkVerdict.PEER_IS_AHEAD:
            known, new_streams = hello.known_epochs, self.sessions.new_streams
            if session.is_volatile_behind(hello):
                session.restart_volatile(new_streams(session, known.volatile + 1, is_durable=False))
            if session.is_durable_behind(hello):
                streams = new_streams(session, known.durable + 1, is_durable=True)
                session.restart_durable(hello, streams)
            link.close(link_frames.CLOSE_STALE_EPOCH, "reconnecting with a newer epoch")
        elif verdict is LinkVerdict.HELLO_IS_STALE:
            link.close(link_frames.CLOSE_STALE_EPOCH, "a newer epoch has begun since its HELLO")
        else:
            session.link_opened(link, hello)
            self.sessions.touch(session)
            self._set_max_rate(session, link)
            # Messages in flight were written to another link, which this one replaces.
            self._put_back(session, session.sender.streams.take_unanswered(), is_fault=False)
            # Before anything is written: a message that ends here might arrive twice.
            session.end_unknown(hello)
            session.announce(link)
            for watcher in self.context.link_watchers:
                self._host.log.attempt("telling of a link", watcher.linked, session.did)
            link.pump()

    def link_closed(
        self, session: PeerSession, link: LinkPort, cause: Cause, closed: Closed | None
    ) -> EndedLink:
        """Note that an open link has ended. `requeue_after()` follows.

        Args:
            session: The session of the peer.
            link: The link that has ended.
            cause: The cause, for errors and events.
            closed: How the session of the link ended; `None`: it was cut.
        """
        self.links.discard(link)
        return session.link_closed(link, cause, closed)

    def requeue_after(
        self, session: PeerSession, link: LinkPort, ended: EndedLink, cause: Cause
    ) -> None:
        """Queue the messages of an ended link again that have no receipt.

        Args:
            session: The session of the peer.
            link: The link that has ended. Its dialer has noted the end.
            ended: The result of `link_closed()`.
            cause: The cause, for errors.
        """
        if not ended.was_used:
            return
        if self.sessions.route(session) is None:
            session.left_at = clock.monotonic()
        # While a node with a store closes, messages stay in order for a later process, and
        # another link may still open.
        is_durable = self.context.store.is_durable
        if self.context.has_closed_links or not (self._host.is_open or is_durable):
            unanswered = session.sender.streams.take_unanswered()
            session.sender.give_up_many(unanswered, Reason.CLOSED, "written, but no receipt came")
            return
        # A dialed link without one answer was a failed attempt, which its dialer has counted
        # for all messages. Otherwise a message in flight may have broken the link, so the
        # attempt is counted for those alone.
        is_fault = not ended.is_excused and (link.state.has_progress or not link.state.is_dialed)
        cause = cause.prefixed("the link ended before an answer came: ")
        self._requeue_unanswered(session, is_fault=is_fault, cause=cause)
        for watcher in self.context.link_watchers:
            self._host.log.attempt("telling of the end of a link", watcher.unlinked, session.did)

    def on_receipts(self, session: PeerSession, receipts: Receipts) -> bool:
        """Apply signed receipts; return whether a message was waiting for one."""
        is_late = receipts.reason is Reason.EXPIRED
        offset = session.clock_offset if is_late else None
        has_progress = session.sender.receipts(receipts, offset)
        if has_progress:
            session.note_progress()
        self.context.on_progress()
        return has_progress

    def close_links(self) -> None:
        """Send all answers of the application, and close all links."""
        self.context.has_closed_links = True
        attempt = self._host.log.attempt
        for session in self.sessions.all():
            if session.has_receiver:
                attempt("sending the last answers", session.receiver.answers.flush)
        for link in tuple(self.links):
            attempt("closing a link", link.close, link_frames.CLOSE_DONE, "the node is closing")

    # -- v1 and v2 ------------------------------------------------------------------------

    def may_speak_v1(self, session: PeerSession) -> bool:
        """Whether to try v1 with a peer that hung up on TLS. Never once it has spoken v2."""
        # `session.wire` does not answer this, because sessions of strangers are forgotten.
        did = session.did
        if bytes(did) in self.v2_speakers or self.context.store.has_spoken_v2(did):
            return False
        return self.context.is_v1_allowed(did)

    def note_hang_up(self, session: PeerSession) -> bool:
        """Note that a peer hung up during TLS; return whether it may be a v1 peer.

        After two in a row, the peer counts as a v1 peer.
        """
        if not self.may_speak_v1(session):
            return False
        session.hang_ups += 1
        if session.hang_ups >= _HANG_UPS_OF_V1:
            session.wire = "v1"
            self._host.call_soon(self.send_waiting, session)
        return True

    def note_v1_over(self, session: PeerSession) -> None:
        """Note that a v1 connection has ended: the peer may speak v2 when it is back."""
        if session.wire == "v1" and self.context.us is not None:
            session.wire = None
            session.hang_ups = _HANG_UPS_OF_V1 - 1

    # -- sending ----------------------------------------------------------------------------

    def send_waiting(self, session: PeerSession) -> None:
        """Send the queue of a peer over its open link, or have the peer dialed."""
        if self._is_ending:
            return  # `end()` ends the messages
        if self.access.denies(session.did) and self.give_up_denied(session):
            return
        if session.link is not None:
            session.link.pump()
            return
        address = self.sessions.route(session)
        if address is not None:
            assert self.connector is not None
            session.stop_waiting()
            self.connector.connect(session, address)
        elif not (self._host.speaks_v2 and session.has_just_left):
            self._give_up_stranded(session)
        else:
            # This node cannot dial the peer, but the peer may dial this node again.
            session.wait_for_return(self._give_up_stranded)

    def on_routes(self) -> None:
        """Follow the routing table in the next turn of the loop: it has changed. Any thread."""
        if self._host.is_open and not self._is_look_due:
            self._is_look_due = True
            self._host.call_soon(self._follow_routes)

    def _follow_routes(self) -> None:
        self._is_look_due = False  # first, so that no change is missed that comes meanwhile
        for session in self.sessions.all():
            if session.link is not None and self._set_max_rate(session, session.link):
                session.link.pump()  # what waits may go earlier now
        self.send_stranded()

    def _set_max_rate(self, session: PeerSession, link: LinkPort) -> bool:
        """Cap what a link sends as the route says; return whether that is a change."""
        window, max_rate = link.state.window, self._routes.max_rate(session.did)
        if window is None or window.max_rate == max_rate:
            return False
        window.max_rate = max_rate
        return True

    def send_stranded(self) -> None:
        """Send the queues of peers that had neither a link nor a route, after a route changed."""
        for session in self.sessions.senders():
            is_stranded = session.link is None and session.sender.dialer is None
            if is_stranded and session.sender.lanes:
                self.send_waiting(session)

    def _give_up_stranded(self, session: PeerSession) -> None:
        session.stop_waiting()
        if self.sessions.route(session) is not None:
            self.send_waiting(session)  # the route was added meanwhile
        else:
            sender = session.sender
            removed = sender.lanes.remove_if(lambda message: not message.is_stored)
            sender.give_up_many(removed, Reason.UNKNOWN_PEER)
            self.sessions.forget_if_stranger(session)

    def reroute(self, sessions: Iterable[PeerSession]) -> None:
        """Dial the new address of each of these peers whose address has changed."""
        for session in tuple(sessions):
            dialer = session.sender.dialer
            if dialer is None or self.sessions.route(session) != dialer.address:
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
        """Queue messages of an ended connection again, and send what waits for the peer.

        See `PeerSender.requeue()`.
        """
        self._put_back(session, messages, is_fault=is_fault, cause=cause)
        if session.sender.lanes:
            self.send_waiting(session)

    def _put_back(
        self,
        session: PeerSession,
        messages: Sequence[OutgoingMessage],
        *,
        is_fault: bool,
        cause: Cause = BROKE,
    ) -> None:
        self._host.counters.rewritten += len(messages)
        if messages:
            session.sender.requeue(messages, is_fault=is_fault, cause=cause)

    def _requeue_unanswered(
        self, session: PeerSession, *, is_fault: bool, cause: Cause = BROKE
    ) -> None:
        """Queue again the messages that a link has taken and its peer has not answered."""
        messages = session.sender.streams.take_unanswered()
        self.requeue(session, messages, is_fault=is_fault, cause=cause)

    # -- denials --------------------------------------------------------------------------

    def on_access_change(self) -> None:
        """Enforce the access list in the next turn of the loop, because it has changed. Any thread.

        Not at once: the caller may be a callback that runs while links and queues change.
        """
        if not self._host.is_open:
            return  # `restore()` asks the list itself; a node that closes ends its links anyway
        if not self._is_enforcement_due:
            self._is_enforcement_due = True
            self._host.call_soon(self._enforce)

    def _enforce(self) -> None:
        self._is_enforcement_due = False  # first, so that no change is missed that comes meanwhile
        denies, attempt = self.access.denies, self._host.log.attempt
        for session in self.sessions.all():
            if session.link is not None and denies(session.did):
                session.receiver.answers.detach()
                attempt(
                    "closing the link of a denied peer",
                    session.link.close,
                    link_frames.CLOSE_DENIED,
                    "denied",
                )
        for inbox in self.context.inboxes():
            self.denials.discard(inbox.remove_if(self.denials.is_from_denied))
        self.denials.count()
        for session in self.sessions.senders():
            if denies(session.did):
                attempt("ending the queue of a denied peer", self.give_up_denied, session)
                self.context.store.give_up_denied(session.sender)
            elif session.sender.lanes:
                self.send_waiting(session)  # nothing was written while the peer was denied

    def give_up_denied(self, session: PeerSession) -> bool:
        """Fail the queue of a peer, and stop dialing it.

        Returns:
            `False`, without a change, if the peer is not denied any more.
        """
        sender = session.sender
        # Before the list is asked: a message queued after that may be allowed.
        waiting = frozenset(sender.lanes)
        if not self.access.denies(session.did):
            return False
        self._disconnect(session)
        sender.give_up_many(sender.lanes.remove_if(waiting.__contains__), Reason.DENIED)
        return True

    def _disconnect(self, session: PeerSession) -> None:
        if self.connector is not None:
            self.connector.disconnect(session)

    # -- clocks and the end -----------------------------------------------------------------

    def on_clock_step(self) -> None:
        """Compute each deadline again, because a clock was set or the machine was suspended."""
        for session in self.sessions.senders():
            session.sender.on_clock_step()

    def begin_end(self) -> None:
        """Send no queue any more."""
        self._is_ending = True

    def end(self) -> None:
        """Fail all messages that are left, and each that is queued from now on."""
        self.submitter.end()
        for session in self.sessions.all():
            session.stop_waiting()
            if session.has_sender:
                session.sender.end()
