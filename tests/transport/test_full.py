"""A listener that has no room says so as no v1 peer does, and costs nobody an attempt."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
from test_link import Net, links_of, meet, take
from test_links import RawPeer

from signedwire import DeliveryState, FailureKind, Node, Reason
from signedwire.transport import inbound as inbound_module
from signedwire.transport import lingering as lingering_module
from signedwire.transport.acceptor import MAX_UNANSWERED
from signedwire.transport.lingering import Lingering
from signedwire.transport.tls import TlsIdentity
from signedwire.transport.tls_channel import FULL_ALERT, TlsChannel, is_full_alert
from signedwire.wire import link_frames as frames
from signedwire.wire.session import BatchReceived, Closed, HelloReceived
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    RawLink,
    RawServer,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    within,
)

Step = Callable[[RawLink, TlsChannel], Any]


async def read(link: RawLink) -> bytes:
    """What comes next; empty at the end."""
    return await within(LIMIT, asyncio.get_running_loop().sock_recv(link.sock, 65536))


async def read_all(link: RawLink) -> bytes:
    """Everything up to the end."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := await read(link):
            data += more
    return data


async def hello_and_flight(node: Node) -> tuple[RawLink, TlsChannel]:
    """A connection that has the node's ServerHello and has not answered it."""
    assert node.address is not None
    link = await RawLink.dial(node.address)
    channel = TlsIdentity(ALICE).channel(is_server=False)
    channel.start()
    await link.write(channel.data_to_send())
    channel.receive_data(await read(link))
    return link, channel


# -- who listens ---------------------------------------------------------------------


@on_both_loops
async def test_half_a_client_hello_is_answered_with_the_alert() -> None:
    async with Net("tcp").node(BOB, max_unproven_connections=1) as bob:
        assert bob.address is not None
        with await RawLink.dial(bob.address) as first:
            await first.write(b"\x16\x03\x01")
            await eventually(lambda: bob.stats().bytes_received == 3)
            with await RawLink.dial(bob.address):
                assert await read_all(first) == FULL_ALERT


@on_both_loops
async def test_a_client_hello_that_comes_after_the_place_is_lost_is_answered_too() -> None:
    async with Net("tcp").node(BOB, max_unproven_connections=1) as bob:
        assert bob.address is not None
        channel = TlsIdentity(ALICE).channel(is_server=False)
        channel.start()
        with await RawLink.dial(bob.address) as first, await RawLink.dial(bob.address):
            await eventually(lambda: bob.stats().dropped == {Reason.CONNECTION_LIMIT: 1})
            await first.write(channel.data_to_send())
            assert await read_all(first) == FULL_ALERT


@on_both_loops
async def test_few_wait_for_an_answer_when_they_have_lost_their_places() -> None:
    async with Net("tcp").node(BOB, max_unproven_connections=1) as bob:
        assert bob.address is not None
        with contextlib.ExitStack() as stack:
            count = MAX_UNANSWERED + 20
            links = [stack.enter_context(await RawLink.dial(bob.address)) for _ in range(count)]
            await eventually(lambda: bob.stats().connections_accepted == count)
            await eventually(lambda: len(bob._core.acceptor._unanswered) == MAX_UNANSWERED)
            # Those that stay do so for a moment alone.
            await within(LIMIT, asyncio.gather(*[link.wait_closed() for link in links[:-1]]))
            await eventually(lambda: not bob._core.acceptor._unanswered)
            assert bob.stats().inbound_connections == 1


@on_both_loops
async def test_after_the_server_hello_the_alert_is_encrypted() -> None:
    async with Net("tcp").node(BOB, max_unproven_connections=1) as bob:
        assert bob.address is not None
        link, channel = await hello_and_flight(bob)
        with link, await RawLink.dial(bob.address):
            assert channel.is_ready
            data = await read_all(link)
            assert data[0] == 0x17
            with pytest.raises(ssl.SSLError) as caught:
                channel.receive_data(data)
            assert is_full_alert(caught.value)


@on_both_loops
async def test_after_the_handshake_it_is_a_close() -> None:
    async with Net("tcp").node(BOB, max_unproven_connections=1) as bob:
        assert bob.address is not None
        with await RawPeer.dial(bob, ALICE, is_mute=True) as peer:
            await eventually(lambda: peer.who.did in bob.peers())
            with await RawLink.dial(bob.address):
                assert (await peer.next(Closed)).code == frames.CLOSE_TOO_MANY


