"""Sending over v1: one connection for each address.

A `V1Sender` writes whenever its socket takes more, in batches, and stops at
the first byte that the operating system does not take at once, so that what
waits, waits in the peers' bounded queues and nowhere else.

Which messages a broken connection lost is a question that v1 cannot answer.
The kernel can, in part: bytes that the peer's host never acknowledged were not
received. Messages that reach into that tail are queued again, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from signedwire.delivery.message import OutgoingMessage
from signedwire.errors import Cause, DialError, FailureKind
from signedwire.transport.dialer import Dialer, DialerParts
from signedwire.transport.network import Stream
from signedwire.transport.tcp import describe_os_error
from signedwire.types import DeliveryState, Did, PeerState, Reason, Target, unix_time_us
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.frames import encode_frame

__all__ = ["V1Link", "V1Sender"]

_MAX_BATCH_BYTES: Final = 64 * 1024
# Signing 64 envelopes takes about 1 ms: the loop is not held longer at once.
_MAX_BATCH_MESSAGES: Final = 64
# Between two questions to the kernel, in seconds.
_SHORTEST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.08


class V1Link:
    """One connection that we dialed. It only writes; whatever can be read ends it."""

    def __init__(self, owner: V1Sender) -> None:
        self._owner = owner
        self._stream: Stream | None = None
        self._offset = 0  # bytes given to the transport
        self._taken = 0  # bytes that the kernel has taken of them
        self._is_paused = False
        self._cause: Cause | None = None
        self.is_lost = False
        self._watch: asyncio.TimerHandle | None = None
        self._pause = _SHORTEST_PAUSE
        # What the operating system has not taken whole, and what the peer's host
        # has not acknowledged yet: each with the offset at which it ends.
        self._unwritten: deque[tuple[int, OutgoingMessage]] = deque()
        self._unacknowledged: deque[tuple[int, OutgoingMessage]] = deque()

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self._stream = stream

    @property
    def can_write(self) -> bool:
        """Whether the operating system has taken everything so far."""
        return not self._is_paused and self._stream is not None

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
        return None if self._stream is None else self._stream.round_trip()

    def peer_has_closed(self) -> bool:
        """Ask the kernel now, since the event loop may not have heard of it yet."""
        assert self._stream is not None
        return self._stream.is_closing() or self._stream.peer_has_closed()

    def write(self, batch: list[tuple[bytes, OutgoingMessage]]) -> int:
        """Write frames; returns their bytes. `on_written` follows, when they are taken."""
        assert self._stream is not None
        offset = self._offset
        for frame, message in batch:
            offset += len(frame)
            self._unwritten.append((offset, message))
        self._offset = offset
        self._pause = _SHORTEST_PAUSE
        data = b"".join([frame for frame, _ in batch])
        self._stream.write(data)
        self._is_paused = self._stream.waiting() > 0
        self._settle()
        return len(data)

    def _settle(self) -> None:
        """Move messages on that the kernel, and then the peer's host, has taken."""
        assert self._stream is not None
        if not self._stream.is_closing():  # a broken one has thrown its buffer away
            self._taken = self._offset - self._stream.waiting()
        taken = self._taken
        unwritten, unacknowledged = self._unwritten, self._unacknowledged
        written: list[OutgoingMessage] = []
        while unwritten and unwritten[0][0] <= taken:
            entry = unwritten.popleft()
            written.append(entry[1])
            unacknowledged.append(entry)
        # Where the kernel does not tell, taken has to pass for acknowledged.
        acknowledged = taken - (self._stream.unacknowledged() or 0)
        done: list[OutgoingMessage] = []
        while unacknowledged and unacknowledged[0][0] <= acknowledged:
            done.append(unacknowledged.popleft()[1])
        if done:
            self._owner.on_acknowledged(done)
        if written:
            self._owner.on_written(written)
        if unacknowledged and self._watch is None and not self.is_lost:
            # The kernel reports no acknowledgement, so it is asked until all are there: a row
            # in the store, a dialer that waits for a slot and the end of the node wait for them.
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(self._pause, self._on_watch)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _on_watch(self) -> None:
        self._watch = None
        self._settle()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def writable(self) -> None:
        """See `Receiver`."""
        self._is_paused = False
        self._settle()
        self._owner.pump()

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        # No v1 peer writes on this direction: not a peer of ours.
        words = "the peer wrote bytes, which no v1 peer does"
        self._cause = Cause(words, FailureKind.PROTOCOL)
        self.abort()

    def ended(self) -> None:
        """See `Receiver`."""
        # Gone. Closing would wait until it has taken what is buffered, perhaps for ever.
        self.abort()

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        self.is_lost = True
        self._stop_watching()
        self._settle()
        lost = [message for _, message in (*self._unacknowledged, *self._unwritten)]
        self._unacknowledged.clear()
        self._unwritten.clear()
        cause = self._cause
        if cause is None and isinstance(error, OSError):
            cause = describe_os_error(error)
        cause = cause or Cause("the peer closed it", FailureKind.CLOSED)
        self._owner.on_lost(self, lost, cause)

    def close(self) -> list[OutgoingMessage]:
        """Close without waiting; returns the messages that so never left.

        What the kernel has, it delivers by itself. What it has not taken would
        keep the socket open for as long as the peer likes, so it is given up.
        """
        assert self._stream is not None
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
            self._stream.abort()
        else:
            self._stream.close()
        return lost

    def abort(self) -> None:
        """Close at once."""
        if self._stream is not None:
            self._stream.abort()


