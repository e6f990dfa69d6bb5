"""Every wait ends, and every answer is told: over cuts, closes, silence and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from test_link import Net, both_networks, meet, next_of, take
from test_links import RawPeer, payloads

from signedwire import (
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    FailureKind,
    MessageExpiredError,
    MessageRefusedError,
    Node,
    Priority,
    Reason,
    Receipt,
    verify_receipt,
)
from signedwire.errors import SignedWireError
from signedwire.transport.answer_watch import AnswerWatch
from signedwire.transport.memory import MemoryNetwork
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import leaf_of
from signedwire.wire.link_frames import Refusal
from signedwire.wire.session import BatchReceived, Closed, ReceiptsReceived
from tlskit import quick
from wirekit import (
    ALICE,
    BOB,
    LIMIT,
    RawServer,
    eventually,
    on_asyncio,
    on_both_loops,
    random_seed,
    within,
)

ACCEPTED, HANDLED = DeliveryState.ACCEPTED, DeliveryState.HANDLED
KEPT: Final = ["memory", "store", "evidence", "both"]
BROKEN: Final = bytes.fromhex("000000020900")


def files(folder: Path, kept: str, name: str) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if kept in ("store", "both"):
        changes["store"] = folder / f"{name}.db"
    if kept in ("evidence", "both"):
        changes["evidence"] = folder / f"{name}.log"
    return changes


# -- A1 and the kind: cuts ---------------------------------------------------------------


@pytest.mark.parametrize("kept", KEPT)
@on_asyncio
async def test_every_answer_is_told_over_cuts(tmp_path: Path, kept: str) -> None:
    """Every wait ends with what the application said, wherever the links were cut."""
    (seed, draw), count = random_seed(), 600
    network = MemoryNetwork(seed=seed)
    said: dict[bytes, str] = {}
    async with (
        Node(ALICE, quick(max_attempts=1000, **files(tmp_path, kept, "a")), network=network) as a,
        Node(BOB, quick(**files(tmp_path, kept, "b")), network=network) as b,
    ):
        meet(a, b)

        async def answer() -> None:
            async for message in b.messages():
                said[message.payload] = draw.choice(["handled", "handled", "refused"])
                if said[message.payload] == "handled":
                    message.ack()
                else:
                    message.nack()

        async def cut() -> None:
            for _ in range(30):  # a disk takes longer than the shortest link lives
                await asyncio.sleep(draw.uniform(0.002, 0.04))
                network.cut_all()

        tasks = [asyncio.create_task(answer()), asyncio.create_task(cut())]
        receipts: list[Receipt] = []
        for number in range(count):
            priority = draw.choice(list(Priority))
            payload = b"%d" % number
            receipts.append(await a.send(b.did, payload, priority=priority, until="queued"))
            if draw.random() < 0.02:
                await asyncio.sleep(draw.uniform(0, 0.02))
        try:
            await eventually(lambda: len(said) == count)
            await tasks[1]
            outcomes = await within(
                LIMIT,
                asyncio.gather(*[one.wait("handled") for one in receipts], return_exceptions=True),
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    for number, (receipt, outcome) in enumerate(zip(receipts, outcomes, strict=True)):
        expected = said[b"%d" % number]
        assert receipt.state == expected, (seed, number, outcome)
        assert isinstance(outcome, MessageRefusedError) == (expected == "refused")
        # Also over cuts: nobody is told of a refusal who was not told that it was accepted.
        assert receipt.has_reached(ACCEPTED), (seed, number, receipt.history)
        assert verify_receipt(receipt.proof()).is_handled == (expected == "handled")


# -- A2: what is remembered covers the credit ----------------------------------------------


@pytest.mark.parametrize("how", ["ack", "nack"])
@on_asyncio
async def test_as_many_answers_are_remembered_as_there_is_credit(how: str) -> None:
    count = 3000
    network = MemoryNetwork()
    async with (
        Node(ALICE, quick(send_queue_limit=count), network=network) as alice,
        Node(BOB, quick(inbox_limit=count), network=network) as bob,
    ):
        meet(alice, bob)
        terms = {"until": "queued"}
        receipts = [await alice.send(bob.did, b"%d" % n, **terms) for n in range(count)]  # type: ignore[arg-type]
        await within(LIMIT, asyncio.gather(*[one.wait("accepted") for one in receipts]))
        messages = [await next_of(bob) for _ in range(count)]
        network.cut_all()
        for message in messages:
            message.ack() if how == "ack" else message.nack()
        receiver = bob._core.endpoint.sessions.session(ALICE.did).receiver
        before = receiver.weight
        await eventually(lambda: all(one.is_final for one in receipts))
        assert receiver.weight >= 100 * count
        assert before >= 100 * count
        states = {str(one.state) for one in receipts}
        assert states == {"handled" if how == "ack" else "refused"}


@on_asyncio
async def test_answers_do_not_pile_up_for_a_peer_that_stays_away() -> None:
    async with Net().node(BOB, credit_messages=16, critical_reserve=4) as bob:
        with await RawPeer.dial(bob, ALICE) as alice:
            sequence = 0
            messages = []
            await eventually_open(alice)
            for _ in range(200):
                await alice.send(*[alice.body(sequence + n, b"x") for n in range(1, 9)])
                sequence += 8
                messages += [await next_of(bob) for _ in range(8)]
                await alice.next(ReceiptsReceived)
                while alice.session.credit_left(Priority.NORMAL).messages < 8:
                    await alice.read()
        await eventually(lambda: bob.stats().inbound_connections == 0)
        for message in messages:
            message.ack()
        await asyncio.sleep(0.01)
        receiver = bob._core.endpoint.sessions.session(ALICE.did).receiver
        assert len(receiver.answers._durable_half._remembered) == 3 * 16 + 4 + 1024
        assert not receiver.answers._durable_half._handled


# -- A3: nodes that close ------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["memory", "store"])
@both_networks
@on_both_loops
async def test_waiting_ends_when_the_own_node_closes(
    tmp_path: Path, network: str, kept: str
) -> None:
    net = Net(network)
    async with net.node(ALICE, **files(tmp_path, kept, "a")) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        receipt = await within(LIMIT, alice.send(bob.did, b"x", until="accepted"))
        waiting = asyncio.create_task(receipt.wait("handled"))
        blocked = asyncio.create_task(asyncio.to_thread(receipt.result, HANDLED))
        many = asyncio.create_task(alice.send_many(bob.did, [b"1", b"2"], until="handled"))
        await take(bob, 3)
        await asyncio.sleep(0.05)
        await alice.close()
        for ended in (waiting, blocked, many):
            with pytest.raises(ClosedError, match="was accepted, but the node was closed"):
                await within(LIMIT, ended)
        assert receipt.state is ACCEPTED
        with pytest.raises(ClosedError):  # also who asks later
            await receipt.wait("handled")
        assert await receipt.wait("accepted") is receipt


@pytest.mark.parametrize("refused", [{0}, {3}, {1, 4}])
@on_both_loops
async def test_send_many_loses_no_receipt_to_a_refusal(refused: set[int]) -> None:
    async with Net("memory").pair() as (alice, bob):
        every = [b"%d" % n for n in range(6)]
        sending = asyncio.create_task(alice.send_many(bob.did, every, until="handled"))
        messages = [await next_of(bob) for _ in every]
        for number in sorted(range(6), key=lambda n: n not in refused):
            assert not sending.done()  # not before all have an outcome
            if number in refused:
                messages[number].nack(Reason.NOT_ALLOWED)
            else:
                messages[number].ack()
            await asyncio.sleep(0.01)
        with pytest.raises(MessageRefusedError) as failure:
            await within(LIMIT, sending)
        receipts = failure.value.receipts
        assert [one.state == "refused" for one in receipts] == [n in refused for n in range(6)]
        assert failure.value.receipt is receipts[min(refused)]


@on_asyncio
async def test_send_many_that_is_cut_short_says_what_it_queued() -> None:
    async with Net("memory").pair() as (alice, bob):
        large = b"x" * (alice.config.max_payload_size + 1)
        with pytest.raises(SignedWireError) as failure:
            await alice.send_many(bob.did, [b"1"] * 256 + [large])
        assert len(failure.value.receipts) == 256
        for receipt in failure.value.receipts:
            await receipt.wait("accepted", LIMIT)


@on_asyncio
async def test_waiting_ends_where_the_peer_began_anew() -> None:
    net = Net("memory")
    async with net.node(ALICE) as alice:
        async with net.node(BOB) as bob:
            meet(alice, bob)
            receipt = await within(LIMIT, alice.send(bob.did, b"x"))
            waiting = asyncio.create_task(receipt.wait("handled"))
        async with net.node(BOB) as bob:
            meet(alice, bob)
            await within(LIMIT, alice.send(bob.did, b"y"))
            with pytest.raises(DeliveryFailedError, match="has restarted") as failure:
                await within(LIMIT, waiting)
            assert failure.value.reason is Reason.STALE_EPOCH


# -- A4: silence ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def mute_peer(alice: Node) -> AsyncIterator[list[RawPeer]]:
    """BOB, who reads everything and answers PING and no message."""
    peers: list[RawPeer] = []

    async def serve() -> None:
        while True:
            peer = await RawPeer.accept(server, BOB, ALICE)
            peers.append(peer)
            with contextlib.suppress(OSError):
                while not peer.session.is_closed:
                    await peer.read()
            peer.close()

    with RawServer() as server:
        alice.routing.update(BOB.did, server.address)
        task = asyncio.create_task(serve())
        try:
            yield peers
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for peer in peers:
                peer.close()


@pytest.mark.parametrize("kept", ["memory", "store"])
@on_both_loops
async def test_the_outcome_comes_at_the_deadline(tmp_path: Path, kept: str) -> None:
    changes = files(tmp_path, kept, "a")
    async with Net().node(ALICE, **changes) as alice, mute_peer(alice) as peers:
        began = time.monotonic()
        with pytest.raises(MessageExpiredError, match="may have taken it") as failure:
            await within(LIMIT, alice.send(BOB.did, b"x", deadline=0.2, until="accepted"))
        assert 0.19 <= time.monotonic() - began <= 2.0
        assert failure.value.receipt.has_reached(DeliveryState.EXPIRED)
        assert alice.stats().dropped[Reason.EXPIRED] == 1
        # Its answer is late, and proves all the same that it had come.
        batch = await peers[0].next(BatchReceived)
        await peers[0].receipt(batch)
        await eventually(lambda: alice.peers()[BOB.did].in_flight == 0)
        assert failure.value.receipt.state is DeliveryState.EXPIRED
        assert verify_receipt(failure.value.receipt.proof()).envelope.payload == b"x"
        await alice.close()


@on_both_loops
async def test_what_expired_in_flight_is_not_sent_again() -> None:
    async with Net().node(ALICE) as alice, mute_peer(alice) as peers:
        late = alice.send_nowait(BOB.did, b"late", deadline=0.1)
        waits = alice.send_nowait(BOB.did, b"waits")
        with pytest.raises(MessageExpiredError):
            await late.wait("accepted", LIMIT)
        await eventually(lambda: alice.peers()[BOB.did].in_flight == 2)
        peers[0].session.close(frames.CLOSE_DONE, "so the test wants")
        await peers[0].say()
        await eventually(lambda: len(peers) == 2)
        batch = await peers[1].next(BatchReceived)
        assert payloads(batch) == [b"waits"]
        await peers[1].receipt(batch)
        await waits.wait("accepted", LIMIT)
        await alice.close()


@on_both_loops
async def test_what_has_had_its_attempts_is_not_queued_again() -> None:
    """A link that ends with a whole window in flight costs one pass over it."""
    async with Net().node(ALICE, max_attempts=1) as alice, mute_peer(alice) as peers:
        first = alice.send_nowait(BOB.did, b"first")
        await eventually(lambda: len(peers) == 1)
        await peers[0].receipt(await peers[0].next(BatchReceived))
        await first.wait("accepted", LIMIT)
        receipts = [alice.send_nowait(BOB.did, b"x") for _ in range(3)]
        await eventually(lambda: alice.peers()[BOB.did].in_flight == 3)
        peers[0].session.close(frames.CLOSE_PROTOCOL_ERROR, "so the test wants")
        await peers[0].say()
        for receipt in receipts:
            with pytest.raises(DeliveryFailedError):
                await receipt.wait("accepted", LIMIT)
            assert [step.state for step in receipt.history] == ["queued", "written", "failed"]
        await alice.close()


@on_both_loops
async def test_an_overdue_answer_shows_and_ends_the_link() -> None:
    changes = {"ping_interval": 0.05, "answer_timeout": 0.3, "max_attempts": 2}
    async with Net().node(ALICE, **changes) as alice, mute_peer(alice) as peers:
        receipt = alice.send_nowait(BOB.did, b"x")
        await eventually(lambda: alice.peers()[BOB.did].overdue is not None)
        overdue = alice.peers()[BOB.did].overdue
        assert overdue is not None
        assert overdue > 0.05
        (problem,) = alice.health().problems
        assert str(BOB.did) in problem
        assert "1 messages wait" in problem
        with pytest.raises(DeliveryFailedError, match=r"no answer to a message within 0.3 s"):
            await receipt.wait("accepted", LIMIT)
        assert receipt.reason is Reason.ATTEMPTS_EXHAUSTED
        assert len(peers) == 2
        assert alice.stats().dropped[Reason.TOO_SLOW] == 2
        await eventually(lambda: alice.health().is_well)
        await alice.close()


@on_asyncio
async def test_answers_that_come_in_turn_are_not_overdue() -> None:
    """Each is waited for from when the one before it came: a slow link is no silent one."""
    calls: list[int] = []
    watch = AnswerWatch(0.01, 0.5, lambda: calls.append(1))
    for number in range(8):
        watch.look(b"%d" % number)
        await asyncio.sleep(0.1)
    assert not calls
    shown = [watch.overdue]
    watch.look(None)
    shown.append(watch.overdue)
    assert [one is None for one in shown] == [False, True]
    await asyncio.sleep(0.6)
    assert not calls
    watch.look(b"last")
    await eventually(lambda: calls)
    watch.end()


@on_asyncio
async def test_a_stall_of_our_own_is_no_silence_of_the_peer() -> None:
    calls: list[int] = []
    watch = AnswerWatch(0.01, 0.1, lambda: calls.append(1))
    watch.look(b"one")
    await asyncio.sleep(0)
    time.sleep(1.3)  # noqa: ASYNC251 - that is the stall
    await asyncio.sleep(0.05)
    assert not calls  # what it sent meanwhile waits in the socket, and is looked at first
    watch.end()


@on_asyncio
async def test_a_wait_for_handled_ends_at_the_deadline() -> None:
    async with Net("memory").pair() as (alice, bob):
        receipt = await within(LIMIT, alice.send(bob.did, b"x", deadline=0.3))
        message = await next_of(bob)
        waiting = asyncio.create_task(asyncio.to_thread(receipt.result, HANDLED))
        for ended in (receipt.wait("handled"), waiting):
            with pytest.raises(MessageExpiredError, match="was accepted, but its application"):
                await within(LIMIT, ended)
        message.ack()  # it was taken in time, and takes its time
        await eventually(lambda: receipt.state is HANDLED)
        assert await receipt.wait("handled") is receipt


# -- A6: good frames before a broken one ---------------------------------------------------


@pytest.mark.parametrize("kept", KEPT)
@on_both_loops
async def test_good_frames_before_a_broken_one_are_answered(tmp_path: Path, kept: str) -> None:
    async with Net().node(BOB, **files(tmp_path, kept, "b")) as bob:
        with await RawPeer.dial(bob, ALICE) as alice:
            await eventually_open(alice)
            wrong = alice.body(2, b"bad", payload_type=9)
            alice.session.send_batch([alice.body(1, b"good")])
            alice.session.send_batch([wrong])
            await alice.say(BROKEN)
            receipts = await alice.next_receipts()
            assert receipts.kind == frames.ACCEPTED_BATCHES
            assert await alice.next_refusals() == [Refusal(leaf_of(wrong), Reason.MALFORMED)]
            while not alice.session.is_closed:
                await alice.read()
            (end,) = [event for event in alice.events if isinstance(event, Closed)]
            assert end.code == frames.CLOSE_PROTOCOL_ERROR
            assert end.is_by_peer
        assert await take(bob, 1) == [b"good"]


async def eventually_open(peer: RawPeer) -> None:
    while peer.session.their_hello is None:
        await peer.read()


# -- A8: what a CLOSE says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (frames.CLOSE_DENIED, "we are denied", FailureKind.DENIED),
        (frames.CLOSE_VERSION, "no common version", FailureKind.VERSION),
        (
            frames.CLOSE_BAD_SIGNATURE,
            "our signature did not fit",
            FailureKind.BAD_SIGNATURE,
        ),
    ],
)
@pytest.mark.parametrize("made_progress", [False, True])
@on_asyncio
async def test_code_and_text_of_a_close_reach_the_error(
    code: int, words: str, kind: FailureKind, made_progress: bool
) -> None:
    async def serve() -> None:
        with await RawPeer.accept(server, BOB, ALICE) as peer:
            if made_progress:
                await peer.receipt(await peer.next(BatchReceived))
            await peer.next(BatchReceived)
            await peer.end(code, "not today")

    with RawServer() as server:
        async with Net().node(ALICE, max_attempts=1) as alice:
            alice.routing.update(BOB.did, server.address)
            task = asyncio.create_task(serve())
            if made_progress:
                await within(LIMIT, alice.send(BOB.did, b"first"))
            with pytest.raises(DeliveryFailedError) as failure:
                await within(LIMIT, alice.send(BOB.did, b"x"))
            await task
            assert f"closed the link with code {code} ({words}): not today" in str(failure.value)
            assert failure.value.hint
            assert failure.value.receipt.detail_kind is kind
            await alice.close()


@on_asyncio
async def test_who_is_denied_at_the_door_is_told() -> None:
    async with Net("memory").pair(max_attempts=1) as (alice, bob):
        bob.access.deny(ALICE.did)
        with pytest.raises(DeliveryFailedError, match="code 4"):
            await within(LIMIT, alice.send(bob.did, b"x"))


# -- A9: no race decides -----------------------------------------------------------------


@on_both_loops
async def test_send_and_wait_agree_on_a_refusal_after_the_acceptance() -> None:
    """Acceptance and refusal come in one segment or in two: `accepted` was reached, so that
    neither raises, and "handled" was not, so that both do.
    """

    async def serve() -> None:
        with await RawPeer.accept(server, BOB, ALICE) as peer:
            for number in range(1, 21):
                batch = await peer.next(BatchReceived)
                hashes = [batch.root]
                peer.session.send_receipts(frames.ACCEPTED_BATCHES, hashes, 1)
                if number % 2:
                    await peer.say()
                    await asyncio.sleep(0.005)
                peer.session.send_refusals([Refusal(batch.leaves[0], Reason.REFUSED)], 1)
                await peer.say()

    with RawServer() as server:
        async with Net().node(ALICE) as alice:
            alice.routing.update(BOB.did, server.address)
            task = asyncio.create_task(serve())
            for number in range(1, 21):
                if number % 4 < 2:
                    receipt = await within(LIMIT, alice.send(BOB.did, b"x"))
                    await eventually(lambda one=receipt: one.is_final)  # type: ignore[misc]
                    assert await receipt.wait("accepted") is receipt
                    with pytest.raises(MessageRefusedError):
                        await receipt.wait("handled")
                else:
                    with pytest.raises(MessageRefusedError):
                        await within(LIMIT, alice.send(BOB.did, b"x", until="handled"))
            await task
            await alice.close()
