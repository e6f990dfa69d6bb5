"""Nodes over v2 links: what an application sees, over TCP and in memory, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import pytest

from linkkit import ping
from signedwire import (
    Address,
    BackpressureError,
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    EnvelopeError,
    FailureKind,
    Identity,
    Message,
    MessageExpiredError,
    Node,
    NotAllowedError,
    PayloadTooLargeError,
    Priority,
    Reason,
    SignatureError,
    Target,
    UnknownPeerError,
)
from signedwire.arguments import Until
from signedwire.errors import MessageRefusedError
from signedwire.events import (
    Dropped,
    Event,
    EventsMissed,
    LoopStalled,
    MessageRefused,
    PeerConnected,
    PeerDisconnected,
)
from signedwire.transport.link import Link
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.receipt_delay import ReceiptDelay
from signedwire.types import PeerState
from signedwire.wire.receipt_proof import verify_receipt
from tlskit import MiddleBox, quick
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    refusing_address,
    within,
)

MIB: Final = 2**20
both_networks = pytest.mark.parametrize("network", ["tcp", "memory"])


class Net:
    """Makes nodes that can meet."""

    def __init__(self, network: str = "tcp", **faults: Any) -> None:
        self.memory = MemoryNetwork(**faults) if network == "memory" else None

    def node(self, who: Identity, **changes: Any) -> Node:
        return Node(who, quick(**changes), network=self.memory)

    @contextlib.asynccontextmanager
    async def pair(self, **changes: Any) -> AsyncIterator[tuple[Node, Node]]:
        """ALICE, who knows where BOB is, and BOB."""
        async with self.node(ALICE, **changes) as alice, self.node(BOB, **changes) as bob:
            meet(alice, bob)
            yield alice, bob


def meet(a: Node, b: Node) -> None:
    """Tell `a` where `b` is."""
    assert b.address is not None
    a.routing.update(b.did, b.address)


async def next_of(node: Node) -> Message:
    message = await node.receive(LIMIT)
    assert message is not None
    return message


async def take(node: Node, count: int) -> list[bytes]:
    return [(await next_of(node)).payload for _ in range(count)]


def states(receipt: Any) -> list[DeliveryState]:
    return [step.state for step in receipt.history]


class Watch:
    """Collects the events of a node."""

    def __init__(self, node: Node) -> None:
        self.events: list[Event] = []
        self._events = node.events()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for event in self._events:
            self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def __aenter__(self) -> Watch:
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._events.aclose()  # type: ignore[attr-defined]


# -- the ladder --------------------------------------------------------------------


@both_networks
@on_both_loops
async def test_a_message_climbs_the_ladder(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        handled = asyncio.create_task(alice.send(bob.did, b"hello", until="handled"))
        message = await next_of(bob)
        assert (message.sender, message.payload) == (ALICE.did, b"hello")
        assert not handled.done()
        message.ack()
        receipt = await within(LIMIT, handled)
        assert states(receipt) == ["queued", "written", "accepted", "handled"]
        assert all(a.at_us <= b.at_us for a, b in pairwise(receipt.history))
        assert receipt.is_final
        assert receipt.is_confirmed
        assert receipt.reason is None


@both_networks
@pytest.mark.parametrize("until", ["queued", "written", "accepted"])
@on_both_loops
async def test_send_returns_at_the_rung_that_was_asked_for(network: str, until: Until) -> None:
    async with Net(network).pair() as (alice, bob):
        receipt = await within(LIMIT, alice.send(bob.did, b"x", until=until))
        assert receipt.has_reached(DeliveryState(until))
        assert await take(bob, 1) == [b"x"]


@on_both_loops
async def test_until_queued_waits_for_nobody() -> None:
    async with Net().node(ALICE) as alice:
        with refusing_address() as address:
            alice.routing.update(BOB.did, address)
            receipt = await within(0.5, alice.send(BOB.did, b"x", until="queued"))
            assert receipt.state is DeliveryState.QUEUED
            with pytest.raises(DeliveryFailedError) as failure:
                await receipt.wait(DeliveryState.ACCEPTED, LIMIT)
            assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
            assert failure.value.receipt is receipt
            assert states(receipt) == ["queued", "failed"]


@on_asyncio
async def test_an_unknown_rung_is_refused() -> None:
    async with Net().pair() as (alice, bob):
        with pytest.raises(ValueError, match=r"'arrived' is unknown; known are queued"):
            await alice.send(bob.did, b"x", until="arrived")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="unknown"):
            await alice.send(bob.did, b"x", until="failed")  # type: ignore[arg-type]


@both_networks
@on_both_loops
async def test_refusing_tells_the_sender_the_reason(network: str) -> None:
    async with Net(network).pair() as (alice, bob), Watch(alice) as watch:
        sending = asyncio.create_task(alice.send(bob.did, b"x", until="handled"))
        message = await next_of(bob)
        message.nack(Reason.NOT_ALLOWED, "not on Sundays")
        message.ack()  # the first word counts
        with pytest.raises(MessageRefusedError) as failure:
            await within(LIMIT, sending)
        assert failure.value.reason is Reason.NOT_ALLOWED
        assert str(failure.value).endswith(": not allowed (not on Sundays)")
        assert failure.value.receipt.detail == "not on Sundays"
        proven = verify_receipt(failure.value.receipt.proof())
        assert (proven.reason, proven.detail) == (Reason.NOT_ALLOWED, "not on Sundays")
        assert states(failure.value.receipt) == ["queued", "written", "accepted", "refused"]
        assert alice.peers()[bob.did].dropped == {Reason.NOT_ALLOWED: 1}
        refused = MessageRefused(bob.did, message.message_id, Reason.NOT_ALLOWED)
        await eventually(lambda: watch.of(MessageRefused))
        assert watch.of(MessageRefused) == [refused]


@on_asyncio
async def test_a_reason_that_cannot_be_told_is_not_given() -> None:
    async with Net().pair() as (alice, bob):
        alice.send_nowait(bob.did, b"x")
        message = await next_of(bob)
        with pytest.raises(ValueError, match="has no code on the wire"):
            message.nack(Reason.QUEUE_FULL)
        message.nack()


@both_networks
@on_both_loops
async def test_send_nowait_and_wait(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        receipts = [alice.send_nowait(bob.did, b"%d" % n) for n in range(100)]
        assert {receipt.state for receipt in receipts} == {DeliveryState.QUEUED}
        await within(LIMIT, receipts[-1].wait(DeliveryState.ACCEPTED))
        assert all(receipt.has_reached(DeliveryState.ACCEPTED) for receipt in receipts)
        assert await take(bob, 100) == [b"%d" % n for n in range(100)]


@both_networks
@on_both_loops
async def test_send_many_keeps_order_and_waits_for_room(network: str) -> None:
    async with Net(network).pair(send_queue_limit=100) as (alice, bob):
        sent = [b"%d" % n for n in range(3000)]
        sending = asyncio.create_task(alice.send_many(bob.did, sent))
        assert await take(bob, len(sent)) == sent
        receipts = await within(LIMIT, sending)
        assert all(receipt.is_confirmed for receipt in receipts)
        assert len({receipt.message_id for receipt in receipts}) == 3000


@on_both_loops
async def test_send_many_until_handled() -> None:
    async with Net().pair() as (alice, bob):
        sending = asyncio.create_task(alice.send_many(bob.did, [b"x"] * 300, until="handled"))
        for _ in range(300):
            (await next_of(bob)).ack()
        receipts = await within(LIMIT, sending)
        assert {receipt.state for receipt in receipts} == {DeliveryState.HANDLED}


@on_both_loops
async def test_a_receipt_proves_delivery_to_anyone() -> None:
    async with Net().pair() as (alice, bob):
        receipts = [alice.send_nowait(bob.did, b"payload %d" % n) for n in range(40)]
        with pytest.raises(LookupError, match="signed no receipt"):
            receipts[0].proof()
        await within(LIMIT, receipts[-1].wait(DeliveryState.ACCEPTED))
        for number in (0, 17, 39):
            proof = receipts[number].proof()
            proven = verify_receipt(proof)
            assert proven.envelope.payload == b"payload %d" % number
            assert (proven.envelope.sender, proven.envelope.recipient) == (alice.did, bob.did)
            assert abs(proven.at_us / 1e6 - time.time()) < 60
        for place in range(0, len(proof), 7):
            altered = bytearray(proof)
            altered[place] ^= 0x10
            with pytest.raises((SignatureError, EnvelopeError)):
                verify_receipt(bytes(altered))
        for size in (0, 7, 12, len(proof) // 2, len(proof) - 1):
            with pytest.raises((SignatureError, EnvelopeError)):
                verify_receipt(proof[:size])
        with pytest.raises((SignatureError, EnvelopeError)):
            verify_receipt(proof + b"\0")


# -- deadlines ---------------------------------------------------------------------


@on_both_loops
async def test_a_deadline_that_passes_in_the_queue_is_kept_there() -> None:
    async with Net().node(ALICE, max_attempts=1000, retry_max_delay=0.02) as alice:
        with refusing_address() as address:
            alice.routing.update(BOB.did, address)
            began = time.monotonic()
            with pytest.raises(MessageExpiredError) as failure:
                await within(LIMIT, alice.send(BOB.did, b"late", deadline=0.15))
            assert 0.1 < time.monotonic() - began < 1.0
            assert states(failure.value.receipt) == ["queued", "expired"]
            assert alice.stats().messages_sent == 0
            assert alice.stats().dropped[Reason.EXPIRED] == 1


@on_asyncio
async def test_a_deadline_that_passes_on_the_way_is_kept_by_the_receiver() -> None:
    net = Net("memory")
    assert net.memory is not None
    async with net.pair() as (alice, bob):
        await alice.send(bob.did, b"warm")
        net.memory.delay = (0.2, 0.2)
        with pytest.raises(MessageExpiredError) as failure:
            await within(LIMIT, alice.send(bob.did, b"late", deadline=0.1))
        assert states(failure.value.receipt) == ["queued", "written", "expired"]
        await alice.send(bob.did, b"after")
        assert await take(bob, 2) == [b"warm", b"after"]
        assert bob.stats().dropped[Reason.EXPIRED] == 1


@both_networks
@on_both_loops
async def test_a_deadline_that_passes_in_the_inbox_is_kept_there(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        deadline = datetime.now(UTC) + timedelta(seconds=0.15)
        receipt = await alice.send(bob.did, b"late", deadline=deadline)
        assert receipt.state is DeliveryState.ACCEPTED
        await asyncio.sleep(0.2)
        await alice.send(bob.did, b"after", deadline=timedelta(seconds=60))
        assert await take(bob, 1) == [b"after"]
        with pytest.raises(MessageExpiredError):
            await receipt.wait(DeliveryState.HANDLED, LIMIT)
        # The wait ends at the deadline, the message with its peer's word.
        await eventually(lambda: receipt.is_final)
        assert states(receipt) == ["queued", "written", "accepted", "expired"]


@on_asyncio
async def test_a_deadline_passes_while_waiting_for_room() -> None:
    async with Net().node(ALICE, send_queue_limit=1, max_attempts=1000) as alice:
        with refusing_address() as address:
            alice.routing.update(BOB.did, address)
            alice.send_nowait(BOB.did, b"takes the place")
            with pytest.raises(MessageExpiredError, match="full"):
                await within(LIMIT, alice.send(BOB.did, b"late", deadline=0.1))


@pytest.mark.parametrize("deadline", [0, -1.0, float("inf"), float("nan"), datetime(2030, 1, 1)])
@on_asyncio
async def test_a_deadline_that_is_none_is_refused(deadline: Any) -> None:
    async with Net().pair() as (alice, bob):
        with pytest.raises(ValueError, match="deadline"):
            await alice.send(bob.did, b"x", deadline=deadline)


# -- one link for both directions ----------------------------------------------------


@both_networks
@on_both_loops
async def test_a_reply_goes_over_the_link_that_the_other_side_dialed(network: str) -> None:
    """BOB does not listen, and ALICE has no route to him."""
    net = Net(network)
    async with net.node(ALICE) as alice, net.node(BOB, listen=None) as bob:
        with pytest.raises(UnknownPeerError):
            alice.send_nowait(BOB.did, b"too early")
        meet(bob, alice)
        await within(LIMIT, bob.send(alice.did, b"question"))
        question = await next_of(alice)
        assert question.sender is not None
        receipt = await within(LIMIT, alice.send(question.sender, b"answer"))
        assert receipt.is_confirmed
        assert await take(bob, 1) == [b"answer"]
        assert alice.peers()[bob.did].state is PeerState.CONNECTED


def count_writes(node: Node, peer: Node) -> list[int]:
    """The sizes of what `node` says to `peer` from now on, write by write."""
    link = node._core.endpoint.sessions.session(peer.did).link
    assert isinstance(link, Link)
    # On a busy machine, the test itself may have held the loop.
    delay = link._output.receipts._delay
    delay._prompt_until, delay._late = 0.0, 0
    session = link.state.session
    assert session is not None
    data_to_send, sizes = session.data_to_send, []

    def counting(room: int | None = None, precise_now: float | None = None) -> bytes:
        data = data_to_send(room, precise_now)
        if data:
            sizes.append(len(data))
        return data

    session.data_to_send = counting  # type: ignore[method-assign]
    return sizes


@on_both_loops
async def test_the_receipt_of_a_critical_message_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ReceiptDelay, "start", lambda *_: None)  # it would wait for ever
    async with Net().pair() as (alice, bob):
        normal = alice.send_nowait(bob.did, b"status")
        urgent = alice.send_nowait(bob.did, b"stop", priority=Priority.CRITICAL)
        await urgent.wait("accepted", timeout=LIMIT)
        assert not normal.is_confirmed


@on_asyncio
async def test_a_reply_and_the_receipt_go_in_one_write() -> None:
    async def reply() -> None:
        await bob.receive()
        bob.send_nowait(alice.did, b"reply")

    async with Net("memory").pair() as (alice, bob):
        await alice.send(bob.did, b"first")
        await next_of(bob)
        for _ in range(5):
            await asyncio.sleep(0)  # what taking it has set going
        writes = count_writes(bob, alice)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reply())
            await alice.send(bob.did, b"question")
        assert (await next_of(alice)).payload == b"reply"
        assert len(writes) == 1


@on_asyncio
async def test_an_application_that_holds_the_loop_holds_two_receipts_back_and_no_more() -> None:
    written: list[int] = []

    async def work() -> None:
        for _ in range(3):
            await bob.receive()
            written.append(len(writes))
            time.sleep(0.01)  # noqa: ASYNC251 - as applications do

    async with Net("memory").pair() as (alice, bob):
        await alice.send(bob.did, b"first")
        await next_of(bob)
        for _ in range(5):
            await asyncio.sleep(0)  # what taking it has set going
        writes = count_writes(bob, alice)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            for number in range(3):
                await alice.send(bob.did, bytes(number))
        # Each time: how many receipts had been written before the application had its turn.
        assert written == [0, 1, 3]


def links_of(node: Node) -> list[Any]:
    return [one for one in node._core.endpoint.links if isinstance(one, Link) and one.state.is_open]


@both_networks
@on_both_loops
async def test_both_dial_at_once_and_one_link_stays(network: str) -> None:
    """The one that the smaller DID dialed; and what was under way on the other arrives."""
    small, large = sorted((identity(n) for n in (31, 32)), key=lambda each: bytes(each.did))
    net = Net(network)
    for _ in range(3):
        async with net.node(small) as a, net.node(large) as b:
            meet(a, b)
            meet(b, a)
            sent = [b"%d" % n for n in range(300)]
            await within(LIMIT, asyncio.gather(a.send_many(b.did, sent), b.send_many(a.did, sent)))
            assert await take(a, 300) == sent
            assert await take(b, 300) == sent
            await eventually(lambda a=a, b=b: len(links_of(a)) == len(links_of(b)) == 1)  # type: ignore[misc]
            assert links_of(a)[0].state.is_dialed
            assert not links_of(b)[0].state.is_dialed
            await within(LIMIT, asyncio.gather(a.send(b.did, b"end"), b.send(a.did, b"end")))
            assert await take(a, 1) == await take(b, 1) == [b"end"]
            assert a.stats().messages_received == b.stats().messages_received == 301


@on_both_loops
async def test_a_link_that_goes_nowhere_is_replaced_by_the_newer() -> None:
    """The peer lost its side without a word, say by a power cut, and dials anew."""
    small, large = sorted((identity(n) for n in (33, 34)), key=lambda each: bytes(each.did))
    net = Net()
    async with net.node(small) as a, net.node(large) as b:
        with MiddleBox(_address(b)) as box:
            a.routing.update(b.did, box.address)
            await within(LIMIT, a.send(b.did, b"over the box"))
            box.is_deaf = True  # from here on the link is up, and leads nowhere
            await b.close()
            assert a.peers()[b.did].state is PeerState.CONNECTED
            async with net.node(large) as again:
                meet(again, a)
                await within(2, again.send(a.did, b"back"))
                assert await take(a, 1) == [b"back"]
                await within(2, a.send(large.did, b"welcome"))
                assert await take(again, 1) == [b"welcome"]


def _address(node: Node) -> Address:
    assert isinstance(node.address, Address)
    return node.address


# -- who may -----------------------------------------------------------------------


@both_networks
@on_both_loops
async def test_denying_closes_the_link_and_keeps_it_closed(network: str) -> None:
    async with Net(network).pair() as (alice, bob), Watch(bob) as watch:
        await alice.send(bob.did, b"1")
        bob.access.deny(ALICE.did)
        await eventually(lambda: not links_of(bob) and not links_of(alice))
        with pytest.raises(DeliveryFailedError):
            await within(LIMIT, alice.send(bob.did, b"2"))
        with pytest.raises(NotAllowedError, match="denied"):
            await bob.send(ALICE.did, b"3")
        assert bob.stats().dropped[Reason.DENIED] >= 2
        bob.access.undeny(str(ALICE.did))
        await within(LIMIT, alice.send(bob.did, b"4"))
        assert await take(bob, 1) == [b"4"]  # "1" was not taken when its sender was denied
        assert watch.of(PeerDisconnected)[0] == PeerDisconnected(
            ALICE.did, "denied", FailureKind.CLOSED_HERE
        )


@on_both_loops
async def test_an_allow_list_turns_everybody_else_away() -> None:
    net = Net()
    async with net.pair() as (alice, bob), net.node(CAROL) as carol:
        meet(carol, bob)
        await carol.send(bob.did, b"before")
        bob.access.allow_only([ALICE.did])
        await eventually(lambda: not links_of(bob))
        await within(LIMIT, alice.send(bob.did, b"listed"))
        with pytest.raises(DeliveryFailedError):
            await within(LIMIT, carol.send(bob.did, b"not listed"))
        bob.access.allow_only(None)
        await within(LIMIT, carol.send(bob.did, b"after"))
        assert await take(bob, 2) == [b"listed", b"after"]  # "before" was not taken before


@on_asyncio
async def test_the_lists_may_be_changed_before_the_start_and_after_the_end() -> None:
    net = Net()
    bob = net.node(BOB)
    bob.access.deny(ALICE.did)
    async with bob, net.node(ALICE) as alice:
        meet(alice, bob)
        with pytest.raises(DeliveryFailedError):
            await within(LIMIT, alice.send(bob.did, b"x"))
    bob.access.undeny(ALICE.did)


# -- what is told -------------------------------------------------------------------


@both_networks
@on_both_loops
async def test_events_tell_who_comes_and_goes(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        async with Watch(alice) as ours, Watch(bob) as theirs:
            await alice.send(bob.did, b"x")
            await alice.close()
            await eventually(lambda: theirs.of(PeerDisconnected))
        assert [(e.did, e.is_dialed) for e in ours.of(PeerConnected)] == [(bob.did, True)]
        assert [(e.did, e.is_dialed) for e in theirs.of(PeerConnected)] == [(alice.did, False)]
        assert theirs.of(PeerDisconnected) == [
            PeerDisconnected(
                alice.did,
                "the peer closed the link with code 0 (it is closing): the node is closing",
                FailureKind.CLOSED,
            )
        ]


@on_asyncio
async def test_events_tell_of_drops() -> None:
    async with Net().node(BOB) as bob, Watch(bob) as watch:
        reader, writer = await asyncio.open_connection(*_address(bob))
        writer.write(b"GET / HTTP/1.1\r\n")
        await reader.read()
        writer.close()
        await eventually(lambda: watch.of(Dropped))
        assert watch.of(Dropped)[0].reason is Reason.WRONG_PROTOCOL


@on_asyncio
async def test_a_slow_watcher_is_told_how_many_it_missed() -> None:
    async with Net().node(BOB) as bob:
        events = bob.events()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        for number in range(1500):
            bob._core.runtime.emit(LoopStalled(number))
        assert isinstance(await first, EventsMissed | LoopStalled)
        seen = [await anext(events) for _ in range(999)]
        missed = sum(e.count for e in (*seen, first.result()) if isinstance(e, EventsMissed))
        assert missed >= 499
        assert isinstance(seen[-1], LoopStalled)
        assert seen[-1].seconds >= 1498 - 1
        await events.aclose()  # type: ignore[attr-defined]


@on_both_loops
async def test_events_end_with_the_node() -> None:
    async with Net().node(BOB) as bob:
        ending = asyncio.create_task(_count(bob))
        await asyncio.sleep(0)
        await bob.close()
        assert await within(LIMIT, ending) == 0


async def _count(node: Node) -> int:
    return len([event async for event in node.events()])


@on_both_loops
async def test_peers_show_the_health_of_a_link() -> None:
    async with Net().pair() as (alice, bob):
        assert alice.peers() == {}
        await alice.send(bob.did, b"x" * 100)
        await eventually(lambda: alice.peers()[bob.did].round_trip is not None)
        status = alice.peers()[bob.did]
        assert (status.did, status.wire, status.address) == (bob.did, "v2", bob.address)
        assert status.state is PeerState.CONNECTED
        assert abs(status.since - time.time()) < 5
        assert status.last_error is None
        assert status.retry_at is None
        assert status.round_trip is not None
        assert 0 <= status.round_trip < 1  # uvloop counts whole milliseconds
        assert status.queued == dict.fromkeys(Priority, 0)
        assert status.in_flight == 0
        assert status.credit is not None
        assert all(0 < credit.messages <= 4096 for credit in status.credit)
        assert status.failed_attempts == 0
        assert status.dropped == {}
        await bob.close()
        await eventually(lambda: alice.peers()[bob.did].state is not PeerState.CONNECTED)
        alice.send_nowait(bob.did, b"y")
        await eventually(lambda: alice.peers()[bob.did].state is PeerState.BACKING_OFF)
        status = alice.peers()[bob.did]
        assert status.retry_at is not None
        assert status.last_error is not None
        assert status.last_error_at is not None
        assert status.credit is None


# -- sizes and lanes -----------------------------------------------------------------


@both_networks
@on_both_loops
async def test_payloads_up_to_the_limit(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        for size in (0, 1, 65535, 65536, 300_000, MIB):
            payload = bytes(size - 1) + b"!" if size else b""
            await within(LIMIT, alice.send(bob.did, payload))
            assert await take(bob, 1) == [payload]
        with pytest.raises(PayloadTooLargeError) as failure:
            await alice.send(bob.did, bytes(MIB + 1))
        assert failure.value.reason is Reason.TOO_LARGE
        with pytest.raises(PayloadTooLargeError):
            await alice.send_many(bob.did, [b"", bytes(MIB + 1)])
        assert alice.stats().dropped[Reason.TOO_LARGE] == 2


@on_asyncio
async def test_the_limit_can_be_raised() -> None:
    async with Net().pair(max_payload_size=4 * MIB, credit_bytes=5 * MIB) as (alice, bob):
        await within(LIMIT, alice.send(bob.did, bytes(4 * MIB)))
        assert await take(bob, 1) == [bytes(4 * MIB)]


@both_networks
@on_both_loops
async def test_a_payload_over_the_limit_of_the_peer_fails_alone(network: str) -> None:
    """The peer says in its HELLO what it takes. It must neither block nor break the link."""
    net = Net(network)
    small_bob = net.node(BOB, max_payload_size=1000, credit_bytes=4096)
    async with net.node(ALICE) as alice, small_bob as bob:
        meet(alice, bob)
        large = alice.send_nowait(bob.did, bytes(100_000))
        barely = alice.send_nowait(bob.did, bytes(1001))
        small = alice.send_nowait(bob.did, bytes(1000))
        await within(LIMIT, small.wait(DeliveryState.ACCEPTED))
        for receipt in (large, barely):
            with pytest.raises(DeliveryFailedError) as failure:
                await receipt.wait(DeliveryState.ACCEPTED, LIMIT)
            assert failure.value.reason is Reason.TOO_LARGE
        assert await take(bob, 1) == [bytes(1000)]
        assert alice.stats().reconnections == 0


@both_networks
@on_both_loops
async def test_the_higher_lane_goes_first(network: str) -> None:
    net = Net(network)
    async with net.node(ALICE, max_attempts=1000) as alice, net.node(BOB) as bob:
        with refusing_address() as nowhere:
            alice.routing.update(bob.did, nowhere)
            for priority in Priority:
                for number in (1, 2):
                    payload = b"%s %d" % (priority.name.encode(), number)
                    last = alice.send_nowait(bob.did, payload, priority=priority)
            meet(alice, bob)
            await within(LIMIT, last.wait(DeliveryState.ACCEPTED))
            await eventually(lambda: bob.stats().inbox_messages == 8)
        names = ["CRITICAL", "HIGH", "NORMAL", "LOW"]
        expected = [f"{name} {number}".encode() for name in names for number in (1, 2)]
        assert await take(bob, 8) == expected


@on_both_loops
async def test_critical_gets_into_a_full_queue() -> None:
    async with Net().node(ALICE, send_queue_limit=5, critical_reserve=2) as alice:
        with refusing_address() as address:
            alice.routing.update(BOB.did, address)
            for _ in range(5):
                alice.send_nowait(BOB.did, b"x")
            with pytest.raises(BackpressureError):
                alice.send_nowait(BOB.did, b"x", priority=Priority.HIGH)
            for _ in range(2):
                alice.send_nowait(BOB.did, b"stop", priority=Priority.CRITICAL)
            with pytest.raises(BackpressureError):
                alice.send_nowait(BOB.did, b"stop", priority=Priority.CRITICAL)
            assert alice.stats().backpressure_events == 2


@both_networks
@on_both_loops
async def test_critical_gets_past_an_application_that_has_stopped(network: str) -> None:
    """Credit of its own: the peer's inbox is full of what was sent before."""
    async with Net(network).pair(credit_messages=50, send_queue_limit=20) as (alice, bob):
        low = [alice.send_nowait(bob.did, b"low", priority=Priority.LOW) for _ in range(20)]
        await within(LIMIT, low[-1].wait(DeliveryState.ACCEPTED))
        for _ in range(50):
            with contextlib.suppress(BackpressureError):
                alice.send_nowait(bob.did, b"low", priority=Priority.LOW)
            await asyncio.sleep(0)
        await eventually(lambda: alice.peers()[bob.did].credit[0].messages == 0)  # type: ignore[index]
        await within(LIMIT, alice.send(bob.did, b"stop", priority=Priority.CRITICAL))
        assert (await next_of(bob)).payload == b"stop"


