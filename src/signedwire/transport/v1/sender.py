"""The dialer of a v1 peer: one connection for each address.

A `V1Sender` writes batches as long as the operating system takes all bytes at once. So messages
wait in the bounded queues of the peers and nowhere else.
"""

from __future__ import annotations

import asyncio
from typing import Final

from signedwire.delivery.message import OutgoingMessage
from signedwire.errors import Cause, DialError, FailureKind
from signedwire.transport.dialer import Dialer, DialerParts
from signedwire.transport.v1.link import V1Link
from signedwire.types import DeliveryState, Did, PeerState, Reason, Target, unix_time_us
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.frames import encode_frame

__all__ = ["V1Sender"]

_MAX_BATCH_BYTES: Final = 64 * 1024
# Signing 64 envelopes takes about 1 ms: the loop is not held longer at once.
_MAX_BATCH_MESSAGES: Final = 64


class V1Sender(Dialer):
    """Dials one address over v1, for all peers that are reached there."""

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
        """Seconds, as the kernel measures them; `None`: not connected, or not measured."""
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
        """Write one batch, or connect."""
        self._pump_handle = None
        if not self._ready or self.state is PeerState.CLOSED:
            return
        link = self._link
        if link is None:
            self.connect()
            return
        # `lost()` follows if the peer has closed the connection; nothing is written before.
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
        """Take messages from the queues and sign them. The peers of this address take turns."""
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
        # A transport without a key sends envelopes that its users have signed.
        return message.envelope or message.seal(self._runtime.identity)

    def _is_too_large(self, message: OutgoingMessage) -> bool:
        """Give up a message over the v1 limit, which was queued before the wire was known."""
        limit = self._runtime.config.max_v1_payload_size
        if message.payload_size <= limit:
            return False
        cause = f"the peer speaks v1, whose limit is {limit} bytes"
        self._give_up(message, Reason.TOO_LARGE, cause)
        return True

    def _give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        self._endpoint.peers.session(message.recipient).sender.give_up(message, reason, cause)

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        """Note that the operating system has taken these messages."""
        self._runtime.counters.messages_sent += len(messages)
        now = unix_time_us()
        for message in messages:
            message.is_unconfirmed = True
            message.transition(DeliveryState.WRITTEN, now)

    def on_acknowledged(self, messages: list[OutgoingMessage]) -> None:
        """Note that the peer's host has acknowledged these messages. A v1 peer sends no receipt."""
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
        """Queue the messages in `lost`, which did not reach the peer's host, and dial again."""
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
