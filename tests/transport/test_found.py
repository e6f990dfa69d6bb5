"""Faults that were once there, each kept from coming back by the smallest test that saw it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import threading
import time
import types
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import pytest
from test_link import Net, links_of, meet, next_of, states, take
from test_links import RawPeer, payloads

from idkit import id_of
from linkkit import body, credits, events_of, hello, open_pair, ping, pong, received
from signedwire import (
    DeliveryFailedError,
    DeliveryState,
    DialError,
    FailureKind,
    Identity,
    MessageExpiredError,
    Node,
    Priority,
    Reason,
    UnknownPeerError,
)
from signedwire.delivery import dial_history as dial_history_module
from signedwire.delivery import peer_sender as peer_sender_module
from signedwire.delivery import peer_session as peer_session_module
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_receiver import PeerReceiver
from signedwire.delivery.receive_streams import ReceiveStreams
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.send_streams import SendStreams
from signedwire.errors import Cause
from signedwire.events import PeerConnected
from signedwire.transport import slots as slots_module
from signedwire.transport import tcp_stream
from signedwire.transport.link import Link
from signedwire.transport.tcp import TcpNetwork
from signedwire.types import Credit, PeerState, Target, unix_time_us
from signedwire.wire import idle as idle_module
from signedwire.wire import link_frames as frames
from signedwire.wire import session as session_module
from signedwire.wire.envelope import sign_batch
from signedwire.wire.link_frames import Epochs
from signedwire.wire.parts import encode_batch
from signedwire.wire.send_window import SendWindow
from signedwire.wire.session import BatchReceived, Closed, HelloReceived, ReceiptsReceived
from tlskit import in_thread, quick
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    SLACK,
    RawServer,
    RecordingNetwork,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    within,
)

MIB: Final = 2**20
HUGE: Final = 2**64 - 1
JUNK: Final = b"\x17\x03\x03\x40\x00" + bytes(65531)


def batch_of(peer: RawPeer, *bodies: bytes) -> bytes:
    """The frame of a signed batch."""
    _, signature, _ = sign_batch(peer.who, list(bodies))
    return encode_batch(signature, list(bodies))


async def dial_wordless(node: Node, who: Identity) -> RawPeer:
    """A proven link whose HELLO is the test's to say; the node has said its own."""
    raw = await RawPeer.dial(node, who, is_mute=True)
    await raw.next(HelloReceived)
    raw._is_mute = False
    raw.session.data_to_send()
    return raw


# -- an end that is not one ------------------------------------------------------------


@pytest.mark.parametrize("says_hello", [True, False])
@on_both_loops
async def test_endless_bytes_behind_close_notify_end_the_link(says_hello: bool) -> None:
    loop = asyncio.get_running_loop()
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE, is_mute=not says_hello) as alice:
            await alice.next(HelloReceived)
            await eventually(lambda: len(links_of(bob)) == says_hello)
            assert bob.stats().inbound_connections == 1
            with contextlib.suppress(ssl.SSLError):
                alice._channel.tls.unwrap()
            await alice._write()
            with contextlib.suppress(ConnectionError):
                for _ in range(16):
                    await within(LIMIT, loop.sock_sendall(alice._sock, JUNK))
            await eventually(lambda: bob.stats().inbound_connections == 0, timeout=2 + SLACK)
            assert not links_of(bob)


# -- deadlines -------------------------------------------------------------------------


@pytest.mark.parametrize("deadline", [timedelta.max, 1e9 + 1, 1e300, float("inf")])
@on_asyncio
async def test_a_deadline_beyond_reason_is_refused_and_holds_nothing_up(
    deadline: float | timedelta,
) -> None:
    async with Net().pair() as (alice, bob):
        before = alice.send_nowait(bob.did, b"before")
        with pytest.raises(ValueError, match="deadline"):
            alice.send_nowait(bob.did, b"far", deadline=deadline)
        await within(LIMIT, alice.send(bob.did, b"after"))
        assert before.is_confirmed
        assert await take(bob, 2) == [b"before", b"after"]


