"""Who holds a receipt does not hold the bytes, once nothing needs them; and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_link import Net, meet, take

from signedwire import (
    ClosedError,
    DeliveryFailedError,
    DeliveryState,
    Node,
    Reason,
    Receipt,
    TransportConfig,
    verify_receipt,
)
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.transport.store_driver import StoreDriver
from signedwire.wire.header import stream_of
from signedwire.wire.parts import BatchWriter
from signedwire.wire.session import SentBatch, Session
from wirekit import ALICE, BOB, eventually, on_asyncio, refusing_address

PAYLOAD = b"some bytes"
ALONE = TransportConfig(listen=None, max_attempts=1, close_timeout=0.1)


def bytes_of(receipt: Receipt) -> tuple[bytes, object]:
    assert isinstance(receipt, OutgoingMessage)
    return receipt.body, receipt.envelope


@on_asyncio
async def test_what_is_given_up() -> None:
    with refusing_address() as nowhere:
        async with Node(ALICE, ALONE) as alice:
            alice.routing.update(BOB.did, nowhere)
            receipt = alice.send_nowait(BOB.did, PAYLOAD)
            with pytest.raises(DeliveryFailedError):
                await receipt.wait()
            assert bytes_of(receipt) == (b"", None)


@on_asyncio
async def test_what_is_refused_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    sign = Session.send_batch

    def send_batch(session: Session, bodies: list[bytes], *joined: Any) -> SentBatch:
        batch = sign(session, bodies, *joined)
        forged = batch.signature[:-1] + bytes((batch.signature[-1] ^ 1,))
        session.outgoing._queue[-1] = BatchWriter(forged, bodies, stream_of(bodies[0]))
        return batch

    monkeypatch.setattr(Session, "send_batch", send_batch)
    async with Net().pair() as (alice, bob):
        receipt = alice.send_nowait(bob.did, PAYLOAD)
        await eventually(lambda: receipt.is_final)
        assert receipt.state is DeliveryState.REFUSED
        # The proof of the refusal needs them.
        proven = verify_receipt(receipt.proof())
        assert (proven.envelope.payload, proven.reason) == (PAYLOAD, Reason.BAD_SIGNATURE)
        assert bytes_of(receipt) == (proven.envelope.body, None)


@on_asyncio
async def test_what_a_v1_peer_has() -> None:
    net = Net()
    async with net.node(ALICE, wire="v1") as alice, net.node(BOB, wire="v1") as bob:
        meet(alice, bob)
        receipts = [alice.send_nowait(bob.did, PAYLOAD) for _ in range(3)]
        assert await take(bob, 3) == [PAYLOAD] * 3
        await receipts[-1].wait()
    assert [bytes_of(receipt) for receipt in receipts] == [(b"", None)] * 3


@on_asyncio
async def test_what_waits_on_the_disk(tmp_path: Path) -> None:
    config = ALONE.replace(send_queue_limit=2)
    with refusing_address() as nowhere:
        async with Node(ALICE, config, store=tmp_path / "a.db") as alice:
            alice.routing.update(BOB.did, nowhere)
            receipts = await alice.send_many(BOB.did, [PAYLOAD] * 20)
            queued = [receipt for receipt in receipts if bytes_of(receipt)[0]]
            assert queued == receipts[:2]
    # The node is closed: the others wait for the next process too.
    for receipt in receipts:
        assert bytes_of(receipt) == (b"", None)
        with pytest.raises(ClosedError):
            receipt.raise_if_failed()


@on_asyncio
async def test_it_is_all_there_when_the_peer_comes(tmp_path: Path) -> None:
    """Loaded from the disk into the receipts that are held, and proven with them."""
    config = TransportConfig(listen="127.0.0.1:0", send_queue_limit=2)
    store = tmp_path / "a.db"
    with refusing_address() as nowhere:
        async with Node(ALICE, config, store=store) as alice, Net().node(BOB) as bob:
            alice.routing.update(bob.did, nowhere)
            payloads = [bytes((number,)) * 9 for number in range(50)]
            receipts = await alice.send_many(bob.did, payloads)
            meet(alice, bob)
            assert await take(bob, 50) == payloads
            for receipt, payload in zip(receipts, payloads, strict=True):
                await receipt.wait(DeliveryState.ACCEPTED)
                assert verify_receipt(receipt.proof()).envelope.payload == payload


@on_asyncio
async def test_a_message_that_is_loaded_before_it_is_told_to_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, late = StoreDriver._on_stored, list[tuple[Any, ...]]()
    monkeypatch.setattr(StoreDriver, "_on_stored", lambda *arguments: late.append(arguments))
    config = TransportConfig(listen=None)
    async with Node(ALICE, config, store=tmp_path / "a.db") as alice, Net().node(BOB) as bob:
        alice.routing.update(bob.did, "127.0.0.1:1")
        receipt = alice.send_nowait(bob.did, PAYLOAD)
        await eventually(lambda: late)
        driver, did, *_ = late[0]
        session = alice._core.endpoint.sessions.session(did)
        driver._loader._load(session, driver._cursors[did], 1)
        await eventually(lambda: session.sender.lanes)
        told(*late[0])
        assert bytes_of(receipt)[0].endswith(PAYLOAD)
        meet(alice, bob)
        assert await take(bob, 1) == [PAYLOAD]
        with pytest.raises(TimeoutError, match="no message"):
            await bob.receive(0.05)
