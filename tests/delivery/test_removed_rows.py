"""`RemovedRows`: how messages end whose rows the store has removed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from peerkit import Desk, FakeStore, ManualClock, still_clock

from signedwire.delivery.advice import UNANSWERED
from signedwire.delivery.backlog_cursor import BacklogCursors
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.removed_rows import RemovedRows
from signedwire.delivery.send_progress import SendProgress
from signedwire.delivery.store import MemoryStore, RowName
from signedwire.types import DeliveryState, Did, Priority, Reason
from storekit import OTHER, PEER, US, stored

NORMAL = Priority.NORMAL


@pytest.fixture(autouse=True)
def still() -> Iterator[ManualClock]:
    with still_clock() as clock:
        yield clock


class Bench:
    """Peers with stored messages, and what ends them."""

    def __init__(self) -> None:
        self.desk = Desk(store=FakeStore)
        self.store = MemoryStore(US)
        self.cursors = BacklogCursors(threading.Lock())
        self.removed = RemovedRows(self.desk.peers, self.cursors, SendProgress(self.store))

    def message(self, did: Did = PEER, *, is_queued: bool = True) -> OutgoingMessage:
        message = stored(self.store, recipient=did)
        self.cursors[did].receipts[NORMAL, message.row] = message
        if is_queued:
            self.desk.peers.session(did).sender.lanes.put(message, NORMAL)
        return message

    def queued(self, did: Did = PEER) -> list[OutgoingMessage]:
        return list(self.desk.peers.session(did).sender.lanes)


def name(message: OutgoingMessage) -> RowName:
    return RowName(message.recipient, NORMAL, message.row)


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestQueued:
    @pytest.mark.parametrize(
        ("reason", "state"),
        [
            (Reason.EXPIRED, DeliveryState.EXPIRED),
            (Reason.DROPPED, DeliveryState.FAILED),
            (Reason.DENIED, DeliveryState.FAILED),
        ],
    )
    def test_leaves_the_queue(self, bench: Bench, reason: Reason, state: DeliveryState) -> None:
        first, second = bench.message(), bench.message()
        bench.removed.end([name(first)], reason)
        assert (first.state, first.reason) == (state, reason)
        assert first.body == b""
        assert bench.queued() == [second]
        assert bench.desk.host.dropped(reason) == 1

    def test_makes_no_dead_letter_of_a_row_that_is_gone(self, bench: Bench) -> None:
        bench.removed.end([name(bench.message())], Reason.DROPPED)
        assert bench.desk.store.called("ended") == []

    def test_of_two_peers(self, bench: Bench) -> None:
        mine, other, left = bench.message(), bench.message(OTHER), bench.message(OTHER)
        assert (mine.row, other.row) == (1, 1)
        bench.removed.end([name(mine), name(other)], Reason.DROPPED)
        assert bench.queued() == []
        assert bench.queued(OTHER) == [left]


class TestElsewhere:
    def test_in_the_store_alone(self, bench: Bench) -> None:
        message = bench.message(is_queued=False)
        bench.removed.end([name(message)], Reason.EXPIRED)
        assert message.state is DeliveryState.EXPIRED
        assert bench.desk.host.dropped(Reason.EXPIRED) == 1

    def test_without_a_receipt_it_is_counted(self, bench: Bench) -> None:
        bench.removed.end([RowName(PEER, NORMAL, 99)], Reason.AGED_OUT)
        assert bench.desk.host.dropped(Reason.AGED_OUT) == 1

    def test_an_answer_that_came_before_the_deadline_counts(self, bench: Bench) -> None:
        message = bench.message(is_queued=False)
        message.advance(DeliveryState.ACCEPTED)
        bench.removed.end([name(message)], Reason.EXPIRED)
        assert message.state is DeliveryState.ACCEPTED
        assert bench.desk.host.dropped(Reason.EXPIRED) == 0


class TestCause:
    def test_whether_the_peer_may_have_it(self, bench: Bench) -> None:
        written, queued, flying = bench.message(), bench.message(), bench.message(is_queued=False)
        bench.store.written(PEER, NORMAL, written.row)
        bench.removed.end([name(written), name(queued), name(flying)], Reason.EXPIRED)
        assert [message.detail for message in (written, queued, flying)] == [UNANSWERED, "", ""]

    def test_one_that_is_given(self, bench: Bench) -> None:
        queued, flying = bench.message(), bench.message(is_queued=False)
        bench.removed.end([name(queued), name(flying)], Reason.DENIED, "the peer is denied")
        assert {queued.detail, flying.detail} == {"the peer is denied"}
