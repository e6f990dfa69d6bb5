"""`SendStreams` and `ReceiveStreams`: numbers, marks, answers, and what is kept for how long."""

from __future__ import annotations

import gc
import random
import sys
import time
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from idkit import id_of, number_of
from linkkit import ALICE, BOB, EVE, body, credits, received
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.receive_streams import Arrivals, ReceiveStreams
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.send_streams import (
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    Refused,
    SendStreams,
)
from signedwire.identity import Identity, Label
from signedwire.types import Credit, DeliveryState, Priority, Reason, unix_time_us
from signedwire.wire.envelope import SignedEnvelope, sign_batch
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    ACCEPTED_ENVELOPES,
    HANDLED_ENVELOPES,
    REASON_CODES,
    REFUSED_ENVELOPES,
    Receipts,
    Refusal,
)
from signedwire.wire.parts import encode_batch
from signedwire.wire.receipt_proof import verify_receipt
from signedwire.wire.session import BatchFailed, BatchReceived, SentBatch

QUEUED, PERSISTED, WRITTEN, ACCEPTED, HANDLED, REFUSED, FAILED, EXPIRED = DeliveryState
LOW, NORMAL, HIGH, CRITICAL = Priority
EPOCH = 9
VAST = credits(10**6, 10**9, 10**6, 10**9)
US, THEM = bytes(ALICE.did), bytes(BOB.did)


def nobody_is_dead(_: OutgoingMessage) -> bool:
    return False


class Sender:
    """A queue, its streams and what was written: the sending half of a peer."""

    def __init__(self) -> None:
        self.lanes: SendQueue[OutgoingMessage] = SendQueue(100_000, 100)
        self.streams = SendStreams(US, THEM, EPOCH)
        self.count = 0

    def queue(
        self,
        payload: bytes = b"hello",
        priority: Priority = NORMAL,
        *,
        is_bulk: bool = False,
        expires_at: float | None = None,
    ) -> OutgoingMessage:
        self.count += 1
        message = OutgoingMessage(
            SendOptions(BOB.did, priority, expires_at, is_bulk=is_bulk), id_of(self.count), payload
        )
        assert self.lanes.put(message, message.options.stream)
        return message

    def next(
        self,
        room: tuple[Credit, ...] = VAST,
        is_dead: Callable[[OutgoingMessage], bool] = nobody_is_dead,
        largest: int = 2**32,
    ) -> list[OutgoingMessage]:
        """The next batch of the highest lane that has one."""
        for priority in sorted(Priority, reverse=True):
            lane = self.lanes.lane(priority)
            batch = self.streams.take_batch(lane, room[priority], is_dead, largest)
            if batch:
                return batch
        return []

    def send(self, room: tuple[Credit, ...] = VAST) -> tuple[SentBatch, BatchReceived]:
        """Write one batch: as the sender keeps it, and as the peer gets it."""
        messages = self.next(room)
        assert messages
        bodies = [message.body for message in messages]
        root, signature, leaves = sign_batch(ALICE, bodies)
        self.streams.sent(SentBatch(root, leaves, signature), messages, bodies)
        for message in messages:
            if message.state is QUEUED:
                message.advance(WRITTEN)
        return SentBatch(root, leaves, signature), BatchReceived(bodies, root, leaves, signature)

    def take_unanswered(self) -> list[OutgoingMessage]:
        """The link broke."""
        messages = self.streams.take_unanswered()
        self.lanes.put_back([(message, message.options.stream) for message in messages])
        return messages

    def hear(self, kind: int, *hashes: bytes) -> list[OutgoingMessage]:
        """A receipt by Bob has come."""
        plain = Receipts(kind, 55, hashes)
        text = THEM + US + plain.statement
        receipts = replace(plain, signature=BOB._sign_labelled(Label.RECEIPT, text))
        return self.streams.receipts(receipts, receipts.proof)

    def refuse(self, *leaves: bytes, reason: Reason = Reason.INBOX_FULL) -> list[Refused]:
        """A refusal by Bob has come."""
        plain = Receipts(4, 55, leaves, code=REASON_CODES[reason], text=b"no")
        text = THEM + US + plain.statement
        receipts = replace(plain, signature=BOB._sign_labelled(Label.RECEIPT, text))
        return self.streams.refused(receipts, receipts.proof)


@pytest.fixture
def sender() -> Sender:
    return Sender()


