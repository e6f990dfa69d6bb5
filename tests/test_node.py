"""`Node`: sending to a key and receiving, deadlines, cancellation, and its end."""

from __future__ import annotations

import asyncio
import copy
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clockkit import SetClock
from signedwire import (
    BackpressureError,
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    DidError,
    Kind,
    ListenError,
    MemoryNetwork,
    Message,
    MessageExpiredError,
    Node,
    NotAllowedError,
    PayloadTooLargeError,
    PayloadType,
    PeerState,
    Priority,
    Reason,
    RoutingTable,
    SignaturePolicy,
    Target,
    TransportConfig,
    TransportError,
    UnknownPeerError,
    clock,
)
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    SLACK,
    RawLink,
    RawServer,
    blackhole,
    eventually,
    framed,
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


class Two:
    """Alice and Bob, open, each with a route to the other."""

    def __init__(self, kind: str = "tcp", **changes: Any) -> None:
        network = MemoryNetwork() if kind == "memory" else None
        self.alice = Node(ALICE, quick(**changes), network=network)
        self.bob = Node(BOB, quick(**changes), network=network)

    async def __aenter__(self) -> tuple[Node, Node]:
        await self.alice.start()
        await self.bob.start()
        assert self.alice.address is not None
        assert self.bob.address is not None
        self.alice.routing.update(BOB.did, self.bob.address)
        self.bob.routing.update(ALICE.did, self.alice.address)
        return self.alice, self.bob

    async def __aexit__(self, *_: object) -> None:
        await self.alice.close()
        await self.bob.close()


both_networks = pytest.mark.parametrize("network", ["tcp", "memory"])


# -- there and back --------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["auto", "v1"])
async def test_both_sides_name_a_message_by_one_id(wire: str) -> None:
    """The third message of the node is the first in its lane to this peer."""
    both = quick(wire=wire, v1_peers="all")
    async with Node(ALICE, both) as alice, Node(BOB, both) as bob, Node(CAROL, both) as carol:
        for peer in (bob, carol):
            alice.routing.update(peer.did, peer.address)
        until = DeliveryState.WRITTEN if wire == "v1" else DeliveryState.ACCEPTED
        await alice.send(bob.did, b"1", until=until)
        await alice.send(carol.did, b"2", until=until)
        receipt = await alice.send(bob.did, b"3", priority="high", until=until)
        messages = [await within(LIMIT, bob.receive()) for _ in range(2)]
        (last,) = (each for each in messages if each.payload == b"3")
        assert receipt.message_id == last.message_id == last.envelope.message_id.hex()
        both_sides = (receipt, last, last.envelope)
        assert all(f" {receipt.message_id[:8]} " in repr(each) for each in both_sides)
        assert last.sequence_number == (3 if wire == "v1" else 1)


@on_both_loops
async def test_a_subject_and_what_is_durable(tmp_path: Path) -> None:
    async with (
        Node(ALICE, quick(wire="auto")) as alice,
        Node(BOB, quick(wire="auto")) as bob,
        Node(CAROL, quick(wire="auto"), store=tmp_path / "store") as carol,
    ):
        for node in (alice, carol):
            node.routing.update(bob.did, bob.address)
        await alice.send(bob.did, b"1", subject="arm/größe", until="accepted")
        await alice.send_many(bob.did, [b"2", b"3"], subject="a" * 255, until="accepted")
        receipt = await carol.send(bob.did, b"4", until="accepted")
        found = [await within(LIMIT, bob.receive()) for _ in range(4)]
        found.sort(key=lambda each: each.payload)  # senders take turns
        assert [each.payload for each in found] == [b"1", b"2", b"3", b"4"]
        assert [each.subject for each in found] == ["arm/größe", "a" * 255, "a" * 255, ""]
        assert all(each.durable for each in found)  # whether their senders have a store or not
        assert {each.kind for each in found} == {Kind.MESSAGE}
        assert found[3].message_id == receipt.message_id