# -- v1 ----------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", ["all", [BOB.did]])
@on_both_loops
async def test_a_v1_peer_is_found_out_where_it_is_allowed(allowed: Any) -> None:
    net = Net()
    async with net.node(ALICE, v1_peers=allowed) as alice, net.node(BOB, wire="v1") as bob:
        meet(alice, bob)
        receipt = await within(LIMIT, alice.send(bob.did, b"1"))
        assert receipt.state is DeliveryState.WRITTEN
        assert not receipt.is_confirmed
        assert alice.peers()[bob.did].wire == "v1"
        attempts = bob.stats().connections_accepted
        await within(LIMIT, alice.send(bob.did, b"2"))
        assert bob.stats().connections_accepted == attempts  # it remembers
        assert await take(bob, 2) == [b"1", b"2"]
        with pytest.raises(LookupError):
            receipt.proof()


@on_asyncio
async def test_finding_out_a_v1_peer_costs_no_attempt() -> None:
    net = Net()
    async with (
        net.node(ALICE, max_attempts=1, v1_peers="all") as alice,
        net.node(BOB, wire="v1") as bob,
    ):
        meet(alice, bob)
        await within(LIMIT, alice.send(bob.did, b"1"))
        assert await take(bob, 1) == [b"1"]
        assert alice.peers()[bob.did].failed_attempts == 0


