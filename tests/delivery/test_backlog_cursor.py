"""`BacklogCursor`: which messages come into the queue at once, and which are loaded later."""

from __future__ import annotations

import gc
import random
import sys
import threading

import pytest

from signedwire.delivery.backlog_cursor import BacklogCursor, BacklogCursors
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.store import MemoryStore, Store
from signedwire.types import DeliveryState, Priority
from storekit import OTHER, PEER, US, stored

LOW, NORMAL, HIGH, CRITICAL = Priority


@pytest.fixture
def store() -> Store:
    return MemoryStore(US)


@pytest.fixture
def cursor() -> BacklogCursor:
    return BacklogCursor()


def lanes_of(limit: int = 100) -> SendQueue[OutgoingMessage]:
    return SendQueue(limit, 0)


class TestCommit:
    def test_into_an_empty_queue(self, store: Store, cursor: BacklogCursor) -> None:
        message, lanes = stored(store), lanes_of()
        cursor.commit(message, lanes, store.epoch(PEER))
        assert list(lanes) == [message]
        assert not cursor.is_behind(NORMAL)
        assert cursor.next_lane() is None

    def test_a_full_queue(self, store: Store, cursor: BacklogCursor) -> None:
        first, second, lanes = stored(store), stored(store), lanes_of(1)
        for message in (first, second):
            cursor.commit(message, lanes, store.epoch(PEER))
        assert list(lanes) == [first]
        assert second.body == b""
        assert cursor.next_lane() == NORMAL

    def test_behind_a_row_that_the_store_alone_has(
        self, store: Store, cursor: BacklogCursor
    ) -> None:
        messages, lanes = [stored(store) for _ in range(3)], lanes_of(1)
        for message in messages[:2]:
            cursor.commit(message, lanes, store.epoch(PEER))
        assert lanes.take() is messages[0]
        cursor.commit(messages[2], lanes, store.epoch(PEER))
        assert not lanes, "the third would be sent before the second"

    def test_another_lane_is_apart(self, store: Store, cursor: BacklogCursor) -> None:
        lanes = lanes_of(100)
        cursor.committed_row[NORMAL] = 7
        message = stored(store, priority=HIGH)
        cursor.commit(message, lanes, store.epoch(PEER))
        assert list(lanes) == [message]
        assert cursor.next_lane() == NORMAL

    @pytest.mark.parametrize("epoch", [None, 1])
    def test_no_way_or_another_epoch(
        self, store: Store, cursor: BacklogCursor, epoch: int | None
    ) -> None:
        message, lanes = stored(store), lanes_of()
        assert store.epoch(PEER) != 1
        cursor.commit(message, lanes, epoch)
        assert not lanes
        assert message.body == b""
        assert cursor.is_behind(NORMAL)

    def test_a_row_that_was_removed(self, store: Store, cursor: BacklogCursor) -> None:
        message, lanes = stored(store), lanes_of()
        message.advance(DeliveryState.EXPIRED)
        cursor.commit(message, lanes, store.epoch(PEER))
        assert not lanes
        assert cursor.committed_row[NORMAL] == message.row

    def test_a_message_that_was_loaded_before_its_commit_was_reported(
        self, store: Store, cursor: BacklogCursor
    ) -> None:
        message, lanes = stored(store), lanes_of()
        cursor.loaded_row[NORMAL] = message.row
        cursor.commit(message, lanes, store.epoch(PEER))
        assert not lanes, "it would be sent twice"
        assert message.body

    def test_commits_that_are_reported_in_another_order(
        self, store: Store, cursor: BacklogCursor
    ) -> None:
        first, second = stored(store), stored(store)
        for message in (second, first):
            cursor.commit(message, lanes_of(), None)
        assert cursor.committed_row[NORMAL] == second.row