@on_asyncio
@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("a\n", "has a character that is not printable"),
        ("\ud800", "has a character that is not printable"),
        ("o\u0308", "is not in NFC"),
        ("ö" * 128, "has 256 bytes in UTF-8; at most 255 are allowed"),
    ],
)
async def test_a_subject_that_no_header_can_carry(subject: str, text: str) -> None:
    async with Node(ALICE, quick()) as alice:
        with pytest.raises(ValueError, match=text):
            await alice.send(BOB.did, b"x", subject=subject)
        with pytest.raises(ValueError, match=text):
            await alice.send_many(BOB.did, [b"x"], subject=subject)


@both_networks
@on_both_loops
async def test_there_and_back(network: str) -> None:
    async with Two(network) as (alice, bob):
        receipt = await alice.send(
            bob.did, b"ping", priority=Priority.HIGH, payload_type=PayloadType.SENSOR_FUSION
        )
        assert receipt.state is DeliveryState.WRITTEN
        assert not receipt.is_confirmed, "v1 peers never answer"
        message = await bob.receive()
        assert (message.sender, message.payload, message.is_proven) == (alice.did, b"ping", True)
        assert (message.priority, message.payload_type) == (
            Priority.HIGH,
            PayloadType.SENSOR_FUSION,
        )
        assert message.message_id == receipt.message_id
        assert message.sequence_number == 1
        message.envelope.verify()
        await bob.send(str(alice.did), bytearray(b"pong"))
        await bob.send(alice.did.hex(), memoryview(b"again"))
        assert [(await alice.receive()).payload for _ in range(2)] == [b"pong", b"again"]


@both_networks
@on_both_loops
async def test_many_in_order(network: str) -> None:
    async with Two(network, send_queue_limit=50, inbox_limit=50) as (alice, bob):

        async def send() -> None:
            for number in range(2000):
                await alice.send(bob.did, str(number).encode(), until="queued")

        sending = asyncio.create_task(send())
        payloads = [(await bob.receive()).payload for _ in range(2000)]
        await sending
        assert payloads == [str(number).encode() for number in range(2000)]
        assert alice.stats().messages_sent == bob.stats().messages_received == 2000
        assert alice.stats().dropped == bob.stats().dropped == {}


@both_networks
@on_both_loops
async def test_a_round_trip_beside_twenty_messages_to_the_dead(network: str) -> None:
    with blackhole() as hole:
        async with Two(network) as (alice, bob):
            alice.routing.update(CAROL.did, hole if network == "tcp" else "nobody:1")
            for _ in range(20):
                alice.send_nowait(CAROL.did, b"x")
            took = []
            for _ in range(3):  # the best of three: the machine may be busy
                started_at = time.monotonic()
                await alice.send(bob.did, b"ping")
                await bob.receive()
                await bob.send(alice.did, b"pong")
                await alice.receive()
                took.append(time.monotonic() - started_at)
            assert min(took) < 0.1


@on_asyncio
async def test_to_oneself() -> None:
    async with Node(ALICE, quick()) as alice:
        assert alice.address is not None
        alice.routing.update(alice.did, alice.address)
        await alice.send(alice.did, b"note")
        assert (await alice.receive()).sender == alice.did


@on_asyncio
async def test_what_it_says_of_itself() -> None:
    routing, config = RoutingTable(), quick()
    node = Node(ALICE, config, routing)
    assert node.routing is routing
    assert node.config is config
    assert node.did == ALICE.did
    with pytest.raises(ClosedError, match="is not started"):
        _ = node.address
    assert not node.is_listening
    assert repr(node) == f"<Node {ALICE.did.short} not started>"
    async with node:
        assert repr(node) == f"<Node {ALICE.did.short} listening on {node.address}>"
        assert node.peers() == {}
        assert node.pool_stats().active == 0
    assert repr(node) == f"<Node {ALICE.did.short} closed>"
    async with Node(ALICE, TransportConfig(listen=None)) as silent:
        assert repr(silent) == f"<Node {ALICE.did.short} not listening>"
        assert not silent.is_listening
        with pytest.raises(TransportError, match="listen=None"):
            _ = silent.address


@on_asyncio
async def test_nodes_of_the_memory_network_meet_without_a_network_of_their_own() -> None:
    config = TransportConfig.development()
    async with Node(ALICE, config) as alice, Node(BOB, config) as bob:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        await alice.send(bob.did, b"hello")
        assert (await bob.receive()).payload == b"hello"