@pytest.mark.parametrize("deadline", [datetime.max.replace(tzinfo=UTC), timedelta(days=10_000)])
@on_asyncio
async def test_a_deadline_in_a_far_future_is_one(deadline: datetime | timedelta) -> None:
    async with Net().pair() as (alice, bob):
        await within(LIMIT, alice.send(bob.did, b"x", deadline=deadline))
        message = await next_of(bob)
        assert message.expires_at_us is not None
        assert message.expires_at_us > unix_time_us() + 9_000 * 24 * 3600 * 1_000_000


@on_asyncio
async def test_a_deadline_is_kept_where_the_peer_has_no_room() -> None:
    async with (
        Net().node(ALICE) as alice,
        Net().node(BOB, credit_bytes=1413, max_payload_size=1000) as bob,
    ):
        meet(alice, bob)
        await within(LIMIT, alice.send(bob.did, bytes(900)))
        started = time.monotonic()
        with pytest.raises(MessageExpiredError):
            await within(LIMIT, alice.send(bob.did, bytes(900), deadline=0.15))
        assert 0.15 <= time.monotonic() - started < 0.15 + SLACK
        assert alice.peers()[bob.did].queued[Priority.NORMAL] == 0


@on_asyncio
async def test_what_was_written_and_expires_unanswered_may_have_arrived() -> None:
    with RawServer() as server:
        async with Net().node(ALICE, max_attempts=1000) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"x", deadline=0.5)
            peer = await RawPeer.accept(server, BOB, ALICE)
            await peer.next(BatchReceived)
            server.close()
            peer.reset()
            with pytest.raises(MessageExpiredError, match="the peer may have taken it"):
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
            assert receipt.detail_kind is FailureKind.UNANSWERED
            assert states(receipt) == ["queued", "written", "queued", "expired"]


# -- a stranger is forgotten while somebody writes to it ---------------------------------


@on_asyncio
async def test_a_message_that_comes_while_its_peer_is_forgotten() -> None:
    async with Net().pair() as (alice, bob):
        endpoint, receipts = alice._core.endpoint, []

        def send() -> None:
            meet(alice, bob)
            receipts.append(alice.send_nowait(bob.did, b"not lost"))

        class Interrupted(SendQueue[Any]):
            """Whoever looks whether it is empty finds it so, and then it is not."""

            __slots__ = ()

            def __bool__(self) -> bool:
                found = super().__bool__()
                if not receipts:
                    thread = threading.Thread(target=send)
                    thread.start()
                    thread.join()
                return found

        alice.routing.remove(bob.did)
        session = endpoint.sessions.session(bob.did)
        session.sender.lanes.__class__ = Interrupted
        endpoint.sessions.forget_if_stranger(session)
        await within(LIMIT, receipts[0].wait(DeliveryState.ACCEPTED))
        assert await take(bob, 1) == [b"not lost"]


@on_asyncio
async def test_a_peer_that_is_forgotten_while_a_message_comes() -> None:
    async with Net().pair() as (alice, bob):
        endpoint, loop = alice._core.endpoint, asyncio.get_running_loop()
        session = endpoint.sessions.session(bob.did)
        sender = session.sender
        forgotten = threading.Event()

        def forget() -> None:
            alice.routing.remove(bob.did)
            endpoint.sessions.forget_if_stranger(session)
            meet(alice, bob)
            forgotten.set()

        class Interrupted(SendQueue[Any]):
            __slots__ = ()

            def put(self, item: Any, stream: int) -> bool:
                loop.call_soon_threadsafe(forget)
                assert forgotten.wait(LIMIT)
                return super().put(item, stream)

        sender.lanes.__class__ = Interrupted
        receipt = await in_thread(alice.send_nowait, bob.did, b"not lost")
        assert endpoint.sessions.session(bob.did).sender is not sender
        await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
        assert await take(bob, 1) == [b"not lost"]


# -- attempts --------------------------------------------------------------------------


@on_asyncio
async def test_who_lives_long_and_lands_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_history_module, "STABLE_AFTER", 0.01)
    arrived = 0

    def receive(self: PeerReceiver, *_: object) -> tuple[list[bytes], list[bytes]]:
        nonlocal arrived
        arrived += 1
        asyncio.get_running_loop().call_later(0.05, cast(Link, self._window._links[-1]).abort)
        return [], []

    monkeypatch.setattr(PeerReceiver, "receive", receive)
    async with Net().pair() as (alice, bob):
        with pytest.raises(DeliveryFailedError) as failure:
            await within(LIMIT, alice.send(bob.did, b"poison"))
        assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
        assert arrived == alice.config.max_attempts


