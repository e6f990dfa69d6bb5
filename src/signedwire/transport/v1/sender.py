"""Sends over v1: one connection for each address.

A `V1Sender` writes in batches whenever its socket takes more. It stops at the first byte that the
operating system does not take at once. So messages wait in the bounded queues of their peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_session import PeerSession
from signedwire.errors import Cause, DialError, FailureKind
from signedwire.transport.dial_attempt import DialAttempt, DialerParts
from signedwire.transport.dialer import Dialer
from signedwire.transport.v1.connection import V1Connection
from signedwire.types import DeliveryState, Did, PeerState, Reason, Target, unix_time_us
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.frames import encode_frame

__all__ = ["V1Sender"]

_MAX_BATCH_BYTES: Final = 64 * 1024
_MAX_BATCH_MESSAGES: Final = 64
"""Signing 64 envelopes takes about 1 ms. The event loop is not held for longer at once."""


class V1Sender(Dialer):
    """Sends to all peers at one address over one v1 connection.

    Args:
        parts: The surroundings of all dialers.
        address: The address.
        on_unneeded: Called when the dialer has neither a peer, a connection nor a pause, and does
            not dial.
    """

    def __init__(
        self, parts: DialerParts, address: Target, on_unneeded: Callable[[Dialer], None]
    ) -> None:
        super().__init__(parts, address)
        self._on_unneeded = on_unneeded
        self._peers: set[PeerSession] = set()
        self._look_handle: asyncio.TimerHandle | None = None
        self._connection: V1Connection | None = None
        self._pump_handle: asyncio.Handle | None = None

    def add(self, session: PeerSession) -> None:
        """See `Dialer`."""
        self._peers.add(session)
        super().add(session)

    def remove(self, session: PeerSession) -> None:
        """See `Dialer`."""
        self._peers.discard(session)
        super().remove(session)
        self._look_if_needed()

    def _users(self) -> list[PeerSession]:
        return list(self._peers)

    def _on_dialed(self) -> None:
        super()._on_dialed()
        self._look_if_needed()

    def _look_if_needed(self) -> None:
        if self._peers or self._connecting is not None:
            return
        # A connection knows messages without an acknowledgement, until its end has been noted.
        if self.state in (PeerState.CONNECTED, PeerState.CLOSED):
            return
        loop = asyncio.get_running_loop()
        if self._look_handle is not None:
            self._look_handle.cancel()
        # A peer that hangs up on v1 and v2 in turn must not end the pause.
        if pause := self.history.pause(loop.time()):
            self._look_handle = loop.call_later(pause, self._look_if_needed)
        else:
            self._on_unneeded(self)

    @property
    def is_idle(self) -> bool:
        return self._connection is not None and not self._ready and self._connection.is_drained

    @property
    def is_settled(self) -> bool:
        return not self._ready and (self._connection is None or self._connection.is_drained)

    @property
    def round_trip(self) -> float | None:
        """See `Dialer`: as the kernel measures it."""
        return None if self._connection is None else self._connection.round_trip

    def evict(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        connection.close()
        self._forget_wire()
        self.set_state(PeerState.IDLE)
        self._look_if_needed()

    def _close_link(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            for message in connection.close():
                self._give_up(message, Reason.CLOSED)
        for handle in (self._pump_handle, self._look_handle):
            if handle is not None:
                handle.cancel()

    def pump(self) -> None:
        """Write one batch, or connect."""
        self._pump_handle = None
        if not self._ready or self.state is PeerState.CLOSED:
            return
        connection = self._connection
        if connection is None:
            self.connect()
            return
        # If the peer has closed the connection, `on_lost()` follows: nothing is written before.
        if not connection.can_write or connection.peer_has_closed():
            return
        batch = self._next_batch()
        if batch:
            self.touch()
            self._runtime.counters.bytes_sent += connection.write(batch)
        if self._ready:
            self._pump_soon()
        else:
            self._endpoint.context.on_progress()

    def _pump_soon(self) -> None:
        if self._pump_handle is None:
            self._pump_handle = asyncio.get_running_loop().call_soon(self.pump)

    def _next_batch(self) -> list[tuple[bytes, OutgoingMessage]]:
        """Take messages off the queues of the peers in turn, and sign them."""
        batch: list[tuple[bytes, OutgoingMessage]] = []
        size = 0
        ready, limit = self._ready, self._runtime.config.max_v1_payload_size
        while ready and size < _MAX_BATCH_BYTES and len(batch) < _MAX_BATCH_MESSAGES:
            sender = ready[0].sender
            is_denied = self._endpoint.access.denies(sender.did)  # the endpoint ends its queue
            message = None if is_denied else sender.lanes.take()
            if message is None:
                del ready[0]
                continue
            # Too large: it was queued before its peer turned out to speak v1.
            if sender.is_dead(message, limit):
                sender.end_soon(message, limit, f"the peer speaks v1, whose limit is {limit} bytes")
                continue
            message.was_written = True  # from here on, the peer may have it
            frame = encode_frame(self._seal(message).encode())
            batch.append((frame, message))
            size += len(frame)
        if ready:
            ready.append(ready.pop(0))
        return batch

    def _seal(self, message: OutgoingMessage) -> SignedEnvelope:
        # A transport that sends the envelopes of others has no key.
        return message.envelope or message.seal(
            self._runtime.identity, next(self._runtime.v1_sequence)
        )

    def _give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        self._endpoint.sessions.session(message.recipient).sender.give_up(message, reason, cause)

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        """See `ConnectionOwner`."""
        self._runtime.counters.messages_sent += len(messages)
        now = unix_time_us()
        for did, those in _by_recipient(messages).items():
            self._endpoint.sessions.session(did).sender.forget_deadlines(those)
        for message in messages:
            if not message.is_final:  # else it has expired in the buffer of the stream
                message.is_unconfirmed = True
                message.transition(DeliveryState.WRITTEN, now)

    def on_acknowledged(self, messages: list[OutgoingMessage]) -> None:
        """See `ConnectionOwner`. A v1 peer sends no other sign that it has a message."""
        for did, those in _by_recipient(messages).items():
            self._endpoint.context.store.settled(did, those)
        for message in messages:
            if not message.is_stored:  # or its row may be queued again, as this object
                message.release()
        self._endpoint.context.on_progress()

    async def _open(self, attempt: DialAttempt) -> None:
        connection = V1Connection(self)
        try:
            await attempt.reach(connection)
        except BaseException:
            if not attempt.is_abandoned:
                connection.abort()
            raise
        if connection.is_lost:
            cause = Cause("the peer closed the connection at once", FailureKind.CLOSED)
            raise DialError(self.address, cause)
        self._connection = connection

    def _forget_wire(self) -> None:
        for session in self._users():
            self._endpoint.note_v1_over(session)

    def on_lost(self, connection: V1Connection, lost: list[OutgoingMessage], cause: Cause) -> None:
        """See `ConnectionOwner`."""
        if connection is not self._connection:  # this side has closed it
            return
        self._connection = None
        self._forget_wire()
        for did, messages in _by_recipient(lost).items():
            self._endpoint.requeue(self._endpoint.sessions.session(did), messages)
        self._on_lost(cause, was_used=connection.has_written)
        for session in tuple(self._ready):
            self._endpoint.send_waiting(session)
        self._look_if_needed()


def _by_recipient(messages: list[OutgoingMessage]) -> dict[Did, list[OutgoingMessage]]:
    by_recipient: dict[Did, list[OutgoingMessage]] = {}
    for message in messages:
        by_recipient.setdefault(message.recipient, []).append(message)
    return by_recipient
