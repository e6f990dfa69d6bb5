"""Dead peers beside a living one: they take neither its link nor its time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hostile.dead_peers import SORTS, measure
from signedwire import ConnectionFailed, DeliveryFailedError, Node, PeerState
from signedwire.delivery.dial_history import Standing
from signedwire.transport import slots as slots_module
from signedwire.transport.link import Link
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    SLACK,
    RawServer,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    quick,
    within,
)

COUNT = 40


def config(**changes: Any) -> Any:
    return quick(wire="auto", v1_peers=(), **changes)


def meet(node: Node, other: Node) -> None:
    assert other.address is not None
    node.routing.update(other.did, other.address)


def send_to_dead(node: Node, address: Any, count: int = COUNT) -> list[Any]:
    dids = [identity(500 + number).did for number in range(count)]
    for did in dids:
        node.routing.update(did, address)
    return [node.send_nowait(did, b"x") for did in dids]


@pytest.mark.parametrize("sort", SORTS)
def test_forty_dead_peers_beside_a_living_one(sort: str) -> None:
    figures = asyncio.run(measure(sort, COUNT, 1.0))
    assert figures.evictions == 0
    assert figures.messages > 50
    assert figures.p99 < 5 * 0.020, figures


@on_both_loops
async def test_a_living_peer_gets_its_link_back_beside_forty_silent_ones() -> None:
    with RawServer(backlog=512) as silent:
        async with Node(ALICE, config()) as alice, Node(BOB, config()) as bob:
            meet(alice, bob)
            await within(LIMIT, alice.send(bob.did, b"1"))
            send_to_dead(alice, silent.address)
            places = alice._core.dialers.slots
            await eventually(lambda: places.pool.next_standing is Standing.DOUBTFUL)
            assert len(places.pool.opening()) <= 5
            for _ in range(5):
                link = alice._core.endpoint.sessions.session(bob.did).link
                assert isinstance(link, Link)
                link.abort()
                await within(SLACK, alice.send(bob.did, b"2"))
            assert alice.stats().evictions == 0


@on_both_loops
async def test_a_new_peer_is_reached_behind_forty_silent_ones() -> None:
    with RawServer(backlog=512) as silent:
        async with Node(ALICE, config()) as alice, Node(BOB, config()) as bob:
            receipts = send_to_dead(alice, silent.address)
            meet(alice, bob)
            # Each of eight rounds of five attempts has a quarter of a second.
            await within(COUNT / 5 * 0.25 + SLACK, alice.send(bob.did, b"1"))
            assert not any(receipt.is_final for receipt in receipts)
            assert all(
                alice.peers()[receipt.recipient].failed_attempts == 0 for receipt in receipts
            )


@on_both_loops
async def test_the_only_place_is_kept_by_who_uses_it() -> None:
    with RawServer(backlog=512) as silent:
        async with Node(ALICE, config(max_connections=1)) as alice, Node(BOB, config()) as bob:
            meet(alice, bob)
            for number in range(2):
                await within(LIMIT, alice.send(bob.did, b"%d" % number))
            send_to_dead(alice, silent.address)
            for number in range(100):
                await within(LIMIT, alice.send(bob.did, b"%d" % number))
                await asyncio.sleep(0.002)
            assert alice.stats().evictions == 0
            assert alice.peers()[bob.did].state is PeerState.CONNECTED


@on_asyncio
async def test_who_lost_a_place_for_nothing_keeps_the_next_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has waited long may have a link in use closed; each time for nothing, later."""
    monkeypatch.setattr(slots_module, "_PATIENCE", 0.05)
    monkeypatch.setattr(slots_module, "_TURN", 0.01)
    with RawServer(backlog=512) as silent:
        async with Node(ALICE, config(max_connections=1)) as alice, Node(BOB, config()) as bob:
            meet(alice, bob)
            for number in range(2):
                await within(LIMIT, alice.send(bob.did, b"%d" % number))
            send_to_dead(alice, silent.address, 3)
            loop = asyncio.get_running_loop()
            end = loop.time() + 2.0
            while loop.time() < end:
                await within(LIMIT, alice.send(bob.did, b"x"))
                await asyncio.sleep(0.002)
            # Every 0.05 s it would be 40 and more.
            assert 0 < alice.stats().evictions <= 10
            assert alice._core.dialers.slots._patience > 0.05


@on_both_loops
async def test_many_living_peers_share_few_places() -> None:
    """More of them than places, and dead ones: everybody living is reached, in turn."""
    with RawServer(backlog=512) as silent:
        async with Node(ALICE, config(max_connections=3)) as alice:
            others = [Node(identity(900 + number), config()) for number in range(8)]
            for other in others:
                await other.start()
                meet(alice, other)
            send_to_dead(alice, silent.address, 10)
            for _ in range(3):
                sending = [alice.send(other.did, b"x") for other in others]
                await within(LIMIT, asyncio.gather(*sending))
                assert alice.pool_stats().active <= 3
            for other in others:
                await other.close()


@on_asyncio
async def test_an_attempt_that_is_called_off_counts_for_nobody() -> None:
    with RawServer(backlog=64) as silent:
        async with (
            Node(ALICE, config(max_connections=1)) as alice,
            Node(BOB, config()) as bob,
            Node(CAROL, config()) as carol,
        ):
            waiting = send_to_dead(alice, silent.address, 1)[0]
            await eventually(lambda: alice.pool_stats().active == 1)
            for node in (bob, carol):
                meet(alice, node)
                await within(0.25 + SLACK, alice.send(node.did, b"x"))
            status = alice.peers()[waiting.recipient]
            assert (status.failed_attempts, alice.stats().dial_failures) == (0, 0)
            assert not waiting.is_final


@on_both_loops
async def test_the_last_error_is_shown_after_the_wire_was_switched() -> None:
    """A peer that accepts and hangs up is dialed over v2 and v1 in turn."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Node(ALICE, quick(wire="auto", v1_peers="all", max_attempts=3)) as node:
        events = node.events()
        node.routing.update(BOB.did, f"127.0.0.1:{port}")
        with pytest.raises(DeliveryFailedError):
            await within(LIMIT, node.send(BOB.did, b"x"))
        status = node.peers()[BOB.did]
        await within(LIMIT, node.close())
        failed = [one async for one in events if type(one) is ConnectionFailed]
        assert status.failed_attempts == 3
        assert status.last_error == failed[-1].cause
        assert status.last_error_kind is failed[-1].kind
        assert status.last_error_at is not None
    server.close()
