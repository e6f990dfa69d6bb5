"""A node whose evidence log is rotated: by itself, by a call, and by other programs."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from signedwire import (
    DeliveryState,
    Event,
    EvidenceFailed,
    EvidenceLogError,
    EvidenceRemoved,
    EvidenceRotated,
    Node,
    Reason,
    TransportConfig,
    sync,
)
from signedwire.evidence.chain import NO_HEAD, LogChecker
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

posix_only = pytest.mark.skipif(os.name != "posix", reason="an open file stays where it is")
with_and_without_store = pytest.mark.parametrize("has_store", [False, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


def copytruncate(path: Path) -> None:
    shutil.copy(path, f"{path}.1")
    os.truncate(path, 0)


def rename_and_create(path: Path) -> None:
    path.rename(f"{path}.1")
    path.touch(0o600)


each_deed = pytest.mark.parametrize("deed", [copytruncate, rename_and_create, Path.unlink])


def bob(path: Path, *, has_store: bool = False, **options: Any) -> Node:
    store = path.with_name("bob.db") if has_store else None
    config = TransportConfig(close_timeout=0.5).replace(evidence=path, store=store, **options)
    return Node(BOB, config)


async def collect(events: AsyncIterator[Event], found: list[Event]) -> None:
    async for event in events:
        found.append(event)  # noqa: PERF401  # they are looked at before the last one came


def payloads_in(files: list[Path]) -> list[bytes]:
    """Those in a chain of files."""
    payloads, head = [], NO_HEAD
    for each in files:
        checker = LogChecker()
        payloads += [c.envelope.payload for c in checker.receive_data(each.read_bytes())]
        checker.receive_eof()
        assert checker.error is None
        assert checker.reader.header is not None
        assert checker.reader.header.previous == head
        head = checker.head
    return payloads


@posix_only
@each_deed
@with_and_without_store
@on_both_loops
async def test_another_program_rotates_it(
    path: Path, has_store: bool, deed: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is accepted or acknowledged any more, and everybody is told why."""
    found: list[Event] = []
    config = TransportConfig(close_timeout=0.5)
    async with Node(ALICE, config) as sender, bob(path, has_store=has_store) as receiver:
        watching = asyncio.create_task(collect(receiver.events(), found))
        assert receiver.address is not None
        sender.routing.update(receiver.did, receiver.address)
        await sender.send(receiver.did, b"1")
        (await within(LIMIT, receiver.receive())).ack()
        head = receiver.evidence_head()
        deed(path)
        receipts = [sender.send_nowait(receiver.did, b"2")]
        await eventually(lambda: not receiver.health().is_well)
        receipts.append(sender.send_nowait(receiver.did, b"3"))
        await asyncio.sleep(0.1)
        assert not any(receipt.has_reached(DeliveryState.ACCEPTED) for receipt in receipts)
        assert receiver.receive_nowait() is None
        [problem] = receiver.health().problems
        assert "another program" in problem
        stats = receiver.stats().evidence
        assert stats is not None
        assert stats.failure == problem
        assert receiver.evidence_head() == head
        errors = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert [each.name for each in errors] == ["signedwire.evidence"]
        assert "logrotate" in errors[0].getMessage()
        with pytest.raises(EvidenceLogError, match="another program"):
            await receiver.rotate_evidence()
    await watching
    assert [e for e in found if isinstance(e, EvidenceFailed)] == [
        EvidenceFailed(str(path), problem)
    ]


@posix_only
@on_asyncio
async def test_v1_messages_are_dropped_then(path: Path) -> None:
    async with OpenCore(quick(evidence=path), us=BOB.did) as core:
        with await RawLink.dial(core.address) as link:
            await link.write(framed(sealed(1)))
            await eventually(lambda: len(core.core.endpoint.inbox) == 1)
            copytruncate(path)
            await link.write(framed(sealed(2)))
            await eventually(lambda: core.core.stats().dropped.get(Reason.STORE_FAILED) == 1)
        assert len(core.core.endpoint.inbox) == 1


