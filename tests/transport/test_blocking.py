"""`TcpTransport` and `MemoryTransport`: envelopes in and out, from any thread."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from signedwire import (
    BackpressureError,
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    Did,
    ListenError,
    MemoryNetwork,
    MemoryTransport,
    NotAllowedError,
    PayloadTooLargeError,
    PeerState,
    Priority,
    Reason,
    RoutingTable,
    SignedEnvelope,
    TcpTransport,
    UnknownPeerError,
)
from signedwire.transport.blocking import BlockingTransport
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    identity,
    quick,
    refusing_address,
    sealed,
    signedwire_threads,
    tcp_sockets,
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test closes what it opens, and that leaves neither thread nor socket."""
    sockets = tcp_sockets()
    yield
    assert not signedwire_threads()
    assert tcp_sockets() <= sockets


class Pair:
    """Two transports of one kind, Alice's with a route to Bob's."""

    def __init__(self, kind: str, did: Did | None = None, **changes: Any) -> None:
        routing, network = RoutingTable(), MemoryNetwork()

        def make(did: Did | None) -> BlockingTransport:
            config = quick(**changes)
            if kind == "tcp":
                return TcpTransport(config, routing, did=did)
            return MemoryTransport(config, routing, network, did=did)

        self.alice, self.bob = make(None), make(did)
        assert self.bob.address is not None
        routing.update(BOB.did, self.bob.address)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.alice.close()
        self.bob.close()