class TestNumbering:
    def test_each_lane_counts_for_itself_from_one(self, sender: Sender) -> None:
        assert sender.streams.is_fresh
        for priority in (NORMAL, LOW, NORMAL, HIGH, CRITICAL, NORMAL, CRITICAL):
            sender.queue(priority=priority)
        batches = [sender.next() for _ in range(5)]
        assert [[(m.priority, m.sequence) for m in batch] for batch in batches] == [
            [(CRITICAL, 1), (CRITICAL, 2)],
            [(HIGH, 1)],
            [(NORMAL, 1), (NORMAL, 2), (NORMAL, 3)],
            [(LOW, 1)],
            [],
        ]
        sender.queue()
        sender.send()
        assert not sender.streams.is_fresh

    def test_the_header_is_as_the_stream_says(self, sender: Sender) -> None:
        sender.queue(b"x", HIGH)
        (message,) = sender.next()
        _, signature, _ = sign_batch(ALICE, [message.body])
        envelope = SignedEnvelope.decode(message.body + bytes(2) + b"\1\0\0" + signature)
        envelope.verify()
        assert (envelope.sender, envelope.recipient) == (ALICE.did, BOB.did)
        assert (envelope.epoch, envelope.sequence_number) == (EPOCH, 1)

    def test_the_dead_get_no_number(self, sender: Sender) -> None:
        """Asked is for those with a deadline, with an end, or too large: each may yet live."""
        late, plain, ended, large = (
            sender.queue(expires_at=1.0),
            sender.queue(),
            sender.queue(),
            sender.queue(bytes(6)),
        )
        in_time, not_too_large = sender.queue(expires_at=2.0), sender.queue(bytes(7))
        ended.advance(FAILED, Reason.CLOSED)
        asked: list[OutgoingMessage] = []

        def is_dead(message: OutgoingMessage) -> bool:
            asked.append(message)
            return message in (late, ended, large)

        assert sender.next(is_dead=is_dead, largest=5) == [plain, in_time, not_too_large]
        assert asked == [late, ended, large, in_time, not_too_large]
        messages = (late, plain, ended, large, in_time, not_too_large)
        assert [message.sequence for message in messages] == [0, 1, 0, 0, 2, 3]
        assert not sender.lanes

    def test_lanes_that_are_left_alone(self, sender: Sender) -> None:
        queued = [sender.queue(priority=priority) for priority in (LOW, NORMAL, HIGH)]
        streams, lanes = sender.streams, sender.lanes
        take = partial(streams.take_batch, end_if_dead=nobody_is_dead)
        assert take(lanes.lane(CRITICAL), VAST[CRITICAL]) == []
        assert take(lanes.lane(HIGH), VAST[HIGH]) == [queued[HIGH]]
        assert take(lanes.lane(HIGH), VAST[HIGH]) == []
        assert list(lanes) == [queued[NORMAL], queued[LOW]]

    def test_a_lane_that_waits_for_credit_holds_back_no_other(self, sender: Sender) -> None:
        small = sender.queue(b"small", LOW)
        large = sender.queue(bytes(5000), HIGH)
        assert sender.next(credits(9, 1000, 9, 9000)) == [small]
        assert sender.next(credits(9, 1000, 9, 9000)) == []
        critical = sender.queue(bytes(5000), CRITICAL)
        assert sender.next(credits(9, 6000, 9, 1000)) == [large]
        assert sender.next(credits(9, 6000, 9, 6000)) == [critical]

    def test_256_messages_at_most(self, sender: Sender) -> None:
        for _ in range(MAX_BATCH_MESSAGES + 1):
            sender.queue(b"")
        assert (len(sender.next()), len(sender.next())) == (256, 1)

    def test_64_kib_at_most(self, sender: Sender) -> None:
        for _ in range(3):
            sender.queue(bytes(MAX_BATCH_BYTES // 2 - 126))
        assert (len(sender.next()), len(sender.next())) == (2, 1)

    @pytest.mark.parametrize("size", [0, 64, 124, 125, 1000, 8000])
    def test_a_batch_fits_one_write_of_a_link(self, sender: Sender, size: int) -> None:
        for _ in range(MAX_BATCH_MESSAGES):
            sender.queue(bytes(size))
        bodies = [message.body for message in sender.next()]
        assert len(encode_batch(bytes(64), bodies)) <= 64 * 1024

    def test_one_alone_may_be_larger(self, sender: Sender) -> None:
        for _ in range(2):
            sender.queue(bytes(MAX_BATCH_BYTES + 1))
        assert (len(sender.next()), len(sender.next())) == (1, 1)


class TestRoom:
    @pytest.mark.parametrize(
        ("room", "numbers"),
        [
            (credits(0, 1000, 0, 1000), []),
            (credits(9, 126, 9, 126), []),
            (credits(9, 131, 9, 130), [2]),
            (credits(1, 1000, 0, 1000), [2]),
            (credits(9, 1000, 0, 1000), [2, 3]),
            (credits(9, 1000, 1, 1000), [1]),
            (credits(9, 1000, 9, 131), [1]),
        ],
    )
    def test_no_more_than_the_peer_takes(
        self, sender: Sender, room: tuple[Credit, ...], numbers: list[int]
    ) -> None:
        """Critical has its own: it neither waits for the others nor holds them up."""
        for priority in (CRITICAL, NORMAL, NORMAL):
            sender.queue(priority=priority)
        assert [number_of(m.message_id) for m in sender.next(room)] == numbers
        assert len(sender.lanes) == 3 - len(numbers)


class TestAcceptance:
    def test_of_a_batch(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(20)]
        batch, _ = sender.send()
        assert (sender.streams.in_flight, sender.streams.is_empty) == (20, False)
        assert sender.hear(ACCEPTED_BATCHES, bytes(32), batch.root) == messages
        assert (sender.streams.in_flight, sender.streams.is_empty) == (0, True)
        for index, message in enumerate(messages):
            assert message.state is ACCEPTED
            proven = verify_receipt(message.proof())
            assert (proven.envelope.sequence_number, proven.at_us) == (index + 1, 55)
            assert proven.envelope.body == message.body

    def test_of_some_envelopes(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(4)]
        batch, _ = sender.send()
        assert sender.hear(ACCEPTED_ENVELOPES, batch.leaves[1]) == [messages[1]]
        assert [m.state for m in messages] == [WRITTEN, ACCEPTED, WRITTEN, WRITTEN]
        others = [batch.leaves[n] for n in (3, 0, 2)]
        assert sender.hear(ACCEPTED_ENVELOPES, *others) == [messages[n] for n in (0, 2, 3)]
        assert sender.streams.is_empty
        for message in messages:
            assert verify_receipt(message.proof()).envelope.body == message.body

    def test_of_several_batches_at_once(self, sender: Sender) -> None:
        messages = [sender.queue(), sender.queue(priority=CRITICAL)]
        urgent, _ = sender.send()
        other, _ = sender.send()
        assert sender.hear(ACCEPTED_BATCHES, other.root, urgent.root) == messages

    def test_what_is_named_again_is_ignored(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(3)]
        batch, _ = sender.send()
        assert sender.hear(ACCEPTED_ENVELOPES, batch.leaves[0]) == [messages[0]]
        assert sender.hear(ACCEPTED_ENVELOPES, batch.leaves[0]) == []
        # The rest comes with the batch; what was told before is not told again.
        assert sender.hear(ACCEPTED_BATCHES, batch.root) == messages[1:]
        assert sender.hear(ACCEPTED_BATCHES, batch.root) == []
        assert sender.hear(ACCEPTED_ENVELOPES, *batch.leaves) == []
        for message in messages:
            assert [step.state for step in message.history] == [QUEUED, WRITTEN, ACCEPTED]

    @pytest.mark.parametrize("kind", [ACCEPTED_BATCHES, ACCEPTED_ENVELOPES, HANDLED_ENVELOPES])
    def test_what_is_not_known_is_ignored(self, sender: Sender, kind: int) -> None:
        message = sender.queue()
        sender.send()
        assert sender.hear(kind, bytes(32)) == []
        assert message.state is WRITTEN

    def test_a_root_is_no_leaf_and_a_leaf_is_no_root(self, sender: Sender) -> None:
        message = sender.queue()
        batch, _ = sender.send()
        assert sender.hear(ACCEPTED_BATCHES, *batch.leaves) == []
        assert sender.hear(ACCEPTED_ENVELOPES, batch.root) == []
        assert sender.hear(HANDLED_ENVELOPES, batch.root) == []
        assert message.state is WRITTEN

    @pytest.mark.parametrize("is_bulk", [False, True])
    def test_handled_accepts_what_has_no_answer_yet(self, sender: Sender, is_bulk: bool) -> None:
        """Its receipt went down with a link: the later word says as much, and proves it."""
        messages = [sender.queue(is_bulk=is_bulk) for _ in range(5)]
        batch, _ = sender.send()
        assert sender.hear(HANDLED_ENVELOPES, *batch.leaves[1:4]) == messages[1:4]
        told = ACCEPTED if is_bulk else HANDLED
        assert [one.state for one in messages] == [WRITTEN, told, told, told, WRITTEN]
        assert sender.streams.in_flight == 2
        for message in messages[1:4]:
            proven = verify_receipt(message.proof())
            assert proven.is_handled
            assert proven.envelope.body == message.body
        if not is_bulk:
            states = [step.state for step in messages[1].history]
            assert states == [QUEUED, WRITTEN, ACCEPTED, HANDLED]
        # The receipt that was thought lost is late: it moves those that are left.
        assert sender.hear(ACCEPTED_BATCHES, batch.root) == [messages[0], messages[4]]
        assert sender.streams.is_empty
        assert sender.hear(HANDLED_ENVELOPES, *batch.leaves) == []
        after = ACCEPTED if is_bulk else HANDLED
        assert {one.state for one in messages} == {after}

    def test_the_proof_of_what_was_handled_says_so(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(3)]
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        sender.hear(HANDLED_ENVELOPES, *batch.leaves[:2])
        proven = [verify_receipt(message.proof()) for message in messages]
        assert [one.is_handled for one in proven] == [True, True, False]
        assert [one.envelope.body for one in proven] == [one.body for one in messages]

    def test_those_whose_application_may_answer_yet(self, sender: Sender) -> None:
        messages = [sender.queue(), sender.queue(is_bulk=True), sender.queue(), sender.queue()]
        batch, _ = sender.send()
        assert sender.streams.followed() == []
        sender.hear(ACCEPTED_BATCHES, batch.root)
        sender.hear(HANDLED_ENVELOPES, batch.leaves[2])
        assert sender.streams.followed() == [messages[0], messages[3]]
        del messages[3]
        gc.collect()
        assert sender.streams.followed() == [messages[0]]

    def test_what_was_known_to_be_accepted_gets_its_proof(self, sender: Sender) -> None:
        message = sender.queue()
        batch, _ = sender.send()
        message.advance(ACCEPTED)
        assert sender.hear(ACCEPTED_BATCHES, batch.root) == [message]
        assert [step.state for step in message.history] == [QUEUED, WRITTEN, ACCEPTED]
        verify_receipt(message.proof())


class TestHandled:
    def test_single_messages_are_followed(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(3)]
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        assert sender.hear(HANDLED_ENVELOPES, batch.leaves[1], batch.leaves[1]) == []
        assert [m.state for m in messages] == [ACCEPTED, HANDLED, ACCEPTED]
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert {m.state for m in messages} == {HANDLED}

    def test_one_of_many_is_not(self, sender: Sender) -> None:
        """It ends at `accepted`, and costs no memory beyond."""
        many, single = sender.queue(is_bulk=True), sender.queue()
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert (many.state, single.state) == (ACCEPTED, HANDLED)
        verify_receipt(many.proof())

    def test_nothing_is_kept_of_what_is_handled(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(3)]
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert {m.state for m in messages} == {HANDLED}
        assert not sender.streams._receipted

    def test_only_many(self, sender: Sender) -> None:
        sender.queue(is_bulk=True)
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        assert not sender.streams._receipted

    @pytest.mark.parametrize("has_index", [False, True])
    def test_a_batch_that_was_aborted_is_forgotten(self, sender: Sender, has_index: bool) -> None:
        aborted, kept = sender.queue(), sender.queue()
        first, _ = sender.send(credits(1, 10**9, 1, 10**9))
        second, _ = sender.send()
        if has_index:
            sender.hear(ACCEPTED_ENVELOPES, bytes(32))
        assert sender.streams.aborted(first.root) == [aborted]
        assert sender.streams.aborted(first.root) == []
        assert sender.streams.in_flight == 1
        assert sender.hear(ACCEPTED_BATCHES, first.root) == []
        assert sender.hear(ACCEPTED_ENVELOPES, *first.leaves) == []
        assert sender.hear(ACCEPTED_BATCHES, second.root) == [kept]
        assert (sender.streams.in_flight, sender.streams.in_flight_bytes) == (0, 0)
        assert sender.streams.is_empty

    @pytest.mark.parametrize("dropped", [0, 1])
    def test_a_dropped_receipt_ends_no_other_one(self, sender: Sender, dropped: int) -> None:
        """Two were accepted one by one, and then one of them is no longer held."""
        receipts: list[Receipt | None] = [sender.queue(), sender.queue()]
        batch, _ = sender.send()
        for leaf in batch.leaves:
            sender.hear(ACCEPTED_ENVELOPES, leaf)
        receipts[dropped] = None
        gc.collect()
        kept = receipts[1 - dropped]
        assert kept is not None
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert kept.state is HANDLED

    def test_what_nobody_holds_is_forgotten(self, sender: Sender) -> None:
        receipts = [sender.queue() for _ in range(300)]
        gone = weakref.ref(receipts[0])
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        assert len(sender.streams._receipted) == 256
        del receipts[1:]
        gc.collect()
        # One held receipt keeps what its proof is made of.
        verify_receipt(receipts[0].proof())
        receipts.clear()
        gc.collect()
        assert gone() is None
        assert not sender.streams._receipted
        # And what comes late for them is ignored.
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert sender.refuse(batch.leaves[0]) == []

    def test_a_receipt_that_is_dropped_with_others_of_its_batch_held(self, sender: Sender) -> None:
        kept, dropped = sender.queue(), sender.queue()
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        del dropped
        gc.collect()
        assert sender.refuse(batch.leaves[1]) == []
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert kept.state is HANDLED


class TestRefusals:
    def test_in_flight(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(3)]
        batch, _ = sender.send()
        assert sender.refuse(batch.leaves[1], bytes(32), batch.leaves[1]) == [
            Refused(messages[1], was_accepted=False)
        ]
        assert sender.streams.in_flight == 2
        assert sender.hear(ACCEPTED_ENVELOPES, batch.leaves[0], batch.leaves[2]) == [
            messages[0],
            messages[2],
        ]
        assert sender.streams.is_empty

    def test_once(self, sender: Sender) -> None:
        """Also where others of the same batch have been accepted before."""
        messages = [sender.queue() for _ in range(3)]
        batch, _ = sender.send()
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[0])
        for _ in range(2):
            found = sender.refuse(batch.leaves[1])
            assert found == [Refused(messages[1], was_accepted=False)][: len(found)]
            assert len(found) == (0 if messages[1].is_final else 1)
            messages[1].advance(REFUSED, Reason.INBOX_FULL)
        # A receipt for it, against the refusal, changes nothing.
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[1])
        assert messages[1].state is REFUSED

    def test_of_a_whole_batch(self, sender: Sender) -> None:
        for _ in range(2):
            sender.queue()
        batch, _ = sender.send()
        assert len(sender.refuse(*batch.leaves)) == 2
        assert sender.streams.is_empty
        assert sender.take_unanswered() == []

    def test_after_it_was_accepted(self, sender: Sender) -> None:
        first, second = sender.queue(), sender.queue()
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        expected = Receipts(REFUSED_ENVELOPES, 55, (batch.leaves[1],))
        assert sender.streams.is_expected(expected)
        assert sender.refuse(batch.leaves[1]) == [Refused(second, was_accepted=True)]
        assert not sender.streams.is_expected(expected)
        assert sender.refuse(batch.leaves[1]) == []
        # It is settled: nothing more is heard of it.
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert (first.state, second.state) == (HANDLED, ACCEPTED)

    def test_an_answer_with_nothing_in_flight_costs_later_batches_nothing(
        self, sender: Sender
    ) -> None:
        """An index of leaves would have to take up each later batch."""
        sender.queue()
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        sender.hear(HANDLED_ENVELOPES, *batch.leaves)
        assert not sender.streams.is_expected(Receipts(HANDLED_ENVELOPES, 55, tuple(batch.leaves)))
        assert sender.refuse(bytes(32)) == []
        sender.queue()
        sender.send()
        assert sender.streams._by_leaf is None

    @pytest.mark.parametrize("is_accepted", [False, True])
    def test_of_two_answers_of_the_application_the_first_counts(
        self, sender: Sender, is_accepted: bool
    ) -> None:
        handled, refused = sender.queue(), sender.queue()
        batch, _ = sender.send()
        if is_accepted:
            sender.hear(ACCEPTED_BATCHES, batch.root)
        sender.hear(HANDLED_ENVELOPES, batch.leaves[0])
        assert sender.refuse(*batch.leaves) == [Refused(refused, was_accepted=is_accepted)]
        assert sender.hear(HANDLED_ENVELOPES, *batch.leaves) == []
        assert verify_receipt(handled.proof()).is_handled
        assert verify_receipt(refused.proof()).is_refused

    @pytest.mark.parametrize("is_accepted", [False, True])
    def test_each_has_a_proof(self, sender: Sender, is_accepted: bool) -> None:
        messages = [sender.queue(bytes([n])) for n in range(3)]
        batch, as_received = sender.send()
        if is_accepted:
            sender.hear(ACCEPTED_BATCHES, batch.root)
        sender.refuse(*batch.leaves[1:])
        for message, one in zip(messages[1:], as_received.bodies[1:], strict=True):
            proven = verify_receipt(message.proof())
            assert (proven.is_refused, proven.is_handled, proven.is_committed) == (
                True,
                False,
                False,
            )
            assert (proven.reason, proven.detail, proven.at_us) == (Reason.INBOX_FULL, "no", 55)
            assert proven.envelope.body == one

    def test_one_of_many_after_it_was_accepted_is_not_followed(self, sender: Sender) -> None:
        held = [sender.queue(is_bulk=True), sender.queue()]
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        assert sender.refuse(batch.leaves[0]) == []
        assert held[0].state is ACCEPTED


