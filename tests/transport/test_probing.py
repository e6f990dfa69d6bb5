"""`Node.probe()`: who is there, how far away, and if not, why; and nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest
from failurekit import RESET_AT_ONCE, SCENES
from test_link import Net, Watch, links_of, meet, take
from test_links import RawPeer

from signedwire import (
    Address,
    ClosedError,
    FailureKind,
    MemoryNetwork,
    Node,
    NotAllowedError,
    PeerConnected,
    PeerDisconnected,
    TransportConfig,
    UnknownPeerError,
    sync,
)
from signedwire.transport import probing
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    SLACK,
    RawServer,
    eventually,
    on_asyncio,
    on_both_loops,
    quick,
    within,
)

STRANGERS = pytest.mark.parametrize("as_stranger", [False, True])


def settings(**changes: Any) -> TransportConfig:
    return quick(**{"wire": "auto", "v1_peers": (), "handshake_timeout": 0.3, **changes})


@STRANGERS
@pytest.mark.parametrize("network", ["tcp", "memory"])
@on_both_loops
async def test_a_peer_that_is_there(network: str, as_stranger: bool) -> None:
    net = Net(network)
    async with net.node(ALICE, wire="auto") as alice, net.node(BOB, wire="auto") as bob:
        found = await within(LIMIT, alice.probe(bob.did, bob.address, as_stranger=as_stranger))
        assert found.is_reached
        assert found.is_proven
        assert not found.denies_us
        assert (found.did, found.address, found.answered_by) == (bob.did, bob.address, bob.did)
        assert (found.wire, found.failure, found.error) == ("v2", None, None)
        assert found.connect_time is not None
        assert found.handshake_time is not None
        assert 0 <= found.connect_time < LIMIT
        assert 0 < found.handshake_time < LIMIT
        if as_stranger or network == "tcp":
            assert found.round_trip is not None
            assert 0 < found.round_trip < LIMIT
        if as_stranger:
            assert found.clock_offset is not None
            assert found.clock_offset_bound is not None
            assert abs(found.clock_offset) <= found.clock_offset_bound < LIMIT
        else:
            assert found.clock_offset is found.clock_offset_bound is None
        assert not alice.peers()  # nothing of it stays


@pytest.mark.parametrize("kind", sorted(SCENES))
@on_both_loops
async def test_a_peer_that_is_not_reached(kind: FailureKind) -> None:
    async with SCENES[kind]() as address, Node(ALICE, settings()) as alice:
        found = await within(LIMIT, alice.probe(BOB.did, str(address)))
        assert found.failure is kind
        assert found.error
        assert not found.is_reached
        assert found.denies_us == (kind is FailureKind.DENIED)
        assert (found.connect_time is None) == (kind is FailureKind.REFUSED)
        assert found.round_trip is None
        proven = {FailureKind.WRONG_KEY: CAROL.did, FailureKind.DENIED: BOB.did}
        assert found.answered_by == proven.get(kind)
        assert alice.stats().dial_failures == 0


@on_asyncio
async def test_a_reset_before_the_first_byte() -> None:
    async with RESET_AT_ONCE() as address, Node(ALICE, settings()) as alice:
        assert (await alice.probe(BOB.did, address)).failure is FailureKind.HUNG_UP_ON_TLS


@on_both_loops
async def test_it_touches_no_link_and_no_message() -> None:
    """With the node's own key, while a link of that key is open and messages are on it."""
    async with Net("tcp").pair(wire="auto") as (alice, bob):
        await within(LIMIT, alice.send(bob.did, b"1"))
        links = links_of(alice), links_of(bob)
        status, counters = alice.peers()[bob.did], alice.stats()
        async with Watch(alice) as ours, Watch(bob) as theirs:
            for _ in range(3):
                assert (await within(LIMIT, alice.probe(bob.did))).is_reached
            await within(LIMIT, alice.send(bob.did, b"2"))
        assert (links_of(alice), links_of(bob)) == links
        assert not ours.events
        assert not theirs.of(PeerConnected)
        assert not theirs.of(PeerDisconnected)
        now = alice.peers()[bob.did]
        assert now.since == pytest.approx(status.since, abs=0.001)  # two readings of the clocks
        assert now.failed_attempts == status.failed_attempts
        assert alice.stats().reconnections == counters.reconnections
        assert await take(bob, 2) == [b"1", b"2"]
        assert not bob.stats().dropped


