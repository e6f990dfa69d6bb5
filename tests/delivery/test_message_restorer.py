"""`MessageRestorer`: which rows become messages again, and with which deadlines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from peerkit import Desk, ManualClock, still_clock

from idkit import id_of, number_of
from signedwire import clock
from signedwire.clock import WallInstant
from signedwire.delivery.backlog_cursor import BacklogCursor
from signedwire.delivery.message_restorer import MessageRestorer
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.store import MemoryStore, OutgoingRow, Store
from signedwire.types import DeliveryState, Did, Priority, Reason
from signedwire.wire.header import expiry_of
from storekit import OTHER, PEER, US, stored

NORMAL, HIGH = Priority.NORMAL, Priority.HIGH


@pytest.fixture(autouse=True)
def still() -> Iterator[ManualClock]:
    with still_clock() as clock_:
        yield clock_


@pytest.fixture
def store() -> Store:
    return MemoryStore(US)


def rows_of(store: Store, lane: Priority = NORMAL) -> list[OutgoingRow]:
    return store.load(PEER, lane, 0, 100).result()


class Bench:
    """A restorer, and the queue to `PEER`."""

    def __init__(self, store: Store, us: Did = US) -> None:
        self.restorer = MessageRestorer(store, us)
        self.queue = Desk().session().sender
        assert self.queue.did == PEER
        self.cursor = BacklogCursor()

    def messages(
        self, rows: list[OutgoingRow], *held: OutgoingMessage, lane: Priority = NORMAL
    ) -> list[OutgoingMessage]:
        known: list[OutgoingMessage | None] = [*held] or [None for _ in rows]
        return self.restorer.messages(self.queue, self.cursor, lane, rows, known)

    def given_up(self, rows: list[OutgoingRow]) -> list[Reason | None]:
        """Why the messages of the rows are given up."""
        held = [OutgoingMessage(stored(MemoryStore(US)).options, id_of(1)) for _ in rows]
        sent = self.messages(rows, *held)
        assert [message.reason for message in sent] == [None] * len(sent)
        return [message.reason for message in held if message not in sent]


class TestRows:
    def test_without_a_receipt(self, store: Store) -> None:
        original = stored(store, b"abc", priority=HIGH)
        bench = Bench(store)
        (message,) = bench.messages(rows_of(store, HIGH), lane=HIGH)
        assert message is not original
        assert (message.body, message.row) == (original.body, original.row)
        assert (message.recipient, message.priority) == (PEER, HIGH)
        assert number_of(message.message_id) == number_of(original.message_id)
        assert message.state is DeliveryState.PERSISTED
        assert message.is_stored
        assert not message.was_written
        assert bench.cursor.receipts[HIGH, message.row] is message

    def test_with_a_receipt(self, store: Store) -> None:
        original = stored(store)
        body = original.body
        original.release()
        (message,) = Bench(store).messages(rows_of(store), original)
        assert message is original
        assert message.body == body

    def test_written_rows_are_marked(self, store: Store) -> None:
        first, second = stored(store), stored(store)
        store.written(PEER, NORMAL, first.row)
        messages = Bench(store).messages(rows_of(store))
        assert [message.was_written for message in messages] == [True, False]
        assert [message.row for message in messages] == [first.row, second.row]


class TestForeignRows:
    @pytest.mark.parametrize("what", ["sender", "recipient", "lane", "sequence", "version"])
    def test_are_not_signed(self, store: Store, what: str) -> None:
        stored(store)
        (row,) = rows_of(store)
        us = US
        if what == "sender":
            us = OTHER
        elif what == "recipient":
            row = row._replace(body=row.body.replace(bytes(PEER), bytes(OTHER)))
        elif what == "lane":
            other = MemoryStore(US)
            stored(other, priority=HIGH)
            (row,) = rows_of(other, HIGH)
        elif what == "sequence":
            row = row._replace(id=row.id + 1)
        else:
            row = row._replace(body=b"\0" + row.body[1:])
        bench = Bench(store, us)
        assert bench.given_up([row]) == [Reason.MALFORMED]
        assert bench.queue.dropped == {Reason.MALFORMED: 1}


class TestRestarts:
    def test_what_the_peer_may_have_is_not_sent_in_another_epoch(self, store: Store) -> None:
        messages = [stored(store) for _ in range(4)]
        store.written(PEER, NORMAL, messages[1].row)
        bench = Bench(store)
        assert bench.given_up(rows_of(store)) == []
        bench.cursor.restart([messages[2].sequence] * 4, None)
        assert bench.given_up(rows_of(store)) == [Reason.STALE_EPOCH] * 3


class TestDeadlines:
    def test_seconds_follow_the_monotonic_clock(self, store: Store, still: ManualClock) -> None:
        stored(store, expires_at=clock.monotonic() + 50)
        stored(store, expires_at=WallInstant(clock.unix_time() + 50))
        still.move(20)
        seconds, date = Bench(store).messages(rows_of(store))
        assert clock.left(seconds.expires_at or 0) == pytest.approx(30)
        assert not isinstance(seconds.expires_at, WallInstant)
        assert isinstance(date.expires_at, WallInstant)
        assert clock.left(date.expires_at) == pytest.approx(30)

    def test_only_seconds_of_unwritten_messages_move(self, store: Store) -> None:
        seconds = stored(store, expires_at=clock.monotonic() + 50)
        date = stored(store, expires_at=WallInstant(clock.unix_time() + 50))
        without, written = stored(store), stored(store, expires_at=clock.monotonic() + 50)
        unstored = stored(store, expires_at=clock.monotonic() + 50)
        written.was_written = True
        unstored.is_stored = False
        messages = [seconds, date, without, written, unstored]
        before = [expiry_of(message.body) for message in messages]
        Bench(store).restorer.move_deadlines(PEER, messages, 4_000_000)
        after = [expiry_of(message.body) for message in messages]
        assert after[0] == (before[0] or 0) + 4_000_000
        assert after[1:] == before[1:]

    def test_seconds_of_an_earlier_process_stay(self, store: Store) -> None:
        message = stored(store, expires_at=clock.monotonic() + 50)
        store.lane(PEER, NORMAL).opened_at = message.row + 1
        body = message.body
        Bench(store).restorer.move_deadlines(PEER, [message], 4_000_000)
        assert message.body == body
        (again,) = Bench(store).messages(rows_of(store))
        assert isinstance(again.expires_at, WallInstant), "only its date is known"