class TestWhatIsHeld:
    """A peer may answer some of a batch and never the rest: only that is held, and counted."""

    def test_what_is_answered_is_let_go(self, sender: Sender) -> None:
        held = [weakref.ref(sender.queue(bytes(9000), is_bulk=n == 5)) for n in range(6)]
        batch, _ = sender.send()
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[0], batch.leaves[5])
        sender.hear(HANDLED_ENVELOPES, batch.leaves[2])
        sender.refuse(batch.leaves[3])
        gc.collect()
        assert [one() is None for one in held] == [True, False, True, True, False, True]
        assert sender.streams.in_flight == 2

    def test_its_caller_keeps_its_own_list(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(3)]
        batch, _ = sender.send()
        written = next(iter(sender.streams._in_flight.values())).messages
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[1])
        assert written == messages

    def test_bytes_count_until_they_are_let_go(self, sender: Sender) -> None:
        streams, sizes = sender.streams, (10, 2000, 300)
        for size in sizes:
            sender.queue(bytes(size))
        batch, as_received = sender.send()
        weight = 3 * 96
        left = sum(map(len, as_received.bodies))
        assert streams.in_flight_bytes == left + weight
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[1])
        left -= len(as_received.bodies[1])
        assert streams.in_flight_bytes == left + weight
        sender.refuse(batch.leaves[0])
        assert streams.in_flight_bytes == len(as_received.bodies[2]) + weight
        sender.hear(ACCEPTED_BATCHES, batch.root)
        assert streams.in_flight_bytes == 0
        for size in sizes:
            sender.queue(bytes(size))
        sender.send()
        sender.take_unanswered()
        assert streams.in_flight_bytes == 0

    @pytest.mark.parametrize("size", [5, 200])
    def test_what_is_counted_is_what_it_costs(self, sender: Sender, size: int) -> None:
        """One of 256 is never answered: its batch has 256 hashes all the same."""
        terms = SendOptions(BOB.did, NORMAL)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(40):
                for number in range(MAX_BATCH_MESSAGES):
                    sender.lanes.put(OutgoingMessage(terms, id_of(number), bytes(size)), NORMAL)
                while sender.lanes:
                    batch, _ = sender.send()
                    sender.hear(ACCEPTED_ENVELOPES, *batch.leaves[1:])
            del batch, _
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert sender.streams.in_flight == (40 if size == 5 else 80)
        counted = sender.streams.in_flight_bytes
        assert counted / 1.5 < held < counted * 1.5, (held, counted)

    def test_proofs_need_no_other_message(self, sender: Sender) -> None:
        messages = [sender.queue(bytes([n]) * 9) for n in range(5)]
        batch, as_received = sender.send()
        kept = messages[3]
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[0], batch.leaves[3])
        del messages
        gc.collect()
        for kind, is_handled in ((ACCEPTED_BATCHES, False), (HANDLED_ENVELOPES, True)):
            sender.hear(kind, batch.root if kind == ACCEPTED_BATCHES else batch.leaves[3])
            proven = verify_receipt(kept.proof())
            assert proven.envelope.body == as_received.bodies[3]
            assert proven.is_handled == is_handled

    def test_a_refusal_keeps_the_bytes(self, sender: Sender) -> None:
        """Also where others of the batch have no answer yet."""
        messages = [sender.queue(bytes([n])) for n in range(3)]
        batch, as_received = sender.send()
        sender.hear(ACCEPTED_ENVELOPES, batch.leaves[1])
        assert sender.refuse(*batch.leaves[1:]) == [
            Refused(messages[1], was_accepted=True),
            Refused(messages[2], was_accepted=False),
        ]
        assert [message.body for message in messages] == as_received.bodies
        assert sender.take_unanswered() == [messages[0]]


