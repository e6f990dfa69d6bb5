"""`Node`: send signed messages to a key and receive them, in asyncio.

async with Node(identity, config, routing) as node:
    receipt = await node.send(did, b"hello")
    async for message in node.messages():
        ...
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, overload

from signedwire.config import TransportConfig
from signedwire.delivery.message import Message, OutgoingMessage
from signedwire.delivery.receipt import Receipt, future_waker
from signedwire.errors import BackpressureError, ClosedError
from signedwire.identity import Identity
from signedwire.routing import RoutingTable
from signedwire.stats import PeerStatus, PoolStats, TransportStats
from signedwire.transport.carrier import Carrier
from signedwire.transport.core import Core
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.tcp import TcpCarrier
from signedwire.types import Address, DeliveryState, Did, PayloadType, Priority, Reason

__all__ = ["Deadline", "Node"]

Deadline = float | timedelta | datetime | None
"""Seconds from now, or a `timedelta`, or an instant with a time zone; `None`: no deadline."""

_LEVELS = (DeliveryState.QUEUED, DeliveryState.WRITTEN)
# Where nodes of the memory carrier meet that were given no network of their own.
_default_network = MemoryNetwork()


class Node:
    """A key that sends and receives. Use it as an async context manager.

    It belongs to the event loop in which it was entered; `signedwire.sync.Node`
    is its blocking twin for everything else.

    Args:
        identity: The key. What is sent is signed with it, and only what is
            addressed to its DID is received.
        config: By default `TransportConfig()`: a free port on loopback,
            signatures required.
        routing: Which DID is reached where; a table of its own by default. It may be
            shared between nodes and changed at any time.
        network: For tests, where the memory carrier's nodes meet.
    """

    def __init__(
        self,
        identity: Identity,
        config: TransportConfig | None = None,
        routing: RoutingTable | None = None,
        *,
        network: MemoryNetwork | None = None,
    ) -> None:
        self._identity = identity
        self._config = config or TransportConfig()
        # Not `or`: a table that is still empty is a table.
        self._routing = RoutingTable() if routing is None else routing
        carrier: Carrier
        if self._config.carrier == "memory" or network is not None:
            carrier = network or _default_network
        else:
            carrier = TcpCarrier()
        self._core = Core(self._config, self._routing, carrier, identity.did)
        self._sequence = itertools.count(1)
        self._has_started = False

    # -- life -------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and be ready. `async with` does it.

        Raises:
            ListenError: the address to listen on cannot be had.
            ClosedError: it was started before; a node lives once.
        """
        if self._has_started:
            raise ClosedError("this node was started before", "Make a new Node; it lives once")
        self._has_started = True
        await self._core.start()

    async def close(self) -> None:
        """Give queued messages `close_timeout` to leave, then end everything.

        What could not leave fails with reason "closed". Returns within
        `close_timeout`, plus some milliseconds, whatever a peer does; no task,
        thread or socket is left. Safe to call twice.
        """
        await self._core.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- who and where ------------------------------------------------------------

    @property
    def did(self) -> Did:
        """Our DID: what peers send to."""
        return self._identity.did

    @property
    def address(self) -> Address | None:
        """Where we listen, with the real port; `None` before the start or without a listener."""
        return self._core.address

    @property
    def routing(self) -> RoutingTable:
        """Which DID is reached where. Change it at any time."""
        return self._routing

    @property
    def config(self) -> TransportConfig:
        """The configuration."""
        return self._config

    # -- sending ------------------------------------------------------------------

    async def send(
        self,
        to: Did | str,
        payload: bytes,
        *,
        priority: Priority = Priority.NORMAL,
        payload_type: PayloadType = PayloadType.RAW,
        deadline: Deadline = None,
        until: DeliveryState | str = DeliveryState.WRITTEN,
    ) -> Receipt:
        """Sign a message, send it, and return when it has come as far as `until`.

        "queued" returns at once where the queue has room; "written", the default,
        when the operating system has it on a connection that the peer had not
        closed. v1 peers never answer, so no more can be known of them. Waits for
        room where the queue to the peer is full.

        Cancelling stops the waiting; a message that was queued is still sent.

        Args:
            to: A `Did`, or the text of one.
            payload: At most `max_v1_payload_size` bytes.
            deadline: A message that cannot be written before it never will be.

        Raises:
            UnknownPeerError, NotAllowedError, PayloadTooLargeError: it was not queued.
            MessageExpiredError: the deadline passed first.
            DeliveryFailedError: it was given up; `.reason` says why, `.receipt` has the story.
            ClosedError: the node is closed.
        """
        if until not in _LEVELS:
            raise ValueError(f"until {until!r} is unknown; known are {', '.join(_LEVELS)}")
        message = self._message(to, payload, priority, payload_type, deadline)
        while True:
            try:
                self._core.submit(message, message.payload_size, is_patient=True)
                break
            except BackpressureError:
                await self._wait_for_room(message)
        if until != DeliveryState.QUEUED:
            await message.receipt.wait(DeliveryState(until))
        return message.receipt

    def send_nowait(
        self,
        to: Did | str,
        payload: bytes,
        *,
        priority: Priority = Priority.NORMAL,
        payload_type: PayloadType = PayloadType.RAW,
        deadline: Deadline = None,
    ) -> Receipt:
        """Queue a message and return at once; `await receipt.wait()` to learn its fate.

        Raises:
            BackpressureError: the queue to the peer is full; and what `send()` raises
                for a message that was not queued.
        """
        message = self._message(to, payload, priority, payload_type, deadline)
        self._core.submit(message, message.payload_size)
        return message.receipt

    def _message(
        self,
        to: Did | str,
        payload: bytes,
        priority: Priority,
        payload_type: PayloadType,
        deadline: Deadline,
    ) -> OutgoingMessage:
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"a payload is bytes, not {type(payload).__name__}; encode text with .encode()"
            )
        did = Did.parse(to) if isinstance(to, str) else to
        return OutgoingMessage(
            Receipt(did, next(self._sequence)),
            priority if type(priority) is Priority else Priority(priority),
            None if deadline is None else _expires_at(deadline),
            identity=self._identity,
            payload=bytes(payload),
            payload_type=payload_type
            if type(payload_type) is PayloadType
            else PayloadType(payload_type),
        )

    async def _wait_for_room(self, message: OutgoingMessage) -> None:
        """Until the queue has room; the deadline goes on meanwhile."""
        receipt = message.receipt
        left = None if message.expires_at is None else message.expires_at - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await self._core.room(receipt.recipient, message.priority)
        except TimeoutError:
            self._core.give_up(message, Reason.EXPIRED, "the queue to the peer was full")
            receipt.raise_if_failed()

    # -- receiving ----------------------------------------------------------------

    @overload
    async def receive(self, timeout: None = None) -> Message: ...

    @overload
    async def receive(self, timeout: float) -> Message | None: ...

    async def receive(self, timeout: float | None = None) -> Message | None:
        """The next message: of the highest priority, the oldest first.

        With a `timeout` in seconds, `None` when it passes; 0 takes what is there.
        Cancelling loses no message.

        Raises:
            ClosedError: the node is closed, or was while waiting.
        """
        inbox = self._core.inbox
        message = inbox.take()
        if message is not None:
            return message
        if timeout is not None and timeout <= 0:
            self._check_open()
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._check_open()
                    arrived = loop.create_future()
                    wake = future_waker(loop, arrived)
                    if inbox.when_filled(wake):
                        try:
                            await arrived
                        finally:
                            inbox.forget(wake)
                    message = inbox.take()
                    if message is not None:
                        return message
        except TimeoutError:
            return None

    async def messages(self) -> AsyncIterator[Message]:
        """Every message as it comes, until the node is closed."""
        while True:
            try:
                message = await self.receive()
            except ClosedError:
                return
            yield message

    def _check_open(self) -> None:
        if not self._core.is_open:
            raise ClosedError(
                "this node is not open", "Use it inside `async with`, before it is closed"
            )

    # -- what is going on -------------------------------------------------------------

    def stats(self) -> TransportStats:
        """The counters now."""
        return self._core.stats()

    def pool_stats(self) -> PoolStats:
        """Outbound connections now."""
        return self._core.pool_stats()

    def peers(self) -> dict[Did, PeerStatus]:
        """The health of every peer that was sent to."""
        return self._core.peer_status()

    def __repr__(self) -> str:
        if self._core.is_open:
            where = f"listening on {self.address}" if self.address else "not listening"
        else:
            where = "closed" if self._has_started else "not started"
        return f"<Node {self.did.short} {where}>"


def _expires_at(deadline: float | timedelta | datetime) -> float:
    """The instant by `time.monotonic()`; an instant of the clock is compared with it once."""
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise ValueError(
                f"deadline {deadline.isoformat()} has no time zone; use datetime.now(timezone.utc)"
            )
        return time.monotonic() + deadline.timestamp() - time.time()
    seconds = deadline.total_seconds() if isinstance(deadline, timedelta) else float(deadline)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"deadline {deadline!r} is not a positive number of seconds")
    return time.monotonic() + seconds