@posix_only
def test_the_file_that_was_cut_can_be_put_back(path: Path) -> None:
    with sync.Node(ALICE) as sender:
        with sync.Node(BOB, evidence=path) as receiver:
            assert receiver.address is not None
            sender.routing.update(receiver.did, receiver.address)
            sender.send(receiver.did, b"1")
            copytruncate(path)
        # As a record that was written behind the cut would leave it.
        path.write_bytes(Path(f"{path}.1").read_bytes()[112:])
        with pytest.raises(
            EvidenceLogError, match=r"its first record follows the header of .*evidence\.log\.1"
        ):
            sync.Node(BOB, evidence=path)
        os.replace(f"{path}.1", path)
        with sync.Node(BOB, evidence=path) as receiver:
            assert receiver.evidence_head().records == 1


@with_and_without_store
@on_both_loops
async def test_it_rotates_itself_and_tells_it(path: Path, has_store: bool) -> None:
    found: list[Event] = []
    sent = [b"%03d" % n for n in range(200)]
    options = {"evidence_max_bytes": 4096, "evidence_max_age": 3600, "evidence_keep": 1000}
    async with (
        Node(ALICE, TransportConfig(close_timeout=0.5)) as sender,
        bob(path, has_store=has_store, **options) as receiver,
    ):
        watching = asyncio.create_task(collect(receiver.events(), found))
        assert receiver.address is not None
        sender.routing.update(receiver.did, receiver.address)
        for payload in sent[:20]:
            await sender.send(receiver.did, payload)
        await sender.send_many(receiver.did, sent[20:])
        for payload in sent:
            message = await within(LIMIT, receiver.receive())
            assert message.payload == payload
            message.ack()
        assert receiver.health().is_well
    await watching
    files = sorted(path.parent.glob("evidence.log.0*"))
    assert payloads_in([*files, path]) == sent
    rotated = [each for each in found if isinstance(each, EvidenceRotated)]
    assert [each.archive for each in rotated] == [str(each) for each in files]
    assert sum(each.records for each in rotated) == int(files[-1].name.split(".")[-1])
    assert all(4096 <= each.stat().st_size < 4096 + 1400 for each in files)


@on_asyncio
async def test_the_oldest_go_where_that_is_asked_for(path: Path) -> None:
    found: list[Event] = []
    async with (
        Node(ALICE, TransportConfig(close_timeout=0.5)) as sender,
        bob(path, evidence_max_bytes=1024, evidence_keep=2) as receiver,
    ):
        watching = asyncio.create_task(collect(receiver.events(), found))
        assert receiver.address is not None
        sender.routing.update(receiver.did, receiver.address)
        for n in range(30):
            await sender.send(receiver.did, b"%d" % n)
    await watching
    assert len(list(path.parent.glob("evidence.log.0*"))) == 2
    removed = [each for each in found if isinstance(each, EvidenceRemoved)]
    rotated = [each for each in found if isinstance(each, EvidenceRotated)]
    assert [each.archive for each in removed] == [each.archive for each in rotated[:-2]]
    assert removed[-1].last_record == sum(each.records for each in rotated[:-2])


@on_asyncio
async def test_a_call_gives_it_the_next_number(path: Path) -> None:
    async with Node(ALICE) as sender, bob(path) as receiver:
        assert receiver.address is not None
        sender.routing.update(receiver.did, receiver.address)
        assert (await receiver.rotate_evidence()).records == 0
        await sender.send(receiver.did, b"1")
        assert (await receiver.rotate_evidence()).records == 1
        assert (await receiver.rotate_evidence()).records == 0
    assert payloads_in([path.with_name("evidence.log.000000000001"), path]) == [b"1"]


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("evidence_max_bytes", "1048576", 2**20),
            ("evidence_max_age", "86400", 86_400.0),
            ("evidence_keep", "30", 30),
            ("evidence_keep", "none", None),
        ],
    )
    def test_from_a_file_and_from_the_environment(
        self, tmp_path: Path, name: str, text: str, value: object
    ) -> None:
        from signedwire import load_config

        file = tmp_path / "node.toml"
        given = '"none"' if text == "none" else text
        file.write_text(f"{name} = {given}\n")
        assert getattr(load_config(file, {}), name) == value
        assert getattr(load_config(None, {f"SIGNEDWIRE_{name.upper()}": text}), name) == value

    def test_by_default_nothing_is_rotated_and_nothing_removed(self) -> None:
        config = TransportConfig()
        assert config.evidence_max_bytes is None
        assert config.evidence_max_age is None
        assert config.evidence_keep is None