class TestTakeBack:
    def test_what_has_no_answer_in_the_order_of_sending(self, sender: Sender) -> None:
        messages = [sender.queue() for _ in range(5)]
        first, _ = sender.send(credits(3, 10**6, 0, 0))
        second, _ = sender.send()
        sender.hear(ACCEPTED_ENVELOPES, first.leaves[1])
        sender.refuse(second.leaves[1])
        assert sender.take_unanswered() == [messages[0], messages[2], messages[3]]
        assert sender.streams.is_empty
        assert sender.take_unanswered() == []

    def test_numbers_and_bytes_stay(self, sender: Sender) -> None:
        messages = [sender.queue(bytes([n])) for n in range(6)]
        sender.send(credits(4, 10**6, 0, 0))
        before = [(message.sequence, message.body) for message in messages[:4]]
        sender.take_unanswered()
        late = sender.queue(b"late")
        # The new link has less credit, so they go in other batches.
        sizes = []
        while sender.lanes:
            _, batch = sender.send(credits(3, 10**6, 0, 0))
            sizes.append(len(batch.bodies))
        assert sizes == [3, 3, 1]
        assert [(message.sequence, message.body) for message in messages[:4]] == before
        assert [message.sequence for message in [*messages, late]] == list(range(1, 8))

    def test_the_receipt_of_the_lost_batch_is_no_longer_known(self, sender: Sender) -> None:
        messages = [sender.queue(), sender.queue()]
        lost, _ = sender.send()
        sender.take_unanswered()
        assert sender.hear(ACCEPTED_BATCHES, lost.root) == []
        again, _ = sender.send()
        assert again == lost  # the same messages in the same batch: the same bytes
        assert sender.hear(ACCEPTED_BATCHES, again.root) == messages

    def test_a_handled_one_is_not_sent_again(self, sender: Sender) -> None:
        sender.queue()
        batch, _ = sender.send()
        sender.hear(ACCEPTED_BATCHES, batch.root)
        assert sender.take_unanswered() == []