@pytest.mark.parametrize("allowed", [[], [CAROL.did]])
@on_both_loops
async def test_a_v1_peer_is_not_spoken_to_where_it_is_not_allowed(allowed: Any) -> None:
    net = Net()
    async with net.node(ALICE, v1_peers=allowed) as alice, net.node(BOB, wire="v1") as bob:
        meet(alice, bob)
        with pytest.raises(DeliveryFailedError, match="name its DID in v1_peers"):
            await within(LIMIT, alice.send(bob.did, b"secret"))
        assert bob.stats().messages_received == 0
        assert bob.stats().dropped.keys() <= {Reason.WRONG_PROTOCOL}


@on_asyncio
async def test_a_v1_node_refuses_to_send_where_v1_is_not_allowed() -> None:
    net = Net()
    async with net.node(ALICE, wire="v1", v1_peers=[CAROL.did]) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        with pytest.raises(NotAllowedError, match="v1_peers"):
            await alice.send(bob.did, b"x")


@on_both_loops
async def test_a_v1_node_reaches_a_node_that_takes_v1() -> None:
    net = Net()
    async with net.node(ALICE, wire="v1") as alice, net.node(BOB, v1_peers=[ALICE.did]) as bob:
        meet(alice, bob)
        receipt = await within(LIMIT, alice.send(bob.did, b"x"))
        assert not receipt.is_confirmed
        message = await next_of(bob)
        assert message.sender == ALICE.did
        message.ack()  # nobody hears it
        with pytest.raises(PayloadTooLargeError, match="v1 limit"):
            await alice.send(bob.did, bytes(1025))


