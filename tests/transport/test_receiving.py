"""What a node remembers of its senders, over links: credit, answers, marks, and refusals."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Final

import pytest
from test_link import Net, both_networks, links_of, meet, next_of, states, take
from test_links import RawPeer, address_of

from linkkit import sent
from signedwire import (
    ClosedError,
    DeliveryState,
    Identity,
    Message,
    Node,
    Priority,
    Reason,
    Receipt,
)
from signedwire.delivery import session_map as session_map_module
from signedwire.errors import MessageRefusedError
from signedwire.transport.memory import MemoryNetwork
from signedwire.types import unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import leaf_of
from signedwire.wire.envelope import sign_batch
from signedwire.wire.link_frames import Refusal
from signedwire.wire.parts import encode_batch
from signedwire.wire.session import (
    BatchReceived,
    Closed,
    HelloReceived,
    ReceiptsReceived,
)
from tlskit import MALLORY, MiddleBox, in_thread, quick
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    random_seed,
    within,
)

HEADER: Final = 126
ANSWERS: Final = ["ack", "nack"]


def answer(message: Message, how: str) -> None:
    if how == "ack":
        message.ack()
    else:
        message.nack(Reason.NOT_ALLOWED)


def answer_all(messages: list[Message], how: str) -> None:
    for message in messages:
        answer(message, how)


async def has_heard(receipt: Receipt, how: str) -> None:
    """The sender learns of the answer."""
    if how == "ack":
        await receipt.wait(DeliveryState.HANDLED, LIMIT)
        return
    with pytest.raises(MessageRefusedError) as failure:
        await receipt.wait(DeliveryState.HANDLED, LIMIT)
    assert failure.value.reason is Reason.NOT_ALLOWED


# -- the inbox of all together -----------------------------------------------------------

PAYLOAD: Final = 1000
SIZE: Final = PAYLOAD + HEADER
CREDIT: Final = 20_000
BUDGET: Final = 80_000


def waiting(node: Node) -> int:
    return node.stats().inbox_messages * SIZE


def came(node: Node, who: Identity) -> int:
    """How many Normal messages of this one have come, ever."""
    return node._core.endpoint.sessions.session(who.did).receiver.durable.marks[Priority.NORMAL]


@pytest.mark.parametrize("early", [0, 3, 6])
@on_both_loops
async def test_keys_without_end_cannot_fill_the_memory_and_nobody_waits_for_ever(
    early: int,
) -> None:
    """`early` of twelve are granted credit before anything waits, the others after them."""
    count, each = 12, 60
    network = MemoryNetwork()
    config = quick(
        max_payload_size=PAYLOAD,
        credit_bytes=CREDIT,
        inbox_bytes=BUDGET,
        critical_reserve=1,
        max_inbound_connections=count,
        close_timeout=0.05,
    )
    whos = [identity(300 + number) for number in range(count)]
    async with Node(BOB, config, network=network) as bob:
        nodes = [Node(who, config, network=network) for who in whos]
        try:
            for node in nodes:
                await node.start()
                meet(node, bob)
            for node in nodes[:early]:
                await within(LIMIT, node.send(bob.did, b""))
                await next_of(bob)
            sending: list[asyncio.Task[Any]] = []

            async def offer(node: Node) -> None:
                sent = [bytes(PAYLOAD - 8) + n.to_bytes(8, "big") for n in range(each)]
                sending.append(asyncio.create_task(node.send_many(bob.did, sent)))
                # It has its HELLO, and no room for one more.
                await eventually(
                    lambda: (
                        (status := node.peers().get(bob.did))
                        and status.credit is not None
                        and status.credit[Priority.NORMAL].bytes < SIZE
                        and not status.in_flight
                    )
                )

            await asyncio.gather(*(offer(node) for node in nodes[:early]))
            granted = early * CREDIT
            assert waiting(bob) <= granted
            for node in nodes[early:]:
                await offer(node)
            # What had been granted when the last bytes were taken up may still come.
            assert BUDGET - SIZE < waiting(bob) <= max(BUDGET, granted) + CREDIT
            without = [who for who in whos if not came(bob, who)]
            assert without
            if granted >= BUDGET:
                assert waiting(bob) <= granted
                assert without == whos[early:]

            got: dict[Any, list[bytes]] = {who.did: [] for who in whos}

            async def take_one() -> None:
                message = await next_of(bob)
                assert message.sender is not None
                if message.payload:
                    got[message.sender].append(message.payload[-8:])

            while waiting(bob) * 2 > BUDGET:
                await take_one()
            await eventually(lambda: all(came(bob, who) for who in without))
            while sum(map(len, got.values())) < count * each:
                await take_one()
                assert waiting(bob) <= BUDGET / 2 + count * CREDIT
            for numbers in got.values():
                assert numbers == [n.to_bytes(8, "big") for n in range(each)]
            for receipts in await within(LIMIT, asyncio.gather(*sending)):
                assert all(receipt.is_confirmed for receipt in receipts)
        finally:
            await asyncio.gather(*(node.close() for node in nodes))


@on_asyncio
async def test_critical_has_no_way_around_the_budget_either() -> None:
    """Its own credit is granted out of the same bytes."""
    network = MemoryNetwork()
    config = quick(
        max_payload_size=PAYLOAD, credit_bytes=CREDIT, inbox_bytes=17 * SIZE, critical_reserve=1
    )
    async with (
        Node(BOB, config, network=network) as bob,
        Node(ALICE, config, network=network) as first,
        Node(CAROL, config, network=network) as late,
    ):
        meet(first, bob)
        meet(late, bob)
        await within(LIMIT, first.send_many(bob.did, [bytes(PAYLOAD)] * 17))
        normal = late.send_nowait(bob.did, bytes(PAYLOAD))
        stop = late.send_nowait(bob.did, bytes(PAYLOAD), priority=Priority.CRITICAL)
        # The PONG comes after all that it was granted at first.
        await eventually(
            lambda: (status := late.peers().get(bob.did)) and status.round_trip is not None
        )
        credit = late.peers()[bob.did].credit
        assert credit is not None
        assert credit[Priority.NORMAL].bytes == credit[Priority.CRITICAL].bytes == 0
        await take(bob, 17)
        await within(LIMIT, stop.wait(DeliveryState.ACCEPTED))
        await within(LIMIT, normal.wait(DeliveryState.ACCEPTED))
        await take(bob, 2)


@on_both_loops
async def test_a_budget_of_one_message_lets_one_through_at_a_time() -> None:
    """Else its sender would wait for ever."""
    net = Net("memory")
    large = bytes(2**20)
    async with (
        net.node(BOB, inbox_bytes=len(large) + 413) as bob,
        net.node(ALICE) as alice,
        net.node(CAROL) as carol,
    ):
        for node in (alice, carol):
            meet(node, bob)
        receipts = [node.send_nowait(bob.did, large) for node in (alice, carol, alice, carol)]
        for _ in range(4):
            message = await next_of(bob)
            assert message.payload == large
        for receipt in receipts:
            await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))


@on_asyncio
async def test_a_peer_whose_messages_wait_gets_no_more_by_another_link() -> None:
    """What waits counts, by whatever link it came."""
    config = {"max_payload_size": PAYLOAD, "credit_bytes": CREDIT, "critical_reserve": 1}
    async with Net().node(BOB, **config) as bob:
        sequence = 0
        for _ in range(5):
            with await RawPeer.dial(bob, ALICE) as alice:
                credit = (await alice.next(HelloReceived)).hello.credit[Priority.NORMAL]
                assert credit.bytes <= CREDIT - sequence * SIZE
                bodies: list[bytes] = []
                while (len(bodies) + 1) * SIZE <= credit.bytes:
                    sequence += 1
                    bodies.append(alice.body(sequence, bytes(PAYLOAD)))
                if bodies:
                    await alice.send(*bodies)
                    await alice.next(ReceiptsReceived)
            await eventually(lambda: not links_of(bob))
        assert waiting(bob) == sequence * SIZE == CREDIT // SIZE * SIZE


# -- answers ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("is_receipt_lost", [True, False])
@on_both_loops
async def test_an_answer_that_a_broken_link_took_with_it_is_said_again(
    how: str, is_receipt_lost: bool
) -> None:
    async with Net().pair(max_attempts=1000) as (alice, bob):
        with MiddleBox(address_of(bob)) as box:
            alice.routing.update(bob.did, box.address)
            await within(LIMIT, alice.send(bob.did, b"warm"))
            await take(bob, 1)
            box.is_deaf = is_receipt_lost
            receipt = alice.send_nowait(bob.did, b"x")
            message = await next_of(bob)
            if not is_receipt_lost:
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
            box.is_deaf = True
            before = bob.stats().bytes_sent
            answer(message, how)
            await eventually(lambda: bob.stats().bytes_sent > before)
            assert not receipt.is_final
            box.cut_all()
            box.is_deaf = False
            await has_heard(receipt, how)
            assert bob.stats().messages_received == 2
            if how == "ack":
                again = ["queued", "written"] if is_receipt_lost else []
                assert states(receipt) == ["queued", "written", *again, "accepted", "handled"]
            await alice.close()


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("when", ["with the cut", "without a link"])
@on_both_loops
async def test_an_answer_that_no_link_takes_is_said_over_the_next(how: str, when: str) -> None:
    net = Net("memory")
    assert net.memory is not None
    async with net.pair() as (alice, bob):
        receipt = await within(LIMIT, alice.send(bob.did, b"x"))
        message = await next_of(bob)
        if when == "without a link":
            alice.routing.remove(bob.did)
            dialer = alice._core.endpoint.sessions.session(bob.did).sender.dialer
            assert dialer is not None
            net.memory.cut_all()
            await eventually(lambda: not links_of(bob) and not links_of(alice))
            answer(message, how)
            await asyncio.sleep(0)
            meet(alice, bob)
            alice.send_nowait(bob.did, b"y")
        else:
            answer(message, how)
            net.memory.cut_all()
        await has_heard(receipt, how)


@on_both_loops
async def test_answers_that_many_broken_links_took_with_them_all_come() -> None:
    _, draw = random_seed()
    net = Net("memory")
    assert net.memory is not None
    async with net.pair(max_attempts=10_000) as (alice, bob):
        receipts: list[Receipt] = []
        for number in range(300):
            receipts.append(await alice.send(bob.did, b"%d" % number, until="queued"))
            if draw.random() < 0.2:
                await asyncio.sleep(0)
        expected: list[str] = []
        for number in range(300):
            message = await next_of(bob)
            assert message.payload == b"%d" % number
            expected.append(draw.choice(ANSWERS))
            answer(message, expected[-1])
            if draw.random() < 0.1:
                net.memory.cut_all()
        for receipt, how in zip(receipts, expected, strict=True):
            await has_heard(receipt, how)
        assert bob.stats().messages_received == 300


@both_networks
@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("is_in_thread", [False, True])
@on_both_loops
async def test_an_answer_right_before_the_close_reaches_the_sender(
    network: str, how: str, is_in_thread: bool
) -> None:
    async with Net(network).pair() as (alice, bob):
        receipts = [alice.send_nowait(bob.did, b"%d" % n) for n in range(5)]
        await within(LIMIT, receipts[-1].wait(DeliveryState.ACCEPTED))
        messages = [await next_of(bob) for _ in receipts]
        if is_in_thread:
            # The loop stands still until the thread is over, as with a pool's shutdown().
            thread = threading.Thread(target=answer_all, args=(messages, how))
            thread.start()
            thread.join()
        else:
            answer_all(messages, how)
        await bob.close()
        for receipt in receipts:
            await has_heard(receipt, how)


@both_networks
@on_both_loops
async def test_answers_may_be_given_in_any_thread(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        receipts = [alice.send_nowait(bob.did, b"%d" % n) for n in range(200)]
        messages = [await next_of(bob) for _ in receipts]

        def work(part: list[Message]) -> None:
            for message in part:
                answer(message, ANSWERS[int(message.payload) % 2])
                answer(message, ANSWERS[1 - int(message.payload) % 2])  # the first word counts

        await asyncio.gather(*(in_thread(work, messages[start::4]) for start in range(4)))
        for number, receipt in enumerate(receipts):
            await has_heard(receipt, ANSWERS[number % 2])


@on_both_loops
async def test_an_answer_after_the_end_of_the_node_is_an_error() -> None:
    async with Net().pair() as (alice, bob):
        await within(LIMIT, alice.send_many(bob.did, [b"1", b"2"]))
        first, second = await next_of(bob), await next_of(bob)
        await bob.close()
        for _ in range(2):  # it stays without an answer, and so an error
            with pytest.raises(
                ClosedError, match=rf"message {first.message_id[:8]} .* this node is closed"
            ):
                first.ack()
        with pytest.raises(ClosedError, match=f"message {second.message_id[:8]} "):
            await in_thread(second.nack)


# -- numbers that are used twice -------------------------------------------------------------


async def receipts_and_refusals(
    peer: RawPeer, count: int
) -> tuple[set[bytes], dict[bytes, Reason]]:
    """Wait until so many envelopes were answered: leaves or roots, and what was refused."""
    accepted: set[bytes] = set()
    refused: dict[bytes, Reason] = {}
    async with asyncio.timeout(LIMIT):
        while True:
            for event in list(peer.events):
                if isinstance(event, ReceiptsReceived):
                    assert event.receipts.kind != frames.HANDLED_ENVELOPES
                    hashes, reason = event.receipts.hashes, event.receipts.reason
                    if reason is None:
                        accepted.update(hashes)
                    else:
                        refused.update(dict.fromkeys(hashes, reason))
                    peer.events.remove(event)
            if len(accepted) + len(refused) >= count:
                return accepted, refused
            await peer.read()


@pytest.mark.parametrize("is_new_link", [True, False])
@on_both_loops
async def test_other_content_under_a_used_number_is_refused_and_never_signed_for(
    is_new_link: bool,
) -> None:
    async with Net().node(BOB) as bob:
        peer = await RawPeer.dial(bob, ALICE)
        original = peer.body(1, b"original")
        await peer.send(original, peer.body(2, b"second"))
        batch = sent([original, peer.body(2, b"second")], ALICE)
        assert await receipts_and_refusals(peer, 1) == ({batch.root}, {})
        assert await take(bob, 2) == [b"original", b"second"]
        if is_new_link:
            peer.reset()
            peer = await RawPeer.dial(bob, ALICE)
        with peer:
            forged = peer.body(1, b"forged")
            await peer.send(forged)
            assert await receipts_and_refusals(peer, 1) == (
                set(),
                {leaf_of(forged): Reason.DUPLICATE},
            )
            # Among others, of whom each gets its own answer.
            third, fourth = peer.body(3, b"third"), peer.body(3, b"other third")
            bodies = [original, forged, third, fourth]
            await peer.send(*bodies)
            leaves = sent(bodies, ALICE).leaves
            accepted, refused = await receipts_and_refusals(peer, 4)
            assert accepted == {leaves[0], leaves[2]}
            assert refused == dict.fromkeys((leaves[1], leaves[3]), Reason.DUPLICATE)
            # The same again, alone: a receipt for it.
            await peer.send(original)
            assert await receipts_and_refusals(peer, 1) == ({sent([original], ALICE).root}, {})
            assert await take(bob, 1) == [b"third"]
            assert bob.stats().inbox_messages == 0
            assert bob.stats().messages_received == 3
            assert bob.stats().dropped[Reason.DUPLICATE] >= 4


@on_asyncio
async def test_other_content_under_the_number_of_one_that_had_expired_is_refused() -> None:
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE) as peer:
            late = peer.body(1, b"late", expires_at_us=unix_time_us() - 1)
            await peer.send(late)
            assert await receipts_and_refusals(peer, 1) == (set(), {leaf_of(late): Reason.EXPIRED})
            other = peer.body(1, b"in time")
            await peer.send(other)
            assert await receipts_and_refusals(peer, 1) == (
                set(),
                {leaf_of(other): Reason.DUPLICATE},
            )
            await peer.send(late)
            assert await receipts_and_refusals(peer, 1) == (set(), {leaf_of(late): Reason.EXPIRED})
            assert bob.stats().messages_received == 0


@on_asyncio
async def test_a_lower_number_that_was_never_used_is_refused() -> None:
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE) as peer:
            await peer.send(peer.body(7, b"seven"))
            await receipts_and_refusals(peer, 1)
            six = peer.body(6, b"six")
            await peer.send(six)
            assert await receipts_and_refusals(peer, 1) == (set(), {leaf_of(six): Reason.DUPLICATE})
            # Another lane has its own numbers.
            await peer.send(peer.body(6, b"high", priority=Priority.HIGH))
            accepted, refused = await receipts_and_refusals(peer, 1)
            assert (len(accepted), refused) == (1, {})
        assert await take(bob, 2) == [b"high", b"seven"]


# -- a batch whose signature does not fit ------------------------------------------------------


@pytest.mark.parametrize("is_in_one_piece", [True, False])
@on_both_loops
async def test_a_batch_with_a_wrong_signature_is_refused_by_name_and_ends_the_link(
    is_in_one_piece: bool,
) -> None:
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE) as peer:
            await peer.next(HelloReceived)
            good = [peer.body(1, b"good"), peer.body(2, b"too")]
            bad = [peer.body(3, b"bad"), peer.body(4, b"worse")]
            _, signature, _ = sign_batch(MALLORY, bad)
            wrong = encode_batch(signature, bad)
            peer.session.send_batch(good)
            if not is_in_one_piece:
                await peer.say()
                await eventually(lambda: bob.stats().messages_received == 2)
            await peer.say(wrong)
            assert await peer.next_refusals() == [
                Refusal(leaf_of(one), Reason.BAD_SIGNATURE) for one in bad
            ]
            receipts = await peer.next_receipts()
            assert receipts.hashes == (sent(good, ALICE).root,)
            closed = await peer.next(Closed)
            assert (closed.code, closed.is_by_peer) == (frames.CLOSE_BAD_SIGNATURE, True)
        assert await take(bob, 2) == [b"good", b"too"]
        assert bob.stats().messages_received == 2
        assert bob.stats().dropped == {Reason.BAD_SIGNATURE: 2}
        # Nothing of it was believed: the numbers are free, and who signs for them may use them.
        with await RawPeer.dial(bob, ALICE) as peer:
            assert (await peer.next(HelloReceived)).hello.marks == (0, 2, 0, 0, 0, 0, 0, 0)
            await peer.send(*bad)
            await peer.next(ReceiptsReceived)
        assert await take(bob, 2) == [b"bad", b"worse"]


@on_asyncio
async def test_one_changed_byte_is_a_wrong_signature() -> None:
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, ALICE) as peer:
            await peer.next(HelloReceived)
            _, signature, _ = sign_batch(ALICE, [peer.body(1, b"pay 1")])
            await peer.say(encode_batch(signature, [peer.body(1, b"pay 9")]))
            assert (await peer.next(Closed)).code == frames.CLOSE_BAD_SIGNATURE
        assert bob.stats().messages_received == 0


# -- who is remembered ------------------------------------------------------------------------


async def bring(bob: Node, who: Identity, *sequences: int) -> tuple[int, tuple[int, ...]]:
    """Deliver these and go; what BOB's HELLO said of us: epoch and marks."""
    with await RawPeer.dial(bob, who) as peer:
        hello = (await peer.next(HelloReceived)).hello
        if sequences:
            await peer.send(*(peer.body(n, b"%d" % n) for n in sequences))
            await peer.next(ReceiptsReceived)
    await eventually(lambda: bob.stats().inbound_connections == 0)
    return hello.known_epochs.durable, hello.marks[:4]