# -- what is not sent ---------------------------------------------------------------------


@on_asyncio
async def test_arguments_that_make_no_message() -> None:
    async with Two() as (alice, bob):
        wrong: list[tuple[type[Exception], dict[str, Any]]] = [
            (TypeError, {"payload": "text"}),
            (TypeError, {"payload": 5}),
            (DidError, {"to": "nobody"}),
            (ValueError, {"priority": 4}),
            (ValueError, {"payload_type": 5}),
            (ValueError, {"deadline": 0}),
            (ValueError, {"deadline": -1.0}),
            (ValueError, {"deadline": float("nan")}),
            (ValueError, {"deadline": float("inf")}),
            (ValueError, {"deadline": timedelta(seconds=-1)}),
            (ValueError, {"deadline": datetime.now()}),  # no time zone
            (ValueError, {"until": "done"}),
            (ValueError, {"until": "refused"}),
            (ValueError, {"until": "failed"}),
            (ValueError, {"until": "expired"}),
            (PayloadTooLargeError, {"payload": bytes(1025)}),
            (UnknownPeerError, {"to": CAROL.did}),
        ]
        plain: dict[str, Any] = {"to": bob.did, "payload": b""}
        for error, arguments in wrong:
            with pytest.raises(error):
                await alice.send(**(plain | arguments))
        await alice.send(bob.did, bytes(1024))
        assert (await bob.receive()).sequence_number >= 1
        assert alice.stats().messages_sent == 1
        assert bob.stats().messages_received == 1


@on_both_loops
async def test_v1_peers_holds_in_both_directions() -> None:
    async with Two() as (alice, bob), Node(CAROL, quick(v1_peers=[ALICE.did])) as carol:
        assert carol.address is not None
        for node in (alice, bob):
            node.routing.update(carol.did, carol.address)
        carol.routing.update(bob.did, str(bob.address))
        with pytest.raises(NotAllowedError):
            await carol.send(bob.did, b"x")
        await bob.send(carol.did, b"x")
        await alice.send(carol.did, b"y")
        assert (await carol.receive()).sender == alice.did
        await eventually(lambda: carol.stats().dropped.get(Reason.NOT_ALLOWED) == 2)


@on_asyncio
async def test_an_unsigned_message_has_no_sender() -> None:
    from signedwire import SignedEnvelope

    envelope = SignedEnvelope.unsigned(ALICE.did, BOB.did, b"who?", sequence_number=1)
    for policy in SignaturePolicy:
        async with Node(BOB, quick(signatures=policy)) as bob:
            assert bob.address is not None
            with await RawLink.dial(bob.address) as link:
                await link.write(framed(envelope) + framed(sealed(2)))
                first = await bob.receive()
                if policy is SignaturePolicy.REQUIRED:
                    assert first.sequence_number == 2
                    assert bob.stats().dropped == {Reason.UNSIGNED: 1}
                else:
                    assert (first.payload, first.is_proven) == (b"who?", False)


# -- backpressure ---------------------------------------------------------------------------


@on_both_loops
async def test_a_full_queue_refuses_or_makes_wait() -> None:
    with RawServer() as server, blackhole() as hole:
        async with Node(ALICE, quick(send_queue_limit=4, connect_timeout=30)) as alice:
            alice.routing.update(BOB.did, hole)
            for _ in range(4):
                alice.send_nowait(BOB.did, b"x")
            with pytest.raises(BackpressureError):
                alice.send_nowait(BOB.did, b"x")
            alice.send_nowait(BOB.did, b"now", priority=Priority.CRITICAL)
            waiting = [asyncio.create_task(alice.send(BOB.did, b"x")) for _ in range(3)]
            done, _ = await asyncio.wait(waiting, timeout=0.05)
            assert not done
            assert alice.stats().backpressure_events == 1, "who waits is not refused"
            assert alice.stats().dropped == {Reason.QUEUE_FULL: 1}
            alice.routing.update(BOB.did, server.address)
            alice.send_nowait(BOB.did, b"now", priority=Priority.CRITICAL)
            with await server.accept() as link:
                await within(LIMIT, asyncio.gather(*waiting))
                assert len(await link.read_numbers(9)) == 9
            assert alice.stats().dropped == {Reason.QUEUE_FULL: 1}