# -- faults ------------------------------------------------------------------------


@both_networks
@on_both_loops
async def test_a_restart_of_the_peer_loses_and_doubles_nothing(network: str) -> None:
    net = Net(network)
    got: list[bytes] = []
    async with net.node(ALICE, max_attempts=1000) as alice:
        address: Target | None = None
        sent = [b"%d" % n for n in range(2000)]
        sending: asyncio.Task[Any] | None = None
        for life in range(3):
            async with net.node(BOB, listen=address or Address("127.0.0.1", 0)) as bob:
                meet(alice, bob)
                address = bob.address
                if sending is None:
                    sending = asyncio.create_task(alice.send_many(bob.did, sent))
                while len(got) < (500, 1200, 2000)[life]:
                    got += await take(bob, 1)
            # Close is no message's end: what it had accepted is counted, and ours to add.
            lost = bob.stats().dropped.get(Reason.INBOX_CLOSED, 0)
            got += sent[len(got) : len(got) + lost]
            if len(got) == len(sent):
                break
        assert got == sent
        assert sending is not None
        receipts = await within(LIMIT, sending)
        assert all(receipt.is_confirmed for receipt in receipts)


@on_both_loops
async def test_receipts_lost_by_a_cut_are_given_again() -> None:
    async with Net().pair(max_attempts=1000) as (alice, bob):
        with MiddleBox(_address(bob)) as box:
            alice.routing.update(bob.did, box.address)
            await within(LIMIT, alice.send(bob.did, b"warm"))
            box.is_deaf = True  # what BOB says is lost
            # No more than fits the first window: ALICE hears of no READ either.
            receipts = [alice.send_nowait(bob.did, b"%d" % n) for n in range(100)]
            await eventually(lambda: bob.stats().messages_received == 101)
            assert {receipt.state for receipt in receipts} == {DeliveryState.WRITTEN}
            box.cut_all()
            box.is_deaf = False
            await within(LIMIT, receipts[-1].wait(DeliveryState.ACCEPTED))
            await eventually(lambda: all(receipt.is_confirmed for receipt in receipts))
            assert verify_receipt(receipts[50].proof()).envelope.payload == b"50"
            assert await take(bob, 101) == [b"warm", *(b"%d" % n for n in range(100))]
            assert bob.stats().messages_received == 101
            assert bob.stats().dropped[Reason.DUPLICATE] == 100
            assert alice.stats().reconnections == 1
            await alice.close()


