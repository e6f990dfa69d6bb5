"""The sending side of a v2 link: batches of messages, receipts, and control frames.

PeerSender ─→ pump ─────────┐
receipts, credit ─→ answer ─┼→ Session ─→ TlsChannel ─→ LinkSocket
HELLO, PING, CLOSE ─────────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from signedwire.clock import monotonic
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_sender import PeerSender
from signedwire.delivery.stream_answers import Answers
from signedwire.transport.answer_watch import AnswerWatch
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.link_state import LinkState
from signedwire.transport.receipt_queue import ReceiptQueue
from signedwire.transport.tls_channel import TlsChannel
from signedwire.types import Credit, Priority, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import Close
from signedwire.wire.parts import most_joined
from signedwire.wire.sent_batch import SentBatch, SentCopies
from signedwire.wire.session import Session

__all__ = ["LinkOutput"]

_CRITICAL: Final = int(Priority.CRITICAL)


class LinkOutput:
    """The sending side of a link.

    Args:
        state: The state of the link, with its session.
        channel: Encrypts.
        socket: Writes ciphertext.
        answers: Watches for overdue answers to the batches.
        on_batch: Called for each batch that is signed.
        loop: The event loop.
    """

    __slots__ = (
        "_answers",
        "_channel",
        "_ends",
        "_is_due",
        "_is_gathering",
        "_loop",
        "_on_batch",
        "_pump_handle",
        "_pump_timer",
        "_socket",
        "_state",
        "_under_way",
        "is_held",
        "receipts",
    )

    def __init__(
        self,
        state: LinkState,
        channel: TlsChannel,
        socket: LinkSocket,
        answers: AnswerWatch,
        on_batch: Callable[[], None] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._state = state
        self._channel = channel
        self._socket = socket
        self._answers = answers
        self._on_batch = on_batch
        self._loop = loop
        self._pump_handle: asyncio.Handle | None = None
        self._pump_timer: asyncio.TimerHandle | None = None
        self._under_way: dict[int, tuple[bytes, list[OutgoingMessage]]] = {}
        """By stream: name and messages of the batch whose parts are not all written."""
        self._ends: dict[bytes, int] = {}
        """By name: the bytes of batches that were written with the last part of the batch."""
        self.receipts = ReceiptQueue(loop)
        """Batches and envelopes that are to be receipted with the next write."""
        self._is_gathering = False
        """Whether input is being processed. Receipts that are due wait for its end."""
        self._is_due = False
        """Whether receipts have become due meanwhile."""
        self.is_held = False
        """Whether the frames of the session wait: the CLOSE among them is to be the last."""

    def end(self) -> None:
        """Send nothing more: the link has ended."""
        self._answers.end()
        self._socket.mark_written()
        self._under_way.clear()
        self._ends.clear()
        self._unschedule()

    # -- messages ---------------------------------------------------------------------------

    def pump(self) -> None:
        """Write parts of what waits for the peer, as many as window and socket take now.

        At most one batch of each stream is signed, and only if no part of a higher priority is
        left.
        """
        self._unschedule()
        state = self._state
        if not state.is_open or not (most := self._socket.writable_bytes()):
            return
        session, peer_session = state.session, state.peer_session
        assert session is not None
        assert peer_session is not None
        sender = peer_session.sender
        self.abort_dead()
        if not (data := self._next_parts(session, sender, most)):
            return
        self._note_taken(session)
        self._answers.look(self._awaited(session, sender))
        self._channel.send(data)
        self._socket.write(self._channel.data_to_send())
        if not session.outgoing.window.has_more and sender.lanes:
            self.pump_soon()

    def _next_parts(self, session: Session, sender: PeerSender, most: int) -> bytes:
        """Return at most `most` bytes of parts, and the frames that go before them."""
        data, waiting, now = b"", sender.lanes.waiting(), monotonic()
        while True:
            priority = max(session.outgoing.top, waiting[-1] % VOLATILE if waiting else -1)
            if priority < 0:
                return data
            if priority < _CRITICAL and session.outgoing.room(now) <= 0:
                break  # do not sign yet
            for stream in [each for each in waiting if each % VOLATILE == priority]:
                # A stream whose batch is not written whole begins the next one after that.
                if not session.outgoing.has(stream):
                    waiting.remove(stream)
                    self._note_taken(session)
                    self._begin_batch(session, sender, stream)
            if session.outgoing.top < priority:
                continue  # there is no credit for it
            room = min(most, session.outgoing.room(now))
            if room <= 0:
                break
            if self.receipts:
                self.receipts.sign(session)
            more = session.data_to_send(room, now)
            most -= len(more)
            data += more
            if most <= 0 or session.outgoing.top >= priority:
                break
        session.outgoing.window.note_full(now)
        self._pump_later(session.outgoing.next_room(now), now)
        return data

    def _note_taken(self, session: Session) -> None:
        """Note the batches of which the last part goes with the next write."""
        for stream in tuple(self._under_way):
            if not session.outgoing.has(stream):
                name, messages = self._under_way.pop(stream)
                self._ends[name] = session.outgoing.bytes_out
                self._socket.expect_written(messages)

    @property
    def _has_waiting(self) -> bool:
        """Whether parts or messages wait."""
        session, peer_session = self._state.session, self._state.peer_session
        if session is None or peer_session is None:
            return False
        return session.outgoing.top >= 0 or bool(peer_session.sender.lanes)

    def _pump_later(self, at: float | None, now: float) -> None:
        """Call `pump()` at this instant. `None`: a READ of the peer will do that."""
        if at is not None:
            self._pump_timer = self._loop.call_later(at - now, self.pump)

    def _unschedule(self) -> None:
        """Forget the calls of `pump()` that are due: it is called now, or never again."""
        for handle in (self._pump_handle, self._pump_timer):
            if handle is not None:
                handle.cancel()
        self._pump_handle = self._pump_timer = None

    def _begin_batch(self, session: Session, sender: PeerSender, stream: int) -> None:
        """Sign a batch of a stream that has none under way, within the credit."""
        hello = session.their_hello
        assert hello is not None
        credit = session.credit_left(stream)
        messages = sender.next_batch(stream, credit, hello.max_payload_size, hello.max_batch_bytes)
        if messages:
            self.send(stream, messages)

    @property
    def writable_bytes(self) -> int:
        """Bytes that window and socket take now."""
        session = self._state.session
        assert session is not None
        return max(0, min(self._socket.writable_bytes(), session.outgoing.room(monotonic())))

    def send(
        self, stream: int, messages: list[OutgoingMessage], copies: SentCopies | None = None
    ) -> None:
        """Give the session messages that were taken from the queue. `pump()` writes them.

        Args:
            stream: Their stream.
            messages: The messages.
            copies: Their places in a signed tree; `None`: they are signed now, alone.
        """
        session, peer_session = self._state.session, self._state.peer_session
        assert session is not None
        assert peer_session is not None
        if self._on_batch is not None:
            self._on_batch()
        bodies = [message.body for message in messages]
        batch: SentBatch
        if copies is not None:
            session.send_copies(copies, bodies)
            batch = copies
        else:
            joined = None
            if self.receipts and session.outgoing.top < stream % VOLATILE:
                # The batch is above all that are under way, so it is written in this turn.
                joined = self.receipts.take(most_joined(bodies, session.outgoing.window.part))
            batch = session.send_batch(bodies, joined)
        peer_session.sender.sent(batch, messages, bodies)
        self._under_way[stream] = batch.name, messages

    def abort_dead(self) -> None:
        """Abort the batches under way of which every message has ended or has expired.

        If one is alive, the batch is finished, and the peer looks at each deadline.
        """
        session, peer_session = self._state.session, self._state.peer_session
        if not self._state.is_open or session is None or peer_session is None:
            return
        sender = peer_session.sender
        for stream, (name, messages) in tuple(self._under_way.items()):
            if all(map(sender.is_dead, messages)) and session.abort_batch(stream):
                del self._under_way[stream]
                sender.aborted(name)
                self.flush()

    def pump_soon(self) -> None:
        """Call `pump()` in the next turn of the loop, if anything waits and the socket takes it."""
        if self._socket.is_paused or not self._has_waiting:
            return
        if self._pump_handle is None:
            self._pump_handle = self._loop.call_soon(self.pump)

    def watch_answers(self, *, is_used: bool) -> None:
        """Measure how long the peer takes to read batches, and to answer them.

        Args:
            is_used: Whether this link, and no newer one, carries the batches to the peer.
        """
        state = self._state
        if state.is_open and state.session is not None and state.peer_session is not None:
            sender = state.peer_session.sender
            self._answers.look(self._awaited(state.session, sender) if is_used else None)

    def _awaited(self, session: Session, sender: PeerSender) -> tuple[bytes | None, int] | None:
        """Return what is awaited next: an answer, or a READ; `None`: nothing is.

        A batch that was read is awaited by its name. Until then, READ is awaited: the number that
        the last one gave stands for that.
        """
        ends, read = self._ends, session.outgoing.window.read
        while ends and not sender.streams.is_in_flight(name := next(iter(ends))):
            del ends[name]
        oldest = next(iter(ends), None)
        if oldest is not None and ends[oldest] <= read:
            return oldest, -1
        return (oldest, read) if read < session.outgoing.bytes_out else None

    # -- answers ----------------------------------------------------------------------------

    def queue_receipts(
        self,
        roots: list[bytes],
        leaves: list[bytes],
        *,
        is_committed: bool,
        is_urgent: bool = False,
    ) -> None:
        """Sign for these batches and envelopes with the next write; `is_urgent`: write now."""
        self.receipts.add(roots, leaves, is_committed=is_committed)
        if is_urgent:
            self._write_receipts()
        elif self.receipts:
            self.receipts.flush_soon(self._write_due_receipts)

    def answer(self, credit: Mapping[int, Credit], answers: Answers) -> None:
        """Send credit, and which messages the application has handled and refused."""
        if (session := self._state.session) is None:
            return
        sign_receipts = partial(self.receipts.sign, session)
        if any(answers):
            sign_receipts()
        now_us = unix_time_us()
        if answers.refused:
            session.send_refusals(answers.refused, now_us)
        if answers.handled:
            session.send_receipts(frames.HANDLED_ENVELOPES, answers.handled, now_us)
        if answers.handled_committed:
            session.send_receipts(
                frames.HANDLED_ENVELOPES, answers.handled_committed, now_us, is_committed=True
            )
        # After the receipts and refusals: the peer has no more in flight than its credit.
        for stream, (messages, size) in credit.items():
            session.grant(stream, messages, size, before_told=sign_receipts)
        if session.has_control or self.receipts:
            self.receipts.flush_soon(self._write_due_receipts)

    def gather(self) -> None:
        """Keep receipts back that become due before `stop_gathering()`.

        So the batches of one read share a signature and a write. At 64 bytes, that saves 0.15 µs
        of CPU time per message at the receiver, and 0.1 µs at the sender.
        """
        self._is_gathering = True

    def stop_gathering(self) -> None:
        """Sign the receipts that have become due. The next `flush()` writes them."""
        self._is_gathering = False
        if self._is_due:
            self._is_due = False
            self.sign_receipts()

    def sign_receipts(self) -> None:
        """Sign the receipts that wait. The next `flush()` writes them."""
        if (session := self._state.session) is not None:
            self.receipts.sign(session)

    def _write_due_receipts(self) -> None:
        if self._is_gathering:
            self._is_due = True
        else:
            self._write_receipts()

    def _write_receipts(self) -> None:
        if (session := self._state.session) is not None:
            self.receipts.sign(session)
            self.flush()

    def refuse(self, code: int, reason: str) -> None:
        """Encrypt CLOSE in place of HELLO. The next `flush()` writes it.

        For a link without a session, whose TLS handshake is complete.
        """
        self._channel.send(Close(code, reason).encode())

    # -- bytes ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Encrypt and write what the session and the TLS handshake have to send, except batches."""
        if not self._socket.is_connected:
            return
        session = None if self.is_held else self._state.session
        if session is not None and (data := session.data_to_send(0, monotonic())):
            self._channel.send(data)
        self._socket.write(self._channel.data_to_send())
