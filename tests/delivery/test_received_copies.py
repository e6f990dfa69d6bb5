"""Copies between the two halves of a peer: marks, answers, proofs, and a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from peerkit import Desk, FakeStore, still_clock
from test_streams import ACCEPTED, US, Sender

from linkkit import ALICE, BOB, EVE, body, received
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.store import Marks, Store
from signedwire.errors import StoreCorruptError
from signedwire.identity import Label
from signedwire.types import DeliveryState, Reason
from signedwire.wire.batch import leaves_of
from signedwire.wire.copies import split_items
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    ACCEPTED_ENVELOPES,
    HANDLED_ENVELOPES,
    Receipts,
)
from signedwire.wire.receipt_proof import encode_receipt_proof, verify_receipt
from signedwire.wire.sent_batch import SentCopies, sign_copies
from signedwire.wire.session import BatchReceived
from storekit import LIMIT, PEER, Told, make, told


@pytest.fixture(autouse=True)
def _still() -> Iterator[None]:
    with still_clock():
        yield


def from_bob(*numbers: int, payload: bytes = b"hello", neighbours: int = 20) -> BatchReceived:
    """Bob's copies to Alice, behind those for somebody else in one tree."""
    others = [body(n, sender=BOB, recipient=EVE) for n in range(1, neighbours + 1)]
    ours = [body(n, payload, sender=BOB, recipient=ALICE) for n in numbers]
    copies = sign_copies(BOB, [others, ours])[1]
    _, places = split_items(copies.items(ours))
    return BatchReceived(ours, copies.root, copies.leaves, copies.signature, places)


class TestReceiving:
    def test_in_order_once_and_with_a_proof(self) -> None:
        desk = Desk()
        link = desk.link(BOB)
        batch = link.bring_batch(from_bob(1, 2))
        link.bring_batch(received([body(3, sender=BOB, recipient=ALICE)], BOB))
        again = link.bring_batch(from_bob(2, neighbours=3))
        messages = desk.take()
        assert [message.sequence_number for message in messages] == [1, 2, 3]
        for message in messages:
            message.envelope.verify()
            assert message.leaf == message.envelope.digest
        assert [message.leaf for message in messages[:2]] == batch.leaves
        assert desk.host.dropped(Reason.DUPLICATE) == 1
        assert again.leaves == batch.leaves[1:]

    def test_they_are_answered_by_leaf(self) -> None:
        desk = Desk()
        link = desk.link(BOB)
        copies = link.bring_batch(from_bob(1, 2))
        plain = link.bring_batch(received([body(3, sender=BOB, recipient=ALICE)], BOB))
        repeated = link.bring_batch(from_bob(1))
        assert link.heard("receipts") == [
            ([], copies.leaves),
            ([plain.root], []),
            ([], repeated.leaves),
        ]

    def test_one_of_them_is_refused(self) -> None:
        desk = Desk()
        link = desk.link(BOB)
        ours = [
            body(1, sender=BOB, recipient=ALICE),
            body(2, sender=BOB, recipient=ALICE, expires_at_us=1),
            body(3, sender=BOB, recipient=ALICE),
        ]
        copies = sign_copies(BOB, [ours, [body(sender=BOB, recipient=EVE)]])[0]
        _, places = split_items(copies.items(ours))
        link.bring_batch(BatchReceived(ours, copies.root, copies.leaves, copies.signature, places))
        assert link.heard("receipts") == [([], [copies.leaves[0], copies.leaves[2]])]
        first, last = desk.take()
        assert (first.sequence_number, last.sequence_number) == (1, 3)
        last.envelope.verify()

    def test_one_for_somebody_else(self) -> None:
        desk = Desk()
        link = desk.link(BOB)
        other = [body(1, sender=BOB, recipient=EVE)]
        copies = sign_copies(BOB, [other, [body(sender=BOB, recipient=ALICE)]])[0]
        _, places = split_items(copies.items(other))
        link.bring_batch(BatchReceived(other, copies.root, copies.leaves, copies.signature, places))
        assert desk.take() == []
        assert desk.host.dropped(Reason.NOT_FOR_US) == 1

    def test_credit_counts_the_path_until_the_message_is_taken(self) -> None:
        desk = Desk()
        link = desk.link(BOB)
        window = desk.session(BOB).receiver._window
        batch = from_bob(1, 2, payload=bytes(100))
        assert batch.size > sum(map(len, batch.bodies))
        desk.session(BOB).receiver.receive(batch, 1, link)
        assert window._in_inbox.of(1) == (2, batch.size)
        for message in desk.take():
            assert message.size > len(message.payload) + 126
        window.update_budget()
        assert window._in_inbox.of(1) == (0, 0)

    def test_credit_counts_the_path_of_what_is_not_new(self) -> None:
        desk = Desk(store=FakeStore)
        link = desk.link(BOB)
        receiver = desk.session(BOB).receiver
        link.bring_batch(from_bob(1, 2))
        again = link.bring_batch(from_bob(1, 2))
        assert receiver._window._uncommitted.of(1) == (2, again.size)
        desk.store.commit()
        assert receiver._window._uncommitted.of(1) == (0, 0)

    def test_a_kept_message_keeps_no_neighbour_alive(self) -> None:
        desk = Desk()
        link = desk.link(BOB)
        link.bring_batch(from_bob(*range(1, 101)))
        message = desk.take()[0]
        path = message.envelope.merkle_path
        assert path is not None
        assert path.leaves is None
        assert len(path.hashes) <= 30 * 32

    def test_the_application_answers(self) -> None:
        desk = Desk()
        link = desk.link(BOB)
        batch = link.bring_batch(from_bob(1, 2))
        first, second = desk.take()
        first.ack()
        second.nack(Reason.REFUSED, "no")
        desk.host.run()
        assert link.heard("handled") == [batch.leaves[:1]]
        (((refusal,)),) = link.heard("refused")
        assert refusal.leaf == batch.leaves[1]

    def test_no_room_in_the_store(self) -> None:
        desk = Desk(store=FakeStore)
        desk.store.room = 1
        link = desk.link(BOB)
        batch = link.bring_batch(from_bob(1, 2))
        desk.store.commit()
        assert link.heard("receipts") == [([], batch.leaves[:1])]


