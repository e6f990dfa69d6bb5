"""A v2 link: one session over TLS over one socket. The thinnest driver that works.

Bytes go socket → `TlsChannel` → `Session` → events, and back the same way. The
order of trust: nothing is written into the channel before the other side's DID
is proven and, for the side that dialed, is the DID that it dialed; the link is
open, and its peer connected, when the peer's HELLO has come through it.

Links are symmetrical: whoever dialed, messages and receipts go both ways.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from signedwire.clock import monotonic
from signedwire.errors import Cause, FailureKind, ProofError
from signedwire.transport import link_errors
from signedwire.transport.answers import AnswerWatch
from signedwire.transport.link_input import LinkInput
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.receipt_delay import ReceiptDelay
from signedwire.transport.tls import proven_did, tells_full
from signedwire.types import Address, Allowance, Did, Reason, unix_time_us
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

if TYPE_CHECKING:
    from signedwire.transport.core import Core
    from signedwire.transport.doorway import Guest
    from signedwire.transport.link_dialer import LinkDialer

__all__ = ["Link"]

_MAX_HANDSHAKE: Final = 8 * 1024
"""Bytes that the other side may send before it has proven its DID. 2 KiB are needed, and
OpenSSL takes all certificates in one step: 60 to 120 ms for 64 KiB of them."""
_LINGER: Final = 1.0
_TIMER_STEP: Final = 0.002
_MAX_LINGERING: Final = 64
"""Links that may bring their goodbye at once, while the node is open."""
# Written and not answered, whatever a peer grants (4096 by default): when the link ends it is
# queued again in one turn of the loop, 6 ms for all of it.
_MAX_IN_FLIGHT: Final = 6_144
_MAX_IN_FLIGHT_BYTES: Final = 64 * 1024 * 1024


class Link(asyncio.Protocol):
    """One connection that speaks v2, ours or theirs.

    Args:
        expected: The DID that was dialed; `None` where we accepted.
        guest: The admission of an accepted connection.
        dialer: Who dialed it, and wants to know when it has ended.
    """

    def __init__(
        self,
        core: Core,
        *,
        expected: Did | None = None,
        guest: Guest | None = None,
        dialer: LinkDialer | None = None,
    ) -> None:
        self._core = core
        self.dialer = dialer
        self._expected = expected
        self._guest = guest
        self._loop = asyncio.get_running_loop()
        self._channel = core.tls.channel(is_server=not self.is_dialed)
        self._socket = LinkSocket(core.counters, core.config.max_payload_size)
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._roots: list[bytes] = []
        self._leaves: list[bytes] = []
        self._receipt_delay = ReceiptDelay(self._loop)
        self.has_heard = False
        """Whether the other side ever said a byte."""
        self._pump_handle: asyncio.Handle | None = None
        self._input = LinkInput()
        self.turn_tag = 0.0
        self._lost: Cause | None = None
        """Why the connection is gone, while input of it is left."""
        self._is_known = expected is not None
        self._unanswered = 0  # batches that wait for the disk
        self._last_event: Closed | None = None  # waits for them
        config = core.config
        self.answers = AnswerWatch(config.ping_interval, config.answer_timeout, self._on_overdue)
        self.is_open = False
        self.is_over = False
        self.has_landed = False
        """Whether the peer has answered something that went over it."""
        self.has_opened = False
        """Whether it was ever open."""
        self.has_delivered = False
        """Whether it has brought a message that was new."""
        self.closed: Closed | None = None
        """How its session ended; `None`: it has not, or was cut."""
        self.cause = Cause("")
        """Why it is over."""
        self.since = monotonic()
        """When it was begun, then opened, by the monotonic clock."""
        self.did: Did | None = None
        """Whom the other side has proven to be."""
        self.outcome: asyncio.Future[None] = self._loop.create_future()
        """Done when the link is open, or has failed to open with `DialError`."""

    @property
    def is_dialed(self) -> bool:
        """Whether we dialed it."""
        return self._expected is not None

    @property
    def round_trip(self) -> float | None:
        """Seconds, as PING and PONG measure it."""
        return None if self._session is None else self._session.round_trip

    @property
    def their_epoch(self) -> int:
        """Of the HELLO that came; 0: none yet."""
        hello = None if self._session is None else self._session.their_hello
        return 0 if hello is None else hello.epoch

    @property
    def credit(self) -> Allowance | None:
        """How much more the peer takes now."""
        return None if self._session is None else self._session.room()

    @property
    def outstanding(self) -> Allowance:
        """How much the peer may still send us on it."""
        assert self._session is not None
        return self._session.outstanding

    @property
    def address(self) -> Address | None:
        """The other side's."""
        return self._socket.address

    # -- the socket ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket.open(cast(asyncio.Transport, transport))
        if self.is_dialed:
            self._channel.start()
            self._flush()

    def data_received(self, data: bytes) -> None:
        self.has_heard = True
        self._core.counters.bytes_received += len(data)
        if self.is_over:
            return
        if self._guest is not None:
            self._guest.touch()
        self._input.put(data, is_costly=self._session is None or self.is_costly)
        self._core.shares.serve(self)

    def eof_received(self) -> bool:
        if self._has_input:
            self._input.put_end()
        else:
            self._end_input()
            self._turn()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        is_before_hello = self.did is not None and not self.is_open
        cause = link_errors.cause_of_loss(exc, is_before_hello=is_before_hello)
        if self._has_input and not self.is_costly:
            self._lost = cause  # what came before is worth a look, in its turn
        else:  # strangers that hang up and come again leave no work behind
            self._over(cause)
            self._channel.release()
        self._socket.lost()
        self._core.links.lingering.discard(self)
        if self._guest is not None:
            self._guest.leave()

    # -- input, in turns ------------------------------------------------------------

    @property
    def is_costly(self) -> bool:
        """Whether the other side has lately cost more than it brought."""
        if not (self._is_known or self.has_landed or self.has_delivered):
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
            if self.is_dialed and not self.is_open and tells_full(error):
                self._over(link_errors.NO_ROOM)
                self._hang_up()
                return
            self._fail(Reason.BAD_IDENTITY, link_errors.tls_failed(error))
            return
        except ProofError as error:
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

    def _end_input(self) -> None:
        """The stream has ended: handle the frames that are left, then the end."""
        if (session := self._session) is not None:
            now = self._loop.time()
            while session.handle_frame(now):
                pass
            session.receive_eof(now)

    def pause_writing(self) -> None:
        self._socket.is_paused = True

    def resume_writing(self) -> None:
        self._socket.resume_writing()
        self.pump()

    # -- who it is ----------------------------------------------------------------

    def _begin(self) -> None:
        """The handshake is complete: look who is there, and only then say something."""
        did = proven_did(self._channel.tls, unix_time_us())
        if self._expected is not None and did != self._expected:
            raise link_errors.wrong_key(did, self._expected)
        self.did = did
        if (flaw := self._core.links.check_access(did)) is not None:
            cause = Cause(f"{did} may not link to us", FailureKind.CLOSED_HERE)
            self._fail(flaw, cause, did)
            return
        self._core.links.note_v2(did)
        inflow = self._core.links.inflow(did)
        self._is_known = self._is_known or self._core.routing.resolve(did) is not None
        self._session = Session(
            self._core.identity,
            did,
            self._core.links.hello(did),
            self._core.session_limits,
            self._loop.time(),
            partial(self._core.links.is_expected, did),
        )
        inflow.began(self)

    def _turn(self) -> None:
        """After anything happened: events up, bytes down, and the timer set."""
        self._take_events()
        session = self._session
        if session is not None:
            if self._roots or self._leaves:
                self._receipt_delay.start(self._say)
            self._watch_answers()
        self._flush()
        if session is not None and not self.is_over:
            self._arm(session)

    def _take_events(self) -> None:
        while self._session is not None and (event := self._session.next_event()) is not None:
            self._handle(event)

    def note_arrivals(self, new: int, repeats: int) -> None:
        """A batch brought so many messages that are new, and so many that bring nothing."""
        self.has_delivered = self.has_delivered or new > 0
        if repeats and self._session is not None:
            self._session.count_repeats(repeats, is_all=not new, now=self._loop.time())

    def _watch_answers(self) -> None:
        if self.is_open and self.did is not None:
            peer = self._core.outgoing.peer(self.did)
            self.answers.look(peer.stream.oldest if peer.link is self else None)

    def _on_overdue(self) -> None:
        assert self.did is not None
        self._core.drop(Reason.TOO_SLOW, self.did)
        timeout = self._core.config.answer_timeout
        words = f"no answer to a message within {timeout:g} s"
        self.close(frames.CLOSE_PROTOCOL_ERROR, Cause(words, FailureKind.TIMED_OUT))

    def _handle(self, event: Event) -> None:
        core = self._core
        assert self.did is not None
        match event:
            case BatchReceived():
                if self.dialer is not None:
                    core.outgoing.places.touch(self.dialer)
                if core.is_open:  # else its sender has it still, for whoever comes next
                    self._unanswered += 1
                    core.links.inflow(self.did).receive(event, unix_time_us(), self)
            case ReceiptsReceived(receipts):
                self.has_landed |= core.links.on_receipts(self.did, receipts)
                self._pump_soon()
            case CreditReceived():
                self._pump_soon()
            case RefusalsReceived(refusals):
                self.has_landed |= core.links.on_refusals(self.did, refusals)
                self._pump_soon()
            case HelloReceived(hello):
                self._on_hello(hello)
            case BatchFailed():
                # TLS brought it as it was sent: such a peer is not worth 45 µs more.
                assert self._session is not None
                self._send_receipts(self._session)
                self._session.send_refusals(core.links.inflow(self.did).failed(event))
                self._session.close(frames.CLOSE_BAD_SIGNATURE, "a batch that you did not sign")
            case StallNoticed(seconds):
                core.links.on_stall(seconds)
            case Closed():
                self._on_closed(event)

    def _say(self) -> None:
        """Sign and write the receipts that are due."""
        if self._session is not None and not self.is_over:
            self._send_receipts(self._session)
            self._flush()

    def _on_hello(self, hello: Hello) -> None:
        assert self.did is not None
        if self._core.links.check_access(self.did) is not None:  # since it was proven
            self._refuse(frames.CLOSE_DENIED, Reason.DENIED, "denied")
            return
        if not self._core.links.inflow(self.did).begin(hello.epoch):
            why = "an older epoch than the one known"
            self._refuse(frames.CLOSE_STALE_EPOCH, Reason.STALE_EPOCH, why)
            return
        if self._guest is not None:
            self._guest.prove()
        self.is_open = self.has_opened = True
        self.since = monotonic()
        if not self.outcome.done():
            self.outcome.set_result(None)
        self._core.links.attach(self, hello)

    def _refuse(self, code: int, reason: Reason, text: str) -> None:
        assert self.did is not None
        self.close(code, text)
        self._core.drop(reason, self.did)

    def _on_closed(self, event: Closed) -> None:
        if event.reason is not None:
            self._core.drop(event.reason, self.did)
        if self._unanswered and event.reason is not None and not event.is_by_peer:
            self._last_event = event  # what came before waits for the disk, and is answered first
            self._loop.call_later(_LINGER, self._end_session, event)
        else:
            self._end_session(event)

    def _end_session(self, event: Closed) -> None:
        if self.is_over:
            return
        self._last_event = None
        if self._session is not None and self.did is not None:
            self._core.links.flush(self, self.did)
            self._send_receipts(self._session)
        self._flush()
        self._over(link_errors.cause_of_close(event), event)
        self._hang_up()

    def _send_receipts(self, session: Session) -> None:
        now = unix_time_us()
        if self._roots:
            session.send_receipts(frames.ACCEPTED_BATCHES, self._roots, now)
        if self._leaves:
            session.send_receipts(frames.ACCEPTED_ENVELOPES, self._leaves, now)
        self._roots, self._leaves = [], []

    def owe(self, roots: list[bytes], leaves: list[bytes], *, is_urgent: bool = False) -> None:
        """Sign for these with what is written next; `is_urgent`: write them now."""
        self._roots += roots
        self._leaves += leaves
        if is_urgent:
            self._say()

    def settle(self) -> None:
        """All that is owed for one batch has been said to `owe()`, or never will be."""
        self._unanswered -= 1
        if self._last_event is not None and not self._unanswered:
            self._end_session(self._last_event)

    def answer(self, credit: Allowance, handled: list[bytes], refused: list[Refusal]) -> None:
        """The application has taken, handled or refused messages: tell the peer."""
        if (session := self._session) is None or self.is_over:
            return
        self._send_receipts(session)
        if refused:
            session.send_refusals(refused)
        if handled:
            session.send_receipts(frames.HANDLED_ENVELOPES, handled, unix_time_us())
        # After the refusals: the peer has no more in flight than its credit.
        if credit.messages or credit.bytes:
            session.grant(credit.messages, credit.bytes, is_critical=False)
        if credit.critical_messages or credit.critical_bytes:
            session.grant(credit.critical_messages, credit.critical_bytes, is_critical=True)
        self._receipt_delay.start(self._say)

    def pump(self) -> None:
        """Write one batch of what waits for this peer, within its credit."""
        self._pump_handle = None
        session = self._session
        if not self.is_open or self.is_over or not (room := self._socket.room()):
            return
        assert session is not None
        assert self.did is not None
        peer = self._core.outgoing.peer(self.did)
        if not peer.lanes:
            return
        if self._core.outbox is not None and self._core.outbox.is_moving_deadlines():
            return  # it calls us when their headers are on the disk
        stream = peer.stream
        if stream.in_flight >= _MAX_IN_FLIGHT or stream.in_flight_bytes >= _MAX_IN_FLIGHT_BYTES:
            return  # it grants much and signs for nothing; what it says next calls us again
        assert session.their_hello is not None
        largest = session.their_hello.max_payload_size
        is_dead = partial(self._core.outgoing.is_dead, largest=largest)
        messages = peer.stream.next_batch(peer.lanes, session.room(), is_dead, largest, room)
        if not messages:
            return
        if self.dialer is not None:
            self._core.outgoing.places.touch(self.dialer)
        self._send_receipts(session)
        bodies = [message.body for message in messages]
        peer.stream.sent(session.send_batch(bodies), messages, bodies)
        if self._core.outbox is not None:
            # Now, not when the system has them: if the link ends before, they may arrive.
            self._core.outbox.written(peer, messages)
        self._socket.expect_written(messages)
        self.answers.look(peer.stream.oldest)
        self._flush()
        if peer.lanes:
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

    # -- time ---------------------------------------------------------------------------

    def _arm(self, session: Session) -> None:
        """Keep one timer; one that fires early looks again, so none is moved for each frame.

        The session's instants are those of the loop's own clock, as its timers' are.
        """
        due = session.next_timeout()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._session is not None and not self.is_over:
            # Loops fire up to one step of their clock early: 1 ms on uvloop.
            early = self._timer_due - self._loop.time()
            now = self._timer_due if 0 < early <= _TIMER_STEP else self._loop.time()
            self._session.handle_timeout(now, monotonic())
            self._turn()

    # -- the end --------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        """Send CLOSE and hang up, without waiting."""
        if self._session is not None and not self.is_over:
            if code != frames.CLOSE_DENIED:  # who is denied is told nothing more
                self._send_receipts(self._session)
            self._roots, self._leaves = [], []
            self._session.close(code, reason)
            self._turn()
        else:
            self._over(Cause(reason, FailureKind.CLOSED_HERE))
            self._hang_up()

    def turn_away(self, reason: str) -> None:
        """Close for want of room, so that its dialer can tell us from a v1 peer."""
        if self._session is None and not self.is_over:
            self._socket.write(self._channel.turn_away())
        self.close(frames.CLOSE_TOO_MANY, reason)

    def abort(self, cause: Cause = link_errors.CLOSED_HERE) -> None:
        """End at once."""
        self._over(cause)
        self._socket.abort()

    def _fail(self, reason: Reason, cause: Cause, did: Did | None = None) -> None:
        """The other side is not who or what it should be; TLS may have an alert to say."""
        host = "" if self._guest is None else self._guest.host
        self._core.drop(reason, self.did, host)
        if host and (did is None or not self._core.links.denials.is_logged(did)):
            self._core.drops.log_closed(host, reason, cause)
        self._flush()
        self._over(cause)
        self._hang_up()

    def _hang_up(self) -> None:
        lingering = self._core.links.lingering
        if self._core.is_open and len(lingering) >= _MAX_LINGERING:
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
        if self._timer is not None:
            self._timer.cancel()
        if self._pump_handle is not None:
            self._pump_handle.cancel()
        self.answers.end()
        self._socket.forget_unwritten()
        if not self.outcome.done():
            is_silent = self.is_dialed and not self.has_heard
            address, is_proven = self.address or Address("?", 0), self.did is not None
            error = link_errors.dial_error(address, cause, is_silent=is_silent, is_proven=is_proven)
            self.outcome.set_exception(error)
            self.outcome.exception()  # nobody has to ask
        if self._session is not None and self.did is not None:
            self._core.links.inflow(self.did).ended(self)
        if self.is_open:
            self.is_open = False
            self._core.links.detach(self, cause, closed)
        if self.did is not None:
            self._core.links.forget_if_stranger(self.did)
