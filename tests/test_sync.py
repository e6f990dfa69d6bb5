"""`sync.Node`: the blocking node for threads."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from signedwire import (
    Address,
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    Event,
    ListenError,
    MemoryNetwork,
    Message,
    NotAllowedError,
    PeerConnected,
    PeerDisconnected,
    PeerState,
    Priority,
    Reason,
    Receipt,
    RoutingTable,
    TransportConfig,
    UnknownPeerError,
    sync,
)
from signedwire import node as aio
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    SLACK,
    RawServer,
    quick,
    refusing_address,
    signedwire_threads,
    tcp_sockets,
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test closes its nodes; no thread and no socket is left then."""
    sockets = tcp_sockets()
    yield
    assert not signedwire_threads()
    assert tcp_sockets() <= sockets


@pytest.fixture
def two() -> Iterator[tuple[sync.Node, sync.Node]]:
    routing = RoutingTable()
    with (
        sync.Node(ALICE, quick(inbox_limit=100), routing) as alice,
        sync.Node(BOB, quick(inbox_limit=100), routing) as bob,
    ):
        for node in (alice, bob):
            assert node.address is not None
            routing.update(node.did, node.address)
        yield alice, bob


@pytest.fixture
def linked() -> Iterator[tuple[sync.Node, sync.Node]]:
    """Make the nodes of Alice and Bob, which speak v2."""
    with sync.Node(ALICE) as alice, sync.Node(BOB) as bob:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        yield alice, bob


# -- the API ----------------------------------------------------------------------------


def public(cls: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers_static(cls)
        if not name.startswith("_") or name == "__init__"
    }


def test_it_has_the_methods_of_the_asyncio_node() -> None:
    """Only `start` is missing, because the constructor starts a blocking node."""
    theirs, ours = public(aio.Node), public(sync.Node)
    del theirs["start"]
    assert ours.keys() == theirs.keys()
    for name, member in theirs.items():
        twin = ours[name]
        if isinstance(member, property):
            assert isinstance(twin, property), name
            continue
        signature, twin_signature = inspect.signature(member), inspect.signature(twin)
        assert twin_signature.parameters == signature.parameters, name
        expected = re.sub(r"^Async(Iterator|Generator)", r"\1", str(signature.return_annotation))
        assert str(twin_signature.return_annotation) == expected, name
        assert not inspect.iscoroutinefunction(twin), name


def test_its_context_managers() -> None:
    for name in ("__enter__", "__exit__"):
        twin = inspect.signature(getattr(sync.Node, name))
        assert str(twin) == str(inspect.signature(getattr(aio.Node, f"__a{name[2:]}")))


# -- send and receive ------------------------------------------------------------------------


def test_there_and_back(two: tuple[sync.Node, sync.Node]) -> None:
    alice, bob = two
    receipt = alice.send(bob.did, b"ping", priority=Priority.HIGH, deadline=5)
    assert receipt.state is DeliveryState.WRITTEN
    message = bob.receive()
    assert (message.sender, message.payload) == (alice.did, b"ping")
    assert alice.send(bob.did, b"x", until="queued").message_id != receipt.message_id
    assert alice.send_nowait(bob.did, b"y").result("written", LIMIT).state is DeliveryState.WRITTEN
    assert [bob.receive(LIMIT) is not None for _ in range(2)] == [True, True]
    assert bob.receive_nowait() is None
    with pytest.raises(TimeoutError, match="no message"):
        bob.receive(0.01)
    assert alice.stats().messages_sent == 3
    assert alice.pool_stats().active == 1
    assert alice.peers()[bob.did].state is PeerState.CONNECTED
    assert alice.config.max_attempts == 3
    assert bob.did in alice.routing
    assert repr(alice) == f"<Node {ALICE.did.short} listening on {alice.address}>"


def test_many_at_once_and_who_is_turned_away(linked: tuple[sync.Node, sync.Node]) -> None:
    alice, bob = linked
    receipts = alice.send_many(bob.did, (b"%d" % number for number in range(50)))
    assert all(receipt.state is DeliveryState.ACCEPTED for receipt in receipts)
    assert [bob.receive().payload for _ in range(50)] == [b"%d" % number for number in range(50)]
    bob.access.deny(alice.did)
    assert bob.access.is_denied(alice.did)
    with pytest.raises(NotAllowedError):
        bob.send(alice.did, b"x")


