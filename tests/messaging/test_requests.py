"""Requests and replies between two nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from signedwire import (
    BackpressureError,
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    MessageExpiredError,
    MessageRefusedError,
    Node,
    NoReplyError,
    Priority,
    Reason,
    SignedEnvelope,
    StoreError,
    UnknownPeerError,
)
from signedwire.delivery.message import IncomingMessage, Message
from signedwire.delivery.open_requests import MAX_OPEN_REQUESTS
from signedwire.transport.memory import MemoryNetwork
from signedwire.types import Kind
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, eventually, on_asyncio, within


@contextlib.asynccontextmanager
async def two_nodes(
    network: MemoryNetwork | None = None, **changes: Any
) -> AsyncIterator[tuple[Node, Node]]:
    network = network or MemoryNetwork()
    async with (
        Node(ALICE, quick(**changes), network=network) as alice,
        Node(BOB, quick(), network=network) as bob,
    ):
        alice.routing.update(bob.did, bob.address)
        bob.routing.update(alice.did, alice.address)
        yield alice, bob


def incoming(message: Message) -> IncomingMessage:
    assert isinstance(message, IncomingMessage)
    return message


def rows_of(node: Node) -> int:
    """The number of accepted messages in the store."""
    store = node.stats().store
    assert store is not None
    return store.inbox.rows


@on_asyncio
async def test_a_handler_replies() -> None:
    async with two_nodes() as (alice, bob):

        @bob.serve("double")
        async def double(message: Message) -> bytes:
            assert (message.kind, message.subject) == (Kind.REQUEST, "double")
            return message.payload * 2

        reply = await alice.request(bob.did, b"ab", subject="double", priority="high")
        assert reply.payload == b"abab"
        assert (reply.sender, reply.kind) == (bob.did, Kind.REPLY)
        assert (reply.priority, reply.durable) == (Priority.HIGH, False)
        assert not alice._core.context.requests


@on_asyncio
async def test_a_plain_function_replies_and_none_is_empty() -> None:
    async with two_nodes() as (alice, bob):
        bob.serve("plain", lambda message: None)
        assert (await alice.request(bob.did, subject="plain")).payload == b""


@on_asyncio
async def test_the_reply_proves_what_was_asked() -> None:
    """Anybody can see that the reply names this very request."""
    async with two_nodes() as (alice, bob):
        asked: list[SignedEnvelope] = []

        @bob.serve("x")
        async def answer(message: Message) -> bytes:
            asked.append(message.envelope)
            return b"yes"

        reply = await alice.request(bob.did, b"?", subject="x")
        reply.envelope.verify()
        assert reply.reply_to == asked[0].digest


@on_asyncio
async def test_an_application_without_handlers_replies_to_messages() -> None:
    async with two_nodes() as (alice, bob):
        asking = asyncio.create_task(alice.request(bob.did, b"?", subject="any"))
        message = await bob.receive(5)
        receipt = await message.reply(b"!", payload_type="sensor_fusion")
        assert receipt.has_reached("accepted")
        reply = await asking
        assert (reply.payload, reply.payload_type.name) == (b"!", "SENSOR_FUSION")
        with pytest.raises(ValueError, match="was answered before"):
            message.reply(b"again")


@on_asyncio
async def test_what_is_no_request_has_no_reply() -> None:
    async with two_nodes() as (alice, bob):
        await alice.send(bob.did, b"hello")
        message = await bob.receive(5)
        with pytest.raises(ValueError, match="is no request"):
            message.reply(b"!")


@on_asyncio
async def test_refusals_tell_why() -> None:
    async with two_nodes() as (alice, bob):

        @bob.serve("busy")
        async def busy(message: Message) -> None:
            message.nack("rate", "ask again in a minute")

        @bob.serve("broken")
        async def broken(message: Message) -> bytes:
            raise KeyError("no battery")

        @bob.serve("wrong")
        def wrong(message: Message) -> Any:
            return "text"

        for subject, reason, text in (
            ("busy", Reason.RATE, "ask again in a minute"),
            ("broken", Reason.REFUSED, "its handler failed: KeyError"),
            ("wrong", Reason.REFUSED, "its handler failed: TypeError"),
            ("absent", Reason.UNKNOWN_SUBJECT, ""),
        ):
            with pytest.raises(MessageRefusedError) as caught:
                await alice.request(bob.did, subject=subject)
            assert caught.value.reason is reason
            assert caught.value.receipt.detail == text


@on_asyncio
async def test_how_far_a_request_came() -> None:
    """Nobody was there, the peer still works, and the peer took it without a reply."""
    network = MemoryNetwork()
    async with two_nodes(network) as (alice, bob):
        never = asyncio.Event()

        @bob.serve("slow")
        async def slow(message: Message) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await never.wait()

        with pytest.raises(NoReplyError, match=r"accepted request .* 1 s") as caught:
            await alice.request(bob.did, subject="slow", timeout=1.0)
        assert caught.value.state is DeliveryState.ACCEPTED
        await bob.close()
        with pytest.raises(NoReplyError, match="was not reached") as caught:
            await alice.request(bob.did, subject="slow", timeout=0.2)
        assert caught.value.state is DeliveryState.QUEUED
        assert not alice._core.context.requests


@on_asyncio
async def test_a_request_that_was_acknowledged_alone() -> None:
    async with two_nodes() as (alice, bob):
        asking = asyncio.create_task(alice.request(bob.did, timeout=1.0))
        (await bob.receive(5)).ack()
        with pytest.raises(NoReplyError, match="sent no reply within") as caught:
            await asking
        assert caught.value.state is DeliveryState.HANDLED


@on_asyncio
async def test_a_reply_may_follow_the_acknowledgement() -> None:
    async with two_nodes() as (alice, bob):
        asking = asyncio.create_task(alice.request(bob.did, timeout=10))
        message = await bob.receive(5)
        message.ack()
        request = next(iter(alice._core.context.requests._by_message))
        await request.wait("handled", timeout=5)
        message.reply(b"!")
        assert (await asking).payload == b"!"


@on_asyncio
async def test_durable_requests_with_stores_on_both_sides(tmp_path: Path) -> None:
    """The answer that a request was handled may overtake the reply, which waits for a commit."""
    network = MemoryNetwork()
    async with (
        Node(ALICE, quick(), network=network, store=tmp_path / "a.db") as alice,
        Node(BOB, quick(), network=network, store=tmp_path / "b.db") as bob,
    ):
        alice.routing.update(bob.did, bob.address)
        bob.routing.update(alice.did, alice.address)
        bob.serve("x", lambda message: message.payload)
        asked = [
            alice.request(bob.did, b"%d" % number, subject="x", durable=True)
            for number in range(50)
        ]
        replies = await asyncio.gather(*asked)
        assert [reply.payload for reply in replies] == [b"%d" % number for number in range(50)]


@on_asyncio
async def test_a_cut_link_to_a_peer_without_a_route() -> None:
    """A handler still works when the link of a stranger breaks; the next link has the reply."""
    network = MemoryNetwork()
    async with (
        Node(ALICE, quick(), network=network) as alice,
        Node(BOB, quick(), network=network) as bob,
    ):
        alice.routing.update(bob.did, bob.address)
        gate = asyncio.Event()

        @bob.serve("x")
        async def slow(message: Message) -> bytes:
            await gate.wait()
            return b"!"

        asked = [
            asyncio.create_task(alice.request(bob.did, subject="x", timeout=20)) for _ in range(4)
        ]
        await eventually(lambda: bob.stats().messages_received == 4)
        network.cut_all()
        await eventually(lambda: bob.peers()[alice.did].state != "connected")
        alice.send_nowait(bob.did, b"dial", durable=False)
        await eventually(lambda: bob.stats().messages_received == 5)
        gate.set()
        assert [reply.payload for reply in await asyncio.gather(*asked)] == [b"!"] * 4


@on_asyncio
async def test_a_handler_may_close_its_node() -> None:
    may_end, has_ended = asyncio.Event(), asyncio.Event()
    async with two_nodes() as (alice, bob):

        @bob.serve("close")
        async def close(message: Message) -> None:
            await bob.close()

        @bob.serve("stubborn")
        async def stubborn(message: Message) -> None:
            while not may_end.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await may_end.wait()
            has_ended.set()

        asked = [
            asyncio.create_task(alice.request(bob.did, subject=subject, timeout=5))
            for subject in ("stubborn", "close")
        ]
        await within(LIMIT, asyncio.gather(*asked, return_exceptions=True))
        await within(LIMIT, bob.close())
        may_end.set()
        await within(LIMIT, has_ended.wait())


@on_asyncio
async def test_a_late_request_dies_before_the_handler() -> None:
    async with two_nodes() as (alice, bob):
        begun, gate = [], asyncio.Event()

        @bob.serve("x", limit=1)
        async def one_at_a_time(message: Message) -> bytes:
            begun.append(message.payload)
            await gate.wait()
            return b""

        first = asyncio.create_task(alice.request(bob.did, b"1", subject="x", timeout=5))
        await eventually(lambda: begun == [b"1"])
        with pytest.raises(NoReplyError):
            await alice.request(bob.did, b"2", subject="x", timeout=0.1)
        third = asyncio.create_task(alice.request(bob.did, b"3", subject="x", timeout=5))
        await eventually(lambda: bob.stats().messages_received == 3)
        gate.set()
        await first
        await third
        assert begun == [b"1", b"3"]


@on_asyncio
async def test_a_handler_is_cancelled_at_the_deadline() -> None:
    async with two_nodes() as (alice, bob):
        ended: list[str] = []

        @bob.serve("x")
        async def hang(message: Message) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        with pytest.raises(NoReplyError):
            await alice.request(bob.did, subject="x", timeout=0.8)
        await eventually(lambda: ended == ["cancelled"])


@on_asyncio
async def test_replies_that_nobody_waits_for_are_refused() -> None:
    """A late one, a second one, and one from another peer than was asked."""
    async with two_nodes() as (alice, bob):
        asking = asyncio.create_task(alice.request(bob.did, b"1", timeout=0.8))
        late = await bob.receive(5)
        with pytest.raises(NoReplyError):
            await asking
        with pytest.raises(MessageExpiredError):  # a reply has the deadline of its request
            await late.reply(b"late").wait("handled", timeout=5)
        asking = asyncio.create_task(alice.request(bob.did, b"2", timeout=5))
        message = await bob.receive(5)
        mine = bob._requests
        second = mine.new_reply(incoming(message), b"second", message.payload_type)
        await message.reply(b"first")
        assert (await asking).payload == b"first"
        bob._core.endpoint.submitter.submit(second, second.payload_size)
        with pytest.raises(MessageRefusedError, match="no request of this node waits"):
            await second.wait("handled", timeout=5)
        assert alice.stats().dropped[Reason.NO_REQUEST] == 1


@on_asyncio
async def test_a_reply_from_another_peer_does_not_count() -> None:
    network = MemoryNetwork()
    from signedwire import Identity

    async with (
        two_nodes(network) as (alice, bob),
        Node(Identity.generate(), quick(), network=network) as eve,
    ):
        eve.routing.update(alice.did, alice.address)
        asking = asyncio.create_task(alice.request(bob.did, b"?", timeout=5))
        message = await bob.receive(5)
        forged = eve._requests.new_reply(incoming(message), b"forged", message.payload_type)
        forged.options.recipient = alice.did
        eve._core.endpoint.submitter.submit(forged, forged.payload_size)
        with pytest.raises(MessageRefusedError):
            await forged.wait("handled", timeout=5)
        message.reply(b"true")
        assert (await asking).payload == b"true"


@on_asyncio
async def test_a_restart_of_the_peer_is_an_unknown_outcome() -> None:
    network = MemoryNetwork()
    async with Node(ALICE, quick(), network=network) as alice:
        async with Node(BOB, quick(), network=network) as bob:
            alice.routing.update(bob.did, bob.address)
            asking = asyncio.create_task(alice.request(bob.did, b"?", timeout=20))
            await bob.receive(5)
            address = bob.address
        async with Node(BOB, quick(listen=str(address)), network=network):
            alice.routing.update(bob.did, address)
            alice.send_nowait(bob.did, b"dial")
            with pytest.raises(DeliveryFailedError) as caught:
                await asking
    assert caught.value.reason is Reason.UNKNOWN_OUTCOME


@on_asyncio
async def test_many_requests_at_once() -> None:
    async with two_nodes() as (alice, bob):

        @bob.serve("echo")
        async def echo(message: Message) -> bytes:
            return message.payload

        payloads = [b"%d" % number for number in range(500)]
        asked = [alice.request(bob.did, payload, subject="echo") for payload in payloads]
        assert [reply.payload for reply in await asyncio.gather(*asked)] == payloads


@on_asyncio
async def test_the_number_of_open_requests_is_bounded() -> None:
    async with two_nodes() as (alice, bob):
        asked = [
            asyncio.create_task(alice.request(bob.did, timeout=5)) for _ in range(MAX_OPEN_REQUESTS)
        ]
        await eventually(lambda: len(alice._core.context.requests) == MAX_OPEN_REQUESTS)
        with pytest.raises(BackpressureError, match="1024 requests to did:key"):
            await alice.request(bob.did)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert not alice._core.context.requests


@on_asyncio
async def test_the_end_of_a_node_ends_its_requests_and_handlers() -> None:
    async with two_nodes() as (alice, bob):
        started, ended = asyncio.Event(), asyncio.Event()

        @bob.serve("x")
        async def hang(message: Message) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        asking = asyncio.create_task(alice.request(bob.did, subject="x", timeout=20))
        await within(LIMIT, started.wait())
        await bob.close()
        assert ended.is_set()
        await alice.close()
        with pytest.raises((ClosedError, DeliveryFailedError)):
            await asking
        with pytest.raises(ClosedError):
            await alice.request(bob.did)


@on_asyncio
async def test_requests_to_nowhere() -> None:
    async with two_nodes() as (alice, _):
        from signedwire import Identity

        with pytest.raises(UnknownPeerError):
            await alice.request(Identity.generate().did)
        for timeout in (0, -1, True, "1", float("nan")):
            with pytest.raises((ValueError, TypeError)):
                await alice.request(alice.did, timeout=timeout)  # type: ignore[arg-type]


@on_asyncio
async def test_durable_requests_survive_a_restart(tmp_path: Path) -> None:
    """A request that waits in the store of the peer comes to a handler that is made later."""
    network = MemoryNetwork()
    store = tmp_path / "bob.db"
    async with Node(ALICE, quick(), network=network) as alice:
        async with Node(BOB, quick(), network=network, store=store) as bob:
            alice.routing.update(bob.did, bob.address)
            asking = asyncio.create_task(
                alice.request(bob.did, b"?", subject="x", timeout=20, durable=True)
            )
            await eventually(lambda: bob.stats().inbox_messages == 1)
            address = bob.address
        async with Node(BOB, quick(listen=str(address)), network=network, store=store) as bob:
            bob.routing.update(alice.did, alice.address)
            await eventually(lambda: bob.stats().inbox_messages == 1)

            @bob.serve("x")
            async def answer(message: Message) -> bytes:
                assert message.redelivered
                return b"!"

            reply = await asking
            assert (reply.payload, reply.durable) == (b"!", True)
            await eventually(lambda: rows_of(bob) == 0)


@on_asyncio
async def test_two_handlers_for_one_subject() -> None:
    async with two_nodes() as (_, bob):
        bob.serve("x", lambda message: b"")
        with pytest.raises(ValueError, match="has a handler already"):
            bob.serve("x", lambda message: b"")
        with pytest.raises(TypeError, match="a handler is a function"):
            bob.serve("y", 7)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="limit=0"):
            bob.serve("y", lambda message: b"", limit=0)


@on_asyncio
async def test_a_durable_request_waits_for_the_start_of_its_handler(tmp_path: Path) -> None:
    """Its handler is there before the start, when no reply can be sent yet."""
    network, store = MemoryNetwork(), tmp_path / "bob.db"
    async with Node(ALICE, quick(), network=network) as alice:
        async with Node(BOB, quick(), network=network, store=store) as bob:
            alice.routing.update(bob.did, bob.address)
            asking = asyncio.create_task(
                alice.request(bob.did, subject="x", timeout=20, durable=True)
            )
            await eventually(lambda: rows_of(bob) == 1)
            address = bob.address
        again = Node(BOB, quick(listen=str(address)), network=network, store=store)
        again.routing.update(alice.did, alice.address)
        again.serve("x", lambda message: b"!")
        async with again:
            assert (await asking).payload == b"!"
            await eventually(lambda: rows_of(again) == 0)


@on_asyncio
async def test_a_reply_that_cannot_be_sent_is_a_refusal() -> None:
    async with two_nodes() as (alice, bob):
        bob.serve("large", lambda message: bytes(2**20 + 1))
        with pytest.raises(MessageRefusedError, match="PayloadTooLargeError"):
            await alice.request(bob.did, subject="large")


@on_asyncio
async def test_a_handler_that_ends_in_a_strange_way() -> None:
    """Another node of it is closed, or a task that it awaited was cancelled."""
    async with two_nodes() as (alice, bob):

        @bob.serve("closed", limit=1)
        async def closed(message: Message) -> bytes:
            raise ClosedError("the node behind it is closed")

        @bob.serve("cancelled", limit=1)
        async def cancelled(message: Message) -> bytes:
            task = asyncio.create_task(asyncio.sleep(10))
            task.cancel()
            await task
            return b""

        for subject in ("closed", "cancelled"):
            asked = [alice.request(bob.did, subject=subject) for _ in range(3)]
            for outcome in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(outcome, MessageRefusedError), outcome


@on_asyncio
async def test_a_sender_that_vanishes_holds_no_handler() -> None:
    network = MemoryNetwork()
    from signedwire import Identity

    async with (
        two_nodes(network) as (alice, bob),
        Node(Identity.generate(), quick(), network=network) as other,
    ):
        other.routing.update(bob.did, bob.address)
        gate = asyncio.Event()

        @bob.serve("x", limit=2)
        async def slow(message: Message) -> bytes:
            await gate.wait()
            return b"."

        asked = [
            asyncio.create_task(alice.request(bob.did, subject="x", timeout=30)) for _ in range(20)
        ]
        await eventually(lambda: bob.stats().messages_received >= 20)
        await alice.close()
        gate.set()
        assert (await other.request(bob.did, subject="x", timeout=10)).payload == b"."
        await asyncio.gather(*asked, return_exceptions=True)


@on_asyncio
async def test_senders_take_turns_for_a_handler() -> None:
    network = MemoryNetwork()
    from signedwire import Identity

    async with (
        two_nodes(network) as (alice, bob),
        Node(Identity.generate(), quick(), network=network) as stranger,
    ):
        stranger.routing.update(bob.did, bob.address)
        order: list[str] = []
        gate = asyncio.Event()

        @bob.serve("x", limit=1)
        async def note(message: Message) -> bytes:
            await gate.wait()
            order.append("alice" if message.sender == alice.did else "stranger")
            return b""

        many = [
            asyncio.create_task(stranger.request(bob.did, subject="x", timeout=30))
            for _ in range(200)
        ]
        await eventually(lambda: bob.stats().messages_received == 200)
        one = asyncio.create_task(alice.request(bob.did, subject="x", timeout=30))
        await eventually(lambda: bob.stats().messages_received == 201)
        gate.set()
        await one
        assert order.index("alice") < 20
        await asyncio.gather(*many)


@on_asyncio
async def test_a_dead_request_is_not_sent_again(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with Node(ALICE, quick(), network=network, store=tmp_path / "a.db") as alice:
        async with Node(BOB, quick(), network=network) as bob:
            alice.routing.update(bob.did, bob.address)
            bob.serve("x", lambda message: message.nack("refused", "no"))
            with pytest.raises(MessageRefusedError):
                await alice.request(bob.did, subject="x", durable=True)
        (letter,) = await alice.dead.list()
        with pytest.raises(StoreError, match="is a request, and nobody waits"):
            await alice.dead.retry(letter.id)
