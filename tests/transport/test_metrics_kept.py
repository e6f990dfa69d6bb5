"""Metrics of nodes: who observes which value when, and what a node tells of itself."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import pytest
from test_links import RawPeer

from signedwire import DeliveryState, Node, Sample, TransportConfig
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.metrics import HISTOGRAMS, METRICS
from signedwire.stats import Counters
from signedwire.sync import Node as BlockingNode
from signedwire.wire.header import MIN_V2_HEADER_SIZE
from signedwire.wire.link_frames import ACCEPTED_BATCHES
from signedwire.wire.session import BatchReceived
from wirekit import ALICE, BOB, LIMIT, RawServer, eventually, on_asyncio, on_both_loops, within

TIMES: Final = [metric.name for metric in HISTOGRAMS]


def value_of(samples: list[Sample], name: str) -> Any:
    (value,) = [sample.value for sample in samples if sample.metric.name == name]
    return value


def count_of(node: Node, name: str) -> int:
    count: int = value_of(node.metrics(), name).count
    return count


@on_both_loops
async def test_each_histogram_gets_values(tmp_path: Path) -> None:
    started = time.monotonic()
    async with Node(ALICE, store=tmp_path / "a.db") as alice, Node(BOB) as bob:
        alice.routing.update(bob.did, bob.address)
        receipt = await alice.send(bob.did, b"hello")
        await within(LIMIT, receipt.wait("accepted"))
        of_link = ["handshake_seconds", "round_trip_seconds"]
        for node, name in [*((alice, name) for name in TIMES), *((bob, name) for name in of_link)]:
            await eventually(partial(count_of, node, name))
            found = value_of(node.metrics(), name)
            assert 0 < found.sum < (time.monotonic() - started) * found.count
            assert found.count <= getattr(node.stats(), name).count
        assert value_of(bob.metrics(), "accept_seconds").count == 0
        assert value_of(bob.metrics(), "commit_seconds").count == 0
        assert value_of(alice.metrics(), "accept_seconds").count == 1
        assert value_of(alice.metrics(), "handshake_seconds").count == 1


@on_both_loops
async def test_who_observes_and_how_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt is one value, however many messages it names; commits are a thread's own."""
    observed: list[tuple[str, str]] = []
    receipts: list[bool] = []
    observe, on_receipts = Counters.observe, Endpoint.on_receipts

    def noting(self: Counters, name: str, value: float) -> None:
        observed.append((name, threading.current_thread().name))
        observe(self, name, value)

    def counting(self: Endpoint, *args: Any) -> bool:
        receipts.append(on_receipts(self, *args))
        return receipts[-1]

    monkeypatch.setattr(Counters, "observe", noting)
    monkeypatch.setattr(Endpoint, "on_receipts", counting)
    async with Node(ALICE, store=tmp_path / "a.db") as alice, Node(BOB) as bob:
        alice.routing.update(bob.did, bob.address)
        store = alice._core.store.store  # type: ignore[union-attr]
        before = store.stats().commits
        sent = await within(LIMIT, alice.send_many(bob.did, [b"x"] * 500))
        for receipt in sent:
            await within(LIMIT, receipt.wait("accepted"))
        commits = store.stats().commits - before
    loop = threading.current_thread().name
    assert {thread for name, thread in observed if name == "commit_seconds"} == {"signedwire-store"}
    assert {thread for name, thread in observed if name != "commit_seconds"} == {loop}
    names = [name for name, _ in observed]
    assert names.count("commit_seconds") >= commits > 0
    assert names.count("accept_seconds") == sum(receipts) < len(sent) / 10


@on_asyncio
async def test_a_handshake_begins_with_the_connection() -> None:
    """Also where the dialer says nothing for a while. And a slow PONG is a long round trip."""
    async with Node(BOB) as bob:
        sock = socket.socket()
        sock.setblocking(False)
        with RawPeer(ALICE, BOB, sock) as peer:
            await asyncio.get_running_loop().sock_connect(sock, tuple(bob.address))
            await asyncio.sleep(0.15)
            peer._channel.start()
            await peer._shake_hands()
            await eventually(lambda: value_of(bob.metrics(), "handshake_seconds").count)
            await asyncio.sleep(0.15)  # its PING waits in the socket
            while not value_of(bob.metrics(), "round_trip_seconds").count:
                await within(LIMIT, peer.read())
            for name in ("handshake_seconds", "round_trip_seconds"):
                found = value_of(bob.metrics(), name)
                assert found.count == 1
                assert found.sum > 0.14
                assert dict(found.buckets)[0.1] == 0


@on_asyncio
async def test_one_that_had_expired_is_no_value() -> None:
    """Its receipt comes after its deadline, and the next message's is a value again."""
    with RawServer() as server:
        async with Node(ALICE, TransportConfig(listen=None)) as alice:
            alice.routing.update(BOB.did, server.address)
            late = alice.send_nowait(BOB.did, b"x", deadline=0.2)
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                batch = await peer.next(BatchReceived)
                await eventually(lambda: late.state is DeliveryState.EXPIRED)
                peer.session.send_receipts(ACCEPTED_BATCHES, [batch.root], 1)
                await peer.say()
                await eventually(lambda: cast(OutgoingMessage, late).proof_source is not None)
                assert count_of(alice, "accept_seconds") == 0
                prompt = alice.send_nowait(BOB.did, b"y")
                batch = await peer.next(BatchReceived)
                peer.session.send_receipts(ACCEPTED_BATCHES, [batch.root], 1)
                await peer.say()
                await within(LIMIT, prompt.wait("accepted"))
                assert count_of(alice, "accept_seconds") == 1


def test_any_thread_and_after_the_end() -> None:
    found: list[list[Sample]] = []
    with BlockingNode(ALICE) as node:
        thread = threading.Thread(target=lambda: found.append(node.metrics()))
        thread.start()
        thread.join()
    found.append(node.metrics())
    assert found[0] == found[1]
    names = [sample.metric.name for sample in found[0]]
    wanted = [one.name for one in METRICS if not one.field and not one.label]
    assert names == wanted


@on_asyncio
async def test_what_waits_in_a_store(tmp_path: Path) -> None:
    before = time.time()
    async with Node(ALICE, store=tmp_path / "a.db") as alice:
        await alice.send(BOB.did, b"x")
        samples = alice.metrics()
        assert value_of(samples, "store_outbox_messages") == 1
        assert value_of(samples, "store_unmet_messages") == 1
        assert value_of(samples, "store_outbox_bytes") == MIN_V2_HEADER_SIZE + 1
        assert before - 1 <= value_of(samples, "store_oldest_queued_at_seconds") <= time.time()


@on_asyncio
async def test_with_a_store_and_an_evidence_log(tmp_path: Path) -> None:
    async with (
        Node(ALICE, store=tmp_path / "a.db", evidence=tmp_path / "a.log") as alice,
        Node(BOB, store=tmp_path / "b.db", evidence=tmp_path / "b.log") as bob,
    ):
        alice.routing.update(bob.did, bob.address)
        await within(LIMIT, (await alice.send(bob.did, b"x")).wait("accepted"))
        samples = bob.metrics()
        assert {sample.metric for sample in samples} == {
            metric
            for metric in METRICS
            if metric.name not in ("dropped", "store_oldest_queued_at_seconds")
        }
        assert value_of(samples, "evidence_records") == 1
        assert value_of(samples, "evidence_failed") == 0
        assert value_of(samples, "store_inbox_messages") == 1
        assert value_of(samples, "store_failed") == 0