class Receiver:
    """The receiving half of a peer."""

    def __init__(self, epoch: int = EPOCH) -> None:
        self.streams = ReceiveStreams(THEM, US, 8192)
        self.streams.begin(epoch)

    def get(self, *bodies: bytes, now_us: int = 0, limit: int = 1000) -> Arrivals:
        return self.streams.arrived(received(list(bodies)), limit, now_us)


def leaf(one: bytes) -> bytes:
    """What receipts name a body by."""
    return received([one]).leaves[0]


def numbers(messages: list[IncomingMessage]) -> list[tuple[int, int]]:
    return [(message.stream % VOLATILE, message.sequence_number) for message in messages]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


class TestMarks:
    def test_new_ones_move_the_mark_of_their_lane(self, receiver: Receiver) -> None:
        arrivals = receiver.get(body(1), body(2))
        assert numbers(arrivals.new) == [(1, 1), (1, 2)]
        assert arrivals == Arrivals(arrivals.new, None, [], [], [], [])
        receiver.get(body(1, priority=LOW))
        assert numbers(receiver.get(body(7, priority=HIGH)).new) == [(2, 7)]
        assert receiver.streams.marks_now() == (1, 2, 7, 0)
        receiver.get(body(4, priority=CRITICAL))
        assert receiver.streams.marks_now() == (1, 2, 7, 4)
        for message, one in zip(arrivals.new, (body(1), body(2)), strict=True):
            message.envelope.verify()
            assert message.envelope.body == one

    def test_those_at_or_below_are_answered_again_and_not_delivered(
        self, receiver: Receiver
    ) -> None:
        receiver.get(body(1), body(2), body(3))
        arrivals = receiver.get(body(2), body(3), body(4))
        assert numbers(arrivals.new) == [(1, 4)]
        assert arrivals.duplicates == [leaf(body(2)), leaf(body(3))]
        assert arrivals.leaves is None
        assert receiver.get(body(4)).duplicates == [leaf(body(4))]
        assert receiver.streams.marks_now() == (0, 4, 0, 0)

    def test_twice_in_one_batch(self, receiver: Receiver) -> None:
        arrivals = receiver.get(body(1), body(1))
        assert numbers(arrivals.new) == [(1, 1)]
        assert arrivals.duplicates == [leaf(body(1))]
        assert arrivals.leaves is None

    def test_another_message_under_a_used_number_gets_no_receipt(self, receiver: Receiver) -> None:
        receiver.get(body(1), body(2), body(1, priority=HIGH))
        others = [body(2, b"other"), body(1, b"other", priority=HIGH)]
        batch = received([body(1), *others, body(3)])
        arrivals = receiver.streams.arrived(batch, 1000, 0)
        assert numbers(arrivals.new) == [(1, 3)]
        assert arrivals.duplicates == [leaf(body(1))]
        assert arrivals.leaves == [batch.leaves[0], batch.leaves[3]]
        assert arrivals.refusals == [
            Refusal(leaf(others[0]), Reason.DUPLICATE),
            Refusal(leaf(others[1]), Reason.DUPLICATE),
        ]

    def test_a_number_that_was_left_out_is_gone(self, receiver: Receiver) -> None:
        """It would come out of order."""
        receiver.get(body(3))
        arrivals = receiver.get(body(2))
        assert (arrivals.new, arrivals.leaves, arrivals.duplicates) == ([], [], [])
        assert arrivals.refusals == [Refusal(leaf(body(2)), Reason.DUPLICATE)]

    def test_of_each_lane_the_latest_are_remembered(self) -> None:
        streams = ReceiveStreams(THEM, US, 2)
        streams.begin(EPOCH)
        low = body(1, priority=LOW)
        old = [low, body(1), body(2)]
        for one in (*old, body(3)):
            assert streams.arrived(received([one]), 1000, 0).new
        assert streams.arrived(received([low]), 1000, 0).duplicates == [leaf(low)]
        arrivals = streams.arrived(received([*old[1:], body(3)]), 1000, 0)
        assert arrivals.duplicates == [leaf(body(2)), leaf(body(3))]
        assert arrivals.refusals == [Refusal(leaf(body(1)), Reason.DUPLICATE)]

    def test_a_leaf_across_two_others_is_another(self, receiver: Receiver) -> None:
        first, second = bytes(range(32)), bytes(range(32, 64))
        across = first[16:] + second[:16]

        def get(leaves: list[bytes], *bodies: bytes) -> Arrivals:
            batch = BatchReceived(list(bodies), bytes(32), leaves, bytes(64))
            return receiver.streams.arrived(batch, 1000, 0)

        get([first, second], body(1), body(2))
        other = get([across], body(1, b"other"))
        assert (other.duplicates, other.refusals) == ([], [Refusal(across, Reason.DUPLICATE)])
        get([across], body(3))
        assert get([across], body(3)).duplicates == [across]

    def test_there_is_no_message_zero(self, receiver: Receiver) -> None:
        """At or below every mark: it would get a receipt and never be delivered."""
        arrivals = receiver.get(body(0))
        assert (arrivals.new, arrivals.leaves, arrivals.duplicates) == ([], [], [])
        assert arrivals.refusals == [Refusal(leaf(body(0)), Reason.MALFORMED)]

    def test_epochs(self) -> None:
        streams = ReceiveStreams(THEM, US, 8192)
        assert (streams.epoch, streams.marks_now()) == (0, (0, 0, 0, 0))
        streams.begin(5)
        assert streams.arrived(received([body(3, epoch=5)]), 1000, 0).new
        assert (streams.epoch, streams.marks_now()) == (5, (0, 3, 0, 0))
        streams.begin(6)
        assert (streams.epoch, streams.marks_now()) == (6, (0, 0, 0, 0))

    @pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
    def test_an_envelope_of_another_epoch(self, receiver: Receiver, epoch: int) -> None:
        stray = body(1, epoch=epoch)
        arrivals = receiver.get(stray)
        assert arrivals.refusals == [Refusal(leaf(stray), Reason.MALFORMED)]
        assert receiver.streams.marks_now() == (0, 0, 0, 0)


