"""Receipts that share a signature with a reply, between two nodes: how many, what they prove."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_link import Net, meet, next_of

from signedwire import Message, Node, Priority, Receipt, SignedEnvelope, verify_receipt
from signedwire.evidence.chain import LogChecker
from signedwire.identity import Identity, Label
from signedwire.transport.receipt_queue import ReceiptQueue
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, on_asyncio, on_both_loops, within


@contextmanager
def signatures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Label]]:
    """Collect the labels of what is signed."""
    found: list[Label] = []
    sign = Identity._sign_labelled

    def counting(self: Identity, label: Label, text: bytes) -> bytes:
        found.append(label)
        return sign(self, label, text)

    with monkeypatch.context() as patch:
        patch.setattr(Identity, "_sign_labelled", counting)
        yield found


async def settled() -> None:
    """What taking a message has set going is over."""
    for _ in range(6):
        await asyncio.sleep(0)


async def echo(alice: Node, bob: Node, payload: bytes) -> tuple[Receipt, Message, Receipt, Message]:
    """A question and its reply: the receipt and the message of each."""
    replied: list[Any] = []

    async def reply() -> None:
        question = await next_of(bob)
        replied.extend((question, bob.send_nowait(alice.did, b"re: " + payload)))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reply())
        receipt = await alice.send(bob.did, payload)
    question, answered = replied
    reply_ = await next_of(alice)
    await within(LIMIT, answered.wait("accepted"))
    await settled()
    return receipt, question, answered, reply_


async def warm(alice: Node, bob: Node) -> None:
    await echo(alice, bob, b"first")
    await settled()


@on_both_loops
async def test_an_echo_costs_three_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Net("memory").pair() as (alice, bob):
        await warm(alice, bob)
        with signatures(monkeypatch) as found:
            receipt, question, answered, reply = await echo(alice, bob, b"question")
    assert found == [Label.BATCH, Label.JOINT, Label.RECEIPT]
    assert (question.payload, reply.payload) == (b"question", b"re: question")
    for message in (question, reply):
        saved = SignedEnvelope.decode(message.envelope.encode())
        saved.verify()
        assert saved.payload == message.payload
    for one, payload in ((receipt, b"question"), (answered, b"re: question")):
        proven = verify_receipt(one.proof())
        assert (proven.envelope.payload, proven.is_refused) == (payload, False)


@on_asyncio
async def test_many_echoes_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 50
    async with Net("memory").pair() as (alice, bob):
        await warm(alice, bob)
        quick = 0
        with signatures(monkeypatch) as found:
            for number in range(count):
                began = time.perf_counter()
                receipt, _, answered, reply = await echo(alice, bob, b"%d" % number)
                # A receipt does not wait for a reply that takes over 5 ms.
                quick += time.perf_counter() - began < 0.004
                assert verify_receipt(receipt.proof()).envelope.payload == b"%d" % number
                assert verify_receipt(answered.proof()).envelope.body == reply.envelope.body
    joined = found.count(Label.JOINT)
    assert joined >= max(quick, 1)
    assert len(found) == 3 * joined + 4 * (count - joined)


@pytest.mark.parametrize("is_joining", [True, False])
@on_both_loops
async def test_a_stream_in_one_direction_costs_what_it_did(
    is_joining: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_joining:
        monkeypatch.setattr(ReceiptQueue, "take", lambda *_: None)
    async with Net("memory").pair() as (alice, bob):
        await alice.send(bob.did, b"first")
        await next_of(bob)
        await settled()
        with signatures(monkeypatch) as found:
            for number in range(40):
                await alice.send(bob.did, b"%d" % number)
                await next_of(bob)
                await settled()
    assert found == [Label.BATCH, Label.RECEIPT] * 40


@on_asyncio
async def test_the_receipt_of_a_critical_message_is_never_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def reply() -> None:
        await next_of(bob)
        bob.send_nowait(alice.did, b"stopped", priority=Priority.CRITICAL)

    async with Net("memory").pair() as (alice, bob):
        await warm(alice, bob)
        with signatures(monkeypatch) as found:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reply())
                await alice.send(bob.did, b"stop", priority=Priority.CRITICAL)
            await next_of(alice)
    assert Label.JOINT not in found


@on_both_loops
async def test_both_send_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = [b"%d" % number for number in range(2000)]
    async with Net("memory").pair(ack="auto") as (alice, bob):
        await warm(alice, bob)

        async def take(node: Node) -> list[bytes]:
            return [(await next_of(node)).payload for _ in sent]

        with signatures(monkeypatch) as found:
            both = asyncio.gather(
                alice.send_many(bob.did, sent),
                bob.send_many(alice.did, sent),
                take(alice),
                take(bob),
            )
            there, back, ours, theirs = await within(LIMIT, both)
        assert ours == theirs == sent
        assert Label.BATCH in found or Label.JOINT in found
        for receipt in (*there[::97], *back[::97]):
            verify_receipt(receipt.proof())


@on_asyncio
async def test_the_store_and_the_evidence_log_keep_the_proof(tmp_path: Path) -> None:
    """A reply that came with a receipt, taken again by the next process, is still proven."""
    log, store = tmp_path / "log", tmp_path / "store"
    net = Net("memory")
    async with net.node(BOB) as bob:
        async with Node(
            ALICE, quick(), network=net.memory, store=str(store), evidence=str(log)
        ) as alice:
            meet(alice, bob)
            _, _, _, reply = await echo(alice, bob, b"question")
            before = reply.envelope
            assert before.merkle_path is not None
            assert len(before.merkle_path.signature) == 96
            before.verify()
        async with Node(ALICE, quick(), network=net.memory, store=str(store)) as alice:
            again = await next_of(alice)
            assert again.redelivered
            assert again.envelope == before
            again.envelope.verify()
    checker = LogChecker()
    (found,) = checker.receive_data(log.read_bytes())
    checker.receive_eof()
    assert (checker.error, found.envelope) == (None, before)