@pytest.mark.parametrize("seed", range(2))
@on_both_loops
async def test_a_net_that_cuts_loses_and_doubles_nothing(seed: int) -> None:
    net = Net("memory", seed=seed, delay=(0, 0.002), cut=0.01)
    async with net.pair(max_attempts=1000, credit_messages=200) as (alice, bob):
        sent = [b"%d" % n for n in range(1500)]
        sending = asyncio.create_task(alice.send_many(bob.did, sent))
        got = await within(20, take(bob, len(sent)))
        assert got == sent, f"seed {seed}"
        net.memory.cut = 0  # type: ignore[union-attr]
        receipts = await within(LIMIT, sending)
        assert all(receipt.is_confirmed for receipt in receipts)
        assert bob.stats().messages_received == len(sent)


@both_networks
@on_both_loops
async def test_close_fails_what_nobody_took(network: str) -> None:
    async with Net(network).pair() as (alice, bob):
        await alice.send(bob.did, b"x")
        with refusing_address() as address:
            alice.routing.update(CAROL.did, address)
            receipt = alice.send_nowait(CAROL.did, b"never")
            began = time.monotonic()
            await alice.close()
            assert time.monotonic() - began < 1.0
            assert receipt.state is DeliveryState.FAILED
            assert receipt.reason in (Reason.CLOSED, Reason.ATTEMPTS_EXHAUSTED)
        with pytest.raises(ClosedError):
            await alice.send(bob.did, b"y")
        with pytest.raises(ClosedError):
            await alice.receive()