class V1Sender(Dialer):
    """The v1 connection to one address and all peers that are reached there."""

    def __init__(self, parts: DialerParts, address: Target) -> None:
        super().__init__(parts, address)
        self._link: V1Link | None = None
        self._pump_handle: asyncio.Handle | None = None

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
                self._give_up(message, Reason.CLOSED)

    def pump(self) -> None:
        """Write one batch, or see to it that there will be a connection."""
        self._pump_handle = None
        if not self._ready or self.state is PeerState.CLOSED:
            return
        link = self._link
        if link is None:
            self.connect()
            return
        # A closed peer is told of by lost(); nothing is written before.
        if not link.can_write or link.peer_has_closed():
            return
        batch = self._next_batch()
        if batch:
            self.touch()
            self._runtime.counters.bytes_sent += link.write(batch)
        if self._ready:
            self._pump_soon()
        else:
            self._endpoint.context.on_progress()

    def _pump_soon(self) -> None:
        if self._pump_handle is None:
            self._pump_handle = asyncio.get_running_loop().call_soon(self.pump)

    def _next_batch(self) -> list[tuple[bytes, OutgoingMessage]]:
        """Take and sign messages, the peers of this address in turn."""
        batch: list[tuple[bytes, OutgoingMessage]] = []
        size = 0
        ready = self._ready
        while ready and size < _MAX_BATCH_BYTES and len(batch) < _MAX_BATCH_MESSAGES:
            sender = ready[0].sender
            message = sender.lanes.take()
            if message is None:
                ready.popleft()
                continue
            if sender.is_dead(message) or self._is_too_large(message):
                continue
            sender.forget_deadlines((message,))
            frame = encode_frame(self._seal(message).encode())
            batch.append((frame, message))
            size += len(frame)
        ready.rotate(-1)
        return batch

    def _seal(self, message: OutgoingMessage) -> SignedEnvelope:
        # A transport of envelopes that others have signed has no key.
        return message.envelope or message.seal(self._runtime.identity)

    def _is_too_large(self, message: OutgoingMessage) -> bool:
        """Whether it was queued before its peer was known to speak only v1."""
        limit = self._runtime.config.max_v1_payload_size
        if message.payload_size <= limit:
            return False
        cause = f"the peer speaks v1, whose limit is {limit} bytes"
        self._give_up(message, Reason.TOO_LARGE, cause)
        return True

    def _give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        self._endpoint.peers.session(message.recipient).sender.give_up(message, reason, cause)

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        """The link has handed these to the operating system."""
        self._runtime.counters.messages_sent += len(messages)
        now = unix_time_us()
        for message in messages:
            message.is_unconfirmed = True
            message.transition(DeliveryState.WRITTEN, now)

    def on_acknowledged(self, messages: list[OutgoingMessage]) -> None:
        """The peer's host has these, which is all that one hears of a v1 peer."""
        for did, those in _by_recipient(messages).items():
            self._endpoint.context.store.settled(did, those)
        for message in messages:
            if not message.is_stored:  # else its row may be in a lane again, as this object
                message.release()
        self._endpoint.context.on_progress()

    async def _open(self) -> None:
        link = V1Link(self)
        try:
            await self._reach(link)
        except BaseException:
            link.abort()
            raise
        if link.is_lost:
            cause = Cause("the peer closed the connection at once", FailureKind.CLOSED)
            raise DialError(self.address, cause)
        self._link = link

    def _forget_wire(self) -> None:
        for session in self._users():
            self._endpoint.note_v1_over(session)

    def on_lost(self, link: V1Link, lost: list[OutgoingMessage], cause: Cause) -> None:
        """A connection is gone; `lost` never reached the peer's host."""
        if link is not self._link:  # evicted or closed by us
            return
        self._link = None
        self._forget_wire()
        for did, messages in _by_recipient(lost).items():
            self._endpoint.requeue(self._endpoint.peers.session(did), messages)
        self._on_lost(cause, was_used=link.has_written)
        for session in tuple(self._ready):
            self._endpoint.send_waiting(session)


def _by_recipient(messages: list[OutgoingMessage]) -> dict[Did, list[OutgoingMessage]]:
    by_recipient: dict[Did, list[OutgoingMessage]] = {}
    for message in messages:
        by_recipient.setdefault(message.recipient, []).append(message)
    return by_recipient
