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
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime, timedelta
from enum import Enum
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar, overload

from signedwire.config import TransportConfig
from signedwire.delivery.message import Message, OutgoingMessage
from signedwire.delivery.receipt import Receipt, future_waker
from signedwire.errors import BackpressureError, ClosedError
from signedwire.events import Event
from signedwire.identity import Identity
from signedwire.routing import RoutingTable
from signedwire.stats import PeerStatus, PoolStats, TransportStats
from signedwire.transport.access import AccessList
from signedwire.transport.carrier import Carrier
from signedwire.transport.core import Core
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.tcp import TcpCarrier
from signedwire.types import (
    Address,
    DeliveryState,
    Did,
    PayloadType,
    Priority,
    Reason,
    unix_time_us,
)

__all__ = ["Deadline", "Node"]

Deadline = float | timedelta | datetime | None
"""Seconds from now, or a `timedelta`, or an instant with a time zone; `None`: no deadline."""

E = TypeVar("E", bound=Enum)
_LEVELS: dict[str, DeliveryState] = {
    level.value: level
    for level in (
        DeliveryState.QUEUED,
        DeliveryState.WRITTEN,
        DeliveryState.ACCEPTED,
        DeliveryState.HANDLED,
    )
}
# How many messages of `send_many()`, and how many bytes, are made at a time.
_CHUNK = 256
_CHUNK_BYTES = 1024 * 1024
_MAX_DEADLINE = 1_000_000_000
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
        if not isinstance(identity, Identity):
            raise TypeError(
                f"identity is an Identity, not {type(identity).__name__}: "
                "Identity.load(path), or Identity.generate()"
            )
        self._identity = identity
        self._config = config or TransportConfig()
        # Not `or`: a table that is still empty is a table.
        self._routing = RoutingTable() if routing is None else routing
        carrier: Carrier
        if self._config.carrier == "memory" or network is not None:
            carrier = network or _default_network
        else:
            carrier = TcpCarrier()
        self._core = Core(self._config, self._routing, carrier, identity.did, identity)
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
        return self._core.incoming.address

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
        until: DeliveryState | str = DeliveryState.ACCEPTED,
    ) -> Receipt:
        """Sign a message, send it, and return when it has come as far as `until`.

        "accepted", the default: the peer has verified it, will give it to its
        application once, and has signed for it. "handled": its application has said
        `message.done()`. "written": the operating system has it. "queued": at once,
        where the queue has room; else this waits for room.

        v1 peers never answer. Towards them this returns when the message is
        written, and `receipt.is_confirmed` is false.

        Cancelling stops the waiting; a message that was queued is still sent.

        Args:
            to: A `Did`, or the text of one.
            payload: At most `max_payload_size` bytes, `max_v1_payload_size` to a v1 peer.
            deadline: After it, the message is neither written nor given to the peer's
                application, and this raises.

        Raises:
            UnknownPeerError, NotAllowedError, PayloadTooLargeError: it was not queued.
            MessageExpiredError: the deadline passed first.
            MessageRefusedError: the peer will not take it; `.reason` says why.
            DeliveryFailedError: it was given up; `.reason` says why, `.receipt` has the story.
            ClosedError: the node is closed.
        """
        level = _level(until)
        did = Did.parse(to) if isinstance(to, str) else to
        (message,) = self._messages(did, (payload,), priority, payload_type, deadline)
        while True:
            try:
                self._core.outgoing.submit(message, message.payload_size, is_patient=True)
                break
            except BackpressureError:
                await self._wait_for_room(message)
        if level is not DeliveryState.QUEUED:
            await message.receipt.wait(level)
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
        did = Did.parse(to) if isinstance(to, str) else to
        (message,) = self._messages(did, (payload,), priority, payload_type, deadline)
        self._core.outgoing.submit(message, message.payload_size)
        return message.receipt

    async def send_many(
        self,
        to: Did | str,
        payloads: Iterable[bytes],
        *,
        priority: Priority = Priority.NORMAL,
        payload_type: PayloadType = PayloadType.RAW,
        deadline: Deadline = None,
        until: DeliveryState | str = DeliveryState.ACCEPTED,
    ) -> list[Receipt]:
        """Send many messages to one peer; return when all have come as far as `until`.

        Cheaper than as many `send()`: the receipts are followed as far as `until`
        and no further.

        Waits for room in the queue as it goes. Cancelling stops it between two
        messages; what was queued is still sent.

        Raises:
            What `send()` does, for the first message that fails; those before it and
            those that were queued after it go on.
        """
        level = _level(until)
        did = Did.parse(to) if isinstance(to, str) else to
        receipts: list[Receipt] = []
        source = iter(payloads)
        while chunk := _chunk(source):
            messages = self._messages(did, chunk, priority, payload_type, deadline)
            if level is not DeliveryState.HANDLED:
                for message in messages:
                    message.is_bulk = True
            self._core.outgoing.check_size(did, max(map(len, chunk)))
            receipts += [message.receipt for message in messages]
            while messages:
                try:
                    del messages[: self._core.outgoing.submit_many(messages)]
                except BackpressureError:
                    await self._wait_for_room(messages[0])
            # Let the link take them while the next ones are made.
            await asyncio.sleep(0)
        for receipt in receipts:
            if not receipt.has_reached(level):
                await receipt.wait(level)
        return receipts

    def _messages(
        self,
        did: Did,
        payloads: Iterable[bytes],
        priority: Priority,
        payload_type: PayloadType,
        deadline: Deadline,
    ) -> list[OutgoingMessage]:
        if not isinstance(did, Did):
            raise TypeError(f"a recipient is a Did or its text, not {type(did).__name__}: node.did")
        priority, payload_type = _named(Priority, priority), _named(PayloadType, payload_type)
        expires_at = None if deadline is None else _expires_at(deadline)
        identity, numbers, now = self._identity, self._sequence, unix_time_us()
        return [
            OutgoingMessage(
                Receipt(did, next(numbers), now),
                priority,
                expires_at,
                identity=identity,
                payload=payload if type(payload) is bytes else _as_bytes(payload),
                payload_type=payload_type,
            )
            for payload in payloads
        ]

    async def _wait_for_room(self, message: OutgoingMessage) -> None:
        """Until the queue has room; the deadline goes on meanwhile."""
        receipt = message.receipt
        left = None if message.expires_at is None else message.expires_at - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await self._core.outgoing.room(receipt.recipient, message.priority)
        except TimeoutError:
            self._core.outgoing.give_up(message, Reason.EXPIRED, "the queue to the peer was full")
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
        inbox = self._core.incoming.inbox
        message = self._core.incoming.take()
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
                    message = self._core.incoming.take()
                    if message is not None:
                        return message
        except TimeoutError:
            return None

    async def messages(self) -> AsyncIterator[Message]:
        """Every message as it comes, until the node is closed."""
        take = self._core.incoming.take
        while True:
            while (message := take()) is not None:
                yield message
            try:
                message = await self.receive()
            except ClosedError:
                return
            yield message

    def _check_open(self) -> None:
        if not self._core.is_open:
            what = "closed" if self._has_started else "not started"
            raise ClosedError(
                f"this node is {what}", "Use it inside `async with`, before it is closed"
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
        return self._core.outgoing.status()

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on: peers that come and go, refusals, drops, stalls.

        For watching. A watcher that is too slow loses the oldest and is told how many.
        """
        return self._core.events.watch()

    @property
    def access(self) -> AccessList:
        """Which DIDs are turned away. Change it at any time."""
        return self._core.links.access

    def __repr__(self) -> str:
        if self._core.is_open:
            where = f"listening on {self.address}" if self.address else "not listening"
        else:
            where = "closed" if self._has_started else "not started"
        return f"<Node {self.did.short} {where}>"


def _named(kind: type[E], value: E | str) -> E:
    """A member of an enum, also by its name."""
    try:
        return kind[value.upper()] if isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        known = ", ".join(member.name.lower() for member in kind)
        raise ValueError(f"{value!r} is no {kind.__name__}; known are {known}") from None


def _as_bytes(payload: object) -> bytes:
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"a payload is bytes, not {type(payload).__name__}; encode text with .encode()"
        )
    return bytes(payload)


def _chunk(source: Iterator[bytes]) -> list[bytes]:
    """The next payloads: a full batch, but no more memory than a few large ones."""
    chunk: list[bytes] = []
    size = 0
    for payload in islice(source, _CHUNK):
        chunk.append(payload)
        size += len(payload)
        if size >= _CHUNK_BYTES:
            break
    return chunk


def _level(until: DeliveryState | str) -> DeliveryState:
    level = _LEVELS.get(until)
    if level is None:
        raise ValueError(f"until={until!r} is unknown; known are {', '.join(_LEVELS)}")
    return level


def _expires_at(deadline: float | timedelta | datetime) -> float:
    """The instant by `time.monotonic()`; an instant of the clock is compared with it once."""
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise ValueError(
                f"deadline {deadline.isoformat()} has no time zone; use datetime.now(timezone.utc)"
            )
        left = min(deadline.timestamp() - time.time(), _MAX_DEADLINE)
        return time.monotonic() + left
    seconds = deadline.total_seconds() if isinstance(deadline, timedelta) else float(deadline)
    if not 0 < seconds <= _MAX_DEADLINE:
        raise ValueError(
            f"deadline {deadline!r} is not a positive number of seconds of at most "
            f"{_MAX_DEADLINE:_} (30 years); None is for ever"
        )
    return time.monotonic() + seconds