@on_asyncio
async def test_one_excused_opening_excuses_no_later_one() -> None:
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"poison")
            closing = await RawPeer.accept(server, BOB, ALICE, is_silent=True)
            await closing.end(frames.CLOSE_DONE)
            for _ in range(alice.config.max_attempts):
                assert not receipt.is_final
                peer = await RawPeer.accept(server, BOB, ALICE)
                await peer.next(BatchReceived)
                peer.reset()
            with pytest.raises(DeliveryFailedError) as failure:
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
            assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED


@on_asyncio
async def test_an_excused_opening_excuses_no_failed_lookup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, b"x")
            closing = await RawPeer.accept(server, BOB, ALICE, is_silent=True)
            lookups = 0

            async def resolve(_: object, target: Target) -> None:
                nonlocal lookups
                lookups += 1
                raise DialError(target, Cause("the name is unknown", FailureKind.NAME_UNKNOWN))

            monkeypatch.setattr(TcpNetwork, "resolve", resolve)
            await closing.end(frames.CLOSE_DONE)
            with pytest.raises(DeliveryFailedError) as failure:
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
            assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
            assert lookups == alice.config.max_attempts


# -- much at once ----------------------------------------------------------------------


@on_asyncio
async def test_two_who_send_each_other_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    set_options = tcp_stream._set_options

    def with_small_buffers(sock: socket.socket | None) -> None:
        set_options(sock)
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)

    monkeypatch.setattr(tcp_stream, "_set_options", with_small_buffers)
    async with Net().pair() as (alice, bob):
        await within(LIMIT, alice.send(bob.did, b"hello"))
        large = [bytes(MIB - 1000)] * 3
        await within(
            LIMIT,
            asyncio.gather(
                alice.send_many(bob.did, large),
                bob.send_many(alice.did, large),
                take(alice, 3),
                take(bob, 4),
            ),
        )


@on_asyncio
async def test_who_is_denied_between_proof_and_hello_is_not_heard() -> None:
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE) as before:
            await before.send(before.body(1, b"before"))
            assert await take(bob, 1) == [b"before"]
        await eventually(lambda: not links_of(bob))
        with await dial_wordless(bob, ALICE) as alice:
            bob.access.deny(ALICE.did)
            await alice.say(hello().encode(), batch_of(alice, alice.body(2, b"denied")))
            assert (await alice.next(Closed)).code == frames.CLOSE_DENIED
        assert not any(isinstance(event, ReceiptsReceived) for event in alice.events)
        assert bob.stats().messages_received == 1
        assert bob.receive_nowait() is None


def size_of(thing: object) -> int:
    """Bytes of memory that it keeps alive, code aside."""
    seen: set[int] = set()
    todo, size = [thing], 0
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, types.ModuleType, types.FunctionType)):
            continue
        seen.add(id(one))
        size += sys.getsizeof(one)
        todo += gc.get_referents(one)
    return size


def test_a_small_message_does_not_keep_the_large_ones_of_its_batch() -> None:
    streams = ReceiveStreams(bytes(BOB.did), bytes(ALICE.did), 100)
    streams.begin(9)

    def arrive() -> Any:
        bodies = [
            body(1, b"small", sender=ALICE, recipient=BOB, priority=Priority.LOW),
            body(1, bytes(MIB), sender=ALICE, recipient=BOB, priority=Priority.HIGH),
        ]
        small, large = streams.arrived(received(bodies, ALICE), MIB, 1).new
        assert size_of(large) > MIB
        return small

    small = arrive()
    assert size_of(small) < 10_000
    small.envelope.verify()


# -- who can be reached only when it dials -----------------------------------------------


