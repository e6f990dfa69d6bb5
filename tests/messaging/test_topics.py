"""Topics between nodes: order, once, receipts, limits, and who subscribes again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from topickit import Net, cut, meet, subscriptions, take

from signedwire import (
    AdmissionContext,
    BackpressureError,
    ClosedError,
    ControlType,
    DeliveryFailedError,
    DeliveryState,
    Did,
    Identity,
    Kind,
    MessageHeader,
    MessageRefusedError,
    Node,
    NotAllowedError,
    Outcomes,
    Priority,
    Reason,
    Receipt,
    SignedEnvelope,
)
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions, new_ids
from tlskit import quick
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    within,
)


class Refuses:
    """Refuses to subscribe to one subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.asked: list[MessageHeader] = []

    def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        self.asked.append(header)
        is_subscribe = header.control_type is ControlType.SUBSCRIBE
        return Reason.SUBJECT_RULE if is_subscribe and header.subject == self.subject else None


def control(
    node: Node, to: Did, subject: str, payload: bytes = b"", type_: int = 1
) -> OutgoingMessage:
    """Queue a control message that `subscribe()` would not make."""
    options = SendOptions(
        to,
        Priority.HIGH,
        subject=subject.encode(),
        kind=Kind.CONTROL,
        control_type=ControlType(type_),
        is_durable=False,
    )
    message = OutgoingMessage(options, new_ids(1)[0], payload)
    node._core.endpoint.submitter.submit(message, len(payload))
    return message


async def reason_of(receipt: Receipt) -> tuple[Reason, str]:
    with pytest.raises(MessageRefusedError) as error:
        await receipt.wait("handled", LIMIT)
    return error.value.reason, receipt.detail


# -- what a subscriber gets ------------------------------------------------------------------


@on_both_loops
async def test_publications_come_in_order_and_once_with_a_receipt_each() -> None:
    async with Net().pair() as (alice, bob), bob.subscribe(alice.did, "status") as status:
        tables = [await alice.publish("status", b"%d" % number) for number in range(200)]
        await alice.publish("other", b"not for bob")
        for number in range(200):
            message = await status.receive(LIMIT)
            assert message.payload == b"%d" % number
            assert (message.kind, message.subject) == (Kind.PUBLICATION, "status")
            assert (message.sender, message.durable) == (alice.did, False)
            message.ack()
        for table in tables:
            assert list(table) == [bob.did]
            await table.wait("handled", LIMIT)
            assert table.delivered == (bob.did,)
            assert table.failed == table.pending == ()
        assert len(bob._core.endpoint.inbox) == 0


@on_asyncio
async def test_the_table_names_who_has_it_and_who_has_not() -> None:
    net = Net()
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(net.node(ALICE))
        peers = [await stack.enter_async_context(net.node(identity(n))) for n in (11, 12, 13)]
        streams = []
        for peer in peers:
            meet(peer, alice)
            streams.append(await peer.subscribe(alice.did, "status"))
        table = await alice.publish("status", b"x", until="accepted")
        assert table.delivered == tuple(peer.did for peer in peers)
        for stream, peer in zip(streams, peers, strict=True):
            message = await stream.receive(LIMIT)
            if peer is peers[1]:
                message.nack("refused", "not now")
            else:
                message.ack()
        await table.wait("handled", LIMIT)
        assert table.delivered == (peers[0].did, peers[2].did)
        (failed,) = table.failed
        assert (failed.did, failed.reason, failed.detail) == (
            peers[1].did,
            Reason.REFUSED,
            "not now",
        )
        assert failed.last_seen == pytest.approx(time.time(), abs=5)
        assert isinstance(failed.error, MessageRefusedError)
        assert repr(table) == "<Outcomes of 3 peers: 2 delivered, 1 failed, 0 pending>"


@on_asyncio
async def test_a_stalled_subscriber_slows_nobody() -> None:
    net = Net()
    async with (
        net.node(ALICE, send_queue_limit=20) as alice,
        net.node(BOB) as bob,
        net.node(CAROL, credit_messages=5) as carol,
    ):
        meet(bob, alice)
        meet(carol, alice)
        lively = await bob.subscribe(alice.did, "status")
        await carol.subscribe(alice.did, "status")  # and never reads
        for number in range(100):
            table = await within(1, alice.publish("status", b"%d" % number))
            (message,) = [await lively.receive(LIMIT)]
            message.ack()
            assert message.payload == b"%d" % number
        (failed,) = table.failed
        assert (failed.did, failed.reason) == (carol.did, Reason.QUEUE_FULL)
        assert isinstance(table[carol.did], BackpressureError)
        await table.wait("accepted", LIMIT)
        assert table.delivered == (bob.did,)


