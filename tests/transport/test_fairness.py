"""What one peer may make a node hold, and how senders share the application's time."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from typing import Final

from test_link import Net, meet, take
from test_links import RawPeer

from linkkit import credits
from signedwire import Identity, Node, Priority
from signedwire.types import unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.session import BatchReceived, HelloReceived
from wirekit import ALICE, BOB, LIMIT, identity, on_both_loops, within

MALLORY: Final = identity(501)
CAROL: Final = identity(502)
MIB: Final = 2**20


@on_both_loops
async def test_what_is_held_for_a_peer_is_counted_by_what_it_costs() -> None:
    """The recipient answers two of the three messages of each batch, and never the third."""
    plenty = credits(10**6, 2**32, 1000, MIB)
    async with Net("tcp").node(ALICE) as alice:
        with await RawPeer.dial(alice, BOB, credit=plenty) as peer:
            await peer.next(HelloReceived)
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                for _ in range(96 * MIB // 60_000):
                    for _ in range(3):
                        alice.send_nowait(BOB.did, bytes(20_000))
                    try:
                        batch = await asyncio.wait_for(peer.next(BatchReceived), 1.0)
                    except TimeoutError:
                        break  # it sends no more until it has answers: so it is right
                    answered = batch.leaves[: len(batch.leaves) * 2 // 3]
                    peer.session.send_receipts(frames.ACCEPTED_ENVELOPES, answered, unix_time_us())
                    await peer.say()
                    del batch
                held = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            # 64 MiB is the limit of what is in flight; the rest is what objects weigh.
            assert held < 72 * MIB
            await peer.end()


async def flood(
    stack: contextlib.AsyncExitStack,
    net: Net,
    bob: Node,
    who: Identity,
    count: int,
    priority: Priority,
    size: int = 40_000,
) -> None:
    """Have somebody send so many messages, all of which wait in the inbox then."""
    node = await stack.enter_async_context(net.node(who))
    meet(node, bob)
    payload = who.did.short.encode().ljust(size)
    sent = [node.send(bob.did, payload, priority=priority) for _ in range(count)]
    await within(5 * LIMIT, asyncio.gather(*sent))


async def places_of(bob: Node, who: Identity, count: int) -> list[int]:
    """Take all; which of them were of `who`, counted from 0."""
    name = who.did.short.encode()
    return [at for at, payload in enumerate(await take(bob, count)) if payload.startswith(name)]


@on_both_loops
async def test_senders_of_one_lane_take_turns() -> None:
    net = Net()
    async with net.node(BOB) as bob, contextlib.AsyncExitStack() as stack:
        await flood(stack, net, bob, MALLORY, 45, Priority.NORMAL)
        await flood(stack, net, bob, CAROL, 5, Priority.NORMAL)
        assert max(await places_of(bob, CAROL, 50)) <= 2 * 5


@on_both_loops
async def test_a_flood_of_critical_takes_turns_with_high() -> None:
    net = Net()
    async with (
        net.node(BOB, critical_reserve=400, credit_messages=2000) as bob,
        contextlib.AsyncExitStack() as stack,
    ):
        await flood(stack, net, bob, MALLORY, 400, Priority.CRITICAL, size=100)
        await flood(stack, net, bob, CAROL, 5, Priority.HIGH)
        # The first 64 of each second go before all; it may take two or three seconds here.
        assert max(await places_of(bob, CAROL, 405)) <= 3 * 64 + 2 * 5


@on_both_loops
async def test_senders_with_a_route_come_before_strangers() -> None:
    net = Net()
    async with net.node(BOB) as bob, contextlib.AsyncExitStack() as stack:
        bob.routing.update(CAROL.did, "127.0.0.1:9")
        await flood(stack, net, bob, MALLORY, 45, Priority.NORMAL)
        await flood(stack, net, bob, CAROL, 5, Priority.NORMAL)
        assert await places_of(bob, CAROL, 50) == [0, 1, 2, 3, 4]