@on_both_loops
async def test_a_deadline_goes_on_while_the_queue_is_full() -> None:
    with blackhole() as hole:
        async with Node(ALICE, quick(send_queue_limit=1, connect_timeout=30)) as alice:
            alice.routing.update(BOB.did, hole)
            alice.send_nowait(BOB.did, b"x")
            started_at = time.monotonic()
            with pytest.raises(MessageExpiredError, match="queue to the peer was full") as caught:
                await alice.send(BOB.did, b"y", deadline=0.05)
            assert 0.04 < time.monotonic() - started_at < SLACK
            assert caught.value.receipt.state is DeliveryState.EXPIRED
            assert alice.stats().dropped == {Reason.EXPIRED: 1}


@on_asyncio
async def test_who_waits_for_room_when_it_is_closed() -> None:
    with blackhole() as hole:
        async with Node(ALICE, quick(send_queue_limit=1, close_timeout=0.05)) as alice:
            alice.routing.update(BOB.did, hole)
            alice.send_nowait(BOB.did, b"x")
            waiting = asyncio.create_task(alice.send(BOB.did, b"y"))
            await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await waiting


# -- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "deadline", [0.05, timedelta(milliseconds=50), "in 50 ms", "past"], ids=str
)
@on_both_loops
async def test_a_deadline_in_every_form(deadline: Any) -> None:
    with blackhole() as hole:
        async with Node(ALICE, quick(connect_timeout=30, close_timeout=0.01)) as alice:
            alice.routing.update(BOB.did, hole)
            if deadline == "in 50 ms":
                deadline = datetime.now(UTC) + timedelta(milliseconds=50)
            elif deadline == "past":
                deadline = datetime(2000, 1, 1, tzinfo=UTC)
            started_at = time.monotonic()
            with pytest.raises(MessageExpiredError) as caught:
                await alice.send(BOB.did, b"x", deadline=deadline)
            assert time.monotonic() - started_at < SLACK
            assert caught.value.reason is Reason.EXPIRED


@on_asyncio
async def test_failed_is_told_with_its_story() -> None:
    with refusing_address() as address:
        async with Node(ALICE, quick()) as alice:
            alice.routing.update(BOB.did, address)
            with pytest.raises(DeliveryFailedError, match="connection refused") as caught:
                await alice.send(BOB.did, b"x")
            receipt = caught.value.receipt
            assert [step.state for step in receipt.history] == ["queued", "failed"]
            assert alice.peers()[BOB.did].failed_attempts == 3


# -- receiving -------------------------------------------------------------------------------------


@on_both_loops
async def test_waiting_and_not_waiting() -> None:
    async with Two() as (alice, bob):
        assert bob.receive_nowait() is None
        with pytest.raises(TimeoutError, match="no message"):
            await bob.receive(0)
        started_at = time.monotonic()
        with pytest.raises(TimeoutError, match="no message"):
            await bob.receive(0.05)
        assert 0.04 < time.monotonic() - started_at < SLACK
        receiving = asyncio.create_task(bob.receive(LIMIT))
        await asyncio.sleep(0)
        await alice.send(bob.did, b"x")
        message = await receiving
        assert message is not None


@on_asyncio
async def test_the_highest_priority_first() -> None:
    async with Two() as (alice, bob):
        for priority in (0, 1, 2, 3, 0, 3):
            await alice.send(bob.did, bytes([priority]), priority=Priority(priority))
        await eventually(lambda: bob.stats().inbox_messages == 6)
        messages = [await bob.receive() for _ in range(6)]
        assert [message.payload[0] for message in messages] == [3, 3, 2, 1, 0, 0]


