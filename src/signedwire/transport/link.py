"""A v2 link: one wire session over TLS over one socket.

    socket → LinkInput → Handshake, then TlsChannel → Session → events → PeerSession
    socket ← LinkSocket ← TlsChannel ← Session ← LinkOutput ← PeerSession

Nothing is written into the TLS channel before the other side has proven its DID and, on a link
that was dialed, that DID is the one that was dialed. The link is open, and the peer connected,
when the HELLO of the peer has come. One frame is an exception: a CLOSE to a side whose proof has
expired says so, with both times.

Links are symmetrical: messages and receipts go both ways, whichever side dialed. The `PeerSession`
of the peer decides what they mean.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import partial

from signedwire.clock import monotonic
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.stream_answers import Answers
from signedwire.errors import Cause, DidProofError, FailureKind
from signedwire.transport import link_errors
from signedwire.transport.answer_watch import AnswerWatch
from signedwire.transport.inbound import InboundConnection
from signedwire.transport.link_end import LinkEnd
from signedwire.transport.link_events import LinkEvents
from signedwire.transport.link_input import LinkInput
from signedwire.transport.link_output import LinkOutput
from signedwire.transport.link_ports import LinkDialerPort
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.link_state import LinkState
from signedwire.transport.network import Stream
from signedwire.transport.room_wait import RoomWait
from signedwire.transport.runtime import Runtime
from signedwire.transport.session_timer import SessionTimer
from signedwire.types import Credit, Did, Reason, Target
from signedwire.wire import link_frames as frames
from signedwire.wire.link_frames import Hello
from signedwire.wire.session import Closed, Session

__all__ = ["Link"]


class Link:
    """The driver of one v2 connection, dialed or accepted.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
        expected: The DID that was dialed; `None`: the connection was accepted.
        inbound: The admission of an accepted connection.
        dialer: The dialer of the link.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        *,
        expected: Did | None = None,
        inbound: InboundConnection | None = None,
        dialer: LinkDialerPort | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        since = monotonic() if inbound is None else inbound.since
        self.state = state = LinkState(expected, since, loop.create_future())
        """The session, the peer, and what has become of the link."""
        self._runtime = runtime
        self._endpoint = endpoint
        self._inbound = inbound
        self._timer = SessionTimer(loop, self._on_timer)
        self._channel = channel = runtime.tls.channel(is_server=expected is None)
        config = runtime.config
        self._socket = LinkSocket(runtime.counters, runtime.lingering)
        self._answers = AnswerWatch(config.ping_interval, config.answer_timeout, self._on_overdue)
        on_batch = None if dialer is None else dialer.touch
        self._output = LinkOutput(state, channel, self._socket, self._answers, on_batch, loop)
        known = endpoint.context.known
        wait = RoomWait(runtime, known, self, state, self._socket)
        self._input = LinkInput(self, state, channel, self._socket, runtime.shares, wait, expected)
        self._events = LinkEvents(runtime, endpoint, state, self._output, on_batch)
        input_, output, timer = self._input, self._output, self._timer
        self._end = LinkEnd(
            runtime, endpoint, state, input_, timer, output, self._socket, inbound, dialer
        )

    @property
    def overdue(self) -> float | None:
        """Seconds that the link has waited for an answer or a READ, if that is long."""
        return self._answers.overdue

    @property
    def address(self) -> Target | None:
        """The address of the other side."""
        return self._socket.address

    # -- the stream: see `Receiver` ---------------------------------------------------------

    def connected(self, stream: Stream) -> None:
        self._socket.open(stream)
        if self.state.is_dialed:
            self._channel.start()
            self._output.flush()

    def received(self, data: bytes) -> None:
        self.state.has_heard = True
        self._runtime.counters.bytes_received += len(data)
        if self.state.is_over:
            return
        if self._inbound is not None:
            self._inbound.touch()
        self._input.receive(data)

    def ended(self) -> None:
        self._input.receive_end()
        self._socket.close()

    def lost(self, error: Exception | None) -> None:
        is_before_hello = self.state.peer_session is not None and not self.state.is_open
        cause = link_errors.cause_of_loss(error, is_before_hello=is_before_hello)
        self._input.lose(cause)
        self._socket.lost()
        if self._inbound is not None:
            self._inbound.leave()

    def writable(self) -> None:
        self._socket.writable()
        self._output.pump()

    # -- the session begins -----------------------------------------------------------------

    def begin(self, did: Did) -> None:
        """The other side has proven its DID: send HELLO, or CLOSE if the DID is denied."""
        runtime, endpoint, state = self._runtime, self._endpoint, self.state
        peer_session = state.peer_session = endpoint.sessions.session(did)
        if endpoint.access.denies(did):
            cause = Cause(f"{did} may not link to us", FailureKind.CLOSED_HERE)
            was_logged = self._inbound is not None and endpoint.denial_log.note_attempt(did)
            self._output.refuse(frames.CLOSE_DENIED, "denied")
            self._end.fail(self, Reason.DENIED, cause, is_logged=not was_logged)
            return
        endpoint.proven(did)
        state.is_known = state.is_known or did in endpoint.context.known
        state.session = Session(
            runtime.identity,
            did,
            peer_session.hello(),
            runtime.session_limits,
            self._loop.time(),
            state.read_clocks,
            peer_session.is_expected,
            partial(runtime.counters.observe, "round_trip_seconds"),
            is_stranger=not state.is_known,
        )
        peer_session.receiver.link_granted(self)

    def on_hello(self, peer_session: PeerSession, hello: Hello) -> None:
        if not self._endpoint.hello_received(peer_session, self, hello):
            return
        if self._inbound is not None:
            self._inbound.prove()
        self._runtime.counters.observe("handshake_seconds", self.state.note_open())
        self._endpoint.link_opened(peer_session, self, hello)

    # -- events -----------------------------------------------------------------------------

    def finish_turn(self) -> None:
        """Handle the events, write what is due, and set the timer."""
        state = self.state
        self.take_events()
        self._output.stop_gathering()
        self._output.watch_answers(
            is_used=state.peer_session is not None and state.peer_session.link is self
        )
        self._output.flush()
        if state.session is not None:
            self._timer.arm(state.session.next_timeout())

    def take_events(self) -> None:
        """Handle the events. The caller also calls `finish_turn()`."""
        state = self.state
        while state.session is not None and (event := state.session.next_event()) is not None:
            self._events.handle(self, state.session, event)

    def _on_timer(self, now: float) -> None:
        if (session := self.state.session) is not None:
            session.handle_timeout(now, monotonic())
            if session.has_control:
                # READ is due after 10 ms. So receipts that still wait are late, and go along.
                self._output.sign_receipts()
            self.finish_turn()

    def _on_overdue(self) -> None:
        self._runtime.drop(Reason.TOO_SLOW, self.state.did)
        timeout = self._runtime.config.answer_timeout
        words = f"no answer to a message within {timeout:g} s"
        self.close(frames.CLOSE_PROTOCOL_ERROR, Cause(words, FailureKind.TIMED_OUT))

    # -- output: see `LinkPort` -------------------------------------------------------------

    @property
    def output(self) -> LinkOutput:
        """The sending side, to send copies with it."""
        return self._output

    def pump(self) -> None:
        """Write parts of what waits for the peer, and come again for the next ones."""
        self._output.pump()

    def abort_dead(self) -> None:
        """See `LinkOutput.abort_dead()`."""
        self._output.abort_dead()

    def queue_receipts(
        self,
        roots: list[bytes],
        leaves: list[bytes],
        *,
        is_committed: bool,
        is_urgent: bool = False,
    ) -> None:
        """Sign for these batches and envelopes with the next write; `is_urgent`: write now."""
        self._output.queue_receipts(roots, leaves, is_committed=is_committed, is_urgent=is_urgent)

    def answer(self, credit: Mapping[int, Credit], answers: Answers) -> None:
        """Send credit, and which messages the application has handled and refused."""
        self._output.answer(credit, answers)

    def ping_every(self, seconds: float | None) -> None:
        """Send a PING whenever no frame has come for so long; `None`: as usual."""
        if self.state.session is not None:
            self.state.session.ping_every(seconds, self._loop.time(), monotonic())
            self._output.flush()
            self._timer.arm(self.state.session.next_timeout())

    def note_arrivals(self, new: int, repeats: int) -> None:
        """Count the new messages of a batch, and those that carried nothing new."""
        self.state.has_delivered = self.state.has_delivered or new > 0
        if repeats and self.state.session is not None:
            self.state.session.count_repeats(repeats, is_all=not new, now=self._loop.time())

    def batch_settled(self) -> None:
        """All answers to one received batch were queued, or never will be."""
        if (closed := self._events.settle()) is not None:
            self.end_session(closed)

    # -- the end ----------------------------------------------------------------------------

    def end_session(self, closed: Closed) -> None:
        self._end.end_session(self, closed)

    def close(self, code: int, reason: str) -> None:
        """Send CLOSE and hang up, without waiting."""
        if self.state.session is not None:
            if code != frames.CLOSE_DENIED:  # a denied peer gets no further answer
                self._output.sign_receipts()
            self._output.receipts.clear()
            self.state.session.close(code, reason)
            self.finish_turn()
        else:
            self.end(Cause(reason, FailureKind.CLOSED_HERE))
            self._end.hang_up()

    def abort(self, cause: Cause = link_errors.CLOSED_HERE) -> None:
        """End at once, without CLOSE."""
        self.end(cause)
        self._socket.abort()

    def turn_away(self, reason: str) -> bool:
        """Close because the node is full, with an alert that a v1 peer does not send."""
        if self.state.session is None and not self.state.is_over:
            self._socket.write(self._channel.turn_away())
        self.close(frames.CLOSE_TOO_MANY, reason)
        return True

    @property
    def is_working(self) -> bool:
        """See `ConnectionHandler`: received bytes do not extend the time to prove a DID."""
        return False

    def discard(self) -> None:
        """See `ConnectionHandler`: `turn_away()` or the abort of the connection does it."""

    def on_tls_failed(self, error: ssl.SSLError | DidProofError) -> None:
        if isinstance(error, DidProofError) and error.kind is FailureKind.CLOCKS_DIFFER:
            self._output.refuse(frames.CLOSE_CLOCK, error.fact)
        self._end.fail_tls(self, error)

    def end(self, cause: Cause) -> None:
        self._end.end(self, cause)