@pytest.fixture(params=["tcp", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_an_envelope_arrives_as_it_was_signed(kind: str) -> None:
    with Pair(kind) as pair:
        envelope = sealed(1, b"hello")
        receipt = pair.alice.send(envelope)
        assert pair.bob.receive(LIMIT) == envelope
        assert receipt.result(timeout=LIMIT).state is DeliveryState.WRITTEN
        assert pair.alice.stats().messages_sent == 1
        assert pair.bob.stats().messages_received == 1
        assert pair.alice.pool_stats().active == 1
        assert pair.alice.peers()[BOB.did].state is PeerState.CONNECTED
        assert repr(pair.bob) == f"<{type(pair.bob).__name__} on {pair.bob.address}>"
    assert repr(pair.bob).endswith("closed>")


def test_the_names_of_the_two() -> None:
    assert TcpTransport.kind == "tcp transport"
    assert MemoryTransport.kind == "memory transport"
    assert BlockingTransport.kind == "transport"


def public(cls: type) -> dict[str, str]:
    """Every public name of a class, with its signature."""
    return {
        name: str(inspect.signature(member)) if callable(member) else type(member).__name__
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") or name in ("__enter__", "__exit__")
    }


def test_the_two_have_the_same_interface() -> None:
    assert public(TcpTransport) == public(MemoryTransport)
    tcp, memory = (inspect.signature(cls) for cls in (TcpTransport, MemoryTransport))
    assert {**memory.parameters, "network": None} == {**tcp.parameters, "network": None}


def test_waiting_and_not_waiting(kind: str) -> None:
    with Pair(kind) as pair:
        assert pair.bob.receive_nowait() is None
        with pytest.raises(TimeoutError, match="no message"):
            pair.bob.receive(0)
        started_at = time.monotonic()
        with pytest.raises(TimeoutError, match="no message"):
            pair.bob.receive(0.05)
        assert 0.05 <= time.monotonic() - started_at < 1
        envelope = sealed(1)
        timer = threading.Timer(0.02, pair.alice.send, [envelope])
        timer.start()
        assert pair.bob.receive(None) == envelope
        timer.join()


def test_whom_it_serves(kind: str) -> None:
    with Pair(kind, did=BOB.did) as pair:
        pair.alice._core.runtime.routing.update(CAROL.did, str(pair.bob.address))
        pair.alice.send(sealed(1, recipient=CAROL.did))
        pair.alice.send(sealed(2))
        received = pair.bob.receive(LIMIT)
        assert received is not None
        while Reason.NOT_FOR_US not in pair.bob.stats().dropped:
            time.sleep(0.001)
        assert received.sequence_number == 2


def test_what_is_not_sent(kind: str) -> None:
    with Pair(kind, v1_peers=[ALICE.did, BOB.did, CAROL.did]) as pair:
        with pytest.raises(UnknownPeerError):
            pair.alice.send(sealed(1, recipient=CAROL.did))
        with pytest.raises(NotAllowedError):
            pair.alice.send(sealed(1, recipient=identity(9).did))
        with pytest.raises(PayloadTooLargeError):
            pair.alice.send(sealed(1, bytes(1025)))
        pair.alice.send(sealed(1, bytes(1024)))
        assert pair.bob.receive(LIMIT)


def test_backpressure_and_failure() -> None:
    with refusing_address() as address:
        config = quick(send_queue_limit=2, critical_reserve=1, retry_base_delay=0.05)
        routing = RoutingTable({BOB.did: address})
        with TcpTransport(config, routing) as alice:
            receipts = [alice.send(sealed(number)) for number in range(2)]
            with pytest.raises(BackpressureError):
                alice.send(sealed(2))
            receipts.append(alice.send(sealed(3, priority=Priority.CRITICAL)))
            for receipt in receipts:
                with pytest.raises(DeliveryFailedError):
                    receipt.result(timeout=LIMIT)
            assert alice.stats().dropped == {
                Reason.QUEUE_FULL: 1,
                Reason.ATTEMPTS_EXHAUSTED: 3,
            }


def test_four_threads_send_and_each_keeps_its_order(kind: str) -> None:
    count = 20_000
    body = [sealed(number) for number in range(count)]
    senders = [body[part::4] for part in range(4)]
    with Pair(kind, send_queue_limit=count, inbox_limit=2000) as pair:

        def send(envelopes: list[SignedEnvelope]) -> None:
            for envelope in envelopes:
                pair.alice.send(envelope)

        threads = [threading.Thread(target=send, args=(part,)) for part in senders]
        for thread in threads:
            thread.start()
        numbers = []
        for _ in range(count):
            envelope = pair.bob.receive(LIMIT)
            assert envelope is not None
            numbers.append(envelope.sequence_number)
        for thread in threads:
            thread.join()
        assert pair.alice.stats().messages_sent == pair.bob.stats().messages_received == count
    for part in range(4):
        assert [number for number in numbers if number % 4 == part] == list(range(part, count, 4))


def test_several_threads_receive_and_each_message_goes_to_one(kind: str) -> None:
    count = 3000
    with Pair(kind, send_queue_limit=count, inbox_limit=20) as pair:
        taken: list[list[int]] = [[] for _ in range(4)]

        def receive(numbers: list[int]) -> None:
            try:
                while True:
                    numbers.append(pair.bob.receive().sequence_number)
            except ClosedError:
                numbers.append(-1)

        threads = [threading.Thread(target=receive, args=(numbers,)) for numbers in taken]
        for thread in threads:
            thread.start()
        for number in range(count):
            pair.alice.send(sealed(number))
        deadline = time.monotonic() + LIMIT
        while sum(map(len, taken)) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        pair.bob.close()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), "whoever waits is told of the end"
    assert sorted(number for numbers in taken for number in numbers) == [-1] * 4 + [*range(count)]
    for numbers in taken:
        assert numbers[:-1] == sorted(numbers[:-1])


def test_after_the_end(kind: str) -> None:
    with Pair(kind) as pair:
        pass
    pair.alice.close()
    with pytest.raises(ClosedError):
        pair.alice.send(sealed(1))
    for timeout in (0, 0.01, None):
        with pytest.raises(ClosedError):
            pair.alice.receive(timeout)
    assert pair.alice.stats().messages_sent == 0


def test_two_threads_close() -> None:
    """Neither returns before all has ended, and none fails."""
    with refusing_address() as address:
        routing = RoutingTable({BOB.did: address})
        alice = TcpTransport(quick(retry_base_delay=60, retry_max_delay=60), routing)
        receipt = alice.send(sealed(1))
        outcomes: list[object] = []

        def close() -> None:
            try:
                alice.close()
                outcomes.append(receipt.reason)
            except BaseException as error:  # noqa: BLE001
                outcomes.append(error)

        threads = [threading.Thread(target=close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
    assert outcomes == [Reason.CLOSED] * 3


def test_a_failed_start_leaves_no_thread(kind: str) -> None:
    with Pair(kind) as pair:
        config = quick(listen=pair.bob.address)
        network = pair.bob._core.runtime.network

        def start() -> BlockingTransport:
            if isinstance(network, MemoryNetwork):
                return MemoryTransport(config, RoutingTable(), network)
            return TcpTransport(config, RoutingTable())

        with pytest.raises(ListenError, match=f"{pair.bob.address}: the port is in use"):
            start()
        assert len(signedwire_threads()) == 2