@on_asyncio
async def test_the_deadline_of_many_is_counted_from_the_call() -> None:
    def slowly_made() -> Iterator[bytes]:
        for number in range(600):
            if number in (256, 512):  # where a chunk of them begins
                time.sleep(0.15)
            yield b"x"

    async with Net().pair() as (alice, bob):
        with pytest.raises(MessageExpiredError):
            await alice.send_many(bob.did, slowly_made(), deadline=0.2)


@on_asyncio
async def test_nobody_waits_for_what_a_receipt_is_not_followed_to() -> None:
    async with Net().pair() as (alice, bob):
        (receipt,) = await alice.send_many(bob.did, [b"one of many"])
        with pytest.raises(ValueError, match="until='handled'"):
            await receipt.wait(DeliveryState.HANDLED)
        with pytest.raises(ValueError, match="until='handled'"):
            receipt.result(until=DeliveryState.HANDLED)
        followed = alice.send_nowait(bob.did, b"alone")
        for message in [await next_of(bob), await next_of(bob)]:
            message.ack()
        await followed.wait(DeliveryState.HANDLED, timeout=5)


@on_both_loops
@pytest.mark.parametrize("how", ["lost", "eof", "aborted"])
async def test_frames_that_wait_when_the_connection_ends_are_processed_or_dropped(how: str) -> None:
    """And the link then has no input: one that had some for ever took each turn of the loop."""
    async with Net().pair() as (alice, bob):
        await within(LIMIT, alice.send(bob.did, b"x"))
        link = bob._core.endpoint.sessions.session(alice.did).link
        assert isinstance(link, Link)
        session = link.state.session
        assert session is not None
        session.put_data(ping(1).encode() * 500, asyncio.get_running_loop().time())
        assert session.has_frames
        match how:
            case "lost":
                link.lost(ConnectionResetError())
                assert not link.state.is_over
            case "eof":
                link.ended()
            case "aborted":
                link.abort()
        turns = 0
        while link._input.work(time.monotonic(), 0.0):
            turns += 1
        assert link.state.is_over
        assert not link._input.work(time.monotonic(), 0.0)
        assert turns <= 501
        if how != "aborted":
            assert turns >= 499
            assert not session.has_frames


@on_both_loops
async def test_a_connection_that_was_reset_while_it_was_not_read_ends() -> None:
    """The socket of a link whose input waits is not read, so nothing tells of a reset."""
    async with Net().node(BOB) as bob:
        assert bob.address is not None
        _, writer = await asyncio.open_connection(*_address(bob))
        writer.write(b"\x16\x03\x01")  # the beginning of a ClientHello
        await eventually(lambda: any(type(g.handler).__name__ == "Link" for g in guests(bob)))
        (guest,) = guests(bob)
        link = guest.handler
        link._input.set_waiting(True)
        assert not link._input.drop_if_reset()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await eventually(link._input.drop_if_reset)
        assert link.state.is_over
        await eventually(lambda: not guests(bob))


def guests(node: Node) -> list[Any]:
    """The connections that were accepted."""
    return list(node._core.acceptor._connections)
