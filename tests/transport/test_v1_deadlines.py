"""Deadlines of messages that went to a v1 peer, which never answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from signedwire import (
    Address,
    DeliveryState,
    MemoryNetwork,
    MessageExpiredError,
    Node,
    Receipt,
    TransportConfig,
)
from signedwire.transport.network import Listener, Stream
from wirekit import ALICE, BOB, LIMIT, eventually, on_both_loops, within

THERE = Address("peer", 1)
DEADLINE = 0.5
LARGE = 150_000
"""More bytes than a stream of the memory network takes."""


class Sink:
    """The other side of a v1 connection. It reads nothing until it is told to."""

    def __init__(self) -> None:
        self.stream: Stream | None = None

    def connected(self, stream: Stream) -> None:
        self.stream = stream
        stream.pause_reading()

    def received(self, data: bytes) -> None:
        pass

    def ended(self) -> None:
        assert self.stream is not None
        self.stream.close()

    def writable(self) -> None:
        pass

    def lost(self, error: Exception | None) -> None:
        pass


class Place:
    """A node that sends over v1, and the sinks that it has dialed."""

    def __init__(self, network: MemoryNetwork, node: Node) -> None:
        self.network = network
        self.node = node
        self.sinks: list[Sink] = []
        self.listener: Listener | None = None

    def sink(self) -> Sink:
        self.sinks.append(Sink())
        return self.sinks[-1]

    async def expire(self, receipt: Receipt, since: float) -> None:
        """The message expires at its deadline, and no later than five times that."""
        with pytest.raises(MessageExpiredError):
            await within(LIMIT, receipt.wait("accepted"))
        assert DEADLINE - 0.01 <= time.monotonic() - since <= 5 * DEADLINE
        assert receipt.state is DeliveryState.EXPIRED


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    network = MemoryNetwork()
    config = TransportConfig(
        listen=None,
        wire="v1",
        v1_peers="all",
        max_attempts=50,
        retry_base_delay=30,
        retry_max_delay=60,
        max_v1_payload_size=2 * LARGE,
        max_frame_size=3 * LARGE,
        close_timeout=0.1,
    )
    async with Node(ALICE, config, network=network) as node:
        here = Place(network, node)
        here.listener = await network.listen(THERE, here.sink)
        node.routing.update(BOB.did, THERE)
        yield here


@on_both_loops
async def test_a_message_that_is_queued_again_keeps_its_deadline() -> None:
    async with place() as here:
        since = time.monotonic()
        receipt = here.node.send_nowait(BOB.did, b"x", deadline=DEADLINE)
        await eventually(lambda: receipt.is_unconfirmed)
        assert here.listener is not None
        here.listener.close()
        here.network.cut_all()
        await eventually(lambda: receipt.state is DeliveryState.QUEUED)
        assert not receipt.is_unconfirmed
        await here.expire(receipt, since)


@on_both_loops
async def test_a_message_that_the_system_does_not_take_expires() -> None:
    async with place() as here:
        since = time.monotonic()
        receipt = here.node.send_nowait(BOB.did, bytes(LARGE), deadline=DEADLINE)
        await here.expire(receipt, since)
        # The bytes are in the stream. The peer reads them, and nothing changes any more.
        stream = here.sinks[0].stream
        assert stream is not None
        stream.resume_reading()
        later = here.node.send_nowait(BOB.did, b"later")
        await eventually(lambda: later.state is DeliveryState.WRITTEN)
        assert receipt.state is DeliveryState.EXPIRED
        assert not receipt.is_unconfirmed


@on_both_loops
async def test_a_message_that_was_written_has_no_deadline_any_more() -> None:
    async with place() as here:
        receipt = here.node.send_nowait(BOB.did, b"x", deadline=DEADLINE)
        await within(LIMIT, receipt.wait("accepted"))
        await asyncio.sleep(1.5 * DEADLINE)
        assert receipt.state is DeliveryState.WRITTEN
        assert receipt.is_unconfirmed