@on_asyncio
async def test_an_earlier_break_kills_no_younger_message() -> None:
    async with Net().node(BOB, close_timeout=0.01) as base:
        peer = base._core.endpoint.sessions.session(ALICE.did)
        timers: list[Any] = []
        robot = await RawPeer.dial(base, ALICE)
        await robot.next(HelloReceived)
        for number in (b"1", b"2"):
            receipt = base.send_nowait(ALICE.did, number)
            await robot.next(BatchReceived)
            robot.reset()
            await eventually(lambda: peer.return_timer is not None)
            timers.append(peer.return_timer)
            base.send_nowait(ALICE.did, b"more")
            await eventually(lambda: not peer.sender.is_scheduled)
            assert peer.return_timer is timers[-1]
            robot = await RawPeer.dial(base, ALICE)
            batch = await robot.next(BatchReceived)
            assert payloads(batch) == [number, b"more"]
            assert peer.return_timer is None
            await robot.receipt(batch)
            await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
        assert all(timer is not None and timer.cancelled() for timer in timers)
        robot.close()


@on_asyncio
async def test_a_message_waits_for_a_robot_to_return() -> None:
    async with Net().node(BOB, close_timeout=0.01) as base:
        robot = await RawPeer.dial(base, ALICE)
        await robot.next(HelloReceived)
        await robot.end()
        await eventually(lambda: base.stats().inbound_connections == 0)
        receipt = base.send_nowait(ALICE.did, b"x")
        with await RawPeer.dial(base, ALICE) as robot:
            batch = await robot.next(BatchReceived)
            assert payloads(batch) == [b"x"]
            await robot.receipt(batch)
            await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))


@on_asyncio
async def test_a_message_does_not_wait_for_ever_for_a_robot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Net().node(BOB) as base:
        monkeypatch.setattr(peer_session_module, "_RETURN_GRACE", 60.0)
        robot = await RawPeer.dial(base, ALICE)
        await robot.next(HelloReceived)
        await robot.end()
        await eventually(lambda: base.stats().inbound_connections == 0)
        monkeypatch.setattr(peer_session_module, "_RETURN_GRACE", 0.1)
        with contextlib.suppress(UnknownPeerError):  # on a slow machine it is late already
            with pytest.raises(DeliveryFailedError) as failure:
                await within(LIMIT, base.send(ALICE.did, b"x"))
            assert failure.value.reason is Reason.UNKNOWN_PEER
        await asyncio.sleep(0.1)
        with pytest.raises(UnknownPeerError, match="It had dialed us"):
            base.send_nowait(ALICE.did, b"y")
        with pytest.raises(UnknownPeerError, match="Add one with"):
            base.send_nowait(CAROL.did, b"y")


@on_asyncio
async def test_a_robot_that_was_cut_is_told_as_such() -> None:
    async with Net().node(BOB, close_timeout=0.01) as base:
        robot = await RawPeer.dial(base, ALICE)
        await robot.next(HelloReceived)
        base.send_nowait(ALICE.did, b"x")
        await robot.next(BatchReceived)
        assert base.peers()[ALICE.did].state is PeerState.CONNECTED
        await asyncio.sleep(0.02)
        cut_at = time.time()
        robot.reset()
        await eventually(lambda: base.peers()[ALICE.did].state is PeerState.IDLE)
        status = base.peers()[ALICE.did]
        assert status.last_error
        assert status.last_error_at is not None
        assert cut_at <= status.since == status.last_error_at <= time.time()


# -- writing -----------------------------------------------------------------------------


@on_asyncio
async def test_a_link_that_has_ended_marks_nothing_as_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SendWindow, "room", lambda self, now: 1 << 30)
    size = 8 * MIB
    takes_all: dict[str, Any] = {
        "credit": credits(99, 2**40, 64, 2**30),
        "max_payload_size": size,
    }
    with RawServer(receive_buffer=32768) as server:
        async with Net().node(
            ALICE, max_payload_size=size, credit_bytes=2 * size, close_timeout=0.01
        ) as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = alice.send_nowait(BOB.did, bytes(size))
            with await RawPeer.accept(server, BOB, ALICE, **takes_all):
                await eventually(lambda: alice.peers()[BOB.did].in_flight)
                (link,) = links_of(alice)
                assert link._socket.is_paused
                assert receipt.state is DeliveryState.QUEUED
                link.close(frames.CLOSE_EVICTED, "so the test wants")
                assert alice.peers()[BOB.did].queued[Priority.NORMAL] == 1
                link.writable()
                assert DeliveryState.WRITTEN not in states(receipt)
                assert alice.stats().messages_sent == 0