def changed(at: int, value: bytes) -> bytes:
    one = body(5)
    return one[:at] + value + one[at + len(value) :]


class TestFlaws:
    @pytest.mark.parametrize(
        ("flawed", "reason"),
        [
            (body(5, recipient=EVE), Reason.NOT_FOR_US),
            (body(5, sender=EVE), Reason.MALFORMED),
            (body(5, sender=EVE, recipient=EVE), Reason.MALFORMED),
            (body(5, sender=BOB, recipient=ALICE), Reason.MALFORMED),
            (body(5, bytes(1001)), Reason.TOO_LARGE),
            (body(5, bytes(1001), recipient=EVE), Reason.TOO_LARGE),
            (body(5, priority=4), Reason.MALFORMED),
            (body(5, priority=255), Reason.MALFORMED),
            (body(5, payload_type=5), Reason.MALFORMED),
            (changed(0, b"X"), Reason.MALFORMED),
            (changed(4, b"\7"), Reason.MALFORMED),
        ],
    )
    def test_are_refused_by_leaf_and_move_nothing(
        self, receiver: Receiver, flawed: bytes, reason: Reason
    ) -> None:
        batch = received([body(1), flawed, body(2)])
        arrivals = receiver.streams.arrived(batch, 1000, 0)
        assert numbers(arrivals.new) == [(1, 1), (1, 2)]
        assert arrivals.refusals == [Refusal(leaf(flawed), reason)]
        assert (arrivals.late, arrivals.invalid) == ([], [1])
        # A receipt for those that were accepted alone, never for the batch.
        assert arrivals.leaves == [batch.leaves[0], batch.leaves[2]]
        assert receiver.streams.marks_now() == (0, 2, 0, 0)

    def test_the_largest_payload(self, receiver: Receiver) -> None:
        assert receiver.get(body(1, bytes(1000))).refusals == []

    @pytest.mark.parametrize("signer", [EVE])
    def test_a_batch_whose_signature_does_not_fit(
        self, receiver: Receiver, signer: Identity
    ) -> None:
        bodies = [body(5, sender=signer), body(6, priority=200)]
        assert receiver.streams.failed(BatchFailed(bodies)) == [
            Refusal(leaf(bodies[0]), Reason.BAD_SIGNATURE),
            Refusal(leaf(bodies[1]), Reason.BAD_SIGNATURE),
        ]
        assert receiver.streams.marks_now() == (0, 0, 0, 0)