class TestStore:
    @pytest.mark.parametrize("kind", ["memory", "file"])
    def test_a_row_has_its_path(self, kind: str, tmp_path: Path) -> None:
        store = make(kind, tmp_path / "store.db")
        try:
            check_rows(store)
        finally:
            store.close()
        if kind == "file":
            reopened = make(kind, tmp_path / "store.db")
            try:
                check_stored(reopened)
            finally:
                reopened.close()

    def test_places_that_do_not_fit(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        cut = "substr(places, 1, length(places) - 1)"
        for change in ("x'ff'", "x'00'", cut, "places || x'16'"):
            store = make("file", path)
            check_rows(store)
            store.close()
            with sqlite3.connect(path) as connection:
                connection.execute(f"UPDATE batch SET places = {change} WHERE length(places) > 0")
            connection.close()
            with pytest.raises(StoreCorruptError):
                make("file", path)
            path.unlink()


def check_rows(store: Store) -> None:
    """Store copies and a plain batch."""
    copies = from_bob(1, 2, 3)
    plain = received([body(4, sender=BOB, recipient=ALICE)], BOB)
    for batch, new, last in ((copies, [0, 2], 3), (plain, [0], 4)):
        done = Told()
        store.accept(PEER, Marks(9, (0, last, 0, 0)), batch, new, on_commit=done)
        assert done.wait() is None
    check_stored(store)


def check_stored(store: Store) -> None:
    rows = store.unacked().result(LIMIT)
    assert [row.envelope.sequence_number for row in rows] == [1, 3, 4]
    for row in rows:
        row.envelope.verify()
    assert [row.copy is None for row in rows] == [False, False, True]
    assert store.leaves(PEER).result(LIMIT).accepted[1] == [
        *leaves_of([body(n, sender=BOB, recipient=ALICE) for n in (1, 2, 3, 4)])
    ]


def test_a_copy_of_an_earlier_process(tmp_path: Path) -> None:
    store = make("file", tmp_path / "store.db")
    check_rows(store)
    rows = store.unacked().result(LIMIT)
    desk = Desk(store=FakeStore)
    assert desk.endpoint.restore(rows) == []
    messages = desk.take()
    assert [message.sequence_number for message in messages] == [1, 3, 4]
    for message, row in zip(messages, rows, strict=True):
        assert message.redelivered
        message.envelope.verify()
        assert message.leaf == row.leaves[row.place]
    assert told(store.acked, [row.id for row in rows]) is None
    store.close()


class CopySender(Sender):
    """Sends what waits as copies, with those of somebody else in one tree."""

    def send_copies(self) -> tuple[SentCopies, list[OutgoingMessage]]:
        messages = self.next()
        bodies = [message.body for message in messages]
        others = [body(n, recipient=EVE) for n in range(1, 21)]
        copies = sign_copies(ALICE, [others, bodies])[1]
        self.streams.sent(copies, messages, bodies)
        return copies, messages


@pytest.fixture
def sender() -> CopySender:
    made = CopySender()
    for _ in range(3):
        made.queue()
    return made


class TestSending:
    def test_a_receipt_by_leaf_with_its_proof(self, sender: CopySender) -> None:
        copies, messages = sender.send_copies()
        assert sender.streams.is_in_flight(copies.name)
        assert sender.hear(ACCEPTED_ENVELOPES, *copies.leaves[1:]) == messages[1:]
        assert sender.hear(ACCEPTED_ENVELOPES, copies.leaves[0]) == messages[:1]
        assert sender.streams.is_empty
        assert sender.streams.in_flight_bytes == 0
        for message in messages:
            assert message.state is ACCEPTED
            proof = message.proof()
            assert proof is not None
            proven = verify_receipt(proof)
            assert proven.envelope.body == message.body
            assert not proven.is_handled

    def test_the_root_is_ignored(self, sender: CopySender) -> None:
        """It belongs to all recipients, so a receipt for it says nothing."""
        copies, messages = sender.send_copies()
        said = Receipts(ACCEPTED_BATCHES, 1, (copies.root, copies.leaves[0]))
        assert not sender.streams.is_expected(said)
        assert sender.hear(ACCEPTED_BATCHES, copies.root, *copies.leaves) == []
        assert sender.streams.in_flight == len(messages)
        assert all(message.state is not ACCEPTED for message in messages)

    def test_handled_and_refused(self, sender: CopySender) -> None:
        copies, messages = sender.send_copies()
        assert sender.hear(HANDLED_ENVELOPES, copies.leaves[0]) == messages[:1]
        assert messages[0].state is DeliveryState.HANDLED
        assert sender.hear(ACCEPTED_ENVELOPES, copies.leaves[1]) == messages[1:2]
        found = sender.refuse(copies.leaves[1], copies.leaves[2])
        assert [(one.message, one.was_accepted) for one in found] == [
            (messages[1], True),
            (messages[2], False),
        ]
        for message in messages:
            proof = message._make_proof()
            assert proof is not None
            assert verify_receipt(proof).envelope.body == message.body
        assert sender.streams.is_empty

    def test_two_shares_of_one_tree(self, sender: CopySender) -> None:
        """Of two lanes, for instance: the root is one, the names are two."""
        first = sender.next()
        sender.queue(priority=3)  # type: ignore[arg-type]
        second = sender.next()
        shares = [[message.body for message in messages] for messages in (first, second)]
        signed = sign_copies(ALICE, shares)
        for copies, messages, bodies in zip(signed, (first, second), shares, strict=True):
            sender.streams.sent(copies, messages, bodies)
        found = sender.refuse(signed[0].leaves[0], signed[1].leaves[0])
        assert len(found) == 2
        for one in found:
            proof = one.message._make_proof()
            assert proof is not None
            assert verify_receipt(proof).is_refused

    def test_after_a_broken_link_they_are_sent_alone(self, sender: CopySender) -> None:
        copies, messages = sender.send_copies()
        assert sender.take_unanswered() == messages
        sender.queue()
        sent, batch = sender.send()
        assert batch.bodies[:3] == [message.body for message in messages]
        assert sent.leaves[:3] == copies.leaves
        assert len(sender.hear(ACCEPTED_BATCHES, sent.root)) == 4

    def test_in_one_queue_with_plain_batches(self, sender: CopySender) -> None:
        copies, _ = sender.send_copies()
        sender.queue()
        sent, _ = sender.send()
        assert len(sender.hear(ACCEPTED_BATCHES, sent.root, copies.root)) == 1
        assert sender.streams.in_flight == 3


def signed_by_bob(receipts: Receipts) -> bytes:
    """The statement with Bob's signature."""
    text = bytes(BOB.did) + US + receipts.statement
    return replace(receipts, signature=BOB._sign_labelled(Label.RECEIPT, text)).signature


def test_a_receipt_for_a_root_proves_a_copy_if_its_recipient_says_so() -> None:
    """A recipient must not sign one, see the protocol: it would cover what it never received."""
    ours = [body(1)]
    copies = sign_copies(ALICE, [ours, [body(1, recipient=EVE)]])[0]
    said = Receipts(ACCEPTED_BATCHES, 1, (copies.root,))
    said = replace(said, signature=signed_by_bob(said))
    proof = encode_receipt_proof(ours[0], copies, 0, said.proof)
    assert verify_receipt(proof).envelope.body == ours[0]
