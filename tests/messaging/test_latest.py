"""`latest=`: a newer message takes the place of one that waits, through the public calls."""

from __future__ import annotations

import pytest

from signedwire import (
    DeliveryFailedError,
    DeliveryState,
    MemoryNetwork,
    Node,
    Reason,
    Receipt,
    TransportConfig,
    sync,
)
from wirekit import ALICE, BOB, LIMIT, on_both_loops, within


def two(network: MemoryNetwork, **changes: object) -> tuple[Node, Node]:
    config = TransportConfig(network="memory", **changes)  # type: ignore[arg-type]
    return Node(ALICE, config, network=network), Node(BOB, config, network=network)


def fate(receipt: Receipt) -> tuple[DeliveryState, Reason | None]:
    return receipt.state, receipt.reason


REPLACED = (DeliveryState.FAILED, Reason.REPLACED)


@on_both_loops
async def test_only_the_newest_leaves() -> None:
    alice, bob = two(MemoryNetwork())
    async with alice, bob:
        alice.routing.update(bob.did, bob.address)
        receipts = [
            alice.send_nowait(bob.did, b"%d" % number, subject="pose", latest="left")
            for number in range(100)
        ]
        other = alice.send_nowait(bob.did, b"other", subject="pose", latest=True)
        await within(LIMIT, other.wait("accepted"))
        assert [fate(receipt) for receipt in receipts[:-1]] == [REPLACED] * 99
        assert receipts[-1].state is DeliveryState.ACCEPTED
        found = [await bob.receive(LIMIT), await bob.receive(LIMIT)]
        assert [message.payload for message in found] == [b"99", b"other"]
        assert not any(message.durable for message in found)
        assert [message.sequence_number for message in found] == [1, 2]
        stats = alice.stats()
        assert (stats.replaced, stats.send_failures, stats.dropped) == (99, 0, {})
        assert alice.peers()[bob.did].dropped == {Reason.REPLACED: 99}


@on_both_loops
async def test_the_caller_of_send_is_told() -> None:
    alice, bob = two(MemoryNetwork(), credit_messages=0)
    async with alice, bob:
        alice.routing.update(bob.did, bob.address)
        old = await alice.send(bob.did, b"old", latest=True, until="queued")
        await alice.send(bob.did, b"new", latest=True, until="queued")
        with pytest.raises(DeliveryFailedError, match="newer message with the same") as caught:
            await within(LIMIT, old.wait("accepted"))
        assert caught.value.reason is Reason.REPLACED


@on_both_loops
async def test_a_full_queue_refuses_only_the_first_of_a_key() -> None:
    alice, bob = two(MemoryNetwork(), credit_messages=0, send_queue_limit=2)
    async with alice, bob:
        alice.routing.update(bob.did, bob.address)
        first = alice.send_nowait(bob.did, b"1", latest="a")
        alice.send_nowait(bob.did, b"2", latest="b")
        with pytest.raises(Exception, match="is full"):
            alice.send_nowait(bob.did, b"3", latest="c")
        alice.send_nowait(bob.did, b"4", latest="a")
        assert fate(first) == REPLACED


def test_what_contradicts_latest_is_refused() -> None:
    node = Node(ALICE)
    with pytest.raises(ValueError, match="write durable=False too"):
        node.send_nowait(BOB.did, b"", latest="a", durable=True)
    for wrong in ("", "é" * 128):
        with pytest.raises(ValueError, match="1 to 255"):
            node.send_nowait(BOB.did, b"", latest=wrong)
    with pytest.raises(TypeError, match="a text is wanted"):
        node.send_nowait(BOB.did, b"", latest=b"a")  # type: ignore[arg-type]


def test_any_thread_may_send_the_newest() -> None:
    network = MemoryNetwork()
    config = TransportConfig(network="memory")
    with (
        sync.Node(ALICE, config, network=network) as alice,
        sync.Node(BOB, config, network=network) as bob,
    ):
        alice.routing.update(bob.did, bob.address)
        receipts = [alice.send_nowait(bob.did, b"%d" % n, latest=True) for n in range(2000)]
        last = receipts[-1].result("accepted", timeout=LIMIT)
        assert last.state is DeliveryState.ACCEPTED
        delivered = [r for r in receipts if r.state is DeliveryState.ACCEPTED]
        assert all(r in delivered or fate(r) == REPLACED for r in receipts)
        numbers = [int(bob.receive(LIMIT).payload) for _ in delivered]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 1999
        assert bob.receive_nowait() is None