class TestExpiry:
    @pytest.mark.parametrize(
        ("expires_at_us", "is_late"), [(0, False), (99, True), (100, True), (101, False)]
    )
    def test_at_arrival(self, receiver: Receiver, expires_at_us: int, is_late: bool) -> None:
        one = body(1, expires_at_us=expires_at_us)
        arrivals = receiver.get(one, now_us=100)
        assert arrivals.refusals == ([Refusal(leaf(one), Reason.EXPIRED)] if is_late else [])
        assert len(arrivals.new) == (not is_late)
        assert arrivals.leaves == ([] if is_late else None)
        assert receiver.streams.marks_now() == (0, 1, 0, 0)

    def test_a_lost_refusal_does_not_become_a_receipt(self, receiver: Receiver) -> None:
        """The link broke, and the sender sends everything again: the answer is the same."""
        late, good = body(1, expires_at_us=99), body(2)
        batch = received([late, good])
        for is_again in (False, True):
            arrivals = receiver.streams.arrived(batch, 1000, 100)
            assert arrivals.refusals == [Refusal(leaf(late), Reason.EXPIRED)]
            assert arrivals.leaves == [batch.leaves[1]]
            assert arrivals.duplicates == ([leaf(good)] if is_again else [])
            assert arrivals.late == ([] if is_again else [0])
            assert arrivals.invalid == ([0] if is_again else [])

    def test_a_message_that_was_accepted_in_time_stays_so(self, receiver: Receiver) -> None:
        one = body(1, expires_at_us=100)
        assert receiver.get(one, now_us=99).new
        arrivals = receiver.get(one, now_us=200)
        assert (arrivals.duplicates, arrivals.leaves) == ([leaf(one)], None)