@pytest.mark.parametrize("is_taken", [True, False])
@on_both_loops
async def test_who_has_delivered_keeps_its_marks(is_taken: bool) -> None:
    async with Net().node(BOB) as bob:
        assert await bring(bob, ALICE, 1, 2, 3) == (0, (0, 0, 0, 0))
        if is_taken:
            await take(bob, 3)
        assert await bring(bob, ALICE) == (9, (0, 3, 0, 0))
        assert await bring(bob, ALICE, 1, 2, 3, 4) == (9, (0, 3, 0, 0))
        assert await bring(bob, ALICE) == (9, (0, 4, 0, 0))
        assert bob.stats().messages_received == 4


@on_asyncio
async def test_strangers_are_forgotten_before_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_map_module, "_MAX_STRANGERS", 4)
    async with Net().node(BOB) as bob:
        bob.routing.update(ALICE.did, "127.0.0.1:9")
        assert await bring(bob, ALICE, 1, 2) == (0, (0, 0, 0, 0))
        with await RawPeer.dial(bob, CAROL) as waiting_one:
            await waiting_one.send(waiting_one.body(1, priority=Priority.LOW))
            await waiting_one.next(ReceiptsReceived)
        assert await take(bob, 2) == [b"1", b"2"]
        for number in range(400, 420):
            await bring(bob, identity(number), 1)
            assert await take(bob, 1) == [b"1"]
            assert len(bob._core.endpoint.sessions._sessions) <= 4
            assert {
                ALICE.did,
                CAROL.did,
                identity(number).did,
            } <= bob._core.endpoint.sessions._sessions.keys()
        assert await bring(bob, ALICE) == (9, (0, 2, 0, 0))
        assert await bring(bob, identity(419)) == (9, (0, 1, 0, 0))
        assert await bring(bob, identity(400)) == (0, (0, 0, 0, 0))