@both_networks
@on_both_loops
async def test_cancelled_receives_lose_nothing(network: str) -> None:
    seed, rng = random_seed()
    count = 500
    async with Two(network) as (alice, bob):
        numbers: list[int] = []

        async def send() -> None:
            for _ in range(count):
                await alice.send(bob.did, b"x")
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        async with asyncio.timeout(LIMIT):
            while len(numbers) < count:
                waiters = [
                    asyncio.create_task(bob.receive(rng.choice([None, 0.0005, 1])))
                    for _ in range(3)
                ]
                for _ in range(rng.randrange(20)):
                    await asyncio.sleep(0)
                for waiter in waiters:
                    waiter.cancel()
                outcomes = await asyncio.gather(*waiters, return_exceptions=True)
                numbers += [
                    outcome.sequence_number for outcome in outcomes if isinstance(outcome, Message)
                ]
                await asyncio.sleep(0)
        await sending
    assert sorted(numbers) == list(range(1, count + 1)), f"seed={seed}"


@on_both_loops
async def test_a_cancelled_send_is_sent_all_the_same() -> None:
    async with Two() as (alice, bob):
        sending = asyncio.create_task(alice.send(bob.did, b"x"))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert (await bob.receive()).payload == b"x"


@on_both_loops
async def test_several_receive() -> None:
    async with Two() as (alice, bob):
        waiters = [asyncio.create_task(bob.receive()) for _ in range(10)]
        await asyncio.sleep(0)
        for _ in range(10):
            await alice.send(bob.did, b"x")
        messages = await within(LIMIT, asyncio.gather(*waiters))
        assert sorted(message.sequence_number for message in messages) == list(range(1, 11))


@on_asyncio
async def test_messages_until_it_is_closed() -> None:
    async with Two() as (alice, bob):
        received = []

        async def listen() -> None:
            received.extend([message.payload async for message in bob.messages()])

        listening = asyncio.create_task(listen())
        for payload in (b"1", b"2", b"3"):
            await alice.send(bob.did, payload)
        await eventually(lambda: bob.stats().messages_received == 3)
        await eventually(lambda: bob.stats().inbox_messages == 0)
        await bob.close()
        await within(LIMIT, listening)
    assert received == [b"1", b"2", b"3"]


@on_both_loops
async def test_a_captured_frame_is_delivered_once() -> None:
    with RawServer() as tap:
        async with Two() as (alice, bob):
            assert bob.address is not None
            alice.routing.update(bob.did, tap.address)
            await alice.send(bob.did, b"open the door")
            with await tap.accept() as link:
                captured = await link.read()
            assert captured is not None
            for _ in range(2):
                with await RawLink.dial(bob.address) as thief:
                    await thief.write(framed(captured) * 2)
            assert (await bob.receive()).payload == b"open the door"
            await eventually(lambda: bob.stats().dropped.get(Reason.DUPLICATE) == 3)
            assert bob.receive_nowait() is None


@on_asyncio
async def test_a_message_for_another_is_not_shown() -> None:
    async with Two() as (alice, bob):
        alice.routing.update(CAROL.did, str(bob.address))
        await alice.send(CAROL.did, b"for Carol")
        await alice.send(bob.did, b"for Bob")
        assert (await bob.receive()).payload == b"for Bob"
        assert bob.stats().dropped == {Reason.NOT_FOR_US: 1}


# -- life and end --------------------------------------------------------------------------


@on_asyncio
async def test_a_node_lives_once() -> None:
    node = Node(ALICE, quick())
    with pytest.raises(ClosedError):
        await node.send(identity(9).did, b"x")
    with pytest.raises(ClosedError):
        await node.receive()
    await node.close()
    async with node:
        with pytest.raises(ClosedError, match="started before"):
            await node.start()
    with pytest.raises(ClosedError, match="started before"):
        await node.start()


@on_both_loops
async def test_after_the_end() -> None:
    async with Two() as (alice, bob):
        await alice.close()
        await alice.close()
        with pytest.raises(ClosedError):
            await alice.send(bob.did, b"x")
        with pytest.raises(ClosedError):
            alice.send_nowait(bob.did, b"x")
        for timeout in (None, 0, 1.0):
            with pytest.raises(ClosedError):
                await alice.receive(timeout)
        async for _ in alice.messages():
            raise AssertionError
        assert alice.stats().messages_sent == 0


