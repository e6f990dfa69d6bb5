"""The transport itself: peers, links, inbox and counters, in one event loop.

`Node` and the blocking transports are its two faces. Except where a method
says otherwise, everything here belongs to the loop in which `start()` ran.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from signedwire.config import TransportConfig
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import Message, OutgoingMessage
from signedwire.delivery.receipt import future_waker
from signedwire.delivery.screen import Screen
from signedwire.errors import (
    BackpressureError,
    ClosedError,
    NotAllowedError,
    PayloadTooLargeError,
    UnknownPeerError,
)
from signedwire.routing import RoutingTable
from signedwire.stats import Counters, PeerStatus, PoolStats, TransportStats
from signedwire.transport.admission import Admission
from signedwire.transport.carrier import Carrier, Listener
from signedwire.transport.inbound import InboundLink
from signedwire.transport.outbound import Outbound, Peer
from signedwire.transport.pool import Pool
from signedwire.types import Address, DeliveryState, Did, PeerState, Reason

__all__ = ["Core"]

T = TypeVar("T")
A = TypeVar("A")

_MAX_VERIFY_THREADS = 4
_DRAIN_POLL_INTERVAL = 0.005


class Core:
    """Sends to peers and receives from them; see the package's text for the parts.

    Args:
        us: Our DID; envelopes for another are refused. `None`: take them all.
    """

    def __init__(
        self, config: TransportConfig, routing: RoutingTable, carrier: Carrier, us: Did | None
    ) -> None:
        self.config = config
        self.routing = routing
        self.carrier = carrier
        self.counters = Counters()
        self.screen = Screen(config, us)
        self.inbox = Inbox(config.inbox_limit, config.critical_reserve)
        self.pool: Pool[Outbound] = Pool(config.max_connections, lambda member: member.is_idle)
        self.rng = random.Random()
        self.log = logging.getLogger("signedwire.transport")
        self.threads = config.verify_threads or min(_MAX_VERIFY_THREADS, os.cpu_count() or 1)
        self._us = us
        self._admission: Admission[InboundLink] = Admission(config)
        self._inbound: set[InboundLink] = set()
        self._peers: dict[Did, Peer] = {}
        self._outbounds: dict[Address, Outbound] = {}
        self._ready: deque[Peer] = deque()
        self._lock = threading.Lock()
        self._is_wake_scheduled = False
        self._expiries: dict[OutgoingMessage, asyncio.TimerHandle] = {}
        self._offer_handle: asyncio.TimerHandle | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._listener: Listener | None = None
        self._is_open = False
        self._is_ending = False
        self._are_queues_ended = False
        self._ended = asyncio.Event()

    # -- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Open the listener, if the configuration has one.

        Raises:
            ListenError: its address cannot be had.
        """
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        if self.config.listen is not None:
            self._listener = await self.carrier.listen(
                self.config.listen, lambda: InboundLink(self)
            )
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="signedwire-verify")
        self._is_open = True

    async def close(self) -> None:
        """Take no more in, give what is queued `close_timeout` to leave, then end everything.

        What could not be written fails with `Reason.CLOSED`. Safe to call twice; a
        second call, too, returns when all has ended.
        """
        if not self._is_open:
            if self._executor is not None:
                await self._ended.wait()
            return
        self._is_open = False
        if self._listener is not None:
            self._listener.close()
        try:
            await self._drain()
        finally:
            # Also when cancelled: from here on nothing waits for a peer.
            try:
                await self._end()
            finally:
                self._ended.set()

    async def _drain(self) -> None:
        assert self._loop is not None
        deadline = self._loop.time() + self.config.close_timeout
        self._flush_ready()
        while self._loop.time() < deadline:
            if all(outbound.is_settled for outbound in self._outbounds.values()):
                return
            await asyncio.sleep(_DRAIN_POLL_INTERVAL)

    async def _end(self) -> None:
        if self._offer_handle is not None:
            self._offer_handle.cancel()
        workers = [link.worker for link in self._inbound if link.worker is not None]
        for link in tuple(self._inbound):
            link.close()
        self._is_ending = True
        for outbound in self._outbounds.values():
            await outbound.close()
        self._are_queues_ended = True
        for peer in tuple(self._peers.values()):
            self._give_up_all(peer, Reason.CLOSED)
            peer.lanes.wake_all()
        await asyncio.gather(*workers, return_exceptions=True)
        untaken = self.inbox.close()
        if untaken:
            self.counters.dropped[Reason.INBOX_CLOSED] += untaken
        if self._executor is not None:
            # Its threads are at most a slice, some milliseconds, from their end.
            self._executor.shutdown(wait=True, cancel_futures=True)
        await asyncio.sleep(0)  # let the closed sockets' callbacks run

    @property
    def is_open(self) -> bool:
        """Whether messages are taken in."""
        return self._is_open

    @property
    def address(self) -> Address | None:
        """Where we listen, with the real port; `None` without a listener."""
        return None if self._listener is None else self._listener.address

    # -- sending: any thread ----------------------------------------------------

    def submit(
        self, message: OutgoingMessage, payload_size: int, *, is_patient: bool = False
    ) -> None:
        """Queue a message. Any thread; returns at once.

        Where a patient one finds the queue full, nothing is dropped and so nothing is
        counted: it comes again.

        Raises:
            ClosedError, UnknownPeerError, PayloadTooLargeError, BackpressureError:
                it was not queued, for that reason.
        """
        did = message.receipt.recipient
        if not self._is_open:
            raise ClosedError(
                f"message to {did} not queued: this node is closed",
                "Start it with `async with`, and send before it is closed",
            )
        self._check_allowed(did, payload_size)
        peer = self._peers.get(did)
        if (self._resolve(did) if peer is None else self._route(peer)) is None:
            self.counters.dropped[Reason.UNKNOWN_PEER] += 1
            raise UnknownPeerError(
                did,
                Reason.UNKNOWN_PEER,
                f"no address is known for {did}; the message was not queued",
                'Add one with routing.update(did, "host:port"), or set `fallback`',
            )
        if peer is None:
            peer = self._peer(did)
        message.failures_before = peer.failures
        if not peer.lanes.put(message, message.priority):
            if not is_patient:
                self.counters.backpressure_events += 1
                self.counters.dropped[Reason.QUEUE_FULL] += 1
                peer.dropped[Reason.QUEUE_FULL] += 1
            raise BackpressureError(
                did,
                Reason.QUEUE_FULL,
                f"the queue to {did} is full ({self.config.send_queue_limit} messages); "
                "the message was not queued",
                "Send slower, or `await node.send(…)`, which waits for room",
            )
        if message.expires_at is not None or not peer.is_ready:
            self._tell_loop(peer, message)
        if self._are_queues_ended:
            # Closed since we looked, by another thread, and perhaps past this peer.
            self._give_up_all(peer, Reason.CLOSED)

    def _check_allowed(self, did: Did, payload_size: int) -> None:
        if self.config.v1_peers != "all" and did not in self.config.v1_peers:
            self.counters.dropped[Reason.NOT_ALLOWED] += 1
            raise NotAllowedError(
                did,
                Reason.NOT_ALLOWED,
                f"{did} is not among v1_peers, and v1 is the only wire there is; "
                "the message was not queued",
                'Name it in v1_peers, or set v1_peers = "all"',
            )
        limit = self.config.max_v1_payload_size
        if payload_size > limit:
            self.counters.dropped[Reason.TOO_LARGE] += 1
            raise PayloadTooLargeError(
                did,
                Reason.TOO_LARGE,
                f"a payload of {payload_size} bytes is over the v1 limit of {limit}; "
                f"the message to {did} was not queued",
                "Live v1 peers drop larger ones without a word. Split it, or raise "
                "max_v1_payload_size where every peer is known to take more",
            )

    async def room(self, did: Did, priority: int) -> None:
        """Wait until a message of this priority can be queued, or the node is closed."""
        loop = asyncio.get_running_loop()
        peer = self._peer(did)
        while self._is_open and not peer.lanes.has_room(priority):
            # One wake-up for all who wait: those who give up leave none behind.
            if peer.room is None or peer.room.done():
                room = loop.create_future()
                if not peer.lanes.when_room(future_waker(loop, room)):
                    return
                peer.room = room
            await asyncio.wait({peer.room})

    def _peer(self, did: Did) -> Peer:
        peer = self._peers.get(did)
        if peer is None:
            with self._lock:
                peer = self._peers.get(did)
                if peer is None:
                    peer = Peer(did, self.config.send_queue_limit, self.config.critical_reserve)
                    self._peers[did] = peer
        return peer

    def _tell_loop(self, peer: Peer, message: OutgoingMessage) -> None:
        """See to it that the loop looks at this peer; one wake-up for many messages."""
        assert self._loop is not None
        if message.expires_at is not None:
            self._call_in_loop(self._arm_expiry, peer, message)
        if not peer.is_ready:
            peer.is_ready = True
            self._ready.append(peer)
            if not self._is_wake_scheduled:
                self._is_wake_scheduled = True
                self._call_in_loop(self._flush_ready)

    def _call_in_loop(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(callback, *args)
            return
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if not self._is_ending:  # then the loop may be closed
                raise

    # -- sending: the loop --------------------------------------------------------

    def _flush_ready(self) -> None:
        # First the flags, then the queues: a message that comes between is seen.
        self._is_wake_scheduled = False
        while self._ready:
            peer = self._ready.popleft()
            peer.is_ready = False
            self._assign(peer)

    def _assign(self, peer: Peer) -> None:
        """Hand a peer with messages to the connection for its address of today."""
        if self._is_ending:
            return  # _end() comes to it
        address = self._route(peer)
        if address is None:
            self._give_up_all(peer, Reason.UNKNOWN_PEER)
            return
        outbound = self._outbounds.get(address)
        if outbound is None:
            outbound = self._outbounds[address] = Outbound(self, address)
        if peer.outbound is not outbound:
            if peer.outbound is not None:
                peer.outbound.remove(peer)
            peer.outbound = outbound
        outbound.add(peer)

    def _route(self, peer: Peer) -> Address | None:
        """Where the peer is reached; looked up again only when the table has changed."""
        version = self.routing.version
        known, address = peer.route
        if known != version:
            address = self._resolve(peer.did)
            peer.route = version, address
        return address

    def _resolve(self, did: Did) -> Address | None:
        return self.routing.resolve(did) or self.config.fallback

    def reroute(self, peers: Iterable[Peer]) -> None:
        """Move peers whose address has changed to the connection for their new one."""
        for peer in tuple(peers):
            if peer.outbound is None or self._route(peer) != peer.outbound.address:
                if peer.outbound is not None:
                    peer.outbound.remove(peer)
                self._assign(peer)

    def put_back(self, messages: list[OutgoingMessage]) -> None:
        """Queue messages of a broken connection again, at the heads of their lanes."""
        by_peer: dict[Peer, list[tuple[OutgoingMessage, int]]] = {}
        for message in messages:
            peer = self._peer(message.receipt.recipient)
            message.failures_before -= 1
            message.receipt.advance(DeliveryState.QUEUED)
            if message.expires_at is not None:
                self._arm_expiry(peer, message)
            by_peer.setdefault(peer, []).append((message, message.priority))
        for peer, items in by_peer.items():
            peer.lanes.put_back(items)
            self.give_up_exhausted(peer, "the connection broke while it was being written")
            self._assign(peer)

    def give_up_exhausted(self, peer: Peer, cause: str) -> None:
        """Fail the messages of `peer` that have had their attempts."""
        limit = self.config.max_attempts
        for message in peer.lanes.remove_if(
            lambda message: peer.failures - message.failures_before >= limit
        ):
            self.give_up(message, Reason.ATTEMPTS_EXHAUSTED, cause)

    def _give_up_all(self, peer: Peer, reason: Reason) -> None:
        for message in peer.lanes.remove_if(lambda _: True):
            self.give_up(message, reason)

    def give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        """End a message: counted, and its receipt tells the sender."""
        if message.receipt.is_final:
            return
        peer = self._peer(message.receipt.recipient)
        self.counters.send_failures += 1
        self.counters.dropped[reason] += 1
        peer.dropped[reason] += 1
        if not cause and peer.outbound is not None:
            cause = peer.outbound.last_error or ""
        expired = reason is Reason.EXPIRED
        message.receipt.advance(
            DeliveryState.EXPIRED if expired else DeliveryState.FAILED, reason, cause
        )
        self._disarm_expiry(message)

    # -- deadlines of messages ------------------------------------------------------

    def expire_if_due(self, message: OutgoingMessage) -> bool:
        """Whether the deadline of a message has passed; then it is given up."""
        if message.expires_at is None:
            return False
        if time.monotonic() < message.expires_at:
            self._disarm_expiry(message)  # it is being written
            return False
        self.give_up(message, Reason.EXPIRED)
        return True

    def _arm_expiry(self, peer: Peer, message: OutgoingMessage) -> None:
        assert self._loop is not None
        assert message.expires_at is not None
        if message.receipt.state is DeliveryState.QUEUED:
            self._expiries[message] = self._loop.call_later(
                max(0.0, message.expires_at - time.monotonic()), self._on_expiry, peer, message
            )

    def _on_expiry(self, peer: Peer, message: OutgoingMessage) -> None:
        """Tell the sender in time; a message on its way is left alone."""
        self._expiries.pop(message, None)
        now = time.monotonic()
        # All that are due in one pass: each for itself would cost the square of the queue.
        for late in peer.lanes.remove_if(
            lambda other: (
                other is message or (other.expires_at is not None and other.expires_at <= now)
            )
        ):
            self.give_up(late, Reason.EXPIRED)

    def _disarm_expiry(self, message: OutgoingMessage) -> None:
        timer = self._expiries.pop(message, None)
        if timer is not None:
            timer.cancel()

    # -- places in the pool -----------------------------------------------------------

    def apply_for_place(self, outbound: Outbound) -> None:
        """Ask for a connection; `outbound.grant_place()` answers."""
        self.pool.apply(outbound)
        self._fill_places()

    def leave_pool(self, outbound: Outbound) -> None:
        """The connection is gone, or no longer wanted."""
        self.pool.leave(outbound)
        self._fill_places()

    def offer_place(self, outbound: Outbound) -> None:
        """`outbound` has nothing more to write while others wait for a place."""
        self._fill_places()

    def _fill_places(self) -> None:
        if self._offer_handle is not None:
            self._offer_handle.cancel()
            self._offer_handle = None
        while True:
            evicted, admitted = self.pool.admit()
            if admitted is None:
                break
            if evicted is not None:
                self.counters.evictions += 1
                evicted.evict()
            admitted.grant_place()
        if self.pool.has_queue and self._loop is not None:
            # Acknowledgements make no event: look again whether one is idle now.
            self._offer_handle = self._loop.call_later(_DRAIN_POLL_INTERVAL, self._fill_places)

    # -- receiving ----------------------------------------------------------------------

    def admit(self, link: InboundLink) -> bool:
        """Whether an accepted connection may stay."""
        if not self._is_open:
            return False
        is_admitted, evicted = self._admission.admit(link, link.host)
        if evicted is not None:
            evicted.evict()
        if is_admitted:
            self._inbound.add(link)
            self.counters.connections_accepted += 1
        return is_admitted

    def prove(self, link: InboundLink) -> None:
        """The connection brought its first acceptable envelope."""
        evicted = self._admission.prove(link)
        if evicted is not None:
            evicted.evict()

    def touch(self, link: InboundLink) -> None:
        """The connection brought something."""
        self._admission.touch(link)

    def forget(self, link: InboundLink) -> None:
        """The connection is gone."""
        self._admission.leave(link)
        self._inbound.discard(link)

    def run_in_thread(self, function: Callable[[A], T], argument: A) -> asyncio.Future[T]:
        """Run a check outside the loop."""
        assert self._loop is not None
        return self._loop.run_in_executor(self._executor, function, argument)

    async def inbox_room(self) -> None:
        """Wait until the application has taken half of what waits."""
        assert self._loop is not None
        room = self._loop.create_future()
        if self.inbox.when_room(future_waker(self._loop, room)):
            await room

    def receive(self, timeout: float | None) -> Message | None:
        """The next message, or `None` after `timeout` seconds; blocks. Any thread but the loop's.

        The message is taken in the thread that asks, so an interrupt of it loses none.

        Raises:
            ClosedError: closed, and nothing is left.
        """
        inbox = self.inbox
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            message = inbox.take()
            if message is not None:
                return message
            if not self._is_open:
                raise ClosedError("closed, and no message is left")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            if threading.get_ident() == self._loop_thread:
                raise RuntimeError("waiting here in the event loop's own thread has no end")
            arrived = threading.Event()
            if inbox.when_filled(arrived.set):
                try:
                    arrived.wait(left)
                finally:
                    inbox.forget(arrived.set)

    def drop(self, reason: Reason, host: str = "", *, count: int = 1) -> None:
        """Count envelopes or a connection of others that were dropped."""
        self.counters.dropped[reason] += count
        if host:
            self.log.debug("dropped an envelope from %s: %s", host, reason)

    # -- what a user may ask: any thread ---------------------------------------------------

    def stats(self) -> TransportStats:
        """The counters now."""
        return self.counters.snapshot(
            inbound_connections=len(self._inbound), inbox_messages=len(self.inbox)
        )

    def pool_stats(self) -> PoolStats:
        """The pool now."""
        return PoolStats(active=self.pool.active, limit=self.pool.limit)

    def peer_status(self) -> dict[Did, PeerStatus]:
        """The health of every peer that was ever sent to."""
        return {peer.did: self._status(peer) for peer in tuple(self._peers.values())}

    def _status(self, peer: Peer) -> PeerStatus:
        link = peer.outbound
        return PeerStatus(
            did=peer.did,
            address=None if link is None else link.address,
            state=PeerState.IDLE if link is None else link.state,
            since=time.time() if link is None else link.since,
            last_error=None if link is None else link.last_error,
            last_error_at=None if link is None else link.last_error_at,
            retry_at=None if link is None else link.retry_at,
            round_trip=None if link is None else link.round_trip,
            queued=peer.lanes.sizes(),
            failed_attempts=peer.failures,
            dropped=dict(peer.dropped),
        )