@on_asyncio
async def test_who_was_sent_to_or_waits_or_is_here_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many strangers come: no room is made at their cost."""
    monkeypatch.setattr(session_map_module, "_MAX_STRANGERS", 3)
    here, waits, sent_to = identity(450), identity(451), identity(452)
    async with Net().node(BOB) as bob:
        with await RawPeer.dial(bob, sent_to) as peer:
            await peer.send(peer.body(1))
            await peer.next(ReceiptsReceived)
            await next_of(bob)
            receipt = bob.send_nowait(sent_to.did, b"hello")
            await peer.receipt(await peer.next(BatchReceived))
            await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
        await eventually(lambda: bob.stats().inbound_connections == 0)
        await bring(bob, waits, 1)
        with await RawPeer.dial(bob, here) as peer:
            await peer.next(HelloReceived)
            await eventually(lambda: len(links_of(bob)) == 1)
            for number in range(460, 480):
                with await RawPeer.dial(bob, identity(number)) as stranger:
                    await stranger.next(HelloReceived)
                await eventually(lambda: bob.stats().inbound_connections == 1)
                known = bob._core.endpoint.sessions._sessions
                assert {here.did, waits.did, sent_to.did} <= known.keys()
                assert len(known) <= 4
            await peer.send(peer.body(1, b"still here"))
            await peer.next(ReceiptsReceived)
        assert await bring(bob, waits) == (9, (0, 1, 0, 0))
        assert await bring(bob, sent_to) == (9, (0, 1, 0, 0))


@pytest.mark.parametrize("kept", ["nowhere", "store", "evidence", "store and evidence"])
@on_both_loops
async def test_a_receipt_does_not_wait_for_the_application(kept: str, tmp_path: Path) -> None:
    """Also where it comes after a commit: nothing else may be due on the link then."""
    changes: dict[str, Any] = {}
    if "store" in kept:
        changes["store"] = tmp_path / "bob.db"
    if "evidence" in kept:
        changes["evidence"] = tmp_path / "evidence.log"
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB, **changes) as bob:
        meet(alice, bob)
        for number in range(5):
            await within(LIMIT, alice.send(bob.did, b"%d" % number, until="accepted"))
        assert bob.stats().messages_received == 5
