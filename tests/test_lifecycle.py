"""Processes, threads and ends: a forked helper, watchers of many threads, what is left."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import signedwire.sync as blocking
from netkit import End
from signedwire import (
    ClosedError,
    EvidenceLogError,
    MemoryNetwork,
    Message,
    Node,
    PeerConnected,
    TransportConfig,
    WrongContextError,
)
from signedwire.events import EventQueue, LoopStalled
from signedwire.evidence.log import EvidenceLog
from signedwire.home import Home
from wirekit import ALICE, BOB, LIMIT, eventually, on_both_loops, random_seed, signedwire_threads

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def helper() -> Iterator[Any]:
    """Starts a forked process that only sleeps, and ends it."""
    started = []

    def start() -> None:
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        started.append(process)

    yield start
    for process in started:
        process.kill()
        process.join()


@needs_fork
def test_a_forked_helper_holds_neither_address_nor_files(tmp_path: Path, helper: Any) -> None:
    files: dict[str, Any] = {"store": str(tmp_path / "a.db"), "evidence": str(tmp_path / "e.log")}
    config = TransportConfig(listen="127.0.0.1:0").replace(**files)
    node = blocking.Node(ALICE, config)
    address = node.address
    helper()
    node.rotate_evidence(tmp_path / "1.log")
    helper()
    node.close()
    blocking.Node(ALICE, config.replace(listen=address)).close()
    # Nor what was given another name while the first helper was there.
    blocking.Node(ALICE, config.replace(evidence=str(tmp_path / "1.log"))).close()


@needs_fork
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, None], ids=["asyncio", "uvloop"])
def test_a_peer_sees_the_end_although_a_helper_has_the_socket(
    loop_factory: Any, helper: Any
) -> None:
    if loop_factory is None:
        loop_factory = pytest.importorskip("uvloop").new_event_loop

    async def main() -> None:
        async with Node(BOB) as bob:
            alice = Node(ALICE)
            await alice.start()
            alice.routing.update(BOB.did, bob.address)
            await alice.send(BOB.did, b"x")
            helper()
            await alice.close()
            await eventually(lambda: bob.stats().inbound_connections == 0, 3)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_case_13_another_loop_says_so_at_once() -> None:
    a, b = Node(ALICE), Node(BOB)
    first = asyncio.new_event_loop()
    first.run_until_complete(a.start())
    first.run_until_complete(b.start())
    a.routing.update(b.did, b.address)
    started = time.monotonic()
    with pytest.raises(WrongContextError, match="this node belongs to another event loop, "):
        asyncio.run(a.send(b.did, b"x"))
    assert time.monotonic() - started < 1
    receipt = first.run_until_complete(a.send(b.did, b"x"))
    assert receipt.is_confirmed
    for node in (a, b):
        first.run_until_complete(node.close())
    first.close()


def test_a_fault_of_the_evidence_log_leaves_no_store_open_after_its_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, close = tmp_path / "a.db", EvidenceLog.close
    closed: list[bool] = []

    def fail(log: EvidenceLog, timeout: float) -> bool:
        closed.append(close(log, timeout))
        raise OSError("no disk")

    def make() -> Node:
        return Node(ALICE, store=store, evidence=tmp_path / "a.log", network=MemoryNetwork())

    monkeypatch.setattr(EvidenceLog, "close", fail)
    node, home = make(), asyncio.new_event_loop()
    home.run_until_complete(node.start())
    home.close()
    with pytest.raises(WrongContextError, match="another event loop, which is closed"):
        asyncio.run(node.close())
    assert closed == [True]
    assert "closing the evidence log failed; all else goes on" in caplog.text
    monkeypatch.undo()

    async def open_again() -> None:
        async with make():
            pass

    asyncio.run(open_again())


def test_case_17_done_after_the_close(tmp_path: Path) -> None:
    store = tmp_path / "b.db"

    async def main() -> None:
        async with Node(ALICE) as alice:
            async with Node(BOB, store=store) as bob:
                alice.routing.update(BOB.did, bob.address)
                await alice.send(BOB.did, b"job")
                message = await bob.receive()
            for answer in (message.ack, message.nack):
                name = message.message_id[:8]
                with pytest.raises(ClosedError, match=rf"message {name} from did:key:.* is closed"):
                    answer()
            async with Node(BOB, store=store) as bob:
                again = await bob.receive(LIMIT)
                assert again is not None
                assert again.redelivered
                again.ack()
                again.ack()  # the first has counted
            again.ack()

    asyncio.run(main())


def test_with_ack_auto_what_is_taken_after_the_close_comes_again(tmp_path: Path) -> None:
    config = TransportConfig(ack="auto", store=str(tmp_path / "b.db"))

    async def main() -> None:
        async with Node(ALICE) as alice:
            async with Node(BOB, config) as bob:
                alice.routing.update(BOB.did, bob.address)
                await alice.send(BOB.did, b"job")
            taken = await bob.receive()
            assert taken.payload == b"job"
            async with Node(BOB, config) as bob:
                assert (await bob.receive()).redelivered

    asyncio.run(main())


def test_with_ack_auto_what_is_taken_as_the_node_ends_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread takes it, and the loop ends the node before the thread acknowledges it."""
    config = TransportConfig(ack="auto", store=str(tmp_path / "b.db"), close_timeout=0.2)
    acknowledge = Message.ack
    failures: list[ClosedError] = []

    with blocking.Node(ALICE) as alice:
        bob = blocking.Node(BOB, config)
        alice.routing.update(BOB.did, bob.address)
        alice.send(BOB.did, b"job")

        def end_first(message: Message) -> None:
            bob.close()
            try:
                acknowledge(message)
            except ClosedError as error:
                failures.append(error)
                raise

        monkeypatch.setattr(Message, "ack", end_first)
        taken = bob.receive(LIMIT)
        assert (taken.payload, len(failures)) == (b"job", 1)
        monkeypatch.undo()
        with blocking.Node(BOB, config) as bob:
            assert bob.receive(LIMIT).redelivered


