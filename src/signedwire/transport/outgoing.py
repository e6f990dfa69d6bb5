"""What is on its way out: a queue for each peer, and who brings it there.

    submit ─→ Peer.lanes ─→ an open Link, or a Dialer that makes a connection

`submit()` may be called from any thread; all the rest belongs to the loop. A
message ends in one way only: `give_up()`, or an answer of its peer (`links`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from signedwire import clock
from signedwire.delivery.lanes import Lanes
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.receipt import UNANSWERED, future_waker, move_all
from signedwire.delivery.streams import SendStream
from signedwire.errors import (
    BackpressureError,
    ClosedError,
    UnknownPeerError,
)
from signedwire.logs import fields
from signedwire.stats import PeerStatus
from signedwire.transport.dialer import Dialer
from signedwire.transport.link_dialer import LinkDialer
from signedwire.transport.outbound import Outbound
from signedwire.transport.outlast import outlast
from signedwire.transport.peer import Peer
from signedwire.transport.places import Places
from signedwire.transport.queue_checks import check_allowed, check_size
from signedwire.types import Address, DeliveryState, Did, PeerState, Reason

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["Outgoing"]

_POLL_INTERVAL: Final = 0.005
_MAX_EPOCHS: Final = 10_000
# How long messages wait for a peer that can only be reached when it dials us.
_RETURN_GRACE: Final = 5.0
_UNANSWERED: Final = frozenset({DeliveryState.QUEUED, DeliveryState.WRITTEN})


class Outgoing:
    """The peers that we send to, their queues and their connections."""

    def __init__(self, core: Core, us: Did | None) -> None:
        self._core = core
        self._us = b"" if us is None else bytes(us)
        self._epoch = clock.new_epoch()
        self._left: OrderedDict[Did, float] = OrderedDict()  # whose own links ended when
        self._epochs: OrderedDict[Did, int] = OrderedDict()  # which peers made us take
        self.places = Places(core)
        self._peers: dict[Did, Peer] = {}
        self._dialers: dict[Address | tuple[Address, Did], Dialer] = {}
        self._ready: deque[Peer] = deque()
        self._lock = threading.Lock()
        self._is_wake_scheduled = False
        self._expiries: dict[OutgoingMessage, asyncio.TimerHandle] = {}
        self._is_ending = False
        self._are_queues_ended = False

    # -- life -------------------------------------------------------------------

    async def drain(self, deadline: float) -> None:
        """Wait until nothing waits to be sent or answered, or until `deadline`, loop time."""
        self._flush_ready()
        loop = asyncio.get_running_loop()
        while not self._is_settled():
            if loop.time() >= deadline:
                return
            await asyncio.sleep(_POLL_INTERVAL)  # acknowledgements of v1 make no event

    def _is_settled(self) -> bool:
        if not all(
            dialer.is_settled or self._can_wait(dialer) for dialer in self._dialers.values()
        ):
            return False
        return all(
            peer.stream.is_empty and not peer.lanes
            for peer in tuple(self._peers.values())
            if peer.link is not None or self._core.outbox is None
        )

    def _can_wait(self, dialer: Dialer) -> bool:
        """Whether its messages may as well wait in the store, for their peer is away."""
        return self._core.outbox is not None and dialer.state is PeerState.BACKING_OFF

    async def end(self) -> bool:
        """End every connection and every message that is left. Returns what `outlast()` does."""
        self._is_ending = True
        self.places.end()
        closing = [dialer.close() for dialer in tuple(self._dialers.values())]
        all_closing = asyncio.gather(*closing, return_exceptions=True)
        is_cancelled = await outlast(all_closing)
        for fault in all_closing.result():
            if isinstance(fault, Exception):  # of ours: it must not keep the others
                extra = fields("close fault", error=type(fault).__name__)
                self._core.log.error("closing a connection failed", exc_info=fault, extra=extra)
        self._are_queues_ended = True
        for peer in tuple(self._peers.values()):
            peer.stop_waiting()
            self.give_up_all(peer, peer.lanes.remove_if(lambda _: True), Reason.CLOSED)
            why = "its node was closed before word came that it was handled"
            peer.abandon(Reason.CLOSED, why)
            peer.lanes.wake_all()
        for timer in self._expiries.values():
            timer.cancel()
        return is_cancelled

    # -- any thread ---------------------------------------------------------------

    def submit(
        self,
        message: OutgoingMessage,
        payload_size: int,
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> None:
        """Queue a message. Any thread; returns at once.

        Where a patient one finds the queue full, nothing is dropped and so nothing is
        counted: it comes again. `replaces` are dead letters, which go when it is stored.

        Raises:
            ClosedError, UnknownPeerError, PayloadTooLargeError, BackpressureError:
                it was not queued, for that reason.
        """
        did = message.recipient
        peer = self._check(message, payload_size)
        message.failures_before = peer.failures
        if self._core.outbox is not None:
            self._core.outbox.put(peer, [message], replaces)
            return
        if not peer.lanes.put(message, message.priority):
            if not is_patient:
                self._core.counters.backpressure_events += 1
                self._core.drop(Reason.QUEUE_FULL, did)
                peer.dropped[Reason.QUEUE_FULL] += 1
            raise BackpressureError(
                did,
                Reason.QUEUE_FULL,
                f"the queue to {did} is full ({self._core.config.send_queue_limit} messages); "
                "the message was not queued",
                "Send slower, or `await node.send(…)`, which waits for room",
            )
        if self._peers.get(did) is not peer and peer.lanes.remove_if(lambda one: one is message):
            # Forgotten as a stranger since we looked.
            self.submit(message, payload_size, is_patient=is_patient)
            return
        if message.expires_at is not None or not peer.is_ready:
            self._tell_loop(peer, message)
        if self._are_queues_ended:
            # Closed since we looked, by another thread, and perhaps past this peer.
            self.give_up_all(peer, peer.lanes.remove_if(lambda _: True), Reason.CLOSED)

    def _check(self, message: OutgoingMessage, payload_size: int) -> Peer:
        """Whether a message may be queued; its peer."""
        did = message.recipient
        home = self._core.home
        home.check_alive()
        if not self._core.is_open:
            raise ClosedError(
                f"message to {did} not queued: this node is {home.in_words}",
                "Start it with `async with`, and send before it is closed",
            )
        peer = self._peers.get(did)
        check_allowed(self._core, did, peer)
        check_size(self._core, did, peer, payload_size)
        if self._core.outbox is None and self._has_no_way(did, peer):
            self._core.drop(Reason.UNKNOWN_PEER, did)
            raise UnknownPeerError(
                did,
                Reason.UNKNOWN_PEER,
                f"no address is known for {did}; the message was not queued",
                "It had dialed us, and its link has ended: wait until it dials again"
                if did in self._left
                else 'Add one with routing.update(did, "host:port"), or set `fallback`',
            )
        return self.peer(did) if peer is None else peer

    def submit_many(self, messages: list[OutgoingMessage]) -> int:
        """Queue messages of one kind to one recipient; returns for how many there was room.

        Raises:
            What `submit()` does for the first of them, if not even that can be queued.
        """
        first = messages[0]
        if self._core.outbox is not None:
            self._check(first, first.payload_size)
            self._core.outbox.put(self.peer(first.recipient), messages)
            return len(messages)
        self.submit(first, first.payload_size, is_patient=True)
        peer = self._peers[first.recipient]
        others = messages[1:]
        if failures := peer.failures:
            for message in others:
                message.failures_before = failures
        count = peer.lanes.put_many(others, first.priority)
        if first.expires_at is not None:
            for message in others[:count]:
                self._tell_loop(peer, message)
        return 1 + count

    def _has_no_way(self, did: Did, peer: Peer | None) -> bool:
        """Whether there is neither a route to the peer nor a link that it dialed."""
        if self._has_just_left(did):
            return False  # it may be back in a moment
        outbox = self._core.outbox
        if outbox is not None and outbox.store.has_spoken_v2(did):
            return False  # it has linked to us once, and may again
        if peer is None:
            return self._resolve(did) is None
        return peer.link is None and self._route(peer) is None

    def has_way(self, peer: Peer) -> bool:
        """Whether a peer is linked, has been, or can be dialed. Any thread."""
        return not self._has_no_way(peer.did, peer)

    def _has_just_left(self, did: Did) -> bool:
        left = self._left.get(did)
        return left is not None and clock.monotonic() - left < _RETURN_GRACE

    def check_size(self, did: Did, payload_size: int) -> None:
        """See `queue_checks.check_size`."""
        check_size(self._core, did, self._peers.get(did), payload_size)

    async def room(self, did: Did, priority: int) -> None:
        """Wait until a message of this priority can be queued, or the node is closed."""
        if self._core.outbox is not None:
            await self._core.outbox.room()
            return
        loop = asyncio.get_running_loop()
        peer = self.peer(did)
        while self._core.is_open and not peer.lanes.has_room(priority):
            # One wake-up for all who wait: those who give up leave none behind.
            if peer.room is None or peer.room.done():
                room = loop.create_future()
                if not peer.lanes.when_room(future_waker(loop, room)):
                    return
                peer.room = room
            await asyncio.wait({peer.room})

    def peer(self, did: Did) -> Peer:
        """The sending half of a peer; made where there was none. Any thread."""
        peer = self._peers.get(did)
        if peer is None:
            with self._lock:
                peer = self._peers.get(did)
                if peer is None:
                    config = self._core.config
                    lanes: Lanes[OutgoingMessage] = Lanes(
                        config.send_queue_limit, config.critical_reserve
                    )
                    if self._core.outbox is None:
                        epoch = max(self._epoch, self._epochs.get(did, 0))
                    else:
                        epoch = self._core.outbox.epoch(did)
                    stream = self.new_stream(did, epoch)
                    peer = Peer(did, lanes, stream)
                    self._peers[did] = peer
        return peer

    def note_left(self, peer: Peer, cause: str) -> None:
        """The link of a peer has ended: without a route it can only be waited for."""
        peer.since = clock.monotonic()
        peer.last_error, peer.last_error_at = cause, peer.since
        if self._route(peer) is None:
            self._left[peer.did] = clock.monotonic()
            self._left.move_to_end(peer.did)
            if len(self._left) > _MAX_EPOCHS:
                self._left.popitem(last=False)

    def forget_if_stranger(self, peer: Peer) -> None:
        """Keep nothing of a peer without a route that is gone and owes us nothing.

        Keys cost nothing: whoever answers strangers would keep each of them for ever.
        """
        if (
            peer.dialer is not None
            or peer.link is not None
            or peer.lanes
            or not peer.stream.is_forgettable
            or self._route(peer) is not None
        ):
            return
        with self._lock:
            # First away, then a look: who queues looks after queueing whether it is there.
            if self._peers.get(peer.did) is not peer:
                return
            del self._peers[peer.did]
            if peer.lanes:
                self._peers[peer.did] = peer
                return
        if not peer.stream.is_fresh:
            # Should it come back, its numbers begin anew, so in a newer epoch.
            self._epoch = max(self._epoch + 1, clock.new_epoch())
            if did_epoch := self._epochs.get(peer.did):
                self._epochs[peer.did] = max(did_epoch, peer.stream.epoch) + 1

    def is_known(self, did: Did) -> bool:
        """Whether it is more than a stranger: it has a route, or a message is on its way to it."""
        return did in self._peers or self._core.routing.resolve(did) is not None

    def new_stream(self, did: Did, epoch: int) -> SendStream:
        """A stream to a peer that counts from 1."""
        if epoch != self._epoch and self._core.outbox is None:
            # A peer that made us start anew may be forgotten, and its epoch must not be.
            self._epochs[did] = epoch
            self._epochs.move_to_end(did)
            if len(self._epochs) > _MAX_EPOCHS:
                self._epochs.popitem(last=False)
        return SendStream(self._us, bytes(did), epoch)

    def status(self) -> dict[Did, PeerStatus]:
        """The health of every peer that was ever sent to or linked to us. Any thread."""
        outbox = self._core.outbox
        return {
            peer.did: peer.status(None if outbox is None else outbox.store.backlog(peer.did))
            for peer in tuple(self._peers.values())
        }

    def _tell_loop(self, peer: Peer, message: OutgoingMessage) -> None:
        """See to it that the loop looks at this peer; one wake-up for many messages."""
        if message.expires_at is not None:
            self._core.call_in_loop(self._arm_expiry, peer, message)
        if not peer.is_ready:
            peer.is_ready = True
            self._ready.append(peer)
            if not self._is_wake_scheduled:
                self._is_wake_scheduled = True
                self._core.call_in_loop(self._flush_ready)

    # -- the loop: who brings it there --------------------------------------------

    def _flush_ready(self) -> None:
        # First the flags, then the queues: a message that comes between is seen.
        self._is_wake_scheduled = False
        while self._ready:
            peer = self._ready.popleft()
            peer.is_ready = False
            self.assign(peer)

    def assign(self, peer: Peer) -> None:
        """Hand a peer with messages to whatever brings them there today."""
        if self._is_ending:
            return  # end() comes to it
        if self._core.links.access.is_denied(peer.did) and self.give_up_denied(peer):
            return
        if peer.link is not None:
            peer.link.pump()
            return
        address = self._route(peer)
        if address is None:
            if not (self._core.speaks_v2 and self._has_just_left(peer.did)):
                self._give_up_stranded(peer)
            elif peer.return_timer is None:
                # It dials us, from where we cannot dial it: give it time to return.
                peer.return_timer = asyncio.get_running_loop().call_later(
                    _RETURN_GRACE, self._give_up_stranded, peer
                )
            return
        dialer = self._dialer(peer, address)
        if peer.dialer is not dialer:
            if peer.dialer is not None:
                self.unassign(peer)
            peer.dialer = dialer
        dialer.add(peer)

    def stranded(self) -> list[Peer]:
        """Those with messages and no way to bring them there, as far as was known."""
        return [
            peer
            for peer in tuple(self._peers.values())
            if peer.lanes and peer.link is None and peer.dialer is None
        ]

    def unassign(self, peer: Peer) -> None:
        """It is reached otherwise from now on."""
        dialer, peer.dialer = peer.dialer, None
        if dialer is not None:
            dialer.remove(peer)
            if isinstance(dialer, LinkDialer):  # those of v1 serve all who are reached there
                self._dialers.pop((dialer.address, peer.did), None)
                dialer.retire()

    def _dialer(self, peer: Peer, address: Address) -> Dialer:
        speaks_v1 = not self._core.speaks_v2 or peer.wire == "v1"
        key = address if speaks_v1 else (address, peer.did)
        dialer = self._dialers.get(key)
        if dialer is None:
            dialer = (
                Outbound(self._core, address)
                if speaks_v1
                else LinkDialer(self._core, address, peer)
            )
            self._dialers[key] = dialer
        return dialer

    def _give_up_stranded(self, peer: Peer) -> None:
        peer.return_timer = None
        if peer.link is None and self._route(peer) is None:
            unstored = peer.lanes.remove_if(lambda message: not message.is_stored)
            self.give_up_all(peer, unstored, Reason.UNKNOWN_PEER)

    def _route(self, peer: Peer) -> Address | None:
        """Where the peer is reached; looked up again only when the table has changed."""
        version = self._core.routing.version
        known, address = peer.route
        if known != version:
            address = self._resolve(peer.did)
            peer.route = version, address
        return address

    def _resolve(self, did: Did) -> Address | None:
        return self._core.routing.resolve(did) or self._core.config.fallback

    def peers_of(self, dialer: Dialer) -> list[Peer]:
        """Who is reached by it."""
        return [peer for peer in tuple(self._peers.values()) if peer.dialer is dialer]

    def reroute(self, peers: Iterable[Peer]) -> None:
        """Move peers whose address has changed to the connection for their new one."""
        for peer in tuple(peers):
            if peer.dialer is None or self._route(peer) != peer.dialer.address:
                self.unassign(peer)
                self.assign(peer)

    # -- the loop: how messages end --------------------------------------------------

    def put_back(
        self,
        messages: list[OutgoingMessage],
        *,
        is_fault: bool = True,
        cause: str = "the connection broke while it was being written",
    ) -> None:
        """Queue messages of an ended connection again, at the heads of their lanes.

        Where it was no fault, the attempt does not count. `cause` is what those are told that
        have had their attempts; what waits was queued later, and has failed no more often.
        """
        self._core.counters.rewritten += len(messages)
        exhausted: dict[Peer, list[OutgoingMessage]] = {}
        waiting: dict[Peer, list[OutgoingMessage]] = {}
        for message in messages:
            if message.is_final:  # its deadline came before an answer
                message.release()
                continue
            peer = self.peer(message.recipient)
            message.failures_before -= is_fault
            fate = exhausted if self._is_exhausted(peer, message) else waiting
            fate.setdefault(peer, []).append(message)
        for peer, lost in exhausted.items():
            self.give_up_all(peer, lost, Reason.ATTEMPTS_EXHAUSTED, cause)
        for peer, kept in waiting.items():
            back = [each for each in kept if each.state is not DeliveryState.ACCEPTED]
            move_all((each for each in back if each.is_stored), DeliveryState.PERSISTED)
            move_all((each for each in back if not each.is_stored), DeliveryState.QUEUED)
            for message in kept:
                if message.terms.expires_at is not None:
                    self._arm_expiry(peer, message)
            peer.lanes.put_back((message, message.priority) for message in kept)
            self.assign(peer)

    def give_up_denied(self, peer: Peer) -> bool:
        """Fail what waits for a peer and dial it no more; `False`: the peer is denied no more."""
        waiting = frozenset(peer.lanes)  # before the list is asked: what comes later may be allowed
        if not self._core.links.access.is_denied(peer.did):
            return False
        self.unassign(peer)
        self.give_up_all(peer, peer.lanes.remove_if(waiting.__contains__), Reason.DENIED)
        return True

    def denied(self) -> list[Peer]:
        """Those whom the access list denies now."""
        is_denied = self._core.links.access.is_denied
        return [peer for peer in tuple(self._peers.values()) if is_denied(peer.did)]

    def give_up_exhausted(self, peer: Peer, cause: str) -> None:
        """Fail the messages of `peer` that have had their attempts."""
        exhausted = peer.lanes.remove_if(partial(self._is_exhausted, peer))
        self.give_up_all(peer, exhausted, Reason.ATTEMPTS_EXHAUSTED, cause)

    def _is_exhausted(self, peer: Peer, message: OutgoingMessage) -> bool:
        limit = self._core.config.max_attempts
        return not message.is_stored and peer.failures - message.failures_before >= limit

    def give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        """`give_up_all()` for one."""
        self.give_up_all(self.peer(message.recipient), (message,), reason, cause)

    def give_up_all(
        self,
        peer: Peer,
        messages: Iterable[OutgoingMessage],
        reason: Reason,
        cause: str = "",
        *,
        is_in_flight: bool = False,
    ) -> None:
        """End messages for one peer: counted, and their receipts tell the sender.

        What is in flight keeps its bytes: its peer may sign for it yet.
        """
        ended: list[OutgoingMessage] = []
        for message in messages:
            if message.is_final:
                continue
            if message.is_stored and reason is Reason.CLOSED:
                message.park()
                message.release()
                continue
            if message.is_stored and self._core.outbox is not None:
                self._core.outbox.ended(message, reason, cause)
            ended.append(message)
        if not ended:
            return
        self._core.counters.send_failures += len(ended)
        self._core.drop(reason, peer.did, count=len(ended))
        peer.dropped[reason] += len(ended)
        if not cause and peer.dialer is not None:
            cause = peer.dialer.last_error or ""
        expired = reason is Reason.EXPIRED
        move_all(ended, DeliveryState.EXPIRED if expired else DeliveryState.FAILED, reason, cause)
        for message in ended if not is_in_flight else ():
            message.release()
        self.disarm_expiries(ended)

    def is_dead(self, message: OutgoingMessage, largest: int = 2**32) -> bool:
        """Whether a message that was taken to be written must not be; it was told of its end.

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

    def _expire(self, message: OutgoingMessage, *, is_in_flight: bool = False) -> None:
        cause = UNANSWERED if message.was_written else ""
        if message.is_stored and self._core.outbox is not None:
            cause = self._core.outbox.doubt(message.recipient, message.priority, message.row)
        peer = self.peer(message.recipient)
        self.give_up_all(peer, (message,), Reason.EXPIRED, cause, is_in_flight=is_in_flight)

    def disarm_expiries(self, messages: Iterable[OutgoingMessage]) -> None:
        """Their peer has answered, or never will, as over v1: they expire no more here."""
        for message in messages if self._expiries else ():
            timer = self._expiries.pop(message, None)
            if timer is not None:
                timer.cancel()

    def _arm_expiry(self, peer: Peer, message: OutgoingMessage) -> None:
        assert message.expires_at is not None
        if message.state in _UNANSWERED and message not in self._expiries:
            self._expiries[message] = asyncio.get_running_loop().call_later(
                max(0.0, clock.left(message.expires_at)), self._on_expiry, peer, message
            )

    def _on_expiry(self, peer: Peer, message: OutgoingMessage) -> None:
        """Tell the sender in time, also of a message on its way: who has it can only say more."""
        self._expiries.pop(message, None)
        if message.is_unconfirmed or message.state not in _UNANSWERED:
            return
        now = clock.now()
        if message.expires_at is not None and clock.left(message.expires_at, now) > 0:
            # The loop's clock was ahead of the one that the deadline follows.
            self._arm_expiry(peer, message)
            return
        if message.state is DeliveryState.WRITTEN:
            self._expire(message, is_in_flight=True)
            return
        # All that are due in one pass: each for itself would cost the square of the queue.
        for late in peer.lanes.remove_if(
            lambda other: other.expires_at is not None and clock.left(other.expires_at, now) <= 0
        ):
            self._expire(late)
        if message.was_written and not message.is_final:  # a link has it, the system not yet
            self._expire(message, is_in_flight=True)

    def on_clock_step(self) -> None:
        """A clock was set, or the machine was suspended: look at every deadline anew."""
        expiries, self._expiries = self._expiries, {}
        for message, timer in expiries.items():
            timer.cancel()
            self._arm_expiry(self.peer(message.recipient), message)