@on_both_loops
async def test_a_stranger_is_let_in_only_where_all_are() -> None:
    async with Net("tcp").pair(wire="auto") as (alice, bob):
        bob.access.allow_only([ALICE.did])
        assert (await within(LIMIT, alice.probe(bob.did))).is_reached
        found = await within(LIMIT, alice.probe(bob.did, as_stranger=True))
        assert found.failure is FailureKind.DENIED
        assert found.denies_us
        assert found.is_proven
        bob.access.allow_only(())
        assert (await within(LIMIT, alice.probe(bob.did))).denies_us


@on_both_loops
async def test_a_link_is_followed_until_its_peer_ends_it() -> None:
    async with Node(ALICE, settings()) as alice:
        bob = Node(BOB, settings())
        await bob.start()
        probes = alice.probes(BOB.did, bob.address, interval=0.02, as_stranger=True)
        async with Watch(bob) as theirs:
            for _ in range(3):
                found = await within(LIMIT, anext(probes))
                assert found.is_reached
                assert found.round_trip is not None
            assert len(theirs.of(PeerConnected)) == 1  # one link
        await bob.close()
        found = await within(LIMIT, anext(probes))
        assert found.failure is FailureKind.CLOSED
        assert found.handshake_time is not None
        assert found.round_trip is None
        with pytest.raises(StopAsyncIteration):
            await within(LIMIT, anext(probes))


@on_both_loops
async def test_probes_keep_their_interval() -> None:
    async with Node(ALICE, settings()) as alice, Node(BOB, settings()) as bob:
        for as_stranger in (False, True):
            began, count = time.monotonic(), 0
            probes = alice.probes(BOB.did, bob.address, interval=0.1, as_stranger=as_stranger)
            async with contextlib.aclosing(probes):
                async for found in probes:
                    assert found.is_reached
                    count += 1
                    if count == 3:
                        break
            assert time.monotonic() - began >= 0.19


# -- v1 -----------------------------------------------------------------------------------


@on_both_loops
async def test_a_v1_peer_where_that_is_allowed() -> None:
    async with Node(BOB, quick()) as bob:
        async with Node(ALICE, settings(v1_peers=[BOB.did])) as alice:
            found = await within(LIMIT, alice.probe(BOB.did, bob.address))
            assert (found.wire, found.is_reached, found.is_proven) == ("v1", True, False)
        async with Node(ALICE, settings()) as alice:
            found = await within(LIMIT, alice.probe(BOB.did, bob.address))
            assert found.failure is FailureKind.HUNG_UP_ON_TLS
        async with Node(ALICE, quick()) as alice:  # v1 alone
            assert (await within(LIMIT, alice.probe(BOB.did, bob.address))).wire == "v1"
        assert bob.receive_nowait() is None


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"", FailureKind.CLOSED), (b"220 mail\r\n", FailureKind.PROTOCOL)]
)
@on_both_loops
async def test_what_is_no_v1_peer(answer: bytes, kind: FailureKind) -> None:
    with RawServer() as server:
        async with Node(ALICE, quick()) as alice:
            probing_ = asyncio.create_task(alice.probe(BOB.did, server.address))
            with await server.accept() as link:
                if answer:
                    await link.write(answer)
            found = await within(LIMIT, probing_)
            assert (found.failure, found.wire) == (kind, None)


# -- limits -------------------------------------------------------------------------------


@on_both_loops
async def test_a_timeout_is_a_finding() -> None:
    silent = SCENES[FailureKind.NO_HANDSHAKE]
    async with silent() as address, Node(ALICE, settings(handshake_timeout=LIMIT)) as alice:
        began = time.monotonic()
        found = await alice.probe(BOB.did, address, timeout=0.1)
        assert 0.09 <= time.monotonic() - began < 0.5 + SLACK
        assert found.failure is FailureKind.TIMED_OUT
        assert found.error == "no result within 0.1 s"


@on_both_loops
async def test_a_peer_that_answers_the_handshake_and_no_ping() -> None:
    with RawServer() as server:
        limits = settings(dead_timeout=0.3, ping_interval=0.1)
        async with Node(ALICE, limits) as alice:
            probes = alice.probes(BOB.did, server.address, interval=0.1, as_stranger=True)
            first = asyncio.ensure_future(anext(probes))
            # It takes whoever comes: the key is one that nobody knows.
            peer = await RawPeer.accept(server, BOB, ALICE, is_mute=False)
            found = await within(LIMIT, first)
            assert found.failure is FailureKind.TIMED_OUT
            peer.reset()


@on_both_loops
async def test_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_MAX_AT_ONCE", 3)
    most = open_ = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, open_
        open_ += 1
        most = max(most, open_)
        await reader.read(1)
        await asyncio.sleep(0.02)
        open_ -= 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname())
    async with Node(ALICE, settings()) as alice:
        await asyncio.gather(*[alice.probe(BOB.did, address) for _ in range(12)])
    server.close()
    assert most <= 3


