"""What has ended is freed at once, and leaves nothing to the garbage collector.

A collection of 1,600 ended links held the loop for 31 ms, and until then they took 55 MiB.
asyncio's own transports refer to themselves, and a task refers to the error that cancelled it:
what these keep, a few hundred bytes each time, is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from signedwire import Address, DeliveryFailedError, Node, Target
from signedwire.transport.link import Link
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, eventually, on_both_loops, refusing_address, within

_KEPT_BY_A_TASK: Final = {"LinkDialer", "SocketAddress", "RetryPause", "DialHistory", "Cause"}
"""The dialer whose attempt was cancelled, and what it holds."""


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fail when objects of ours, or of OpenSSL, wait for the collector afterwards."""
    gc.collect()
    gc.disable()
    try:
        yield
        await asyncio.sleep(0.05)  # the last callbacks of what was closed
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(
            f"{type(thing).__module__}.{type(thing).__qualname__}"
            for thing in gc.garbage
            if type(thing).__module__.split(".")[0] in ("signedwire", "ssl", "_ssl")
            and type(thing).__name__ not in _KEPT_BY_A_TASK
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


@contextlib.asynccontextmanager
async def pair(**changes: Any) -> AsyncIterator[tuple[Node, Node]]:
    """ALICE, who knows where BOB is, and BOB."""
    async with Node(ALICE, quick(**changes)) as alice, Node(BOB, quick(**changes)) as bob:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        yield alice, bob


async def exchange(alice: Node, bob: Node) -> None:
    await within(LIMIT, alice.send_many(bob.did, [b"%d" % n for n in range(50)]))
    for _ in range(50):
        message = await bob.receive(LIMIT)
        assert message is not None
        message.ack()


@on_both_loops
async def test_messages_and_receipts() -> None:
    async with pair() as (alice, bob):
        await exchange(alice, bob)
        async with nothing_left():
            await exchange(alice, bob)
            await asyncio.sleep(0.05)  # the receipts of the last


@pytest.mark.parametrize("side", ["dialer", "listener"])
@on_both_loops
async def test_links_that_are_cut_and_dialed_again(side: str) -> None:
    async with pair(max_attempts=1000) as (alice, bob):
        await exchange(alice, bob)
        async with nothing_left():
            for _ in range(5):
                node, peer = (alice, bob) if side == "dialer" else (bob, alice)
                link = node._core.endpoint.sessions.session(peer.did).link
                assert isinstance(link, Link)
                link.abort()
                del link
                await exchange(alice, bob)


@on_both_loops
async def test_links_of_v1() -> None:
    async with (
        Node(ALICE, quick(v1_peers="all", max_attempts=1000)) as alice,
        Node(BOB, quick(wire="v1")) as bob,
    ):
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        await within(LIMIT, alice.send(bob.did, b"1"))
        async with nothing_left():
            for _ in range(3):
                for guest in list(bob._core.acceptor._connections):
                    guest.close()
                del guest
                await eventually(lambda: bob.stats().inbound_connections == 0)
                await within(LIMIT, alice.send(bob.did, b"2"))


async def visit(address: Target, words: bytes) -> None:
    """Say something, and wait until the other side hangs up, or half a second."""
    reader, writer = await asyncio.open_connection(*map(str, address))
    writer.write(words)
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(), 0.5)
    writer.transport.abort()


@pytest.mark.parametrize(
    "words",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x05hello", b"\x16\x03\x01\x00\x05hello"],
    ids=["silent", "http", "v1", "tls"],
)
@on_both_loops
async def test_strangers_that_come_and_go(words: bytes) -> None:
    async with Node(BOB, quick(v1_peers="all")) as bob:
        assert bob.address is not None
        await visit(bob.address, words)
        async with nothing_left():
            for _ in range(3):
                await visit(bob.address, words)


@on_both_loops
async def test_peers_that_are_not_there() -> None:
    with refusing_address() as nowhere:
        await _try_in_vain(nowhere)


async def _try_in_vain(nowhere: Address) -> None:
    async with Node(ALICE, quick(max_attempts=2)) as alice:
        alice.routing.update(BOB.did, nowhere)

        async def try_once() -> None:
            with pytest.raises(DeliveryFailedError):
                await within(LIMIT, alice.send(BOB.did, b"x"))

        await try_once()
        async with nothing_left():
            for _ in range(3):
                await try_once()
