"""Limits and age of messages to peers that there is no way to; the access list. All stores."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clockkit import SetClock
from signedwire import clock
from signedwire.config import TransportConfig
from signedwire.delivery.store import Backlog, RowName, Store, StoreLimits
from signedwire.errors import StoreFullError
from signedwire.identity import Identity
from signedwire.outbox import limits_of
from signedwire.types import Did, Priority, Reason, unix_time_us
from storekit import LIMIT, OTHER, PEER, Note, make, put, told

NORMAL, CRITICAL = Priority.NORMAL, Priority.CRITICAL
SIZE = 126 + 5
THIRD = Identity(bytes([9]) * 32).did


@pytest.fixture(params=["memory", "sqlite", "sqlite without a thread"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    opened: list[Store] = []

    def open_(limits: StoreLimits | None = None, **options: Any) -> Store:
        opened.append(make(request.param, tmp_path / "node.db", limits, **options))
        return opened[-1]

    yield open_
    for store in opened:
        assert store.close(LIMIT)


def queue(store: Store, *notes: Note, recipient: Did = PEER) -> None:
    """Store for a peer that there is no way to."""
    assert told(store.put, recipient, notes, is_met=False) is None


def test_the_limits_by_default() -> None:
    limits = limits_of(TransportConfig())
    assert limits.max_unmet_peer_rows == 10_000
    assert limits.max_unmet_peer_bytes == 64 * 2**20
    assert limits.max_unmet_bytes == 2**30
    assert limits.max_unmet_age == 7 * 24 * 3600
    assert limits.max_unmet_age == StoreLimits().max_unmet_age
    assert limits.max_unmet_peer_rows == StoreLimits().max_unmet_peer_rows
    assert limits.max_unmet_peer_bytes == StoreLimits().max_unmet_peer_bytes
    assert limits.max_unmet_bytes == StoreLimits().max_unmet_bytes


@pytest.mark.parametrize(
    ("limits", "what", "option"),
    [
        (StoreLimits(max_unmet_peer_rows=2, critical_reserve=0), "2 messages to a peer", "limit"),
        (StoreLimits(max_unmet_peer_bytes=300, critical_reserve=0), "300 bytes to a peer", "bytes"),
    ],
)
def test_full_for_one_peer(
    opener: Callable[..., Store], limits: StoreLimits, what: str, option: str
) -> None:
    store = opener(limits)
    queue(store, Note(), Note())
    with pytest.raises(StoreFullError) as full:
        store.put(PEER, [Note()], is_met=False)
    error = full.value
    assert (error.recipient, error.reason) == (PEER, Reason.QUEUE_FULL)
    assert f"{what} never met; the message to {PEER} was not stored" in error.fact
    assert "routing.update(did, address)" in error.hint
    assert f"raise unmet_peer_{option}" in error.hint
    queue(store, Note(), recipient=OTHER)  # each peer has its own
    put(store, Note())  # and where there is a way, the limits are others
    assert store.backlog(PEER).rows == 3


def test_full_for_all_of_them(opener: Callable[..., Store]) -> None:
    store = opener(StoreLimits(max_unmet_bytes=3 * SIZE, critical_reserve=0))
    queue(store, Note(), Note())
    put(store, *[Note()] * 5, recipient=THIRD)
    queue(store, Note(), recipient=OTHER)
    with pytest.raises(StoreFullError, match=r"to all peers never met.*raise unmet_bytes"):
        store.put(OTHER, [Note()], is_met=False)
    store.unmet.set_met(PEER, True)
    queue(store, Note(), Note(), recipient=OTHER)
    assert store.stats().unmet == Backlog(3, 3 * SIZE)


def test_figures_do_not_wait_for_who_sends(opener: Callable[..., Store]) -> None:
    """Nor does anybody who sends wait for them, however many peers there are."""
    store = opener(StoreLimits(max_unmet_peer_rows=1, critical_reserve=0))
    queue(store, Note())
    put(store, Note(), recipient=OTHER)
    found: list[object] = []

    def look() -> None:
        found.extend([store.stats().outbox.rows, store.unmet.full_peers(SIZE)])

    with store._lock:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(LIMIT)
        assert found == [2, [PEER]]


def test_critical_has_its_reserve(opener: Callable[..., Store]) -> None:
    store = opener(StoreLimits(max_unmet_peer_rows=1, critical_reserve=1))
    queue(store, Note())
    queue(store, Note(priority=CRITICAL))
    with pytest.raises(StoreFullError):
        store.put(PEER, [Note(priority=CRITICAL)], is_met=False)


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_the_rows(opener: Callable[..., Store], seed: int) -> None:
    """Whatever is stored, leaves and becomes reachable, in any order."""
    rng = random.Random(seed)
    store = opener()
    unmet: set[Did] = set()
    waiting: dict[Did, dict[tuple[int, int], int]] = {PEER: {}, OTHER: {}, THIRD: {}}
    for _ in range(300):
        did = rng.choice(list(waiting))
        match rng.randrange(4):
            case 0:
                is_met = rng.random() < 0.5
                (unmet.discard if is_met else unmet.add)(did)
                notes = [Note(b"x" * rng.randrange(50)) for _ in range(rng.randrange(1, 5))]
                assert told(store.put, did, notes, is_met=is_met) is None
                waiting[did] |= {(NORMAL, each.row): each.size for each in notes}
            case 1:
                is_met = rng.random() < 0.5
                store.unmet.set_met(did, is_met)
                if store.backlog(did).rows or did in unmet:
                    (unmet.discard if is_met else unmet.add)(did)
            case 2 if waiting[did]:
                name = rng.choice(list(waiting[did]))
                del waiting[did][name]
                assert told(store.settled, did, [name]) is None
            case 3 if rng.random() < 0.1:
                last = store.unmet.last_rows(did)
                late = Note()
                assert told(store.put, did, [late], is_met=did not in unmet) is None
                gone = store.unmet.dead_letter_up_to(did, last, Reason.DENIED, "no").result(LIMIT)
                assert {each[1:] for each in gone} == set(waiting[did])
                waiting[did] = {(NORMAL, late.row): late.size}
        stats = store.stats()
        mine = {each: Backlog(len(w), sum(w.values())) for each, w in waiting.items()}
        assert {each: store.backlog(each) for each in waiting} == mine
        assert stats.unmet == Backlog(
            sum(mine[each].rows for each in unmet & mine.keys()),
            sum(mine[each].bytes for each in unmet & mine.keys()),
        )


class TestAge:
    LIMITS = StoreLimits(max_unmet_age=100)

    @pytest.fixture(autouse=True)
    def times(self) -> Iterator[SetClock]:
        times = SetClock()
        with clock.use(times):
            yield times

    def test_an_old_message_is_a_dead_letter(
        self, opener: Callable[..., Store], times: SetClock
    ) -> None:
        store = opener(self.LIMITS)
        aged: list[RowName] = []
        assert store.unmet.on_aged is None
        store.unmet.on_aged = aged.extend
        note = Note(b"old")
        queue(store, note)
        times.slept += 60
        queue(store, Note(b"young"))
        put(store, Note(b"reachable"), recipient=OTHER)
        times.slept += 41
        assert store.next_expiry_us is not None
        assert store.next_expiry_us <= unix_time_us()
        assert told(store.expire) is None
        (letter,) = store.dead_letters().result(LIMIT)
        assert (letter.recipient, letter.payload) == (PEER, b"old")
        assert letter.reason is Reason.AGED_OUT
        assert "for 100 s, which is unmet_max_age" in letter.detail
        assert aged == [RowName(PEER, NORMAL, note.row)]
        assert [row.payload for row in store.outbox().result(LIMIT)] == [b"young", b"reachable"]
        stats = store.stats()
        assert (stats.aged_out, stats.expired) == (1, 0)
        assert stats.unmet == Backlog(1, 131)
        assert store.next_expiry_us > unix_time_us()

    def test_it_does_not_age_once_there_is_a_way(
        self, opener: Callable[..., Store], times: SetClock
    ) -> None:
        store = opener(self.LIMITS)
        queue(store, Note())
        queue(store, Note(b"other"), recipient=OTHER)
        store.unmet.set_met(PEER, True)
        times.slept += 1000
        assert told(store.expire) is None
        assert [row.recipient for row in store.outbox().result(LIMIT)] == [PEER]
        assert store.stats().aged_out == 1

    def test_what_has_left_before_is_no_dead_letter(
        self, opener: Callable[..., Store], times: SetClock
    ) -> None:
        store = opener(self.LIMITS)
        gone, kept = Note(b"gone"), Note(b"kept")
        queue(store, gone, kept)
        assert told(store.settled, PEER, [(NORMAL, gone.row)]) is None
        times.slept += 101
        assert told(store.expire) is None
        assert [each.payload for each in store.dead_letters().result(LIMIT)] == [b"kept"]
        assert store.stats().aged_out == 1

    def test_its_own_deadline_counts_too(
        self, opener: Callable[..., Store], times: SetClock
    ) -> None:
        store = opener(self.LIMITS)
        queue(store, Note(b"soon", expires_at_us=unix_time_us() + 10_000_000))
        queue(store, Note(b"late", expires_at_us=unix_time_us() + 10**12))
        times.slept += 101
        assert told(store.expire) is None
        assert store.outbox().result(LIMIT) == []
        assert store.stats().expired + store.stats().aged_out == 2
        assert b"late" in [each.payload for each in store.dead_letters().result(LIMIT)]

    def test_what_is_too_old_makes_room(
        self, opener: Callable[..., Store], times: SetClock
    ) -> None:
        store = opener(StoreLimits(max_unmet_age=100, max_unmet_peer_rows=1, critical_reserve=0))
        queue(store, Note(b"1"))
        times.slept += 101
        queue(store, Note(b"2"))
        assert [row.payload for row in store.outbox().result(LIMIT)] == [b"2"]

    def test_a_clock_that_is_set_ages_nothing(
        self, opener: Callable[..., Store], times: SetClock
    ) -> None:
        """At boot it may be in 1970; then NTP sets it."""
        store = opener(self.LIMITS)
        queue(store, Note())
        times.ahead = 50 * 365 * 86_400
        assert told(store.expire) is None
        assert told(store.expire) is None
        assert store.backlog(PEER).rows == 1
        times.slept += 101
        assert told(store.expire) is None
        assert store.stats().aged_out == 1

    def test_it_goes_on_over_a_restart(self, tmp_path: Path, times: SetClock) -> None:
        store = make("sqlite", tmp_path / "node.db", self.LIMITS)
        queue(store, Note())
        assert store.close(LIMIT)
        times.slept += 101
        store = make("sqlite", tmp_path / "node.db", self.LIMITS)
        assert store.next_expiry_us is not None
        store.unmet.set_met(PEER, False)
        assert told(store.expire) is None
        assert (store.stats().aged_out, store.stats().dead.rows) == (1, 1)
        assert store.close(LIMIT)

    def test_a_way_that_is_known_after_a_restart(self, tmp_path: Path, times: SetClock) -> None:
        store = make("sqlite", tmp_path / "node.db", self.LIMITS)
        queue(store, Note(), Note())
        put(store, Note(), recipient=OTHER)
        assert store.close(LIMIT)
        store = make("sqlite", tmp_path / "node.db", self.LIMITS)
        assert store.stats().unmet == Backlog(2, 2 * SIZE)
        store.unmet.set_met(PEER, True)
        times.slept += 101
        assert told(store.expire) is None
        assert store.stats().unmet == Backlog(0, 0)
        assert store.backlog(PEER).rows == 2
        assert store.close(LIMIT)


class TestAccessRules:
    @pytest.mark.parametrize(
        "key", [b"", bytes(5), bytes(31), bytes(33), bytearray(32)], ids=lambda key: repr(len(key))
    )
    def test_a_key_that_would_spoil_the_store_is_not_taken(
        self, tmp_path: Path, key: bytes
    ) -> None:
        store = make("sqlite", tmp_path / "node.db")
        for change in (store.access.deny, store.access.undeny, store.access.allow_only):
            with pytest.raises(ValueError, match="32 bytes of a DID"):
                change([bytes(PEER), key])
        assert store.close(LIMIT)
        store = make("sqlite", tmp_path / "node.db")
        assert (store.access.denied, store.access.allowed) == (frozenset(), None)
        assert store.close(LIMIT)

    def test_they_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "node.db"
        store = make("sqlite", path)
        assert (store.access.denied, store.access.allowed) == (frozenset(), None)
        store.access.deny([bytes(PEER), bytes(OTHER)])
        store.access.deny([bytes(PEER)])
        store.access.undeny([bytes(OTHER)])
        assert store.close(LIMIT)
        store = make("sqlite", path)
        assert (store.access.denied, store.access.allowed) == (frozenset([bytes(PEER)]), None)
        store.access.allow_only([])
        assert store.close(LIMIT)
        store = make("sqlite", path)
        assert store.access.allowed == frozenset()
        store.access.allow_only([bytes(OTHER)])
        store.access.allow_only([bytes(PEER)])
        assert store.close(LIMIT)
        store = make("sqlite", path)
        assert store.access.allowed == frozenset([bytes(PEER)])
        store.access.allow_only(None)
        assert store.close(LIMIT)
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT rule, did FROM access").fetchall() == [
            ("deny", bytes(PEER))
        ]
        connection.close()

    def test_the_calls_are_those_of_every_store(self, opener: Callable[..., Store]) -> None:
        store = opener()
        store.access.deny([bytes(PEER)])
        store.access.allow_only([bytes(OTHER)])
        store.access.undeny([bytes(PEER)])
        assert store.close(LIMIT)