@STRANGERS
@on_both_loops
async def test_cancelling_leaves_no_connection(as_stranger: bool) -> None:
    silent = SCENES[FailureKind.NO_HANDSHAKE]
    async with silent() as address, Node(ALICE, settings(handshake_timeout=LIMIT)) as alice:
        task = asyncio.create_task(alice.probe(BOB.did, address, as_stranger=as_stranger))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@STRANGERS
@on_both_loops
async def test_closing_the_node_ends_its_probes(as_stranger: bool) -> None:
    async with SCENES[FailureKind.NO_HANDSHAKE]() as address, Node(BOB, settings()) as bob:
        alice = Node(ALICE, settings(handshake_timeout=LIMIT))
        await alice.start()
        waiting = asyncio.create_task(alice.probe(BOB.did, address, as_stranger=as_stranger))
        followed = alice.probes(BOB.did, bob.address, interval=5, as_stranger=as_stranger)
        assert (await within(LIMIT, anext(followed))).is_reached
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await alice.close()
        for ended in (waiting, anext(followed)):
            with pytest.raises(ClosedError):
                await within(LIMIT, ended)
        assert time.monotonic() - began < 5 * alice.config.close_timeout
        with pytest.raises(ClosedError):
            await alice.probe(BOB.did, bob.address)


@STRANGERS
@on_both_loops
async def test_closing_the_node_in_the_turn_in_which_a_probe_times_out(as_stranger: bool) -> None:
    async with SCENES[FailureKind.NO_HANDSHAKE]() as address:
        alice = Node(ALICE, settings(handshake_timeout=0.2))
        await alice.start()
        prober, loop = alice._core.prober, asyncio.get_running_loop()
        waiting = asyncio.create_task(alice.probe(BOB.did, address, as_stranger=as_stranger))

        def is_in_handshake() -> bool:
            return any(step.when() is not None for step in prober._steps)

        await eventually(is_in_handshake)
        (step,) = prober._steps
        due = step.when()
        assert due is not None
        has_expired: list[bool] = []
        loop.call_at(due + 0.001, lambda: has_expired.append(step.expired()))
        loop.call_at(due + 0.002, prober.close)
        time.sleep(max(0.0, due + 0.1 - loop.time()))  # noqa: ASYNC251 - all are due in one turn
        with pytest.raises(ClosedError):
            await within(LIMIT, waiting)
        assert has_expired == [True]
        await alice.close()
        assert alice._core.runtime.home.has_ended


# -- arguments ------------------------------------------------------------------------------


@on_asyncio
async def test_what_cannot_be_probed() -> None:
    network = MemoryNetwork()
    alice = Node(ALICE, settings(), network=network)
    with pytest.raises(ClosedError):
        await alice.probe(BOB.did, "h:1")
    async with alice, Node(BOB, settings(), network=network) as bob:
        with pytest.raises(UnknownPeerError, match="no address is known"):
            await alice.probe(BOB.did)
        for timeout in (-1, "1"):
            with pytest.raises((ValueError, TypeError)):
                await alice.probe(BOB.did, bob.address, timeout=timeout)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="interval"):
            await anext(alice.probes(BOB.did, bob.address, interval=0))
        meet(alice, bob)
        assert (await within(LIMIT, alice.probe(str(BOB.did)))).is_reached
        alice.access.deny(BOB.did)
        with pytest.raises(NotAllowedError, match="denied"):
            await alice.probe(BOB.did)
        assert bob.stats().connections_accepted == 1


# -- threads --------------------------------------------------------------------------------


def test_from_threads() -> None:
    with sync.Node(ALICE, settings()) as alice, sync.Node(BOB, settings()) as bob:
        assert alice.probe(bob.did, bob.address, timeout=LIMIT).is_reached
        found = []
        for probe in alice.probes(bob.did, bob.address, interval=0.02, as_stranger=True):
            found.append(probe)
            if len(found) == 3:
                break
        assert all(probe.round_trip for probe in found)
        assert not bob.stats().dropped


def test_closing_from_another_thread_ends_a_probe() -> None:
    with RawServer() as server:
        alice = sync.Node(ALICE, settings(handshake_timeout=LIMIT))
        threading.Timer(0.1, alice.close).start()
        with pytest.raises(ClosedError):
            alice.probe(BOB.did, server.address)


@on_asyncio
async def test_a_node_that_is_probed_knows_nothing_of_the_stranger() -> None:
    async with Net("tcp").pair(wire="auto") as (alice, bob):
        for _ in range(3):
            await within(LIMIT, alice.probe(bob.did, as_stranger=True))
        await eventually(lambda: not bob.peers())