@on_asyncio
async def test_256_subscribers_cost_one_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    signed: list[Identity] = []
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(net.node(ALICE))
        streams = []
        for number in range(256):
            peer = await stack.enter_async_context(net.node(identity(1000 + number), listen=None))
            meet(peer, alice)
            streams.append(await peer.subscribe(alice.did, "status"))
        original = Identity._sign_labelled

        def counted(self: Identity, *arguments: Any) -> bytes:
            if self is ALICE:
                signed.append(self)
            return original(self, *arguments)

        monkeypatch.setattr(Identity, "_sign_labelled", counted)
        table = await alice.publish("status", b"one for all")
        assert len(signed) == 1
        await table.wait("accepted", LIMIT)
        assert len(table.delivered) == 256
        assert len(signed) == 1
        messages = [await stream.receive(LIMIT) for stream in streams]
        assert len({message.envelope.signature for message in messages}) == 1
        for message in messages[::50]:
            message.envelope.verify()


@on_both_loops
async def test_latest_keeps_the_newest_unread_one() -> None:
    async with Net().pair() as (alice, bob):
        pose = await bob.subscribe(alice.did, "pose", latest=True)
        tables = [await alice.publish("pose", b"%d" % number) for number in range(50)]
        await tables[-1].wait("accepted", LIMIT)
        assert await take(pose, 1) == [b"49"]
        with pytest.raises(TimeoutError):
            await pose.receive(0)
        for table in tables[:-1]:
            await table.wait("handled", LIMIT)
            assert table.delivered == (bob.did,)
        assert bob.stats().publications_replaced == 49
        values = {sample.metric.name: sample.value for sample in bob.metrics()}
        assert [value for name, value in values.items() if "publications_replaced" in name] == [49]


@on_both_loops
async def test_the_kept_value_comes_first() -> None:
    async with Net().pair() as (alice, bob):
        await alice.publish("status", b"old", keep=True)
        await alice.publish("status", b"kept", keep=True)
        async with bob.subscribe(alice.did, "status") as status:
            await alice.publish("status", b"next", keep=True)
            assert await take(status, 2) == [b"kept", b"next"]
        async with bob.subscribe(alice.did, "status") as status:
            assert await take(status, 1) == [b"next"]
            await alice.publish("status", b"not kept")
            assert await take(status, 1) == [b"not kept"]
        await alice.publish("status", b"late", keep=True, deadline=1e-3)
        await asyncio.sleep(2e-3)  # the deadline
        async with bob.subscribe(alice.did, "status") as status:
            await alice.publish("status", b"last")
            assert await take(status, 1) == [b"last"]


@on_asyncio
async def test_an_expired_publication_is_not_handed_out() -> None:
    async with Net().pair() as (alice, bob), bob.subscribe(alice.did, "status") as status:
        table = await alice.publish("status", b"late", deadline=0.05, until="accepted")
        await asyncio.sleep(0.06)  # the deadline
        await alice.publish("status", b"good")
        assert await take(status, 1) == [b"good"]
        with pytest.raises(DeliveryFailedError):
            await table.receipts[0].wait("handled", LIMIT)


@on_asyncio
async def test_ack_auto_acknowledges_what_is_handed_out() -> None:
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB, ack="auto") as bob:
        meet(bob, alice)
        async with bob.subscribe(alice.did, "status") as status:
            table = await alice.publish("status", b"x")
            await status.receive(LIMIT)
            await table.wait("handled", LIMIT)
            assert table.delivered == (bob.did,)


@on_both_loops
async def test_iterating_gives_the_loop_turns() -> None:
    async with Net().pair() as (alice, bob), bob.subscribe(alice.did, "status") as status:
        table = Outcomes({}, DeliveryState.ACCEPTED, lambda _: None, lambda _: None)
        for number in range(30):
            table = await alice.publish("status", b"%d" % number)
        await table.wait("accepted", LIMIT)
        seen = 0
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        async for message in status:
            assert message.payload == b"%d" % seen
            seen += 1
            time.sleep(0.003)  # noqa: ASYNC251 - the application is slow
            if seen == 5:
                assert turns
                break


# -- subscribing -----------------------------------------------------------------------------


