"""The sending half of a peer: its queue, its messages in flight, and how messages end.

A message ends in one of two ways: an answer of its peer, or `give_up()`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from signedwire import clock
from signedwire.delivery.advice import HALF_SENT, late_by_the_peer
from signedwire.delivery.all_send_streams import AllSendStreams
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.ports import DialerPort, LinkPort, Timer
from signedwire.delivery.receipt import Receipt, advance_all
from signedwire.delivery.room_waiters import RoomWaiters
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.send_streams import SendStreams
from signedwire.delivery.session_context import SessionContext
from signedwire.errors import Cause, FailureKind
from signedwire.events import MessageRefused
from signedwire.types import Credit, DeliveryState, Did, Reason, unix_time_us
from signedwire.wire.clock_offset import ClockOffset
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import REFUSED_ENVELOPES, Receipts
from signedwire.wire.sent_batch import SentBatch

__all__ = ["BROKE", "PeerSender"]

BROKE: Final = Cause("the connection broke while it was being written", FailureKind.RESET)
"""The default cause for messages that are queued again."""

_MAX_IN_FLIGHT: Final = 6_144
"""Maximum number of messages in flight, whatever a peer grants (4,096 by default). When the link
ends, all of them are queued again in one turn of the loop, which takes 6 ms."""
_MAX_IN_FLIGHT_BYTES: Final = 64 * 1024 * 1024
_UNANSWERED: Final = frozenset({DeliveryState.QUEUED, DeliveryState.WRITTEN})


class PeerSender:
    """The queue to one peer. Any thread may put messages into `lanes`.

    Args:
        context: The parts that all sessions share.
        did: The peer's DID.
        lanes: The queue.
        streams: The numbers and receipts of messages sent over v2.
        link_of: Returns the link that carries the messages; `None`: there is none.
    """

    __slots__ = (
        "_context",
        "_dead",
        "_deadlines",
        "_host",
        "_link_of",
        "_room_waiters",
        "dialer",
        "did",
        "dropped",
        "failures",
        "is_scheduled",
        "lanes",
        "streams",
    )

    def __init__(
        self,
        context: SessionContext,
        did: Did,
        lanes: SendQueue[OutgoingMessage],
        streams: AllSendStreams,
        link_of: Callable[[], LinkPort | None],
    ) -> None:
        self._context = context
        self._host = context.host
        self.did = did
        self.lanes = lanes
        self._link_of = link_of
        self.streams = streams
        """The numbers and receipts of messages sent over v2."""
        self.dialer: DialerPort | None = None
        """The dialer that connects to the peer; `None`: there was no message to send yet."""
        self.failures = 0
        """Total number of failed attempts to reach the peer."""
        self.is_scheduled = False
        """Whether the loop will send the queue in its next turn."""
        self.dropped: Counter[Reason] = Counter()
        """Messages to the peer that were given up or refused, by reason."""
        self._deadlines: dict[OutgoingMessage, Timer] = {}
        self._dead: list[tuple[OutgoingMessage, Reason, str | None]] = []
        """Messages for `_end_dead()`; with each, its error. `None`: the store tells it."""
        # For durable messages, and for volatile ones.
        self._room_waiters = (
            RoomWaiters(lanes, is_durable=True),
            RoomWaiters(lanes, is_durable=False),
        )

    @property
    def has_messages(self) -> bool:
        """Whether a message waits in the queue, or was removed from it and is about to end."""
        return bool(self.lanes or self._dead)

    # -- room -----------------------------------------------------------------------------

    def when_room(self, wake: Callable[[], None], *, is_durable: bool) -> bool:
        """Call `wake` once, when half of the slots are empty; `False` if they are already.

        Those are the slots for durable messages, or for volatile ones.
        """
        return self._room_waiters[not is_durable].add(wake)

    def forget_room(self, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up of `when_room()`."""
        for waiters in self._room_waiters:
            waiters.remove(wake)

    # -- writing --------------------------------------------------------------------------

    def next_batch(
        self, stream: int, credit: Credit, largest: int, max_bytes: int
    ) -> list[OutgoingMessage]:
        """Take the messages of the next batch of a stream from the queue, and number them.

        Args:
            stream: The stream.
            credit: The credit of the stream that is left.
            largest: Size in bytes of the largest payload that the peer accepts.
            max_bytes: Size in bytes of the largest batch that the peer accepts.
        """
        streams = self.streams
        if not self.lanes.size(stream):
            return []
        if stream < VOLATILE and self._context.store.look_at_clock():
            return []  # the store sends its messages when their deadlines were moved
        if self._context.access.denies(self.did):
            return []  # the endpoint ends the queue in the next turn of the loop
        if streams.in_flight >= _MAX_IN_FLIGHT or streams.in_flight_bytes >= _MAX_IN_FLIGHT_BYTES:
            return []  # the link calls again at the next receipt

        def end_if_dead(message: OutgoingMessage) -> bool:
            if not self.is_dead(message, largest):
                return False
            cause = f"{message.payload_size} bytes are over the peer's limit of {largest}"
            self.end_soon(message, largest, cause)
            return True

        return streams.take_batch(self.lanes, stream, credit, end_if_dead, largest, max_bytes)

    def sent(self, batch: SentBatch, messages: list[OutgoingMessage], bodies: list[bytes]) -> None:
        """Note that a link has taken the batch of these messages."""
        self.streams.sent(batch, messages, bodies)
        if self._context.requests:
            self._context.requests.note_written(messages, batch.leaves)
        # Before the operating system has them: they may arrive even if the link ends now.
        self._context.store.written(self.did, messages)

    def aborted(self, name: bytes) -> None:
        """Note that a link has not finished a batch, all messages of which `is_dead()`.

        Its messages are not in flight any more. Those that have not ended end soon, as expired.
        The peer has none of them, unless an earlier link wrote it whole. `name` is
        `SentBatch.name`.
        """
        for message in self.streams.aborted(name):
            detail = None if message.was_requeued else HALF_SENT
            message.was_written = message.was_requeued
            if not message.is_final:
                self._end_later(message, Reason.EXPIRED, detail)
                continue
            if detail is not None and message.state is DeliveryState.EXPIRED:
                message.detail = detail  # it was not known at the deadline
            message.release()

    def end_half_sent(self) -> None:
        """End the expired messages that a link has not written whole, as `pump()` would do later.

        Their receipts then say at once that the peer does not have them.
        """
        link = self._link_of()
        if link is not None:
            link.abort_dead()
            self._end_dead()

    def requeue(
        self, messages: Iterable[OutgoingMessage], *, is_fault: bool = True, cause: Cause = BROKE
    ) -> None:
        """Return messages of an ended connection to the heads of their lanes.

        Args:
            messages: The messages, in the order of sending.
            is_fault: Whether this counts as one of their attempts.
            cause: The error for messages that have no attempt left.
        """
        exhausted: list[OutgoingMessage] = []
        waiting: list[OutgoingMessage] = []
        for message in messages:
            if message.is_final:  # it has expired without an answer
                message.release()
                continue
            message.is_unconfirmed = False  # it waits again, as if v1 had never taken it
            message.was_requeued = True
            message.failures_before -= is_fault
            (exhausted if self._is_exhausted(message) else waiting).append(message)
        # Into the lanes first: what follows calls the application, which must find each message
        # in its place.
        superseded = self.lanes.put_back((message, message.options.stream) for message in waiting)
        if superseded:
            gone = frozenset(superseded)
            waiting = [message for message in waiting if message not in gone]
            self.end_replaced(superseded)
        # Messages that were in the lanes were queued later, so they have not failed more often.
        self.give_up_many(exhausted, Reason.ATTEMPTS_EXHAUSTED, cause)
        back = [each for each in waiting if each.state is not DeliveryState.ACCEPTED]
        advance_all((each for each in back if each.is_stored), DeliveryState.PERSISTED)
        advance_all((each for each in back if not each.is_stored), DeliveryState.QUEUED)
        for message in waiting:
            if message.options.expires_at is not None:
                self.watch_deadline(message)

    # -- answers --------------------------------------------------------------------------

    def receipts(self, receipts: Receipts, clock_offset: ClockOffset | None = None) -> bool:
        """Apply signed receipts; return whether a message was waiting for one.

        Args:
            receipts: The receipts, whose signature was checked.
            clock_offset: How far the clock of the peer is from ours, for refusals as late;
                `None`: not known.
        """
        raw = receipts.proof
        if receipts.kind == REFUSED_ENVELOPES:
            return self._refused(receipts, raw, clock_offset)
        accepted = self.streams.receipts(receipts, raw)
        self._context.store.settled(self.did, accepted)
        self.forget_deadlines(accepted)
        if not accepted:
            return False
        if (first := accepted[0]).is_confirmed:  # not if it had expired
            waited = (unix_time_us() - first.queued_at_us) / 1e6
            self._host.counters.observe("accept_seconds", waited)
        return True

    def _refused(self, receipts: Receipts, raw: bytes, clock_offset: ClockOffset | None) -> bool:
        """Apply refusals; return whether a message was waiting for one."""
        refused = self.streams.refused(receipts, raw)
        reason, text = receipts.reason or Reason.REFUSED, receipts.explanation
        self._context.store.refused(self.did, refused, reason, text)
        is_late = reason is Reason.EXPIRED
        state = DeliveryState.EXPIRED if is_late else DeliveryState.REFUSED
        for message, _ in refused:
            if message.is_final:
                continue  # it has expired before the answer
            self.note_failed(reason)
            doubt = _doubt_of_clocks(message, receipts.at_us, clock_offset) if is_late else ""
            message.advance(state, reason, doubt or text)
            self.forget_deadlines((message,))
            self._host.emit(MessageRefused(self.did, message.message_id, reason))
        return bool(refused)

    def abandon(self, reason: Reason, detail: str) -> None:
        """Note in the receipts of accepted messages that no further answer will come."""
        for streams in (self.streams.durable, self.streams.volatile):
            self.abandon_streams(streams, reason, detail)

    def abandon_streams(self, streams: SendStreams, reason: Reason, detail: str) -> None:
        """Note this in the receipts of durable messages alone, or of volatile ones."""
        for receipt in streams.followed():
            receipt.abandon(reason, detail)

    # -- how messages end -------------------------------------------------------------------

    def note_failed(self, reason: Reason, count: int = 1) -> None:
        """Count messages that were not delivered. Any thread."""
        self._host.drop_failed(reason, self.did, self.dropped, count)

    def give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        """End one message; see `give_up_many()`."""
        self.give_up_many((message,), reason, cause)

    def give_up_many(
        self,
        messages: Iterable[OutgoingMessage],
        reason: Reason,
        cause: str = "",
        *,
        are_in_flight: bool = False,
    ) -> None:
        """End messages: count them, and set the reason and cause in their receipts.

        Messages in flight keep their bytes, because the peer may still send a receipt.
        """
        ended: list[OutgoingMessage] = []
        for message in messages:
            if message.is_final:
                continue
            if message.is_stored:
                if reason is Reason.CLOSED:
                    message.detach()
                    message.release()
                    continue
                self._context.store.ended(message, reason, cause)
            ended.append(message)
        if not ended:
            return
        self.note_failed(reason, len(ended))
        if not cause and self.dialer is not None:
            cause = self.dialer.history.last_error or ""
        expired = reason is Reason.EXPIRED
        state = DeliveryState.EXPIRED if expired else DeliveryState.FAILED
        advance_all(ended, state, reason, cause)
        for message in ended if not are_in_flight else ():
            message.release()
        self.forget_deadlines(ended)
        self._context.on_progress()

    def end_replaced(self, messages: Sequence[OutgoingMessage]) -> None:
        """End messages that are in no lane, because a newer one with their key waits. Any thread.

        They are counted, without an event. Nobody else ends a message that has left the queue.
        """
        self._host.drop_replaced(self.did, self.dropped, len(messages))
        advance_all(messages, DeliveryState.FAILED, Reason.REPLACED)
        for message in messages:
            message.release()
        if any(message.options.expires_at is not None for message in messages):
            self._host.call_soon(self.forget_deadlines, messages)

    def give_up_all(self, reason: Reason, cause: str = "") -> None:
        """End every message in the queue."""
        self.give_up_many(self.lanes.remove_if(lambda _: True), reason, cause)

    def give_up_exhausted(self, cause: Cause) -> None:
        """End the messages in the queue that have no attempt left."""
        exhausted = self.lanes.remove_if(self._is_exhausted)
        self.give_up_many(exhausted, Reason.ATTEMPTS_EXHAUSTED, cause)

    def _is_exhausted(self, message: OutgoingMessage) -> bool:
        limit = self._host.config.max_attempts
        return not message.is_stored and self.failures - message.failures_before >= limit

    def note_attempt_failed(self, cause: Cause) -> None:
        """Count a failed attempt to reach the peer, and end messages with no attempt left."""
        self.failures += 1
        self.give_up_exhausted(cause)

    def is_dead(self, message: OutgoingMessage, largest: int = 2**32) -> bool:
        """Whether a message must not be written: it has ended, is too large, or has expired.

        `largest` is the size in bytes of the largest payload that the peer accepts. No credit
        ever suffices for a larger one.
        """
        if message.is_final or message.payload_size > largest:
            return True
        return message.expires_at is not None and clock.left(message.expires_at) <= 0

    def end_soon(self, message: OutgoingMessage, largest: int = 2**32, cause: str = "") -> None:
        """End a message in the next turn of the loop, which was removed as `is_dead()`.

        Later, because the end calls the application. That must not happen while the messages of
        a batch are neither in the queue nor in flight.

        Args:
            message: The message.
            largest: Size in bytes of the largest payload that the peer accepts.
            cause: The error if the message is larger.
        """
        if message.payload_size > largest:
            self._end_later(message, Reason.TOO_LARGE, cause)
        else:
            self._end_later(message, Reason.EXPIRED, None)

    def _end_later(self, message: OutgoingMessage, reason: Reason, detail: str | None) -> None:
        if not self._dead:
            self._host.call_soon(self._end_dead)
        self._dead.append((message, reason, detail))

    def _end_dead(self) -> None:
        dead, self._dead = self._dead, []
        for message, reason, detail in dead:
            if message.is_final:
                message.release()
            elif detail is None:
                self._expire(message)
            else:
                self.give_up(message, reason, detail)

    # -- deadlines ------------------------------------------------------------------------

    def watch_deadline(self, message: OutgoingMessage) -> None:
        """End the message at its deadline, if no answer comes before."""
        assert message.expires_at is not None
        if message.state in _UNANSWERED and message not in self._deadlines:
            self._deadlines[message] = self._host.call_later(
                max(0.0, clock.left(message.expires_at)), self._on_deadline, message
            )

    def forget_deadlines(self, messages: Iterable[Receipt]) -> None:
        """Stop the timers of messages that were answered, or never will be, as over v1."""
        if not self._deadlines:
            return
        for message in messages:
            timer = self._deadlines.pop(message, None)  # type: ignore[call-overload]
            if timer is not None:
                timer.cancel()

    def _on_deadline(self, message: OutgoingMessage) -> None:
        """Expire the message, also if it is in flight: an answer may still add to its receipt."""
        self._deadlines.pop(message, None)
        if message.is_unconfirmed or message.state not in _UNANSWERED:
            return
        now = clock.now()
        if message.expires_at is not None and clock.left(message.expires_at, now) > 0:
            # The loop's clock is ahead of the clock that the deadline follows.
            self.watch_deadline(message)
            return
        if message.state is DeliveryState.WRITTEN:
            self._expire(message, is_in_flight=True)
            return
        # All that are due in one pass. One pass for each would cost the square of the queue.
        for late in self.lanes.remove_if(
            lambda other: other.expires_at is not None and clock.left(other.expires_at, now) <= 0
        ):
            self._expire(late)
        if message.was_written and not message.is_final:  # it is in the buffer of a connection
            self.end_half_sent()
            if not message.is_final:
                message.transition(DeliveryState.WRITTEN, unix_time_us())
                self._expire(message, is_in_flight=True)

    def _expire(self, message: OutgoingMessage, *, is_in_flight: bool = False) -> None:
        cause = self._context.store.doubt(message)
        self.give_up_many((message,), Reason.EXPIRED, cause, are_in_flight=is_in_flight)

    def on_clock_step(self) -> None:
        """Compute each deadline again, because a clock was set or the machine was suspended."""
        deadlines, self._deadlines = self._deadlines, {}
        for message, timer in deadlines.items():
            timer.cancel()
            self.watch_deadline(message)

    # -- the end --------------------------------------------------------------------------

    def end(self) -> None:
        """End all messages, because the node is closed."""
        self._end_dead()
        self.give_up_all(Reason.CLOSED)
        self.abandon(
            Reason.CLOSED, "the node was closed before the peer answered whether it was handled"
        )
        self.lanes.wake_all()
        for timer in self._deadlines.values():
            timer.cancel()
        self._deadlines.clear()


def _doubt_of_clocks(
    message: OutgoingMessage, refused_at_us: int, offset: ClockOffset | None
) -> Cause | str:
    """Return the cause for an expiry by the peer's clock: empty, or that the clocks differ.

    Args:
        message: The message that was refused as late.
        refused_at_us: When, by the peer's clock: Unix time, microseconds.
        offset: How far that is from ours; `None`: not known.
    """
    if message.expires_at is None or clock.left(message.expires_at) <= 0:
        return ""
    return late_by_the_peer(refused_at_us / 1e6 - clock.to_unix(message.expires_at), offset)