class TestPages:
    def test_the_highest_lane_first(self, cursor: BacklogCursor) -> None:
        cursor.scan_all()
        order = []
        while (lane := cursor.next_lane()) is not None:
            order.append(lane)
            cursor.page_loaded(lane, [], 0)
        assert order == [CRITICAL, HIGH, NORMAL, LOW]

    def test_until_a_page_is_empty(self, store: Store, cursor: BacklogCursor) -> None:
        stored(store)
        last = stored(store)
        cursor.must_scan[NORMAL] = True
        rows = store.load(PEER, NORMAL, 0, 10).result()
        cursor.page_loaded(NORMAL, rows, 0)
        assert cursor.loaded_row[NORMAL] == last.row
        assert cursor.is_behind(NORMAL), "the page may have had no room for more"
        cursor.page_loaded(NORMAL, [], 0)
        assert not cursor.is_behind(NORMAL)

    def test_rows_that_were_removed_before_they_were_read(self, cursor: BacklogCursor) -> None:
        cursor.committed_row[NORMAL] = 9
        cursor.page_loaded(NORMAL, [], 9)
        assert cursor.next_lane() is None

    def test_a_commit_while_an_empty_page_is_read(self, cursor: BacklogCursor) -> None:
        cursor.committed_row[NORMAL] = 10
        cursor.page_loaded(NORMAL, [], 9)
        assert cursor.next_lane() == NORMAL, "row 10 would never be sent"


class TestRestart:
    @pytest.mark.parametrize(
        ("marks", "accepted"),
        [
            (None, [4, 3, 2, 1]),
            ([9, 9, 9, 9], [4, 3, 2, 1]),
            ([0, 1, 2, 0], [0, 1, 2, 0]),
        ],
    )
    def test_it_begins_at_the_first_row(
        self, cursor: BacklogCursor, marks: list[int] | None, accepted: list[int]
    ) -> None:
        cursor.loaded_row = [5, 5, 5, 5]
        cursor.restart([4, 3, 2, 1], marks)
        assert cursor.accepted == accepted
        assert cursor.loaded_row == [0, 0, 0, 0]
        assert cursor.next_lane() == CRITICAL
        assert cursor.restarts == 1


def test_each_message_comes_once_and_in_order() -> None:
    """Random commits, full queues, removed rows and pages, against the order of storing."""
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed={seed}\n")
    draw = random.Random(seed)
    for _ in range(60):
        store, cursor, lanes = MemoryStore(US), BacklogCursor(), lanes_of(draw.randint(1, 4))
        messages = [stored(store) for _ in range(draw.randint(1, 30))]
        epoch, waiting, got = store.epoch(PEER), list(messages), list[int]()
        removed: set[int] = set()
        while waiting or lanes or cursor.is_behind(NORMAL):
            step = draw.random()
            if waiting and step < 0.4:
                message = waiting.pop(0)
                if draw.random() < 0.2:
                    store.settled(PEER, [(NORMAL, message.row)])
                    message.advance(DeliveryState.EXPIRED)
                    removed.add(message.row)
                cursor.commit(message, lanes, epoch if draw.random() < 0.8 else None)
            elif lanes and step < 0.7:
                taken = lanes.take()
                assert taken is not None
                got.append(taken.row)
                store.settled(PEER, [(NORMAL, taken.row)])
            elif cursor.is_behind(NORMAL) and lanes.has_room(NORMAL):
                # As the driver does: a page may reach beyond the commits that were reported.
                committed = cursor.committed_row[NORMAL]
                rows = store.load(PEER, NORMAL, cursor.loaded_row[NORMAL], 5).result()
                cursor.page_loaded(NORMAL, rows, committed)
                lanes.add_many([messages[row.row - 1] for row in rows], NORMAL)
        left = set(got) | removed
        assert got == sorted(set(got)), f"seed={seed}"
        assert left == {message.row for message in messages}, f"seed={seed}"


class TestCursors:
    def test_one_for_each_peer(self) -> None:
        cursors = BacklogCursors(threading.Lock())
        assert cursors[PEER] is cursors[PEER]
        assert cursors[PEER] is not cursors[OTHER]

    def test_receipts_are_kept_while_somebody_holds_them(self, store: Store) -> None:
        cursors = BacklogCursors(threading.Lock())
        mine, other = stored(store), stored(store, recipient=OTHER)
        cursors[PEER].receipts[NORMAL, mine.row] = mine
        cursors[OTHER].receipts[NORMAL, other.row] = other
        assert set(cursors.receipts()) == {mine, other}
        rows = store.load(PEER, NORMAL, 0, 10).result()
        assert cursors.held(cursors[PEER], NORMAL, rows) == [mine]
        assert cursors.held(cursors[PEER], HIGH, rows) == [None]
        del mine
        gc.collect()
        assert cursors.held(cursors[PEER], NORMAL, rows) == [None]