@on_both_loops
async def test_a_policy_refuses_a_subject() -> None:
    net, rule = Net(), Refuses("secret")
    async with net.node(ALICE, policy=rule) as alice, net.node(BOB) as bob:
        meet(bob, alice)
        with pytest.raises(MessageRefusedError) as error:
            await within(LIMIT, bob.subscribe(alice.did, "secret").open())
        assert error.value.reason is Reason.SUBJECT_RULE
        async with bob.subscribe(alice.did, "open"):
            assert subscriptions(alice) == 1
        kinds = [(header.kind, header.subject, header.control_type) for header in rule.asked]
        assert kinds[:2] == [
            (Kind.CONTROL, "secret", ControlType.SUBSCRIBE),
            (Kind.CONTROL, "open", ControlType.SUBSCRIBE),
        ]


@on_asyncio
async def test_a_stranger_has_16_subjects_and_a_known_peer_256() -> None:
    async with Net().pair() as (alice, bob):
        held = [await bob.subscribe(alice.did, f"s{number}") for number in range(16)]
        with pytest.raises(MessageRefusedError, match="the limit is 16 subscriptions") as error:
            await bob.subscribe(alice.did, "s16")
        assert error.value.reason is Reason.REFUSED
        assert alice.stats().subscriptions_refused == 1
        await held[0].close()
        held.append(await bob.subscribe(alice.did, "s16"))

        meet(alice, bob)
        held += [await bob.subscribe(alice.did, f"s{number}") for number in range(17, 257)]
        assert subscriptions(alice) == 256
        with pytest.raises(MessageRefusedError, match="the limit is 256 subscriptions"):
            await bob.subscribe(alice.did, "s257")
        assert alice.stats().subscriptions_refused == 2


@on_asyncio
async def test_malformed_requests_are_refused_with_a_text() -> None:
    async with Net().pair() as (alice, bob):
        odd = control(bob, alice.did, "status", b"payload")
        assert await reason_of(odd) == (
            Reason.MALFORMED,
            "a subscription has no payload, and this one has",
        )
        empty = control(bob, alice.did, "")
        assert await reason_of(empty) == (Reason.REFUSED, "a subscription needs a subject")
        odd_end = control(bob, alice.did, "status", b"payload", type_=2)
        assert (await reason_of(odd_end))[0] is Reason.MALFORMED
        assert subscriptions(alice) == 0
        assert alice.stats().subscriptions_refused == 3
        reserved = control(bob, alice.did, "status", type_=3)
        assert (await reason_of(reserved))[0] is Reason.MALFORMED
        assert alice._core.endpoint.inbox.take() is None


@on_asyncio
async def test_wrong_arguments_are_refused_at_once() -> None:
    async with Net().pair() as (alice, bob):
        for wrong in ("", "line\nend"):
            with pytest.raises(ValueError, match="subject"):
                bob.subscribe(alice.did, wrong)
            with pytest.raises(ValueError, match="subject"):
                await alice.publish(wrong, b"x")
        async with bob.subscribe(alice.did, "status"):
            with pytest.raises(ValueError, match="already"):
                await bob.subscribe(alice.did, "status")
            assert subscriptions(alice) == 1


@on_both_loops
async def test_subscribing_waits_for_a_publisher_that_is_away() -> None:
    net = Net()
    async with net.node(BOB, max_attempts=1) as bob:
        alice = net.node(ALICE, listen="alice:1")
        bob.routing.update(alice.did, "alice:1")
        waiting = asyncio.create_task(bob.subscribe(alice.did, "status").open())
        await eventually(lambda: bob.stats().dial_failures > 0)
        assert not waiting.done()
        async with alice:
            status = await within(LIMIT, waiting)
            await alice.publish("status", b"here")
            assert await take(status, 1) == [b"here"]


@on_asyncio
async def test_a_publisher_without_an_address_is_waited_for() -> None:
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        with pytest.raises(TimeoutError, match="no address of the publisher is known"):
            await bob.subscribe(alice.did, "status", timeout=0.01)
        waiting = asyncio.create_task(bob.subscribe(alice.did, "status").open())
        await asyncio.sleep(0)
        meet(alice, bob)
        await alice.send(bob.did, b"hello", until="accepted")
        status = await within(LIMIT, waiting)
        await alice.publish("status", b"here")
        assert await take(status, 1) == [b"here"]
        assert Reason.UNKNOWN_PEER not in bob.stats().dropped


@on_asyncio
async def test_a_cancelled_subscribe_leaves_no_subscription() -> None:
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        waiting = asyncio.create_task(bob.subscribe(alice.did, "status").open())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        meet(bob, alice)
        await bob.send(alice.did, b"hello", until="accepted")
        async with bob.subscribe(alice.did, "other"):
            assert subscriptions(alice) == 1


