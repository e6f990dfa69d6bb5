"""`AllSendStreams`: what belongs to durable messages, what to volatile ones, and what to both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from idkit import id_of
from linkkit import ALICE, BOB, EVE, body
from signedwire.delivery.all_send_streams import AllSendStreams
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.send_streams import SendStreams
from signedwire.identity import Label
from signedwire.types import Credit, DeliveryState, Priority
from signedwire.wire.envelope import sign_batch
from signedwire.wire.header import VOLATILE, stream_of
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    ACCEPTED_ENVELOPES,
    HANDLED_ENVELOPES,
    REFUSED_ENVELOPES,
    Epochs,
    Receipts,
)
from signedwire.wire.receipt_proof import verify_receipt
from signedwire.wire.sent_batch import SentBatch, SentCopies, sign_copies

QUEUED, PERSISTED, WRITTEN, ACCEPTED, HANDLED, REFUSED, FAILED, EXPIRED = DeliveryState
US, THEM = bytes(ALICE.did), bytes(BOB.did)
NORMAL: Final = int(Priority.NORMAL)
PLENTY: Final = Credit(1000, 1 << 20)
EPOCHS: Final = Epochs(9, 5)

each_kind = pytest.mark.parametrize("is_durable", [True, False], ids=["durable", "volatile"])


class Sender:
    """The queue to Bob, the streams, and what was sent."""

    def __init__(self) -> None:
        self.queue: SendQueue[OutgoingMessage] = SendQueue(1000)
        self.streams = AllSendStreams(
            SendStreams(US, THEM, EPOCHS.durable), SendStreams(US, THEM, EPOCHS.volatile)
        )
        self.count = 0

    def kind(self, *, is_durable: bool) -> SendStreams:
        return self.streams.durable if is_durable else self.streams.volatile

    def take(self, count: int = 1, *, is_durable: bool) -> list[OutgoingMessage]:
        """The next messages, numbered."""
        for _ in range(count):
            self.count += 1
            terms = SendOptions(BOB.did, Priority.NORMAL, is_durable=is_durable)
            message = OutgoingMessage(terms, id_of(self.count), b"%d" % self.count)
            assert self.queue.put(message, terms.stream)
        stream = NORMAL if is_durable else NORMAL + VOLATILE
        return self.streams.take_batch(
            self.queue, stream, PLENTY, lambda _: False, 1 << 20, 1 << 16
        )

    def send(self, count: int = 1, *, is_durable: bool) -> tuple[SentBatch, list[OutgoingMessage]]:
        """One batch."""
        messages = self.take(count, is_durable=is_durable)
        bodies = [message.body for message in messages]
        root, signature, leaves = sign_batch(ALICE, bodies)
        batch = SentBatch(root, leaves, signature)
        self.streams.sent(batch, messages, bodies)
        return batch, messages

    def send_copies(self, *, is_durable: bool) -> tuple[SentCopies, list[OutgoingMessage]]:
        """Two messages, in one tree with one of Eve's."""
        messages = self.take(2, is_durable=is_durable)
        bodies = [message.body for message in messages]
        copies = sign_copies(ALICE, [[body(1, recipient=EVE)], bodies])[1]
        self.streams.sent(copies, messages, bodies)
        return copies, messages

    def hear(self, kind: int, *hashes: bytes) -> list[OutgoingMessage]:
        """A receipt of Bob has come: return the messages that it changes."""
        said = signed(kind, *hashes)
        if kind != REFUSED_ENVELOPES:
            return self.streams.receipts(said, said.proof)
        return [one.message for one in self.streams.refused(said, said.proof)]


def signed(kind: int, *hashes: bytes) -> Receipts:
    plain = Receipts(kind, 55, hashes, code=int(kind == REFUSED_ENVELOPES))
    text = THEM + US + plain.statement
    return replace(plain, signature=BOB._sign_labelled(Label.RECEIPT, text))


def is_fresh(sender: Sender) -> bool:
    return sender.streams.is_fresh


def is_forgettable(sender: Sender) -> bool:
    return sender.streams.is_forgettable