# -- watchers -------------------------------------------------------------------------------


def test_watchers_come_and_go_in_other_threads_while_the_loop_tells() -> None:
    """A set of them was changed under the loop's feet."""
    seed, draw = random_seed()
    home = Home()
    queue = EventQueue(home)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        has_ended = threading.Event()

        def watch(number: int) -> int:
            kept = []
            while not has_ended.is_set():
                kept.append(queue.watch())
                if len(kept) > draw.randint(1, 50):
                    kept.clear()
            return number

        with ThreadPoolExecutor(4) as pool:
            watching = [pool.submit(watch, number) for number in range(4)]
            try:
                for _ in range(20_000):
                    queue.put(LoopStalled(1.0))
            finally:
                has_ended.set()
            assert [one.result(LIMIT) for one in watching] == [0, 1, 2, 3], seed
    finally:
        sys.setswitchinterval(interval)


def test_a_watcher_that_nobody_follows_is_let_go() -> None:
    queue = EventQueue(Home())
    for _ in range(100):
        queue.watch()
    assert len(queue._watchers) <= 2


@on_both_loops
async def test_events_of_a_node_that_starts_later() -> None:
    node = Node(ALICE)
    events = node.events()
    async with node, Node(BOB) as bob:
        bob.routing.update(ALICE.did, node.address)
        await bob.send(ALICE.did, b"x")
        assert isinstance(await anext(events), PeerConnected)


# -- starts that fail or are called off -------------------------------------------------------


@on_both_loops
async def test_a_start_that_fails_ends_who_waits_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "e.log").write_bytes(b"no log at all, " * 100)
    node = Node(ALICE, store=tmp_path / "a.db", evidence=tmp_path / "e.log")
    events = node.events()
    with pytest.raises(EvidenceLogError):
        await node.start()
    assert node.health().problems == ("it is not started: its start failed",)
    with pytest.raises(ClosedError, match="its start failed"):
        await anext(events)
    with pytest.raises(ClosedError, match="its start failed"):
        await node.receive()
    await node.close()
    assert not signedwire_threads()
    async with Node(ALICE, store=tmp_path / "a.db"):
        pass


@on_both_loops
async def test_a_connection_that_arrives_while_the_node_closes_is_not_counted() -> None:
    """There is room for it, and its other side has done nothing wrong."""
    network, other = MemoryNetwork(), End()
    node = Node(ALICE, TransportConfig(listen="h:0"), network=network)
    await node.start()
    assert node.address is not None
    await network.dial(node.address, other)  # the node gets it in the next turn
    await node.close()
    await eventually(lambda: other.is_lost)
    stats = node.stats()
    assert (stats.connections_accepted, stats.dropped) == (0, {})


@on_both_loops
async def test_a_close_while_it_starts_ends_the_start(tmp_path: Path) -> None:
    node = Node(ALICE, store=tmp_path / "a.db", evidence=tmp_path / "e.log")
    starting = asyncio.create_task(node.start())
    await asyncio.sleep(0)
    await node.close()
    with pytest.raises(ClosedError, match="closed while it started"):
        await starting
    assert not signedwire_threads()


@on_both_loops
async def test_busy_threads_of_the_program_do_not_hold_a_node_up(tmp_path: Path) -> None:
    """The loop's executor belongs to the application."""
    may_end = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, may_end.wait, LIMIT) for _ in range(64)]
    try:
        async with asyncio.timeout(LIMIT / 2):
            files: dict[str, Any] = {
                "store": str(tmp_path / "a.db"),
                "evidence": str(tmp_path / "e.log"),
            }
            config = TransportConfig(listen="127.0.0.1:0").replace(**files)
            async with Node(ALICE, config) as node:
                await node.outbox.export(tmp_path / "out")
    finally:
        may_end.set()
        await asyncio.gather(*busy)


# -- the evidence log's mode --------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
@pytest.mark.parametrize("is_new", [True, False])
def test_others_cannot_change_an_evidence_log(tmp_path: Path, is_new: bool) -> None:
    log = tmp_path / "e.log"
    if is_new:
        log.touch()
    else:
        blocking.Node(ALICE, evidence=log).close()
    log.chmod(0o666)
    blocking.Node(ALICE, evidence=log).close()
    # Who may read a log that exists is its owner's business.
    assert stat.S_IMODE(log.stat().st_mode) == (0o600 if is_new else 0o644)