def test_links_that_break_at_random() -> None:
    """Whatever is lost on the way, each message arrives once, in order, and is answered truly."""
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")  # shown when it fails
    draw = random.Random(seed)
    sender, receiver = Sender(), Receiver()
    messages: list[OutgoingMessage] = []
    delivered: list[tuple[int, int]] = []
    late: set[bytes] = set()

    def answer(batch: BatchReceived) -> None:
        arrivals = receiver.streams.arrived(batch, 1000, unix_time_us())
        delivered.extend(numbers(arrivals.new))
        late.update(refusal.leaf for refusal in arrivals.refusals)
        if draw.random() < 0.3:
            return  # the answers are lost
        if arrivals.leaves is None:
            sender.hear(ACCEPTED_BATCHES, batch.root)
        elif arrivals.leaves:
            sender.hear(ACCEPTED_ENVELOPES, *arrivals.leaves)
        if arrivals.refusals and draw.random() < 0.7:
            leaves = [refusal.leaf for refusal in arrivals.refusals]
            for message, _ in sender.refuse(*leaves, reason=Reason.EXPIRED):
                message.advance(EXPIRED, Reason.EXPIRED)

    for turn in range(400):
        for _ in range(draw.randrange(6) if turn < 350 else 0):
            left = draw.choice((-3600, 3600)) if draw.random() < 0.2 else None
            expires_at = None if left is None else time.monotonic() + left
            priority = draw.choice(tuple(Priority))
            messages.append(sender.queue(draw.randbytes(9), priority, expires_at=expires_at))
        room = credits(draw.randrange(1, 9), 10**6, draw.randrange(1, 3), 10**6)
        for _ in range(draw.randrange(1, 5)):
            if sender.lanes:
                _, batch = sender.send(room)
                if draw.random() < 0.2:
                    break  # lost on the way, and all that follows with it
                answer(batch)
        else:
            if turn % 3:
                continue
        sender.take_unanswered()
    while sender.lanes:
        while sender.lanes:
            _, batch = sender.send()
            answer(batch)
        sender.take_unanswered()
    for lane in Priority:
        order = [sequence for number, sequence in delivered if number == lane]
        assert order == sorted(set(order))
    for message in messages:
        place = (int(message.priority), message.sequence)
        state = message.state
        assert (place in set(delivered)) == (state is ACCEPTED), (place, state)
        assert (leaf(message.body) in late) == (state is EXPIRED), (place, state)
        proven = verify_receipt(message.proof())
        assert proven.envelope.body == message.body
        assert proven.is_refused == (state is EXPIRED)
    assert late