def settled_size(sender: Sender) -> tuple[int, int]:
    """What is in flight; the sums are those of the two kinds."""
    streams = sender.streams
    both = streams.durable, streams.volatile
    assert streams.in_flight == sum(kind.in_flight for kind in both)
    assert streams.in_flight_bytes == sum(kind.in_flight_bytes for kind in both)
    assert streams.is_empty == all(kind.is_empty for kind in both)
    return streams.in_flight, streams.in_flight_bytes


@pytest.fixture
def sender() -> Sender:
    return Sender()


class TestSending:
    def test_each_kind_has_its_numbers_and_its_epoch(self, sender: Sender) -> None:
        kinds = (True, False, False, True)
        sent = [sender.send(is_durable=kind)[1][0] for kind in kinds]
        assert [message.sequence for message in sent] == [1, 1, 2, 2]
        assert [stream_of(message.body) for message in sent] == [1, 5, 5, 1]
        assert [message.body[106:114] for message in sent] == [
            EPOCHS[not kind].to_bytes(8, "little") for kind in kinds
        ]
        assert sender.streams.epochs == EPOCHS

    @each_kind
    def test_fresh_until_a_message_of_either_kind_is_sent(
        self, sender: Sender, is_durable: bool
    ) -> None:
        assert is_fresh(sender)
        sender.take(is_durable=is_durable)
        assert is_fresh(sender), "nothing was written"
        sender.send(is_durable=is_durable)
        assert not is_fresh(sender)
        assert sender.kind(is_durable=not is_durable).is_fresh

    @each_kind
    def test_room_in_the_queue_is_told_to_those_who_wait_for_this_kind(
        self, sender: Sender, is_durable: bool
    ) -> None:
        sender.queue = SendQueue(1)
        terms = SendOptions(BOB.did, Priority.NORMAL, is_durable=not is_durable)
        assert sender.queue.put(OutgoingMessage(terms, id_of(99), b""), terms.stream)
        woken: list[bool] = []
        for kind in (True, False):
            if kind is not is_durable:
                assert sender.queue.when_room(lambda: woken.append(False), is_durable=kind)
        sender.take(is_durable=is_durable)
        assert woken == []
        sender.take(0, is_durable=not is_durable)
        assert woken == [False]

    def test_what_is_in_flight_is_the_sum(self, sender: Sender) -> None:
        assert settled_size(sender) == (0, 0)
        durable, _ = sender.send(2, is_durable=True)
        volatile, _ = sender.send(3, is_durable=False)
        copies, _ = sender.send_copies(is_durable=False)
        assert settled_size(sender)[0] == 7
        sender.hear(ACCEPTED_ENVELOPES, durable.leaves[0], volatile.leaves[2])
        assert settled_size(sender)[0] == 5
        sender.hear(ACCEPTED_BATCHES, durable.root, volatile.root)
        assert settled_size(sender)[0] == 2
        sender.hear(REFUSED_ENVELOPES, *copies.leaves)
        assert settled_size(sender) == (0, 0)

    def test_after_a_broken_link_all_come_back_durable_ones_first(self, sender: Sender) -> None:
        volatile = sender.send(2, is_durable=False)[1]
        durable = sender.send(2, is_durable=True)[1]
        copies = sender.send_copies(is_durable=False)[1]
        assert sender.streams.take_unanswered() == [*durable, *volatile, *copies]
        assert settled_size(sender) == (0, 0)
        assert sender.streams.take_unanswered() == []


