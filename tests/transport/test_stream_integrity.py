"""What a stream at full speed may not hide: one altered byte, one receipt that is left out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_link import Net, meet

from signedwire import DeliveryState, Node, Reason, Receipt
from signedwire.transport.link import Link
from signedwire.wire.header import stream_of
from signedwire.wire.parts import BatchWriter
from signedwire.wire.session import SentBatch, Session
from wirekit import ALICE, BOB, eventually, on_both_loops, random_seed, within

COUNT = 20_000
DeliveryLog = list[int]


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(8, "little") * 8 for number in range(count)]


async def stream(alice: Node, bob: Node) -> list[Receipt]:
    """All of them, as fast as the queue takes them."""
    return [await alice.send(bob.did, payload, until="queued") for payload in numbered(COUNT)]


async def note_all(node: Node, log: DeliveryLog) -> None:
    async for message in node.messages():
        log.append(int.from_bytes(message.payload[:8], "little"))


@on_both_loops
async def test_one_altered_byte_refuses_the_others_of_its_batch_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, rng = random_seed()
    sign, altered = Session.send_batch, set[int]()
    countdown = rng.randrange(5, 40)

    def send_batch(session: Session, bodies: list[bytes], *joined: Any) -> SentBatch:
        """Of one batch, change a byte of an envelope after it was signed."""
        nonlocal countdown
        batch = sign(session, bodies, *joined)
        if session.peer == BOB.did:
            countdown -= 1
            if not countdown:
                altered.update(int.from_bytes(body[126:134], "little") for body in bodies)
                forged = list(bodies)
                which = rng.randrange(len(forged))
                # Not a length, a name or a lane, which the frame says again: the payload.
                at = rng.randrange(126, len(forged[which]))
                changed = bytearray(forged[which])
                changed[at] ^= 1 << rng.randrange(8)
                # What is refused is the bytes that came. Alice never sent those, so her own
                # message has no answer, and goes again over the next link.
                altered.discard(int.from_bytes(forged[which][126:134], "little"))
                forged[which] = bytes(changed)
                session.outgoing._queue[-1] = BatchWriter(
                    batch.signature, forged, stream_of(forged[0])
                )
        return batch

    monkeypatch.setattr(Session, "send_batch", send_batch)
    net, delivered = Net(), DeliveryLog()
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        listening = asyncio.create_task(note_all(bob, delivered))
        receipts = await within(60, stream(alice, bob))
        # Refused or accepted: each has its answer, and it is the right one.
        await eventually(lambda: all(r.is_final or r.is_confirmed for r in receipts), 60)
        refused = {n for n, r in enumerate(receipts) if r.state is DeliveryState.REFUSED}
        assert altered
        assert refused == altered
        assert {receipts[n].reason for n in refused} == {Reason.BAD_SIGNATURE}
        assert all(
            r.state is DeliveryState.ACCEPTED for n, r in enumerate(receipts) if n not in altered
        )
        rest = [n for n in range(COUNT) if n not in altered]
        await eventually(lambda: len(delivered) >= len(rest), 60)
        assert delivered == rest  # once, in order, of that batch only what was sent again
        assert bob.stats().dropped[Reason.BAD_SIGNATURE] == len(altered) + 1
        listening.cancel()


@on_both_loops
async def test_without_its_receipt_no_message_is_ever_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, rng = random_seed()
    queue, left_out = Link.queue_receipts, list[bytes]()
    countdown = rng.randrange(5, 40)

    def forget_one(
        link: Link,
        roots: list[bytes],
        leaves: list[bytes],
        *,
        is_committed: bool,
        is_urgent: bool = False,
    ) -> None:
        """Of all that Bob owes, one batch has no receipt."""
        nonlocal countdown
        if link.state.did == ALICE.did and roots:
            countdown -= 1
            if not countdown:
                left_out.extend(roots)
                return
        queue(link, roots, leaves, is_committed=is_committed, is_urgent=is_urgent)

    monkeypatch.setattr(Link, "queue_receipts", forget_one)
    net, delivered = Net(), DeliveryLog()
    async with net.node(ALICE, close_timeout=0.2) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        listening = asyncio.create_task(note_all(bob, delivered))
        receipts = await within(60, stream(alice, bob))
        await eventually(lambda: len(delivered) == COUNT, 60)
        peer = alice._core.endpoint.sessions.session(bob.did).sender
        await eventually(lambda: len(peer.streams.durable._in_flight) == 1, 60)
        ((root, flight),) = peer.streams.durable._in_flight.items()
        assert [root] == left_out
        unproven = [r for r in receipts if not r.is_confirmed]
        assert unproven == flight.messages
        assert delivered == list(range(COUNT))  # Bob has them, but has not signed for them
        await asyncio.sleep(0.2)
        assert {r.state for r in unproven} == {DeliveryState.WRITTEN}
        with pytest.raises(TimeoutError):
            await unproven[0].wait(DeliveryState.ACCEPTED, timeout=0.05)
        listening.cancel()
    assert {r.state for r in unproven} == {DeliveryState.FAILED}
    for receipt in unproven:
        assert DeliveryState.ACCEPTED not in {step.state for step in receipt.history}
        with pytest.raises(LookupError):
            receipt.proof()