@on_asyncio
async def test_a_denied_publisher_and_a_denied_subscriber() -> None:
    async with Net().pair() as (alice, bob):
        bob.access.deny(alice.did)
        with pytest.raises(NotAllowedError):
            await bob.subscribe(alice.did, "status")
        bob.access.undeny(alice.did)
        await bob.subscribe(alice.did, "status")
        alice.access.deny(bob.did)
        table = await alice.publish("status", b"secret")
        assert len(table) == 0
        assert subscriptions(alice) == 0
        (failed,) = (await alice.send_all([bob.did], b"secret")).failed
        assert (failed.did, failed.reason) == (bob.did, Reason.DENIED)


# -- how long it lasts -------------------------------------------------------------------------


@on_both_loops
async def test_after_close_nothing_more_comes() -> None:
    async with Net().pair() as (alice, bob):
        status = await bob.subscribe(alice.did, "status")
        first = await alice.publish("status", b"unread", until="accepted")
        await status.close()
        await status.close()
        assert not status.is_open
        assert await reason_of(first.receipts[0]) == (
            Reason.UNKNOWN_SUBJECT,
            "the subscription to this subject was closed",
        )
        await eventually(lambda: subscriptions(alice) == 0)
        assert len(await alice.publish("status", b"nobody")) == 0
        with pytest.raises(ClosedError, match="is closed"):
            await status.receive(0)
        assert [message async for message in status.reader.messages()] == []
        assert await bob.send(alice.did, b"x", until="accepted")


@on_asyncio
async def test_a_publication_on_its_way_is_refused_after_close() -> None:
    async with Net().pair() as (alice, bob):
        status = await bob.subscribe(alice.did, "status")
        table = await alice.publish("status", b"on its way")
        await status.close()
        assert (await reason_of(table.receipts[0]))[0] is Reason.UNKNOWN_SUBJECT
        assert len(bob._core.endpoint.inbox) == 0


@on_both_loops
async def test_each_new_link_subscribes_again() -> None:
    net, rule = Net(), Refuses("nothing")
    async with net.node(ALICE, policy=rule) as alice, net.node(BOB) as bob:
        meet(bob, alice)
        status = await bob.subscribe(alice.did, "status")
        for number in range(5):
            await cut(alice, bob)
            await eventually(lambda: len(rule.asked) == number + 2)  # noqa: B023 - it is awaited
            await alice.publish("status", b"%d" % number)
            assert await take(status, 1) == [b"%d" % number]
        assert [header.control_type for header in rule.asked] == [ControlType.SUBSCRIBE] * 6
        assert subscriptions(alice) == 1


@on_both_loops
async def test_a_restarted_publisher_gets_the_subscription_again() -> None:
    net = Net()
    async with net.node(BOB) as bob:
        bob.routing.update(ALICE.did, "alice:1")
        async with net.node(ALICE, listen="alice:1") as alice:
            status = await bob.subscribe(alice.did, "status")
            await alice.publish("status", b"first")
            assert await take(status, 1) == [b"first"]
        async with net.node(ALICE, listen="alice:1") as alice:
            await eventually(lambda: subscriptions(alice) == 1)
            await alice.publish("status", b"second")
            assert await take(status, 1) == [b"second"]


@on_both_loops
async def test_a_restarted_subscriber_is_a_new_one() -> None:
    net = Net()
    async with net.node(ALICE) as alice:
        await alice.publish("status", b"kept", keep=True)
        for subject in ("status", "status", "other"):
            async with net.node(BOB) as bob:
                meet(bob, alice)
                held = await bob.subscribe(alice.did, subject)
                if subject == "status":
                    assert await take(held, 1) == [b"kept"]
        assert subscriptions(alice) == 1  # that of the last process


@on_asyncio
async def test_a_later_refusal_ends_the_subscription() -> None:
    net = Net()
    async with net.node(BOB) as bob:
        bob.routing.update(ALICE.did, "alice:1")
        async with net.node(ALICE, listen="alice:1") as alice:
            status = await bob.subscribe(alice.did, "status")
            waiting = asyncio.create_task(status.receive())
        async with net.node(ALICE, policy=Refuses("status"), listen="alice:1"):
            with pytest.raises(MessageRefusedError) as error:
                await within(LIMIT, waiting)
            assert error.value.reason is Reason.SUBJECT_RULE
            assert not status.is_open


@on_asyncio
async def test_closing_the_node_ends_the_iteration() -> None:
    net = Net()
    async with net.node(ALICE) as alice:
        async with net.node(BOB) as bob:
            meet(bob, alice)
            status = await bob.subscribe(alice.did, "status")

            async def read() -> list[bytes]:
                return [message.payload async for message in status]

            reading = asyncio.create_task(read())
            opening = asyncio.create_task(bob.subscribe(CAROL.did, "x").open())
            await alice.publish("status", b"one", until="accepted")
        assert await within(LIMIT, reading) == [b"one"]
        with pytest.raises(ClosedError):
            await within(LIMIT, opening)
        with contextlib.suppress(ClosedError):
            await status.close()


