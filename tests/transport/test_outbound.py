"""Sending: order, deadlines, attempts, dead and dying peers, and what a broken connection lost."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import random
import select
import socket
import termios
import time
from typing import Any

import pytest

from idkit import id_of, number_of
from netkit import End
from signedwire import (
    Address,
    DeliveryFailedError,
    DeliveryState,
    DialError,
    FailureKind,
    MessageExpiredError,
    Node,
    PeerState,
    Priority,
    Reason,
    Receipt,
    Target,
    TransportConfig,
)
from signedwire.delivery import dial_history as dial_history_module
from signedwire.delivery.backoff import backoff_delays
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.transport import tcp_stream
from signedwire.transport.asyncio_stream import AsyncioStream
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.network import Receiver, Stream
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    SLACK,
    OpenCore,
    RawLink,
    RawServer,
    RecordingNetwork,
    blackhole,
    eventually,
    identity,
    no_leaks,
    on_asyncio,
    on_both_loops,
    quick,
    random_seed,
    refusing_address,
    sealed,
    within,
)

BIG = bytes(8000)
"""900 of them are more than the buffers of both kernels take."""
BIG_SIZE = 4 + 170 + len(BIG)


def roomy(**changes: Any) -> TransportConfig:
    """One that sends `BIG`."""
    return quick(max_frame_size=9000, max_v1_payload_size=8000, **changes)


def unread_bytes(link: RawLink) -> int:
    """What the receiver's kernel has acknowledged and the receiver has not read."""
    count = array.array("i", [0])
    fcntl.ioctl(link.sock.fileno(), termios.FIONREAD, count)
    return count[0]


async def stalled(server: RawServer, sender: OpenCore, receipts: list[Receipt]) -> RawLink:
    """Accept, read nothing, and return when the sender can write no more."""
    link = await server.accept()
    seen = (-1, -1)
    while (now := (unread_bytes(link), sender.core.stats().messages_sent)) != seen or not now[0]:
        seen = now
        await asyncio.sleep(0.05)
    assert any(receipt.state is DeliveryState.QUEUED for receipt in receipts)
    return link


# -- order -------------------------------------------------------------------------


@on_both_loops
async def test_order_within_a_lane_over_many_batches() -> None:
    with RawServer() as server:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, server.address)
            receipts = [sender.post(bytes(900)) for _ in range(1000)]
            with await server.accept() as link:
                assert await link.read_numbers(1000) == list(range(1, 1001))
            await receipts[-1].wait()
            assert {receipt.state for receipt in receipts} == {DeliveryState.WRITTEN}
            stats = sender.core.stats()
            assert (stats.messages_sent, stats.bytes_sent) == (1000, 1000 * (4 + 170 + 900))


@on_asyncio
async def test_lanes_top_down_and_critical_into_a_full_queue() -> None:
    network = RecordingNetwork()
    network.gate.clear()
    with RawServer() as server:
        async with OpenCore(quick(send_queue_limit=8, critical_reserve=2), network) as sender:
            sender.routing.update(BOB.did, server.address)
            lanes = [0, 1, 2, 1, 2, 0, 1, 2]
            for lane in lanes:
                sender.post(priority=Priority(lane))
            with pytest.raises(Exception, match="is full"):
                sender.post(priority=Priority.HIGH)
            for _ in range(2):
                sender.post(priority=Priority.CRITICAL)
            with pytest.raises(Exception, match="is full"):
                sender.post(priority=Priority.CRITICAL)
            network.gate.set()
            with await server.accept() as link:
                numbers = await link.read_numbers(10)
    assert numbers == [9, 10, 3, 5, 8, 2, 4, 7, 1, 6]


@on_asyncio
async def test_peers_of_one_address_share_its_connection_and_all_get_their_turn() -> None:
    with RawServer() as server:
        async with OpenCore() as sender:
            for did in (BOB.did, CAROL.did):
                sender.routing.update(did, server.address)
            for _ in range(300):
                sender.post(to=BOB.did)
            sender.post(to=CAROL.did)
            with await server.accept() as link:
                order = [(await link.read()) for _ in range(301)]
            assert sender.core.pool_stats().active == 1
    recipients = [envelope.recipient for envelope in order if envelope]
    assert recipients.index(CAROL.did) <= 64, "Carol waits for one batch of Bob's, not for all"


