"""A v2 link: one wire session over TLS over one socket.

Bytes go socket → `TlsChannel` → `Session` → events, and back the same way. The
order of trust: nothing is written into the channel before the other side's DID
is proven and, for the side that dialed, is the DID that it dialed; the link is
open, and its peer connected, when the peer's HELLO has come through it.

Links are symmetrical: whoever dialed, messages and receipts go both ways. What they mean
is decided by the `PeerSession` of the peer.
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
from signedwire.transport.link_owners import LinkDialerPort, LinkGuest
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.network import Stream
from signedwire.transport.receipt_queue import ReceiptQueue
from signedwire.transport.runtime import Runtime
from signedwire.transport.session_timer import SessionTimer
from signedwire.transport.tls import proven_did, tells_full
from signedwire.types import Address, Allowance, Did, Reason, Target, unix_time_us
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

_MAX_HANDSHAKE: Final = 8 * 1024
"""Bytes that the other side may send before it has proven its DID. 2 KiB are needed, and
OpenSSL takes all certificates in one step: 60 to 120 ms for 64 KiB of them."""
_LINGER: Final = 1.0


class Link:
    """One connection that speaks v2, ours or theirs.

    Args:
        runtime: What every part of the node works with.
        endpoint: The sessions of all peers.
        expected: The DID that was dialed; `None` where we accepted.
        guest: The admission of an accepted connection.
        dialer: Who dialed it.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        *,
        expected: Did | None = None,
        guest: LinkGuest | None = None,
        dialer: LinkDialerPort | None = None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._expected = expected
        self._guest = guest
        self._dialer = dialer
        self._loop = asyncio.get_running_loop()
        self._channel = runtime.tls.channel(is_server=expected is None)
        self._socket = LinkSocket(runtime.counters, runtime.config.max_payload_size)
        self._session: Session | None = None
        self._peer: PeerSession | None = None
        self._timer = SessionTimer(self._loop, self._on_timer)
        self._receipts = ReceiptQueue(self._loop)
        self._input = LinkInput()
        self._pump_handle: asyncio.Handle | None = None
        self.turn_tag = 0.0
        self._lost: Cause | None = None
        """Why the connection is gone, while input of it is left."""
        self._is_known = expected is not None
        self._unsettled_batches = 0  # they wait for the disk
        self._last_event: Closed | None = None  # waits for them
        config = runtime.config
        self._answers = AnswerWatch(config.ping_interval, config.answer_timeout, self._on_overdue)
        self.has_heard = False
        """Whether the other side ever sent a byte."""
        self.is_open = False
        self.is_over = False
        self.has_progress = False
        """Whether the peer has answered something that went over it."""
        self.has_opened = False
        """Whether it was ever open."""
        self.has_delivered = False
        """Whether it has brought a message that was new."""
        self.closed: Closed | None = None
        """How its session ended; `None`: it has not, or was cut."""
        self.cause = Cause("")
        """Why it is over."""
        self.since = monotonic() if guest is None else guest.since
        """When it was dialed or accepted, then opened, by the monotonic clock."""
        self.outcome: asyncio.Future[None] = self._loop.create_future()
        """Done when the link is open, or has failed to open with `DialError`."""

    # -- what is known of it ----------------------------------------------------------------

    @property
    def did(self) -> Did | None:
        """The DID that the other side has proven; `None`: none yet."""
        return None if self._peer is None else self._peer.did

    @property
    def is_dialed(self) -> bool:
        """Whether we dialed it."""
        return self._expected is not None

    @property
    def round_trip(self) -> float | None:
        """Seconds, as PING and PONG measure it."""
        return None if self._session is None else self._session.round_trip

    @property
    def our_epoch(self) -> int:
        """The epoch of our HELLO."""
        assert self._session is not None
        return self._session.our_epoch

    @property
    def their_epoch(self) -> int:
        """The epoch of the HELLO that came; 0: none came yet."""
        hello = None if self._session is None else self._session.their_hello
        return 0 if hello is None else hello.epoch

    @property
    def credit(self) -> Allowance | None:
        """How much more the peer takes now."""
        return None if self._session is None else self._session.credit

    @property
    def granted_unused(self) -> Allowance:
        """How much the peer may still send us on it."""
        assert self._session is not None
        return self._session.granted_unused

    @property
    def overdue(self) -> float | None:
        """Seconds that the oldest batch has waited for its answer, where that is long."""
        return self._answers.overdue

    @property
    def address(self) -> Target | None:
        """The other side's address."""
        return self._socket.address

    # -- the socket -------------------------------------------------------------------------

    def connected(self, stream: Stream) -> None:
        self._socket.open(stream)
        if self.is_dialed:
            self._channel.start()
            self._flush()

    def received(self, data: bytes) -> None:
        self.has_heard = True
        self._runtime.counters.bytes_received += len(data)
        if self.is_over:
            return
        if self._guest is not None:
            self._guest.touch()
        self._input.put(data, is_costly=self._session is None or self.is_costly)
        self._runtime.shares.serve(self)

    def ended(self) -> None:
        if self._has_input:
            self._input.put_end()
        else:
            self._end_input()
            self._turn()
        self._socket.close()

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        is_before_hello = self._peer is not None and not self.is_open
        cause = link_errors.cause_of_loss(error, is_before_hello=is_before_hello)
        if self._has_input and not self.is_costly:
            self._lost = cause  # what came before is worth a look, in its turn
        else:  # strangers that hang up and come again leave no work behind
            self._over(cause)
            self._channel.release()
        self._socket.lost()
        self._runtime.lingering.discard(self)
        if self._guest is not None:
            self._guest.leave()

    def writable(self) -> None:
        """See `Receiver`."""
        self._socket.writable()
        self.pump()

    # -- input, in turns ----------------------------------------------------------------------

    @property
    def is_costly(self) -> bool:
        """Whether the other side has lately cost more than it brought."""
        if not (self._is_known or self.has_progress or self.has_delivered):
            return True
        return self._session is not None and self._session.is_costly

    def work(self, until: float) -> bool:
        """See `shares.Worker`."""
        while not self.is_over:
            session = self._session
            if session is None or not session.handle_frame(self._loop.time(), monotonic()):
                self._take_events()
                if self.is_over or not self._input:
                    break
                self._decrypt(self._input.take())
            self._take_events()
            if monotonic() >= until:
                break
        self._turn()
        if self._lost is not None and not self._has_input:
            self._over(self._lost)
        if self.is_over and self._lost is not None:
            self._channel.release()
        return self._has_input

    @property
    def _has_input(self) -> bool:
        """Whether input waits that is still to be processed."""
        if self.is_over:
            return False
        return bool(self._input) or (self._session is not None and self._session.has_frames)

    def drop_if_reset(self) -> bool:
        """See `shares.Worker`."""
        if is_gone := self.is_costly and self._socket.is_reset:
            self.abort(link_errors.RESET)
        return is_gone

    def set_waiting(self, is_waiting: bool) -> None:
        """See `shares.Worker`."""
        self._socket.set_waiting(is_waiting)

    def _decrypt(self, data: bytes | memoryview) -> None:
        """Take one step's ciphertext; an empty one is the end of the stream."""
        if not data:
            self._end_input()
            return
        try:
            plain = self._channel.receive_data(data)
            if self._session is None:
                if self._channel.is_ready:
                    self._begin()
                    plain = self._channel.receive_data(b"")
                elif self._input.received > _MAX_HANDSHAKE:
                    self._fail(Reason.BAD_IDENTITY, link_errors.ENDLESS)
        except ssl.SSLError as error:
            self._on_tls_error(error)
            return
        except DidProofError as error:
            self._fail(Reason.BAD_IDENTITY, Cause(error.fact, error.kind))
            return
        if (session := self._session) is None:
            return
        now = self._loop.time()
        session.count_idle(self._input.surplus_records(len(data), len(plain)), now)
        if plain:
            session.put_data(plain, now)
        if self._channel.is_at_end:
            self._end_input()

    def _on_tls_error(self, error: ssl.SSLError) -> None:
        if self.is_dialed and not self.is_open and tells_full(error):
            self._over(link_errors.NO_ROOM)
            self._hang_up()
        else:
            self._fail(Reason.BAD_IDENTITY, link_errors.tls_failed(error))

    def _end_input(self) -> None:
        """The stream has ended: handle the frames that are left, then the end."""
        if (session := self._session) is not None:
            now = self._loop.time()
            while session.handle_frame(now):
                pass
            session.receive_eof(now)

    # -- who it is ----------------------------------------------------------------------------

    def _begin(self) -> None:
        """The handshake is complete: look who is there, and only then send something."""
        did = proven_did(self._channel.tls, unix_time_us())
        if self._expected is not None and did != self._expected:
            raise link_errors.wrong_key(did, self._expected)
        endpoint = self._endpoint
        peer = self._peer = endpoint.peers.session(did)
        if (flaw := endpoint.check_access(did)) is not None:
            cause = Cause(f"{did} may not link to us", FailureKind.CLOSED_HERE)
            self._fail(flaw, cause, did)
            return
        endpoint.proven(did)
        self._is_known = self._is_known or self._runtime.routing.resolve(did) is not None
        self._session = Session(
            self._runtime.identity,
            did,
            peer.hello(),
            self._runtime.session_limits,
            self._loop.time(),
            peer.is_expected,
            partial(self._runtime.counters.observe, "round_trip_seconds"),
        )
        peer.receiver.link_granted(self)

    def _on_hello(self, peer: PeerSession, hello: Hello) -> None:
        if self._endpoint.check_access(peer.did) is not None:  # since it was proven
            self.close(frames.CLOSE_DENIED, "denied")
            self._runtime.drop(Reason.DENIED, peer.did)
            return
        if not peer.receiver.begin(hello.epoch):
            self.close(frames.CLOSE_STALE_EPOCH, "an older epoch than the one known")
            self._runtime.drop(Reason.STALE_EPOCH, peer.did)
            return
        if self._guest is not None:
            self._guest.prove()
        self.is_open = self.has_opened = True
        opened_at = monotonic()
        self._runtime.counters.observe("handshake_seconds", opened_at - self.since)
        self.since = opened_at
        if not self.outcome.done():
            self.outcome.set_result(None)
        self._endpoint.link_opened(peer, self, hello)

    # -- events -------------------------------------------------------------------------------

    def _turn(self) -> None:
        """After anything happened: events up, bytes down, and the timer set."""
        self._take_events()
        session = self._session
        if session is not None:
            self._watch_answers()
        self._flush()
        if session is not None and not self.is_over:
            self._timer.arm(session.next_timeout())

    def _take_events(self) -> None:
        while self._session is not None and (event := self._session.next_event()) is not None:
            self._handle(self._session, event)

    def _handle(self, session: Session, event: Event) -> None:
        peer = self._peer
        assert peer is not None
        match event:
            case BatchReceived():
                if self._dialer is not None:
                    self._dialer.touch()
                if self._runtime.is_open:  # else its sender has it still, for whoever comes next
                    self._unsettled_batches += 1
                    peer.receiver.receive(event, unix_time_us(), self)
            case ReceiptsReceived(receipts):
                self.has_progress |= self._endpoint.on_receipts(peer, receipts)
                self._pump_soon()
            case CreditReceived():
                self._pump_soon()
            case RefusalsReceived(refusals):
                self.has_progress |= self._endpoint.on_refusals(peer, refusals)
                self._pump_soon()
            case HelloReceived(hello):
                self._on_hello(peer, hello)
            case BatchFailed():
                # TLS brought it as it was sent: such a peer is not worth 45 µs more.
                self._receipts.sign(session)
                session.send_refusals(peer.receiver.failed(event))
                session.close(frames.CLOSE_BAD_SIGNATURE, "a batch that you did not sign")
            case StallNoticed(seconds):
                text = "the event loop stood still for %.1f s; no peer is blamed"
                self._runtime.log.warning(text, seconds, extra=fields("stall", seconds=seconds))
                self._runtime.emit(LoopStalled(seconds))
            case Closed():
                self._on_closed(event)

    def note_arrivals(self, new: int, repeats: int) -> None:
        """Count the messages of a batch that were new, and those that brought nothing."""
        self.has_delivered = self.has_delivered or new > 0
        if repeats and self._session is not None:
            self._session.count_repeats(repeats, is_all=not new, now=self._loop.time())

    def _watch_answers(self) -> None:
        if self.is_open and self._peer is not None:
            is_used = self._peer.link is self
            self._answers.look(self._peer.sender.stream.oldest if is_used else None)

    def _on_overdue(self) -> None:
        self._runtime.drop(Reason.TOO_SLOW, self.did)
        timeout = self._runtime.config.answer_timeout
        words = f"no answer to a message within {timeout:g} s"
        self.close(frames.CLOSE_PROTOCOL_ERROR, Cause(words, FailureKind.TIMED_OUT))

    def _on_timer(self, now: float) -> None:
        if self._session is not None and not self.is_over:
            self._session.handle_timeout(now, monotonic())
            self._turn()

    # -- answers to the peer --------------------------------------------------------------------

    def queue_receipts(
        self, roots: list[bytes], leaves: list[bytes], *, is_urgent: bool = False
    ) -> None:
        """Sign for these batches and envelopes with the next write; `is_urgent`: write now."""
        self._receipts.add(roots, leaves)
        if is_urgent:
            self._write_receipts()
        elif self._receipts:
            self._receipts.flush_soon(self._write_receipts)

    def batch_settled(self) -> None:
        """All answers to one received batch were queued, or never will be."""
        self._unsettled_batches -= 1
        if self._last_event is not None and not self._unsettled_batches:
            self._end_session(self._last_event)

    def answer(self, credit: Allowance, handled: list[bytes], refused: list[Refusal]) -> None:
        """Send credit, and what the application has handled and refused."""
        if (session := self._session) is None or self.is_over:
            return
        self._receipts.sign(session)
        if refused:
            session.send_refusals(refused)
        if handled:
            session.send_receipts(frames.HANDLED_ENVELOPES, handled, unix_time_us())
        # After the refusals: the peer has no more in flight than its credit.
        if credit.messages or credit.bytes:
            session.grant(credit.messages, credit.bytes, is_critical=False)
        if credit.critical_messages or credit.critical_bytes:
            session.grant(credit.critical_messages, credit.critical_bytes, is_critical=True)
        self._receipts.flush_soon(self._write_receipts)

    def _write_receipts(self) -> None:
        """Sign and write the receipts that are due."""
        if self._session is not None and not self.is_over:
            self._receipts.sign(self._session)
            self._flush()

    # -- messages to the peer -------------------------------------------------------------------

    def pump(self) -> None:
        """Write one batch of what waits for this peer, within its credit."""
        self._pump_handle = None
        session, peer = self._session, self._peer
        if not self.is_open or self.is_over or not (room := self._socket.room()):
            return
        assert session is not None
        assert peer is not None
        assert session.their_hello is not None
        sender = peer.sender
        largest = session.their_hello.max_payload_size
        messages = sender.next_batch(session.credit, largest, room)
        if not messages:
            return
        if self._dialer is not None:
            self._dialer.touch()
        if self._receipts:
            self._receipts.sign(session)
        bodies = [message.body for message in messages]
        sender.sent(session.send_batch(bodies), messages, bodies)
        self._socket.expect_written(messages)
        self._answers.look(sender.stream.oldest)
        self._flush()
        if sender.lanes:
            self._pump_soon()

    def _pump_soon(self) -> None:
        if self._pump_handle is None and not self._socket.is_paused:
            self._pump_handle = self._loop.call_soon(self.pump)

    def _flush(self) -> None:
        if not self._socket.is_connected:
            return
        session = self._session if self._last_event is None else None
        if session is not None and (data := session.data_to_send()):
            self._channel.send(data)
        self._socket.write(self._channel.data_to_send())

    # -- the end ------------------------------------------------------------------------------

    def _on_closed(self, event: Closed) -> None:
        if event.reason is not None:
            self._runtime.drop(event.reason, self.did)
        if self._unsettled_batches and event.reason is not None and not event.is_by_peer:
            self._last_event = event  # what came before waits for the disk, and is answered first
            self._loop.call_later(_LINGER, self._end_session, event)
        else:
            self._end_session(event)

    def _end_session(self, event: Closed) -> None:
        if self.is_over:
            return
        self._last_event = None
        if self._session is not None and self._peer is not None:
            if self._peer.receiver.link is self:
                self._peer.receiver.flush()
            self._receipts.sign(self._session)
        self._flush()
        self._over(link_errors.cause_of_close(event), event)
        self._hang_up()

    def close(self, code: int, reason: str) -> None:
        """Send CLOSE and hang up, without waiting."""
        if self._session is not None and not self.is_over:
            if code != frames.CLOSE_DENIED:  # a denied peer gets no further answer
                self._receipts.sign(self._session)
            self._receipts.clear()
            self._session.close(code, reason)
            self._turn()
        else:
            self._over(Cause(reason, FailureKind.CLOSED_HERE))
            self._hang_up()

    @property
    def is_working(self) -> bool:
        """See `ConnectionHandler`: what a link has received is no reason to wait for it."""
        return False

    def discard(self) -> None:
        """See `ConnectionHandler`: `turn_away()` or the abort of the connection does it."""

    def turn_away(self, reason: str) -> bool:
        """Close for want of room, so that its dialer can tell us from a v1 peer."""
        if self._session is None and not self.is_over:
            self._socket.write(self._channel.turn_away())
        self.close(frames.CLOSE_TOO_MANY, reason)
        return True

    def abort(self, cause: Cause = link_errors.CLOSED_HERE) -> None:
        """End at once."""
        self._over(cause)
        self._socket.abort()

    def _fail(self, reason: Reason, cause: Cause, did: Did | None = None) -> None:
        """The other side is not who or what it should be; TLS may have an alert to send."""
        host = "" if self._guest is None else self._guest.host
        self._runtime.drop(reason, self.did, host)
        if host and (did is None or not self._endpoint.denied_log.is_logged(did)):
            self._runtime.drops.log_closed(host, reason, cause)
        self._flush()
        self._over(cause)
        self._hang_up()

    def _hang_up(self) -> None:
        lingering = self._runtime.lingering
        if self._runtime.is_open and lingering.is_full:
            self._socket.abort()  # or peers that do not read could keep more than their places
        elif self._socket.hang_up():
            lingering.add(self)

    def _over(self, cause: Cause, closed: Closed | None = None) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._input.clear()  # it may wait long for its turn
        self.closed = closed
        self.cause = cause
        self._timer.cancel()
        if self._pump_handle is not None:
            self._pump_handle.cancel()
        self._answers.end()
        self._socket.forget_unwritten()
        if not self.outcome.done():
            is_silent = self.is_dialed and not self.has_heard
            address, is_proven = self.address or Address("?", 0), self.did is not None
            error = link_errors.dial_error(address, cause, is_silent=is_silent, is_proven=is_proven)
            self.outcome.set_exception(error)
            self.outcome.exception()  # nobody has to ask
        if (peer := self._peer) is None:
            return
        if self._session is not None:
            peer.receiver.link_ended(self)
        if self.is_open:
            self.is_open = False
            dialer = self._dialer
            on_over = None if dialer is None else partial(self._tell_dialer, dialer)
            self._endpoint.link_closed(peer, self, cause, closed, on_over)
        self._endpoint.peers.forget_if_stranger(peer)

    def _tell_dialer(self, dialer: LinkDialerPort, is_excused: bool) -> None:
        dialer.on_link_over(self, self.cause, self.closed, is_excused=is_excused)
