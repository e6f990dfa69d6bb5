"""What every network promises, asked of each that ships and of the one in the examples."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from examples.own_network import PairNetwork

from netkit import End
from signedwire import (
    Address,
    DialError,
    ListenError,
    Location,
    MemoryNetwork,
    Network,
    Node,
    Priority,
    Target,
    TcpNetwork,
    TransportConfig,
    UnixNetwork,
)
from signedwire.routing import RoutingTable
from wirekit import ALICE, BOB, LIMIT, eventually, on_both_loops, within

KINDS: Final = ["tcp", "unix", "memory", "own"]
each_network = pytest.mark.parametrize("kind", KINDS)
each_with_sockets = pytest.mark.parametrize("kind", ["tcp", "unix", "own"])
CHUNK: Final = bytes(range(256)) * 1024
MOST: Final = 64 * 2**20
"""Bytes that no system keeps for a stream that nobody reads."""


@dataclass
class Place:
    """A network, and where to listen in it."""

    network: Network
    folder: Path
    count: int = 0

    def target(self) -> Target:
        """A target that nobody listens at; ports are chosen by the system."""
        self.count += 1
        match self.network:
            case UnixNetwork():
                return Location("unix", f"{self.folder}/{self.count}.sock")
            case PairNetwork():
                return Location("pair", "/127.0.0.1:0")
            case MemoryNetwork():
                return Address("host", self.count)
            case _:
                return Address("127.0.0.1", 0)

    def is_inet(self) -> bool:
        """Whether a raw socket reaches it at host and port."""
        return isinstance(self.network, (TcpNetwork, PairNetwork))


@pytest.fixture
def place(kind: str) -> Iterator[Place]:
    """A network of the kind, and a folder whose name is short enough for a socket."""
    made: dict[str, Callable[[], Network]] = {
        "tcp": TcpNetwork,
        "unix": UnixNetwork,
        "memory": MemoryNetwork,
        "own": PairNetwork,
    }
    with tempfile.TemporaryDirectory(prefix="sw") as folder:
        yield Place(made[kind](), Path(folder))


@contextlib.asynccontextmanager
async def connected(
    place: Place, here: End | None = None, there: End | None = None
) -> AsyncIterator[tuple[End, End]]:
    """Two ends of a stream: who dialed, and who accepted. Both are over at the end."""
    ours, theirs = here or End(), there or End()
    listener = await place.network.listen(place.target(), lambda: theirs)
    stream = await within(LIMIT, place.network.dial(listener.address, ours))
    assert stream is ours.stream
    await eventually(lambda: theirs.is_connected)
    listener.close()
    yield ours, theirs
    await ended(ours, theirs)


async def ended(*ends: End) -> None:
    """Abort what is left, and see that each is told so, once."""
    for end in ends:
        if not end.is_lost:
            end.stream.abort()
    await eventually(lambda: all(end.is_lost for end in ends))
    assert all(end.stream.is_closing() for end in ends)
    await asyncio.sleep(0.005)  # nothing comes after `lost`, which `End` asserts


def raw_socket(place: Place, target: Target) -> socket.socket:
    """A socket that is connected there, without any of ours."""
    if isinstance(target, Location) and target.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(target.path)
        return sock
    host, _, port = str(target).removeprefix("pair:/").rpartition(":")
    return socket.create_connection((host, int(port)), LIMIT)


# -- dialing and listening ------------------------------------------------------------


@each_network
@on_both_loops
async def test_bytes_go_both_ways_in_order(kind: str, place: Place) -> None:
    async with connected(place) as (here, there):
        for number in range(200):
            here.stream.write(b"%d " % number)
            there.stream.write(b"%d," % number)
        await eventually(lambda: here.data.endswith(b"199,") and there.data.endswith(b"199 "))
        assert there.data == b"".join(b"%d " % number for number in range(200))
        assert here.data == b"".join(b"%d," % number for number in range(200))
        await eventually(lambda: here.stream.waiting() == there.stream.waiting() == 0)


@each_network
@on_both_loops
async def test_who_is_there(kind: str, place: Place) -> None:
    there = End()
    listener = await place.network.listen(place.target(), lambda: there)
    here = End()
    await place.network.dial(listener.address, here)
    await eventually(lambda: there.is_connected)
    assert here.stream.remote.target == listener.address
    listener.close()
    for end in (here, there):
        assert end.stream.remote.group is None, "this machine has no share"
        assert end.stream.remote.host
    known = here.stream.remote
    await ended(here, there)
    assert here.stream.remote == known


@each_network
@on_both_loops
async def test_nobody_listens(kind: str, place: Place) -> None:
    listener = await place.network.listen(place.target(), End)
    address = listener.address
    listener.close()
    listener.close()
    end = End()
    with pytest.raises(DialError) as caught:
        await within(LIMIT, place.network.dial(address, end))
    assert caught.value.address == address
    assert caught.value.cause
    assert not end.is_connected
    assert not end.events


@each_network
@on_both_loops
async def test_an_address_in_use_is_refused_until_its_listener_closes(
    kind: str, place: Place
) -> None:
    listener = await place.network.listen(place.target(), End)
    with pytest.raises(ListenError) as caught:
        await place.network.listen(listener.address, End)
    assert caught.value.address == listener.address
    ours = End()
    await within(LIMIT, place.network.dial(listener.address, ours))  # it was not disturbed
    await ended(ours)
    listener.close()
    await eventually(lambda: _is_free(place, listener.address))
    again = await place.network.listen(listener.address, End)
    assert again.address == listener.address
    again.close()


def _is_free(place: Place, target: Target) -> bool:
    if not place.is_inet():
        return True
    host, _, port = str(target).removeprefix("pair:/").rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock.connect_ex((host, int(port))) != 0


@pytest.mark.parametrize("kind", ["tcp", "unix", "own"])
@on_both_loops
async def test_a_target_of_another_network_is_refused(kind: str, place: Place) -> None:
    for target in (Location("nowhere", "/x"), Address("127.0.0.1", 9), Location("unix", "/x")):
        if type(target) is type(place.target()) and getattr(target, "scheme", kind) == kind:
            continue
        with pytest.raises(DialError, match=f"{target}: "):
            await place.network.dial(target, End())
        with pytest.raises(ListenError, match=f"{target}: "):
            await place.network.listen(target, End)


@each_network
@on_both_loops
async def test_cancelling_a_dial_leaves_nothing_open(kind: str, place: Place) -> None:
    theirs: list[End] = []

    def accept() -> End:
        theirs.append(End())
        return theirs[-1]

    listener = await place.network.listen(place.target(), accept)
    for rounds in range(8):
        ours = End()
        dialing = asyncio.create_task(place.network.dial(listener.address, ours))
        for _ in range(rounds):
            await asyncio.sleep(0)
        dialing.cancel()
        outcome = (await asyncio.gather(dialing, return_exceptions=True))[0]
        if not isinstance(outcome, BaseException):
            outcome.abort()
        await eventually(lambda ours=ours: not ours.is_connected or ours.is_lost)  # type: ignore[misc]
    await asyncio.sleep(0.01)
    listener.close()
    await eventually(lambda: all(end.is_lost for end in theirs if end.is_connected))


@each_network
@on_both_loops
async def test_accepted_streams_stay_when_the_listener_closes(kind: str, place: Place) -> None:
    async with connected(place) as (here, there):  # which has closed it
        await asyncio.sleep(0.01)
        here.stream.write(b"hello")
        await eventually(lambda: there.data == b"hello")


# -- reading ----------------------------------------------------------------------------


@each_network
@on_both_loops
async def test_nothing_comes_while_reading_is_paused(kind: str, place: Place) -> None:
    async with connected(place, there=End(is_reading=False)) as (here, there):
        here.stream.write(b"first")
        await asyncio.sleep(0.02)
        assert there.data == b""
        there.stream.resume_reading()
        await eventually(lambda: there.data == b"first")
        there.stream.pause_reading()
        there.stream.pause_reading()
        here.stream.write(b" second")
        here.stream.close()
        await asyncio.sleep(0.02)
        assert there.data == b"first"
        assert not there.events
        there.stream.resume_reading()
        await eventually(lambda: there.is_lost)
        assert there.data == b"first second"
        assert there.events == ["ended", None]


@each_network
@on_both_loops
async def test_another_receiver_takes_over(kind: str, place: Place) -> None:
    async with connected(place) as (here, there):
        here.stream.write(b"for the first")
        await eventually(lambda: there.data == b"for the first")
        heir = End()
        heir.connected(there.stream)
        there.stream.set_receiver(heir)
        here.stream.write(b"for the second")
        await eventually(lambda: heir.data == b"for the second")
        here.stream.close()
        await eventually(lambda: heir.events == ["ended", None])
        assert there.events == []
        there.events.append(None)


# -- writing ------------------------------------------------------------------------------


@each_network
@on_both_loops
async def test_who_does_not_read_stops_the_writer(kind: str, place: Place) -> None:
    async with connected(place, there=End(is_reading=False)) as (here, there):
        written = 0
        while not here.stream.waiting():
            here.stream.write(CHUNK)
            written += len(CHUNK)
            assert written < MOST
            await asyncio.sleep(0)
        # A stream that writes in a task of its own may get rid of some of it.
        await asyncio.sleep(0.02)
        while not here.stream.waiting():
            here.stream.write(CHUNK)
            written += len(CHUNK)
            assert written < MOST
            await asyncio.sleep(0.002)
        here.events.clear()
        await asyncio.sleep(0.02)
        assert here.events == []
        assert here.stream.unsent() >= here.stream.waiting() > 0
        there.stream.resume_reading()
        await eventually(lambda: here.events == ["writable"])
        assert here.stream.waiting() == 0
        await eventually(lambda: len(there.data) == written)
        assert there.data == CHUNK * (written // len(CHUNK))


@each_network
@on_both_loops
async def test_a_big_write_arrives_whole_and_is_told_of(kind: str, place: Place) -> None:
    big = os.urandom(8 * 2**20)
    async with connected(place) as (here, there):
        here.stream.write(big)
        assert here.stream.waiting() > 0
        await eventually(lambda: len(there.data) == len(big))
        assert there.data == big
        await eventually(lambda: here.events == ["writable"])
        assert here.stream.waiting() == 0


# -- the end --------------------------------------------------------------------------------


@each_network
@on_both_loops
async def test_close_sends_what_waits(kind: str, place: Place) -> None:
    big = CHUNK * 8
    async with connected(place) as (here, there):
        here.stream.write(big)
        here.stream.close()
        assert here.stream.is_closing()
        assert not here.is_lost, "not at once"
        here.stream.close()
        await eventually(lambda: here.is_lost and there.is_lost)
        assert there.data == big
        assert there.events == ["ended", None]
        assert here.events[-1] is None


@each_network
@on_both_loops
async def test_abort_ends_at_once_though_nobody_reads(kind: str, place: Place) -> None:
    async with connected(place, there=End(is_reading=False)) as (here, there):
        for _ in range(64):
            here.stream.write(CHUNK)
        here.stream.abort()
        assert here.stream.is_closing()
        assert not here.is_lost, "not at once"
        await eventually(lambda: here.is_lost)
        there.stream.resume_reading()
        await eventually(lambda: there.is_lost)
        assert len(there.data) <= 64 * len(CHUNK)


@each_network
@on_both_loops
async def test_who_hears_the_end_may_stay(kind: str, place: Place) -> None:
    async with connected(place, there=End(does_close=False)) as (here, there):
        here.stream.close()
        await eventually(lambda: there.events == ["ended"])
        await asyncio.sleep(0.01)
        assert not there.stream.is_closing()
        there.stream.pause_reading()
        there.stream.resume_reading()
        await asyncio.sleep(0.01)
        assert there.events == ["ended"], "once"
        there.stream.close()
        await eventually(lambda: there.events == ["ended", None])


@each_with_sockets
@on_both_loops
async def test_half_closed_by_the_other_side(kind: str, place: Place) -> None:
    theirs = End(does_close=False)
    listener = await place.network.listen(place.target(), lambda: theirs)
    with raw_socket(place, listener.address) as raw:
        raw.sendall(b"question")
        raw.shutdown(socket.SHUT_WR)
        await eventually(lambda: theirs.events == ["ended"])
        assert theirs.data == b"question"
        theirs.stream.write(b"answer")
        theirs.stream.close()
        answer = b""
        raw.settimeout(LIMIT)
        while data := await asyncio.to_thread(raw.recv, 100):
            answer += data
        assert answer == b"answer"
    listener.close()
    await eventually(lambda: theirs.is_lost)


@each_with_sockets
@on_both_loops
async def test_a_listener_that_is_shut_down_frees_its_address(kind: str, place: Place) -> None:
    listener = await place.network.listen(place.target(), End)
    listener.close()
    listener.shut_down()
    again = await place.network.listen(listener.address, End)
    again.close()


# -- nodes ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def node_pair(place: Place, **changes: Any) -> AsyncIterator[tuple[Node, Node]]:
    """Alice and Bob, each with a route to the other."""
    routing = RoutingTable()
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for who in (ALICE, BOB):
            config = TransportConfig(listen=place.target(), close_timeout=1.0, **changes)
            node = Node(who, config, routing, network=place.network)
            nodes.append(await stack.enter_async_context(node))
            routing.update(who.did, node.address)
        yield nodes[0], nodes[1]
    await asyncio.sleep(0.02)  # streams with tasks of their own end some turns later


@each_network
@on_both_loops
async def test_nodes_meet(kind: str, place: Place) -> None:
    async with node_pair(place) as (alice, bob):
        assert alice.address != bob.address
        await within(LIMIT, alice.send(bob.did, b"hello"))
        assert (await bob.receive(LIMIT)).sender == alice.did
        big = os.urandom(2**20)
        sent = [b"%d" % number for number in range(500)]
        sending = asyncio.gather(
            alice.send_many(bob.did, sent), bob.send(alice.did, big, priority=Priority.HIGH)
        )
        assert [(await bob.receive(LIMIT)).payload for _ in sent] == sent
        assert (await alice.receive(LIMIT)).payload == big
        await within(LIMIT, sending)
        assert alice.stats().dropped == bob.stats().dropped == {}
        assert alice.peers()[bob.did].address == bob.address


@each_network
@on_both_loops
async def test_nodes_meet_over_v1(kind: str, place: Place) -> None:
    async with node_pair(place, wire="v1", v1_peers="all") as (alice, bob):
        receipts = [alice.send_nowait(bob.did, b"%d" % number) for number in range(100)]
        got = [(await bob.receive(LIMIT)).payload for _ in receipts]
        assert got == [b"%d" % number for number in range(100)]
        await within(LIMIT, receipts[-1].wait("written"))


@each_network
@on_both_loops
async def test_a_peer_that_is_not_there_is_named(kind: str, place: Place) -> None:
    async with node_pair(place, max_attempts=1) as (alice, bob):
        nowhere = await place.network.listen(place.target(), End)
        nowhere.close()
        alice.routing.update(bob.did, nowhere.address)
        receipt = alice.send_nowait(bob.did, b"x")
        await eventually(lambda: receipt.is_final)
        assert str(nowhere.address) in str(alice.peers()[bob.did].last_error)


@pytest.mark.parametrize("wrong", [7, "tcp", object()])
def test_what_is_no_network_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"network is a Network, not \w+, which has no dial"):
        Node(ALICE, network=wrong)
