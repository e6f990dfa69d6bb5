"""Volatile messages between nodes: they wait for no disk and arrive at most once, in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_link import Net, links_of, meet, next_of, take
from test_links import RawPeer, payloads
from test_policy import Rule

from linkkit import body_of, credits
from signedwire import (
    DeliveryFailedError,
    DeliveryState,
    MessageHeader,
    MessageRefusedError,
    Node,
    Priority,
    Reason,
    Receipt,
    verify_receipt,
)
from signedwire.types import PayloadType
from signedwire.wire.envelope import sign_batch
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import ACCEPTED_ENVELOPES, CLOSE_PROTOCOL_ERROR, Epochs, Refusal
from signedwire.wire.parts import encode_batch
from signedwire.wire.session import BatchReceived, Closed, HelloReceived
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, RawServer, eventually, on_asyncio, on_both_loops, within

NORMAL = Priority.NORMAL
RESTARTED = "the peer has restarted since"


def send_volatile(
    node: Node, to: Node | object, *given: bytes, priority: Priority = NORMAL
) -> list[Receipt]:
    """Queue these as volatile messages."""
    did = to.did if isinstance(to, Node) else to
    messages = node._sending.messages(
        did,  # type: ignore[arg-type]
        priority,
        PayloadType.RAW,
        None,
        given,
        is_durable=False,
    )
    for message in messages:
        node._core.endpoint.submitter.submit(message, message.payload_size)
    return list(messages)


async def accepted(*receipts: Receipt) -> None:
    """Wait until the peer has accepted all of them."""
    for receipt in receipts:
        await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))


@contextmanager
def stopped_disk(node: Node) -> Iterator[None]:
    """The disk of this node takes as long as the block."""
    assert node._core.store is not None
    gate = threading.Event()
    node._core.store.store._ask(lambda: gate.wait(LIMIT))
    try:
        yield
    finally:
        gate.set()


def commits(node: Node) -> int:
    assert node._core.store is not None
    return node._core.store.store._executor.commits


@on_both_loops
async def test_they_wait_for_neither_disk(tmp_path: Path) -> None:
    """Nor for a durable message of the same priority, which waits for both."""
    net = Net()
    async with (
        net.node(ALICE, store=tmp_path / "a") as alice,
        net.node(BOB, store=tmp_path / "b") as bob,
    ):
        meet(alice, bob)
        await alice.send(bob.did, b"linked", until="accepted")
        assert (await next_of(bob)).durable
        with stopped_disk(bob):
            at_bob = alice.send_nowait(bob.did, b"waits for Bob's disk")
            await eventually(lambda: alice.peers()[bob.did].in_flight == 1)
            with stopped_disk(alice):
                at_alice = alice.send_nowait(bob.did, b"waits for Alice's disk")
                receipts = send_volatile(alice, bob, b"1", b"2", b"3")
                await accepted(*receipts)
                for payload in (b"1", b"2", b"3"):
                    message = await next_of(bob)
                    assert (message.payload, message.durable) == (payload, False)
                    message.ack()
                for receipt in receipts:
                    await within(LIMIT, receipt.wait("handled"))
            assert not at_bob.is_confirmed
            assert not at_alice.is_confirmed
        await accepted(at_bob, at_alice)
        assert await take(bob, 2) == [b"waits for Bob's disk", b"waits for Alice's disk"]


@on_asyncio
async def test_they_touch_no_disk(tmp_path: Path) -> None:
    net = Net()
    async with (
        net.node(ALICE, store=tmp_path / "a") as alice,
        net.node(BOB, store=tmp_path / "b") as bob,
    ):
        meet(alice, bob)
        await accepted(*send_volatile(alice, bob, b"linked"))
        (await next_of(bob)).ack()
        await asyncio.sleep(0.05)
        before = commits(alice), commits(bob)
        for n in range(20):
            (receipt,) = send_volatile(alice, bob, b"%d" % n)
            message = await next_of(bob)
            message.ack() if n % 2 else message.nack()
            await accepted(receipt)
        await asyncio.sleep(0.05)
        assert (commits(alice), commits(bob)) == before
        assert await alice.outbox.list() == []


@pytest.mark.parametrize("has_store", [False, True])
@on_asyncio
async def test_a_receipt_says_whether_a_store_has_it(has_store: bool, tmp_path: Path) -> None:
    net = Net()
    store = {"store": tmp_path / "b"} if has_store else {}
    async with net.node(ALICE) as alice, net.node(BOB, **store) as bob:
        meet(alice, bob)
        durable = alice.send_nowait(bob.did, b"durable")
        (volatile,) = send_volatile(alice, bob, b"volatile")
        await accepted(durable, volatile)

        def is_committed(receipt: Receipt) -> bool:
            proof = receipt.proof()
            assert proof is not None
            return verify_receipt(proof).is_committed

        assert (is_committed(durable), is_committed(volatile)) == (has_store, False)
        for _ in range(2):
            (await next_of(bob)).ack()
        await within(LIMIT, durable.wait("handled"))
        await within(LIMIT, volatile.wait("handled"))
        assert (is_committed(durable), is_committed(volatile)) == (has_store, False)


@on_asyncio
async def test_the_credit_of_durable_messages_is_not_theirs(tmp_path: Path) -> None:
    """A stop command arrives although so much waits for the disk that durable ones must stop."""
    net = Net()
    changes = {"credit_messages": 20, "critical_reserve": 2}
    async with (
        net.node(ALICE) as alice,
        net.node(BOB, store=tmp_path / "b", **changes) as bob,
    ):
        meet(alice, bob)
        await alice.send(bob.did, b"linked")
        (await next_of(bob)).ack()
        with stopped_disk(bob):
            for priority in Priority:
                for n in range(30):
                    alice.send_nowait(bob.did, b"%d" % n, priority=priority)

            def is_used_up() -> bool:
                window = alice.peers()[bob.did].credit
                return window is not None and not any(credit.messages for credit in window[:4])

            await eventually(is_used_up)
            stops = send_volatile(alice, bob, b"stop", priority=Priority.CRITICAL)
            await accepted(*stops, *send_volatile(alice, bob, b"telemetry"))
            assert await take(bob, 2) == [b"stop", b"telemetry"]
        assert len(await take(bob, 120)) == 120


@on_both_loops
async def test_they_arrive_once_and_in_order_over_cut_links() -> None:
    net = Net("memory")
    assert net.memory is not None
    async with net.pair(max_attempts=1000) as (alice, bob):
        receipts: list[Receipt] = []
        durable: list[Receipt] = []
        got: list[bytes] = []

        async def read() -> None:
            while len(got) < 400:
                got.append((await next_of(bob)).payload)

        reading = asyncio.create_task(read())
        for n in range(200):
            receipts += send_volatile(alice, bob, b"v%d" % n)
            durable.append(alice.send_nowait(bob.did, b"d%d" % n))
            if n % 10 == 0:
                await asyncio.sleep(0.002)
                net.memory.cut_all()
        await within(LIMIT, reading)
        await accepted(*receipts, *durable)
        assert [one for one in got if one[:1] == b"v"] == [b"v%d" % n for n in range(200)]
        assert [one for one in got if one[:1] == b"d"] == [b"d%d" % n for n in range(200)]


# -- a peer that has lost its marks ----------------------------------------------------------


@on_both_loops
async def test_what_an_earlier_process_may_have_has_an_unknown_outcome() -> None:
    """The durable message is sent again, and so is what was never written."""
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            written = alice.send_nowait(BOB.did, b"durable")
            (lost,) = send_volatile(alice, BOB.did, b"lost")
            with await RawPeer.accept(server, BOB, ALICE) as first:
                epochs = (await first.next(HelloReceived)).hello.epochs
                got = [*payloads(await first.next(BatchReceived))]
                got += payloads(await first.next(BatchReceived))
                assert sorted(got) == [b"durable", b"lost"]
                first.reset()
            await eventually(lambda: not links_of(alice))
            (unwritten,) = send_volatile(alice, BOB.did, b"not written")
            restarted = Epochs(9, 10)
            with await RawPeer.accept(server, BOB, ALICE, epochs=restarted) as second:
                assert (await second.next(HelloReceived)).hello.epochs == epochs
                with pytest.raises(DeliveryFailedError, match=RESTARTED):
                    await within(LIMIT, lost.wait("accepted"))
                assert (lost.state, lost.reason) == (DeliveryState.FAILED, Reason.UNKNOWN_OUTCOME)
                batches = [await second.next(BatchReceived) for _ in range(2)]
                assert sorted([*payloads(batches[0]), *payloads(batches[1])]) == [
                    b"durable",
                    b"not written",
                ]
                for batch in batches:
                    await second.receipt(batch)
                await accepted(written, unwritten)


@on_asyncio
async def test_who_knows_the_epoch_is_sent_them_again() -> None:
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            (sent,) = send_volatile(alice, BOB.did, b"again")
            with await RawPeer.accept(server, BOB, ALICE) as first:
                epochs = (await first.next(HelloReceived)).hello.epochs
                before = await first.next(BatchReceived)
                first.reset()
            with await RawPeer.accept(server, BOB, ALICE, known_epochs=epochs) as second:
                again = await second.next(BatchReceived)
                assert again.bodies == before.bodies
                await second.receipt(again)
                await accepted(sent)


@on_asyncio
async def test_a_restarted_peer_that_dials_before_the_old_link_is_found_dead() -> None:
    """What is in flight on the old link ends too."""
    net = Net()
    async with net.node(ALICE) as alice:
        with await RawPeer.dial(alice, BOB) as first:
            await first.next(HelloReceived)
            await eventually(lambda: links_of(alice))
            (lost,) = send_volatile(alice, BOB.did, b"lost")
            await first.next(BatchReceived)
            with await RawPeer.dial(alice, BOB, epochs=Epochs(9, 10)) as second:
                with pytest.raises(DeliveryFailedError, match=RESTARTED):
                    await within(LIMIT, lost.wait("accepted"))
                assert lost.reason is Reason.UNKNOWN_OUTCOME
                (later,) = send_volatile(alice, BOB.did, b"later")
                batch = await second.next(BatchReceived)
                assert payloads(batch) == [b"later"]
                await second.receipt(batch)
                await accepted(later)


@on_asyncio
async def test_a_node_that_restarts(tmp_path: Path) -> None:
    """With a store: durable once, volatile at most once, and both are told."""
    net = Net()
    got: list[bytes] = []
    async with net.node(ALICE) as alice:
        bob = net.node(BOB, store=tmp_path / "b")
        await bob.start()
        meet(alice, bob)
        for n in range(5):
            receipts = [alice.send_nowait(bob.did, b"d%d" % n)]
            receipts += send_volatile(alice, bob, b"v%d" % n)
            await accepted(*receipts)
            for _ in range(2):
                message = await next_of(bob)
                got.append(message.payload)
                message.ack()
            await within(LIMIT, receipts[1].wait("handled"))
            await bob.close()
            bob = net.node(BOB, store=tmp_path / "b")
            await bob.start()
            meet(alice, bob)
        await bob.close()
    assert sorted(got) == sorted(b"%s%d" % (kind, n) for kind in (b"d", b"v") for n in range(5))


# -- credit and lanes -----------------------------------------------------------------------


@on_asyncio
async def test_a_stream_without_credit_stops_no_other() -> None:
    grants = (*credits(0, 0, 0, 0)[:4], *credits(9, 9000, 9, 9000)[4:])
    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            durable = [alice.send_nowait(BOB.did, b"d", priority=each) for each in Priority]
            for each in Priority:
                send_volatile(alice, BOB.did, b"v", priority=each)
            with await RawPeer.accept(server, BOB, ALICE, credit=grants) as peer:
                batches = [await peer.next(BatchReceived) for _ in Priority]
                order = [batch.bodies[0][104] for batch in batches]
                assert order == sorted(Priority, reverse=True)
                assert [payloads(batch) for batch in batches] == [[b"v"]] * 4
                assert not any(receipt.has_reached("written") for receipt in durable)
                for each in Priority:
                    peer.session.grant(each, 9, 9000)
                await peer.say()
                for _ in Priority:
                    assert payloads(await peer.next(BatchReceived)) == [b"d"]


@on_asyncio
async def test_a_queue_full_of_durable_messages_has_room_for_them() -> None:
    with RawServer() as server:
        async with Net().node(ALICE, send_queue_limit=3, critical_reserve=1) as alice:
            alice.routing.update(BOB.did, server.address)
            for _ in range(3):
                alice.send_nowait(BOB.did, b"d")
            receipts = send_volatile(alice, BOB.did, b"1", b"2", b"3")
            assert alice.peers()[BOB.did].queued[NORMAL] == 6
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                for _ in range(2):
                    await peer.receipt(await peer.next(BatchReceived))
                await accepted(*receipts)


# -- what is not accepted -------------------------------------------------------------------


def from_alice(
    sequence: int, payload: bytes, priority: Priority = NORMAL, expires_at_us: int = 0
) -> bytes:
    """A volatile message of Alice to Bob, whose HELLO named the epoch 9."""
    stream = priority + VOLATILE
    return body_of(
        stream, sequence, payload, sender=ALICE, recipient=BOB, expires_at_us=expires_at_us
    )


@pytest.mark.parametrize("priority", [NORMAL, Priority.CRITICAL])
@on_both_loops
async def test_a_policy_decides_about_them_too(priority: Priority, tmp_path: Path) -> None:
    """What it refuses is neither delivered nor kept, and its sender can prove the refusal."""
    rule, net = Rule(Reason.NOT_ALLOWED), Net()
    config = quick(store=tmp_path / "b.db", evidence=tmp_path / "b.log")
    async with net.node(ALICE) as alice, Node(BOB, config, network=net.memory, policy=rule) as bob:
        meet(alice, bob)
        first, bad, last = send_volatile(alice, bob, b"first", b"x", b"last", priority=priority)
        with pytest.raises(MessageRefusedError) as error:
            await within(LIMIT, bad.wait("accepted"))
        assert error.value.reason is Reason.NOT_ALLOWED
        proof = bad.proof()
        assert proof is not None
        assert verify_receipt(proof).reason is Reason.NOT_ALLOWED
        await accepted(first, last)
        assert await take(bob, 2) == [b"first", b"last"]
        assert bob.stats().dropped == {Reason.NOT_ALLOWED: 1}
        assert bob.receive_nowait() is None
        assert bob.evidence_head().records == 2
        header = MessageHeader(ALICE.did, bob.did, priority, PayloadType.RAW, 1, None)
        assert [each for each, _ in rule.asked if each.payload_size == 1] == [header]


@on_asyncio
async def test_one_that_comes_again_gets_the_same_answer() -> None:
    """The policy is asked again about what it refused, and never about what was accepted."""
    rule = Rule(Reason.NOT_ALLOWED)
    async with Node(BOB, quick(), policy=rule) as bob:
        for _ in range(2):  # the second time over another link of the same process
            with await RawPeer.dial(bob, ALICE) as peer:
                await peer.send(from_alice(1, b"x"), from_alice(2, b"good"))
                assert [one.reason for one in await peer.next_refusals()] == [Reason.NOT_ALLOWED]
                receipts = await peer.next_receipts()
                assert (receipts.kind, len(receipts.hashes)) == (ACCEPTED_ENVELOPES, 1)
                assert not receipts.is_committed
        assert (await next_of(bob)).payload == b"good"
        assert bob.receive_nowait() is None
        assert [header.payload_size for header, _ in rule.asked] == [1, 4, 1]
        assert bob.stats().dropped == {Reason.NOT_ALLOWED: 2, Reason.DUPLICATE: 1}


@on_asyncio
async def test_another_message_under_a_used_number_is_refused() -> None:
    async with Node(BOB, quick()) as bob:
        with await RawPeer.dial(bob, ALICE) as peer:
            await peer.send(from_alice(7, b"good"))
            await peer.next_receipts()
            for sequence in (7, 3):
                await peer.send(from_alice(sequence, b"another"))
                assert [one.reason for one in await peer.next_refusals()] == [Reason.DUPLICATE]
            # The durable stream of the same priority has numbers of its own.
            durable = body_of(NORMAL, 1, b"durable", sender=ALICE, recipient=BOB)
            await peer.send(durable)
            await peer.next_receipts()
        assert await take(bob, 2) == [b"good", b"durable"]
        assert bob.receive_nowait() is None


@on_asyncio
async def test_a_late_one_is_refused_each_time_and_stops_none_behind_it(tmp_path: Path) -> None:
    async with Node(BOB, quick(store=tmp_path / "b.db")) as bob:
        late = from_alice(1, b"late", expires_at_us=1)
        for _ in range(2):
            with await RawPeer.dial(bob, ALICE) as peer:
                await peer.send(late)
                (refusal,) = await peer.next_refusals()
                assert refusal == Refusal(refusal.leaf, Reason.EXPIRED, "")
        with await RawPeer.dial(bob, ALICE) as peer:
            await peer.send(from_alice(2, b"in time"))
            await peer.next_receipts()
        assert (await next_of(bob)).payload == b"in time"
        assert bob.receive_nowait() is None
        assert bob.stats().dropped == {Reason.EXPIRED: 2}


@pytest.mark.parametrize("flaw", ["priority", "kind"])
@on_asyncio
async def test_one_of_another_stream_ends_the_link(flaw: str) -> None:
    """A durable message does not get around the store as a volatile one, nor the reverse."""
    async with Node(BOB, quick()) as bob:
        with await RawPeer.dial(bob, ALICE) as peer:
            await peer.next(HelloReceived)
            bodies = [from_alice(1, b"x", Priority.HIGH if flaw == "priority" else NORMAL)]
            stream = NORMAL + VOLATILE if flaw == "priority" else NORMAL
            signature = sign_batch(ALICE, bodies)[1]
            await peer.say(encode_batch(signature, bodies, stream))
            closed = await peer.next(Closed)
            assert closed.code == CLOSE_PROTOCOL_ERROR
        assert bob.receive_nowait() is None
        assert bob.stats().messages_received == 0


@on_both_loops
async def test_refused_ones_on_links_that_break_keep_all_others_in_order() -> None:
    """Each gets one final answer, and nothing that was refused is delivered later."""
    rule, net = Rule(Reason.NOT_ALLOWED), Net("memory")
    assert net.memory is not None
    config = quick(max_attempts=1000)
    async with (
        Node(ALICE, config, network=net.memory) as alice,
        Node(BOB, config, network=net.memory, policy=rule) as bob,
    ):
        meet(alice, bob)
        good: list[Receipt] = []
        bad: list[Receipt] = []
        for n in range(100):
            good += send_volatile(alice, bob, b"good %d" % n)
            bad += send_volatile(alice, bob, b"x")
            if n % 10 == 0:
                await asyncio.sleep(0.002)
                net.memory.cut_all()
        await accepted(*good)
        for receipt in bad:
            with pytest.raises(MessageRefusedError):
                await within(LIMIT, receipt.wait("accepted"))
        assert await take(bob, 100) == [b"good %d" % n for n in range(100)]
        assert bob.receive_nowait() is None


@on_both_loops
async def test_two_nodes_that_dial_each_other_lose_none() -> None:
    """One HELLO is sent before the other link has brought the epoch that it would name."""
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        meet(bob, alice)
        sent = [b"1", b"2", b"3"]
        await accepted(*send_volatile(alice, bob, *sent), *send_volatile(bob, alice, *sent))
        assert await take(alice, 3) == await take(bob, 3) == sent