def test_events_until_it_is_closed(linked: tuple[sync.Node, sync.Node]) -> None:
    alice, bob = linked
    seen: list[Event] = []
    came = threading.Event()

    def watch() -> None:
        for event in bob.events():
            seen.append(event)
            came.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        while not came.is_set():  # events are reported from its first step on
            alice.send(bob.did, b"x")
            bob.access.deny(alice.did)
            bob.access.undeny(alice.did)
            came.wait(0.05)
    finally:
        bob.close()
        watcher.join(LIMIT)
    assert not watcher.is_alive()
    assert any(isinstance(event, PeerConnected | PeerDisconnected) for event in seen)
    assert list(bob.events()) == []


def test_errors_are_those_of_the_node(two: tuple[sync.Node, sync.Node]) -> None:
    alice, _ = two
    with pytest.raises(UnknownPeerError):
        alice.send(CAROL.did, b"x")
    with pytest.raises(UnknownPeerError):
        alice.send_nowait(CAROL.did, b"x")
    with pytest.raises(TypeError):
        alice.send(CAROL.did, "text")  # type: ignore[arg-type]
    with refusing_address() as address:
        alice.routing.update(CAROL.did, address)
        with pytest.raises(DeliveryFailedError):
            alice.send(CAROL.did, b"x")


def test_many_threads(two: tuple[sync.Node, sync.Node]) -> None:
    alice, bob = two
    taken: list[tuple[int, int]] = []
    lock = threading.Lock()

    def send(part: int) -> None:
        for number in range(200):
            alice.send(bob.did, bytes([part, number]), until="queued")

    def receive() -> None:
        for message in bob.messages():
            with lock:
                taken.append((message.payload[0], message.payload[1]))

    senders = [threading.Thread(target=send, args=(part,)) for part in range(4)]
    receivers = [threading.Thread(target=receive) for _ in range(3)]
    for thread in senders + receivers:
        thread.start()
    for thread in senders:
        thread.join()
    deadline = time.monotonic() + LIMIT
    while len(taken) < 800 and time.monotonic() < deadline:
        time.sleep(0.001)
    bob.close()
    for thread in receivers:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert sorted(taken) == [(part, number) for part in range(4) for number in range(200)]


def test_over_a_network_in_memory() -> None:
    network, routing = MemoryNetwork(), RoutingTable()
    with (
        sync.Node(ALICE, quick(), routing, network=network) as alice,
        sync.Node(BOB, quick(), routing, network=network) as bob,
    ):
        routing.update(bob.did, str(bob.address))
        alice.send(bob.did, b"x")
        assert bob.receive().payload == b"x"


def test_a_thread_that_takes_a_message_frees_its_credit() -> None:
    network, count = MemoryNetwork(), 20
    with (
        sync.Node(ALICE, network=network) as alice,
        sync.Node(BOB, TransportConfig(credit_messages=2), network=network) as bob,
    ):
        alice.routing.update(BOB.did, bob.address)
        for number in range(count):
            alice.send(BOB.did, b"%d" % number, until="queued")
        got = [bob.receive(LIMIT).payload for _ in range(count)]
    assert got == [b"%d" % number for number in range(count)]


# -- the end ---------------------------------------------------------------------------------


