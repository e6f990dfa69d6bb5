"""A link that is cut leaves nothing behind, however often it is."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from signedwire import Identity, MemoryNetwork, Node, TransportConfig

ALICE: Final = Identity.from_seed(b"reconnects: alice".ljust(32, b"."))
BOB: Final = Identity.from_seed(b"reconnects: bob".ljust(32, b"."))
ROUND: Final = 60
LIMIT: Final = 30.0


def objects() -> Counter[str]:
    gc.collect()
    # A timer that was cancelled stays in asyncio's heap until it is due, or half of them are.
    cancelled = [
        one for one in gc.get_objects() if isinstance(one, asyncio.TimerHandle) and one.cancelled()
    ]
    left_out = {id(one) for one in cancelled} | {
        id(getattr(one, "_context", None)) for one in cancelled
    }
    return Counter(
        f"{type(one).__module__}.{type(one).__qualname__}"
        for one in gc.get_objects()
        if id(one) not in left_out
    )


async def cut_and_send(network: MemoryNetwork, alice: Node, bob: Node, count: int) -> None:
    for _ in range(count):
        network.cut_all()
        sending = asyncio.create_task(alice.send(BOB.did, b"x", until="accepted"))
        message = await bob.receive(timeout=LIMIT)
        assert message is not None
        message.ack()
        await asyncio.wait_for(sending, LIMIT)


@pytest.mark.parametrize("is_stored", [False, True])
async def test_nothing_is_left(tmp_path: Path, is_stored: bool) -> None:
    """Of either side; the receiver has a store or none."""
    network = MemoryNetwork(seed=5)
    config = TransportConfig(retry_base_delay=0.01, retry_max_delay=0.01)
    path = tmp_path / "bob.db" if is_stored else None
    async with (
        Node(ALICE, config, network=network) as alice,
        Node(BOB, network=network, store=path) as bob,
    ):
        assert bob.address is not None
        alice.routing.update(BOB.did, bob.address)
        await cut_and_send(network, alice, bob, ROUND)
        before = objects()
        await cut_and_send(network, alice, bob, 2 * ROUND)
        grown = objects() - before
    # What a link or a message leaves behind would be there 120 times. A store remembers the
    # last batches, by design.
    grown.pop("signedwire.delivery.store.ledger.BatchRecord", None)
    assert {kind: count for kind, count in grown.items() if count >= ROUND} == {}