class TestAnswers:
    @each_kind
    @pytest.mark.parametrize(
        ("kind", "state"),
        [
            (ACCEPTED_BATCHES, ACCEPTED),
            (ACCEPTED_ENVELOPES, ACCEPTED),
            (HANDLED_ENVELOPES, HANDLED),
        ],
    )
    def test_one_reaches_the_streams_that_sent_the_message(
        self, sender: Sender, is_durable: bool, kind: int, state: DeliveryState
    ) -> None:
        batch, messages = sender.send(is_durable=is_durable)
        others = sender.send(is_durable=not is_durable)[1]
        name = batch.root if kind == ACCEPTED_BATCHES else batch.leaves[0]
        assert sender.streams.is_expected(Receipts(kind, 55, (name,)))
        assert sender.hear(kind, name) == messages
        assert messages[0].state is state
        assert others[0].state is QUEUED
        assert sender.kind(is_durable=is_durable).is_empty
        assert sender.kind(is_durable=not is_durable).in_flight == 1
        proof = messages[0].proof()
        assert proof is not None
        assert verify_receipt(proof).envelope.body == messages[0].body

    @each_kind
    def test_a_refusal_before_and_after_the_receipt(self, sender: Sender, is_durable: bool) -> None:
        batch, messages = sender.send(2, is_durable=is_durable)
        sender.send(is_durable=not is_durable)
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[0])
        said = signed(REFUSED_ENVELOPES, *batch.leaves)
        assert sender.streams.is_expected(said)
        found = sender.streams.refused(said, said.proof)
        assert [(one.message, one.was_accepted) for one in found] == [
            (messages[0], True),
            (messages[1], False),
        ]
        assert not sender.streams.is_expected(said)

    def test_one_statement_about_both_kinds(self, sender: Sender) -> None:
        durable, first = sender.send(is_durable=True)
        volatile, second = sender.send(is_durable=False)
        hashes = volatile.leaves + durable.leaves
        assert sender.hear(ACCEPTED_ENVELOPES, *hashes) == first + second
        assert sender.hear(HANDLED_ENVELOPES, *hashes) == []
        assert [message.state for message in first + second] == [HANDLED, HANDLED]
        third, fourth = sender.send(is_durable=True), sender.send(is_durable=False)
        refused = sender.hear(REFUSED_ENVELOPES, *fourth[0].leaves, *third[0].leaves)
        assert refused == third[1] + fourth[1]

    def test_what_nobody_sent_is_expected_of_neither(self, sender: Sender) -> None:
        unknown = bytes(32)
        for kind in (ACCEPTED_BATCHES, ACCEPTED_ENVELOPES, HANDLED_ENVELOPES, REFUSED_ENVELOPES):
            for _ in range(2):  # with nothing in flight, and with both kinds
                assert not sender.streams.is_expected(Receipts(kind, 55, (unknown,)))
                assert sender.hear(kind, unknown) == []
                sender.send(is_durable=True)
                sender.send(is_durable=False)


class TestAborted:
    @each_kind
    def test_the_batch_is_forgotten_and_nothing_else(
        self, sender: Sender, is_durable: bool
    ) -> None:
        batch, messages = sender.send(2, is_durable=is_durable)
        sender.send(is_durable=not is_durable)
        sender.send(is_durable=is_durable)
        before = settled_size(sender)[0]
        assert sender.streams.aborted(batch.name) == messages
        assert settled_size(sender)[0] == before - 2
        assert not sender.streams.is_in_flight(batch.name)
        assert sender.hear(ACCEPTED_BATCHES, batch.root) == []
        assert sender.hear(ACCEPTED_ENVELOPES, *batch.leaves) == []
        assert sender.streams.aborted(batch.name) == []

    @each_kind
    def test_what_was_answered_already_is_not_among_it(
        self, sender: Sender, is_durable: bool
    ) -> None:
        batch, messages = sender.send(3, is_durable=is_durable)
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[1])
        assert sender.streams.aborted(batch.name) == [messages[0], messages[2]]
        assert settled_size(sender) == (0, 0)
        assert messages[1].state is ACCEPTED

    @each_kind
    def test_copies_go_by_their_name(self, sender: Sender, is_durable: bool) -> None:
        copies, messages = sender.send_copies(is_durable=is_durable)
        assert sender.streams.aborted(copies.root) == []
        assert sender.streams.aborted(copies.name) == messages
        assert settled_size(sender) == (0, 0)

    def test_a_batch_that_nobody_knows(self, sender: Sender) -> None:
        assert sender.streams.aborted(bytes(32)) == []


