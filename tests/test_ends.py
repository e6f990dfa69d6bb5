"""The end of a node: it is in time, whatever hangs, and frees what a closed loop has left."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from signedwire import ClosedError, Node, TransportConfig, WrongContextError
from signedwire.delivery.access import AccessList
from signedwire.evidence.log import EvidenceLog
from signedwire.transport import evidence_driver
from signedwire.transport.tcp import TcpNetwork
from test_contexts import in_child
from wirekit import ALICE, BOB, LIMIT, eventually, on_both_loops, signedwire_threads

LIMIT_OF_CLOSE: Final = 0.3
_SPARE: Final = 1.0
"""What a slow machine may need beyond it."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def files(folder: Path) -> TransportConfig:
    return TransportConfig(
        close_timeout=LIMIT_OF_CLOSE, store=folder / "a.db", evidence=folder / "e.log"
    )


class SlowListener(TcpNetwork):
    """Its `listen` waits until it is cancelled, and then cleans up."""

    def __init__(self, cleanup: float = 0, *, listens_then: bool = False) -> None:
        self.has_begun = asyncio.Event()
        self.cleanup = cleanup
        self.listens_then = listens_then
        self.listeners: list[Any] = []

    async def listen(self, target: Any, accept: Any) -> Any:
        self.has_begun.set()
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            await asyncio.sleep(self.cleanup)
            if not self.listens_then:
                raise
        self.listeners.append(await super().listen(target, accept))
        return self.listeners[-1]


class SlowDialer(TcpNetwork):
    """Its `dial` waits until it is cancelled, and then cleans up."""

    def __init__(self, cleanup: float) -> None:
        self.cleanup = cleanup
        self.under_way = 0

    async def dial(self, target: Any, receiver: Any, resolved: Any = None) -> Any:
        self.under_way += 1
        try:
            await asyncio.sleep(LIMIT)
        finally:
            await asyncio.sleep(self.cleanup)
            self.under_way -= 1


async def timed_close(node: Node) -> float:
    began = time.monotonic()
    await asyncio.wait_for(node.close(), LIMIT)
    return time.monotonic() - began


# -- a start that hangs ------------------------------------------------------------------------


@on_both_loops
async def test_a_close_ends_a_start_that_hangs(tmp_path: Path) -> None:
    network = SlowListener()
    node = Node(ALICE, files(tmp_path), network=network)
    starting = asyncio.create_task(node.start())
    await network.has_begun.wait()
    assert await timed_close(node) < LIMIT_OF_CLOSE + _SPARE
    with pytest.raises(ClosedError, match="closed while it started"):
        await starting
    await node.close()
    async with Node(ALICE, files(tmp_path)):
        pass


@on_both_loops
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["closed", "cancelled"])
async def test_a_start_that_ignores_its_end_is_left_alone(
    tmp_path: Path, is_cancelled: bool
) -> None:
    network = SlowListener(2 * LIMIT_OF_CLOSE + _SPARE, listens_then=True)
    node = Node(ALICE, files(tmp_path), network=network)
    starting = asyncio.create_task(node.start())
    await network.has_begun.wait()
    began = time.monotonic()
    if is_cancelled:
        starting.cancel()
    else:
        await node.close()
    with pytest.raises(asyncio.CancelledError if is_cancelled else ClosedError):
        await starting
    assert time.monotonic() - began < LIMIT_OF_CLOSE + _SPARE
    async with Node(ALICE, files(tmp_path)):
        pass
    # The listener that comes after the end is closed.
    await eventually(lambda: bool(network.listeners))
    await eventually(lambda: not network.listeners[0]._server.sockets)
    assert not node.is_listening


@on_both_loops
async def test_a_close_waits_for_no_disk_that_a_start_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    reload = AccessList.reload

    def slow(access: AccessList) -> Any:
        answers.wait(LIMIT)
        return reload(access)

    monkeypatch.setattr(AccessList, "reload", slow)
    (tmp_path / "access").write_text("# no rule\n")
    node = Node(ALICE, files(tmp_path).replace(access_file=tmp_path / "access"))
    starting = asyncio.create_task(node.start())
    await asyncio.sleep(0.1)
    try:
        assert await timed_close(node) < LIMIT_OF_CLOSE + _SPARE
        with pytest.raises(ClosedError, match="closed while it started"):
            await starting
        async with Node(ALICE, files(tmp_path)):
            pass
    finally:
        answers.set()
    await eventually(lambda: not signedwire_threads())


