"""A v2 link as a state machine: bytes and instants in, events and bytes out.

    opening ──HELLO──→ open ──CLOSE, an error or silence──→ closed

One `Session` is at each end of a channel whose other end has already proven its DID
(`wire.did_proof`, over TLS). Both ends send HELLO at once. Then envelopes and
receipts go both ways, within the credit that the other side granted.

The driver calls

    receive_data(data, now), receive_eof(now)   for input of the channel
    send_batch(…), send_receipts(…), grant(…)   for the delivery above
    handle_timeout(now)                         when next_timeout() is due

After each call it calls `next_event()` until that returns `None`, and `data_to_send()`.
Nothing here does I/O or reads a clock; for the stamps of PING and PONG, the session calls a
function of its driver. After the session has closed, every call does
nothing. `credit_left()` is zero then, so that the driver sends no batch.

Invariants:

- A peer that sends more than it was granted has its session closed.
- No event of an envelope comes before the session has verified its signature.
- Frames without envelopes are sent before parts of batches, and parts of a higher priority before
  those of a lower one.
- CLOSE is the last frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from signedwire.errors import RemoteProtocolError
from signedwire.identity import Identity
from signedwire.types import Credit, Did, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.batch_signer import BatchSigner
from signedwire.wire.granted_credit import AllowedCredit, GrantedCredit
from signedwire.wire.header import stream_of
from signedwire.wire.idle import IdleMeter
from signedwire.wire.link_frames import (
    Close,
    CreditFrame,
    Hello,
    LinkFrameDecoder,
    Part,
    Ping,
    Pong,
    Read,
    Receipts,
    Refusal,
)
from signedwire.wire.parts import BatchWriter, IncomingBatches, OutgoingBatches
from signedwire.wire.peer_signatures import PeerSignatures
from signedwire.wire.pings import Pings
from signedwire.wire.read_reports import ReadReports
from signedwire.wire.receipt_signer import Acceptance, ReceiptSigner
from signedwire.wire.sent_batch import SentBatch, SentCopies
from signedwire.wire.session_events import (
    CLOSE_MISSING,
    BatchFailed,
    BatchReceived,
    Closed,
    Event,
    HelloReceived,
    ReceiptsReceived,
    RoomReceived,
    StallNoticed,
)
from signedwire.wire.session_limits import SessionLimits, State

__all__ = [
    "BatchFailed",
    "BatchReceived",
    "Closed",
    "RoomReceived",
    "Event",
    "HelloReceived",
    "ReceiptsReceived",
    "SentBatch",
    "Session",
    "SessionLimits",
    "State",
    "StallNoticed",
]

_STALL: Final = 1.0
"""Lateness of a timer, in seconds, that shows that our own event loop stalled. The timeouts
of the peer are then extended by the lateness and by this much, because its bytes may still
wait in the socket."""
_NOTHING: Final = Credit(0, 0)
_IDLE: Final = frozenset({Ping, Pong})
_SIGNATURE_COST: Final = 16
"""The cost of verifying a signature, in PINGs."""


class Session:
    """One end of a link. The text of the module lists the calls and their order.

    Args:
        identity: The key of this end.
        peer: The DID that the channel has proven.
        hello: Our HELLO; its credit is the first grant.
        limits: The timeouts and sizes that apply to the peer.
        now: The present instant, of a monotonic clock, in seconds.
        read_clocks: Returns the present instant as Unix time in µs, and in µs by a monotonic
            clock since any fixed instant. It is called for PING and PONG.
        is_expected: Returns whether receipts name any message in flight. Only such
            receipts are verified; all others are counted as idle frames.
        on_round_trip: Called with the seconds from each PING to its PONG.
        is_stranger: Whether the time for a whole batch of the peer is limited too.
    """

    def __init__(
        self,
        identity: Identity,
        peer: Did,
        hello: Hello,
        limits: SessionLimits,
        now: float,
        read_clocks: Callable[[], tuple[int, int]],
        is_expected: Callable[[Receipts], bool] = lambda _: True,
        on_round_trip: Callable[[float], object] = lambda _: None,
        is_stranger: bool = False,
    ) -> None:
        self.peer = peer
        self.state = State.OPENING
        self.pings = Pings(now, limits.ping_interval, read_clocks, on_round_trip)
        """Measures the round-trip time, and how far the peer's clock is from ours."""
        self.their_hello: Hello | None = None
        self.our_epochs = hello.epochs
        """The epochs in our HELLO."""
        self._is_expected = is_expected
        self._signer = ReceiptSigner(identity, peer)
        self._batch_signer = BatchSigner(identity, self._signer)
        self._signatures = PeerSignatures(identity.did, peer)
        self._limits = limits
        self._decoder = LinkFrameDecoder()
        # A list, not a deque: there are few at a time, and an empty deque takes 624 bytes.
        self._events: list[Event] = []
        # PING and PONG are encoded when they are sent, with the clocks of that instant.
        self._control: list[bytes | Ping | Pong] = [hello.encode()]
        self.outgoing = OutgoingBatches()
        """Our batches that are not sent whole, and how much of them may be written now."""
        self._incoming = IncomingBatches(
            hello.max_batch_bytes, limits.max_payload_size, limits.frame_timeout, is_stranger
        )
        self._reads = ReadReports()
        # Our CLOSE until it is sent. Answers to frames before the fault are sent before it.
        self._close_frame = b""
        self._granted = GrantedCredit(hello.credit, limits.max_payload_size)
        self._allowed = AllowedCredit()
        self._idle = IdleMeter(sum(credit.messages for credit in hello.credit), now)
        self._opened_at = now
        self._last_inbound_at = now
        self._partial_since: float | None = None
        self._precise_now = now
        self.heard_at = now
        """When the last valid frame came; at first, when this end began."""
        self._ping_every: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the session has ended."""
        return self.state is State.CLOSED

    # -- input ---------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the channel, and handle every frame in them."""
        self.put_data(data, now)
        while self.handle_frame(now):
            pass

    def put_data(self, data: bytes, now: float) -> None:
        """Take bytes from the channel; `handle_frame()` then handles their frames."""
        if self.state is not State.CLOSED:
            self._last_inbound_at = now
            self._decoder.put(data)

    @property
    def has_frames(self) -> bool:
        """Whether `handle_frame()` may find a further frame in the bytes of `put_data()`."""
        return self.state is not State.CLOSED and self._decoder.has_unread

    def handle_frame(self, now: float, precise_now: float | None = None) -> bool:
        """Handle the next frame of `put_data()`; return `False` if none is complete.

        `precise_now` is the same instant by a clock with a finer resolution. Only the
        round-trip time uses it, because some event loops' clocks step by milliseconds.
        """
        if self.state is State.CLOSED:
            return False
        self._precise_now = now if precise_now is None else precise_now
        try:
            found = self._decoder.next_frame()
            if found is None:
                if not self._decoder.has_partial_frame:
                    self._partial_since = None
                elif self._partial_since is None:
                    self._partial_since = now
                return False
            self._last_inbound_at = now
            self._partial_since = None
            frame = frames.decode(*found)
            self.heard_at = now
            if frame is None or type(frame) in _IDLE:
                self.count_idle(1, now)
            if frame is not None and not self.is_closed:
                self._handle(frame, now)
        except RemoteProtocolError as error:
            self._end(frames.CLOSE_PROTOCOL_ERROR, str(error), error.reason)
        return not self.is_closed

    def count_idle(self, cost: int, now: float) -> None:
        """Count frames that carry nothing new; close the session if there are too many.

        `cost` is in PINGs; `now` is the present instant in seconds.
        """
        if cost and not self.is_closed and not self._idle.add(cost, now):
            text = "the peer sent too many frames that carry nothing new"
            self._end(frames.CLOSE_PROTOCOL_ERROR, text, Reason.PROTOCOL_ERROR)

    def count_repeats(self, messages: int, *, is_all: bool, now: float) -> None:
        """Count `messages` of a batch that were not new; `is_all`: no message was new."""
        cost = self._idle.cost_of_repeats(messages)
        if cost:
            self.count_idle(cost + (_SIGNATURE_COST if is_all else 0), now)

    @property
    def is_costly(self) -> bool:
        """Whether the peer has lately sent many frames that carry nothing new."""
        return self._idle.is_costly

    def receive_eof(self, now: float) -> None:
        """Close the session, because the channel has ended without a CLOSE frame."""
        if self.state is not State.CLOSED:
            is_cut = self._decoder.has_partial_frame or bool(self._incoming.unfinished)
            reason = Reason.TRUNCATED if is_cut else None
            text = "the connection ended"
            self._close(Closed(CLOSE_MISSING, text, is_by_peer=True, reason=reason))

    def next_event(self) -> Event | None:
        """Return the oldest pending event, or `None`."""
        return self._events.pop(0) if self._events else None

    # -- output --------------------------------------------------------------------------

    @property
    def has_control(self) -> bool:
        """Whether frames other than those of batches wait to be sent."""
        return bool(self._control or self._close_frame)

    def data_to_send(self, room: int | None = None, precise_now: float | None = None) -> bytes:
        """Return the bytes to write now and forget them; empty if there are none.

        Args:
            room: Number of bytes of batches that may be among them; `None`: all.
            precise_now: As in `handle_frame()`. If it is given, READ may go along with
                other frames before it is due, which saves a write.
        """
        if room == 0 and not self._control and not self._close_frame:
            return b""
        parts = self.outgoing.take(room, precise_now)
        has_company = bool(self._control or parts)
        if has_company and precise_now is not None and self._reads.goes_along(precise_now):
            self._report_read(precise_now)
        if not self._control and not parts and not self._close_frame:
            return b""
        control = [
            frame if isinstance(frame, bytes) else self.pings.stamped(frame)
            for frame in self._control
        ]
        data = b"".join((*control, *parts, self._close_frame))
        self._control, self._close_frame = [], b""
        return data

    @property
    def _can_answer(self) -> bool:
        """Whether the peer would still read an answer: our CLOSE has not been sent."""
        return self.state is State.OPEN or (
            bool(self._close_frame) and self.their_hello is not None
        )

    def credit_left(self, stream: int) -> Credit:
        """Return what we may still send in a stream; zero before HELLO came and at the end."""
        if self.state is not State.OPEN:
            return _NOTHING
        return self._allowed.left(stream)

    def send_batch(self, bodies: list[bytes], joined: Acceptance | None = None) -> SentBatch:
        """Sign 1 to 256 envelopes of one stream, and queue the parts of the batch.

        The caller has checked that `credit_left()` covers them. To sign a batch as late as
        possible, it calls this when `outgoing.top` is not above their priority, and
        `outgoing.has()` is false for their stream.

        `joined` becomes a receipt that shares signature and frame with the batch. The caller has
        checked that it fits: see `most_joined()`.
        """
        batch, receipt = self._batch_signer.sign(bodies, joined)
        self._queue(BatchWriter(batch.signature, bodies, stream_of(bodies[0]), receipt))
        return batch

    def send_copies(self, copies: SentCopies, bodies: list[bytes]) -> None:
        """Queue the parts of copies, which `sign_copies()` has signed with this session's key.

        `bodies` are their bodies, of one stream. The paths of copies count as credit too.
        All else is as in `send_batch()`.
        """
        items, stream = copies.items(bodies), stream_of(bodies[0])
        self._queue(BatchWriter(copies.signature, items, stream, is_copies=True))

    def _queue(self, writer: BatchWriter) -> None:
        assert self.state is State.OPEN
        self._allowed.use(writer.stream, writer.count, writer.total)
        self._idle.expect_answers(writer.count)
        self.outgoing.add(writer)

    def abort_batch(self, stream: int) -> bool:
        """Queue an abort in place of the rest of a batch; `False`: no batch can be aborted."""
        aborts = self.outgoing.abort(stream)
        self._control += aborts
        return bool(aborts)

    def send_receipts(
        self, kind: int, hashes: list[bytes], at_us: int, *, is_committed: bool = False
    ) -> None:
        """Sign and queue receipts.

        Args:
            kind: What happened; see `Receipts.kind`. For refusals, use `send_refusals()`.
            hashes: The roots or leaves that the receipts name; any number.
            at_us: When it happened: Unix time, microseconds.
            is_committed: Whether a store of this end has committed the envelopes.
        """
        if self._can_answer:
            self._control += self._signer.receipts(kind, hashes, at_us, is_committed)

    def send_refusals(self, refusals: list[Refusal], at_us: int) -> None:
        """Sign and queue refusals, any number of them: one receipt for each reason and text.

        `at_us` is when the envelopes were refused: Unix time, microseconds.
        """
        if self._can_answer:
            self._control += self._signer.refusals(refusals, at_us)

    @property
    def unfinished_bytes(self) -> int:
        """Sum of the totals of the peer's batches whose last part has not come."""
        return sum([batch.total for batch in self._incoming.unfinished.values()])

    def peer_credit_left(self, stream: int) -> Credit:
        """Return what the peer may still send in a stream, of all credit granted, told or not.

        Credit for a batch counts as used when the batch is complete.
        """
        unused = self._granted.left(stream)
        batch = self._incoming.unfinished.get(stream)
        return unused if batch is None else unused.plus(batch.count, batch.total)

    def grant(
        self,
        stream: int,
        messages: int,
        size: int,
        before_told: Callable[[], object] = lambda: None,
    ) -> None:
        """Grant the peer more credit, because the application has taken messages.

        The session sends CREDIT when the new credit reaches a quarter of the first
        grant. It sends CREDIT at once if the peer may lack credit for one message of the
        largest size. Otherwise both ends could wait for ever: the peer for credit and
        this end for a message.

        Args:
            stream: Their stream.
            messages: Number of messages that the application has taken.
            size: Their size in bytes.
            before_told: Called before CREDIT is queued, to queue the receipts of the messages.
        """
        if self.state is State.CLOSED:
            return
        if self._granted.add(stream, messages, size):
            before_told()
            self._control.append(self._granted.tell().encode())

    def close(self, code: int, reason: str) -> None:
        """Queue CLOSE; the driver then writes `data_to_send()` and closes the channel.

        Pending events are dropped. Their envelopes have no receipt, so the peer sends
        them again over another link.
        """
        if self.state is not State.CLOSED:
            self._events.clear()
            self._close(Closed(code, reason, is_by_peer=False))

    # -- time -------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """Return the instant at which to call `handle_timeout()`; `None`: never."""
        if self.state is State.CLOSED:
            return None
        due = []
        limits = self._limits
        if self.state is State.OPENING:
            if limits.hello_timeout is not None:
                due.append(self._opened_at + limits.hello_timeout)
        elif not self.pings.is_waiting:
            due.append(min(self._last_inbound_at + limits.ping_interval, self.pings.sample_due))
        else:
            due.append(self._last_inbound_at + limits.dead_timeout)
        if self._ping_every is not None and self.state is State.OPEN:
            due.append(max(self.heard_at, self.pings.last_at) + self._ping_every)
        if self._partial_since is not None and limits.frame_timeout is not None:
            due.append(self._partial_since + limits.frame_timeout)
        for at in (self._reads.due, self._incoming.due):
            if at is not None:
                due.append(at)  # noqa: PERF401 - a list of its own takes longer
        return min(due, default=None)

    def handle_timeout(self, now: float, precise_now: float | None = None) -> None:
        """Act on the timeouts that are due; does nothing before `next_timeout()`.

        `precise_now` is as in `handle_frame()`.
        """
        self._precise_now = now if precise_now is None else precise_now
        report_at = self._reads.due
        if report_at is not None and now >= report_at and not self.is_closed:
            self._report_read(self._precise_now)
        due = self.next_timeout()
        if due is None or now < due:
            return
        limits = self._limits
        late = now - due
        if late > _STALL and self.state is State.OPEN:
            # Bytes that the peer sent during the stall wait in the socket: read them first.
            self._events.append(StallNoticed(late))
            self._incoming.postpone_ends(late + _STALL)
            self.postpone(late + _STALL)
            if self._ping_every is not None:
                self.send_ping(now, self._precise_now)
            return
        if (
            self._partial_since is not None
            and limits.frame_timeout is not None
            and now >= self._partial_since + limits.frame_timeout
        ):
            self._end_slow(f"a frame was not complete within {limits.frame_timeout:g} s")
        elif self.state is State.OPENING:
            self._end_slow(f"no HELLO within {limits.hello_timeout:g} s")
        elif (batch_due := self._incoming.due) is not None and now >= batch_due:
            self._end_slow("the rest of a batch came too slowly")
        elif now >= self._last_inbound_at + limits.dead_timeout:
            self._end_slow(f"no byte came for {limits.dead_timeout:g} s (dead_timeout)")
        else:
            self.send_ping(now, self._precise_now)

    def postpone(self, seconds: float) -> None:
        """Give the peer so much more time, because this end does not read, or less again."""
        self._last_inbound_at += seconds
        self.pings.postpone(seconds)
        if self._partial_since is not None:
            self._partial_since += seconds
        self._incoming.postpone(seconds)

    def ping_every(self, seconds: float | None, now: float, precise_now: float) -> None:
        """Send a PING after each `seconds` without a frame; `None`: as the limits say."""
        self._ping_every = seconds
        if seconds is not None and now - self.pings.last_at >= seconds:
            self.send_ping(now, precise_now)

    def send_ping(self, now: float, precise_now: float) -> None:
        """Queue a PING."""
        if self.state is State.OPEN:
            self._control.append(self.pings.ping(now, precise_now))

    # -- frames -----------------------------------------------------------------------

    def _handle(self, frame: frames.Frame, now: float) -> None:
        is_hello = isinstance(frame, Hello)
        if is_hello != (self.state is State.OPENING) and not isinstance(frame, Close):
            what = "a second HELLO" if is_hello else "a frame before its HELLO"
            raise RemoteProtocolError(Reason.PROTOCOL_ERROR, f"the peer sent {what}")
        _HANDLERS[type(frame)](self, frame, now)

    def _handle_hello(self, hello: Hello, now: float) -> None:
        if not hello.min_version <= frames.VERSION <= hello.max_version:
            self._end(
                frames.CLOSE_VERSION,
                f"the peer speaks versions {hello.min_version} to {hello.max_version}, "
                f"we speak {frames.VERSION}",
                Reason.WRONG_PROTOCOL,
            )
            return
        self.state = State.OPEN
        self.their_hello = hello
        self._allowed.allow(hello.credit)
        self._events.append(HelloReceived(hello))
        self.send_ping(now, self._precise_now)  # the first round trip is known at once

    def _handle_part(self, part: Part, now: float) -> None:
        if part.flags == frames.ABORT:
            self._handle_abort(part, now)
            return
        is_first = bool(part.flags & frames.FIRST)
        if is_first and not self._granted.charge(part.stream, part.count, part.total):
            raise RemoteProtocolError(
                Reason.PROTOCOL_ERROR, "the peer sent more than it was granted"
            )
        batch = self._incoming.add(part, now)
        if self._reads.note(self._incoming.bytes_in, now, self._precise_now):
            self._report_read(self._precise_now)
        if batch is None:
            return
        event, receipts = self._signatures.batch(batch, part.joined)
        if receipts is not None and self._is_expected(receipts):
            self._events += ReceiptsReceived(receipts), event
            return
        self._events.append(event)
        if receipts is not None:
            self.count_idle(self._idle.cost_of_answers(len(receipts.hashes)), now)

    def _report_read(self, precise_now: float) -> None:
        if (report := self._reads.take(precise_now)) is not None:
            self._control.append(report.encode())

    def _handle_read(self, report: Read, now: float) -> None:
        self.count_idle(self.outgoing.note_read(report, self._precise_now), now)
        if self.outgoing.window.has_more:
            self._events.append(RoomReceived())

    def _handle_abort(self, part: Part, now: float) -> None:
        """Grant the credit of the batch again: none of its envelopes gets an answer."""
        batch = self._incoming.abort(part)
        self.count_idle(1, now)
        self._granted.add(batch.stream, batch.count, batch.total)
        self._control.append(self._granted.tell().encode())

    def _handle_receipts(self, receipts: Receipts, now: float) -> None:
        if not self._is_expected(receipts):
            # No message waits for this receipt, so the signature check is saved.
            self.count_idle(self._idle.cost_of_answers(len(receipts.hashes)), now)
            return
        if not self._signatures.fits(receipts):
            self._end(
                frames.CLOSE_BAD_SIGNATURE,
                "the peer sent a receipt that it did not sign",
                Reason.BAD_SIGNATURE,
            )
            return
        self._events.append(ReceiptsReceived(receipts))

    def _handle_credit(self, frame: CreditFrame, now: float) -> None:
        is_more = self._allowed.allow(frame.credit)
        self.count_idle(self._idle.cost_of_answers(1) if is_more else 1, now)
        self._events.append(RoomReceived())

    def _handle_ping(self, ping: Ping, now: float) -> None:
        self._control.append(self.pings.answer(ping))

    def _handle_pong(self, pong: Pong, now: float) -> None:
        round_trip = self.pings.measure(pong, self._precise_now)
        if round_trip is not None:
            self.outgoing.window.note_ping(round_trip)

    def _handle_close(self, close: Close, now: float) -> None:
        self._close(Closed(close.code, close.reason, is_by_peer=True))

    def _end_slow(self, cause: str) -> None:
        self._end(frames.CLOSE_PROTOCOL_ERROR, cause, Reason.TOO_SLOW)

    def _end(self, code: int, cause: str, reason: Reason) -> None:
        """Close because of a fault of the peer."""
        self._close(Closed(code, cause, is_by_peer=False, reason=reason))

    def _close(self, closed: Closed) -> None:
        self.state = State.CLOSED
        # Queued envelopes would follow the CLOSE, where the peer ignores them.
        self.outgoing.clear()
        if not closed.is_by_peer:
            self._close_frame = Close(closed.code, closed.cause).encode()
        self._events.append(closed)


# A table of the class, not of each session. A session that held its own bound methods would
# be a reference cycle, which only the garbage collector frees. Under many short links, the
# collector stopped the process for 30 ms.
_HANDLERS: Final[dict[type, Callable[..., None]]] = {
    Hello: Session._handle_hello,
    Part: Session._handle_part,
    Read: Session._handle_read,
    Receipts: Session._handle_receipts,
    CreditFrame: Session._handle_credit,
    Ping: Session._handle_ping,
    Pong: Session._handle_pong,
    Close: Session._handle_close,
}