@on_both_loops
async def test_who_waits_for_a_message_when_it_is_closed() -> None:
    async with Two() as (_, bob):
        waiting = [asyncio.create_task(bob.receive(timeout)) for timeout in (None, 60)]
        await asyncio.sleep(0)
        await bob.close()
        for task in waiting:
            with pytest.raises(ClosedError):
                await within(LIMIT, task)


@on_both_loops
async def test_close_waits_for_what_can_leave_and_fails_the_rest() -> None:
    with blackhole() as hole:
        async with no_leaks(), Two(close_timeout=0.2) as (alice, bob):
            alice.routing.update(CAROL.did, hole)
            leaving = [alice.send_nowait(bob.did, b"x") for _ in range(500)]
            staying = alice.send_nowait(CAROL.did, b"x")
            waiting = asyncio.create_task(staying.wait())
            started_at = time.monotonic()
            await alice.close()
            assert time.monotonic() - started_at < SLACK
            assert {receipt.state for receipt in leaving} == {DeliveryState.WRITTEN}
            with pytest.raises(DeliveryFailedError) as caught:
                await waiting
            assert caught.value.reason is Reason.CLOSED
            for _ in range(500):
                await bob.receive()


@on_asyncio
async def test_a_port_in_use() -> None:
    async with Two() as (alice, _):
        assert alice.address is not None
        with pytest.raises(ListenError, match=str(alice.address)) as caught:
            await Node(BOB, quick(listen=alice.address)).start()
        assert caught.value.address == alice.address


@on_both_loops
async def test_both_restart_on_their_ports_and_go_on() -> None:
    """A node of the same key and address takes over."""
    routing = RoutingTable()
    numbers: list[int] = []
    bob = Node(BOB, quick())
    await bob.start()
    assert bob.address is not None
    address: Target = bob.address
    routing.update(BOB.did, address)
    async with Node(ALICE, quick(max_attempts=20), routing) as alice:
        for round_number in range(10):
            for _ in range(5):
                await alice.send(BOB.did, bytes([round_number]))
            numbers += [(await within(LIMIT, bob.receive())).sequence_number for _ in range(5)]
            await bob.close()
            bob = Node(BOB, quick(listen=address))
            await bob.start()
        assert numbers == list(range(1, 51))
        assert alice.stats().reconnections == 9
        assert alice.peers()[BOB.did].state in PeerState
    await bob.close()


@on_asyncio
async def test_peers_are_found_by_did_and_by_text() -> None:
    async with Two() as (alice, bob):
        assert await alice.send(bob.did, b"hello")
        for peers in (alice.peers(), copy.deepcopy(alice.peers())):
            assert all(key in peers for key in (bob.did, str(bob.did), bob.did.hex()))
            assert peers[str(bob.did)] == peers.get(str(bob.did)) == peers[bob.did]
            for absent in (CAROL.did, str(CAROL.did)):
                assert absent not in peers
                assert peers.get(absent) is None
                assert peers.get(absent, 1) == 1
                with pytest.raises(KeyError):
                    peers[absent]
            assert not any(key in peers for key in ("bob", 1, None))
            with pytest.raises(DidError):
                peers["bob"]


@on_asyncio
async def test_a_payload_is_measured_in_bytes_whatever_its_items_are() -> None:
    async with Node(ALICE, quick()) as node:
        node.routing.update(BOB.did, "127.0.0.1:9")
        with pytest.raises(PayloadTooLargeError, match="4096 bytes"):
            node.send_nowait(BOB.did, memoryview(bytes(4096)).cast("Q"))


@on_asyncio
async def test_a_clock_that_is_set_moves_no_deadline() -> None:
    set_clock = SetClock()
    with clock.use(set_clock):
        await _send_over_a_step(set_clock)


async def _send_over_a_step(set_clock: SetClock) -> None:
    async with Node(BOB, quick()) as bob, Node(ALICE, quick()) as alice:
        assert bob.address is not None
        alice.routing.update(BOB.did, bob.address)
        queued = alice.send_nowait(BOB.did, b"in an hour at the latest", deadline=3600)
        set_clock.ahead = 86_400.0
        await queued.wait(timeout=LIMIT)
        assert (await bob.receive()).payload == b"in an hour at the latest"