class TestNames:
    @each_kind
    def test_copies_are_in_flight_by_a_name_that_no_receipt_can_have(
        self, sender: Sender, is_durable: bool
    ) -> None:
        copies, messages = sender.send_copies(is_durable=is_durable)
        assert len(copies.name) != len(copies.root)
        assert sender.streams.is_in_flight(copies.name)
        assert not sender.streams.is_in_flight(copies.root)
        assert not sender.streams.is_expected(Receipts(ACCEPTED_BATCHES, 55, (copies.root,)))
        assert sender.hear(ACCEPTED_BATCHES, copies.root) == []
        assert sender.hear(ACCEPTED_ENVELOPES, *copies.leaves) == messages

    def test_copies_of_both_kinds_in_one_tree(self, sender: Sender) -> None:
        """The root is one; each has a name and answers of its own."""
        first, second = (sender.take(2, is_durable=kind) for kind in (True, False))
        shares = [[message.body for message in messages] for messages in (first, second)]
        durable, volatile = sign_copies(ALICE, shares)
        sender.streams.sent(durable, first, shares[0])
        sender.streams.sent(volatile, second, shares[1])
        assert durable.root == volatile.root
        assert durable.name != volatile.name
        assert sender.streams.aborted(volatile.name) == second
        assert sender.streams.is_in_flight(durable.name)
        assert sender.hear(ACCEPTED_ENVELOPES, *durable.leaves, *volatile.leaves) == first
        assert settled_size(sender) == (0, 0)


class TestBegin:
    @each_kind
    def test_a_newer_epoch_of_one_kind_leaves_the_other_alone(
        self, sender: Sender, is_durable: bool
    ) -> None:
        old, _ = sender.send(is_durable=is_durable)
        other, others = sender.send(is_durable=not is_durable)
        sender.streams.begin(SendStreams(US, THEM, 20), is_durable=is_durable)
        assert sender.streams.epochs == (
            Epochs(20, EPOCHS.volatile) if is_durable else Epochs(EPOCHS.durable, 20)
        )
        assert not sender.streams.is_in_flight(old.root)
        assert sender.hear(ACCEPTED_BATCHES, old.root) == []
        assert sender.streams.is_in_flight(other.root)
        assert sender.hear(ACCEPTED_BATCHES, other.root) == others
        anew, messages = sender.send(is_durable=is_durable)
        assert messages[0].sequence == 1
        assert sender.send(is_durable=not is_durable)[1][0].sequence == 2
        assert sender.hear(ACCEPTED_BATCHES, anew.root) == messages

    @each_kind
    def test_one_that_was_never_used_is_used_once(self, sender: Sender, is_durable: bool) -> None:
        for epoch in (20, 21):
            sender.streams.begin(SendStreams(US, THEM, epoch), is_durable=is_durable)
        for _ in range(2):
            batch, messages = sender.send(is_durable=is_durable)
            assert sender.hear(ACCEPTED_BATCHES, batch.root) == messages
        assert len(sender.streams._used) == 1


class TestForgettable:
    @each_kind
    @pytest.mark.parametrize("end", [HANDLED_ENVELOPES, REFUSED_ENVELOPES])
    def test_after_the_last_answer_of_both_kinds(
        self, sender: Sender, is_durable: bool, end: int
    ) -> None:
        assert is_forgettable(sender)
        batch, messages = sender.send(is_durable=is_durable)
        other, others = sender.send(is_durable=not is_durable)
        sender.hear(HANDLED_ENVELOPES, *other.leaves)
        assert not is_forgettable(sender)
        sender.hear(ACCEPTED_BATCHES, batch.root)
        assert sender.streams.is_empty
        assert not is_forgettable(sender), "the application may still answer"
        sender.hear(end, *batch.leaves)
        assert is_forgettable(sender)
        assert len(messages) == len(others) == 1

    @each_kind
    @pytest.mark.parametrize("send", [Sender.send, Sender.send_copies])
    def test_when_nobody_holds_the_receipts(
        self,
        sender: Sender,
        is_durable: bool,
        send: Callable[..., tuple[SentBatch, list[OutgoingMessage]]],
    ) -> None:
        batch, messages = send(sender, is_durable=is_durable)
        sender.hear(ACCEPTED_ENVELOPES, *batch.leaves)
        assert not is_forgettable(sender)
        messages.clear()
        del batch
        assert is_forgettable(sender)