@on_asyncio
async def test_peers_can_be_asked_for_while_batches_fly() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with Net().pair() as (alice, bob):
            ends = time.monotonic() + 0.5

            def ask() -> int:
                count = 0
                while time.monotonic() < ends:
                    alice.peers()
                    count += 1
                return count

            asking = asyncio.create_task(in_thread(ask))
            while not asking.done():
                await within(LIMIT, alice.send_many(bob.did, [b"x"] * 500))
                await take(bob, 500)
            assert await asking > 0
    finally:
        sys.setswitchinterval(interval)


# -- peers that ask for much and give nothing ----------------------------------------------


@on_asyncio
async def test_answers_do_not_pile_up_for_who_hangs_up_again_and_again() -> None:
    count = 200
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE) as alice:
            await alice.send(*(alice.body(n, b"x") for n in range(1, count + 1)))
            for n in range(count):
                message = await next_of(bob)
                if n % 2:
                    message.ack()
                else:
                    message.nack()
        await eventually(lambda: bob.stats().inbound_connections == 0)
        receiver = bob._core.endpoint.sessions.session(ALICE.did).receiver
        for _ in range(10):
            with await dial_wordless(bob, ALICE) as alice:
                await alice.say(hello().encode(), frames.Close(frames.CLOSE_DONE, "").encode())
                await eventually(lambda: bob.stats().inbound_connections == 0)
        durable = receiver.answers._durable_half
        assert len(durable._handled) + len(durable._refused) <= count
        with await RawPeer.dial(bob, ALICE) as alice:
            # First that what is refused had been accepted, then the answers.
            for kind in (
                frames.ACCEPTED_ENVELOPES,
                frames.REFUSED_ENVELOPES,
                frames.HANDLED_ENVELOPES,
            ):
                told = await alice.next(ReceiptsReceived)
                assert told.receipts.kind == kind
                assert len(told.receipts.hashes) == len(set(told.receipts.hashes)) == count // 2


def test_refusals_of_what_was_never_sent_cost_next_to_nothing() -> None:
    lane = deque[OutgoingMessage]()
    streams = SendStreams(bytes(ALICE.did), bytes(BOB.did), 9)
    receipts = [
        OutgoingMessage(SendOptions(BOB.did, Priority.NORMAL), id_of(n), b"x") for n in range(4000)
    ]
    lane.extend(receipts)
    roots = []
    while batch := streams.take_batch(lane, Credit(HUGE, HUGE), lambda _: False):
        bodies = [message.body for message in batch]
        signed = received(bodies, ALICE)
        seal = session_module.SentBatch(signed.root, signed.leaves, signed.signature)
        streams.sent(seal, batch, bodies)
        roots.append(seal.root)

    def cost() -> float:
        started = time.process_time()
        for n in range(2000):
            nothing = frames.Receipts(4, 1, (n.to_bytes(32, "big"),), code=6)
            assert not streams.is_expected(nothing)
            assert not streams.refused(nothing, b"")
        return time.process_time() - started

    assert streams.in_flight == 4000
    assert cost() < 0.2
    word = frames.Receipts(frames.ACCEPTED_BATCHES, 1, tuple(roots))
    assert len(streams.receipts(word, b"")) == 4000
    assert cost() < 0.2


@on_asyncio
async def test_who_closes_signs_for_nothing_new() -> None:
    with RawServer() as silent:
        bob = Net().node(BOB, close_timeout=0.3)
        await bob.start()
        bob.routing.update(CAROL.did, silent.address)
        with await RawPeer.dial(bob, ALICE) as alice:
            await alice.next(HelloReceived)
            waiting = bob.send_nowait(CAROL.did, b"keeps close() busy")
            await eventually(lambda: links_of(bob))
            closing = asyncio.create_task(bob.close())
            await eventually(lambda: not bob._core.runtime.is_open)
            before = bob.stats().bytes_received
            await alice.send(alice.body(1, b"too late"))
            await eventually(lambda: bob.stats().bytes_received > before)
            assert not waiting.is_final
            await closing
            assert (await alice.next(Closed)).code == frames.CLOSE_DONE
            assert not any(isinstance(event, ReceiptsReceived) for event in alice.events)
            assert bob.stats().messages_received == 0


