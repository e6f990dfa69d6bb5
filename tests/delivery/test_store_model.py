"""Random operations on a store, in memory and in a file, compared with a simple model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from linkkit import ALICE, BOB, body, received
from signedwire.delivery.store import Backlog, Marks, Store, StoreLimits
from signedwire.errors import StoreFullError
from signedwire.types import Did, Priority, Reason
from storekit import LIMIT, OTHER, PEER, Note, Told, held, make, told

LIMITS = StoreLimits(
    max_rows=40, max_peer_rows=25, critical_reserve=2, max_dead_rows=6, max_sender_leaves=8
)
PAST = 1
lanes = st.sampled_from(list(Priority))
peers = st.sampled_from([PEER, OTHER])
many_drafts = st.lists(
    st.tuples(lanes, st.sampled_from([0, 0, PAST, 2**60])), min_size=1, max_size=9
)
Drafts = list[tuple[Priority, int]]


class StoreMachine(RuleBasedStateMachine):
    """The model: lists of payloads by name, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store: Store
        self.kind = ""
        self.rows: dict[tuple[Did, int, int], tuple[bytes, int]] = {}
        self.next: dict[tuple[Did, int], int] = {}
        self.next_after_restart: dict[tuple[Did, int], int] = {}
        self.dead: list[tuple[Did, bytes, Reason]] = []
        self.unacked: dict[int, bytes] = {}
        self.mark = 0
        self.payload = 0

    @initialize(kind=st.sampled_from(["memory", "sqlite", "sqlite without a thread"]))
    def open(self, kind: str) -> None:
        self.kind = kind
        self.store = make(kind, self.folder / "node.db", LIMITS)

    def teardown(self) -> None:
        if self.kind:
            assert self.store.close(LIMIT)
        shutil.rmtree(self.folder)

    @precondition(lambda self: self.kind != "memory")
    @rule()
    def reopen(self) -> None:
        assert self.store.close(LIMIT)
        self.store = make(self.kind, self.folder / "node.db", LIMITS)
        self.next = dict(self.next_after_restart)  # void numbers are used again

    def waiting(self, peer: Did | None = None) -> int:
        return sum(1 for name in self.rows if peer in (None, name[0]))

    def notes_of(self, drafts: Drafts) -> list[Note]:
        notes = []
        for lane, expires_at in drafts:
            self.payload += 1
            notes.append(Note(b"%d" % self.payload, lane, expires_at))
        return notes

    def fits(self, peer: Did, drafts: Drafts, others: Sequence[Did] = ()) -> bool:
        """`others` are the recipients of rows that are reserved but not stored."""
        more = 2 if all(lane is Priority.CRITICAL for lane, _ in drafts) else 0
        waiting = self.waiting(peer) + sum(1 for other in others if other == peer)
        return (
            waiting + len(drafts) <= LIMITS.max_peer_rows + more
            and self.waiting() + len(others) + len(drafts) <= LIMITS.max_rows + more
        )

    def was_put(self, peer: Did, notes: list[Note], drafts: Drafts) -> None:
        for note, (lane, expires_at) in zip(notes, drafts, strict=True):
            self.rows[peer, lane, note.row] = (note.payload, expires_at)
            self.next_after_restart[peer, lane] = note.row + 1

    def was_numbered(self, peer: Did, notes: list[Note]) -> None:
        for note in notes:
            assert note.row >= self.next.get((peer, note.priority), 1)
            self.next[peer, note.priority] = note.row + 1

    @rule(peer=peers, drafts=many_drafts)
    def put(self, peer: Did, drafts: Drafts) -> None:
        notes = self.notes_of(drafts)
        try:
            error: Any = told(self.store.put, peer, notes)
        except StoreFullError as raised:
            error = raised
        else:
            self.was_numbered(peer, notes)
            if error is not None or not self.fits(peer, drafts):
                self.forget_expired()
        assert (error is None) == self.fits(peer, drafts)
        if error is None:
            self.was_put(peer, notes, drafts)

    @precondition(lambda self: self.kind == "sqlite")
    @rule(puts=st.lists(st.tuples(peers, many_drafts), min_size=2, max_size=6))
    def put_without_waiting(self, puts: list[tuple[Did, Drafts]]) -> None:
        """All are numbered before any is stored; a put that is full now may find room later."""
        expiry = self.store.next_expiry_us
        taken: list[tuple[Did, Drafts, list[Note], Told, bool]] = []
        places: list[Did] = []
        with held(self.store):
            for peer, drafts in puts:
                notes, on_commit = self.notes_of(drafts), Told()
                has_place = self.fits(peer, drafts, places)
                try:
                    self.store.put(peer, notes, on_commit=on_commit)
                except StoreFullError:
                    assert not has_place
                    assert expiry is None or expiry > PAST
                    continue
                assert has_place or expiry == PAST
                self.was_numbered(peer, notes)
                taken.append((peer, drafts, notes, on_commit, has_place))
                places += [peer] * len(drafts) * has_place
        for peer, drafts, notes, on_commit, has_place in taken:
            if has_place:
                del places[: len(drafts)]
            elif not self.fits(peer, drafts, places):
                self.forget_expired()
            error = on_commit.wait()
            if has_place or self.fits(peer, drafts, places):
                assert error is None
                self.was_put(peer, notes, drafts)
            else:
                assert isinstance(error, StoreFullError)

    def forget_expired(self) -> None:
        self.rows = {name: row for name, row in self.rows.items() if row[1] != PAST}

    @rule()
    def expire(self) -> None:
        assert told(self.store.expire) is None
        self.forget_expired()

    @rule(data=st.data(), is_burial=st.booleans())
    def leave(self, data: st.DataObject, is_burial: bool) -> None:
        peer = data.draw(peers)
        known = [name[1:] for name in self.rows if name[0] == peer]
        names = data.draw(st.lists(st.sampled_from([*known, (1, 999)]), max_size=20))
        if is_burial:
            assert told(self.store.dead_letter, peer, names, Reason.REFUSED) is None
        else:
            assert told(self.store.settled, peer, names) is None
        for lane, sequence in sorted(set(names)):
            payload, _ = self.rows.pop((peer, lane, sequence), (None, 0))
            if is_burial and payload is not None:
                self.dead = [*self.dead, (peer, payload, Reason.REFUSED)][-LIMITS.max_dead_rows :]

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def drop_dead(self, data: st.DataObject) -> None:
        letters = self.store.dead_letters().result(LIMIT)
        index = data.draw(st.integers(0, len(letters) - 1))
        assert self.store.drop_dead([letters[index].id]).result(LIMIT) == 1
        del self.dead[index]

    @rule(peer=peers)
    def begin_epoch(self, peer: Did) -> None:
        assert told(self.store.begin_epoch, peer, self.store.epoch(peer) + 1) is None

    @rule(count=st.integers(1, 5))
    def accept(self, count: int) -> None:
        bodies = [
            body(self.mark + n, b"%d" % n, sender=BOB, recipient=ALICE) for n in range(1, count + 1)
        ]
        self.mark += count
        on_commit = Told()
        batch = received(bodies, BOB)
        marks = Marks(9, (0, self.mark, 0, 0))
        ids = self.store.accept(PEER, marks, batch, range(count), on_commit=on_commit)
        assert on_commit.wait() is None
        self.unacked.update(zip(ids, bodies, strict=True))

    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from([*self.unacked, 999_999]), max_size=8))
        assert told(self.store.acked, ids) is None
        for id_ in ids:
            self.unacked.pop(id_, None)

    @invariant()
    def is_as_the_model(self) -> None:
        if not self.kind:
            return
        store = self.store
        for peer in (PEER, OTHER):
            for lane in Priority:
                rows = store.load(peer, lane, 0, 100).result(LIMIT)
                names = sorted(name for name in self.rows if name[:2] == (peer, lane))
                assert [(row.row, row.payload) for row in rows] == [
                    (name[2], self.rows[name][0]) for name in names
                ]
                assert {row.epoch for row in rows} <= {store.epoch(peer)}
            of_peer = [row[0] for name, row in self.rows.items() if name[0] == peer]
            size = sum(126 + len(payload) for payload in of_peer)
            assert store.backlog(peer) == Backlog(len(of_peer), size)
        assert store.backlog().rows == len(self.rows)
        assert (store.stats().oldest_queued_at_us is None) == (not self.rows)
        letters = store.dead_letters().result(LIMIT)
        assert [(each.recipient, each.payload, each.reason) for each in letters] == self.dead
        unacked = store.unacked().result(LIMIT)
        assert {row.id: row.body for row in unacked} == self.unacked
        assert [row.id for row in unacked] == sorted(self.unacked)
        for row in unacked[-1:]:
            row.envelope.verify()
        assert store.marks(PEER).lanes[Priority.NORMAL] == self.mark


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
