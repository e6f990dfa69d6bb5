"""One signed tree over the links of several peers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from test_link import Net, both_networks, meet, next_of

from signedwire import DeliveryState, Did, Message, Node, Priority, Receipt
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.evidence.chain import LogChecker
from signedwire.transport.copies import send_copies
from signedwire.transport.link import Link
from signedwire.wire.receipt_proof import verify_receipt
from tlskit import quick
from wirekit import ALICE, BOB, CAROL, LIMIT, identity, on_asyncio, on_both_loops

DAVE: Final = identity(4)
PEERS: Final = (BOB, CAROL, DAVE)


def post(
    node: Node, to: Did, payload: bytes, priority: Priority = Priority.NORMAL
) -> OutgoingMessage:
    """Queue a message; the loop would send it in its next turn."""
    message = OutgoingMessage(SendOptions(to, priority), os.urandom(16), payload)
    node._core.endpoint.submitter.submit(message, len(payload))
    return message


def link_of(node: Node, did: Did) -> Link:
    link = node._core.endpoint.sessions.session(did).link
    assert isinstance(link, Link)
    return link


def publish(node: Node, peers: Sequence[Node]) -> None:
    """Send what waits for these peers as copies."""
    send_copies(ALICE, [link_of(node, peer.did) for peer in peers])


class Group:
    """ALICE, and peers that she has links with."""

    def __init__(self, network: str, **changes: object) -> None:
        self._net = Net(network)
        self._changes = changes
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> tuple[Node, list[Node]]:
        enter = self._stack.enter_async_context
        alice = await enter(self._net.node(ALICE))
        peers = [await enter(self._net.node(who, **self._changes)) for who in PEERS]
        for peer in peers:
            meet(alice, peer)
            await alice.send(peer.did, b"first", until="accepted")
            assert (await next_of(peer)).payload == b"first"
        return alice, peers

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def place_of(message: Message) -> tuple[int, int]:
    """Index and number of leaves of the tree."""
    path = message.envelope.merkle_path
    assert path is not None
    return path.index, path.count


async def settled(receipt: Receipt, state: str) -> None:
    await receipt.wait(DeliveryState(state), LIMIT)


@both_networks
@on_both_loops
async def test_one_signature_reaches_three_peers(network: str) -> None:
    async with Group(network) as (alice, peers):
        receipts = [post(alice, peer.did, b"news") for peer in peers]
        publish(alice, peers)
        messages = [await next_of(peer) for peer in peers]
        assert [place_of(message) for message in messages] == [(0, 3), (1, 3), (2, 3)]
        assert len({message.envelope.signature for message in messages}) == 1
        for receipt, message in zip(receipts, messages, strict=True):
            message.envelope.verify()
            await settled(receipt, "accepted")
            message.ack()
            await settled(receipt, "handled")
            proof = receipt.proof()
            assert proof is not None
            proven = verify_receipt(proof)
            assert proven.is_handled
            assert proven.envelope == message.envelope


@both_networks
@on_both_loops
async def test_among_plain_batches_in_order(network: str) -> None:
    async with Group(network) as (alice, peers):
        for round_ in range(20):
            for peer in peers:
                post(alice, peer.did, b"%d" % round_)
            if round_ % 3 == 0:
                publish(alice, peers)
            elif round_ % 3 == 1:
                for peer in peers:
                    link_of(alice, peer.did).pump()
        for peer in peers:
            got = [await next_of(peer) for _ in range(20)]
            assert [message.payload for message in got] == [b"%d" % n for n in range(20)]
            counts = {place_of(message)[1] for message in got}
            assert len(counts) > 1
            for message in got:
                message.envelope.verify()


@on_both_loops
async def test_what_credit_does_not_cover_is_sent_alone_later() -> None:
    async with Group("tcp", credit_messages=2) as (alice, peers):
        receipts = [post(alice, peer.did, b"%d" % n) for n in range(9) for peer in peers]
        publish(alice, peers)
        for peer in peers:
            got = [await next_of(peer) for _ in range(9)]
            assert [message.payload for message in got] == [b"%d" % n for n in range(9)]
            assert place_of(got[0])[1] > 2
            assert place_of(got[8])[1] <= 2
        for receipt in receipts:
            await settled(receipt, "accepted")


@on_both_loops
async def test_bytes_of_paths_do_not_exceed_the_credit() -> None:
    """A receiver closes the link for one byte over the credit."""
    async with Group("tcp", credit_bytes=40_000, max_payload_size=1024) as (alice, peers):
        links = [link_of(alice, peer.did) for peer in peers]
        for n in range(200):
            for peer in peers:
                post(alice, peer.did, bytes(n))
            publish(alice, peers)
        for peer, link in zip(peers, links, strict=True):
            got = [await next_of(peer) for _ in range(200)]
            assert [len(message.payload) for message in got] == list(range(200))
            assert link_of(alice, peer.did) is link


@on_both_loops
async def test_a_lane_of_its_own_and_large_messages() -> None:
    async with Group("tcp") as (alice, peers):
        for peer in peers:
            post(alice, peer.did, bytes(200_000), Priority.LOW)
        publish(alice, peers)
        for peer in peers:
            post(alice, peer.did, b"stop", Priority.CRITICAL)
        publish(alice, peers)
        for peer in peers:
            got = {len((await next_of(peer)).payload) for _ in range(2)}
            assert got == {4, 200_000}


@on_both_loops
async def test_one_peer_alone_gets_a_plain_batch() -> None:
    async with Group("tcp") as (alice, peers):
        receipt = post(alice, peers[0].did, b"x")
        publish(alice, peers)
        assert place_of(await next_of(peers[0])) == (0, 1)
        await settled(receipt, "accepted")
        publish(alice, peers)
        send_copies(ALICE, [])


@both_networks
@on_both_loops
async def test_a_link_breaks_while_copies_are_in_flight(network: str) -> None:
    async with Group(network) as (alice, peers):
        receipts = [post(alice, peer.did, b"%d" % n) for n in range(3) for peer in peers]
        publish(alice, peers)
        link_of(alice, BOB.did).abort()
        for peer in peers:
            got = [await next_of(peer) for _ in range(3)]
            assert [message.payload for message in got] == [b"0", b"1", b"2"]
            for message in got:
                message.envelope.verify()
        for receipt in receipts:
            await settled(receipt, "accepted")
        with pytest.raises(TimeoutError):
            await peers[0].receive(0.05)


@on_asyncio
async def test_a_link_that_is_not_open_takes_no_part() -> None:
    async with Group("tcp") as (alice, peers):
        links = [link_of(alice, peer.did) for peer in peers]
        links[0].abort()
        receipts = [post(alice, peer.did, b"x") for peer in peers]
        send_copies(ALICE, links)
        assert [place_of(await next_of(peer)) for peer in peers[1:]] == [(0, 2), (1, 2)]
        assert place_of(await next_of(peers[0])) == (0, 1)
        for receipt in receipts:
            await settled(receipt, "accepted")


@pytest.mark.parametrize("has_store", [False, True])
@on_asyncio
async def test_a_store_and_an_evidence_log(tmp_path: Path, has_store: bool) -> None:
    log = tmp_path / "evidence.log"
    store = tmp_path / "bob.db" if has_store else None
    async with Node(ALICE, quick()) as alice, Node(CAROL, quick()) as carol:
        async with Node(BOB, quick(), store=store, evidence=log) as bob:
            for peer in (bob, carol):
                meet(alice, peer)
                await alice.send(peer.did, b"first", until="accepted")
            receipts = [post(alice, peer.did, b"news") for peer in (bob, carol)]
            publish(alice, [bob, carol])
            for receipt in receipts:
                await settled(receipt, "accepted")
            proof = receipts[0].proof()
            assert proof is not None
            assert verify_receipt(proof).is_committed == has_store
        if store is not None:
            async with Node(BOB, quick(), store=store, evidence=log) as bob:
                assert (await next_of(bob)).payload == b"first"
                message = await next_of(bob)
                assert message.redelivered
                assert (message.payload, place_of(message)) == (b"news", (0, 2))
                message.envelope.verify()
    checker = LogChecker()
    checker.receive_data(log.read_bytes())
    assert (checker.error, checker.reader.count) == (None, 2)