@pytest.mark.parametrize("name", ["_MAX_IN_FLIGHT", "_MAX_IN_FLIGHT_BYTES"])
@on_asyncio
async def test_what_is_in_flight_is_bounded_whatever_is_granted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_sender_module, name, 50)
    count, limit = 600, 256
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            receipts = [alice.send_nowait(BOB.did, b"%d" % n) for n in range(count)]
            credit = credits(HUGE, HUGE, HUGE, HUGE)
            with await RawPeer.accept(server, BOB, ALICE, credit=credit) as peer:
                got: list[bytes] = []
                while len(got) < count:
                    batch = await peer.next(BatchReceived)
                    got += payloads(batch)
                    await asyncio.sleep(0.02)
                    assert 0 < alice.peers()[BOB.did].in_flight <= limit
                    await peer.receipt(batch)
                await within(LIMIT, receipts[-1].wait(DeliveryState.ACCEPTED))
                assert got == [b"%d" % n for n in range(count)]


@on_asyncio
async def test_who_never_answers_does_not_keep_the_only_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots_module, "_PATIENCE", 0.1)
    with RawServer() as server:
        async with (
            Net().node(ALICE, max_connections=1, close_timeout=0.01) as alice,
            Net().node(CAROL) as carol,
        ):
            alice.routing.update(BOB.did, server.address)
            meet(alice, carol)
            unanswered = alice.send_nowait(BOB.did, b"x")
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                first = await peer.next(BatchReceived)
                await within(LIMIT, alice.send(carol.did, b"to an honest peer"))
                assert (await peer.next(Closed)).code == frames.CLOSE_EVICTED
            assert not unanswered.is_final
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                again = await peer.next(BatchReceived)
                assert again.bodies == first.bodies
                await peer.receipt(again)
                await within(LIMIT, unanswered.wait(DeliveryState.ACCEPTED))


@pytest.mark.parametrize("is_ahead", [False, True], ids=["our clock", "a clock ahead"])
@on_asyncio
async def test_who_was_forgotten_and_returns_is_sent_a_newer_epoch(is_ahead: bool) -> None:
    """It may have been ahead of our clock, so that the clock alone says nothing."""
    async with Net().node(ALICE) as alice, Net().node(BOB) as bob:
        meet(bob, alice)
        if is_ahead:
            receiver = bob._core.endpoint.sessions.session(alice.did).receiver
            ahead = unix_time_us() + 10**12
            assert receiver.begin(Epochs(ahead, ahead))
            receiver._has_delivered = True
        known = bob._core.endpoint.sessions.session(alice.did).receiver.durable.epoch
        epochs = [known]
        for number in (b"1", b"2", b"3"):
            await within(LIMIT, bob.send(alice.did, b"here I am"))
            assert await take(alice, 1) == [b"here I am"]
            receipt = await within(LIMIT, alice.send(bob.did, number))
            assert receipt.is_confirmed
            assert await take(bob, 1) == [number]
            epochs.append(
                alice._core.endpoint.sessions.session(bob.did).sender.streams.durable.epoch
            )
            del receipt
            gc.collect()
            for link in links_of(alice):
                link.close(frames.CLOSE_EVICTED, "so the test wants")
            await eventually(lambda: not alice._core.endpoint.sessions.session(bob.did).has_sender)
            await eventually(lambda: not links_of(bob))
        assert epochs == sorted(set(epochs))
        assert bob.stats().dropped.keys() <= {Reason.STALE_EPOCH}


IDLE: Final = {
    "ping": ping(1).encode(),
    "pong": pong(1).encode(),
    "refusal": frames.Receipts(4, 1, (bytes(32),), bytes(64), 6).encode(),
    "credit": frames.CreditFrame(hello().credit).encode(),
    "unknown": b"\x00\x00\x00\x01\xff",
}


