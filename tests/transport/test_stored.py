"""Rows whose messages are in flight when something happens to them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from test_links import RawPeer

from signedwire import DeliveryState, MessageExpiredError, Node, Reason, TransportConfig
from signedwire.wire.header import MIN_V2_HEADER_SIZE
from signedwire.wire.session import BatchReceived
from wirekit import ALICE, BOB, LIMIT, RawServer, eventually, on_asyncio, within

ALONE = TransportConfig(listen=None)


@on_asyncio
async def test_written_and_expired_while_its_peer_is_away(tmp_path: Path) -> None:
    config = ALONE.replace(retry_base_delay=0.05)
    with RawServer() as server:
        async with Node(ALICE, config, store=tmp_path / "a.db") as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = await alice.send(BOB.did, b"x", deadline=0.5)
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                await peer.next(BatchReceived)
            with pytest.raises(MessageExpiredError):
                await within(LIMIT, receipt.wait(DeliveryState.ACCEPTED))
            assert await alice.outbox.list() == []


@on_asyncio
async def test_dropped_in_flight(tmp_path: Path) -> None:
    with RawServer() as server:
        async with Node(ALICE, ALONE, store=tmp_path / "a.db") as alice:
            alice.routing.update(BOB.did, server.address)
            receipt = await alice.send(BOB.did, b"x")
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                await peer.next(BatchReceived)
                (row,) = await alice.outbox.list()
                dropping = asyncio.create_task(alice.outbox.drop(row.id))
                await asyncio.sleep(0)
                dropping.cancel()  # which stops the waiting alone
                await eventually(lambda: receipt.reason is Reason.DROPPED)
            with await RawPeer.accept(server, BOB, ALICE) as peer:
                await alice.send(BOB.did, b"y")
                batch = await peer.next(BatchReceived)
                assert [one[MIN_V2_HEADER_SIZE:] for one in batch.bodies] == [b"y"]


def test_peers_of_an_earlier_process_without_asserts(tmp_path: Path) -> None:
    """Python leaves out asserts with -O: the node has the peers of its store nevertheless."""
    code = """
import asyncio, sys
from signedwire import Identity, MemoryNetwork, Node, TransportConfig

async def main() -> None:
    config = TransportConfig(listen=None, close_timeout=0.05)
    alice, bob = Identity.generate(), Identity.generate()
    for has_sent in (False, True):
        async with Node(alice, config, network=MemoryNetwork(), store=sys.argv[1]) as node:
            if has_sent:
                print(__debug__, list(node.peers()) == [bob.did])
            else:
                await node.send(bob.did, b"x")

asyncio.run(main())
"""
    arguments = [sys.executable, "-O", "-c", code, str(tmp_path / "a.db")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=12 * LIMIT)
    assert (done.stdout, done.stderr) == ("False True\n", "")


@on_asyncio
async def test_a_slow_last_commit_is_awaited_beyond_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory card may pause for longer than what is left of `close_timeout`."""
    config = ALONE.replace(close_timeout=0.05)
    async with Node(ALICE, config, store=tmp_path / "a.db") as alice:
        assert alice._core.store is not None
        store = alice._core.store.store
        close, left = store.close, []

        def closed(timeout: float) -> bool:
            left.append(timeout)
            return close(timeout)

        monkeypatch.setattr(store, "close", closed)
        await alice.send(BOB.did, b"it waits for its peer until the deadline")
    assert left == [1.0]
