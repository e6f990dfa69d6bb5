"""The guarantees of a store, in memory and in a file."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from idkit import number_of
from linkkit import ALICE, BOB, body, received
from signedwire.delivery.store import Backlog, Marks, SqliteStore, Store, StoreLimits
from signedwire.delivery.store.commits import Inline, Writer
from signedwire.delivery.store.ledger import BatchRecord
from signedwire.delivery.store.records import Unaccepted
from signedwire.errors import BackpressureError, ClosedError, StoreError, StoreFullError
from signedwire.identity import Identity
from signedwire.types import PayloadType, Priority, Reason, unix_time_us
from storekit import LIMIT, OTHER, PEER, US, Note, Told, accept, held, make, put, told

LOW, NORMAL, HIGH, CRITICAL = Priority
PAST = 1
SIZE = 126 + 5  # of the row of a `Note`
NO_LEAVES: Any = (([], [], [], []), [], [])


@pytest.fixture(params=["memory", "sqlite", "sqlite without a thread"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    opened: list[Store] = []

    def open_(limits: StoreLimits | None = None, **options: Any) -> Store:
        opened.append(make(request.param, tmp_path / "node.db", limits, **options))
        return opened[-1]

    yield open_
    for store in opened:
        assert store.close(LIMIT)


@pytest.fixture
def store(opener: Callable[..., Store]) -> Store:
    return opener()


def sequences(store: Store, lane: int = NORMAL, after: int = 0, limit: int = 100) -> list[int]:
    return [row.sequence for row in store.load(PEER, lane, after, limit).result(LIMIT)]


def append(order: list[int], note: Note, _: StoreError | None) -> None:
    order.append(note.sequence)


class TestOutgoing:
    def test_numbers_each_lane_by_itself(self, store: Store) -> None:
        notes = [Note(), Note(priority=CRITICAL), Note(), Note(priority=LOW)]
        put(store, *notes)
        assert [note.sequence for note in notes] == [1, 1, 2, 1]
        assert sequences(store) == [1, 2]
        assert sequences(store, CRITICAL) == [1]
        other = Note()
        put(store, other, recipient=OTHER)
        assert other.sequence == 1

    def test_gives_back_the_very_bytes(self, store: Store) -> None:
        note = Note(bytes(range(256)), expires_at_us=2**50, queued_at_us=77)
        put(store, note)
        (row,) = store.load(PEER, NORMAL, 0, 10).result(LIMIT)
        assert row.body == note.body
        assert row.payload == bytes(range(256))
        assert (row.recipient, row.lane, row.sequence) == (PEER, NORMAL, 1)
        assert row.epoch == note.epoch == store.epoch(PEER)
        assert (row.expires_at_us, row.queued_at_us) == (2**50, 77)
        assert (row.is_written, row.attempts, row.last_error) == (False, 0, None)

    def test_one_epoch_to_a_peer(self, store: Store) -> None:
        before = unix_time_us()
        epoch = store.epoch(PEER)
        assert before <= epoch <= unix_time_us()
        assert store.epoch(PEER) == epoch

    def test_a_newer_epoch_is_in_the_rows(self, store: Store) -> None:
        put(store, Note(), Note())
        newer = store.epoch(PEER) + 5
        assert told(store.begin_epoch, PEER, newer) is None
        rows = store.load(PEER, NORMAL, 0, 10).result(LIMIT)
        assert [(row.epoch, row.sequence, row.payload) for row in rows] == [
            (newer, 1, b"hello"),
            (newer, 2, b"hello"),
        ]
        note = Note()
        put(store, note)
        assert (note.epoch, note.sequence) == (newer, 3)

    @pytest.mark.parametrize("epoch", [0, 1, 2**63])
    def test_no_other_epoch(self, store: Store, epoch: int) -> None:
        store.epoch(PEER)
        with pytest.raises(ValueError, match="is not between"):
            store.begin_epoch(PEER, epoch)

    def test_settled_rows_go(self, store: Store) -> None:
        put(store, *[Note() for _ in range(40)])
        wanted = [(NORMAL, sequence) for sequence in (1, 2, 40, *range(10, 30))]
        assert told(store.settled, PEER, wanted) is None
        assert sequences(store) == [*range(3, 10), *range(30, 40)]
        assert store.backlog(PEER) == Backlog(17, 17 * SIZE)
        # Removed rows, and rows that never existed: nothing happens.
        assert told(store.settled, PEER, [*wanted, (CRITICAL, 9), (NORMAL, 99)]) is None
        assert store.backlog() == Backlog(17, 17 * SIZE)

    def test_pages_are_in_order_and_bounded(self, store: Store) -> None:
        for _ in range(30):
            put(store, *[Note(b"x" * 878) for _ in range(10)])
        assert sequences(store, limit=7) == list(range(1, 8))
        assert sequences(store, after=295) == list(range(296, 301))
        rows = store.load(PEER, NORMAL, 100, 50, max_bytes=3500).result(LIMIT)
        assert [row.sequence for row in rows] == [101, 102, 103]
        assert len(store.load(PEER, NORMAL, 0, 50, max_bytes=1).result(LIMIT)) == 1

    def test_large_puts(self, store: Store) -> None:
        for count in (1, 2, 3, 1023, 1024, 1025, 2500):
            put(store, *[Note(b"n") for _ in range(count)])
        total = 1 + 2 + 3 + 1023 + 1024 + 1025 + 2500
        assert sequences(store, limit=10_000) == list(range(1, total + 1))
        assert told(store.settled, PEER, [(NORMAL, n) for n in range(1, total + 1, 2)]) is None
        assert store.backlog(PEER).rows == total // 2
        assert told(store.settled, PEER, [(NORMAL, n) for n in range(1, total + 1)]) is None
        assert store.backlog() == Backlog(0, 0)

    def test_counts_at_once(self, store: Store) -> None:
        assert store.backlog(PEER) == store.backlog() == Backlog(0, 0)
        store.put(PEER, [Note(), Note()])
        store.put(OTHER, [Note()])
        assert store.backlog(PEER) == Backlog(2, 2 * SIZE)
        assert store.backlog() == Backlog(3, 3 * SIZE)
        assert store.recipients() == [PEER, OTHER]

    def test_told_in_order(self, store: Store) -> None:
        order: list[int] = []
        notes = [Note() for _ in range(300)]
        last = Told()
        for note in notes:
            store.put(PEER, [note], on_commit=partial(append, order, note))
        store.barrier(last)
        assert last.wait() is None
        assert order == list(range(1, 301))

    def test_many_threads(self, store: Store) -> None:
        if isinstance(store, SqliteStore) and isinstance(store._executor, Inline):
            pytest.skip("its one thread is that of the test")
        order: list[int] = []

        def send() -> None:
            for _ in range(100):
                note = Note()
                store.put(PEER, [note], on_commit=partial(append, order, note))

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.flush().result(LIMIT)
        assert sorted(order) == list(range(1, 401))
        assert order == sorted(order)
        assert sequences(store, limit=1000) == list(range(1, 401))

    def test_state_of_rows(self, store: Store) -> None:
        put(store, Note(), Note(), Note(priority=HIGH))
        store.written(PEER, NORMAL, 1)
        store.written(PEER, NORMAL, 0)
        store.attempt_failed(PEER, "refused")
        store.attempt_failed(PEER, "no route")
        rows = store.outbox(PEER).result(LIMIT)
        assert [(row.lane, row.sequence, row.is_written) for row in rows] == [
            (NORMAL, 1, True),
            (NORMAL, 2, False),
            (HIGH, 1, False),
        ]
        assert {(row.attempts, row.last_error) for row in rows} == {(2, "no route")}
        store.reset_attempts(PEER)
        store.reset_attempts(PEER)
        assert store.outbox(PEER).result(LIMIT)[0].attempts == 0

    def test_looking_and_dropping(self, store: Store) -> None:
        put(store, Note(b"1"), Note(b"2"), Note(b"3"))
        put(store, Note(b"4"), recipient=OTHER)
        first = store.outbox(limit=2).result(LIMIT)
        rest = store.outbox(after=first[-1].id).result(LIMIT)
        assert [row.payload for row in first + rest] == [b"1", b"2", b"3", b"4"]
        assert [row.payload for row in store.outbox(OTHER).result(LIMIT)] == [b"4"]
        assert store.outbox(US).result(LIMIT) == []
        shown = store.show(rest[0].id).result(LIMIT)
        assert shown is not None
        assert shown.payload == b"3"
        gone = store.drop([first[1].id, rest[1].id, 12345, 2**70]).result(LIMIT)
        assert sorted(gone) == sorted([(PEER, NORMAL, 2), (OTHER, NORMAL, 1)])
        assert store.show(first[1].id).result(LIMIT) is None
        assert store.backlog() == Backlog(2, 2 * (126 + 1))

    def test_numbers_beyond_any_row(self, store: Store) -> None:
        put(store, Note())
        for number in (2**40, 2**62, 2**64, 2**70):
            assert store.load(PEER, LOW, number, 9).result(LIMIT) == []
            assert store.outbox(after=number).result(LIMIT) in ([], store.outbox().result(LIMIT))
            assert store.outbox(after=2**70).result(LIMIT) == []
            assert store.show(number).result(LIMIT) is None
            assert store.drop([number, -number]).result(LIMIT) == []
            assert store.drop_dead([number]).result(LIMIT) == 0
            assert store.show_dead(number).result(LIMIT) is None
            assert store.unacked(after=number).result(LIMIT) == []
            assert told(store.settled, PEER, [(NORMAL, number), (NORMAL, 0)]) is None
        assert store.backlog().rows == 1

    def test_any_words(self, store: Store) -> None:
        put(store, Note(), Note())
        words = "no \udc80 route \0" + "x" * 5000
        store.attempt_failed(PEER, words)
        assert told(store.dead_letter, PEER, [(NORMAL, 1)], Reason.CLOSED, words) is None
        (row,) = store.outbox().result(LIMIT)
        (letter,) = store.dead_letters().result(LIMIT)
        assert row.last_error == letter.detail
        assert letter.detail.startswith("no ? route \0xx")
        assert len(letter.detail) == 1000

    def test_oldest(self, store: Store) -> None:
        assert store.stats().oldest_queued_at_us is None
        put(store, Note(queued_at_us=5), Note(queued_at_us=7), Note(priority=LOW, queued_at_us=6))
        assert store.stats().oldest_queued_at_us == 5
        assert told(store.settled, PEER, [(NORMAL, 1)]) is None
        assert store.stats().oldest_queued_at_us == 6
        assert told(store.settled, PEER, [(LOW, 1)]) is None
        assert store.stats().oldest_queued_at_us == 7
        assert told(store.settled, PEER, [(NORMAL, 2)]) is None
        assert store.stats().oldest_queued_at_us is None


class TestLimits:
    def test_rows_to_a_peer(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_peer_rows=3, critical_reserve=1))
        assert store.limits == StoreLimits(max_peer_rows=3, critical_reserve=1)
        put(store, Note(), Note())
        with pytest.raises(StoreFullError, match="limit of 3 messages to this peer") as caught:
            store.put(PEER, [Note(), Note()])
        assert isinstance(caught.value, BackpressureError)
        assert isinstance(caught.value, StoreError)
        assert (caught.value.recipient, caught.value.reason) == (PEER, Reason.QUEUE_FULL)
        put(store, Note())
        put(store, Note(), recipient=OTHER)
        put(store, Note(priority=CRITICAL))
        with pytest.raises(StoreFullError):
            store.put(PEER, [Note(priority=CRITICAL)])
        assert told(store.settled, PEER, [(NORMAL, 1), (NORMAL, 2)]) is None
        put(store, Note())
        assert sequences(store) == [3, 4]

    @pytest.mark.parametrize(
        ("limits", "text"),
        [
            (StoreLimits(max_rows=2, critical_reserve=0), "2 messages in all"),
            (StoreLimits(max_bytes=300, critical_reserve=0), "300 bytes in all"),
            (StoreLimits(max_peer_bytes=300, critical_reserve=0), "300 bytes to this peer"),
        ],
    )
    def test_others(self, opener: Callable[..., Store], limits: StoreLimits, text: str) -> None:
        store = opener(limits)
        put(store, Note(), Note())
        with pytest.raises(StoreFullError, match=text):
            store.put(PEER, [Note()])
        assert store.backlog().rows == 2

    def test_expired_rows_make_room(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_peer_rows=3))
        expired: list[Any] = []
        store.on_expired = expired.extend
        put(store, Note(expires_at_us=PAST), Note(), Note(expires_at_us=PAST))
        put(store, Note())
        store.flush().result(LIMIT)
        assert sorted(expired) == [(PEER, NORMAL, 1), (PEER, NORMAL, 3)]
        assert sequences(store) == [2, 4]
        assert store.stats().expired == 2
        put(store, Note())
        with pytest.raises(StoreFullError):
            store.put(PEER, [Note()])

    def test_expired_rows_of_another_do_not(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_peer_rows=1))
        put(store, Note())
        put(store, Note(expires_at_us=PAST), recipient=OTHER)
        assert isinstance(told(store.put, PEER, [Note()]), StoreFullError)
        assert store.backlog() == Backlog(1, SIZE)
        assert store.failure is None

    def test_the_first_gets_the_room_of_expired_rows(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_peer_rows=3, critical_reserve=0))
        put(store, Note())
        assert told(store.dead_letter, PEER, [(NORMAL, 1)], Reason.REFUSED) is None
        put(store, Note(), Note(expires_at_us=PAST), Note(expires_at_us=PAST))
        (dead,) = store.dead_letters().result(LIMIT)
        first, last = Note(), Note()
        outcomes: dict[int, StoreError | None] = {}
        with held(store):
            store.put(PEER, [first], on_commit=partial(outcomes.__setitem__, 1))
            try:
                two = [Note(), Note()]
                store.put(PEER, two, replaces=[dead.id], on_commit=partial(outcomes.__setitem__, 2))
            except StoreFullError as error:  # if the first is stored already
                outcomes[2] = error
            store.put(PEER, [last], on_commit=partial(outcomes.__setitem__, 3))
        store.flush().result(LIMIT)
        assert [error and type(error) for _, error in sorted(outcomes.items())] == [
            None,
            StoreFullError,
            None,
        ]
        assert store.dead_letters().result(LIMIT) == [dead]
        assert sequences(store) == [2, first.sequence, last.sequence]
        assert store.backlog() == store.backlog(PEER) == Backlog(3, 3 * SIZE)
        assert store.failure is None
        with pytest.raises(StoreFullError):
            store.put(PEER, [Note()])


class TestExpiry:
    def test_by_deadline(self, store: Store) -> None:
        expired: list[Any] = []
        assert store.on_expired is None
        store.on_expired = expired.extend
        later = unix_time_us() + 10**9
        put(store, Note(expires_at_us=later), Note(expires_at_us=PAST), Note())
        assert store.next_expiry_us == PAST
        assert told(store.expire) is None
        store.flush().result(LIMIT)
        assert expired == [(PEER, NORMAL, 2)]
        assert store.next_expiry_us == later
        assert sequences(store) == [1, 3]
        assert told(store.settled, PEER, [(NORMAL, 1)]) is None
        assert told(store.expire) is None
        assert store.next_expiry_us in (None, later)

    def test_of_one_that_is_gone(self, store: Store) -> None:
        put(store, Note(expires_at_us=PAST))
        assert told(store.settled, PEER, [(NORMAL, 1)]) is None
        assert told(store.expire) is None
        assert store.stats().expired == 0
        assert store.next_expiry_us is None

    def test_nobody_has_to_listen(self, store: Store) -> None:
        put(store, Note(expires_at_us=PAST))
        assert told(store.expire) is None
        assert store.backlog().rows == 0


class TestDeadLetters:
    def test_dead_letter_and_send_again(self, store: Store) -> None:
        notes = [Note(b"1"), Note(b"2"), Note(b"3", CRITICAL)]
        put(store, *notes)
        rows = store.outbox().result(LIMIT)
        assert [each.priority for each in rows] == [each.priority for each in notes]
        assert {each.payload_type for each in rows} == {PayloadType.RAW}
        names = [(CRITICAL, 1), (NORMAL, 2), (NORMAL, 77)]
        before = unix_time_us()
        assert told(store.dead_letter, PEER, names, Reason.REFUSED, "not today") is None
        assert sequences(store) == [1]
        letters = store.dead_letters().result(LIMIT)
        assert [(each.payload, each.recipient) for each in letters] == [(b"2", PEER), (b"3", PEER)]
        assert letters[0].body == notes[1].body
        assert [each.priority for each in letters] == [Priority.NORMAL, Priority.CRITICAL]
        assert {each.payload_type for each in letters} == {PayloadType.RAW}
        assert {(number_of(each.message_id), each.queued_at_us) for each in letters} == {(0, 1)}
        assert {each.expires_at_us for each in letters} == {None}
        assert {(each.reason, each.detail) for each in letters} == {(Reason.REFUSED, "not today")}
        assert before <= letters[0].died_at_us <= unix_time_us()
        assert store.stats().dead == Backlog(2, 2 * (126 + 1))
        again = Note(letters[0].payload)
        assert told(store.put, PEER, [again], replaces=[letters[0].id]) is None
        assert again.sequence == 3
        assert store.show_dead(letters[0].id).result(LIMIT) is None
        assert store.show_dead(letters[1].id).result(LIMIT) == letters[1]
        assert store.drop_dead([letters[0].id, letters[1].id]).result(LIMIT) == 1
        assert store.stats().dead == Backlog(0, 0)

    def test_of_one_whose_row_is_gone(self, store: Store) -> None:
        dead = Note(b"gone")
        dead.number(bytes(US) + bytes(OTHER), 9, 1)
        assert told(store.dead_letter_accepted, OTHER, dead.body, Reason.REFUSED) is None
        (letter,) = store.dead_letters(OTHER).result(LIMIT)
        assert (letter.payload, letter.recipient) == (b"gone", OTHER)
        assert store.dead_letters(PEER).result(LIMIT) == []

    def test_pages(self, store: Store) -> None:
        put(store, *[Note(b"%d" % n) for n in range(5)])
        names = [(NORMAL, n) for n in range(1, 6)]
        assert told(store.dead_letter, PEER, names, Reason.CLOSED) is None
        first = store.dead_letters(limit=2).result(LIMIT)
        rest = store.dead_letters(PEER, after=first[-1].id, limit=9).result(LIMIT)
        assert [each.payload for each in first + rest] == [b"0", b"1", b"2", b"3", b"4"]

    @pytest.mark.parametrize(
        "limits", [StoreLimits(max_dead_rows=3), StoreLimits(max_dead_bytes=3 * SIZE + 1)]
    )
    def test_the_oldest_make_room(self, opener: Callable[..., Store], limits: StoreLimits) -> None:
        store = opener(limits)
        put(store, *[Note(b"%05d" % n) for n in range(5)])
        for sequence in range(1, 6):
            name = [(NORMAL, sequence)]
            assert told(store.dead_letter, PEER, name, Reason.ATTEMPTS_EXHAUSTED) is None
        letters = store.dead_letters().result(LIMIT)
        assert [each.payload for each in letters] == [b"00002", b"00003", b"00004"]
        assert store.stats().dead_letters_dropped == 2


class TestIncoming:
    def test_kept_until_done(self, store: Store) -> None:
        ids = [*accept(store, [1, 2, 3]), *accept(store, [4])]
        rows = store.unacked().result(LIMIT)
        assert [row.id for row in rows] == ids
        assert [row.envelope.sequence_number for row in rows] == [1, 2, 3, 4]
        for row in rows:
            assert row.sender == PEER
            assert row.expires_at_us is None
            row.envelope.verify()
        assert rows[0].leaves is rows[2].leaves
        assert rows[1].seal.root == received([row.body for row in rows[:3]], BOB).root
        assert told(store.acked, [ids[1], ids[3]]) is None
        assert told(store.acked, [ids[1], 999]) is None
        assert [row.id for row in store.unacked().result(LIMIT)] == [ids[0], ids[2]]
        assert [row.id for row in store.unacked(after=ids[0], limit=5).result(LIMIT)] == [ids[2]]
        assert store.stats().inbox == Backlog(2, 2 * (126 + 2))
        assert told(store.acked, [ids[0], ids[2]]) is None
        assert store.unacked().result(LIMIT) == []
        assert store.stats().inbox == Backlog(0, 0)

    def test_marks_are_those_committed(self, opener: Callable[..., Store]) -> None:
        later: list[Callable[[], None]] = []
        store = opener(dispatch=later.append)
        marks = Marks(2**64 - 1, (2**64 - 1, 2, 3, 2**63))
        batch = received([body(1, sender=BOB, recipient=ALICE)], BOB)
        assert store.marks(PEER) == Marks(0, (0, 0, 0, 0))
        store.accept(PEER, marks, batch, [0])
        store.flush().result(LIMIT)
        assert store.marks(PEER) == Marks(0, (0, 0, 0, 0))
        for run in later:
            run()
        assert store.marks(PEER) == marks

    def test_a_new_epoch_without_a_message(self, store: Store) -> None:
        store.began(PEER, Marks(12, (0, 0, 0, 0)))
        store.flush().result(LIMIT)
        last = Told()
        store.barrier(last)
        last.wait()
        assert store.marks(PEER).epoch == 12

    def test_remembers_leaves(self, store: Store) -> None:
        bodies = [
            body(n, sender=BOB, recipient=ALICE, priority=NORMAL if n < 4 else HIGH)
            for n in range(1, 5)
        ]
        batch = received(bodies, BOB)
        assert store.leaves(PEER).result(LIMIT) == NO_LEAVES
        on_commit = Told()
        ids = store.accept(
            PEER,
            Marks(9, (0, 4, 0, 0)),
            batch,
            [0, 2, 3],
            Unaccepted(late=[1]),
            on_commit=on_commit,
        )
        assert on_commit.wait() is None
        normal, high = [batch.leaves[0], batch.leaves[2]], [batch.leaves[3]]
        wanted: Any = (([], normal, high, []), [batch.leaves[1]], [])
        assert store.leaves(PEER).result(LIMIT) == wanted
        assert told(store.acked, ids) is None
        assert store.leaves(PEER).result(LIMIT) == wanted
        assert store.leaves(OTHER).result(LIMIT) == NO_LEAVES

    def test_remembers_nothing_of_strays(self, store: Store) -> None:
        """Else a receipt would be signed for a message that was never accepted."""
        batch = received([body(n, sender=BOB, recipient=ALICE) for n in (1, 2)], BOB)
        on_commit = Told()
        store.accept(
            PEER, Marks(9, (0, 1, 0, 0)), batch, [0], Unaccepted(invalid=[1]), on_commit=on_commit
        )
        assert on_commit.wait() is None
        wanted: Any = (([], [batch.leaves[0]], [], []), [], [])
        assert store.leaves(PEER).result(LIMIT) == wanted

    def test_forgets_strangers_and_nobody_else(self, opener: Callable[..., Store]) -> None:
        """Anybody can make keys, so the number of known strangers is limited."""
        store = opener(StoreLimits(max_peers=40))
        names = [Identity(bytes([n, 1]) * 16).did for n in range(100)]
        put(store, Note(), recipient=OTHER)
        assert told(store.settled, OTHER, [(NORMAL, 1)]) is None  # it was sent a message
        ids = accept(store, [1])  # PEER has an unacknowledged message
        used = names[0]
        store.is_in_use = lambda did: did == used
        for did in names:
            assert told(store.note_v2, did) is None
        assert len(store._ledger.peers) <= 40
        for did in (OTHER, PEER, used, names[-1]):
            assert did in store._ledger.peers
        assert not store.has_spoken_v2(names[1])
        assert [row.sender for row in store.unacked().result(LIMIT)] == [PEER]
        assert told(store.acked, ids) is None
        put(store, Note(), recipient=OTHER)  # its numbers continue
        (row,) = store.outbox(OTHER).result(LIMIT)
        assert row.sequence == 2
        put(store, Note(), recipient=names[1])  # the store has forgotten it, and adds it again
        assert len(store.outbox().result(LIMIT)) == 2

    def test_a_batch_that_was_refused_whole(self, store: Store) -> None:
        batch = received([body(1, sender=BOB, recipient=ALICE)], BOB)
        on_commit = Told()
        assert not store.accept(
            PEER, Marks(9, (0, 1, 0, 0)), batch, [], Unaccepted(not_stored=[0]), on_commit=on_commit
        )
        assert on_commit.wait() is None
        wanted: Any = (NO_LEAVES[0], [], batch.leaves)
        assert store.leaves(PEER).result(LIMIT) == wanted

    def test_forgets_the_oldest_leaves(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_sender_leaves=4))
        first = accept(store, [1, 2])
        for start in (3, 5, 7):
            accept(store, [start, start + 1])
        leaves = store.leaves(PEER).result(LIMIT).accepted[NORMAL]
        assert len(leaves) == 4
        rows = store.unacked().result(LIMIT)  # their proofs stay
        assert len(rows) == 8
        for row in rows:
            row.envelope.verify()
        assert told(store.acked, first) is None
        assert told(store.acked, [row.id for row in rows]) is None
        assert store.leaves(PEER).result(LIMIT).accepted[NORMAL] == leaves

    def test_memory_does_not_grow_with_batches(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_sender_leaves=8))
        kept = accept(store, [1])
        for number in range(2, 52):
            store.acked(accept(store, [number]))
        peer = store._ledger.peers[PEER]

        def records() -> int:
            gc.collect()
            found = [each for each in gc.get_objects() if type(each) is BatchRecord]
            return sum(each.peer is peer for each in found)

        assert records() == 1 + 8
        store.acked(kept)
        store.flush().result(LIMIT)
        assert records() == 8

    def test_forgets_leaves_of_everybody(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_leaves=5))
        for start in (1, 3, 5):
            accept(store, [start, start + 1])
        assert len(store.leaves(PEER).result(LIMIT).accepted[NORMAL]) == 4

    @pytest.mark.parametrize(
        ("limits", "fitting"),
        [
            (StoreLimits(max_inbox_rows=5), 3),
            (StoreLimits(max_inbox_peer_rows=5), 3),
            (StoreLimits(max_inbox_rows=1), 0),  # less than the store has
            (StoreLimits(max_inbox_bytes=400), 1),
        ],
    )
    def test_room(self, opener: Callable[..., Store], limits: StoreLimits, fitting: int) -> None:
        store = opener(limits)
        ids = accept(store, [1, 2])  # each has 124 bytes
        assert store.inbox_room(PEER, [100] * 10) == fitting
        assert store.inbox_room(PEER, []) == 0
        assert told(store.acked, ids) is None
        assert store.inbox_room(PEER, [100] * 10) > fitting


class TestPeers:
    def test_no_more_peers_than_a_row_has_numbers_for(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("signedwire.delivery.store.ledger.MAX_PEER", 1)
        put(store, Note())
        with pytest.raises(StoreFullError, match="1 peers, its limit, and") as caught:
            store.put(OTHER, [Note()])
        assert (caught.value.recipient, caught.value.reason) == (OTHER, Reason.QUEUE_FULL)
        put(store, Note())  # it is known already
        assert (store.backlog(PEER).rows, store.backlog(OTHER).rows) == (2, 0)

    def test_remembers_who_speaks_v2(self, store: Store) -> None:
        assert not store.has_spoken_v2(PEER)
        assert told(store.note_v2, PEER) is None
        store.epoch(OTHER)
        assert store.has_spoken_v2(PEER)
        assert not store.has_spoken_v2(OTHER)
        assert store.v2_speakers() == [PEER]


class TestLoop:
    async def test_wakes_the_loop_once_for_a_commit(self, opener: Callable[..., Store]) -> None:
        """As a node does: callbacks run in the loop, in order, and futures are awaited."""
        loop, wakes = asyncio.get_running_loop(), 0

        def call(run: Callable[[], None]) -> None:
            nonlocal wakes
            wakes += 1
            loop.call_soon_threadsafe(run)

        store = opener(dispatch=call)
        order: list[int] = []
        done = asyncio.Event()
        for _ in range(500):
            note = Note()
            store.put(PEER, [note], on_commit=partial(append, order, note))
        store.barrier(lambda error: done.set())
        async with asyncio.timeout(LIMIT):
            await done.wait()
            rows = await asyncio.wrap_future(store.load(PEER, NORMAL, 0, 1000))
        assert order == list(range(1, 501)) == [row.sequence for row in rows]
        assert wakes <= store.stats().commits + 1


class TestWhole:
    def test_one_call_for_a_commit(self, opener: Callable[..., Store]) -> None:
        calls: list[Callable[[], None]] = []
        store = opener(dispatch=calls.append)
        order: list[int] = []
        for _ in range(100):
            note = Note()
            store.put(PEER, [note], on_commit=partial(append, order, note))
        store.flush().result(LIMIT)
        assert len(order) == 0
        for run in calls:
            run()
        assert order == list(range(1, 101))

    def test_one_that_raises_does_not_silence_the_others(
        self, opener: Callable[..., Store]
    ) -> None:
        calls: list[Callable[[], None]] = []
        store = opener(dispatch=calls.append)
        order: list[int] = []

        def stumble(error: StoreError | None) -> None:
            raise ZeroDivisionError

        store.put(PEER, [Note()], on_commit=stumble)
        store.put(PEER, [Note()], on_commit=lambda error: order.append(2))
        store.flush().result(LIMIT)
        failures = 0
        while calls:
            try:
                calls.pop(0)()
            except ZeroDivisionError:
                failures += 1
        assert (order, failures) == ([2], 1)

    def test_nobody_waits_any_more(self, store: Store) -> None:
        gate = threading.Event()
        if isinstance(store._executor, Writer):
            store._ask(lambda: gate.wait(LIMIT))
        future = store.outbox()
        future.cancel()
        gate.set()
        put(store, Note())

    def test_put_while_expiry_is_told(self, opener: Callable[..., Store]) -> None:
        store = opener(StoreLimits(max_peer_rows=3))
        order: list[int] = []
        first, second, last = Note(), Note(), Told()

        def again(names: object) -> None:
            store.put(PEER, [second], on_commit=partial(append, order, second))
            store.barrier(last)

        put(store, *[Note(expires_at_us=PAST) for _ in range(3)])
        store.on_expired = again
        store.put(PEER, [first], on_commit=partial(append, order, first))
        last.wait()
        assert order == [first.sequence, second.sequence] == [4, 5]

    def test_calls_from_a_callback(self, store: Store) -> None:
        last = Told()

        def more(left: int, error: StoreError | None) -> None:
            if left:
                store.put(PEER, [Note()], on_commit=partial(more, left - 1))
            else:
                last(error)

        more(5, None)
        assert last.wait() is None
        assert store.backlog().rows == 5

    def test_closed(self, store: Store) -> None:
        store.put(PEER, [Note()])
        assert store.close(LIMIT)
        assert store.close(LIMIT)
        for call in (
            lambda: store.put(PEER, [Note()]),
            lambda: store.settled(PEER, [(NORMAL, 1)]),
            lambda: store.outbox(),
            lambda: store.barrier(Told()),
        ):
            with pytest.raises(ClosedError):
                call()
        assert store.backlog().rows == 1

    def test_stats(self, store: Store) -> None:
        put(store, Note())
        accept(store, [1])
        stats = store.stats()
        assert stats.outbox == Backlog(1, SIZE)
        assert stats.commits >= 2
        assert stats.commit_longest >= stats.commit_median >= 0
        assert stats.waiting_operations == 0
        assert stats.failure is None

    def test_leaves_no_thread(self, opener: Callable[..., Store]) -> None:
        store = opener()
        store.put(PEER, [Note()])
        assert store.close(LIMIT)
        deadline = time.monotonic() + LIMIT
        while any(each.name == "signedwire-store" for each in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