@on_both_loops
async def test_a_start_whose_task_is_cancelled_during_its_close_is_cancelled() -> None:
    network = SlowListener(0.1)
    node = Node(ALICE, TransportConfig(close_timeout=LIMIT_OF_CLOSE), network=network)
    starting = asyncio.create_task(node.start())
    await network.has_begun.wait()
    closing = asyncio.create_task(node.close())
    await asyncio.sleep(0.02)
    starting.cancel()
    await closing
    with pytest.raises(asyncio.CancelledError):
        await starting


@on_both_loops
async def test_a_close_before_the_start_changes_nothing() -> None:
    node = Node(ALICE)
    await node.close()
    async with Node(BOB) as bob, node:
        assert (await node.probe(bob.did, bob.address)).failure is None


# -- attempts that clean up --------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("is_denied", [False, True])
async def test_a_close_waits_for_attempts_that_clean_up(is_denied: bool) -> None:
    """Also for one that had ended before, because nobody is to be reached there any more."""
    network = SlowDialer(0.1)
    node = Node(ALICE, TransportConfig(listen=None, close_timeout=LIMIT_OF_CLOSE), network=network)
    await node.start()
    node.routing.update(BOB.did, "127.0.0.1:9")
    node.send_nowait(BOB.did, b"x")
    await eventually(lambda: bool(network.under_way))
    if is_denied:
        node.access.deny(BOB.did)
        await asyncio.sleep(0.01)
    await node.close()
    assert not network.under_way
    assert not node._core.dialers._ending


