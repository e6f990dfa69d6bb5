"""The sending half of a peer: its queue, the numbers of its messages, and how they end.

A message ends in one way only: `give_up()`, or an answer of its peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from signedwire import clock
from signedwire.delivery.advice import CLOCKS_DIFFER
from signedwire.delivery.lanes import Lanes
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.ports import RoutePort, Timer
from signedwire.delivery.receipt import Receipt, return_all
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.streams import SendStream
from signedwire.errors import Cause, FailureKind
from signedwire.events import MessageRefused
from signedwire.types import Credit, DeliveryState, Did, Reason, unix_time_us
from signedwire.wire.link_frames import Receipts, Refusal
from signedwire.wire.session import SentBatch

__all__ = ["BROKE", "PeerSender"]

BROKE: Final = Cause("the connection broke while it was being written", FailureKind.RESET)
"""Why messages are queued again where nothing more is known."""

# Written and not answered, whatever a peer grants (4096 by default): when the link ends it is
# queued again in one turn of the loop, 6 ms for all of it.
_MAX_IN_FLIGHT: Final = 6_144
_MAX_IN_FLIGHT_BYTES: Final = 64 * 1024 * 1024
_UNANSWERED: Final = frozenset({DeliveryState.QUEUED, DeliveryState.WRITTEN})


class PeerSender:
    """The queue to one peer. Any thread may put messages into `lanes`.

    Args:
        context: What all sessions share.
        did: The peer's DID.
        lanes: The queue.
        stream: The numbers of what is sent over v2.
    """

    __slots__ = (
        "_context",
        "_deadlines",
        "_host",
        "_is_room_watched",
        "_room_waiters",
        "did",
        "dropped",
        "failures",
        "is_scheduled",
        "lanes",
        "route",
        "stream",
    )

    def __init__(
        self,
        context: SessionContext,
        did: Did,
        lanes: Lanes[OutgoingMessage],
        stream: SendStream,
    ) -> None:
        self._context = context
        self._host = context.host
        self.did = did
        self.lanes = lanes
        self.stream = stream
        """Numbers and receipts of what was sent over v2 links."""
        self.route: RoutePort | None = None
        """The dialer that connects to the peer; `None`: nothing was to be sent yet."""
        self.failures = 0
        """Attempts to reach the peer that failed, ever."""
        self.is_scheduled = False
        """Whether the loop will look at the queue soon."""
        self.dropped: Counter[Reason] = Counter()
        """Messages to the peer that were given up or refused, by reason."""
        self._deadlines: dict[OutgoingMessage, Timer] = {}
        self._room_waiters: list[Callable[[], None]] = []
        self._is_room_watched = False

    @property
    def epoch(self) -> int:
        """The epoch in which messages are numbered now."""
        return self.stream.epoch

    # -- room -----------------------------------------------------------------------------

    def when_room(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called when half of the queue is empty; `False`: it is already.

        However many wait, the queue has one wake-up for them.
        """
        if not self._is_room_watched:
            if not self.lanes.when_room(self._on_room):
                return False
            self._is_room_watched = True
        self._room_waiters.append(wake)
        return True

    def forget_room(self, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up of `when_room()`."""
        if wake in self._room_waiters:
            self._room_waiters.remove(wake)

    def _on_room(self) -> None:
        self._is_room_watched = False
        wakes, self._room_waiters = self._room_waiters, []
        for wake in wakes:
            wake()

    # -- writing --------------------------------------------------------------------------

    def next_batch(self, credit: Credit, largest: int, room: int) -> list[OutgoingMessage]:
        """Take the messages of the next frame from the queue, and number them.

        Args:
            credit: How much the peer takes now.
            largest: Bytes of the largest payload that the peer takes.
            room: Bytes that the socket takes now.
        """
        stream = self.stream
        if not self.lanes or self._context.store.is_held():
            return []
        if stream.in_flight >= _MAX_IN_FLIGHT or stream.in_flight_bytes >= _MAX_IN_FLIGHT_BYTES:
            return []  # its next receipt makes the link ask again
        is_dead = partial(self.is_dead, largest=largest)
        return stream.next_batch(self.lanes, credit, is_dead, largest, room)

    def sent(self, batch: SentBatch, messages: list[OutgoingMessage], bodies: list[bytes]) -> None:
        """Note that a link has taken the batch of these messages."""
        self.stream.sent(batch, messages, bodies)
        # Now, not when the system has them: if the link ends before, they may arrive.
        self._context.store.written(self.did, messages)

    def requeue(
        self, messages: Iterable[OutgoingMessage], *, is_fault: bool = True, cause: Cause = BROKE
    ) -> None:
        """Return messages of an ended connection to the heads of their lanes.

        Args:
            is_fault: Whether that counts as one of their attempts.
            cause: What the sender of a message is told that has no attempt left.
        """
        back: dict[DeliveryState, list[OutgoingMessage]] = {}
        items: list[tuple[OutgoingMessage, int]] = []
        for message in messages:
            if message.is_final:  # its deadline came before an answer
                message.release()
                continue
            message.failures_before -= is_fault
            if message.state is not DeliveryState.ACCEPTED:
                state = DeliveryState.PERSISTED if message.is_stored else DeliveryState.QUEUED
                back.setdefault(state, []).append(message)
            if message.terms.expires_at is not None:
                self.watch_deadline(message)
            items.append((message, message.priority))
        for state, receipts in back.items():
            return_all(receipts, state, unix_time_us())
        self.lanes.put_back(items)
        # What waits in the lanes was queued later, and has failed no more often.
        if any(self._is_exhausted(message) for message, _ in items):
            self.give_up_exhausted(cause)

    # -- answers --------------------------------------------------------------------------

    def receipts(self, receipts: Receipts) -> bool:
        """Take a signed receipt; returns whether a message was waiting for it."""
        accepted = self.stream.receipts(receipts, receipts.statement + receipts.signature)
        self._context.store.settled(self.did, accepted)
        self.forget_deadlines(accepted)
        if not accepted:
            return False
        if (first := accepted[0]).is_confirmed:  # else it had expired
            waited = (unix_time_us() - first.queued_at_us) / 1e6
            self._host.counters.observe("accept_seconds", waited)
        return True

    def refusals(self, refusals: tuple[Refusal, ...]) -> bool:
        """Take refusals; returns whether a message was waiting for one."""
        refused = self.stream.refused(refusals)
        self._context.store.refused(self.did, refused)
        for receipt, reason, name, _ in refused:
            if receipt.is_final:
                continue  # its deadline came before its answer
            self.note_failed(reason)
            is_late = reason is Reason.EXPIRED
            state = DeliveryState.EXPIRED if is_late else DeliveryState.REFUSED
            receipt.advance(state, reason, _doubt_of_clocks(receipt) if is_late else "")
            self.forget_deadlines((receipt,))
            if name is not None:
                receipt.release()  # else its evidence has them
            self._host.emit(MessageRefused(self.did, receipt.message_number, reason))
        return bool(refused)

    def abandon(self, reason: Reason, detail: str) -> None:
        """Tell who holds receipts of accepted messages that no further answer will come."""
        for receipt in self.stream.followed():
            receipt.abandon(reason, detail)

    # -- how messages end -------------------------------------------------------------------

    def note_failed(self, reason: Reason) -> None:
        """Count a message that was not delivered."""
        self._host.counters.send_failures += 1
        self._host.drop(reason, self.did)
        self.dropped[reason] += 1

    def give_up(
        self,
        message: OutgoingMessage,
        reason: Reason,
        cause: str = "",
        *,
        is_in_flight: bool = False,
    ) -> None:
        """End a message: it is counted, and its receipt tells its sender.

        One that is in flight keeps its bytes, because its peer may still sign for it.
        """
        if message.is_final:
            return
        if message.is_stored and reason is Reason.CLOSED:
            message.detach()
            message.release()
            return
        if message.is_stored:
            self._context.store.ended(message, reason, cause)
        self.note_failed(reason)
        if not cause and self.route is not None:
            cause = self.route.last_error or ""
        expired = reason is Reason.EXPIRED
        message.advance(DeliveryState.EXPIRED if expired else DeliveryState.FAILED, reason, cause)
        if not is_in_flight:
            message.release()
        self.forget_deadlines((message,))
        self._context.on_progress()

    def give_up_all(self, reason: Reason, cause: str = "") -> None:
        """End every message in the queue."""
        for message in self.lanes.remove_if(lambda _: True):
            self.give_up(message, reason, cause)

    def give_up_exhausted(self, cause: Cause) -> None:
        """End the messages in the queue that have had their attempts."""
        for message in self.lanes.remove_if(self._is_exhausted):
            self.give_up(message, Reason.ATTEMPTS_EXHAUSTED, cause)

    def _is_exhausted(self, message: OutgoingMessage) -> bool:
        limit = self._host.config.max_attempts
        return not message.is_stored and self.failures - message.failures_before >= limit

    def note_attempt_failed(self, cause: Cause) -> None:
        """Count a failed attempt to reach the peer, and end what has had its attempts."""
        self.failures += 1
        self.give_up_exhausted(cause)

    def is_dead(self, message: OutgoingMessage, largest: int = 2**32) -> bool:
        """Whether a message that was taken to be written must not be; it has ended then.

        `largest` is the payload, in bytes, that the peer takes: no credit fits a larger one.
        """
        if message.payload_size > largest and not message.is_final:
            cause = f"{message.payload_size} bytes are over the peer's limit of {largest}"
            self.give_up(message, Reason.TOO_LARGE, cause)
        if message.is_final:
            return True
        if message.expires_at is None or clock.left(message.expires_at) > 0:
            return False
        self._expire(message)
        return True

    # -- deadlines ------------------------------------------------------------------------

    def watch_deadline(self, message: OutgoingMessage) -> None:
        """End the message at its deadline, if no answer has come by then."""
        assert message.expires_at is not None
        if message.state in _UNANSWERED and message not in self._deadlines:
            self._deadlines[message] = self._host.call_later(
                max(0.0, clock.left(message.expires_at)), self._on_deadline, message
            )

    def forget_deadlines(self, messages: Iterable[Receipt]) -> None:
        """Stop watching: the peer has answered, or never will, as over v1."""
        if not self._deadlines:
            return
        for message in messages:
            timer = self._deadlines.pop(message, None)  # type: ignore[call-overload]
            if timer is not None:
                timer.cancel()

    def _on_deadline(self, message: OutgoingMessage) -> None:
        """Tell the sender in time, also of a message in flight: its answer can only say more."""
        self._deadlines.pop(message, None)
        if message.is_unconfirmed or message.state not in _UNANSWERED:
            return
        now = clock.now()
        if message.expires_at is not None and clock.left(message.expires_at, now) > 0:
            # The loop's clock was ahead of the one that the deadline follows.
            self.watch_deadline(message)
            return
        if message.state is DeliveryState.WRITTEN:
            self._expire(message, is_in_flight=True)
            return
        # All that are due in one pass: each for itself would cost the square of the queue.
        for late in self.lanes.remove_if(
            lambda other: other.expires_at is not None and clock.left(other.expires_at, now) <= 0
        ):
            self._expire(late)
        if message.was_written and not message.is_final:  # a link has it, the system not yet
            self._expire(message, is_in_flight=True)

    def _expire(self, message: OutgoingMessage, *, is_in_flight: bool = False) -> None:
        cause = self._context.store.doubt(message)
        self.give_up(message, Reason.EXPIRED, cause, is_in_flight=is_in_flight)

    def on_clock_step(self) -> None:
        """A clock was set, or the machine was suspended: compute every deadline anew."""
        deadlines, self._deadlines = self._deadlines, {}
        for message, timer in deadlines.items():
            timer.cancel()
            self.watch_deadline(message)

    # -- the end --------------------------------------------------------------------------

    def end(self) -> None:
        """The node is closed: nothing is sent any more, and nobody waits for it."""
        self.give_up_all(Reason.CLOSED)
        self.abandon(Reason.CLOSED, "its node was closed before word came that it was handled")
        self.lanes.wake_all()
        for timer in self._deadlines.values():
            timer.cancel()
        self._deadlines.clear()


def _doubt_of_clocks(receipt: Receipt) -> Cause | str:
    """What to say where a peer finds a deadline passed that is not, by our clock."""
    expires_at = receipt.expires_at if isinstance(receipt, OutgoingMessage) else None
    is_early = expires_at is not None and clock.left(expires_at) > 0
    return CLOCKS_DIFFER if is_early else ""