# -- the inbox and stores ----------------------------------------------------------------------


@on_asyncio
async def test_what_was_never_subscribed_comes_from_the_inbox(tmp_path: Path) -> None:
    net = Net()
    store = tmp_path / "bob.db"
    async with net.node(ALICE) as alice:
        async with Node(BOB, quick(), network=net.network, store=store) as bob:
            meet(bob, alice)
            await bob.subscribe(alice.did, "status")
            for number in range(3):
                await alice.publish("status", b"%d" % number, durable=True, until="accepted")
        async with Node(BOB, quick(), network=net.network, store=store) as bob:
            meet(bob, alice)
            assert len(bob._core.endpoint.inbox) == 3
            first = await bob.receive(LIMIT)
            assert (first.payload, first.redelivered) == (b"0", True)
            async with bob.subscribe(alice.did, "status") as status:
                await alice.publish("status", b"new", durable=True)
                assert await take(status, 3) == [b"1", b"2", b"new"]
            assert len(bob._core.endpoint.inbox) == 0


# -- to several peers --------------------------------------------------------------------------


@on_both_loops
async def test_send_all_waits_for_each_member() -> None:
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB) as bob, net.node(CAROL) as carol:
        meet(alice, bob)
        meet(alice, carol)
        away = identity(99).did
        sending = asyncio.create_task(
            alice.send_all(
                [bob.did, str(carol.did), away, bob.did],
                b"stop",
                subject="stop",
                priority="critical",
                until="handled",
            )
        )
        messages = [await bob.receive(LIMIT), await carol.receive(LIMIT)]
        assert [(m.payload, m.subject, m.kind) for m in messages] == [
            (b"stop", "stop", Kind.MESSAGE)
        ] * 2
        messages[0].ack()
        assert not sending.done()
        messages[1].nack("refused", "busy")
        table = await within(LIMIT, sending)
        assert list(table) == [bob.did, carol.did, away]
        assert table.until is DeliveryState.HANDLED
        assert table.delivered == (bob.did,)
        refused, unknown = table.failed
        assert (refused.did, refused.detail) == (carol.did, "busy")
        assert (unknown.did, unknown.reason, unknown.last_seen) == (
            away,
            Reason.UNKNOWN_PEER,
            None,
        )


@on_asyncio
async def test_a_member_that_answers_too_late_has_failed() -> None:
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        table = await alice.send_all([bob.did], b"x", deadline=0.1, until="handled")
        (failed,) = table.failed
        assert (failed.did, failed.reason) == (bob.did, Reason.EXPIRED)
        assert (await table.wait("accepted")).delivered == (bob.did,)


@on_asyncio
async def test_waiting_for_a_table_ends_at_its_timeout() -> None:
    async with Net().pair() as (alice, bob):
        await bob.subscribe(alice.did, "status")
        table = await alice.publish("status", b"x", until="handled", timeout=0.01)
        assert table.pending == (bob.did,)
        assert table.delivered == table.failed == ()
        with pytest.raises(ValueError, match="unknown"):
            await table.wait("arrived")  # type: ignore[arg-type]


# -- mirrors -----------------------------------------------------------------------------------


@on_both_loops
async def test_a_mirror_keeps_the_first_signature() -> None:
    net = Net()
    async with net.node(ALICE) as alice, net.node(BOB) as bob, net.node(CAROL) as carol:
        meet(bob, alice)
        meet(carol, alice)
        async with carol.subscribe(alice.did, "status") as status:
            await bob.send(alice.did, b"80%", subject="status", priority="high")
            message = await alice.receive(LIMIT)
            await alice.mirror(message)
            mirrored = await status.receive(LIMIT)
            assert mirrored.priority is Priority.HIGH
            envelope = SignedEnvelope.decode(mirrored.payload)
            envelope.verify()
            assert (envelope.sender, envelope.recipient) == (bob.did, alice.did)
            assert (envelope.payload, envelope.subject) == (b"80%", "status")
            await bob.send(alice.did, b"no subject")
            plain = await alice.receive(LIMIT)
            with pytest.raises(ValueError, match="needs a subject"):
                await alice.mirror(plain)
            await alice.mirror(plain, "status")
            assert SignedEnvelope.decode((await status.receive(LIMIT)).payload) == plain.envelope
