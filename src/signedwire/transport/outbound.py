"""Sending: a queue for each peer, one connection for each address.

    idle ──message──→ dialing ──→ connected ──peer closed──→ idle or dialing
                       │   ↖                 ──evicted─────→ idle
                     failed  │
                       ↓   pause over
                    backing off ──nothing left to send──→ idle

An `Outbound` writes whenever its socket takes more, in batches, and stops at
the first byte that the operating system does not take at once, so that what
waits, waits in the peers' bounded queues and nowhere else.

Which messages a broken connection lost is a question that v1 cannot answer.
The kernel can, in part: bytes that the peer's host never acknowledged were not
received. Messages that reach into that tail are queued again, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

from signedwire.delivery.backoff import backoff_delays
from signedwire.delivery.lanes import Lanes
from signedwire.delivery.message import OutgoingMessage
from signedwire.errors import ConnectTimeout, DialError
from signedwire.transport.carrier import Carrier
from signedwire.transport.tcp import describe_os_error
from signedwire.types import Address, DeliveryState, Did, PeerState, Reason, unix_time_us
from signedwire.wire.frames import encode_frame

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["Outbound", "OutboundLink", "Peer"]

ORDERLY_CLOSE: Final = "the peer closed it"
"""How the error of a connection ends that was not reset."""

_MAX_BATCH_BYTES: Final = 64 * 1024
# Signing 64 envelopes takes about 1 ms: the loop is not held longer at once.
_MAX_BATCH_MESSAGES: Final = 64
_STABLE_AFTER: Final = 5.0


class Peer:
    """The queue to one DID."""

    __slots__ = (
        "did",
        "dropped",
        "failures",
        "is_ready",
        "lanes",
        "outbound",
        "room",
        "route",
    )

    def __init__(self, did: Did, limit: int, reserve: int) -> None:
        self.did = did
        self.lanes: Lanes[OutgoingMessage] = Lanes(limit, reserve)
        self.outbound: Outbound | None = None
        self.route: tuple[int, Address | None] = -1, None
        """The version of the routing table, and what it said. One value: threads share it."""
        self.room: asyncio.Future[None] | None = None
        """Resolved when a full queue has room again; shared by all who wait for it."""
        self.failures = 0
        """Attempts to reach the peer that failed, ever."""
        self.is_ready = False
        """Whether the core has been told that messages wait."""
        self.dropped: Counter[Reason] = Counter()


class OutboundLink(asyncio.Protocol):
    """One connection that we dialed. It only writes; whatever can be read ends it."""

    def __init__(self, owner: Outbound, carrier: Carrier) -> None:
        self._owner = owner
        self._carrier = carrier
        self._transport: asyncio.Transport | None = None
        self._offset = 0  # bytes given to the transport
        self._taken = 0  # bytes that the kernel has taken of them
        self._is_paused = False
        self._cause = ""
        self.is_lost = False
        # What the operating system has not taken whole, and what the peer's host
        # has not acknowledged yet: each with the offset at which it ends.
        self._unwritten: deque[tuple[int, OutgoingMessage]] = deque()
        self._unacknowledged: deque[tuple[int, OutgoingMessage]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance(): uvloop's transports are of no asyncio class.
        self._transport = transport = cast(asyncio.Transport, transport)
        # Zero: any byte that the kernel leaves to us pauses the writing.
        transport.set_write_buffer_limits(high=0)

    @property
    def can_write(self) -> bool:
        """Whether the operating system has taken everything so far."""
        return not self._is_paused and self._transport is not None

    @property
    def has_written(self) -> bool:
        """Whether the connection was of any use."""
        return self._offset > 0

    @property
    def is_drained(self) -> bool:
        """Whether nothing that was written could still be lost by closing."""
        self._settle()
        return not self._unwritten and not self._unacknowledged

    @property
    def round_trip(self) -> float | None:
        """Seconds, where the kernel knows."""
        return None if self._transport is None else self._carrier.round_trip(self._transport)

    def peer_has_closed(self) -> bool:
        """Ask the kernel now, since the event loop may not have heard of it yet."""
        assert self._transport is not None
        return self._transport.is_closing() or self._carrier.peer_has_closed(self._transport)

    def write(self, batch: list[tuple[bytes, OutgoingMessage]]) -> int:
        """Write frames; returns their bytes. `on_written` follows, when they are taken."""
        assert self._transport is not None
        offset = self._offset
        for frame, message in batch:
            offset += len(frame)
            self._unwritten.append((offset, message))
        self._offset = offset
        data = b"".join([frame for frame, _ in batch])
        self._transport.write(data)
        self._settle()
        return len(data)

    def _settle(self) -> None:
        """Move messages on that the kernel, and then the peer's host, has taken."""
        assert self._transport is not None
        if not self._transport.is_closing():  # a broken one has thrown its buffer away
            self._taken = self._offset - self._transport.get_write_buffer_size()
        taken = self._taken
        unwritten, unacknowledged = self._unwritten, self._unacknowledged
        written: list[OutgoingMessage] = []
        while unwritten and unwritten[0][0] <= taken:
            entry = unwritten.popleft()
            written.append(entry[1])
            unacknowledged.append(entry)
        # Where the kernel does not tell, taken has to pass for acknowledged.
        acknowledged = taken - (self._carrier.unacknowledged_bytes(self._transport) or 0)
        while unacknowledged and unacknowledged[0][0] <= acknowledged:
            unacknowledged.popleft()
        if written:
            self._owner.on_written(written)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._settle()
        self._owner.pump()

    def data_received(self, data: bytes) -> None:
        # No v1 peer writes on this direction: not a peer of ours.
        self._cause = "the peer wrote bytes, which no v1 peer does"
        self.abort()

    def eof_received(self) -> bool:
        # Gone. Closing would wait until it has taken what is buffered, perhaps for ever.
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._settle()
        lost = [message for _, message in (*self._unacknowledged, *self._unwritten)]
        self._unacknowledged.clear()
        self._unwritten.clear()
        cause = self._cause
        if not cause:
            cause = describe_os_error(exc) if isinstance(exc, OSError) else ORDERLY_CLOSE
        self._owner.on_lost(self, lost, cause)

    def close(self) -> list[OutgoingMessage]:
        """Close without waiting; returns the messages that so never left.

        What the kernel has, it delivers by itself. What it has not taken would
        keep the socket open for as long as the peer likes, so it is given up.
        """
        assert self._transport is not None
        self._settle()
        lost = [message for _, message in self._unwritten]
        self._unwritten.clear()
        self._unacknowledged.clear()
        if lost:
            self._transport.abort()
        else:
            self._transport.close()
        return lost

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class Outbound:
    """The connection to one address and all peers that are reached there."""

    def __init__(self, core: Core, address: Address) -> None:
        self._core = core
        self.address = address
        self.state = PeerState.IDLE
        self.since = time.time()
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        self.retry_at: float | None = None
        self._ready: deque[Peer] = deque()  # peers with messages, each once
        self._link: OutboundLink | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._place: asyncio.Future[None] | None = None
        self._pump_handle: asyncio.Handle | None = None
        self._connected_at = 0.0
        self._was_connected = False
        self._next_dial_at = 0.0
        self._delays = self._new_delays()

    # -- what the core calls ------------------------------------------------

    def add(self, peer: Peer) -> None:
        """Messages wait for `peer`."""
        if peer not in self._ready:
            self._ready.append(peer)
        self.pump()

    def remove(self, peer: Peer) -> None:
        """The peer is reached elsewhere now."""
        if peer in self._ready:
            self._ready.remove(peer)

    @property
    def is_idle(self) -> bool:
        """Whether the connection could be closed without losing or delaying anything."""
        return self._link is not None and not self._ready and self._link.is_drained

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits and nothing is in the air."""
        return not self._ready and (self._link is None or self._link.is_drained)

    @property
    def round_trip(self) -> float | None:
        """Seconds, while connected and where the kernel knows."""
        return None if self._link is None else self._link.round_trip

    def grant_place(self) -> None:
        """The pool has a place for this connection."""
        if self._place is not None and not self._place.done():
            self._place.set_result(None)

    def evict(self) -> None:
        """The place went to another; the next message connects again."""
        link, self._link = self._link, None
        assert link is not None
        link.close()
        self._set_state(PeerState.IDLE)

    async def close(self) -> None:
        """Stop and close. Cancels what is being done; messages stay in their queues."""
        if self._pump_handle is not None:
            self._pump_handle.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            for message in link.close():
                self._core.give_up(message, Reason.CLOSED)
        self._set_state(PeerState.CLOSED)

    # -- writing ------------------------------------------------------------

    def pump(self) -> None:
        """Write one batch, or see to it that there will be a connection."""
        self._pump_handle = None
        if not self._ready or self.state is PeerState.CLOSED:
            return
        link = self._link
        if link is None:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            return
        if not link.can_write:
            return
        if link.peer_has_closed():
            # The loop will tell us with connection_lost(); nothing is written before.
            return
        batch = self._next_batch()
        if batch:
            self._core.pool.touch(self)
            self._core.counters.bytes_sent += link.write(batch)
        if self._ready:
            self._pump_soon()
        elif self._core.pool.has_queue:
            self._core.offer_place(self)

    def _pump_soon(self) -> None:
        if self._pump_handle is None:
            self._pump_handle = asyncio.get_running_loop().call_soon(self.pump)

    def _next_batch(self) -> list[tuple[bytes, OutgoingMessage]]:
        """Take and sign messages, the peers of this address in turn."""
        batch: list[tuple[bytes, OutgoingMessage]] = []
        size = 0
        ready = self._ready
        while ready and size < _MAX_BATCH_BYTES and len(batch) < _MAX_BATCH_MESSAGES:
            peer = ready[0]
            message = peer.lanes.take()
            if message is None:
                ready.popleft()
                continue
            if message.receipt.is_final or self._core.expire_if_due(message):
                continue
            frame = encode_frame(message.seal().encode())
            batch.append((frame, message))
            size += len(frame)
        ready.rotate(-1)
        return batch

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        """The link has handed these to the operating system."""
        counters = self._core.counters
        counters.messages_sent += len(messages)
        now = unix_time_us()
        for message in messages:
            message.receipt.advance(DeliveryState.WRITTEN, at_us=now)

    # -- connecting ---------------------------------------------------------

    async def _connect(self) -> None:
        """Dial until connected, or until no message is left that wants it."""
        try:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._next_dial_at:
                self._delays = self._new_delays()
            while self._has_messages():
                pause = self._next_dial_at - loop.time()
                if pause > 0:
                    self.retry_at = time.time() + pause
                    self._set_state(PeerState.BACKING_OFF)
                    await asyncio.sleep(pause)
                    self.retry_at = None
                    continue  # what waited may have expired meanwhile
                self._set_state(PeerState.DIALING)
                if await self._dial():
                    return
            self._set_state(PeerState.IDLE)
        finally:
            self.retry_at = None
            self._connecting = None

    async def _dial(self) -> bool:
        self._place = asyncio.get_running_loop().create_future()
        link = OutboundLink(self, self._core.carrier)
        try:
            self._core.apply_for_place(self)
            await self._place
            timeout = self._core.config.connect_timeout
            try:
                async with asyncio.timeout(timeout):
                    await self._core.carrier.dial(self.address, link)
                    if link.is_lost:
                        raise DialError(self.address, "the peer closed the connection at once")
            except TimeoutError:
                raise ConnectTimeout(self.address, f"no answer within {timeout:g} s") from None
        except DialError as error:
            self._core.leave_pool(self)
            self._core.counters.dial_failures += 1
            self._fail_attempt(str(error))
            return False
        except Exception as error:
            # A fault of a carrier, or ours: told, counted as an attempt, and not the
            # end of dialing, which would leave messages waiting for ever.
            link.abort()
            self._core.log.exception("dialing %s failed in a way that it must not", self.address)
            self._core.leave_pool(self)
            self._core.counters.dial_failures += 1
            self._fail_attempt(f"cannot connect to {self.address}: {error!r}")
            return False
        except BaseException:
            link.abort()
            self._core.leave_pool(self)
            raise
        finally:
            self._place = None
        self._on_connected(link)
        return True

    def _on_connected(self, link: OutboundLink) -> None:
        self._link = link
        self._connected_at = asyncio.get_running_loop().time()
        if self._was_connected:
            self._core.counters.reconnections += 1
        self._was_connected = True
        self._set_state(PeerState.CONNECTED)
        self._core.log.debug("connected to %s", self.address)
        self._pump_soon()

    def on_lost(self, link: OutboundLink, lost: list[OutgoingMessage], cause: str) -> None:
        """A connection is gone; `lost` never reached the peer's host."""
        if link is not self._link:  # evicted or closed by us
            return
        self._link = None
        self._core.leave_pool(self)
        cause = f"connection to {self.address} ended: {cause}"
        self.note_error(cause)
        self._core.counters.rewritten += len(lost)
        self._core.put_back(lost)
        now = asyncio.get_running_loop().time()
        if now - self._connected_at >= _STABLE_AFTER:
            self._delays = self._new_delays()
            self._next_dial_at = now
        elif link.has_written:
            # Accepted and dropped at once: a connect alone is no recovery.
            self._next_dial_at = now + next(self._delays)
        else:
            # Dropped before it could be used: no better than a failed dial.
            self._fail_attempt(cause)
        self._set_state(PeerState.IDLE)
        self.pump()

    def _fail_attempt(self, cause: str) -> None:
        self.note_error(cause)
        self._next_dial_at = asyncio.get_running_loop().time() + next(self._delays)
        for peer in tuple(self._ready):
            peer.failures += 1
            self._core.give_up_exhausted(peer, cause)

    def note_error(self, cause: str) -> None:
        """Remember a failure for `PeerStatus`."""
        self.last_error = cause
        self.last_error_at = time.time()
        self._core.log.info("%s", cause)

    def _has_messages(self) -> bool:
        self._core.reroute(self._ready)
        while self._ready and not self._ready[0].lanes:
            self._ready.popleft()
        return bool(self._ready)

    def _set_state(self, state: PeerState) -> None:
        if state is not self.state:
            self.state = state
            self.since = time.time()

    def _new_delays(self) -> Iterator[float]:
        config = self._core.config
        return backoff_delays(
            config.retry_base_delay, config.retry_max_delay, config.retry_jitter, self._core.rng
        )
