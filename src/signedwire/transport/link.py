"""A v2 link: one wire session over TLS over one socket.

    socket → LinkInput → Handshake, then TlsChannel → Session → events → PeerSession
    socket ← LinkSocket ← TlsChannel ← Session ← LinkOutput ← PeerSession

Nothing is written into the TLS channel before the other side has proven its DID and, on a link
that was dialed, that DID is the one that was dialed. The link is open, and the peer connected,
when the HELLO of the peer has come.

Links are symmetrical: messages and receipts go both ways, whichever side dialed. The `PeerSession`
of the peer decides what they mean.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Final

from signedwire.clock import monotonic
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.peer_session import PeerSession
from signedwire.errors import Cause, DidProofError, FailureKind
from signedwire.events import LoopStalled
from signedwire.logs import fields
from signedwire.transport import link_errors
from signedwire.transport.answers import AnswerWatch
from signedwire.transport.link_input import LinkInput
from signedwire.transport.link_output import LinkOutput
from signedwire.transport.link_ports import DialerPort, InboundPort
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.link_state import LinkState
from signedwire.transport.network import Stream
from signedwire.transport.runtime import Runtime
from signedwire.transport.session_timer import SessionTimer
from signedwire.transport.unsettled import UnsettledBatches
from signedwire.types import Credit, Did, Reason, Target, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.link_frames import Hello, Refusal
from signedwire.wire.session import (
    BatchFailed,
    BatchReceived,
    Closed,
    CreditReceived,
    Event,
    HelloReceived,
    ReceiptsReceived,
    RefusalsReceived,
    Session,
    StallNoticed,
)

__all__ = ["Link"]

_MAX_SETTLING: Final = 1.0
"""Seconds that the end of a session waits for batches that are being stored."""


class Link(LinkState):
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
        inbound: InboundPort | None = None,
        dialer: DialerPort | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        since = monotonic() if inbound is None else inbound.since
        super().__init__(expected, since, loop.create_future())
        self._runtime = runtime
        self._endpoint = endpoint
        self._inbound = inbound
        self._dialer = dialer
        self._timer = SessionTimer(loop, self._on_timer)
        self._channel = channel = runtime.tls.channel(is_server=expected is None)
        config = runtime.config
        self._socket = LinkSocket(runtime.counters, runtime.lingering, config.max_payload_size)
        self._answers = AnswerWatch(config.ping_interval, config.answer_timeout, self._on_overdue)
        on_batch = None if dialer is None else dialer.touch
        self._output = LinkOutput(channel, self._socket, self._answers, on_batch, loop)
        self._input = LinkInput(self, channel, self._socket, runtime.shares, expected)
        self._unsettled = UnsettledBatches()

    @property
    def overdue(self) -> float | None:
        """Seconds that the oldest batch has waited for its answer, if that is long."""
        return self._answers.overdue

    @property
    def address(self) -> Target | None:
        """The address of the other side."""
        return self._socket.address

    # -- the stream: see `Receiver` ---------------------------------------------------------

    def connected(self, stream: Stream) -> None:
        self._socket.open(stream)
        if self.is_dialed:
            self._channel.start()
            self._output.flush()

    def received(self, data: bytes) -> None:
        self.has_heard = True
        self._runtime.counters.bytes_received += len(data)
        if self.is_over:
            return
        if self._inbound is not None:
            self._inbound.touch()
        self._input.receive(data)

    def ended(self) -> None:
        self._input.receive_end()
        self._socket.close()

    def lost(self, error: Exception | None) -> None:
        is_before_hello = self._peer is not None and not self.is_open
        cause = link_errors.cause_of_loss(error, is_before_hello=is_before_hello)
        self._input.lose(cause)
        self._socket.lost()
        if self._inbound is not None:
            self._inbound.leave()

    def writable(self) -> None:
        self._socket.writable()
        self._output.pump()

    # -- the session begins -----------------------------------------------------------------

    def begin(self, did: Did) -> Session | None:
        """The other side has proven its DID: send HELLO, unless the DID is denied."""
        runtime, endpoint = self._runtime, self._endpoint
        peer = self._peer = endpoint.peers.session(did)
        if endpoint.access.denies(did):
            cause = Cause(f"{did} may not link to us", FailureKind.CLOSED_HERE)
            was_logged = self._inbound is not None and endpoint.denial_log.note_attempt(did)
            self._fail(Reason.DENIED, cause, is_logged=not was_logged)
            return None
        endpoint.proven(did)
        self._is_known = self._is_known or runtime.routing.resolve(did) is not None
        session = self._session = Session(
            runtime.identity,
            did,
            peer.hello(),
            runtime.session_limits,
            self._loop.time(),
            peer.is_expected,
            partial(runtime.counters.observe, "round_trip_seconds"),
        )
        self._output.begin(session, peer)
        peer.receiver.link_granted(self)
        return session

    def _on_hello(self, peer: PeerSession, hello: Hello) -> None:
        if not self._endpoint.hello_received(peer, self, hello):
            return
        if self._inbound is not None:
            self._inbound.prove()
        self._runtime.counters.observe("handshake_seconds", self._note_open())
        self._output.open()
        self._endpoint.link_opened(peer, self, hello)

    # -- events -----------------------------------------------------------------------------

    def finish_turn(self) -> None:
        """Handle the events, write what is due, and set the timer."""
        self.take_events()
        self._output.watch_answers(is_used=self._peer is not None and self._peer.link is self)
        self._output.flush()
        if self._session is not None and not self.is_over:
            self._timer.arm(self._session.next_timeout())

    def take_events(self) -> None:
        while self._session is not None and (event := self._session.next_event()) is not None:
            self._handle(self._session, event)

    def _handle(self, session: Session, event: Event) -> None:
        peer = self._peer
        assert peer is not None
        match event:
            case BatchReceived():
                if self._dialer is not None:
                    self._dialer.touch()
                if self._runtime.is_open:  # or the sender keeps it, and sends it again
                    self._unsettled.add()
                    peer.receiver.receive(event, unix_time_us(), self)
            case ReceiptsReceived(receipts):
                self.has_progress |= self._endpoint.on_receipts(peer, receipts)
                self._output.pump_soon()
            case CreditReceived():
                self._output.pump_soon()
            case RefusalsReceived(refusals):
                self.has_progress |= self._endpoint.on_refusals(peer, refusals)
                self._output.pump_soon()
            case HelloReceived(hello):
                self._on_hello(peer, hello)
            case BatchFailed():
                # TLS has protected it, so the peer itself sent it: a second check of each
                # message, for 45 µs, would show nothing else.
                self._output.sign_receipts()
                session.send_refusals(peer.receiver.failed(event))
                session.close(frames.CLOSE_BAD_SIGNATURE, "a batch that you did not sign")
            case StallNoticed(seconds):
                text = "the event loop stood still for %.1f s; no link is closed for that"
                self._runtime.log.warning(text, seconds, extra=fields("stall", seconds=seconds))
                self._runtime.emit(LoopStalled(seconds))
            case Closed():
                self._on_closed(event)

    def _on_timer(self, now: float) -> None:
        if self._session is not None and not self.is_over:
            self._session.handle_timeout(now, monotonic())
            self.finish_turn()

    def _on_overdue(self) -> None:
        self._runtime.drop(Reason.TOO_SLOW, self.did)
        timeout = self._runtime.config.answer_timeout
        words = f"no answer to a message within {timeout:g} s"
        self.close(frames.CLOSE_PROTOCOL_ERROR, Cause(words, FailureKind.TIMED_OUT))

    # -- output: see `LinkPort` -------------------------------------------------------------

    def pump(self) -> None:
        """Write one batch of what waits for the peer, and come again for the next one."""
        self._output.pump()

    def queue_receipts(
        self, roots: list[bytes], leaves: list[bytes], *, is_urgent: bool = False
    ) -> None:
        """Sign for these batches and envelopes with the next write; `is_urgent`: write now."""
        self._output.queue_receipts(roots, leaves, is_urgent=is_urgent)

    def answer(self, credit: Credit, handled: list[bytes], refused: list[Refusal]) -> None:
        """Send credit, and which messages the application has handled and refused."""
        self._output.answer(credit, handled, refused)

    def note_arrivals(self, new: int, repeats: int) -> None:
        """Count the new messages of a batch, and those that carried nothing new."""
        self.has_delivered = self.has_delivered or new > 0
        if repeats and self._session is not None:
            self._session.count_repeats(repeats, is_all=not new, now=self._loop.time())

    def batch_settled(self) -> None:
        """All answers to one received batch were queued, or never will be."""
        if (closed := self._unsettled.settle()) is not None:
            self._end_session(closed)

    # -- the end ----------------------------------------------------------------------------

    def _on_closed(self, closed: Closed) -> None:
        if closed.reason is not None:
            self._runtime.drop(closed.reason, self.did)
        if self._unsettled.holds(closed):
            self._output.is_held = True
            self._loop.call_later(_MAX_SETTLING, self._end_session, closed)
        else:
            self._end_session(closed)

    def _end_session(self, closed: Closed) -> None:
        if self.is_over:
            return
        self._output.is_held = False
        if self._peer is not None and self._peer.receiver.answers.link is self:
            self._peer.receiver.answers.flush()
        self._output.sign_receipts()
        self._output.flush()
        self.end(link_errors.cause_of_close(closed), closed)
        self._hang_up()

    def close(self, code: int, reason: str) -> None:
        """Send CLOSE and hang up, without waiting."""
        if self._session is not None and not self.is_over:
            if code != frames.CLOSE_DENIED:  # a denied peer gets no further answer
                self._output.sign_receipts()
            self._output.receipts.clear()
            self._session.close(code, reason)
            self.finish_turn()
        else:
            self.end(Cause(reason, FailureKind.CLOSED_HERE))
            self._hang_up()

    def abort(self, cause: Cause = link_errors.CLOSED_HERE) -> None:
        """End at once, without CLOSE."""
        self.end(cause)
        self._socket.abort()

    def turn_away(self, reason: str) -> bool:
        """Close because the node is full, with an alert that a v1 peer does not send."""
        if self._session is None and not self.is_over:
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
        may_be_full = self.is_dialed and not self.is_open
        cause = link_errors.cause_of_failed_proof(error, may_be_full=may_be_full)
        if cause.kind is FailureKind.FULL:
            self.end(cause)
            self._hang_up()
        else:
            reason = Reason.BAD_IDENTITY if self.did is None else Reason.PROTOCOL_ERROR
            self._fail(reason, cause)

    def _fail(self, reason: Reason, cause: Cause, *, is_logged: bool = True) -> None:
        """End, after the alert that TLS may have to send; count and log what is wrong."""
        host = "" if self._inbound is None else self._inbound.host
        self._runtime.drop(reason, self.did, host)
        if host and is_logged:
            self._runtime.drops.log_closed(host, reason, cause)
        self._output.flush()
        self.end(cause)
        self._hang_up()

    def _hang_up(self) -> None:
        self._socket.hang_up(is_node_open=self._runtime.is_open)

    def end(self, cause: Cause, closed: Closed | None = None) -> None:
        if self.is_over:
            return
        self._note_over(cause, closed, self.address)
        self._input.clear()
        self._timer.cancel()
        self._output.end()
        if (peer := self._peer) is None:
            return
        if self._session is not None:
            peer.receiver.link_ended(self)
        if self.is_open:
            self.is_open = False
            ended = self._endpoint.link_closed(peer, self, cause, closed)
            if self._dialer is not None:
                self._dialer.on_link_over(self, cause, closed, is_excused=ended.is_excused)
            self._endpoint.requeue_after(peer, self, ended, cause)
        self._endpoint.peers.forget_if_stranger(peer)