# -- dead peers ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refused", "blackhole", "deaf"])
@on_asyncio
async def test_a_dead_peer_delays_no_other(kind: str) -> None:
    with (
        RawServer(receive_buffer=4096) as deaf,
        RawServer() as live,
        refusing_address() as refused,
        blackhole() as hole,
    ):
        dead = {"refused": refused, "blackhole": hole, "deaf": deaf.address}[kind]
        async with OpenCore(roomy()) as sender:
            sender.routing.update(BOB.did, dead)
            sender.routing.update(CAROL.did, live.address)
            count = 900 if kind == "deaf" else 20  # to a deaf one, more than buffers hold
            receipts = []
            for _ in range(count):
                if sender.core.endpoint.sessions.session(BOB.did).sender.lanes.has_room(1):
                    receipts.append(sender.post(BIG))
                    await asyncio.sleep(0)
            sender.post(to=CAROL.did)
            with await live.accept() as link:
                assert await link.read() is not None
                took = []
                for _ in range(3):  # the best of three: the machine may be busy
                    started_at = time.monotonic()
                    sender.post(to=CAROL.did)
                    assert await link.read() is not None
                    took.append(time.monotonic() - started_at)
                assert min(took) < 0.1
    assert any(receipt.state is not DeliveryState.WRITTEN for receipt in receipts)


@on_both_loops
async def test_three_attempts_with_growing_jittered_pauses_then_failed() -> None:
    network = RecordingNetwork()
    config = quick(retry_base_delay=0.01, retry_max_delay=5, retry_jitter=0.25)
    async with OpenCore(config, network) as sender:
        network.error = DialError(Address("10.0.0.1", 9), "connection refused")
        sender.core.runtime.rng = random.Random(5)
        expected = backoff_delays(0.01, 5, 0.25, random.Random(5))
        sender.routing.update(BOB.did, "10.0.0.1:9")
        receipt = sender.post()

        with pytest.raises(DeliveryFailedError, match="connection refused") as caught:
            await receipt.wait(timeout=LIMIT)

        assert caught.value.reason is receipt.reason is Reason.ATTEMPTS_EXHAUSTED
        assert "connection refused" in receipt.detail
        assert len(network.dialed_at) == 3
        for pause, least in zip(network.pauses, expected, strict=False):
            assert least - 0.002 <= pause < least + 0.5, "a loop's clock ticks in milliseconds"
        stats = sender.core.stats()
        assert (stats.dial_failures, stats.send_failures, stats.messages_sent) == (3, 1, 0)
        assert stats.dropped == {Reason.ATTEMPTS_EXHAUSTED: 1}
        status = sender.core.endpoint.status()[BOB.did]
        assert (status.failed_attempts, status.dropped) == (3, {Reason.ATTEMPTS_EXHAUSTED: 1})
        await eventually(lambda: sender.core.endpoint.status()[BOB.did].state is PeerState.IDLE)


@on_asyncio
async def test_a_later_message_gets_three_attempts_of_its_own() -> None:
    network = RecordingNetwork()
    async with OpenCore(quick(), network) as sender:
        network.error = DialError(Address("10.0.0.1", 9), "connection refused")
        sender.routing.update(BOB.did, "10.0.0.1:9")
        first = sender.post()
        await eventually(lambda: len(network.dialed_at) == 2)
        second = sender.post()
        await eventually(lambda: first.is_final)
        assert not second.is_final
        await eventually(lambda: second.is_final)
        assert len(network.dialed_at) == 5
        assert first.reason is second.reason is Reason.ATTEMPTS_EXHAUSTED


@on_asyncio
async def test_after_a_long_silence_the_first_pause_is_short_again() -> None:
    network = RecordingNetwork()
    async with OpenCore(quick(retry_jitter=0, max_attempts=4), network) as sender:
        network.error = DialError(Address("10.0.0.1", 9), "connection refused")
        sender.routing.update(BOB.did, "10.0.0.1:9")
        for _ in range(2):
            receipt = sender.post()
            await eventually(lambda receipt=receipt: receipt.is_final)  # type: ignore[misc]
            # The pause that follows the last attempt still counts.
            await asyncio.sleep(0.06)
        pauses = network.pauses
        assert pauses[4] < 0.035, pauses
        assert pauses[2] >= 0.035


