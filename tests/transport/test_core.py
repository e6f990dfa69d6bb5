"""The core: what it refuses, its counters, waiting for room, and its end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from idkit import id_of
from signedwire import (
    BackpressureError,
    ClosedError,
    DeliveryState,
    Did,
    NotAllowedError,
    PayloadTooLargeError,
    PeerState,
    Priority,
    Reason,
    Receipt,
    Receiver,
    RoutingTable,
    Stream,
    Target,
    UnknownPeerError,
)
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.sending import wait_for_room
from signedwire.transport import runtime as runtime_module
from signedwire.transport.core import NodeCore
from signedwire.transport.tcp import TcpNetwork
from wirekit import (
    BOB,
    CAROL,
    LIMIT,
    OpenCore,
    RawServer,
    RecordingNetwork,
    blackhole,
    eventually,
    identity,
    no_leaks,
    on_asyncio,
    on_both_loops,
    quick,
    refusing_address,
    within,
)

NORMAL = SendOptions(BOB.did, Priority.NORMAL)
CRITICAL = SendOptions(BOB.did, Priority.CRITICAL)


# -- what is refused ---------------------------------------------------------------


@on_asyncio
async def test_what_is_not_queued_is_told_and_counted() -> None:
    config = quick(v1_peers=[BOB.did, CAROL.did], send_queue_limit=1, critical_reserve=0)
    with blackhole() as hole:
        async with OpenCore(config) as sender:
            with pytest.raises(NotAllowedError) as not_allowed:
                sender.post(to=identity(9).did)
            with pytest.raises(UnknownPeerError) as unknown:
                sender.post()
            sender.routing.update(BOB.did, hole)
            with pytest.raises(PayloadTooLargeError, match="1025 bytes") as too_large:
                sender.post(bytes(1025))
            sender.post(bytes(1024))
            for priority in Priority:
                with pytest.raises(BackpressureError, match="is full") as full:
                    sender.post(priority=priority)
            stats = sender.core.stats()
            assert stats.dropped == {
                Reason.NOT_ALLOWED: 1,
                Reason.UNKNOWN_PEER: 1,
                Reason.TOO_LARGE: 1,
                Reason.QUEUE_FULL: 4,
            }
            assert (stats.backpressure_events, stats.send_failures) == (4, 0)
            assert sender.core.endpoint.status()[BOB.did].dropped == {Reason.QUEUE_FULL: 4}
            for caught in (not_allowed, unknown, too_large, full):
                assert caught.value.reason in stats.dropped
            assert unknown.value.recipient == BOB.did


@on_asyncio
async def test_a_fallback_takes_what_has_no_route() -> None:
    with RawServer() as server:
        async with OpenCore(quick(fallback=server.address)) as sender:
            sender.post(to=BOB.did)
            sender.post(to=CAROL.did)
            with await server.accept() as link:
                assert await link.read_numbers(2) == [1, 2]


@on_asyncio
async def test_before_the_start_and_after_the_end() -> None:
    sender = OpenCore()
    assert sender.core.acceptor.address is None
    assert not sender.core.runtime.is_open
    sender.routing.update(BOB.did, "127.0.0.1:9")
    with pytest.raises(ClosedError):
        sender.post()
    await sender.core.close()
    async with sender:
        sender.core.stats()
    with pytest.raises(ClosedError, match="not queued: this node is closed"):
        sender.post()
    await sender.core.close()


# -- room ------------------------------------------------------------------------------


@on_asyncio
async def test_room_comes_when_half_is_gone() -> None:
    network = RecordingNetwork()
    network.gate.clear()
    with RawServer() as server:
        async with OpenCore(quick(send_queue_limit=4), network) as sender:
            sender.routing.update(BOB.did, server.address)
            await wait_for_room(sender.core, NORMAL)
            for _ in range(4):
                sender.post()
            waiting = asyncio.create_task(wait_for_room(sender.core, NORMAL))
            await wait_for_room(sender.core, CRITICAL)
            done, _ = await asyncio.wait({waiting}, timeout=0.02)
            assert not done
            network.gate.set()
            await within(LIMIT, waiting)


@on_asyncio
async def test_those_who_gave_up_waiting_for_room_leave_nothing_behind() -> None:
    with blackhole() as hole:
        async with OpenCore(quick(send_queue_limit=4, connect_timeout=30)) as sender:
            sender.routing.update(BOB.did, hole)
            for _ in range(4):
                sender.post()
            lanes = sender.core.endpoint.sessions.session(BOB.did).sender.lanes
            for _ in range(50):
                with pytest.raises(TimeoutError):
                    await within(0.001, wait_for_room(sender.core, NORMAL))
            assert len(lanes._durable_half._room_waiters) <= 1


@on_asyncio
async def test_who_waits_for_room_learns_of_the_end() -> None:
    with blackhole() as hole:
        async with OpenCore(quick(send_queue_limit=1, close_timeout=0.02)) as sender:
            sender.routing.update(BOB.did, hole)
            sender.post()
            waiting = [asyncio.create_task(wait_for_room(sender.core, NORMAL)) for _ in range(3)]
            await asyncio.sleep(0)
        await within(LIMIT, asyncio.gather(*waiting))


# -- the end ------------------------------------------------------------------------------


@on_both_loops
async def test_a_second_close_waits_for_the_first() -> None:
    with blackhole() as hole:
        async with no_leaks():
            sender = OpenCore(quick(close_timeout=0.1))
            await sender.core.start()
            sender.routing.update(BOB.did, hole)
            receipt = sender.post()
            first = asyncio.create_task(sender.core.close())
            await asyncio.sleep(0)
            await sender.core.close()
            assert receipt.state is DeliveryState.FAILED
            assert sender.core.endpoint.status()[BOB.did].state is PeerState.CLOSED
            await first


@on_both_loops
async def test_a_cancelled_close_ends_everything_at_once() -> None:
    with blackhole() as hole:
        async with no_leaks():
            sender = OpenCore(quick(close_timeout=60))
            await sender.core.start()
            sender.routing.update(BOB.did, hole)
            receipt = sender.post()
            closing = asyncio.create_task(sender.core.close())
            await asyncio.sleep(0.01)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
        assert receipt.reason is Reason.CLOSED


@on_asyncio
async def test_close_leaves_no_timer_of_a_deadline() -> None:
    with blackhole() as hole:
        async with OpenCore(quick(close_timeout=0.01)) as sender:
            sender.routing.update(BOB.did, hole)
            receipts = [sender.post(expires_at=time.monotonic() + 60) for _ in range(3)]
            await eventually(
                lambda: len(sender.core.endpoint.sessions.session(BOB.did).sender._deadlines) == 3
            )
        assert not sender.core.endpoint.sessions.session(BOB.did).sender._deadlines
        assert {receipt.reason for receipt in receipts} == {Reason.CLOSED}


@on_asyncio
async def test_a_peer_that_moves_during_the_end_makes_no_new_connection() -> None:
    """Its dial takes its time to be cancelled; meanwhile another one looks where its peer is."""

    class Clinging(RecordingNetwork):
        async def dial(self, target: Target, receiver: Receiver) -> Stream:
            if target != ("10.0.0.1", 1):
                return await super().dial(target, receiver)
            try:
                await asyncio.sleep(60)
            finally:
                for _ in range(100):
                    await asyncio.sleep(0.001)
            raise AssertionError

    with RawServer() as server, refusing_address() as refused:
        async with no_leaks():
            config = quick(close_timeout=0.001, retry_max_delay=0.01, max_attempts=1000)
            sender = OpenCore(config, Clinging())
            await sender.core.start()
            sender.routing.update(BOB.did, "10.0.0.1:1")
            sender.routing.update(CAROL.did, refused)
            receipts = [sender.post(), sender.post(to=CAROL.did)]
            await eventually(lambda: sender.core.stats().dial_failures)
            closing = asyncio.create_task(sender.core.close())
            await asyncio.sleep(0.005)
            sender.routing.update(CAROL.did, server.address)
            await closing
        assert {receipt.reason for receipt in receipts} == {Reason.CLOSED}


@on_asyncio
async def test_a_message_that_comes_from_a_thread_during_the_end_is_told() -> None:
    sender = OpenCore(quick(close_timeout=0.001))
    sender.routing.update(BOB.did, "127.0.0.1:9")
    await sender.core.start()
    has_passed, may_go_on = threading.Event(), threading.Event()
    original = sender.core.endpoint.sessions.has_way

    def check_slowly(did: Did) -> bool:
        has_passed.set()
        assert may_go_on.wait(LIMIT)
        return original(did)

    sender.core.endpoint.sessions.has_way = check_slowly  # type: ignore[method-assign]
    posting = asyncio.create_task(
        asyncio.to_thread(sender.post, b"", expires_at=time.monotonic() + 60)
    )
    await asyncio.to_thread(has_passed.wait, LIMIT)
    await sender.core.close()
    may_go_on.set()
    try:
        receipt = await posting
    except ClosedError:
        return
    assert receipt.reason is Reason.CLOSED


def test_a_message_that_comes_when_the_loop_is_gone_is_told() -> None:
    sender = OpenCore(quick(close_timeout=0.001))
    sender.routing.update(BOB.did, "127.0.0.1:9")
    has_passed, may_go_on = threading.Event(), threading.Event()
    original = sender.core.endpoint.sessions.has_way

    def check_slowly(did: Did) -> bool:
        has_passed.set()
        assert may_go_on.wait(LIMIT)
        return original(did)

    sender.core.endpoint.sessions.has_way = check_slowly  # type: ignore[method-assign]
    outcome: list[Receipt | Exception] = []

    def post() -> None:
        try:
            outcome.append(sender.post())
        except Exception as error:  # noqa: BLE001
            outcome.append(error)

    thread = threading.Thread(target=post)

    async def live() -> None:
        async with sender:
            thread.start()
            while not has_passed.is_set():
                await asyncio.sleep(0.001)

    asyncio.run(live())
    may_go_on.set()
    thread.join(LIMIT)
    (result,) = outcome
    assert isinstance(result, ClosedError) or (
        isinstance(result, Receipt) and result.reason is Reason.CLOSED
    ), result


@on_asyncio
async def test_messages_from_many_threads_are_counted_and_arrive() -> None:
    with RawServer() as server:
        async with OpenCore(quick(send_queue_limit=100_000)) as sender:
            sender.routing.update(BOB.did, server.address)

            def submit(first: int) -> None:
                for number in range(first, first + 500):
                    message = OutgoingMessage(NORMAL, id_of(number))
                    sender.core.endpoint.submitter.submit(message, 0)

            sending = [asyncio.to_thread(submit, first) for first in range(0, 2000, 500)]
            reading = asyncio.create_task(read_all(server, 2000))
            await asyncio.gather(*sending)
            numbers = await reading
    assert sorted(numbers) == list(range(2000))
    for first in range(0, 2000, 500):
        mine = [number for number in numbers if first <= number < first + 500]
        assert mine == sorted(mine)


async def read_all(server: RawServer, count: int) -> list[int]:
    with await server.accept() as link:
        return await link.read_numbers(count)


@on_asyncio
async def test_a_failed_start_leaves_nothing() -> None:
    with RawServer() as server:
        async with no_leaks():
            core = NodeCore(quick(listen=server.address), RoutingTable(), TcpNetwork(), None)
            with pytest.raises(OSError, match="in use"):
                await core.start()
            await core.close()


@on_asyncio
async def test_a_core_that_listens_nowhere() -> None:
    async with OpenCore(quick(listen=None)) as sender:
        assert sender.core.acceptor.address is None


@on_asyncio
async def test_a_final_receipt_is_given_up_once() -> None:
    async with OpenCore() as sender:
        message = OutgoingMessage(NORMAL, id_of(1))
        for _ in range(2):
            sender.core.endpoint.sessions.session(BOB.did).sender.give_up(
                message, Reason.ATTEMPTS_EXHAUSTED
            )
        assert sender.core.stats().send_failures == 1


@on_asyncio
async def test_a_blocking_receive_in_the_loop_would_never_end() -> None:
    async with OpenCore() as bob:
        assert bob.core.reader.receive(0) is None
        with pytest.raises(RuntimeError, match="own thread"):
            bob.core.reader.receive(None)


@on_asyncio
async def test_one_stall_is_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each link notices it by its own timer, and says how late that was."""
    now = 100.0
    monkeypatch.setattr(runtime_module, "monotonic", lambda: now)
    async with OpenCore() as core:
        with caplog.at_level(logging.WARNING):
            for late in (3.2, 6.5, 1.1):
                core.core.runtime.note_stall(late)
                now += 0.01
            now += 3.5
            core.core.runtime.note_stall(2.0)
    assert [record.args for record in caplog.records] == [(3.2,), (2.0,)]
