"""Topics of `sync.Node`: the same, for threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from signedwire import (
    ClosedError,
    MemoryNetwork,
    MessageRefusedError,
    Reason,
    SignedEnvelope,
    sync,
)
from tlskit import quick
from wirekit import ALICE, BOB, CAROL, LIMIT


@pytest.fixture
def pair() -> Iterator[tuple[sync.Node, sync.Node]]:
    """ALICE, who publishes, and BOB, who knows where she is."""
    network = MemoryNetwork()
    with (
        sync.Node(ALICE, quick(), network=network) as alice,
        sync.Node(BOB, quick(), network=network) as bob,
    ):
        bob.routing.update(alice.did, alice.address)
        yield alice, bob


Pair = tuple[sync.Node, sync.Node]


def test_publish_and_subscribe(pair: Pair) -> None:
    alice, bob = pair
    alice.publish("status", b"kept", keep=True)
    with bob.subscribe(alice.did, "status") as status:
        assert (status.publisher, status.subject, status.is_open) == (alice.did, "status", True)
        table = alice.publish("status", b"next", until="accepted", timeout=LIMIT)
        assert table.delivered == (bob.did,)
        seen = []
        for message in status:
            message.ack()
            seen.append(message.payload)
            if len(seen) == 2:
                break
        assert seen == [b"kept", b"next"]
        assert table.result("handled", LIMIT).delivered == (bob.did,)
        with pytest.raises(TimeoutError):
            status.receive(0)
        assert repr(status).startswith("<sync.Subscription to 'status' of did:key:")
    with pytest.raises(ClosedError):
        status.receive(0)
    assert list(status) == []


def test_a_thread_that_reads_is_woken_at_the_end(pair: Pair) -> None:
    alice, bob = pair
    status = bob.subscribe(alice.did, "status")
    seen: list[bytes] = []
    reading = threading.Thread(target=lambda: seen.extend(one.payload for one in status))
    reading.start()
    alice.publish("status", b"one", until="accepted", timeout=LIMIT)
    bob.close()
    reading.join(LIMIT)
    assert not reading.is_alive()
    assert seen == [b"one"]
    status.close()


def test_send_all_and_mirror(pair: Pair) -> None:
    alice, bob = pair
    with bob.subscribe(alice.did, "status") as status:
        table = bob.send_all([alice.did], b"x", subject="status", until="accepted")
        assert table.delivered == (alice.did,)
        alice.mirror(alice.receive(LIMIT))
        envelope = SignedEnvelope.decode(status.receive(LIMIT).payload)
        envelope.verify()
        assert envelope.sender == bob.did


def test_a_refusal_and_a_timeout_are_raised(pair: Pair) -> None:
    alice, bob = pair
    with contextlib.ExitStack() as stack:
        for number in range(16):
            stack.enter_context(bob.subscribe(alice.did, f"s{number}"))
        with pytest.raises(MessageRefusedError, match="limit is 16") as error:
            bob.subscribe(alice.did, "s16")
        assert error.value.reason is Reason.REFUSED
    with pytest.raises(TimeoutError, match="no address of the publisher"):
        bob.subscribe(CAROL.did, "status", timeout=0.01)