def test_after_the_end(two: tuple[sync.Node, sync.Node]) -> None:
    alice, bob = two
    alice.close()
    alice.close()
    calls: list[Callable[[], object]] = [
        alice.receive,
        lambda: alice.receive(0),
        lambda: alice.send(bob.did, b"x"),
        lambda: alice.send_nowait(bob.did, b"x"),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    assert list(alice.messages()) == []
    assert repr(alice) == f"<Node {ALICE.did.short} closed>"


def test_who_waits_when_it_is_closed() -> None:
    with refusing_address() as address:
        config = quick(retry_base_delay=60, retry_max_delay=60, close_timeout=0.1)
        node = sync.Node(ALICE, config, RoutingTable({BOB.did: address}))
        outcomes: dict[str, object] = {}

        def run(name: str, call: Callable[[], Message | Receipt | None]) -> None:
            try:
                outcomes[name] = call()
            except Exception as error:  # noqa: BLE001
                outcomes[name] = error

        calls: dict[str, Callable[[], Message | Receipt | None]] = {
            "receive": node.receive,
            "send": lambda: node.send(BOB.did, b"x"),
            "receipt": node.send_nowait(BOB.did, b"y").result,
        }
        threads = [threading.Thread(target=run, args=item) for item in calls.items()]
        for thread in threads:
            thread.start()
        while node.peers()[BOB.did].failed_attempts == 0 or node.stats().inbox_messages:
            time.sleep(0.001)
        time.sleep(0.02)
        started_at = time.monotonic()
        node.close()
        assert time.monotonic() - started_at < SLACK
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
    assert isinstance(outcomes["receive"], ClosedError)
    for name in ("send", "receipt"):
        error = outcomes[name]
        assert isinstance(error, DeliveryFailedError)
        assert error.reason is Reason.CLOSED


def test_a_failed_start_leaves_no_thread() -> None:
    with RawServer() as server:
        with pytest.raises(ListenError, match=str(server.address)):
            sync.Node(ALICE, quick(listen=server.address))
        assert not signedwire_threads()


def test_close_while_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer cannot be stopped, and must not delay `close()`."""
    import asyncio
    import socket

    from signedwire import portal

    started, may_end = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        started.set()
        may_end.wait(LIMIT)
        raise socket.gaierror(socket.EAI_AGAIN, "x")

    monkeypatch.setattr(portal, "new_event_loop", asyncio.new_event_loop)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    node = sync.Node(ALICE, quick(listen=None, close_timeout=0.1))
    node.routing.update(BOB.did, Address("robot.example", 9))
    receipt = node.send_nowait(BOB.did, b"x")
    assert started.wait(LIMIT)
    started_at = time.monotonic()
    node.close()
    elapsed = time.monotonic() - started_at
    may_end.set()
    assert elapsed < SLACK
    assert receipt.reason is Reason.CLOSED


# -- Ctrl-C -------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading
from signedwire import Identity
from signedwire.sync import Node

with Node(Identity.generate()) as node, Node(Identity.generate()) as other:
    print("ready", flush=True)
    try:
        node.receive()
    except KeyboardInterrupt:
        other.routing.update(node.did, node.address)
        other.send(node.did, b"still usable")
        print(node.receive().payload.decode(), flush=True)
print("threads", [t.name for t in threading.enumerate() if t.name.startswith("signedwire")])
sys.exit(7)
"""


def test_control_c_ends_the_wait_and_leaves_the_node_usable() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.05)  # so that it is in receive(); the test holds earlier too
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=LIMIT)
    assert (output, errors) == ("still usable\nthreads []\n", "")
    assert child.returncode == 7


def test_an_interrupt_loses_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes when the message has just arrived. The next waiter gets the next one."""
    routing = RoutingTable()
    with sync.Node(ALICE, quick(), routing) as alice, sync.Node(BOB, quick(), routing) as bob:
        routing.update(bob.did, str(bob.address))
        original = threading.Event.wait
        main = threading.current_thread()
        alice.send_nowait(bob.did, b"precious")

        def interrupted(self: threading.Event, timeout: float | None = None) -> bool:
            has_arrived = original(self, timeout)
            if timeout is not None and threading.current_thread() is main:
                raise KeyboardInterrupt
            return has_arrived

        received: list[bytes] = []
        with monkeypatch.context() as patch:
            patch.setattr(threading.Event, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                bob.receive(LIMIT)
            with pytest.raises(KeyboardInterrupt):
                raise_unless_taken(bob, received)
            # The next waiter gets the next message.
            other = threading.Thread(target=lambda: received.append(bob.receive().payload))
            other.start()
            alice.send(bob.did, b"next")
            other.join(LIMIT)
        assert received == [b"precious", b"next"]


def raise_unless_taken(node: sync.Node, received: list[bytes]) -> None:
    """Take the message, then wait for another one, so that the interrupt finds no message."""
    received.append(node.receive().payload)
    node.receive(0.01)


def test_a_program_that_forgets_to_close_ends() -> None:
    program = "from signedwire import Identity; from signedwire.sync import Node; " + (
        "Node(Identity.generate()); print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr


@pytest.mark.parametrize("timeout", [1e10, 1e300, float("inf")])
def test_a_timeout_may_be_as_long_as_one_likes(timeout: float) -> None:
    with sync.Node(ALICE) as alice, sync.Node(BOB) as bob:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        got: list[object] = []
        taker = threading.Thread(target=lambda: got.append(bob.receive(timeout)))
        taker.start()
        receipt = alice.send(bob.did, b"x")
        taker.join(LIMIT)
        (message,) = got
        assert isinstance(message, Message)
        threading.Timer(0.05, message.ack).start()
        assert receipt.result("handled", timeout) is receipt
