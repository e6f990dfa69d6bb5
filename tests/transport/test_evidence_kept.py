"""A node that keeps evidence: what is delivered or receipted is in the log before."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from signedwire import (
    ClosedError,
    ConfigError,
    DeliveryState,
    EvidenceLogError,
    Message,
    Node,
    Reason,
    RoutingTable,
    SignaturePolicy,
    SignedEnvelope,
    StoreFailedError,
    TransportConfig,
    sync,
)
from signedwire.evidence import log as log_module
from signedwire.evidence.chain import HEADER_SIZE, LogChecker
from signedwire.evidence.disk import sync_data
from signedwire.transport.core import NodeCore
from signedwire.transport.link import Link
from signedwire.transport.tcp import TcpNetwork
from wirekit import (
    ALICE,
    BOB,
    LIMIT,
    OpenCore,
    RawLink,
    eventually,
    framed,
    on_asyncio,
    on_both_loops,
    quick,
    sealed,
    within,
)

with_and_without_store = pytest.mark.parametrize("has_store", [False, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


class Disk:
    """Has the log's syncs wait, or fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        self.error: OSError | None = None
        self.begun = self.syncs = 0
        sync_ = sync_data

        def slow(fd: int) -> None:
            self.begun += 1
            assert self.go.wait(LIMIT)
            if self.error is not None:
                raise self.error
            sync_(fd)
            self.syncs += 1

        patch.setattr(log_module, "sync_data", slow)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.go.set()


def payloads_in(path: Path) -> list[bytes]:
    checker = LogChecker()
    records = checker.receive_data(path.read_bytes())
    checker.receive_eof()
    assert checker.error is None
    return [each.envelope.payload for each in records]


def size_of(path: Path) -> int:
    return path.stat().st_size


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def alice() -> Node:
    return Node(ALICE, TransportConfig(close_timeout=0.5))


def bob(path: Path, *, has_store: bool = False) -> Node:
    store = path.with_name("bob.db") if has_store else None
    return Node(BOB, TransportConfig(close_timeout=0.5), store=store, evidence=path)


def introduce(sender: Node, receiver: Node) -> None:
    assert receiver.address is not None
    sender.routing.update(receiver.did, receiver.address)


async def receive(node: Node) -> Message:
    return await within(LIMIT, node.receive())


@with_and_without_store
@on_both_loops
async def test_every_accepted_message_is_kept_in_order(path: Path, has_store: bool) -> None:
    sent = [b"%d" % n for n in range(2000)]
    async with alice() as sender, bob(path, has_store=has_store) as receiver:
        introduce(sender, receiver)
        await sender.send_many(receiver.did, sent)
        got: list[bytes] = []
        while len(got) < len(sent):
            message = await receive(receiver)
            message.ack()
            got.append(message.payload)
        assert got == sent == payloads_in(path)
        stats = receiver.stats().evidence
        assert stats is not None
        assert stats.head == receiver.evidence_head()
        assert (stats.head.records, stats.size) == (2000, size_of(path))
        assert receiver.health().is_well
    assert receiver.evidence_head().records == 2000


@with_and_without_store
@on_asyncio
async def test_neither_delivered_nor_receipted_before_it_is_on_the_disk(
    path: Path, disk: Disk, has_store: bool
) -> None:
    async with alice() as sender, bob(path, has_store=has_store) as receiver:
        introduce(sender, receiver)
        await sender.send(receiver.did, b"one")
        disk.go.clear()
        receipt = sender.send_nowait(receiver.did, b"two")
        await receipt.wait(DeliveryState.WRITTEN)
        assert (await receive(receiver)).payload == b"one"
        with pytest.raises(TimeoutError, match="no message"):
            await receiver.receive(0.1)
        assert receipt.state is DeliveryState.WRITTEN
        disk.go.set()
        await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
        assert (await receive(receiver)).payload == b"two"
    assert payloads_in(path) == [b"one", b"two"]


@with_and_without_store
@on_asyncio
async def test_a_repeated_message_is_not_receipted_earlier_either(
    path: Path, disk: Disk, has_store: bool
) -> None:
    """Its link breaks while the disk is busy; it comes again over the next one."""
    async with alice() as sender, bob(path, has_store=has_store) as receiver:
        introduce(sender, receiver)
        await sender.send(receiver.did, b"one")
        disk.go.clear()
        receipt = sender.send_nowait(receiver.did, b"two")
        await receipt.wait(DeliveryState.WRITTEN)
        log = receiver._core.evidence
        assert log is not None
        await eventually(lambda: log._file._chain.count == 2)  # written, and not synced
        for link in tuple(sender._core.endpoint.links):
            cast(Link, link).abort()
        await eventually(lambda: receiver.stats().dropped.get(Reason.DUPLICATE))
        assert receipt.state is DeliveryState.WRITTEN
        disk.go.set()
        await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
        assert [(await receive(receiver)).payload for _ in range(2)] == [b"one", b"two"]
    assert payloads_in(path) == [b"one", b"two"]