@pytest.mark.parametrize("frame", IDLE.values(), ids=IDLE)
def test_frames_that_bring_nothing_end_the_link_when_they_are_too_many(
    frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_module, "_MAX_LEVEL", 100)
    alice, _ = open_pair()
    alice._is_expected = lambda _: False
    alice.receive_data(frame * 90, 0.0)
    assert not alice.is_closed
    alice.receive_data(frame * 20, 0.0)
    (closed,) = [event for event in events_of(alice) if isinstance(event, Closed)]
    assert (closed.code, closed.is_by_peer) == (frames.CLOSE_PROTOCOL_ERROR, False)
    assert closed.reason is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("frame", IDLE.values(), ids=IDLE)
def test_frames_that_bring_nothing_are_harmless_now_and_then(
    frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_module, "_MAX_LEVEL", 100)
    alice, _ = open_pair()
    alice._is_expected = lambda _: False
    for n in range(1000):
        alice.receive_data(frame, n * 0.01)
        alice.data_to_send()
    assert not alice.is_closed


@on_asyncio
async def test_a_node_that_is_flooded_with_pings_hangs_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle_module, "_MAX_LEVEL", 1000)
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE) as alice:
            await alice.next(HelloReceived)
            await alice.say(IDLE["ping"] * 5000)
            assert (await alice.next(Closed)).code == frames.CLOSE_PROTOCOL_ERROR


@on_asyncio
async def test_close_does_not_wait_for_hundreds_that_are_being_dialed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots_module, "_TURN", 60.0)  # else slow attempts give way to others
    places = 64
    network = RecordingNetwork()
    with RawServer(backlog=512) as silent:
        config = quick(close_timeout=0.1, max_connections=places)
        alice = Node(ALICE, config, network=network)
        await alice.start()
        dids = [identity(1000 + n).did for n in range(300)]
        for did in dids:
            alice.routing.update(did, silent.address)
        receipts = [alice.send_nowait(did, b"x") for did in dids]
        await eventually(lambda: len(network.dialed_at) == places // 2)
        started = time.monotonic()
        await alice.close()
        assert time.monotonic() - started < 2
        assert {receipt.reason for receipt in receipts} == {Reason.CLOSED}
        assert len(network.dialed_at) == places // 2  # a place that is given up is given to nobody


# -- what people write -------------------------------------------------------------------


@on_asyncio
async def test_events_are_watched_from_the_call_on() -> None:
    async with Net().pair() as (alice, bob):
        events = alice.events()
        await within(LIMIT, alice.send(bob.did, b"x"))
        event = await within(LIMIT, anext(events))
        assert isinstance(event, PeerConnected)
        assert event.did == bob.did
        await events.aclose()  # type: ignore[attr-defined]


def test_a_file_name_is_no_identity() -> None:
    with pytest.raises(TypeError, match=r"Identity\.load"):
        Node("x.pem")  # type: ignore[arg-type]


@on_asyncio
async def test_a_node_is_no_recipient() -> None:
    async with Net().pair() as (alice, bob):
        with pytest.raises(TypeError, match=r"pass its \.did"):
            await alice.send(bob, b"x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"pass its \.did"):
            alice.send_nowait(bob, b"x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"pass its \.did"):
            await alice.send_many(bob, [b"x"])  # type: ignore[arg-type]


@on_asyncio
async def test_a_priority_is_known_by_its_name() -> None:
    async with Net().pair() as (alice, bob):
        await within(LIMIT, alice.send(bob.did, b"stop", priority="critical"))
        assert (await next_of(bob)).priority is Priority.CRITICAL
        with pytest.raises(ValueError, match="known are low, normal, high, critical"):
            alice.send_nowait(bob.did, b"x", priority="urgent")  # type: ignore[arg-type]


@on_asyncio
async def test_dids_may_be_text() -> None:
    async with Net().node(ALICE) as alice:
        with pytest.raises(TypeError, match="not one str"):
            alice.access.allow_only(str(BOB.did))
        assert not alice.access.is_denied(CAROL.did)
        alice.access.allow_only([str(BOB.did)])
        assert alice.access.is_denied(CAROL.did)
        assert not alice.access.is_denied(BOB.did)
        alice.access.deny(str(BOB.did))
        assert alice.access.is_denied(BOB.did)
