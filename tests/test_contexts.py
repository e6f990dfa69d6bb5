"""Every public method, wherever it may be called: it works, or says why it cannot.

A table has the outcome of each method before the start, after the close, in another
event loop of the same thread, in the loop of another thread, and in a forked child.
Nothing may wait for ever: each call has a limit.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import pickle
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import signedwire.sync as blocking
from signedwire import (
    ClosedError,
    DeadLetters,
    Identity,
    Message,
    Node,
    Outbox,
    Receipt,
    TransportConfig,
    WrongContextError,
)
from signedwire.types import DeliveryState
from wirekit import ALICE, BOB, LIMIT

# Of what may wait for something that does not come: long enough to be seen as waiting.
PAUSE: Final = 0.05

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CONTEXTS = ("before start", "after close", "other loop", "other thread", "forked child")

# What each does in those five places. "works": it returns. "Closed": ClosedError.
# "Wrong": WrongContextError. "Timeout": it waits, until its timeout. "-": there is none.
_STATE = "works works works works works"
_WORK = "Closed Closed Wrong Wrong Wrong"
NODE: dict[str, str] = {
    "start": "works Closed Wrong Wrong Wrong",
    "close": "works works Wrong Wrong Wrong",
    "did": _STATE,
    "address": "Closed works works works works",
    "is_listening": _STATE,
    "routing": _STATE,
    "config": _STATE,
    "send": _WORK,
    "send_nowait": "Closed Closed Wrong works Wrong",
    "send_many": _WORK,
    "subscribe": _WORK,
    "publish": _WORK,
    "send_all": _WORK,
    "mirror": _WORK,
    "request": _WORK,
    "serve": "works Closed Wrong Wrong Wrong",
    "name_of": _STATE,
    "on_silence": "works Closed Wrong Wrong Wrong",
    "age": "- works works works works",
    "check_within": "- works works works works",
    "receive": _WORK,
    "receive_nowait": "Closed Closed Wrong works Wrong",
    "messages": "Closed works Wrong Wrong Wrong",  # they end with the node
    "outbox": _STATE,
    "dead": _STATE,
    "evidence_head": "Closed works works works works",
    "rotate_evidence": "Closed Closed Wrong Wrong Wrong",
    "stats": _STATE,
    "metrics": _STATE,
    "health": _STATE,  # which is asked why the node cannot work
    "pool_stats": _STATE,
    "peers": _STATE,
    "probe": _WORK,
    "probes": _WORK,
    "events": "Closed works Wrong Wrong Wrong",
    "access": _STATE,
    "outbox.list": _WORK,
    "outbox.show": _WORK,
    "outbox.drop": _WORK,
    "outbox.retry": _WORK,
    "outbox.flush": _WORK,
    "outbox.export": _WORK,
    "dead.list": _WORK,
    "dead.show": _WORK,
    "dead.drop": _WORK,
    "dead.retry": _WORK,
    "receipt.wait": "- Closed Wrong Timeout Wrong",
    "receipt.result": "- Closed Wrong Timeout Wrong",
    "message.ack": "- Closed Wrong works Wrong",
    "message.nack": "- Closed Wrong works Wrong",
}
# It listens once made, and has a loop of its own: from any loop and thread it works.
_BLOCKING = "- Closed works works Wrong"
SYNC: dict[str, str] = {
    "close": "- works works works Wrong",
    "did": _STATE,
    "address": _STATE,
    "is_listening": _STATE,
    "routing": _STATE,
    "config": _STATE,
    "send": _BLOCKING,
    "send_nowait": _BLOCKING,
    "send_many": _BLOCKING,
    "subscribe": "- Closed Timeout Timeout Wrong",
    "publish": _BLOCKING,
    "send_all": _BLOCKING,
    "mirror": _BLOCKING,
    "request": "- Closed Timeout Timeout Wrong",
    "serve": _BLOCKING,
    "name_of": _STATE,
    "on_silence": _BLOCKING,
    "age": "- works works works works",
    "check_within": "- works works works works",
    "receive": _BLOCKING,
    "messages": "- works works works Wrong",
    "receive_nowait": _BLOCKING,  # last: nothing is left
    "outbox": _STATE,
    "dead": _STATE,
    "evidence_head": _STATE,
    "rotate_evidence": _BLOCKING,
    "stats": _STATE,
    "metrics": _STATE,
    "health": _STATE,
    "pool_stats": _STATE,
    "peers": _STATE,
    "probe": _BLOCKING,
    "probes": _BLOCKING,
    "events": "- works works works Wrong",
    "access": _STATE,
    "outbox.list": _BLOCKING,
    "outbox.show": _BLOCKING,
    "outbox.drop": _BLOCKING,
    "outbox.retry": _BLOCKING,
    "outbox.flush": _BLOCKING,
    "outbox.export": _BLOCKING,
    "dead.list": _BLOCKING,
    "dead.show": _BLOCKING,
    "dead.drop": _BLOCKING,
    "dead.retry": _BLOCKING,
    "receipt.wait": "- Closed Timeout Timeout Wrong",
    "receipt.result": "- Closed Timeout Timeout Wrong",
    "message.ack": "- Closed works works Wrong",
    "message.nack": "- Closed works works Wrong",
}
_SHORT = {
    "NoReplyError": "Timeout",
    "ClosedError": "Closed",
    "WrongContextError": "Wrong",
    "TimeoutError": "Timeout",
}
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "send": (BOB.did, b"x"),
    "send_nowait": (BOB.did, b"x"),
    "send_many": (BOB.did, [b"x"]),
    "subscribe": (BOB.did, "status"),
    "publish": ("status", b"x"),
    "send_all": ([BOB.did], b"x"),
    "name_of": (BOB.did,),
    "on_silence": (BOB.did, 5.0, lambda silence: None),
    "receive": (PAUSE,),
    "probe": (BOB.did, "127.0.0.1:9"),
    "probes": (BOB.did, "127.0.0.1:9"),
    "outbox.show": (1,),
    "outbox.drop": (99,),
    "dead.show": (1,),
    "dead.drop": (99,),
    "dead.retry": (99,),
    "receipt.wait": (DeliveryState.HANDLED, PAUSE),
    "receipt.result": (DeliveryState.HANDLED, PAUSE),
}


_NUMBERS = itertools.count()


class Things:
    """A node, and a receipt and a message that it had; what is called by name."""

    def __init__(self, node: Any, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.receipt: Receipt | None = None
        self.message: Message | None = None

    def call(self, name: str) -> Any:
        owner, _, method = name.rpartition(".")
        if owner in ("receipt", "message"):
            target = getattr(self, owner)
        else:
            target = getattr(self.node, owner) if owner else self.node
        found = getattr(target, method)
        if not callable(found):
            return found
        if name in ("rotate_evidence", "outbox.export"):
            return found(self.folder / f"{method}-{len(os.listdir(self.folder))}")
        if name == "mirror":
            return found(self.message, "status")
        if name == "age":
            return found(self.message)
        if name == "check_within":
            return found(self.message, 1.0)
        if name == "request":
            return found(BOB.did, timeout=PAUSE)
        if name == "serve":
            return found(f"subject {next(_NUMBERS)}", lambda message: b"")
        if name == "subscribe":
            return found(*_ARGUMENTS[name], timeout=PAUSE)
        return found(*_ARGUMENTS.get(name, ()))

    async def outcome(self, name: str) -> str:
        """What becomes of a call in the running loop."""
        try:
            async with asyncio.timeout(LIMIT):
                await _finish(self.call(name))
        except Exception as error:  # noqa: BLE001 - its name is the outcome
            return _SHORT.get(type(error).__name__, type(error).__name__)
        return "works"


async def _finish(value: Any) -> None:
    if isinstance(value, AsyncIterator):
        # Where it works it waits for the first.
        try:
            async with asyncio.timeout(PAUSE):
                await anext(value, None)
        except TimeoutError:
            pass
    elif isinstance(value, Awaitable):
        await value
    elif isinstance(value, Iterator):
        # In the other thread it would wait for ever: a message or an event is there.
        next(value, None)


def _quiet() -> TransportConfig:
    return TransportConfig(listen="127.0.0.1:0", close_timeout=0.1)


async def make(folder: Path) -> Things:
    """An open node of which everything can be asked; to be called in its loop."""
    os.mkdir(folder)
    node = Node(ALICE, _quiet(), store=folder / "a.db", evidence=folder / "e.log")
    things = Things(node, folder)
    await node.start()
    assert node.address is not None
    async with Node(BOB, _quiet()) as bob:
        bob.routing.update(ALICE.did, node.address)
        await bob.send(ALICE.did, b"a")
        things.message = await node.receive()
        # A message to a peer that is away.
        assert bob.address is not None
        node.routing.update(BOB.did, bob.address)
    things.receipt = await node.send(BOB.did, b"waits")
    return things


def expected(table: dict[str, str], context: str) -> dict[str, str]:
    at = CONTEXTS.index(context)
    found = {name: outcomes.split()[at] for name, outcomes in table.items()}
    return {name: outcome for name, outcome in found.items() if outcome != "-"}


def ordered(names: dict[str, str]) -> list[str]:
    """Those that end a node last."""
    return sorted(names, key=lambda name: name in ("start", "close"))


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work()` returns in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(LIMIT))  # whatever hangs is killed
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert told, "the child hung, or died"
    found: dict[str, Any] = json.loads(told)
    return found


# -- the table is whole ---------------------------------------------------------------------


def public(kind: type, prefix: str = "") -> set[str]:
    names = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
    return {prefix + name for name in names}


@pytest.mark.parametrize(
    ("table", "node", "outbox", "dead"),
    [
        (NODE, Node, Outbox, DeadLetters),
        (SYNC, blocking.Node, blocking.Outbox, blocking.DeadLetters),
    ],
    ids=["asyncio", "sync"],
)
def test_every_public_method_is_in_the_table(
    table: dict[str, str], node: type, outbox: type, dead: type
) -> None:
    every = public(node) | public(outbox, "outbox.") | public(dead, "dead.")
    others = {name for name in table if name.startswith(("receipt.", "message."))}
    assert every == set(table) - others
    assert {len(outcomes.split()) for outcomes in table.values()} == {len(CONTEXTS)}


# -- asyncio --------------------------------------------------------------------------------


def test_before_the_start(tmp_path: Path) -> None:
    table = expected(NODE, "before start")

    async def work() -> dict[str, str]:
        found = {}
        for name in table:
            # Each of a node of its own: `start()` is among them.
            node = Node(ALICE, _quiet(), store=tmp_path / "a.db", evidence=tmp_path / "e.log")
            assert node.health().problems == ("it is not started",)
            found[name] = await Things(node, tmp_path).outcome(name)
            await node.close()
        return found

    assert asyncio.run(work()) == table


def test_after_the_close(tmp_path: Path) -> None:
    table = expected(NODE, "after close")

    async def work() -> dict[str, str]:
        things = await make(tmp_path / "x")
        await things.node.close()
        assert things.node.health().problems == ("the node is closed",)
        return {name: await things.outcome(name) for name in table}

    assert asyncio.run(work()) == table


def test_in_another_loop_of_the_same_thread(tmp_path: Path) -> None:
    table = expected(NODE, "other loop")
    home = asyncio.new_event_loop()
    things = home.run_until_complete(make(tmp_path / "x"))

    async def work() -> dict[str, str]:
        assert things.node.health().problems == (
            "this node belongs to another event loop, which cannot run while this one does",
        )
        return {name: await things.outcome(name) for name in ordered(table)}

    assert asyncio.run(work()) == table
    # It was only out of place.
    assert home.run_until_complete(things.outcome("outbox.list")) == "works"
    home.run_until_complete(things.node.close())
    home.close()


def test_in_a_loop_after_its_own_was_closed(tmp_path: Path) -> None:
    """As with two `asyncio.run()`, and no close between them."""
    table = expected(NODE, "other loop")

    def work() -> dict[str, Any]:
        home = asyncio.new_event_loop()
        things = home.run_until_complete(make(tmp_path / "x"))
        address, before = things.node.address, things.node.health().problems
        home.close()
        health = things.node.health().problems

        async def outcomes() -> dict[str, str]:
            return {name: await things.outcome(name) for name in ordered(table)}

        async def again() -> None:
            # `close()` was the last, and freed what it could.
            config = TransportConfig(listen=address, evidence=tmp_path / "x" / "e.log")
            async with Node(ALICE, config, store=tmp_path / "x" / "a.db"):
                pass

        found = asyncio.run(outcomes())
        asyncio.run(again())
        after = things.node.health().problems
        return {"found": found, "health": [*before, *health, *after]}

    # Elsewhere, for what a closed loop leaves is told when the process ends.
    told = in_child(work)
    assert told["found"] == table
    assert told["health"] == [
        "the event loop that this node belongs to is not running",
        "this node belongs to another event loop, which is closed",
        "the node is closed",
    ]


def test_in_the_loop_of_another_thread(tmp_path: Path) -> None:
    table = expected(NODE, "other thread")
    home = asyncio.new_event_loop()
    thread = threading.Thread(target=home.run_forever)
    thread.start()
    things = asyncio.run_coroutine_threadsafe(make(tmp_path / "x"), home).result(LIMIT)

    async def work() -> dict[str, str]:
        assert things.node.health().is_well
        return {name: await things.outcome(name) for name in ordered(table)}

    assert asyncio.run(work()) == table
    asyncio.run_coroutine_threadsafe(things.node.close(), home).result(LIMIT)
    home.call_soon_threadsafe(home.stop)
    thread.join(LIMIT)
    home.close()


def test_in_a_forked_child(tmp_path: Path) -> None:
    table = expected(NODE, "forked child")
    home = asyncio.new_event_loop()
    things = home.run_until_complete(make(tmp_path / "x"))

    async def outcomes() -> dict[str, str]:
        return {name: await things.outcome(name) for name in ordered(table)}

    def work() -> dict[str, Any]:
        problems = things.node.health().problems
        return {"health": problems, "found": asyncio.run(outcomes())}

    told = in_child(work)
    assert told["health"] == ["this node belongs to the process that was forked"]
    assert told["found"] == table
    assert home.run_until_complete(things.outcome("outbox.flush")) == "works"
    home.run_until_complete(things.node.close())
    home.close()


# -- blocking -------------------------------------------------------------------------------


def make_blocking(folder: Path) -> Things:
    folder.mkdir()
    node = blocking.Node(ALICE, _quiet(), store=folder / "a.db", evidence=folder / "e.log")
    things = Things(node, folder)
    assert node.address is not None
    with blocking.Node(BOB, _quiet()) as bob:
        bob.routing.update(ALICE.did, node.address)
        bob.send_many(ALICE.did, [b"a", b"b", b"c"])
        things.message = node.receive()
        assert bob.address is not None
        node.routing.update(BOB.did, bob.address)
    things.receipt = node.send(BOB.did, b"waits")
    return things


def blocking_outcomes(things: Things, context: str) -> dict[str, str]:
    """Each in turn; `messages()` and `events()` have something to give."""
    found = {}
    for name in ordered(expected(SYNC, context)):
        if name == "events" and context in ("other loop", "other thread"):
            found[name] = events_outcome(things)
        else:
            found[name] = asyncio.run(things.outcome(name))
    return found


def events_outcome(things: Things) -> str:
    """They are followed while a peer comes."""
    events = things.node.events()
    with blocking.Node(BOB, _quiet()) as bob:
        bob.routing.update(ALICE.did, things.node.address)
        bob.send(ALICE.did, b"c")
        next(events)
    return "works"


def test_a_blocking_node_after_its_close(tmp_path: Path) -> None:
    things = make_blocking(tmp_path / "x")
    for _ in range(2):
        things.node.receive(LIMIT)  # else they could be taken after the close
    things.node.close()
    assert things.node.health().problems == ("the node is closed",)
    assert blocking_outcomes(things, "after close") == expected(SYNC, "after close")


@pytest.mark.parametrize("context", ["other loop", "other thread"])
def test_a_blocking_node_in_other_loops_and_threads(tmp_path: Path, context: str) -> None:
    things = make_blocking(tmp_path / "x")
    found: list[dict[str, str]] = []

    def work() -> None:
        found.append(blocking_outcomes(things, context))

    if context == "other loop":
        work()
    else:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(3 * LIMIT)
    assert found == [expected(SYNC, context)]


def test_a_blocking_node_in_a_forked_child(tmp_path: Path) -> None:
    things = make_blocking(tmp_path / "x")

    def work() -> dict[str, Any]:
        problems = things.node.health().problems
        return {"health": problems, "found": blocking_outcomes(things, "forked child")}

    told = in_child(work)
    assert told["health"] == ["this node belongs to the process that was forked"]
    assert told["found"] == expected(SYNC, "forked child")
    assert things.node.receive(LIMIT).payload == b"b"
    things.node.close()


def test_a_child_leaves_the_block_of_its_parent_and_makes_its_own(tmp_path: Path) -> None:
    with blocking.Node(ALICE, _quiet(), store=tmp_path / "a.db") as node:

        def work() -> dict[str, Any]:
            node.__exit__(None, None, None)
            with blocking.Node(BOB, _quiet()) as bob:
                bob.routing.update(ALICE.did, node.address)
                return {"state": str(bob.send(ALICE.did, b"from the child").state)}

        assert in_child(work) == {"state": "accepted"}
        message = node.receive(LIMIT)
        assert message is not None
        assert message.payload == b"from the child"


def test_a_blocking_wait_in_the_thread_of_the_loop(tmp_path: Path) -> None:
    async def work() -> None:
        things = await make(tmp_path / "x")
        assert things.receipt is not None
        with pytest.raises(RuntimeError, match="waits for ever"):
            things.receipt.result(until=DeliveryState.HANDLED)
        await things.node.close()

    asyncio.run(work())


@pytest.mark.parametrize("kind", [Node, blocking.Node])
def test_a_node_is_not_pickled_for_another_process(kind: Any) -> None:
    node = kind(ALICE, _quiet())
    with pytest.raises(TypeError, match="pickled nor copied: pass the path of its key file"):
        pickle.dumps(node)
    if kind is blocking.Node:
        node.close()


@pytest.mark.parametrize("method", ["start", "__aenter__"])
def test_a_start_without_asyncio_says_what_it_needs(method: str) -> None:
    """As trio and curio do it: they drive a coroutine, and no loop of asyncio runs."""
    node = Node(Identity.generate())
    with pytest.raises(WrongContextError, match=r"no asyncio event loop runs here.*sync\.Node"):
        getattr(node, method)().send(None)


def test_a_receipt_that_is_waited_for_without_asyncio_says_so() -> None:
    with blocking.Node(Identity.generate()) as node, blocking.Node(Identity.generate()) as peer:
        node.routing.update(peer.did, f"{peer.address}")
        receipt = node.send(peer.did, b"x")
        with pytest.raises(WrongContextError, match=r"no asyncio event loop.*receipt\.result"):
            receipt.wait().send(None)


async def test_before_the_start_nothing_says_that_it_is_closed(tmp_path: Path) -> None:
    """A node that was never started says so, whatever is asked of it."""
    node = Node(ALICE, _quiet(), store=tmp_path / "a.db", evidence=tmp_path / "e.log")
    things = Things(node, tmp_path)
    told = {}
    for name, outcome in expected(NODE, "before start").items():
        if outcome == "Closed":
            with pytest.raises(ClosedError) as caught:
                await _finish(things.call(name))
            told[name] = caught.value.fact
    assert len(told) > 15
    assert {name for name, fact in told.items() if "not started" not in fact} == set()
    assert {name for name, fact in told.items() if "closed" in fact} == set()
