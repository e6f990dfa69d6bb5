"""Sending over v1: one connection for each address.

An `Outbound` writes whenever its socket takes more, in batches, and stops at
the first byte that the operating system does not take at once, so that what
waits, waits in the peers' bounded queues and nowhere else.

Which messages a broken connection lost is a question that v1 cannot answer.
The kernel can, in part: bytes that the peer's host never acknowledged were not
received. Messages that reach into that tail are queued again, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from signedwire.delivery.message import OutgoingMessage
from signedwire.errors import Cause, DialError, FailureKind
from signedwire.transport.carrier import Carrier
from signedwire.transport.dialer import Dialer
from signedwire.transport.tcp import describe_os_error
from signedwire.types import Address, DeliveryState, Did, PeerState, Reason, unix_time_us
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.frames import encode_frame

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["Outbound", "OutboundLink"]

_MAX_BATCH_BYTES: Final = 64 * 1024
# Signing 64 envelopes takes about 1 ms: the loop is not held longer at once.
_MAX_BATCH_MESSAGES: Final = 64
_WATCH_INTERVAL: Final = 0.05


class OutboundLink(asyncio.Protocol):
    """One connection that we dialed. It only writes; whatever can be read ends it."""

    def __init__(self, owner: Outbound, carrier: Carrier) -> None:
        self._owner = owner
        self._carrier = carrier
        self._transport: asyncio.Transport | None = None
        self._offset = 0  # bytes given to the transport
        self._taken = 0  # bytes that the kernel has taken of them
        self._is_paused = False
        self._cause: Cause | None = None
        self.is_lost = False
        self._watch: asyncio.TimerHandle | None = None
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
        done: list[OutgoingMessage] = []
        while unacknowledged and unacknowledged[0][0] <= acknowledged:
            done.append(unacknowledged.popleft()[1])
        if done:
            self._owner.on_acknowledged(done)
        if written:
            self._owner.on_written(written)
        if unacknowledged and self._watch is None and self._owner.has_store and not self.is_lost:
            # Or their rows would stay until the next message, and a crash send them again.
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(_WATCH_INTERVAL, self._on_watch)

    def _on_watch(self) -> None:
        self._watch = None
        self._settle()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._settle()
        self._owner.pump()

    def data_received(self, data: bytes) -> None:
        # No v1 peer writes on this direction: not a peer of ours.
        words = "the peer wrote bytes, which no v1 peer does"
        self._cause = Cause(words, FailureKind.PROTOCOL)
        self.abort()

    def eof_received(self) -> bool:
        # Gone. Closing would wait until it has taken what is buffered, perhaps for ever.
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._stop_watching()
        self._settle()
        lost = [message for _, message in (*self._unacknowledged, *self._unwritten)]
        self._unacknowledged.clear()
        self._unwritten.clear()
        cause = self._cause
        if cause is None and isinstance(exc, OSError):
            cause = describe_os_error(exc)
        cause = cause or Cause("the peer closed it", FailureKind.CLOSED)
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
        # What is not acknowledged may be lost with it: where there is a store its row stays.
        for _, message in self._unacknowledged:
            if not message.is_stored:
                message.release()
        self._unacknowledged.clear()
        self._stop_watching()
        if lost:
            self._transport.abort()
        else:
            self._transport.close()
        return lost

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class Outbound(Dialer):
    """The v1 connection to one address and all peers that are reached there."""

    def __init__(self, core: Core, address: Address) -> None:
        super().__init__(core, address)
        self._link: OutboundLink | None = None
        self._pump_handle: asyncio.Handle | None = None

    @property
    def has_store(self) -> bool:
        """Whether messages have rows, which go when the peer's host has acknowledged them."""
        return self._core.outbox is not None

    @property
    def is_idle(self) -> bool:
        return self._link is not None and not self._ready and self._link.is_drained

    @property
    def is_settled(self) -> bool:
        return not self._ready and (self._link is None or self._link.is_drained)

    @property
    def round_trip(self) -> float | None:
        """Seconds, while connected and where the kernel knows."""
        return None if self._link is None else self._link.round_trip

    def evict(self) -> None:
        link, self._link = self._link, None
        assert link is not None
        link.close()
        self._forget_wire()
        self.set_state(PeerState.IDLE)

    def _close_link(self) -> None:
        if self._pump_handle is not None:
            self._pump_handle.cancel()
        link, self._link = self._link, None
        if link is not None:
            for message in link.close():
                self._core.outgoing.give_up(message, Reason.CLOSED)

    def pump(self) -> None:
        """Write one batch, or see to it that there will be a connection."""
        self._pump_handle = None
        if not self._ready or self.state is PeerState.CLOSED:
            return
        link = self._link
        if link is None:
            self.connect()
            return
        # A closed peer is told of by connection_lost(); nothing is written before.
        if not link.can_write or link.peer_has_closed():
            return
        batch = self._next_batch()
        if batch:
            self._core.outgoing.disarm_expiries(message for _, message in batch)
            self._core.outgoing.places.touch(self)
            self._core.counters.bytes_sent += link.write(batch)
        if self._ready:
            self._pump_soon()
        else:
            self._core.outgoing.places.look()

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
            if self._core.outgoing.is_dead(message) or self._is_too_large(message):
                continue
            frame = encode_frame(self._seal(message).encode())
            batch.append((frame, message))
            size += len(frame)
        ready.rotate(-1)
        return batch

    def _seal(self, message: OutgoingMessage) -> SignedEnvelope:
        # A transport of envelopes that others have signed has no key.
        return message.envelope or message.seal(self._core.identity)

    def _is_too_large(self, message: OutgoingMessage) -> bool:
        """Whether it was queued before its peer was known to speak only v1."""
        limit = self._core.config.max_v1_payload_size
        if message.payload_size <= limit:
            return False
        cause = f"the peer speaks v1, whose limit is {limit} bytes"
        self._core.outgoing.give_up(message, Reason.TOO_LARGE, cause)
        return True

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        """The link has handed these to the operating system."""
        self._core.counters.messages_sent += len(messages)
        now = unix_time_us()
        for message in messages:
            message.is_unconfirmed = True
            message.climb(DeliveryState.WRITTEN, now)

    def on_acknowledged(self, messages: list[OutgoingMessage]) -> None:
        """The peer's host has these, which is all that one hears of a v1 peer."""
        outbox = self._core.outbox
        if outbox is not None:
            by_peer: dict[Did, list[OutgoingMessage]] = {}
            for message in messages:
                by_peer.setdefault(message.recipient, []).append(message)
            for did, those in by_peer.items():
                outbox.settled(did, those)
        for message in messages:
            if not message.is_stored:  # else its row may be in a lane again, as this object
                message.release()

    async def _open(self) -> None:
        link = OutboundLink(self, self._core.carrier)
        try:
            await self._dial_carrier(link)
        except BaseException:
            link.abort()
            raise
        if link.is_lost:
            cause = Cause("the peer closed the connection at once", FailureKind.CLOSED)
            raise DialError(self.address, cause)
        self._link = link

    def _forget_wire(self) -> None:
        for peer in self._core.outgoing.peers_of(self):
            self._core.links.on_v1_over(peer)

    def on_lost(self, link: OutboundLink, lost: list[OutgoingMessage], cause: Cause) -> None:
        """A connection is gone; `lost` never reached the peer's host."""
        if link is not self._link:  # evicted or closed by us
            return
        self._link = None
        self._forget_wire()
        outgoing = self._core.outgoing
        outgoing.put_back(lost)
        self._on_lost(cause, was_used=link.has_written)
        for peer in tuple(self._ready):
            outgoing.assign(peer)
