"""While messages or outcomes wait, the event loop runs all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest

from signedwire import DeliveryState, Message, Node, Receipt, as_completed
from signedwire.home import Turns
from signedwire.transport.link_socket import LinkSocket
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, eventually, on_asyncio

COUNT: Final = 200
WORK: Final = 0.001
"""Seconds that the application takes for each item."""


def work(seconds: float) -> None:
    """Keep the event loop, as an application that computes does."""
    time.sleep(seconds)


async def from_messages(node: Node) -> AsyncIterator[Message]:
    async for message in node.messages():
        yield message


async def from_receive(node: Node) -> AsyncIterator[Message]:
    while True:
        yield await node.receive()


class Ticker:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.turns = 0
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    async def stop(self) -> int:
        turns = self.turns
        self._task.cancel()
        await asyncio.wait([self._task])
        return turns


@pytest.mark.parametrize("source", [from_messages, from_receive])
@on_asyncio
async def test_messages_that_wait(source: Callable[[Node], AsyncIterator[Message]]) -> None:
    async with Node(ALICE, quick()) as alice, Node(BOB, quick()) as bob:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        await alice.send_many(bob.did, [b"x"] * COUNT, until="accepted")
        await eventually(lambda: bob.stats().inbox_messages == COUNT)
        ticker, taken = Ticker(), 0
        async for message in source(bob):
            work(WORK)
            taken += 1
            if taken == COUNT // 2:  # what comes now overtakes what waits
                await alice.send(bob.did, b"stop", priority="critical", until="accepted")
            if taken == COUNT // 2 + 1:
                assert message.payload == b"stop"
            if taken == COUNT + 1:
                break
        assert await ticker.stop() >= COUNT * WORK / 0.002 / 3


@on_asyncio
async def test_outcomes_that_wait() -> None:
    async with Node(ALICE, quick()) as alice, Node(BOB, quick()) as bob:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        receipts: list[Receipt] = [alice.send_nowait(bob.did, b"x") for _ in range(COUNT)]
        await eventually(lambda: all(receipt.is_confirmed for receipt in receipts))
        ticker = Ticker()
        async for _ in as_completed(receipts, "accepted"):
            work(WORK)
        assert await ticker.stop() >= COUNT * WORK / 0.002 / 3


@on_asyncio
async def test_a_wait_begins_a_turn() -> None:
    turns = Turns()
    work(0.003)
    assert turns.is_over()
    turns.begin()
    ticker = Ticker()
    await turns.give()
    assert await ticker.stop() == 1


@on_asyncio
async def test_a_message_that_is_alone_is_written_before_send_returns() -> None:
    async with Node(ALICE, quick()) as alice, Node(BOB, quick()) as bob:
        alice.routing.update(BOB.did, bob.address)
        await alice.send(BOB.did, b"a link is open")
        await eventually(lambda: not alice.peers()[BOB.did].in_flight)
        first = await alice.send(BOB.did, b"alone", until="queued")
        others = [await alice.send(BOB.did, b"%d" % number, until="queued") for number in range(5)]
        assert first.state is DeliveryState.WRITTEN
        assert {other.state for other in others} == {DeliveryState.QUEUED}
        for receipt in (first, *others):
            await receipt.wait("accepted", LIMIT)
        assert len({written_at(receipt) for receipt in others}) == 1


def written_at(receipt: Receipt) -> object:
    return next(step.at_us for step in receipt.history if step.state is DeliveryState.WRITTEN)


@on_asyncio
async def test_the_rest_of_a_batch_goes_with_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload of 64 KiB does not fit one write. Its rest alone would double the writes."""
    sizes: list[int] = []
    write = LinkSocket.write

    def note(self: LinkSocket, data: bytes) -> None:
        if len(data) > 1024:
            sizes.append(len(data))
        write(self, data)

    async with Node(ALICE, quick()) as alice, Node(BOB, quick()) as bob:
        alice.routing.update(BOB.did, bob.address)
        taking = asyncio.create_task(take_all(bob))
        await alice.send_many(BOB.did, [bytes(65536)] * COUNT)  # the rate is known after that
        monkeypatch.setattr(LinkSocket, "write", note)
        await alice.send_many(BOB.did, [bytes(65536)] * COUNT)
        taking.cancel()
    assert len(sizes) <= 1.3 * COUNT


async def take_all(node: Node) -> None:
    async for message in node.messages():
        message.ack()