@pytest.mark.parametrize("said", [b"", b"\x00", b"\x00\x00\x00\xaa"])
@on_both_loops
async def test_who_did_not_begin_tls_is_told_nothing(said: bytes) -> None:
    async with Net("tcp").node(BOB, max_unproven_connections=1, v1_peers="all") as bob:
        assert bob.address is not None
        with await RawLink.dial(bob.address) as first:
            await first.write(said)
            await eventually(lambda: bob.stats().bytes_received == len(said))
            await eventually(lambda: bob.stats().connections_accepted == 1)
            with await RawLink.dial(bob.address):
                assert await read_all(first) == b""


# -- who dials ------------------------------------------------------------------------


async def at_once(link: RawLink, channel: TlsChannel) -> None:
    channel.receive_data(await read(link))
    channel.data_to_send()
    await link.write(FULL_ALERT)


async def before_it_looks(link: RawLink, channel: TlsChannel) -> None:
    await read(link)
    await link.write(channel.turn_away())


async def amid_the_handshake(link: RawLink, channel: TlsChannel) -> None:
    channel.receive_data(await read(link))
    await link.write(channel.data_to_send())
    await link.write(channel.turn_away())


@pytest.mark.parametrize("step", [at_once, before_it_looks, amid_the_handshake])
@pytest.mark.parametrize("allowed", ["all", [BOB.did], []])
@on_both_loops
async def test_a_full_peer_costs_no_attempt_and_is_no_v1_peer(allowed: Any, step: Step) -> None:
    with RawServer() as server:
        async with Net("tcp").node(ALICE, v1_peers=allowed, max_attempts=1) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"secret")
            for _ in range(3):
                with await server.accept() as link:
                    await step(link, TlsIdentity(BOB).channel(is_server=True))
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                await peer.receipt(await peer.next(BatchReceived))
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
                status = alice.peers()[BOB.did]
                assert (status.failed_attempts, status.wire) == (0, "v2")
                assert status.last_error is not None
                assert status.last_error_kind is FailureKind.FULL
                await peer.end()


@on_both_loops
async def test_other_alerts_still_cost_an_attempt() -> None:
    """The opposite of the one above, so that it can fail."""
    with RawServer() as server:
        async with Net("tcp").node(ALICE, max_attempts=1) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"x")
            with await server.accept() as link:
                await read(link)
                await link.write(FULL_ALERT[:-1] + bytes([40]))  # handshake_failure
                await eventually(lambda: receipt.state is DeliveryState.FAILED)
            assert alice.peers()[BOB.did].failed_attempts == 1


@on_both_loops
async def test_many_who_come_at_once_all_arrive_at_a_listener_with_few_places() -> None:
    """On loopback, where no host has a share: all are evicted for one another."""
    net = Net("tcp")
    async with (
        net.node(BOB, max_unproven_connections=2) as bob,
        contextlib.AsyncExitStack() as stack,
    ):
        nodes = [
            await stack.enter_async_context(net.node(who, v1_peers="all", max_attempts=1))
            for who in (ALICE, CAROL, *map(identity, range(300, 310)))
        ]
        for node in nodes:
            meet(node, bob)
        sent = [node.send(bob.did, bytes(node.did)) for node in nodes]
        receipts = await within(5 * LIMIT, asyncio.gather(*sent))
        assert all(receipt.is_confirmed for receipt in receipts)
        assert {node.peers()[bob.did].wire for node in nodes} == {"v2"}
        assert sorted(await take(bob, len(nodes))) == sorted(bytes(node.did) for node in nodes)


@on_asyncio
async def test_a_last_moment_is_no_longer_than_the_handshake_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound_module, "_LAST_MOMENT", 60.0)
    monkeypatch.setattr("signedwire.transport.tcp_stream.host_group", lambda _: "one")
    config = {"max_unproven_per_host": 1, "handshake_timeout": 0.1}
    async with Net("tcp").node(BOB, **config) as bob:
        assert bob.address is not None
        began = time.monotonic()
        with await RawLink.dial(bob.address) as first, await RawLink.dial(bob.address):
            await first.write(b"\x16\x03\x01")
            assert await read_all(first) == FULL_ALERT
        assert time.monotonic() - began < LIMIT


@on_both_loops
async def test_few_links_linger_for_their_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places are others' already, so peers that do not read could add up."""
    most: list[int] = []

    class Counted(Lingering):
        def add(self, connection: Any) -> None:
            super().add(connection)
            most.append(len(self._connections))

    monkeypatch.setattr(lingering_module, "_MAX", 2)
    async with Net("tcp").node(BOB) as bob, contextlib.AsyncExitStack() as stack:
        bob._core.runtime.lingering = Counted()
        for number in range(6):
            peer = stack.enter_context(await RawPeer.dial(bob, identity(400 + number)))
            await peer.next(HelloReceived)
        for link in links_of(bob):
            link.close(frames.CLOSE_DONE, "all in one turn of the loop")
        assert max(most) == 2
        await eventually(lambda: bob.stats().inbound_connections == 0)
