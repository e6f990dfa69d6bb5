"""`node.outbox`, `node.dead`, `node.health()`: messages in a store are listed and changed."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linkkit import ALICE, BOB, EVE, body
from signedwire import (
    BackpressureError,
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    Health,
    Node,
    OutgoingRow,
    PayloadType,
    Priority,
    Reason,
    SignedEnvelope,
    StoreError,
    StoreFailedError,
    StoreFullError,
    StoreInUseError,
    TransportConfig,
    sync,
)
from signedwire import outbox as outbox_module
from signedwire.delivery.store import SqliteStore, StoreLimits
from signedwire.errors import EnvelopeError
from signedwire.outbox import limits_of
from signedwire.types import Address
from wirekit import LIMIT, eventually, on_asyncio, within

ALONE = TransportConfig(listen=None)
NOBODY = Address("127.0.0.1", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


def away(path: Path, config: TransportConfig = ALONE) -> Node:
    """Alice has a store, and Bob is not reachable."""
    node = Node(ALICE, config, store=path)
    node.routing.update(BOB.did, NOBODY)
    return node


async def soon(condition: Callable[[], bool]) -> None:
    await eventually(condition, timeout=LIMIT)


def break_disk(node: Node) -> None:
    """Every transaction from now on fails."""
    outbox = node._core.store
    assert outbox is not None

    def fail(**_: Any) -> bool:
        raise sqlite3.OperationalError("disk I/O error")

    outbox.store._work.commit = fail  # type: ignore[method-assign]


class TestOutbox:
    @on_asyncio
    async def test_what_waits_for_whom_since_when_and_why(self, path: Path) -> None:
        async with away(path) as node:
            receipt = await node.send(
                BOB.did,
                b"hello",
                priority=Priority.HIGH,
                payload_type=PayloadType.ROBOT_COMMAND,
                deadline=60,
            )
            assert receipt.state is DeliveryState.PERSISTED
            await soon(lambda: node.peers()[BOB.did].failed_attempts > 0)
            await node.outbox.flush()
            (row,) = await node.outbox.list()
            assert row == await node.outbox.show(row.id)
            assert (row.recipient, row.payload) == (BOB.did, b"hello")
            assert (row.priority, row.payload_type) == (Priority.HIGH, PayloadType.ROBOT_COMMAND)
            assert (row.message_id, row.queued_at_us) == (
                receipt.message_id,
                receipt.queued_at_us,
            )
            assert row.attempts > 0
            assert "refused" in (row.last_error or "")
            assert row.expires_at_us is not None
            assert 59e6 < row.expires_at_us - row.queued_at_us < 61e6
            assert await node.outbox.show(row.id + 1) is None

    @on_asyncio
    async def test_pages(self, path: Path) -> None:
        async with away(path) as node:
            node.routing.update(EVE.did, NOBODY)
            for number in range(1000):
                node.send_nowait(BOB.did, b"%d" % number)
            await node.send(EVE.did, b"eve", until="persisted")
            assert len(await node.outbox.list()) == 100
            rows = await node.outbox.list(limit=5000)
            assert [row.payload for row in rows] == [b"%d" % n for n in range(1000)] + [b"eve"]
            ids = [row.id for row in rows]  # the number of attempts still changes
            page = await node.outbox.list(after=ids[4], limit=2)
            assert [row.id for row in page] == ids[5:7]
            for did in (EVE.did, str(EVE.did)):
                assert [row.id for row in await node.outbox.list(did)] == ids[-1:]
            assert await node.outbox.list(ALICE.did) == []

    @on_asyncio
    async def test_what_is_dropped_is_never_sent_and_its_receipt_says_so(self, path: Path) -> None:
        config = TransportConfig(send_queue_limit=2)  # the store alone has the others
        async with away(path, config) as node:
            receipts = [await node.send(BOB.did, b"%d" % number) for number in range(5)]
            rows = await node.outbox.list()
            assert await node.outbox.drop(rows[0].id, rows[3].id, 12345) == 2
            assert [row.payload for row in await node.outbox.list()] == [b"1", b"2", b"4"]
            for number in (0, 3):
                with pytest.raises(DeliveryFailedError) as caught:
                    await receipts[number].wait(DeliveryState.ACCEPTED)
                assert caught.value.reason is Reason.DROPPED
            assert node.stats().dropped == {Reason.DROPPED: 2}
            assert await node.dead.list() == []
            async with Node(BOB) as bob:
                node.routing.update(BOB.did, bob.address)
                await node.outbox.retry()
                got = [(await bob.receive()).payload for _ in range(3)]
                assert got == [b"1", b"2", b"4"]
                await receipts[4].wait(DeliveryState.ACCEPTED)
            assert await node.outbox.list() == []

    @on_asyncio
    async def test_retry_does_not_wait_for_the_pause(self, path: Path) -> None:
        async with away(path) as node:
            receipt = await node.send(BOB.did, b"x")
            await soon(lambda: node.peers()[BOB.did].failed_attempts > 3)
            await node.outbox.flush()
            (row,) = await node.outbox.list()
            assert row.attempts > 3
            async with Node(BOB) as bob:
                node.routing.update(BOB.did, bob.address)
                assert await node.outbox.retry(EVE.did) == 0
                assert await node.outbox.retry(BOB.did) == 1
                await receipt.wait(DeliveryState.ACCEPTED, timeout=0.5)

    @on_asyncio
    async def test_export_is_verifiable_by_anyone(self, path: Path, tmp_path: Path) -> None:
        file = tmp_path / "export.txt"
        async with Node(ALICE, store=path) as alice, Node(EVE) as eve:
            alice.routing.update(BOB.did, NOBODY)
            eve.routing.update(ALICE.did, alice.address)
            await alice.send(BOB.did, b"waits")
            await eve.send(ALICE.did, b"came")
            assert await alice.outbox.export(file) == 2
            found = [SignedEnvelope.decode(bytes.fromhex(t)) for t in file.read_text().split()]
            for envelope in found:
                envelope.verify()
            assert [(e.sender, e.recipient, e.payload) for e in found] == [
                (ALICE.did, BOB.did, b"waits"),
                (EVE.did, ALICE.did, b"came"),
            ]
            assert file.stat().st_mode & 0o777 == 0o600
            with pytest.raises(FileExistsError):
                await alice.outbox.export(file)
            with pytest.raises(FileNotFoundError):
                await alice.outbox.export(tmp_path / "no" / "file")

    @pytest.mark.parametrize("strange", [body(sender=EVE), b"\0" * 200], ids=["sender", "junk"])
    def test_export_signs_nothing_that_is_not_our_own(
        self, path: Path, tmp_path: Path, strange: bytes
    ) -> None:
        store = SqliteStore(path, ALICE.did, is_threaded=False)
        row = OutgoingRow(7, BOB.did, strange, False, 0, None)
        with pytest.raises(EnvelopeError, match="message 7 in the store is not from did:key:"):
            outbox_module._sealed(row, ALICE)
        store.outbox = lambda *_, **__: _Done([row])  # type: ignore[assignment]
        with pytest.raises(EnvelopeError):
            outbox_module.export(store, ALICE, tmp_path / "file")
        assert not (tmp_path / "file").exists()
        store.close()

    @on_asyncio
    async def test_where_there_is_none(self, path: Path) -> None:
        async with Node(ALICE, ALONE) as node:
            for name in ("outbox", "dead"):
                with pytest.raises(StoreError, match=r"no store.*Node\(identity, store="):
                    getattr(node, name)
            with pytest.raises(ValueError, match="needs a store"):
                await node.send(BOB.did, b"x", until="persisted")
        node = away(path)
        with pytest.raises(ClosedError, match="not started"):
            await node.outbox.list()
        async with node:
            pass
        with pytest.raises(ClosedError):
            await node.outbox.list()
        with pytest.raises(ClosedError):
            await node.dead.list()


class _Done:
    """Return a finished future."""

    def __init__(self, value: object) -> None:
        self._value = value

    def result(self) -> object:
        return self._value


class TestDeadLetters:
    @on_asyncio
    async def test_refused_looked_at_and_sent_again(self, path: Path) -> None:
        async with Node(ALICE, ALONE, store=path) as alice, Node(BOB) as bob:
            alice.routing.update(BOB.did, bob.address)
            await alice.send(BOB.did, b"before", until="accepted")
            await bob.receive()
            rows = await alice.outbox.list()
            assert rows == []
            outbox = alice._core.store
            assert outbox is not None
            dead_body = body(77, b"no", priority=Priority.LOW, payload_type=4)
            for _ in range(2):
                outbox.store.dead_letter_accepted(BOB.did, dead_body, Reason.TOO_LARGE, "too much")
            first, second = await alice.dead.list()
            assert first == await alice.dead.show(first.id)
            assert (first.recipient, first.payload) == (BOB.did, b"no")
            assert (first.reason, first.detail) == (Reason.TOO_LARGE, "too much")
            assert (first.priority, first.payload_type) == (Priority.LOW, PayloadType.SENSOR_FUSION)
            assert first.message_id == bytes(16).hex()
            assert (first.queued_at_us, first.expires_at_us) == (1, None)
            assert await alice.dead.list(after=first.id) == [second]
            assert await alice.dead.list(EVE.did) == []

            (receipt,) = await alice.dead.retry(first.id, 12345)
            await receipt.wait(DeliveryState.ACCEPTED, timeout=LIMIT)
            message = await bob.receive()
            assert (message.payload, message.priority) == (b"no", Priority.LOW)
            assert message.payload_type is PayloadType.SENSOR_FUSION
            assert await alice.dead.list() == [second]
            assert await alice.dead.drop(second.id, 12345) == 1
            assert await alice.dead.list() == []
            assert await alice.dead.show(second.id) is None

    @on_asyncio
    async def test_refused_by_the_application_after_it_was_accepted(self, path: Path) -> None:
        async with Node(ALICE, ALONE, store=path) as alice, Node(BOB) as bob:
            alice.routing.update(BOB.did, bob.address)
            receipts = [await alice.send(BOB.did, b"%d" % n, until="accepted") for n in range(2)]
            for reason in (Reason.REFUSED, Reason.EXPIRED):
                (await bob.receive()).nack(reason)
            for receipt in receipts:
                with pytest.raises(DeliveryFailedError):
                    await receipt.wait(DeliveryState.HANDLED)
            (letter,) = await alice.dead.list()  # an expired message becomes no dead letter
            assert (letter.payload, letter.reason) == (b"0", Reason.REFUSED)

    @on_asyncio
    async def test_one_that_is_sent_again_goes_with_the_commit(self, path: Path) -> None:
        async with Node(ALICE, ALONE, store=path) as node:
            outbox = node._core.store
            assert outbox is not None
            outbox.store.note_v2(BOB.did)  # Bob may dial us, so messages to him may wait
            outbox.store.dead_letter_accepted(BOB.did, body(1, b"no"), Reason.REFUSED)
            (letter,) = await node.dead.list()
            commits = outbox.store.stats().commits
            await node.dead.retry(letter.id)
            assert await node.dead.list() == []
            assert [row.payload for row in await node.outbox.list()] == [b"no"]
            assert outbox.store.stats().commits == commits + 1


class TestLives:
    """A node ends, and another opens its store."""

    @on_asyncio
    async def test_a_script_that_sends_and_ends_has_sent(self, path: Path) -> None:
        async with Node(BOB) as bob:
            async with Node(ALICE, ALONE, store=path) as alice:
                alice.routing.update(BOB.did, bob.address)
                await alice.send(BOB.did, b"x")
            assert await bob.receive(timeout=0)

    @on_asyncio
    async def test_nobody_waits_for_who_is_away(self, path: Path) -> None:
        async with away(path, ALONE.replace(close_timeout=60.0)) as node:
            await node.send(BOB.did, b"x")
            await soon(lambda: node.peers()[BOB.did].failed_attempts > 1)
            started = time.monotonic()
        assert time.monotonic() - started < 5.0

    @on_asyncio
    async def test_the_last_done_is_told(self, path: Path) -> None:
        async with Node(ALICE, ALONE) as alice:
            async with Node(BOB, store=path) as bob:
                alice.routing.update(BOB.did, bob.address)
                receipt = await alice.send(BOB.did, b"x")
                (await bob.receive()).ack()
            await receipt.wait(DeliveryState.HANDLED, timeout=LIMIT)

    @on_asyncio
    async def test_an_old_copy_of_the_file(self, path: Path, tmp_path: Path) -> None:
        """Its messages have arrived. They get their receipts again and are not delivered twice."""
        copy = tmp_path / "copy.db"
        async with Node(BOB) as bob:
            async with away(path) as alice:
                await alice.send(BOB.did, b"first")
            shutil.copy(path, copy)
            async with Node(ALICE, ALONE, store=path) as alice:
                alice.routing.update(BOB.did, bob.address)
                await alice.send(BOB.did, b"second", until="accepted")
            assert [(await bob.receive()).payload for _ in range(2)] == [b"first", b"second"]
            shutil.move(copy, path)
            async with Node(ALICE, ALONE, store=path) as alice:
                alice.routing.update(BOB.did, bob.address)
                await alice.send(BOB.did, b"third", until="accepted")
                assert (await bob.receive()).payload == b"third"
                assert await alice.outbox.list() == []
                assert await alice.dead.list() == []

    @on_asyncio
    async def test_a_copy_that_is_restored_again(self, path: Path, tmp_path: Path) -> None:
        """Three states of one file each number a message, and no two numbers are equal."""
        copy = tmp_path / "copy.db"
        async with Node(BOB) as bob:
            async with away(path) as alice:
                await alice.send(BOB.did, b"first")
            shutil.copy(path, copy)
            for payload in (b"second", b"third", b"fourth"):
                async with Node(ALICE, ALONE, store=path) as alice:
                    alice.routing.update(BOB.did, bob.address)
                    await alice.send(BOB.did, payload, until="accepted")
                shutil.copy(copy, path)
            got = [(await bob.receive(timeout=0.2)).payload for _ in range(4)]
            assert got == [b"first", b"second", b"third", b"fourth"]
            with pytest.raises(TimeoutError):
                await bob.receive(timeout=0.2)

    @on_asyncio
    async def test_a_route_that_comes_later(self, path: Path) -> None:
        async with away(path) as node:
            await node.send(BOB.did, b"x")
        async with Node(ALICE, ALONE, store=path) as alice, Node(BOB) as bob:
            await asyncio.sleep(0.1)  # the rows were loaded, and the peer has no route
            alice.routing.update(BOB.did, bob.address)
            assert (await within(LIMIT, bob.receive())).payload == b"x"

    @on_asyncio
    async def test_no_wake_up_for_each_that_waits(self, path: Path) -> None:
        async with away(path, ALONE.replace(send_queue_limit=10)) as node:
            await node.send_many(BOB.did, [b"x"] * 500)
            queue = node._core.endpoint.sessions.session(BOB.did).sender.lanes
            for half in (queue._durable_half, queue._volatile_half):
                assert len(half._room_waiters) <= 1

    @on_asyncio
    async def test_urgent_past_a_full_queue(self, path: Path) -> None:
        async with away(path, ALONE.replace(send_queue_limit=10)) as node:
            await node.send_many(BOB.did, [b"low"] * 50)
            await node.send(BOB.did, b"high", priority=Priority.HIGH)
            async with Node(BOB) as bob:
                node.routing.update(BOB.did, bob.address)
                assert (await within(LIMIT, bob.receive())).payload == b"high"

    @on_asyncio
    async def test_an_inbox_that_fills_within_a_batch(self, path: Path) -> None:
        """The messages that fit are accepted; the others become dead letters with a reason."""
        config = TransportConfig(max_unacked_messages=100)
        async with Node(BOB, config, store=path) as bob, Node(ALICE) as alice:
            alice.routing.update(BOB.did, bob.address)
            receipts = [alice.send_nowait(BOB.did, b"%d" % n) for n in range(200)]
            await soon(lambda: all(one.is_final or one.state == "accepted" for one in receipts))
            states = [receipt.state for receipt in receipts]
            assert states == [DeliveryState.ACCEPTED] * 100 + [DeliveryState.REFUSED] * 100
            assert {receipt.reason for receipt in receipts[100:]} == {Reason.INBOX_FULL}

    @on_asyncio
    async def test_a_smaller_limit_than_what_is_there(self, path: Path) -> None:
        async with Node(ALICE) as alice:
            async with Node(BOB, store=path) as bob:
                alice.routing.update(BOB.did, bob.address)
                await alice.send_many(BOB.did, [b"x"] * 8)
            config = TransportConfig(max_unacked_messages=5)
            async with Node(BOB, config, store=path) as bob:
                alice.routing.update(BOB.did, bob.address)
                sending = asyncio.create_task(alice.send(BOB.did, b"y"))
                for _ in range(9):
                    (await within(LIMIT, bob.receive())).ack()
                await within(LIMIT, sending)

    @on_asyncio
    async def test_a_start_that_is_called_off(self, path: Path) -> None:
        node = Node(ALICE, ALONE, store=path)
        starting = asyncio.create_task(node.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        while True:
            try:
                async with Node(ALICE, ALONE, store=path):
                    break
            except StoreInUseError:
                await asyncio.sleep(0.01)  # until the other node has closed

    @on_asyncio
    async def test_a_disk_that_does_not_answer_while_the_node_closes(self, path: Path) -> None:
        async with away(path, ALONE.replace(close_timeout=0.3)) as node:
            gate = threading.Event()
            outbox = node._core.store
            assert outbox is not None
            outbox.store._ask(lambda: gate.wait(LIMIT))
            sending = asyncio.create_task(node.send(BOB.did, b"x"))
            await asyncio.sleep(0.05)
            started = time.monotonic()
        assert time.monotonic() - started < 2.0
        with pytest.raises(DeliveryFailedError, match="did not answer"):
            await within(1.0, sending)
        gate.set()
        assert outbox.store.close(LIMIT)


class TestArguments:
    @on_asyncio
    async def test_what_is_no_number_kills_nothing(self, path: Path) -> None:
        async with away(path) as node:
            wrong: list[Any] = [
                node.outbox.drop([1, 2]),  # type: ignore[arg-type]
                node.outbox.show("1"),  # type: ignore[arg-type]
                node.outbox.list(limit=1.5),  # type: ignore[arg-type]
                node.dead.drop("1"),  # type: ignore[arg-type]
                node.dead.show("1"),  # type: ignore[arg-type]
                node.dead.retry("1"),  # type: ignore[arg-type]
                node.dead.list(limit=None),  # type: ignore[arg-type]
            ]
            for each in wrong:
                with pytest.raises(TypeError):
                    await each
            assert await node.dead.list(after=2**70, limit=2**70) == []
            assert await node.outbox.show(2**70) is None
            await node.send(BOB.did, b"it works")

    @on_asyncio
    async def test_two_who_send_a_dead_letter_again(self, path: Path) -> None:
        async with away(path) as node:
            outbox = node._core.store
            assert outbox is not None
            outbox.store.dead_letter_accepted(BOB.did, body(1, b"pay"), Reason.REFUSED)
            (letter,) = await node.dead.list()
            await asyncio.gather(*[node.dead.retry(letter.id) for _ in range(3)])
            assert len(await node.outbox.list()) == 1

    @on_asyncio
    async def test_a_row_that_is_not_what_was_stored_is_not_signed(self, path: Path) -> None:
        async with away(path) as node:
            await node.send(BOB.did, b"one")
            await node.send(BOB.did, b"two")
        connection = sqlite3.connect(path)
        forged = body(1, b"bad", sender=EVE)  # as long as the original
        connection.execute("UPDATE outgoing SET body = ? WHERE id & 255 = 1", (forged,))
        connection.commit()
        connection.close()
        async with Node(BOB) as bob, Node(ALICE, ALONE, store=path) as alice:
            alice.routing.update(BOB.did, bob.address)
            assert (await within(LIMIT, bob.receive())).payload == b"two"
            (letter,) = await alice.dead.list()
            assert letter.reason is Reason.MALFORMED


class TestFailures:
    @on_asyncio
    async def test_a_commit_that_fails_is_raised_as_what_it_is(self, path: Path) -> None:
        async with away(path) as node:
            await node.send(BOB.did, b"kept")
            assert node.health() == Health()
            assert node.health().is_well
            break_disk(node)
            with pytest.raises(
                StoreFailedError, match=r"whether message [0-9a-f]{8} to .* is not known"
            ) as e:
                await node.send(BOB.did, b"lost?")
            assert isinstance(e.value.__cause__, DeliveryFailedError)
            assert e.value.__cause__.reason is Reason.STORE_FAILED
            assert e.value.cause == "disk I/O error"
            with pytest.raises(StoreFailedError, match="has failed"):
                await node.send(BOB.did, b"not taken")
            with pytest.raises(StoreFailedError):
                await node.outbox.list()
            (problem,) = node.health().problems
            assert "has failed: disk I/O error" in problem
            stats = node.stats().store
            assert stats is not None
            assert stats.failure is not None
        assert node.health().problems[0] == "the node is closed"

    @on_asyncio
    async def test_of_many(self, path: Path) -> None:
        async with away(path) as node:
            break_disk(node)
            with pytest.raises(StoreFailedError):
                await node.send_many(BOB.did, [b"1", b"2"])

    @on_asyncio
    async def test_too_many_that_wait_for_a_commit_are_counted(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("signedwire.transport.store_driver._MAX_UNCOMMITTED", 2)
        async with away(path) as node:
            for _ in range(2):
                node.send_nowait(BOB.did, b"x")
            with pytest.raises(BackpressureError, match="2 messages wait for the disk"):
                node.send_nowait(BOB.did, b"x")
            await node.send_many(BOB.did, [b"1", b"2", b"3"])  # waits, so it is not counted
            stats = node.stats()
            assert (stats.backpressure_events, stats.dropped) == (1, {Reason.QUEUE_FULL: 1})
            assert dict(node.peers()[BOB.did].dropped) == {Reason.QUEUE_FULL: 1}

    @on_asyncio
    async def test_a_full_store_is_told_and_not_waited_for(self, path: Path) -> None:
        config = ALONE.replace(outbox_peer_limit=2, outbox_limit=3, critical_reserve=1)
        async with away(path, config) as node:
            node.routing.update(EVE.did, NOBODY)
            for _ in range(2):
                await node.send(BOB.did, b"x")
            with pytest.raises(StoreFullError, match="2 messages to this peer"):
                await node.send(BOB.did, b"x")
            with pytest.raises(StoreFullError):
                await node.send_many(BOB.did, [b"x"])
            await node.send(BOB.did, b"stop!", priority=Priority.CRITICAL)
            with pytest.raises(StoreFullError, match="3 messages in all"):
                await node.send(EVE.did, b"x")
            stats = node.stats()
            assert (stats.backpressure_events, stats.dropped) == (3, {Reason.QUEUE_FULL: 3})
            counts = {did: dict(peer.dropped) for did, peer in node.peers().items()}
            assert counts == {BOB.did: {Reason.QUEUE_FULL: 2}, EVE.did: {Reason.QUEUE_FULL: 1}}
            problem, of_bob = node.health().problems
            assert problem.startswith("the outbox is full: 3 messages, ")
            assert of_bob.startswith(f"the outbox to {BOB.did} is full: 3 messages, ")

    @on_asyncio
    async def test_a_store_in_use(self, path: Path) -> None:
        async with away(path):
            with pytest.raises(StoreInUseError):
                await Node(ALICE, ALONE, store=path).start()

    def test_a_node_that_was_not_started(self, path: Path) -> None:
        assert away(path).health().problems == ("it is not started",)


class TestConfig:
    @on_asyncio
    async def test_a_store_by_the_configuration(self, path: Path) -> None:
        async with Node(ALICE, ALONE.replace(store=path, outbox_limit=7)) as node:
            outbox = node._core.store
            assert outbox is not None
            assert outbox.store.limits.max_rows == 7
            store = node.stats().store
            assert store is not None
            assert store.outbox == (0, 0)
        assert path.exists()  # noqa: ASYNC240
        assert Node(ALICE, ALONE).stats().store is None

    def test_limits(self) -> None:
        config = TransportConfig()
        assert limits_of(config) == StoreLimits()
        many = limits_of(config.replace(credit_messages=1_000_000))
        assert many.max_leaves >= many.max_sender_leaves >= 1_000_000

    @pytest.mark.parametrize("ack", ["manual", "auto"])
    @on_asyncio
    async def test_when_a_message_counts_as_handled(self, ack: str, tmp_path: Path) -> None:
        config = TransportConfig(store=tmp_path / "bob.db", ack=ack)  # type: ignore[arg-type]
        async with Node(BOB, config) as bob, Node(ALICE, ALONE) as alice:
            alice.routing.update(BOB.did, bob.address)
            receipt = await alice.send(BOB.did, b"x")
            await bob.receive()
            await bob.outbox.flush()
            if ack == "auto":
                await receipt.wait(DeliveryState.HANDLED, timeout=LIMIT)
        async with Node(BOB, config) as bob:
            again = bob.receive_nowait()
            assert (again is not None) == (ack == "manual")
            assert again is None or again.redelivered


class TestSync:
    @pytest.mark.parametrize("name", ["Outbox", "DeadLetters"])
    def test_the_twins_have_the_same_methods(self, name: str) -> None:
        theirs, ours = getattr(outbox_module, name), getattr(sync, name)
        names = {each for each in vars(theirs) if not each.startswith("_")}
        assert names == {each for each in vars(ours) if not each.startswith("_")}
        for each in names:
            assert inspect.signature(getattr(ours, each)) == inspect.signature(
                getattr(theirs, each)
            )

    def test_they_do_it(self, path: Path, tmp_path: Path) -> None:
        with sync.Node(ALICE, ALONE, store=path) as node:
            node.routing.update(BOB.did, NOBODY)
            node.send(BOB.did, b"1")
            node.send(BOB.did, b"2")
            first, second = node.outbox.list()
            assert node.outbox.show(first.id) is not None
            assert node.outbox.drop(first.id) == 1
            assert node.outbox.retry() == 1
            assert node.outbox.export(tmp_path / "file") == 1
            node.outbox.flush()
            outbox = node._node._core.store
            assert outbox is not None
            outbox.store.dead_letter(BOB.did, [(second.lane, second.sequence)], Reason.REFUSED)
            (letter,) = node.dead.list()
            assert node.dead.show(letter.id) == letter
            assert len(node.dead.retry(letter.id)) == 1
            assert node.dead.drop(letter.id) == 0
            assert node.health().is_well
