"""A route that is added while a message waits for its peer to return."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_link import Net, links_of, take

from wirekit import ALICE, BOB, eventually, on_both_loops, within

GRACE = 5.0
"""Seconds that a message waits for the return of a peer without a route."""


@pytest.mark.parametrize("has_store", [False, True], ids=["no store", "store"])
@on_both_loops
async def test_the_message_is_sent_at_once(has_store: bool, tmp_path: Path) -> None:
    net = Net("memory")
    store = tmp_path / "bob.db" if has_store else None
    async with net.node(BOB, store=store) as bob:
        async with net.node(ALICE) as alice:
            assert bob.address is not None
            alice.routing.update(bob.did, bob.address)
            await alice.send(bob.did, b"hello")
        await eventually(lambda: not links_of(bob))
        receipt = bob.send_nowait(ALICE.did, b"back")
        await asyncio.sleep(0.1)  # it waits now
        async with net.node(ALICE) as alice:
            assert alice.address is not None
            bob.routing.update(ALICE.did, alice.address)
            await within(GRACE / 2, receipt.wait("accepted"))
            assert await take(alice, 1) == [b"back"]