@on_both_loops
@pytest.mark.parametrize("is_denied", [False, True])
async def test_a_close_does_not_wait_for_an_attempt_that_does_not_end(
    is_denied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    network = SlowDialer(LIMIT_OF_CLOSE + 2 * _SPARE)
    node = Node(ALICE, TransportConfig(listen=None, close_timeout=LIMIT_OF_CLOSE), network=network)
    await node.start()
    node.routing.update(BOB.did, "127.0.0.1:9")
    receipt = node.send_nowait(BOB.did, b"x")
    await eventually(lambda: bool(network.under_way))
    if is_denied:
        node.access.deny(BOB.did)
        await asyncio.sleep(0.01)
    assert await timed_close(node) < LIMIT_OF_CLOSE + _SPARE
    assert receipt.is_final
    assert "did not end" in caplog.text
    await eventually(lambda: not network.under_way)
    await asyncio.sleep(0.05)  # the tasks end after it


# -- gauges ------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("wire", ["v1", "auto"])
async def test_a_closed_node_has_no_connections(wire: Any) -> None:
    async with Node(BOB, TransportConfig(v1_peers="all")) as bob:
        node = Node(ALICE, TransportConfig(listen=None, wire=wire, v1_peers="all"))
        async with node:
            node.routing.update(BOB.did, bob.address)
            await node.send(BOB.did, b"x")
            assert node.pool_stats().active == 1
        assert (node.pool_stats().active, node.stats().outbound_connections) == (0, 0)


# -- a loop that is closed ---------------------------------------------------------------------


async def outcome(node: Node) -> str:
    try:
        await asyncio.wait_for(node.close(), LIMIT)
    except (WrongContextError, TimeoutError) as error:
        return type(error).__name__
    return "returned"


async def outcomes(node: Node, config: TransportConfig) -> list[str]:
    """What becomes of several calls of `close()`; then another node has the files."""
    found = list(await asyncio.gather(outcome(node), outcome(node)))
    found.append(await outcome(node))
    async with Node(ALICE, config):
        pass
    return found


_FREED: Final = ["WrongContextError", "returned", "returned"]


@needs_fork
@pytest.mark.parametrize("work", ["nothing", "probe", "drain", "end"])
@pytest.mark.parametrize("is_collected", [False, True])
def test_a_loop_that_was_closed_while_a_node_was_open(
    tmp_path: Path, work: str, is_collected: bool
) -> None:
    config = files(tmp_path)

    def run() -> dict[str, Any]:
        home = asyncio.new_event_loop()
        node = Node(ALICE, config, network=SlowDialer(LIMIT))

        async def use() -> None:
            await node.start()
            tasks: list[asyncio.Task[Any]] = []
            if work == "probe":
                tasks.append(asyncio.create_task(node.probe(BOB.did, "127.0.0.1:9")))
            if work in ("drain", "end"):
                node.routing.update(BOB.did, "127.0.0.1:9")
                await node.send(BOB.did, b"x")
                tasks.append(asyncio.create_task(node.close()))
            await asyncio.sleep(0.1 if work != "end" else LIMIT_OF_CLOSE + 0.1)
            kept.extend(tasks)

        kept: list[Any] = []
        home.run_until_complete(use())
        home.close()
        if is_collected:
            kept.clear()
            gc.collect()
        return {"found": asyncio.run(outcomes(node, config))}

    assert in_child(run)["found"] == _FREED


def _hold_up(stage: str, may_go_on: threading.Event) -> Callable[[], None]:
    """Let a stage of each start wait; return what undoes that."""
    patch = pytest.MonkeyPatch()

    def held_up(function: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any, **kwargs: Any) -> Any:
            may_go_on.wait(LIMIT)
            return function(*args, **kwargs)

        return wait

    if stage == "store":
        patch.setattr("signedwire.node_life.open_store", held_up(_open_store()))
    if stage == "access":
        patch.setattr(AccessList, "reload", held_up(AccessList.reload))
    if stage == "evidence":
        held = held_up(EvidenceLog)
        held.close = EvidenceLog.close  # type: ignore[attr-defined]
        patch.setattr(evidence_driver, "EvidenceLog", held)
    return patch.undo


def _open_store() -> Callable[..., Any]:
    from signedwire.outbox import open_store

    return open_store


@needs_fork
@pytest.mark.parametrize("stage", ["store", "access", "evidence", "listener"])
@pytest.mark.parametrize("is_open_before", [False, True])
@pytest.mark.parametrize("is_collected", [False, True])
def test_a_loop_that_was_closed_while_a_node_started(
    tmp_path: Path, stage: str, is_open_before: bool, is_collected: bool
) -> None:
    """The thread that opens the file is done before or after `close()` is called."""
    (tmp_path / "access").write_text("# no rule\n")
    config = files(tmp_path).replace(access_file=tmp_path / "access")

    def run() -> dict[str, Any]:
        may_go_on = threading.Event()
        undo = _hold_up(stage, may_go_on)
        home = asyncio.new_event_loop()
        network = SlowListener() if stage == "listener" else None
        node = Node(ALICE, config, network=network)
        kept: list[Any] = []

        async def use() -> None:
            kept.append(asyncio.create_task(node.start()))
            await asyncio.sleep(0.1)

        home.run_until_complete(use())
        assert not kept[0].done()
        home.close()
        if is_collected:
            kept.clear()
            gc.collect()
        if is_open_before:
            may_go_on.set()
            time.sleep(0.1)
        else:
            threading.Timer(0.1, may_go_on.set).start()
        undo()
        return {"found": asyncio.run(outcomes(node, config))}

    assert in_child(run)["found"] == _FREED


@needs_fork
def test_a_disk_that_stays_silent_after_its_loop_was_closed(tmp_path: Path) -> None:
    config = files(tmp_path)

    def run() -> dict[str, Any]:
        undo = _hold_up("store", threading.Event())
        home = asyncio.new_event_loop()
        node = Node(ALICE, config)
        kept: list[Any] = []

        async def use() -> None:
            kept.append(asyncio.create_task(node.start()))
            await asyncio.sleep(0.05)

        home.run_until_complete(use())
        home.close()
        undo()
        began = time.monotonic()
        found = asyncio.run(outcome(node))
        return {"found": found, "took": time.monotonic() - began}

    told = in_child(run)
    assert told["found"] == "WrongContextError"
    assert told["took"] < LIMIT_OF_CLOSE + _SPARE
