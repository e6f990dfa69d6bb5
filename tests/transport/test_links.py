"""What links leave behind and carry over: breaks, epochs, v1 peers, strangers, attempts, routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, Self, TypeVar

import pytest
from test_link import Net, Watch, both_networks, links_of, meet, next_of, take

from linkkit import body, hello, read_clocks
from signedwire import (
    Address,
    DeliveryFailedError,
    DeliveryState,
    Did,
    FailureKind,
    Identity,
    Node,
    Reason,
    Receipt,
)
from signedwire.events import PeerConnected, PeerDisconnected
from signedwire.transport import tcp_stream
from signedwire.transport.link_dialer import LinkDialer
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.tls import TlsIdentity
from signedwire.types import PeerState, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.header import payload_start
from signedwire.wire.link_frames import Epochs, Receipts, Refusal
from signedwire.wire.session import (
    BatchReceived,
    Closed,
    Event,
    HelloReceived,
    ReceiptsReceived,
    Session,
    SessionLimits,
)
from tlskit import MiddleBox, quick
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    RawServer,
    RecordingNetwork,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    random_seed,
    refusing_address,
    within,
)

E = TypeVar("E", bound=Event)

TLS: Final = 0x16
PLAIN: Final = 0x00
HUGE: Final = 2**62


class RawPeer:
    """One end of a link, under the test's control: it answers nothing by itself."""

    def __init__(
        self,
        who: Identity,
        them: Identity,
        sock: socket.socket,
        *,
        is_server: bool = False,
        is_mute: bool = False,
        **changes: Any,
    ) -> None:
        self.who = who
        self.them = them
        self.events: deque[Event] = deque()
        self._sock = sock
        self._channel = TlsIdentity(who).channel(is_server=is_server)
        limits = SessionLimits(max_payload_size=2**20)
        if "epoch" in changes:
            changes["epochs"] = Epochs(*[changes.pop("epoch")] * 2)
        if "known_epoch" in changes:
            changes["known_epochs"] = Epochs(changes.pop("known_epoch"), 0)
        self.session = Session(
            who, them.did, hello(**changes), limits, time.monotonic(), read_clocks
        )
        # Tests also send batches past the session, so it cannot check READ.
        self.session.outgoing.bytes_out = 1 << 60
        self._is_mute = is_mute

    @classmethod
    async def dial(cls, node: Node, who: Identity, **changes: Any) -> Self:
        """Connect to a node, say HELLO, and do not wait for its."""
        assert node.address is not None
        sock = socket.socket()
        sock.setblocking(False)
        peer = cls(who, node._identity, sock, **changes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, tuple(node.address))
            peer._channel.start()
            await peer._shake_hands()
        except BaseException:
            sock.close()
            raise
        return peer

    @classmethod
    async def accept(
        cls,
        server: RawServer,
        who: Identity,
        them: Identity,
        *,
        is_silent: bool = False,
        **changes: Any,
    ) -> Self:
        """The next link that a node dials; a silent one has not said HELLO yet."""
        peer = cls(who, them, (await server.accept()).sock, is_server=True, **changes)
        await peer._shake_hands(is_silent=is_silent)
        return peer

    async def _shake_hands(self, *, is_silent: bool = False) -> None:
        while not self._channel.is_ready:
            await self._write()
            data = await within(LIMIT, asyncio.get_running_loop().sock_recv(self._sock, 65536))
            if not data:
                raise ConnectionError("closed during the handshake")
            self._channel.receive_data(data)
        self._feed(self._channel.receive_data(b""))
        if not is_silent:
            await self.say()

    async def say(self, *more: bytes) -> None:
        """Write what the session has to say and then these frames, in one piece."""
        data = b"".join((self.session.data_to_send(), *more))
        if data and not self._is_mute:
            self._channel.send(data)
        await self._write()

    async def _write(self) -> None:
        if data := self._channel.data_to_send():
            await within(LIMIT, asyncio.get_running_loop().sock_sendall(self._sock, data))

    def _feed(self, plain: bytes) -> None:
        self.session.receive_data(plain, time.monotonic())
        self.events += iter(self.session.next_event, None)

    async def next(self, kind: type[E], fits: Callable[[E], bool] = lambda _: True) -> E:
        """The oldest event of this kind that was not asked for, and that fits; others stay."""
        async with asyncio.timeout(LIMIT):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and fits(event):
                        self.events.remove(event)
                        return event
                assert not self.session.is_closed, f"the link ended without {kind.__name__}"
                await self.read()

    async def next_receipts(self) -> Receipts:
        """The oldest receipts that refuse nothing."""
        event = await self.next(ReceiptsReceived, lambda one: one.receipts.reason is None)
        return event.receipts

    async def next_refusals(self) -> list[Refusal]:
        """The oldest receipt that refuses, message by message."""
        event = await self.next(ReceiptsReceived, lambda one: one.receipts.reason is not None)
        receipts = event.receipts
        assert receipts.reason is not None
        return [Refusal(leaf, receipts.reason, receipts.explanation) for leaf in receipts.hashes]

    async def read(self) -> None:
        """Take what comes next: some bytes, or the end."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, 65536)
        except ConnectionError:
            data = b""
        if data:
            self._feed(self._channel.receive_data(data))
            self.session._report_read(time.monotonic())  # at once: it has no timers
            with contextlib.suppress(OSError):
                await self.say()
        else:
            self.session.receive_eof(time.monotonic())
            self.events += iter(self.session.next_event, None)

    def body(self, sequence: int, payload: bytes = b"", **changes: Any) -> bytes:
        """An envelope of ours to the node, in the epoch that our HELLO named."""
        return body(sequence, payload, sender=self.who, recipient=self.them, **changes)

    async def send(self, *bodies: bytes) -> None:
        """Sign and send a batch."""
        if self.session.their_hello is None:
            await self.next(HelloReceived)
        self.session.send_batch(list(bodies))
        await self.say()

    async def receipt(self, batch: BatchReceived) -> None:
        """Sign for a batch of the node's."""
        self.session.send_receipts(frames.ACCEPTED_BATCHES, [batch.root], unix_time_us())
        await self.say()

    async def end(self, code: int = frames.CLOSE_DONE, why: str = "so the test wants") -> None:
        """Say CLOSE, and hang up when the other side has.

        Bytes of it that came and are not read would have the kernel send RST, and CLOSE be lost.
        """
        self.session.close(code, why)
        with contextlib.suppress(OSError, TimeoutError):
            await self.say()
            self._sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(1):
                while await asyncio.get_running_loop().sock_recv(self._sock, 65536):
                    pass
        self.close()

    def close(self) -> None:
        """Hang up without a word."""
        self._sock.close()

    def reset(self) -> None:
        """Hang up with RST."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def payloads(batch: BatchReceived) -> list[bytes]:
    return [each[payload_start(each) :] for each in batch.bodies]


def dialers(node: Node) -> list[Any]:
    return node._core.dialers.all()


def dialer_to(node: Node, did: Did) -> Any:
    dialer = node._core.endpoint.sessions.session(did).sender.dialer
    assert dialer is not None
    return dialer


def connecting() -> list[asyncio.Task[Any]]:
    """The tasks of all dialers of this loop."""
    return [task for task in asyncio.all_tasks() if "_connect" in repr(task.get_coro())]


def is_forgotten(node: Node, did: Did) -> bool:
    core = node._core
    session = core.endpoint.sessions._sessions.get(did)
    return session is None or not (session.has_sender or session.has_receiver)


def address_of(node: Node) -> Address:
    assert isinstance(node.address, Address)
    return node.address


# -- a link breaks with messages on it -------------------------------------------------


@on_both_loops
async def test_a_broken_link_gives_its_place_back_before_its_messages_are_queued_again() -> None:
    with RawServer() as server:
        async with Net().node(ALICE, max_connections=1) as alice:
            alice.routing.update(BOB.did, server.address)
            endpoint, active = alice._core.endpoint, []
            requeue = endpoint.requeue

            def watched(*args: Any, **kw: Any) -> None:
                active.append(alice.pool_stats().active)
                requeue(*args, **kw)

            endpoint.requeue = watched  # type: ignore[method-assign]
            receipts = [alice.send_nowait(BOB.did, b"%d" % n) for n in range(3)]
            first = await RawPeer.accept(server, BOB, ALICE)
            lost = await first.next(BatchReceived)
            assert alice.pool_stats().active == 1
            first.reset()
            with await RawPeer.accept(server, BOB, ALICE) as second:
                assert active == [0]
                batch = await second.next(BatchReceived)
                assert batch.bodies == lost.bodies
                await second.receipt(batch)
                await within(LIMIT, receipts[-1].wait(DeliveryState.ACCEPTED))
                assert alice.pool_stats().active == 1
                assert alice.stats().reconnections == 1
                await second.end()


@on_both_loops
async def test_links_that_break_as_they_open_lose_nothing_and_leave_the_pool_right() -> None:
    """The break is known in the next turn of the loop, before the dialer has seen the opening."""
    net = Net("memory")
    network = net.memory
    assert network is not None
    async with net.pair(max_attempts=1000, max_connections=1) as (alice, bob):
        endpoint = alice._core.endpoint
        link_opened, opened = endpoint.link_opened, 0

        def cutting(*args: Any) -> None:
            nonlocal opened
            link_opened(*args)
            opened += 1
            if opened <= 5:
                assert network is not None
                network.cut_all()

        endpoint.link_opened = cutting  # type: ignore[assignment,method-assign]
        sent = [b"%d" % n for n in range(50)]
        receipts = await within(LIMIT, alice.send_many(bob.did, sent))
        assert all(receipt.is_confirmed for receipt in receipts)
        assert await take(bob, 50) == sent
        assert opened == 6
        assert bob.stats().messages_received == 50
        assert alice.pool_stats().active == 1
        assert alice.peers()[bob.did].state is PeerState.CONNECTED
        await eventually(lambda: not connecting())


def _stall(dialer: Any) -> None:
    time.sleep(0.4)


def _retire(dialer: Any) -> None:
    dialer.retire()


def _call_off(dialer: Any) -> None:
    dialer.call_off()


@pytest.mark.parametrize("cut_short", [_stall, _retire, _call_off])
@on_both_loops
async def test_a_link_that_opens_as_its_attempt_is_cut_short_is_one_like_any_other(
    cut_short: Callable[[Any], None],
) -> None:
    with RawServer() as server:
        async with Net().node(ALICE, max_connections=1, handshake_timeout=0.3) as alice:
            alice.routing.update(BOB.did, server.address)
            endpoint = alice._core.endpoint
            link_opened, opened = endpoint.link_opened, 0

            def opening(*args: Any) -> None:
                nonlocal opened
                link_opened(*args)
                opened += 1
                if opened == 1:
                    cut_short(dialer_to(alice, BOB.did))

            endpoint.link_opened = opening  # type: ignore[assignment,method-assign]
            receipt = alice.send_nowait(BOB.did, b"x")
            first = await RawPeer.accept(server, BOB, ALICE)
            lost = await first.next(BatchReceived)
            await eventually(lambda: not connecting())
            assert alice.peers()[BOB.did].state is PeerState.CONNECTED
            assert alice.pool_stats().active == 1
            first.reset()
            with await RawPeer.accept(server, BOB, ALICE) as second:
                batch = await second.next(BatchReceived)
                assert batch.bodies == lost.bodies
                await second.receipt(batch)
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
                await eventually(lambda: not connecting())
                assert alice.pool_stats().active == 1
                assert alice.stats().reconnections == 1
                assert alice.stats().dial_failures == 0
                await second.end()


@on_both_loops
async def test_a_node_that_closes_as_a_link_opens_ends_the_link() -> None:
    with RawServer() as server:
        async with Net().node(ALICE, max_connections=1) as alice:
            alice.routing.update(BOB.did, server.address)
            endpoint = alice._core.endpoint
            link_opened = endpoint.link_opened
            closing: list[asyncio.Task[None]] = []

            def opening(*args: Any) -> None:
                link_opened(*args)
                dialer_to(alice, BOB.did)._connecting.cancel()
                closing.append(asyncio.create_task(alice.close()))

            endpoint.link_opened = opening  # type: ignore[assignment,method-assign]
            receipt = alice.send_nowait(BOB.did, b"x")
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                await peer.next(Closed)
                await within(LIMIT, closing[0])
                assert receipt.is_final
                assert not links_of(alice)
                assert not connecting()


@pytest.mark.parametrize("code", [frames.CLOSE_DONE, frames.CLOSE_PROTOCOL_ERROR])
@on_both_loops
async def test_a_peer_that_says_hello_and_close_in_one_breath(code: int) -> None:
    with RawServer() as server:
        async with Net().node(ALICE, max_connections=1) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"x")
            first = await RawPeer.accept(server, BOB, ALICE, is_silent=True)
            await first.end(code)
            with await RawPeer.accept(server, BOB, ALICE) as second:
                batch = await second.next(BatchReceived)
                await second.receipt(batch)
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
                assert alice.pool_stats().active == 1
                is_orderly = code == frames.CLOSE_DONE
                assert alice.peers()[BOB.did].failed_attempts == (0 if is_orderly else 1)
                await second.end()


@on_both_loops
async def test_cuts_at_any_time_lose_and_double_nothing_and_leave_the_pool_right() -> None:
    _, draw = random_seed()
    net = Net("memory")
    assert net.memory is not None
    async with net.pair(max_attempts=1000, max_connections=1) as (alice, bob):
        sent = [b"%d" % n for n in range(2000)]
        sending = asyncio.create_task(alice.send_many(bob.did, sent))
        got: list[bytes] = []
        while len(got) < len(sent):
            got += await take(bob, min(draw.randrange(1, 200), len(sent) - len(got)))
            net.memory.cut_all()
            assert alice.pool_stats().active <= 1
        assert got == sent
        receipts = await within(LIMIT, sending)
        assert all(receipt.is_confirmed for receipt in receipts)
        assert bob.stats().messages_received == len(sent)
        await eventually(lambda: alice.peers()[bob.did].state is PeerState.CONNECTED)
        assert alice.pool_stats().active == 1


# -- epochs ------------------------------------------------------------------------


@on_both_loops
async def test_a_stranger_moves_no_epoch_but_the_one_towards_itself() -> None:
    async with Net().node(BOB) as bob, Net().node(ALICE) as alice:
        meet(bob, alice)
        await bob.send(alice.did, b"before")
        epoch = alice._core.endpoint.sessions.session(bob.did).receiver.durable.epoch
        assert abs(epoch - unix_time_us()) < 60 * 10**6
        with await RawPeer.dial(bob, CAROL, known_epoch=HUGE) as stranger:
            assert (await stranger.next(HelloReceived)).hello.epochs.durable == epoch
            closed = await stranger.next(Closed)
            assert (closed.code, closed.is_by_peer) == (frames.CLOSE_STALE_EPOCH, True)
        await eventually(lambda: bob.stats().inbound_connections == 0)
        with await RawPeer.dial(bob, CAROL, known_epoch=HUGE) as stranger:
            assert (await stranger.next(HelloReceived)).hello.epochs.durable == HUGE + 1
            await eventually(lambda: CAROL.did in [link.state.did for link in links_of(bob)])
        with await RawPeer.dial(bob, identity(9)) as other:
            assert (await other.next(HelloReceived)).hello.epochs.durable == epoch
        await bob.send(alice.did, b"after")
        assert alice._core.endpoint.sessions.session(bob.did).receiver.durable.epoch == epoch
        assert bob.stats().reconnections == 0
        assert await take(alice, 2) == [b"before", b"after"]


@pytest.mark.parametrize(
    ("field", "value"), [("known_epoch", 2**63), ("epoch", 2**63), ("epoch", 0)]
)
@on_asyncio
async def test_an_epoch_beyond_all_epochs_breaks_the_protocol(field: str, value: int) -> None:
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, CAROL, **{field: value}) as stranger:
            closed = await stranger.next(Closed)
            assert (closed.code, closed.is_by_peer) == (frames.CLOSE_PROTOCOL_ERROR, True)
        await eventually(lambda: bob.stats().inbound_connections == 0)
        assert is_forgotten(bob, CAROL.did)
        assert not any(one.least_epoch for one in bob._core.endpoint.sessions.all())
        assert bob.stats().dropped[Reason.PROTOCOL_ERROR] == 1


@on_asyncio
async def test_who_knows_the_last_epoch_leaves_none_to_count_on_in() -> None:
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, CAROL, known_epoch=2**63 - 1) as stranger:
            closed = await stranger.next(Closed)
            assert (closed.code, closed.is_by_peer) == (frames.CLOSE_PROTOCOL_ERROR, True)
        with await RawPeer.dial(bob, ALICE, known_epoch=2**63 - 2) as stranger:
            assert (await stranger.next(Closed)).code == frames.CLOSE_STALE_EPOCH
        with await RawPeer.dial(bob, ALICE, known_epoch=2**63 - 2) as stranger:
            assert (await stranger.next(HelloReceived)).hello.epochs.durable == 2**63 - 1
            await eventually(lambda: links_of(bob))


@on_both_loops
async def test_a_newer_epoch_fails_what_was_written_and_brings_what_was_queued() -> None:
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            written = alice.send_nowait(BOB.did, b"written")
            first = await RawPeer.accept(server, BOB, ALICE)
            old = await first.next(HelloReceived)
            assert payloads(await first.next(BatchReceived)) == [b"written"]
            first.reset()
            second = await RawPeer.accept(server, BOB, ALICE, is_silent=True, known_epoch=HUGE)
            queued = alice.send_nowait(BOB.did, b"queued")
            await second.say()
            assert (
                await second.next(HelloReceived)
            ).hello.epochs.durable == old.hello.epochs.durable
            assert (await second.next(Closed)).code == frames.CLOSE_STALE_EPOCH
            second.close()
            with await RawPeer.accept(server, BOB, ALICE, known_epoch=HUGE) as third:
                assert (await third.next(HelloReceived)).hello.epochs.durable == HUGE + 1
                batch = await third.next(BatchReceived)
                assert payloads(batch) == [b"queued"]
                await third.receipt(batch)
                await within(LIMIT, queued.wait(DeliveryState.ACCEPTED))
                assert written.state is DeliveryState.FAILED
                assert written.reason is Reason.STALE_EPOCH
                await third.end()


@on_both_loops
async def test_a_newer_epoch_fails_what_is_on_its_way_over_an_older_link() -> None:
    """The peer opens a second link while the first one is up."""
    async with Net().node(ALICE) as alice:
        with await RawPeer.dial(alice, BOB) as first:
            await eventually(lambda: links_of(alice))
            written = alice.send_nowait(BOB.did, b"written")
            await first.next(BatchReceived)
            with await RawPeer.dial(alice, BOB, known_epoch=HUGE) as second:
                assert (await second.next(Closed)).code == frames.CLOSE_STALE_EPOCH
            assert (await first.next(Closed)).code == frames.CLOSE_STALE_EPOCH
            with pytest.raises(DeliveryFailedError) as failure:
                await written.wait(DeliveryState.ACCEPTED, LIMIT)
            assert failure.value.reason is Reason.STALE_EPOCH
        with await RawPeer.dial(alice, BOB, known_epoch=HUGE) as third:
            await eventually(lambda: links_of(alice))
            alice.send_nowait(BOB.did, b"new")
            batch = await third.next(BatchReceived)
            assert payloads(batch) == [b"new"]
            assert int.from_bytes(batch.bodies[0][24:32], "little") == 1
            await third.receipt(batch)
            await third.end()


@on_asyncio
async def test_a_newer_epoch_costs_what_was_queued_no_attempt() -> None:
    with RawServer() as server:
        async with Net().node(ALICE, max_attempts=1) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"queued")
            first = await RawPeer.accept(server, BOB, ALICE, known_epoch=HUGE)
            assert (await first.next(Closed)).code == frames.CLOSE_STALE_EPOCH
            first.close()
            with await RawPeer.accept(server, BOB, ALICE, known_epoch=HUGE) as second:
                await second.receipt(await second.next(BatchReceived))
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
                await second.end()


# -- v1 peers ----------------------------------------------------------------------


def cutting(times: int) -> Callable[[bytes], bool]:
    """Hang up on so many connections, then let all through."""
    left = [times]

    def is_cut(_: bytes) -> bool:
        left[0] -= 1
        return left[0] >= 0

    return is_cut


@pytest.mark.parametrize("allowed", ["all", [BOB.did]])
@on_both_loops
async def test_one_hang_up_on_tls_makes_nobody_a_v1_peer(allowed: Any) -> None:
    """A v2 peer that is full hangs up so: it must never be sent plaintext."""
    net = Net()
    async with net.node(ALICE, v1_peers=allowed) as alice, net.node(BOB, v1_peers="all") as bob:
        with MiddleBox(address_of(bob), cutting(1)) as box:
            alice.routing.update(bob.did, box.address)
            receipt = await within(LIMIT, alice.send(bob.did, b"secret"))
            assert receipt.is_confirmed
            assert box.first_bytes == [TLS, TLS]
            assert alice.peers()[bob.did].wire == "v2"
            assert alice.peers()[bob.did].failed_attempts == 0
            assert await take(bob, 1) == [b"secret"]
            await alice.close()


@on_both_loops
async def test_hang_ups_that_do_not_follow_each_other_make_nobody_a_v1_peer() -> None:
    """Who answers TLS in between, whatever comes of it, is no v1 peer."""
    first_bytes: list[int] = []

    async def hang_up() -> None:
        with await server.accept() as link:
            first = await within(LIMIT, asyncio.get_running_loop().sock_recv(link.sock, 65536))
            first_bytes.append(first[0])

    with RawServer() as server:
        async with Net().node(ALICE, v1_peers="all", max_attempts=100) as alice:
            alice.routing.update(BOB.did, server.address)
            alice.send_nowait(BOB.did, b"secret")
            await hang_up()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                (await RawPeer.accept(server, CAROL, ALICE)).close()
            await hang_up()
            # One more makes two in a row.
            await hang_up()
            await hang_up()
            assert first_bytes == [TLS, TLS, TLS, PLAIN]


@pytest.mark.parametrize("allowed", ["all", [BOB.did], [], [CAROL.did]])
@on_both_loops
async def test_two_hang_ups_on_tls_make_a_v1_peer_where_that_is_allowed(allowed: Any) -> None:
    net = Net()
    is_allowed = allowed in ("all", [BOB.did])
    async with net.node(ALICE, v1_peers=allowed) as alice, net.node(BOB, wire="v1") as bob:
        with MiddleBox(address_of(bob)) as box:
            alice.routing.update(bob.did, box.address)
            receipt = alice.send_nowait(bob.did, b"x")
            if is_allowed:
                await within(LIMIT, receipt.wait(DeliveryState.WRITTEN))
                assert await take(bob, 1) == [b"x"]
                assert box.first_bytes == [TLS, TLS, PLAIN]
                assert alice.peers()[bob.did].wire == "v1"
            else:
                with pytest.raises(DeliveryFailedError) as failure:
                    await receipt.wait(DeliveryState.WRITTEN, LIMIT)
                assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
                assert box.first_bytes == [TLS] * 3
                assert alice.peers()[bob.did].wire is None
            await alice.close()


@on_both_loops
async def test_after_a_v1_connection_v2_is_tried_first_and_one_hang_up_is_enough() -> None:
    net = Net()
    async with net.node(ALICE, v1_peers="all") as alice, net.node(BOB, wire="v1") as bob:
        with MiddleBox(address_of(bob)) as box:
            alice.routing.update(bob.did, box.address)
            await within(LIMIT, alice.send(bob.did, b"1"))
            assert await take(bob, 1) == [b"1"]
            box.cut_all()
            await eventually(lambda: alice.peers()[bob.did].wire is None)
            await within(LIMIT, alice.send(bob.did, b"2"))
            assert await take(bob, 1) == [b"2"]
            assert box.first_bytes == [TLS, TLS, PLAIN, TLS, PLAIN]
            await alice.close()


@on_both_loops
async def test_a_v1_peer_that_is_upgraded_in_place_is_spoken_to_over_v2() -> None:
    net = Net()
    async with net.node(ALICE, v1_peers="all") as alice:
        async with net.node(BOB, wire="v1") as bob:
            address = address_of(bob)
            meet(alice, bob)
            await within(LIMIT, alice.send(bob.did, b"1"))
            assert await take(bob, 1) == [b"1"]
            assert type(dialer_to(alice, bob.did)).__name__ == "V1Sender"
        await eventually(lambda: alice.peers()[BOB.did].wire is None)
        # Large messages go again, at once: it may speak v2.
        large = alice.send_nowait(BOB.did, bytes(5000))
        async with net.node(BOB, listen=address) as bob:
            await within(LIMIT, large.wait(DeliveryState.ACCEPTED))
            receipt = await within(LIMIT, alice.send(bob.did, b"2"))
            assert receipt.is_confirmed
            assert await take(bob, 2) == [bytes(5000), b"2"]
            assert alice.peers()[bob.did].wire == "v2"
            assert isinstance(dialer_to(alice, bob.did), LinkDialer)
            assert bob.stats().dropped == {}


@on_both_loops
async def test_a_v1_connection_that_lost_its_place_is_followed_by_v2() -> None:
    """Its peer may have been upgraded since, as with any other end."""
    net = Net()
    async with (
        net.node(ALICE, v1_peers="all", max_connections=1) as alice,
        net.node(BOB, wire="v1") as bob,
        net.node(CAROL) as carol,
    ):
        meet(alice, carol)
        with MiddleBox(address_of(bob)) as box:
            alice.routing.update(bob.did, box.address)
            await within(LIMIT, alice.send(bob.did, b"1"))
            assert await take(bob, 1) == [b"1"]
            await within(LIMIT, alice.send(carol.did, b"x"))
            assert alice.stats().evictions == 1
            before = len(box.first_bytes)
            await within(LIMIT, alice.send(bob.did, b"2"))
            assert await take(bob, 1) == [b"2"]
            assert box.first_bytes[before:] == [TLS, PLAIN]
            await alice.close()


@on_both_loops
async def test_a_message_too_large_for_v1_fails_alone_where_it_was_queued_before() -> None:
    net = Net()
    async with net.node(ALICE, v1_peers="all") as alice, net.node(BOB, wire="v1") as bob:
        meet(alice, bob)
        sizes = [10, 1025, 1024, 100_000, 0]
        receipts = [alice.send_nowait(bob.did, bytes(size)) for size in sizes]
        await within(LIMIT, receipts[-1].wait(DeliveryState.WRITTEN))
        assert [receipt.state for receipt in receipts] == [
            DeliveryState.WRITTEN if size <= 1024 else DeliveryState.FAILED for size in sizes
        ]
        for receipt in (receipts[1], receipts[3]):
            assert receipt.reason is Reason.TOO_LARGE
            assert "v1" in receipt.detail
        assert await take(bob, 3) == [bytes(10), bytes(1024), b""]
        assert bob.stats().dropped.keys() <= {Reason.WRONG_PROTOCOL}  # our TLS


# -- strangers -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no hello", "hello", "reset", "close", "garbage", "known epoch"])
@on_both_loops
async def test_a_stranger_that_brings_nothing_leaves_nothing(how: str) -> None:
    async with Net().node(BOB) as bob, Watch(bob) as watch:
        for number in range(100, 103):
            who = identity(number)
            stranger = await RawPeer.dial(
                bob,
                who,
                is_mute=how == "no hello",
                known_epoch=HUGE if how == "known epoch" else 0,
            )
            await stranger.next(HelloReceived)
            if how == "garbage":
                await stranger.say(b"\0\0\0\1\x7f")
            if how == "reset":
                stranger.reset()
            elif how == "close":
                await stranger.end()
            else:
                if how in ("garbage", "known epoch"):
                    await stranger.next(Closed)
                stranger.close()
            await eventually(lambda: bob.stats().inbound_connections == 0)
            assert is_forgotten(bob, who.did)
        assert bob.peers() == {}
        sessions = bob._core.endpoint.sessions.all()
        assert not any(one.has_sender or one.has_receiver for one in sessions)
        assert not bob._core.endpoint.links
        connected = 3 if how in ("hello", "reset", "close", "garbage") else 0
        await eventually(lambda: len(watch.of(PeerDisconnected)) == connected)
        assert len(watch.of(PeerConnected)) == connected


@on_asyncio
async def test_a_stranger_that_is_turned_away_leaves_nothing() -> None:
    async with Net().node(BOB) as bob:
        bob.access.deny(CAROL.did)
        with await RawPeer.dial(bob, CAROL) as stranger, pytest.raises(AssertionError):
            await stranger.next(HelloReceived)
        await eventually(lambda: bob.stats().inbound_connections == 0)
        assert is_forgotten(bob, CAROL.did)


# -- attempts ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def picky_peer(
    alice: Node, code: int, is_bad: Callable[[bytes], bool], *, seen: list[bytes]
) -> AsyncIterator[None]:
    """BOB, who ends the link with `code` when a payload that is bad comes, and signs for others."""

    async def serve() -> None:
        while True:
            peer = await RawPeer.accept(server, BOB, ALICE)
            with peer, contextlib.suppress(AssertionError, OSError):
                while True:
                    batch = await peer.next(BatchReceived)
                    if any(is_bad(payload) for payload in payloads(batch)):
                        await peer.end(code)
                        break
                    seen.extend(payloads(batch))
                    await peer.receipt(batch)

    with RawServer() as server:
        alice.routing.update(BOB.did, server.address)
        task = asyncio.create_task(serve())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("max_attempts", [1, 3])
@pytest.mark.parametrize("warm", [True, False])
@on_both_loops
async def test_a_message_that_breaks_its_receiver_is_given_up(
    max_attempts: int, warm: bool
) -> None:
    comings = 0
    seen: list[bytes] = []

    def is_bad(payload: bytes) -> bool:
        nonlocal comings
        comings += payload == b"poison"
        return payload == b"poison"

    async with (
        Net().node(ALICE, max_attempts=max_attempts) as alice,
        picky_peer(alice, frames.CLOSE_PROTOCOL_ERROR, is_bad, seen=seen),
    ):
        if warm:
            await within(LIMIT, alice.send(BOB.did, b"before"))
        poison = alice.send_nowait(BOB.did, b"poison")
        with pytest.raises(DeliveryFailedError) as failure:
            await poison.wait(DeliveryState.ACCEPTED, LIMIT)
        assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
        assert comings == max_attempts
        await within(LIMIT, alice.send(BOB.did, b"after"))
        assert seen == [b"before", b"after"][not warm :]
        await alice.close()


@on_both_loops
async def test_what_is_queued_behind_a_message_that_breaks_its_receiver_arrives() -> None:
    """It comes while the bad one is tried again and again."""
    seen: list[bytes] = []
    comings = 0
    async with Net().node(ALICE, max_attempts=3, send_queue_limit=10) as alice:
        behind: list[Receipt] = []

        def is_bad(payload: bytes) -> bool:
            nonlocal comings
            if payload == b"poison":
                comings += 1
                if comings == 2:
                    behind.append(alice.send_nowait(BOB.did, b"behind"))
            return payload == b"poison"

        async with picky_peer(alice, frames.CLOSE_PROTOCOL_ERROR, is_bad, seen=seen):
            poison = alice.send_nowait(BOB.did, b"poison")
            with pytest.raises(DeliveryFailedError):
                await poison.wait(DeliveryState.ACCEPTED, LIMIT)
            await within(LIMIT, behind[0].wait(DeliveryState.ACCEPTED))
            assert (comings, seen) == (3, [b"behind"])
            await alice.close()


@pytest.mark.parametrize(
    "code", [frames.CLOSE_DONE, frames.CLOSE_DUPLICATE_LINK, frames.CLOSE_EVICTED]
)
@on_both_loops
async def test_orderly_ends_cost_no_attempt(code: int) -> None:
    comings = 0
    seen: list[bytes] = []

    def is_bad(payload: bytes) -> bool:
        nonlocal comings
        comings += 1
        return comings % 4 != 0

    async with (
        Net().node(ALICE, max_attempts=1) as alice,
        picky_peer(alice, code, is_bad, seen=seen),
    ):
        for payload in (b"x", b"y"):  # an answer between them: it is counted anew
            await within(LIMIT, alice.send(BOB.did, payload))
        assert (comings, seen) == (8, [b"x", b"y"])
        assert alice.peers()[BOB.did].failed_attempts == 0
        await alice.close()


@pytest.mark.parametrize(
    "code", [frames.CLOSE_DONE, frames.CLOSE_EVICTED, frames.CLOSE_UNAVAILABLE]
)
@on_both_loops
async def test_orderly_ends_without_end_are_attempts(code: int) -> None:
    """Three in a row without an answer are excused; each further one counts."""
    comings = 0

    def is_bad(payload: bytes) -> bool:
        nonlocal comings
        comings += 1
        return True

    async with Net().node(ALICE, max_attempts=2) as alice, picky_peer(alice, code, is_bad, seen=[]):
        with pytest.raises(DeliveryFailedError, match="so the test wants") as failure:
            await within(LIMIT, alice.send(BOB.did, b"x"))
        assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
        assert comings == 5
        await alice.close()


@on_asyncio
async def test_who_has_no_other_link_dials_again_after_a_duplicate() -> None:
    """Both sides may close the link that the other one keeps, if their HELLOs cross."""
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"x")
            with await RawPeer.accept(server, BOB, ALICE) as first:
                await first.receipt(await first.next(BatchReceived))
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
                first.session.close(frames.CLOSE_DUPLICATE_LINK, "there is another link")
                await first.say()
                with await RawPeer.accept(server, BOB, ALICE) as second:
                    await second.next(HelloReceived)
                    await eventually(lambda: links_of(alice))


class OddError(Exception):
    """What no network should raise."""


@pytest.mark.parametrize("wire", ["auto", "v1"])
@pytest.mark.parametrize(
    "error", [OddError("odd"), OSError("odd"), ValueError(), ExceptionGroup("odd", [OddError()])]
)
@on_both_loops
async def test_whatever_a_network_raises_is_a_failed_attempt(
    wire: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "signedwire")
    network = RecordingNetwork()
    network.error = error
    config = quick(wire=wire, max_connections=1)
    async with (
        Node(ALICE, config, network=network) as alice,
        Node(BOB, quick(wire=wire)) as bob,
    ):
        meet(alice, bob)
        with pytest.raises(DeliveryFailedError) as failure:
            await within(LIMIT, alice.send(bob.did, b"lost"))
        assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
        assert repr(error) in str(failure.value)
        assert len(network.dialed_at) == alice.stats().dial_failures == 3
        assert sum(record.exc_info is not None for record in caplog.records) == 3
        await eventually(lambda: alice.pool_stats().active == 0)
        receipt = alice.send_nowait(bob.did, b"x")
        await eventually(lambda: len(network.dialed_at) >= 4)
        network.error = None
        await within(LIMIT, receipt.wait(DeliveryState.WRITTEN))
        assert await take(bob, 1) == [b"x"]
        assert alice.pool_stats().active == 1


# -- too many ------------------------------------------------------------------------


def hosts_in_order(monkeypatch: pytest.MonkeyPatch, names: Iterable[str]) -> None:
    """Connections count as those of these hosts, in the order in which they are accepted."""
    left = iter(names)
    monkeypatch.setattr(tcp_stream, "host_group", lambda _: next(left))


@on_both_loops
async def test_the_host_with_most_links_loses_its_least_recently_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts_in_order(monkeypatch, ["one", "two", "two", "two", "three"])
    names = ["lone", "used", "unused", "last", "newcomer"]
    async with (
        Net().node(BOB, max_inbound_connections=4) as bob,
        contextlib.AsyncExitStack() as stack,
    ):
        peers: dict[str, RawPeer] = {}
        for number, name in enumerate(names):
            if name == "newcomer":
                await peers["used"].send(peers["used"].body(1, b"x"))
                await next_of(bob)
            peer = peers[name] = stack.enter_context(
                await RawPeer.dial(bob, identity(200 + number))
            )
            await peer.next(HelloReceived)
            # Its PONG is the last that it brings unasked.
            await eventually(
                lambda peer=peer: (
                    (status := bob.peers().get(peer.who.did)) and status.round_trip is not None  # type: ignore[misc]
                )
            )
        closed = await peers["unused"].next(Closed)
        assert (closed.code, closed.is_by_peer) == (frames.CLOSE_TOO_MANY, True)
        await eventually(lambda: len(links_of(bob)) == 4)
        left = {link.state.did for link in links_of(bob)}
        assert left == {peer.who.did for name, peer in peers.items() if name != "unused"}
        await eventually(lambda: bob.stats().inbound_connections == 4)


@on_asyncio
async def test_a_link_that_made_room_is_counted() -> None:
    async with Net().node(BOB, max_inbound_connections=1) as bob:
        with await RawPeer.dial(bob, ALICE) as old:
            await old.next(HelloReceived)
            with await RawPeer.dial(bob, CAROL) as new:
                assert (await old.next(Closed)).code == frames.CLOSE_TOO_MANY
                await new.next(HelloReceived)
                assert bob.stats().dropped == {Reason.CONNECTION_LIMIT: 1}


@on_both_loops
async def test_who_lost_its_link_to_another_dials_only_to_send() -> None:
    network = MemoryNetwork()
    async with (
        Node(BOB, quick(max_inbound_connections=1), network=network) as bob,
        Node(ALICE, quick(), network=network) as alice,
        Node(CAROL, quick(), network=network) as carol,
        Watch(alice) as watch,
    ):
        meet(alice, bob)
        meet(carol, bob)
        await within(LIMIT, alice.send(bob.did, b"1"))
        dialer = dialer_to(alice, bob.did)
        await within(LIMIT, carol.send(bob.did, b"2"))
        await eventually(lambda: watch.of(PeerDisconnected))
        (lost,) = watch.of(PeerDisconnected)
        assert lost.kind is FailureKind.FULL
        assert lost.cause == (
            "the peer closed the link with code 5 (too many connections): "
            "made room for a newer connection"
        )
        # A link that is to be kept up is dialed in the very turn in which it was lost.
        assert dialer._connecting is None
        assert dialer.state is PeerState.IDLE
        assert alice.pool_stats().active == 0
        assert alice.peers()[bob.did].failed_attempts == 0
        await within(LIMIT, alice.send(bob.did, b"3"))
        assert await take(bob, 3) == [b"1", b"2", b"3"]
        assert alice.stats().reconnections == 1


@on_both_loops
async def test_who_lost_its_link_by_accident_dials_at_once() -> None:
    """The opposite of the one above, so that it can fail."""
    async with Net().pair() as (alice, bob), Watch(alice) as watch:
        with MiddleBox(address_of(bob)) as box:
            alice.routing.update(bob.did, box.address)
            await within(LIMIT, alice.send(bob.did, b"1"))
            box.cut_all()
            await eventually(lambda: len(watch.of(PeerConnected)) == 2)
            await eventually(lambda: alice.stats().reconnections == 1)
            await alice.close()


# -- what is told ----------------------------------------------------------------------


@both_networks
@on_both_loops
async def test_the_round_trip_is_more_than_nothing(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        await within(LIMIT, alice.send(bob.did, b"x"))
        for node, other in ((alice, bob), (bob, alice)):
            await eventually(lambda n=node, o=other: n.peers()[o.did].round_trip is not None)  # type: ignore[misc]
            round_trip = node.peers()[other.did].round_trip
            assert round_trip is not None
            assert 0 < round_trip < 1


@both_networks
@on_both_loops
async def test_the_clock_of_a_peer_is_measured(network: str) -> None:
    """Both sides are in this process, so they have one clock."""
    async with Net(network).pair() as (alice, bob):
        await within(LIMIT, alice.send(bob.did, b"x"))
        for node, other in ((alice, bob), (bob, alice)):
            await eventually(lambda n=node, o=other: n.peers()[o.did].clock_offset is not None)  # type: ignore[misc]
            status = node.peers()[other.did]
            assert status.clock_offset is not None
            assert status.clock_offset_bound is not None
            assert abs(status.clock_offset) <= status.clock_offset_bound < 1


# -- routes that change -----------------------------------------------------------------


@on_both_loops
async def test_a_route_that_changes_while_idle_is_taken_by_the_next_message() -> None:
    net = Net()
    async with (
        net.node(ALICE, max_connections=1) as alice,
        net.node(BOB) as bob,
        net.node(CAROL) as carol,
    ):
        meet(alice, carol)
        with MiddleBox(address_of(bob)) as old, MiddleBox(address_of(bob)) as new:
            alice.routing.update(bob.did, old.address)
            await within(LIMIT, alice.send(bob.did, b"1"))
            replaced = dialer_to(alice, bob.did)
            await within(LIMIT, alice.send(carol.did, b"x"))  # takes the one place
            assert replaced.state is PeerState.IDLE
            alice.routing.update(bob.did, new.address)
            await within(LIMIT, alice.send(bob.did, b"2"))
            assert await take(bob, 2) == [b"1", b"2"]
            assert (len(old.first_bytes), len(new.first_bytes)) == (1, 1)
            assert alice.peers()[bob.did].address == new.address
            assert replaced not in dialers(alice)
            assert len(dialers(alice)) == 2
            await eventually(lambda: not connecting())
            await alice.close()


@pytest.mark.parametrize("is_told", [True, False], ids=["a new message", "no new message"])
@on_both_loops
async def test_a_route_that_changes_while_backing_off(is_told: bool) -> None:
    """A new message goes to the new address at once; without one the pause is waited out."""
    pause = 60.0 if is_told else 0.2
    changes = {"retry_base_delay": pause / 2, "retry_max_delay": pause, "max_attempts": 1000}
    async with Net().pair(**changes) as (alice, bob):
        with refusing_address() as nowhere:
            alice.routing.update(bob.did, nowhere)
            receipts = [alice.send_nowait(bob.did, b"1")]
            await eventually(lambda: alice.peers()[bob.did].state is PeerState.BACKING_OFF)
            replaced = dialer_to(alice, bob.did)
            meet(alice, bob)
            if is_told:
                receipts.append(alice.send_nowait(bob.did, b"2"))
            for receipt in receipts:
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
            assert await take(bob, len(receipts)) == [b"1", b"2"][: len(receipts)]
            assert dialers(alice) == [dialer_to(alice, bob.did)]
            assert replaced not in dialers(alice)
            await eventually(lambda: not connecting())
            assert replaced._connecting is None
            assert alice.pool_stats().active == 1


@on_both_loops
async def test_a_route_that_changes_while_dialing_frees_the_place() -> None:
    """The old address takes the connection and then is silent."""
    net = Net()
    async with net.node(ALICE, max_connections=1) as alice, net.node(BOB) as bob:
        with RawServer() as silent:
            alice.routing.update(bob.did, silent.address)
            first = alice.send_nowait(bob.did, b"1")
            with await silent.accept() as link:
                replaced = dialer_to(alice, bob.did)
                assert replaced.state is PeerState.DIALING
                meet(alice, bob)
                await within(LIMIT, alice.send(bob.did, b"2"))
                assert first.is_confirmed
                assert await take(bob, 2) == [b"1", b"2"]
                assert dialers(alice) == [dialer_to(alice, bob.did)]
                await eventually(lambda: not connecting())
                assert alice.pool_stats().active == 1
                await link.wait_closed()


@on_both_loops
async def test_many_changes_of_a_route_leave_one_dialer() -> None:
    _, draw = random_seed()
    pauses = {"retry_base_delay": 1.0, "retry_max_delay": 1.0}
    async with Net().pair(max_attempts=1000, **pauses) as (alice, bob):
        with refusing_address() as nowhere, RawServer() as silent:
            receipts = []
            for number in range(30):
                alice.routing.update(bob.did, draw.choice([nowhere, silent.address]))
                receipts.append(alice.send_nowait(bob.did, b"%d" % number))
                for _ in range(draw.randrange(4)):
                    await asyncio.sleep(0)
                assert len(dialers(alice)) <= 1
            meet(alice, bob)
            receipts.append(alice.send_nowait(bob.did, b"30"))
            await within(LIMIT, receipts[-1].wait(DeliveryState.ACCEPTED))
            assert await take(bob, 31) == [b"%d" % n for n in range(31)]
            assert len(dialers(alice)) == 1
            await eventually(lambda: not connecting())
            assert alice.pool_stats().active == 1


@both_networks
@on_both_loops
async def test_a_record_that_does_not_decrypt_is_no_bad_identity(network: str) -> None:
    """Both sides have proven their DIDs: one has broken TLS, the other gets its alert."""
    async with Net(network).pair(wire="auto") as (alice, bob):
        async with Watch(alice) as watch:
            await within(LIMIT, alice.send(bob.did, b"x"))
            (link,) = links_of(bob)
            link.received(b"\x17\x03\x03\x00\x20" + bytes(32))
            await eventually(lambda: watch.of(PeerDisconnected))
        (ended,) = watch.of(PeerDisconnected)
        assert ended.kind is FailureKind.TLS_FAILED
        for node in (alice, bob):
            assert node.stats().dropped == {Reason.PROTOCOL_ERROR: 1}


@on_both_loops
async def test_bytes_that_prove_nothing_are_a_bad_identity() -> None:
    async with Net().pair(wire="auto") as (_, bob):
        assert isinstance(bob.address, Address)
        reader, writer = await asyncio.open_connection(bob.address.host, bob.address.port)
        writer.write(b"\x16\x03\x03\x00\x20" + bytes(32))
        await within(LIMIT, reader.read())
        writer.close()
        assert bob.stats().dropped == {Reason.BAD_IDENTITY: 1}