@on_both_loops
async def test_a_peer_that_accepts_and_drops_is_no_recovery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not be hammered, and a message to it must not wait for ever."""
    network = RecordingNetwork()
    with RawServer() as server:

        async def accept_and_drop() -> None:
            while True:
                (await server.accept()).close()

        dropping = asyncio.create_task(accept_and_drop())
        async with OpenCore(quick(retry_jitter=0, retry_max_delay=0.04), network) as sender:
            sender.routing.update(BOB.did, server.address)
            original = AsyncioStream.peer_has_closed

            def look_late(stream: AsyncioStream) -> bool:
                select.select([], [], [], 0.005)  # by now the drop has arrived
                return original(stream)

            monkeypatch.setattr(AsyncioStream, "peer_has_closed", look_late)
            receipt = sender.post()
            with pytest.raises(DeliveryFailedError) as caught:
                await receipt.wait(timeout=LIMIT)
            assert caught.value.reason is Reason.ATTEMPTS_EXHAUSTED
            assert len(network.dialed_at) == 3
            assert network.pauses[0] >= 0.009
            assert network.pauses[1] >= 0.018
        dropping.cancel()
        await asyncio.gather(dropping, return_exceptions=True)


@on_asyncio
async def test_backoff_starts_anew_after_a_connection_that_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial_history_module, "STABLE_AFTER", 0.0)
    with RawServer() as server:
        async with OpenCore(quick(retry_base_delay=60, retry_max_delay=60)) as sender:
            sender.routing.update(BOB.did, server.address)
            for number in range(1, 4):
                receipt = sender.post()
                with await server.accept() as link:
                    assert await link.read_numbers(1) == [number]
                await receipt.wait()
            assert sender.core.stats().reconnections == 2


@on_both_loops
async def test_a_host_name_that_is_none_fails_its_messages() -> None:
    """`socket` raises UnicodeError for it, which is no OSError."""
    async with OpenCore() as sender:
        sender.routing.update(BOB.did, "robot..local:9001")
        with pytest.raises(DeliveryFailedError) as caught:
            await sender.post().wait(timeout=LIMIT)
        assert caught.value.reason is Reason.ATTEMPTS_EXHAUSTED


@on_both_loops
async def test_no_answer_is_a_connect_timeout() -> None:
    with blackhole() as hole:
        async with OpenCore(quick(connect_timeout=0.05, max_attempts=2)) as sender:
            sender.routing.update(BOB.did, hole)
            with pytest.raises(DeliveryFailedError, match=r"no answer within 0.05 s"):
                await sender.post().wait(timeout=LIMIT)


# -- deadlines ---------------------------------------------------------------------------


@on_both_loops
async def test_a_message_to_a_dead_peer_expires_at_its_deadline_and_is_never_written() -> None:
    with blackhole() as hole, RawServer() as server:
        async with OpenCore(quick(connect_timeout=30)) as sender:
            sender.routing.update(BOB.did, hole)
            deadline = time.monotonic() + 0.1
            expiring = sender.post(expires_at=deadline)
            lasting = sender.post()
            with pytest.raises(MessageExpiredError):
                await expiring.wait(timeout=LIMIT)
            assert -0.002 < time.monotonic() - deadline < SLACK, "uvloop counts in milliseconds"
            assert expiring.state is DeliveryState.EXPIRED
            assert sender.core.stats().dropped == {Reason.EXPIRED: 1}

            sender.routing.update(BOB.did, server.address)
            third = sender.post()
            with await server.accept() as link:
                assert await link.read_numbers(2) == [2, 3]
            await lasting.wait()
            await third.wait()


@on_asyncio
async def test_a_deadline_that_has_passed_before_the_write() -> None:
    """The timer has not fired yet, since the loop was held up: the write looks itself."""
    with RawServer() as server:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, server.address)
            first = sender.post()
            with await server.accept() as link:
                assert await link.read_numbers(1) == [1]
                await first.wait()
                late = sender.post(expires_at=time.monotonic() + 0.005)
                last = sender.post()
                select.select([], [], [], 0.01)  # the loop is held up
                await last.wait()
                assert await link.read_numbers(1) == [3]
            assert late.state is DeliveryState.EXPIRED


@on_asyncio
async def test_a_message_in_time_is_not_expired_afterwards() -> None:
    with RawServer() as server:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, server.address)
            receipt = sender.post(expires_at=time.monotonic() + 0.05)
            with await server.accept() as link:
                assert await link.read_numbers(1) == [1]
                await receipt.wait()
                assert not sender.core.endpoint.sessions.session(BOB.did).sender._deadlines
                await asyncio.sleep(0.06)
            assert receipt.state is DeliveryState.WRITTEN
            assert sender.core.stats().send_failures == 0


@on_asyncio
async def test_many_deadlines_at_once_do_not_hold_the_loop_up() -> None:
    async with OpenCore(quick(send_queue_limit=8_000, connect_timeout=30)) as sender:
        with blackhole() as hole:
            sender.routing.update(BOB.did, hole)
            deadline = time.monotonic() + 0.5
            receipts = [sender.post(expires_at=deadline) for _ in range(8_000)]
            await eventually(lambda: receipts[-1].is_final)
            assert time.monotonic() - deadline < SLACK, "not as the square of the queue"
            assert sender.core.stats().dropped == {Reason.EXPIRED: 8_000}


@on_both_loops
async def test_a_deadline_holds_after_the_connection_broke() -> None:
    """Written once, put back because it was not acknowledged, and then nobody answers."""
    with blackhole() as hole, RawServer(receive_buffer=4096) as server:
        async with OpenCore(roomy(connect_timeout=30, max_attempts=100)) as sender:
            sender.routing.update(BOB.did, server.address)
            deadline = time.monotonic() + 1.0
            receipts = [sender.post(BIG, expires_at=deadline) for _ in range(900)]
            link = await stalled(server, sender, receipts)
            sender.routing.update(BOB.did, hole)
            link.reset()
            await eventually(lambda: sender.core.stats().rewritten)
            assert time.monotonic() < deadline
            await eventually(lambda: all(r.state is not DeliveryState.QUEUED for r in receipts), 2)
            assert -0.002 < time.monotonic() - deadline < SLACK, "uvloop counts in milliseconds"
            assert receipts[-1].state is DeliveryState.EXPIRED


# -- restarts and broken connections ----------------------------------------------------


@on_both_loops
async def test_two_hundred_restarts_between_messages_lose_nothing() -> None:
    config = quick(retry_base_delay=0.001, retry_max_delay=0.002)
    async with OpenCore(config) as sender:
        server = RawServer()
        for number in range(1, 201):
            sender.routing.update(BOB.did, server.address)
            receipt = sender.post()
            with await server.accept() as link:
                assert await link.read_numbers(1) == [number]
                await receipt.wait()
                server.close()
            server = RawServer(server.address.port)
        server.close()
        stats = sender.core.stats()
        assert (stats.messages_sent, stats.send_failures) == (200, 0)
        assert stats.reconnections == 199


@on_both_loops
async def test_a_close_that_the_loop_has_not_heard_of_is_seen_before_the_write() -> None:
    with RawServer() as server:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, server.address)
            for number in range(1, 21):
                receipt = sender.post()
                link = await server.accept()
                assert await link.read_numbers(1) == [number]
                await receipt.wait()
                # Nothing runs between the close and the next message.
                link.close()
    assert sender.core.stats().rewritten == 0


@on_both_loops
async def test_a_receiver_that_closes_with_unread_data() -> None:
    """What its host acknowledged and it never read is lost, which v1 cannot know. Not the next."""
    with RawServer() as server:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, server.address)
            first = sender.post()
            link = await server.accept()
            await first.wait()
            await eventually(lambda: unread_bytes(link) == 174)
            link.close()  # with RST, since something is unread
            second = sender.post()
            with await server.accept() as link:
                assert await link.read_numbers(1) == [2]
            await second.wait()


@on_both_loops
async def test_a_reset_with_much_in_flight_loses_only_what_the_peers_host_had() -> None:
    """Exactly those messages are written again that were not acknowledged whole."""
    count, size = 900, BIG_SIZE
    with RawServer(receive_buffer=16384) as server:
        async with OpenCore(roomy()) as sender:
            sender.routing.update(BOB.did, server.address)
            receipts = [sender.post(BIG) for _ in range(count)]
            link = await stalled(server, sender, receipts)
            acknowledged = unread_bytes(link)
            link.reset()
            with await server.accept() as link:
                first_again = acknowledged // size + 1
                expected = list(range(first_again, count + 1))
                assert await link.read_numbers(len(expected)) == expected
            await asyncio.gather(*(receipt.wait() for receipt in receipts))
            stats = sender.core.stats()
            assert stats.rewritten > 0
            assert stats.send_failures == 0


@on_both_loops
async def test_random_resets_lose_only_what_the_peers_host_had() -> None:
    seed, rng = random_seed()
    count, size = 900, BIG_SIZE
    config = roomy(retry_base_delay=0.001, retry_max_delay=0.002, max_attempts=1000)
    with RawServer(receive_buffer=8192) as server:
        async with OpenCore(config) as sender:
            sender.routing.update(BOB.did, server.address)
            receipts = [sender.post(BIG) for _ in range(count)]
            received: set[int] = set()
            for _ in range(20):
                link = await server.accept()
                numbers = await link.read_numbers(rng.randrange(1, 40))
                received |= set(numbers)
                # Until the window is full and acknowledged, so that the count is exact.
                seen = -1
                while (unread := unread_bytes(link)) != seen:
                    seen = unread
                    await asyncio.sleep(0.02)
                lost = (link.bytes_read + unread) // size - link.bytes_read // size
                at = numbers[0] + link.bytes_read // size
                buffered = range(numbers[-1] + 1, at)
                received |= {*buffered, *range(at, at + lost)}  # read or inherently lost
                link.reset()
            with await server.accept() as link:
                while len(received) < count:
                    envelope = await link.read()
                    assert envelope is not None
                    received.add(envelope.sequence_number)
            await asyncio.gather(*(receipt.wait() for receipt in receipts))
    assert received == set(range(1, count + 1)), f"seed={seed}"


@on_both_loops
async def test_a_message_whose_connection_always_breaks_is_given_up() -> None:
    with RawServer(receive_buffer=4096) as server:
        async with OpenCore(roomy(max_attempts=2)) as sender:
            sender.routing.update(BOB.did, server.address)
            receipts = [sender.post(BIG) for _ in range(900)]
            for _ in range(2):
                (await stalled(server, sender, receipts)).reset()
            with await server.accept() as link:
                numbers = await link.read_numbers(1)
                failed = [r for r in receipts if r.state is DeliveryState.FAILED]
                assert failed
                assert {r.reason for r in failed} == {Reason.ATTEMPTS_EXHAUSTED}
                assert "broke" in failed[0].detail
                assert numbers[0] > number_of(failed[-1].message_id)


@on_both_loops
async def test_a_peer_that_half_closes_and_reads_nothing_is_left_at_once() -> None:
    """Its end of stream says that it is gone; what waits must not wait for its window."""
    with RawServer(receive_buffer=4096) as server:
        async with OpenCore(roomy()) as sender:
            sender.routing.update(BOB.did, server.address)
            receipts = [sender.post(BIG) for _ in range(900)]
            with await stalled(server, sender, receipts) as link:
                link.sock.shutdown(socket.SHUT_WR)
                with await within(5 * SLACK, server.accept()) as again:
                    assert await again.read_numbers(1) != []


@on_both_loops
async def test_a_peer_that_writes_is_no_v1_peer() -> None:
    with RawServer() as server:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, server.address)
            receipt = sender.post()
            with await server.accept() as link:
                await receipt.wait()
                await link.write(b"220 mail.example ESMTP\r\n")
                await link.wait_closed()
            await eventually(lambda: sender.core.endpoint.status()[BOB.did].state is PeerState.IDLE)
            status = sender.core.endpoint.status()[BOB.did]
            assert "wrote bytes" in str(status.last_error)
            assert status.last_error_kind is FailureKind.PROTOCOL


@on_asyncio
async def test_a_connection_that_is_closed_while_it_is_dialed() -> None:
    class Dropping(RecordingNetwork):
        async def dial(self, target: Target, receiver: Receiver) -> Stream:
            stream = await super().dial(target, receiver)
            stream.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return stream

    with RawServer() as server:
        async with OpenCore(network=Dropping()) as sender:
            sender.routing.update(BOB.did, server.address)
            with pytest.raises(DeliveryFailedError, match="closed the connection at once"):
                await sender.post().wait(timeout=LIMIT)


@on_asyncio
async def test_where_the_kernel_does_not_tell_taken_passes_for_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = RecordingNetwork()
    monkeypatch.setattr(tcp_stream.TcpStream, "unacknowledged", lambda _: None)
    with RawServer() as server:
        async with OpenCore(network=network) as sender:
            sender.routing.update(BOB.did, server.address)
            receipt = sender.post()
            link = await server.accept()
            await receipt.wait()
            link.reset()
            await eventually(lambda: sender.core.endpoint.status()[BOB.did].state is PeerState.IDLE)
            assert sender.core.stats().rewritten == 0


# -- routes that change ---------------------------------------------------------------------


@on_asyncio
async def test_a_peer_that_moves_takes_its_waiting_messages_along() -> None:
    with refusing_address() as old, RawServer() as new:
        async with OpenCore(quick(retry_base_delay=0.05, max_attempts=10)) as sender:
            sender.routing.update(BOB.did, old)
            receipts = [sender.post() for _ in range(3)]
            await eventually(lambda: sender.core.stats().dial_failures)
            sender.routing.update(BOB.did, new.address)
            with await server_accept(new) as link:
                assert await link.read_numbers(3) == [1, 2, 3]
            await receipts[-1].wait()
            status = sender.core.endpoint.status()[BOB.did]
            assert status.address == new.address


async def server_accept(server: RawServer) -> RawLink:
    return await server.accept()


@on_asyncio
async def test_a_peer_that_moves_while_connected() -> None:
    with RawServer() as old, RawServer() as new:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, old.address)
            await sender.post().wait()
            sender.routing.update(BOB.did, new.address)
            await sender.post().wait()
            with await old.accept() as first, await new.accept() as second:
                assert await first.read_numbers(1) == [1]
                assert await second.read_numbers(1) == [2]


@on_asyncio
async def test_a_route_that_is_removed_fails_what_waits() -> None:
    with refusing_address() as address:
        async with OpenCore(quick(max_attempts=100)) as sender:
            sender.routing.update(BOB.did, address)
            waiting = sender.post()
            await eventually(lambda: sender.core.stats().dial_failures)
            sender.routing.remove(BOB.did)
            with pytest.raises(DeliveryFailedError) as caught:
                await waiting.wait(timeout=LIMIT)
            assert caught.value.reason is Reason.UNKNOWN_PEER


@on_asyncio
async def test_the_states_of_a_peer() -> None:
    network = RecordingNetwork()
    with RawServer() as server:
        async with OpenCore(quick(retry_base_delay=0.1, retry_max_delay=0.2), network) as sender:

            def state() -> PeerState:
                return sender.core.endpoint.status()[BOB.did].state

            sender.routing.update(BOB.did, server.address)
            network.gate.clear()
            network.error = DialError(server.address, "no route to host")
            receipt = sender.post()
            assert state() is PeerState.IDLE
            assert sender.core.endpoint.status()[BOB.did].address is None
            await eventually(lambda: state() is PeerState.DIALING)
            network.gate.set()
            await eventually(lambda: state() is PeerState.BACKING_OFF)
            status = sender.core.endpoint.status()[BOB.did]
            assert status.retry_at is not None
            assert status.last_error_at is not None
            assert status.last_error_at <= time.time() < status.retry_at
            assert status.last_error == f"cannot connect to {server.address}: no route to host"
            assert status.queued[Priority.NORMAL] == 1
            network.error = None
            await receipt.wait(timeout=LIMIT)
            status = sender.core.endpoint.status()[BOB.did]
            assert (status.state, status.retry_at) == (PeerState.CONNECTED, None)
            assert status.round_trip is None or 0 < status.round_trip < 1
        assert state() is PeerState.CLOSED


# -- the pool ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "peers"), [(2, 10), (10, 12)])
@on_both_loops
async def test_more_peers_than_connections(limit: int, peers: int) -> None:
    rounds = 3
    servers = [RawServer() for _ in range(peers)]
    received: list[list[int]] = [[] for _ in servers]

    async def serve(server: RawServer, numbers: list[int]) -> None:
        while len(numbers) < rounds * 20:
            with await server.accept() as link:
                while (envelope := await link.read()) is not None:
                    numbers.append(number_of(envelope.message_id.hex()))

    serving = [
        asyncio.create_task(serve(server, numbers))
        for server, numbers in zip(servers, received, strict=True)
    ]
    async with OpenCore(quick(max_connections=limit)) as sender:
        sent: list[list[int]] = [[] for _ in servers]
        for index, server in enumerate(servers):
            sender.routing.update(identity(100 + index).did, server.address)
        for _ in range(rounds):
            receipts = []
            for index in range(peers):
                for _ in range(20):
                    receipt = sender.post(bytes(500), identity(100 + index).did)
                    receipts.append(receipt)
                    sent[index].append(number_of(receipt.message_id))
            for receipt in receipts:
                await receipt.wait(timeout=LIMIT)
                assert sender.core.pool_stats().active <= limit
        stats = sender.core.stats()
        assert stats.evictions >= peers - limit
        assert (stats.rewritten, stats.send_failures, stats.dial_failures) == (0, 0, 0)
    await within(LIMIT, asyncio.gather(*serving))
    assert received == sent
    for server in servers:
        server.close()


@on_asyncio
async def test_the_least_recently_used_connection_is_evicted() -> None:
    servers = [RawServer() for _ in range(3)]
    dids = [identity(100 + index).did for index in range(3)]
    async with OpenCore(quick(max_connections=2)) as sender:
        for did, server in zip(dids, servers, strict=True):
            sender.routing.update(did, server.address)
        for index in (0, 1, 0):
            await sender.post(to=dids[index]).wait()
        links = [await server.accept() for server in servers[:2]]
        await sender.post(to=dids[2]).wait()
        assert await links[1].read_numbers(2) == [2], "the end follows"
        states = {did: status.state for did, status in sender.core.endpoint.status().items()}
        assert states == {
            dids[0]: PeerState.CONNECTED,
            dids[1]: PeerState.IDLE,
            dids[2]: PeerState.CONNECTED,
        }
    for server in servers:
        server.close()
    for link in links:
        link.close()


@on_asyncio
async def test_a_busy_connection_is_not_evicted() -> None:
    with RawServer(receive_buffer=4096) as deaf, RawServer() as live:
        async with OpenCore(roomy(max_connections=1)) as sender:
            sender.routing.update(BOB.did, deaf.address)
            sender.routing.update(CAROL.did, live.address)
            receipts = [sender.post(BIG) for _ in range(900)]
            link = await stalled(deaf, sender, receipts)
            waiting = sender.post(to=CAROL.did)
            await asyncio.sleep(0.05)
            assert waiting.state is DeliveryState.QUEUED
            assert sender.core.stats().evictions == 0
            assert await link.read_numbers(900) == list(range(1, 901))
            await waiting.wait(timeout=LIMIT)
            assert sender.core.stats().evictions == 1
            link.close()


# -- close -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["stalled", "dialing", "backing off", "waiting for a place"])
@on_both_loops
async def test_close_keeps_its_time(state: str) -> None:
    with RawServer(receive_buffer=4096) as deaf, blackhole() as hole, refusing_address() as refused:
        async with no_leaks():
            config = roomy(
                close_timeout=0.2,
                connect_timeout=60,
                retry_base_delay=60,
                retry_max_delay=60,
                max_connections=1,
            )
            sender = OpenCore(config)
            await sender.core.start()
            address = {"stalled": deaf.address, "backing off": refused}.get(state, hole)
            sender.routing.update(BOB.did, address)
            sender.routing.update(CAROL.did, deaf.address)
            receipts = [sender.post(BIG) for _ in range(1000)]
            if state == "stalled":
                link = await stalled(deaf, sender, receipts)
            elif state == "waiting for a place":
                await eventually(lambda: sender.core.pool_stats().active == 1)
                receipts.append(sender.post(to=CAROL.did))
                await eventually(lambda: sender.core.dialers.slots.pool.has_queue)
            else:
                await eventually(lambda: sender.core.endpoint.status()[BOB.did].state == state)
            started_at = time.monotonic()
            await sender.core.close()
            assert 0.19 <= time.monotonic() - started_at < SLACK
            if state == "stalled":
                link.close()
        failed = [receipt for receipt in receipts if receipt.state is DeliveryState.FAILED]
        assert {receipt.reason for receipt in failed} == {Reason.CLOSED}
        assert not any(receipt.state is DeliveryState.QUEUED for receipt in receipts)
        assert sender.core.stats().dropped == {Reason.CLOSED: len(failed)}
        assert len(failed) + sender.core.stats().messages_sent == len(receipts)


@on_both_loops
async def test_close_lets_out_what_is_queued() -> None:
    with RawServer() as server:
        async with OpenCore(roomy(close_timeout=LIMIT)) as sender:
            sender.routing.update(BOB.did, server.address)
            receipts = [sender.post(BIG) for _ in range(1000)]
            closing = asyncio.create_task(sender.core.close())
            with await server.accept() as link:
                assert await link.read_numbers(1001) == list(range(1, 1001))
            await closing
        assert {receipt.state for receipt in receipts} == {DeliveryState.WRITTEN}


@on_asyncio
async def test_close_over_the_memory_network_with_a_stalled_peer() -> None:
    network = MemoryNetwork()
    listener = await network.listen(Address("deaf", 1), lambda: End(is_reading=False))
    async with no_leaks():
        sender = OpenCore(roomy(close_timeout=0.05), network)
        await sender.core.start()
        sender.routing.update(BOB.did, "deaf:1")
        receipts = [sender.post(BIG) for _ in range(1000)]
        await receipts[0].wait()
        await within(SLACK, sender.core.close())
    assert receipts[-1].reason is Reason.CLOSED
    listener.close()


@on_asyncio
async def test_a_queue_of_another_that_is_empty_is_passed_over() -> None:
    """One peer of a shared address has lost its messages to their deadline."""
    network = RecordingNetwork()
    network.gate.clear()
    with RawServer() as server:
        async with OpenCore(quick(connect_timeout=30), network) as sender:
            for did in (BOB.did, CAROL.did):
                sender.routing.update(did, server.address)
            expired = sender.post(to=BOB.did, expires_at=time.monotonic() + 0.01)
            kept = sender.post(to=CAROL.did)
            await eventually(lambda: expired.is_final)
            network.gate.set()
            with await server.accept() as link:
                assert await link.read_numbers(1) == [2]
            await kept.wait()


@on_asyncio
async def test_nothing_left_to_send_ends_the_dialing() -> None:
    network = RecordingNetwork()
    network.error = DialError(Address("10.0.0.1", 9), "connection refused")
    async with OpenCore(quick(retry_base_delay=0.05, retry_max_delay=1), network) as sender:
        sender.routing.update(BOB.did, "10.0.0.1:9")
        expired = sender.post(expires_at=time.monotonic() + 0.02)
        await eventually(lambda: expired.is_final)
        await eventually(lambda: sender.core.endpoint.status()[BOB.did].state is PeerState.IDLE)
        assert len(network.dialed_at) == 1
        assert sender.core.endpoint.status()[BOB.did].retry_at is None


@on_asyncio
async def test_an_envelope_of_the_callers_own_is_written_as_it_is() -> None:
    envelope = sealed(7, b"as it is")
    with RawServer() as server:
        async with OpenCore() as sender:
            sender.routing.update(BOB.did, server.address)
            sender.core.endpoint.submitter.submit(
                OutgoingMessage(SendOptions(BOB.did, Priority.NORMAL), id_of(7), envelope=envelope),
                8,
            )
            with await server.accept() as link:
                assert await link.read() == envelope
    assert envelope.sender == ALICE.did


def test_the_errors_of_the_operating_system_are_in_its_words() -> None:
    from signedwire.transport.os_errors import describe_os_error

    assert describe_os_error(ConnectionResetError(errno.ECONNRESET, "x")) == (
        "connection reset by peer"
    )


# -- dialers that no peer needs ----------------------------------------------------------


@on_both_loops
async def test_a_dialer_over_v1_is_forgotten_when_no_peer_needs_it() -> None:
    """A peer with many routes in turn leaves no dialers, even where nobody answered."""
    async with Node(ALICE, quick(wire="v1", v1_peers="all")) as node:
        dialers = node._core.dialers
        for number in range(20):
            node.routing.update(BOB.did, f"127.0.0.{number + 1}:9")
            node.send_nowait(BOB.did, b"x", deadline=0.01)
            await asyncio.sleep(0.002)
        await eventually(lambda: len(dialers.all()) == 1)
        (left,) = dialers.all()
        assert left.address == Address("127.0.0.20", 9)


@on_both_loops
async def test_a_dialer_over_v1_stays_while_it_is_connected_or_has_a_peer() -> None:
    with RawServer() as first, RawServer() as second:
        async with Node(ALICE, quick(wire="v1", v1_peers="all")) as node:
            dialers = node._core.dialers
            for did in (BOB.did, CAROL.did):
                node.routing.update(did, first.address)
                await within(LIMIT, node.send(did, b"x", until="written"))
            (old,) = dialers.all()
            for did in (BOB.did, CAROL.did):
                node.routing.update(did, second.address)
                await within(LIMIT, node.send(did, b"x", until="written"))
                assert old in dialers.all(), "it is connected"
            old.evict()
            await eventually(lambda: old not in dialers.all())
            node.routing.update(BOB.did, first.address)
            await within(LIMIT, node.send(BOB.did, b"x", until="written"))
            assert len(dialers.all()) == 2


@on_both_loops
async def test_a_dialer_over_v1_stays_for_its_pause() -> None:
    """Or a peer that hangs up on v2 and on v1 would be dialed without a pause."""
    settings = quick(wire="v1", v1_peers="all", retry_base_delay=5, retry_max_delay=5)
    async with Node(ALICE, settings) as node:
        dialers = node._core.dialers
        node.routing.update(BOB.did, "127.0.0.1:9")
        node.send_nowait(BOB.did, b"x")
        await eventually(lambda: node.peers()[BOB.did].state is PeerState.BACKING_OFF)
        (dialer,) = dialers.all()
        dialers.disconnect(node._core.endpoint.sessions.session(BOB.did))
        await dialer.stop_dialing()
        assert dialers.all() == [dialer]
        dialer.hurry()
        dialer._look_if_needed()  # type: ignore[attr-defined]
        assert dialers.all() == []


@on_both_loops
async def test_a_dialer_over_v1_stays_for_its_pause_if_its_peer_leaves_with_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = quick(wire="v1", v1_peers="all", retry_base_delay=5, retry_max_delay=5)
    with RawServer() as server:
        async with Node(ALICE, settings) as node:
            dialers = node._core.dialers
            monkeypatch.setattr(node._core.endpoint, "note_v1_over", dialers.disconnect)
            node.routing.update(BOB.did, server.address)
            await within(LIMIT, node.send(BOB.did, b"x", until="written"))
            (dialer,) = dialers.all()
            link = await server.accept()
            link.close()
            await eventually(lambda: dialer.state is PeerState.IDLE)
            assert dialers.all() == [dialer]