@on_asyncio
async def test_what_a_crash_kept_out_of_the_log_is_written_at_the_next_start(path: Path) -> None:
    config = TransportConfig(store=path.with_name("bob.db"), close_timeout=0.5)
    async with alice() as sender:
        async with Node(BOB, config) as receiver:  # commits, and then the log does not happen
            introduce(sender, receiver)
            await sender.send_many(receiver.did, [b"one", b"two"])
        for _ in range(2):
            async with bob(path, has_store=True) as receiver:
                got = [await receive(receiver) for _ in range(2)]
                assert [each.payload for each in got] == [b"one", b"two"]
                assert all(each.redelivered for each in got)
                introduce(sender, receiver)
        async with bob(path, has_store=True) as receiver:
            introduce(sender, receiver)
            await sender.send(receiver.did, b"three")
            for _ in range(3):
                (await receive(receiver)).ack()
    assert payloads_in(path) == [b"one", b"two", b"three"]


@with_and_without_store
@on_asyncio
async def test_a_disk_that_fails_ends_accepting(
    path: Path, disk: Disk, has_store: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with alice() as sender, bob(path, has_store=has_store) as receiver:
        introduce(sender, receiver)
        await sender.send(receiver.did, b"one")
        (await receive(receiver)).ack()
        disk.error = OSError(errno.EIO, "Input/output error")
        receipts = [sender.send_nowait(receiver.did, b"lost")]
        await eventually(lambda: not receiver.health().is_well)
        [problem] = receiver.health().problems
        assert "Input/output error" in problem
        assert "Input/output error" in caplog.text
        receipts.append(sender.send_nowait(receiver.did, b"later"))
        await asyncio.sleep(0.1)
        assert not any(receipt.has_reached(DeliveryState.ACCEPTED) for receipt in receipts)
        assert receiver.receive_nowait() is None
        with pytest.raises(EvidenceLogError):
            await receiver.rotate_evidence(path.with_name("old"))
    assert payloads_in(path)[:1] == [b"one"]


@on_asyncio
async def test_a_disk_that_does_not_answer_the_close_is_reported(
    path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    config = TransportConfig(evidence=str(path), close_timeout=0.2)
    async with alice() as sender:
        receiver = Node(BOB, config)
        await receiver.start()
        introduce(sender, receiver)
        disk.go.clear()
        before = disk.begun
        sender.send_nowait(receiver.did, b"one")
        await eventually(lambda: disk.begun > before)
        await receiver.close()
        disk.go.set()
        await eventually(lambda: disk.syncs == disk.begun)
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert (warning.event, warning.path) == ("disk silent", str(path))  # type: ignore[attr-defined]
    assert str(path) in warning.getMessage()


@on_asyncio
async def test_a_store_that_fails_leaves_nothing_in_the_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signedwire.delivery.store.work import Work

    def fail(*_: object, **__: object) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    async with alice() as sender, bob(path, has_store=True) as receiver:
        introduce(sender, receiver)
        await sender.send(receiver.did, b"one")
        monkeypatch.setattr(Work, "commit", fail)
        sender.send_nowait(receiver.did, b"lost")
        await eventually(lambda: not receiver.health().is_well)
        assert receiver._core.store is not None
        assert isinstance(receiver._core.store.store.failure, StoreFailedError)
        assert receiver._core.evidence is not None
        assert receiver._core.evidence.failure is None
    assert payloads_in(path) == [b"one"]


@on_asyncio
async def test_rotating_loses_and_repeats_nothing(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "2025.log"
    async with alice() as sender, bob(path) as receiver:
        introduce(sender, receiver)
        for n in range(10):
            await sender.send(receiver.did, b"%d" % n)
        head = await receiver.rotate_evidence(archive)
        assert head.records == 10
        assert receiver.evidence_head().records == 0
        await sender.send(receiver.did, b"10")
        with pytest.raises(EvidenceLogError, match=r"was not rotated: .* exists"):
            await receiver.rotate_evidence(archive)
    assert payloads_in(archive) + payloads_in(path) == [b"%d" % n for n in range(11)]


class TestV1:
    @pytest.mark.parametrize("count", [3, 3000])
    @on_both_loops
    async def test_kept_and_delivered_in_order(self, path: Path, count: int) -> None:
        async with OpenCore(quick(evidence=path, inbox_limit=100), us=BOB.did) as bob:
            with await RawLink.dial(bob.address) as link:
                writing = asyncio.create_task(
                    link.write(b"".join(framed(sealed(n, b"%d" % n)) for n in range(count)))
                )
                got: list[bytes] = []
                inbox = bob.core.endpoint.inbox
                while len(got) < count:
                    await eventually(lambda: len(inbox))
                    assert len(inbox) <= 100
                    message = inbox.take()
                    assert message is not None
                    got.append(message.payload)
                await writing
            assert bob.core.stats().messages_received == count
        assert got == [b"%d" % n for n in range(count)] == payloads_in(path)

    @on_asyncio
    async def test_a_slow_disk_pauses_the_reading(self, path: Path, disk: Disk) -> None:
        async with OpenCore(quick(evidence=path, inbox_limit=50), us=BOB.did) as bob:
            disk.go.clear()
            with await RawLink.dial(bob.address) as link:
                await link.write(b"".join(framed(sealed(n)) for n in range(200)))
                await eventually(lambda: bob.intake._unlogged == 50)
                await asyncio.sleep(0.05)
                assert bob.intake._unlogged == 50
                assert len(bob.core.endpoint.inbox) == 0
                disk.go.set()
                inbox, taken = bob.core.endpoint.inbox, 0
                while taken < 200:
                    await eventually(lambda: len(inbox))
                    taken += inbox.take() is not None
        assert len(payloads_in(path)) == 200

    @on_asyncio
    async def test_what_is_unsigned_proves_nothing(self, path: Path) -> None:
        config = quick(evidence=path, signatures=SignaturePolicy.IF_PRESENT)
        async with OpenCore(config, us=BOB.did) as bob:
            with await RawLink.dial(bob.address) as link:
                unsigned = SignedEnvelope.unsigned(ALICE.did, BOB.did, b"a", sequence_number=1)
                await link.write(framed(unsigned) + framed(sealed(2, b"b")))
                await eventually(lambda: len(bob.core.endpoint.inbox) == 2)
        assert payloads_in(path) == [b"b"]

    @on_asyncio
    async def test_a_disk_that_fails_ends_accepting(self, path: Path, disk: Disk) -> None:
        async with OpenCore(quick(evidence=path), us=BOB.did) as bob:
            disk.error = OSError(errno.ENOSPC, "No space left on device")
            with await RawLink.dial(bob.address) as link:
                await link.write(b"".join(framed(sealed(n)) for n in range(5)))
                await eventually(lambda: bob.core.stats().dropped.get(Reason.STORE_FAILED) == 5)
                await link.write(framed(sealed(9)))
                await eventually(lambda: bob.core.stats().dropped.get(Reason.STORE_FAILED) == 6)
            assert len(bob.core.endpoint.inbox) == 0


class TestStarting:
    @on_asyncio
    async def test_a_log_that_cannot_be_used_keeps_the_node_from_starting(self, path: Path) -> None:
        write(path, b"something else")
        for has_store in (False, True):
            with pytest.raises(EvidenceLogError, match="it does not begin with SWCHAIN2"):
                await bob(path, has_store=has_store).start()
        write(path, b"")
        async with bob(path, has_store=True):
            pass  # the store was let go of

    @on_asyncio
    async def test_a_node_without(self) -> None:
        async with alice() as node:
            assert node.stats().evidence is None
            with pytest.raises(EvidenceLogError, match="is not kept"):
                node.evidence_head()

    @on_asyncio
    async def test_it_needs_a_did(self, path: Path) -> None:
        core = NodeCore(quick(evidence=path), RoutingTable(), TcpNetwork(), None)
        with pytest.raises(ConfigError, match="belongs to one DID"):
            await core.start()

    @on_asyncio
    async def test_by_the_configuration(self, path: Path) -> None:
        node = Node(BOB, TransportConfig(evidence=path))
        with pytest.raises(ClosedError, match="is not started"):
            node.evidence_head()
        async with node:
            assert node.evidence_head().records == 0
        assert size_of(path) == HEADER_SIZE


def test_the_blocking_node(path: Path) -> None:
    with sync.Node(ALICE) as sender, sync.Node(BOB, evidence=path) as receiver:
        assert receiver.address is not None
        sender.routing.update(receiver.did, receiver.address)
        sender.send(receiver.did, b"hello")
        assert receiver.evidence_head().records == 1
        assert receiver.rotate_evidence(path.with_name("old")).records == 1
    assert payloads_in(path.with_name("old")) == [b"hello"]
